"""Glasses: rims, bridge, temples and lenses, fitted to a head."""

from __future__ import annotations

import numpy as np

from p2m_synth.head.head_maps import Skull, push_outside
from p2m_synth.head.head_mesh import HeadMesh
from p2m_synth.scene.elements import Surface, float32
from p2m_synth.scene.primitives import MM, ball, clearance, joined, orient, sheet, smooth_path, smooth_step, tube, unit
from p2m_synth.wear.style import WearStyle


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


def make_glasses(
    head_mesh: HeadMesh, style: WearStyle, skull: Skull, head: np.ndarray, rng: np.random.Generator
) -> list[Surface]:
    """Frame and lenses in the head's frame, resting on the nose and the ears."""
    points = head[head_mesh.face_idx]
    landmarks = points[head_mesh.model.landmark_idx]
    right, left = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    across = unit(left - right)
    tilt = np.radians(rng.uniform(5, 10))  # lenses lean forward at the top
    up = np.array([0, np.cos(tilt), np.sin(tilt)])
    up = unit(up - across * (up @ across))
    forward = np.cross(across, up)
    metal = style.frame in ("aviator", "half-rim", "rimless") or style.frame_color.max() > 0.5
    bar = rng.uniform(0.9, 1.2) * MM if metal else rng.uniform(1.5, 2.6) * MM
    middle = (right + left) / 2
    # The nose's own width decides how near the lenses may come to each other.
    outer = abs((landmarks[16] - landmarks[0]) @ across) / 2 * rng.uniform(0.84, 0.93)
    inner = rng.uniform(8.5, 10.5) * MM
    if style.glasses == "dark":
        outer *= 1.05
    half = (outer - inner) / 2 * (0.9 if style.frame == "round" else 1)
    outline = lens_outline(style.frame, rng) * half
    drop = rng.uniform(1, 4) * MM + 0.12 * half * (style.frame == "aviator")

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
    ears = head_mesh.masks["ears"] > 0.5
    for side in (1, -1):
        ear = head[ears & (head_mesh.canonical[:, 0] * side > 0)]
        ear_top[side] = np.array([
            side * np.quantile(side * ear[:, 0], 0.35), np.quantile(ear[:, 1], 0.93), np.quantile(ear[:, 2], 0.5)
        ])  # fmt: skip
    rims, bars, panes = [], [], []
    deep = 1.0 if metal else rng.uniform(1.1, 1.7)
    for side in (-1, 1):
        rim = lenses[side] + shift
        if style.frame == "half-rim":
            rims.append(tube(rim[np.arange(-1, 22)], bar, style.frame_color, 6, up=forward, flatness=deep, gloss=0.8))
        elif style.frame != "rimless":
            rims.append(tube(rim, bar, style.frame_color, 6, closed=True, up=forward, flatness=deep, gloss=0.8))
        panes.append(make_lens(rim, forward, style, rng))
        # Temples: from the upper outer corner back over the ear, then down behind it.
        corner = rim[((outline - [half, 0.45 * half]) ** 2).sum(1).argmin()]
        ear = ear_top[side] + [0, 1.5 * MM, 0]
        hinge = corner + side * across * (2.5 * MM + bar) - forward * 3 * MM
        path = np.stack([
            corner, hinge, hinge + (ear - hinge) * 0.35 + side * across * 3 * MM,
            hinge + (ear - hinge) * 0.75 + side * across * 2 * MM, ear, ear + [-side * 1 * MM, -9 * MM, -16 * MM],
            ear + [-side * 3 * MM, -26 * MM, -22 * MM],
        ])  # fmt: skip
        path = smooth_path(path, 22)
        before_ear = np.arange(len(path)) < 14
        path = np.where(before_ear[:, None], push_outside(skull, path[None], 2.2 * MM)[0], path)
        thick = bar * np.where(before_ear, 1, 0.8)
        flat = 1 if metal else 1.8
        bars.append(tube(path, thick, style.frame_color, 6, up=np.array([0, 1.0, 0.3]), flatness=flat, gloss=0.8))
    ends, high = [], []  # of the bridge, and of an aviator's upper bar
    for side in (-1, 1):
        out, above = (lenses[side] - middle) @ across * side, (lenses[side] - middle) @ up
        ends.append(lenses[side][np.argmin(out - 0.35 * above)] + shift)
        high.append(lenses[side][np.argmin(abs(out - inner - 0.35 * half) - 0.2 * above)] + shift)
    start, end = ends
    arch = np.array([start, (start + end) / 2 + up * 2.2 * MM + forward * 1.5 * MM, end])
    bars.append(tube(smooth_path(arch, 9), bar, style.frame_color, 6, up=forward, gloss=0.8))
    if style.frame == "aviator":
        bars.append(tube(np.linspace(*high, 6), bar, style.frame_color, 6, up=forward, gloss=0.8))
    if metal:  # nose pads
        for side in (-1, 1):
            pad = landmarks[28] * 0.6 + landmarks[27] * 0.4 + side * across * 6.5 * MM - forward * 1.0 * MM
            bars.append(ball(pad, 2.2 * MM, [0.5, 0.48, 0.45], 8, gloss=0.8))
    return [joined(rims + bars), joined(panes)]


def make_lens(rim: np.ndarray, forward: np.ndarray, style: WearStyle, rng: np.random.Generator) -> Surface:
    """A slightly bulging pane inside a rim (N, 3)."""
    middle = rim.mean(0)
    scale = np.array([1, 0.75, 0.5, 0.25, 0.01])[:, None, None]
    grid = middle + (rim - middle) * scale + forward * 2.0 * MM * (1 - scale**2)
    height = (grid[..., 1] - middle[1]) / np.ptp(rim[:, 1])
    color, gloss, alpha = float32([0.7, 0.76, 0.8]), 0.8, 0.07
    if style.glasses == "dark":
        color, gloss, alpha = style.lens_color * (1 + 0.8 * np.clip(0.3 - height, 0, 1))[..., None], 1.5, 0.9
    return orient(sheet(grid, color, True, gloss=gloss, alpha=alpha), middle - forward * 1e5)
