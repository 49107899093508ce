"""Meshes as OBJ, PLY and GLB files."""

import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import trimesh
from example_predictions import made_up
from PIL import Image

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.geometry.template_files import load_template
from p2m_workbench.photos import mesh_files
from p2m_workbench.photos.texture import face_colors


@pytest.fixture(scope="module")
def prediction():
    return made_up(rings=3, levels=4)


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb", ".OBJ"])
@pytest.mark.parametrize("level", [0, -1])
def test_mesh_files_round_trip(tmp_path, prediction, suffix, level):
    mesh = prediction.mesh
    path = mesh_files.save_mesh(tmp_path / "deep" / f"face{suffix}", mesh, level)
    assert [p.name for p in path.parent.iterdir()] == [f"face{suffix}"]
    with open(path, "rb") as stream:
        back = trimesh.load(stream, file_type=suffix.lower()[1:], process=False, force="mesh", maintain_order=True)
    np.testing.assert_allclose(back.vertices, to_world(mesh.levels[level]), atol=1e-4)
    np.testing.assert_array_equal(back.faces, mesh.level_faces[level])
    # Outward: seen from the front, y up, the triangles wind counter-clockwise.
    assert (back.face_normals[:, 2] > 0).mean() > 0.9


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb"])
def test_vertex_colors_round_trip(tmp_path, prediction, suffix):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (len(prediction.mesh.vertices_px), 3))
    path = mesh_files.save_mesh(tmp_path / f"face{suffix}", prediction.mesh, vertex_colors=colors)
    back = trimesh.load(path, process=False, force="mesh", maintain_order=True)
    np.testing.assert_allclose(back.visual.vertex_colors[:, :3].astype(int), colors, atol=1)


def test_bad_mesh_files_are_one_clear_line(tmp_path, prediction):
    with pytest.raises(InputError, match=r"\.stl is not a mesh format"):
        mesh_files.save_mesh(tmp_path / "face.stl", prediction.mesh)
    mesh = prediction.mesh
    broken = mesh.vertices_px.copy()
    broken[5, 1] = np.nan
    broken = FaceMesh(broken, mesh.faces, (*mesh.levels[:-1], broken), mesh.level_faces, mesh.landmarks_px, mesh.box)
    with pytest.raises(InputError, match="vertex 5: 1 vertices are not finite"):
        mesh_files.save_mesh(tmp_path / "face.obj", broken)
    assert list(tmp_path.iterdir()) == []


def texture_at(solid):
    """The texture's colour at each vertex, nearest pixel."""
    material = solid.visual.material
    image = np.asarray((getattr(material, "image", None) or material.baseColorTexture).convert("RGB"))
    high, wide = image.shape[:2]
    u, v = solid.visual.uv.T
    column, row = np.floor(u * wide).clip(0, wide - 1), np.floor((1 - v) * high).clip(0, high - 1)
    return image[row.astype(int), column.astype(int)]


@pytest.mark.parametrize("suffix", [".obj", ".glb"])
def test_texture_is_the_photo_under_each_vertex(tmp_path, prediction, suffix):
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(0, 256, (18, 16, 3), np.uint8), (400, 450), interpolation=cv2.INTER_CUBIC)
    mesh = prediction.mesh
    path = mesh_files.save_mesh(tmp_path / f"my face{suffix}", mesh, photo=photo)
    names = {"my face.obj", "my_face.mtl", "my_face-texture.png"} if suffix == ".obj" else {"my face.glb"}
    assert {p.name for p in tmp_path.iterdir()} == names
    back = trimesh.load(path, process=False, force="mesh", maintain_order=True)
    np.testing.assert_allclose(back.vertices, to_world(mesh.vertices_px), atol=1e-3)
    np.testing.assert_array_equal(back.faces, mesh.faces)
    x, y = np.rint(mesh.vertices_px[:, :2]).astype(int).T
    assert np.abs(texture_at(back).astype(int) - photo[y, x]).mean() < 3
    ply = trimesh.load(mesh_files.save_mesh(tmp_path / "face.ply", mesh, photo=photo), process=False)
    assert np.abs(ply.visual.vertex_colors[:, :3].astype(int) - photo[y, x]).mean() < 6


PARTS = {"skin": "skin", "right_eye": "eye", "left_eye": "eye", "mouth": "mouth"}


@pytest.mark.parametrize("level", [0, -1])
@pytest.mark.parametrize("textured", [True, False])
def test_groups_are_named_parts_of_an_obj(tmp_path, with_eyes, level, textured):
    mesh, photo = with_eyes.mesh, with_eyes.photo if textured else None
    path = mesh_files.save_mesh(tmp_path / "my face.obj", mesh, level, photo=photo)
    names = {"my face.obj", "my_face.mtl", *(["my_face-texture.png"] if textured else [])}
    assert {p.name for p in tmp_path.iterdir()} == names
    places, parts, words = [], {}, [line.split() for line in path.read_text().splitlines()]
    for word, *values in words:
        if word == "v":
            places.append([float(value) for value in values])
        elif word == "g":
            part = parts.setdefault(values[0], [])
        elif word == "usemtl":
            part.append(values[0])
        elif word == "f":
            part.append([int(value.split("/")[0]) - 1 for value in values])
    assert {name: material for name, (material, *_) in parts.items()} == PARTS
    np.testing.assert_allclose(places, to_world(mesh.levels[level]), atol=1e-4)
    faces = mesh.level_faces[level]
    for k, (_, *triangles) in enumerate(parts.values()):
        np.testing.assert_array_equal(triangles, faces[mesh.groups[: len(faces)] == k])
    text = (tmp_path / "my_face.mtl").read_text()
    assert text.count("map_Kd my_face-texture.png") == 2 * textured
    # As a template it is one mesh again, with the same vertices.
    read = load_template(path, levels=1)
    np.testing.assert_allclose(read.vertices, places, atol=1e-4)
    assert set(map(tuple, read.faces[0].tolist())) == set(map(tuple, faces.tolist()))


