"""What people wear on the head: glasses, headwear, earrings, face masks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from p2m_core.synthetic.canvas import Canvas, smooth_step
from p2m_core.synthetic.clothes import drape, draw_cloth_color, pattern_color
from p2m_core.synthetic.scene import Surface
from p2m_core.synthetic.solids import (
    Skull,
    ball,
    clearance,
    joined,
    moved,
    orient,
    outside,
    sheet,
    skull_centre,
    smooth_path,
    sphere_directions,
    tube,
    unit,
)

MM = 1e3  # um
HEADWEAR = {
    "cap": 0.30, "beanie": 0.17, "brimmed hat": 0.12, "straw hat": 0.05, "headscarf": 0.13, "hood": 0.07,
    "bike helmet": 0.03, "hard hat": 0.03, "headband": 0.06, "turban": 0.04,
}  # fmt: skip
FRAMES = ("rectangle", "round", "panto", "aviator", "cat-eye", "half-rim", "rimless")
METALS = np.array([[0.75, 0.55, 0.22], [0.66, 0.66, 0.68], [0.72, 0.45, 0.33], [0.06, 0.06, 0.065]], np.float32)

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


@dataclass(frozen=True, eq=False)
class Worn:
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

    @property
    def hair_allowance_um(self) -> float:
        """How far from the scalp hair may stand under the headwear; infinity without."""
        return {"none": np.inf, "headband": 3 * MM}.get(self.headwear, 4 * MM)


def draw_worn(rng: np.random.Generator, woman: bool, age: float) -> Worn:
    """What somebody wears; age 0 young to 1 old."""
    glasses = str(rng.choice(("none", "clear", "dark"), p=(0.89 - 0.1 * age, 0.075 + 0.09 * age, 0.035 + 0.01 * age)))
    share = np.array(list(HEADWEAR.values()))
    share = share * [0 if not woman and k == "headscarf" else 0.3 if woman and k in ("turban", "hard hat") else
                     1.9 if woman and k == "headscarf" else 1 for k in HEADWEAR]  # fmt: skip
    headwear = str(rng.choice(list(HEADWEAR), p=share / share.sum())) if rng.random() < 0.12 else "none"
    dark = np.float32(rng.choice((0.012, 0.02, 0.05)) * rng.uniform(0.7, 1.4, 3))
    horn = np.float32([0.16, 0.06, 0.02]) * np.float32(rng.uniform(0.5, 1.3))
    frame = str(rng.choice(FRAMES, p=(0.3, 0.13, 0.2, 0.12, 0.1 if woman else 0.0, 0.1 if woman else 0.2, 0.05)))
    metal = METALS[rng.choice(4, p=(0.4, 0.4, 0.15, 0.05))]
    thin = frame in ("aviator", "rimless", "half-rim") or rng.random() < 0.2
    frame_color = metal if thin else (dark, horn, draw_cloth_color(rng))[rng.choice(3, p=(0.6, 0.28, 0.12))]
    tint = np.float32([(0.02, 0.02, 0.022), (0.06, 0.035, 0.015), (0.02, 0.035, 0.03), (0.03, 0.035, 0.06)])
    patterns, likely = ("plain", "stripes", "checks", "flowers", "dots", "logo"), (0.45, 0.12, 0.05, 0.07, 0.06, 0.25)
    return Worn(
        glasses=glasses,
        frame=frame,
        frame_color=np.float32(frame_color),
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


def wear(canvas: Canvas, worn: Worn, head: np.ndarray, rotation: np.ndarray, rng: np.random.Generator) -> list[Surface]:
    """The surfaces of all that is worn.

    Args:    head: (m, 3) um, camera frame.   rotation: (3, 3) takes the head's frame to the camera's.
    """
    frontal = np.float32(head @ rotation)
    skull, surfaces = Skull(canvas, frontal), []
    if worn.headwear in RIM_ELEVATION:
        surfaces += make_hat(skull, worn, rng)
    if worn.earrings != "none" and worn.headwear not in OPENING:
        surfaces += make_earrings(canvas, worn, frontal, rng)
    if worn.mask != "none":
        surfaces += make_mask(skull, worn, rng)
    if worn.glasses != "none":
        surfaces += make_glasses(canvas, worn, skull, frontal, rng)
    surfaces = [moved(surface, rotation) for surface in surfaces]
    if worn.headwear in OPENING:
        surfaces += make_scarf(canvas, skull, worn, head, rotation, rng)
    return surfaces


def rim_elevation(worn: Worn, azimuth: np.ndarray) -> np.ndarray:
    """Elevation (deg) of the lower rim of a hat at azimuths (deg), both seen from the middle of the skull."""
    azimuth = abs((azimuth + 180) % 360 - 180)
    return np.interp(azimuth, RIM_AZIMUTH, RIM_ELEVATION[worn.headwear]) + worn.rim_deg


def opening_deg(kind: str, turn: np.ndarray) -> np.ndarray:
    """Degrees from the axis to the edge of a scarf's opening; turn (rad) 0 above, round to the subject's left."""
    above, beside, below = OPENING[kind]
    return beside + np.where(np.cos(turn) > 0, above - beside, below - beside) * np.cos(turn) ** 2


def axis_frame() -> np.ndarray:
    """Rows: the axis of a face's opening, up and the subject's left, in the head's frame."""
    forward = sphere_directions(OPENING_AXIS_DEG, 0.0)
    return np.stack([forward, np.cross(forward, [1, 0, 0]), [1, 0, 0]])


