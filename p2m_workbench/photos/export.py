"""All files of a prediction: meshes, and landmarks, depth and normal maps, pictures and turntables."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int, Num
from PIL import Image

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.files import atomic_path, explain_unwritable, make_folder, write_json, write_text
from p2m_core.geometry.crop import apply_affine
from p2m_core.geometry.rasterizer import interpolate, normalized, rasterize, vertex_normals, window
from p2m_workbench.drawing.html_page import Expressions, EyeballPart, write_html
from p2m_workbench.drawing.mesh_images import (
    clay_colors,
    draw_levels,
    draw_overlay,
    draw_turned,
    fit,
    save_picture,
    swing,
)
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.photos.eyeballs import clay_places, eye_textures, eyeballs
from p2m_workbench.photos.frame import Frame, frame_of, save_camera
from p2m_workbench.photos.mesh_files import save_mesh, save_rig, texture_of
from p2m_workbench.photos.result_files import SUFFIXES, Results
from p2m_workbench.photos.rig import Rig, can_move, rig
from p2m_workbench.photos.strengths import save_strengths
from p2m_workbench.photos.table import POSE_FIELDS
from p2m_workbench.photos.texture import face_colors

_log = logging.getLogger(__name__)
OVERLAY_PX = 2048  # longer side of an overlay picture at most
DEPTH_STEPS = 16  # of a depth map, to a px
DEPTH_ZERO = 32768  # a depth map's value where z is 0


# --- landmarks and pose ---------------------------------------------------------------------------


def save_landmarks(path: str | Path, mesh: FaceMesh) -> Path:
    """The 68 landmarks as .json, with box, pose and flip disagreement ("doubt"), px of the photo; or as .pts, x and y
    counted from 1, as the 300-W sets have it.   Returns: the path.   Raises: InputError for another suffix."""
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


def scaled(prediction: FacePrediction, side_px: int) -> FacePrediction:
    """A prediction with its photo scaled down to a longer side of side_px, and its coordinates with it; smaller ones as
    they are."""
    if side_px >= max(prediction.photo.shape):
        return prediction
    (photo, matrix), mesh = fit(prediction.photo, side_px), prediction.mesh

    def place(points: np.ndarray) -> np.ndarray:
        return np.float32(apply_affine(matrix, points))

    levels = tuple(place(level) for level in mesh.levels)
    corners = np.append(mesh.box.reshape(2, 2), [[0], [0]], 1)
    moved = replace(
        mesh, vertices_px=levels[-1], levels=levels, landmarks_px=place(mesh.landmarks_px),
        box=place(corners)[:, :2].ravel(),
    )  # fmt: skip
    truth = None if prediction.truth_px is None else place(prediction.truth_px)
    return replace(prediction, mesh=moved, photo=photo, truth_px=truth)


def depth_map(prediction: FacePrediction) -> np.ndarray:
    """A depth map in the photo's size, (H, W) uint16: (value - DEPTH_ZERO) / DEPTH_STEPS is z in px, towards the viewer
    positive; 0 where there is no face."""
    mesh = prediction.mesh
    depth, _ = depth_and_normals(mesh.vertices_px, mesh.faces, *prediction.photo.shape[:2])
    value = np.clip(np.round(depth * DEPTH_STEPS) + DEPTH_ZERO, 1, 65535)
    return np.where(np.isfinite(depth), value, 0).astype(np.uint16)


def normal_map(prediction: FacePrediction) -> np.ndarray:
    """A normal map in the photo's size, (H, W, 3) uint8: RGB / 127.5 - 1 is x right, y up, z towards the viewer; black
    where there is no face."""
    mesh = prediction.mesh
    _, normals = depth_and_normals(mesh.vertices_px, mesh.faces, *prediction.photo.shape[:2])
    face = normals.any(-1, keepdims=True)
    return np.where(face, np.round((normals + 1) * 127.5), 0).astype(np.uint8)


def turntable(prediction: FacePrediction, size_px: int = 320, frames: int = 48) -> list[np.ndarray]:
    """Pictures of the finest level beside itself, in clay and in the photo's colours, turning to both sides."""
    mesh = prediction.mesh
    surfaces = clay_colors(mesh.vertices_px, mesh.faces, mesh.groups), face_colors(prediction.photo, mesh)
    return [
        np.concatenate(
            [draw_turned(mesh.vertices_px, mesh.faces, yaw, size_px, c, flat=c is not surfaces[0]) for c in surfaces], 1
        )
        for yaw in swing(frames, 70)
    ]


def level_turntable(prediction: FacePrediction, size_px: int = 240, frames: int = 36) -> list[np.ndarray]:
    """Pictures of all levels in a row with their edges, coarse to fine, turning to both sides."""
    mesh = prediction.mesh
    clay = clay_colors(mesh.vertices_px, mesh.faces, mesh.groups)
    return [draw_levels(mesh.levels, mesh.level_faces, yaw, size_px, 2, clay) for yaw in swing(frames, 60)]


