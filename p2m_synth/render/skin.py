"""The colour and the relief of skin, lips, eyes, teeth: what is painted, not grown.

Fine marks (wrinkles, freckles, moles) are drawn into small pictures of the unrolled face and looked up at the visible
points.
"""

from __future__ import annotations

from functools import cache

import cv2
import numba
import numpy as np

from p2m_core.geometry.rasterizer import normalized
from p2m_synth.appearance import SKIN, Appearance
from p2m_synth.hair.growth import grayed
from p2m_synth.head.asset import PARTS
from p2m_synth.head.head_mesh import HeadMesh, azimuth_deg, load_head_mesh
from p2m_synth.scene.elements import float32
from p2m_synth.scene.primitives import smooth_step

# The unrolled face: azimuth -120 to 120 degrees, heights of the mean head in dm.
WIDTH_PX, HEIGHT_PX, TOP_DM, PX_PER_DM, PX_PER_DEG = 560, 336, 8.3, 140, 7 / 3
_PIGMENT, _CREASE = (0.45, 0.6, 0.68), (0.34, 0.42, 0.42)  # how much of red, green, blue marks and wrinkles take
RELIEF_MM = 1.1  # depth of the deepest wrinkle
# Biting edges of the teeth on the mean head, the centre of their arch, and how many there are.
TEETH_EDGE_DM, ARCH_CENTRE_Z_DM, TEETH_PER_RAD = {"upper_teeth": 6.669, "lower_teeth": 6.675}, 0.95, 18.5 / np.pi


def to_marks_px(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places on the mean head (..., 3), dm -> column and row in the unrolled face."""
    return (azimuth_deg(points) + 120) * np.float32(PX_PER_DEG), (TOP_DM - points[..., 1]) * np.float32(PX_PER_DM)


def look_up(picture: np.ndarray, column: np.ndarray, row: np.ndarray, wrap: bool = False) -> np.ndarray:
    """Bilinear values (P, ...) of a picture at columns and rows (P,); 0 outside, or repeating."""
    # remap takes maps of at most 32767 columns, so the points are laid out in rows.
    count, width = len(column), 1024
    rows = max(1, -(-count // width))
    grid = np.zeros((2, rows * width), np.float32)
    grid[0, :count], grid[1, :count] = column, row
    if wrap:
        for places, edge in zip(grid, picture.shape[1::-1]):
            places -= (edge - 1) * np.floor(places / (edge - 1))
    at = grid.reshape(2, rows, width)
    found = cv2.remap(picture, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return found.reshape(rows * width, *picture.shape[2:])[:count]


def blend(color: np.ndarray, over: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`over` on `color` (P, 3) with opacity (P,)."""
    return color + (float32(over) - color) * float32(alpha)[:, None]


# --- marks ----------------------------------------------------------------------------------------


@cache
def rounding(count: int) -> np.ndarray:
    """Weights (13, N) of N points in those of a curve through them with round corners."""
    t = np.linspace(0, count - 1, 13)
    weights = np.maximum(1 - abs(t[:, None] - np.arange(count)), 0)
    weights[1:-1] = (weights[:-2] + 2 * weights[1:-1] + weights[2:]) / 4
    return weights


class Pen:
    """Draws antialiased lines and dots, given in dm on the mean head, into a picture of the unrolled face."""

    def __init__(self, rng: np.random.Generator):
        self.picture, self.rng = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8), rng

    def line(self, points: np.ndarray, strength: float, width_dm: float) -> None:
        """A hand-drawn curve through points (N, 3): it wavers, and fades at its ends."""
        if strength < 0.02:
            return
        path = rounding(len(points)) @ points
        path[:, :2] += np.cumsum(self.rng.normal(0, 0.0025, (len(path), 2)), 0)
        at = np.stack(to_marks_px(path), 1)
        low = np.clip(at.min(0).astype(int) - 6, 0, None)
        target = self.picture[low[1] : int(at[:, 1].max()) + 8, low[0] : int(at[:, 0].max()) + 8]
        if not target.size:  # beyond the unrolled part
            return
        stroke = np.zeros_like(target)
        width = width_dm * PX_PER_DM
        for cut, share in ((0, 0.45), (2, 0.75), (4, 1.0)):
            line = ((at[cut : len(at) - cut] - low) * 8).astype(np.int32)
            cv2.polylines(
                stroke, [line], False, int(255 * min(strength, 1) * share), max(1, round(width * share)), cv2.LINE_AA, 3
            )
        np.maximum(target, stroke, out=target)

    def dot(self, place: np.ndarray, radius_dm: float, strength: float) -> None:
        """A round spot."""
        column, row = to_marks_px(place)
        cv2.circle(
            self.picture, (int(column * 8), int(row * 8)), max(2, int(radius_dm * PX_PER_DM * 8)),
            int(np.clip(255 * strength, 0, 255)), -1, cv2.LINE_AA, 3,
        )  # fmt: skip


