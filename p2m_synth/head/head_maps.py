"""Maps of a head's skin by direction: where hats, scarves, glasses and clothes are fitted.

Rays from a point inside the mean head meet its skin in a grid of points. Each point is a fixed mix of three vertices,
so the same grid is found on every other head by a sparse matrix product:

    skull_grids   rays from between the ears, by elevation and azimuth; `Skull` turns them into distances
    torso_grid    rays from the chest, by polar angle (0 up through the neck) and azimuth
    neck_grid     level rays from the neck's axis, by height and azimuth

Azimuth is 0 to the front and 90 to the subject's left, in degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

from p2m_core.geometry.rays import cast_rays
from p2m_synth.head.head_mesh import HeadMesh, load_head_mesh
from p2m_synth.scene.elements import float32

AZIMUTH_STEP = 4.0  # degrees between the columns of every grid
ELEVATION_STEP, LOWEST = 2.5, -75.0  # degrees, of the skull's rows
TORSO_CENTRE_DM, POLAR_STEP = np.array([0, 4.7, 0.1]), 3.0
NECK_LEVELS_DM = np.arange(5.75, 6.46, 0.05)


def sphere_directions(elevation_deg: np.ndarray, azimuth_deg: np.ndarray) -> np.ndarray:
    """Unit vectors (..., 3): azimuth 0 to the front, 90 to the subject's left; elevation 90 up."""
    e, a = np.radians(elevation_deg), np.radians(azimuth_deg)
    return np.stack([np.cos(e) * np.sin(a), np.sin(e) + 0 * a, np.cos(e) * np.cos(a)], -1)


def from_front_deg(azimuth_deg: np.ndarray) -> np.ndarray:
    """How far azimuths lie from the front, 0 to 180 degrees, on either side."""
    return abs((azimuth_deg + 180) % 360 - 180)


@dataclass(frozen=True, eq=False)
class SkinGrid:
    """A grid (R, C) of points on the skin as a linear map (R C, m) of a head's vertices.

    Columns are azimuths in steps of AZIMUTH_STEP; the last repeats the first, so that they can be sampled across the
    seam.
    """

    map: sp.csr_matrix
    shape: tuple[int, int]

    def on(self, head: np.ndarray) -> np.ndarray:
        """The points (R, C, 3) on a head (m, 3)."""
        return (self.map @ float32(head)).reshape(*self.shape, 3)


