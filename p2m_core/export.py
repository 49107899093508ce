"""Taking meshes away: OBJ, PLY and GLB files, and overlay pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from p2m_core.errors import InputError
from p2m_core.facemesh import FaceMesh, Specimen, to_world
from p2m_core.files import atomic_path
from p2m_core.raster import draw_overlay

MESH_SUFFIXES = (".obj", ".ply", ".glb")


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
