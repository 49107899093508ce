"""What a face does: mixtures of expression units (the 52 blend shapes that face trackers use)."""

from __future__ import annotations

import numpy as np

from p2m_synth.head.asset import load_asset

# Each preset: its share, and for each unit the range of its strength. A name without side stands for both.
# Shares and ranges are such that the openings of mouth and eyes, the corners of the mouth and the height of the
# brows spread as AFLW2000-3D's do (benchmarks/landmarks.py prints both).
PRESETS: dict[str, tuple[float, dict[str, tuple[float, float]]]] = {
    "neutral": (0.19, {"jawOpen": (0, 0.12)}),
    "smile": (0.20, {"mouthSmile": (0.05, 0.55), "jawOpen": (0, 0.2), "mouthStretch": (0, 0.5),
                     "cheekSquint": (0.1, 0.7), "eyeSquint": (0, 0.4), "mouthDimple": (0, 0.8)}),
    "laugh": (0.15, {"mouthSmile": (0.2, 0.7), "cheekSquint": (0.2, 0.8), "jawOpen": (0.1, 0.4),
                     "mouthStretch": (0, 0.6), "mouthUpperUp": (0.1, 0.6), "mouthDimple": (0.1, 0.8)}),
    "speak": (0.08, {"jawOpen": (0.05, 0.3), "mouthFunnel": (0, 0.8), "mouthPucker": (0, 0.4),
                     "mouthLowerDown": (0, 0.3)}),
    "speak wide": (0.07, {"jawOpen": (0.05, 0.3), "mouthStretch": (0, 0.5), "mouthShrugUpper": (0, 0.4),
                          "mouthLowerDown": (0, 0.3)}),
    "open": (0.05, {"jawOpen": (0.15, 0.6)}),
    "surprise": (0.04, {"browInnerUp": (0.3, 1), "browOuterUp": (0.3, 1), "eyeWide": (0.2, 1), "jawOpen": (0.05, 0.4)}),
    "anger": (0.05, {"browDown": (0.3, 1), "noseSneer": (0, 0.6), "mouthPress": (0, 0.7), "eyeSquint": (0, 0.5)}),
    "sadness": (0.05, {"browInnerUp": (0.3, 1), "mouthFrown": (0.3, 1), "mouthShrugLower": (0, 0.6)}),
    "pucker": (0.06, {"mouthPucker": (0.3, 1)}),
    "puff": (0.02, {"cheekPuff": (0.4, 1), "mouthPucker": (0, 0.4), "mouthPress": (0, 0.5)}),
    "disgust": (0.02, {"noseSneer": (0.4, 1), "mouthUpperUp": (0.2, 0.7), "browDown": (0.2, 0.8),
                       "eyeSquint": (0.2, 0.7)}),
    "shout": (0.02, {"jawOpen": (0.5, 1), "mouthStretch": (0, 0.6), "browDown": (0, 0.7), "eyeSquint": (0, 0.6)}),
}  # fmt: skip
EVEN_JAW = 0.7  # largest opening of the jaw where it is drawn evenly
MIXED, MOVED_BROWS, BLINKS, SHIFTED_MOUTHS = 0.25, 0.6, 0.05, 0.5  # how often each happens on top of a preset
SMILES, GRINS = ("smile", "laugh"), 0.75  # share of smiles that bare the teeth while the jaw stays nearly closed
AT_CAMERA, EYES_TURN = 0.6, (0.42, 0.35)  # share of people who look there; how far eyes turn sideways and up, rad


