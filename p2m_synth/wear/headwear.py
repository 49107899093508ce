"""Hats, caps, helmets, scarves and hoods, fitted to a head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from p2m_synth.head.head_maps import Skull, from_front_deg, push_outside, skull_centre, sphere_directions
from p2m_synth.head.head_mesh import HeadMesh
from p2m_synth.scene.elements import Surface, float32
from p2m_synth.scene.primitives import MM, ball, joined, orient, sheet, smooth_step, tube, unit
from p2m_synth.wear.fabric import drape, draw_cloth_color, pattern_color
from p2m_synth.wear.style import WearStyle

# Elevation in degrees, seen from the middle of the skull, of the lower rim at these azimuths; 30 is the hairline,
# 13 the brows, 4 the top of an ear.
RIM_AZIMUTH = (0, 30, 60, 90, 120, 150, 180)
RIM_ELEVATION = {
    "cap": (24, 23, 19, 10, 1, -9, -13),
    "beanie": (25, 23, 16, 3, -10, -19, -22),
    "brimmed hat": (25, 24, 19, 11, 5, 1, 0),
    "straw hat": (26, 25, 20, 12, 6, 2, 1),
    "bike helmet": (27, 27, 24, 17, 10, 3, 0),
    "hard hat": (28, 27, 23, 15, 8, 4, 3),
    "turban": (27, 25, 18, 2, -8, -14, -16),
    "headband": (29, 27, 21, 9, 1, -5, -8),
}
# The opening of a scarf or hood: degrees from its axis to the edge above, beside and below the face.
OPENING = {"headscarf": (45, 57, 50), "hood": (52, 66, 53)}
OPENING_AXIS_DEG = -11  # elevation: the middle of a face lies lower than its eyes
HEADBAND_DEG = 17


def rim_elevation(style: WearStyle, azimuth: np.ndarray) -> np.ndarray:
    """Elevation (deg) of the lower rim of a hat at azimuths (deg), both seen from the middle of the skull."""
    azimuth = from_front_deg(azimuth)
    return np.interp(azimuth, RIM_AZIMUTH, RIM_ELEVATION[style.headwear]) + style.rim_deg


def opening_deg(kind: str, turn: np.ndarray) -> np.ndarray:
    """Degrees from the axis to the edge of a scarf's opening; turn (rad) 0 above, round to the subject's left."""
    above, beside, below = OPENING[kind]
    return beside + np.where(np.cos(turn) > 0, above - beside, below - beside) * np.cos(turn) ** 2


def axis_frame() -> np.ndarray:
    """Rows: the axis of a face's opening, up and the subject's left, in the head's frame."""
    forward = sphere_directions(OPENING_AXIS_DEG, 0.0)
    return np.stack([forward, np.cross(forward, [1, 0, 0]), [1, 0, 0]])


def hidden_scalp(head_mesh: HeadMesh, style: WearStyle) -> np.ndarray:
    """Which vertices (m,) of the scalp the headwear hides, so that no hair need grow there."""
    if style.headwear not in RIM_ELEVATION and style.headwear not in OPENING:
        return np.zeros(len(head_mesh.canonical), bool)
    direction = unit(head_mesh.canonical - skull_centre(head_mesh, head_mesh.canonical))
    if style.headwear in OPENING:
        forward, up, left = axis_frame()
        turn = np.arctan2(direction @ left, direction @ up)
        angle = np.degrees(np.arccos(np.clip(direction @ forward, -1, 1)))
        return (angle > opening_deg(style.headwear, turn) + 1) & (head_mesh.canonical[:, 1] > 5.9)
    elevation = np.degrees(np.arcsin(direction[:, 1]))
    above = elevation - rim_elevation(style, np.degrees(np.arctan2(direction[:, 0], direction[:, 2])))
    return (above > 2) & (above < (HEADBAND_DEG - 2 if style.headwear == "headband" else 180))