def covers(canvas: Canvas, worn: Worn) -> np.ndarray:
    """Which vertices (m,) of the scalp the headwear hides, so that no hair need grow there."""
    direction = unit(canvas.canonical - skull_centre(canvas, canvas.canonical))
    if worn.headwear in OPENING:
        forward, up, left = axis_frame()
        turn = np.arctan2(direction @ left, direction @ up)
        angle = np.degrees(np.arccos(np.clip(direction @ forward, -1, 1)))
        return (angle > opening_deg(worn.headwear, turn) + 1) & (canvas.canonical[:, 1] > 5.9)
    if worn.headwear not in RIM_ELEVATION:
        return np.zeros(len(direction), bool)
    elevation = np.degrees(np.arcsin(direction[:, 1]))
    above = elevation - rim_elevation(worn, np.degrees(np.arctan2(direction[:, 0], direction[:, 2])))
    return (above > 2) & (above < (HEADBAND_DEG - 2 if worn.headwear == "headband" else 180))


# --- hats -----------------------------------------------------------------------------------------


def dome(skull: Skull, worn: Worn, offset, rows: int = 20, columns: int = 96, ears: bool = False):
    """A shell over the skull from the crown to the rim, and round it to the inside: points (R, C, 3), height, azimuth.

    offset: function of height t (0 rim, 1 crown) and azimuth (deg) -> um outside the skull.
    """
    azimuth = np.arange(columns) * (360 / columns)
    t = np.concatenate([np.linspace(1, 0, rows) ** 1.1, [0.0, 0.03]])
    t, azimuth = np.meshgrid(t, azimuth, indexing="ij")
    rim = rim_elevation(worn, azimuth)
    off = np.float32(np.broadcast_to(offset(t, azimuth), t.shape)).copy()
    off[-2:] = 0.6 * MM
    return skull.at(rim + (89.5 - rim) * t, azimuth, off, ears), t, azimuth


def make_hat(skull: Skull, worn: Worn, rng: np.random.Generator) -> list[Surface]:
    """A hat that covers the skull, in the head's frame."""
    makers = {
        "cap": make_cap, "beanie": make_beanie, "brimmed hat": make_brimmed_hat, "straw hat": make_brimmed_hat,
        "bike helmet": make_bike_helmet, "hard hat": make_hard_hat, "turban": make_turban, "headband": make_headband,
    }  # fmt: skip
    return makers[worn.headwear](skull, worn, rng)


def brim(rim: np.ndarray, out: np.ndarray, rise: np.ndarray, color, thickness: float, closed: bool, **looks) -> Surface:
    """A brim or visor with an upper and a lower side.

    rim (C, 3): where it starts; out (C, 3): its extent; rise (S, C): lift in um on the way out, S steps.
    """
    steps = np.linspace(0, 1, len(rise))[:, None, None]
    up = np.array([0, 1.0, 0])
    top = rim + steps * out + rise[..., None] * up
    low = top - thickness * up * (1 - 0.8 * steps**6)
    grid = np.concatenate([top, low[::-1]])
    color = np.broadcast_to(np.float32(color), (len(rise), len(rim), 3))
    return sheet(grid, np.concatenate([color, 0.7 * color[::-1]]), closed, **looks)


