"""Static pictures of meshes: turned, in a row of levels, with error colours, landmarks, captions, on their photo."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Int, Num
from PIL import Image, ImageDraw, ImageFont

from p2m_core.files import atomic_path
from p2m_core.geometry.crop import apply_affine
from p2m_core.geometry.template import GROUPS
from p2m_synth.render.shaded_mesh import CLAY, draw_mesh
from p2m_workbench.face_prediction import FacePrediction

PAPER = (244, 243, 240)  # RGB behind a mesh that is drawn alone
INK = (58, 62, 70)


def turn(vertices_px: np.ndarray, yaw_deg: float) -> np.ndarray:
    """Vertices (V, 3) turned about the centre of their box; positive yaw turns a face towards the picture's right."""
    yaw = np.deg2rad(yaw_deg)
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    centre = (vertices_px.min(0) + vertices_px.max(0)) / 2
    return (vertices_px - centre) @ about_y.T + centre


def draw_turned(
    vertices_px: np.ndarray,
    faces: np.ndarray,
    yaw_deg: float = 0.0,
    size_px: int = 384,
    vertex_colors: np.ndarray | None = None,
    wire_px: float = 0.0,
    background: tuple[int, int, int] = PAPER,
    supersample: int = 2,
    flat: bool = True,
) -> np.ndarray:
    """A mesh alone, turned as `turn` says, in the middle of a square picture.

    The scale depends on the mesh but not on the angle, so that pictures of several angles can stand in a row.

    Args:    vertices_px: (V, 3).   faces: (F, 3).   size_px: the picture's side.
             vertex_colors, wire_px, supersample, flat: as in `draw_mesh`.   background: RGB.
    Returns: (size_px, size_px, 3) uint8.
    """
    turned = turn(np.asarray(vertices_px, np.float64), yaw_deg)
    centre = (turned.min(0) + turned.max(0)) / 2
    low, high = np.min(vertices_px, 0), np.max(vertices_px, 0)
    scale = 0.86 * size_px / max(float((high - low).max()), 1e-9)
    placed = (turned - centre) * scale + [(size_px - 1) / 2, (size_px - 1) / 2, 0]
    paper = np.full((size_px, size_px, 3), background, np.uint8)
    return draw_mesh(paper, placed, faces, vertex_colors, 1.0, supersample, wire_px, flat)


def draw_levels(
    levels: Sequence[np.ndarray],
    level_faces: Sequence[np.ndarray],
    yaw_deg: float = 25.0,
    size_px: int = 320,
    supersample: int = 3,
    vertex_colors: np.ndarray | None = None,
) -> np.ndarray:
    """Levels (V_k, 3), (F_k, 3) of a mesh in a row, coarse to fine, with edges, lit as clay.

    Args:    vertex_colors: (V, 3) of the finest level, or None for clay.
    Returns: (size_px, K size_px, 3).
    """
    pictures = []
    for vertices, faces in zip(levels, level_faces, strict=True):
        # Lines thinner than a pixel turn into a tone: so a fine level does not go black.
        edge = np.linalg.norm(vertices[faces[:, 0]] - vertices[faces[:, 1]], axis=1).mean()
        wire_px = min(0.8, 0.07 * edge * 0.86 * size_px / np.ptp(vertices, axis=0).max())
        colors = None if vertex_colors is None else vertex_colors[: len(vertices)]
        pictures.append(draw_turned(vertices, faces, yaw_deg, size_px, colors, wire_px, PAPER, supersample, flat=False))
    return np.concatenate(pictures, 1)


# RGB of eyes and mouth, for a mesh with groups; radii over the distance of the eye's corners.
EYE_WHITE, IRIS, PUPIL, MOUTH = (240, 238, 234), (92, 108, 124), (30, 30, 34), (74, 40, 38)
IRIS_RADIUS, PUPIL_RADIUS = 0.2, 0.08
# What meets on a mesh stands side by side, so that colours between vertices are those between two of these.
CLAY_RAMP = (MOUTH, CLAY, EYE_WHITE, IRIS, PUPIL)


