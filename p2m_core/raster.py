"""A z-buffer on the CPU: the renderer of synthetic faces and of every static picture.

numba saves the C extension or the OpenGL context that this would need otherwise: the same loop in
numpy takes ten times as long.
"""

from __future__ import annotations

from io import BytesIO

import cv2
import numba
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from p2m_core.facemesh import FaceMesh, Specimen, to_world


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _fill(x, y, z, faces, triangle, bary, depth):
    height, width = triangle.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, bx, by, cx, cy = x[a], y[a], x[b], y[b], x[c], y[c]
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        # NaN compares false, so a triangle with a bad vertex is left out as well.
        if not abs(area) > 1e-9:
            continue
        x0 = max(0, int(np.ceil(min(ax, bx, cx))))
        x1 = min(width - 1, int(np.floor(max(ax, bx, cx))))
        y0 = max(0, int(np.ceil(min(ay, by, cy))))
        y1 = min(height - 1, int(np.floor(max(ay, by, cy))))
        if x0 > x1 or y0 > y1:
            continue
        # The weights of corners a and b are linear in the pixel's place.
        u_x, v_x = (by - cy) / area, (cy - ay) / area
        za, zb, zc = z[a], z[b], z[c]
        for py in range(y0, y1 + 1):
            u_row = ((bx - x0) * (cy - py) - (cx - x0) * (by - py)) / area
            v_row = ((cx - x0) * (ay - py) - (ax - x0) * (cy - py)) / area
            for px in range(x0, x1 + 1):
                u, v = u_row + (px - x0) * u_x, v_row + (px - x0) * v_x
                w = 1 - u - v
                if u >= -1e-6 and v >= -1e-6 and w >= -1e-6:
                    d = u * za + v * zb + w * zc
                    if d > depth[py, px]:
                        depth[py, px] = d
                        triangle[py, px] = f
                        bary[py, px, 0], bary[py, px, 1], bary[py, px, 2] = u, v, w


