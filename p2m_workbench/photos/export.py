"""Taking meshes away: OBJ, PLY and GLB files, landmarks, maps, pictures and turntables."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import trimesh
from PIL import Image
from trimesh.exchange.obj import export_obj
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh, FacePrediction, to_world
from p2m_core.files import atomic_path, write_bytes, write_json, write_text
from p2m_core.geometry.rasterizer import depth_and_normals, photo_colors, window
from p2m_workbench.drawing.html_page import write_html
from p2m_workbench.drawing.mesh_images import draw_levels, draw_overlay, draw_turned, swing

MESH_SUFFIXES = (".obj", ".ply", ".glb")
TEXTURE_PX = 1024  # longer side of a texture at most
OVERLAY_PX = 2048  # longer side of an overlay picture at most
DEPTH_STEPS = 16  # of a depth map, to a px
DEPTH_ZERO = 32768  # a depth map's value where z is 0


def save_mesh(
    path: str | Path,
    mesh: FaceMesh,
    level: int = -1,
    vertex_colors: Sequence[Sequence[int]] | np.ndarray | None = None,
    photo: np.ndarray | None = None,
) -> Path:
    """One level of a mesh as .obj, .ply or .glb: y up, outward faces, vertices in their order, unit px.

    Args:    level: index into mesh.levels, -1 for the finest.   vertex_colors: (V_k, 3) RGB 0 to 255.
             photo: (H, W, 3) uint8, in place of vertex_colors: the mesh takes its texture from there; as
             NAME-texture.png beside an .obj and its .mtl, inside a .glb, as the vertices' colours in a .ply. What the
             photo does not see gets the colour of what hides it.
    Returns: the path.
    Raises:  InputError for another suffix, or coordinates that are not finite.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise InputError(path, "suffix", f"{path.suffix or 'none'} is not a mesh format", "use .obj, .ply or .glb")
    vertices = to_world(mesh.levels[level])
    bad = np.flatnonzero(~np.isfinite(vertices).all(1))
    if bad.size:
        raise InputError(path, f"vertex {bad[0]}", f"{bad.size} vertices are not finite", "do not export this mesh")
    visual = None
    if photo is not None and suffix == ".ply":
        vertex_colors = photo_colors(photo, mesh.levels[level])
    elif photo is not None:
        visual = photo_texture(photo, mesh.levels[level], suffix, "_".join(path.stem.split()))
    if vertex_colors is not None:
        vertex_colors = np.asarray(np.round(vertex_colors), np.uint8)
    solid = trimesh.Trimesh(
        vertices, mesh.level_faces[level], vertex_colors=vertex_colors, visual=visual, process=False
    )
    if suffix == ".obj":
        name = f"{'_'.join(path.stem.split())}.mtl"  # many readers end a name at a blank
        text, beside = export_obj(solid, include_normals=False, return_texture=True, mtl_name=name, header=None)
        for name, content in beside.items():
            write_bytes(path.with_name(name), content)
        write_text(path, text)
        return path
    with atomic_path(path) as temporary:
        solid.export(temporary, file_type=suffix[1:])
    return path


def photo_texture(photo: np.ndarray, vertices_px: np.ndarray, suffix: str, name: str) -> TextureVisuals:
    """The part of a photo under vertices (V, 3), at most TEXTURE_PX long, as a texture with their places in it."""
    rows, columns = window(vertices_px, *photo.shape[:2], rim_px=2)
    # A face outside its photo still needs a pixel for its colour.
    top, left = (min(part.start, size - 1) for part, size in zip((rows, columns), photo.shape, strict=False))
    part = photo[top : max(rows.stop, top + 1), left : max(columns.stop, left + 1)]
    high, wide = part.shape[:2]
    place = vertices_px[:, :2] - [left, top] + 0.5
    uv = np.clip([0, 1] + place / [wide, high] * [1, -1], 0, 1)  # counts from the lower left corner
    image = Image.fromarray(part)
    image.thumbnail((TEXTURE_PX, TEXTURE_PX), Image.Resampling.LANCZOS)
    if suffix == ".obj":
        return TextureVisuals(uv, SimpleMaterial(image=image, name=f"{name}-texture"))
    # The photo has its light in it: a rough, unmetallic surface adds the least of its own.
    material = PBRMaterial(baseColorTexture=image, roughnessFactor=1.0, metallicFactor=0.0, doubleSided=True)
    return TextureVisuals(uv, material)


