"""The figures of an evaluation of faces, a function each: from an `Evaluation` to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle, pairwise

import cv2
import numpy as np
import pandas as pd
from jaxtyping import Num
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from p2m_core.data.face_store import FaceStore
from p2m_core.geometry.template import Template
from p2m_core.metrics import Errors
from p2m_synth.render.shaded_mesh import draw_mesh
from p2m_workbench.drawing.mesh_images import (
    DIFFERENCE_RAMP,
    ERROR_RAMP,
    caption_row,
    difference_colors,
    draw_landmarks,
    draw_turned,
    error_colors,
    error_scale,
)
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.measuring.bootstrap import bootstrap_interval
from p2m_workbench.measuring.results import LISTED_SAMPLES, Evaluation
from p2m_workbench.measuring.vertex_differences import METHOD, VertexDifference

CED_LIMIT_PERCENT, CASE_PX = 10, 260
LEAST_OF_A_BIN = 5  # samples, of the error over the head's turn
# Okabe and Ito's colours, which the colour-blind can tell apart; baselines are grey.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREYS = (("#444444", (0, (1, 1.2))), ("#999999", (0, (4, 2))), ("#777777", (0, (6, 2, 1, 2))))
WORSE, EVEN, BETTER = "#b5322c", "#b8b8b8", "#2f7d5b"


# --- what the figures have in common --------------------------------------------------------------


def cumulative_error(values: Num[np.ndarray, " n"], threshold: float) -> tuple[Errors, Errors, float]:
    """The CED curve: which share of the samples has an error of at most x.

    Args:    values: (N,) errors; one that is not finite counts as never reached.
             threshold: where the area under the curve ends.
    Returns: errors (N,) ascending, share (N,) in (0, 1], and the area under the step curve from 0 to
             `threshold` over its greatest possible value, in [0, 1].
    """
    errors = np.sort(np.where(np.isfinite(values), values, np.inf))
    share = np.arange(1, len(errors) + 1) / len(errors)
    return errors, share, float(np.clip(1 - errors / threshold, 0, None).mean())


def line_styles(result: Evaluation) -> dict[str, dict]:
    """Colour, line and width of each system: peers dashed, baselines thin and grey."""
    colors, greys = cycle(COLORS), cycle(GREYS)
    styles = {}
    for name, kind in result.kinds.items():
        if kind == "baseline":
            grey, dashes = next(greys)
            styles[name] = {"color": grey, "linestyle": dashes, "linewidth": 1.3}
        else:
            styles[name] = {"color": next(colors), "linestyle": "-" if kind == "network" else "--", "linewidth": 1.9}
    return styles


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.7)
    axes.set_axisbelow(True)


def _titled(axes: Axes, result: Evaluation, title: str) -> Figure:
    """The figure of some axes, with a title and the systems' names beside the axes, where they hide nothing."""
    axes.set_title(f"{title}\n{result.folder.name}, {result.about['samples']} samples", fontsize=9.5, loc="left")
    _plain(axes)
    axes.figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right upper")
    return axes.figure


def _highest_shown(result: Evaluation, columns: pd.DataFrame) -> float:
    """Where an axis ends so that the networks are seen well; what is far worse runs out of the picture."""
    networks = [name for name, kind in result.kinds.items() if kind == "network" and name in columns]
    highest = np.nanmax(columns[networks].to_numpy())
    others = columns.drop(columns=networks).to_numpy()
    return 1.06 * max(highest, others[others < 2.2 * highest].max(initial=0))


def _label_hidden_lines(axes: Axes, top: float, parts: int | None = None) -> None:
    """Say in the legend of which lines nothing is seen; of their first `parts` points, if that is given."""
    for line in axes.get_lines():
        if len(line.get_ydata()) and np.nanmin(line.get_ydata()[:parts]) > top:
            line.set_label(f"{line.get_label()}: above")


# --- lines ----------------------------------------------------------------------------------------


def ced_figure(result: Evaluation) -> Figure:
    """Cumulative error curves of all systems."""
    axes = Figure(figsize=(9.2, 4.2), layout="constrained").subplots()
    for name, style in line_styles(result).items():
        errors, share, auc = cumulative_error(result.samples[name].to_numpy(), CED_LIMIT_PERCENT)
        axes.step([0, *errors], [0, *(100 * share)], where="post", label=f"{name}, area {auc:.2f}", **style)
    axes.set(xlim=(0, CED_LIMIT_PERCENT), ylim=(0, 101), xlabel="nme68-2d, %", ylabel="samples below, %")
    return _titled(axes, result, "Which share of the samples stays below which error")


