"""Where the faces of a photo are, and how they are turned in its plane: BlazeFace, on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from scipy.special import expit

ASSETS = Path(__file__).parent / "assets"  # build_assets.py takes them from a wheel; see NOTICE
SHORT_RANGE, BACK = ("short_range", 128), ("back", 256)  # BlazeFace's nets, and the side of their input in px
LEAST_CONFIDENCE = 0.35  # of a find; most below 0.6 are no faces, as the mesh network tells (`predict.find_meshes`)
# Both nets look at the whole photo, and "back" at overlapping tiles of a large one, in which it finds faces of 65 px.
# A tile's finds that are larger than the overlap may be cut by its edge, and the whole photo shows them.
TILE_PX, OVERLAP = 1280, 0.25
FOUND_PX = 65  # side of the faces that are found in tiles of TILE_PX; for smaller ones tiles are as much smaller
# Heads that lie or stand upside down are found with less confidence (0.73 and 0.61 on average, not 0.88) and in wrong
# places. Where no find is CERTAIN, the photo is also turned by quarters, and what is SURER there counts.
CERTAIN, SURER = 0.8, 0.1
SAME_FACE = 0.3  # two finds are one face if their intersection covers this share of the smaller one
# From a net's box to the tight box around the 68 landmarks, the head upright in both: x0, y0, x1, y1 as shares of the
# found box. Medians over this project's synthetic faces, see benchmarks/detection.py.
TO_LANDMARK_BOX = np.array([0.01, 0.08, 0.98, 1.00])

_one_at_a_time = threading.Lock()  # a net keeps its input


@dataclass(frozen=True, eq=False)
class Faces:
    """Faces in a photo, largest first.

    boxes: (K, 4) x0 y0 x1 y1, px: about the centre of the 68 landmarks, and of the size of their box where the head
    stands upright.   tilt_deg: (K,) by how much the photo must be turned, clockwise, for that; BlazeFace takes a head
    that stands upside down for an upright one.
    confidence: (K,) of the detector, in [0, 1].
    """

    boxes: np.ndarray
    tilt_deg: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


class Detector(Protocol):
    """Finds faces in a photo."""

    def detect(self, image: np.ndarray) -> Faces:
        """The faces in a photo (H, W, 3) uint8 RGB."""
        ...


@dataclass(frozen=True)
class BlazeFace:
    """MediaPipe's nets for near and for farther faces, run by OpenCV.

    min_face: side in px of the smallest faces that are wanted: photos are looked through for them, and smaller finds
    are left out. 0 looks for faces of FOUND_PX, and leaves none out.

    Source: Bazarevsky et al., BlazeFace, 2019; layout of inputs, anchors and outputs as in MediaPipe.
    """

    min_face: float = 0

    def detect(self, image: np.ndarray) -> Faces:
        """See `Detector`."""
        height, width = image.shape[:2]
        # Smaller tiles than the net's input would only be magnified.
        tile_px = max(BACK[1], round(TILE_PX * min(1.0, (self.min_face or FOUND_PX) / FOUND_PX)))
        finds = [finds_in_whole(image)]
        if max(height, width) > tile_px:
            tiles = np.concatenate([finds_in(image, tile, *BACK) for tile in tiles_of(width, height, tile_px)])
            finds.append(tiles[tiles[:, 3] < OVERLAP * tile_px])
        finds = [found[found[:, 3] >= self.min_face] for found in finds]
        best = max(found[:, 0].max(initial=0) for found in finds)
        if best < CERTAIN:
            turned = np.concatenate([finds_in_turned(image, quarters) for quarters in (1, 2, 3)])
            finds.append(turned[(turned[:, 0] > best + SURER) & (turned[:, 3] >= self.min_face)])
        faces = one_a_face(np.concatenate(finds))
        return as_faces(faces[np.argsort(-faces[:, 3], kind="stable")])


@cache
def network(name: str) -> cv2.dnn.Net:
    """One of BlazeFace's nets."""
    return cv2.dnn.readNetFromTFLite(str(ASSETS / f"face_detection_{name}.tflite"))


@cache
def anchors() -> np.ndarray:
    """Where the nets' anchors stand in their input, (896, 2) shares of its side: 2 a cell of 16 x 16, 6 of 8 x 8."""
    grids = []
    for cells, number in ((16, 2), (8, 6)):
        y, x = np.mgrid[:cells, :cells]
        grids.append((np.stack([x.ravel(), y.ravel()], 1).repeat(number, 0) + 0.5) / cells)
    return np.concatenate(grids)


def tiles_of(width: int, height: int, side_px: int = TILE_PX) -> Iterator[tuple[int, int, int]]:
    """Squares (x0, y0, side) px that cover a photo and overlap."""
    starts = []
    for length in (width, height):
        steps = max(0, int(np.ceil((length - side_px) / (side_px * (1 - OVERLAP)))))
        starts.append(np.linspace(0, length - side_px, steps + 1) if steps else np.array([(length - side_px) / 2]))
    yield from ((round(x), round(y), side_px) for y in starts[1] for x in starts[0])


