"""Files of a prediction: OBJ, PLY and GLB meshes, landmarks, depth and normal maps, pictures and turntables."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
import trimesh
from jaxtyping import Float32, Int, Num
from PIL import Image
from trimesh.exchange.obj import export_obj
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.files import atomic_path, explain_unwritable, make_folder, write_bytes, write_json, write_text
from p2m_core.geometry.crop import apply_affine
from p2m_core.geometry.rasterizer import interpolate, normalized, rasterize, vertex_normals, window
from p2m_core.geometry.similarity import umeyama
from p2m_core.geometry.template import GROUPS
from p2m_synth.render.shaded_mesh import CLAY
from p2m_workbench.drawing.html_page import Expressions, EyeballPart, write_html
from p2m_workbench.drawing.mesh_images import (
    EYE_WHITE,
    MOUTH,
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
from p2m_workbench.photos.frame import PHOTO, Frame, frame_of, save_camera
from p2m_workbench.photos.moving_glb import (
    ARRAY_BUFFER,
    ELEMENT_BUFFER,
    SAMPLER,
    Content,
    Motion,
    Part,
    save_moving_glb,
    smooth_normals,
)
from p2m_workbench.photos.rig import Rig, can_move, rig
from p2m_workbench.photos.strengths import save_strengths
from p2m_workbench.photos.texture import face_colors, face_texture

_log = logging.getLogger(__name__)
MESH_SUFFIXES = (".obj", ".ply", ".glb")
TEXTURE_PX = 1024  # longer side of a texture at most
MATERIALS = {"skin": CLAY, "eye": EYE_WHITE, "mouth": MOUTH}  # RGB where there is no texture
# The photo has its light in it: a rough, unmetallic surface adds the least of its own.
MATT = {"roughnessFactor": 1.0, "metallicFactor": 0.0}
OVERLAY_PX = 2048  # longer side of an overlay picture at most
EYE_PARTS = ("right_eye", "left_eye")
DEPTH_STEPS = 16  # of a depth map, to a px
DEPTH_ZERO = 32768  # a depth map's value where z is 0


def save_mesh(
    path: str | Path,
    mesh: FaceMesh,
    level: int = -1,
    vertex_colors: Sequence[Sequence[int]] | np.ndarray | None = None,
    photo: np.ndarray | None = None,
    frame: Frame = PHOTO,
) -> Path:
    """One level of a mesh as .obj, .ply or .glb: y up, outward faces, vertices in their order, px unless `frame` is in
    mm.

    Args:    level: index into mesh.levels, -1 for the finest.   vertex_colors: (V_k, 3) RGB 0 to 255.
             photo: (H, W, 3) uint8, in place of vertex_colors: becomes the texture; NAME-texture.png beside an .obj
             and its .mtl, inside a .glb, vertex colours in a .ply. Hidden parts get the colour of the other side of the
             face, and in a mesh without groups that of what hides them.
    Returns: the path. A mesh with groups, but no vertex_colors, has a part and a material for each group in an .obj and
             a .glb: the texture on skin and eyes, or clay; a dark mouth.
    Raises:  InputError for another suffix, or coordinates that are not finite.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise InputError(path, "suffix", f"{path.suffix or 'none'} is not a mesh format", "use .obj, .ply or .glb")
    mesh = at_level(mesh, level)
    vertices = frame.place(to_world(mesh.vertices_px))
    bad = np.flatnonzero(~np.isfinite(vertices).all(1))
    if bad.size:
        raise InputError(path, f"vertex {bad[0]}", f"{bad.size} vertices are not finite", "do not export this mesh")
    name = _material_name(path.stem)
    visual = None
    if photo is not None and suffix == ".ply":
        vertex_colors = face_colors(photo, mesh)
    elif mesh.groups is not None and vertex_colors is None and suffix != ".ply":
        image, uv = (None, None) if photo is None else _texture(photo, mesh)
        save = save_obj_groups if suffix == ".obj" else save_glb_groups
        save(path, vertices, mesh, name, image, uv)
        return path
    elif photo is not None:
        visual = photo_texture(photo, mesh.vertices_px, suffix, name)
    if vertex_colors is not None:
        vertex_colors = np.asarray(np.round(vertex_colors), np.uint8)
    normals = smooth_normals(vertices, mesh.faces)
    solid = trimesh.Trimesh(
        vertices, mesh.faces, vertex_normals=normals, vertex_colors=vertex_colors, visual=visual, process=False
    )
    if suffix == ".obj":
        text, beside = export_obj(
            solid, include_normals=False, return_texture=True, mtl_name=f"{name}.mtl", header=None
        )
        for file_name, content in beside.items():
            write_bytes(path.with_name(file_name), content)
        write_text(path, text)
        return path
    with atomic_path(path) as temporary:
        solid.export(temporary, file_type=suffix[1:], **(GLB_OPTIONS if suffix == ".glb" else {}))
    return path


