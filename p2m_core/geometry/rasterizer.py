"""A z-buffer on the CPU, and a shaded mesh by it: the renderer of synthetic faces and of every static picture.

numba saves the C extension or the OpenGL context that this would need otherwise: the same loop in numpy takes ten
times as long. Its functions carry `no_type_check`, since neither mypy nor the tests' shape checks look into them.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, Float32, Int, Int32, Num


@numba.njit(cache=True, nogil=True, boundscheck=False, inline="always")
@no_type_check
def _clip(low, high, start, slope):
    """The part of low..high where start + slope * x >= 0, but for rounding."""
    if slope > 0:
        low = max(low, np.ceil((-1e-6 - start) / slope))
    elif slope < 0:
        high = min(high, np.floor((-1e-6 - start) / slope))
    elif start < -1e-6:
        high = low - 1
    return low, high


@numba.njit(cache=True, nogil=True, boundscheck=False)
@no_type_check
def _fill(points, faces, closed, outward, depth, triangle, bary):
    """Both of the last two may be None. outward: sign of the area of faces that face the viewer."""
    height, width = depth.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, bx, by = float(points[a, 0]), float(points[a, 1]), float(points[b, 0]), float(points[b, 1])
        cx, cy = float(points[c, 0]), float(points[c, 1])
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        # NaN compares false, so a triangle with a bad vertex is left out as well.
        if not abs(area) > 1e-9 or (f < closed and area * outward < 0):
            continue
        x0, x1 = max(0.0, np.ceil(min(ax, bx, cx))), min(width - 1.0, np.floor(max(ax, bx, cx)))
        y0, y1 = max(0.0, np.ceil(min(ay, by, cy))), min(height - 1.0, np.floor(max(ay, by, cy)))
        if x0 > x1 or y0 > y1:
            continue
        # The weights of corners a and b are linear in the pixel's place.
        u_x, v_x = (by - cy) / area, (cy - ay) / area
        u_y, v_y = (cx - bx) / area, (ax - cx) / area
        za, zb, zc = float(points[a, 2]), float(points[b, 2]), float(points[c, 2])
        for row in range(int(y0), int(y1) + 1):
            u = u_x * (x0 - cx) + u_y * (row - cy)
            v = v_x * (x0 - cx) + v_y * (row - cy)
            low, high = _clip(0.0, x1 - x0, u, u_x)
            low, high = _clip(low, high, v, v_x)
            low, high = _clip(low, high, 1 - u - v, -u_x - v_x)
            if low > high:
                continue
            u, v = u + low * u_x, v + low * v_x
            for column in range(int(x0 + low), int(x0 + high) + 1):
                w = 1 - u - v
                d = np.float32(u * za + v * zb + w * zc)
                if d > depth[row, column]:
                    depth[row, column] = d
                    if triangle is not None:
                        triangle[row, column] = f
                        bary[row, column, 0], bary[row, column, 1], bary[row, column, 2] = u, v, w
                u += u_x
                v += v_x


def rasterize(
    vertices_px: Num[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], height: int, width: int, closed: int = 0
) -> tuple[Int32[np.ndarray, "h w"], Float32[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"]]:
    """Which triangle each pixel's centre sees.

    Args:    vertices_px: (V, 3) image px, z towards the viewer positive.   faces: (F, 3), either winding.
             closed: so many of the first faces belong to closed surfaces, outward in a y-up frame; those that face
             away are left out, which saves time.
    Returns: triangle (H, W) int32, -1 where there is none; bary (H, W, 3) float32, the weights of the
             triangle's corners; depth (H, W) float32, -inf where there is none.

    >>> corners_px = np.array([[0.0, 0, 1], [3, 0, 1], [0, 3, 4]])
    >>> triangle, bary, depth = rasterize(corners_px, np.array([[0, 1, 2]]), height=3, width=4)
    >>> triangle
    array([[ 0,  0,  0,  0],
           [ 0,  0,  0, -1],
           [ 0,  0, -1, -1]], dtype=int32)
    >>> bary[1, 1].round(2), float(depth[1, 1])
    (array([0.33, 0.33, 0.33], dtype=float32), 2.0)
    """
    points, faces = np.ascontiguousarray(vertices_px, np.float32), np.ascontiguousarray(faces, np.int32)
    triangle = np.full((height, width), -1, np.int32)
    bary = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), -np.inf, np.float32)
    _fill(points, faces, closed, -1.0, depth, triangle, bary)
    return triangle, bary, depth


def depth_map(
    vertices: Num[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], height: int, width: int, closed: int = 0
) -> Float32[np.ndarray, "h w"]:
    """The depth of `rasterize` alone, in a grid whose rows run upwards, if that matters to `closed`."""
    points, faces = np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32)
    depth = np.full((height, width), -np.inf, np.float32)
    _fill(points, faces, closed, 1.0, depth, None, None)
    return depth


@numba.njit(cache=True, nogil=True, boundscheck=False)
@no_type_check
def _interpolate(values, faces, triangle, bary, out):
    for p in range(len(triangle)):
        a, b, c = faces[triangle[p], 0], faces[triangle[p], 1], faces[triangle[p], 2]
        for k in range(values.shape[1]):
            out[p, k] = bary[p, 0] * values[a, k] + bary[p, 1] * values[b, k] + bary[p, 2] * values[c, k]


def interpolate(
    values: Num[np.ndarray, "v c"],
    faces: Int[np.ndarray, "f 3"],
    triangle: Int[np.ndarray, "p"],
    bary: Float[np.ndarray, "p 3"],
) -> Float32[np.ndarray, "p c"]:
    """Values of vertices at points on triangles.

    Args:    values: at the vertices.   triangle: the index of each point's face.   bary: its weights there.
    Returns: the values at the points.
    """
    out = np.empty((len(triangle), values.shape[1]), np.float32)  # every entry is written
    values = np.ascontiguousarray(values, np.float32)
    _interpolate(values, np.ascontiguousarray(faces, np.int32), triangle, np.ascontiguousarray(bary), out)
    return out


@numba.njit(cache=True, nogil=True, boundscheck=False)
@no_type_check
def _vertex_normals(vertices, faces, out):
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (a, b, c):
            out[corner, 0] += x
            out[corner, 1] += y
            out[corner, 2] += z


@numba.njit(cache=True, nogil=True, boundscheck=False)
@no_type_check
def _normalize(vectors, least):
    for p in range(len(vectors)):
        x, y, z = vectors[p, 0], vectors[p, 1], vectors[p, 2]
        length = max(np.sqrt(x * x + y * y + z * z), least)
        vectors[p, 0], vectors[p, 1], vectors[p, 2] = x / length, y / length, z / length


def normalized(vectors: Float[np.ndarray, "p 3"], least: float = 1e-12) -> Float[np.ndarray, "p 3"]:
    """Unit vectors along the given ones; those shorter than `least` are divided by `least`."""
    vectors = np.array(vectors, order="C")
    _normalize(vectors, vectors.dtype.type(least))
    return vectors


def vertex_normals(vertices: Num[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> Float[np.ndarray, "v 3"]:
    """Area-weighted unit normals; outward where faces wind counter-clockwise in a y-up frame."""
    vertices = np.ascontiguousarray(vertices)
    normals = np.zeros(vertices.shape, np.float64)
    _vertex_normals(vertices, np.ascontiguousarray(faces), normals)
    return normalized(normals)


def window(points_px: Num[np.ndarray, "n _"], height: int, width: int, rim_px: int = 0) -> tuple[slice, slice]:
    """Rows and columns of a picture that points (N, 2 or 3) and a rim about them span, so that a small face in a large
    photo is drawn in that part alone. Points that are not finite are ignored."""
    xy = points_px[np.isfinite(points_px).all(1), :2]
    if not len(xy):
        return slice(0, 0), slice(0, 0)
    low = np.clip(np.floor(xy.min(0)) - rim_px, 0, [width, height]).astype(int)
    high = np.clip(np.ceil(xy.max(0)) + 1 + rim_px, 0, [width, height]).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])
