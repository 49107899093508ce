"""What a prediction is, and what one looks at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
                 px per unit of the template. None where nobody has asked for it.
    crop         (S, S, 3) uint8, what the network saw, or None
    doubt        flip disagreement: mean distance between the predictions for the crop and its mirror image, in halves
                 of the crop; large where there is no face, see photos/predict.py; 0 where not measured
    """

    vertices_px: np.ndarray
    faces: np.ndarray
    levels: tuple[np.ndarray, ...]
    level_faces: tuple[np.ndarray, ...]
    landmarks_px: np.ndarray
    box: np.ndarray
    template_px: np.ndarray | None = None
    pose: np.ndarray | None = None
    crop: np.ndarray | None = None
    doubt: float = 0.0


class Stages:
    """A mesh on its way from the template over its levels.

    Stage 0 is the template, 1 the first level, and so on; from k - 1 to k the vertices are those of level k, each new
    one starting in the middle of the edge that it splits. `first` is 0, or 1 where the template is not known.
    """

    def __init__(self, mesh: FaceMesh):
        self.first, self.last = int(mesh.template_px is None), len(mesh.levels)
        self.ends = mesh.levels
        start = mesh.levels[0] if mesh.template_px is None else mesh.template_px
        finer = zip(mesh.levels, mesh.levels[1:], mesh.level_faces[1:], strict=False)
        self.starts = (start, *(unpooled(coarse, fine, faces) for coarse, fine, faces in finer))

    def vertices(self, stage: float) -> np.ndarray:
        """Vertices (V_k, 3) at a stage, k = ceil(stage), at least 1; stages beyond the ends are the ends."""
        stage = min(max(stage, self.first), self.last)
        level = max(int(np.ceil(stage)), 1) - 1
        return self.ends[level] + np.float32(level + 1 - stage) * (self.starts[level] - self.ends[level])


def unpooled(coarse: np.ndarray, fine: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """A level (V_k, 3) at the vertices of the next one (V_l, 3), whose first V_k they are: every new vertex in the mean
    of its old neighbours, or where it is if it has none.   faces: (F, 3) of the next level."""
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    sides = np.unique(np.concatenate([sides, sides[:, ::-1]]), axis=0)
    new, old = sides[(sides[:, 0] >= len(coarse)) & (sides[:, 1] < len(coarse))].T
    count = np.bincount(new, minlength=len(fine))[:, None]
    means = np.zeros((len(fine), 3))
    np.add.at(means, new, coarse[old])
    means = np.where(count > 0, means / np.maximum(count, 1), fine)
    means[: len(coarse)] = coarse
    return np.float32(means)


@dataclass(frozen=True)
class FacePrediction:
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
        return self._error_percent(self.mesh.levels[level])

    def error_at(self, stage: float, stages: Stages | None = None) -> np.ndarray:
        """As `error_percent`, of the mesh at a stage of `Stages`."""
        return self._error_percent((stages or Stages(self.mesh)).vertices(stage))

    def _error_percent(self, predicted: np.ndarray) -> np.ndarray:
        if self.truth_px is None:
            raise ValueError(f"{self.name}: no ground truth to compare with")
        truth = self.truth_px[: len(predicted)]
        offset = predicted - truth
        offset = offset - [0, 0, offset[:, 2].mean()]
        size = np.sqrt(np.prod(np.ptp(self.truth_px[:, :2], axis=0)))
        return np.linalg.norm(offset, axis=1) / size * 100


def to_world(points_px: np.ndarray) -> np.ndarray:
    """Image px (y down, left-handed) to the same scale with y up, in which meshes wind outwards."""
    return np.array(points_px, np.float32) * np.array([1, -1, 1], np.float32)
