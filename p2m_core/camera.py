"""Every camera and pixel convention of the project, nowhere else.

Inside p2m_core, image coordinates are px with (0, 0) the centre of the top-left pixel, x right,
y down, z in the same scale and towards the viewer positive. The files of AFLW2000-3D and 300W-LP
count pixels from 1 and their model space has y up.

    model space            image px               crop, normalised
      y                     +---> x                 (-1,-1) +----+ the outer corners
      |                     |                               |    | of the crop's corner
      +---x   z to viewer   y                               +----+ (1, 1)   pixels
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from p2m_core.errors import InputError

if TYPE_CHECKING:  # torch takes 400 MB, which a process that only draws faces can do without
    import torch

# --- head pose, as in AFLW2000-3D -----------------------------------------------------------------


def rotation_from_angles(angles_rad: np.ndarray) -> np.ndarray:
    """Rotation Rx(pitch) Ry(yaw) Rz(roll), with the signs of AFLW2000-3D.

    Args:    angles_rad: (..., 3) pitch, yaw, roll in radians.
    Returns: (..., 3, 3), float64, acting on column vectors.
    Source:  3DDFA, Zhu et al., CVPR 2016.
    """
    angles_rad = np.asarray(angles_rad, np.float64)
    (cx, cy, cz), (sx, sy, sz) = np.moveaxis(np.cos(angles_rad), -1, 0), np.moveaxis(np.sin(angles_rad), -1, 0)
    one, zero = np.ones_like(cx), np.zeros_like(cx)

    def matrix(*entries):
        return np.stack(entries, -1).reshape(*cx.shape, 3, 3)

    rx = matrix(one, zero, zero, zero, cx, sx, zero, -sx, cx)
    ry = matrix(cy, zero, -sy, zero, one, zero, sy, zero, cy)
    rz = matrix(cz, sz, zero, -sz, cz, zero, zero, zero, one)
    return rx @ ry @ rz


def angles_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """Pitch, yaw, roll in radians, the inverse of `rotation_from_angles`; yaw within [-pi/2, pi/2].

    Args:    rotation: (..., 3, 3).   Returns: (..., 3).
    """
    r = np.asarray(rotation, np.float64)
    yaw = np.arcsin(np.clip(-r[..., 0, 2], -1, 1))
    return np.stack([np.arctan2(r[..., 1, 2], r[..., 2, 2]), yaw, np.arctan2(r[..., 0, 1], r[..., 0, 0])], -1)


def model_to_image(vertices: np.ndarray, pose: np.ndarray, height: int) -> np.ndarray:
    """Model space to image px under AFLW2000-3D's weak perspective.

    Args:    vertices: (..., V, 3) model units, y up.
             pose: (..., 7) pitch, yaw, roll (rad), tx, ty, tz (px counted from 1, y up), scale (px per unit).
             height: image height in px.
    Returns: (..., V, 3) image px of p2m_core.
    """
    pose = np.asarray(pose, np.float64)
    return turned_to_image(vertices @ np.swapaxes(rotation_from_angles(pose[..., :3]), -1, -2), pose, height)


def turned_to_image(points: np.ndarray, pose: np.ndarray, height: int) -> np.ndarray:
    """The part of `model_to_image` after the rotation: points (..., V, 3) turned already -> (..., V, 3) image px."""
    place = points * pose[..., 6, None, None].astype(points.dtype) + pose[..., None, 3:6].astype(points.dtype)
    # The data set flips by y -> H + 1 - y with pixels from 1; from 0 that is H - y.
    return np.stack([place[..., 0] - 1, height - place[..., 1], place[..., 2]], -1)


def pose_from_similarity(scale: float, rotation: np.ndarray, translation: np.ndarray, height: int) -> np.ndarray:
    """AFLW2000-3D's Pose_Para (7,) of a similarity that takes model space to image px with y up.

    Args:    scale, rotation (3, 3), translation (3,): x_up = scale * rotation @ v + translation, where
             x_up is image px of p2m_core with y negated.
             height: image height in px.
    """
    shift = np.asarray(translation, np.float64) + [1, height, 0]
    return np.concatenate([angles_from_rotation(rotation), shift, [scale]])


def umeyama(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The similarity that takes `source` nearest to `target` in the least squares.

    Args:    source, target: (..., N, 3).
    Returns: scale (...), rotation (..., 3, 3), translation (..., 3): target ~ scale source @ rotation.T + translation.
    Source:  Umeyama, PAMI 1991.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    source_mean, target_mean = source.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
    x, y = source - source_mean, target - target_mean
    u, s, vt = np.linalg.svd(np.swapaxes(y, -1, -2) @ x)
    sign = np.ones_like(s)
    sign[..., 2] = np.sign(np.linalg.det(u @ vt))
    rotation = u * sign[..., None, :] @ vt
    scale = (s * sign).sum(-1) / (x**2).sum((-2, -1))
    translation = target_mean[..., 0, :] - scale[..., None] * (rotation @ source_mean[..., 0, :, None])[..., 0]
    return scale, rotation, translation


# --- crops ----------------------------------------------------------------------------------------


def box_of(points: np.ndarray) -> np.ndarray:
    """The axis-aligned box of points, (..., N, 2 or 3) -> (..., 4) x0 y0 x1 y1."""
    return np.concatenate([points[..., :2].min(-2), points[..., :2].max(-2)], -1)


def face_size(points: np.ndarray) -> np.ndarray:
    """sqrt(width * height) of the points' box, (..., N, 2 or 3) -> (...): the unit of every NME."""
    return np.sqrt(np.prod(np.ptp(points[..., :2], axis=-2), -1))


