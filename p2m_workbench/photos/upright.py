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
UNSURE, AGREES, UPRIGHT_DEG = 0.03, 0.045, 20
QUARTERS = (90.0, 180.0, 270.0)
LYING_DEG = 35  # tilt beyond which a crop is cut upright; below it the network is as good
# A face is cropped again around its first prediction if the intersection over union (IoU) of the two boxes is below
# this. Two passes are better than one where the box was found by a detector, and as good where it is the true one
# (benchmarks/boxes.py).
SAME_BOX = 0.85
BATCH = 32  # crops that the network sees at once, so that a crowd's photo needs no more memory than this

Crop = tuple[int, np.ndarray, float]  # of which row; its box (4,) and tilt, as `detect.Faces` has them


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
    Where boxes may be off, all of these are judged in crops around themselves: a find on a forehead shows no chin.
    Heads that are turned by more than LYING_DEG in their crop are at last cropped anew.

    Args: images: (H, W, 3) uint8 RGB each.   boxes, tilt_deg: (K, 4) and (K,), as in `detect.Faces`; tilt_deg is None
          where nothing is known.   passes: from 2 on, crops that do not fit the predicted face are cut anew, too, so
          often less one.
    """
    given, side = np.asarray(boxes, np.float64), model.config.input_px

    def look(crops: Sequence[Crop]) -> list[FaceMesh]:
        seen = []
        for start in range(0, len(crops), BATCH):
            part = crops[start : start + BATCH]
            rows = [row for row, _, _ in part]
            matrices = [
                compose(turn(angle, side), crop_matrix(box, side, model.config.margin)) for _, box, angle in part
            ]
            seen += predict_views(model, [images[row] for row in rows], matrices, given[rows], flip)
        return seen

    crops: list[Crop] = [(row, box, 0.0) for row, box in enumerate(given)]
    meshes = look(crops)
    tried = np.zeros(len(given), bool)

    def turn_where_doubted() -> None:
        """Put crops in which the head stands in place of those in which it may lie, each row once."""
        doubted = np.array([mesh.doubt > UNSURE for mesh in meshes], bool) & ~tried
        turned: list[Crop] = [
            (row, crops[row][1], crops[row][2] + quarter)
            for row in np.flatnonzero(doubted).tolist()
            for quarter in QUARTERS
        ]
        if tilt_deg is not None and not tried.any():
            turned += [(row, given[row], float(angle)) for row, angle in enumerate(tilt_deg) if abs(angle) > LYING_DEG]
        rows = sorted({row for row, _, _ in turned})
        tried[rows] = True
        seen = look(turned)
        if passes > 1:
            around = [around_itself(row, meshes[row]) for row in rows]
            for row, crop, mesh in zip(rows, around, look(around), strict=True):
                crops[row], meshes[row] = crop, mesh
            turned = [around_itself(row, mesh) for (row, _, _), mesh in zip(turned, seen, strict=True)]
            seen = look(turned)
        else:  # once more where the head is not upright in the turned crop: it may stand in between
            again = [n for n, crop in enumerate(turned) if abs(angle_between(tilt_of(seen[n]), crop[2])) > UPRIGHT_DEG]
            for n in again:
                turned[n] = (*turned[n][:2], tilt_of(seen[n]))
            for n, mesh in zip(again, look([turned[n] for n in again]), strict=True):
                seen[n] = mesh
        doubt = [min(mesh.doubt / 2, AGREES) for mesh in meshes]
        for crop, mesh in zip(turned, seen, strict=True):
            row, _, angle = crop
            if mesh.doubt < doubt[row] and abs(angle_between(tilt_of(mesh), angle)) < UPRIGHT_DEG:
                crops[row], meshes[row], doubt[row] = crop, mesh, mesh.doubt

    turn_where_doubted()
    for _ in range(max(passes - 1, 1)):
        anew = []
        for row, mesh in enumerate(meshes):
            _, box, angle = crops[row]
            own = around_itself(row, mesh)
            lies = abs(angle_between(tilt_of(mesh), angle)) > LYING_DEG
            if lies or (passes > 1 and box_iou(box, own[1]).item() < SAME_BOX):
                crops[row] = own
                anew.append(row)
        for row, mesh in zip(anew, look([crops[row] for row in anew]), strict=True):
            meshes[row] = mesh
    turn_where_doubted()  # a first look may agree with its mirror image by chance
    return meshes


def around_itself(row: int, mesh: FaceMesh) -> Crop:
    """The crop around a mesh in which it stands upright; around the box that it came from, if the network failed."""
    box, angle = upright_box(mesh)
    return (row, box, angle) if (box[2:] - box[:2]).min() > 1 else (row, mesh.box, 0.0)


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