def draw_wrinkles(pen: Pen, head_mesh: HeadMesh, age: float, units: dict[str, float], rng: np.random.Generator) -> None:
    """Lines of age, deeper where the expression folds the skin."""
    landmark = head_mesh.landmarks
    old = float(smooth_step(0.45, 1.0, np.float32(age)))

    def strength(own: float, *names: str) -> float:
        folded = max((units.get(name, 0.0) for name in names), default=0.0)
        return float(np.clip(own * rng.uniform(0.5, 1.2) + (0.25 + 0.6 * old) * folded * rng.uniform(0.5, 1.1), 0, 1))

    forehead = strength(0.85 * old * rng.random(), "browInnerUp", "browOuterUpLeft", "browOuterUpRight")
    for k in range(rng.integers(2, 6) if forehead > 0.08 else 0):
        height = landmark[19, 1] + 0.16 + 0.09 * k + rng.normal(0, 0.012)
        half = rng.uniform(0.16, 0.36)
        x = np.linspace(-half, half, 9) + rng.normal(0, 0.03)
        arch = height - 0.10 * x**2 + rng.normal(0, 0.006, 9)
        pen.line(np.stack([x, arch, 1.5 - 0.75 * x**2], 1), forehead * rng.uniform(0.5, 1), 0.014)
    frown = strength(0.6 * old * rng.random(), "browDownLeft", "browDownRight")
    for side in (-1, 1):
        middle = (landmark[21] + landmark[22]) / 2
        if frown > 0.08:
            x = side * rng.uniform(0.035, 0.06)
            pen.line(np.array([[x, middle[1] - 0.05, 1.5], [1.1 * x, middle[1] + 0.11, 1.5]]), frown, 0.016)
        mirror = np.array([-side, 1, 1])  # landmarks 31, 36, 39, 48 lie on the subject's right, x < 0
        ala, corner, outer, inner = (landmark[k] * mirror for k in (31, 48, 36, 39))
        fold = strength(0.9 * old, "mouthSmileLeft", "cheekSquintLeft", "noseSneerLeft", "mouthUpperUpLeft")
        out = np.array([side * -1.0, 0, 0]) * -1
        path = [ala + out * 0.05 + [0, 0.05, 0], ala + out * 0.12 + [0, -0.06, 0], corner + out * 0.12 + [0, 0.06, 0],
                corner + out * 0.10 + [0, -0.05, 0]]  # fmt: skip
        pen.line(np.array(path), fold, 0.024)
        pen.line(np.array(path[:3]), 0.6 * fold, 0.05)
        if (mouth := strength(0.7 * old * rng.random(), "mouthFrownLeft")) > 0.05:
            path = [(0.03, 0, 0), (0.05, -0.09, -0.02), (0.06, -0.2, -0.05)]
            pen.line(np.array([corner + out * x + [0, y, z] for x, y, z in path]), mouth, 0.02)
        feet = strength(0.8 * old, "cheekSquintLeft", "eyeSquintLeft")
        for lift in rng.normal([0.35, 0.12, -0.12, -0.35], 0.06):
            length = rng.uniform(0.07, 0.17)
            start = outer + out * 0.055 + np.array([0, 0.09 * lift, -0.05])
            pen.line(np.array([start, start + [out[0] * length, lift * length, -0.8 * length]]), feet, 0.011)
        bag = strength(0.75 * old, "cheekSquintLeft", "eyeSquintLeft")
        for drop in (0.075, 0.125)[: 1 + int(rng.random() < old)]:
            middle = (inner + outer) / 2 + [0, -drop - 0.05, 0.02]
            path = np.array([inner + [0, -0.5 * drop, 0], middle, outer + [0, -0.7 * drop, 0]])
            pen.line(path, 0.7 * bag, 0.018)
    for k in range(rng.integers(0, 3)):
        height = 6.06 - 0.09 * k + rng.normal(0, 0.02)
        x = np.linspace(-0.35, 0.35, 7)
        pen.line(np.stack([x, height + 0.05 * x**2, np.full(7, 0.95)], 1), (0.15 + 0.6 * old) * rng.random(), 0.016)


