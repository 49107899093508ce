"""The hair of the head as strands that grow.

Strands grow in the head's frame, dm: roots are drawn on the mean head and carried by barycentrics, so that they
follow identity and expression; then each strand is bent by its comb direction and by gravity, step by step, and
kept off the skull, the face and the shoulders. Locks are strands that follow one leader.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
from scipy.spatial import cKDTree

from p2m_core.geometry.rasterizer import depth_map, rasterize
from p2m_synth.hair.roots import LOCKS, Roots, hair_height, scalp_of_roots, scalp_roots
from p2m_synth.hair.strands import (
    FACE_AZIMUTH,
    FACE_HEIGHT,
    SKULL_Y,
    TORSO_CELL,
    TORSO_LOW,
    TORSO_SHAPE,
    Obstacles,
    grow_strands,
    wind_strands,
)
from p2m_synth.hair.style import HairStyle
from p2m_synth.head.head_mesh import HeadMesh, load_head_mesh
from p2m_synth.head.head_model import UM_PER_DM
from p2m_synth.scene.elements import Strands, float32
from p2m_synth.scene.primitives import smooth_step, unit

CENTRE_DM = float32([0, SKULL_Y, 0.45])  # of the mean head's skull
SHELL = (48, 72)  # rows by the sine of the height angle, columns by azimuth
WHITE = float32([0.46, 0.45, 0.43])  # reflectance of hair without pigment


# --- what hair may not enter ----------------------------------------------------------------------


@cache
def shell_rays() -> tuple[np.ndarray, np.ndarray]:
    """Where rays from the skull's centre leave the mean head: corners (R, C, 3) and their weights (R, C, 3)."""
    head_mesh = load_head_mesh()
    skin = head_mesh.skin
    skin = skin[(head_mesh.canonical[skin][..., 1] > 6.15).all(1)]
    ray = head_mesh.canonical - CENTRE_DM
    radius = np.linalg.norm(ray, axis=1)
    rows, columns = SHELL
    turn = (np.arctan2(ray[:, 0], ray[:, 2]) / (2 * np.pi) + 0.5) * columns
    seam = np.ptp(turn[skin], axis=1) > columns / 2
    # A triangle over the seam is drawn twice, on either side; the poles' are lost: the top is its nearest vertex.
    left = np.where(turn < columns / 2, turn + columns, turn)
    position = np.stack([turn, (ray[:, 1] / radius + 1) / 2 * (rows - 1), radius], 1)
    wide = np.concatenate([position, position * [0, 1, 1] + np.stack([left, 0 * left, 0 * left], 1)])
    wide = np.concatenate([wide, wide[len(position) :] - [columns, 0, 0]])
    m = len(position)
    faces = np.concatenate([skin[~seam], skin[seam] + m, skin[seam] + 2 * m])
    triangle, bary, _ = rasterize(wide, faces, rows, columns + 1)
    triangle[:, 0] = np.where(triangle[:, 0] < 0, triangle[:, columns], triangle[:, 0])
    filled = np.argwhere(triangle >= 0)
    nearest = cKDTree(filled).query(np.argwhere(triangle > -2))[1]
    row, column = filled[nearest].T
    corners = (faces[triangle[row, column]] % m).reshape(rows, columns + 1, 3)
    bary = bary[row, column].reshape(rows, columns + 1, 3)
    top = np.unique(skin)
    corners[-1], bary[-1] = top[np.argmax(ray[top, 1] / radius[top])], (1, 0, 0)
    return corners, bary


def skull_shell(points: np.ndarray, centre: np.ndarray, ears: bool) -> np.ndarray:
    """Radius of a head of points (m, 3) dm about its centre, by direction (R, C), C wrapping; without ears if asked."""
    corners, bary = shell_rays()
    radius = np.linalg.norm((points[corners] * bary[..., None]).sum(2) - centre, axis=2).astype(np.float32)
    if not ears:
        kernel = np.ones((9, 9), np.uint8)
        azimuth, sine = np.linspace(-180, 180, radius.shape[1]), np.linspace(-1, 1, radius.shape[0])[:, None]
        beside = (abs(abs(azimuth) - 92) < 35) & (abs(sine + 0.35) < 0.5)
        radius = np.where(beside, cv2.dilate(cv2.erode(radius, kernel), kernel), radius)
    return radius


@cache
def torso_triangles() -> np.ndarray:
    """Triangles (T, 3) below the neck."""
    head_mesh = load_head_mesh()
    skin = head_mesh.skin
    return skin[(head_mesh.canonical[skin][..., 1] < 6.2).all(1)]


