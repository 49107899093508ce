"""What if: one synthetic face, sliders for what it does, wears and how it is lit, and the network's error beside."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from IPython.display import HTML

from p2m_core.data.face_store import FaceStore
from p2m_core.inference import open_network
from p2m_synth.render.shaded_mesh import draw_mesh
from p2m_synth.writer import SHARD_SIZE, Recipe
from p2m_workbench.drawing.curves import drawn
from p2m_workbench.drawing.mesh_images import (
    caption_row,
    clay_colors,
    draw_landmarks,
    draw_turned,
    encode_photo,
    error_colors,
)
from p2m_workbench.drawing.moving_meshes import Track, moving_meshes_page
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.measuring.counterfactuals import (
    QUANTITIES,
    SyntheticPerson,
    Value,
    error_over_figure,
    faces_over,
    predict_people,
)
from p2m_workbench.viewing.controls import labelled
from p2m_workbench.viewing.kept_view import framed

PICTURE_PX, MAXIMUM_PERCENT = 224, 6.0  # one scale of errors, so that colours tell more as a slider moves
KEPT_PX, CURVE_IN = 860, 10.5  # of the page that stays: its height, and the width of its curve
START = {"yaw": 0, "pitch": 0, "light": 30, "mouth": 0.0, "glasses": "none", "beard": "none", "occluder": "none"}


class CounterfactualLab(widgets.VBox):
    """Controls beside truth, prediction and error, which follow them; below, the error over one of the quantities.

    Attributes: index (number of the person), controls (by the names of QUANTITIES), of (what the curve is over), draw
    (button), picture, curve (images), message; `error` is the nme68-2d of the face on show, percent.
    """

    def __init__(self, weights: str | Path = "bundled", store: FaceStore | None = None, seed: int = 0):
        self.weights, self.model = weights, open_network(weights)
        self.points = None if store is None else store.points
        self.recipe = Recipe(PICTURE_PX, seed)
        self._errors: dict[str, np.ndarray] = {}
        self.index = labelled(widgets.IntSlider, "person", 80, 330, min=0, max=SHARD_SIZE - 1)
        self.controls = {name: self._control(name) for name in QUANTITIES}
        self.of = labelled(widgets.Dropdown, "error over", 80, 240, options=list(QUANTITIES))
        self.draw = widgets.Button(description="Draw the curve", button_style="primary")
        self.message = widgets.HTML()
        self.picture = widgets.Image(format="jpeg", layout={"max_width": "100%"}).add_class("p2m-what-if")
        self.curve = widgets.Image(format="png", layout={"max_width": "100%", "display": "none"})
        for control in (self.index, *self.controls.values()):
            control.observe(self._moved, "value")
        self.of.observe(self._show_curve, "value")
        self.draw.on_click(lambda _: self.measure())
        left = widgets.VBox([self.index, *self.controls.values()], layout={"flex": "0 0 auto"})
        below = widgets.VBox([widgets.HBox([self.of, self.draw]), self.curve])
        top = widgets.HBox([left, below], layout={"flex_flow": "row wrap"})
        super().__init__([self.message, self.picture, top])
        self._show()

    @staticmethod
    def _control(name: str) -> widgets.Widget:
        quantity, value = QUANTITIES[name], START[name]
        if not quantity.is_number:
            return labelled(widgets.Dropdown, name, 80, 330, options=quantity.values, value=value)
        low, high = quantity.values[0], quantity.values[-1]
        kind, step = (widgets.FloatSlider, 0.05) if isinstance(value, float) else (widgets.IntSlider, 1)
        unit = "" if isinstance(value, float) else ", deg"
        slider = labelled(kind, f"{name}{unit}", 80, 330, value=value, min=low, max=high, step=step)
        slider.tooltip = quantity.label
        return slider.add_class(f"p2m-{name}")

    @property
    def person(self) -> SyntheticPerson:
        """The one on show."""
        wishes: dict[str, Value] = {name: control.value for name, control in self.controls.items()}
        return SyntheticPerson(self.recipe, self.index.value).having(**wishes)

    def measure(self) -> None:
        """Draw the error over the chosen quantity, all else as it is now."""
        name = self.of.value
        self.message.value = f"measuring {len(QUANTITIES[name].values)} faces ..."
        self._errors[name] = np.array([error for _, error in faces_over(self.person, name, weights=self.weights)])
        self._show_curve()
        self._say()

    def _moved(self, change: dict) -> None:
        # A curve holds while its own quantity moves alone.
        moved = next((name for name, control in self.controls.items() if control is change["owner"]), None)
        self._errors = {name: errors for name, errors in self._errors.items() if name == moved}
        self._show()

    def _show(self) -> None:
        [(prediction, self.error)] = predict_people([self.person], self.model, self.points)
        mesh, photo, truth = prediction.mesh, prediction.photo, prediction.truth_px
        clay = clay_colors(mesh.vertices_px, mesh.faces, mesh.groups)
        pictures = [photo, draw_mesh(photo, mesh.vertices_px, mesh.faces, clay, alpha=0.85, flat=False)]
        captions, maximum = ["the picture", "prediction"], None
        self.dense = None if truth is None else prediction.mean_error_percent()
        if truth is None:
            pictures.append(draw_landmarks(photo, mesh.landmarks_px))
            captions.append("predicted landmarks")
        else:
            colors, maximum = error_colors(prediction.error_percent(), MAXIMUM_PERCENT), MAXIMUM_PERCENT
            pictures.insert(1, draw_mesh(photo, truth, mesh.faces, clay, alpha=0.85, flat=False))
            pictures.append(draw_turned(mesh.vertices_px, mesh.faces, 0, PICTURE_PX, colors))
            captions[1:] = ["ground truth", "prediction", "error of each vertex"]
        self.picture.value = encode_photo(caption_row(pictures, captions, maximum))
        self._say()
        self._show_curve()

    def _say(self) -> None:
        dense = "" if self.dense is None else f", of the surface (nme-dense-3d) <b>{self.dense:.2f} %</b>"
        self.message.value = f"error of the landmarks (nme68-2d) <b>{self.error:.2f} %</b>{dense} of the face size"

    def _show_curve(self, _: object = None) -> None:
        name = self.of.value
        self.curve.layout.display = None if name in self._errors else "none"
        if name in self._errors:
            stream = BytesIO()
            figure = error_over_figure(self._errors[name], name, self.controls[name].value)
            figure.savefig(stream, format="png", dpi=100)
            self.curve.value = stream.getvalue()


def kept_faces(quantity: str, over: Sequence[tuple[FacePrediction, float]]) -> HTML:
    """What stays without a kernel of the faces of `faces_over`: their meshes, through which a slider or a click on the
    curve of their errors moves.

    Args: over: at the quantity's own values.
    """
    about, errors = QUANTITIES[quantity], np.array([error for _, error in over])
    predictions = [prediction for prediction, _ in over]
    faces = predictions[0].mesh.level_faces[-2:][0]  # a quarter of the finest level's
    count, centre = faces.max() + 1, lambda vertices: vertices - [0, 0, vertices[:, 2].mean()]
    vertices = np.stack([centre(one.mesh.vertices_px[:count]) for one in predictions])
    truth = None
    if all(one.truth_px is not None for one in predictions):
        truth = np.stack([centre(one.truth_px[:count]) for one in predictions])
    captions = [f"error of the landmarks {error:.2f} %" for error in errors]
    track = Track("prediction", np.stack([one.photo for one in predictions]), vertices, faces, captions, truth)
    frames = [f"{about.label}: {value}" for value in about.values]
    places = about.values if about.is_number else range(len(about.values))
    curve, title = drawn(error_over_figure(errors, quantity, width_in=CURVE_IN)), f"One face over: {about.label}"
    page = moving_meshes_page(title, [track], frames, curve, list(map(float, places)), MAXIMUM_PERCENT)
    return framed(page, KEPT_PX, "The slider, or a click on the curve, moves through it")


def what_if(weights: str | Path = "bundled", store: FaceStore | None = None, seed: int = 0) -> CounterfactualLab:
    """A laboratory of one synthetic face at a time for a network.

    Args:    weights: as for `open_network`.   store: one that was made with our face model gives the true surface.
             seed: of the people.
    """
    return CounterfactualLab(weights, store, seed)
