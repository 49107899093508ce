"""p2m_workbench.photos.texture: the photo's colours, and those of the other side where the photo shows none."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh
from example_predictions import hexagonal_disc

from p2m_workbench.drawing.mesh_images import MOUTH
from p2m_workbench.photos import texture


def test_photo_colors_are_bilinear():
    photo = np.zeros((4, 5, 3), np.uint8)
    photo[..., 0] = 10 * np.arange(5)
    points = np.array([[1.5, 2, 0], [0, 0, 9], [-8, 1, 0], [40, 3, 0]])
    assert texture.photo_colors(photo, points)[:, 0].tolist() == [15, 0, 0, 40]


def test_what_a_photo_shows_of_two_walls():
    """Two squares that face the camera, the right half of the further one behind the nearer one."""
    square = np.stack(np.meshgrid(np.arange(9.0), np.arange(9.0)), -1).reshape(-1, 2) * 10
    k = np.arange(72)[np.arange(72) % 9 < 8]
    faces = np.concatenate([np.stack([k, k + 9, k + 1], 1), np.stack([k + 1, k + 9, k + 10], 1)])
    far, near = np.column_stack([square, np.zeros(81)]), np.column_stack([square + [45, 0], np.full(81, 30.0)])
    vertices, faces = np.concatenate([far, near]), np.concatenate([faces, faces + 81])
    share = texture.seen_share(vertices, faces, 200, 200)
    expected = np.concatenate([square[:, 0] < 40, np.ones(81)])  # what lies beside a hidden vertex does not count
    np.testing.assert_allclose(share, expected, atol=1e-6)
    assert not texture.seen_share(vertices, faces[:, ::-1], 200, 200).any()  # from behind
    beside = texture.seen_share(vertices, faces, 200, 100)
    assert not beside[vertices[:, 0] > 100].any()
    assert beside[81:][near[:, 0] < 90].all()


def test_a_flattened_mesh_has_no_folds_and_more_room_where_the_pull_is_low():
    disc, faces = hexagonal_disc(6)
    shuffle = np.random.default_rng(0).permutation(len(faces))
    middle = np.linalg.norm(disc, axis=1) < 0.4
    areas = []
    for pull in (1.0, 0.3):
        uv = texture.flattened(faces[shuffle], np.where(middle, pull, 1.0))
        corners = np.pad(uv[faces], ((0, 0), (0, 0), (0, 1)))
        assert (trimesh.triangles.normals(corners)[0][:, 2] > 0.99).all()
        assert ((uv > 0) & (uv < 1)).all()
        areas.append(trimesh.triangles.area(corners[middle[faces].all(1)]).sum())
    assert areas[1] > 1.3 * areas[0]


def test_what_is_hidden_has_the_colours_of_the_other_side(with_eyes):
    """A photo whose left and right half differ in colour, where each vertex is seen on its own half."""
    mesh, photo = with_eyes.mesh, with_eyes.photo.copy()
    own = texture.photo_colors(photo, mesh.vertices_px).astype(int)
    share = texture.seen_share(mesh.vertices_px, mesh.faces, *photo.shape[:2])
    hidden = (share == 0) & (share[mesh.mirror] == 1)
    mouth = mesh.groups == 3
    inside = np.zeros(len(own), bool)
    inside[np.setdiff1d(mesh.faces[mouth], mesh.faces[~mouth])] = True
    colors = texture.face_colors(photo, mesh).astype(int)
    assert (colors[inside] == MOUTH).all()
    seen, hidden = (share == 1) & ~inside, hidden & ~inside
    assert seen.sum() > 1000
    assert hidden.sum() > 100
    np.testing.assert_array_equal(colors[seen], own[seen])
    np.testing.assert_array_equal(colors[hidden], own[mesh.mirror][hidden])
    assert (colors[hidden] != own[hidden]).any(1).mean() > 0.5
    np.testing.assert_array_equal(texture.face_colors(photo, replace(mesh, groups=None)), own)


@pytest.mark.parametrize("side_px", [256, 1024])
def test_the_texture_has_these_colours_at_each_vertex(with_eyes, side_px):
    mesh = with_eyes.mesh
    soft = np.stack(np.meshgrid(np.linspace(0, 255, 280), np.linspace(0, 255, 300)), -1)
    photo = np.uint8(np.concatenate([soft, soft[..., :1]], -1))
    picture, uv = texture.face_texture(photo, mesh, side_px)
    assert picture.shape == (side_px, side_px, 3)
    across, down = ((uv * [1, -1] + [0, 1]) * side_px - 0.5).T
    found = texture.photo_colors(picture, np.stack([across, down], 1)).astype(int)
    mouth = np.isin(np.arange(len(uv)), mesh.faces[mesh.groups == 3])
    away = np.abs(found - texture.face_colors(photo, mesh))[~mouth].max(1)
    assert np.percentile(away, 95) <= 1024 / side_px * 4
    assert away.mean() < 1024 / side_px
