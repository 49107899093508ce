"""Procedural backgrounds, in- and outdoors, mostly out of focus; or the user's own pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np

from p2m_core.data.aflw2000 import IMAGE_SUFFIXES, read_image
from p2m_core.errors import InputError
from p2m_synth.scene.elements import float32

OUTDOORS = ("sun", "overcast")


def fractal_noise(
    rng: np.random.Generator, size_px: int, cells: float, octaves: int = 4, channels: int = 3
) -> np.ndarray:
    """(size, size, channels) smooth noise of unit variance."""
    total, weight = np.zeros((size_px, size_px, channels), np.float32), 1.0
    for octave in range(octaves):
        count = min(int(cells * 2**octave), size_px) + 2
        layer = rng.standard_normal((count, count, channels), np.float32)
        layer = cv2.resize(layer, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
        total += weight * layer.reshape(size_px, size_px, channels)
        weight *= 0.55
    return total / (total.std() + 1e-6)


def muted(rng: np.random.Generator, low: float = 0.03, high: float = 0.7) -> np.ndarray:
    """A colour as rooms and clothes have them: (3,), mostly of low saturation."""
    grey = np.exp(rng.uniform(np.log(low), np.log(high)))
    hue = rng.dirichlet([2.0, 2.0, 2.0]) * 3
    return float32(grey * (1 + (hue - 1) * rng.beta(1.2, 2.5)))


def vertical(size_px: int, top: np.ndarray, bottom: np.ndarray, horizon: float = 1.0) -> np.ndarray:
    """A gradient from `top` down to `bottom` at `horizon` (share of the height)."""
    t = np.clip(np.linspace(0, 1, size_px, dtype=np.float32) / max(horizon, 1e-3), 0, 1)[:, None, None]
    return np.array(np.broadcast_to(top + (bottom - top) * t, (size_px, size_px, 3)), np.float32, order="C")


def rectangle(image: np.ndarray, x: float, y: float, w: float, h: float, color: np.ndarray) -> None:
    """A filled rectangle; place and size as shares of the picture."""
    size = image.shape[0]
    corner = [int(size * value) for value in (x, y, x + w, y + h)]
    cv2.rectangle(image, tuple(corner[:2]), tuple(corner[2:]), tuple(float(v) for v in color), -1)


def wall(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """A studio's or plain wall: nearly even, a gradient, the lamp's pool of light."""
    base = muted(rng, 0.02, 0.85)
    at = np.linspace(0, 1, size_px)
    offset = at[None] - rng.uniform(0, 1, (2, 1))
    across, down = np.exp(-(offset**2) / rng.uniform(0.1, 1.0))
    bright = rng.uniform(0.45, 1) + np.outer(down, across) * rng.uniform(0.1, 0.8)
    bright = float32(bright * (1 + rng.uniform(0.01, 0.06) * fractal_noise(rng, size_px, 4, channels=1)[..., 0]))
    return cv2.merge([bright * channel for channel in base])


def room(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """A wall with what stands and hangs there: shelves, frames, doors, windows, curtains, lamps."""
    image = wall(rng, size_px)
    kind = rng.choice(["shelf", "frames", "window", "mixed", "tiles"])
    if kind == "shelf":
        rows, image = rng.integers(2, 6), image * np.float32(0.6)
        for row in range(rows):
            y, x = (row + 1) / rows, rng.uniform(-0.1, 0)
            while x < 1:
                w = rng.uniform(0.012, 0.06)
                h = rng.uniform(0.5, 0.85) / rows
                if rng.random() < 0.85:
                    rectangle(image, x, y - h, w, h, muted(rng, 0.02, 0.5))
                x += w + rng.uniform(0.001, 0.01)
            rectangle(image, 0, y - 0.012, 1, 0.02, muted(rng, 0.03, 0.3))
    if kind in ("frames", "mixed"):
        for _ in range(rng.integers(1, 5)):
            x, y, w, h = rng.uniform(-0.1, 0.9), rng.uniform(-0.1, 0.7), rng.uniform(0.1, 0.35), rng.uniform(0.1, 0.4)
            rectangle(image, x, y, w, h, muted(rng, 0.01, 0.4))
            rectangle(image, x + 0.015, y + 0.015, w - 0.03, h - 0.03, muted(rng, 0.1, 0.8))
            rectangle(image, x + 0.2 * w, y + 0.25 * h, 0.6 * w, 0.5 * h, muted(rng))
    if kind in ("window", "mixed"):
        x, w, bright = rng.uniform(-0.2, 0.8), rng.uniform(0.25, 0.6), rng.uniform(0.7, 2.2)
        rectangle(image, x, rng.uniform(-0.2, 0.1), w, rng.uniform(0.5, 0.9), bright * np.array([0.85, 0.95, 1.05]))
        for bar in rng.uniform(x, x + w, rng.integers(1, 3)):
            rectangle(image, bar, -0.2, 0.012, 1.1, muted(rng, 0.1, 0.6))
        if rng.random() < 0.6:
            folds = muted(rng, 0.05, 0.5)
            for k in range(8):
                rectangle(image, x - 0.16 + 0.02 * k, -0.1, 0.02, 1.2, folds * (0.7 + 0.5 * (k % 2)))
    if kind == "tiles":
        step, line = rng.uniform(0.05, 0.16), muted(rng, 0.1, 0.6)
        for at in np.arange(rng.uniform(0, step), 1, step):
            rectangle(image, at, 0, 0.004, 1, line)
            rectangle(image, 0, at, 1, 0.004, line)
    if kind == "mixed":
        rectangle(image, 0, rng.uniform(0.6, 0.95), 1, 0.5, muted(rng, 0.02, 0.4))
        for _ in range(rng.integers(1, 6)):
            x, y, w, h = rng.uniform(-0.2, 1), rng.uniform(0.2, 0.8), rng.uniform(0.05, 0.4), rng.uniform(0.1, 0.8)
            rectangle(image, x, y, w, h, muted(rng))
    return image


def sky_and_ground(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Sky with clouds, far hills, houses or trees, lawn or street."""
    horizon = rng.uniform(0.25, 1.0)
    blue = np.array([rng.uniform(0.15, 0.45), rng.uniform(0.35, 0.6), rng.uniform(0.6, 1.0)])
    image = vertical(size_px, blue * rng.uniform(0.6, 1.2), np.full(3, rng.uniform(0.6, 1.2)), horizon)
    clouds = np.clip(fractal_noise(rng, size_px, 2, 4, 1) * rng.uniform(0.2, 0.7) + rng.uniform(-0.5, 0.6), 0, 1)
    image = np.ascontiguousarray(image + (rng.uniform(0.7, 1.1) - image) * clouds, np.float32)
    ground = muted(rng, 0.05, 0.4) if rng.random() < 0.5 else np.array([0.10, 0.17, 0.05]) * rng.uniform(0.5, 2)
    texture = 1 + 0.3 * fractal_noise(rng, size_px, 12, 3, 1)
    rows = int(horizon * size_px)
    image[rows:] = (ground * texture)[rows:]
    kind = rng.choice(["houses", "trees", "hills", "leaves"])
    if kind == "houses":
        for _ in range(rng.integers(2, 7)):
            x, w, top = rng.uniform(-0.2, 1), rng.uniform(0.12, 0.5), horizon - rng.uniform(0.1, 0.8)
            front = muted(rng, 0.05, 0.6)
            rectangle(image, x, top, w, horizon - top, front)
            step = rng.uniform(0.04, 0.09)
            for wy in np.arange(top + step / 2, horizon - step / 2, step):
                for wx in np.arange(x + step / 3, x + w - step / 2, step):
                    rectangle(image, wx, wy, 0.45 * step, 0.6 * step, front * rng.uniform(0.2, 1.6))
    elif kind == "hills":
        rise = np.abs(fractal_noise(rng, size_px, 2, 3, 1)[0, :, 0]) * rng.uniform(0.05, 0.2)
        line = horizon * size_px - rise * size_px
        below = np.arange(size_px)[:, None] > line
        image[below & (np.arange(size_px)[:, None] < rows)] = muted(rng, 0.05, 0.35)
    else:
        leaf = np.array([rng.uniform(0.03, 0.14), rng.uniform(0.08, 0.22), rng.uniform(0.01, 0.06)])
        clumps = fractal_noise(rng, size_px, 3, 5, 1)[..., 0]
        shade = np.exp(0.5 * fractal_noise(rng, size_px, 14, 4, 1))
        if kind == "trees":
            at = clumps + np.linspace(1, -1, size_px)[:, None] * -1.2 > rng.uniform(-0.3, 0.8)
            at &= np.arange(size_px)[:, None] < rows
        else:
            at = clumps > rng.uniform(-1.5, 0.3)
        image[at] = (leaf * shade)[at]
        for _ in range(rng.integers(0, 4)):
            rectangle(image, rng.uniform(0, 1), 0, rng.uniform(0.01, 0.06), horizon, np.array([0.06, 0.045, 0.03]))
    return image


