"""A preview that changes while a network trains: up to four meshes in 3D and the curves so far."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from io import BytesIO

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from p2m_workbench.drawing.mesh_images import error_scale
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.viewing.controls import checkbox, css
from p2m_workbench.viewing.inspector import truth_of
from p2m_workbench.viewing.scene import FaceScene, OrbitCamera, ViewOptions

MAX_VIEWS = 4  # of the 8 that a page may hold
_COLORS = ("#2b6cb0", "#d9622b", "#2f8f83", "#8a4fa8", "#8a6d1f", "#6b7280")
_AXES = ("step", "epoch", "iteration")
_NO_CURVE = ("time", "seconds", "lr", "eta", "samples", "rate")  # words in the names of columns that are not drawn

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
    names = [n for n in numeric if n not in _AXES and not any(word in str(n).lower() for word in _NO_CURVE)]
    losses = [n for n in names if "loss" in str(n).lower()]
    groups = [group[: len(_COLORS)] for group in (losses, [n for n in names if n not in losses]) if group]
    # A Figure of its own, not pyplot's: that one is not safe in a thread and would pop up in the notebook.
    figure = Figure((width_px / 100, height_px / 100), dpi=100, layout="constrained")
    axes = figure.subplots(1, max(1, len(groups)), squeeze=False)[0]
    for axis, group in zip(axes, groups, strict=False):
        for name, color in zip(group, _COLORS, strict=False):
            known = numeric[name].notna()
            marker = "o" if known.sum() < 2 else None
            axis.plot(x[known], numeric[name][known], color=color, lw=1.6, label=str(name), marker=marker, ms=4)
        if group[0] in losses and (numeric[group].fillna(1) > 0).all(axis=None):
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
    """Live views in a row, which turn together, with curves below them.

    While a cell trains, the kernel answers no control, so the switches are linked to the views in the browser.

    Args:    width_px: of the whole.
    """

    def __init__(self, width_px: int = 880):
        self.width_px = width_px
        self.scenes: list[FaceScene] = []
        self.shown: list[FacePrediction] = []
        self._views = widgets.HBox().add_class("p2m-views")
        titles = {"photo": "Photo", "wire": "Edges", "truth": "Ground truth", "skin": "Error colours"}
        self.switches = {part: checkbox(title, part == "photo") for part, title in titles.items()}
        self._switches = widgets.HBox([*self.switches.values()]).add_class("p2m-switches")
        self._legend = widgets.HTML().add_class("p2m-note")
        self._stage = widgets.VBox([css(), self._views, self._switches, self._legend]).add_class("p2m-inspector")
        self._stage.layout.display = "none"
        self.curves = widgets.Image(format="png", layout=widgets.Layout(display="none"))
        super().__init__([self._stage, self.curves])

    def update(self, predictions: Sequence[FacePrediction] | None = None, metrics: pd.DataFrame | None = None) -> None:
        """Show new meshes, new curves, or both; what is None stays.

        Args:    predictions: the same photos and faces each time; the first four are shown.
                 metrics: as in `draw_curves`.
        """
        if predictions:
            self._move(list(predictions[:MAX_VIEWS]))
        if metrics is not None:
            self.curves.value = draw_curves(metrics, self.width_px)
            self.curves.layout.display = None

    def _move(self, predictions: list[FacePrediction]) -> None:
        if not self.scenes:
            self._build(predictions)
        for scene, shown, now in zip(self.scenes, self.shown, predictions, strict=False):
            scene.move(shown, now, self._maximum)
        if predictions[0].truth_px is not None:
            errors = ", ".join(f"{s.mean_error_percent():.1f} %" for s in predictions)
            self._legend.value = (
                f'<div class="soft">mean error {errors} (nme-dense-3d@template); '
                f"colours from 0, blue, to {self._maximum:g} % of the face size, red</div>"
            )

    def _build(self, predictions: list[FacePrediction]) -> None:
        """A view a prediction, all with one camera."""
        side, camera = min(self.width_px // len(predictions) - 4, self.width_px // 3), OrbitCamera()
        camera.fit(side, side)
        self.shown = predictions
        known = all(s.truth_px is not None for s in predictions)
        # The first meshes of a training are far off, and would leave later ones all blue.
        self._maximum = min(5.0, max(error_scale(s.error_percent()) for s in predictions)) if known else 1.0
        for prediction in predictions:
            scene = FaceScene(prediction, side, side, camera)
            scene.show(prediction, ViewOptions(), truth_of(prediction) if known else None)
            level = scene.parts_of(prediction).finest
            scene.lines.opacity = 0.14  # thin, or they blacken a small picture
            if known:
                scene.truth.geometry = level.truth
            scene.skin.geometry, scene.skin.material = level.heat, scene.materials["error"]
            for part, switch in self.switches.items():
                if known or part in ("photo", "wire"):
                    widgets.jslink((switch, "value"), (getattr(scene, part), "visible"))
            self.scenes.append(scene)
        for part in ("truth", "skin"):
            self.switches[part].disabled = not known
        self._views.children = [scene.renderer for scene in self.scenes]
        self._stage.layout.display = None

    def follow(
        self, read: Callable[[], tuple[Sequence[FacePrediction] | None, pd.DataFrame | None]], every_s: float = 2.0
    ) -> Callable[[], None]:
        """Keep the preview up to date from a thread, for a training run that writes files.

        Args:    read: returns (predictions, metrics), each None where nothing is new.
                 every_s: pause between two calls.
        Returns: a function that reads once more, then ends the thread.
        """
        stop = threading.Event()

        def update() -> None:
            try:
                self.update(*read())
            except Exception:
                log.exception("the preview could not be updated")

        def repeat() -> None:
            while not stop.wait(every_s):
                update()

        thread = threading.Thread(target=repeat, name="mesh-preview", daemon=True)
        update()
        thread.start()

        def finish() -> None:
            if not stop.is_set():
                stop.set()
                thread.join(timeout=10 + every_s)
                update()

        return finish