def draw_pigment(pen: Pen, head_mesh: HeadMesh, look: Appearance, rng: np.random.Generator) -> None:
    """Freckles, moles, spots of age."""
    landmark = head_mesh.landmarks
    if look.freckles:
        count = int(260 * look.freckles)
        x, y = rng.normal(0, 0.33, count), rng.normal(landmark[28, 1], 0.15, count)
        sizes, strengths = rng.uniform(0.005, 0.014, count), rng.uniform(0.15, 0.6, count)
        for place, size, strength in zip(np.stack([x, y, 1.45 - 0.9 * x**2], 1), sizes, strengths):
            pen.dot(place, size, strength)
    places = head_mesh.canonical[head_mesh.face_idx]
    for _ in range(rng.poisson(1.6)):
        pen.dot(places[rng.integers(len(places))], rng.uniform(0.008, 0.02), rng.uniform(0.6, 1))
    for _ in range(rng.poisson(14 * float(smooth_step(0.7, 1, np.float32(look.age))))):
        pen.dot(places[rng.integers(len(places))], rng.uniform(0.01, 0.05), rng.uniform(0.08, 0.3))
    for _ in range(rng.poisson(look.blemishes)):
        pen.dot(places[rng.integers(len(places))], rng.uniform(0.008, 0.02), rng.uniform(0.1, 0.3))


