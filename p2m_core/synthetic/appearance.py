"""How a person looks: the drawn attributes, and the colour of each point of the head."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from p2m_core.synthetic.canvas import Canvas, azimuth_deg, smooth_step
from p2m_core.synthetic.head import PARTS
from p2m_core.synthetic.identity import Identity

# Linear RGB reflectances from the lightest to the darkest skin, and of hair and irises with their shares.
SKIN = np.array(
    [[0.84, 0.60, 0.49], [0.74, 0.49, 0.36], [0.58, 0.35, 0.235], [0.39, 0.215, 0.13], [0.20, 0.105, 0.065],
     [0.105, 0.055, 0.037]],
    np.float32,
)  # fmt: skip
HAIR = np.array(
    [[0.014, 0.011, 0.010], [0.05, 0.03, 0.018], [0.12, 0.065, 0.035], [0.25, 0.15, 0.075], [0.45, 0.32, 0.18],
     [0.28, 0.095, 0.035], [0.36, 0.35, 0.34], [0.6, 0.58, 0.56]],
    np.float32,
)  # fmt: skip
HAIR_SHARE = np.array([0.34, 0.22, 0.15, 0.09, 0.06, 0.04, 0.05, 0.05])
IRIS = np.array(
    [[0.055, 0.028, 0.014], [0.12, 0.06, 0.025], [0.10, 0.10, 0.04], [0.10, 0.16, 0.22], [0.16, 0.20, 0.20]], np.float32
)


@dataclass(frozen=True)
class Appearance:
    """One person's look. melanin: 0 lightest to 1 darkest; hair: bald, short, medium or long; beard: 0 to 1."""

    melanin: float
    woman: bool
    age: float
    hair: str
    hair_color: np.ndarray
    hairline_shift_dm: float
    beard: float
    brow_strength: float
    lipstick: float
    iris: np.ndarray
    glasses: str


def draw_appearance(rng: np.random.Generator, identity: Identity) -> Appearance:
    """Looks that go with a person's age, gender and ancestry."""
    woman = bool(identity.gender + rng.normal(0, 0.12) > 0.5)
    tone = identity.ancestry @ [rng.uniform(0.5, 1), rng.uniform(0.08, 0.5), rng.uniform(0, 0.35)]
    melanin = float(np.clip(tone + rng.normal(0, 0.04), 0, 1))
    share = HAIR_SHARE.copy()
    if identity.age > 0.75:
        share[-2:] *= 6
    if melanin > 0.5:
        share[2:6] *= 0.1
    hair_color = HAIR[rng.choice(len(HAIR), p=share / share.sum())] * np.float32(rng.uniform(0.8, 1.25))
    styles = ("bald", "short", "medium", "long")
    hair = rng.choice(styles, p=(0.02, 0.16, 0.30, 0.52) if woman else (0.12, 0.52, 0.28, 0.08))
    bearded = not woman and identity.age > 0.45
    return Appearance(
        melanin=melanin,
        woman=woman,
        age=identity.age,
        hair=str(hair),
        hair_color=hair_color,
        hairline_shift_dm=rng.uniform(-0.06, 0.12) if hair == "short" else rng.uniform(-0.22, 0.1),
        beard=float(rng.choice([0, rng.uniform(0.05, 0.35), rng.uniform(0.4, 0.9)], p=(0.4, 0.36, 0.24)))
        if bearded
        else 0.0,
        brow_strength=rng.uniform(0.35, 0.95),
        lipstick=rng.uniform(0.3, 0.8) if woman and rng.random() < 0.4 else 0.0,
        iris=IRIS[rng.choice(5, p=(0.42, 0.25, 0.10, 0.13, 0.10) if melanin < 0.45 else (0.85, 0.13, 0.02, 0, 0))],
        glasses=str(rng.choice(["none", "clear", "dark"], p=(0.85, 0.11, 0.04))),
    )


