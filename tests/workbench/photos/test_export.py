import json
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from example_predictions import made_up
from PIL import Image

from p2m_core.config.settings import SAVED
from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh, to_world
from p2m_workbench.drawing.mesh_images import draw_overlay
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.photos import export
from p2m_workbench.photos.result_files import SUFFIXES, files_of


@pytest.fixture(scope="module")
def prediction():
    return made_up(rings=3, levels=4)


def test_overlay_is_the_photo_size(tmp_path, prediction):
    export.save_prediction(tmp_path, prediction, ["overlay"])
    with Image.open(tmp_path / f"{prediction.name}-overlay.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), draw_overlay(prediction))
        assert picture.size == prediction.photo.shape[1::-1]


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
    with pytest.raises(InputError, match=rf"^{tmp_path}/none/face\.obj: vertex 0: .* not finite"):
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
