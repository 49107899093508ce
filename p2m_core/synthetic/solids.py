"""Simple solids and sheets, and points that stay on a head whatever its shape and pose.

A sheet is a grid of points (R, C, 3), um. Its normals point to a viewer who sees the rows run down and the columns
run to the right.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numba
import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

from p2m_core.synthetic.canvas import load_canvas
from p2m_core.synthetic.head import PARTS
from p2m_core.synthetic.scene import Surface

UM = np.float32(1e5)  # um per dm


def sheet_triangles(rows: int, columns: int, closed: bool = False) -> np.ndarray:
    """Triangles (T, 3) over a grid of rows x columns vertices; `closed` joins the last column to the first."""
    index = np.arange(rows * columns).reshape(rows, columns)
    if closed:
        index = np.concatenate([index, index[:, :1]], 1)
    quads = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], -1).reshape(-1, 4)
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def sheet(grid: np.ndarray, color: np.ndarray, closed: bool = False, **looks: float) -> Surface:
    """A grid (R, C, 3) of one color (3,), or of a color for each point (R, C, 3)."""
    color = np.broadcast_to(np.float32(color), grid.shape).reshape(-1, 3)
    triangles = sheet_triangles(*grid.shape[:2], closed)
    return Surface(np.float32(grid.reshape(-1, 3)), triangles, np.ascontiguousarray(color), **looks)


def joined(surfaces: list[Surface]) -> Surface:
    """Surfaces of the same material as one."""
    offsets = np.cumsum([0, *(len(surface.vertices) for surface in surfaces[:-1])])
    return Surface(
        np.concatenate([surface.vertices for surface in surfaces]),
        np.concatenate([surface.triangles + offset for surface, offset in zip(surfaces, offsets)]),
        np.concatenate([surface.color for surface in surfaces]),
        surfaces[0].gloss,
        surfaces[0].soft,
        surfaces[0].alpha,
    )


def moved(surface: Surface, rotation: np.ndarray, shift: np.ndarray | float = 0.0) -> Surface:
    """A surface turned and shifted: vertices @ rotation.T + shift."""
    vertices = np.float32(surface.vertices @ np.float32(rotation).T + np.float32(shift))
    return Surface(vertices, surface.triangles, surface.color, surface.gloss, surface.soft, surface.alpha)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) scaled to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def sheet_normals(grid: np.ndarray, closed: bool = False) -> np.ndarray:
    """Outward unit normals (R, C, 3) of a sheet."""
    if closed:
        along = np.roll(grid, -1, 1) - np.roll(grid, 1, 1)
    else:
        along = np.gradient(grid, axis=1)
    return unit(np.cross(np.gradient(grid, axis=0), along))


def tube(
    path: np.ndarray,
    radius: float | np.ndarray,
    color: np.ndarray,
    sides: int = 7,
    closed: bool = False,
    up: np.ndarray | None = None,
    flatness: float = 1.0,
    **looks: float,
) -> Surface:
    """A round bar along a path (N, 3).

    radius: um, a number or (N,).   up: direction in which the cross-section is `flatness` times as wide; it must not
    run along the path.   Open ends are closed by a small cone, so that no hole shows.
    """
    along = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    along = unit(along)
    if up is None:
        up = np.eye(3)[abs(along).mean(0).argmin()]
    across = unit(np.cross(along, up))
    upward = np.cross(across, along)
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    ring = np.cos(turn)[:, None] * across[:, None] + flatness * np.sin(turn)[:, None] * upward[:, None]
    radius = np.broadcast_to(np.float32(radius), len(path))
    grid = path[:, None] + ring * radius[:, None, None]
    if closed:
        grid = np.concatenate([grid, grid[:1]])
    else:
        tips = [path[:1] - along[:1] * radius[0] * 0.6, path[-1:] + along[-1:] * radius[-1] * 0.6]
        ends = [np.broadcast_to(tip[:, None], (1, sides, 3)) + 0.02 * (grid[k] - path[k]) for tip, k in
                zip(tips, (0, -1))]  # fmt: skip
        grid = np.concatenate([ends[0], grid, ends[1]])
    return sheet(grid, color, closed=True, **looks)


def lathe(profile: np.ndarray, color: np.ndarray, sides: int = 24, **looks: float) -> Surface:
    """A solid of revolution about y: profile (N, 2) of radius and height, um, from top to bottom."""
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    radius, height = np.maximum(profile[:, :1], 10), np.broadcast_to(profile[:, 1:], (len(profile), sides))
    grid = np.stack([radius * np.sin(turn), height, radius * np.cos(turn)], -1)
    color = np.float32(color)
    if color.ndim == 2:
        color = np.broadcast_to(color[:, None], grid.shape)
    return sheet(grid, color, closed=True, **looks)


def ball(centre: np.ndarray, radius: float, color: np.ndarray, sides: int = 12, **looks: float) -> Surface:
    """A sphere, radius um."""
    turn = np.linspace(0.02, np.pi - 0.02, sides // 2 + 2)
    surface = lathe(radius * np.stack([np.sin(turn), np.cos(turn)], 1), color, sides, **looks)
    return moved(surface, np.eye(3), centre)


def smooth_path(points: np.ndarray, count: int) -> np.ndarray:
    """A Catmull-Rom curve (count, 3) through points (N, 3)."""
    points = np.asarray(points, np.float64)
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, len(points) - 1, count)
    k = np.minimum(t.astype(int), len(points) - 2)
    t = (t - k)[:, None]
    a, b, c, d = (padded[k + n] for n in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


@numba.njit(cache=True, nogil=True)
def _cast(origins, directions, corners, reach, far, hit, bary):
    """For each ray the triangle that it meets first, or last if `far`, and the weights of its corners.

    reach: of each triangle from its first corner.
    """
    for i in range(len(origins)):
        best = -1.0
        ox, oy, oz = origins[i, 0], origins[i, 1], origins[i, 2]
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        for f in range(len(corners)):
            ax, ay, az = corners[f, 0, 0], corners[f, 0, 1], corners[f, 0, 2]
            sx, sy, sz = ox - ax, oy - ay, oz - az
            along = sx * dx + sy * dy + sz * dz
            if along > reach[f] or sx * sx + sy * sy + sz * sz - along * along > reach[f] ** 2:
                continue  # the ray passes by
            ux, uy, uz = corners[f, 1, 0] - ax, corners[f, 1, 1] - ay, corners[f, 1, 2] - az
            vx, vy, vz = corners[f, 2, 0] - ax, corners[f, 2, 1] - ay, corners[f, 2, 2] - az
            px, py, pz = dy * vz - dz * vy, dz * vx - dx * vz, dx * vy - dy * vx
            determinant = ux * px + uy * py + uz * pz
            if abs(determinant) < 1e-12:
                continue
            b = (sx * px + sy * py + sz * pz) / determinant
            if b < -1e-6 or b > 1 + 1e-6:
                continue
            qx, qy, qz = sy * uz - sz * uy, sz * ux - sx * uz, sx * uy - sy * ux
            c = (dx * qx + dy * qy + dz * qz) / determinant
            if c < -1e-6 or b + c > 1 + 1e-6:
                continue
            t = (vx * qx + vy * qy + vz * qz) / determinant
            if t > 0 and (best < 0 or (t > best) == far):
                best = t
                hit[i] = f
                bary[i, 0], bary[i, 1], bary[i, 2] = 1 - b - c, b, c


@dataclass(frozen=True, eq=False)
class Places:
    """A grid (R, C) of places on the skin as a linear map (R C, m) of a head's vertices.

    Columns are azimuths in steps of AZIMUTH_STEP; the last repeats the first, so that they can be sampled across the
    seam.
    """

    map: sp.csr_matrix
    shape: tuple[int, int]

    def on(self, head: np.ndarray) -> np.ndarray:
        """The places (R, C, 3) on a head (m, 3)."""
        return (self.map @ np.float32(head)).reshape(*self.shape, 3)


def cast(origins: np.ndarray, directions: np.ndarray, triangles: np.ndarray, far: bool) -> Places:
    """Where rays (R, C, 3) from the inside meet the given triangles of the mean head; gaps are filled from around."""
    points = load_canvas().canonical.astype(np.float64)
    corners = points[triangles]
    reach = np.linalg.norm(corners[:, 1:] - corners[:, :1], axis=2).max(1)
    rows, columns = directions.shape[:2]
    count = rows * columns
    origins = np.ascontiguousarray(np.broadcast_to(origins, directions.shape).reshape(-1, 3))
    hit, weights = np.full(count, -1), np.zeros((count, 3))
    _cast(origins, np.ascontiguousarray(directions.reshape(-1, 3)), corners, reach, far, hit, weights)
    met, gap = np.nonzero(hit >= 0)[0], np.nonzero(hit < 0)[0]
    row = np.repeat(met, 3), triangles[hit[met]].ravel()
    places = sp.csr_matrix((weights[met].ravel(), row), (count, len(points)))
    if len(gap):
        turn = np.arange(count) % columns * (2 * np.pi / (columns - 1))
        around = columns / (2 * np.pi) * np.stack([np.cos(turn), np.sin(turn), np.arange(count) // columns / 12], 1)
        distance, near = cKDTree(around[met]).query(around[gap], 12)
        share = 1 / distance**3
        share /= share.sum(1, keepdims=True)
        fill = sp.csr_matrix((share.ravel(), (np.repeat(gap, 12), met[near].ravel())), (count, count))
        places = places + fill @ places
    return Places(places.astype(np.float32), (rows, columns))


def skull_centre(canvas, head: np.ndarray) -> np.ndarray:
    """The middle of a head (3,): between the ears, as high as the eyes; head (m, 3) in its own frame."""
    ears = canvas.masks["ears"][:, None]
    ears = (head * ears).sum(0) / ears.sum()
    eyes = head[canvas.model.face_vertex_idx[canvas.model.landmark_idx[36:48]]].mean(0)
    return np.array([eyes[0], eyes[1], ears[2]], np.float32)


ELEVATION_STEP, AZIMUTH_STEP, LOWEST = 2.5, 4.0, -75.0  # degrees, of the map of the skull


def sphere_directions(elevation_deg: np.ndarray, azimuth_deg: np.ndarray) -> np.ndarray:
    """Unit vectors (..., 3): azimuth 0 to the front, 90 to the subject's left; elevation 90 up."""
    e, a = np.radians(elevation_deg), np.radians(azimuth_deg)
    return np.stack([np.cos(e) * np.sin(a), np.sin(e) + 0 * a, np.cos(e) * np.cos(a)], -1)