def test_groups_are_named_meshes_of_a_glb(tmp_path, with_eyes):
    mesh = with_eyes.mesh
    clay, textured = (mesh_files.save_mesh(tmp_path / name, mesh, photo=photo) for name, photo in
                      (("clay.glb", None), ("photo.glb", with_eyes.photo)))  # fmt: skip
    scene = trimesh.load(textured, process=False)
    assert {name: part.visual.material.name for name, part in scene.geometry.items()} == PARTS
    for k, part in enumerate(scene.geometry.values()):
        np.testing.assert_allclose(part.vertices, to_world(mesh.vertices_px), atol=1e-3)
        np.testing.assert_array_equal(part.faces, mesh.faces[mesh.groups == k])
    skin = np.unique(scene.geometry["skin"].faces)
    away = np.abs(texture_at(scene.geometry["skin"]).astype(int) - face_colors(with_eyes.photo, mesh))[skin]
    assert away.mean() < 6
    assert scene.geometry["mouth"].visual.material.baseColorTexture is None
    # Vertices and normals are there once.
    assert clay.stat().st_size < 12 * (2 * len(mesh.vertices_px) + len(mesh.faces)) + 4096


def test_colours_of_ones_own_need_no_groups(tmp_path, with_eyes):
    mesh = with_eyes.mesh
    colors = np.random.default_rng(0).integers(0, 256, (len(mesh.vertices_px), 3))
    path = mesh_files.save_mesh(tmp_path / "face.obj", mesh, vertex_colors=colors)
    back = trimesh.load(path, process=False, maintain_order=True)
    np.testing.assert_allclose(back.visual.vertex_colors[:, :3].astype(int), colors, atol=1)
    ply = trimesh.load(mesh_files.save_mesh(tmp_path / "face.ply", mesh, photo=with_eyes.photo), process=False)
    np.testing.assert_array_equal(ply.visual.vertex_colors[:, :3], face_colors(with_eyes.photo, mesh))


def glb_content(path):
    """The JSON of a .glb, and its binary part."""
    content = path.read_bytes()
    length = int.from_bytes(content[12:16], "little")
    return json.loads(content[20 : 20 + length]), content[28 + length :]


@pytest.mark.parametrize("groups", [True, False])
def test_meshes_have_smooth_normals_and_a_material_as_bright_as_the_photo(tmp_path, with_eyes, prediction, groups):
    shown = with_eyes if groups else prediction
    outline, binary = glb_content(mesh_files.save_mesh(tmp_path / "x.glb", shown.mesh, photo=shown.photo))
    for mesh in outline["meshes"]:
        [part] = mesh["primitives"]
        accessor = outline["accessors"][part["attributes"]["NORMAL"]]
        view = outline["bufferViews"][accessor["bufferView"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        normals = np.frombuffer(binary, np.float32, 3 * accessor["count"], start).reshape(-1, 3)
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
        assert normals[:, 2].mean() > 0.3  # a face looks at the viewer
    mesh_files.save_mesh(tmp_path / "x.obj", shown.mesh, photo=shown.photo)
    lines = (tmp_path / "x.mtl").read_text().splitlines()
    textured = "\n".join(lines).split("newmtl ")[1]
    assert [float(x) for x in re.search(r"Kd (.*)", textured)[1].split()] == [1, 1, 1]
    assert [float(x) for x in re.search(r"Ks (.*)", textured)[1].split()] == [0, 0, 0]


def test_a_texture_of_a_large_photo_or_of_a_face_beyond_its_edge(tmp_path, prediction):
    mesh = prediction.mesh
    moved = tuple(level + np.float32([5000, 0, 0]) for level in mesh.levels)
    beyond = replace(mesh, vertices_px=moved[-1], levels=moved)
    path = mesh_files.save_mesh(tmp_path / "beyond.glb", beyond, photo=prediction.photo)
    assert np.isfinite(trimesh.load(path, force="mesh").visual.uv).all()
    grown = tuple(level * np.float32(9) for level in mesh.levels)
    mesh_files.save_mesh(
        tmp_path / "x.obj",
        replace(mesh, vertices_px=grown[-1], levels=grown),
        photo=np.zeros((4050, 3600, 3), np.uint8),
    )
    with Image.open(tmp_path / "x-texture.png") as texture:
        assert max(texture.size) == mesh_files.TEXTURE_PX