def save_levels(folder: Path, name: str, mesh: FaceMesh) -> list[Path]:
    """FOLDER/NAME-level1.obj and so on, coarse to fine.   Returns: the paths."""
    return [save_mesh(folder / f"{name}-level{k + 1}.obj", mesh, k) for k in range(len(mesh.levels))]


# --- landmarks and pose ---------------------------------------------------------------------------

POSE_FIELDS = ("pitch_deg", "yaw_deg", "roll_deg", "x_px", "y_px", "z_px", "px_per_unit")


def save_landmarks(path: str | Path, mesh: FaceMesh) -> Path:
    """The 68 landmarks as .json, with box, pose and doubt, px of the photo; or as .pts, x and y counted from 1, as the
    300-W sets have it.   Returns: the path.   Raises: InputError for another suffix."""
    path = Path(path)
    if path.suffix == ".pts":
        lines = [f"{x:.4f} {y:.4f}" for x, y in mesh.landmarks_px[:, :2] + 1.0]
        write_text(path, "\n".join(["version: 1", f"n_points: {len(lines)}", "{", *lines, "}", ""]))
    elif path.suffix == ".json":
        pose = dict(zip(POSE_FIELDS, mesh.pose.tolist(), strict=True)) if mesh.pose is not None else None
        content = {"box_px": mesh.box.tolist(), "landmarks_px": mesh.landmarks_px.tolist()}
        write_json(path, content | {"pose": pose, "doubt": mesh.doubt})
    else:
        raise InputError(path, "suffix", f"{path.suffix or 'none'} is no landmark format", "use .json or .pts")
    return path


# --- pictures -------------------------------------------------------------------------------------


def save_picture(path: str | Path, picture: np.ndarray) -> Path:
    """An (H, W, 3) uint8 picture in the format of the suffix, whole or not at all.   Returns: the path."""
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, compress_level=3)  # of a PNG: 2.5 times as fast as 6, 7% larger
    return Path(path)


def save_overlay(path: str | Path, prediction: FacePrediction) -> Path:
    """The mesh drawn on its photo, in the photo's size up to OVERLAY_PX.   Returns: the path."""
    return save_picture(path, draw_overlay(scaled(prediction, OVERLAY_PX)))


def scaled(prediction: FacePrediction, side_px: int) -> FacePrediction:
    """A prediction whose photo is scaled down to a longer side of side_px, with all that lies on it; smaller ones as
    they are."""
    height, width = prediction.photo.shape[:2]
    scale = side_px / max(height, width)
    if scale >= 1:
        return prediction
    photo = cv2.resize(prediction.photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)

    def place(points: np.ndarray) -> np.ndarray:
        return np.float32((points + np.array([0.5, 0.5, 0])) * scale - np.array([0.5, 0.5, 0]))

    mesh = prediction.mesh
    levels = tuple(place(level) for level in mesh.levels)
    box = np.float32((mesh.box + 0.5) * scale - 0.5)
    moved = replace(mesh, vertices_px=levels[-1], levels=levels, landmarks_px=place(mesh.landmarks_px), box=box)
    truth = place(prediction.truth_px) if prediction.truth_px is not None else None
    return replace(prediction, mesh=moved, photo=photo, truth_px=truth)


def save_crop(path: str | Path, mesh: FaceMesh) -> Path:
    """What the network saw, twice its size.   Returns: the path."""
    return save_picture(path, cv2.resize(mesh.crop, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))


def save_depth(path: str | Path, prediction: FacePrediction) -> Path:
    """A depth map in the photo's size, PNG of 16 bits: (value - DEPTH_ZERO) / DEPTH_STEPS is z in px, towards the
    viewer positive; 0 where there is no face.   Returns: the path."""
    mesh = prediction.mesh
    depth, _ = depth_and_normals(mesh.vertices_px, mesh.faces, *prediction.photo.shape[:2])
    value = np.clip(np.round(depth * DEPTH_STEPS) + DEPTH_ZERO, 1, 65535)
    return save_picture(path, np.where(np.isfinite(depth), value, 0).astype(np.uint16))


