"""The hair of the head as strands that grow.

Strands grow in the head's frame, dm: roots are drawn on the mean head and carried by barycentrics, so that they
follow identity and expression; then each strand is bent by its comb direction and by gravity, step by step, and
kept off the skull, the face and the shoulders. Locks are strands that follow one leader.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
from scipy.spatial import cKDTree

from p2m_core.raster import rasterize
from p2m_core.synthetic.canvas import Canvas, azimuth_deg, load_canvas, smooth_step
from p2m_core.synthetic.face_model import UM_PER_DM
from p2m_core.synthetic.head import PARTS
from p2m_core.synthetic.scene import Strands
from p2m_core.synthetic.solids import unit
from p2m_core.synthetic.strands import (
    FACE_AZIMUTH,
    FACE_HEIGHT,
    SKULL_Y,
    TORSO_CELL,
    TORSO_LOW,
    TORSO_SHAPE,
    Obstacles,
    grow_strands,
    wind_strands,
)

CENTRE_DM = np.float32([0, SKULL_Y, 0.45])  # of the mean head's skull
SHELL = (48, 72)  # rows by the sine of the height angle, columns by azimuth
WHITE = np.float32([0.46, 0.45, 0.43])  # reflectance of hair without pigment
LOCKS = (90, 300, 1100)  # locks on the scalp, coarse to fine


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
        "opening": (58, 88), "clump": (0.35, 0.6), "part": (-0.3, 0.3), "width_um": 1150.0,
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
        shares = {
            cut: share * (0.25 if cut in ("curly", "long_curly", "messy") else 1) for cut, share in shares.items()
        }
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


# --- where hair grows -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Roots:
    """Places on the mean head: corners (N, 3) of their triangles, bary (N, 3), place (N, 3) dm, lock (N, 3)."""

    corners: np.ndarray
    bary: np.ndarray
    place: np.ndarray
    lock: np.ndarray

    def __getitem__(self, index: np.ndarray) -> Roots:
        return Roots(self.corners[index], self.bary[index], self.place[index], self.lock[index])

    def on(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Roots (N, 3) and unit normals (N, 3) on a head of points (m, 3)."""
        a, b, c = (points[self.corners[:, k]] for k in range(3))
        normal = unit(np.cross(b - a, c - a))
        return a * self.bary[:, :1] + b * self.bary[:, 1:2] + c * self.bary[:, 2:], normal

    def value(self, values: np.ndarray) -> np.ndarray:
        """Values of vertices (m,) at the roots (N,)."""
        return (values[self.corners] * self.bary).sum(1)


def scatter(canvas: Canvas, triangles: np.ndarray, count: int, seed: int) -> Roots:
    """`count` roots spread evenly over triangles (T, 3) of the mean head."""
    rng = np.random.default_rng(seed)
    a, b, c = (canvas.canonical[triangles[:, k]].astype(np.float64) for k in range(3))
    area = np.cumsum(np.linalg.norm(np.cross(b - a, c - a), axis=1))
    chosen = np.searchsorted(area, (np.arange(count) + rng.random(count)) / count * area[-1]).clip(0, len(area) - 1)
    u, v = np.sqrt(rng.random(count)), rng.random(count)
    bary = np.stack([1 - u, u * (1 - v), u * v], 1)
    corners = triangles[chosen]
    place = (canvas.canonical[corners] * bary[..., None]).sum(1)
    lock = [cKDTree(place[rng.choice(count, locks, replace=False)]).query(place)[1] for locks in LOCKS]
    return Roots(corners, bary.astype(np.float32), place.astype(np.float32), np.stack(lock, 1))


@cache
def scalp_roots() -> Roots:
    """Candidates for the roots of hair."""
    canvas = load_canvas()
    return scatter(canvas, canvas.scalp, 14000, 1)


