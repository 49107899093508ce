"""Clothes on the torso.

Garments are sheets over the map of the torso: polar angle from the chest's axis (0 up through the neck) and azimuth.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike

from p2m_synth.head.head_maps import TORSO_CENTRE_DM, from_front_deg
from p2m_synth.head.head_mesh import HeadMesh
from p2m_synth.scene.elements import Surface, float32
from p2m_synth.scene.primitives import MM, ball, joined, orient, tube, unit
from p2m_synth.wear.fabric import Torso, draw_cloth_color, pattern_color

OUTFITS = {
    "t-shirt": 0.24, "v-neck": 0.10, "shirt": 0.17, "suit": 0.12, "hoodie": 0.08, "turtleneck": 0.07, "sweater": 0.10,
    "top": 0.05, "jacket": 0.07,
}  # fmt: skip
LOWEST_DEG = 110.0
AZIMUTH_64 = np.arange(64) * (360 / 64)  # columns of a garment, degrees; 0 in front
FRONT_64 = np.cos(np.radians(AZIMUTH_64 / 2)) ** 6  # 1 in front, falling off to the sides


def draw_outfit(rng: Generator, woman: bool) -> str:
    """A key of OUTFITS."""
    share = np.array([p * (0.5 if woman and k == "suit" else 0 if not woman and k == "top" else 1)
                      for k, p in OUTFITS.items()])  # fmt: skip
    return str(rng.choice(list(OUTFITS), p=share / share.sum()))


def make_clothes(
    head_mesh: HeadMesh,
    head: np.ndarray,
    rng: Generator,
    woman: bool,
    outfit: str | None = None,
    cloth: np.ndarray | None = None,
) -> tuple[str, list[Surface]]:
    """Clothes for a torso.

    Args:    head: (m, 3) um, camera frame.   outfit: a key of OUTFITS; cloth: its colour (3,); drawn if None.
    Returns: the outfit's name, and its surfaces in the camera's frame.
    """
    outfit = outfit or draw_outfit(rng, woman)
    torso = Torso(head_mesh, head)
    own, accent = draw_cloth_color(rng), draw_cloth_color(rng)
    cloth = own if cloth is None else cloth
    plain = rng.random() < 0.6
    pattern = "plain" if plain else str(rng.choice(("stripes", "checks", "flowers", "dots"), p=(0.45, 0.2, 0.15, 0.2)))
    makers = {
        "t-shirt": make_t_shirt, "v-neck": make_v_neck, "shirt": make_shirt, "suit": make_suit, "hoodie": make_hoodie,
        "turtleneck": make_turtleneck, "sweater": make_sweater, "top": make_top, "jacket": make_jacket,
    }  # fmt: skip
    surfaces = makers[outfit](torso, rng, cloth, accent, pattern)
    if outfit in ("top", "v-neck", "t-shirt") and rng.random() < (0.3 if woman else 0.08):
        surfaces.append(make_necklace(torso, rng))
    return outfit, surfaces


def hidden_skin(head_mesh: HeadMesh, outfit: str) -> np.ndarray:
    """Which vertices (m,) of the torso lie under the clothes, so that they need not be drawn."""
    return skin_below(head_mesh, 97 if outfit == "top" else 58)


@cache
def skin_below(head_mesh: HeadMesh, polar_deg: float) -> np.ndarray:
    """Which vertices (m,) of the torso lie below a polar angle."""
    direction = unit(head_mesh.canonical - np.float32(TORSO_CENTRE_DM))
    polar = np.degrees(np.arccos(np.clip(direction[:, 1], -1, 1)))
    return (head_mesh.neck < 0.3) & (head_mesh.canonical[:, 1] < 5.9) & (polar > polar_deg)


def neck_base(azimuth: np.ndarray) -> np.ndarray:
    """Polar angle (deg) of the base of the neck on the map of the torso."""
    away = from_front_deg(azimuth)
    return np.interp(away, (0, 30, 60, 90, 130, 180), (32, 30, 26, 24, 19, 16))


def folds(rng: Generator, polar: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    """Creases (R, C) of hanging cloth, some -1 to 1."""
    a, p = np.radians(azimuth), np.radians(polar)
    total = 0
    for k in (3, 5, 8):
        twist = rng.uniform(-5, 5)
        total = total + np.sin(k * a + twist * p + rng.uniform(0, 6) + 0.8 * np.sin(4 * p + rng.uniform(0, 6))) / k
    return 1.6 * total


def garment(
    torso: Torso,
    rng: Generator,
    neckline: np.ndarray,
    color: np.ndarray,
    accent: np.ndarray,
    pattern: str,
    rib: np.ndarray | None,
    lift_mm: float = 6.0,
    rib_deg: float = 3.5,
) -> Surface:
    """A pullover from its neckline (64,), polar degrees, downwards; rib: (3,) color of its band."""
    columns = len(neckline)
    azimuth = np.arange(columns) * (360 / columns)
    # The inside of the edge, the band, and the rest.
    band = np.array([0.4, 0, 0.6, 0.6 + rib_deg, 1.0 + rib_deg]) if rib is not None else np.array([0.4, 0, 0.6])
    lip = np.array([0.3, 2.5, 5.5, 5.5, 4.5]) / 5.5 if rib is not None else np.array([0.3, 2.5, 5.5]) / 5.5
    edge = neckline + band[:, None]
    t = np.linspace(0, 1, 29)[1:, None] ** 1.15
    polar = np.concatenate([edge, edge[-1] + (LOWEST_DEG - edge[-1]) * t])
    crease = folds(rng, polar, azimuth) * np.clip((polar - neckline - 4) / 14, 0, 1)
    lift = np.concatenate([lip * lift_mm, np.full(len(t), 0.85 * lift_mm)])[:, None]
    lift = lift + 0.4 * lift_mm * np.maximum(crease, -1)
    points = torso.at(polar, azimuth, np.maximum(lift, 0.3) * MM)
    # A period takes some four vertices: finer patterns would alias.
    height = (torso.centre[1] - points[..., 1]) / (48 * MM)
    along = height if pattern == "stripes" else polar / 12
    paint = pattern_color(pattern, azimuth / 22.5 + 0 * polar, along, color, accent)
    paint = paint * (1 + 0.06 * crease)[..., None]
    if rib is not None:
        knit = np.where(np.arange(columns) % 2, 1.06, 0.92)[:, None]
        paint[: len(band)] = rib * knit
    return torso.sheet(points, paint)


def make_t_shirt(torso: Torso, rng: Generator, cloth: np.ndarray, accent: np.ndarray, pattern: str) -> list[Surface]:
    """A t-shirt."""
    neckline = neck_base(AZIMUTH_64) + rng.uniform(2, 4) + rng.uniform(1, 7) * FRONT_64
    rib = accent if rng.random() < 0.2 else cloth * 0.92
    return [garment(torso, rng, neckline, cloth, accent, pattern, rib)]


def make_v_neck(torso: Torso, rng: Generator, cloth: np.ndarray, accent: np.ndarray, pattern: str) -> list[Surface]:
    """A pullover with a v-neck, over something or nothing."""
    away = from_front_deg(AZIMUTH_64)
    depth = rng.uniform(8, 17)
    neckline = neck_base(AZIMUTH_64) + 3 + depth * np.clip(1 - away / 38, 0, 1)
    surfaces = [garment(torso, rng, neckline, cloth, accent, pattern, cloth * 0.85, rib_deg=2.5)]
    if rng.random() < 0.25:
        inner = draw_cloth_color(rng)
        under = neck_base(AZIMUTH_64) + 2.0 + 2 * FRONT_64
        surfaces.append(garment(torso, rng, under, inner, inner, "plain", inner * 0.9, lift_mm=2.5, rib_deg=2))
    return surfaces


def make_sweater(torso: Torso, rng: Generator, cloth: np.ndarray, accent: np.ndarray, pattern: str) -> list[Surface]:
    """A thick pullover."""
    neckline = neck_base(AZIMUTH_64) + 1.5 + 2 * FRONT_64
    lift_mm = rng.uniform(8, 11)
    return [garment(torso, rng, neckline, cloth, accent, pattern, cloth * 0.85, lift_mm, rib_deg=4.5)]


def make_top(torso: Torso, rng: Generator, cloth: np.ndarray, accent: np.ndarray, pattern: str) -> list[Surface]:
    """Bare shoulders and two straps."""
    away = from_front_deg(AZIMUTH_64)
    neckline = np.interp(away, (0, 25, 50, 90, 130, 180), (62, 60, 68, 88, 66, 60)) + rng.uniform(-3, 4)
    body = garment(torso, rng, neckline, cloth, accent, pattern, None, lift_mm=4)
    straps = []
    for side in (-1, 1):
        t = np.linspace(0, 1, 24)
        azimuth = side * np.interp(t, (0, 0.35, 0.6, 1), (30, 58, 112, 150))
        polar = np.interp(t, (0, 0.35, 0.6, 1), (66, 38, 30, 66))
        u = np.linspace(-1, 1, 4)[:, None]
        width = u * rng.uniform(0.6, 4)
        points = torso.at(polar + 0 * width, azimuth + side * width, (3 - 1.4 * u**2) * MM)
        straps.append(torso.sheet(points, cloth, False))
    return [body, joined(straps)]


def make_turtleneck(torso: Torso, rng: Generator, cloth: np.ndarray, accent: np.ndarray, pattern: str) -> list[Surface]:
    """A pullover whose collar goes up the neck."""
    top = rng.uniform(6.05, 6.14) + 0.05 * np.cos(np.radians(AZIMUTH_64 + 180))
    drop = np.array([0.1, 0.0, 0.0, 0.05, 0.12, 0.2, 0.28, 0.3])[:, None]
    lift = np.array([1.5, 3, 6, 8, 8.5, 8.5, 8, 5.5])[:, None] * MM
    collar = torso.round_neck(top - drop, AZIMUTH_64, lift + 0.6 * MM * np.where(np.arange(64) % 2, 1, -1))
    knit = np.where(np.arange(64) % 2, 1.05, 0.82)[:, None]
    collar = torso.sheet(collar, np.broadcast_to(cloth * knit, collar.shape))
    return [collar, garment(torso, rng, neck_base(AZIMUTH_64) - 3, cloth, accent, "plain", None, lift_mm=6)]


def collar(
    torso: Torso,
    color: np.ndarray,
    azimuth: np.ndarray,
    level: np.ndarray,
    fall: np.ndarray,
    lift_mm: float = 0.0,
    spread_deg: float = 0.0,
) -> Surface:
    """A folded collar: up the neck to `level` (dm), out, and down to polar angles `fall` (C,).

    spread_deg: how much farther apart its points are than its ends at the neck.
    """
    up = np.stack([level - 0.22, level - 0.1, level - 0.02, level, level - 0.015])
    lift = np.array([2.5, 3.5, 4.5, 6, 8])[:, None] + lift_mm
    stand = torso.round_neck(up, azimuth, lift * MM)
    azimuth = azimuth + spread_deg * np.linspace(1, -1, len(azimuth)) ** 3
    edge = torso.at(fall, azimuth, (8.5 + lift_mm) * MM)
    middle = 0.5 * (stand[-1] + edge) + (stand[-1] - stand[-1].mean(0)) * 0.05
    low = torso.at(fall - 0.4, azimuth, (6.5 + lift_mm) * MM)
    grid = np.concatenate([stand, [0.5 * (stand[-1] + middle), middle, 0.5 * (middle + edge), edge, low]])
    return torso.sheet(grid, color, False)


def make_shirt(torso: Torso, rng: Generator, cloth: np.ndarray, accent: np.ndarray, pattern: str) -> list[Surface]:
    """A shirt with collar, placket and buttons, open at the neck or not."""
    if rng.random() < 0.35:
        cloth = float32([0.66, 0.67, 0.68])
    opened = rng.random() < 0.5
    away = from_front_deg(AZIMUTH_64)
    neckline = neck_base(AZIMUTH_64) + 0.5 + (rng.uniform(5, 12) if opened else 0) * np.clip(1 - away / 28, 0, 1)
    pattern = {"flowers": "plain", "dots": "plain"}.get(pattern, pattern)
    body = garment(torso, rng, neckline, cloth, accent, pattern, None, lift_mm=5)
    gap = rng.uniform(12, 20) if opened else 2.5
    azimuth = np.linspace(gap, 360 - gap, 56)
    away = from_front_deg(azimuth)
    level = 6.06 - (0.2 if opened else 0.14) * np.clip(np.cos(np.radians(away)), 0, 1) ** 2 + 0 * azimuth
    fall = neck_base(azimuth) + 4.5 + rng.uniform(8, 14) * np.clip(1 - (away - gap) / 34, 0, 1) ** 1.5
    parts = [body, collar(torso, cloth * 1.03, azimuth, level, fall, 0, rng.uniform(6, 15))]
    u = np.linspace(-1, 1, 6)[:, None]
    polar = np.linspace(neckline[0] + 0.5, LOWEST_DEG - 2, 24)
    placket = torso.at(polar + 0 * u, 5.5 * u * (30 / polar) + 1.0, (7.5 - 3 * u**4) * MM)
    parts.append(torso.sheet(placket, cloth * 0.97, False))
    if pattern == "plain":
        spots = torso.at(np.arange(neckline[0] + 3, LOWEST_DEG, 9.0), 1.0, 5 * MM)
        button = float32([0.6, 0.58, 0.52] if rng.random() < 0.6 else cloth * 0.5)
        parts.append(joined([ball(spot, 4.2 * MM, button, 10, gloss=0.3) for spot in spots]))
    return parts


def front_opening(azimuth_u: np.ndarray, edge_deg: np.ndarray) -> np.ndarray:
    """Azimuths (R, C) round the back from one front edge (R,) to the other, for u (C,) from 0 to 1."""
    return edge_deg[:, None] + (360 - 2 * edge_deg[:, None]) * azimuth_u


def open_jacket(torso, rng, cloth, accent, pattern, edge, lift_mm) -> Surface:
    """A jacket that is open in front; edge: function from polar degrees (R,) to the front edge's azimuth."""
    u = np.linspace(0, 1, 62)
    u = np.concatenate([[0], u, [1]])
    t = np.linspace(0, 1, 26)
    start = 26.0
    azimuth = front_opening(u, edge(start + (LOWEST_DEG - start) * t))
    top = neck_base(azimuth) + 1.0
    polar = top + (LOWEST_DEG - top) * t[:, None]
    polar = np.concatenate([polar[:1], polar])
    azimuth = np.concatenate([azimuth[:1], azimuth])
    crease = folds(rng, polar, azimuth)
    away = from_front_deg(azimuth)
    pad = 5 * np.exp(-(((away - 90) / 35) ** 2) - ((polar - 48) / 14) ** 2)
    lift = lift_mm + pad + 1.8 * crease * np.clip((polar - 40) / 20, 0, 1)
    lift[0] = lift_mm - 6
    lift[1:, [0, -1]] = lift_mm - 5
    lift[0, [0, -1]] = lift_mm - 8
    points = torso.at(polar, azimuth, lift * MM)
    height = (torso.centre[1] - points[..., 1]) / (16 * MM)
    paint = pattern_color(pattern, azimuth / 7, height, cloth, 0.6 * cloth + 0.4 * accent)
    return torso.sheet(points, paint * (1 + 0.05 * crease)[..., None], False)