def save_normals(path: str | Path, prediction: FacePrediction) -> Path:
    """A normal map in the photo's size: RGB / 127.5 - 1 is x right, y up, z towards the viewer; black where there is no
    face.   Returns: the path."""
    mesh = prediction.mesh
    _, normals = depth_and_normals(mesh.vertices_px, mesh.faces, *prediction.photo.shape[:2])
    face = normals.any(-1, keepdims=True)
    return save_picture(path, np.where(face, np.round((normals + 1) * 127.5), 0).astype(np.uint8))


def save_turntable(
    path: str | Path, prediction: FacePrediction, size_px: int = 320, frames: int = 48, reach_deg: float = 70
) -> Path:
    """A GIF of the finest level, once in clay and once in the photo's colours, swinging from side to side.

    Returns: the path.
    """
    mesh = prediction.mesh
    colors = photo_colors(prediction.photo, mesh.vertices_px)
    return save_gif(
        path,
        [
            np.concatenate(
                [draw_turned(mesh.vertices_px, mesh.faces, yaw, size_px, of_vertex) for of_vertex in (None, colors)], 1
            )
            for yaw in swing(frames, reach_deg)
        ],
    )


def save_level_turntable(
    path: str | Path, mesh: FaceMesh, size_px: int = 240, frames: int = 36, reach_deg: float = 60
) -> Path:
    """A GIF of all levels in a row with their edges, coarse to fine, swinging.   Returns: the path."""
    return save_gif(path, [draw_levels(mesh, yaw, size_px, supersample=2) for yaw in swing(frames, reach_deg)])


def save_gif(path: str | Path, pictures: list[np.ndarray], frame_ms: int = 60) -> Path:
    """Pictures (H, W, 3) as a GIF that goes on for ever.   Returns: the path."""
    # One palette for all frames, or colours that stand still would flicker.
    together = Image.fromarray(np.concatenate(pictures[:: max(1, len(pictures) // 6)]))
    palette = together.quantize(255, method=Image.Quantize.MEDIANCUT)
    first, *others = [Image.fromarray(x).quantize(palette=palette, dither=Image.Dither.NONE) for x in pictures]
    with atomic_path(path) as temporary:
        first.save(temporary, save_all=True, append_images=others, duration=frame_ms, loop=0)
    return Path(path)


# --- all of it ------------------------------------------------------------------------------------

# What can be written of a face; `csv`, one table for all faces, is written by `predict.predict_files`.
SAVERS: dict[str, Callable[[Path, str, FacePrediction], object]] = {
    "obj": lambda folder, name, of: save_mesh(folder / f"{name}.obj", of.mesh, photo=of.photo),
    "ply": lambda folder, name, of: save_mesh(folder / f"{name}.ply", of.mesh, photo=of.photo),
    "glb": lambda folder, name, of: save_mesh(folder / f"{name}.glb", of.mesh, photo=of.photo),
    "levels": lambda folder, name, of: save_levels(folder, name, of.mesh),
    "json": lambda folder, name, of: save_landmarks(folder / f"{name}.json", of.mesh),
    "pts": lambda folder, name, of: save_landmarks(folder / f"{name}.pts", of.mesh),
    "overlay": lambda folder, name, of: save_overlay(folder / f"{name}.png", of),
    "crop": lambda folder, name, of: save_crop(folder / f"{name}-crop.png", of.mesh),
    "depth": lambda folder, name, of: save_depth(folder / f"{name}-depth.png", of),
    "normals": lambda folder, name, of: save_normals(folder / f"{name}-normals.png", of),
    "turntable": lambda folder, name, of: save_turntable(folder / f"{name}-turntable.gif", of),
    "turning-levels": lambda folder, name, of: save_level_turntable(folder / f"{name}-levels.gif", of.mesh),
    "html": lambda folder, name, of: write_html(folder / f"{name}.html", of),
}


def save_prediction(folder: Path, prediction: FacePrediction, kinds: Sequence[str]) -> None:
    """Write the files of one face into a folder, all of them or none.

    Args:    kinds: keys of SAVERS; others are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=folder) as temporary:
        for kind in kinds:
            if kind in SAVERS:
                SAVERS[kind](Path(temporary), prediction.name, prediction)
        for path in sorted(Path(temporary).iterdir()):
            os.replace(path, folder / path.name)