def finds_in(image: np.ndarray, window: tuple[int, int, int], name: str, side: int) -> np.ndarray:
    """What a net finds in a square window (x0, y0, side) of a photo, black beyond it.

    Returns: (K, 17) confidence; centre, width and height of the box; eyes, nose, mouth and ears (6 times x, y), px of
             the photo. The first of eyes and ears is the subject's right one.
    """
    x0, y0, extent = window
    part = image[max(y0, 0) : y0 + extent, max(x0, 0) : x0 + extent]
    scale = side / extent
    height, width = (min(side, max(1, round(length * scale))) for length in part.shape[:2])
    top, left = (min(round(max(-start, 0) * scale), side - 1) for start in (y0, x0))
    square = np.zeros((side, side, 3), np.uint8)
    square[top : top + height, left : left + width] = cv2.resize(
        part, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )[: side - top, : side - left]
    with _one_at_a_time:
        network(name).setInput(cv2.dnn.blobFromImage(square, 1 / 127.5, (side, side), (127.5, 127.5, 127.5)))
        logits, values = network(name).forward(("classificators", "regressors"))
    confidence = expit(logits[0, :, 0].astype(np.float64))
    idx = np.flatnonzero(confidence >= LEAST_CONFIDENCE)
    centre, size, points = np.split(values[0, idx].astype(np.float64), [2, 4], axis=1)
    # The net counts from its input's edge, in units of its px; we count from the first pixel's centre.
    at, origin = anchors()[idx] * side, np.array([x0, y0]) - 0.5
    places = (np.concatenate([centre, points], 1) + np.tile(at, 7)) / scale + np.tile(origin, 7)
    return np.concatenate([confidence[idx, None], places[:, :2], size / scale, places[:, 2:]], 1)


def finds_in_whole(image: np.ndarray) -> np.ndarray:
    """What both nets find in a whole photo, as `finds_in` has it."""
    height, width = image.shape[:2]
    side = max(height, width)
    whole = ((width - side) // 2, (height - side) // 2, side)
    return np.concatenate([finds_in(image, whole, *SHORT_RANGE), finds_in(image, whole, *BACK)])


def finds_in_turned(image: np.ndarray, quarters: int) -> np.ndarray:
    """`finds_in_whole` of a photo that is turned by quarters, counter-clockwise, back in the photo; widths and heights
    are those of the turned one, in which the head stands upright."""
    finds = finds_in_whole(np.ascontiguousarray(np.rot90(image, quarters)))
    right, bottom = image.shape[1] - 1, image.shape[0] - 1
    columns = [1, *range(5, 17, 2)]
    x, y = finds[:, columns], finds[:, [column + 1 for column in columns]]
    back = {1: (right - y, x), 2: (right - x, bottom - y), 3: (y, bottom - x)}[quarters]
    finds[:, columns], finds[:, [column + 1 for column in columns]] = back
    return finds


def corners(finds: np.ndarray) -> np.ndarray:
    """The boxes (K, 4) x0 y0 x1 y1 of finds."""
    return np.concatenate([finds[:, 1:3] - finds[:, 3:5] / 2, finds[:, 1:3] + finds[:, 3:5] / 2], 1)


def overlap(finds: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether finds (K, 17) are the same face as others (L, 17), (K, L); see SAME_FACE."""
    shared, area, other_area = shared_areas(corners(finds), corners(others))
    return shared >= SAME_FACE * np.minimum(area, other_area)


def one_a_face(finds: np.ndarray) -> np.ndarray:
    """Non-maximum suppression: the most confident of each group of finds that are the same face.

    (What is usual goes by the union, by which a small box inside a large one would stay.)
    """
    finds = finds[np.argsort(-finds[:, 0], kind="stable")]
    same, kept = overlap(finds, finds), []
    for k in range(len(finds)):
        if not same[k, kept].any():
            kept.append(k)
    return finds[kept]


def as_faces(finds: np.ndarray) -> Faces:
    """Finds (K, 17) with boxes around the landmarks; the ears tell how a head is turned, in profile too."""
    ears = finds[:, 15:17] - finds[:, 13:15]
    tilt = -np.arctan2(ears[:, 1], ears[:, 0])
    low, high = np.split(TO_LANDMARK_BOX, 2)
    offset, half = finds[:, 3:5] * ((low + high) / 2 - 0.5), finds[:, 3:5] * (high - low) / 2
    c, s = np.cos(tilt), np.sin(tilt)  # from the upright head's frame to the photo's
    centre = finds[:, 1:3] + np.stack([c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0]], 1)
    return Faces(np.concatenate([centre - half, centre + half], 1), np.degrees(tilt), finds[:, 0])


def shared_areas(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Areas of the intersections (K, L) of boxes (K, 4) with boxes (L, 4), and of the boxes, (K, 1) and (1, L)."""
    a, b = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (a, b))
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    own, other = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b))
    return np.clip(high - low, 0, None).prod(-1), own[:, None], other[None]


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (K, L) of boxes (K, 4) with boxes (L, 4); (4,) is one box."""
    shared, own, other = shared_areas(a, b)
    return shared / (own + other - shared)
