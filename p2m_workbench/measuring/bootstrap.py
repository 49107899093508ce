"""Intervals of means and of differences, by bootstrap over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Num
from numpy.typing import ArrayLike

from p2m_core.metrics import mean_or_nan

DRAWN_AT_ONCE = 4_000_000  # values in memory, of all the draws of a bootstrap


def bootstrap_interval(
    values: ArrayLike, seed: int, level: float = 0.95, rounds: int = 2000, weights: ArrayLike | None = None
) -> tuple[float, float]:
    """The interval of the mean over samples drawn with replacement (percentile bootstrap).

    Args:    values: (N,).   seed: of the draws.   level: share of the drawn means inside.   rounds: draws.
             weights: (N,) for a weighted mean, such as the numbers of points that each value is the mean of.
    Returns: low, high.
    Raises:  ValueError if there are no values.
    """
    if weights is None:
        return _percentile_interval([values], np.mean, seed, level, rounds)

    def mean(x: np.ndarray, w: np.ndarray, axis: int) -> np.ndarray:
        return (x * w).sum(axis) / w.sum(axis)

    return _percentile_interval([values, weights], mean, seed, level, rounds, paired=True)


def paired_difference(ours: ArrayLike, theirs: ArrayLike, seed: int, level: float = 0.95) -> dict[str, float]:
    """Whether one system is better than another on the same samples, by the paired bootstrap.

    Both are drawn together, so that what makes a sample hard for both drops out.

    Args:    ours, theirs: (N,) errors of the same samples; those without a finite pair are left out.
    Returns: {"difference": mean of ours - theirs, below 0 where ours are better; "95% low", "95% high" of it (of
             `level`); "better on, %": share of the samples where ours are smaller; "samples": pairs}.
    """
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    difference = difference[np.isfinite(difference)]
    low, high = bootstrap_interval(difference, seed, level) if len(difference) else (float("nan"),) * 2
    return {
        "difference": mean_or_nan(difference),
        f"{level:.0%} low": low,
        f"{level:.0%} high": high,
        "better on, %": 100 * mean_or_nan(difference < 0),
        "samples": len(difference),
    }


def group_difference(
    group: Num[np.ndarray, " n"], rest: Num[np.ndarray, " m"], seed: int, level: float = 0.95, rounds: int = 2000
) -> dict[str, float]:
    """Whether a system's error is larger on a group than on the others: mean of the group less mean of the rest.

    Args:    group, rest: (N,), (M,) errors of different samples, each drawn by itself.
    Returns: {"difference", "low", "high"}: above 0 where the error is larger on the group.
    """
    low, high = _percentile_interval([group, rest], lambda x, y, axis: x.mean(axis) - y.mean(axis), seed, level, rounds)
    return {"difference": mean_or_nan(group) - mean_or_nan(rest), "low": low, "high": high}


def _percentile_interval(
    data: Sequence[ArrayLike], statistic: Callable, seed: int, level: float, rounds: int, paired: bool = False
) -> tuple[float, float]:
    """Percentile bootstrap of a statistic.   Source: Efron and Tibshirani, 1993, section 13.3."""
    from scipy.stats import bootstrap  # takes half a second

    arrays = [np.asarray(values, np.float64) for values in data]
    if not min(map(len, arrays)):
        raise ValueError("there are no values to draw from")
    found = bootstrap(
        [np.resize(values, max(2, len(values))) for values in arrays],  # scipy refuses a single value
        statistic,
        n_resamples=rounds,
        batch=max(1, DRAWN_AT_ONCE // max(map(len, arrays))),
        paired=paired,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