def torso_height(points: np.ndarray) -> np.ndarray:
    """Height of the shoulders (37, 45) dm, over z and x in the head's frame."""
    grid = points[:, [0, 2, 1]] - float32([*TORSO_LOW, 0])
    grid[:, :2] /= TORSO_CELL
    height = depth_map(grid, torso_triangles(), *TORSO_SHAPE)
    return cv2.GaussianBlur(np.maximum(height, 3.0), (0, 0), 0.8)


# --- growing --------------------------------------------------------------------------------------


def first_of_lock(lock: np.ndarray) -> np.ndarray:
    """For each strand (N,) the first strand of its lock."""
    first = np.zeros(lock.max() + 1, np.int64)
    first[lock[::-1]] = np.arange(len(lock))[::-1]
    return first[lock]


def grayed(color: np.ndarray, gray: float | np.ndarray) -> np.ndarray:
    """The colour of hair (..., 3) of which a share is white."""
    return color + (WHITE - color) * gray


def strand_colors(
    rng: np.random.Generator, color: np.ndarray, lock: np.ndarray, layer: np.ndarray, gray: float
) -> np.ndarray:
    """Reflectances (N, 3): locks and hairs differ, lower layers lie in the dark, white hairs mix in."""
    count = len(lock)
    tone = 0.18 * rng.standard_normal(lock.max() + 1)[lock] + 0.16 * rng.standard_normal(count)
    warm = 0.05 * rng.standard_normal((count, 1)) * [1, 0, -1]
    colors = float32(color) * np.exp(tone[:, None] + warm) * (0.7 + 0.3 * layer)[:, None]
    share = np.clip(gray * np.exp(0.9 * rng.standard_normal(count)), 0, 1 if gray > 0.3 else 2 * gray)
    return float32(grayed(colors, share[:, None] ** 1.3 * (0.75 + 0.25 * layer)[:, None]).clip(0, 0.9))


def top_share(position: np.ndarray) -> np.ndarray:
    """1 where the hair of the top grows, 0 at the sides and behind (N,)."""
    return smooth_step(7.72, 8.05, position[:, 1] + 0.12 * position[:, 2])


