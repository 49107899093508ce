"""Written meshes lie on their photo by the camera file, in px as well as in mm."""

import json
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from p2m_core.errors import InputError
from p2m_core.face_mesh import to_world
from p2m_core.inference import pose_of
from p2m_workbench.photos import export, mesh_files
from p2m_workbench.photos.frame import PHOTO, frame_of


@pytest.fixture(scope="module")
def posed(with_eyes, face_model):
    from p2m_core.morphable.registration import face_template

    template, _ = face_template(face_model)
    mesh = replace(with_eyes.mesh, pose=pose_of(with_eyes.mesh.vertices_px, template.vertices))
    return replace(with_eyes, name="face", mesh=mesh), template


@pytest.mark.parametrize("name", ["photo", "head_mm"])
def test_the_camera_file_leads_written_vertices_to_their_pixels(posed, tmp_path, name):
    prediction, _ = posed
    export.save_prediction(tmp_path, prediction, ["obj", "ply", "glb", "levels", "rig", "camera"], frame=name)
    camera = json.loads((tmp_path / "face-camera.json").read_text())
    assert (camera["photo_px"], camera["frame"]) == ({"width": 280, "height": 300}, name)
    expected, projection = prediction.mesh.vertices_px[:, :2], np.array(camera["projection"])
    for file in ("face.obj", "face.ply", "face.glb", "face-level4.obj"):
        if file.endswith(".obj"):
            vertices = read_obj(tmp_path / file)
        else:
            solid = trimesh.load(tmp_path / file, process=False)
            vertices = (solid.geometry["skin"] if file.endswith(".glb") else solid).vertices
        np.testing.assert_allclose(homogeneous(vertices) @ projection.T, expected, atol=0.01)
    # The matrix leads to the frame of the photo, y up; its parts say the same, and the view is the photo's.
    world = homogeneous(vertices) @ np.array(camera["matrix"])[:3].T
    np.testing.assert_allclose(world, to_world(prediction.mesh.vertices_px), atol=0.01)
    again = camera["px_per_unit"] * vertices @ np.transpose(camera["rotation"]) + camera["origin_px"]
    np.testing.assert_allclose(again, world, atol=1e-9)
    view = camera["view"]
    share = (world[:, 0] - view["left"]) / (view["right"] - view["left"])
    np.testing.assert_allclose(share * 280 - 0.5, expected[:, 0], atol=0.01)
    share = (world[:, 1] - view["top"]) / (view["bottom"] - view["top"])
    np.testing.assert_allclose(share * 300 - 0.5, expected[:, 1], atol=0.01)


def homogeneous(points):
    return np.column_stack([points, np.ones(len(points))])


def read_obj(path):
    return np.array([line.split()[1:4] for line in path.read_text().splitlines() if line.startswith("v ")], float)


def test_in_mm_a_head_is_upright_and_of_the_mean_heads_size(posed, tmp_path):
    """The prediction is the mean face, turned: what is written is that face itself."""
    prediction, template = posed
    path = mesh_files.save_mesh(tmp_path / "x.obj", prediction.mesh, frame=frame_of(prediction.mesh, "head_mm"))
    expected = (template.vertices - template.vertices.mean(0)) / 1000
    np.testing.assert_allclose(read_obj(path), expected, atol=0.01)
    assert 150 < np.ptp(expected[:, 1]) < 250
    assert frame_of(prediction.mesh, "photo") is PHOTO


def test_mm_want_a_head(posed):
    mesh = posed[0].mesh
    with pytest.raises(InputError, match="wants a head's pose"):
        frame_of(replace(mesh, pose=None), "head_mm")
    with pytest.raises(InputError, match="does not count micrometres"):
        frame_of(replace(mesh, pose=mesh.pose * [1, 1, 1, 1, 1, 1, 1000]), "head_mm")