def dome(skull: Skull, style: WearStyle, offset, rows: int = 20, columns: int = 96, ears: bool = False):
    """A shell over the skull from the crown to the rim, and round it to the inside: points (R, C, 3), height, azimuth.

    offset: function of height t (0 rim, 1 crown) and azimuth (deg) -> um outside the skull.
    """
    azimuth = np.arange(columns) * (360 / columns)
    t = np.concatenate([np.linspace(1, 0, rows) ** 1.1, [0.0, 0.03]])
    t, azimuth = np.meshgrid(t, azimuth, indexing="ij")
    rim = rim_elevation(style, azimuth)
    off = float32(np.broadcast_to(offset(t, azimuth), t.shape)).copy()
    off[-2:] = 0.6 * MM
    return skull.at(rim + (89.5 - rim) * t, azimuth, off, ears), t, azimuth


def make_hat(skull: Skull, style: WearStyle, rng: np.random.Generator) -> list[Surface]:
    """A hat that covers the skull, in the head's frame."""
    makers = {
        "cap": make_cap, "beanie": make_beanie, "brimmed hat": make_brimmed_hat, "straw hat": make_brimmed_hat,
        "bike helmet": make_bike_helmet, "hard hat": make_hard_hat, "turban": make_turban, "headband": make_headband,
    }  # fmt: skip
    return makers[style.headwear](skull, style, rng)


def brim(rim: np.ndarray, out: np.ndarray, rise: np.ndarray, color, thickness: float, closed: bool, **looks) -> Surface:
    """A brim or visor with an upper and a lower side.

    rim (C, 3): where it starts; out (C, 3): its extent; rise (S, C): lift in um on the way out, S steps.
    """
    steps = np.linspace(0, 1, len(rise))[:, None, None]
    up = np.array([0, 1.0, 0])
    top = rim + steps * out + rise[..., None] * up
    low = top - thickness * up * (1 - 0.8 * steps**6)
    grid = np.concatenate([top, low[::-1]])
    color = np.broadcast_to(float32(color), (len(rise), len(rim), 3))
    return sheet(grid, np.concatenate([color, 0.7 * color[::-1]]), closed, **looks)