def sample_noise(canvas: Canvas, layer: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Wrapping noise at texture px (P,)."""
    texture, size = canvas.noise[layer], canvas.noise.shape[1]
    # remap takes maps of at most 32767 columns, so the points are laid out in rows.
    count, width = len(u), 1024
    rows = max(1, -(-count // width))
    grid = np.zeros((2, rows * width), np.float32)
    grid[0, :count], grid[1, :count] = u % (size - 1), v % (size - 1)
    mapped = cv2.remap(texture, grid[0].reshape(rows, width), grid[1].reshape(rows, width), cv2.INTER_LINEAR)
    return mapped.reshape(-1)[:count]


def blob(points: np.ndarray, x: float, y: float, width: float, height: float) -> np.ndarray:
    """A soft spot on the front of the face (P,)."""
    across, along = (points[:, 0] - x) / width, (points[:, 1] - y) / height
    return np.exp(-(across**2) - along**2) * np.float32(points[:, 2] > 0.6)


def blend(color: np.ndarray, over: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`over` on `color` (P, 3) with opacity (P,)."""
    return color + (np.float32(over) - color) * np.float32(alpha)[:, None]


def brow_density(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Opacity (P,) of both eyebrows: an arch from the nose outwards, thick inside, thin outside."""
    arch, lift, thickness = rng.uniform(0.02, 0.06), rng.uniform(-0.03, 0.02), rng.uniform(0.022, 0.042)
    side = abs(points[:, 0])
    t = (side - 0.11) / (0.54 - 0.11)
    centre = 7.455 + lift + arch * np.sin(np.clip(t, 0, 1) * 2.4) - 0.06 * np.clip(t, 0, 2) ** 3
    across = (points[:, 1] - centre) / (thickness * (1.15 - 0.6 * np.clip(t, 0, 1)))
    ends = smooth_step(-0.06, 0.08, t) * smooth_step(1.08, 0.85, t)
    return np.exp(-(across**2) * 1.2) * ends * (points[:, 2] > 0.9)


def skin_color(
    canvas: Canvas, look: Appearance, points: np.ndarray, masks: dict, rng: np.random.Generator
) -> np.ndarray:
    """Reflectance of skin, lips, brows, beard and shorn hair at canonical points (P, 3) -> (P, 3)."""
    step = look.melanin * (len(SKIN) - 1)
    low = min(int(step), len(SKIN) - 2)
    base = SKIN[low] + (SKIN[low + 1] - SKIN[low]) * (step - low)
    base = np.float32(base * rng.uniform(0.93, 1.07, 3))
    angle, height, offset = azimuth_deg(points), points[:, 1], rng.uniform(0, 500, 2)
    fine = sample_noise(canvas, 0, angle * 3.1 + offset[0], height * 230)
    middle = sample_noise(canvas, 1, angle * 2.6 + offset[1], height * 190)
    coarse = sample_noise(canvas, 2, angle * 2.0 + offset[0], height * 150)
    blotches = rng.uniform(0.3, 1.0) * (0.012 * fine + 0.014 * middle + 0.022 * coarse) * (1 + 0.6 * look.age)
    color = base * (1 + blotches)[:, None]
    red = 0.25 * blob(points, 0, 6.35, 0.2, 0.1) + 0.8 * blob(points, 0, 6.98, 0.13, 0.1) + 0.6 * masks["ears"]
    red = red + blob(points, -0.38, 6.95, 0.2, 0.18) + blob(points, 0.38, 6.95, 0.2, 0.18)
    red = np.clip(red * rng.uniform(0.1, 0.9) * (1 - 0.5 * look.melanin), 0, 1)
    color = color * (1 - red[:, None] * np.float32([-0.02, 0.2, 0.2]))
    under_eyes = blob(points, -0.3, 7.17, 0.14, 0.05) + blob(points, 0.3, 7.17, 0.14, 0.05)
    color = color * (1 - (under_eyes * rng.uniform(0, 1.1))[:, None] * np.float32([0.14, 0.18, 0.12]))
    for _ in range(rng.integers(0, 7)):  # moles
        place = canvas.canonical[canvas.model.face_vertex_idx[rng.integers(len(canvas.model.face_vertex_idx))]]
        spot = np.exp(-((points - place) ** 2).sum(1) / rng.uniform(0.006, 0.014) ** 2)
        color = color * (1 - 0.5 * spot)[:, None]
    lips = base * [rng.uniform(0.75, 1), rng.uniform(0.5, 0.72), rng.uniform(0.55, 0.78)]
    lips = (
        lips
        + (np.array([rng.uniform(0.35, 0.65), rng.uniform(0.03, 0.15), rng.uniform(0.05, 0.2)]) - lips) * look.lipstick
    )
    color = blend(color, lips * (1 + 0.07 * middle)[:, None], 0.85 * masks["lips"])
    color = blend(color, base * rng.uniform(0.4, 0.9, 3), masks["lids"] * rng.uniform(0, 0.5))
    strands = 0.8 + 0.35 * sample_noise(canvas, 0, angle * 6, height * 90 + angle * 2)
    brows = np.clip(brow_density(points, rng) * look.brow_strength * strands, 0, 0.95)
    color = blend(color, look.hair_color * 0.75, brows)
    beard = np.clip(masks["beard"] * look.beard * (0.8 + 0.3 * fine + 0.15 * middle), 0, 0.93)
    color = blend(color, look.hair_color * 0.85, beard)
    stubble = (0.0, 0.45)[rng.random() < 0.5] if look.hair == "bald" else 0.9
    edge = masks["hairline"] - look.hairline_shift_dm + 0.03 * middle
    return blend(color, look.hair_color * (1 + 0.2 * strands)[:, None], stubble * smooth_step(-0.02, 0.07, edge))


def eye_color(
    canvas: Canvas, look: Appearance, points: np.ndarray, left: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Reflectance of the eyeballs at canonical points (P, 3); `left` (P,) tells which eye."""
    side = np.where(left, 0, 1)
    direction = points - canvas.eye_centre[side]
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    angle = np.degrees(np.arccos(np.clip((direction * canvas.eye_axis[side]).sum(1), -1, 1)))
    around = np.arctan2(direction[:, 1], direction[:, 0])
    fibres = 1 + 0.3 * np.sin(around * 37 + 3 * np.sin(around * 11)) * np.sin(angle * 0.5)
    pupil = rng.uniform(8, 12)
    color = np.tile([0.74, 0.70, 0.66], (len(points), 1)) * (
        1 - 0.25 * smooth_step(30, 60, angle)[:, None] * [0.3, 1, 1]
    )
    iris = look.iris * rng.uniform(0.8, 1.3) * (fibres * (1 - 0.65 * smooth_step(18, 24.5, angle)))[:, None]
    color = blend(color, iris, smooth_step(25.7, 23.3, angle))
    color = blend(color, np.full(3, 0.006), smooth_step(pupil + 1, pupil - 1, angle))
    lid_shadow = 0.45 + 0.55 * smooth_step(0.042, -0.005, points[:, 1] - canvas.eye_centre[side][:, 1])
    return color * lid_shadow[:, None]


def inner_color(part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reflectance of teeth, tongue and cavities by part (P,) -> (P, 3)."""
    color = np.tile([0.16, 0.045, 0.04], (len(part), 1))
    teeth = (part == PARTS.index("upper_teeth")) | (part == PARTS.index("lower_teeth"))
    color[teeth] = np.array([0.72, 0.66, 0.55]) * rng.uniform(0.7, 1.05)
    color[part == PARTS.index("tongue")] = [0.45, 0.14, 0.13]
    return color