def make_suit(torso: Torso, rng: Generator, cloth: np.ndarray, accent: np.ndarray, pattern: str) -> list[Surface]:
    """A jacket with lapels over a shirt, mostly with a tie."""
    shirt_color = float32([0.68, 0.69, 0.7]) if rng.random() < 0.65 else float32([0.3, 0.42, 0.6])
    black, blue, grey = float32([[0.02, 0.02, 0.024], [0.02, 0.03, 0.07], [0.1, 0.1, 0.11]])
    cloth = (black, blue, grey, cloth * 0.6)[rng.choice(4, p=(0.35, 0.3, 0.2, 0.15))]
    body = garment(torso, rng, neck_base(AZIMUTH_64) + 0.5, shirt_color, shirt_color, "plain", None, lift_mm=3)
    azimuth = np.linspace(2.5, 357.5, 56)
    away = from_front_deg(azimuth)
    level = 6.06 - 0.14 * np.clip(np.cos(np.radians(away)), 0, 1) ** 2
    fall = neck_base(azimuth) + 4 + 10 * np.clip(1 - (away - 2) / 30, 0, 1) ** 1.5
    parts = [body, collar(torso, shirt_color, azimuth, level, fall, -1.5, rng.uniform(6, 14))]
    wide = rng.uniform(26, 34)

    def edge(polar: ArrayLike) -> np.ndarray:
        return np.interp(polar, (24, 34, 60, 84, 120), (wide + 12, wide, 0.5 * wide, 3, 3))

    parts.append(open_jacket(torso, rng, cloth, cloth * 1.8, "checks" if pattern == "checks" else "plain", edge, 13))
    lapels = []
    t = np.linspace(0, 1, 26)[:, None]
    v = np.array([-0.04, 0, 0.3, 0.65, 1.0, 1.02])
    for side in (-1, 1):
        polar = 29 + 55 * t
        notch = np.interp(t, (0, 0.24, 0.27, 0.33, 1.0), (19, 21, 13, 23, 0.5)) * (30 / polar) ** 0.5
        place = edge(polar) - 0.8 + notch * v
        lift = np.array([10.5, 14, 18, 18, 17, 12])
        points = torso.at(polar + 0 * v, side * place, lift * MM)
        lapels.append(torso.sheet(points, cloth * 1.12, False))
    around = np.linspace(edge(29.0) - 2, 360 - edge(29.0) + 2, 44)
    level = 6.0 - 0.2 * np.clip(np.cos(np.radians(around)), 0, 1)
    parts += [joined(lapels), collar(torso, cloth * 1.1, around, level, neck_base(around) + 6, 6)]
    if rng.random() < 0.7:
        parts += make_tie(torso, rng, accent, pattern)
    return parts


