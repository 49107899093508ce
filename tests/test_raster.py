import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from specimens import made_up

from p2m_core import raster
from p2m_core.facemesh import to_world


@pytest.fixture(scope="module")
def specimen():
    return made_up(rings=4, levels=3)


def paper(height=64, width=64, value=255):
    return np.full((height, width, 3), value, np.uint8)


# Both triangles of a square, counter-clockwise seen with y up.
SQUARE = np.array([[0, 1, 2], [0, 2, 3]])


def square(x0, y0, x1, y1, z=0.0):
    return np.array([[x0, y0, z], [x0, y1, z], [x1, y1, z], [x1, y0, z]], np.float32)


def test_rasterize_equals_the_loop():
    rng = np.random.default_rng(3)
    vertices = rng.uniform(-4, 24, (18, 3)).astype(np.float32)
    faces = rng.permutation(18).reshape(6, 3)
    triangle, bary, depth = raster.rasterize(vertices, faces, 17, 21)
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
    triangle, _, _ = raster.rasterize(vertices, SQUARE, 12, 12)
    assert set(np.unique(triangle)) == {-1, 1}


def test_normals_of_a_cap_point_away_from_its_centre():
    rng = np.random.default_rng(0)
    tilt = rng.uniform(0, 0.4, 40)
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    rim = np.stack([np.sin(tilt + 0.5) * np.cos(turn), np.sin(tilt + 0.5) * np.sin(turn), np.cos(tilt + 0.5)], 1)
    vertices = np.concatenate([[[0, 0, 1]], rim])
    faces = np.array([[0, 1 + k, 1 + (k + 1) % 40] for k in range(40)])
    normals = raster.vertex_normals(vertices, faces)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    assert ((normals * vertices).sum(1) > 0).all()


@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_a_square_on_pixel_borders_covers_them_and_no_other(supersample):
    black = np.zeros((4, 3))
    picture = raster.draw_mesh(paper(), square(9.5, 4.5, 19.5, 9.5), SQUARE, black, supersample=supersample)
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
    full = raster.draw_mesh(paper(), corners, SQUARE, black, supersample=4).astype(float)
    dark = full[30, 30]
    area = ((255 - full) / (255 - dark)).mean(-1).sum()
    assert area == pytest.approx(19.4**2, rel=0.01)


def test_alpha_blends(specimen):
    mesh, photo = specimen.mesh, specimen.photo
    kept = photo.copy()
    opaque = raster.draw_mesh(photo, mesh.vertices_px, mesh.faces).astype(int)
    half = raster.draw_mesh(photo, mesh.vertices_px, mesh.faces, alpha=0.5).astype(int)
    np.testing.assert_array_equal(raster.draw_mesh(photo, mesh.vertices_px, mesh.faces, alpha=0), photo)
    np.testing.assert_array_equal(photo, kept)
    assert np.abs(half - (opaque + photo) / 2).max() <= 1.01
    x0, y0 = np.floor(mesh.vertices_px[:, :2].min(0)).astype(int) - 1
    x1, y1 = np.ceil(mesh.vertices_px[:, :2].max(0)).astype(int) + 2
    away = np.ones(photo.shape[:2], bool)
    away[y0:y1, x0:x1] = False
    np.testing.assert_array_equal(opaque[away], photo[away])


def test_the_inside_is_darker_than_the_outside():
    corners = square(10, 10, 50, 50)
    outside = raster.draw_mesh(paper(), corners, SQUARE)[30, 30]
    inside = raster.draw_mesh(paper(), corners, SQUARE[:, ::-1])[30, 30]
    assert (inside < 0.8 * outside).all()


def test_wires_lie_on_edges():
    corners = square(10, 10, 50, 50)
    plain = raster.draw_mesh(paper(), corners, SQUARE).astype(int)
    wired = raster.draw_mesh(paper(), corners, SQUARE, wire_px=2).astype(int)
    change = (plain != wired).any(-1)
    assert change[30, 30]  # on the diagonal
    assert not change[20, 40]  # in the middle of a triangle
    assert not change[40, 20]


def test_turn_keeps_shape_and_turns_a_face_to_the_right(specimen):
    vertices = np.asarray(specimen.mesh.vertices_px, float)
    turned = raster.turn(vertices, 37, 20)
    nose = vertices[:, 2].argmax()
    assert raster.turn(vertices, 37)[nose, 0] > vertices[nose, 0] + 1
    assert raster.turn(vertices, 0, 20)[nose, 1] > vertices[nose, 1] + 1  # y points down

    def sides(points):
        return np.linalg.norm(points[specimen.mesh.faces[:, 0]] - points[specimen.mesh.faces[:, 1]], axis=1)

    np.testing.assert_allclose(sides(turned), sides(vertices))
    normals = raster.vertex_normals(to_world(turned), specimen.mesh.faces)
    assert normals[nose, 2] > 0  # a rotation, not a mirror image, which would turn faces inside out


