"""One person as drawn: who, what the face does, how it looks; and the coefficients of the face model for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from p2m_synth.appearance import Appearance, draw_appearance
from p2m_synth.hair.facial_hair import beard_styles
from p2m_synth.hair.style import cut_style
from p2m_synth.head.asset import load_asset
from p2m_synth.head.expression import (
    AT_CAMERA,
    EYES_TURN,
    GRINS,
    SMILES,
    bare_teeth,
    draw_expression,
    look_at,
    open_eyes,
)
from p2m_synth.head.head_model import HeadModel
from p2m_synth.head.identity import Identity, draw_identity

OTHERS_LOOKS = 0.75  # share of people who look like somebody else: or skin, hair and make-up would tell a face's shape


@dataclass(frozen=True)
class Overrides:
    """What to take in place of what is drawn; None leaves it to chance.

    preset     of expression.PRESETS               cut       of hair.style.CUTS
    yaw_deg, pitch_deg                             place     of light.PLACES
    light_deg  where the strongest lamp stands, to the picture's right of the camera
    glasses    none, clear, dark                   beard     a name of facial_hair.BeardStyle
    occluder   none or a key of things.KINDS       jaw       how far the mouth opens, 0 to 1
    apart      each step of the picture draws from a generator of its own, so that pictures that differ in one of these
               are alike in all else; no picture of a set is drawn like this
    """

    preset: str | None = None
    cut: str | None = None
    yaw_deg: float | None = None
    place: str | None = None
    pitch_deg: float | None = None
    light_deg: float | None = None
    glasses: str | None = None
    beard: str | None = None
    occluder: str | None = None
    jaw: float | None = None
    apart: bool = False


@dataclass(frozen=True, eq=False)
class Person:
    """preset: name of the expression; units: strength of each expression unit by name;
    shape (K,), expression (M,): coefficients of the head model; vertices (n, 3): its base vertices with them, um."""

    identity: Identity
    preset: str
    units: dict[str, float]
    look: Appearance
    shape: np.ndarray
    expression: np.ndarray
    vertices: np.ndarray

    @property
    def gaze(self) -> np.ndarray:
        """Where the eyes look, (2,) rad to the subject's left and up."""
        left = self.units["eyeLookOutLeft"] - self.units["eyeLookInLeft"]
        up = self.units["eyeLookUpLeft"] - self.units["eyeLookDownLeft"]
        return np.array([left, up]) * EYES_TURN


def draw_person(
    rng: np.random.Generator,
    model: HeadModel,
    overrides: Overrides | None = None,
    even: bool = False,
    to_camera: np.ndarray | None = None,
) -> Person:
    """A random person with a random expression.

    even: as in `draw_expression`.   to_camera: direction (3,) of the camera in the head's frame; most look there.
    """
    overrides = overrides or Overrides()
    identity = draw_identity(rng)
    preset, strengths = draw_expression(rng, even=even)
    if preset in SMILES and rng.random() < GRINS:
        strengths = bare_teeth(rng, strengths)
    strengths = open_eyes(rng, strengths)
    if rng.random() < AT_CAMERA and to_camera is not None:
        strengths = look_at(strengths, to_camera)
    look = draw_appearance(rng, draw_identity(rng) if rng.random() < OTHERS_LOOKS else identity)
    [own] = rng.spawn(1)  # overrides have a generator of their own, so that all other draws stay the same
    if overrides.preset is not None:
        preset, strengths = draw_expression(own, overrides.preset)
    if overrides.cut is not None:
        look = replace(look, hair=cut_style(overrides.cut, own))
    if overrides.glasses is not None:
        look = replace(look, wear=replace(look.wear, glasses=overrides.glasses))
    if overrides.beard is not None:
        [of_beard] = own.spawn(1)
        look = replace(look, beard=beard_styles(of_beard, look.age)[overrides.beard])
    if overrides.jaw is not None:
        strengths[load_asset()["unit_names"].tolist().index("jawOpen")] = overrides.jaw
    units = dict(zip(load_asset()["unit_names"].tolist(), strengths.tolist(), strict=True))
    shape, expression = model.shape_of(identity), model.expression_of(strengths)
    return Person(identity, preset, units, look, shape, expression, model.vertices(shape, expression))
