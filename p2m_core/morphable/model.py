"""A morphable model: every face is the mean plus a linear combination of directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Num
from scipy import sparse


def _combine(mean: np.ndarray, bases: tuple[np.ndarray, ...], coefficients: tuple[np.ndarray, ...]) -> np.ndarray:
    """mean (V, 3) + sum of basis (V, 3, K) @ coefficients (..., k <= K), as float32 (..., V, 3)."""
    total = mean.reshape(-1).astype(np.float32)
    for basis, values in zip(bases, coefficients, strict=True):
        values = np.asarray(values, np.float32)
        if values.shape[-1] > basis.shape[-1]:
            raise ValueError(f"{values.shape[-1]} coefficients for a basis of {basis.shape[-1]} directions")
        total = total + values @ basis.reshape(-1, basis.shape[-1])[:, : values.shape[-1]].T
    return total.reshape(*total.shape[:-1], len(mean), 3)


def onto_eyeballs(points: Any, eyes: Sequence[Any]) -> Any:
    """Points of the eyes moved from between the lids onto the eyeballs, along the line to the eyeball's centre.

    Args:    points: (..., T + 4, 3), arrays or tensors, changed in place; the last four are centre and front of the
             right eyeball, then of the left one.   eyes: of each eye the indices of its points.
    Returns: (..., T, 3).
    """
    for k, idx in enumerate(eyes):
        centre, front = points[..., None, 2 * k - 4, :], points[..., None, 2 * k - 3, :]
        away = points[..., idx, :] - centre
        radii = ((front - centre) ** 2).sum(-1, keepdims=True) / (away**2).sum(-1, keepdims=True)
        points[..., idx, :] = centre + away * radii**0.5
    return points[..., :-4, :]


@dataclass(frozen=True, eq=False)
class LinearPoints:
    """Points that depend linearly on shape and expression coefficients.

    mean             (T, 3) float32, model units
    shape_basis      (T, 3, K) float32    expression_basis (T, 3, M) float32
    eyes             empty, or what `onto_eyeballs` wants; then the last four points are those of the eyeballs
    """

    mean: Float[np.ndarray, "v 3"]
    shape_basis: Float[np.ndarray, "v 3 _"]
    expression_basis: Float[np.ndarray, "v 3 _"]
    eyes: tuple[Int[np.ndarray, "_"], ...] = field(default=(), kw_only=True)

    def vertices(
        self, shape: Num[np.ndarray, "*#batch _"], expression: Num[np.ndarray, "*#batch _"]
    ) -> Float32[np.ndarray, "*#batch _ 3"]:
        """mean + shape_basis @ shape + expression_basis @ expression, with `eyes` laid onto the eyeballs.

        Args:    shape: (..., k) with k <= K, missing ones count as 0.   expression: (..., m) with m <= M.
                 Both in the raw units of the model's files, not in sigmas.
        Returns: (..., T, 3) float32, model units.
        Raises:  ValueError if there are more coefficients than directions.
        """
        points = _combine(self.mean, (self.shape_basis, self.expression_basis), (shape, expression))
        return onto_eyeballs(points, self.eyes) if self.eyes else points


@dataclass(frozen=True, eq=False)
class FaceModel(LinearPoints):
    """A morphable face model in the layout of the Basel face model.

    mean             (V, 3) float32, model space (docs/conventions.md), micrometres
    shape_basis      (V, 3, K) float32    shape_sigma      (K,) standard deviation of each coefficient
    expression_basis (V, 3, M) float32    expression_sigma (M,)
    triangles        (F, 3) int64, wound outwards    landmark_idx (68,) int64, iBUG order
    eyeball_map      (4, V) centre and front of the right and of the left eyeball as sums of vertices, or None

    Source: Blanz and Vetter, SIGGRAPH 1999; Paysan et al., AVSS 2009.
    """

    shape_sigma: Float[np.ndarray, "k"]
    expression_sigma: Float[np.ndarray, "m"]
    triangles: Int[np.ndarray, "f 3"]
    landmark_idx: Int[np.ndarray, "68"]
    name: str = "face model"
    eyeball_map: sparse.csr_matrix | None = field(default=None, kw_only=True)

    def at(self, vertex_idx: Int[np.ndarray, "t"]) -> LinearPoints:
        """The model of some of its vertices."""
        return LinearPoints(self.mean[vertex_idx], self.shape_basis[vertex_idx], self.expression_basis[vertex_idx])

    def landmarks(
        self, shape: Num[np.ndarray, "*#batch _"], expression: Num[np.ndarray, "*#batch _"]
    ) -> Float32[np.ndarray, "*#batch 68 3"]:
        """The 68 landmarks, model units; coefficients as of `vertices`."""
        return self.at(self.landmark_idx).vertices(shape, expression)

    def sampled(self, operator: sparse.spmatrix) -> LinearPoints:
        """The model of points that are a linear map of the vertices, such as a template registered on the mean.

        Args:    operator: (T, V) sparse, rows of barycentric weights.
        Returns: LinearPoints of T points: sampled(A).vertices(s, e) = A @ vertices(s, e).
        Raises:  ValueError if the operator's width is not V.
        """
        if operator.shape[1] != len(self.mean):
            raise ValueError(f"operator of {operator.shape[1]} columns for a model of {len(self.mean)} vertices")

        def apply(values: np.ndarray) -> np.ndarray:
            mapped = operator @ values.reshape(len(values), -1)
            return mapped.reshape(operator.shape[0], *values.shape[1:]).astype(np.float32)

        return LinearPoints(apply(self.mean), apply(self.shape_basis), apply(self.expression_basis))