@pytest.mark.parametrize("yaw_deg", [0, 45, 90])
def test_draw_turned_fits_in_its_frame(specimen, yaw_deg):
    mesh = specimen.mesh
    picture = raster.draw_turned(mesh.vertices_px, mesh.faces, yaw_deg, 120)
    assert picture.shape == (120, 120, 3)
    drawn = (picture != np.array(raster.PAPER)).any(-1)
    assert not drawn[[0, -1]].any()
    assert not drawn[:, [0, -1]].any()
    rows = np.flatnonzero(drawn.any(1))
    assert rows[-1] - rows[0] == pytest.approx(0.86 * 120, abs=2)  # the height is the same at every yaw


def test_draw_levels_is_a_row(specimen):
    assert raster.draw_levels(specimen.mesh, size_px=90).shape == (90, 270, 3)


def test_error_colors():
    colors = raster.error_colors(np.array([0, 1, 2, 3, 4, 9, -1, np.nan, np.inf]), 4)
    assert colors.dtype == np.uint8
    np.testing.assert_array_equal(colors[:5], raster.ERROR_RAMP)
    np.testing.assert_array_equal(colors[5:7], [raster.ERROR_RAMP[-1], raster.ERROR_RAMP[0]])
    np.testing.assert_array_equal(colors[7:], 128)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=50))
def test_error_scale_is_a_round_number_just_above(errors):
    top = np.percentile(errors, 98)
    scale = raster.error_scale(np.array(errors))
    assert top * (1 - 1e-6) - 1e-12 <= scale <= 1.51 * top + 1e-12
    assert len(f"{scale:.3e}".split("e")[0].rstrip("0.")) <= 3  # such as 1.5 or 4, nothing like 1.37


def test_error_scale_of_nothing():
    assert raster.error_scale(np.zeros(5)) == 1
    assert raster.error_scale(np.full(5, np.nan)) == 1


def test_landmarks_are_drawn_where_they_are():
    points = np.array([[20, 12, 3.0], [40.5, 30, 0], [-50, 3, 0], [1e9, 5, 0], [np.nan, 1, 0], [63, 63, 0]])
    before = paper(64, 64, 90)
    picture = raster.draw_landmarks(before, points, (250, 10, 20), radius_px=3)
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
    np.testing.assert_array_equal(raster.draw_landmarks(before, np.zeros((0, 3))), before)


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("shape", [(90, 160), (160, 90)])
def test_static_picture(truth, shape):
    picture = raster.static_picture(made_up(truth=truth, rings=3, levels=2, height=shape[0], width=shape[1]), 100)
    count = 5 if truth else 4
    assert picture.dtype == np.uint8
    assert picture.shape[1] == count * 100 + (count - 1) * 6
    for k in range(count):
        tile = picture[:100, 106 * k : 106 * k + 100].reshape(-1, 3)
        assert len(np.unique(tile, axis=0)) > 50, f"picture {k} is blank"


def test_the_mesh_on_a_scaled_photo_stays_in_its_place(specimen):
    """static_picture scales photo and mesh; the mesh's box has to scale with the photo's pixels."""
    size = 150
    row = raster.static_picture(specimen, size)
    plain, mesh = row[:size, :size].astype(int), row[:size, size + 6 : 2 * size + 6].astype(int)
    drawn = np.abs(plain - mesh).max(-1) > 25
    height, width = specimen.photo.shape[:2]
    scale = size / height
    left = (size - round(width * scale)) // 2
    columns, rows = np.flatnonzero(drawn.any(0)), np.flatnonzero(drawn.any(1))
    x, y = (specimen.mesh.vertices_px[:, :2] + 0.5).T * scale
    found = [columns[0], columns[-1] + 1, rows[0], rows[-1] + 1]
    np.testing.assert_allclose(found, [x.min() + left, x.max() + left, y.min(), y.max()], atol=1.6)


def test_a_face_in_a_large_photo_is_drawn_as_in_a_small_one(specimen):
    """Only the window about the mesh is drawn; what lies outside stays, and a mesh beyond the photo changes nothing."""
    photo, mesh = specimen.photo, specimen.mesh
    wide = np.pad(photo, ((30, 50), (70, 20), (0, 0)), mode="edge")
    drawn = raster.draw_mesh(wide, mesh.vertices_px + np.float32([70, 30, 0]), mesh.faces)
    small = raster.draw_mesh(photo, mesh.vertices_px, mesh.faces)
    np.testing.assert_allclose(drawn[30:-50, 70:-20].astype(int), small, atol=1)
    np.testing.assert_array_equal(drawn[:30], wide[:30])
    far = mesh.vertices_px + np.float32([9000, 0, 0])
    np.testing.assert_array_equal(raster.draw_mesh(photo, far, mesh.faces), photo)
    rows, columns = raster.window(np.array([[3.2, 5.0, 0], [np.nan, 0, 0], [90, 8.5, 0]]), 40, 60, 1)
    assert (rows, columns) == (slice(4, 11), slice(2, 60))


def test_photo_colors_are_bilinear():
    photo = np.zeros((4, 5, 3), np.uint8)
    photo[..., 0] = 10 * np.arange(5)
    points = np.array([[1.5, 2, 0], [0, 0, 9], [-8, 1, 0], [40, 3, 0]])
    assert raster.photo_colors(photo, points)[:, 0].tolist() == [15, 0, 0, 40]
