"""A hand: its shape, grips and gestures before a face."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from p2m_core.geometry.landmarks import MIRROR_68
from p2m_synth.scene.elements import Surface, float32
from p2m_synth.scene.isosurface import surface_nets
from p2m_synth.scene.primitives import MM, orient, sheet, smooth_path, smooth_step, tube, unit
from p2m_synth.wear.fabric import draw_cloth_color

# Right hand, palm to +z, fingers up +y, thumb to +x, wrist at 0, mm. Of each finger: the knuckle, the degrees that it
# leans towards the thumb, the lengths of its bones, their radii at the four joints.
FINGERS = (
    ((25, 90, 0), 9, (42, 26, 20), (10.4, 9.8, 9.0, 7.8)),
    ((4, 94, -2), 1, (46, 30, 21), (10.6, 10.0, 9.2, 8.0)),
    ((-16, 90, -1), -8, (43, 28, 21), (10.1, 9.5, 8.7, 7.5)),
    ((-34, 80, 2), -18, (34, 21, 19), (9.2, 8.4, 7.7, 6.7)),
)
THUMB = ((24, 24, 8), (0.72, 0.66, 0.22), (43, 33, 26), (15, 12, 11.4, 9))
THUMB_BEND = unit(np.array([-0.62, 0.25, 0.75]))  # the side to which the thumb bends
VOXEL_MM = 5.6


class FaceFrame:
    """A face's place in the camera's frame: directions (3,) and points (3,), um."""

    def __init__(self, landmarks: np.ndarray):
        self.left = unit(landmarks[16] - landmarks[0])
        up = landmarks[27] - landmarks[8]
        up = up - self.left * (up @ self.left)
        # The line from chin to nose root leans forward by some 5 degrees.
        self.up = unit(unit(up) - 0.09 * np.cross(self.left, unit(up)))
        self.forward = np.cross(self.left, self.up)
        self.landmarks = landmarks
        self.mouth = landmarks[[48, 54]].mean(0)
        self.eyes = landmarks[[42, 36]], landmarks[[45, 39]]
        self.centre = landmarks[[0, 16, 8, 27]].mean(0)

    def direction(self, left: float, up: float, forward: float) -> np.ndarray:
        """A unit vector (3,) of the camera's frame from the face's directions."""
        return unit(left * self.left + up * self.up + forward * self.forward)


@dataclass(frozen=True, eq=False)
class Hand:
    """A flat hand in mm.

    vertices (V, 3), triangles (T, 3); weights (V, 16) of bones: the palm, then three for each of thumb, index, middle,
    ring and little finger; joint (16, 3) about which a bone turns, axis (16, 3) about which it bends; tint (V, 3)
    factors of the skin's color; nails, nail_triangles, nail_bone: small plates.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    weights: np.ndarray
    joint: np.ndarray
    axis: np.ndarray
    tint: np.ndarray
    nails: np.ndarray
    nail_triangles: np.ndarray
    nail_bone: np.ndarray


def hand_bones() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends (16, 2, 3) of the bones, radii (16, 2) and bending axes (16, 3); bone 0 stands for the palm."""
    ends, radii, axes = [((0, 0, 0), (0, 80, 0))], [(12, 12)], [(1, 0, 0)]
    chains = [(np.array(THUMB[0], float), unit(np.array(THUMB[1])), *THUMB[2:], THUMB_BEND)]
    for knuckle, lean, lengths, radius in FINGERS:
        way = np.array([np.sin(np.radians(lean)), np.cos(np.radians(lean)), 0.03])
        chains.append((np.array(knuckle, float), unit(way), lengths, radius, np.array([0, 0, 1.0])))
    for start, way, lengths, radius, bend in chains:
        axis = unit(np.cross(way, bend))
        for k, length in enumerate(lengths):
            ends.append((start, start + way * length))
            radii.append((radius[k], radius[k + 1]))
            axes.append(axis)
            start = start + way * length
    return np.array(ends, float), np.array(radii, float), np.array(axes, float)


def capsule_distance(points: np.ndarray, ends: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Signed distance (..., N) of points (..., 3) to N tapering capsules."""
    reach = ends[:, 1] - ends[:, 0]
    along = np.clip(((points[..., None, :] - ends[:, 0]) * reach).sum(-1) / (reach**2).sum(-1), 0, 1)
    nearest = ends[:, 0] + along[..., None] * reach
    radius = radii[:, 0] + (radii[:, 1] - radii[:, 0]) * along
    return np.linalg.norm(points[..., None, :] - nearest, axis=-1) - radius