def make_cap(skull: Skull, worn: Worn, rng: np.random.Generator) -> list[Surface]:
    """A baseball cap of six panels with its visor."""
    high, side = rng.uniform(2, 11) * MM, 180.0 if worn.backward else 0.0

    def offset(t, azimuth):
        ahead = np.clip(np.cos(np.radians(azimuth - side)), 0, 1) ** 2
        seam = np.exp(-((((azimuth + 30) % 60 - 30) / 3) ** 2))
        return (
            6 * MM + high * ahead * np.sin(np.pi * np.clip(t, 0, 1)) ** 0.8 + 5 * MM * t**2 - 0.9 * MM * seam * (1 - t)
        )

    points, t, azimuth = dome(skull, worn, offset)
    away = (azimuth - side + 180) % 360 - 180
    front = np.float32(abs(away) < 33)
    panels = np.where(rng.random() < 0.3, front, 0)[..., None]
    color = worn.cloth + (worn.accent - worn.cloth) * panels
    if worn.pattern == "logo":
        reach = np.hypot(away / rng.uniform(13, 20), (t - 0.36) / rng.uniform(0.14, 0.2))
        for edge, paint in ((1.0, draw_cloth_color(rng)), (0.6, worn.accent)):
            color = color + (paint - color) * smooth_step(edge + 0.12, edge - 0.12, reach)[..., None]
    elif worn.pattern != "plain":
        color = pattern_color(worn.pattern, azimuth / 30, t * 3, color, worn.accent)
    color = color * (1 - 0.25 * np.exp(-((((away + 30) % 60 - 30) / 2.5) ** 2)))[..., None]
    visor_color = worn.accent if rng.random() < 0.35 else worn.cloth
    turn = np.linspace(-1, 1, 33)
    width = rng.uniform(46, 56)
    rim = skull.at(rim_elevation(worn, side + width * turn) + 1, side + width * turn, 6 * MM)
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


def make_beanie(skull: Skull, worn: Worn, rng: np.random.Generator) -> list[Surface]:
    """A knitted cap, ribbed, mostly with a folded rim."""
    folded, slouch = rng.random() < 0.7, rng.choice((4, 14, 30)) * MM * rng.uniform(0.6, 1.2)
    cuff = rng.uniform(0.24, 0.36)
    rib = rng.uniform(0.5, 1.3) * MM

    def offset(t, azimuth):
        back = -np.cos(np.radians(azimuth))
        thick = (
            5 * MM + 4.5 * MM * folded * smooth_step(cuff + 0.015, cuff - 0.015, t) + slouch * t**2 * (1 + 0.5 * back)
        )
        knit = rib * np.where(np.arange(azimuth.shape[1]) % 2, 1, -1)
        wrinkle = 2.5 * MM * np.sin(np.radians(azimuth) * 3 + 9 * t) * smooth_step(cuff, 1, t) * (slouch > 10 * MM)
        return thick + knit * smooth_step(1, 0.85, t) + wrinkle - 2 * MM * smooth_step(0.04, 0, t)

    points, t, azimuth = dome(skull, worn, offset, rows=19, ears=True)
    color = np.broadcast_to(worn.cloth, (*t.shape, 3))
    if worn.pattern in ("stripes", "checks"):
        color = pattern_color("rings", azimuth / 30, t * rng.uniform(3, 6), color, worn.accent)
    elif worn.pattern in ("flowers", "dots"):
        zigzag = (t * 6 + abs((azimuth / 15) % 2 - 1) * 0.8) % 2 < 1
        color = np.where((zigzag & (t > cuff) & (t < cuff + 0.4))[..., None], worn.accent, color)
    elif worn.pattern == "logo" and folded:
        away = abs((azimuth + 180) % 360 - 180)
        color = np.where(((away < 12) & (abs(t - cuff / 2) < 0.09))[..., None], worn.accent, color)
    color = color * np.where(np.arange(color.shape[1]) % 2, 1.08, 0.8)[:, None]
    color = color * (0.93 + 0.14 * rng.random(t.shape))[..., None]
    color = color * (1 - 0.45 * np.exp(-(((t - cuff - 0.02) / 0.02) ** 2)) * folded)[..., None]
    parts = [sheet(points, color, True, gloss=0.01, soft=0.15)]
    if rng.random() < 0.25:
        pompom = ball(points[0].mean(0) + [0, 20 * MM, -4 * MM], 27 * MM, worn.accent, 30, gloss=0.0, soft=0.3)
        rough = 1 + 0.08 * rng.standard_normal(len(pompom.vertices))
        middle = pompom.vertices.mean(0)
        vertices = np.float32(middle + (pompom.vertices - middle) * rough[:, None])
        color = pompom.color * np.float32(rng.uniform(0.6, 1.1, (len(vertices), 1)))
        parts.append(Surface(vertices, pompom.triangles, color, 0.0, 0.3))
    return parts