def beside_lobes(points: np.ndarray) -> np.ndarray:
    """1 at the lobes of the ears, below which nothing grows, 0 away from them (n,); points (n, 3) canonical."""
    return np.exp(-(((abs(points) - np.float32([0.72, 6.9, 0.5])) / 0.16) ** 2).sum(1))


def hair_height(style: HairStyle, points: np.ndarray, height: np.ndarray, fine: bool = True) -> np.ndarray:
    """Signed height above a style's own hairline (n,), dm, at canonical points (n, 3) of canvas.hairline (n,).

    fine: with irregularities too small for the mesh's vertices.
    """
    angle, rng = azimuth_deg(points), np.random.default_rng(style.edge)
    side = abs(angle)
    height = height - style.shift * smooth_step(100, 60, side)
    height = height - style.temples * np.exp(-(((side - 38) / 17) ** 2)) + style.peak * np.exp(-((angle / 9) ** 2))
    height = height + style.sideburn * np.exp(-(((side - 71) / 6) ** 2))
    height = height - beside_lobes(points)
    for frequency, size in ((9, 0.022), (30, 0.018))[: 1 + fine]:
        waves, phase = np.float32(rng.normal(0, frequency, (3, 3))), np.float32(rng.uniform(0, 6.28, 3))
        height = height + size * np.sin(points @ waves + phase).sum(1)
    if style.crown:
        height = np.minimum(height, np.linalg.norm(points - np.float32([0, 8.27, -0.1]), axis=1) - style.crown)
    if style.ring:
        height = np.minimum(height, style.ring - points[:, 1] - 0.1 * (points[:, 2] - 0.2))
    return height


def scalp_cover(canvas: Canvas, style: HairStyle) -> np.ndarray:
    """Opacity of hair-coloured paint below the strands, by vertex (m,) in [0, 1]."""
    full = style.stubble if style.name in ("bald", "buzz") else max(style.stubble, 0.96)
    cover = np.zeros(len(canvas.canonical), np.float32)
    near = np.flatnonzero(canvas.hairline > -1)
    cover[near] = full * smooth_step(
        -0.05, 0.14, hair_height(style, canvas.canonical[near], canvas.hairline[near], fine=False)
    )
    return cover


# --- what hair may not enter ----------------------------------------------------------------------


@cache
def shell_rays() -> tuple[np.ndarray, np.ndarray]:
    """Where rays from the skull's centre leave the mean head: corners (R, C, 3) and their weights (R, C, 3)."""
    canvas = load_canvas()
    skin = canvas.triangles[(canvas.part == PARTS.index("skin"))]
    skin = skin[(canvas.canonical[skin][..., 1] > 6.15).all(1)]
    ray = canvas.canonical - CENTRE_DM
    radius = np.linalg.norm(ray, axis=1)
    rows, columns = SHELL
    turn = (np.arctan2(ray[:, 0], ray[:, 2]) / (2 * np.pi) + 0.5) * columns
    seam = np.ptp(turn[skin], axis=1) > columns / 2
    # A triangle over the seam is drawn twice, on either side; the poles' are lost: the top is its nearest vertex.
    left = np.where(turn < columns / 2, turn + columns, turn)
    place = np.stack([turn, (ray[:, 1] / radius + 1) / 2 * (rows - 1), radius], 1)
    wide = np.concatenate([place, place * [0, 1, 1] + np.stack([left, 0 * left, 0 * left], 1)])
    wide = np.concatenate([wide, wide[len(place) :] - [columns, 0, 0]])
    m = len(place)
    faces = np.concatenate([skin[~seam], skin[seam] + m, skin[seam] + 2 * m])
    triangle, bary, _ = rasterize(wide, faces, rows, columns + 1)
    triangle[:, 0] = np.where(triangle[:, 0] < 0, triangle[:, columns], triangle[:, 0])
    filled = np.argwhere(triangle >= 0)
    nearest = cKDTree(filled).query(np.argwhere(triangle > -2))[1]
    row, column = filled[nearest].T
    corners = (faces[triangle[row, column]] % m).reshape(rows, columns + 1, 3)
    bary = bary[row, column].reshape(rows, columns + 1, 3)
    top = np.unique(skin)
    corners[-1], bary[-1] = top[np.argmax(ray[top, 1] / radius[top])], (1, 0, 0)
    return corners, bary


