"""What a camera makes of light: exposure, colour, blur, grain, compression, age of the print."""

from __future__ import annotations

import cv2
import numpy as np

from p2m_synth.scene.elements import float32

LOOKS = {"plain": 0.72, "grey": 0.09, "faded": 0.05, "sepia": 0.02, "cold": 0.05, "warm": 0.07}


LUMINANCE = float32([0.2126, 0.7152, 0.0722])


def expose(image: np.ndarray, face: np.ndarray, tone: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A linear image (H, W, 3) scaled as a camera's meter would, not always well.

    face (H, W) marks the subject; tone (3,) is the reflectance of its skin.
    """
    luminance = image @ LUMINANCE
    whole = float(np.exp(np.log(luminance + 0.02).mean()))
    subject = float(np.median(luminance[face])) if face.any() else whole
    # The meter half makes up for the skin's tone: dark skin stays darker than light skin, but neither is lost.
    wanted = 0.26 * (float(tone @ LUMINANCE) / 0.35) ** 0.6
    gain = np.exp(0.8 * np.log(wanted / (subject + 0.01)) + 0.2 * np.log(0.2 / whole))
    stops = rng.normal(0.05, 0.3) + (rng.choice([-1.2, 1.0]) * rng.uniform(0.5, 1.2) if rng.random() < 0.1 else 0)
    return cv2.transform(image, np.diag(np.float32(gain * 2**stops * rng.uniform(0.95, 1.05, 3))))


def tone_curve(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Linear light to display values in [0, 1], highlights rolled off; contrast and saturation as drawn."""
    # An S-curve as cameras have it: dark tones darker, lights rolled off.
    toe = rng.uniform(0.0, 0.05)
    image = image * (image + 0.02) / (image * (0.62 * image + 0.62) + 0.02 + toe)
    image = np.clip(image, 0, 1) ** np.float32(1 / 2.2)
    saturation = np.clip(rng.normal(1.0, 0.16), 0.4, 1.5)
    middle, contrast = rng.uniform(0.4, 0.5), np.clip(rng.normal(1.04, 0.13), 0.65, 1.45)
    mixed = contrast * ((1 - saturation) / 3 + saturation * np.eye(3))  # from the grey outwards, then from the middle
    return np.clip(cv2.transform(image, float32(np.c_[mixed, np.full(3, middle * (1 - contrast))])), 0, 1)


def lens(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vignette, glare around lights, and loss of focus or motion."""
    size = image.shape[0]
    if rng.random() < 0.35:
        y, x = np.ogrid[-1 : 1 : size * 1j, -1 : 1 : image.shape[1] * 1j]
        image = image * float32(1 - rng.uniform(0.05, 0.4) * (x * x + y * y) / 2)[..., None]
    if rng.random() < 0.25:
        glow = cv2.GaussianBlur(np.clip(image - 0.7, 0, 2), (0, 0), rng.uniform(0.01, 0.05) * size)
        image = image + glow * np.float32(rng.uniform(0.1, 0.6))
    sigma = rng.choice([0.0, 0.0010, 0.0022, 0.004, 0.008], p=[0.34, 0.3, 0.22, 0.10, 0.04]) * size
    if sigma > 0:
        image = cv2.GaussianBlur(image, (0, 0), sigma * rng.uniform(0.7, 1.3) + 0.05)
    if rng.random() < 0.06:
        length = int(rng.uniform(0.01, 0.04) * size) | 1
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1
        turn = cv2.getRotationMatrix2D((length // 2, length // 2), rng.uniform(0, 180), 1)
        kernel = cv2.warpAffine(kernel, turn, (length, length))
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    return image


def develop(image: np.ndarray, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Black and white, faded, sepia, colour casts: the look's name, and the image in [0, 1]."""
    names = list(LOOKS)
    look = names[rng.choice(len(names), p=list(LOOKS.values()))]
    grey = (image @ float32([0.3, 0.59, 0.11]))[..., None]
    if look == "grey":
        image = np.repeat(grey, 3, 2)
    elif look == "sepia":
        image = grey ** float32([0.85, 1.0, 1.25])
    elif look == "faded":
        image = rng.uniform(0.05, 0.15) + (grey + (image - grey) * np.float32(0.6)) * rng.uniform(0.7, 0.85)
        image = image * float32([1.05, 1.0, 0.9] if rng.random() < 0.6 else [0.95, 1.0, 1.06])
    elif look in ("cold", "warm"):
        strength = rng.uniform(0.05, 0.22) * (1 if look == "warm" else -1)
        image = image * float32([1 + strength, 1, 1 - strength])
    if look in ("grey", "sepia", "faded") and rng.random() < 0.3:  # scratches and dust of an old print
        size = image.shape[0]
        damage = np.zeros(image.shape[:2], np.float32)
        for _ in range(rng.integers(1, 5)):
            x, lean = rng.uniform(0, size), rng.normal(0, 0.05) * size
            cv2.line(damage, (int(x), 0), (int(x + lean), size), float(rng.uniform(0.1, 0.4)), 1, cv2.LINE_AA)
        image = image + damage[..., None]
    return look, np.clip(image, 0, 1).astype(np.float32)


def record(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grain, low resolution, sharpening and compression: [0, 1] -> uint8."""
    size = image.shape[0]
    if rng.random() < 0.12:  # taken small, shown large
        small = max(24, int(size * rng.uniform(0.3, 0.8)))
        image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = compress(image, rng) if rng.random() < 0.4 else image
        image = cv2.resize(image, (size, size), interpolation=int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC])))
    if rng.random() < 0.25:
        blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 1.5))
        image = image + (image - blurred) * np.float32(rng.uniform(0.2, 0.9))
    strength = rng.choice([0.002, 0.006, 0.013, 0.03], p=[0.4, 0.34, 0.18, 0.08]) * rng.uniform(0.6, 1.4)
    grain = rng.standard_normal(image.shape, np.float32)
    grain = cv2.transform(grain, float32(0.6 * 3**0.5 / 3 + 0.5 * np.eye(3)))  # mostly of luminance
    if rng.random() < 0.3:
        grain = cv2.GaussianBlur(grain, (0, 0), 0.7) * np.float32(1.8)
    image = image + grain * np.float32(strength)
    if rng.random() < 0.25:
        image = compress(np.clip(image, 0, 1), rng)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def compress(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image in [0, 1] after a poor JPEG."""
    quality = int(rng.uniform(12, 60))
    blue_first = cv2.cvtColor((image * 255).astype(np.uint8), cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB).astype(np.float32) / 255


def take_photo(
    image: np.ndarray, face: np.ndarray, tone: np.ndarray, rng: np.random.Generator
) -> tuple[str, np.ndarray]:
    """Linear light (H, W, 3) -> the look's name and the photo (H, W, 3) uint8 RGB; arguments as for `expose`."""
    image = lens(expose(np.maximum(image, 0).astype(np.float32), face, tone, rng), rng)
    look, image = develop(tone_curve(image, rng), rng)
    return look, record(image, rng)
