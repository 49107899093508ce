"""A mesh as OBJ, PLY or GLB file: textured, in parts, or as a face that moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from trimesh.exchange.obj import export_obj
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.files import atomic_path, write_bytes, write_text
from p2m_core.geometry.rasterizer import window
from p2m_core.geometry.similarity import umeyama
from p2m_core.geometry.template import GROUPS
from p2m_synth.render.shaded_mesh import CLAY
from p2m_workbench.drawing.mesh_images import EYE_WHITE, MOUTH, save_picture
from p2m_workbench.photos.eyeballs import eye_textures, eyeballs
from p2m_workbench.photos.frame import PHOTO, Frame
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
from p2m_workbench.photos.result_files import without_blanks
from p2m_workbench.photos.rig import Rig, rig
from p2m_workbench.photos.texture import face_colors, face_texture

MESH_SUFFIXES = (".obj", ".ply", ".glb")
TEXTURE_PX = 1024  # longer side of a texture at most
MATERIALS = {"skin": CLAY, "eye": EYE_WHITE, "mouth": MOUTH}  # RGB where there is no texture
# The photo has its light in it: a rough, unmetallic surface adds the least of its own.
MATT = {"roughnessFactor": 1.0, "metallicFactor": 0.0}
EYE_PARTS = ("right_eye", "left_eye")


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
    name = without_blanks(path.stem)
    visual = None
    if photo is not None and suffix == ".ply":
        vertex_colors = face_colors(photo, mesh)
    elif mesh.groups is not None and vertex_colors is None and suffix != ".ply":
        image, uv = (None, None) if photo is None else texture_of(photo, mesh)
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


def at_level(mesh: FaceMesh, level: int) -> FaceMesh:
    """A mesh whose finest level is this one: its vertices and, as `Template.groups` has them, groups come first."""
    vertices, faces = mesh.levels[level], mesh.level_faces[level]
    groups = None if mesh.groups is None else mesh.groups[: len(faces)]
    mirror = None if mesh.mirror is None else mesh.mirror[: len(vertices)]
    return replace(mesh, vertices_px=vertices, faces=faces, groups=groups, mirror=mirror)


_kept: list = []  # vertices, photo, and the texture of the two


def texture_of(photo: np.ndarray, mesh: FaceMesh) -> tuple[np.ndarray, np.ndarray]:
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


def save_rig(
    path: Path, mesh: FaceMesh, moving: Rig, photo: np.ndarray, frame: Frame = PHOTO, motion: Motion | None = None
) -> None:
    """A .glb of a face that moves.

    Args:    mesh, photo: where its texture is from.   moving: the rig of this mesh, or with a motion, which takes it to
             its place in each frame of a film, one that may lie anywhere.   frame: of the written vertices.
    """
    image, uv = texture_of(photo, mesh)
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