def crop_matrix(box: np.ndarray, size_px: int, margin: float) -> np.ndarray:
    """The affine map from image px to the px of a square crop around a box.

    Args:    box: (4,) x0 y0 x1 y1, px.   size_px: the crop's side.
             margin: the crop's side over the box's longer side.
    Returns: (2, 3) for cv2.warpAffine; the box's centre falls on the crop's centre, (size_px - 1) / 2.
    Raises:  InputError if the box has no area.
    """
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    side = max(x1 - x0, y1 - y0) * margin
    if not (np.isfinite(side) and x1 > x0 and y1 > y0):
        raise InputError("box", str(np.asarray(box).tolist()), "has no area", "give x0 < x1 and y0 < y1 in px")
    scale, half = size_px / side, (size_px - 1) / 2
    return np.array([[scale, 0, half - scale * (x0 + x1) / 2], [0, scale, half - scale * (y0 + y1) / 2]])


def apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A (2, 3) similarity of the image plane applied to (..., 3) points; z is scaled alike."""
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    return np.concatenate([points[..., :2] @ matrix[:, :2].T + matrix[:, 2], points[..., 2:] * scale], -1)


def invert_affine(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a (2, 3) affine map."""
    inverse = np.linalg.inv(matrix[:, :2])
    return np.concatenate([inverse, -inverse @ matrix[:, 2:]], 1)


def px_to_ndc(points_px: np.ndarray, size_px: int) -> np.ndarray:
    """Crop px to normalised crop coordinates: -1 and 1 are the crop's outer edges, z in the same scale."""
    centre = np.array([(size_px - 1) / 2] * 2 + [0])
    return (points_px - centre[: points_px.shape[-1]]) * (2 / size_px)


def ndc_to_px(points_ndc: np.ndarray, size_px: int) -> np.ndarray:
    """The inverse of `px_to_ndc`."""
    centre = np.array([(size_px - 1) / 2] * 2 + [0])
    return points_ndc * (size_px / 2) + centre[: points_ndc.shape[-1]]


# --- where a network's vertices fall on its input -------------------------------------------------


def project_perspective(
    vertices: torch.Tensor,
    focal: tuple[float, float],
    centre: tuple[float, float],
    size_px: int,
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
    z_threshold: float | None = None,
) -> torch.Tensor:
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


@dataclass(frozen=True)
class LegacyCrop:
    """The crop of each photo, px: left_corner (B, 2) x, y; width (B,); height (B,)."""

    left_corner: torch.Tensor
    width: torch.Tensor
    height: torch.Tensor


def project_legacy_crop(
    vertices: torch.Tensor, crop: LegacyCrop, centre: tuple[float, float], size_px: int
) -> torch.Tensor:
    """The crop camera of an older face port, kept for parity alone.

    Its pixels count from the corner but are divided by the half size and clamped, so that half of the crop's width
    falls on its edge.

    Args:    vertices: (V, B, 3) px of the photo / 1000.   centre: px.
    Returns: (V, B, 2) in [-1, 1].
    """
    import torch

    half = (size_px - 1) / 2
    size = torch.stack([crop.width, crop.height], -1)
    shift = vertices.new_tensor(centre) - half
    grid = (1000 * vertices[..., :2] - crop.left_corner) / size * size_px - shift
    return (grid / half).clamp(-1, 1)


def perspective_to_px(
    vertices: np.ndarray,
    focal_px: tuple[float, float],
    centre_px: tuple[float, float],
    offset: tuple[float, float, float],
) -> np.ndarray:
    """Image px of object meshes, for drawing: the camera of `project_perspective`, without its clamps.

    Args:    vertices: (..., 3) object frame.   offset: where the object frame's origin lies in the camera frame.
    Returns: (..., 3): x, y in px; z to the viewer, in px at the offset's depth.
    """
    x, y, z = np.moveaxis(np.asarray(vertices, np.float64) + offset, -1, 0)
    depth = vertices[..., 2] * focal_px[0] / abs(offset[2])
    return np.stack([centre_px[0] - focal_px[0] * x / z, centre_px[1] + focal_px[1] * y / z, depth], -1)


def model_frame(pose: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Where origin and unit vectors of model space fall, (..., 4, 3) image px: all that `model_to_image` does.

    Args: pose: (..., 7), height: (...,), as in `model_to_image`.
    """
    return model_to_image(np.concatenate([np.zeros((1, 3)), np.eye(3)]), pose, np.asarray(height)[..., None])


def model_to_crop(frame_px: np.ndarray, matrix: np.ndarray, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Model space to normalised crop coordinates as one affine map, x -> linear @ x + shift.

    Args:    frame_px: (4, 3) as of `model_frame`.   matrix: (2, 3) px of the same image to crop px.
             size_px: the crop's side.
    Returns: linear (3, 3), shift (3,).
    """
    places = px_to_ndc(apply_affine(matrix, frame_px), size_px)
    return (places[1:] - places[0]).T, places[0]
