"""The random choice of what a person wears on the head: headwear, glasses, earrings, face mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2m_synth.scene.elements import float32
from p2m_synth.wear.fabric import draw_cloth_color

HEADWEAR = {
    "cap": 0.30, "beanie": 0.17, "brimmed hat": 0.12, "straw hat": 0.05, "headscarf": 0.13, "hood": 0.07,
    "bike helmet": 0.03, "hard hat": 0.03, "headband": 0.06, "turban": 0.04,
}  # fmt: skip
FRAMES = ("rectangle", "round", "panto", "aviator", "cat-eye", "half-rim", "rimless")
METALS = np.array([[0.75, 0.55, 0.22], [0.66, 0.66, 0.68], [0.72, 0.45, 0.33], [0.06, 0.06, 0.065]], np.float32)


@dataclass(frozen=True, eq=False)
class WearStyle:
    """What somebody wears on the head; words for the table of attributes, colors (3,) linear RGB.

    glasses: none, clear or dark; frame: one of FRAMES; headwear: none or a key of HEADWEAR; backward: a cap's visor
    at the back; rim_deg: how much higher than usual a hat sits; earrings: none, stud, ring or drop;
    mask: none, surgical or cloth.
    """

    glasses: str
    frame: str
    frame_color: np.ndarray
    lens_color: np.ndarray
    headwear: str
    cloth: np.ndarray
    accent: np.ndarray
    pattern: str
    backward: bool
    rim_deg: float
    earrings: str
    metal: np.ndarray
    mask: str


def draw_wear_style(rng: np.random.Generator, woman: bool, age: float) -> WearStyle:
    """What somebody wears; age 0 young to 1 old."""
    glasses = str(rng.choice(("none", "clear", "dark"), p=(0.89 - 0.1 * age, 0.075 + 0.09 * age, 0.035 + 0.01 * age)))
    share = np.array(list(HEADWEAR.values()))
    share = share * [0 if not woman and k == "headscarf" else 0.3 if woman and k in ("turban", "hard hat") else
                     1.9 if woman and k == "headscarf" else 1 for k in HEADWEAR]  # fmt: skip
    headwear = str(rng.choice(list(HEADWEAR), p=share / share.sum())) if rng.random() < 0.12 else "none"
    dark = np.float32(rng.choice((0.012, 0.02, 0.05)) * rng.uniform(0.7, 1.4, 3))
    horn = float32([0.16, 0.06, 0.02]) * float32(rng.uniform(0.5, 1.3))
    frame = str(rng.choice(FRAMES, p=(0.3, 0.13, 0.2, 0.12, 0.1 if woman else 0.0, 0.1 if woman else 0.2, 0.05)))
    metal = METALS[rng.choice(4, p=(0.4, 0.4, 0.15, 0.05))]
    thin = frame in ("aviator", "rimless", "half-rim") or rng.random() < 0.2
    frame_color = metal if thin else (dark, horn, draw_cloth_color(rng))[rng.choice(3, p=(0.6, 0.28, 0.12))]
    tint = float32([(0.02, 0.02, 0.022), (0.06, 0.035, 0.015), (0.02, 0.035, 0.03), (0.03, 0.035, 0.06)])
    patterns, likely = ("plain", "stripes", "checks", "flowers", "dots", "logo"), (0.45, 0.12, 0.05, 0.07, 0.06, 0.25)
    return WearStyle(
        glasses=glasses,
        frame=frame,
        frame_color=float32(frame_color),
        lens_color=tint[rng.choice(4, p=(0.45, 0.3, 0.15, 0.1))],
        headwear=headwear,
        cloth=draw_cloth_color(rng),
        accent=draw_cloth_color(rng),
        pattern=str(rng.choice(patterns, p=likely)),
        backward=bool(rng.random() < 0.15),
        rim_deg=float(np.clip(rng.normal(1, 2), -3, 6)),
        earrings=str(rng.choice(("stud", "ring", "drop"), p=(0.45, 0.3, 0.25) if woman else (0.7, 0.28, 0.02)))
        if rng.random() < (0.35 if woman else 0.05)
        else "none",
        metal=metal,
        mask=str(rng.choice(("surgical", "cloth"), p=(0.75, 0.25))) if rng.random() < 0.015 else "none",
    )