def yaw_figure(result: Evaluation) -> Figure:
    """NME over |yaw|: means of bins of 15 degrees with their 95% intervals, or each sample where they are few."""
    axes = Figure(figsize=(9.2, 4.2), layout="constrained").subplots()
    yaw = result.samples["yaw_deg"].abs().to_numpy()
    few, order = len(yaw) <= LISTED_SAMPLES, np.argsort(yaw)
    drawn, highest = {}, 0.0
    for name, style in line_styles(result).items():
        places, values = yaw[order], result.samples[name].to_numpy()[order]
        if not few:
            places, values, lows, highs = _binned(places, values)
            if result.kinds[name] != "baseline":
                axes.fill_between(places, lows, highs, color=style["color"], alpha=0.13, linewidth=0)
            if result.kinds[name] == "network":
                highest = max(highest, 1.02 * highs.max(initial=0))
        axes.plot(places, values, marker="o", markersize=4 if few else 3.5, label=name, **style)
        drawn[name] = pd.Series(values)
    for edge in (30, 60):
        axes.axvline(edge, color="#cccccc", linewidth=0.8, zorder=0)
    top = max(highest, _highest_shown(result, pd.DataFrame(drawn)))
    _label_hidden_lines(axes, top)
    axes.set(xlim=(0, max(92, yaw.max() + 2)), ylim=(0, top), xlabel="|yaw|, degrees", ylabel="nme68-2d, %")
    return _titled(
        axes,
        result,
        "Error by the head's turn"
        + (", each sample" if few else f", means of {LEAST_OF_A_BIN} or more and 95% intervals"),
    )


