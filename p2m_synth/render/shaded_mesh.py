"""A lit mesh over a picture, for every static picture of a mesh, and for photos of objects."""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Int, Num, UInt8

from p2m_core.face_mesh import to_world
from p2m_core.geometry.rasterizer import rasterize, vertex_normals, window

CLAY = (214, 205, 196)  # RGB of a mesh without colours: pale enough for the light to model it

# In a y-up frame: a key light from the upper left of the picture, a weak fill from the right, so that
# neither side of a nose goes black.
_KEY = np.array([-0.45, 0.55, 0.70]) / np.linalg.norm([-0.45, 0.55, 0.70])
_FILL = np.array([0.75, 0.05, 0.45]) / np.linalg.norm([0.75, 0.05, 0.45])


@numba.njit(cache=True, nogil=True, boundscheck=False)
@no_type_check
def _resolve(
    picture, triangle, bary, xy, faces, normals, colors, alpha, supersample, wire_px, key, fill, ambient, strength
):
    """Shade every sample of a supersampled z-buffer and lay its average over `picture` (H, W, 3) in place."""
    height, width = picture.shape[:2]
    samples = supersample * supersample
    for row in range(height):
        for column in range(width):
            red, green, blue, hits = 0.0, 0.0, 0.0, 0
            for sy in range(row * supersample, (row + 1) * supersample):
                for sx in range(column * supersample, (column + 1) * supersample):
                    f = triangle[sy, sx]
                    if f < 0:
                        continue
                    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
                    u, v, w = bary[sy, sx, 0], bary[sy, sx, 1], bary[sy, sx, 2]
                    nx = u * normals[a, 0] + v * normals[b, 0] + w * normals[c, 0]
                    ny = u * normals[a, 1] + v * normals[b, 1] + w * normals[c, 1]
                    nz = u * normals[a, 2] + v * normals[b, 2] + w * normals[c, 2]
                    length = max(np.sqrt(nx * nx + ny * ny + nz * nz), 1e-9)
                    # The inside of a face is lit as well, but darker: it must not pass for the outside.
                    side = 1.0
                    if nz < 0:
                        length, side = -length, 0.62
                    nx, ny, nz = nx / length, ny / length, nz / length
                    diffuse = strength * max(0.0, nx * key[0] + ny * key[1] + nz * key[2])
                    diffuse += 0.3 * strength * max(0.0, nx * fill[0] + ny * fill[1] + nz * fill[2])
                    light = side * (ambient + 0.04 * ny + diffuse)
                    # Blinn's highlight, the viewer at infinity on z.
                    hz = np.sqrt((1 + key[2]) * 0.5)
                    shine = max(0.0, (nx * key[0] + ny * key[1] + nz * (key[2] + 1)) / (2 * hz))
                    shine = 48.0 * strength * side * shine**36
                    if wire_px > 0:
                        # A barycentric weight times twice the area over the far edge is the distance to that edge.
                        area = abs((xy[b, 0] - xy[a, 0]) * (xy[c, 1] - xy[a, 1])
                                   - (xy[c, 0] - xy[a, 0]) * (xy[b, 1] - xy[a, 1]))  # fmt: skip
                        to_bc = u * area / np.hypot(xy[b, 0] - xy[c, 0], xy[b, 1] - xy[c, 1])
                        to_ca = v * area / np.hypot(xy[c, 0] - xy[a, 0], xy[c, 1] - xy[a, 1])
                        to_ab = w * area / np.hypot(xy[a, 0] - xy[b, 0], xy[a, 1] - xy[b, 1])
                        half = 0.5 * wire_px * supersample
                        # Soft by a sample; a line thinner than one is weaker instead, or it would break up.
                        cover = min(1.0, max(0.0, max(half, 0.5) + 0.5 - min(to_bc, to_ca, to_ab)))
                        cover *= min(1.0, 2 * half)
                        light, shine = (1 - 0.58 * cover) * light, (1 - cover) * shine
                    red += min(255.0, light * (u * colors[a, 0] + v * colors[b, 0] + w * colors[c, 0]) + shine)
                    green += min(255.0, light * (u * colors[a, 1] + v * colors[b, 1] + w * colors[c, 1]) + shine)
                    blue += min(255.0, light * (u * colors[a, 2] + v * colors[b, 2] + w * colors[c, 2]) + shine)
                    hits += 1
            if hits:
                keep = 1.0 - alpha * hits / samples
                picture[row, column, 0] = keep * picture[row, column, 0] + alpha * red / samples + 0.5
                picture[row, column, 1] = keep * picture[row, column, 1] + alpha * green / samples + 0.5
                picture[row, column, 2] = keep * picture[row, column, 2] + alpha * blue / samples + 0.5


def draw_mesh(
    background: UInt8[np.ndarray, "h w 3"],
    vertices_px: Num[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    vertex_colors: Num[np.ndarray, "v 3"] | None = None,
    alpha: float = 1.0,
    supersample: int = 2,
    wire_px: float = 0.0,
    flat: bool = True,
) -> UInt8[np.ndarray, "h w 3"]:
    """A shaded, antialiased mesh over a photo or a plain background.

    Args:    background: (H, W, 3) uint8, left as it is.
             vertices_px: (V, 3) px of the background, z towards the viewer positive.
             faces: (F, 3), outward in a y-up frame.
             vertex_colors: (V, 3) 0 to 255, or None for clay.
             alpha: 1 hides what lies behind, 0 draws nothing.
             supersample: samples per pixel and axis.
             wire_px: width of the edges' lines, 0 for none.
             flat: light colours weakly, so that a shadow does not pass for another colour; else as clay.
    Returns: (H, W, 3) uint8.
    """
    picture = np.array(background, np.uint8, order="C")
    vertices_px = np.asarray(vertices_px, np.float32)
    faces = np.ascontiguousarray(faces, np.int32)
    height, width = picture.shape[:2]
    rows, columns = window(vertices_px, height, width, rim_px=1)
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return picture
    # The centre of the first pixel is 0 on either grid, so its corner, -0.5, is what stays in place.
    fine = (vertices_px - np.array([columns.start, rows.start, 0], np.float32)) * np.float32(supersample)
    fine[:, :2] += (supersample - 1) / 2
    part = np.ascontiguousarray(picture[rows, columns])
    triangle, bary, _ = rasterize(fine, faces, part.shape[0] * supersample, part.shape[1] * supersample)
    ambient, strength = (0.68, 0.32) if flat and vertex_colors is not None else (0.46, 0.54)
    if vertex_colors is None:
        vertex_colors = np.broadcast_to(np.array(CLAY), vertices_px.shape)
    normals = vertex_normals(to_world(vertices_px), faces).astype(np.float32)
    colors = np.ascontiguousarray(vertex_colors, np.float32)
    _resolve(
        part, triangle, bary, fine, faces, normals, colors, float(alpha), supersample, float(wire_px),
        _KEY, _FILL, ambient, strength,
    )  # fmt: skip
    picture[rows, columns] = part
    return picture
