"""Things between the camera and a face: hands, microphones, phones, cups, books, people, bars."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from p2m_core.geometry.rasterizer import depth_map
from p2m_synth.head.head_mesh import HeadMesh
from p2m_synth.occluders.hand import FaceFrame, gripping_hand, make_hand, posed_hand, turn_about
from p2m_synth.scene.elements import Surface, float32
from p2m_synth.scene.primitives import MM, ball, clearance, joined, lathe, moved, orient, sheet, tube, unit
from p2m_synth.wear.fabric import draw_cloth_color

SHARE = 0.18
KINDS = {
    "hand": 0.5, "microphone": 0.13, "phone": 0.08, "cup": 0.12, "book": 0.05, "bottle": 0.03,
    "flower": 0.03, "ice cream": 0.02, "bars": 0.04,
}  # fmt: skip
COVERED = (0.03, 0.42)  # share of the face's pixels that may be hidden
SKIN = float32([0.55, 0.33, 0.23])


def draw_occluder(
    rng: np.random.Generator,
    head_mesh: HeadMesh,
    face: np.ndarray,
    landmarks: np.ndarray,
    skin_color: np.ndarray = SKIN,
    share: float = SHARE,
) -> tuple[str, list[Surface]]:
    """Something in front of a face, or mostly nothing.

    Args:    face (V, 3), landmarks (68, 3): um, camera frame.   skin_color: (3,) of the person's hands.
             share: how often there is something.
    Returns: its name, "none" or a key of KINDS, and its surfaces in the camera's frame.
    """
    if rng.random() >= share:
        return "none", []
    kind = str(rng.choice(list(KINDS), p=np.array(list(KINDS.values()))))
    return kind, make_occluder(kind, rng, head_mesh, face, landmarks, skin_color)


def make_occluder(kind, rng, head_mesh, face, landmarks, skin_color) -> list[Surface]:
    """The surfaces of an occluder, moved so that it hides a part of the face within COVERED."""
    makers = {
        "hand": make_hand, "microphone": make_microphone, "phone": make_phone, "cup": make_cup, "book": make_book,
        "bottle": make_bottle, "flower": make_flower, "ice cream": make_ice_cream,
        "bars": make_bars,
    }  # fmt: skip
    surfaces = makers[kind](rng, FaceFrame(landmarks), float32(skin_color))
    if kind == "microphone" and len(surfaces) == 1:
        return surfaces  # a headset stays where it is worn
    # Only the face is known here: what may cross the rest of the head stays well before it.
    gap = rng.uniform(250, 400) * MM if kind == "bars" else rng.uniform(0, 2) * MM
    return settle(surfaces, head_mesh, face, gap)


def covered_share(surfaces: list[Surface], head_mesh: HeadMesh, face: np.ndarray, size: int = 72) -> float:
    """Share of a face's pixels that surfaces hide."""
    low, high = face[:, :2].min(0), face[:, :2].max(0)
    scale = (size - 1) / (high - low).max()

    def place(vertices: np.ndarray) -> np.ndarray:
        return (vertices - [*low, 0]) * np.float32(scale)

    visible = depth_map(place(face), head_mesh.model.face_triangles, size, size)
    hidden = np.zeros(visible.shape, bool)
    for surface in surfaces:
        hidden |= depth_map(place(surface.vertices), surface.triangles, size, size) > visible
    return float(hidden[np.isfinite(visible)].mean())


def settle(surfaces: list[Surface], head_mesh: HeadMesh, face: np.ndarray, gap_um: float) -> list[Surface]:
    """Move things out of the face and sideways until they hide neither too little nor too much of it."""
    middle = (face.min(0) + face.max(0)) / 2
    points = np.concatenate([surface.vertices for surface in surfaces])
    near = points[(abs(points[:, :2] - middle[:2]) < 90 * MM).all(1)]
    away = (near if len(near) else points).mean(0)[:2] - middle[:2]
    away = np.append(away / max(np.linalg.norm(away), 1), 0) if np.linalg.norm(away) > 5 * MM else np.array([0, -1, 0])
    shift = np.zeros(3)
    step = 12 * MM
    for k in range(14):
        ahead = clearance(face - middle, points + shift - middle, np.eye(3))
        shift[2] += max(ahead + gap_um, -4 * MM if k else -1e9) if ahead > -1e8 else 0
        placed = [moved(surface, np.eye(3), shift) for surface in surfaces]
        share = covered_share(placed, head_mesh, face)
        if COVERED[0] < share < COVERED[1]:
            return placed
        shift = shift + away * (step if share >= COVERED[1] else -step)
        step *= 0.9
    return placed


