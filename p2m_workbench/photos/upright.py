"""Heads that lie on their side or stand upside down: found by looking again, and cropped upright."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.geometry.crop import apply_affine, box_of, compose, crop_matrix
from p2m_core.inference import predict_views
from p2m_core.network.model import Pixel2Mesh

# FaceMesh.doubt above which a head may lie or stand upside down. In the quarter turn in which it stands, the doubt is
# less than half of that and the head upright within UPRIGHT_DEG: so in 4 of 998 photos of AFLW2000-3D, and in no wrong
# turn.
UNSURE, UPRIGHT_DEG = 0.05, 20
LYING_DEG = 35  # tilt beyond which the crop is cut anew; below it the network is as good as upright


def predict_upright(
    model: Pixel2Mesh, images: Sequence[np.ndarray], matrices: Sequence[np.ndarray], boxes: np.ndarray, flip: bool
) -> list[FaceMesh]:
    """`predict_views`, and again where heads may not be upright.

    Where the predictions for a crop and its mirror image differ much, the crop is also seen in quarter turns; one of
    them is taken if it agrees with its mirror image much better, and the head stands upright in it. Heads that are
    turned by more than LYING_DEG are then cropped anew, upright.

    Args: images: (H, W, 3) uint8 RGB each.   matrices: (2, 3) px of each to crop px.   boxes: (K, 4), as there.
    """
    meshes = predict_views(model, images, matrices, boxes, flip)
    side, margin = model.config.input_px, model.config.margin

    def look_again(idx: list[int], anew: list[np.ndarray]) -> list[FaceMesh]:
        return predict_views(model, [images[k] for k in idx], anew, boxes[idx], flip) if idx else []

    unsure = [k for k, mesh in enumerate(meshes) if mesh.doubt > UNSURE]
    doubt = {k: meshes[k].doubt / 2 for k in unsure}
    for angle in (90, 180, 270):
        turned = look_again(unsure, [compose(turn(angle, side), matrices[k]) for k in unsure])
        for k, mesh in zip(unsure, turned, strict=True):
            if mesh.doubt < doubt[k] and abs((tilt_deg(mesh) - angle + 180) % 360 - 180) < UPRIGHT_DEG:
                meshes[k], doubt[k] = mesh, mesh.doubt
    upright = {}
    for k, mesh in enumerate(meshes):
        if abs(angle := tilt_deg(mesh)) > LYING_DEG:
            box = box_of(apply_affine(turn(angle, 1), mesh.landmarks_px))
            if (box[2:] - box[:2]).min() > 1:  # else the network failed
                upright[k] = compose(crop_matrix(box, side, margin), turn(angle, 1))
    for k, mesh in zip(upright, look_again(list(upright), list(upright.values())), strict=True):
        meshes[k] = mesh
    return meshes


def tilt_deg(mesh: FaceMesh) -> float:
    """By how much a picture must be turned, clockwise as one sees it, for the head in it to stand upright, degrees."""
    assert mesh.pose is not None
    rotation = rotation_from_angles(np.radians(mesh.pose[:3]))
    return float(np.degrees(np.arctan2(-rotation[0, 1], rotation[1, 1])))


def turn(angle_deg: float, size_px: int) -> np.ndarray:
    """The rotation (2, 3) of a picture about its centre, clockwise as one sees it."""
    centre = (size_px - 1) / 2
    return cv2.getRotationMatrix2D((centre, centre), -angle_deg, 1)