def _name_targets(outline: dict[str, Any]) -> None:
    """Say of each buffer view of a glTF file what it is for, as its validator wants it."""
    for mesh in outline["meshes"]:
        for part in mesh["primitives"]:
            kinds = [(part["indices"], ELEMENT_BUFFER), *((k, ARRAY_BUFFER) for k in part["attributes"].values())]
            for accessor, kind in kinds:
                outline["bufferViews"][outline["accessors"][accessor]["bufferView"]]["target"] = kind


GLB_OPTIONS: dict[str, Any] = {"include_normals": True, "tree_postprocessor": _name_targets}  # of trimesh


def _material_name(stem: str) -> str:
    """The name of the files beside an .obj: many readers end a name at a blank."""
    return "_".join(stem.split())


def at_level(mesh: FaceMesh, level: int) -> FaceMesh:
    """A mesh whose finest level is this one: its vertices and, as `Template.groups` has them, groups come first."""
    vertices, faces = mesh.levels[level], mesh.level_faces[level]
    groups = None if mesh.groups is None else mesh.groups[: len(faces)]
    mirror = None if mesh.mirror is None else mesh.mirror[: len(vertices)]
    return replace(mesh, vertices_px=vertices, faces=faces, groups=groups, mirror=mirror)


_kept: list = []  # vertices, photo, and the texture of the two


def _texture(photo: np.ndarray, mesh: FaceMesh) -> tuple[np.ndarray, np.ndarray]:
    """`face_texture`, once for all formats of a mesh."""
    if not (_kept and _kept[0] is mesh.vertices_px and _kept[1] is photo):
        _kept[:] = [mesh.vertices_px, photo, *face_texture(photo, mesh, TEXTURE_PX)]
    return _kept[2], _kept[3]


def _parts(mesh: FaceMesh) -> Iterator[tuple[str, str, np.ndarray]]:
    """Name, material and triangles (F_g, 3) of each group that a mesh has."""
    for k, name in enumerate(GROUPS):
        if (own := mesh.groups == k).any():
            yield name.replace(" ", "_"), name.split()[-1], mesh.faces[own]


def save_obj_groups(
    path: Path, vertices: np.ndarray, mesh: FaceMesh, name: str, image: np.ndarray | None, uv: np.ndarray | None
) -> None:
    """An .obj with `g` and `usemtl` for each group and all vertices in their order, its .mtl, and the texture's image.

    Args:    vertices: (V, 3), of `mesh` in a frame.   name: of the files beside it.   image: (S, S, 3) uint8, or None.
             uv: (V, 2) each vertex' place in it.
    """
    corner, texture = "{0}" if image is None else "{0}/{0}", f"{name}-texture.png"
    materials = []
    for material, color in MATERIALS.items():
        textured = image is not None and material != "mouth"
        shade = " ".join(f"{value:.4g}" for value in ((1, 1, 1) if textured else np.divide(color, 255)))
        picture = f"map_Kd {texture}\n" if textured else ""
        materials.append(f"newmtl {material}\nKa {shade}\nKd {shade}\nKs 0 0 0\n{picture}")
    lines = [f"mtllib {name}.mtl"]
    lines += ["v {:.8g} {:.8g} {:.8g}".format(*place) for place in vertices.tolist()]
    lines += [] if image is None else ["vt {:.8g} {:.8g}".format(*place) for place in uv.tolist()]
    for part, material, faces in _parts(mesh):
        lines += [f"g {part}", f"usemtl {material}"]
        lines += ["f " + " ".join(map(corner.format, triangle)) for triangle in (faces + 1).tolist()]
    if image is not None:
        save_picture(path.with_name(texture), image)
    write_text(path.with_name(f"{name}.mtl"), "\n".join(materials))
    write_text(path, "\n".join([*lines, ""]))