def make_brimmed_hat(skull: Skull, worn: Worn, rng: np.random.Generator) -> list[Surface]:
    """A fedora, or a straw hat."""
    straw = worn.headwear == "straw hat"
    columns = 72
    azimuth = np.arange(columns) * (360 / columns)
    rim = skull.at(rim_elevation(worn, azimuth), azimuth, 6 * MM)
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
        grid[..., 1] -= (
            0.12 * height * np.exp(-(((grid[..., 0] - middle[0]) / (28 * MM)) ** 2)) * smooth_step(0.8, 1, level)
        )
    grid = outside(skull, grid, 5 * MM)
    base = np.float32([0.62, 0.45, 0.22]) * np.float32(rng.uniform(0.6, 1.2)) if straw else worn.cloth * 0.8
    color = np.broadcast_to(base, grid.shape).copy()
    ribbon = (level > 0.015) & (level < 0.24)
    color[np.broadcast_to(ribbon, color.shape[:2])] = worn.accent * 0.6
    grid[1:4] += unit(grid[1:4] - middle) * 1.2 * MM
    weave = 0.75 + 0.4 * rng.random(color.shape[:2]) if straw else 0.95 + 0.1 * rng.random(color.shape[:2])
    color = color * np.where(np.broadcast_to(ribbon, weave.shape), 1, weave)[..., None]
    wide = rng.uniform(38, 62) * MM * (1.4 if straw else 1)
    a = np.radians(azimuth)
    out = unit((rim - middle) * [1, 0, 1]) * (wide * (1 + 0.12 * abs(np.cos(a))))[:, None]
    steps = np.linspace(0, 1, 9)[:, None]
    curl = rng.uniform(-0.1, 0.35) * np.sin(a) ** 2 - rng.uniform(0.05, 0.3) * np.clip(np.cos(a), 0, 1) ** 2
    wavy = rng.uniform(0, 0.05) * np.sin(2 * a + rng.uniform(0, 6)) + straw * 0.02 * np.sin(5 * a)
    plate = brim(rim, out, wide * (curl + wavy) * steps**1.5, base, 2.5 * MM, True, gloss=0.03)
    speck = 0.75 + 0.4 * rng.random((len(plate.color), 1)) if straw else 1.0
    plate = Surface(plate.vertices, plate.triangles, np.float32(plate.color * speck), 0.03, 0.1)
    return [orient(sheet(grid, color, True, gloss=0.03, soft=0.1), skull.centre), orient(plate, None)]


def make_bike_helmet(skull: Skull, worn: Worn, rng: np.random.Generator) -> list[Surface]:
    """A helmet with vents and straps."""

    def offset(t, azimuth):
        a = np.radians(azimuth)
        return (20 + 9 * np.clip(-np.cos(a), 0, 1) * t + 9 * np.cos(a) ** 2 * np.sin(np.pi * t.clip(0, 1))) * MM * (
            0.55 + 0.45 * smooth_step(0, 0.12, t)
        )  # fmt: skip

    points, t, _ = dome(skull, worn, offset, rows=24)
    away = points[..., 0] - skull.centre[0]
    stripe = abs((away / (21 * MM) + 0.5) % 1 - 0.5) < 0.24
    along = np.sin(np.degrees(np.arctan2(points[..., 2] - skull.centre[2], points[..., 1] - skull.centre[1])) / 15)
    vent = stripe & (along > -0.55) & (t > 0.2) & (abs(away) < 58 * MM)
    shell = np.where((t < 0.16)[..., None], 0.03, worn.cloth)
    shell = np.where((abs(away) < 8 * MM)[..., None], worn.accent, shell)
    points = points - unit(points - skull.centre) * (vent * 9 * MM)[..., None]
    color = np.where(vent[..., None], 0.012, shell)
    return [sheet(points, color, True, gloss=0.5), *chin_straps(skull, worn)]


def chin_straps(skull: Skull, worn: Worn) -> list[Surface]:
    """Two straps a side that meet below the ear, and one under the chin."""
    straps = []
    for side in (-1, 1):
        meet = skull.at(np.array([[-33.0]]), np.array([[side * 78.0]]), 4 * MM)[0, 0]
        for azimuth in (62, 112):
            start = float(rim_elevation(worn, np.array(azimuth)))
            e = np.linspace(start, -33, 9)
            path = skull.at(e[None], side * np.linspace(azimuth, 78, 9)[None], 4 * MM, ears=azimuth > 90)[0]
            path[-1] = meet
            straps.append(tube(path, 1.2 * MM, [0.015] * 3, 6, up=np.array([0, 0, 1.0]), flatness=4))
        e, azimuth = np.linspace(-33, -62, 8), side * np.linspace(78, 0.5, 8)
        path = skull.at(e[None], azimuth[None], 3 * MM)[0]
        straps.append(tube(path, 1.2 * MM, [0.015] * 3, 6, up=np.array([0, 0, 1.0]), flatness=4))
    return [joined(straps)]


