"""One synthetic face with one thing changed at a time, and how the error of a network follows: all else stays as it was
drawn, so that whatever the error does is due to that one thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import box_of
from p2m_core.inference import open_network
from p2m_core.metrics import nme68_2d
from p2m_core.morphable.model import LinearPoints
from p2m_core.network.model import Pixel2Mesh
from p2m_synth.head.head_mesh import load_head_mesh
from p2m_synth.occluders.things import KINDS
from p2m_synth.person import Overrides
from p2m_synth.writer import Draw, Recipe, draw_sample, take_picture
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.measuring.tables import truth_at_depth
from p2m_workbench.photos.upright import predict_upright

Value = float | str
COLOR = "#0072b2"


@dataclass(frozen=True)
class Quantity:
    """What can be moved: the field of `Overrides`, its label with the unit, and the values of a curve."""

    field: str
    label: str
    values: tuple[Value, ...]

    @property
    def is_number(self) -> bool:
        """Whether values are numbers, not names."""
        return not isinstance(self.values[0], str)


QUANTITIES = {
    "yaw": Quantity("yaw_deg", "yaw of the head, degrees", tuple(range(-90, 91, 15))),
    "pitch": Quantity("pitch_deg", "pitch of the head, degrees", tuple(range(-60, 61, 15))),
    "light": Quantity("light_deg", "main lamp, degrees to the right of the camera", tuple(range(-150, 151, 30))),
    "mouth": Quantity("jaw", "opening of the mouth, 0 shut to 1 wide", tuple(np.linspace(0, 1, 9).round(3).tolist())),
    "glasses": Quantity("glasses", "glasses", ("none", "clear", "dark")),
    "beard": Quantity("beard", "beard", ("none", "stubble", "moustache", "goatee", "full", "long")),
    "occluder": Quantity("occluder", "a thing before the face", ("none", "phone", *(k for k in KINDS if k != "phone"))),
}


@dataclass(frozen=True)
class SyntheticPerson:
    """A synthetic person: drawn by a recipe as number `index`, with some things as wished."""

    recipe: Recipe
    index: int = 0
    wishes: Overrides = field(default_factory=lambda: Overrides(apart=True))

    def having(self, **wishes: Value | None) -> SyntheticPerson:
        """The same person with quantities as wished, by their names; None: as drawn.

        Raises: InputError for a name that is none of QUANTITIES.
        """
        unknown = next((name for name in wishes if name not in QUANTITIES), None)
        if unknown is not None:
            raise InputError("quantity", unknown, "is none that can be moved", f"choose of {', '.join(QUANTITIES)}")
        changes = {QUANTITIES[name].field: value for name, value in wishes.items()}
        return replace(self, wishes=replace(self.wishes, **changes))

    def photograph(self) -> tuple[Draw, UInt8[np.ndarray, "s s 3"]]:
        """What is drawn, and its picture."""
        draw = draw_sample(self.recipe, self.index, self.wishes)
        return draw, take_picture(draw, self.recipe, self.wishes).image


def true_landmarks(draw: Draw) -> Float[np.ndarray, "68 3"]:
    """The true landmarks of a draw, px of its picture."""
    return draw.face_px[load_head_mesh().model.landmark_idx]


def mesh_of(model: Pixel2Mesh, images: Sequence[np.ndarray], landmarks: np.ndarray, flip: bool) -> list[FaceMesh]:
    """Meshes of pictures from the boxes of their true landmarks (N, 68, 3), as an evaluation predicts them."""
    return predict_upright(model, images, np.stack([box_of(points) for points in landmarks]), flip=flip)


def predict_people(
    people: Sequence[SyntheticPerson], model: Pixel2Mesh, points: LinearPoints | None = None, flip: bool = True
) -> list[tuple[FacePrediction, float]]:
    """The prediction of each person's picture, and its nme68-2d in percent.

    Args:    points: of the network's template on our face model, such as those of a store that was made with it; they
             give the true surface. Others are left aside: then landmarks alone are compared.
    """
    shots = [person.photograph() for person in people]
    landmarks = np.stack([true_landmarks(draw) for draw, _ in shots])
    meshes = mesh_of(model, [image for _, image in shots], landmarks, flip)
    errors = nme68_2d(np.stack([mesh.landmarks_px for mesh in meshes]), landmarks)
    predictions = []
    for (draw, image), mesh in zip(shots, meshes, strict=True):
        truth = None
        if points is not None and fits(points, model, draw):
            there = points.vertices(draw.person.shape, draw.person.expression) @ draw.camera.rotation.T
            truth = np.float32(truth_at_depth(draw.camera.to_px(there), mesh.vertices_px))
        predictions.append(FacePrediction("prediction", mesh, image, truth))
    return list(zip(predictions, errors.tolist(), strict=True))


def fits(points: LinearPoints, model: Pixel2Mesh, draw: Draw) -> bool:
    """Whether points are the network's template on the face model that a draw has its coefficients of."""
    sizes = points.shape_basis.shape[-1], points.expression_basis.shape[-1]
    if sizes != (len(draw.person.shape), len(draw.person.expression)):
        return False
    own, template = points.vertices(*map(np.zeros, sizes)), model.template.vertices
    return own.shape == template.shape and bool(np.allclose(own, template, atol=1e-4 * abs(template).max()))


def faces_over(
    person: SyntheticPerson,
    quantity: str,
    values: Sequence[Value] = (),
    weights: str | Path = "bundled",
    points: LinearPoints | None = None,
    flip: bool = True,
) -> list[tuple[FacePrediction, float]]:
    """`predict_people` of a person with a quantity at each of some values and all else the same.

    Args:    quantity: of QUANTITIES.   values: N; empty for those of the quantity.   weights: as for `open_network`.
    Raises:  InputError for an unknown quantity, or if there are no such weights.
    """
    people = [person.having(**{quantity: value}) for value in values or QUANTITIES[quantity].values]
    return predict_people(people, open_network(weights), points, flip)


def error_over_figure(
    errors: Float[np.ndarray, "n"], quantity: str, at: Value | None = None, width_in: float = 5.6
) -> Figure:
    """The curve of the errors of `faces_over` at a quantity's own values; `at` marks the present one."""
    about, figure = QUANTITIES[quantity], Figure(figsize=(width_in, 2.9), layout="constrained")
    axes = figure.subplots()
    if about.is_number:
        axes.plot(about.values, errors, "o-", color=COLOR, markersize=4)
        if at is not None:
            axes.axvline(at, color="#d55e00", linewidth=1.2)
    else:
        axes.bar(about.values, errors, color=["#d55e00" if value == at else COLOR for value in about.values])
        axes.tick_params(axis="x", labelrotation=30 if len(about.values) > 6 else 0)
    axes.set(xlabel=about.label, ylabel="nme68-2d, %", ylim=(0, 1.1 * max(errors)))
    axes.grid(alpha=0.25, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
