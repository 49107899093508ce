"""The cockpit of a training: its bar and numbers, buttons that steer it, and the live preview."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import pandas as pd

from p2m_core.errors import InputError
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.training.requests import Request
from p2m_workbench.training.status import duration, status_line
from p2m_workbench.viewing.controls import answer_while_busy
from p2m_workbench.viewing.live_preview import MeshPreview

STATES = {
    "trains": "trains",
    "finished": "finished",
    "stopped": "stopped, with a checkpoint; run the cell again to go on",
    "ended": "its process ended without a word; run the cell again to go on from the last checkpoint",
}
CSS = """
.p2m-cockpit { gap: 4px; margin-bottom: 6px; }
.p2m-cockpit .widget-html, .p2m-cockpit .widget-html-content { height: auto; line-height: 1.45; overflow: visible;
  font-variant-numeric: tabular-nums; }
.p2m-cockpit .p2m-buttons { flex-flow: row wrap; align-items: center; gap: 4px 6px; }
"""


class Cockpit(MeshPreview):
    """A live preview under a bar, numbers, and buttons: stop, train longer, lower the learning rate.

    Attributes: stop, more, unit, extend, factor, lower: the controls.   note: what they did.   bar, numbers.

    Args: send: sends a request to the training; InputErrors are shown.   earlier, units: see MeshPreview.
    """

    def __init__(
        self,
        send: Callable[[Request], None],
        earlier: Mapping[str, pd.DataFrame] | None = None,
        units: Mapping[str, str] | None = None,
    ):
        super().__init__(earlier=earlier, units=units)
        self.send = send
        small = {"width": "auto"}
        self.bar = widgets.FloatProgress(0.0, min=0, max=1, layout={"width": "100%", "height": "20px"})
        self.numbers = widgets.HTML("<i>starts …</i>")
        self.stop = widgets.Button(description="Stop after this step", icon="stop", layout=small).add_class("p2m-stop")
        self.more = widgets.BoundedIntText(1, min=1, max=100_000, layout={"width": "74px"})
        self.unit = widgets.Dropdown(options=["epochs", "minutes"], layout={"width": "96px"})
        self.extend = widgets.Button(description="Train longer", icon="plus", layout=small).add_class("p2m-extend")
        self.factor = widgets.Dropdown(
            options=[("by 2", 1 / 2), ("by 3", 1 / 3), ("by 10", 1 / 10)], layout={"width": "76px"}
        )
        self.lower = widgets.Button(description="Divide learning rate", icon="arrow-down", layout=small)
        self.lower.add_class("p2m-lower")
        self.note = widgets.HTML()
        self.stop.on_click(lambda _: self._ask(Request(stop=True)))
        self.extend.on_click(lambda _: self._ask(Request(**{self.unit.value: self.more.value})))
        self.lower.on_click(lambda _: self._ask(Request(scale_lr=self.factor.value)))
        controls = [self.stop, self.extend, self.more, self.unit, self.lower, self.factor]
        answer_while_busy(*controls)
        buttons = widgets.HBox(controls).add_class("p2m-buttons")
        style = widgets.HTML(f"<style>{CSS}</style>", layout={"display": "none"})
        head = widgets.VBox([style, self.bar, self.numbers, buttons, self.note]).add_class("p2m-cockpit")
        self.children = [head, *self.children]
        self._enable(False)

    def update(
        self,
        predictions: Sequence[FacePrediction] | None = None,
        metrics: pd.DataFrame | None = None,
        status: dict[str, Any] | None = None,
        asked: Sequence[str] | None = None,
    ) -> None:
        """Show what is new; what is None stays.

        Args: predictions, metrics: see MeshPreview.   status: see training/status.py.   asked: what the run was asked
              so far, a line each.
        """
        if status:
            self.bar.value, state = status["share"], status["state"]
            self.bar.bar_style = {"trains": "info", "finished": "success"}.get(state, "warning")
            lines = [f"<b>{status['share']:.1%}</b>, {STATES[state]}, {duration(status['seconds'])} so far"]
            lines.append(html.escape(status_line(status)))
            self.numbers.value = "<br>".join(lines)
            self._enable(state == "trains")
        if asked:
            self.note.value = "<br>".join(html.escape(line) for line in asked)
        super().update(predictions, metrics)

    def _enable(self, on: bool) -> None:
        for button in (self.stop, self.extend, self.lower):
            button.disabled = not on

    def _ask(self, request: Request) -> None:
        try:
            self.send(request)
            self.note.value = "asked; done after the current step"
        except InputError as error:
            self.note.value = html.escape(str(error))
