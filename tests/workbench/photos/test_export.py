import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import trimesh
from example_predictions import made_up
from PIL import Image

from p2m_core.config.settings import SAVED
from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.geometry.template_files import load_template
from p2m_workbench.drawing.mesh_images import draw_overlay
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.photos import export
from p2m_workbench.photos.result_files import SUFFIXES, files_of


@pytest.fixture(scope="module")
def prediction():
    return made_up(rings=3, levels=4)


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb", ".OBJ"])
@pytest.mark.parametrize("level", [0, -1])
def test_mesh_files_round_trip(tmp_path, prediction, suffix, level):
    mesh = prediction.mesh
    path = export.save_mesh(tmp_path / "deep" / f"face{suffix}", mesh, level)
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
    path = export.save_mesh(tmp_path / f"face{suffix}", prediction.mesh, vertex_colors=colors)
    back = trimesh.load(path, process=False, force="mesh", maintain_order=True)
    np.testing.assert_allclose(back.visual.vertex_colors[:, :3].astype(int), colors, atol=1)


def test_bad_mesh_files_are_one_clear_line(tmp_path, prediction):
    with pytest.raises(InputError, match=r"\.stl is not a mesh format"):
        export.save_mesh(tmp_path / "face.stl", prediction.mesh)
    mesh = prediction.mesh
    broken = mesh.vertices_px.copy()
    broken[5, 1] = np.nan
    broken = FaceMesh(broken, mesh.faces, (*mesh.levels[:-1], broken), mesh.level_faces, mesh.landmarks_px, mesh.box)
    with pytest.raises(InputError, match="vertex 5: 1 vertices are not finite"):
        export.save_mesh(tmp_path / "face.obj", broken)
    assert list(tmp_path.iterdir()) == []


