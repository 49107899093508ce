"""p2m_core.geometry.crop."""

from __future__ import annotations

import cv2
import numpy as np

from p2m_core.errors import InputError
from p2m_core.geometry.camera import model_to_image


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

    >>> matrix = crop_matrix(np.array([100, 50, 200, 150]), size_px=130, margin=1.3)
    >>> apply_affine(matrix, np.array([[150.0, 100], [215, 165]])).tolist()  # the box's centre, the crop's outer corner
    [[64.5, 64.5], [129.5, 129.5]]
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


def model_frame(pose_para: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Where origin and unit vectors of model space fall, (..., 4, 3) image px: all that `model_to_image` does.

    Args: pose_para: (..., 7), height: (...,), as in `model_to_image`.
    """
    return model_to_image(np.concatenate([np.zeros((1, 3)), np.eye(3)]), pose_para, np.asarray(height)[..., None])


def model_to_crop(frame_px: np.ndarray, matrix: np.ndarray, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Model space to normalised crop coordinates as one affine map, x -> linear @ x + shift.

    Args:    frame_px: (4, 3) as of `model_frame`.   matrix: (2, 3) px of the same image to crop px.
             size_px: the crop's side.
    Returns: linear (3, 3), shift (3,).
    """
    places = px_to_ndc(apply_affine(matrix, frame_px), size_px)
    return (places[1:] - places[0]).T, places[0]


def crop_image(image: np.ndarray, matrix: np.ndarray, size_px: int) -> np.ndarray:
    """The square crop that an affine map (2, 3) from image px to crop px cuts out, edges mirrored.

    The one way from a photo to the network, in preprocessing, training and prediction. A large photo is first
    shrunk by a whole factor, averaging its pixels, since a bilinear look-up alone would alias.

    Args:    image: (H, W, 3) uint8.   Returns: (size_px, size_px, 3) uint8.
    """
    factor = int(1 / np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if factor >= 2:
        height, width = (max(1, side // factor) for side in image.shape[:2])
        image = cv2.resize(image[: height * factor, : width * factor], (width, height), interpolation=cv2.INTER_AREA)
        # px p of the small image is the mean of px factor * p ... factor * p + factor - 1 of the large one
        to_large = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2]])
        matrix = compose(matrix, to_large)
    return cv2.warpAffine(image, matrix, (size_px, size_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The affine map (2, 3) of `first`, then `second`."""
    return np.concatenate([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2:] + second[:, 2:]], 1)
