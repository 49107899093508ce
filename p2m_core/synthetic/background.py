"""Procedural backgrounds: walls, boxes of colour, gradients, all out of focus."""

from __future__ import annotations

import cv2
import numpy as np


def fractal_noise(rng: np.random.Generator, size_px: int, cells: int, octaves: int = 4) -> np.ndarray:
    """(size, size, 3) smooth noise of unit variance."""
    total, weight = np.zeros((size_px, size_px, 3), np.float32), 1.0
    for octave in range(octaves):
        count = min(cells * 2**octave, size_px) + 2
        total += weight * cv2.resize(
            rng.standard_normal((count, count, 3), np.float32), (size_px, size_px), interpolation=cv2.INTER_CUBIC
        )
        weight *= 0.55
    return total / (total.std() + 1e-6)


def draw_background(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """A random background (size, size, 3), linear RGB float32."""
    base = rng.uniform(0.02, 0.6, 3).astype(np.float32)
    if rng.random() < 0.3:  # studio wall
        far, turn = rng.uniform(0.02, 0.8, 3).astype(np.float32), rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[0 : 1 : size_px * 1j, 0 : 1 : size_px * 1j].astype(np.float32)
        t = (x - 0.5) * np.cos(turn) + (y - 0.5) * np.sin(turn) + 0.5
        image = base + (far - base) * t[..., None].clip(0, 1)
        image = image * (1 + 0.04 * fractal_noise(rng, size_px, 5))
    else:  # a room or a street, seen out of focus
        noise = fractal_noise(rng, size_px, int(rng.integers(1, 6)))
        image = base * (1 + 0.35 * noise * np.array([1, 0.6, 0.6], np.float32))
        for _ in range(rng.integers(0, 12)):
            color = tuple(rng.uniform(0.02, 0.9, 3).tolist())
            x, y, w, h = rng.integers(-size_px // 4, size_px, 4)
            if rng.random() < 0.6:
                cv2.rectangle(image, (int(x), int(y)), (int(x + abs(w) // 2), int(y + abs(h))), color, -1)
            else:
                cv2.circle(image, (int(x), int(y)), int(abs(w) // 4 + 2), color, -1)
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.003, 0.05) * size_px)
    grey = image.mean(2, keepdims=True)
    return np.clip(grey + (image - grey) * rng.uniform(0.15, 0.9), 0, 1.5).astype(np.float32)