def rasterize(
    vertices_px: np.ndarray, faces: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which triangle each pixel's centre sees.

    Args:    vertices_px: (V, 3) image px, z towards the viewer positive.   faces: (F, 3), either winding.
    Returns: triangle (H, W) int32, -1 where there is none; bary (H, W, 3) float32, the weights of the
             triangle's corners; depth (H, W) float32, -inf where there is none.
    """
    xyz = np.ascontiguousarray(np.asarray(vertices_px, np.float32).T)
    triangle = np.full((height, width), -1, np.int32)
    bary = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), -np.inf, np.float32)
    _fill(xyz[0], xyz[1], xyz[2], np.ascontiguousarray(faces, np.int32), triangle, bary, depth)
    return triangle, bary, depth


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _interpolate(values, faces, triangle, bary, out):
    for p in range(len(triangle)):
        a, b, c = faces[triangle[p], 0], faces[triangle[p], 1], faces[triangle[p], 2]
        for k in range(values.shape[1]):
            out[p, k] = bary[p, 0] * values[a, k] + bary[p, 1] * values[b, k] + bary[p, 2] * values[c, k]


def interpolate(values: np.ndarray, faces: np.ndarray, triangle: np.ndarray, bary: np.ndarray) -> np.ndarray:
    """Values of vertices at points on triangles.

    Args:    values: (V, C).   faces: (F, 3).   triangle: (P,) index of a face.   bary: (P, 3).
    Returns: (P, C) float32.
    """
    out = np.empty((len(triangle), values.shape[1]), np.float32)  # every entry is written
    values = np.ascontiguousarray(values, np.float32)
    _interpolate(values, np.ascontiguousarray(faces, np.int32), triangle, np.ascontiguousarray(bary), out)
    return out


@numba.njit(cache=True, nogil=True, boundscheck=False)
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
def _normalize(vectors, least):
    for p in range(len(vectors)):
        x, y, z = vectors[p, 0], vectors[p, 1], vectors[p, 2]
        length = max(np.sqrt(x * x + y * y + z * z), least)
        vectors[p, 0], vectors[p, 1], vectors[p, 2] = x / length, y / length, z / length


def normalized(vectors: np.ndarray, least: float = 1e-12) -> np.ndarray:
    """Unit vectors (P, 3) along the given ones; shorter ones than `least` come out shorter than 1."""
    vectors = np.array(vectors, order="C")
    _normalize(vectors, vectors.dtype.type(least))
    return vectors


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals, (V, 3); outward where faces wind counter-clockwise in a y-up frame."""
    vertices = np.ascontiguousarray(vertices)
    normals = np.zeros(vertices.shape, np.float64)
    _vertex_normals(vertices, np.ascontiguousarray(faces), normals)
    return normalized(normals)


# --- shading --------------------------------------------------------------------------------------

CLAY = (214, 205, 196)  # RGB of a mesh without colours: pale enough for the light to model it
PAPER = (244, 243, 240)  # RGB behind a mesh that is drawn alone
INK = (58, 62, 70)

# In a y-up frame: a key light from the upper left of the picture, a weak fill from the right, so that
# neither side of a nose goes black.
_KEY = np.array([-0.45, 0.55, 0.70]) / np.linalg.norm([-0.45, 0.55, 0.70])
_FILL = np.array([0.75, 0.05, 0.45]) / np.linalg.norm([0.75, 0.05, 0.45])


@numba.njit(cache=True, nogil=True, boundscheck=False)
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
    background: np.ndarray,
    vertices_px: np.ndarray,
    faces: np.ndarray,
    vertex_colors: np.ndarray | None = None,
    alpha: float = 1.0,
    supersample: int = 2,
    wire_px: float = 0.0,
) -> np.ndarray:
    """A lit, antialiased mesh over a photo or a plain background.

    Args:    background: (H, W, 3) uint8, left as it is.
             vertices_px: (V, 3) px of the background, z towards the viewer positive.
             faces: (F, 3), outward in a y-up frame.
             vertex_colors: (V, 3) 0 to 255, or None for clay.
             alpha: 1 hides what lies behind, 0 draws nothing.
             supersample: samples per pixel and axis.
             wire_px: width of the edges' lines, 0 for none.
    Returns: (H, W, 3) uint8.
    """
    picture = np.array(background, np.uint8, order="C")
    vertices_px = np.asarray(vertices_px, np.float32)
    faces = np.ascontiguousarray(faces, np.int32)
    rows, columns = window(vertices_px, *picture.shape[:2], rim_px=1)
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return picture
    # The centre of the first pixel is 0 on either grid, so its corner, -0.5, is what stays in place.
    fine = (vertices_px - np.array([columns.start, rows.start, 0], np.float32)) * np.float32(supersample)
    fine[:, :2] += (supersample - 1) / 2
    part = np.ascontiguousarray(picture[rows, columns])
    triangle, bary, _ = rasterize(fine, faces, part.shape[0] * supersample, part.shape[1] * supersample)
    # Flatter light on colours: a shadow must not pass for another colour.
    ambient, strength = (0.46, 0.54) if vertex_colors is None else (0.68, 0.32)
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


