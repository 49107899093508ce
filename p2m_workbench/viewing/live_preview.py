"""A preview that changes while a network trains: up to four meshes in 3D and the curves so far."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import pandas as pd

from p2m_workbench.drawing.curves import draw_curves
from p2m_workbench.drawing.mesh_images import error_scale
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.viewing.controls import checkbox, css
from p2m_workbench.viewing.inspector import truth_of
from p2m_workbench.viewing.scene import FaceScene, OrbitCamera, ViewOptions

MAX_VIEWS = 4  # of the 8 that a page may hold
log = logging.getLogger(__name__)


class MeshPreview(widgets.VBox):
    """Live views in a row, which turn together, with curves below them.

    While a cell trains, a kernel without subshells answers no control, so the switches are linked to the views in the
    browser.

    Args:    width_px: of the whole.
             earlier, units: other runs' metrics behind the curves, and what metrics are in, as for `draw_curves`.
    """

    def __init__(
        self,
        width_px: int = 880,
        earlier: Mapping[str, pd.DataFrame] | None = None,
        units: Mapping[str, str] | None = None,
    ):
        self.width_px, self.earlier, self.units = width_px, earlier, units
        self.scenes: list[FaceScene] = []
        self.shown: list[FacePrediction] = []
        self._views = widgets.HBox().add_class("p2m-views")
        titles = {"photo": "Photo", "wire": "Edges", "truth": "Ground truth", "skin": "Error colours"}
        self.switches = {part: checkbox(title, part == "photo") for part, title in titles.items()}
        self._switches = widgets.HBox([*self.switches.values()]).add_class("p2m-switches")
        self._legend = widgets.HTML().add_class("p2m-note")
        self._stage = widgets.VBox([css(), self._views, self._switches, self._legend]).add_class("p2m-inspector")
        self._stage.layout.display = "none"
        self.curves = widgets.Image(format="svg+xml", layout=widgets.Layout(display="none", width="100%"))
        super().__init__([self._stage, self.curves])

    def update(self, predictions: Sequence[FacePrediction] | None = None, metrics: pd.DataFrame | None = None) -> None:
        """Show new meshes, new curves, or both; what is None stays.

        Args:    predictions: the same photos and faces each time; the first four are shown.
                 metrics: as in `draw_curves`.
        """
        if predictions:
            self._move(list(predictions[:MAX_VIEWS]))
        if metrics is not None:
            self.curves.value = draw_curves(metrics, self.width_px, earlier=self.earlier, units=self.units)
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

    def follow(self, read: Callable[[], tuple[Any, ...]], every_s: float = 2.0) -> Callable[[], None]:
        """Keep the preview up to date from a thread, for a training run that writes files.

        Args:    read: returns what `update` takes, (predictions, metrics), each None where nothing is new.
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
