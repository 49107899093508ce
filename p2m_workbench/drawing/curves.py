"""The curves of a training: loss and its terms, validation and its best, learning rate; earlier runs behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from p2m_core.config.settings import LOSS_TERMS

VALIDATION, RATE = "val_error", "lr"
MOST_POINTS = 400  # of a curve; those of longer runs are means of some records
_COLORS = ("#2b6cb0", "#d9622b", "#2f8f83", "#8a4fa8", "#8a6d1f", "#6b7280", "#b0457b", "#4d7c0f", "#a16207")
_FAINT, _STYLES = "#aab1bc", ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))  # of earlier runs
_AXES = ("step", "epoch", "iteration")
_NO_CURVE = ("time", "seconds", "eta", "samples", "rate")  # words in the names of columns that are not drawn


@dataclass(frozen=True)
class Curves:
    """A drawing of curves: SVG, and where in it which steps are.

    axes: a row per panel: left, right, top, bottom in shares of the drawing, and the x at left and right.
    """

    svg: bytes
    axes: list[tuple[float, ...]]


def draw_curves(
    metrics: pd.DataFrame,
    width_px: int = 880,
    height_px: int = 290,
    earlier: Mapping[str, pd.DataFrame] | None = None,
    units: Mapping[str, str] | None = None,
) -> bytes:
    """The curves as SVG, which is crisp at any width; see `curves`."""
    return curves(metrics, width_px, height_px, earlier, units).svg


def curves(
    metrics: pd.DataFrame,
    width_px: int = 880,
    height_px: int = 290,
    earlier: Mapping[str, pd.DataFrame] | None = None,
    units: Mapping[str, str] | None = None,
) -> Curves:
    """Losses and terms of the loss on a logarithmic axis, all other metrics on one beside it, and the learning rate.

    Args:    metrics: a row per record; x is its column step, epoch or iteration, or else the index. Columns with "loss"
             in their names and the terms of the loss go left, lr right, other numeric ones between; empty cells are
             skipped. The lowest val_error is marked.
             earlier: other runs' metrics by name, drawn faintly: their loss and val_error.
             units: what the metrics are in, by column.
    """
    x_name = next((name for name in _AXES if name in metrics), None)
    numeric = metrics.select_dtypes("number").replace([np.inf, -np.inf], np.nan).dropna(axis=1, how="all")
    names = [n for n in numeric if n not in _AXES and not any(word in str(n).lower() for word in _NO_CURVE)]
    losses = [n for n in names if "loss" in str(n).lower() or n in LOSS_TERMS]
    others = [n for n in names if n not in losses and n != RATE]
    groups = [group[: len(_COLORS)] for group in (losses, others, [n for n in names if n == RATE]) if group]
    # A Figure of its own, not pyplot's: that one is not safe in a thread and would pop up in the notebook.
    figure = Figure((width_px / 100, height_px / 100), dpi=100, layout="constrained")
    widths = [0.6 if group == [RATE] else 1 for group in groups] or [1]
    axes = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    for axis, group in zip(axes, groups, strict=False):
        _draw_earlier(axis, group, earlier or {})
        title = _title(group, losses, units or {})
        for name, color in zip(group, _COLORS, strict=False):
            alone = group == [RATE] or len(group) == 1
            x, y = _thinned(metrics[x_name] if x_name else metrics.index.to_series(), numeric[name])
            label = None if alone else str(name)
            wide = 2.2 if name == "loss" else 1.4
            axis.plot(x, y, color=color, lw=wide, label=label, marker="o" if len(x) < 3 else None, ms=5)
            if name == VALIDATION:
                title += "\n" + _mark_best(axis, x, y, color)
        if group[0] in losses and (numeric[group].fillna(1) > 0).all(axis=None):
            axis.set_yscale("log")
        axis.set_title(title, fontsize=9, loc="left", color="#2a3240")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8, ncols=2 if len(group) > 4 else 1)
    for axis in axes:
        axis.set_xlabel(x_name or "record", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.yaxis.get_offset_text().set_fontsize(8)
        axis.grid(alpha=0.25, lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        if groups:
            axis.set_xlim(left=min(0, *axis.get_xlim()))
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if not groups:
        axes[0].text(0.5, 0.5, "no metrics yet", ha="center", va="center", transform=axes[0].transAxes, color="#667")
    return drawn(figure)


def drawn(figure: Figure) -> Curves:
    """A figure as SVG, with where each of its panels is."""
    stream = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "p2m"}):  # or equal drawings would differ in their ids
        figure.savefig(stream, format="svg", metadata={"Date": None})
    places = [(axis.get_position(), axis.get_xlim()) for axis in figure.axes]
    return Curves(stream.getvalue(), [(p.x0, p.x1, 1 - p.y1, 1 - p.y0, *xlim) for p, xlim in places])


def _title(group: list[str], losses: list[str], units: Mapping[str, str]) -> str:
    if group[0] in losses:
        return "loss, and its terms before their weights" if len(group) > 1 else str(group[0])
    if group == [RATE]:
        return "learning rate"
    title = ", ".join("validation error" if name == VALIDATION else str(name) for name in group)
    unit = units.get(group[0])
    return f"{title}: {unit}" if unit else title


def _draw_earlier(axis: Axes, group: list[str], earlier: Mapping[str, pd.DataFrame]) -> None:
    for (name, run), style in zip(earlier.items(), _STYLES, strict=False):
        for column in ("loss", VALIDATION):
            if column in group and column in run and "step" in run:
                x, y = _thinned(run["step"], run[column])
                label = name if column == VALIDATION else None
                axis.plot(x, y, color=_FAINT, lw=1.1, ls=style, zorder=1, label=label)


def _mark_best(axis: Axes, x: np.ndarray, y: np.ndarray, color: str) -> str:
    """Draw a star at the lowest point, and say where it is."""
    best = int(y.argmin())
    axis.plot(x[best], y[best], marker="*", ms=11, color=color, mec="white", mew=0.8, ls="none", zorder=5)
    return f"best {y[best]:.2f} at step {x[best]:.0f}"


def _thinned(x: pd.Series, y: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The known points of a curve; of more than MOST_POINTS, means of neighbours, but for val_error."""
    known = y.notna() & np.isfinite(y)
    points = np.stack([x[known].to_numpy(float), y[known].to_numpy(float)])
    if y.name != VALIDATION and points.shape[1] > MOST_POINTS:
        parts = np.array_split(points, MOST_POINTS, axis=1)
        points = np.stack([part.mean(1) for part in parts], 1)
    return points[0], points[1]
