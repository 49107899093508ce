"""Face detection on the CPU, by detectors that come with packages from PyPI.

A detector is anything with `detect(image) -> boxes`; `DETECTORS` names those that a setting can choose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import cv2
import numpy as np
import torch
from torchvision import ops

from p2m_core.errors import InputError

# From a detector's box to the tight box around the 68 landmarks: x0, y0, x1, y1 as shares of the found box's width and
# height. Medians over this project's synthetic faces, see benchmarks/detection.py.
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
    """Boxes (K, 5) of one cascade: x0 y0 x1 y1 in px, and the cascade's confidence."""
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


def suppress_overlapping(boxes: np.ndarray) -> np.ndarray:
    """Non-maximum suppression (K, 5): the highest weight of each group of boxes that overlap.

    Two boxes overlap if their intersection covers 30% of the smaller one. (torchvision.ops.nms goes by the union, by
    which a small box inside a large one would stay.)
    """
    boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")]
    low, high = boxes[:, :2], boxes[:, 2:4]
    area, kept = np.prod(high - low, axis=1), []
    for k in range(len(boxes)):
        shared = np.clip(np.minimum(high[k], high[kept]) - np.maximum(low[k], low[kept]), 0, None).prod(1)
        if (shared < 0.3 * np.minimum(area[k], area[kept])).all():
            kept.append(k)
    return boxes[kept]


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (K, L) of boxes (K, 4) with boxes (L, 4); (4,) is one box."""
    first, second = (torch.from_numpy(np.asarray(boxes, np.float64).reshape(-1, 4)) for boxes in (a, b))
    return ops.box_iou(first, second).numpy()


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
        # The frontal cascade's boxes go before the profile cascade's, which is wrong more often.
        found[:, 4] += 100
        if self.profiles == "always" or not len(found):
            right = landmark_boxes(search(grey, FILES["profile"], least), "profile")
            # The cascade is trained on one side: the other side is searched in the mirrored photo.
            left = landmark_boxes(search(np.ascontiguousarray(grey[:, ::-1]), FILES["profile"], least), "profile")
            left[:, [0, 2]] = grey.shape[1] - left[:, [2, 0]]
            found = np.concatenate([found, right, left])
        return suppress_overlapping(found)[:, :4]


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
        return largest_first(suppress_overlapping(boxes)[:, :4])


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