def stand(surface: Surface, axis: np.ndarray, at: np.ndarray) -> Surface:
    """A thing made along y, turned so that y runs along `axis` (3,), with its origin at `at` (3,)."""
    y = unit(axis)
    x = unit(np.cross(y, [0.1, 0.2, 1.0]))
    return moved(surface, np.stack([x, y, np.cross(x, y)], 1), at)


def profile_mm(*points: tuple[float, float]) -> np.ndarray:
    """A profile for `lathe` from radius and height in mm, corners doubled so that edges stay sharp."""
    points = np.array(points, float)
    between = np.concatenate([points[:1], np.repeat(points[1:-1], 2, 0), points[-1:]])
    between[1:-1:2] += (points[:-2] - points[1:-1]) * 0.04
    between[2:-1:2] += (points[2:] - points[1:-1]) * 0.04
    return between * MM


def make_microphone(rng: np.random.Generator, face: FaceFrame, skin_color: np.ndarray) -> list[Surface]:
    """A microphone in a hand or on a stand, or a headset with its boom."""
    dark = float32([0.02, 0.02, 0.022]) * float32(rng.uniform(0.6, 2))
    kind, side = rng.choice(("hand", "headset", "studio"), p=(0.6, 0.2, 0.2)), rng.choice((-1, 1))
    if kind == "headset":
        mouth = face.mouth + face.left * side * 22 * MM + face.forward * 4 * MM - face.up * 4 * MM
        ear = face.landmarks[16 if side > 0 else 0] + face.left * side * 6 * MM - face.up * 4 * MM
        t = np.linspace(0, 1, 14)[:, None]
        bow = face.forward * 14 * MM + face.left * side * 13 * MM - face.up * 8 * MM
        boom = tube(ear + (mouth - ear) * t + bow * np.sin(np.pi * t), 1.6 * MM, dark, 6, gloss=0.2)
        foam = stand(lathe(profile_mm((0, 16), (7, 11), (8.5, 3), (7, -5), (0, -9)), dark), mouth - ear, mouth)
        return [joined([boom, foam, ball(ear, 9 * MM, dark, 14)])]
    axis = face.direction(side * rng.uniform(0, 0.6), 1, -rng.uniform(0.3, 0.9))
    silver = float32([0.4, 0.4, 0.41]) if rng.random() < 0.5 else dark * 2
    at = face.mouth - face.up * rng.uniform(4, 26) * MM + face.forward * 20 * MM
    wide = rng.uniform(22, 27) * (1.25 if kind == "studio" else 1)
    turn = np.linspace(0.01, 2.5, 16)
    head = lathe(np.stack([wide * np.sin(turn), wide * np.cos(turn)], 1) * MM, silver, 32, gloss=0.4)
    grid = np.arange(len(head.color)).reshape(-1, 32)
    mesh = 0.55 + 0.65 * ((grid // 32 + grid % 32) % 2).reshape(-1, 1)
    head = replace(head, color=float32(head.color * mesh))
    low = -wide * 0.8
    body = lathe(
        profile_mm((wide * 0.98, low * 0.3), (wide * 1.06, low * 0.4), (wide * 0.98, low * 0.95), (wide * 0.8, low),
                   (wide * 0.62, low * 1.7), (wide * 0.5, -220), (0.2, -221)), dark, gloss=0.25,
    )  # fmt: skip
    parts = [stand(head, axis, at), stand(body, axis, at)]
    if kind == "studio" or rng.random() < 0.3:
        return parts
    right = bool(rng.random() < 0.6)
    back = face.direction(-0.8 if right else 0.8, -0.1, 0.5)
    hold = at - unit(axis) * rng.uniform(75, 100) * MM
    return parts + gripping_hand(rng, axis, back, hold, 14, skin_color, right)


def box(size_mm: tuple[float, float, float], color: np.ndarray, corner_mm: float = 8.0, **looks: float) -> Surface:
    """A slab along x and y with round corners, its middle at 0."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    c, s = np.cos(turn), np.sin(turn)
    half = np.array(size_mm) / 2
    outline = np.stack([np.sign(x) * (h - corner_mm) + corner_mm * x for x, h in ((c, half[0]), (s, half[1]))], 1)
    rows = [(0.01, half[2]), (0.55, half[2]), (0.97, half[2]), (0.995, half[2] * 0.9), (1, half[2] * 0.4)]
    rows = rows + [(scale, -z) for scale, z in rows[::-1]]
    grid = np.stack([np.concatenate([outline * scale, np.full((40, 1), z)], 1) for scale, z in rows]) * MM
    return orient(sheet(grid, color, True, **looks), np.zeros(3))


def make_phone(rng: np.random.Generator, face: FaceFrame, skin_color: np.ndarray) -> list[Surface]:
    """A phone at the ear or before the face, and the hand that holds it."""
    right = bool(rng.random() < 0.6)
    side = -1 if right else 1
    color = (float32([0.02, 0.02, 0.022]), float32([0.6, 0.6, 0.62]), draw_cloth_color(rng))[rng.integers(3)]
    phone = box((72, 148, 9), color, gloss=0.7)
    lenses = [ball(np.array([-22 + 16 * k % 32, 58 - 16 * (k // 2), 4.6]) * MM, 5 * MM, [0.01] * 3, 12, gloss=2)
              for k in range(3)]  # fmt: skip
    lenses = [replace(lens, vertices=lens.vertices * [1, 1, 0.25] + [0, 0, 3.5 * MM]) for lens in lenses]
    if rng.random() < 0.5:  # before the face, as for a picture in a mirror
        y = unit(face.direction(side * rng.normal(0, 0.15), 1, rng.normal(0, 0.1)) * [1, 1, 0.3])
        z = unit(np.array([0, 0, 1.0]) + 0.2 * rng.standard_normal(3))
        at = face.mouth + face.left * side * rng.uniform(20, 50) * MM - face.up * rng.uniform(20, 60) * MM
        back = z
    else:  # at the ear
        ear, mouth = face.landmarks[0 if right else 16], face.mouth
        y = unit(ear - mouth + face.up * 30 * MM)
        at = ear * 0.55 + mouth * 0.45 + face.left * side * 22 * MM - face.up * 6 * MM
        back = face.direction(side, 0, 0.5)
        z = back
    z = unit(z - y * (y @ z))
    frame = np.stack([np.cross(y, z), y, z], 1)
    phone = [moved(phone, frame, at), moved(joined(lenses), frame, at)]
    hand = posed_hand(rng, "relaxed", unit(-side * face.left * 0.8 + y * 0.75), -z, np.array([0, 95, 15]),
                      at - y * 20 * MM + z * 5 * MM, skin_color, right, 3.0)  # fmt: skip
    return phone + hand


def make_cup(rng: np.random.Generator, face: FaceFrame, skin_color: np.ndarray) -> list[Surface]:
    """A cup or mug at the mouth, held."""
    right = bool(rng.random() < 0.6)
    side = -1 if right else 1
    paper = rng.random() < 0.4
    wide, low, high = rng.uniform(36, 42), rng.uniform(27, 34), rng.uniform(85, 112)
    color = draw_cloth_color(rng) if rng.random() < 0.6 else float32([0.7, 0.68, 0.65])
    half = profile_mm((wide - 3, -30), (wide - 3, 0), (wide, 1), (wide, -4), ((wide + low) / 2, -high / 2),
                      (low, -high), (0.2, -high - 1))  # fmt: skip
    colors = np.tile(color, (len(half), 1))
    if paper:
        colors[6:9] = draw_cloth_color(rng)
    colors[0] = [0.06, 0.03, 0.015]
    cup = lathe(half, colors, 32, gloss=0.1 if paper else 0.6)
    axis = face.direction(side * 0.1, 1, rng.uniform(-0.2, 0.7))
    at = face.mouth + face.forward * wide * MM - face.up * rng.uniform(0, 25) * MM
    parts = [stand(cup, axis, at)]
    back = face.direction(side, -0.1, 0.7)
    hold = at - unit(axis) * rng.uniform(40, 60) * MM
    return parts + gripping_hand(rng, axis, back, hold, wide - 1, skin_color, right)


def make_bottle(rng: np.random.Generator, face: FaceFrame, skin_color: np.ndarray) -> list[Surface]:
    """A bottle at the mouth, held."""
    right = bool(rng.random() < 0.6)
    side = -1 if right else 1
    color = float32(rng.choice([[0.02, 0.07, 0.02], [0.09, 0.035, 0.01], [0.25, 0.3, 0.33], [0.03, 0.08, 0.2]]))
    profile = profile_mm((9, 0), (13, -1), (13, -14), (14, -16), (15, -70), (32, -110), (33, -230), (0.2, -232))
    colors = np.tile(color, (len(profile), 1))
    colors[9:13] = np.where(rng.random() < 0.7, draw_cloth_color(rng), color)
    axis = face.direction(side * 0.2, 0.6, -rng.uniform(0.5, 1.1))
    at = face.mouth + face.forward * 6 * MM
    back = face.direction(side, 0, 0.6)
    bottle = stand(lathe(profile, colors, 28, gloss=0.9), axis, at)
    hold = at - unit(axis) * 140 * MM
    return [bottle, *gripping_hand(rng, axis, back, hold, 30, skin_color, right)]


def make_book(rng: np.random.Generator, face: FaceFrame, skin_color: np.ndarray) -> list[Surface]:
    """An open book or a sheet of paper before the lower face."""
    paper = rng.random() < 0.4
    wide, high = (210, 297) if paper else (rng.uniform(220, 290), rng.uniform(180, 230))
    u, v = np.meshgrid(np.linspace(-1, 1, 33), np.linspace(1, 0, 25))
    bow = 9 * np.sin(u * 1.5) if paper else -26 * abs(u) ** 0.7
    page = np.stack([u * wide / 2, (v - 1) * high, bow + 5 * v * (1 - u**2)], -1) * MM
    base, ink = (float32([0.72, 0.71, 0.68]),) * 2 if paper else (draw_cloth_color(rng), draw_cloth_color(rng))
    color = np.broadcast_to(base, page.shape).copy()
    title = ~np.bool_(paper) & (abs(u - 0.5) < 0.33) & ((abs(v - 0.72) < 0.07) | (abs(v - 0.25) < 0.03))
    color[title] = ink
    color *= np.where(abs(u) < 0.04, 0.7, 1)[..., None]
    back = page - [0, 0, (1 if paper else 14) * MM]
    grid = np.concatenate([page, back[::-1]])
    cover = sheet(grid, np.concatenate([color, 0 * color + float32([0.6, 0.58, 0.52])]), gloss=0.1)
    lean = rng.normal(0, 0.15)
    y = unit(np.array([face.up[0] * 0.5 + lean, 1, rng.uniform(-0.2, 0.1)]))
    z = unit(np.array([0.0, 0, 1]) + 0.1 * rng.standard_normal(3))
    z = unit(z - y * (y @ z))
    frame = np.stack([np.cross(y, z), y, z], 1)
    at = face.landmarks[[33, 51]].mean(0) + face.up * rng.uniform(-25, 8) * MM + [rng.normal(0, 12) * MM, 0, 20 * MM]
    parts = [moved(cover, frame, at)]
    for right in (True, False):
        if rng.random() < 0.5:
            side = -1 if right else 1
            hold = at + frame @ np.array([side * wide / 2 - side * 14, -rng.uniform(60, 100), 4]) * MM
            parts += posed_hand(rng, "relaxed", unit(-side * frame[:, 0] + 0.9 * y), -z, np.array([5, 120, 10]), hold,
                                skin_color, right, 3.0)  # fmt: skip
    return parts


def make_flower(rng: np.random.Generator, face: FaceFrame, skin_color: np.ndarray) -> list[Surface]:
    """A flower on a stem."""
    petals, layers = int(rng.integers(6, 12)), int(rng.integers(2, 4))
    colors = [[0.6, 0.03, 0.05], [0.7, 0.5, 0.03], [0.7, 0.68, 0.65], [0.6, 0.15, 0.3], [0.25, 0.1, 0.5]]
    color = np.float32(rng.choice(colors))
    length = rng.uniform(26, 48)
    s, u = np.meshgrid(np.linspace(0.02, 1, 8), np.linspace(-1, 1, 5), indexing="ij")
    width = 0.42 * length * np.sin(np.pi * s**0.8).clip(0.05) ** 0.6
    parts = []
    for layer in range(layers):
        rise = 0.25 + 0.45 * layer
        reach = length * (1 - 0.22 * layer)
        petal = np.stack([u * width, rise * reach * s**1.4 + 0.12 * length * u**2, reach * s], -1) * MM
        for k in range(petals):
            turn = turn_about(np.array([0, 1.0, 0]), 2 * np.pi * (k + 0.5 * layer) / petals + rng.normal(0, 0.06))
            tone = color * (0.6 + 0.5 * s)[..., None] * rng.uniform(0.85, 1.1)
            parts.append(moved(sheet(petal, tone, gloss=0.03, soft=0.3), turn))
    heart = ball(np.array([0, 4, 0]) * MM, 8 * MM, [0.5, 0.3, 0.03], 12)
    stem = tube(np.stack([5 * np.sin(np.linspace(0, 2, 10)), np.linspace(-2, -220, 10), 0 * np.arange(10)], 1) * MM,
                2.5 * MM, [0.06, 0.2, 0.03], 7, up=np.array([1.0, 0, 0]))  # fmt: skip
    side = rng.choice((-1, 1))
    axis = face.direction(side * rng.uniform(0.1, 0.5), 0.55, rng.uniform(0.3, 0.8))
    at = face.mouth + face.left * side * rng.uniform(0, 35) * MM + face.forward * 30 * MM
    return [stand(joined([*parts, heart, stem]), axis, at - face.up * rng.uniform(0, 30) * MM)]


def make_ice_cream(rng: np.random.Generator, face: FaceFrame, skin_color: np.ndarray) -> list[Surface]:
    """A cone with a scoop, held."""
    right = bool(rng.random() < 0.6)
    side = -1 if right else 1
    cream = float32(rng.choice([[0.75, 0.66, 0.5], [0.7, 0.3, 0.34], [0.13, 0.05, 0.025], [0.45, 0.65, 0.4]]))
    scoop = ball(np.zeros(3), 29 * MM, cream, 28, gloss=0.2, soft=0.3)
    bumps = 1 + 0.03 * rng.standard_normal((len(scoop.vertices), 1))
    scoop = replace(scoop, vertices=float32(scoop.vertices * bumps))
    cone = lathe(profile_mm((26, -6), (28, -12), (26, -16), (4, -118), (0.2, -119)), [0.5, 0.28, 0.1], 24, gloss=0.05)
    axis = face.direction(side * 0.2, 1, -rng.uniform(0.1, 0.5))
    at = face.mouth + face.forward * 26 * MM - face.up * rng.uniform(8, 28) * MM
    back = face.direction(side, -0.1, 0.6)
    parts = [stand(scoop, axis, at), stand(cone, axis, at)]
    return parts + gripping_hand(rng, axis, back, at - unit(axis) * 78 * MM, 14, skin_color, right)


def make_bars(rng: np.random.Generator, face: FaceFrame, skin_color: np.ndarray) -> list[Surface]:
    """Railings or a wire fence across the picture."""
    wire = rng.random() < 0.4
    spacing = rng.uniform(30, 50) if wire else rng.uniform(75, 130)
    radius = rng.uniform(1, 1.8) if wire else rng.uniform(6, 11)
    color = (float32([0.03] * 3), float32([0.3, 0.3, 0.31]), float32([0.2, 0.1, 0.05]))[rng.integers(3)]
    lean = np.array([1, 0.9, 0]) if wire else np.array([rng.normal(0, 0.04), 1, 0])
    t = np.linspace(-320, 320, 4)[:, None] * MM
    parts = []
    for way in [lean] + [lean * [-1, 1, 1]] * wire:
        way = unit(way)
        across = np.array([way[1], -way[0], 0])
        offset = rng.uniform(0, spacing)
        for k in range(-5, 6):
            middle = face.centre + across * (k * spacing + offset) * MM
            parts.append(tube(middle + way * t, radius * MM, color, 8, up=np.array([0, 0, 1.0]), gloss=0.4))
    return [joined(parts)]