def window(points_px: np.ndarray, height: int, width: int, rim_px: int = 0) -> tuple[slice, slice]:
    """Rows and columns of a picture that points (N, 2 or 3) and a rim about them span: a small face in a large photo
    is drawn there alone. Points that are not finite do not count."""
    xy = points_px[np.isfinite(points_px).all(1), :2]
    if not len(xy):
        return slice(0, 0), slice(0, 0)
    low = np.clip(np.floor(xy.min(0)) - rim_px, 0, [width, height]).astype(int)
    high = np.clip(np.ceil(xy.max(0)) + 1 + rim_px, 0, [width, height]).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def depth_and_normals(
    vertices_px: np.ndarray, faces: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """What each pixel's centre sees of a mesh.

    Args:    vertices_px: (V, 3) image px, z towards the viewer positive.   faces: (F, 3), outward in a y-up frame.
    Returns: depth (H, W) float32, z in px, -inf where there is none; normals (H, W, 3) float32, unit vectors in the
             y-up frame, outward, 0 where there is none.
    """
    vertices_px = np.asarray(vertices_px, np.float32)
    rows, columns = window(vertices_px, height, width)
    depth, normals = np.full((height, width), -np.inf, np.float32), np.zeros((height, width, 3), np.float32)
    moved = vertices_px - np.array([columns.start, rows.start, 0], np.float32)
    triangle, bary, near = rasterize(moved, faces, rows.stop - rows.start, columns.stop - columns.start)
    hit = triangle >= 0
    depth[rows, columns] = near
    of_vertices = vertex_normals(to_world(vertices_px), np.asarray(faces))
    normals[rows, columns][hit] = normalized(interpolate(of_vertices, faces, triangle[hit], bary[hit]))
    return depth, normals


def photo_colors(photo: np.ndarray, vertices_px: np.ndarray) -> np.ndarray:
    """The photo's colour under each vertex, bilinear, (V, 3) uint8; outside it, that of its edge."""
    x, y = np.ascontiguousarray(vertices_px[:, :2].T, np.float32)
    colors = [  # OpenCV's maps end at 32767 entries
        cv2.remap(photo, a[None], b[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
        for a, b in zip(np.array_split(x, len(x) // 30_000 + 1), np.array_split(y, len(y) // 30_000 + 1), strict=True)
    ]
    return np.concatenate(colors)


def turn(vertices_px: np.ndarray, yaw_deg: float, pitch_deg: float = 0.0) -> np.ndarray:
    """Vertices turned about the centre of their box: positive yaw turns a face towards the picture's right,
    positive pitch downwards.

    Args:    vertices_px: (V, 3).   Returns: (V, 3) float64.
    """
    yaw, pitch = np.deg2rad([yaw_deg, pitch_deg])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    centre = (vertices_px.min(0) + vertices_px.max(0)) / 2
    return (vertices_px - centre) @ (about_x @ about_y).T + centre


def draw_turned(
    vertices_px: np.ndarray,
    faces: np.ndarray,
    yaw_deg: float = 0.0,
    size_px: int = 384,
    vertex_colors: np.ndarray | None = None,
    pitch_deg: float = 0.0,
    wire_px: float = 0.0,
    background: tuple[int, int, int] = PAPER,
    supersample: int = 2,
) -> np.ndarray:
    """A mesh alone, turned as `turn` says, in the middle of a square picture.

    The scale depends on the mesh but not on the angle, so that pictures of several angles can stand in a row.

    Args:    vertices_px: (V, 3).   faces: (F, 3).   size_px: the picture's side.
             vertex_colors, wire_px, supersample: as in `draw_mesh`.   background: RGB.
    Returns: (size_px, size_px, 3) uint8.
    """
    turned = turn(np.asarray(vertices_px, np.float64), yaw_deg, pitch_deg)
    centre = (turned.min(0) + turned.max(0)) / 2
    low, high = np.min(vertices_px, 0), np.max(vertices_px, 0)
    scale = 0.86 * size_px / max(float((high - low).max()), 1e-9)
    placed = (turned - centre) * scale + [(size_px - 1) / 2, (size_px - 1) / 2, 0]
    paper = np.empty((size_px, size_px, 3), np.uint8)
    paper[:] = background
    return draw_mesh(paper, placed, faces, vertex_colors, supersample=supersample, wire_px=wire_px)


def draw_levels(mesh: FaceMesh, yaw_deg: float = 25.0, size_px: int = 320, supersample: int = 3) -> np.ndarray:
    """All levels of a mesh in a row, coarse to fine, with their edges.   Returns: (size_px, K size_px, 3) uint8."""
    pictures = []
    for vertices, faces in zip(mesh.levels, mesh.level_faces, strict=True):
        # Lines thinner than a pixel turn into a tone: so a fine level does not go black.
        edge = np.linalg.norm(vertices[faces[:, 0]] - vertices[faces[:, 1]], axis=1).mean()
        wire_px = min(0.8, 0.07 * edge * 0.86 * size_px / np.ptp(vertices, axis=0).max())
        pictures.append(draw_turned(vertices, faces, yaw_deg, size_px, wire_px=wire_px, supersample=supersample))
    return np.concatenate(pictures, 1)


def swing(frames: int, reach_deg: float) -> np.ndarray:
    """Yaw of each frame of a turntable that swings to both sides and whose end meets its beginning, (frames,) degrees:
    a face is a mask, so from behind there is nothing to see."""
    return reach_deg * np.sin(2 * np.pi * np.arange(frames) / frames)


# --- colours, landmarks, captions -----------------------------------------------------------------

# From no error to the maximum. Lightness rises and falls evenly about the middle, so the light on the
# mesh is not mistaken for error, and both ends stay apart for red-green colour blindness.
ERROR_RAMP = ((38, 84, 160), (72, 168, 184), (236, 230, 170), (240, 142, 74), (184, 28, 62))


def error_colors(error_percent: np.ndarray, maximum: float) -> np.ndarray:
    """RGB of errors on the ramp from blue (0) over pale yellow to crimson (`maximum` and above).

    Args:    error_percent: (V,).   maximum: > 0, same unit.   Returns: (V, 3) uint8; grey where not finite.
    """
    error = np.asarray(error_percent, np.float64)
    place = np.clip(np.nan_to_num(error / maximum, nan=0.0, posinf=0.0, neginf=0.0), 0, 1) * (len(ERROR_RAMP) - 1)
    ramp = np.array(ERROR_RAMP, np.float64)
    rgb = np.stack([np.interp(place, np.arange(len(ramp)), ramp[:, k]) for k in range(3)], -1)
    rgb[~np.isfinite(error)] = 128
    return np.round(rgb).astype(np.uint8)


def error_scale(error_percent: np.ndarray) -> float:
    """The round number at which a colour scale for these errors ends: the 98th percentile, rounded up."""
    finite = np.asarray(error_percent, np.float64)
    finite = finite[np.isfinite(finite)]
    top = float(np.percentile(finite, 98)) if finite.size else 0.0
    if top <= 0:
        return 1.0
    unit = 10.0 ** np.floor(np.log10(top))
    return float(
        round(next(step * unit for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * unit >= top * (1 - 1e-9)), 12)
    )


def draw_landmarks(
    picture: np.ndarray, landmarks_px: np.ndarray, color: tuple[int, int, int] = (64, 224, 180), radius_px: float = 0.0
) -> np.ndarray:
    """Antialiased dots with a dark rim, so that they show on skin and on hair.

    Args:    picture: (H, W, 3) uint8, left as it is.   landmarks_px: (N, 2 or 3), fractions of a pixel count.
             radius_px: 0 chooses one by the landmarks' spread.
    Returns: (H, W, 3) uint8.
    """
    picture = np.array(picture, np.uint8, order="C")
    points = np.asarray(landmarks_px, np.float64)[:, :2]
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        return picture
    radius = radius_px or max(1.2, 0.011 * float(np.ptp(points, axis=0).max()))
    reach = int(np.ceil(radius + 2))
    for x, y in points:
        left, top = max(0, int(x) - reach), max(0, int(y) - reach)
        patch = picture[top : max(0, int(y) + reach + 1), left : max(0, int(x) + reach + 1)]
        row, column = np.ogrid[top : top + patch.shape[0], left : left + patch.shape[1]]
        distance = np.hypot(column - x, row - y)[..., None]
        blended = patch.astype(np.float64)
        for rgb, r in (((20, 24, 28), radius + 0.9), (color, radius)):
            cover = np.clip(r + 0.5 - distance, 0, 1)
            blended += cover * (np.array(rgb) - blended)
        patch[:] = np.round(blended)
    return picture


def encode_picture(picture: np.ndarray, format: str = "PNG", **options: int) -> bytes:
    """The bytes of an (H, W, 3) uint8 picture as PNG or JPEG."""
    stream = BytesIO()
    Image.fromarray(picture).save(stream, format, **options)
    return stream.getvalue()


def _fit_square(picture: np.ndarray, size_px: int) -> tuple[np.ndarray, float, tuple[float, float]]:
    """A picture scaled into a square; with it the scale, and the offset of its px."""
    height, width = picture.shape[:2]
    scale = size_px / max(height, width)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    left, top = (size_px - wide) // 2, (size_px - high) // 2
    square = np.empty((size_px, size_px, 3), np.uint8)
    square[:] = PAPER
    square[top : top + high, left : left + wide] = cv2.resize(picture, (wide, high), interpolation=way)
    return square, scale, (left + (scale - 1) / 2, top + (scale - 1) / 2)


def caption_row(pictures: list[np.ndarray], captions: list[str], maximum: float | None) -> np.ndarray:
    """Pictures in a row with captions below; a colour bar beside the last caption if `maximum` is given."""
    size, gap = pictures[0].shape[0], 6
    font = ImageFont.load_default(max(10, size // 22))
    line = 2 * font.size
    row = Image.new("RGB", (len(pictures) * (size + gap) - gap, size + line), PAPER)
    draw = ImageDraw.Draw(row)
    for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left = k * (size + gap)
        row.paste(Image.fromarray(picture), (left, 0))
        draw.text((left + size / 2, size + line / 2), caption, INK, font, anchor="mm")
    if maximum is not None:
        left, bar = (len(pictures) - 1) * (size + gap), int(0.5 * size)
        x, y, thick = left + (size - bar) // 2, size - int(0.055 * size), max(4, size // 60)
        ramp = np.broadcast_to(error_colors(np.linspace(0, 1, bar), 1.0), (thick, bar, 3))
        row.paste(Image.fromarray(np.ascontiguousarray(ramp)), (x, y))
        draw.text((x - 5, y + thick / 2), "0", INK, font, anchor="rm")
        draw.text((x + bar + 5, y + thick / 2), f"{maximum:g} %", INK, font, anchor="lm")
    return np.asarray(row)


def draw_overlay(specimen: Specimen, alpha: float = 0.8, level: int = -1) -> np.ndarray:
    """The mesh on its photo.   Returns: (H, W, 3) uint8, the photo's size."""
    mesh = specimen.mesh
    return draw_mesh(specimen.photo, mesh.levels[level], mesh.level_faces[level], alpha=alpha)


def static_picture(specimen: Specimen, size_px: int = 320) -> np.ndarray:
    """A row: photo with landmarks, mesh on the photo, mesh, mesh turned by 45 degrees, and, where there is a
    ground truth, its error colours. What a 3D view leaves in a notebook or a report.

    Returns: (H, W, 3) uint8, W = 4 or 5 squares of size_px.
    """
    mesh = specimen.mesh
    square, scale, offset = _fit_square(specimen.photo, size_px)
    shift = np.array([*offset, 0.0])
    on_photo, landmarks = mesh.levels[-1] * scale + shift, mesh.landmarks_px * scale + shift
    pictures = [
        draw_landmarks(square, landmarks),
        draw_mesh(square, on_photo, mesh.faces, alpha=0.8),
        draw_turned(mesh.levels[-1], mesh.faces, 0, size_px),
        draw_turned(mesh.levels[-1], mesh.faces, 45, size_px),
    ]
    captions = [specimen.name, "mesh on the photo", "mesh", "turned by 45°"]
    if specimen.truth_px is None:
        return caption_row(pictures, captions, None)
    error = specimen.error_percent()
    maximum = error_scale(error)
    colors = error_colors(error, maximum)
    pictures.append(draw_turned(mesh.levels[-1], mesh.faces, 0, size_px, colors))
    captions.append(f"error, mean {error.mean():.2g} % of face size")
    return caption_row(pictures, captions, maximum)
