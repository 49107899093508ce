"""Crops in which heads stand upright, and that fit them: looked at, and cut anew where the network shows otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.geometry.crop import apply_affine, box_of, compose, crop_matrix, invert_affine
from p2m_core.inference import predict_views
from p2m_core.network.model import Pixel2Mesh
from p2m_workbench.photos.detect import box_iou

# FaceMesh.doubt above which a head may lie or stand upside down. In the turn in which it stands, the doubt is below
# AGREES and less than half of what it was, and the head upright within UPRIGHT_DEG.
UNSURE, AGREES, UPRIGHT_DEG = 0.04, 0.045, 20
LYING_DEG = 35  # tilt beyond which a crop is cut upright; below it the network is as good
# A face is cropped again around its first prediction if the intersection over union (IoU) of the two boxes is below
# this. Two passes are better than one where the box was found by a detector, and as good where it is the true one
# (benchmarks/boxes.py).
SAME_BOX = 0.85
BATCH = 32  # crops that the network sees at once, so that a crowd's photo needs no more memory than this


def predict_upright(
    model: Pixel2Mesh,
    images: Sequence[np.ndarray],
    boxes: np.ndarray,
    tilt_deg: np.ndarray | None = None,
    flip: bool = True,
    passes: int = 1,
) -> list[FaceMesh]:
    """A mesh for each image's box, from a crop in which the head stands upright.

    Each crop is first seen as it is. Where its mirror image is predicted otherwise, the head may lie: the crop is also
    seen in quarter turns, and in each as upright as the head is in it; and where the detector says that the head lies,
    in its turn. One of them is taken if it agrees much better with its mirror image, and the head stands upright in it.
    Heads that are turned by more than LYING_DEG in their crop are at last cropped anew.

    Args: images: (H, W, 3) uint8 RGB each.   boxes, tilt_deg: (K, 4) and (K,), as in `detect.Faces`; tilt_deg is None
          where nothing is known.   passes: from 2 on, crops that do not fit the predicted face are cut anew, too, so
          often less one.
    """
    given, side = np.asarray(boxes, np.float64), model.config.input_px
    boxes, tilt = given.copy(), np.zeros(len(given))

    def look(idx: list[int], angles: Sequence[float]) -> list[FaceMesh]:
        seen = []
        for start in range(0, len(idx), BATCH):
            part = idx[start : start + BATCH]
            crops = [crop_matrix(boxes[k], side, model.config.margin) for k in part]
            turns = [turn(angle, side) for angle in angles[start : start + BATCH]]
            matrices = [compose(turned, crop) for turned, crop in zip(turns, crops, strict=True)]
            seen += predict_views(model, [images[k] for k in part], matrices, given[part], flip)
        return seen

    meshes = look([*range(len(given))], tilt)
    candidates = [(k, quarter) for k, mesh in enumerate(meshes) if mesh.doubt > UNSURE for quarter in (90, 180, 270)]
    if tilt_deg is not None:
        candidates += [(k, float(angle)) for k, angle in enumerate(tilt_deg) if abs(angle) > LYING_DEG]
    turned = look([k for k, _ in candidates], [angle for _, angle in candidates])
    # Once more where the head is not upright in the turned crop: it may stand in between.
    own = [tilt_of(mesh) for mesh in turned]
    again = [n for n, (_, angle) in enumerate(candidates) if abs(angle_between(own[n], angle)) > UPRIGHT_DEG]
    for n in again:
        candidates[n] = (candidates[n][0], own[n])
    for n, mesh in zip(again, look([candidates[n][0] for n in again], [candidates[n][1] for n in again]), strict=True):
        turned[n] = mesh
    doubt = [min(mesh.doubt / 2, AGREES) for mesh in meshes]
    for (k, angle), mesh in zip(candidates, turned, strict=True):
        if mesh.doubt < doubt[k] and abs(angle_between(tilt_of(mesh), angle)) < UPRIGHT_DEG:
            meshes[k], doubt[k], tilt[k] = mesh, mesh.doubt, angle
    for _ in range(max(passes - 1, 1)):
        anew = []
        for k, mesh in enumerate(meshes):
            box, angle = upright_box(mesh)
            lies = abs(angle_between(tilt_of(mesh), tilt[k])) > LYING_DEG
            # A box of less than a pixel comes of a network that failed, and cannot be cropped.
            if (box[2:] - box[:2]).min() > 1 and (lies or (passes > 1 and box_iou(boxes[k], box).item() < SAME_BOX)):
                boxes[k], tilt[k] = box, angle
                anew.append(k)
        for k, mesh in zip(anew, look(anew, tilt[anew]), strict=True):
            meshes[k] = mesh
    return meshes


def upright_box(mesh: FaceMesh) -> tuple[np.ndarray, float]:
    """Box (4,) and tilt of a mesh, as `detect.Faces` has them; the tilt is 0 up to LYING_DEG."""
    angle = tilt_of(mesh)
    angle = angle if abs(angle) > LYING_DEG else 0.0
    box = box_of(apply_affine(turn(angle, 1), mesh.landmarks_px))
    half = (box[2:] - box[:2]) / 2
    centre = apply_affine(invert_affine(turn(angle, 1)), np.append((box[:2] + box[2:]) / 2, 0.0))[:2]
    return np.concatenate([centre - half, centre + half]), angle


def tilt_of(mesh: FaceMesh) -> float:
    """By how much a picture must be turned, clockwise as one sees it, for the head in it to stand upright, degrees."""
    assert mesh.pose is not None
    rotation = rotation_from_angles(np.radians(mesh.pose[:3]))
    return float(np.degrees(np.arctan2(-rotation[0, 1], rotation[1, 1])))


def angle_between(a_deg: float, b_deg: float) -> float:
    """The difference of two angles, within [-180, 180) degrees."""
    return (a_deg - b_deg + 180) % 360 - 180


def turn(angle_deg: float, size_px: int) -> np.ndarray:
    """The rotation (2, 3) of a picture about its centre, clockwise as one sees it."""
    centre = (size_px - 1) / 2
    return cv2.getRotationMatrix2D((centre, centre), -angle_deg, 1)
