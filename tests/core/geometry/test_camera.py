import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from p2m_core.errors import InputError
from p2m_core.geometry import camera
from p2m_core.geometry.crop import (
    apply_affine,
    box_of,
    crop_matrix,
    face_size,
    invert_affine,
    model_frame,
    model_to_crop,
    ndc_to_px,
    px_to_ndc,
)
from p2m_core.geometry.similarity import umeyama

FROM_ONE = np.array([1, 1, 0])  # AFLW2000-3D counts px from 1
Y_UP = np.array([1, -1, 1])


def poses(seed, count, yaw=89.9):
    rng = np.random.default_rng(seed)
    angles = np.radians(rng.uniform(-1, 1, (count, 3)) * [89.9, yaw, 179.9])
    return np.concatenate([angles, rng.uniform(-50, 400, (count, 3)), rng.uniform(1e-4, 2, (count, 1))], 1)


# --- rotations and poses ---


def test_rotation_is_pitch_yaw_roll_as_the_data_set_has_it():
    pitch, yaw, roll = 0.3, -0.7, 1.1
    rx = [[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]]
    ry = [[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]]
    rz = [[np.cos(roll), np.sin(roll), 0], [-np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    expected = np.array(rx) @ np.array(ry) @ np.array(rz)
    np.testing.assert_allclose(camera.rotation_from_angles([pitch, yaw, roll]), expected, atol=1e-12)


def test_angles_and_rotation_are_inverse():
    angles = poses(0, 500)[:, :3]
    rotation = camera.rotation_from_angles(angles)
    np.testing.assert_allclose(
        rotation @ np.swapaxes(rotation, 1, 2), np.broadcast_to(np.eye(3), (500, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1)
    np.testing.assert_allclose(camera.angles_from_rotation(rotation), angles, atol=1e-9)


def test_yaw_beyond_a_profile_comes_back_as_the_same_rotation():
    rotation = camera.rotation_from_angles(poses(1, 200, yaw=179)[:, :3])
    angles = camera.angles_from_rotation(rotation)
    assert abs(angles[:, 1]).max() <= np.pi / 2
    np.testing.assert_allclose(camera.rotation_from_angles(angles), rotation, atol=1e-9)


def test_positive_yaw_turns_the_nose_as_in_the_data_set():
    """In AFLW2000-3D a positive yaw shows a nose that points to the picture's left."""
    nose = camera.rotation_from_angles([0, 0.5, 0]) @ [0, 0, 1]
    assert nose[0] < 0
    chin = camera.rotation_from_angles([0.5, 0, 0]) @ [0, -1, 0]  # positive pitch looks up: the chin comes forward
    assert chin[2] > 0


@pytest.mark.parametrize("height", [96, 450])
def test_model_to_image_equals_the_data_sets_camera(height):
    vertices = np.random.default_rng(2).normal(size=(9, 3)) * 100
    for pose in poses(3, 20):
        expected = oracles.aflw_projection(vertices, pose, height) - FROM_ONE
        np.testing.assert_allclose(camera.model_to_image(vertices, pose, height), expected, atol=1e-9)


def test_the_first_pixel_is_one_one_in_files_and_zero_zero_here():
    """tx, ty place the model's origin; y = H + 1 - ty counted from 1."""
    top_left = np.array([0, 0, 0, 1, 450, 7, 0.5])  # x = 1, y = 450 + 1 - 450 = 1 in the file's count
    np.testing.assert_array_equal(camera.model_to_image(np.zeros((1, 3)), top_left, 450), [[0, 0, 7]])
    up = camera.model_to_image(np.array([[0, 10.0, 0]]), top_left, 450)
    np.testing.assert_array_equal(up, [[0, -5, 7]])  # up in the model is up in the picture, in which y points down


def test_model_to_image_takes_batches():
    pose, vertices = poses(4, 6), np.random.default_rng(5).normal(size=(6, 11, 3))
    together = camera.model_to_image(vertices, pose, 240)
    for k in range(6):
        np.testing.assert_allclose(together[k], camera.model_to_image(vertices[k], pose[k], 240))
    np.testing.assert_allclose(
        camera.model_to_image(vertices[0], pose, 240)[3], camera.model_to_image(vertices[0], pose[3], 240)
    )


def test_pose_of_a_similarity_gives_that_similarity():
    vertices = np.random.default_rng(6).normal(size=(30, 3)) * 40
    for pose in poses(7, 20):
        rotation, shift, scale = camera.rotation_from_angles(pose[:3]), pose[3:6], pose[6]
        placed = (scale * vertices @ rotation.T + shift) * Y_UP
        found = camera.pose_para_from_similarity(scale, rotation, shift, 300)
        np.testing.assert_allclose(camera.model_to_image(vertices, found, 300), placed, atol=1e-6)


# --- umeyama ---


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("points", [4, 68, 300])
def test_umeyama_equals_the_quaternion_solution(points, mirrored):
    rng = np.random.default_rng(points)
    source = rng.normal(size=(points, 3)) * [3, 2, 1] + 5
    turned = 2.5 * source @ camera.rotation_from_angles([0.4, -1.2, 2]).T + [9, -4, 3]
    target = (turned * ([-1, 1, 1] if mirrored else 1)) + rng.normal(size=source.shape) * 0.3
    scale, rotation, translation = umeyama(source, target)
    expected = oracles.similarity(source, target)
    for found, wanted in zip((scale, rotation, translation), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-8)
    assert np.linalg.det(rotation) == pytest.approx(1)  # never a reflection, even where that would fit better


def test_umeyama_is_exact_on_a_plane_and_in_batches():
    rng = np.random.default_rng(8)
    source = rng.normal(size=(5, 20, 3)) * [1, 1, 0]
    pose = poses(9, 5)
    wanted = camera.rotation_from_angles(pose[:, :3])
    target = pose[:, 6, None, None] * source @ np.swapaxes(wanted, 1, 2) + pose[:, None, 3:6]
    scale, rotation, translation = umeyama(source, target)
    np.testing.assert_allclose(scale, pose[:, 6])
    np.testing.assert_allclose(rotation, wanted, atol=1e-9)
    np.testing.assert_allclose(translation, pose[:, 3:6], atol=1e-8)


# --- boxes and crops ---


def test_box_and_face_size_by_hand():
    points = np.array([[3, 9, 100], [13, 9, 0], [5, 49, -7.0]])
    np.testing.assert_array_equal(box_of(points), [3, 9, 13, 49])
    assert face_size(points) == 20  # sqrt(10 * 40)
    np.testing.assert_array_equal(box_of(np.stack([points, points + 1])), [[3, 9, 13, 49], [4, 10, 14, 50]])
    np.testing.assert_array_equal(face_size(np.stack([points, points * 2])[..., :2]), [20, 40])


corner = st.floats(-500, 2000)
extent = st.floats(1, 1500)


@given(corner, corner, extent, extent, st.integers(8, 512), st.floats(1.01, 3))
def test_crop_is_a_centred_square_with_margin(x, y, width, height, size, margin):
    box = np.array([x, y, x + width, y + height])
    matrix = crop_matrix(box, size, margin)
    middle, longer = (box[:2] + box[2:]) / 2, max(width, height)
    points = np.array([[*middle, 0], [*(middle + [longer * margin / 2, longer * margin / 2]), 1]])
    inside = apply_affine(matrix, points)
    np.testing.assert_allclose(inside[0], [(size - 1) / 2, (size - 1) / 2, 0], atol=1e-6)
    # the crop's outer corner, not the centre of its corner pixel; depth grows like the picture
    np.testing.assert_allclose(inside[1], [size - 0.5, size - 0.5, size / (longer * margin)], atol=1e-6)
    back = apply_affine(invert_affine(matrix), inside)
    np.testing.assert_allclose(back, points, atol=1e-5)


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 9), (5, 5, 9, 5), (9, 5, 5, 9), (0, 0, 0, 0), (0, 0, np.nan, 5), (0, 0, np.inf, 5)]
)
def test_a_box_without_area_is_refused(box):
    with pytest.raises(InputError, match=r"box: .*has no area \(give x0 < x1 and y0 < y1 in px\)"):
        crop_matrix(np.array(box, float), 64, 1.3)


# --- normalised crop coordinates ---


@pytest.mark.parametrize("size", [2, 7, 112])
def test_corners_and_centre_of_the_crop(size):
    """-1 and 1 are the outer edges of the crop: half a pixel beyond the first and the last centre."""
    px = np.array(
        [
            [-0.5, -0.5, 0],
            [size - 0.5, size - 0.5, size / 2],
            [(size - 1) / 2, (size - 1) / 2, -size / 2],
            [0, size - 1, 0],
        ]
    )
    ndc = np.array([[-1, -1, 0], [1, 1, 1], [0, 0, -1], [1 / size - 1, 1 - 1 / size, 0]])
    np.testing.assert_allclose(px_to_ndc(px, size), ndc, atol=1e-12)
    np.testing.assert_allclose(ndc_to_px(ndc, size), px, atol=1e-12)
    np.testing.assert_allclose(px_to_ndc(px[:, :2], size), ndc[:, :2], atol=1e-12)


def test_normalised_coordinates_are_those_of_grid_sample():
    size = 9
    picture = torch.arange(size * size, dtype=torch.float64).view(1, 1, size, size)
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    grid = torch.from_numpy(px_to_ndc(np.stack([x, y], -1).astype(float), size))[None]
    torch.testing.assert_close(F.grid_sample(picture, grid, align_corners=False), picture)


def test_model_to_crop_equals_the_steps_one_by_one():
    rng = np.random.default_rng(10)
    vertices = rng.normal(size=(40, 3)) * 60
    for pose in poses(11, 20):
        turn, scale = rng.uniform(0, 6), rng.uniform(0.2, 3)
        c, s = scale * np.cos(turn), scale * np.sin(turn)
        matrix = np.array([[c, -s, rng.normal() * 50], [s, c, rng.normal() * 50]])
        linear, shift = model_to_crop(model_frame(pose, 450), matrix, 112)
        image = oracles.aflw_projection(vertices, pose, 450) - FROM_ONE
        crop = np.concatenate([image[:, :2] @ matrix[:, :2].T + matrix[:, 2], image[:, 2:] * scale], 1)
        expected = np.array([[(x - 55.5) / 56, (y - 55.5) / 56, z / 56] for x, y, z in crop])
        np.testing.assert_allclose(vertices @ linear.T + shift, expected, atol=1e-6 * (1 + abs(expected).max()))


# --- perspective ---

PIXEL2MESH = {"focal": (248.0, 248.0), "centre": (111.5, 111.5), "size_px": 224, "offset": (0, 0, -0.8)}


def test_perspective_by_the_formula():
    vertices = torch.from_numpy(np.random.default_rng(12).uniform(-0.3, 0.3, (2, 50, 3)))
    found = camera.project_perspective(vertices, (200.0, 260.0), (100.0, 120.0), 224, (0.01, 0.02, -0.8))
    for point, xy in zip(vertices.view(-1, 3).tolist(), found.view(-1, 2).tolist(), strict=True):
        x, y, z = point[0] + 0.01, point[1] + 0.02, point[2] - 0.8
        column, row = -200 * x / z + 100, 260 * y / z + 120
        assert xy == pytest.approx([max(-1, min(1, (v - 111.5) / 111.5)) for v in (column, row)])


def test_perspective_centre_and_directions():
    points = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [9, -9, 0]])
    ndc = camera.project_perspective(points, **PIXEL2MESH)
    torch.testing.assert_close(ndc[0], torch.zeros(2))
    assert ndc[1, 0] > 0  # right in the object is right in the picture
    assert ndc[2, 1] < 0  # up is up
    torch.testing.assert_close(ndc[3], torch.tensor([1.0, 1.0]))  # outside is held at the edge


def test_the_depth_threshold_acts():
    """Vertices at, before and behind the camera are projected as if they stood at the threshold."""
    depth = torch.tensor([-1.0, -0.2, -0.1, 0.0, 0.4])
    vertices = torch.stack([torch.full_like(depth, 0.01), torch.full_like(depth, 0.02), depth], 1).requires_grad_()
    settings = {**PIXEL2MESH, "offset": (0, 0, 0)}
    held = camera.project_perspective(vertices, **settings, z_threshold=0.2)
    near = camera.project_perspective(torch.tensor([[0.01, 0.02, -0.2]]), **settings)
    torch.testing.assert_close(held[1:], near.expand(4, 2))
    torch.testing.assert_close(held[0], camera.project_perspective(vertices[0], **settings))
    held.sum().backward()
    assert torch.isfinite(vertices.grad).all()
    torch.testing.assert_close(camera.project_perspective(vertices, **settings, z_threshold=-0.2), held)  # sign is free
    assert not torch.allclose(camera.project_perspective(vertices, **settings)[2], held[2])  # None: no clamp
