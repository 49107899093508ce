"""Hair cuts: what they are, and which a person has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from p2m_synth.scene.primitives import smooth_step


@dataclass(frozen=True)
class HairStyle:
    """A hair cut. Lengths and places in dm on the mean head; directions are (away from the parting, up, forward).

    name: kind for tables; cut: finer.   stubble: opacity of painted shorn hair.   count: strands on the head.
    top, side: lengths above and beside; end: height where long hair ends, 0 if lengths decide; layers: how much
    shorter the upper hair is; ragged: spread of lengths.
    comb, side_comb: directions of the top and of sides and back; whorl: share of turning about the crown.
    part: x of the parting; lift: how far hair stands up; hold, gravity: bending towards the comb and down, 1/dm.
    volume: thickness of the outermost layer; curl, wave: radius and length of curls; clump: how far locks close;
    lock: level in LOCKS.   fringe: height where it ends, 0 for none; sweep: its slant.
    opening: azimuth where the hair beside the face begins, deg; drop: how far locks hang over the hairline.
    shift, temples, peak, sideburn: the hairline's height, receding temples, widow's peak, length of sideburns.
    crown: radius of a bald crown; ring: height above which a ring of hair ends, 0 for hair all over.
    tie: height where hair is tied at the back, 0 for none; knot: none, bun or tail; tail: its length.
    gray: share of white hairs.   edge: seed of the hairline's irregularity.
    """

    name: str
    cut: str
    stubble: float = 0.0
    count: int = 4200
    top: float = 0.3
    side: float = 0.15
    end: float = 0.0
    layers: float = 0.0
    ragged: float = 0.15
    comb: tuple[float, float, float] = (0.6, 0.0, 0.2)
    side_comb: tuple[float, float, float] = (0.0, -1.0, -0.25)
    whorl: float = 0.0
    part: float = 0.0
    lift: float = 0.4
    hold: float = 5.0
    gravity: float = 1.0
    volume: float = 0.08
    curl: float = 0.0
    wave: float = 0.3
    clump: float = 0.5
    lock: int = 1
    fringe: float = 0.0
    sweep: float = 0.0
    opening: float = 75.0
    drop: float = 0.0
    shift: float = 0.0
    temples: float = 0.0
    crown: float = 0.0
    ring: float = 0.0
    peak: float = 0.0
    sideburn: float = 0.0
    tie: float = 0.0
    knot: str = "none"
    tail: float = 0.0
    gray: float = 0.0
    width_um: float = 1000.0
    edge: int = 0

    @property
    def short(self) -> bool:
        """Whether strands have a length, rather than an end."""
        return not self.end and not self.tie


# Each cut: its name for tables, and values or (low, high) ranges of the style's fields.
LONG = {"name": "long", "count": 3600, "end": (4.7, 6.1), "ragged": 0.07, "layers": (0, 0.25), "lift": 0.25,
        "comb": (1.0, 0.3, -0.5), "side_comb": (0.2, -1.0, -0.1), "hold": 6.0, "gravity": 9.0, "volume": (0.1, 0.2),
        "opening": (46, 88), "clump": (0.35, 0.6), "part": (-0.3, 0.3), "width_um": 1150.0,
        "shift": (-0.05, 0.05)}  # fmt: skip
SHORT = {"name": "short", "volume": (0.04, 0.10), "sideburn": (0, 0.22), "shift": (-0.05, 0.08), "lock": 2,
         "clump": (0.3, 0.6)}  # fmt: skip
CUTS = {
    "bald": {"name": "bald", "count": 0},
    "shaved": {"name": "bald", "count": 0, "stubble": (0.2, 0.6)},
    "buzz": {"name": "buzz", "count": 6500, "stubble": 0.85, "top": (0.03, 0.07), "side": (0.02, 0.05), "lift": 0.9,
             "hold": 2.0, "gravity": 0.0, "volume": 0.0, "clump": 0.0, "width_um": 750.0, "sideburn": (0, 0.15)},
    "crop": {**SHORT, "top": (0.15, 0.32), "side": (0.06, 0.14), "whorl": 0.8, "comb": (0.2, 0.0, 1.0), "lift": 0.45,
             "count": 5200},
    "caesar": {**SHORT, "top": (0.3, 0.45), "side": (0.07, 0.16), "whorl": 0.6, "comb": (0.2, -0.2, 1.0),
               "fringe": (7.62, 7.8), "lift": 0.3, "count": 5200},
    "side_part": {**SHORT, "top": (0.45, 0.75), "side": (0.12, 0.25), "comb": (1.0, 0.1, 0.1), "part": (-0.38, 0.38),
                  "lift": 0.4, "hold": 8.0, "gravity": 4.0, "volume": (0.05, 0.12)},
    "swept": {**SHORT, "top": (0.5, 0.9), "side": (0.2, 0.35), "comb": (0.2, 0.0, -1.0), "lift": 0.45, "hold": 7.0,
              "gravity": 2.5, "side_comb": (0.0, -0.4, -1.0), "volume": (0.06, 0.14)},
    "quiff": {**SHORT, "top": (0.32, 0.5), "side": (0.07, 0.13), "comb": (0.15, 0.6, -0.9), "lift": 0.7, "hold": 4.5,
              "lock": 1, "clump": (0.5, 0.75), "volume": (0.1, 0.2)},
    "spiky": {**SHORT, "top": (0.2, 0.32), "side": (0.08, 0.15), "comb": (0.3, 0.8, 0.1), "lift": 0.85, "hold": 1.0,
              "gravity": 0.3, "clump": 0.85, "lock": 1, "volume": 0.1},
    "messy": {**SHORT, "top": (0.5, 0.8), "side": (0.3, 0.5), "whorl": 0.5, "comb": (0.6, 0.1, 0.5), "lift": 0.55,
              "curl": (0.01, 0.035), "wave": (0.3, 0.6), "lock": 1, "clump": (0.5, 0.75),
              "volume": (0.06, 0.16), "drop": 0.16},
    "bowl": {**SHORT, "name": "medium", "end": (7.0, 7.35), "ragged": 0.06, "fringe": (7.5, 7.62), "opening": (55, 70),
             "comb": (0.5, 0.0, 0.8), "lift": 0.25, "gravity": 4.0, "volume": (0.05, 0.09), "count": 4600},
    "curly": {**SHORT, "top": (0.45, 0.75), "side": (0.25, 0.45), "lift": 0.75, "curl": (0.03, 0.055),
              "wave": (0.16, 0.26), "clump": 0.75, "lock": 1, "volume": (0.12, 0.25), "whorl": 0.5, "count": 5000,
              "drop": 0.2},
    "coils": {**SHORT, "top": (0.2, 0.4), "side": (0.08, 0.2), "lift": 0.95, "curl": (0.02, 0.03), "hold": 1.0,
              "gravity": 0.0, "wave": (0.09, 0.13), "clump": 0.3, "drop": 0.08, "count": 6500, "stubble": 0.9},
    "afro": {"name": "afro", "top": (0.35, 0.85), "side": (0.3, 0.7), "lift": 1.0, "hold": 0.0, "gravity": 0.5,
             "curl": (0.03, 0.042), "wave": (0.11, 0.17), "clump": 0.4, "drop": 0.1, "lock": 2, "count": 5000,
             "volume": 0.1, "ragged": 0.06, "opening": (60, 75)},
    "locs": {**LONG, "end": (5.2, 6.9), "clump": 0.98, "lock": 0, "curl": (0.018, 0.026),
             "wave": (0.12, 0.2), "count": 4200, "volume": (0.15, 0.25), "ragged": 0.1},
    "bob": {**LONG, "name": "medium", "end": (6.3, 6.95), "ragged": 0.05, "opening": (52, 80), "volume": (0.12, 0.24)},
    "long_straight": {**LONG},
    "long_wavy": {**LONG, "curl": (0.03, 0.07), "wave": (0.5, 0.9), "clump": (0.5, 0.75), "volume": (0.14, 0.28)},
    "long_curly": {**LONG, "curl": (0.05, 0.09), "wave": (0.34, 0.5), "clump": (0.75, 0.95), "volume": (0.2, 0.4),
                   "end": (5.4, 6.3), "lift": 0.45},
    "pixie": {**SHORT, "top": (0.5, 0.75), "side": (0.25, 0.42), "comb": (0.9, 0.0, 0.5), "part": (-0.35, 0.35),
              "whorl": 0.2, "lift": 0.35, "gravity": 4.0, "volume": (0.06, 0.12), "sideburn": 0.1, "drop": 0.2},
    "bun": {**LONG, "name": "tied", "end": 0.0, "tie": (7.6, 8.25), "knot": "bun", "volume": (0.03, 0.07),
            "lift": 0.15, "opening": 90.0, "clump": (0.1, 0.3), "lock": 2, "count": 4200},
    "tail": {**LONG, "name": "tied", "end": 0.0, "tie": (7.4, 8.1), "knot": "tail", "tail": (0.8, 2.2),
             "volume": (0.03, 0.08), "lift": 0.15, "opening": 90.0, "clump": (0.1, 0.3), "lock": 2, "count": 4200},
    "receding": {**SHORT, "name": "receding", "top": (0.18, 0.35), "side": (0.1, 0.2), "temples": (0.18, 0.36),
                 "shift": (0.05, 0.18), "whorl": 0.5, "comb": (0.2, 0.1, -0.4), "peak": (0, 0.12)},
    "crown": {**SHORT, "name": "receding", "top": (0.2, 0.35), "side": (0.12, 0.25), "crown": (0.3, 0.5),
              "temples": (0.1, 0.3), "shift": (0.0, 0.12), "whorl": 0.3, "comb": (0.3, 0.0, -0.3)},
    "ring": {**SHORT, "name": "receding", "top": 0.15, "side": (0.1, 0.22), "ring": (7.72, 8.0), "count": 3200},
}  # fmt: skip
# Shares of cuts by sex and texture; age shifts men towards thinner hair.
SHARES = {
    ("man", "straight"): {"bald": 2, "shaved": 4, "buzz": 8, "crop": 18, "caesar": 8, "side_part": 20, "swept": 9,
                          "quiff": 8, "spiky": 6, "messy": 12, "curly": 4, "bowl": 2, "bob": 1.5, "long_straight": 2,
                          "long_wavy": 1.5, "bun": 1},
    ("man", "coily"): {"bald": 4, "shaved": 12, "buzz": 30, "coils": 30, "afro": 9, "locs": 7, "curly": 6},
    ("woman", "straight"): {"pixie": 6, "bob": 17, "long_straight": 25, "long_wavy": 20, "long_curly": 7, "bun": 11,
                            "tail": 11, "bowl": 1, "messy": 1, "curly": 1},
    ("woman", "coily"): {"buzz": 4, "coils": 8, "afro": 20, "locs": 18, "long_curly": 14, "long_straight": 9,
                         "long_wavy": 6, "bob": 7, "bun": 10, "tail": 4},
}  # fmt: skip


def draw_fields(rng: np.random.Generator, ranges: dict) -> dict:
    """Fields of a style with (low, high) ranges drawn."""
    return {key: float(rng.uniform(*v)) if isinstance(v, tuple) and len(v) == 2 else v for key, v in ranges.items()}


def cut_style(cut: str, rng: np.random.Generator) -> HairStyle:
    """A hair style of one cut."""
    return HairStyle(**{"cut": cut, "edge": int(rng.integers(1 << 30)), **draw_fields(rng, CUTS[cut])})


def draw_hair_style(rng: np.random.Generator, woman: bool, age: float, ancestry: np.ndarray) -> HairStyle:
    """A hair style that goes with a person.

    Args:    age: 0 child, 0.5 young, 1 old.   ancestry: (3,) african, asian, caucasian.
    """
    group = rng.choice(3, p=np.asarray(ancestry) / np.sum(ancestry))
    shares = dict(SHARES["woman" if woman else "man", "coily" if group == 0 else "straight"])
    if group == 1:
        rare = ("curly", "long_curly", "messy")
        shares = {cut: share * (0.25 if cut in rare else 1) for cut, share in shares.items()}
    if age < 0.3:  # children are not shorn bald
        shares = {cut: share for cut, share in shares.items() if cut not in ("bald", "shaved", "quiff")}
        shares["bowl"] = shares.get("bowl", 0) + 4
    old = float(smooth_step(0.5, 1.0, age))
    if not woman:
        shares.update(receding=26 * old, crown=16 * old, ring=14 * old, bald=shares.get("bald", 0) + 8 * old)
    names = list(shares)
    share = np.array([shares[name] for name in names])
    style = cut_style(names[rng.choice(len(names), p=share / share.sum())], rng)
    change = {"gray": float(np.clip(smooth_step(0.6, 1.0, age) * rng.uniform(0, 1.4), 0, 1))}
    if style.name in ("long", "medium") and style.fringe == 0 and rng.random() < 0.28 and style.cut != "locs":
        change |= {"fringe": float(rng.uniform(7.45, 7.62)), "sweep": float(rng.choice([0, rng.normal(0, 0.6)]))}
    if not woman:
        change["temples"] = style.temples + float(rng.uniform(0, 0.12) * (0.4 + old))
        change["peak"] = style.peak + float(rng.choice([0, 0.06]) * rng.random())
    return replace(style, **change)
