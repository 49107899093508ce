"""p2m_workbench.drawing.mesh_images: whole pictures of a mesh, and the colours of its errors."""

import numpy as np
import pytest
from example_predictions import made_up
from hypothesis import given
from hypothesis import strategies as st

from p2m_core.face_mesh import to_world
from p2m_core.geometry.rasterizer import vertex_normals
from p2m_workbench.drawing import mesh_images


@pytest.fixture(scope="module")
def prediction():
    return made_up(rings=4, levels=3)


def test_turn_keeps_shape_and_turns_a_face_to_the_right(prediction):
    vertices = np.asarray(prediction.mesh.vertices_px, float)
    turned = mesh_images.turn(vertices, 37)
    nose = vertices[:, 2].argmax()
    assert mesh_images.turn(vertices, 37)[nose, 0] > vertices[nose, 0] + 1

    def sides(points):
        return np.linalg.norm(points[prediction.mesh.faces[:, 0]] - points[prediction.mesh.faces[:, 1]], axis=1)

    np.testing.assert_allclose(sides(turned), sides(vertices))
    normals = vertex_normals(to_world(turned), prediction.mesh.faces)
    assert normals[nose, 2] > 0  # a rotation, not a mirror image, which would turn faces inside out


@pytest.mark.parametrize("yaw_deg", [0, 45, 90])
def test_draw_turned_fits_in_its_frame(prediction, yaw_deg):
    mesh = prediction.mesh
    picture = mesh_images.draw_turned(mesh.vertices_px, mesh.faces, yaw_deg, 120)
    assert picture.shape == (120, 120, 3)
    drawn = (picture != np.array(mesh_images.PAPER)).any(-1)
    assert not drawn[[0, -1]].any()
    assert not drawn[:, [0, -1]].any()
    rows = np.flatnonzero(drawn.any(1))
    assert rows[-1] - rows[0] == pytest.approx(0.86 * 120, abs=2)  # the height is the same at every yaw


def test_draw_levels_is_a_row(prediction):
    assert mesh_images.draw_levels(prediction.mesh.levels, prediction.mesh.level_faces, size_px=90).shape == (
        90,
        270,
        3,
    )


def test_error_colors():
    colors = mesh_images.error_colors(np.array([0, 1, 2, 3, 4, 9, -1, np.nan, np.inf]), 4)
    assert colors.dtype == np.uint8
    np.testing.assert_array_equal(colors[:5], mesh_images.ERROR_RAMP)
    np.testing.assert_array_equal(colors[5:7], [mesh_images.ERROR_RAMP[-1], mesh_images.ERROR_RAMP[0]])
    np.testing.assert_array_equal(colors[7:], 128)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=50))
def test_error_scale_is_a_round_number_just_above(errors):
    top = np.percentile(errors, 98)
    scale = mesh_images.error_scale(np.array(errors))
    assert top * (1 - 1e-6) - 1e-12 <= scale <= 1.51 * top + 1e-12
    assert len(f"{scale:.3e}".split("e")[0].rstrip("0.")) <= 3  # such as 1.5 or 4, nothing like 1.37


def test_error_scale_of_nothing():
    assert mesh_images.error_scale(np.zeros(5)) == 1
    assert mesh_images.error_scale(np.full(5, np.nan)) == 1


def test_landmarks_are_drawn_where_they_are():
    points = np.array([[20, 12, 3.0], [40.5, 30, 0], [-50, 3, 0], [1e9, 5, 0], [np.nan, 1, 0], [63, 63, 0]])
    before = np.full((64, 64, 3), 90, np.uint8)
    picture = mesh_images.draw_landmarks(before, points, (250, 10, 20), radius_px=3)
    assert (before == 90).all()
    np.testing.assert_array_equal(picture[12, 20], [250, 10, 20])
    np.testing.assert_array_equal(picture[30, 40], picture[30, 41])  # between two pixels
    np.testing.assert_array_equal(picture[63, 63], [250, 10, 20])
    row, column = np.mgrid[:64, :64]
    near = np.zeros((64, 64), bool)
    for x, y in ((20, 12), (40.5, 30), (63, 63)):
        near |= np.hypot(column - x, row - y) < 5
    assert (picture[~near] == 90).all()
    assert (picture[near & (np.hypot(column - 20, row - 12) < 2)] == [250, 10, 20]).all()
    np.testing.assert_array_equal(mesh_images.draw_landmarks(before, np.zeros((0, 3))), before)


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("shape", [(90, 160), (160, 90)])
def test_static_picture(truth, shape):
    picture = mesh_images.static_picture(made_up(truth=truth, rings=3, levels=2, height=shape[0], width=shape[1]), 100)
    count = 5 if truth else 4
    assert picture.dtype == np.uint8
    assert picture.shape[1] == count * 100 + (count - 1) * 6
    for k in range(count):
        tile = picture[:100, 106 * k : 106 * k + 100].reshape(-1, 3)
        assert len(np.unique(tile, axis=0)) > 50, f"picture {k} is blank"


def test_the_mesh_on_a_scaled_photo_stays_in_its_place(prediction):
    """static_picture scales photo and mesh; the mesh's box has to scale with the photo's pixels."""
    size = 150
    row = mesh_images.static_picture(prediction, size)
    plain, mesh = row[:size, :size].astype(int), row[:size, size + 6 : 2 * size + 6].astype(int)
    drawn = np.abs(plain - mesh).max(-1) > 25
    height, width = prediction.photo.shape[:2]
    scale = size / height
    left = (size - round(width * scale)) // 2
    columns, rows = np.flatnonzero(drawn.any(0)), np.flatnonzero(drawn.any(1))
    x, y = (prediction.mesh.vertices_px[:, :2] + 0.5).T * scale
    found = [columns[0], columns[-1] + 1, rows[0], rows[-1] + 1]
    np.testing.assert_allclose(found, [x.min() + left, x.max() + left, y.min(), y.max()], atol=1.6)


def test_eyes_and_mouth_are_coloured_where_the_mesh_has_groups(face_model):
    from p2m_core.morphable.registration import face_template

    template, truth = face_template(face_model)
    vertices = (truth(face_model.mean) * [1, -1, 1]).astype(np.float32)
    faces = template.faces[-1]
    assert mesh_images.clay_colors(vertices, faces, None) is None
    colors = mesh_images.clay_colors(vertices, faces, template.groups[-1])
    for name in ("right eye", "left eye"):
        inside = template.within(name)
        kinds = {tuple(rgb) for rgb in colors[inside].tolist()}
        assert kinds == {mesh_images.EYE_WHITE, mesh_images.IRIS, mesh_images.PUPIL}
    assert (colors[template.within("mouth")] == mesh_images.MOUTH).all()
    skin = np.unique(faces[template.groups[-1] == 0])
    assert (colors[skin] == mesh_images.CLAY).all()
