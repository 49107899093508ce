"""From a photo to the meshes of its faces: detection, or a search by the network, and repeated crops."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import box_of, crop_matrix
from p2m_core.inference import open_network, predict_views
from p2m_core.network.model import Pixel2Mesh
from p2m_workbench.interop.reference_network import build_network
from p2m_workbench.photos.detect import CERTAIN, BlazeFace, Detector, box_iou
from p2m_workbench.photos.objects import knows_faces, mesh_pictures
from p2m_workbench.photos.upright import predict_upright, upright_box

# Flip disagreement (FaceMesh.doubt) above which a crop is taken for no face: 97% of 66 crops without a face lie above,
# of 299 detected synthetic faces 0.3%. Mahalanobis distances of the network's features told them apart less well (area
# under the ROC curve 0.985, flip disagreement 0.999).
MAX_FLIP_DISAGREEMENT = 0.055
# What a detector is SURE of may be doubted more: hands, hair and glasses over a face raise the disagreement, too. What
# it is not sure of must agree more. Of the faces of 999 photos of AFLW2000-3D one has a confidence below SURE; 72 of 74
# below CERTAIN have less doubt than MAX_DISAGREEMENT_SURE; of 60 pictures without a face one keeps a find.
SURE, MAX_DISAGREEMENT_SURE, MAX_DISAGREEMENT_UNSURE = 0.6, 0.08, 0.035
# CERTAIN finds are faces whatever the network says, which may have learned little; one of the 36 is above, and is one.
# Least IoU of the detected box and the predicted landmarks' box: below it, the prediction has moved to something else
# in the photo. Boxes that are off by a fifth of their side and a quarter in size stay above.
MIN_OVERLAP = 0.5

# The search for a face by the network itself. Sides of the windows as shares of the photo's shorter side, and how many
# lie along that side; a longer side has at most SEARCH_ASPECT times as many.
WINDOWS = ((0.75, 1), (0.5, 2), (0.34, 3))
SEARCH_ASPECT = 4
SEARCH_PX, SEARCH_LEAST_PX = 640, 32  # the longer side is scaled down to the first; the shorter must have the second
SEARCH_PASSES = 3
# A face is a fixed point under perturbed boxes: predicted from boxes shifted by BOX_OFFSETS (shares of the side), its
# landmarks' box keeps this IoU with the unshifted one. Without a face the prediction moves with the box, and the IoU
# falls to two thirds (benchmarks/boxes.py). Of 74 synthetic faces that the cascades miss 66 are fixed points, of 174
# other places none. This tells faces apart better than the flip disagreement, which may therefore be larger here.
SEARCH_MIN_IOU, SEARCH_MAX_DISAGREEMENT = 0.8, 0.1
BOX_OFFSETS = np.array([[-0.2, 0], [0.2, 0], [0, -0.2], [0, 0.2]])


def predict(
    image: np.ndarray,
    boxes: np.ndarray | None = None,
    weights: str | Path = "bundled",
    device: str | None = None,
    flip: bool = True,
    passes: int = 2,
    detector: Detector | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> list[FaceMesh]:
    """The mesh of every face in a photo.

    Args:    image: (H, W, 3) uint8 RGB.
             boxes: (K, 4) or (4,) x0 y0 x1 y1 in px, around the 68 landmarks; None looks for faces.
             weights: "bundled" or a weights file.   device: None takes CUDA where there is one.
             flip: average with the prediction for the mirrored crop: better, twice the time, and FaceMesh.doubt,
             the distance of the two, is measured.
             passes: 2 crops again around the first prediction where its box differs from the given one, so that
             boxes may be loose or tight.
             detector: None is `detect.BlazeFace`; see also `find_meshes`.
             precision: as for `open_network`; bf16 moves a vertex by 0.04% of the face size (benchmarks/speed.py).
    Returns: a FaceMesh a box, in the boxes' order, or the largest face first; [] if no face is found.
    Raises:  InputError for an image or boxes of another shape.

    >>> from p2m_workbench.photos.read import read_photo, sample_photo
    >>> (mesh,) = predict(read_photo(sample_photo()))  # one face
    >>> mesh.vertices_px.shape, mesh.landmarks_px.shape
    ((8265, 3), (68, 3))
    >>> bool(abs(mesh.pose[1]) < 30)  # yaw, degrees
    True
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError("image", "", f"is {image.dtype} of shape {image.shape}", "give (H, W, 3) uint8 RGB")
    model = open_weights(weights, device, precision)
    if boxes is None:
        return find_meshes(model, image, flip, passes, detector)
    return mesh_boxes(model, image, boxes, flip, passes)


def open_weights(
    weights: str | Path, device: str | None = None, precision: Literal["auto", "fp32", "bf16"] = "auto"
) -> Pixel2Mesh:
    """`open_network`, for converted weights too, whose network computes as older code does."""
    return open_network(weights, device, precision, build_network)