def comb_directions(style: HairStyle, position: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Where hair is combed (N, 3), along the skin, by canonical position (N, 3)."""
    x = position[:, 0]
    away = np.tanh((x - style.part) / 0.06)
    # Above and in front the comb decides, beside and behind the side's.
    top = top_share(position)[:, None]
    comb = np.stack([style.comb[0] * away, np.full_like(x, style.comb[1]), np.full_like(x, style.comb[2])], 1)
    side = np.stack([style.side_comb[0] * np.sign(x), *np.outer(style.side_comb[1:], np.ones_like(x))], 1)
    pull = side + (comb - side) * top
    if style.whorl:
        out = unit(position - float32([0.06, 8.3, -0.08]))
        around = np.cross(out, float32([0, 1, 0]))
        pull += style.whorl * (unit(out + 0.4 * around) - pull) * top
    # Hair lies along the skin whatever the comb, but for what lifts it.
    return unit(pull - normal * (pull * normal).sum(1, keepdims=True))


def in_fringe(style: HairStyle, position: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Which roots (N,) carry the fringe."""
    return (style.fringe > 0) & (position[:, 2] > 0.78) & (abs(position[:, 0]) < 0.45) & (height < 0.5)


def hair_lengths(style: HairStyle, root: np.ndarray, position: np.ndarray, centre: np.ndarray, tie: np.ndarray | None):
    """Length of each strand (N,), dm, by its root (N, 3)."""
    if tie is not None:
        angle = np.arccos(np.clip((unit(root - centre) * unit(tie - centre)).sum(1), -1, 1))
        return 0.92 * angle + 0.25
    if style.end:
        rise = root[:, 1] - centre[1]
        over = 0.85 * np.arcsin(np.clip(rise / 0.92, -1, 1)) + np.where(rise > 0, 0.05, 0)
        length = np.where(rise > 0, over, rise) + centre[1] - (style.end + centre[1] - CENTRE_DM[1])
        return np.maximum(length * (1 - style.layers * smooth_step(7.6, 8.2, position[:, 1])), 0.1)
    top = smooth_step(7.55, 8.1, position[:, 1] + 0.1 * position[:, 2])
    return style.side + (style.top - style.side) * top


def choose_roots(
    head_mesh: HeadMesh, style: HairStyle, rng: np.random.Generator, hidden: np.ndarray | None = None
) -> tuple[Roots, np.ndarray]:
    """Where a style's hair grows, and the height of each root above the hairline (N,), dm; none at `hidden` (m,)."""
    roots = scalp_roots()
    height = hair_height(style, scalp_of_roots(head_mesh))
    # A hair all alone below the others would look lost.
    growing = rng.uniform(0.15, 1, len(height)) < smooth_step(-0.03, 0.08, height)
    density = style.count / max(growing.sum(), 1)  # a hat leaves fewer hairs, not denser ones
    if hidden is not None:
        growing &= ~hidden[roots.corners].any(1)
    growing = np.flatnonzero(growing)
    # Twice the hairs for a fringe: the forehead behind it is lighter than any scalp.
    haste = np.where(in_fringe(style, roots.position, height), 2.0, 1.0)[growing]
    order, count = rng.random(len(growing)) / haste, int(density * len(growing))
    chosen = np.sort(growing[np.argpartition(order, count)[:count]]) if count < len(growing) else growing
    return roots[chosen], height[chosen]


def overhang(style: HairStyle, at: np.ndarray, length: np.ndarray, lock: np.ndarray, rng: np.random.Generator):
    """How far each strand may hang over the mean hairline (N,), dm, by its root (N, 3) from the skull's centre."""
    count = len(at)
    drop = style.drop * (rng.random(LOCKS[style.lock])[lock] + 0.3 * rng.random(count))
    if style.short and style.lift < 0.9:  # may lie on the forehead: it is too short for the eyes
        drop = np.maximum(drop, np.minimum(0.05 + 0.6 * length, 0.3) * rng.uniform(0.6, 1, count))
    # Hair that grows below the mean hairline may stay there.
    line = np.interp(np.degrees(np.arctan2(abs(at[:, 0]), at[:, 2])), FACE_AZIMUTH, FACE_HEIGHT)
    return np.maximum(drop, line + 0.03 - at[:, 1] - SKULL_Y)


def grow_hair(
    head_mesh: HeadMesh,
    style: HairStyle,
    hair_color: np.ndarray,
    head: np.ndarray,
    rotation: np.ndarray,
    rng: np.random.Generator,
    hidden: np.ndarray | None = None,
) -> list[Strands]:
    """The hair of a head.

    Args:    hair_color: (3,) linear RGB.   head: (m, 3) refined vertices, um, turned by `rotation` (3, 3).
             hidden: (m,) bool, vertices under a hat, which also presses the hair beside it flat.
    Returns: strands in the head's own turned frame, um; none for bald heads.
    """
    if style.count == 0:
        return []
    hat = hidden is not None and hidden.any()
    if hat:
        style = replace(style, volume=min(style.volume, 0.02), lift=min(style.lift, 0.1), drop=0.0, fringe=0.0)
    points = float32(head @ rotation / UM_PER_DM)
    scalp = head_mesh.scalp_idx
    centre = CENTRE_DM + (points[scalp] - head_mesh.canonical[scalp]).mean(0)
    roots, height = choose_roots(head_mesh, style, rng, hidden)
    if not len(height):
        return []
    root, normal = roots.on(points)
    count, position, lock = len(root), roots.position, roots.lock[:, style.lock]
    side = position[:, 0] > style.part  # a lock does not straddle the parting
    leader = first_of_lock(2 * lock + side)
    layer = rng.random(count).astype(np.float32)
    loose = (rng.random(count) < 0.04) & (position[:, 2] < 0.9)

    tie = None
    if style.tie:
        back = float32([0, style.tie, -0.42 + 0.35 * max(0, style.tie - 7.75)])
        tie = centre + (back - CENTRE_DM)
    pull = comb_directions(style, position, normal)
    length = hair_lengths(style, root, position, centre, tie)
    length *= np.exp(style.ragged * (rng.standard_normal(count) + 0.7 * rng.standard_normal(LOCKS[style.lock])[lock]))
    drop = overhang(style, root - centre, length, lock, rng)
    opening = style.opening + rng.uniform(-2, 8, count) + rng.uniform(-6, 6, LOCKS[style.lock])[lock]
    opening *= -1 if style.short else 1  # long hair gives way to the face, short hair is cut there
    hold = np.full(count, style.hold)
    if tie is not None:
        way = tie - root
        pull, hold = unit(way - normal * (way * normal).sum(1, keepdims=True)), np.zeros(count)
    lift = style.lift * np.exp(0.2 * rng.standard_normal(count)) * smooth_step(-0.1, 0.25, height + 0.1 * style.lift)
    if style.lift < 0.9:  # but for coils and the shorn, hair lies flat at the sides
        lift *= 0.45 + 0.55 * top_share(position)
    spread = 0.10 + 0.25 * style.lift * (1 - 0.7 * smooth_step(0, 5, style.hold))
    noise = spread * rng.standard_normal((LOCKS[style.lock], 3))[lock] + 0.09 * rng.standard_normal((count, 3))
    clump = style.clump * np.where(loose, 0.1, 0.6 + 0.5 * rng.random(count)).clip(0, 1)
    if style.fringe:
        front = in_fringe(style, position, height)
        pull[front] = unit(np.stack([0.5 * position[:, 0] + style.sweep, 0 * layer - 0.45, 0 * layer + 1], 1)[front])
        end = style.fringe + centre[1] - CENTRE_DM[1]
        length[front] = ((root[:, 1] - end) * 1.15 + 0.12 * abs(style.sweep) + 0.03 * rng.standard_normal(count))[front]
        length[front] += (0.3 * style.ragged * rng.standard_normal(LOCKS[style.lock]))[lock][front]
        opening[front], hold[front], lift[front] = 0, 9, 0.25
        length = np.maximum(length, 0.03)
        leader = first_of_lock(3 * lock + np.where(front, 2, side))
        clump[front] *= 0.6
    direction = unit(normal * lift[:, None] + pull * (1 - 0.85 * np.minimum(lift, 1))[:, None] + noise)
    direction[loose] = unit(direction[loose] + 0.4 * normal[loose] + 0.3 * rng.standard_normal((loose.sum(), 3)))
    target = None if tie is None else tie + 0.02 * rng.standard_normal((count, 3))
    gravity = style.gravity * (np.array([0, -1, 0]) @ rotation)
    obstacles = Obstacles(np.float64(centre), skull_shell(points, centre, ears=style.end > 0), torso_height(points))
    step = 0.1 if style.curl == 0 else min(0.1, 0.25 * style.wave)
    steps = int(np.clip(np.quantile(length, 0.9) / step, 6, 26))
    volume = style.volume * (0.15 + 0.85 * layer)
    strands = grow_strands(
        root, direction, length, steps, gravity, obstacles, pull, hold, target, volume, opening, drop
    )
    phase = rng.uniform(0, 6.28, LOCKS[style.lock])[lock] + (6.28 if style.cut == "locs" else 0.7) * rng.random(count)
    curl = style.curl * np.exp(0.25 * rng.standard_normal(count))
    wave = style.wave * np.exp(0.15 * rng.standard_normal(LOCKS[style.lock]))[lock]
    styled = wind_strands(strands, length, leader, clump, obstacles, curl, wave, phase, 0.85 * opening, drop)
    colors = strand_colors(rng, hair_color, lock, layer, style.gray)
    grown = [Strands(out_of(styled, rotation), colors, style.width_um)]
    if style.knot != "none" and not (hat and hidden[scalp[cKDTree(points[scalp]).query(tie)[1]]]):
        knot = grow_knot(style, tie, gravity, obstacles, rng)
        tones = strand_colors(rng, hair_color, rng.integers(0, 60, len(knot)), rng.random(len(knot)), style.gray)
        grown.append(Strands(out_of(knot, rotation), tones, style.width_um))
    return grown


def out_of(strands_dm: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Strands of the head's frame, dm, in the camera's, um."""
    return float32(strands_dm @ float32(rotation.T * UM_PER_DM))


def grow_knot(
    style: HairStyle, tie: np.ndarray, gravity: np.ndarray, obstacles: Obstacles, rng: np.random.Generator
) -> np.ndarray:
    """A bun or a pony tail at the tie (N, P, 3), dm in the head's frame."""
    outward = unit(tie - obstacles.centre)
    if style.knot == "bun":
        count, turn = 700, np.linspace(0, 2.4, 14)
        middle, size = tie + 0.17 * outward, rng.uniform(0.19, 0.3)
        # Loops about the knot's axis, tilted at random: wound hair.
        axis = unit(outward + 0.45 * rng.standard_normal((count, 3)))
        first = unit(np.cross(axis, rng.standard_normal((count, 3))))
        second = np.cross(axis, first)
        height = rng.uniform(-0.8, 0.8, count)[:, None, None]
        ring = first[:, None] * np.cos(turn)[:, None] + second[:, None] * np.sin(turn)[:, None]
        ball = ring * np.sqrt(1 - height**2) + axis[:, None] * height
        radius = size * np.exp(0.05 * rng.standard_normal(count))[:, None, None]
        return float32(middle + radius * ball * [1, 1, 0.85])
    count = 900
    spread = rng.standard_normal((count, 3))
    root = tie + 0.035 * spread
    direction = unit(outward + np.float64([0, 0.25, 0]) + 0.22 * spread)
    length = style.tail * np.exp(0.12 * rng.standard_normal(count))
    strands = grow_strands(root, direction, length, 17, gravity, obstacles, layer=rng.uniform(0.05, 0.15, count))
    lock = rng.integers(0, 25, count)
    phase, clump = rng.uniform(0, 6.28, 25)[lock], rng.uniform(0.2, 0.6, count)
    return wind_strands(strands, length, first_of_lock(lock), clump, obstacles, max(style.curl, 0.03), 0.9, phase)