def hand_distance(points: np.ndarray) -> np.ndarray:
    """Signed distance (...,) of points (..., 3) mm to the skin of a flat hand: bones and flesh, smoothly joined."""
    ends, radii, _ = hand_bones()
    flesh = [((0.95 * x, -45, 0), (0.8 * x, 2, 0), 16, 15.5) for x in (-14, 0, 14)]
    flesh += [((0.35 * k[0], 4, 0), k, 13.5, 10.0) for k, *_ in FINGERS]
    flesh += [((22, 18, 7), (34, 46, 9), 13, 12), ((-22, 14, 6), (-33, 58, 6), 12, 11)]
    flesh += [((26, 80, 1), (30, 50, 5), 9, 9)]
    ends = np.concatenate([ends[1:], [(a, b) for a, b, *_ in flesh]])
    radii = np.concatenate([radii[1:], [(a, b) for *_, a, b in flesh]])
    # A smooth minimum makes overlapping capsules swell: 2 mm taken off again.
    return -2.6 * np.log(np.exp(-np.clip(capsule_distance(points, ends, radii) / 2.6, -15, 40)).sum(-1)) + 1.6


@cache
def flat_hand() -> Hand:
    """The hand that all hands are bent from; a fraction of a second, once."""
    low, high = np.array([-62.0, -70, -34]), np.array([112.0, 212, 46])
    axes = [np.arange(a, b, VOXEL_MM) for a, b in zip(low, high)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    values = np.stack([hand_distance(plane) for plane in grid])
    vertices, triangles = surface_nets(values, cyclic=True)
    vertices = low + vertices * VOXEL_MM
    for _ in range(3):  # onto the true surface
        step = np.eye(3) * 0.05
        slope = np.stack([hand_distance(vertices + d) - hand_distance(vertices - d) for d in step], 1) / 0.1
        slope /= np.maximum((slope**2).sum(1, keepdims=True), 0.25)
        vertices = vertices - np.clip(hand_distance(vertices), -2, 2)[:, None] * slope
    ends, radii, axis = hand_bones()
    palm_ends = [((0, -60, 0), (0, 10, 0))] + [((0.3 * k[0], 0, 0), np.array(k) * 0.93) for k, *_ in FINGERS]
    palm = capsule_distance(vertices, np.array(palm_ends, float), np.full((5, 2), 13.0)).min(1)
    distance = np.concatenate([palm[:, None], capsule_distance(vertices, ends[1:], radii[1:])], 1)
    weights = np.exp(-np.clip(distance, -12, 60) / 2.5)
    weights /= weights.sum(1, keepdims=True)

    tint = np.ones((len(vertices), 3))
    inner = smooth_step(-4, 8, vertices[:, 2])[:, None]
    tint *= 1 + inner * [0.12, 0.05, 0.04]
    joints = ends[np.setdiff1d(np.arange(1, 16), [1]), 0]
    crease = np.exp(-((np.linalg.norm(vertices[:, None] - joints, axis=2).min(1) / 9) ** 2))[:, None]
    tips = ends[3::3, 1]
    pink = np.exp(-((np.linalg.norm(vertices[:, None] - tips, axis=2).min(1) / 11) ** 2))[:, None]
    tint *= 1 - crease * [0.04, 0.13, 0.14] - pink * [0.0, 0.1, 0.08]

    u, v = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(0, 1, 6))
    nails, bones = [], []
    for k in range(3, 16, 3):
        start, end = ends[k]
        way, dorsal = unit(end - start), np.cross(unit(end - start), axis[k])
        radius = radii[k, 1]
        across = np.cos(u * 0.85)[..., None] * dorsal + np.sin(u * 0.85)[..., None] * axis[k]
        length = radius * (-0.55 + 1.55 * v - 0.25 * v * u**2)
        nails.append(end + length[..., None] * way + radius * (0.98 - 0.1 * v**2)[..., None] * across)
        bones.append(np.full(u.size, k))
    patch = sheet(nails[0], [1, 1, 1]).triangles
    nail_triangles = np.concatenate([patch + u.size * k for k in range(5)])
    nails = np.concatenate([nail.reshape(-1, 3) for nail in nails])
    return Hand(vertices, triangles, weights, ends[:, 0], axis, tint, nails, nail_triangles, np.concatenate(bones))