def make_tie(torso: Torso, rng: Generator, accent: np.ndarray, pattern: str) -> list[Surface]:
    """A tie with its knot."""
    u = np.linspace(-1, 1, 13)[:, None]
    start = neck_base(np.array(0.0)) + 1
    polar = np.linspace(start, LOWEST_DEG - 4, 40)
    half_mm = np.interp(polar, (start, start + 5, start + 6, 60, 110), (19, 11, 13, 24, 42))
    radius = np.interp(polar, (30, 60, 110), (62, 92, 110))
    azimuth = np.degrees(np.arcsin(np.clip(half_mm / radius / 2, 0, 0.9))) * u
    knot = np.clip(1 - (polar - start) / 6, 0, 1) > 0
    lift = 7 + np.where(knot, 5, 2) * (1 - u**4)
    points = torso.at(polar + 0 * u, azimuth, lift * MM)
    kind = {"plain": "plain", "checks": "stripes", "flowers": "dots"}.get(pattern, pattern)
    other = draw_cloth_color(rng)
    slant = np.arange(40) / 4 + u * 1.5
    paint = pattern_color(kind, slant if kind == "stripes" else 1.5 * u + 0 * slant, slant, accent * 0.8, other)
    return [torso.sheet(points, paint, False, gloss=0.12)]


