"""FaceMesh: a predicted face over its photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, Num, UInt8


@dataclass(frozen=True)
class FaceMesh:
    """One face as a mesh over its photo.

    All coordinates are image px of the photo, y down (docs/conventions.md); `to_world` turns them into the right-handed
    frame in which `faces` wind outwards.

    vertices_px  (V, 3) float32, the finest level      faces        (F, 3) int64, of the finest level
    levels       one (V_k, 3) a level, coarse to fine  level_faces  one (F_k, 3) a level
    landmarks_px (68, 3), iBUG order                   box          (4,) x0 y0 x1 y1 that the face was cropped by
    template_px  (V_0, 3), the first level before the network has seen the photo; None if that is not known
    pose         (7,) pitch, yaw, roll in degrees with AFLW2000-3D's signs; x, y, z of the template's centroid, px;
                 px per unit of the template. None where it was not computed.
    crop         (S, S, 3) uint8, what the network saw, or None
    doubt        flip disagreement: mean distance between the predictions for the crop and its mirror image, in halves
                 of the crop; large where there is no face, see photos/predict.py; 0 where it was not computed
    groups       (F,) index into template.GROUPS of each triangle, or None where all are skin
    """

    vertices_px: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    levels: tuple[Float[np.ndarray, "_ 3"], ...]
    level_faces: tuple[Int[np.ndarray, "_ 3"], ...]
    landmarks_px: Float[np.ndarray, "landmarks 3"]
    box: Num[np.ndarray, "4"]
    template_px: Float[np.ndarray, "_ 3"] | None = None
    pose: Float[np.ndarray, "7"] | None = None
    crop: UInt8[np.ndarray, "s s 3"] | None = None
    doubt: float = 0.0
    groups: Int[np.ndarray, "f"] | None = None


def to_world(points_px: Num[np.ndarray, "*batch 3"]) -> Float32[np.ndarray, "*batch 3"]:
    """Image px (y down, left-handed) to the same scale with y up, in which meshes wind outwards."""
    return np.array(points_px, np.float32) * np.array([1, -1, 1], np.float32)