def clay_shares(
    vertices: Num[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], groups: Int[np.ndarray, "f"]
) -> Float[np.ndarray, "v"]:
    """Where on CLAY_RAMP each vertex of a mesh with groups lies, (V,) from 0 to 1.

    Iris and pupil are round the vertex nearest to the middle of each eye's rim, as if it looked straight ahead.

    Args:    vertices: (V, 3).   faces: (F, 3).   groups: (F,) index into GROUPS.
    """
    places = np.full(len(vertices), CLAY_RAMP.index(CLAY))
    for name in GROUPS[1:]:
        own = groups == GROUPS.index(name)
        inside = np.setdiff1d(faces[own], faces[~own])
        if name == "mouth" or not len(inside):
            places[inside] = CLAY_RAMP.index(MOUTH)
            continue
        eye, rim = vertices[inside], vertices[np.setdiff1d(faces[own], inside)]
        away = np.linalg.norm(eye - eye[np.linalg.norm(eye - rim.mean(0), axis=1).argmin()], axis=1)
        away /= np.linalg.norm(rim[:, None] - rim, axis=-1).max(initial=1e-9)
        kinds = [CLAY_RAMP.index(color) for color in (PUPIL, IRIS, EYE_WHITE)]
        places[inside] = np.select([away < PUPIL_RADIUS, away < IRIS_RADIUS], kinds[:2], kinds[2])
    return places / (len(CLAY_RAMP) - 1)


def clay_colors(
    vertices: Num[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], groups: Int[np.ndarray, "f"] | None
) -> Float[np.ndarray, "v 3"] | None:
    """RGB of a mesh's vertices (V, 3): clay, with eyes and a dark mouth; None where the mesh has no groups."""
    return None if groups is None else ramp_colors(CLAY_RAMP, clay_shares(vertices, faces, groups))


def swing(frames: int, reach_deg: float) -> np.ndarray:
    """Yaw of each frame of a turntable that swings to both sides and whose end meets its beginning, (frames,) degrees:
    a face is a mask, so from behind there is nothing to see."""
    return reach_deg * np.sin(2 * np.pi * np.arange(frames) / frames)


# --- colours, landmarks, captions -----------------------------------------------------------------

# From no error to the maximum. Lightness rises and falls evenly about the middle, so the light on the
# mesh is not mistaken for error, and both ends stay apart for red-green colour blindness.
ERROR_RAMP = ((38, 84, 160), (72, 168, 184), (236, 230, 170), (240, 142, 74), (184, 28, 62))


def ramp_colors(ramp: Sequence[tuple[int, int, int]], shares: np.ndarray) -> np.ndarray:
    """RGB (..., 3) at places of a ramp from 0, its first colour, to 1, its last; even steps, linear between."""
    ends = np.linspace(0, 1, len(ramp))
    return np.stack([np.interp(shares, ends, channel) for channel in np.transpose(ramp)], -1)


def error_colors(error_percent: np.ndarray, maximum: float) -> np.ndarray:
    """RGB of errors on the ramp from blue (0) over pale yellow to crimson (`maximum` and above).

    Args:    error_percent: (V,).   maximum: > 0, same unit.   Returns: (V, 3) uint8; grey where not finite.
    """
    error = np.asarray(error_percent, np.float64)
    rgb = ramp_colors(ERROR_RAMP, np.nan_to_num(error / maximum, nan=0.0, posinf=0.0, neginf=0.0))
    rgb[~np.isfinite(error)] = 128
    return np.round(rgb).astype(np.uint8)


# From better to worse over even. What is not beyond chance is grey, which the ramp has nowhere.
DIFFERENCE_RAMP = ((26, 110, 142), (120, 190, 196), (247, 243, 226), (240, 150, 84), (178, 36, 58))
NO_DIFFERENCE = (148, 150, 154)


def difference_shares(points: np.ndarray, maximum: float) -> np.ndarray:
    """Where on DIFFERENCE_RAMP differences lie, from 0 for -`maximum` and below to 1 for `maximum` and above."""
    return np.clip(np.nan_to_num(np.asarray(points, np.float64)) / maximum, -1, 1) / 2 + 0.5


def difference_colors(points: np.ndarray, maximum: float, beyond: np.ndarray) -> np.ndarray:
    """RGB of differences on DIFFERENCE_RAMP, grey where they are not beyond chance.

    Args:    points: (V,).   maximum: > 0, same unit.   beyond: (V,) bool.   Returns: (V, 3) uint8.
    """
    rgb = ramp_colors(DIFFERENCE_RAMP, difference_shares(points, maximum))
    return np.round(np.where(beyond[:, None], rgb, NO_DIFFERENCE)).astype(np.uint8)


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