def cast_grid(origins: np.ndarray, directions: np.ndarray, triangles: np.ndarray, far: bool) -> SkinGrid:
    """Where rays (R, C, 3) from the inside meet the given triangles of the mean head; gaps are filled from around."""
    points = load_head_mesh().canonical
    rows, columns = directions.shape[:2]
    count = rows * columns
    origins = np.broadcast_to(origins, directions.shape).reshape(-1, 3)
    hit, weights = cast_rays(origins, directions.reshape(-1, 3), points, triangles, far)
    met, gap = np.nonzero(hit >= 0)[0], np.nonzero(hit < 0)[0]
    row = np.repeat(met, 3), triangles[hit[met]].ravel()
    grid = sp.csr_matrix((weights[met].ravel(), row), (count, len(points)))
    if len(gap):
        turn = np.arange(count) % columns * (2 * np.pi / (columns - 1))
        around = columns / (2 * np.pi) * np.stack([np.cos(turn), np.sin(turn), np.arange(count) // columns / 12], 1)
        distance, near = cKDTree(around[met]).query(around[gap], 12)
        share = 1 / distance**3
        share /= share.sum(1, keepdims=True)
        fill = sp.csr_matrix((share.ravel(), (np.repeat(gap, 12), met[near].ravel())), (count, count))
        grid = grid + fill @ grid
    return SkinGrid(grid.astype(np.float32), (rows, columns))


def sample_grid(grid: np.ndarray, row: np.ndarray, azimuth_deg: np.ndarray) -> np.ndarray:
    """Points (..., 3) of a grid (R, C, 3) at fractional rows and azimuths."""
    row, azimuth = np.broadcast_arrays(row, azimuth_deg)
    shape = row.shape
    row = float32(np.atleast_2d(np.clip(row, 0, len(grid) - 1)))
    column = float32(np.atleast_2d(azimuth % 360 / AZIMUTH_STEP))
    return cv2.remap(grid, column, row, cv2.INTER_LINEAR).reshape(*shape, 3)


def skull_centre(head_mesh: HeadMesh, head: np.ndarray) -> np.ndarray:
    """The middle of a head (3,): between the ears, as high as the eyes; head (m, 3) in its own frame."""
    weight = head_mesh.masks["ears"]
    at = np.flatnonzero(weight)
    ears = weight[at] @ head[at] / weight[at].sum()
    eyes = head[head_mesh.face_idx[head_mesh.model.landmark_idx[36:48]]].mean(0)
    return np.array([eyes[0], eyes[1], ears[2]], np.float32)


@cache
def skull_grids() -> tuple[SkinGrid, SkinGrid]:
    """Rays from the skull's centre: to the skin without the ears, and with them."""
    head_mesh = load_head_mesh()
    skin = head_mesh.skin
    skin = skin[head_mesh.canonical[skin][:, :, 1].min(1) > 6.15]
    centre = skull_centre(head_mesh, head_mesh.canonical)
    elevation, azimuth = np.arange(LOWEST, 90.1, ELEVATION_STEP), np.arange(0, 360.1, AZIMUTH_STEP)
    directions = sphere_directions(elevation[:, None], azimuth)
    bare = skin[(head_mesh.masks["ears"][skin] < 0.05).all(1)]
    return cast_grid(centre, directions, bare, True), cast_grid(centre, directions, skin, True)


@cache
def torso_grid() -> SkinGrid:
    """Rays from the chest to the skin below the neck: rows of polar angle 0 (up) to 120, columns of azimuth."""
    head_mesh = load_head_mesh()
    polar, azimuth = np.meshgrid(np.arange(0, 120.1, POLAR_STEP), np.arange(0, 360.1, AZIMUTH_STEP), indexing="ij")
    skin = head_mesh.skin
    skin = skin[head_mesh.canonical[skin][:, :, 1].max(1) < 6.02]
    return cast_grid(TORSO_CENTRE_DM, sphere_directions(90 - polar, azimuth), skin, True)


@cache
def neck_grid() -> SkinGrid:
    """Level rays from the neck's axis to its skin: rows from below upwards, columns of azimuth."""
    head_mesh = load_head_mesh()
    level, azimuth = np.meshgrid(NECK_LEVELS_DM, np.arange(0, 360.1, AZIMUTH_STEP), indexing="ij")
    skin = head_mesh.skin
    origins = np.stack([0 * level, level, np.interp(level, [5.75, 6.4], [0.2, 0.42])], -1)
    return cast_grid(origins, sphere_directions(0 * level, azimuth), skin, False)


class Skull:
    """A head as a distance in each direction from its middle: what hats are built on.

    head: (m, 3) um in the head's own frame.   centre (3,) um.
    """

    def __init__(self, head_mesh: HeadMesh, head: np.ndarray):
        self.centre = skull_centre(head_mesh, head)
        self.maps = []
        for grid in skull_grids():
            distance = np.linalg.norm(grid.on(head) - self.centre, axis=-1)
            self.maps.append(np.float32(distance))
        # Cloth spans the hollow behind an ear.
        wide = np.pad(self.maps[1], ((0, 0), (6, 6)), mode="wrap")
        wide = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, np.ones((9, 7), np.uint8))
        self.maps[1] = np.maximum(self.maps[1], cv2.GaussianBlur(wide, (0, 0), 1.5)[:, 6:-6])

    def radius(self, directions: np.ndarray, ears: bool = False) -> np.ndarray:
        """Distance (...,) um of the skin along unit vectors (..., 3); `ears`: of the cloth over the ears."""
        shape = directions.shape[:-1]
        elevation = np.degrees(np.arcsin(np.clip(directions[..., 1], -1, 1)))
        azimuth = np.degrees(np.arctan2(directions[..., 0], directions[..., 2])) % 360
        row = np.clip((elevation - LOWEST) / ELEVATION_STEP, 0, self.maps[0].shape[0] - 1)
        column = azimuth / AZIMUTH_STEP
        row, column = (float32(np.atleast_2d(x)) for x in (row, column))
        return cv2.remap(self.maps[int(ears)], column, row, cv2.INTER_LINEAR).reshape(shape)

    def at(self, elevation_deg, azimuth_deg, offset_um=0.0, ears: bool = False) -> np.ndarray:
        """Points (..., 3) um in the head's frame, `offset_um` outside the skin."""
        directions = sphere_directions(elevation_deg, azimuth_deg)
        return self.centre + directions * (self.radius(directions, ears) + offset_um)[..., None]


def push_outside(skull: Skull, points: np.ndarray, clearance_um: float, ears: bool = False) -> np.ndarray:
    """Points (..., 3) of the head's frame, moved out of the head where they come nearer than the clearance."""
    reach = points - skull.centre
    distance = np.linalg.norm(reach, axis=-1, keepdims=True)
    direction = reach / distance
    need = skull.radius(direction, ears)[..., None] + clearance_um
    return skull.centre + direction * np.maximum(distance, need)