@cache
def skull_places() -> tuple[Places, Places]:
    """Rays from the skull's centre: to the skin without the ears, and with them."""
    canvas = load_canvas()
    elevation, azimuth = np.meshgrid(
        np.arange(LOWEST, 90.1, ELEVATION_STEP), np.arange(0, 360.1, AZIMUTH_STEP), indexing="ij"
    )
    skin = canvas.triangles[canvas.part == PARTS.index("skin")]
    skin = skin[canvas.canonical[skin][:, :, 1].min(1) > 6.15]
    centre = skull_centre(canvas, canvas.canonical)
    directions = sphere_directions(elevation, azimuth)
    bare = skin[(canvas.masks["ears"][skin] < 0.05).all(1)]
    return cast(centre, directions, bare, True), cast(centre, directions, skin, True)


class Skull:
    """A head as a distance in each direction from its middle: what hats are built on.

    head: (m, 3) um in the head's own frame.   centre (3,) um.
    """

    def __init__(self, canvas, head: np.ndarray):
        self.centre = skull_centre(canvas, head)
        self.maps = []
        for places in skull_places():
            distance = np.linalg.norm(places.on(head) - self.centre, axis=-1)
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
        row, column = (np.float32(np.atleast_2d(x)) for x in (row, column))
        return cv2.remap(self.maps[int(ears)], column, row, cv2.INTER_LINEAR).reshape(shape)

    def at(self, elevation_deg, azimuth_deg, offset_um=0.0, ears: bool = False) -> np.ndarray:
        """Points (..., 3) um in the head's frame, `offset_um` outside the skin."""
        directions = sphere_directions(elevation_deg, azimuth_deg)
        return self.centre + directions * (self.radius(directions, ears) + offset_um)[..., None]


