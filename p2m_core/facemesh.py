"""What a prediction is, and what one looks at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FaceMesh:
    """One face as a mesh over its photo.

    All coordinates in px of the photo: (0, 0) is the centre of the top-left pixel, x right, y down,
    z in the same scale, towards the viewer positive. With y down the system is left-handed:
    `to_world` turns it into the right-handed one in which `faces` wind outwards.

    vertices_px  (V, 3) float32, the finest level      faces        (F, 3) int64, of the finest level
    levels       one (V_k, 3) a level, coarse to fine  level_faces  one (F_k, 3) a level
    landmarks_px (68, 3), iBUG order                   box          (4,) x0 y0 x1 y1 that the face was cropped by
    pose         (7,) pitch, yaw, roll in degrees with AFLW2000-3D's signs; x, y, z of the template's centroid, px;
                 px per unit of the template. None where nobody has asked for it.
    crop         (S, S, 3) uint8, what the network saw, or None
    doubt        how little the crop looked like a face to the network, see `predict.DOUBT_LIMIT`; 0 where not measured
    """

    vertices_px: np.ndarray
    faces: np.ndarray
    levels: tuple[np.ndarray, ...]
    level_faces: tuple[np.ndarray, ...]
    landmarks_px: np.ndarray
    box: np.ndarray
    pose: np.ndarray | None = None
    crop: np.ndarray | None = None
    doubt: float = 0.0


@dataclass(frozen=True)
class Specimen:
    """A prediction with the photo, and the ground truth where there is one: what inspector and export show.

    photo     (H, W, 3) uint8 RGB
    truth_px  (V, 3) ground truth of the finest level in the frame of `mesh.vertices_px`, or None.
              Level k's vertices are its first V_k rows, since levels share their indices.
    """

    name: str
    mesh: FaceMesh
    photo: np.ndarray
    truth_px: np.ndarray | None = None

    def error_percent(self, level: int = -1) -> np.ndarray:
        """Distance of each vertex of a level to its true place, (V_k,), in percent of the face size.

        Both are taken without their mean depth, and the face size is sqrt(w h) of the true vertices'
        box: the convention of nme-dense-3d.   Raises ValueError if there is no ground truth.
        """
        if self.truth_px is None:
            raise ValueError(f"{self.name}: no ground truth to compare with")
        predicted = self.mesh.levels[level]
        truth = self.truth_px[: len(predicted)]
        offset = predicted - truth
        offset = offset - [0, 0, offset[:, 2].mean()]
        size = np.sqrt(np.prod(np.ptp(self.truth_px[:, :2], axis=0)))
        return np.linalg.norm(offset, axis=1) / size * 100


def to_world(points_px: np.ndarray) -> np.ndarray:
    """Image px (y down, left-handed) to the same scale with y up, in which meshes wind outwards."""
    return np.array(points_px, np.float32) * np.array([1, -1, 1], np.float32)