def save_glb_groups(
    path: Path, vertices: np.ndarray, mesh: FaceMesh, name: str, image: np.ndarray | None, uv: np.ndarray | None
) -> None:
    """A .glb with a mesh for each group, by its name; each has all vertices in their order, which the file holds once.

    Args:    as of `save_obj_groups`.
    """
    content, meshes, parts = Content(), [], list(_parts(mesh))
    used = list(dict.fromkeys(material for _, material, _ in parts))
    # Normals of the whole: no seam shows between skin and eyes.
    places = {"POSITION": content.accessor(vertices, bounds=True)}
    places["NORMAL"] = content.accessor(smooth_normals(vertices, mesh.faces))
    textured = places if uv is None else places | {"TEXCOORD_0": content.accessor(uv, flipped=True)}
    for part, material, faces in parts:
        shape = {
            "attributes": places if material == "mouth" else textured,
            "indices": content.accessor(faces.ravel(), ELEMENT_BUFFER),
            "material": used.index(material),
        }
        meshes.append({"name": part, "primitives": [shape]})
    materials = []
    for name in used:
        linear = np.power(np.divide(MATERIALS[name], 255), 2.2).tolist()  # glTF's factors are, its textures are not
        with_texture = image is not None and name != "mouth"
        look = {"baseColorTexture": {"index": 0}} if with_texture else {"baseColorFactor": [*linear, 1.0]}
        materials.append({"name": name, "pbrMetallicRoughness": look | MATT, "doubleSided": True})
    outline = {
        "scenes": [{"nodes": list(range(len(meshes)))}],
        "nodes": [{"name": one["name"], "mesh": k} for k, one in enumerate(meshes)],
        "meshes": meshes,
        "materials": materials,
    }
    if image is not None:
        outline |= {"textures": [{"source": 0, "sampler": 0}], "samplers": [SAMPLER]}
        outline["images"] = [content.picture(image)]
    content.save(path, outline)


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
        # The photo as bright as it is: trimesh's own is 40% of it, and shines.
        white, black = [255] * 4, [0, 0, 0, 255]
        material = SimpleMaterial(image, name=f"{name}-texture", diffuse=white, ambient=white, specular=black)
        return TextureVisuals(uv, material)
    return TextureVisuals(uv, PBRMaterial(baseColorTexture=image, doubleSided=True, **MATT))


# --- landmarks and pose ---------------------------------------------------------------------------

POSE_FIELDS = ("pitch_deg", "yaw_deg", "roll_deg", "x_px", "y_px", "z_px", "px_per_unit")


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


def save_rig(
    path: Path, mesh: FaceMesh, moving: Rig, photo: np.ndarray, frame: Frame = PHOTO, motion: Motion | None = None
) -> None:
    """A .glb of a face that moves.

    Args:    mesh, photo: where its texture is from.   moving: the rig of this mesh, or with a motion, which takes it to
             its place in each frame of a film, one that may lie anywhere.   frame: of the written vertices.
    """
    image, uv = _texture(photo, mesh)
    seen = moving if motion is None else rig(mesh)
    eyes = eyeballs(mesh, seen)
    pictures = eye_textures(photo, mesh, eyes, seen.strength)
    if motion is not None:
        there = umeyama(seen.neutral, moving.neutral)
        eyes = eyes[0].carried(*there), eyes[1].carried(*there)
    neutral, ways = frame.place(moving.neutral), frame.turn(moving.ways)
    normals, parts = smooth_normals(neutral, mesh.faces), []
    for name, material, faces in _parts(mesh):
        if material == "eye":
            eye = eyes[EYE_PARTS.index(name)]
            place = frame.place(eye.neutral)
            turned = smooth_normals(place, eye.faces)
            parts.append(Part(name, name, place, eye.faces, frame.turn(eye.ways), turned, eye.uv))
        else:
            parts.append(Part(name, material, neutral, faces, ways, normals, uv if material == "skin" else None))
    mouth = [*np.power(np.divide(MATERIALS["mouth"], 255), 2.2).tolist(), 1.0]  # linear, as glTF's factors are
    looks: dict[str, dict] = {"mouth": {"baseColorFactor": mouth}}
    looks |= {name: {"baseColorTexture": {"index": k}} for k, name in enumerate(("skin", *EYE_PARTS))}
    materials = {name: {"pbrMetallicRoughness": MATT | look, "doubleSided": True} for name, look in looks.items()}
    save_moving_glb(path, parts, materials, [image, *pictures], moving.names, moving.strength, motion)


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
    texture = _texture(face.of.photo, face.of.mesh)
    write_html(path, face.of, Expressions(moving.names, moving.strength, moving.ways, *texture, parts))


