"""Eyeballs that turn: round parts behind the lids of a face that moves, in place of the mesh's still eyes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int, Num, UInt8
from scipy.sparse import csgraph

from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.geometry.mesh import adjacency_matrix, mesh_edges
from p2m_core.geometry.rasterizer import interpolate, rasterize, window
from p2m_core.geometry.similarity import umeyama
from p2m_core.geometry.template import GROUPS
from p2m_synth.head.asset import PARTS, load_asset
from p2m_workbench.drawing.mesh_images import CLAY_RAMP, EYE_WHITE, IRIS, PUPIL, ramp_colors
from p2m_workbench.photos.rig import Rig, own_units
from p2m_workbench.photos.texture import EYES, inner_vertices, photo_colors, spread

SIDE_PX = 256  # of an eye's texture
REACH_DEG, RINGS, SEGMENTS = 95.0, 16, 36  # of the part of the sphere that is drawn
IRIS_DEG, PUPIL_DEG = 25.0, 10.0  # of an eye that no photo shows
INSIDE = 0.985  # of the radius, so that lids cover it where a prediction is off a little
SPHERE_STEPS = 8  # of Gauss and Newton
HELD = 0.05  # how much an eyeball's place is held where the head's would be, per vertex that tells it
LEAST, STIFFNESS = 0.1, 0.2  # weight of white where the photo tells nothing, and of going on evenly; px of the texture
WHITE_PERCENTILE = 85  # of the brightness of what is seen of an eye, or of a face
LEAST_SEEN = 0.25  # share of the iris that must be seen
STILL_DM = 1e-3  # an eyeball that a unit moves by less does not turn


@dataclass(frozen=True, eq=False)
class Eyeball:
    """One eyeball of a `Rig`, in its frame: vertices `neutral + sum of strength * way`.

    neutral (E, 3); ways (52, E, 3); faces (T, 3), outward; uv (E, 2) in a texture of its own, from the lower left.
    """

    neutral: Float[np.ndarray, "e 3"]
    ways: Float[np.ndarray, "52 e 3"]
    faces: Int[np.ndarray, "t 3"]
    uv: Float[np.ndarray, "e 2"]

    def carried(self, scale: float, rotation: Float[np.ndarray, "3 3"], shift: Float[np.ndarray, "3"]) -> Eyeball:
        """It where a similarity takes it."""
        linear = scale * rotation.T
        return Eyeball(self.neutral @ linear + shift, self.ways @ linear, self.faces, self.uv)


@cache
def cap() -> tuple[Float[np.ndarray, "e 3"], Int[np.ndarray, "t 3"], Float[np.ndarray, "e 2"]]:
    """The front of a unit sphere round +z: directions (E, 3), faces (T, 3), and u, v (E, 2), even in the angle."""
    share = np.arange(1, RINGS + 1).repeat(SEGMENTS) / RINGS
    turn = np.tile(2 * np.pi * np.arange(SEGMENTS) / SEGMENTS, RINGS)
    angle, flat = np.radians(REACH_DEG) * share, np.stack([np.cos(turn), np.sin(turn)], 1)
    points = np.column_stack([np.sin(angle)[:, None] * flat, np.cos(angle)])
    near = np.arange(SEGMENTS)
    after = (near + 1) % SEGMENTS
    faces = [np.stack([0 * near, 1 + near, 1 + after], 1)]
    for ring in range(RINGS - 1):
        a, b = 1 + ring * SEGMENTS + near, 1 + ring * SEGMENTS + after
        faces += [np.stack([a, a + SEGMENTS, b], 1), np.stack([b, a + SEGMENTS, b + SEGMENTS], 1)]
    uv = 0.5 + 0.49 * np.concatenate([[[0, 0]], share[:, None] * flat])
    return np.concatenate([[[0, 0, 1]], points]), np.concatenate(faces), uv


@cache
def turns() -> tuple[Float[np.ndarray, "2 52 3 3"], Float[np.ndarray, "2 3"], Float[np.ndarray, "2"]]:
    """Of the right and the left eyeball of the mean head: the rotation of each unit at strength 1, centre and radius,
    um."""
    asset = load_asset()
    centre_right, front_right, centre_left, front_left = own_units().eyes
    rotations = np.tile(np.eye(3), (2, len(asset["unit"]), 1, 1))
    for side, part in enumerate(("right_eye", "left_eye")):
        idx = np.unique(asset["quads"][asset["part"] == PARTS.index(part)])
        rest = asset["vertices_dm"][idx].astype(np.float64)
        for k, way in enumerate(asset["unit"]):
            if np.abs(way[idx]).max() > STILL_DM:
                rotations[side, k] = umeyama(rest, rest + way[idx])[1]
    radius = [np.linalg.norm(front_right - centre_right), np.linalg.norm(front_left - centre_left)]
    return rotations, np.stack([centre_right, centre_left]), np.array(radius)


def eyeballs(mesh: FaceMesh, moving: Rig) -> tuple[Eyeball, Eyeball]:
    """The right and the left eyeball of a mesh with this rig: of the mean head's radius, laid into the mesh's eyes."""
    skin = inner_vertices(mesh, [GROUPS.index("skin")])
    scale, rotation, shift = umeyama(own_units().mean[skin], moving.neutral[skin])
    world = to_world(mesh.vertices_px).astype(np.float64)
    directions, faces, uv = cap()
    made = []
    for rotations, rest, radius, group in zip(*turns(), EYES, strict=True):
        patch, home = world[inner_vertices(mesh, [group])], scale * rotation @ rest + shift
        centre = sphere_centre(patch, scale * radius, home)
        ways = (rotations - np.eye(3)) @ directions.T  # (52, 3, E)
        size = INSIDE * scale * radius
        made.append(Eyeball(
            centre + size * directions @ rotation.T, np.float32(size * ways.transpose(0, 2, 1) @ rotation.T), faces, uv
        ))  # fmt: skip
    return made[0], made[1]


def sphere_centre(
    points: Float[np.ndarray, "n 3"], radius: float, home: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3"]:
    """The centre (3,) of the sphere of this radius that fits points (N, 3) best, not far from `home` (3,)."""
    centre = home
    for _ in range(SPHERE_STEPS):
        away = centre - points
        length = np.linalg.norm(away, axis=1, keepdims=True)
        slope = away / length
        system = slope.T @ slope + HELD * len(points) * np.eye(3)
        centre = centre - np.linalg.solve(
            system, slope.T @ (length[:, 0] - radius) + HELD * len(points) * (centre - home)
        )
    return centre


def eye_textures(
    photo: UInt8[np.ndarray, "h w 3"], mesh: FaceMesh, eyes: tuple[Eyeball, Eyeball], strength: Float[np.ndarray, "52"]
) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s 3"]]:
    """The textures of both eyeballs, which show what the photo does where they are turned by `strength`.

    Of what the lids hide, the white of the eye is made up. An eye that the photo hardly shows has the picture of the
    other one, which looks the same way; or both are clay's.
    """
    height, width = photo.shape[:2]
    rows, columns = window(mesh.vertices_px, height, width)
    moved = mesh.vertices_px - np.float32([columns.start, rows.start, 0])
    triangle = rasterize(moved, mesh.faces, rows.stop - rows.start, columns.stop - columns.start)[0]
    opening = np.zeros((height, width), np.uint8)
    opening[rows, columns] = 255 * (np.isin(mesh.groups[triangle], EYES) & (triangle >= 0))
    opening = cv2.GaussianBlur(cv2.erode(opening, np.ones((3, 3))), (3, 3), 0)[..., None].repeat(3, 2)
    directions, faces, uv = cap()
    places = np.column_stack([(uv * [1, -1] + [0, 1]) * SIDE_PX - 0.5, np.zeros(len(uv))])
    triangle, bary, _ = rasterize(places, faces, SIDE_PX, SIDE_PX)
    hit = triangle >= 0
    stiff = STIFFNESS * csgraph.laplacian(adjacency_matrix(mesh_edges(faces), len(uv)).astype(float))
    spots = sp.csr_matrix(  # (E, P): what each px weighs at the vertices of its triangle
        (bary[hit].ravel(), (faces[triangle[hit]].ravel(), np.arange(hit.sum()).repeat(3))), (len(uv), int(hit.sum()))
    )
    middle = interpolate(np.degrees(np.arccos(directions[:, 2:])), faces, triangle[hit], bary[hit])[:, 0] < IRIS_DEG
    pictures: list[np.ndarray | None] = []
    for eye in eyes:
        at = eye.neutral + np.tensordot(strength, eye.ways, 1)
        facing = at[:, 2] > at[-SEGMENTS:, 2].mean()
        points = interpolate(np.column_stack([at[:, :2] * [1, -1], facing]), faces, triangle[hit], bary[hit])
        color = photo_colors(photo, points).astype(np.float64)
        seen = photo_colors(opening, points)[:, :1] / 255 * (points[:, 2:] > 0.99)
        if seen[middle].mean() < LEAST_SEEN:
            pictures.append(None)
            continue
        white = brightness(color[seen[:, 0] > 0.5]) * np.array(EYE_WHITE)
        weight = spots @ seen + LEAST
        around = spread((spots @ (seen * color) + LEAST * white) / weight, weight[:, 0], stiff)
        pictures.append(seen * color + (1 - seen) * interpolate(around, faces, triangle[hit], bary[hit]))
    if all(shown is None for shown in pictures):
        clay = brightness(photo_colors(photo, mesh.vertices_px)) * ramp_colors(CLAY_RAMP, clay_places())
        pictures = [interpolate(clay, faces, triangle[hit], bary[hit])] * 2
    made = []
    for shown, other in (pictures, pictures[::-1]):
        picture = np.full((SIDE_PX, SIDE_PX, 3), EYE_WHITE, np.uint8)
        picture[hit] = np.round((other if shown is None else shown).clip(0, 255))
        made.append(picture)
    return made[0], made[1]


def brightness(colors: Num[np.ndarray, "n 3"]) -> float:
    """Of the bright ones of some colours, against EYE_WHITE; 1 at most."""
    return min(1.0, float(np.percentile(colors.mean(1), WHITE_PERCENTILE)) / max(EYE_WHITE))


def clay_places() -> Float[np.ndarray, "e"]:
    """Where on CLAY_RAMP each vertex of an eyeball that looks along +z lies, (E,) from 0 to 1."""
    angle = np.degrees(np.arccos(cap()[0][:, 2].clip(-1, 1)))
    kinds = [CLAY_RAMP.index(color) for color in (PUPIL, IRIS, EYE_WHITE)]
    return np.select([angle < PUPIL_DEG, angle < IRIS_DEG], kinds[:2], kinds[2]) / (len(CLAY_RAMP) - 1)
