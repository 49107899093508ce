"""A preview that changes while a network trains: up to four pictures and the curves so far."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from io import BytesIO

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from p2m_core.raster import encode_picture

MAX_PICTURES = 4
_COLORS = ("#2b6cb0", "#d9622b", "#2f8f83", "#8a4fa8", "#8a6d1f", "#6b7280")
_AXES = ("step", "epoch", "iteration")
_ASIDE = ("time", "seconds", "lr", "eta", "samples", "rate")  # columns that are no curve of interest

log = logging.getLogger(__name__)


def draw_curves(metrics: pd.DataFrame, width_px: int = 640, height_px: int = 300) -> bytes:
    """Losses on a logarithmic axis, all other metrics on one beside it.

    Args:    metrics: a row per record; x is its column step, epoch or iteration, or else the index. Columns
             with "loss" in their names go left, other numeric ones right; empty cells are skipped.
    Returns: PNG.
    """
    x_name = next((name for name in _AXES if name in metrics), None)
    x = metrics[x_name] if x_name else metrics.index.to_series()
    numeric = metrics.select_dtypes("number").replace([np.inf, -np.inf], np.nan).dropna(axis=1, how="all")
    names = [n for n in numeric if n not in _AXES and not any(word in str(n).lower() for word in _ASIDE)]
    losses = [n for n in names if "loss" in str(n).lower()][: len(_COLORS)]
    others = [n for n in names if n not in losses and "loss" not in str(n).lower()][: len(_COLORS)]
    groups = [group for group in (losses, others) if group]
    # A Figure of its own, not pyplot's: that one is not safe in a thread and would pop up in the notebook.
    figure = Figure((width_px / 100, height_px / 100), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, max(1, len(groups)), squeeze=False)[0]
    for axis, group in zip(axes, groups, strict=False):
        for name, color in zip(group, _COLORS, strict=False):
            known = numeric[name].notna()
            marker = "o" if known.sum() < 2 else None
            axis.plot(x[known], numeric[name][known], color=color, lw=1.6, label=str(name), marker=marker, ms=4)
        if group is losses and all((numeric[n].dropna() > 0).all() for n in group):
            axis.set_yscale("log")
        axis.legend(frameon=False, fontsize=8)
    for axis in axes:
        axis.set_xlabel(x_name or "record", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25, lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    if not groups:
        axes[0].text(0.5, 0.5, "no metrics yet", ha="center", va="center", transform=axes[0].transAxes, color="#667")
    stream = BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


class MeshPreview(widgets.VBox):
    """Pictures in a row with curves below them; images only, so it costs no 3D view and works in a saved notebook.

    Args:    width_px: of the whole.
    """

    def __init__(self, width_px: int = 880):
        self.width_px = width_px
        share = f"{width_px // MAX_PICTURES - 8}px"
        self.pictures = [
            widgets.Image(format="png", layout=widgets.Layout(width=share, display="none", margin="0 8px 0 0"))
            for _ in range(MAX_PICTURES)
        ]
        self.curves = widgets.Image(format="png", layout=widgets.Layout(display="none"))
        self.caption = widgets.HTML()
        row = widgets.HBox(self.pictures, layout=widgets.Layout(align_items="flex-end"))
        super().__init__([row, self.curves, self.caption])

    def update(
        self, pictures: Sequence[np.ndarray] | None = None, metrics: pd.DataFrame | None = None, caption: str = ""
    ) -> None:
        """Show new pictures, new curves, or both; what is None stays.

        Args:    pictures: (H, W, 3) uint8 each; four at most are shown.
                 metrics: as in `draw_curves`.   caption: a line of text below.
        """
        if pictures is not None:
            for k, image in enumerate(self.pictures):
                if k < len(pictures):
                    image.value = encode_picture(np.asarray(pictures[k]))
                image.layout.display = None if k < len(pictures) else "none"
        if metrics is not None:
            self.curves.value = draw_curves(metrics, self.width_px)
            self.curves.layout.display = None
        if caption:
            self.caption.value = caption

    def follow(
        self, read: Callable[[], tuple[Sequence[np.ndarray] | None, pd.DataFrame | None] | None], every_s: float = 2.0
    ) -> Callable[[], None]:
        """Keep the preview up to date from a thread, for a training run that writes files.

        Args:    read: returns (pictures, metrics), either None where nothing is new, or None for no news at all.
                 every_s: pause between two calls.
        Returns: a function that reads once more, then ends the thread.
        """
        stop = threading.Event()

        def look() -> None:
            try:
                news = read()
                if news is not None:
                    self.update(*news)
            except Exception:
                log.exception("the preview could not be updated")

        def loop() -> None:
            while not stop.wait(every_s):
                look()

        thread = threading.Thread(target=loop, name="mesh-preview", daemon=True)
        look()
        thread.start()

        def finish() -> None:
            if not stop.is_set():
                stop.set()
                thread.join(timeout=10 + every_s)
                look()

        return finish
