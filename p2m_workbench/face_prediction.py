"""A predicted face with its photo and ground truth, and its deformation from the template over the levels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Num, UInt8

from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import apply_affine
from p2m_core.geometry.template import GROUPS
from p2m_core.metrics import nme_dense_3d


class Stages:
    """The deformation of a mesh from the template over its levels, for animations and sliders.

    Stage 0 is the template, 1 the first level, and so on. Between k - 1 and k the vertices of level k are interpolated
    linearly; each new one starts in the middle of the edge that it splits. `first` is 0, or 1 without a template.
    """

    def __init__(self, mesh: FaceMesh):
        self.first, self.last = int(mesh.template_px is None), len(mesh.levels)
        self.ends = mesh.levels
        start = mesh.levels[0] if mesh.template_px is None else mesh.template_px
        finer = zip(mesh.levels, mesh.levels[1:], mesh.level_faces[1:], strict=False)
        self.starts = (start, *(unpooled(coarse, fine, faces) for coarse, fine, faces in finer))

    def vertices(self, stage: float) -> Float[np.ndarray, "_ 3"]:
        """Vertices (V_k, 3) at a stage, k = ceil(stage), at least 1; stages beyond the ends are the ends."""
        stage = min(max(stage, self.first), self.last)
        level = max(int(np.ceil(stage)), 1) - 1
        return self.ends[level] + np.float32(level + 1 - stage) * (self.starts[level] - self.ends[level])


def unpooled(
    coarse: Num[np.ndarray, "v_coarse 3"], fine: Num[np.ndarray, "v_fine 3"], faces: Int[np.ndarray, "f 3"]
) -> Float32[np.ndarray, "v_fine 3"]:
    """A level with the vertices of the next one, whose first vertices it has.

    Args:    coarse, fine: the two levels.   faces: of the fine one.
    Returns: new vertices at the mean of their neighbours in the coarse level; those without any where `fine` has them.
    """
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    sides = np.unique(np.concatenate([sides, sides[:, ::-1]]), axis=0)
    new, old = sides[(sides[:, 0] >= len(coarse)) & (sides[:, 1] < len(coarse))].T
    count = np.bincount(new, minlength=len(fine))[:, None]
    means = np.zeros((len(fine), 3))
    np.add.at(means, new, coarse[old])
    means = np.where(count > 0, means / np.maximum(count, 1), fine)
    means[: len(coarse)] = coarse
    return means.astype(np.float32)


def moved(mesh: FaceMesh, matrix: Float[np.ndarray, "2 3"]) -> FaceMesh:
    """A mesh in another picture, to which a similarity of the image plane leads; without its crop and pose."""

    def there(points: Num[np.ndarray, "n 3"]) -> Float32[np.ndarray, "n 3"]:
        return apply_affine(matrix, points).astype(np.float32)

    return replace(
        mesh,
        vertices_px=there(mesh.vertices_px),
        levels=tuple(map(there, mesh.levels)),
        landmarks_px=there(mesh.landmarks_px),
        template_px=None if mesh.template_px is None else there(mesh.template_px),
        box=np.concatenate([matrix[:, :2] @ corner + matrix[:, 2] for corner in np.split(mesh.box, 2)]),
        pose=None,
        crop=None,
    )


@dataclass(frozen=True)
class FacePrediction:
    """A prediction with its photo, and the ground truth where there is one; for the inspector and for export.

    photo     (H, W, 3) uint8 RGB
    truth_px  (V, 3) ground truth of the finest level in the frame of `mesh.vertices_px`, or None.
              Level k's vertices are its first V_k rows, since levels share their indices.
    points_px (P, 3) points of the true surface in the same frame, where no vertex has a true place of its own, or None
    """

    name: str
    mesh: FaceMesh
    photo: UInt8[np.ndarray, "h w 3"]
    truth_px: Float[np.ndarray, "v 3"] | None = None
    points_px: Float[np.ndarray, "p 3"] | None = None

    def error_percent(self, level: int = -1) -> Float[np.ndarray, "_"]:
        """Distance of each vertex of a level to its true place, (V_k,), in percent of the face size.

        Both are taken without the mean depth of the vertices that count, and the face size is sqrt(w h) of those true
        vertices' box: the convention of nme-dense-3d.   Raises ValueError if there is no ground truth.
        """
        return self._error_percent(self.mesh.levels[level])

    def mean_error_percent(self) -> float:
        """nme-dense-3d@template of the finest level, over the vertices that count: without a mouth's membrane, whose
        place is no truth about a face.   Raises ValueError if there is no ground truth."""
        if self.truth_px is None:
            raise ValueError(f"{self.name}: no ground truth to compare with")
        counted = self.counted
        return float(nme_dense_3d(self.mesh.vertices_px[None, counted], self.truth_px[None, counted])[0])

    @property
    def counted(self) -> Bool[np.ndarray, "v"]:
        """Whether each vertex of the finest level counts in means, see `mean_error_percent`."""
        groups, counted = self.mesh.groups, np.ones(len(self.mesh.vertices_px), bool)
        if groups is not None:
            counted[:] = False
            counted[self.mesh.faces[groups != GROUPS.index("mouth")]] = True
        return counted

    def error_at(self, stage: float, stages: Stages | None = None) -> Float[np.ndarray, "_"]:
        """As `error_percent`, of the mesh at a stage of `Stages`."""
        return self._error_percent((stages or Stages(self.mesh)).vertices(stage))

    def _error_percent(self, predicted: np.ndarray) -> np.ndarray:
        if self.truth_px is None:
            raise ValueError(f"{self.name}: no ground truth to compare with")
        truth, counted = self.truth_px[: len(predicted)], self.counted
        offset = predicted - truth
        offset = offset - [0, 0, offset[counted[: len(predicted)], 2].mean()]
        size = np.sqrt(np.prod(np.ptp(self.truth_px[counted, :2], axis=0)))
        return np.linalg.norm(offset, axis=1) / size * 100