def make_jacket(torso: Torso, rng: Generator, cloth: np.ndarray, accent: np.ndarray, pattern: str) -> list[Surface]:
    """An open jacket with a standing collar over a t-shirt."""
    inner = draw_cloth_color(rng)
    neckline = neck_base(AZIMUTH_64) + 3 + 3 * FRONT_64
    under = garment(torso, rng, neckline, inner, inner, "plain", inner * 0.9, lift_mm=4)
    gap = rng.uniform(8, 26)

    def edge(polar: ArrayLike) -> np.ndarray:
        return gap + 0.1 * (polar - 30) * np.sin(gap)

    shell = open_jacket(torso, rng, cloth, accent, "plain", edge, 12)
    azimuth = np.linspace(gap, 360 - gap, 50)
    level = np.full(50, 5.98) - 0.1 * np.cos(np.radians(azimuth)).clip(0)
    if rng.random() < 0.5:
        return [under, shell, collar(torso, cloth * 0.95, azimuth, level + 0.03, neck_base(azimuth) + 7, 9)]
    low = torso.at(neck_base(azimuth) + 3, azimuth, 12 * MM)
    top = torso.round_neck(level + 0.08, azimuth, 16 * MM)
    inside = torso.round_neck(level + 0.06, azimuth, 12 * MM)
    inner_low = torso.at(neck_base(azimuth) + 1, azimuth, 8 * MM)
    grid = np.stack([inner_low, inside, top, 0.5 * (top + low), low])
    return [under, shell, torso.sheet(grid, cloth * 0.95, False)]