def _binned(
    yaw: np.ndarray, values: np.ndarray, width: float = 15.0, least: int = LEAST_OF_A_BIN
) -> tuple[np.ndarray, ...]:
    """Mean yaw, mean value and its 95% interval in bins of `width` degrees with at least so many samples."""
    found, bins = np.isfinite(values), (yaw // width).astype(int)
    members = [member for b in np.unique(bins) if (member := found & (bins == b)).sum() >= least]
    lines = [(yaw[m].mean(), values[m].mean(), *bootstrap_interval(values[m], 0, rounds=500)) for m in members]
    return tuple(np.array(lines).reshape(-1, 4).T)


def decomposition_figure(result: Evaluation) -> Figure:
    """What is left of each system's error as its parts are made true, one after another."""
    together = result["error_decomposition"].xs("together", level="swapped")
    axes = Figure(figsize=(9.2, 3.6), layout="constrained").subplots()
    parts, styles = list(together.columns), line_styles(result)
    for name, row in together.iterrows():
        axes.plot(parts, row.to_numpy(), marker="o", markersize=4, label=name, **styles[name])
    top = _highest_shown(result, together.T)
    _label_hidden_lines(axes, top, parts=len(parts) - 1)
    axes.set(ylabel="nme68-2d, %", ylim=(0, top))
    axes.set_xticks(range(len(parts)), [parts[0], *("+ " + part for part in parts[1:])])
    return _titled(axes, result, "Where the error comes from: one part after another made true")


# --- faces ----------------------------------------------------------------------------------------


def error_map_figure(result: Evaluation, template: Template) -> Figure:
    """Mean error of each vertex on the mean face, from the front and turned, on one colour scale."""
    top = error_scale(np.concatenate([e for name, e in result.error_maps.items() if result.kinds[name] != "baseline"]))
    # A baseline beyond the scale would be one colour.
    names, size = [name for name, error in result.error_maps.items() if np.nanmean(error) < top], 300
    vertices = template.vertices * [1, -1, 1]
    figure = Figure(figsize=(2.35 * len(names) + 0.8, 5.3), layout="constrained")
    grid = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        colors = error_colors(result.error_maps[name], top)
        for row, turned in enumerate((0, 45)):
            picture = draw_turned(vertices, template.faces[-1], turned, size, colors, background=(255, 255, 255))
            grid[row, column].imshow(picture)
            grid[row, column].axis("off")
        grid[0, column].set_title(f"{name}\nmean {np.nanmean(result.error_maps[name]):.2f} %", fontsize=8.5)
    ramp = LinearSegmentedColormap.from_list("error", np.array(ERROR_RAMP) / 255)
    bar = figure.colorbar(ScalarMappable(Normalize(0, top), ramp), ax=grid, shrink=0.7, extend="max")
    bar.set_label("mean error of each vertex, % of the face size (3D)", fontsize=8.5)
    figure.suptitle(f"Where on the face: {result.folder.name}, {result.about['samples']} samples", fontsize=10)
    return figure


def difference_figure(difference: VertexDifference, template: Template, ours: str, theirs: str) -> Figure:
    """The mean difference of two systems' errors on the mean face, from the front and from both sides."""
    top = error_scale(abs(difference.points[difference.beyond]))
    colors = difference_colors(difference.points, top, difference.beyond)
    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    for axes, turned in zip(figure.subplots(1, 3), (-45, 0, 45), strict=True):
        vertices = template.vertices * [1, -1, 1]
        axes.imshow(draw_turned(vertices, template.faces[-1], turned, 300, colors, background=(255, 255, 255)))
        axes.axis("off")
    ramp = LinearSegmentedColormap.from_list("difference", np.array(DIFFERENCE_RAMP) / 255)
    bar = figure.colorbar(ScalarMappable(Normalize(-top, top), ramp), ax=figure.axes, shrink=0.8, extend="both")
    bar.set_label(f"error of {ours} less that of {theirs},\npoints of % of the face size", fontsize=8.5)
    figure.suptitle(
        f"{ours} less {theirs}, {difference.samples} samples: mean {difference.mean:+.2f} points\n"
        f"blue: {ours} is better; grey: not beyond chance ({METHOD})",
        fontsize=9.5,
    )
    return figure


def case_row(
    result: Evaluation,
    store: FaceStore,
    rows: np.ndarray,
    k: int,
    predictions: Mapping[str, Callable[[int], FacePrediction]],
    peers: Mapping[str, np.ndarray],
) -> np.ndarray:
    """One sample side by side: its true landmarks, each network's mesh, each peer's landmarks (H, W, 3)."""
    index, sample = rows[k], result.samples.iloc[k]
    crop, scale = (
        cv2.resize(store.crop(index), (CASE_PX, CASE_PX), interpolation=cv2.INTER_CUBIC),
        CASE_PX / store.size_px,
    )

    def place(points: np.ndarray) -> np.ndarray:
        return points * scale + [(scale - 1) / 2, (scale - 1) / 2, 0]

    pictures = [draw_landmarks(crop, place(store.to_crop(store.table["landmarks_px"][index], index)))]
    captions = [f"{sample['name']}, yaw {sample['yaw_deg']:.0f}°"]
    for name, prediction in predictions.items():
        mesh = prediction(k).mesh
        pictures.append(draw_mesh(crop, place(mesh.vertices_px), mesh.faces, alpha=0.8))
        captions.append(f"{name}: {sample[name]:.1f} %")
    for name, landmarks in peers.items():
        points = np.concatenate([landmarks[k][:, :2], np.zeros((len(landmarks[k]), 1))], 1)
        pictures.append(draw_landmarks(crop, place(store.to_crop(points, index)), (255, 176, 64)))
        captions.append(f"{name}: {sample[name]:.1f} %" if np.isfinite(sample[name]) else f"{name}: no face found")
    return caption_row(pictures, captions, None)


# --- groups of samples ----------------------------------------------------------------------------


def groups_figure(result: Evaluation) -> Figure:
    """The groups of `slices`: each system's error, and how much worse the first one is on a group than on the rest."""
    slices, styles, first = result["slices"].iloc[::-1].reset_index(), line_styles(result), result.compared[0]
    figure = Figure(figsize=(8.6, 1.5 + 0.205 * len(slices)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
    places = np.arange(len(slices))
    for name, style in styles.items():
        if name == first:
            left.hlines(places, slices["95% low"], slices["95% high"], color=style["color"], linewidth=2.4, alpha=0.45)
        mark = {"network": "o", "peer": "D", "baseline": "|"}[result.kinds[name]]
        left.plot(slices[name], places, mark, color=style["color"], markersize=4.5, label=name)
    left.axvline(result["nme68_2d"].loc[first, "plain"], color=styles[first]["color"], linewidth=0.8, alpha=0.6)
    left.set_xlim(0, _highest_shown(result, slices[list(result.kinds)]))
    left.set_xlabel("nme68-2d, %", fontsize=8.5)
    apart = slices["against the rest"]
    colors = np.where(slices["low"] > 0, WORSE, np.where(slices["high"] < 0, BETTER, EVEN))
    right.hlines(places, slices["low"], slices["high"], color=colors, linewidth=2.4)
    right.scatter(apart, places, c=colors, s=18, zorder=3)
    right.axvline(0, color="#555555", linewidth=0.8)
    right.set_xlabel(f"{first}: group less the rest, points", fontsize=8.5)
    labels = [f"{line.group}  ({line.samples})" for line in slices.itertuples()]
    left.set_yticks(places, labels, fontsize=7.5)
    left.set_ylim(-0.8, len(slices) - 0.2)
    _name_attributes(left, slices)
    for axes in (left, right):
        _plain(axes)
        axes.tick_params(axis="x", labelsize=8)
    figure.legend(*left.get_legend_handles_labels(), frameon=False, fontsize=8, ncols=2, loc="outside upper left")
    return figure


def _name_attributes(axes: Axes, slices: pd.DataFrame) -> None:
    """A line between attributes; their names stand before the groups."""
    attribute = slices["attribute"].to_numpy()
    starts = [0, *(np.flatnonzero(attribute[1:] != attribute[:-1]) + 1), len(attribute)]
    for begin, end in pairwise(starts):
        place = (begin + end - 1) / 2
        where = {"transform": axes.get_yaxis_transform(), "va": "center"}
        axes.text(-0.62, place, attribute[begin], fontsize=8, weight="bold", **where)
        if begin:
            for one in axes.figure.axes:
                one.axhline(begin - 0.5, color="#dddddd", linewidth=0.8)