def turn_about(axis: np.ndarray, angle: float) -> np.ndarray:
    """The rotation (3, 3) about a unit axis (3,) by an angle in rad (Rodrigues)."""
    x, y, z = axis
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def bend_hand(hand: Hand, bend_deg: np.ndarray, spread_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (V, 3), nails and fingers' tips (5, 3) of a bent hand, mm.

    bend_deg: (5, 3) of thumb to little finger, bone by bone; spread_deg (5,) towards the thumb.
    """
    rotations, shifts = [np.eye(3)], [np.zeros(3)]
    for finger in range(5):
        rotation, shift = np.eye(3), np.zeros(3)
        for k in range(3):
            bone = 1 + 3 * finger + k
            local = turn_about(hand.axis[bone], np.radians(bend_deg[finger, k]))
            if k == 0:
                local = turn_about(np.array([0, 0, -1.0]), np.radians(spread_deg[finger])) @ local
            # About the joint of the straight hand, then along with the bones before.
            shift = rotation @ (hand.joint[bone] - local @ hand.joint[bone]) + shift
            rotation = rotation @ local
            rotations.append(rotation)
            shifts.append(shift)
    rotations, shifts = np.array(rotations), np.array(shifts)
    mixed = (hand.weights @ rotations.reshape(16, 9)).reshape(-1, 3, 3)
    vertices = (mixed @ hand.vertices[:, :, None])[..., 0] + hand.weights @ shifts
    nails = (rotations[hand.nail_bone] @ hand.nails[:, :, None])[..., 0] + shifts[hand.nail_bone]
    tips = nails.reshape(5, -1, 3).mean(1)
    return vertices, nails, tips


# Bending angles of thumb and fingers (of each bone), and how far the fingers lean to the thumb more than at rest.
GRIPS = {
    "flat": (((5, 5, 5), (4, 8, 4), (4, 8, 4), (4, 8, 4), (4, 8, 4)), (0, -4, 0, 4, 9)),
    "spread": (((-5, 0, 0), (0, 5, 2), (0, 5, 2), (0, 5, 2), (0, 5, 2)), (12, 5, 1, -4, -10)),
    "relaxed": (((12, 14, 10), (18, 24, 12), (22, 28, 14), (26, 30, 16), (30, 32, 18)), (0, -4, 0, 4, 8)),
    "fist": (((30, 35, 25), (78, 88, 50), (80, 92, 52), (80, 92, 52), (78, 90, 50)), (0, -6, 0, 6, 12)),
    "loose": (((25, 25, 20), (50, 70, 36), (54, 74, 38), (58, 76, 40), (60, 76, 40)), (0, -6, 0, 5, 11)),
    "round": (((35, 22, 18), (42, 48, 26), (44, 50, 28), (46, 50, 28), (48, 50, 28)), (0, -4, 0, 5, 10)),
    "two fingers": (((42, 40, 30), (2, 5, 3), (2, 5, 3), (80, 92, 52), (78, 90, 50)), (0, 6, -7, 5, 10)),
    "pointing": (((42, 40, 30), (5, 12, 6), (72, 88, 50), (80, 92, 52), (78, 90, 50)), (0, -4, 0, 5, 10)),
}


def posed_hand(
    rng: np.random.Generator,
    grip: str | tuple,
    fingers: np.ndarray,
    palm: np.ndarray,
    anchor_mm: np.ndarray,
    target: np.ndarray,
    skin_color: np.ndarray,
    right: bool,
    jitter_deg: float = 5.0,
) -> list[Surface]:
    """A hand in the camera's frame: hand and nails, arm.

    fingers, palm: directions (3,) in which the straight fingers point and the palm looks.
    anchor_mm (3,): the point of the right hand that comes to `target` (3,) um.   right: mirrored otherwise.
    """
    hand = flat_hand()
    bend, spread = (np.array(x, float) for x in (GRIPS[grip] if isinstance(grip, str) else grip))
    bend = bend + rng.normal(0, jitter_deg, (5, 3)) * [1, 0.8, 0.4] + rng.normal(0, jitter_deg) * 0.6
    spread = spread + rng.normal(0, 1.2, 5)
    vertices, nails, _ = bend_hand(hand, bend, spread)
    size = rng.uniform(0.9, 1.04)
    y = unit(fingers)
    z = unit(palm - y * (palm @ y))
    x = np.cross(y, z)
    frame = np.stack([x if right else -x, y, z], 1) * (size * MM)
    shift = target - frame @ anchor_mm
    broad = np.array([1, 1, 1]) * np.array([rng.uniform(0.95, 1.05), 1, 1])
    color = np.float32(skin_color * hand.tint)
    flesh = orient(Surface(float32(vertices * broad @ frame.T + shift), hand.triangles, color, 0.12, 0.25), None)
    pale = float32(0.75 * skin_color + np.array([0.14, 0.07, 0.06]))
    if rng.random() < 0.15:
        pale = float32(rng.choice([[0.35, 0.01, 0.02], [0.3, 0.1, 0.12], [0.02, 0.02, 0.02], [0.5, 0.3, 0.3]]))
    nail_color = np.ascontiguousarray(np.broadcast_to(pale, nails.shape))
    triangles = hand.nail_triangles if right else np.ascontiguousarray(hand.nail_triangles[:, ::-1])
    plate = Surface(float32(nails * broad @ frame.T + shift), triangles, nail_color, 0.5, 0.15)
    # The wrist bends, so that the elbow hangs down.
    sleeve = rng.random() < 0.8
    wrist = frame @ np.array([0, rng.uniform(-30, -12) if sleeve else -38, 0]) + shift
    below = unit(-0.75 * y + [0.15 * x[0], -0.7, 0])
    near = wrist - y * 28 * MM
    path = smooth_path(np.array([wrist, near, near + below * 80 * MM, near + below * 270 * MM]), 14)
    t = np.linspace(0, 1, 14)
    radius = (22.5 if sleeve else 14.8) + 16 * t + sleeve * 1.2 * np.sin(t * 40)
    cloth = draw_cloth_color(rng) if sleeve else skin_color
    arm = tube(path, radius * size * MM, cloth, 16, up=x, flatness=1.55 if sleeve else 1.74, gloss=0.04, soft=0.15)
    return [flesh, plate, orient(arm, None)]


# Gestures at the face: share, grips, where the straight fingers point and the palm looks (out to the hand's own side,
# up, forward; None: to the camera), the hand's point in mm that comes to the face, to which landmark of its right half,
# and how far out and up from there, mm.
GESTURES = {
    "chin on the fist": (0.17, ("fist", "loose"), (-0.35, 1, 0.15), (-0.5, 0.15, -1), (0, 98, 0), 8, (0, 22), (-6, 8)),
    "cheek in the hand": (0.17, ("relaxed",), (0.25, 1, -0.1), (-0.75, 0.1, -0.65), (0, 70, 14), 4, (-4, 8), (-4, 4)),
    "hand at the mouth": (0.14, ("relaxed", "pointing", "loose"), (-0.75, 0.75, 0.1), (-0.2, 0, -1), (15, 150, 0), 62,
                          (-6, 6), (-14, 0)),
    "open palm": (0.1, ("flat", "spread"), (0.2, 1, 0), None, (0, 70, 0), 2, (10, 40), (-8, 8)),
    "two fingers": (0.09, ("two fingers",), (0.15, 1, 0), None, (0, 110, 0), 4, (-5, 25), (-8, 8)),
    "hand at the forehead": (0.08, ("relaxed",), (-0.9, 0.5, 0.05), (-0.1, -0.1, -1), (5, 110, 8), 17,
                             (-4, 4), (18, 36)),
    "hand over an eye": (0.09, ("relaxed",), (-0.35, 1, 0.05), (-0.1, 0, -1), (5, 105, 8), 41, (-4, 4), (-4, 8)),
    "finger along the jaw": (0.08, ("pointing",), (0.1, 1, 0.1), (-0.9, 0.1, -0.5), (20, 95, 10), 8, (14, 22), (-4, 4)),
    "fingers at the temple": (0.08, ("relaxed",), (-0.15, 1, 0), (-0.8, 0, -0.6), (0, 150, 8), 17, (0, 4), (-4, 4)),
}  # fmt: skip


def make_hand(rng: np.random.Generator, face: FaceFrame, skin_color: np.ndarray) -> list[Surface]:
    """A hand at the face in one of GESTURES."""
    right = bool(rng.random() < 0.6)
    side = -1 if right else 1
    kind = rng.choice(len(GESTURES), p=[gesture[0] for gesture in GESTURES.values()])
    _, grips, fingers, palm, anchor, landmark, out_mm, up_mm = list(GESTURES.values())[kind]
    wobble = rng.normal(0, 0.12, 3)
    fingers = face.direction(side * fingers[0], *fingers[1:]) + wobble
    palm = np.array([0, 0, 1.0]) + wobble if palm is None else face.direction(side * palm[0], *palm[1:])
    at = face.landmarks[landmark if right else MIRROR_68[landmark]]
    at = at + (face.left * side * rng.uniform(*out_mm) + face.up * rng.uniform(*up_mm)) * MM
    return posed_hand(rng, str(rng.choice(grips)), fingers, palm, np.array(anchor), at, skin_color, right)


def gripping_hand(
    rng: np.random.Generator,
    axis: np.ndarray,
    back: np.ndarray,
    at: np.ndarray,
    thickness_mm: float,
    skin_color: np.ndarray,
    right: bool,
) -> list[Surface]:
    """A hand round a bar along `axis` (3,), of length 1, through `at` (3,) um; `back` (3,): where its back looks."""
    # Bones as chords of a circle round the bar.
    bend = np.degrees(np.minimum(np.array([22, 36, 24]) / (thickness_mm + 9), [1.5, 1.75, 1.0]))
    wide = thickness_mm > 20  # then the thumb lies along it
    thumb = [-16, -5, 5] if wide else [20, 0.5 * bend[1], 0.5 * bend[2]]
    grip = np.stack([thumb, bend, bend, bend, bend]), (-28 * wide, -5, 0, 5, 11)
    reach = np.array([0, 88, 15 + thickness_mm])
    palm = -unit(back - axis * (back @ axis))
    fingers = np.cross(palm, axis if right else -axis)
    return posed_hand(rng, grip, fingers, palm, reach, at, skin_color, right, 2.0)