def make_hard_hat(skull: Skull, worn: Worn, rng: np.random.Generator) -> list[Surface]:
    """A hard hat with a ridge and a brim."""
    colors = np.float32([[0.78, 0.5, 0.02], [0.75, 0.75, 0.72], [0.75, 0.16, 0.02], [0.03, 0.12, 0.5]])
    color = colors[rng.integers(4)]

    def offset(t, azimuth):
        a = np.radians(azimuth)
        ridge = np.exp(-((np.sin(a) * np.cos(np.radians(t * 80)) / 0.12) ** 2)) + np.exp(-((np.sin(a) / 0.08) ** 2))
        return (16 + 12 * smooth_step(0, 0.25, t) + 3.5 * np.clip(ridge, 0, 1) * smooth_step(0.15, 0.4, t)) * MM

    points, _, azimuth = dome(skull, worn, offset, rows=20)
    rim = points[-3]
    a = np.radians(azimuth[0])
    wide = (9 + 36 * np.clip(np.cos(a), 0, 1) ** 1.5) * MM
    out = unit((rim - rim.mean(0)) * [1, 0, 1]) * wide[:, None]
    steps = np.linspace(0, 1, 5)[:, None]
    plate = brim(rim, out, -0.22 * wide * steps, color, 2.5 * MM, True, gloss=0.6)
    return [sheet(points, color, True, gloss=0.6), orient(plate, None)]


def make_turban(skull: Skull, worn: Worn, rng: np.random.Generator) -> list[Surface]:
    """Bands of cloth wound round the head."""
    spacing = rng.uniform(9, 13)

    def offset(t, azimuth):
        away = abs((azimuth + 180) % 360 - 180)
        # Bands rise from the ears to a point over the forehead.
        phase = (t * 90 + 0.3 * np.clip(away, 0, 130)) / spacing
        fold = abs(np.sin(np.pi * phase)) ** 0.6
        bulk = np.sin(np.pi * np.clip(t, 0, 1) ** 0.7) ** 0.7
        return (7 + 20 * bulk + 5 * fold * smooth_step(1, 0.8, t) + 6 * bulk * np.sin(np.radians(away)) ** 2) * MM

    points, t, azimuth = dome(skull, worn, offset, rows=34, columns=56, ears=True)
    away = abs((azimuth + 180) % 360 - 180)
    fold = abs(np.sin(np.pi * (t * 90 + 0.3 * np.clip(away, 0, 130)) / spacing))
    color = worn.cloth * (0.55 + 0.5 * fold**0.5)[..., None]
    return [sheet(points, color, True, gloss=0.03, soft=0.15)]


def make_headband(skull: Skull, worn: Worn, rng: np.random.Generator) -> list[Surface]:
    """A band round forehead and back."""
    azimuth = np.arange(72) * 5.0
    t = np.array([0.85, 1.0, 1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0, 0, 0.15])[:, None]
    lift = np.array([0.3, 0.5, 3.2, 4.6, 5, 5, 5, 4.6, 3.2, 0.5, 0.3])[:, None] * MM
    t, azimuth = np.broadcast_arrays(t, azimuth)
    points = skull.at(rim_elevation(worn, azimuth) + HEADBAND_DEG * t, azimuth, np.broadcast_to(lift, t.shape), True)
    color = pattern_color(worn.pattern, azimuth / 15, t * 2, worn.cloth, worn.accent)
    return [sheet(points, color, True, gloss=0.02, soft=0.15)]


def make_scarf(canvas, skull, worn, head, rotation, rng) -> list[Surface]:
    """A headscarf or a hood with what falls to the shoulders, in the camera's frame."""
    hood = worn.headwear == "hood"
    rows, columns = 26, 64
    turn = np.arange(columns) * (2 * np.pi / columns)
    s = np.concatenate([[0.04, 0.0], np.linspace(0, 1, rows) ** 1.15])[:, None]
    edge = opening_deg(worn.headwear, turn)
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
    kind = "plain" if worn.pattern == "logo" or hood else worn.pattern
    color = pattern_color(kind, turn * 5 + 0 * s, stripes * 2, worn.cloth, worn.accent)
    color = color * (1 + 0.1 * folds)[..., None]
    over = orient(sheet(points, color, True, gloss=0.03, soft=0.15), skull.centre @ rotation.T)
    azimuth = np.arange(columns) * (360 / columns)
    below = -41 - 15 * np.cos(np.radians(azimuth))
    ring = skull.at(below[None], azimuth[None], 7 * MM, True)[0]
    ring = np.mean([np.roll(ring, k, 0) for k in range(-3, 4)], 0) @ rotation.T
    return [over, drape(canvas, head, ring, worn.cloth, worn.accent, kind, rng, reach_deg=44 if hood else 62)]


# --- face masks and earrings ----------------------------------------------------------------------