def draw_marks(head_mesh: HeadMesh, look: Appearance, units: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """The unrolled face (H, W, 4): pigment, wrinkles, and the slope of the relief along azimuth and downwards.

    units: strength of each expression unit by name.
    """
    pigment, wrinkle = Pen(rng), Pen(rng)
    draw_pigment(pigment, head_mesh, look, rng)
    draw_wrinkles(wrinkle, head_mesh, look.age, units, rng)
    depth = cv2.GaussianBlur(wrinkle.picture, (0, 0), 0.9)
    scale = RELIEF_MM / 255 * PX_PER_DM / 100 / 8
    slope = [cv2.Sobel(depth, cv2.CV_32F, dx, 1 - dx, scale=scale) for dx in (1, 0)]
    dark = [cv2.GaussianBlur(pigment.picture, (0, 0), 0.6), depth]
    return cv2.merge([*(picture.astype(np.float32) / 255 for picture in dark), *slope])


# --- skin -----------------------------------------------------------------------------------------


def tone(melanin: float, rng: np.random.Generator) -> np.ndarray:
    """Reflectance (3,) of bare skin."""
    step = melanin * (len(SKIN) - 1)
    low = min(int(step), len(SKIN) - 2)
    base = SKIN[low] + (SKIN[low + 1] - SKIN[low]) * (step - low)
    warmth = rng.normal(0, 0.03)
    return float32(base * [1 + warmth, 1, 1 - 1.6 * warmth] * rng.uniform(0.93, 1.05))


def skin_color(
    head_mesh: HeadMesh, look: Appearance, base: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Reflectance (m, 3) and gloss (m,) of the skin at the head's vertices: tone, blood, make-up, lips.

    base: (3,) of bare skin.
    """
    mask, color = head_mesh.masks, np.tile(base, (len(head_mesh.canonical), 1))
    blood = np.clip(mask["red"] * look.redness * (1 - 0.75 * look.melanin), 0, 1)
    color *= 1 - blood[:, None] * float32([-0.03, 0.24, 0.22])
    color *= 1 - (look.eye_rings * mask["rings"])[:, None] * float32([0.22, 0.25, 0.17])
    if look.eye_shadow:
        lid = np.maximum(mask["lids"] * (head_mesh.canonical[:, 1] > head_mesh.landmarks[36, 1] - 0.02), mask["shadow"])
        color = blend(color, look.eye_shadow_color, lid * look.eye_shadow)
    else:
        color *= 1 - (rng.uniform(0, 0.45) * mask["lids"])[:, None]
    color *= 1 - (rng.uniform(0, 0.3) * mask["shadow"])[:, None]
    color *= 1 - (min(rng.uniform(0.15, 0.65) + 0.4 * look.mascara, 0.9) * mask["fold"])[:, None]
    color = blend(color, base * float32([1.05, 0.62, 0.62]), mask["blush"] * look.blush)
    lips = np.clip(mask["lips"] * 1.15, 0, 1)
    natural = base * float32([rng.uniform(0.72, 0.95), rng.uniform(0.48, 0.68), rng.uniform(0.5, 0.72)])
    lip = natural + (look.lipstick_color - natural) * look.lipstick
    color = blend(color, lip, lips * (0.8 + 0.2 * (look.lipstick > 0)))
    gloss = look.oil * mask["oil"] + lips * (0.12 + 0.6 * look.lip_gloss)
    return float32(color), float32(gloss)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _detail(color, gloss, bearded, cover, grain, marks, roughness, stubble, hair, beard, slope):
    for p in range(len(color)):
        fine = grain[p, 0]
        rough = 1 + roughness * (0.020 * fine + 0.022 * grain[p, 1] + 0.03 * grain[p, 2])
        pigment, wrinkle = marks[p, 0], marks[p, 1]
        # Stubble: dark points where a beard would grow, bluish as they lie under the skin.
        dots = min(0.9, max(0.0, bearded[p] * stubble * min(1.3, max(0.0, 0.75 + 0.3 * fine))))
        ground = min(1.0, max(0.0, cover[p] * (0.92 + 0.12 * fine)))
        for c in range(3):
            value = color[p, c] * rough * (1 - _PIGMENT[c] * pigment) * (1 - _CREASE[c] * wrinkle)
            value += (0.8 * beard[c] + 0.012 + 0.003 * c - value) * dots
            color[p, c] = value + (hair[c] * (0.8 + 0.3 * fine) - value) * ground
        gloss[p] *= max(0.0, 1 + 0.25 * fine) * (1 - 0.5 * wrinkle) * (1 - ground)
        slope[p, 0], slope[p, 1] = marks[p, 2], marks[p, 3]


def skin_detail(
    look: Appearance, marks: np.ndarray, points: np.ndarray, values: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blotches, marks, stubble and shorn hair, too fine for vertices.

    Args:    marks: of `draw_marks`.   points: (P, 3) on the mean head, dm.
             values: (P, 7) there: reflectance, gloss (of `skin_color`), -, where a beard grows, the hair's ground.
    Returns: reflectance (P, 3), gloss (P,), slope (P, 2) of the relief along azimuth and downwards.
    """
    angle, height, offset = azimuth_deg(points), points[:, 1], rng.uniform(0, 500, 2).astype(np.float32)
    grain = look_up(noise_layers(), angle * np.float32(2.8) + offset[0], height * 200 + offset[1], wrap=True)
    found = look_up(marks, (angle + 120) * np.float32(PX_PER_DEG), (TOP_DM - height) * np.float32(PX_PER_DM))
    color, gloss, slope = values[:, :3].copy(), values[:, 3].copy(), np.empty((len(points), 2), np.float32)
    hair, beard = grayed(look.hair_color, look.hair.gray), grayed(look.natural_color, look.beard.gray)
    strengths = np.float32(look.roughness), np.float32(look.beard.stubble), np.float32(hair), np.float32(beard)
    _detail(color, gloss, values[:, 5], values[:, 6], grain, found, *strengths, slope)
    return color, gloss, slope


@cache
def noise_layers() -> np.ndarray:
    """The head mesh's noise, (512, 512, 3)."""
    return np.ascontiguousarray(load_head_mesh().noise.transpose(1, 2, 0))


# --- eyes, mouth ----------------------------------------------------------------------------------


def eye_color(look: Appearance, points: np.ndarray, axis: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reflectance (P, 3) of eyeballs at places (P, 3) about their centres, where they look along `axis` (P, 3)."""
    direction, axis = normalized(float32(points)), float32(axis)
    angle = np.degrees(np.arccos(np.clip((direction * axis).sum(1), -1, 1)))
    offset = direction - axis
    around = np.arctan2(offset[:, 1], offset[:, 0])
    edge = look.iris_deg
    phase = rng.uniform(0, 6, 3)
    fibres = 1 + 0.22 * np.sin(around * 41 + phase[0] + 2 * np.sin(around * 9 + phase[1])) * smooth_step(8, 16, angle)
    veins = look_up(noise_layers(), around * 60 + phase[2] * 50, angle * 5, wrap=True)[:, 1]
    veins = np.clip(veins, 0, 2) * smooth_step(26, 45, angle)
    white = float32([0.58, 0.55, 0.53]) * (1 - 0.2 * look.melanin * float32([0.2, 0.4, 1]))
    color = white * (1 - smooth_step(28, 62, angle)[:, None] * float32([0.08, 0.3, 0.32]))
    color = color * (1 - look.red_eyes * veins[:, None] * float32([0.03, 0.3, 0.3]))
    ring = 1 - 0.75 * smooth_step(edge - 6.5, edge - 0.5, angle)
    inner = 1 + 0.5 * smooth_step(0.62 * edge, 0.4 * edge, angle) * np.float32(1 - look.melanin)
    color = blend(color, look.iris * (fibres * ring * inner)[:, None], smooth_step(edge + 1, edge - 1.2, angle))
    color = blend(color, np.full(3, 0.004), smooth_step(look.pupil_deg + 1, look.pupil_deg - 1, angle))
    # The upper lid keeps light off the upper part of the eye.
    return float32(color * (0.42 + 0.58 * smooth_step(0.36, -0.07, direction[:, 1]))[:, None])


def mouth_color(part: np.ndarray, points: np.ndarray, teeth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reflectance (P, 3), gloss (P,) and openness to the sky (P,) of teeth, gums, tongue and cavities.

    part: (P,) index in PARTS.   points: (P, 3) on the mean head, dm.
    teeth: (3,) reflectance of the teeth.
    """
    color, gloss = np.tile(float32([0.10, 0.025, 0.024]), (len(part), 1)), np.full(len(part), 0.05, np.float32)
    tongue = part == PARTS.index("tongue")
    openness = np.full(len(part), 0.12, np.float32)
    color[tongue], gloss[tongue], openness[tongue] = [0.40, 0.13, 0.12], 0.25, 0.35
    for name, sign in (("upper_teeth", 1), ("lower_teeth", -1)):
        at = part == PARTS.index(name)
        if not at.any():
            continue
        place = points[at]
        height = sign * (place[:, 1] - TEETH_EDGE_DM[name])
        arc = np.arctan2(place[:, 0], place[:, 2] - ARCH_CENTRE_Z_DM)
        gaps = smooth_step(0.9, 1.0, np.abs(np.cos(np.pi * arc * TEETH_PER_RAD)))
        enamel = teeth * (1 - 0.25 * gaps)[:, None] * (1 - 0.3 * smooth_step(0.35, 0.9, np.abs(arc)))[:, None]
        color[at] = blend(enamel, float32([0.42, 0.13, 0.12]), smooth_step(0.075, 0.095, height))
        gloss[at], openness[at] = 0.5, 0.9
    return color, gloss, openness