def encode_photo(picture: np.ndarray) -> bytes:
    """The bytes of a picture (H, W, 3) of a photo as JPEG: a tenth of a PNG, in a notebook that keeps it."""
    return encode_picture(picture, "JPEG", quality=88, subsampling=0)


def data_uri(picture: np.ndarray, format: str = "PNG", **options: int) -> str:
    """A picture (H, W, 3 or 4) as PNG or JPEG in a data URI, for a page."""
    return f"data:image/{format.lower()};base64,{b64encode(encode_picture(picture, format, **options)).decode()}"


def save_picture(path: str | Path, picture: np.ndarray) -> Path:
    """Write an (H, W, 3) uint8 picture in the format of the suffix, whole or not at all.   Returns: the path."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, compress_level=3)  # of a PNG: 2.5 times as fast as 6, 7% larger
    return Path(path)


def fit(picture: np.ndarray, side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) resized to a longer side, and the affine map (2, 3) from its px to the px of the result."""
    scale = side_px / max(picture.shape)
    size = [max(1, round(scale * side)) for side in picture.shape[1::-1]]
    resized = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return resized, np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2]])


def fit_square(picture: np.ndarray, side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """`fit` into the middle of a square."""
    resized, matrix = fit(picture, side_px)
    height, width = resized.shape[:2]
    left, top = (side_px - width) // 2, (side_px - height) // 2
    square = np.full((side_px, side_px, 3), PAPER, np.uint8)
    square[top : top + height, left : left + width] = resized
    return square, matrix + [[0, 0, left], [0, 0, top]]


def contact_sheet(pictures: Sequence[np.ndarray], columns: int = 8) -> np.ndarray:
    """Pictures of one size in a grid, row by row, the rest white."""
    height, width, _ = pictures[0].shape
    rows = -(-len(pictures) // columns)
    grid = np.full((rows * columns, height, width, 3), 255, np.uint8)
    grid[: len(pictures)] = pictures
    return grid.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)


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


def draw_overlay(prediction: FacePrediction) -> np.ndarray:
    """The mesh on its photo.   Returns: (H, W, 3) uint8, the photo's size."""
    mesh = prediction.mesh
    clay = clay_colors(mesh.vertices_px, mesh.faces, mesh.groups)
    return draw_mesh(prediction.photo, mesh.vertices_px, mesh.faces, clay, alpha=0.8, flat=False)


def static_pictures(predictions: Sequence[FacePrediction], size_px: int = 320) -> list[np.ndarray]:
    """`static_picture` of each, with one scale of error colours."""
    errors = [prediction.error_percent() for prediction in predictions if prediction.truth_px is not None]
    maximum = error_scale(np.concatenate(errors)) if errors else None
    return [static_picture(prediction, size_px, maximum) for prediction in predictions]


def static_picture(prediction: FacePrediction, size_px: int = 320, maximum: float | None = None) -> np.ndarray:
    """A row: photo with landmarks, mesh on the photo, mesh, mesh turned by 45 degrees, and, where there is a
    ground truth, its error colours. What a 3D view leaves in a notebook or a report.

    Args:    maximum: error at which the colours end, percent of the face size; None for a scale of its own.
    Returns: (H, W, 3) uint8, W = 4 or 5 squares of size_px.
    """
    mesh = prediction.mesh
    square, matrix = fit_square(prediction.photo, size_px)
    on_photo, landmarks = apply_affine(matrix, mesh.levels[-1]), apply_affine(matrix, mesh.landmarks_px)
    clay = clay_colors(mesh.levels[-1], mesh.faces, mesh.groups)
    pictures = [
        draw_landmarks(square, landmarks),
        draw_mesh(square, on_photo, mesh.faces, clay, alpha=0.8, flat=False),
        draw_turned(mesh.levels[-1], mesh.faces, 0, size_px, clay, flat=False),
        draw_turned(mesh.levels[-1], mesh.faces, 45, size_px, clay, flat=False),
    ]
    captions = [prediction.name, "mesh on the photo", "mesh", "turned by 45°"]
    if prediction.truth_px is None:
        return caption_row(pictures, captions, None)
    error = prediction.error_percent()
    maximum = maximum or error_scale(error)
    colors = error_colors(error, maximum)
    pictures.append(draw_turned(mesh.levels[-1], mesh.faces, 0, size_px, colors))
    captions.append(f"error, mean {prediction.mean_error_percent():.1f} % of face size")
    return caption_row(pictures, captions, maximum)
