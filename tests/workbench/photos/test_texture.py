"""p2m_workbench.photos.texture: the photo's colours, and those of the other side where the photo shows none."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh
from example_predictions import hexagonal_disc

from p2m_core.geometry.mesh import mesh_edges
from p2m_core.geometry.rasterizer import rasterize
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
    # What lies on the contour, or next to it or to a hidden vertex, does not count.
    seen = np.concatenate([(square[:, 0] > 10) & (square[:, 0] < 40), near[:, 0] < 115])
    seen &= (vertices[:, 1] > 10) & (vertices[:, 1] < 70)
    np.testing.assert_allclose(share, seen, atol=1e-6)
    assert not texture.seen_share(vertices, faces[:, ::-1], 200, 200).any()  # from behind
    beside = texture.seen_share(vertices, faces, 200, 100)
    assert not beside[vertices[:, 0] > 100].any()
    assert beside[seen & (vertices[:, 0] < 90)].all()


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


def parts(mesh):
    """Whether each vertex is an inner one of the eyes, and of the mouth."""
    inner = np.zeros((2, len(mesh.vertices_px)), bool)
    for row, groups in zip(inner, ([1, 2], [3]), strict=True):
        row[np.setdiff1d(mesh.faces, mesh.faces[~np.isin(mesh.groups, groups)])] = True
    return inner


def test_what_is_hidden_has_the_colours_of_the_other_side(with_eyes):
    """A photo of bands: what is hidden has those of the mirrored vertices, what is seen its own."""
    mesh, photo = with_eyes.mesh, np.zeros((300, 280, 3), np.uint8)
    photo[...] = 120 + 60 * np.sin(np.arange(300) / 5)[:, None, None]
    own = texture.photo_colors(photo, mesh.vertices_px).astype(int)
    share = texture.seen_share(mesh.vertices_px, mesh.faces, *photo.shape[:2])
    _, mouth = parts(mesh)
    colors = texture.face_colors(photo, mesh).astype(int)
    assert (colors[mouth] == MOUTH).all()
    seen, hidden = (share == 1) & ~mouth, (share == 0) & (share[mesh.mirror] == 1) & ~mouth
    assert seen.sum() > 1000
    assert hidden.sum() > 100
    np.testing.assert_array_equal(colors[seen], own[seen])
    assert np.abs(colors - own[mesh.mirror])[hidden].mean() < 12  # of light that hardly differs
    assert np.corrcoef(colors[hidden, 0], own[mesh.mirror][hidden, 0])[0, 1] > 0.95
    np.testing.assert_array_equal(texture.face_colors(photo, replace(mesh, groups=None)), own)


def test_no_background_and_no_seam(with_eyes):
    """Skin in light from the side, and a mesh that lies 3 px off: none of the background comes to the face, and
    neighbours differ by no more than the light does."""
    mesh, shape = with_eyes.mesh, (300, 280)
    skin = rasterize(mesh.vertices_px, mesh.faces, *shape)[0] >= 0
    light = np.linspace(90, 190, shape[1])
    photo = np.where(skin[..., None], light[None, :, None], [255, 0, 255]).astype(np.uint8)
    shifted = replace(mesh, vertices_px=mesh.vertices_px + np.float32([3, -2, 0]))
    raw = texture.photo_colors(photo, shifted.vertices_px).astype(int)
    assert (np.ptp(raw, axis=1) > 50).mean() > 0.01  # without care there is some
    colors, (eyes, mouth) = texture.face_colors(photo, shifted).astype(int), parts(mesh)
    on_skin = ~(eyes | mouth)
    assert np.ptp(colors[on_skin], axis=1).max() <= 12
    assert colors[on_skin].min() > 80
    assert colors[on_skin].max() < 200
    edges = mesh_edges(mesh.faces)
    steps = np.abs(np.diff(colors[:, 1][edges], axis=1))[on_skin[edges].all(1)]
    assert steps.max() <= 12
    picture, _ = texture.face_texture(photo, shifted, 512)
    assert np.percentile(np.ptp(picture.astype(int), axis=2), 97) <= 12  # the eyes' white is no grey


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
