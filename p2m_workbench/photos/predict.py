"""From photos to meshes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import box_of
from p2m_core.inference import open_network, predict_boxes
from p2m_core.network.model import Pixel2Mesh
from p2m_workbench.photos.detect import detect_faces, overlap

# A crop is cut again around the first prediction unless the two boxes overlap (intersection over union) by so much:
# with the true box two passes are as good as one, with others better (benchmarks/boxes.py).
SAME_BOX = 0.85
# Mean distance between the prediction and that for the mirrored crop, in halves of the crop, above which a crop does
# not look like a face: 97% of 66 crops without one lie above, of 299 detected synthetic faces 0.3%. Measures of the
# network's features told them apart less well (Mahalanobis distance: area under the ROC curve 0.985, this: 0.999).
MAX_FLIP_DISAGREEMENT = 0.055
# Where a detector was wrong, the passes may stray to something that the network does not doubt: overlap of the box with
# the prediction's, below that of any box that is off by a fifth of its side and a quarter in size.
MIN_OVERLAP = 0.5
# Where the network looks for a face itself: the windows' sides as shares of the photo's shorter side, and how many
# lie along that.
WINDOWS = ((0.75, 1), (0.5, 2), (0.34, 3))
SEARCH_PX, SEARCH_LEAST_PX = 640, 32  # of the photo: its longer side is scaled down to this, its shorter at least
SEARCH_ASPECT = 4
SEARCH_PASSES = 3
# It takes for a face what it comes back to, with such an overlap, from boxes so far beside, in shares of the side:
# where there is nothing to come back to, the prediction moves along, which leaves two thirds (benchmarks/boxes.py).
# That is the better sign: of 74 synthetic faces that the cascades miss it comes back to 66, of 174 other places to
# none, and hard faces lie above MAX_FLIP_DISAGREEMENT. So the doubt need only be below a limit of its own.
SEARCH_MIN_IOU, SEARCH_MAX_DISAGREEMENT = 0.8, 0.1
BOX_OFFSETS = np.array([[-0.2, 0], [0.2, 0], [0, -0.2], [0, 0.2]])


def predict(
    image: np.ndarray,
    boxes: np.ndarray | None = None,
    weights: str | Path = "bundled",
    device: str | None = None,
    flip: bool = True,
    passes: int = 2,
    detector: str = "cascades",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> list[FaceMesh]:
    """The mesh of every face in a photo.

    Args:    image: (H, W, 3) uint8 RGB.
             boxes: (K, 4) x0 y0 x1 y1 in px, tight around the 68 landmarks; None looks for faces.
             weights: "bundled" or a weights file.   device: None takes CUDA where there is one.
             flip: average with the prediction for the mirrored photo (better, twice the time; and tells the doubt).
             passes: 2 crops again around the first prediction where the box was not as tight as said.
             detector: see `detect.detect_faces`; see also `find_meshes`.
             precision: as for `open_network`; bf16 moves a vertex by 0.04% of the face size (benchmarks/speed.py).
    Returns: a FaceMesh a box, in the boxes' order, or the largest face first; [] if no face is found.
    Raises:  InputError for an image or boxes of another shape.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError("image", "", f"is {image.dtype} of shape {image.shape}", "give (H, W, 3) uint8 RGB")
    model = open_network(weights, device, precision)
    if boxes is None:
        return find_meshes(model, image, flip, passes, detector)
    return mesh_boxes(model, image, boxes, flip, passes)


def find_meshes(
    model: Pixel2Mesh,
    image: np.ndarray,
    flip: bool = True,
    passes: int = 2,
    detector: str = "cascades",
    timed: Callable[[str], AbstractContextManager] = lambda stage: nullcontext(),
) -> list[FaceMesh]:
    """The faces that a detector finds, or the network itself where that finds none, or only unlikely ones.

    Args:    timed: a context around each stage.
    Returns: as `predict` does.
    """
    with timed("find faces"):
        boxes = detect_faces(image, detector)
    with timed("network"):
        meshes = mesh_boxes(model, image, boxes, flip, passes)
    if all(is_unlikely(mesh) for mesh in meshes):
        with timed("search"):
            boxes = search_face(model, image)
        if len(boxes):
            with timed("network"):
                meshes = mesh_boxes(model, image, boxes, flip, passes)
    return meshes


