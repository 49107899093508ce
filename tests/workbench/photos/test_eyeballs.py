"""Eyeballs of a face that moves: where they lie, how they turn, and what they show."""

import numpy as np
import pytest
import trimesh

from p2m_core.face_mesh import to_world
from p2m_core.geometry.camera import rotation_from_angles
from p2m_workbench.photos.eyeballs import INSIDE, cap, eye_textures, eyeballs, sphere_centre, turns
from p2m_workbench.photos.rig import own_units, rig
from p2m_workbench.photos.texture import inner_vertices, photo_colors


@pytest.fixture(scope="module")
def moving(with_eyes):
    found = rig(with_eyes.mesh)
    return found, eyeballs(with_eyes.mesh, found)


def test_the_sphere_of_a_known_radius_is_found():
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(60, 3)) * [1, 0.4, 0.2] + [0, 0, 1]
    points = 12 * directions / np.linalg.norm(directions, axis=1, keepdims=True) + [3, -4, 5]
    found = sphere_centre(points, 12.0, np.array([3.5, -4.5, 4.5]))
    np.testing.assert_allclose(found, [3, -4, 5], atol=0.25)
    np.testing.assert_allclose(sphere_centre(points, 12.0, np.array([3.0, -4, 5])), [3, -4, 5], atol=1e-9)


def test_the_cap_is_round_and_its_texture_has_no_folds():
    directions, faces, uv = cap()
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    normals = trimesh.triangles.normals(directions[faces])[0]
    assert (np.einsum("ij,ij->i", normals, directions[faces].mean(1)) > 0.9).all()  # outward
    assert (trimesh.triangles.normals(np.pad(uv[faces], ((0, 0), (0, 0), (0, 1))))[0][:, 2] > 0.9).all()
    assert ((uv > 0) & (uv < 1)).all()


def test_eyeballs_lie_behind_the_lids_and_look_ahead(with_eyes, moving):
    mesh, eyes = with_eyes.mesh, moving[1]
    world, turned = to_world(mesh.vertices_px), rotation_from_angles(np.radians([0, 30, 0]))
    for eye, group in zip(eyes, (1, 2), strict=True):
        patch = world[inner_vertices(mesh, [group])]
        # A sphere through the vertices: |v|^2 = 2 v c + r^2 - c^2.
        system = np.column_stack([2 * eye.neutral, np.ones(len(eye.neutral))])
        centre = np.linalg.lstsq(system, (eye.neutral**2).sum(1))[0][:3]
        radius = np.linalg.norm(eye.neutral[0] - centre)
        away = np.linalg.norm(patch - centre, axis=1) / radius
        np.testing.assert_allclose(away * INSIDE, 1, atol=0.005)  # where the mesh's still eyes are
        _, _, mean_radius = turns()
        assert radius / INSIDE == pytest.approx(mean_radius[0] * 200 / np.ptp(own_units().mean[:, 1]), rel=0.005)
        np.testing.assert_allclose((eye.neutral[0] - centre) / radius, turned[:, 2], atol=0.03)


@pytest.mark.parametrize(
    ("unit", "side", "axis", "sign"),
    [("eyeLookInRight", 0, 0, 1), ("eyeLookOutLeft", 1, 0, 1), ("eyeLookOutRight", 0, 0, -1),
     ("eyeLookUpLeft", 1, 1, 1), ("eyeLookDownRight", 0, 1, -1)],
)  # fmt: skip
def test_gaze_turns_the_eyeball_that_it_names(moving, unit, side, axis, sign):
    names = list(own_units().names)
    eyes, upright = moving[1], rotation_from_angles(np.radians([0, 30, 0]))
    ways = [eye.ways[names.index(unit)] @ upright for eye in eyes]
    radius = np.linalg.norm(eyes[0].neutral[0] - eyes[0].neutral[-1]) / np.sqrt(2 - 2 * np.cos(np.radians(95)))
    assert not ways[1 - side].any()
    moved = ways[side][0] / radius  # the front of it, on the subject's head: x to its left, y up
    assert 0.15 < sign * moved[axis] < 0.3  # 10 to 15 degrees
    assert abs(moved[1 - axis]) < 0.02
    assert not eyes[side].ways[names.index("jawOpen")].any()


def test_turns_are_rotations_of_the_mean_heads_eyes():
    rotations, centres, radius = turns()
    np.testing.assert_allclose(rotations @ rotations.swapaxes(-1, -2), np.broadcast_to(np.eye(3), rotations.shape),
                               atol=1e-9)  # fmt: skip
    assert centres[0, 0] < 0 < centres[1, 0]  # the subject's right is on negative x
    assert 0.012 < radius.mean() * 1e-6 < 0.017


def test_at_the_photos_strengths_they_show_the_photo(with_eyes, moving):
    mesh, (found, eyes) = with_eyes.mesh, moving
    soft = np.stack(np.meshgrid(np.linspace(0, 255, 280), np.linspace(0, 255, 300)), -1)
    photo = np.uint8(np.concatenate([soft, soft[..., :1]], -1))
    names = list(found.names)
    strength = np.where(np.isin(names, ["eyeLookInRight", "eyeLookOutLeft"]), 0.8, 0.0)
    for eye, picture, group in zip(eyes, eye_textures(photo, mesh, eyes, strength), (1, 2), strict=True):
        at = eye.neutral + np.tensordot(strength, eye.ways, 1)
        shown = photo_colors(picture, (eye.uv * [1, -1] + [0, 1]) * len(picture) - 0.5).astype(int)
        expected = photo_colors(photo, at[:, :2] * [1, -1]).astype(int)
        patch = mesh.vertices_px[np.unique(mesh.faces[mesh.groups == group])]
        middle = np.linalg.norm(at[:, :2] * [1, -1] - patch[:, :2].mean(0), axis=1) < 0.15 * np.ptp(patch[:, 0])
        middle &= at[:, 2] > at[:, 2].mean()
        assert middle.sum() > 10
        assert np.abs(shown - expected)[middle].max() <= 6


def test_an_eye_that_no_photo_shows_is_made_up(with_eyes, moving):
    mesh, (found, eyes) = with_eyes.mesh, moving
    beside = np.full((20, 20, 3), 120, np.uint8)  # a photo that ends before the face
    right, left = eye_textures(beside, mesh, eyes, found.strength)
    np.testing.assert_array_equal(right, left)
    middle = right.shape[0] // 2
    assert right[middle, middle].mean() < 0.3 * right[middle, middle + 60].mean()  # a pupil in the white