def save_gif(path: str | Path, pictures: list[np.ndarray], frame_ms: int = 60) -> None:
    """Pictures (H, W, 3) as a GIF that repeats for ever."""
    # One palette for all frames, or colours that stand still would flicker.
    together = Image.fromarray(np.concatenate(pictures[:: max(1, len(pictures) // 6)]))
    palette = together.quantize(255, method=Image.Quantize.MEDIANCUT)
    first, *others = [Image.fromarray(x).quantize(palette=palette, dither=Image.Dither.NONE) for x in pictures]
    with atomic_path(path) as temporary:
        first.save(temporary, save_all=True, append_images=others, duration=frame_ms, loop=0)


# --- all files of a face --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Face:
    """A face to be saved: its prediction, the frame of its meshes, and whether it moves in its page."""

    of: FacePrediction
    frame: Frame
    moves: bool

    @cached_property
    def rig(self) -> Rig | None:
        """Its rig; None, which is logged, for a mesh on another template."""
        if can_move(self.of.mesh):
            return rig(self.of.mesh)
        _log.warning("%s: no rig, since its weights are on another template than our own face model's", self.of.name)
        return None


def _save_textured(path: Path, face: _Face) -> None:
    save_mesh(path, face.of.mesh, photo=face.of.photo, frame=face.frame)


def _save_levels(path: Path, face: _Face) -> None:
    """NAME-level1.obj and so on, coarse to fine."""
    for k in range(len(face.of.mesh.levels)):
        save_mesh(path.with_name(f"{path.stem}{k + 1}.obj"), face.of.mesh, k, frame=face.frame)


def _save_rig(path: Path, face: _Face) -> None:
    """NAME-rig.glb with a morph target a unit, and NAME-rig.json and .csv with the strength of each in the photo."""
    if (moving := face.rig) is None:
        return
    save_rig(path, face.of.mesh, moving, face.of.photo, face.frame)
    save_strengths(path.with_suffix(".json"), moving.names, moving.strength[None])
    save_strengths(path.with_suffix(".csv"), moving.names, moving.strength[None])


def _save_html(path: Path, face: _Face) -> None:
    """The page, with a slider a unit where a rig is wanted."""
    moving = face.rig if face.moves else None
    if moving is None:
        write_html(path, face.of)
        return
    eyes = eyeballs(face.of.mesh, moving)
    parts = [
        EyeballPart(eye.neutral, eye.ways, eye.faces, eye.uv, picture, clay_places())
        for eye, picture in zip(eyes, eye_textures(face.of.photo, face.of.mesh, eyes, moving.strength), strict=True)
    ]
    texture = texture_of(face.of.photo, face.of.mesh)
    write_html(path, face.of, Expressions(moving.names, moving.strength, moving.ways, *texture, parts))


# What writes the file of a kind, by the names of predict.save, all but `csv`.
SAVERS: dict[str, Callable[[Path, _Face], object]] = {
    "obj": _save_textured,
    "ply": _save_textured,
    "glb": _save_textured,
    "levels": _save_levels,
    "rig": _save_rig,
    "camera": lambda path, face: save_camera(path, face.frame, *face.of.photo.shape[:2]),
    "json": lambda path, face: save_landmarks(path, face.of.mesh),
    "pts": lambda path, face: save_landmarks(path, face.of.mesh),
    "overlay": lambda path, face: save_picture(path, draw_overlay(scaled(face.of, OVERLAY_PX))),
    "crop": lambda path, face: save_picture(path, fit(face.of.mesh.crop, 2 * len(face.of.mesh.crop))[0]),
    "depth": lambda path, face: save_picture(path, depth_map(face.of)),
    "normals": lambda path, face: save_picture(path, normal_map(face.of)),
    "turntable": lambda path, face: save_gif(path, turntable(face.of)),
    "turning-levels": lambda path, face: save_gif(path, level_turntable(face.of)),
    "html": _save_html,
}


def save_prediction(
    folder: Path,
    prediction: FacePrediction,
    kinds: Sequence[str],
    results: Results | None = None,
    frame: Literal["photo", "head_mm"] = "photo",
) -> list[str]:
    """Write the files of one face into a folder, all of them or none.

    Args:    kinds: keys of SAVERS; others are left out.   results: of the folder, which says what may be replaced; None
             replaces what is there.   frame: of the meshes, see `frame_of`.
    Returns: the kinds that were written: a mesh on another template than our own face model's has no rig.
    Raises:  InputError if a file may not be replaced, or cannot be written.
    """
    name, saved, written = PurePath(prediction.name), list[str](), list[Path]()
    face = _Face(prediction, frame_of(prediction.mesh, frame), "rig" in kinds)
    place = make_folder(folder / name.parent)
    with (
        explain_unwritable(place / name.name),
        tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=place) as temporary,
    ):
        for kind in (kind for kind in kinds if kind in SAVERS):
            try:
                SAVERS[kind](Path(temporary) / f"{name.name}{SUFFIXES[kind]}", face)
            except InputError as error:
                if Path(error.path).parent != Path(temporary):
                    raise
                # It is told of the file's own place.
                raise InputError(place / Path(error.path).name, error.field, error.problem, error.remedy) from error
            before, written = len(written), sorted(Path(temporary).iterdir())
            if len(written) > before:
                saved.append(kind)
        if results is not None:
            results.claim([(name.parent / path.name).as_posix() for path in written])
        for path in written:
            os.replace(path, place / path.name)
    return saved


def depth_and_normals(
    vertices_px: Num[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], height: int, width: int
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w 3"]]:
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