def make_mask(skull: Skull, worn: Worn, rng: np.random.Generator) -> list[Surface]:
    """A mask over nose, mouth and chin with loops round the ears."""
    u, v = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(0, 1, 27), indexing="xy")
    reach = 56
    top = -9 - 7 * smooth_step(0.05, 0.5, abs(u)) + rng.uniform(-3, 1)
    low = -56 + 17 * smooth_step(0.35, 1, abs(u))
    narrow = 1 - 0.08 * np.sin(np.pi * v)
    elevation, azimuth = top + (low - top) * v, reach * u * narrow
    steps = ((0, 0), (2, 0), (-2, 0), (0, 3), (0, -3))  # deg; the nose is finer than the map of the skull
    bare = np.max([skull.radius(sphere_directions(elevation + e, azimuth + a)) for e, a in steps], 0)
    # Cloth bridges the hollows between nose, cheeks and chin: the largest chord over them, roughly.
    x = skull.centre + sphere_directions(elevation, azimuth) * bare[..., None]
    depth = x[..., 2].copy()
    for shift in range(1, 9):
        for axis in (0, 1):
            ahead, behind = np.roll(depth, -shift, axis), np.roll(depth, shift, axis)
            chord = (ahead + behind) / 2
            inner = np.zeros_like(depth, bool)
            inner[(slice(shift, -shift), slice(None)) if axis == 0 else (slice(None), slice(shift, -shift))] = True
            depth = np.where(inner & (abs(u) < 0.95), np.maximum(depth, chord), depth)
    x[..., 2] = depth
    x = cv2.GaussianBlur(x.astype(np.float32), (0, 0), 1.0, borderType=cv2.BORDER_REPLICATE)
    x[..., 2] = np.maximum(x[..., 2], depth)
    pleats = np.sin(v * np.pi * 6) * (worn.mask == "surgical") * smooth_step(1, 0.6, abs(u))
    lift = 3.2 * MM + 0.9 * MM * pleats
    points = x + unit(x - skull.centre) * lift[..., None]
    edge = (v < 0.02) | (v > 0.98) | (abs(u) > 0.98)
    points -= unit(x - skull.centre) * (2.2 * MM * edge)[..., None]
    base = np.float32([[0.30, 0.52, 0.66], [0.75, 0.75, 0.75], [0.02, 0.02, 0.02]])[rng.choice(3, p=(0.6, 0.25, 0.15))]
    if worn.mask == "cloth":
        base = worn.cloth
    color = base * (1 - 0.12 * np.clip(pleats, 0, 1))[..., None] * np.where(edge, 0.9, 1)[..., None]
    loops = []
    for side in (-1, 1):
        for e0, e1 in ((elevation[1, -1], 3.0), (elevation[-2, -1], -22.0)):
            e, a = np.linspace(e0, e1, 7), side * np.linspace(reach - 1, 97, 7)
            path = skull.at(e[None], a[None], 1.5 * MM)[0]
            loops.append(tube(path, 1.1 * MM, [0.7, 0.7, 0.7], 5))
    return [sheet(points, color, gloss=0.02, soft=0.25), joined(loops)]


def ear_lobes(canvas: Canvas, head: np.ndarray) -> np.ndarray:
    """The lobes of both ears (2, 3): the subject's left, then right."""
    lobes = []
    for side in (1, -1):
        ear = (canvas.masks["ears"] > 0.9) & (canvas.canonical[:, 0] * side > 0)
        index = np.nonzero(ear)[0]
        low = index[np.argsort(canvas.canonical[index, 1] - 0.3 * canvas.canonical[index, 2], kind="stable")[:24]]
        outer = low[np.argsort(-side * canvas.canonical[low, 0], kind="stable")[:6]]
        lobes.append(head[outer].mean(0))
    return np.array(lobes)


def make_earrings(canvas: Canvas, worn: Worn, head: np.ndarray, rng: np.random.Generator) -> list[Surface]:
    """Studs, rings or drops at the lobes."""
    size, parts = rng.uniform(0.7, 1.3), []
    gem = rng.uniform(0.2, 0.8, 3) if rng.random() < 0.4 else worn.metal
    radius, facing = rng.uniform(7, 20) * MM, rng.uniform(0.6, 1.3)
    sides = (0, 1) if worn.earrings != "stud" or rng.random() < 0.85 else (int(rng.integers(2)),)
    for k in sides:
        side, lobe = 1 - 2 * k, ear_lobes(canvas, head)[k]
        lobe = lobe + [side * 1.2 * MM, 1 * MM, 0]
        if worn.earrings == "stud":
            parts.append(ball(lobe, 2.3 * MM * size, gem, 10, gloss=1.5))
        elif worn.earrings == "ring":
            turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
            plane = np.array([side * np.sin(facing) * 0.5, 0, np.cos(facing * 0.5)])
            path = lobe + radius * (np.sin(turn)[:, None] * plane + (np.cos(turn)[:, None] - 1) * [0, 1, 0])
            parts.append(tube(path, 1.0 * MM * size, worn.metal, 7, closed=True, gloss=1.8))
        else:
            length = rng.uniform(9, 30) * MM
            parts.append(ball(lobe, 1.8 * MM, worn.metal, 8, gloss=1.5))
            parts.append(tube(np.linspace(lobe, lobe - [0, length, 0], 4), 0.6 * MM, worn.metal, 5, gloss=1.5))
            drop = ball(np.zeros(3), 4.2 * MM * size, gem, 10, gloss=1.5)
            parts.append(moved(drop, np.diag([1, 1.5, 1]), lobe - [0, length + 3 * MM, 0]))
    return [joined(parts)]