def skull_shell(points: np.ndarray, centre: np.ndarray, ears: bool) -> np.ndarray:
    """Radius of a head of points (m, 3) dm about its centre, by direction (R, C), C wrapping; without ears if asked."""
    corners, bary = shell_rays()
    radius = np.linalg.norm((points[corners] * bary[..., None]).sum(2) - centre, axis=2).astype(np.float32)
    if not ears:
        kernel = np.ones((9, 9), np.uint8)
        azimuth, sine = np.linspace(-180, 180, radius.shape[1]), np.linspace(-1, 1, radius.shape[0])[:, None]
        beside = (abs(abs(azimuth) - 92) < 35) & (abs(sine + 0.35) < 0.5)
        radius = np.where(beside, cv2.dilate(cv2.erode(radius, kernel), kernel), radius)
    return radius


@cache
def torso_triangles() -> np.ndarray:
    """Triangles (T, 3) below the neck."""
    canvas = load_canvas()
    skin = canvas.triangles[canvas.part == PARTS.index("skin")]
    return skin[(canvas.canonical[skin][..., 1] < 6.2).all(1)]


def torso_height(points: np.ndarray) -> np.ndarray:
    """Height of the shoulders (37, 45) dm, over z and x in the head's frame."""
    grid = points[:, [0, 2, 1]] - np.float32([*TORSO_LOW, 0])
    grid[:, :2] /= TORSO_CELL
    height = rasterize(grid, torso_triangles(), *TORSO_SHAPE)[2]
    return cv2.GaussianBlur(np.maximum(height, 3.0), (0, 0), 0.8)


# --- growing --------------------------------------------------------------------------------------


def first_of_lock(lock: np.ndarray) -> np.ndarray:
    """For each strand (N,) the first strand of its lock."""
    first = np.zeros(lock.max() + 1, np.int64)
    first[lock[::-1]] = np.arange(len(lock))[::-1]
    return first[lock]


def grayed(color: np.ndarray, gray: float | np.ndarray) -> np.ndarray:
    """The colour of hair (..., 3) of which a share is white."""
    return color + (WHITE - color) * gray


def strand_colors(
    rng: np.random.Generator, color: np.ndarray, lock: np.ndarray, layer: np.ndarray, gray: float
) -> np.ndarray:
    """Reflectances (N, 3): locks and hairs differ, lower layers lie in the dark, white hairs mix in."""
    count = len(lock)
    tone = 0.18 * rng.standard_normal(lock.max() + 1)[lock] + 0.16 * rng.standard_normal(count)
    warm = 0.05 * rng.standard_normal((count, 1)) * [1, 0, -1]
    colors = np.float32(color) * np.exp(tone[:, None] + warm) * (0.7 + 0.3 * layer)[:, None]
    share = np.clip(gray * np.exp(0.9 * rng.standard_normal(count)), 0, 1 if gray > 0.3 else 2 * gray)
    return np.float32(grayed(colors, share[:, None] ** 1.3 * (0.75 + 0.25 * layer)[:, None]).clip(0, 0.9))


def top_share(place: np.ndarray) -> np.ndarray:
    """1 where the hair of the top grows, 0 at the sides and behind (N,)."""
    return smooth_step(7.72, 8.05, place[:, 1] + 0.12 * place[:, 2])


