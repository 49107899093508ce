"""Hair as surfaces over the head, and glasses as lines."""

from __future__ import annotations

import cv2
import numpy as np

from p2m_core.raster import vertex_normals
from p2m_core.synthetic.appearance import Appearance
from p2m_core.synthetic.canvas import Canvas, smooth_step

CAP_THICKNESS_DM = {"short": (0.03, 0.14), "medium": (0.12, 0.30), "long": (0.08, 0.22)}


def hair_cap(
    canvas: Canvas, look: Appearance, head: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The scalp pushed outwards: vertices (S, 3) in the head's own units (um) and triangles (T, 3).

    head: (m, 3) refined vertices, um. Bald heads give empty arrays.
    """
    if look.hair == "bald":
        return np.zeros((0, 3)), np.zeros((0, 3), int)
    above = canvas.hairline - look.hairline_shift_dm
    triangles = canvas.scalp[(above[canvas.scalp] > 0).any(1)]
    used, renumbered = np.unique(triangles, return_inverse=True)
    wave = np.sin(canvas.canonical[used] @ rng.normal(0, 2.5, (3, 4)) + rng.uniform(0, 6.28, 4)).sum(1) / 2
    thickness = rng.uniform(*CAP_THICKNESS_DM[look.hair]) * smooth_step(0, 0.3, above[used]) * (1 + 0.25 * wave)
    normals = vertex_normals(head, canvas.triangles)[used]
    return head[used] + normals * ((thickness + 0.008) * 1e5)[:, None], renumbered.reshape(triangles.shape)


def hair_curtain(
    look: Appearance, head: np.ndarray, canvas: Canvas, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Long hair round the back and sides, from the crown to below the ears: vertices (um), triangles."""
    if look.hair != "long":
        return np.zeros((0, 3)), np.zeros((0, 3), int)
    opening, length = rng.uniform(62, 100), rng.uniform(1.0, 2.2)
    angle, t = np.meshgrid(np.radians(np.linspace(opening, 360 - opening, 72)), np.linspace(0, 1, 24), indexing="ij")
    scalp = head[canvas.hairline > 0] / 1e5
    centre, size = scalp.mean(0), np.ptp(scalp, 0) / 2
    lock = 1 + 0.04 * np.sin(angle * rng.integers(5, 19) + rng.uniform(0, 6)) + 0.03 * np.sin(angle * 31 + 5 * t)
    width = (0.75 + rng.uniform(0.2, 0.45) * smooth_step(0, 0.4, t)) * lock * (1 - rng.uniform(0, 0.25) * t**2)
    ragged = 1 + 0.06 * np.sin(angle * 23 + 3) + 0.05 * np.sin(angle * 57)
    vertices = np.stack(
        [
            centre[0] + size[0] * 1.08 * width * np.sin(angle),
            centre[1] + 0.45 * size[1] - length * t * ragged,
            centre[2] + size[2] * 1.02 * width * np.cos(angle) - 0.1 * t,
        ],
        -1,
    )
    index = np.arange(angle.size).reshape(angle.shape)
    quads = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], -1).reshape(-1, 4)
    return vertices.reshape(-1, 3) * 1e5, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def glasses_lines(landmarks: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rims (closed) and bars (open) of a pair of glasses as 3D lines in the frame of the landmarks (68, 3)."""
    right, left = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    across = left - right
    distance = np.linalg.norm(across)
    across = across / distance
    up = np.array([0, 1.0, 0])
    up -= across * (up @ across)
    up /= np.linalg.norm(up)
    forward = np.cross(across, up)
    width = distance * rng.uniform(0.33, 0.42)
    height, squareness = width * rng.uniform(0.6, 1), rng.uniform(2, 4)
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    depth = (landmarks[27] + landmarks[28]) @ forward / 2 + 0.08e5
    rims, bars = [], []
    for eye, side, ear in ((right, -1, landmarks[0]), (left, 1, landmarks[16])):
        centre = eye + forward * (depth - eye @ forward) - up * 0.05e5
        x, y = (np.sign(f(turn)) * abs(f(turn)) ** (2 / squareness) for f in (np.cos, np.sin))
        back = 0.12e5 * np.clip(side * np.cos(turn), 0, 1) ** 2
        rims.append(centre + width * x[:, None] * across + height * y[:, None] * up - back[:, None] * forward)
        outer = rims[-1][24 if side < 0 else 0]
        bars.append(np.linspace(outer, ear + up * 0.1e5 + across * side * 0.08e5, 12))
    bars.append(np.linspace(rims[0][0], rims[1][24], 6) + up * 0.03e5)
    return rims, bars


def draw_glasses(
    image: np.ndarray, depth: np.ndarray, rims: list, bars: list, to_px, dark: bool, rng: np.random.Generator
) -> None:
    """Draw glasses into a linear RGB image (H, W, 3), hidden where the head is nearer to the viewer.

    depth: (H, W) of what is drawn already.   to_px: function from 3D to image px with depth (..., 3).
    """
    height, width = depth.shape
    frame = np.zeros((height, width), np.float32)
    thickness = max(1, round(rng.uniform(0.008, 0.022) * width))
    rims, bars = [to_px(line) for line in rims], [to_px(line) for line in bars]
    slack = 0.02 * width

    def visible(points: np.ndarray) -> np.ndarray:
        column, row = points[:, :2].round().astype(int).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        hidden = depth[row.clip(0, height - 1), column.clip(0, width - 1)] > points[:, 2] + slack
        return ~(inside & hidden)

    for line, closed in [(rim, True) for rim in rims] + [(bar, False) for bar in bars]:
        shown = visible(line)
        count = len(line) if closed else len(line) - 1
        for k in range(count):
            if shown[k] and shown[(k + 1) % len(line)]:
                ends = [tuple(int(v * 8) for v in line[j % len(line), :2]) for j in (k, k + 1)]
                cv2.line(frame, ends[0], ends[1], 1.0, thickness, cv2.LINE_AA, 3)
    lens = np.zeros_like(frame)
    for rim in rims:
        if visible(rim).mean() > 0.5:
            cv2.fillPoly(lens, [(rim[:, :2] * 8).astype(np.int32)], 1.0, cv2.LINE_AA, 3)
    tint = rng.uniform(0.05, 0.25) if dark else rng.uniform(0.8, 1)
    image *= 1 + (tint - 1) * lens[..., None]
    image += 0.03 * rng.random() * lens[..., None]
    image += (rng.choice([0.015, 0.05, 0.25]) * rng.uniform(0.6, 1.4, 3) - image) * frame[..., None]
