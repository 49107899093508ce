"""What a face does: mixtures of expression units (the 52 blend shapes that face trackers use)."""

from __future__ import annotations

import numpy as np

from p2m_core.synthetic.head import load_asset

# Each preset: its share, and for each unit the range of its strength. A name without side stands for both.
PRESETS: dict[str, tuple[float, dict[str, tuple[float, float]]]] = {
    "neutral": (0.20, {}),
    "smile": (0.14, {"mouthSmile": (0.25, 1), "cheekSquint": (0.1, 0.7), "eyeSquint": (0, 0.4),
                     "mouthDimple": (0, 0.3)}),
    "laugh": (0.12, {"mouthSmile": (0.4, 1), "cheekSquint": (0.2, 0.8), "jawOpen": (0.1, 0.4),
                     "mouthUpperUp": (0.1, 0.5)}),
    "open": (0.08, {"jawOpen": (0.2, 0.8)}),
    "speak": (0.08, {"jawOpen": (0.05, 0.35), "mouthFunnel": (0, 0.6), "mouthLowerDown": (0, 0.5)}),
    "speak wide": (0.07, {"jawOpen": (0.05, 0.3), "mouthStretch": (0, 0.5), "mouthShrugUpper": (0, 0.5),
                          "mouthLowerDown": (0, 0.5)}),
    "surprise": (0.06, {"browInnerUp": (0.3, 1), "browOuterUp": (0.3, 1), "eyeWide": (0.2, 1), "jawOpen": (0.1, 0.7)}),
    "anger": (0.06, {"browDown": (0.4, 1), "noseSneer": (0, 0.6), "mouthPress": (0, 0.7), "eyeSquint": (0, 0.5)}),
    "sadness": (0.06, {"browInnerUp": (0.3, 1), "mouthFrown": (0.3, 1), "mouthShrugLower": (0, 0.6)}),
    "pucker": (0.05, {"mouthPucker": (0.3, 1), "cheekPuff": (0, 0.5)}),
    "disgust": (0.04, {"noseSneer": (0.4, 1), "mouthUpperUp": (0.2, 0.7), "browDown": (0.2, 0.8),
                       "eyeSquint": (0.2, 0.7)}),
    "shout": (0.04, {"jawOpen": (0.6, 1), "mouthStretch": (0, 0.6), "browDown": (0, 0.7), "eyeSquint": (0, 0.6)}),
}  # fmt: skip


def draw_expression(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A preset's name and the strength of each expression unit, (52,) in [0, 1]."""
    units = {name: k for k, name in enumerate(load_asset()["unit_names"])}
    strength = np.zeros(len(units))

    def add(unit: str, value: float, asymmetry: float = 0.15) -> None:
        for name in (unit, unit + "Left", unit + "Right"):
            if name in units:
                strength[units[name]] += value * (1 + rng.normal(0, asymmetry))

    names = list(PRESETS)
    preset = names[rng.choice(len(names), p=[PRESETS[name][0] for name in names])]
    for unit, (low, high) in PRESETS[preset][1].items():
        add(unit, rng.uniform(low, high))
    if rng.random() < 0.30:
        add("browOuterUp", rng.uniform(0, 0.4)), add("browInnerUp", rng.uniform(0, 0.3))
    if rng.random() < 0.12:
        add("eyeBlink", rng.uniform(0.2, 1), asymmetry=0.03)
    if rng.random() < 0.15:
        add("jaw" + rng.choice(["Left", "Right", "Forward"]), rng.uniform(0, 0.4))
    right, up = rng.normal(0, 0.25, 2)  # gaze: both eyes turn the same way
    for unit, value in (
        ("eyeLookOutLeft", -right), ("eyeLookInRight", -right), ("eyeLookInLeft", right), ("eyeLookOutRight", right),
        ("eyeLookUp", up), ("eyeLookDown", -0.6 * up),
    ):  # fmt: skip
        add(unit, max(value, 0), asymmetry=0)
    return preset, np.clip(strength, 0, 1)


def unit_basis() -> np.ndarray:
    """All expression units as rows, (52, 3 n), dm."""
    unit = load_asset()["unit"]
    return unit.reshape(len(unit), -1)