def is_unlikely(mesh: FaceMesh) -> bool:
    """Whether a mesh is no face by its doubt, or lies elsewhere than the box in which a face was said to be."""
    return mesh.doubt > MAX_FLIP_DISAGREEMENT or overlap(mesh.box, box_of(mesh.landmarks_px)) < MIN_OVERLAP


def mesh_boxes(model: Pixel2Mesh, image: np.ndarray, boxes: np.ndarray, flip: bool, passes: int) -> list[FaceMesh]:
    """A FaceMesh for each box (K, 4), cropped again where box and prediction differ.   Raises InputError."""
    boxes = np.asarray(boxes, np.float64)
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise InputError("boxes", "", f"have shape {boxes.shape}", "give (K, 4) x0 y0 x1 y1")
    meshes: list[FaceMesh] = [None] * len(boxes)
    tight, todo = boxes.copy(), np.arange(len(boxes))
    for _ in range(passes):
        if not len(todo):
            break
        for k, mesh in zip(todo, predict_boxes(model, image, tight[todo], flip), strict=True):
            meshes[k] = replace(mesh, box=np.float32(boxes[k]))
        found = np.stack([box_of(mesh.landmarks_px) for mesh in meshes])
        # A crop of next to nothing could only come of a network that failed.
        size = (found[:, 2:] - found[:, :2]).min(1)
        todo = np.array([k for k in todo if size[k] > 1 and overlap(tight[k], found[k]) < SAME_BOX], int)
        tight[todo] = found[todo]
    return meshes


def search_face(model: Pixel2Mesh, image: np.ndarray) -> np.ndarray:
    """A face that the network itself finds in a photo (H, W, 3), where detectors found none.

    In windows all over the photo it predicts landmarks. Windows that see the same face agree on where it is: the two
    places on which most agree are looked at again, and the one that the network doubts less is taken for a face if it
    comes back there from beside. Much smaller than a third of the photo's shorter side it does not find.

    Returns: (1, 4) the box, or (0, 4).
    """
    nothing, scale = np.zeros((0, 4)), min(1.0, SEARCH_PX / max(image.shape))
    if not len(model.template.mirror) or scale * min(image.shape[:2]) < SEARCH_LEAST_PX:  # no mirror image, no doubt
        return nothing
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)

    def look(boxes: np.ndarray, flip: bool) -> tuple[np.ndarray, np.ndarray]:
        meshes = predict_boxes(model, image, boxes, flip) if len(boxes) else []
        found = np.array([box_of(mesh.landmarks_px) for mesh in meshes]).reshape(-1, 4)
        whole = (found[:, 2:] - found[:, :2]).min(1, initial=np.inf) > 1  # a network that failed gives next to nothing
        return found[whole], np.array([mesh.doubt for mesh in meshes])[whole]

    found, _ = look(windows(*image.shape[:2]), False)
    if len(found) < 2:
        return nothing
    agree = np.sort([[overlap(a, b) for b in found] for a in found])[:, -4:-1].mean(1)  # with the three nearest others
    places: list[np.ndarray] = []
    for box in found[np.argsort(-agree, kind="stable")]:
        if len(places) < 2 and all(overlap(box, other) < 0.4 for other in places):
            places.append(box)
    boxes, doubt = np.array(places), np.zeros(len(places))
    for _ in range(SEARCH_PASSES):
        boxes, doubt = look(boxes, True)
    if not len(boxes) or doubt.min() > SEARCH_MAX_DISAGREEMENT:
        return nothing
    box = boxes[doubt.argmin()]
    back, _ = look(box + np.tile(BOX_OFFSETS, 2) * (box[2:] - box[:2]).max(), False)
    if len(back) < len(BOX_OFFSETS) or min(overlap(box, other) for other in back) < SEARCH_MIN_IOU:
        return nothing
    return (box[None] + 0.5) / scale - 0.5


def windows(height: int, width: int) -> np.ndarray:
    """Squares (K, 4) all over a photo, x0 y0 x1 y1 in px, as WINDOWS says."""
    least, boxes = min(height, width), []
    for share, count in WINDOWS:
        side = share * least
        places = []
        for length in (height, width):
            n = round(count * min(length / least, SEARCH_ASPECT))  # as many more as the longer side is longer
            places.append(np.linspace(0, length - side, n) if n > 1 else [(length - side) / 2])
        boxes += [[x, y, x + side, y + side] for y in places[0] for x in places[1]]
    return np.array(boxes) - 0.5
