"""Where the faces are: boxes on the CPU from what PyPI's wheels carry.

A detector is anything with `detect(image) -> boxes`; `DETECTORS` names those that a setting can choose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import cv2
import numpy as np

from p2m_core.errors import InputError

# What a detector finds and the tight box around the 68 landmarks differ by a shift and two sizes, as shares of
# the found box's width and height: x0, y0, x1, y1. Medians over this project's synthetic faces, see
# benchmarks/detection.py.
TO_LANDMARK_BOX = {
    "frontal": (0.05, 0.24, 0.94, 1.05),
    "profile": (0.13, 0.29, 0.81, 0.95),
    "blazeface": (0.03, 0.10, 0.95, 1.00),
}
FILES = {"frontal": "haarcascade_frontalface_alt2.xml", "profile": "haarcascade_profileface.xml"}


class Detector(Protocol):
    """Finds faces in a photo."""

    def detect(self, image: np.ndarray) -> np.ndarray:
        """Boxes of the faces.

        Args:    image: (H, W, 3) uint8 RGB.
        Returns: (K, 4) x0 y0 x1 y1 around the 68 landmarks, px, largest first; (0, 4) if there is no face.
        """
        ...


# --- OpenCV's cascades ----------------------------------------------------------------------------


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
    """Boxes around the landmarks (K, 5) from a detector's; `kind` is a key of TO_LANDMARK_BOX."""
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


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    inter = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(inter / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter))


def largest_first(boxes: np.ndarray) -> np.ndarray:
    """Boxes (K, 4) by falling area."""
    return boxes[np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")]


@dataclass(frozen=True)
class Cascades:
    """OpenCV's frontal and profile cascades, both sides.

    sides_px: the photo's longer side is scaled to the first; where nothing is found, to the next.
    profiles: "always" looks for profiles, too; "else" does so where there is no frontal face.
    """

    sides_px: tuple[int, ...] = (640,)
    profiles: str = "always"

    def detect(self, image: np.ndarray) -> np.ndarray:
        """See `Detector`."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        boxes = np.zeros((0, 4))
        for side_px in self.sides_px:
            scale = min(1.0, side_px / max(grey.shape))
            small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey
            boxes = self.detect_at_scale(cv2.equalizeHist(small))
            # px of the small picture's centres to those of the large one
            boxes = (boxes + 0.5) / scale - 0.5
            if len(boxes) or scale == 1:
                break
        return largest_first(boxes)

    def detect_at_scale(self, grey: np.ndarray) -> np.ndarray:
        """Boxes (K, 4) in a grey picture (H, W) of even histogram, as it is."""
        least = max(24, int(0.06 * min(grey.shape)))
        found = landmark_boxes(search(grey, FILES["frontal"], least), "frontal")
        # What the frontal cascade finds counts more: the profile cascade errs more often.
        found[:, 4] += 100
        if self.profiles == "always" or not len(found):
            right = landmark_boxes(search(grey, FILES["profile"], least), "profile")
            # The cascade knows one side: the other is in the mirrored photo.
            left = landmark_boxes(search(np.ascontiguousarray(grey[:, ::-1]), FILES["profile"], least), "profile")
            left[:, [0, 2]] = grey.shape[1] - left[:, [2, 0]]
            found = np.concatenate([found, right, left])
        return keep_distinct(found)[:, :4]


# --- MediaPipe's BlazeFace ------------------------------------------------------------------------


@cache
def blazeface_network():
    """The short-range network from mediapipe's wheel.   Raises InputError where there is none."""
    remedy = "pip install mediapipe==0.10.14, or take the detector cascades"
    try:
        from mediapipe import solutions
    except ImportError as error:  # not installed, or of the later releases, whose wheels carry no network
        raise InputError("predict.detector", "blazeface", f"no such package here: {error}", remedy) from None
    return solutions.face_detection.FaceDetection(model_selection=0, min_detection_confidence=0.5)


class BlazeFace:
    """MediaPipe's face detector, where a mediapipe is installed whose wheel carries it."""

    def detect(self, image: np.ndarray) -> np.ndarray:
        """See `Detector`."""
        height, width = image.shape[:2]
        found = []
        for detection in blazeface_network().process(image).detections or []:
            box = detection.location_data.relative_bounding_box
            corner = np.array([box.xmin * width, box.ymin * height]) - 0.5  # theirs count from the corner
            found.append([*corner, *(corner + [box.width * width, box.height * height]), detection.score[0]])
        boxes = landmark_boxes(np.reshape(found, (-1, 5)), "blazeface")
        return largest_first(keep_distinct(boxes)[:, :4])


DETECTORS: dict[str, Callable[[], Detector]] = {
    "cascades": Cascades,
    "fast": lambda: Cascades(sides_px=(224, 640), profiles="else"),
    "blazeface": BlazeFace,
}


def detect_faces(image: np.ndarray, detector: str = "cascades") -> np.ndarray:
    """Faces in a photo.

    Args:    image: (H, W, 3) uint8 RGB.
             detector: "cascades", OpenCV's, which find faces down to 4% of the photo; "fast", the same on a photo
             of 224 px, for faces that fill it; "blazeface", where mediapipe is installed.
    Returns: (K, 4) boxes x0 y0 x1 y1 around the 68 landmarks, px, largest first; (0, 4) if there is no face.
    """
    return DETECTORS[detector]().detect(image)