def make_hoodie(torso: Torso, rng: Generator, cloth: np.ndarray, accent: np.ndarray, pattern: str) -> list[Surface]:
    """A pullover with its hood on the back, and two cords."""
    neckline = neck_base(AZIMUTH_64) + 2
    body = garment(torso, rng, neckline, cloth, accent, "plain", cloth * 0.9, lift_mm=9)
    azimuth = np.arange(56) * (360 / 56)
    cosine = np.cos(np.radians(azimuth))
    path = torso.at(neck_base(azimuth) + 6 - 3 * cosine, azimuth, (15 - 5 * cosine) * MM)
    radius = (17 - 8 * cosine + 1.5 * np.sin(np.radians(azimuth) * 9 + rng.uniform(0, 6))) * MM
    hood = tube(path, radius, cloth * 0.97, 14, closed=True, up=np.array([0, 1.0, 0]), gloss=0.02, soft=0.15)
    cords = []
    for side in (-1, 1):
        polar = np.linspace(36, rng.uniform(58, 80), 14)
        cord = torso.at(polar, side * (14 - 4 * np.linspace(0, 1, 14)), 12 * MM)
        cords.append(tube(cord, 2.2 * MM, float32([0.6, 0.6, 0.58]), 6))
    return [body, orient(hood, None), joined(cords)]


def make_necklace(torso: Torso, rng: Generator) -> Surface:
    """A chain with a pendant, or pearls."""
    azimuth = np.arange(72) * 5.0
    front = np.cos(np.radians(azimuth / 2)) ** 4
    polar = neck_base(azimuth) + 1.5 + rng.uniform(2, 12) * front
    path = torso.at(polar, azimuth, 1.6 * MM)
    metal = float32(rng.choice([[0.75, 0.55, 0.22], [0.66, 0.66, 0.68]]))
    if rng.random() < 0.3:
        return joined([ball(p, 3.4 * MM, [0.7, 0.66, 0.6], 8, gloss=0.8) for p in path[np.r_[0:20, 52:72]]])
    chain = tube(path, 1.0 * MM, metal, 6, closed=True, gloss=1.5)
    return joined([chain, ball(path[0] - [0, 4 * MM, -1 * MM], 4 * MM, metal, 10, gloss=1.5)])