def lights_at_night(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Dark, with discs of lamps out of focus."""
    image = vertical(size_px, muted(rng, 0.005, 0.05), muted(rng, 0.005, 0.08))
    for _ in range(rng.integers(4, 40)):
        color = muted(rng, 0.2, 1.5) * [1.2, 1, 0.8]
        layer = np.zeros_like(image)
        centre = tuple(int(v) for v in rng.uniform(0, size_px, 2))
        radius = int(rng.uniform(0.01, 0.06) * size_px)
        cv2.circle(layer, centre, radius, tuple(map(float, color)), -1, cv2.LINE_AA)
        image = image + layer * np.float32(rng.uniform(0.3, 1))
    return image


def crowd(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """A room with blurred people: shoulders, heads, hair."""
    image = room(rng, size_px)
    for _ in range(rng.integers(2, 8)):
        x, y, r = rng.uniform(0, 1), rng.uniform(0.15, 0.8), rng.uniform(0.06, 0.15)
        skin = np.array([0.6, 0.36, 0.25]) * rng.uniform(0.12, 1.2)
        cloth, hair = muted(rng, 0.02, 0.6), np.array([0.04, 0.025, 0.018]) * rng.uniform(0.3, 6)
        column, row, px = int(x * size_px), int(y * size_px), r * size_px
        for drop, wide, high, color in ((3.1, 1.9, 2, cloth), (0, 0.95, 1.25, hair), (0.25, 0.72, 1, skin)):
            centre, axes = (column, int(row + drop * px)), (int(wide * px), int(high * px))
            cv2.ellipse(image, centre, axes, 0, 0, 360, tuple(map(float, color)), -1)
    return image


@cache
def own_pictures(folder: Path) -> tuple[Path, ...]:
    """The pictures of a folder, by name.   Raises InputError if there is none."""
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in (*IMAGE_SUFFIXES, ".jpeg"))
    if not found:
        raise InputError(folder, "", "holds no pictures to stand before", "put .jpg or .png files there")
    return tuple(found)


def own_picture(rng: np.random.Generator, size_px: int, folder: Path) -> np.ndarray:
    """A square of one of the user's pictures, linear RGB."""
    paths = own_pictures(folder)
    picture = read_image(paths[rng.integers(len(paths))])
    side = int(min(picture.shape[:2]) * rng.uniform(0.5, 1))
    top, left = (int(rng.integers(0, edge - side + 1)) for edge in picture.shape[:2])
    square = cv2.resize(picture[top : top + side, left : left + side], (size_px, size_px), interpolation=cv2.INTER_AREA)
    return float32(square / 255) ** float32(2.2)


def draw_background(
    rng: np.random.Generator, size_px: int, place: str = "room", folder: Path | None = None
) -> np.ndarray:
    """A random background (size, size, 3), linear RGB float32, that goes with a place of `light.PLACES`.

    folder: pictures of the user's own to take instead, four times in five.
    """
    sharpest = 0.002
    if folder is not None and rng.random() < 0.8:
        image = own_picture(rng, size_px, folder)
    elif place in OUTDOORS:
        image = sky_and_ground(rng, size_px)
    elif place == "studio":
        image = wall(rng, size_px)
    elif place == "night":
        image = lights_at_night(rng, size_px) if rng.random() < 0.7 else room(rng, size_px) * 0.2
    else:
        image = [room, crowd, wall][kind := rng.choice(3, p=[0.62, 0.23, 0.15])](rng, size_px)
        sharpest = 0.02 if kind == 1 else sharpest  # the people are mere ovals
    if place != "studio":
        tilt, grow = rng.normal(0, 6), rng.uniform(1.15, 1.6)
        matrix = cv2.getRotationMatrix2D((size_px / 2, size_px / 2), tilt, grow)
        image = cv2.warpAffine(image, matrix, (size_px, size_px), borderMode=cv2.BORDER_REFLECT)
    blur = np.exp(rng.uniform(np.log(sharpest), np.log(0.05))) * size_px
    if blur > 4:  # half of the pixels hold what is left
        half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        image = cv2.resize(cv2.GaussianBlur(half, (0, 0), blur / 2), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    else:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    texture = 1 + float32(rng.uniform(0.0, 0.05)) * fractal_noise(rng, size_px, 20, 2, 1)
    return np.clip(image * cv2.merge([texture] * 3), 0, 4)
