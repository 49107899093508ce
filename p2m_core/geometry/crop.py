"""The square crop of a photo around a face: boxes, the crop's affine map, and the frames that it leads between.

    model space --model_to_image--> image px --crop_matrix--> crop px --px_to_ndc--> normalised crop coordinates (NDC)

Frames and pixel origins: docs/conventions.md.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, Num, UInt8

from p2m_core.errors import InputError
from p2m_core.geometry.camera import model_to_image


def box_of(points: Num[np.ndarray, "*batch n _"]) -> Num[np.ndarray, "*batch 4"]:
    """The axis-aligned box of points, (..., N, 2 or 3) -> (..., 4) x0 y0 x1 y1."""
    rows = np.ascontiguousarray(np.swapaxes(points[..., :2], -1, -2))  # numpy is slow along a short last axis
    return np.concatenate([rows.min(-1), rows.max(-1)], -1)


def face_size(points: Num[np.ndarray, "*batch n _"]) -> Float[np.ndarray, "*batch"]:
    """sqrt(width * height) of the points' box, (..., N, 2 or 3) -> (...): the unit of every NME."""
    return np.asarray(np.sqrt(np.prod(np.ptp(points[..., :2], axis=-2), -1)))


def crop_matrix(box: Num[np.ndarray, "4"], size_px: int, margin: float) -> Float[np.ndarray, "2 3"]:
    """The affine map from image px to the px of a square crop around a box.

    Args:    box: (4,) x0 y0 x1 y1, px.   size_px: the crop's side.
             margin: the crop's side over the box's longer side.
    Returns: (2, 3) for cv2.warpAffine; the box's centre falls on the crop's centre, (size_px - 1) / 2.
    Raises:  InputError if the box has no area.

    >>> matrix = crop_matrix(np.array([100, 50, 200, 150]), size_px=130, margin=1.3)
    >>> apply_affine(matrix, np.array([[150.0, 100, 0], [215, 165, 0]])).tolist()  # the box's centre, the crop's corner
    [[64.5, 64.5, 0.0], [129.5, 129.5, 0.0]]
    """
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    side = max(x1 - x0, y1 - y0) * margin
    if not (np.isfinite(side) and x1 > x0 and y1 > y0):
        raise InputError("box", str(np.asarray(box).tolist()), "has no area", "give x0 < x1 and y0 < y1 in px")
    scale, half = size_px / side, (size_px - 1) / 2
    return np.array([[scale, 0, half - scale * (x0 + x1) / 2], [0, scale, half - scale * (y0 + y1) / 2]])


def crop_image(
    image: UInt8[np.ndarray, "h w 3"], matrix: Float[np.ndarray, "2 3"], size_px: int
) -> UInt8[np.ndarray, "{size_px} {size_px} 3"]:
    """The square crop that an affine map from image px to crop px cuts out; beyond the photo its mirror image.

    Preprocessing, training and prediction all cut their crops here. A large photo is first shrunk by a whole factor,
    by the mean of its pixels, since bilinear sampling alone would alias.

    Args:    image: uint8 RGB.   matrix: image px to crop px.   Returns: uint8 RGB.
    """
    factor = int(1 / np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if factor >= 2:
        height, width = (max(1, side // factor) for side in image.shape[:2])
        image = cv2.resize(image[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA)
        # px p of the small image is the mean of px factor * p ... factor * p + factor - 1 of the large one
        to_large = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2]])
        matrix = compose(matrix, to_large)
    return cv2.warpAffine(image, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def apply_affine(
    matrix: Float[np.ndarray, "2 3"], points: Num[np.ndarray, "*batch 3"]
) -> Float[np.ndarray, "*batch 3"]:
    """A (2, 3) similarity of the image plane applied to (..., 3) points; z is scaled alike."""
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    return np.concatenate([points[..., :2] @ matrix[:, :2].T + matrix[:, 2], points[..., 2:] * scale], -1)


def invert_affine(matrix: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "2 3"]:
    """The inverse of a (2, 3) affine map."""
    inverse = np.linalg.inv(matrix[:, :2])
    return np.concatenate([inverse, -inverse @ matrix[:, 2:]], 1)


def compose(second: Float[np.ndarray, "2 3"], first: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "2 3"]:
    """The affine map (2, 3) of `first`, then `second`."""
    return np.concatenate([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2:] + second[:, 2:]], 1)


def px_to_ndc(points_px: Num[np.ndarray, "*batch xyz"], size_px: int) -> Float[np.ndarray, "*batch xyz"]:
    """Crop px (..., 2 or 3) to NDC: -1 and 1 are the crop's outer edges, z in the same scale."""
    centre = np.array([(size_px - 1) / 2] * 2 + [0])
    return (points_px - centre[: points_px.shape[-1]]) * (2 / size_px)


def ndc_to_px(points_ndc: Num[np.ndarray, "*batch xyz"], size_px: int) -> Float[np.ndarray, "*batch xyz"]:
    """The inverse of `px_to_ndc`."""
    centre = np.array([(size_px - 1) / 2] * 2 + [0])
    return points_ndc * (size_px / 2) + centre[: points_ndc.shape[-1]]


def model_frame(
    pose_para: Num[np.ndarray, "*batch 7"], height: float | Num[np.ndarray, "*batch"]
) -> Float[np.ndarray, "*batch 4 3"]:
    """Where origin and unit vectors of model space fall in the image, px: the affine map that `model_to_image` is.

    Args: pose_para, height: as in `model_to_image`.
    """
    return model_to_image(np.concatenate([np.zeros((1, 3)), np.eye(3)]), pose_para, np.asarray(height)[..., None])


def model_to_crop(
    frame_px: Float[np.ndarray, "4 3"], matrix: Float[np.ndarray, "2 3"], size_px: int
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Model space to normalised crop coordinates as one affine map, x -> linear @ x + shift.

    Args:    frame_px: (4, 3) as of `model_frame`.   matrix: (2, 3) px of the same image to crop px.
             size_px: the crop's side.
    Returns: linear (3, 3), shift (3,).
    """
    places = px_to_ndc(apply_affine(matrix, frame_px), size_px)
    return (places[1:] - places[0]).T, places[0]
