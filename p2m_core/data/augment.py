"""Crops for the network, and their random changes in training."""

from __future__ import annotations

import cv2
import numpy as np

from p2m_core.config.settings import AugmentConfig


def draw_matrix(config: AugmentConfig, rng: np.random.Generator, size_px: int) -> tuple[np.ndarray, bool]:
    """A random similarity (2, 3) of a crop about its centre, and whether it is mirrored afterwards."""
    angle, scale = np.radians(rng.normal(0, config.rotate_deg)), np.exp(rng.normal(0, config.scale))
    c, s, centre = scale * np.cos(angle), scale * np.sin(angle), (size_px - 1) / 2
    shift = rng.normal(0, config.shift, 2) * size_px
    matrix = np.array([[c, -s, centre + shift[0] - (c - s) * centre], [s, c, centre + shift[1] - (s + c) * centre]])
    return matrix, bool(rng.random() < config.flip)


def change_look(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Colour, blur, noise, JPEG's blocks and occlusion of a crop (S, S, 3) in [0, 1], float32."""
    size = image.shape[0]
    if rng.random() < config.color:
        image = image ** np.float32(rng.uniform(0.6, 1.6))
        mean = image.mean()
        image = (image - mean) * np.float32(rng.uniform(0.6, 1.4)) + mean * np.float32(rng.uniform(0.6, 1.4))
        image = image * rng.uniform(0.85, 1.15, 3).astype(np.float32)
        if rng.random() < 0.2:
            image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    if rng.random() < config.blur:
        if rng.random() < 0.6:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.004, 0.022) * size)
        else:
            small = int(rng.uniform(0.25, 0.7) * size)
            image = cv2.resize(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (size, size))
    if rng.random() < config.noise:
        image = image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0.01, 0.06))
    if rng.random() < config.jpeg:
        levels = (image.clip(0, 1) * 255).round().astype(np.uint8)
        _, code = cv2.imencode(".jpg", levels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 70))])
        decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
        assert decoded is not None
        image = decoded[..., ::-1] / np.float32(255)
    if rng.random() < config.occlude:
        image = image.copy()
        for _ in range(rng.integers(1, 3)):
            cover(image, rng)
    return image.clip(0, 1)


def cover(image: np.ndarray, rng: np.random.Generator) -> None:
    """Paint a random flat, noisy or copied patch, box or ellipse, into a crop (S, S, 3)."""
    size = image.shape[0]
    x, y = rng.integers(0, size, 2)
    w, h = rng.integers(int(0.07 * size), int(0.42 * size), 2)
    box = (slice(max(0, y - h // 2), y + h // 2), slice(max(0, x - w // 2), x + w // 2))
    patch = image[box]
    kind = rng.random()
    if kind < 0.55:
        content = np.broadcast_to(rng.uniform(0, 1, 3).astype(np.float32), patch.shape)
    elif kind < 0.75:
        content = rng.random(patch.shape, np.float32)
    else:  # a piece of the picture itself: skin where none belongs
        dy, dx = (int(rng.integers(0, size - side + 1)) for side in patch.shape[:2])
        content = image[dy : dy + patch.shape[0], dx : dx + patch.shape[1]].copy()
    mask = np.ones(patch.shape[:2], np.uint8)
    if rng.random() < 0.5:
        mask[:] = 0
        centre = (patch.shape[1] // 2, patch.shape[0] // 2)
        cv2.ellipse(mask, centre, centre, 0, 0, 360, 1, -1)
    patch[mask > 0] = content[mask > 0]