# By the names of predict.save: what is added to the face's name, and what writes the file. `csv`, one table for all
# faces, is written by `batch.predict_files`.
SAVERS: dict[str, tuple[str, Callable[[Path, _Face], object]]] = {
    "obj": (".obj", _save_textured),
    "ply": (".ply", _save_textured),
    "glb": (".glb", _save_textured),
    "levels": ("-level.obj", _save_levels),
    "rig": ("-rig.glb", _save_rig),
    "camera": ("-camera.json", lambda path, face: save_camera(path, face.frame, *face.of.photo.shape[:2])),
    "json": (".json", lambda path, face: save_landmarks(path, face.of.mesh)),
    "pts": (".pts", lambda path, face: save_landmarks(path, face.of.mesh)),
    "overlay": ("-overlay.png", lambda path, face: save_picture(path, draw_overlay(scaled(face.of, OVERLAY_PX)))),
    "crop": ("-crop.png", lambda path, face: save_picture(path, fit(face.of.mesh.crop, 2 * len(face.of.mesh.crop))[0])),
    "depth": ("-depth.png", lambda path, face: save_picture(path, depth_map(face.of))),
    "normals": ("-normals.png", lambda path, face: save_picture(path, normal_map(face.of))),
    "turntable": ("-turntable.gif", lambda path, face: save_gif(path, turntable(face.of))),
    "turning-levels": ("-levels.gif", lambda path, face: save_gif(path, level_turntable(face.of))),
    "html": (".html", _save_html),
}


def files_of(name: str, kinds: Sequence[str], levels: int) -> list[str]:
    """Names of the files that `save_prediction` may write for a face, relative to its folder."""
    beside = PurePath(name).with_name(_material_name(PurePath(name).name)).as_posix()
    files = [f"{name}{SAVERS[kind][0]}" for kind in kinds if kind in SAVERS and kind != "levels"]
    if "obj" in kinds:
        files += [f"{beside}.mtl", f"{beside}-texture.png"]
    if "rig" in kinds:
        files += [f"{name}-rig.json", f"{name}-rig.csv"]
    if "levels" in kinds:
        for k in range(levels):
            files += [f"{name}-level{k + 1}.obj", f"{beside}-level{k + 1}.mtl"]
    return files


def save_prediction(
    folder: Path,
    prediction: FacePrediction,
    kinds: Sequence[str],
    keep: Collection[Path] = (),
    frame: Literal["photo", "head_mm"] = "photo",
) -> None:
    """Write the files of one face into a folder, all of them or none.

    Args:    kinds: keys of SAVERS; others are left out.   keep: files that none of them may replace.
             frame: of the meshes, see `frame_of`.
    Raises:  InputError if one would replace such a file, or cannot be written.
    """
    name = PurePath(prediction.name)
    face = _Face(prediction, frame_of(prediction.mesh, frame), "rig" in kinds)
    folder = make_folder(folder / name.parent)
    with (
        explain_unwritable(folder / name.name),
        tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=folder) as temporary,
    ):
        for kind in kinds:
            if kind in SAVERS:
                suffix, save = SAVERS[kind]
                save(Path(temporary) / f"{name.name}{suffix}", face)
        written = sorted(Path(temporary).iterdir())
        for path in written:
            refuse_to_replace(folder / path.name, keep)
        for path in written:
            os.replace(path, folder / path.name)


def refuse_to_replace(path: Path, keep: Collection[Path]) -> None:
    """Raise InputError if a file that is to be written is one of those to keep."""
    if path.exists() and path.resolve() in keep:
        raise InputError(path, "", "is a photo, and would be replaced by a result", "choose another --out")


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