# --- glasses --------------------------------------------------------------------------------------


def lens_outline(frame: str, rng: np.random.Generator, count: int = 40) -> np.ndarray:
    """Outline of one lens (count, 2), right and up in units of its half width; the nose is on the left."""
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    power, ratio = {
        "rectangle": (rng.uniform(3, 5), rng.uniform(0.58, 0.75)),
        "round": (2.0, rng.uniform(0.92, 1.0)),
        "panto": (rng.uniform(2.2, 2.7), rng.uniform(0.8, 0.92)),
        "aviator": (2.3, rng.uniform(0.85, 0.95)),
        "cat-eye": (2.8, rng.uniform(0.66, 0.8)),
        "half-rim": (rng.uniform(3, 4), rng.uniform(0.55, 0.68)),
        "rimless": (rng.uniform(2.4, 3.5), rng.uniform(0.6, 0.75)),
    }[frame]
    c, s = np.cos(turn), np.sin(turn)
    x, y = np.sign(c) * abs(c) ** (2 / power), ratio * np.sign(s) * abs(s) ** (2 / power)
    if frame == "aviator":  # a drop that hangs outwards
        y = y - 0.16 * np.clip(-y, 0, 1) * (0.6 + x)
        x = x * (1 + 0.1 * y) + 0.05
    if frame == "panto":
        x = x * (1 + 0.12 * y)
    if frame == "cat-eye":
        y = y + (0.32 * np.clip(x, 0, 1) ** 2 + 0.08 * x) * smooth_step(-0.3, 0.6, y / ratio)
    return np.stack([x, y], 1)


