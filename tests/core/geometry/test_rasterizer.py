import numpy as np
import pytest
from example_predictions import made_up

from p2m_core.geometry import rasterizer
from p2m_synth.render import shaded_mesh


@pytest.fixture(scope="module")
def prediction():
    return made_up(rings=4, levels=3)


def paper(height=64, width=64, value=255):
    return np.full((height, width, 3), value, np.uint8)


# Both triangles of a square, counter-clockwise seen with y up.
SQUARE = np.array([[0, 1, 2], [0, 2, 3]])


def square(x0, y0, x1, y1, z=0.0):
    return np.array([[x0, y0, z], [x0, y1, z], [x1, y1, z], [x1, y0, z]], np.float32)


def test_a_depth_map_is_the_depth_of_rasterize():
    rng = np.random.default_rng(4)
    vertices, faces = rng.uniform(-4, 44, (60, 3)), rng.permutation(60).reshape(20, 3)
    assert np.array_equal(
        rasterizer.depth_map(vertices, faces, 37, 41), rasterizer.rasterize(vertices, faces, 37, 41)[2]
    )


@pytest.mark.parametrize("upwards", [False, True])
def test_a_closed_surface_loses_nothing_but_its_back(upwards):
    """A cube, turned, before a larger sheet that is seen from behind and does not count as closed."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    sheet = np.array([[-3, -3, -4], [-3, 3, -4], [3, 3, -4.0]])  # clockwise
    vertices = np.concatenate([corners @ turn.T, sheet]) * [9, 9 if upwards else -9, 9] + [20, 20, 0]
    cube = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    assert np.einsum("tk,tk->", corners[cube[:, 0]], np.cross(*(corners[cube[:, k]] for k in (1, 2)))) > 0
    faces = np.concatenate([cube, [[8, 9, 10]]])
    draw = rasterizer.depth_map if upwards else lambda *given: rasterizer.rasterize(*given)[2]
    whole, without_backs, all_closed = (draw(vertices, faces, 41, 41, closed) for closed in (0, 12, 13))
    assert np.array_equal(whole, without_backs)
    assert (all_closed == -np.inf).sum() > (whole == -np.inf).sum()  # the sheet's back is gone


def test_rasterize_equals_the_loop():
    rng = np.random.default_rng(3)
    vertices = rng.uniform(-4, 24, (18, 3)).astype(np.float32)
    faces = rng.permutation(18).reshape(6, 3)
    triangle, bary, depth = rasterizer.rasterize(vertices, faces, 17, 21)
    for y in range(17):
        for x in range(21):
            best, who = -np.inf, -1
            for f, face in enumerate(faces):
                a, b, c = vertices[face].astype(float)
                weights = np.linalg.solve(np.array([[a[0], b[0], c[0]], [a[1], b[1], c[1]], [1, 1, 1]]), [x, y, 1])
                if weights.min() >= 0 and weights @ [a[2], b[2], c[2]] > best:
                    best, who = weights @ [a[2], b[2], c[2]], f
            assert triangle[y, x] == who
            assert depth[y, x] == pytest.approx(best, rel=1e-4)
    seen = triangle >= 0
    assert seen.sum() > 50
    np.testing.assert_allclose(bary[seen].sum(-1), 1, atol=1e-5)
    where = (vertices[faces[triangle[seen]]] * bary[seen][..., None]).sum(1)
    row, column = np.nonzero(seen)
    np.testing.assert_allclose(where[:, :2], np.stack([column, row], 1), atol=1e-3)


def test_rasterize_leaves_out_what_is_not_finite():
    vertices = square(2, 2, 9, 9)
    vertices[1, 0] = np.nan  # a corner of the first triangle only
    triangle, _, _ = rasterizer.rasterize(vertices, SQUARE, 12, 12)
    assert set(np.unique(triangle)) == {-1, 1}


def test_normals_of_a_cap_point_away_from_its_centre():
    rng = np.random.default_rng(0)
    tilt = rng.uniform(0, 0.4, 40)
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    rim = np.stack([np.sin(tilt + 0.5) * np.cos(turn), np.sin(tilt + 0.5) * np.sin(turn), np.cos(tilt + 0.5)], 1)
    vertices = np.concatenate([[[0, 0, 1]], rim])
    faces = np.array([[0, 1 + k, 1 + (k + 1) % 40] for k in range(40)])
    normals = rasterizer.vertex_normals(vertices, faces)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    assert ((normals * vertices).sum(1) > 0).all()


@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_a_square_on_pixel_borders_covers_them_and_no_other(supersample):
    black = np.zeros((4, 3))
    picture = shaded_mesh.draw_mesh(paper(), square(9.5, 4.5, 19.5, 9.5), SQUARE, black, supersample=supersample)
    inside = np.zeros((64, 64), bool)
    inside[5:10, 10:20] = True
    assert (picture[~inside] == 255).all()
    assert (picture[inside] < 40).all()  # black but for the highlight


def test_antialiasing_keeps_area():
    """What a tilted square darkens is its area, whatever its place between the pixels."""
    corners = square(-9.7, -9.7, 9.7, 9.7)
    c, s = np.cos(0.4), np.sin(0.4)
    corners[:, :2] = corners[:, :2] @ np.array([[c, s], [-s, c]]) + [30.3, 31.8]
    black = np.zeros((4, 3))
    full = shaded_mesh.draw_mesh(paper(), corners, SQUARE, black, supersample=4).astype(float)
    dark = full[30, 30]
    area = ((255 - full) / (255 - dark)).mean(-1).sum()
    assert area == pytest.approx(19.4**2, rel=0.01)


def test_alpha_blends(prediction):
    mesh, photo = prediction.mesh, prediction.photo
    kept = photo.copy()
    opaque = shaded_mesh.draw_mesh(photo, mesh.vertices_px, mesh.faces).astype(int)
    half = shaded_mesh.draw_mesh(photo, mesh.vertices_px, mesh.faces, alpha=0.5).astype(int)
    np.testing.assert_array_equal(shaded_mesh.draw_mesh(photo, mesh.vertices_px, mesh.faces, alpha=0), photo)
    np.testing.assert_array_equal(photo, kept)
    assert np.abs(half - (opaque + photo) / 2).max() <= 1.01
    x0, y0 = np.floor(mesh.vertices_px[:, :2].min(0)).astype(int) - 1
    x1, y1 = np.ceil(mesh.vertices_px[:, :2].max(0)).astype(int) + 2
    away = np.ones(photo.shape[:2], bool)
    away[y0:y1, x0:x1] = False
    np.testing.assert_array_equal(opaque[away], photo[away])


def test_the_inside_is_darker_than_the_outside():
    corners = square(10, 10, 50, 50)
    outside = shaded_mesh.draw_mesh(paper(), corners, SQUARE)[30, 30]
    inside = shaded_mesh.draw_mesh(paper(), corners, SQUARE[:, ::-1])[30, 30]
    assert (inside < 0.8 * outside).all()


def test_wires_lie_on_edges():
    corners = square(10, 10, 50, 50)
    plain = shaded_mesh.draw_mesh(paper(), corners, SQUARE).astype(int)
    wired = shaded_mesh.draw_mesh(paper(), corners, SQUARE, wire_px=2).astype(int)
    change = (plain != wired).any(-1)
    assert change[30, 30]  # on the diagonal
    assert not change[20, 40]  # in the middle of a triangle
    assert not change[40, 20]


def test_a_face_in_a_large_photo_is_drawn_as_in_a_small_one(prediction):
    """Only the window about the mesh is drawn; what lies outside stays, and a mesh beyond the photo changes nothing."""
    photo, mesh = prediction.photo, prediction.mesh
    wide = np.pad(photo, ((30, 50), (70, 20), (0, 0)), mode="edge")
    drawn = shaded_mesh.draw_mesh(wide, mesh.vertices_px + np.float32([70, 30, 0]), mesh.faces)
    small = shaded_mesh.draw_mesh(photo, mesh.vertices_px, mesh.faces)
    np.testing.assert_allclose(drawn[30:-50, 70:-20].astype(int), small, atol=1)
    np.testing.assert_array_equal(drawn[:30], wide[:30])
    far = mesh.vertices_px + np.float32([9000, 0, 0])
    np.testing.assert_array_equal(shaded_mesh.draw_mesh(photo, far, mesh.faces), photo)
    rows, columns = rasterizer.window(np.array([[3.2, 5.0, 0], [np.nan, 0, 0], [90, 8.5, 0]]), 40, 60, 1)
    assert (rows, columns) == (slice(4, 11), slice(2, 60))