def find_meshes(
    model: Pixel2Mesh,
    image: np.ndarray,
    flip: bool = True,
    passes: int = 2,
    detector: Detector | None = None,
    timed: Callable[[str], AbstractContextManager] = lambda stage: nullcontext(),
    search: bool = True,
) -> list[FaceMesh]:
    """The meshes of the finds of a detector that the network agrees to be faces; where there is none, of `search_face`.
    Of a network without landmarks: of an older face port those of all finds, none of which it can doubt; else, or
    where there is none, that of the whole picture.

    Args:    timed: a context around each stage.   search: False leaves `search_face` out.
    Returns: as `predict` does.
    """
    if not knows_faces(model):
        with timed("find faces"):
            of_faces = model.config.camera == "legacy_crop"
            found = (detector or BlazeFace()).detect(image).boxes if of_faces else np.zeros((0, 4))
        with timed("network"):
            return mesh_pictures(model, image, found if len(found) else None, model.config.margin)
    with timed("find faces"):
        faces = (detector or BlazeFace()).detect(image)
    with timed("network"):
        meshes = mesh_boxes(model, image, faces.boxes, flip, passes, faces.tilt_deg)
    limits = np.where(faces.confidence >= SURE, MAX_DISAGREEMENT_SURE, MAX_DISAGREEMENT_UNSURE)
    certain = faces.confidence >= CERTAIN
    meshes = [
        m for m, limit, is_face in zip(meshes, limits, certain, strict=True) if is_face or not is_unlikely(m, limit)
    ]
    if not meshes and search:
        with timed("search"):
            boxes = search_face(model, image)
        with timed("network"):
            meshes = mesh_boxes(model, image, boxes, flip, passes)
    return meshes


def is_unlikely(mesh: FaceMesh, limit: float = MAX_FLIP_DISAGREEMENT) -> bool:
    """Whether a mesh is probably no face: its flip disagreement is large, or it lies outside the box it came from."""
    return mesh.doubt > limit or box_iou(mesh.box, upright_box(mesh)[0]).item() < MIN_OVERLAP


def mesh_boxes(
    model: Pixel2Mesh,
    image: np.ndarray,
    boxes: np.ndarray,
    flip: bool,
    passes: int,
    tilt_deg: np.ndarray | None = None,
) -> list[FaceMesh]:
    """A FaceMesh for each box, (K, 4) or (4,); see `predict_upright`.   Raises InputError."""
    boxes = np.asarray(boxes, np.float64)
    boxes = boxes[None] if boxes.shape == (4,) else boxes
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise InputError("boxes", "", f"have shape {boxes.shape}", "give (K, 4) x0 y0 x1 y1")
    if not knows_faces(model):
        return mesh_pictures(model, image, boxes)
    return predict_upright(model, [image] * len(boxes), boxes, tilt_deg, flip, passes) if len(boxes) else []


def crop_matrices(model: Pixel2Mesh, boxes: np.ndarray) -> list[np.ndarray]:
    """The maps (2, 3) from px of a photo to the network's crops around boxes (K, 4)."""
    return [crop_matrix(box, model.config.input_px, model.config.margin) for box in boxes]


def search_face(model: Pixel2Mesh, image: np.ndarray) -> np.ndarray:
    """One face that the network itself finds in a photo (H, W, 3), for where detectors found none.

    1. Landmarks are predicted in `windows` all over the photo: windows that see the same face predict the same place.
    2. The two places with the highest mean IoU with their three nearest others are predicted SEARCH_PASSES times more,
       each time from the landmarks' box of the pass before.
    3. The one with the smaller flip disagreement is a face if that is small enough, and if the place is a fixed point
       under perturbed boxes (BOX_OFFSETS, SEARCH_MIN_IOU).

    Faces much smaller than a third of the photo's shorter side are not found.

    Returns: (1, 4) the box, or (0, 4).
    """
    nothing, scale = np.zeros((0, 4)), min(1.0, SEARCH_PX / max(image.shape))
    # Without a mirror table there is no flip disagreement.
    if not len(model.template.mirror) or scale * min(image.shape[:2]) < SEARCH_LEAST_PX:
        return nothing
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)

    def landmark_boxes(boxes: np.ndarray, flip: bool) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (K, 4) around the landmarks predicted from boxes, and the flip disagreements (K,)."""
        meshes = (
            predict_views(model, [image] * len(boxes), crop_matrices(model, boxes), boxes, flip) if len(boxes) else []
        )
        found = np.array([box_of(mesh.landmarks_px) for mesh in meshes]).reshape(-1, 4)
        valid = (found[:, 2:] - found[:, :2]).min(1, initial=np.inf) > 1  # smaller: the network failed
        return found[valid], np.array([mesh.doubt for mesh in meshes])[valid]

    found, _ = landmark_boxes(windows(*image.shape[:2]), False)
    if len(found) < 2:
        return nothing
    iou = box_iou(found, found)
    agreement = np.sort(iou)[:, -4:-1].mean(1)
    places: list[int] = []
    for k in np.argsort(-agreement, kind="stable"):
        if len(places) < 2 and (iou[k, places] < 0.4).all():
            places.append(k)
    boxes, disagreement = found[places], np.zeros(len(places))
    for _ in range(SEARCH_PASSES):
        boxes, disagreement = landmark_boxes(boxes, True)
    if not len(boxes) or disagreement.min() > SEARCH_MAX_DISAGREEMENT:
        return nothing
    box = boxes[disagreement.argmin()]
    shifted, _ = landmark_boxes(box + np.tile(BOX_OFFSETS, 2) * (box[2:] - box[:2]).max(), False)
    if len(shifted) < len(BOX_OFFSETS) or box_iou(box, shifted).min() < SEARCH_MIN_IOU:
        return nothing
    return (box[None] + 0.5) / scale - 0.5


def windows(height: int, width: int) -> np.ndarray:
    """Squares (K, 4) all over a photo, x0 y0 x1 y1 in px, as WINDOWS says."""
    least, boxes = min(height, width), []
    for share, count in WINDOWS:
        side = share * least
        places = []
        for length in (height, width):
            n = round(count * min(length / least, SEARCH_ASPECT))
            places.append(np.linspace(0, length - side, n) if n > 1 else [(length - side) / 2])
        boxes += [[x, y, x + side, y + side] for y in places[0] for x in places[1]]
    return np.array(boxes) - 0.5
