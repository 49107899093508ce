"""Shapes of procedural objects, as fields: cars, sofas and vases that an ellipsoid can be deformed to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

Field = Callable[[np.ndarray], np.ndarray]  # (N, 3) -> (N,): below 0 inside, 0 on the surface


@dataclass(frozen=True)
class Part:
    """A piece of an object, or a place that is only painted: where its field is below 0, and its colour (RGB)."""

    field: Field
    color: tuple[float, float, float]


@dataclass(frozen=True)
class Solid:
    """An object in units of its own, y up: parts that melt into each other, and paint on them.

    half: (3,) half size of a box about 0 that holds it.   blend: how far apart parts melt together.
    """

    parts: tuple[Part, ...]
    paint: tuple[Part, ...]
    half: tuple[float, float, float]
    blend: float

    def field(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) -> (N,): below 0 inside."""
        value = self.parts[0].field(points)
        for part in self.parts[1:]:
            value = smooth_min(value, part.field(points), self.blend)
        return value

    def colors(self, points: np.ndarray) -> np.ndarray:
        """RGB of points on the surface, (N, 3) -> (N, 3): of the nearest part, or of the last paint there."""
        nearest = np.argmin([part.field(points) for part in self.parts], 0)
        colors = np.array([part.color for part in self.parts], np.float64)[nearest]
        for part in self.paint:
            colors[part.field(points) < 0] = part.color
        return colors


def smooth_min(a: np.ndarray, b: np.ndarray, reach: float) -> np.ndarray:
    """The lesser of two fields, rounded where they differ by less than `reach`.   Source: Quilez, smooth minimum."""
    h = np.maximum(reach - np.abs(a - b), 0) / reach
    return np.minimum(a, b) - h * h * reach / 4


def smooth_max(a: np.ndarray, b: np.ndarray, reach: float) -> np.ndarray:
    """The greater of two fields, rounded alike."""
    return -smooth_min(-a, -b, reach)


def extruded(flat: np.ndarray, across: np.ndarray, radius: float) -> np.ndarray:
    """Field of a flat shape drawn out into a solid with rounded edges.

    Args:    flat (N,), across (N,): signed distances in the shape's plane and to its two ends.
    """
    a, b = flat + radius, across + radius
    return np.minimum(np.maximum(a, b), 0) + np.hypot(np.maximum(a, 0), np.maximum(b, 0)) - radius


def box(centre: Sequence[float], half: Sequence[float], radius: float) -> Field:
    """A box with rounded edges."""

    def field(points: np.ndarray) -> np.ndarray:
        q = np.abs(points - np.asarray(centre)) - np.asarray(half) + radius
        return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0) - radius

    return field


def moved(parts: Sequence[Part], shift: Sequence[float]) -> tuple[Part, ...]:
    """Parts moved by -shift."""
    return tuple(Part(lambda p, f=part.field: f(p + np.asarray(shift)), part.color) for part in parts)


