"""The faces behind the numbers of an evaluation: choose a group or a part of the error curve, and look at them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets
import numpy as np

from p2m_core.config.settings import Config
from p2m_core.data.face_store import FaceStore
from p2m_core.inference import open_network
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.measuring.evaluate import face_prediction, find_weights, predict_store
from p2m_workbench.measuring.groups import face_groups, pick
from p2m_workbench.measuring.results import Evaluation
from p2m_workbench.preprocessing.store_photos import StorePhotos
from p2m_workbench.viewing.controls import labelled
from p2m_workbench.viewing.inspector import inspect

MOST = 8  # faces at once


class FacesBehind(widgets.VBox):
    """Controls over an inspector. Attributes: of (the weights), group, between (errors, %), `predictions` on show."""

    def __init__(self, config: Config, result: Evaluation, checkpoints: Sequence[str | Path] = ()):
        self.store, self.flip = FaceStore(config.evaluate.store or config.data.store), config.evaluate.flip
        self.rows, self.photos = self.store.rows(config.evaluate.split), StorePhotos(self.store)
        self.result, self.weights = result, find_weights(config, checkpoints)
        self.groups = face_groups(self.store, self.rows)
        self.predictions: list[FacePrediction] = []
        self.of = labelled(widgets.Dropdown, "weights", 110, 520, options=list(self.weights))
        options = [(f"{name} ({mask.sum()})", name) for name, mask in self.groups.items()]
        self.group = labelled(widgets.Dropdown, "group", 110, 520, options=options)
        top = float(np.ceil(10 * np.nanmax(result.samples[list(self.weights)].to_numpy())) / 10)
        self.between = labelled(
            widgets.FloatRangeSlider, "nme68-2d, %", 110, 520, min=0, max=top, value=(0, top), step=0.1,
            readout_format=".1f",
        )  # fmt: skip
        self.message, self.view = widgets.HTML(), widgets.VBox()
        for control in (self.of, self.group, self.between):
            control.observe(self._show, "value")
        super().__init__([self.of, self.group, self.between, self.message, self.view])
        self._show()

    def _show(self, _: object = None) -> None:
        name, mask = self.of.value, self.groups[self.group.value]
        errors = self.result.samples[name].to_numpy()
        picked, count = pick(errors, mask, *self.between.value, MOST)
        if not len(picked):
            self.message.value, self.view.children, self.predictions = "no face of this group has such an error", (), []
            return
        which = f"{len(picked)} of these {count} faces, evenly by error" if count > len(picked) else f"{count} faces"
        self.message.value = f"{which}; landmarks (nme68-2d) {errors[picked].min():.2f} to {errors[picked].max():.2f} %"
        chosen = self.rows[picked]
        meshes = predict_store(open_network(self.weights[name]), self.store, chosen, self.flip)
        self.predictions = [
            face_prediction(self.store, row, mesh, self.photos) for row, mesh in zip(chosen, meshes, strict=True)
        ]
        self.view.children = (inspect(self.predictions),)


def faces_behind(config: Config, result: Evaluation, checkpoints: Sequence[str | Path] = ()) -> FacesBehind:
    """A view of the faces behind an evaluation of a config, to choose by group and by error.

    Args: result: of `evaluate(config, checkpoints)`.
    """
    return FacesBehind(config, result, checkpoints)