def comb_directions(style: HairStyle, place: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Where hair is combed (N, 3), along the skin, by canonical place (N, 3)."""
    x = place[:, 0]
    away = np.tanh((x - style.part) / 0.06)
    # Above and in front the comb decides, beside and behind the side's.
    top = top_share(place)[:, None]
    comb = np.stack([style.comb[0] * away, np.full_like(x, style.comb[1]), np.full_like(x, style.comb[2])], 1)
    side = np.stack([style.side_comb[0] * np.sign(x), *np.outer(style.side_comb[1:], np.ones_like(x))], 1)
    pull = side + (comb - side) * top
    if style.whorl:
        out = unit(place - np.float32([0.06, 8.3, -0.08]))
        around = np.cross(out, np.float32([0, 1, 0]))
        pull += style.whorl * (unit(out + 0.4 * around) - pull) * top
    # Hair lies along the skin whatever the comb, but for what lifts it.
    return unit(pull - normal * (pull * normal).sum(1, keepdims=True))


def in_fringe(style: HairStyle, place: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Which roots (N,) carry the fringe."""
    return (style.fringe > 0) & (place[:, 2] > 0.78) & (abs(place[:, 0]) < 0.45) & (height < 0.5)


def hair_lengths(style: HairStyle, root: np.ndarray, place: np.ndarray, centre: np.ndarray, tie: np.ndarray | None):
    """Length of each strand (N,), dm, by its root (N, 3)."""
    if tie is not None:
        angle = np.arccos(np.clip((unit(root - centre) * unit(tie - centre)).sum(1), -1, 1))
        return 0.92 * angle + 0.25
    if style.end:
        rise = root[:, 1] - centre[1]
        over = 0.85 * np.arcsin(np.clip(rise / 0.92, -1, 1)) + np.where(rise > 0, 0.05, 0)
        length = np.where(rise > 0, over, rise) + centre[1] - (style.end + centre[1] - CENTRE_DM[1])
        return np.maximum(length * (1 - style.layers * smooth_step(7.6, 8.2, place[:, 1])), 0.1)
    top = smooth_step(7.55, 8.1, place[:, 1] + 0.1 * place[:, 2])
    return style.side + (style.top - style.side) * top


def choose_roots(
    canvas: Canvas, style: HairStyle, rng: np.random.Generator, hidden: np.ndarray | None = None
) -> tuple[Roots, np.ndarray]:
    """Where a style's hair grows, and the height of each root above the hairline (N,), dm; none at `hidden` (m,)."""
    roots = scalp_roots()
    height = hair_height(style, roots.place, roots.value(canvas.hairline))
    # A hair all alone below the others would look lost.
    growing = rng.uniform(0.15, 1, len(height)) < smooth_step(-0.03, 0.08, height)
    density = style.count / max(growing.sum(), 1)  # a hat leaves fewer hairs, not denser ones
    if hidden is not None:
        growing &= ~hidden[roots.corners].any(1)
    growing = np.flatnonzero(growing)
    # Twice the hairs for a fringe: the forehead behind it is lighter than any scalp.
    haste = np.where(in_fringe(style, roots.place, height), 2.0, 1.0)[growing]
    chosen = np.sort(growing[np.argsort(rng.random(len(growing)) / haste)[: int(density * len(growing))]])
    return roots[chosen], height[chosen]


def overhang(style: HairStyle, at: np.ndarray, length: np.ndarray, lock: np.ndarray, rng: np.random.Generator):
    """How far each strand may hang over the mean hairline (N,), dm, by its root (N, 3) from the skull's centre."""
    count = len(at)
    drop = style.drop * (rng.random(LOCKS[style.lock])[lock] + 0.3 * rng.random(count))
    if style.short and style.lift < 0.9:  # may lie on the forehead: it is too short for the eyes
        drop = np.maximum(drop, np.minimum(0.05 + 0.6 * length, 0.3) * rng.uniform(0.6, 1, count))
    # Hair that grows below the mean hairline may stay there.
    line = np.interp(np.degrees(np.arctan2(abs(at[:, 0]), at[:, 2])), FACE_AZIMUTH, FACE_HEIGHT)
    return np.maximum(drop, line + 0.03 - at[:, 1] - SKULL_Y)


def grow_hair(
    canvas: Canvas,
    style: HairStyle,
    hair_color: np.ndarray,
    head: np.ndarray,
    rotation: np.ndarray,
    rng: np.random.Generator,
    hidden: np.ndarray | None = None,
) -> list[Strands]:
    """The hair of a head.

    Args:    hair_color: (3,) linear RGB.   head: (m, 3) refined vertices, um, turned by `rotation` (3, 3).
             hidden: (m,) bool, vertices under a hat, which also presses the hair beside it flat.
    Returns: strands in the head's own turned frame, um; none for bald heads.
    """
    if style.count == 0:
        return []
    hat = hidden is not None and hidden.any()
    if hat:
        style = replace(style, volume=min(style.volume, 0.02), lift=min(style.lift, 0.1), drop=0.0, fringe=0.0)
    points = np.float32(head @ rotation / UM_PER_DM)
    scalp = np.unique(canvas.scalp)
    centre = CENTRE_DM + (points[scalp] - canvas.canonical[scalp]).mean(0)
    roots, height = choose_roots(canvas, style, rng, hidden)
    if not len(height):
        return []
    root, normal = roots.on(points)
    count, place, lock = len(root), roots.place, roots.lock[:, style.lock]
    side = place[:, 0] > style.part  # a lock does not straddle the parting
    leader = first_of_lock(2 * lock + side)
    layer = rng.random(count).astype(np.float32)
    loose = (rng.random(count) < 0.04) & (place[:, 2] < 0.9)

    tie = None
    if style.tie:
        back = np.float32([0, style.tie, -0.42 + 0.35 * max(0, style.tie - 7.75)])
        tie = centre + (back - CENTRE_DM)
    pull = comb_directions(style, place, normal)
    length = hair_lengths(style, root, place, centre, tie)
    length *= np.exp(style.ragged * (rng.standard_normal(count) + 0.7 * rng.standard_normal(LOCKS[style.lock])[lock]))
    drop = overhang(style, root - centre, length, lock, rng)
    opening = style.opening + rng.uniform(-2, 8, count) + rng.uniform(-6, 6, LOCKS[style.lock])[lock]
    opening *= -1 if style.short else 1  # long hair gives way to the face, short hair is cut there
    hold = np.full(count, style.hold)
    if tie is not None:
        way = tie - root
        pull, hold = unit(way - normal * (way * normal).sum(1, keepdims=True)), np.zeros(count)
    lift = style.lift * np.exp(0.2 * rng.standard_normal(count)) * smooth_step(-0.1, 0.25, height + 0.1 * style.lift)
    if style.lift < 0.9:  # but for coils and the shorn, hair lies flat at the sides
        lift *= 0.45 + 0.55 * top_share(place)
    spread = 0.10 + 0.25 * style.lift * (1 - 0.7 * smooth_step(0, 5, style.hold))
    noise = spread * rng.standard_normal((LOCKS[style.lock], 3))[lock] + 0.09 * rng.standard_normal((count, 3))
    clump = style.clump * np.where(loose, 0.1, 0.6 + 0.5 * rng.random(count)).clip(0, 1)
    if style.fringe:
        front = in_fringe(style, place, height)
        pull[front] = unit(np.stack([0.5 * place[:, 0] + style.sweep, 0 * layer - 0.45, 0 * layer + 1], 1)[front])
        end = style.fringe + centre[1] - CENTRE_DM[1]
        length[front] = ((root[:, 1] - end) * 1.15 + 0.12 * abs(style.sweep) + 0.03 * rng.standard_normal(count))[front]
        length[front] += (0.3 * style.ragged * rng.standard_normal(LOCKS[style.lock]))[lock][front]
        opening[front], hold[front], lift[front] = 0, 9, 0.25
        length = np.maximum(length, 0.03)
        leader = first_of_lock(3 * lock + np.where(front, 2, side))
        clump[front] *= 0.6
    direction = unit(normal * lift[:, None] + pull * (1 - 0.85 * np.minimum(lift, 1))[:, None] + noise)
    direction[loose] = unit(direction[loose] + 0.4 * normal[loose] + 0.3 * rng.standard_normal((loose.sum(), 3)))
    target = None if tie is None else tie + 0.02 * rng.standard_normal((count, 3))
    gravity = style.gravity * (np.array([0, -1, 0]) @ rotation)
    obstacles = Obstacles(np.float64(centre), skull_shell(points, centre, ears=style.end > 0), torso_height(points))
    step = 0.1 if style.curl == 0 else min(0.1, 0.25 * style.wave)
    steps = int(np.clip(np.quantile(length, 0.9) / step, 6, 26))
    volume = style.volume * (0.15 + 0.85 * layer)
    strands = grow_strands(
        root, direction, length, steps, gravity, obstacles, pull, hold, target, volume, opening, drop
    )
    phase = rng.uniform(0, 6.28, LOCKS[style.lock])[lock] + (6.28 if style.cut == "locs" else 0.7) * rng.random(count)
    curl = style.curl * np.exp(0.25 * rng.standard_normal(count))
    wave = style.wave * np.exp(0.15 * rng.standard_normal(LOCKS[style.lock]))[lock]
    styled = wind_strands(strands, length, leader, clump, obstacles, curl, wave, phase, 0.85 * opening, drop)
    colors = strand_colors(rng, hair_color, lock, layer, style.gray)
    grown = [Strands(out_of(styled, rotation), colors, style.width_um)]
    if style.knot != "none" and not (hat and hidden[scalp[cKDTree(points[scalp]).query(tie)[1]]]):
        knot = grow_knot(style, tie, gravity, obstacles, rng)
        tones = strand_colors(rng, hair_color, rng.integers(0, 60, len(knot)), rng.random(len(knot)), style.gray)
        grown.append(Strands(out_of(knot, rotation), tones, style.width_um))
    return grown


def out_of(strands_dm: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Strands of the head's frame, dm, in the camera's, um."""
    return np.float32(strands_dm @ np.float32(rotation.T * UM_PER_DM))


def grow_knot(
    style: HairStyle, tie: np.ndarray, gravity: np.ndarray, obstacles: Obstacles, rng: np.random.Generator
) -> np.ndarray:
    """A bun or a pony tail at the tie (N, P, 3), dm in the head's frame."""
    outward = unit(tie - obstacles.centre)
    if style.knot == "bun":
        count, turn = 700, np.linspace(0, 2.4, 14)
        middle, size = tie + 0.17 * outward, rng.uniform(0.19, 0.3)
        # Loops about the knot's axis, tilted at random: wound hair.
        axis = unit(outward + 0.45 * rng.standard_normal((count, 3)))
        first = unit(np.cross(axis, rng.standard_normal((count, 3))))
        second = np.cross(axis, first)
        height = rng.uniform(-0.8, 0.8, count)[:, None, None]
        ring = first[:, None] * np.cos(turn)[:, None] + second[:, None] * np.sin(turn)[:, None]
        ball = ring * np.sqrt(1 - height**2) + axis[:, None] * height
        radius = size * np.exp(0.05 * rng.standard_normal(count))[:, None, None]
        return np.float32(middle + radius * ball * [1, 1, 0.85])
    count = 900
    spread = rng.standard_normal((count, 3))
    root = tie + 0.035 * spread
    direction = unit(outward + np.float64([0, 0.25, 0]) + 0.22 * spread)
    length = style.tail * np.exp(0.12 * rng.standard_normal(count))
    strands = grow_strands(root, direction, length, 17, gravity, obstacles, layer=rng.uniform(0.05, 0.15, count))
    lock = rng.integers(0, 25, count)
    phase, clump = rng.uniform(0, 6.28, 25)[lock], rng.uniform(0.2, 0.6, count)
    return wind_strands(strands, length, first_of_lock(lock), clump, obstacles, max(style.curl, 0.03), 0.9, phase)