TORSO_CENTRE_DM = np.array([0, 4.7, 0.1])
POLAR_STEP = 3.0


@cache
def torso_places() -> Places:
    """Rays from the chest to the skin below the neck: rows of polar angle 0 (up) to 120, columns of azimuth."""
    canvas = load_canvas()
    polar, azimuth = np.meshgrid(np.arange(0, 120.1, POLAR_STEP), np.arange(0, 360.1, AZIMUTH_STEP), indexing="ij")
    skin = canvas.triangles[canvas.part == PARTS.index("skin")]
    skin = skin[canvas.canonical[skin][:, :, 1].max(1) < 6.02]
    return cast(TORSO_CENTRE_DM, sphere_directions(90 - polar, azimuth), skin, True)


NECK_LEVELS_DM = np.arange(5.75, 6.46, 0.05)


@cache
def neck_places() -> Places:
    """Level rays from the neck's axis to its skin: rows from below upwards, columns of azimuth."""
    canvas = load_canvas()
    level, azimuth = np.meshgrid(NECK_LEVELS_DM, np.arange(0, 360.1, AZIMUTH_STEP), indexing="ij")
    skin = canvas.triangles[canvas.part == PARTS.index("skin")]
    origins = np.stack([0 * level, level, np.interp(level, [5.75, 6.4], [0.2, 0.42])], -1)
    return cast(origins, sphere_directions(0 * level, azimuth), skin, False)


