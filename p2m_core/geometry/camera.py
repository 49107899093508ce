"""Cameras and head poses: from model space or metres to px, and back to angles.

    model space            image px               normalised crop coordinates
      y                     +---> x                 (-1,-1) +----+
      |                     |                               |    |
      +---x   z to viewer   y                               +----+ (1, 1)

Frames, units, pixel origins and the signs of angles: docs/conventions.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Num

if TYPE_CHECKING:
    import torch


# --- head pose, as in AFLW2000-3D -----------------------------------------------------------------


def rotation_from_angles(angles_rad: Num[np.ndarray, "*batch 3"] | Sequence[float]) -> Float[np.ndarray, "*batch 3 3"]:
    """Rotation Rx(pitch) Ry(yaw) Rz(roll), with the signs of AFLW2000-3D.

    Args:    angles_rad: (..., 3) pitch, yaw, roll in radians.
    Returns: (..., 3, 3), float64, acting on column vectors.
    Source:  3DDFA, Zhu et al., CVPR 2016.
    """
    angles_rad = np.asarray(angles_rad, np.float64)
    (cx, cy, cz), (sx, sy, sz) = np.moveaxis(np.cos(angles_rad), -1, 0), np.moveaxis(np.sin(angles_rad), -1, 0)
    one, zero = np.ones_like(cx), np.zeros_like(cx)

    def matrix(*entries: Any) -> np.ndarray:
        return np.stack(entries, -1).reshape(*cx.shape, 3, 3)

    rx = matrix(one, zero, zero, zero, cx, sx, zero, -sx, cx)
    ry = matrix(cy, zero, -sy, zero, one, zero, sy, zero, cy)
    rz = matrix(cz, sz, zero, -sz, cz, zero, zero, zero, one)
    return rx @ ry @ rz


def angles_from_rotation(rotation: Num[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Pitch, yaw, roll in radians, the inverse of `rotation_from_angles`; yaw within [-pi/2, pi/2].

    Args:    rotation: (..., 3, 3).   Returns: (..., 3).
    """
    r = np.asarray(rotation, np.float64)
    yaw = np.arcsin(np.clip(-r[..., 0, 2], -1, 1))
    return np.stack([np.arctan2(r[..., 1, 2], r[..., 2, 2]), yaw, np.arctan2(r[..., 0, 1], r[..., 0, 0])], -1)


def model_to_image(
    vertices: Num[np.ndarray, "*_ v 3"],
    pose_para: Num[np.ndarray, "*batch 7"],
    height: float | Num[np.ndarray, "*batch 1"],
) -> Float[np.ndarray, "*batch v 3"]:
    """Model space to image px under AFLW2000-3D's weak perspective.

    Args:    vertices: (..., V, 3) model units, y up.
             pose_para: (..., 7) pitch, yaw, roll (rad), tx, ty, tz (px counted from 1, y up), scale (px per unit).
             height: of the image, px; one for all, or (..., 1).
    Returns: (..., V, 3) image px of p2m_core.
    """
    pose_para = np.asarray(pose_para, np.float64)
    return turned_to_image(vertices @ np.swapaxes(rotation_from_angles(pose_para[..., :3]), -1, -2), pose_para, height)


def turned_to_image(
    points: Float[np.ndarray, "*_ v 3"],
    pose_para: Float[np.ndarray, "*batch 7"],
    height: float | Num[np.ndarray, "*batch 1"],
) -> Float[np.ndarray, "*_ v 3"]:
    """The part of `model_to_image` after the rotation: points (..., V, 3) turned already -> (..., V, 3) image px."""
    place = points * pose_para[..., 6, None, None].astype(points.dtype) + pose_para[..., None, 3:6].astype(points.dtype)
    # The data set flips by y -> H + 1 - y with pixels from 1; from 0 that is H - y.
    return np.stack([place[..., 0] - 1, height - place[..., 1], place[..., 2]], -1)


def pose_para_from_similarity(
    scale: float, rotation: Float[np.ndarray, "3 3"], translation: Float[np.ndarray, "3"], height: float
) -> Float[np.ndarray, "7"]:
    """AFLW2000-3D's Pose_Para (7,) of a similarity that takes model space to image px with y up.

    Args:    scale, rotation (3, 3), translation (3,): x_up = scale * rotation @ v + translation, where
             x_up is image px of p2m_core with y negated.
             height: image height in px.
    """
    shift = np.asarray(translation, np.float64) + [1, height, 0]
    return np.concatenate([angles_from_rotation(rotation), shift, [scale]])


# --- where a network's vertices fall on its input -------------------------------------------------


def project_perspective(
    vertices: Float[torch.Tensor, "*batch 3"],
    focal: tuple[float, float],
    centre: tuple[float, float],
    size_px: int,
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
    z_threshold: float | None = None,
) -> Float[torch.Tensor, "*batch 2"]:
    """Pinhole projection of object meshes, for grid_sample(align_corners=False).

    x = -f X / Z + c,  y = f Y / Z + c,  Z held at or below -|z_threshold| (the object lies at negative z).

    Args:    vertices: (..., 3) object frame.   focal, centre: px.   offset: added to the vertices first.
             z_threshold: nearest allowed depth, or None for no clamp.
    Returns: (..., 2) in [-1, 1].
    Source:  Pixel2Mesh, section 3.2; the division by the half size is the PyTorch ports'.
    """
    import torch

    x, y, z = (vertices + vertices.new_tensor(offset)).unbind(-1)
    if z_threshold is not None:
        z = z.clamp(max=-abs(z_threshold))
    half = (size_px - 1) / 2
    grid = torch.stack([-focal[0] * x / z + (centre[0] - half), focal[1] * y / z + (centre[1] - half)], -1)
    return (grid / half).clamp(-1, 1)


def perspective_to_px(
    vertices: Num[np.ndarray, "*batch 3"],
    focal_px: tuple[float, float],
    centre_px: tuple[float, float],
    offset: tuple[float, float, float],
) -> Float[np.ndarray, "*batch 3"]:
    """Image px of object meshes, for drawing: the camera of `project_perspective`, without its clamps.

    Args:    vertices: (..., 3) object frame.   offset: where the object frame's origin lies in the camera frame.
    Returns: (..., 3): x, y in px; z to the viewer, in px at the offset's depth, or the mean one if it is 0.
    """
    x, y, z = np.moveaxis(np.asarray(vertices, np.float64) + offset, -1, 0)
    depth = vertices[..., 2] * focal_px[0] / abs(offset[2] or z.mean())
    return np.stack([centre_px[0] - focal_px[0] * x / z, centre_px[1] + focal_px[1] * y / z, depth], -1)