def make_cap(skull: Skull, style: WearStyle, rng: np.random.Generator) -> list[Surface]:
    """A baseball cap of six panels with its visor."""
    high, side = rng.uniform(2, 11) * MM, 180.0 if style.backward else 0.0

    def offset(t: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
        ahead = np.clip(np.cos(np.radians(azimuth - side)), 0, 1) ** 2
        seam = np.exp(-((((azimuth + 30) % 60 - 30) / 3) ** 2))
        rise = high * ahead * np.sin(np.pi * np.clip(t, 0, 1)) ** 0.8
        return 6 * MM + rise + 5 * MM * t**2 - 0.9 * MM * seam * (1 - t)

    points, t, azimuth = dome(skull, style, offset)
    away = (azimuth - side + 180) % 360 - 180
    front = np.float32(abs(away) < 33)
    panels = np.where(rng.random() < 0.3, front, 0)[..., None]
    color = style.cloth + (style.accent - style.cloth) * panels
    if style.pattern == "logo":
        reach = np.hypot(away / rng.uniform(13, 20), (t - 0.36) / rng.uniform(0.14, 0.2))
        for edge, paint in ((1.0, draw_cloth_color(rng)), (0.6, style.accent)):
            color = color + (paint - color) * smooth_step(edge + 0.12, edge - 0.12, reach)[..., None]
    elif style.pattern != "plain":
        color = pattern_color(style.pattern, azimuth / 30, t * 3, color, style.accent)
    color = color * (1 - 0.25 * np.exp(-((((away + 30) % 60 - 30) / 2.5) ** 2)))[..., None]
    visor_color = style.accent if rng.random() < 0.35 else style.cloth
    turn = np.linspace(-1, 1, 33)
    width = rng.uniform(46, 56)
    rim = skull.at(rim_elevation(style, side + width * turn) + 1, side + width * turn, 6 * MM)
    length, droop = rng.uniform(58, 72) * MM, rng.uniform(0.05, 0.3)
    forward = np.array([0, -rng.uniform(0.12, 0.35), 1 - 2 * (side > 0)])
    out = forward * (length * np.clip(1 - turn**4, 0.02, 1))[:, None] + [0, 0, 0]
    out[:, 0] += (rim[:, 0] - skull.centre[0]) * 0.12
    steps = np.linspace(0, 1, 8)[:, None]
    rise = -droop * length * steps * turn**2 * 1.3 + 0.06 * length * np.sin(np.pi * steps * 0.7)
    visor = brim(rim, out, rise, visor_color, 2.2 * MM, False, gloss=0.08)
    crown = points[0].mean(0)
    button = ball(crown + [0, 1 * MM, 0], 5 * MM, color[0, 0])
    return [sheet(points, color, True, gloss=0.06), orient(visor, None), button]


def make_beanie(skull: Skull, style: WearStyle, rng: np.random.Generator) -> list[Surface]:
    """A knitted cap, ribbed, mostly with a folded rim."""
    folded, slouch = rng.random() < 0.7, rng.choice((4, 14, 30)) * MM * rng.uniform(0.6, 1.2)
    cuff = rng.uniform(0.24, 0.36)
    rib = rng.uniform(0.5, 1.3) * MM

    def offset(t: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
        back = -np.cos(np.radians(azimuth))
        thick = 5 * MM + 4.5 * MM * folded * smooth_step(cuff + 0.015, cuff - 0.015, t)
        thick = thick + slouch * t**2 * (1 + 0.5 * back)
        knit = rib * np.where(np.arange(azimuth.shape[1]) % 2, 1, -1)
        wrinkle = 2.5 * MM * np.sin(np.radians(azimuth) * 3 + 9 * t) * smooth_step(cuff, 1, t) * (slouch > 10 * MM)
        return thick + knit * smooth_step(1, 0.85, t) + wrinkle - 2 * MM * smooth_step(0.04, 0, t)

    points, t, azimuth = dome(skull, style, offset, rows=19, ears=True)
    color = np.broadcast_to(style.cloth, (*t.shape, 3))
    if style.pattern in ("stripes", "checks"):
        color = pattern_color("rings", azimuth / 30, t * rng.uniform(3, 6), color, style.accent)
    elif style.pattern in ("flowers", "dots"):
        zigzag = (t * 6 + abs((azimuth / 15) % 2 - 1) * 0.8) % 2 < 1
        color = np.where((zigzag & (t > cuff) & (t < cuff + 0.4))[..., None], style.accent, color)
    elif style.pattern == "logo" and folded:
        away = from_front_deg(azimuth)
        color = np.where(((away < 12) & (abs(t - cuff / 2) < 0.09))[..., None], style.accent, color)
    color = color * np.where(np.arange(color.shape[1]) % 2, 1.08, 0.8)[:, None]
    color = color * (0.93 + 0.14 * rng.random(t.shape))[..., None]
    color = color * (1 - 0.45 * np.exp(-(((t - cuff - 0.02) / 0.02) ** 2)) * folded)[..., None]
    parts = [sheet(points, color, True, gloss=0.01, soft=0.15)]
    if rng.random() < 0.25:
        pompom = ball(points[0].mean(0) + [0, 20 * MM, -4 * MM], 27 * MM, style.accent, 30, gloss=0.0, soft=0.3)
        rough = 1 + 0.08 * rng.standard_normal(len(pompom.vertices))
        middle = pompom.vertices.mean(0)
        vertices = float32(middle + (pompom.vertices - middle) * rough[:, None])
        color = pompom.color * float32(rng.uniform(0.6, 1.1, (len(vertices), 1)))
        parts.append(replace(pompom, vertices=vertices, color=color))
    return parts


def make_brimmed_hat(skull: Skull, style: WearStyle, rng: np.random.Generator) -> list[Surface]:
    """A fedora, or a straw hat."""
    straw = style.headwear == "straw hat"
    columns = 72
    azimuth = np.arange(columns) * (360 / columns)
    rim = skull.at(rim_elevation(style, azimuth), azimuth, 6 * MM)
    middle = rim.mean(0)
    top = skull.centre[1] + skull.radius(np.array([[0, 1.0, 0]]))[0] - middle[1]
    height = top + rng.uniform(2, 16) * MM
    level = np.array([0, 0.06, 0.13, 0.2, 0.28, 0.4, 0.55, 0.7, 0.82, 0.91, 0.97, 1.0, 1.0, 0.985, 0.97])[:, None]
    scale = np.array([1, 1, 1, 1, 0.995, 0.985, 0.965, 0.94, 0.91, 0.87, 0.8, 0.7, 0.5, 0.28, 0.02])[:, None]
    if not straw:  # a dent along the crown, and pinched in front
        a = np.radians(azimuth)
        scale = scale - 0.10 * (abs(np.sin(a)) * np.clip(np.cos(a), 0, 1) * 2) * smooth_step(0.4, 0.95, level)
    grid = middle + (rim - middle)[None] * [1, 0.5, 1] * scale[..., None] + (level * height)[..., None] * [0, 1, 0]
    grid[..., 1] += (rim - middle)[None, :, 1] * 0.5 * (1 - level)
    if not straw:
        dent = np.exp(-(((grid[..., 0] - middle[0]) / (28 * MM)) ** 2))
        grid[..., 1] -= 0.12 * height * dent * smooth_step(0.8, 1, level)
    grid = push_outside(skull, grid, 5 * MM)
    base = float32([0.62, 0.45, 0.22]) * float32(rng.uniform(0.6, 1.2)) if straw else style.cloth * 0.8
    color = np.broadcast_to(base, grid.shape).copy()
    ribbon = (level > 0.015) & (level < 0.24)
    color[np.broadcast_to(ribbon, color.shape[:2])] = style.accent * 0.6
    grid[1:4] += unit(grid[1:4] - middle) * 1.2 * MM
    weave = 0.75 + 0.4 * rng.random(color.shape[:2]) if straw else 0.95 + 0.1 * rng.random(color.shape[:2])
    color = color * np.where(np.broadcast_to(ribbon, weave.shape), 1, weave)[..., None]
    wide = rng.uniform(38, 62) * MM * (1.4 if straw else 1)
    a = np.radians(azimuth)
    out = unit((rim - middle) * [1, 0, 1]) * (wide * (1 + 0.12 * abs(np.cos(a))))[:, None]
    steps = np.linspace(0, 1, 9)[:, None]
    curl = rng.uniform(-0.1, 0.35) * np.sin(a) ** 2 - rng.uniform(0.05, 0.3) * np.clip(np.cos(a), 0, 1) ** 2
    wavy = rng.uniform(0, 0.05) * np.sin(2 * a + rng.uniform(0, 6)) + straw * 0.02 * np.sin(5 * a)
    plate = brim(rim, out, wide * (curl + wavy) * steps**1.5, base, 2.5 * MM, True, gloss=0.03, soft=0.1)
    speck = 0.75 + 0.4 * rng.random((len(plate.color), 1)) if straw else 1.0
    plate = replace(plate, color=float32(plate.color * speck))
    return [orient(sheet(grid, color, True, gloss=0.03, soft=0.1), skull.centre), orient(plate, None)]


def make_bike_helmet(skull: Skull, style: WearStyle, rng: np.random.Generator) -> list[Surface]:
    """A helmet with vents and straps."""

    def offset(t: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
        a = np.radians(azimuth)
        return (20 + 9 * np.clip(-np.cos(a), 0, 1) * t + 9 * np.cos(a) ** 2 * np.sin(np.pi * t.clip(0, 1))) * MM * (
            0.55 + 0.45 * smooth_step(0, 0.12, t)
        )  # fmt: skip

    points, t, _ = dome(skull, style, offset, rows=24)
    away = points[..., 0] - skull.centre[0]
    stripe = abs((away / (21 * MM) + 0.5) % 1 - 0.5) < 0.24
    along = np.sin(np.degrees(np.arctan2(points[..., 2] - skull.centre[2], points[..., 1] - skull.centre[1])) / 15)
    vent = stripe & (along > -0.55) & (t > 0.2) & (abs(away) < 58 * MM)
    shell = np.where((t < 0.16)[..., None], 0.03, style.cloth)
    shell = np.where((abs(away) < 8 * MM)[..., None], style.accent, shell)
    points = points - unit(points - skull.centre) * (vent * 9 * MM)[..., None]
    color = np.where(vent[..., None], 0.012, shell)
    return [sheet(points, color, True, gloss=0.5), *chin_straps(skull, style)]


def chin_straps(skull: Skull, style: WearStyle) -> list[Surface]:
    """Two straps a side that meet below the ear, and one under the chin."""
    straps = []
    for side in (-1, 1):
        meet = skull.at(np.array([[-33.0]]), np.array([[side * 78.0]]), 4 * MM)[0, 0]
        for azimuth in (62, 112):
            start = float(rim_elevation(style, np.array(azimuth)))
            e = np.linspace(start, -33, 9)
            path = skull.at(e[None], side * np.linspace(azimuth, 78, 9)[None], 4 * MM, ears=azimuth > 90)[0]
            path[-1] = meet
            straps.append(tube(path, 1.2 * MM, [0.015] * 3, 6, up=np.array([0, 0, 1.0]), flatness=4))
        e, azimuth = np.linspace(-33, -62, 8), side * np.linspace(78, 0.5, 8)
        path = skull.at(e[None], azimuth[None], 3 * MM)[0]
        straps.append(tube(path, 1.2 * MM, [0.015] * 3, 6, up=np.array([0, 0, 1.0]), flatness=4))
    return [joined(straps)]


def make_hard_hat(skull: Skull, style: WearStyle, rng: np.random.Generator) -> list[Surface]:
    """A hard hat with a ridge and a brim."""
    colors = float32([[0.78, 0.5, 0.02], [0.75, 0.75, 0.72], [0.75, 0.16, 0.02], [0.03, 0.12, 0.5]])
    color = colors[rng.integers(4)]

    def offset(t: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
        a = np.radians(azimuth)
        ridge = np.exp(-((np.sin(a) * np.cos(np.radians(t * 80)) / 0.12) ** 2)) + np.exp(-((np.sin(a) / 0.08) ** 2))
        return (16 + 12 * smooth_step(0, 0.25, t) + 3.5 * np.clip(ridge, 0, 1) * smooth_step(0.15, 0.4, t)) * MM

    points, _, azimuth = dome(skull, style, offset, rows=20)
    rim = points[-3]
    a = np.radians(azimuth[0])
    wide = (9 + 36 * np.clip(np.cos(a), 0, 1) ** 1.5) * MM
    out = unit((rim - rim.mean(0)) * [1, 0, 1]) * wide[:, None]
    steps = np.linspace(0, 1, 5)[:, None]
    plate = brim(rim, out, -0.22 * wide * steps, color, 2.5 * MM, True, gloss=0.6)
    return [sheet(points, color, True, gloss=0.6), orient(plate, None)]


def make_turban(skull: Skull, style: WearStyle, rng: np.random.Generator) -> list[Surface]:
    """Bands of cloth wound round the head."""
    spacing = rng.uniform(9, 13)

    def offset(t: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
        away = from_front_deg(azimuth)
        # Bands rise from the ears to a point over the forehead.
        phase = (t * 90 + 0.3 * np.clip(away, 0, 130)) / spacing
        fold = abs(np.sin(np.pi * phase)) ** 0.6
        bulk = np.sin(np.pi * np.clip(t, 0, 1) ** 0.7) ** 0.7
        return (7 + 20 * bulk + 5 * fold * smooth_step(1, 0.8, t) + 6 * bulk * np.sin(np.radians(away)) ** 2) * MM

    points, t, azimuth = dome(skull, style, offset, rows=34, columns=56, ears=True)
    away = from_front_deg(azimuth)
    fold = abs(np.sin(np.pi * (t * 90 + 0.3 * np.clip(away, 0, 130)) / spacing))
    color = style.cloth * (0.55 + 0.5 * fold**0.5)[..., None]
    return [sheet(points, color, True, gloss=0.03, soft=0.15)]


def make_headband(skull: Skull, style: WearStyle, rng: np.random.Generator) -> list[Surface]:
    """A band round forehead and back."""
    azimuth = np.arange(72) * 5.0
    t = np.array([0.85, 1.0, 1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0, 0, 0.15])[:, None]
    lift = np.array([0.3, 0.5, 3.2, 4.6, 5, 5, 5, 4.6, 3.2, 0.5, 0.3])[:, None] * MM
    t, azimuth = np.broadcast_arrays(t, azimuth)
    points = skull.at(rim_elevation(style, azimuth) + HEADBAND_DEG * t, azimuth, np.broadcast_to(lift, t.shape), True)
    color = pattern_color(style.pattern, azimuth / 15, t * 2, style.cloth, style.accent)
    return [sheet(points, color, True, gloss=0.02, soft=0.15)]


def make_scarf(head_mesh, skull, style, head, rotation, rng) -> list[Surface]:
    """A headscarf or a hood with what falls to the shoulders, in the camera's frame."""
    hood = style.headwear == "hood"
    rows, columns = 26, 64
    turn = np.arange(columns) * (2 * np.pi / columns)
    s = np.concatenate([[0.04, 0.0], np.linspace(0, 1, rows) ** 1.15])[:, None]
    edge = opening_deg(style.headwear, turn)
    angle = np.radians(edge + (178.5 - edge) * s)
    forward, up, left = axis_frame()
    spoke = np.cos(turn)[:, None] * up + np.sin(turn)[:, None] * left
    direction = np.cos(angle)[..., None] * forward + np.sin(angle)[..., None] * spoke
    folds = np.sin(s * rng.uniform(13, 22) + 1.3 * np.sin(turn + rng.uniform(0, 6)) + rng.uniform(0, 6))
    ample = rng.uniform(12, 22) if hood else rng.uniform(5, 10)
    back = smooth_step(0.25, 0.8, s) * (rng.uniform(0, 22) if not hood else rng.uniform(8, 20))
    above = 0.35 + 0.65 * smooth_step(-0.9, 0.3, np.cos(turn))
    offset = (4 + (ample * smooth_step(0, 0.25, s) + back) * above + 1.8 * folds * smooth_step(0.02, 0.2, s)) * MM
    if hood:  # its edge stands off the face, and hangs over the forehead
        offset = offset + 12 * MM * above * smooth_step(0.1, 0, s)
    offset[:2] = [[2 * MM], [1.2 * MM]]
    if hood:
        offset[:2] = offset[2] - 3 * MM
    points = (skull.centre + direction * (skull.radius(direction, True) + offset)[..., None]) @ rotation.T
    stripes = 4 * s + 0.3 * np.sin(2 * turn)
    kind = "plain" if style.pattern == "logo" or hood else style.pattern
    color = pattern_color(kind, turn * 5 + 0 * s, stripes * 2, style.cloth, style.accent)
    color = color * (1 + 0.1 * folds)[..., None]
    over = orient(sheet(points, color, True, gloss=0.03, soft=0.15), skull.centre @ rotation.T)
    azimuth = np.arange(columns) * (360 / columns)
    below = -41 - 15 * np.cos(np.radians(azimuth))
    ring = skull.at(below[None], azimuth[None], 7 * MM, True)[0]
    ring = np.mean([np.roll(ring, k, 0) for k in range(-3, 4)], 0) @ rotation.T
    return [over, drape(head_mesh, head, ring, style.cloth, style.accent, kind, rng, reach_deg=44 if hood else 62)]
