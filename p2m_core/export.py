"""Taking meshes away: OBJ, PLY and GLB files, overlay pictures, and one HTML file that opens offline."""

from __future__ import annotations

import base64
import html
import importlib.util
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from p2m_core.errors import InputError
from p2m_core.facemesh import FaceMesh, Specimen, to_world
from p2m_core.files import atomic_path, write_text
from p2m_core.raster import ERROR_RAMP, draw_overlay, encode_picture, error_scale

MESH_SUFFIXES = (".obj", ".ply", ".glb")


# --- mesh files -----------------------------------------------------------------------------------


def save_mesh(
    path: str | Path, mesh: FaceMesh, level: int = -1, vertex_colors: Sequence[Sequence[int]] | np.ndarray | None = None
) -> Path:
    """One level of a mesh as .obj, .ply or .glb: y up, outward faces, vertices in their order, unit px.

    Args:    level: index into mesh.levels, -1 for the finest.   vertex_colors: (V_k, 3) RGB 0 to 255.
    Returns: the path.
    Raises:  InputError for another suffix, or coordinates that are not finite.
    """
    path = Path(path)
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise InputError(path, "suffix", f"{path.suffix or 'none'} is not a mesh format", "use .obj, .ply or .glb")
    vertices = to_world(mesh.levels[level])
    bad = np.flatnonzero(~np.isfinite(vertices).all(1))
    if bad.size:
        raise InputError(path, f"vertex {bad[0]}", f"{bad.size} vertices are not finite", "do not export this mesh")
    if vertex_colors is not None:
        vertex_colors = np.asarray(np.round(vertex_colors), np.uint8)
    solid = trimesh.Trimesh(vertices, mesh.level_faces[level], vertex_colors=vertex_colors, process=False)
    with atomic_path(path) as temporary:
        solid.export(temporary, file_type=path.suffix.lower()[1:])
    return path


def save_picture(path: str | Path, picture: np.ndarray) -> Path:
    """An (H, W, 3) uint8 picture in the format of the suffix, whole or not at all.   Returns: the path."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary)
    return Path(path)


def save_overlay(path: str | Path, specimen: Specimen) -> Path:
    """The mesh drawn on its photo, in the photo's size.   Returns: the path."""
    return save_picture(path, draw_overlay(specimen))


# --- HTML -----------------------------------------------------------------------------------------


def _base64(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode("ascii")


def photo_uri(photo: np.ndarray, side_px: int = 640) -> str:
    """A photo (H, W, 3) as JPEG in a data URI, scaled down to its longer side `side_px`."""
    picture = Image.fromarray(photo)
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    content = encode_picture(np.asarray(picture), "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def _viewer_data(specimen: Specimen, photo_side_px: int) -> dict:
    """All that the viewer's script reads; coordinates with y up, arrays little-endian in base64."""
    mesh = specimen.mesh
    levels = []
    for k, (vertices, faces) in enumerate(zip(mesh.levels, mesh.level_faces, strict=True)):
        wide = len(vertices) > 2**16
        level = {
            "vertices": len(vertices),
            "faces": len(faces),
            "position": _base64(to_world(vertices), "<f4"),
            "index": _base64(faces, "<u4" if wide else "<u2"),
            "wide": wide,
        }
        if specimen.truth_px is not None:
            level["error"] = _base64(specimen.error_percent(k), "<f4")
        levels.append(level)
    height, width = specimen.photo.shape[:2]
    data = {
        "name": specimen.name,
        "width": width,
        "height": height,
        "photo": photo_uri(specimen.photo, photo_side_px),
        "levels": levels,
        "landmarks": _base64(to_world(mesh.landmarks_px), "<f4"),
        "ramp": ERROR_RAMP,
    }
    if specimen.truth_px is not None:
        data["truth"] = _base64(to_world(specimen.truth_px), "<f4")
        data["errorMaximum"] = error_scale(specimen.error_percent())
    return data


def _three_js() -> str:
    """The text of three.js, which the pythreejs wheel carries: so nothing is fetched, now or later."""
    package = importlib.util.find_spec("pythreejs")  # found, not imported: it would pull in the widgets
    if package is None or not package.submodule_search_locations:
        raise InputError("pythreejs", "", "is not installed", "pip install pythreejs")
    script = Path(package.submodule_search_locations[0]) / "static" / "three.js"
    if not script.is_file():
        raise InputError(script, "", "is missing from the installed pythreejs", "pip install pythreejs==2.4.2")
    text = script.read_text(encoding="utf-8")
    if "</script" in text.lower():
        raise InputError(script, "", "cannot be put into a page", "pip install pythreejs==2.4.2")
    return text


def html_page(specimen: Specimen, photo_side_px: int = 640) -> str:
    """The page that `write_html` writes, as text."""
    template = resources.files("p2m_core").joinpath("viewer.html").read_text(encoding="utf-8")
    # Inside <script> only "<" can end the script, and JSON may write it as an escape.
    data = json.dumps(_viewer_data(specimen, photo_side_px), separators=(",", ":"), allow_nan=False)
    page = template.replace("{{title}}", html.escape(specimen.name))
    page = page.replace("{{specimen}}", data.replace("<", "\\u003c"))
    return page.replace("{{three}}", _three_js())


def write_html(path: str | Path, specimen: Specimen, photo_side_px: int = 640) -> Path:
    """One self-contained HTML file that shows a specimen in 3D, with no network, in any browser with WebGL.

    Orbit, zoom and pan, a slider over the levels, wireframe, points, landmarks, the photo behind the mesh;
    with a ground truth also its surface and the error colours. About 1.2 MB for 7000 vertices.

    Args:    photo_side_px: the photo is scaled down to this longer side.
    Returns: the path.
    Raises:  InputError if coordinates are not finite, or three.js is not installed.
    """
    arrays = [*specimen.mesh.levels, specimen.mesh.landmarks_px]
    arrays += [specimen.truth_px] if specimen.truth_px is not None else []
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError(path, specimen.name, "has coordinates that are not finite", "do not export this mesh")
    write_text(path, html_page(specimen, photo_side_px))
    return Path(path)
