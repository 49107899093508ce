"""How a person looks: everything drawn about skin, eyes, hair and dress, apart from the shape."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from p2m_synth.hair.facial_hair import BeardStyle, draw_beard_style
from p2m_synth.hair.growth import grayed
from p2m_synth.hair.style import HairStyle, draw_hair_style
from p2m_synth.head.identity import Identity
from p2m_synth.scene.elements import float32
from p2m_synth.wear.style import WearStyle, draw_wear_style

# Linear RGB reflectances from the lightest to the darkest skin, and of hair and irises with their shares.
SKIN = np.array(
    [[0.80, 0.57, 0.46], [0.70, 0.46, 0.34], [0.55, 0.33, 0.225], [0.37, 0.205, 0.125], [0.20, 0.105, 0.065],
     [0.105, 0.055, 0.037]],
    np.float32,
)  # fmt: skip
HAIR = np.array(
    [[0.014, 0.011, 0.010], [0.04, 0.024, 0.015], [0.09, 0.05, 0.028], [0.19, 0.115, 0.06], [0.38, 0.27, 0.15],
     [0.22, 0.075, 0.028]],
    np.float32,
)  # fmt: skip
HAIR_SHARE = np.array([0.36, 0.25, 0.18, 0.10, 0.07, 0.04])
IRIS = np.array(
    [[0.045, 0.022, 0.011], [0.11, 0.055, 0.022], [0.10, 0.10, 0.045], [0.10, 0.17, 0.24], [0.17, 0.21, 0.22]],
    np.float32,
)
IRIS_SHARE = {"light": (0.30, 0.27, 0.13, 0.18, 0.12), "dark": (0.87, 0.11, 0.02, 0, 0)}


@dataclass(frozen=True)
class Appearance:
    """One person's look.

    melanin: 0 lightest to 1 darkest; age: as of Identity. Strengths are 0 to 1; colours (3,) linear RGB.
    """

    melanin: float
    woman: bool
    age: float
    # skin
    roughness: float
    redness: float
    eye_rings: float
    oil: float
    freckles: float
    blemishes: float
    # make-up
    lipstick: float
    lipstick_color: np.ndarray
    lip_gloss: float
    eye_shadow: float
    eye_shadow_color: np.ndarray
    blush: float
    mascara: float
    # hair
    hair: HairStyle
    hair_color: np.ndarray
    natural_color: np.ndarray
    brow_color: np.ndarray
    beard: BeardStyle
    brow_strength: float
    # eyes and teeth
    iris: np.ndarray
    iris_deg: float
    pupil_deg: float
    red_eyes: float
    teeth: np.ndarray
    # dress
    wear: WearStyle


def draw_hair_color(rng: np.random.Generator, melanin: float) -> np.ndarray:
    """Linear RGB (3,) of hair as it was in youth: mostly dark, light where skin is."""
    share = HAIR_SHARE.copy()
    if melanin > 0.42:
        share[2:] *= 0.06
    return HAIR[rng.choice(len(HAIR), p=share / share.sum())] * np.float32(rng.uniform(0.8, 1.25))


def draw_dye(rng: np.random.Generator) -> np.ndarray:
    """Linear RGB (3,) of dyed hair: mostly a natural colour, now and then a bright one."""
    if rng.random() < 0.12:
        return float32(0.05 + 0.4 * rng.dirichlet([0.6, 0.4, 0.6]))
    return HAIR[rng.integers(len(HAIR))] * np.float32(rng.uniform(0.8, 1.25))


def draw_appearance(rng: np.random.Generator, identity: Identity) -> Appearance:
    """Looks that go with a person's age, gender and ancestry."""
    woman = bool(identity.gender + rng.normal(0, 0.12) > 0.5)
    age, adult = identity.age, identity.age > 0.42
    tone = identity.ancestry @ [rng.uniform(0.5, 1), rng.uniform(0.08, 0.5), rng.uniform(0, 0.35)]
    melanin = float(np.clip(tone + rng.normal(0, 0.04), 0, 1))
    natural = draw_hair_color(rng, melanin)
    hair, dyed = draw_hair_style(rng, woman, age, identity.ancestry), adult and rng.random() < (0.25 if woman else 0.04)
    hair_color, hair = (draw_dye(rng), replace(hair, gray=0.0)) if dyed else (natural, hair)
    made_up = woman and adult and rng.random() < 0.6
    red = np.array([rng.uniform(0.25, 0.62), rng.uniform(0.02, 0.16), rng.uniform(0.04, 0.22)])
    return Appearance(
        melanin=melanin,
        woman=woman,
        age=age,
        roughness=rng.uniform(0.4, 1.2) * (0.7 + 0.6 * age) * (0.5 if made_up else 1),
        redness=rng.uniform(0.1, 0.75) * (0.6 if made_up else 1),
        eye_rings=rng.uniform(0, 0.5 + 0.5 * age) * (0.5 if made_up else 1),
        oil=float(np.exp(rng.normal(np.log(0.10), 0.6))),
        freckles=rng.uniform(0.2, 1) if melanin < 0.35 and rng.random() < 0.16 else 0.0,
        blemishes=rng.choice([0.5, 5, 20], p=[0.6, 0.3, 0.1]),
        lipstick=rng.uniform(0.25, 0.9) if made_up and rng.random() < 0.75 else 0.0,
        lipstick_color=float32(red),
        lip_gloss=rng.uniform(0, 0.8) if made_up else rng.uniform(0, 0.2),
        eye_shadow=rng.uniform(0.15, 0.75) if made_up and rng.random() < 0.5 else 0.0,
        eye_shadow_color=float32(rng.dirichlet([2, 1.5, 2]) * rng.uniform(0.06, 0.5)),
        blush=rng.uniform(0, 0.6) if made_up else 0.0,
        mascara=rng.uniform(0.3, 1) if made_up else 0.0,
        hair=hair,
        hair_color=hair_color,
        natural_color=natural,
        brow_color=grayed(natural, 0.6 * hair.gray),
        beard=draw_beard_style(rng, woman, age),
        brow_strength=rng.uniform(0.1, 0.5) if woman else rng.uniform(0.25, 0.75),
        iris=IRIS[rng.choice(5, p=IRIS_SHARE["light" if melanin < 0.36 else "dark"])]
        * np.float32(rng.uniform(0.8, 1.25)),
        iris_deg=rng.uniform(20.5, 24.0),
        pupil_deg=rng.uniform(6, 11),
        red_eyes=rng.uniform(0, 1) * (rng.random() < 0.4),
        teeth=float32([0.82, 0.78, 0.68] * rng.uniform(0.85, 1.05, 3) * rng.uniform(0.75, 1.1)),
        wear=draw_wear_style(rng, woman, age),
    )