def make_glasses(canvas: Canvas, worn: Worn, skull: Skull, head: np.ndarray, rng: np.random.Generator) -> list[Surface]:
    """Frame and lenses in the head's frame, resting on the nose and the ears."""
    points = head[canvas.model.face_vertex_idx]
    landmarks = points[canvas.model.landmark_idx]
    right, left = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    across = unit(left - right)
    tilt = np.radians(rng.uniform(5, 10))  # lenses lean forward at the top
    up = np.array([0, np.cos(tilt), np.sin(tilt)])
    up = unit(up - across * (up @ across))
    forward = np.cross(across, up)
    metal = worn.frame in ("aviator", "half-rim", "rimless") or worn.frame_color.max() > 0.5
    bar = rng.uniform(0.9, 1.2) * MM if metal else rng.uniform(1.5, 2.6) * MM
    middle = (right + left) / 2
    # The nose's own width decides how near the lenses may come to each other.
    outer = abs((landmarks[16] - landmarks[0]) @ across) / 2 * rng.uniform(0.84, 0.93)
    inner = rng.uniform(8.5, 10.5) * MM
    if worn.glasses == "dark":
        outer *= 1.05
    half = (outer - inner) / 2 * (0.9 if worn.frame == "round" else 1)
    outline = lens_outline(worn.frame, rng) * half
    drop = rng.uniform(1, 4) * MM + 0.12 * half * (worn.frame == "aviator")

    # Where the frame stands: in the lens's plane (a, b), its depth follows a gentle curve round the face.
    def place(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        wrap = 0.10 * np.clip(abs(a) - inner, 0, None) + abs(a) ** 2 / (900 * MM)
        return middle + a[..., None] * across + (b - drop)[..., None] * up - wrap[..., None] * forward

    lenses = {side: place(side * (inner + half + outline[:, 0]), outline[:, 1]) for side in (-1, 1)}
    # They clear the face, whose depth is looked up on a grid, and the nose carries the bridge.
    frame_points = np.concatenate([lens + (lens.mean(0) - lens) * k for lens in lenses.values() for k in (0, 0.5)])
    ahead = clearance(points - middle, frame_points - middle, np.stack([across, up, forward]), 11 * MM)
    saddle = max(landmarks[27] @ forward, ((landmarks[27] + landmarks[28]) / 2) @ forward) - middle @ forward
    ahead = max(ahead + bar - 1.0 * MM, saddle + 0.5 * MM)
    shift = ahead * forward

    ear_top = {1: None, -1: None}
    ears = canvas.masks["ears"] > 0.5
    for side in (1, -1):
        ear = head[ears & (canvas.canonical[:, 0] * side > 0)]
        ear_top[side] = np.array([
            side * np.quantile(side * ear[:, 0], 0.35), np.quantile(ear[:, 1], 0.93), np.quantile(ear[:, 2], 0.5)
        ])  # fmt: skip
    rims, bars, panes = [], [], []
    deep = 1.0 if metal else rng.uniform(1.1, 1.7)
    for side in (-1, 1):
        rim = lenses[side] + shift
        if worn.frame == "half-rim":
            rims.append(tube(rim[np.arange(-1, 22)], bar, worn.frame_color, 6, up=forward, flatness=deep, gloss=0.8))
        elif worn.frame != "rimless":
            rims.append(tube(rim, bar, worn.frame_color, 6, closed=True, up=forward, flatness=deep, gloss=0.8))
        panes.append(make_lens(rim, forward, worn, rng))
        # Temples: from the upper outer corner back over the ear, then down behind it.
        corner = rim[(outline[:, 0] - half) ** 2 + (outline[:, 1] - 0.45 * half) ** 2 ==
                     ((outline[:, 0] - half) ** 2 + (outline[:, 1] - 0.45 * half) ** 2).min()][0]  # fmt: skip
        ear = ear_top[side] + [0, 1.5 * MM, 0]
        hinge = corner + side * across * (2.5 * MM + bar) - forward * 3 * MM
        path = np.stack([
            corner, hinge, hinge + (ear - hinge) * 0.35 + side * across * 3 * MM,
            hinge + (ear - hinge) * 0.75 + side * across * 2 * MM, ear, ear + [-side * 1 * MM, -9 * MM, -16 * MM],
            ear + [-side * 3 * MM, -26 * MM, -22 * MM],
        ])  # fmt: skip
        path = smooth_path(path, 22)
        before_ear = np.arange(len(path)) < 14
        path = np.where(before_ear[:, None], outside(skull, path[None], 2.2 * MM)[0], path)
        thick = bar * np.where(before_ear, 1, 0.8)
        bars.append(
            tube(path, thick, worn.frame_color, 6, up=np.array([0, 1.0, 0.3]), flatness=1 if metal else 1.8, gloss=0.8)
        )
    start, end = (lenses[side][np.argmin((lenses[side] - middle) @ across * side - 0.35 * (lenses[side] - middle) @ up)]
                  + shift for side in (-1, 1))  # fmt: skip
    arch = np.array([start, (start + end) / 2 + up * 2.2 * MM + forward * 1.5 * MM, end])
    bars.append(tube(smooth_path(arch, 9), bar, worn.frame_color, 6, up=forward, gloss=0.8))
    if worn.frame == "aviator":
        high = [
            lenses[side][
                np.argmin(
                    abs((lenses[side] - middle) @ across * side - inner - 0.35 * half)
                    - 0.2 * (lenses[side] - middle) @ up
                )
            ]
            + shift
            for side in (-1, 1)
        ]
        bars.append(tube(np.linspace(*high, 6), bar, worn.frame_color, 6, up=forward, gloss=0.8))
    if metal:  # nose pads
        for side in (-1, 1):
            pad = landmarks[28] * 0.6 + landmarks[27] * 0.4 + side * across * 6.5 * MM - forward * 1.0 * MM
            bars.append(ball(pad, 2.2 * MM, [0.5, 0.48, 0.45], 8, gloss=0.8))
    return [joined(rims + bars), joined(panes)]


def make_lens(rim: np.ndarray, forward: np.ndarray, worn: Worn, rng: np.random.Generator) -> Surface:
    """A slightly bulging pane inside a rim (N, 3)."""
    middle = rim.mean(0)
    scale = np.array([1, 0.75, 0.5, 0.25, 0.01])[:, None, None]
    grid = middle + (rim - middle) * scale + forward * 2.0 * MM * (1 - scale**2)
    height = (grid[..., 1] - middle[1]) / np.ptp(rim[:, 1])
    dark = worn.glasses == "dark"
    color = (
        worn.lens_color * (1 + 0.8 * np.clip(0.3 - height, 0, 1))[..., None] if dark else np.float32([0.7, 0.76, 0.8])
    )
    alpha = 0.9 if dark else 0.07
    return orient(sheet(grid, color, True, gloss=1.5 if dark else 0.8, alpha=alpha), middle - forward * 1e5)
