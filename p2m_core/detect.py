"""Where the faces are: boxes on the CPU from what OpenCV's wheel carries."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

# What a cascade finds and the tight box around the 68 landmarks differ by a shift and two sizes, as shares of
# the found box's side: x0, y0, x1, y1. Medians over this project's synthetic faces (benchmarks/detection.py).
TO_LANDMARK_BOX = {"frontal": (0.05, 0.24, 0.94, 1.05), "profile": (0.13, 0.29, 0.81, 0.95)}
LONG_SIDE_PX = 640  # photos are searched at this size


@cache
def cascade(name: str) -> cv2.CascadeClassifier:
    """One of OpenCV's Haar cascades."""
    return cv2.CascadeClassifier(cv2.data.haarcascades + name)


def search(grey: np.ndarray, name: str, least_px: int) -> np.ndarray:
    """Boxes (K, 5) of one cascade: x0 y0 x1 y1 in px, and the weight of the find."""
    found, _, weights = cascade(name).detectMultiScale3(
        grey, 1.1, 4, minSize=(least_px, least_px), outputRejectLevels=True
    )
    if not len(found):
        return np.zeros((0, 5))
    x, y, w, h = np.asarray(found, np.float64).T
    return np.stack([x, y, x + w, y + h, np.ravel(weights)], 1)


def landmark_boxes(found: np.ndarray, kind: str) -> np.ndarray:
    """Boxes around the landmarks (K, 5) from a cascade's."""
    x0, y0, x1, y1, weight = found.T
    left, top, right, bottom = TO_LANDMARK_BOX[kind]
    w, h = x1 - x0, y1 - y0
    return np.stack([x0 + left * w, y0 + top * h, x0 + right * w, y0 + bottom * h, weight], 1)


def keep_distinct(boxes: np.ndarray) -> np.ndarray:
    """The surest of each group of overlapping boxes (K, 5)."""
    kept: list[np.ndarray] = []
    for box in boxes[np.argsort(-boxes[:, 4], kind="stable")]:
        inter = [
            max(0, min(box[2], k[2]) - max(box[0], k[0])) * max(0, min(box[3], k[3]) - max(box[1], k[1])) for k in kept
        ]
        area = (box[2] - box[0]) * (box[3] - box[1])
        if all(i < 0.3 * min(area, (k[2] - k[0]) * (k[3] - k[1])) for i, k in zip(inter, kept, strict=True)):
            kept.append(box)
    return np.array(kept).reshape(-1, 5)


def detect_faces(image: np.ndarray) -> np.ndarray:
    """Faces by OpenCV's frontal and profile cascades, both sides.

    Args:    image: (H, W, 3) uint8 RGB.
    Returns: (K, 4) boxes x0 y0 x1 y1 around the 68 landmarks, px, largest first; (0, 4) if there is no face.
    """
    scale = min(1.0, LONG_SIDE_PX / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
    grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
    least = max(24, int(0.06 * min(grey.shape)))
    # What the frontal cascade finds counts more: the profile cascade errs more often.
    frontal = landmark_boxes(search(grey, "haarcascade_frontalface_alt2.xml", least), "frontal")
    frontal[:, 4] += 100
    right = landmark_boxes(search(grey, "haarcascade_profileface.xml", least), "profile")
    left = landmark_boxes(search(np.ascontiguousarray(grey[:, ::-1]), "haarcascade_profileface.xml", least), "profile")
    left[:, [0, 2]] = grey.shape[1] - left[:, [2, 0]]
    boxes = keep_distinct(np.concatenate([frontal, right, left]))[:, :4]
    # px of the small picture's centres to those of the large one
    boxes = (boxes + 0.5) / scale - 0.5
    return boxes[np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")]