def polygon_distance(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance (N,) of points (N, 2) to a polygon (M, 2), below 0 inside."""
    squared, inside = np.full(len(points), np.inf), np.zeros(len(points), bool)
    for a, b in zip(corners, np.roll(corners, -1, 0)):
        edge, to_point = b - a, points - a
        along = np.clip(to_point @ edge / (edge @ edge), 0, 1)
        squared = np.minimum(squared, ((to_point - along[:, None] * edge) ** 2).sum(1))
        # An edge that a ray to the right crosses turns outside into inside.
        crossed = (a[1] <= points[:, 1]) != (b[1] <= points[:, 1])
        inside ^= crossed & ((edge[1] > 0) == (edge[0] * to_point[:, 1] < edge[1] * to_point[:, 0]))
    return np.where(inside, -1, 1) * np.sqrt(squared)


def hsv(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """RGB, 0 to 255, of hue, saturation and value in [0, 1]."""
    ramp = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return tuple(255 * value * (1 - saturation + saturation * ramp))


def vase(rng: np.random.Generator) -> Solid:
    """A vase: a turned profile with foot, belly, neck and lip, hollow at the top; round, oval or fluted."""
    height, belly = 1.0, rng.uniform(0.22, 0.42)
    at = [0, 0.06, rng.uniform(0.3, 0.55), rng.uniform(0.72, 0.85), 1.0]
    neck = belly * rng.uniform(0.3, 0.8)
    radii = [belly * rng.uniform(0.45, 0.75), belly * rng.uniform(0.5, 0.7), belly, neck, neck * rng.uniform(1, 1.5)]
    profile = PchipInterpolator(np.array(at) - 0.5, radii)
    flat, wall, floor = rng.uniform(0.75, 1), rng.uniform(0.03, 0.045), 0.5 - rng.uniform(0.1, 0.3)
    flutes, depth = int(rng.integers(6, 13)), rng.choice([0, 0, 0.04, 0.07])

    def field(points: np.ndarray) -> np.ndarray:
        x, y, z = points[:, 0], points[:, 1], points[:, 2] / flat
        ribs = 1 + depth * np.cos(flutes * np.arctan2(z, x))
        outside = np.hypot(x, z) - profile(np.clip(y, -0.5, 0.5)) * ribs
        body = smooth_max(outside, np.abs(y) - height / 2, 0.03)
        return smooth_max(body, -smooth_max(outside + wall, floor - y, 0.08), 0.03)

    glaze, band = hsv(rng.random(), rng.uniform(0.2, 0.7), rng.uniform(0.6, 0.95)), hsv(rng.random(), 0.6, 0.5)
    rings = [(rng.uniform(-0.4, 0.45), rng.uniform(0.015, 0.06)) for _ in range(rng.integers(0, 4))]
    paint = [Part(lambda p, y=y, half=half: np.abs(p[:, 1] - y) - half, band) for y, half in rings]
    widest = max(belly, radii[-1]) * 1.1
    return Solid((Part(field, glaze),), tuple(paint), (widest, height / 2, widest), 0.01)


def sofa(rng: np.random.Generator) -> Solid:
    """A sofa or an armchair that looks along z: base, cushions, a back that leans, arms, at times a chaise longue."""
    seats = int(rng.integers(1, 4))
    width, deep = seats * rng.uniform(0.55, 0.7) + 0.3, rng.uniform(0.8, 1.0)
    seat, back, lean = rng.uniform(0.32, 0.42), rng.uniform(0.72, 1.0), rng.uniform(0, 0.25)
    arm, arm_height, round_arm = rng.uniform(0.12, 0.2), rng.uniform(0.5, 0.65), rng.random() < 0.4
    x, z, base = width / 2, deep / 2, seat - 0.13
    fabric = hsv(rng.random(), rng.uniform(0.1, 0.65), rng.uniform(0.45, 0.9))
    light = tuple(min(255, 1.12 * value + 6) for value in fabric)
    parts = [Part(box((0, base / 2, 0), (x, base / 2, z), 0.03), fabric)]
    leaning = box((0, back / 2, -z + 0.12), (x, back / 2, 0.11), 0.08)
    parts.append(Part(lambda p: leaning(p + np.outer(p[:, 1], [0, 0, lean])), fabric))
    inner = (width - 2 * arm) / seats
    for k in range(seats):
        middle = -x + arm + inner * (k + 0.5)
        parts.append(Part(box((middle, seat - 0.07, 0.07), (inner / 2 - 0.012, 0.08, z - 0.07), 0.05), light))
    for side in (-1, 1):
        thick = 0.09 if round_arm else min(0.05, 0.4 * arm)
        rest = box((side * (x - arm / 2), arm_height / 2, 0), (arm / 2 + 0.02, arm_height / 2, z), thick)
        parts.append(Part(rest, fabric))
    longer = 0.0
    if seats > 1 and rng.random() < 0.4:
        longer, side = rng.uniform(0.4, 0.7), rng.choice([-1, 1])
        middle = side * (x - arm - inner / 2)
        chaise = box((middle, seat / 2, z + longer / 2 - 0.1), (inner / 2, seat / 2, longer / 2 + 0.1), 0.05)
        parts.append(Part(chaise, light))
    parts = moved(parts, (0, back / 2, longer / 2))  # the box is about 0, the sofa stands on y = 0
    return Solid(parts, (), (x + 0.05, back / 2 + 0.03, z + longer / 2 + lean + 0.05), 0.03)


def car(rng: np.random.Generator) -> Solid:
    """A car that drives along x: a body and a cabin with rounded edges, wheels; from hatchback to van and pickup."""
    kind = rng.choice(["saloon", "hatchback", "van", "pickup"])
    length, wide = rng.uniform(3.6, 4.8) + 0.3 * (kind == "van"), rng.uniform(0.82, 0.95)
    belt, wheel = rng.uniform(0.85, 1.0), rng.uniform(0.30, 0.37)
    roof = belt + rng.uniform(0.42, 0.6) + 0.25 * (kind == "van")
    x, low = length / 2, rng.uniform(0.2, 0.3)
    front, nose = x - rng.uniform(0.85, 1.25) + 0.45 * (kind == "van"), belt - rng.uniform(0.1, 0.3)
    rear = {"saloon": -x + rng.uniform(0.6, 0.9), "pickup": -rng.uniform(0.1, 0.4)}.get(kind, -x + 0.08)
    steep = {"saloon": 0.6, "hatchback": rng.uniform(0.25, 0.6)}.get(kind, 0.12)
    screen = 0.35 if kind == "van" else rng.uniform(0.5, 0.8)
    tail = belt - 0.02 if kind != "saloon" else belt - rng.uniform(0, 0.12)
    hull = np.array([(-x, low), (x, low), (x, nose - 0.12), (x - 0.1, nose), (front, belt), (rear, belt), (-x, tail)])
    top = np.array([(front + 0.05, belt - 0.1), (front - screen, roof), (rear + steep, roof), (rear, belt - 0.1)])
    round_by = rng.uniform(0.08, 0.16)

    def across(points: np.ndarray) -> np.ndarray:  # the cabin narrows towards the roof
        inward = 0.06 + 0.28 * np.clip((points[:, 1] - belt) / (roof - belt), 0, 1)
        return np.abs(points[:, 2]) - wide + inward

    def body(points: np.ndarray) -> np.ndarray:
        narrow = 0.1 * np.clip(np.abs(points[:, 0]) / x - 0.55, 0, 1)  # towards bumpers, seen from above
        flat = polygon_distance(points[:, :2], hull)
        return extruded(flat, np.abs(points[:, 2]) - wide + narrow, round_by)

    def cabin(points: np.ndarray) -> np.ndarray:
        return extruded(polygon_distance(points[:, :2], top), across(points), 0.7 * round_by)

    def glass(points: np.ndarray) -> np.ndarray:
        flat = polygon_distance(points[:, :2], top)
        at_side, pillar = np.abs(across(points)) < 0.08, np.abs(flat) < 0.09
        height = np.maximum(belt + 0.05 - points[:, 1], points[:, 1] - roof + 0.1)
        return np.where(at_side & pillar, 1.0, np.maximum(height, cabin(points) - 0.02))

    axles = (x - rng.uniform(0.65, 0.85), -x + rng.uniform(0.65, 0.9))

    def wheels(points: np.ndarray) -> np.ndarray:
        flat = np.minimum.reduce([np.hypot(points[:, 0] - at, points[:, 1] - wheel) for at in axles]) - wheel
        return extruded(flat, np.abs(np.abs(points[:, 2]) - wide + 0.11) - 0.12, 0.03)

    def hubs(points: np.ndarray) -> np.ndarray:
        flat = np.minimum.reduce([np.hypot(points[:, 0] - at, points[:, 1] - wheel) for at in axles])
        return np.maximum(flat - 0.6 * wheel, wide - 0.03 - np.abs(points[:, 2]))

    def bed(points: np.ndarray) -> np.ndarray:  # what is cut out of a pickup's back
        depth = min(0.25, belt - 2 * wheel - 0.08)  # above the wheels
        return box(((rear - x) / 2, belt, 0), ((rear + x) / 2 - 0.12, depth, wide - 0.13), 0.05)(points)

    lacquer = hsv(rng.random(), rng.choice([0.05, rng.uniform(0.4, 0.85)]), rng.uniform(0.35, 0.95))
    hull_field = (lambda p: smooth_max(body(p), -bed(p), 0.04)) if kind == "pickup" else body
    dark, grey = (32.0, 34.0, 40.0), (150.0, 150.0, 155.0)
    lamps = box((x, nose - 0.2, 0), (0.15, 0.07, wide), 0.01)
    stops = box((-x, tail - 0.2, 0), (0.12, 0.07, wide), 0.01)

    def outer(field: Field) -> Field:
        return lambda p: np.maximum(field(p), 0.55 * wide - np.abs(p[:, 2]))

    parts = (Part(hull_field, lacquer), Part(cabin, lacquer), Part(wheels, dark))
    paint = (Part(glass, (58.0, 70.0, 84.0)), Part(hubs, grey))
    paint += (Part(outer(lamps), (250.0, 245.0, 215.0)), Part(outer(stops), (170.0, 30.0, 30.0)))
    shift = (0, roof / 2, 0)  # the box is about 0, the car stands on y = 0
    return Solid(moved(parts, shift), moved(paint, shift), (x, roof / 2, wide + 0.02), 0.04)


CATEGORIES: dict[str, Callable[[np.random.Generator], Solid]] = {"car": car, "sofa": sofa, "vase": vase}
