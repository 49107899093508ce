"""p2m_core.geometry.rays."""

from __future__ import annotations

import numpy as np
import trimesh

from p2m_core.geometry.rays import cast_rays, meet_planes


def test_rays_leave_by_the_outermost_surface():
    """Of two spheres, one inside the other, the outer one is hit, where the ray goes; an open side is missed."""
    ball = trimesh.creation.icosphere(subdivisions=2)
    inner, outer = np.asarray(ball.vertices), np.asarray(ball.vertices) * 3
    above = outer[ball.faces].mean(1)[:, 2] > -2
    vertices, faces = np.concatenate([inner, outer]), np.concatenate([ball.faces, ball.faces[above] + len(inner)])
    directions = np.random.default_rng(0).normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    hit, weights = cast_rays(np.zeros(3), directions, vertices, faces, last=True)
    assert weights.min() > -1e-6
    np.testing.assert_allclose(weights.sum(1), 1)
    points = (vertices[faces[hit]] * weights[..., None]).sum(1)
    distance = np.linalg.norm(points, axis=1)
    np.testing.assert_allclose(points / distance[:, None], directions, atol=1e-9)
    upwards = directions[:, 2] > -0.5
    assert (distance[upwards] > 2.8).all()
    downwards = directions[:, 2] < -0.85  # through the hole of the outer one
    assert (abs(distance[downwards] - 1) < 0.05).all()
    assert downwards.sum() > 3
    hit, _ = cast_rays(np.zeros(3), directions, outer, ball.faces[above], last=True)
    assert (hit[downwards] == -1).all()
    assert (hit[upwards] >= 0).all()
    first, _ = cast_rays(np.zeros(3), directions, vertices, faces)
    assert (first < len(ball.faces)).all()


def test_rays_against_points_made_in_the_plane():
    """Where a ray is aimed at a known point of a triangle's plane, that point's weights and distance come out."""
    rng = np.random.default_rng(1)
    corners, origins, weights = rng.normal(size=(50, 3, 3)), rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    weights /= weights.sum(1, keepdims=True)
    points = (corners * weights[..., None]).sum(1)
    distance, found = meet_planes(origins, (points - origins) / 3, corners)
    np.testing.assert_allclose(distance, 3)
    np.testing.assert_allclose(found, weights, atol=1e-8)
    flat = np.concatenate([corners[0, :, :2], np.zeros((3, 1))], 1)[None]
    assert np.isnan(meet_planes(np.zeros((1, 3)), np.array([[1.0, 0, 0]]), flat)[1]).all()
