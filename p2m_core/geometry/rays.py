"""Where rays meet triangles: Moeller and Trumbore, Fast, minimum storage ray-triangle intersection, 1997.

numba saves the search for candidates that numpy would need: the loop passes over most triangles by a ball round each.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int, Num

SLACK = 1e-9  # how far below 0 a weight may be, so that no ray slips through between two triangles


@numba.njit(cache=True, nogil=True)
@no_type_check
def _meet(origin, direction, corners):
    """Distance to a triangle's plane, in lengths of `direction`, and the weights of its corners 1 and 2 there."""
    ux, uy, uz = corners[1, 0] - corners[0, 0], corners[1, 1] - corners[0, 1], corners[1, 2] - corners[0, 2]
    vx, vy, vz = corners[2, 0] - corners[0, 0], corners[2, 1] - corners[0, 1], corners[2, 2] - corners[0, 2]
    sx, sy, sz = origin[0] - corners[0, 0], origin[1] - corners[0, 1], origin[2] - corners[0, 2]
    dx, dy, dz = direction[0], direction[1], direction[2]
    px, py, pz = dy * vz - dz * vy, dz * vx - dx * vz, dx * vy - dy * vx
    determinant = ux * px + uy * py + uz * pz
    if determinant == 0:  # the ray runs along the plane
        return np.nan, np.nan, np.nan
    qx, qy, qz = sy * uz - sz * uy, sz * ux - sx * uz, sx * uy - sy * ux
    distance = (vx * qx + vy * qy + vz * qz) / determinant
    return distance, (sx * px + sy * py + sz * pz) / determinant, (dx * qx + dy * qy + dz * qz) / determinant


@numba.njit(cache=True, nogil=True)
@no_type_check
def _cast(origins, directions, corners, reach, last, hit, weights):
    for i in range(len(origins)):
        best = -1.0
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        for f in range(len(corners)):
            sx, sy, sz = (
                origins[i, 0] - corners[f, 0, 0],
                origins[i, 1] - corners[f, 0, 1],
                origins[i, 2] - corners[f, 0, 2],
            )
            along = sx * dx + sy * dy + sz * dz
            if along > reach[f] or sx * sx + sy * sy + sz * sz - along * along > reach[f] ** 2:
                continue  # the ray passes by
            distance, b, c = _meet(origins[i], directions[i], corners[f])
            if b >= -SLACK and c >= -SLACK and b + c <= 1 + SLACK and distance > 0:
                if best < 0 or (distance > best) == last:
                    best, hit[i] = distance, f
                    weights[i, 0], weights[i, 1], weights[i, 2] = 1 - b - c, b, c


def cast_rays(
    origins: Num[np.ndarray, "*one_or_n 3"],
    directions: Num[np.ndarray, "n 3"],
    vertices: Num[np.ndarray, "v 3"],
    triangles: Int[np.ndarray, "f 3"],
    last: bool = False,
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
    """The triangle that each ray meets first, or last.

    Args:    origins: (N, 3), or (3,) for all.   directions: (N, 3) of length 1.   vertices: (V, 3).
             triangles: (F, 3), either winding.   last: the farthest from the origin instead of the nearest.
    Returns: index into `triangles` (N,), -1 where there is none; barycentric weights (N, 3) of the point there.
    """
    corners = np.asarray(vertices, np.float64)[triangles]
    reach = np.linalg.norm(corners[:, 1:] - corners[:, :1], axis=2).max(1)
    origins, directions = (np.ascontiguousarray(x, np.float64) for x in np.broadcast_arrays(origins, directions))
    hit, weights = np.full(len(directions), -1), np.zeros((len(directions), 3))
    _cast(origins, directions, corners, reach, last, hit, weights)
    return hit, weights


@numba.njit(cache=True, nogil=True)
@no_type_check
def _meet_pairs(origins, directions, corners, distance, weights):
    for i in range(len(origins)):
        distance[i], b, c = _meet(origins[i], directions[i], corners[i])
        weights[i, 0], weights[i, 1], weights[i, 2] = 1 - b - c, b, c


def meet_planes(
    origins: Num[np.ndarray, "n 3"], directions: Num[np.ndarray, "n 3"], corners: Num[np.ndarray, "n 3 3"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n 3"]]:
    """Where each ray meets the plane of its own triangle.

    Args:    origins, directions: (N, 3).   corners: (N, 3, 3) of the triangles.
    Returns: distance (N,) in lengths of the direction; barycentric weights (N, 3), none below 0 inside the triangle;
             NaN where the ray runs along the plane.
    """
    distance, weights = np.zeros(len(origins)), np.zeros((len(origins), 3))
    _meet_pairs(*(np.ascontiguousarray(x, np.float64) for x in (origins, directions, corners)), distance, weights)
    return distance, weights