def sample_places(places: np.ndarray, row: np.ndarray, azimuth_deg: np.ndarray) -> np.ndarray:
    """Points (..., 3) of a map of places (R, C, 3) at fractional rows and azimuths."""
    row, azimuth = np.broadcast_arrays(row, azimuth_deg)
    shape = row.shape
    row = np.float32(np.atleast_2d(np.clip(row, 0, len(places) - 1)))
    column = np.float32(np.atleast_2d(azimuth % 360 / AZIMUTH_STEP))
    return cv2.remap(places, column, row, cv2.INTER_LINEAR).reshape(*shape, 3)


def outside(skull: Skull, points: np.ndarray, clearance_um: float, ears: bool = False) -> np.ndarray:
    """Points (..., 3) of the head's frame, moved out of the head where they come nearer than the clearance."""
    reach = points - skull.centre
    distance = np.linalg.norm(reach, axis=-1, keepdims=True)
    direction = reach / distance
    need = skull.radius(direction, ears)[..., None] + clearance_um
    return skull.centre + direction * np.maximum(distance, need)


def orient(surface: Surface, centre: np.ndarray | None) -> Surface:
    """A surface whose normals look away from `centre` (3,), or, without one, that encloses a positive volume."""
    a, b, c = (surface.vertices[surface.triangles[:, k]].astype(np.float64) for k in range(3))
    origin = surface.vertices.mean(0) if centre is None else centre
    if np.einsum("tk,tk->", a - origin, np.cross(b - a, c - a)) >= 0:
        return surface
    turned = np.ascontiguousarray(surface.triangles[:, ::-1])
    return Surface(surface.vertices, turned, surface.color, surface.gloss, surface.soft, surface.alpha)


def clearance(face: np.ndarray, things: np.ndarray, frame: np.ndarray, nose: float = -1.0) -> float:
    """How far things (N, 3) must move forward to clear a face (V, 3), um.

    frame: rows across, up, forward.   nose: half width in the middle that is left out.
    """
    cell, size = 2.5e3, 96
    face, things = face @ frame.T, things @ frame.T
    face = face[(abs(face[:, :2]) < (size // 2 - 1) * cell).all(1) & (abs(face[:, 0]) > nose)]
    depth = np.full((size, size), -1e9, np.float32)
    column, row = (face[:, :2] / cell + size // 2).astype(int).T
    np.maximum.at(depth, (row, column), np.float32(face[:, 2]))
    depth = cv2.dilate(depth, np.ones((3, 3), np.uint8))
    column, row = np.clip(things[:, :2] / cell + size // 2, 0, size - 1).astype(int).T
    return float((depth[row, column] - things[:, 2]).max())
