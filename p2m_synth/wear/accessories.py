"""All that a person wears on the head, as surfaces: headwear and glasses from their modules, earrings, face masks."""

from __future__ import annotations

import cv2
import numpy as np

from p2m_synth.head.head_maps import Skull, sphere_directions
from p2m_synth.head.head_mesh import HeadMesh
from p2m_synth.scene.elements import Surface, float32
from p2m_synth.scene.primitives import MM, ball, joined, moved, sheet, smooth_step, tube, unit
from p2m_synth.wear.glasses import make_glasses
from p2m_synth.wear.headwear import OPENING, RIM_ELEVATION, make_hat, make_scarf
from p2m_synth.wear.style import WearStyle


def make_accessories(
    head_mesh: HeadMesh, style: WearStyle, head: np.ndarray, rotation: np.ndarray, rng: np.random.Generator
) -> list[Surface]:
    """All that a person wears on the head: headwear, earrings, face mask, glasses.

    Args:    head: (m, 3) um, camera frame.   rotation: (3, 3) takes the head's frame to the camera's.
    """
    frontal = float32(head @ rotation)
    surfaces: list[Surface] = []
    covered = style.headwear in RIM_ELEVATION or style.headwear in OPENING
    if not covered and style.earrings == style.mask == style.glasses == "none":
        return surfaces
    skull = Skull(head_mesh, frontal)
    if style.headwear in RIM_ELEVATION:
        surfaces += make_hat(skull, style, rng)
    if style.earrings != "none" and style.headwear not in OPENING:
        surfaces += make_earrings(head_mesh, style, frontal, rng)
    if style.mask != "none":
        surfaces += make_mask(skull, style, rng)
    if style.glasses != "none":
        surfaces += make_glasses(head_mesh, style, skull, frontal, rng)
    surfaces = [moved(surface, rotation) for surface in surfaces]
    if style.headwear in OPENING:
        surfaces += make_scarf(head_mesh, skull, style, head, rotation, rng)
    return surfaces


def make_mask(skull: Skull, style: WearStyle, rng: np.random.Generator) -> list[Surface]:
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
    pleats = np.sin(v * np.pi * 6) * (style.mask == "surgical") * smooth_step(1, 0.6, abs(u))
    lift = 3.2 * MM + 0.9 * MM * pleats
    points = x + unit(x - skull.centre) * lift[..., None]
    edge = (v < 0.02) | (v > 0.98) | (abs(u) > 0.98)
    points -= unit(x - skull.centre) * (2.2 * MM * edge)[..., None]
    base = float32([[0.30, 0.52, 0.66], [0.75, 0.75, 0.75], [0.02, 0.02, 0.02]])[rng.choice(3, p=(0.6, 0.25, 0.15))]
    if style.mask == "cloth":
        base = style.cloth
    color = base * (1 - 0.12 * np.clip(pleats, 0, 1))[..., None] * np.where(edge, 0.9, 1)[..., None]
    loops = []
    for side in (-1, 1):
        for e0, e1 in ((elevation[1, -1], 3.0), (elevation[-2, -1], -22.0)):
            e, a = np.linspace(e0, e1, 7), side * np.linspace(reach - 1, 97, 7)
            path = skull.at(e[None], a[None], 1.5 * MM)[0]
            loops.append(tube(path, 1.1 * MM, [0.7, 0.7, 0.7], 5))
    return [sheet(points, color, gloss=0.02, soft=0.25), joined(loops)]


def ear_lobes(head_mesh: HeadMesh, head: np.ndarray) -> np.ndarray:
    """The lobes of both ears (2, 3): the subject's left, then right."""
    lobes = []
    for side in (1, -1):
        ear = (head_mesh.masks["ears"] > 0.9) & (head_mesh.canonical[:, 0] * side > 0)
        index = np.nonzero(ear)[0]
        low = index[np.argsort(head_mesh.canonical[index, 1] - 0.3 * head_mesh.canonical[index, 2], kind="stable")[:24]]
        outer = low[np.argsort(-side * head_mesh.canonical[low, 0], kind="stable")[:6]]
        lobes.append(head[outer].mean(0))
    return np.array(lobes)


def make_earrings(head_mesh: HeadMesh, style: WearStyle, head: np.ndarray, rng: np.random.Generator) -> list[Surface]:
    """Studs, rings or drops at the lobes."""
    size, parts = rng.uniform(0.7, 1.3), []
    gem = rng.uniform(0.2, 0.8, 3) if rng.random() < 0.4 else style.metal
    radius, facing = rng.uniform(7, 20) * MM, rng.uniform(0.6, 1.3)
    sides = (0, 1) if style.earrings != "stud" or rng.random() < 0.85 else (int(rng.integers(2)),)
    for k in sides:
        side, lobe = 1 - 2 * k, ear_lobes(head_mesh, head)[k]
        lobe = lobe + [side * 1.2 * MM, 1 * MM, 0]
        if style.earrings == "stud":
            parts.append(ball(lobe, 2.3 * MM * size, gem, 10, gloss=1.5))
        elif style.earrings == "ring":
            turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
            plane = np.array([side * np.sin(facing) * 0.5, 0, np.cos(facing * 0.5)])
            path = lobe + radius * (np.sin(turn)[:, None] * plane + (np.cos(turn)[:, None] - 1) * [0, 1, 0])
            parts.append(tube(path, 1.0 * MM * size, style.metal, 7, closed=True, gloss=1.8))
        else:
            length = rng.uniform(9, 30) * MM
            parts.append(ball(lobe, 1.8 * MM, style.metal, 8, gloss=1.5))
            parts.append(tube(np.linspace(lobe, lobe - [0, length, 0], 4), 0.6 * MM, style.metal, 5, gloss=1.5))
            drop = ball(np.zeros(3), 4.2 * MM * size, gem, 10, gloss=1.5)
            parts.append(moved(drop, np.diag([1, 1.5, 1]), lobe - [0, length + 3 * MM, 0]))
    return [joined(parts)]
