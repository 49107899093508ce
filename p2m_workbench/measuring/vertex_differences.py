"""Where on the face one system errs more than another: differences of errors vertex by vertex, and which of them are
beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from p2m_core.errors import InputError
from p2m_workbench.face_prediction import FacePrediction

FALSE_DISCOVERIES = 0.05  # expected share of vertices marked by chance alone among those that are marked
LEAST_SAMPLES = 3  # of which a deviation can be told
METHOD = f"paired t test on each vertex, Benjamini-Hochberg at {FALSE_DISCOVERIES:.0%} false discoveries"


@dataclass(frozen=True, eq=False)
class VertexDifference:
    """Errors of two systems on the same vertices.

    ours, theirs  (V,) percent of the face size, means where there are several samples; nan where a vertex does not
                  count
    beyond        (V,) whether the difference is beyond chance; of one sample, which has no chance, every vertex
    samples       how many they stand on
    """

    ours: Float[np.ndarray, "v"]
    theirs: Float[np.ndarray, "v"]
    beyond: Bool[np.ndarray, "v"]
    samples: int

    @property
    def points(self) -> Float[np.ndarray, "v"]:
        """Ours less theirs, (V,): below 0 where ours are better."""
        return self.ours - self.theirs

    @property
    def mean(self) -> float:
        """The mean of `points`, over the vertices that count."""
        return float(np.nanmean(self.points))


def require_same_mesh(ours: FacePrediction, theirs: FacePrediction) -> None:
    """Raise InputError if two predictions of a sample cannot be compared vertex by vertex."""
    counts = " and ".join(str(len(p.mesh.vertices_px)) for p in (ours, theirs))
    remedy = "compare their landmarks (notebook 03), or take weights of the store's template"
    if not np.array_equal(ours.mesh.faces, theirs.mesh.faces):
        problem = f"have meshes of their own ({counts} vertices), of which none is another's"
        raise InputError("the two weights", "", problem, remedy)
    if ours.truth_px is None or theirs.truth_px is None:
        problem = f"have {counts} vertices, whose true places are not known: the store has another template"
        raise InputError("the two weights", "", problem, remedy)


def counted_error(prediction: FacePrediction) -> Float[np.ndarray, "v"]:
    """The error of each finest vertex (V,), percent of the face size; nan where it does not count in means."""
    return np.where(prediction.counted, prediction.error_percent(), np.nan)


def sample_difference(ours: FacePrediction, theirs: FacePrediction) -> VertexDifference:
    """The difference of two predictions of one sample.   Raises InputError where `require_same_mesh` does."""
    require_same_mesh(ours, theirs)
    errors = counted_error(ours), counted_error(theirs)
    return VertexDifference(*errors, beyond=ours.counted, samples=1)


def mean_difference(each: Sequence[VertexDifference], rate: float = FALSE_DISCOVERIES) -> VertexDifference:
    """The mean difference over samples, with what is beyond chance: METHOD.

    Neighbouring vertices err together; with such positive dependence Benjamini and Hochberg's bound holds.

    Args:    each: of at least one sample, all on the same vertices.   rate: of false discoveries.
    Raises:  ValueError if there is none.
    """
    if not each:
        raise ValueError("there is no sample to average over")
    ours, theirs = (np.stack([getattr(item, name) for item in each]) for name in ("ours", "theirs"))
    beyond = beyond_chance(ours - theirs, rate)
    return VertexDifference(ours.mean(0), theirs.mean(0), beyond, len(each))


def beyond_chance(differences: Float[np.ndarray, "n v"], rate: float = FALSE_DISCOVERIES) -> Bool[np.ndarray, "v"]:
    """Which columns of paired differences (N, V) have a mean beyond chance, (V,): METHOD; none below LEAST_SAMPLES.

    Columns that are not finite are never beyond chance, and count in no correction.
    """
    count, beyond = len(differences), np.zeros(differences.shape[1], bool)
    known = np.isfinite(differences).all(0)
    if count < LEAST_SAMPLES or not known.any():
        return beyond
    mean, deviation = differences[:, known].mean(0), differences[:, known].std(0, ddof=1)
    # Where all samples differ alike nothing is left to chance, where none does at all there is no difference.
    t = np.divide(mean * np.sqrt(count), deviation, out=np.where(mean, np.inf, 0.0), where=deviation > 0)
    p = 2 * stats.t.sf(abs(t), count - 1)
    beyond[known] = stats.false_discovery_control(p, method="bh") <= rate
    return beyond