def draw_expression(rng: np.random.Generator, wanted: str | None = None, even: bool = False) -> tuple[str, np.ndarray]:
    """The leading preset's name and the strength of each expression unit, (52,) in [0, 1].

    wanted: a preset to take in place of the one that is drawn, alone.
    even: presets have equal shares, and the jaw opens by any width alike.
    """
    units = {name: k for k, name in enumerate(load_asset()["unit_names"])}
    strength = np.zeros(len(units))

    def add(unit: str, value: float, asymmetry: float = 0.15) -> None:
        for name in (unit, unit + "Left", unit + "Right"):
            if name in units:
                strength[units[name]] += value * (1 + rng.normal(0, asymmetry))

    names = list(PRESETS)
    shares = None if even else [share for share, _ in PRESETS.values()]
    preset, other = (names[k] for k in rng.choice(len(names), 2, p=shares))
    share = rng.uniform(0.15, 0.45) if rng.random() < MIXED else 0
    if wanted is not None:
        preset, share = wanted, 0
    for name, part in ((preset, 1 - share), (other, share)):
        for unit, (low, high) in PRESETS[name][1].items():
            add(unit, part * rng.uniform(low, high))
    if rng.random() < MOVED_BROWS:
        raised = rng.uniform(-0.6, 0.8)
        add("browInnerUp", max(raised, 0)), add("browOuterUp", max(raised, 0) * rng.random())
        add("browDown", max(-raised, 0))
    if rng.random() < BLINKS:
        add("eyeBlink", rng.uniform(0.2, 1), asymmetry=0.03)
    if rng.random() < SHIFTED_MOUTHS:
        side = rng.choice(["Left", "Right"])
        add("jaw" + side, rng.uniform(0, 0.6)), add("mouth" + side, rng.uniform(0, 0.7))
    right, up = rng.normal(0, 0.25, 2)  # gaze: both eyes turn the same way
    for unit, value in (
        ("eyeLookOutLeft", -right), ("eyeLookInRight", -right), ("eyeLookInLeft", right), ("eyeLookOutRight", right),
        ("eyeLookUp", up), ("eyeLookDown", -0.6 * up),
    ):  # fmt: skip
        add(unit, max(value, 0), asymmetry=0)
    if even:
        strength[units["jawOpen"]] = rng.uniform(0, EVEN_JAW)
    return preset, np.clip(strength, 0, 1)


def bare_teeth(rng: np.random.Generator, strength: np.ndarray) -> np.ndarray:
    """A smile's strengths (52,) with the lips drawn from the teeth, as in most portraits that smile.

    The lower lip's reach 1.8. `draw_expression` leaves it out: the face model's components are those of its draws, and
    span this to 0.4% of the face size at the mouth.
    """
    names, strength = load_asset()["unit_names"].tolist(), strength.copy()
    strength[names.index("jawOpen")] = rng.uniform(0, 0.2)
    for unit, low, high in (("mouthSmile", 0.3, 0.8), ("mouthUpperUp", 0.2, 0.8), ("mouthLowerDown", 0.4, 1.6)):
        value = rng.uniform(low, high)
        for side in ("Left", "Right"):
            strength[names.index(unit + side)] = value * (1 + rng.normal(0, 0.1))
    return strength


def open_eyes(rng: np.random.Generator, strength: np.ndarray) -> np.ndarray:
    """Strengths (52,) with the upper lids raised by 0 to 2.4 mm: the model's eyes at rest are sleepy ones."""
    names, strength = load_asset()["unit_names"].tolist(), strength.copy()
    wide = rng.uniform(0, 0.7)
    for side in ("Left", "Right"):
        strength[names.index("eyeWide" + side)] = min(1, strength[names.index("eyeWide" + side)] + wide)
    return strength


def look_at(strength: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Strengths (52,) with the eyes turned towards a direction (3,) of the head's frame, as far as they go."""
    names, strength = load_asset()["unit_names"].tolist(), strength.copy()
    left = np.arctan2(direction[0], direction[2]) / EYES_TURN[0]
    up = np.arcsin(direction[1]) / EYES_TURN[1]
    for side, outwards in (("Left", left), ("Right", -left)):
        for unit, value in (("Out", outwards), ("In", -outwards), ("Up", up), ("Down", -up)):
            strength[names.index(f"eyeLook{unit}{side}")] = np.clip(value, 0, 1)
    return strength


def unit_basis() -> np.ndarray:
    """All expression units as rows, (52, 3 n), dm."""
    unit = load_asset()["unit"]
    return unit.reshape(len(unit), -1)