def test_overlay_is_the_photo_size(tmp_path, prediction):
    export.save_prediction(tmp_path, prediction, ["overlay"])
    with Image.open(tmp_path / f"{prediction.name}-overlay.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), draw_overlay(prediction))
        assert picture.size == prediction.photo.shape[1::-1]


# --- textures, landmarks, maps, turntables --------------------------------------------------------


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
    path = export.save_mesh(tmp_path / f"my face{suffix}", mesh, photo=photo)
    names = {"my face.obj", "my_face.mtl", "my_face-texture.png"} if suffix == ".obj" else {"my face.glb"}
    assert {p.name for p in tmp_path.iterdir()} == names
    back = trimesh.load(path, process=False, force="mesh", maintain_order=True)
    np.testing.assert_allclose(back.vertices, to_world(mesh.vertices_px), atol=1e-3)
    np.testing.assert_array_equal(back.faces, mesh.faces)
    x, y = np.rint(mesh.vertices_px[:, :2]).astype(int).T
    assert np.abs(texture_at(back).astype(int) - photo[y, x]).mean() < 3
    ply = trimesh.load(export.save_mesh(tmp_path / "face.ply", mesh, photo=photo), process=False)
    assert np.abs(ply.visual.vertex_colors[:, :3].astype(int) - photo[y, x]).mean() < 6


PARTS = {"skin": "skin", "right_eye": "eye", "left_eye": "eye", "mouth": "mouth"}


@pytest.mark.parametrize("level", [0, -1])
@pytest.mark.parametrize("textured", [True, False])
def test_groups_are_named_parts_of_an_obj(tmp_path, with_eyes, level, textured):
    mesh, photo = with_eyes.mesh, with_eyes.photo if textured else None
    path = export.save_mesh(tmp_path / "my face.obj", mesh, level, photo=photo)
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
    clay, textured = (export.save_mesh(tmp_path / name, mesh, photo=photo) for name, photo in
                      (("clay.glb", None), ("photo.glb", with_eyes.photo)))  # fmt: skip
    scene = trimesh.load(textured, process=False)
    assert {name: part.visual.material.name for name, part in scene.geometry.items()} == PARTS
    for k, part in enumerate(scene.geometry.values()):
        np.testing.assert_allclose(part.vertices, to_world(mesh.vertices_px), atol=1e-3)
        np.testing.assert_array_equal(part.faces, mesh.faces[mesh.groups == k])
    skin = np.unique(scene.geometry["skin"].faces)
    away = np.abs(texture_at(scene.geometry["skin"]).astype(int) - export.face_colors(with_eyes.photo, mesh))[skin]
    assert away.mean() < 6
    assert scene.geometry["mouth"].visual.material.baseColorTexture is None
    # Vertices and normals are there once.
    assert clay.stat().st_size < 12 * (2 * len(mesh.vertices_px) + len(mesh.faces)) + 4096


def test_colours_of_ones_own_need_no_groups(tmp_path, with_eyes):
    mesh = with_eyes.mesh
    colors = np.random.default_rng(0).integers(0, 256, (len(mesh.vertices_px), 3))
    path = export.save_mesh(tmp_path / "face.obj", mesh, vertex_colors=colors)
    back = trimesh.load(path, process=False, maintain_order=True)
    np.testing.assert_allclose(back.visual.vertex_colors[:, :3].astype(int), colors, atol=1)
    ply = trimesh.load(export.save_mesh(tmp_path / "face.ply", mesh, photo=with_eyes.photo), process=False)
    np.testing.assert_array_equal(ply.visual.vertex_colors[:, :3], export.face_colors(with_eyes.photo, mesh))


def glb_content(path):
    """The JSON of a .glb, and its binary part."""
    content = path.read_bytes()
    length = int.from_bytes(content[12:16], "little")
    return json.loads(content[20 : 20 + length]), content[28 + length :]


@pytest.mark.parametrize("groups", [True, False])
def test_meshes_have_smooth_normals_and_a_material_as_bright_as_the_photo(tmp_path, with_eyes, prediction, groups):
    shown = with_eyes if groups else prediction
    outline, binary = glb_content(export.save_mesh(tmp_path / "x.glb", shown.mesh, photo=shown.photo))
    for mesh in outline["meshes"]:
        [part] = mesh["primitives"]
        accessor = outline["accessors"][part["attributes"]["NORMAL"]]
        view = outline["bufferViews"][accessor["bufferView"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        normals = np.frombuffer(binary, np.float32, 3 * accessor["count"], start).reshape(-1, 3)
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
        assert normals[:, 2].mean() > 0.3  # a face looks at the viewer
    export.save_mesh(tmp_path / "x.obj", shown.mesh, photo=shown.photo)
    lines = (tmp_path / "x.mtl").read_text().splitlines()
    textured = "\n".join(lines).split("newmtl ")[1]
    assert [float(x) for x in re.search(r"Kd (.*)", textured)[1].split()] == [1, 1, 1]
    assert [float(x) for x in re.search(r"Ks (.*)", textured)[1].split()] == [0, 0, 0]


def test_a_texture_of_a_large_photo_or_of_a_face_beyond_its_edge(tmp_path, prediction):
    mesh = prediction.mesh
    moved = tuple(level + np.float32([5000, 0, 0]) for level in mesh.levels)
    beyond = replace(mesh, vertices_px=moved[-1], levels=moved)
    path = export.save_mesh(tmp_path / "beyond.glb", beyond, photo=prediction.photo)
    assert np.isfinite(trimesh.load(path, force="mesh").visual.uv).all()
    grown = tuple(level * np.float32(9) for level in mesh.levels)
    export.save_mesh(
        tmp_path / "x.obj",
        replace(mesh, vertices_px=grown[-1], levels=grown),
        photo=np.zeros((4050, 3600, 3), np.uint8),
    )
    with Image.open(tmp_path / "x-texture.png") as texture:
        assert max(texture.size) == export.TEXTURE_PX


def test_all_kinds_of_files_whole_or_none(tmp_path, prediction):
    mesh = replace(prediction.mesh, pose=np.arange(7.0), crop=np.zeros((64, 64, 3), np.uint8), doubt=0.02)
    whole = replace(prediction, name="face", mesh=mesh)
    kinds = [kind for kind in SAVED if kind not in ("turntable", "turning-levels")]
    assert set(export.SAVERS) | {"csv"} == set(SUFFIXES) | {"csv"} == set(SAVED)
    export.save_prediction(tmp_path / "out", whole, kinds)
    names = {path.name.removeprefix("face") for path in (tmp_path / "out").iterdir()}
    assert names == {
        ".obj", ".mtl", "-texture.png", ".ply", ".glb", ".json", ".pts", "-overlay.png", "-crop.png", "-depth.png",
        "-normals.png", ".html", "-camera.json", *(f"-level{k}.obj" for k in (1, 2, 3, 4)),
    }  # fmt: skip
    assert {f"face{name}" for name in names} <= set(files_of("face", kinds, len(mesh.levels)))
    for k, level in enumerate(mesh.levels):
        read = trimesh.load(tmp_path / f"out/face-level{k + 1}.obj", process=False, maintain_order=True)
        np.testing.assert_allclose(read.vertices, to_world(level), atol=1e-3)
    broken = replace(whole, mesh=replace(mesh, levels=(*mesh.levels[:-1], mesh.levels[-1] * np.nan)))
    with pytest.raises(InputError, match="not finite"):
        export.save_prediction(tmp_path / "none", broken, ["json", "obj"])
    assert list((tmp_path / "none").iterdir()) == []


def test_landmarks_round_trip(tmp_path, prediction):
    mesh = replace(prediction.mesh, pose=np.arange(7.0), doubt=0.02)
    content = json.loads(export.save_landmarks(tmp_path / "x.json", mesh).read_text())
    np.testing.assert_allclose(content["landmarks_px"], mesh.landmarks_px, rtol=1e-6)
    assert content["pose"]["yaw_deg"] == 1
    assert content["doubt"] == 0.02
    lines = export.save_landmarks(tmp_path / "x.pts", mesh).read_text().splitlines()
    assert lines[:3] == ["version: 1", "n_points: 68", "{"]
    assert lines[-1] == "}"
    # 300-W counts from 1.
    np.testing.assert_allclose(np.loadtxt(lines[3:-1]) - 1, mesh.landmarks_px[:, :2], atol=1e-3)
    with pytest.raises(InputError, match="is no landmark format"):
        export.save_landmarks(tmp_path / "x.txt", mesh)


def test_depth_and_normal_maps(tmp_path):
    """A plane that leans: its depth and its normal are known everywhere."""
    corners = np.array([[10.0, 20, 5], [50, 20, 25], [50, 60, 25], [10, 60, 5]], np.float32)  # z grows by x / 2
    faces = np.array([[0, 2, 1], [0, 3, 2]])
    mesh = FaceMesh(corners, faces, (corners,), (faces,), corners, np.array([10, 20, 50, 60]))
    plane = FacePrediction("plane", mesh, np.zeros((80, 90, 3), np.uint8))
    export.save_prediction(tmp_path, plane, ["depth", "normals"])
    with Image.open(tmp_path / "plane-depth.png") as picture:
        value = np.asarray(picture).astype(float)
    assert value.shape == (80, 90)
    z = (value - export.DEPTH_ZERO) / export.DEPTH_STEPS
    np.testing.assert_allclose(z[40, 11:50], 0.5 * np.arange(11, 50), atol=0.04)
    assert (value[:20] == 0).all()
    assert (value[:, 51:] == 0).all()
    normals = np.asarray(Image.open(tmp_path / "plane-normals.png"))
    expected = np.array([-0.5, 0, 1]) / np.sqrt(1.25)
    np.testing.assert_allclose(normals[40, 30] / 127.5 - 1, expected, atol=0.01)
    assert (normals[:20] == 0).all()


def test_overlays_of_large_photos_are_scaled_down(tmp_path, prediction):
    half = export.scaled(prediction, 225)
    assert half.photo.shape == (225, 200, 3)
    # A px's centre c comes to lie at (c + 0.5) / 2 - 0.5.
    np.testing.assert_allclose(
        half.mesh.vertices_px[:, :2], (prediction.mesh.vertices_px[:, :2] + 0.5) / 2 - 0.5, atol=1e-4
    )
    np.testing.assert_allclose(half.mesh.vertices_px[:, 2], prediction.mesh.vertices_px[:, 2] / 2, atol=1e-4)
    np.testing.assert_allclose(half.truth_px[:, 2], prediction.truth_px[:, 2] / 2, atol=1e-4)
    assert export.scaled(prediction, 450) is prediction


def test_turntables_turn_and_close(tmp_path, prediction):
    export.save_gif(tmp_path / "t.gif", export.turntable(prediction, size_px=48, frames=8))
    export.save_gif(tmp_path / "l.gif", export.level_turntable(prediction, size_px=40, frames=4))
    with Image.open(tmp_path / "t.gif") as gif, Image.open(tmp_path / "l.gif") as row:
        assert (gif.n_frames, gif.size, row.n_frames, row.size) == (8, (96, 48), 4, (160, 40))
        assert gif.info["loop"] == 0
        frames = []
        for k in range(gif.n_frames):
            gif.seek(k)
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
    steps = [np.abs(a - b).mean() for a, b in zip(frames, frames[1:] + frames[:1], strict=True)]
    assert min(steps) > 0.2
    # From the last frame to the first is no jump; left and right are the mirrored angles.
    assert steps[-1] < 2 * np.mean(steps)
    assert np.abs(frames[2] - frames[6]).mean() > max(steps) / 2
