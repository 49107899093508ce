"""p2m_synth.render.skin: what is painted."""

from dataclasses import replace

import numpy as np
import pytest

from p2m_synth.appearance import draw_appearance
from p2m_synth.head.asset import PARTS
from p2m_synth.head.head_mesh import load_head_mesh
from p2m_synth.head.identity import draw_identity
from p2m_synth.render import skin


@pytest.fixture(scope="module")
def head_mesh(head):
    return load_head_mesh()


def look(seed=0, **changes):
    rng = np.random.default_rng(seed)
    return replace(draw_appearance(rng, draw_identity(rng)), **changes)


# --- pictures of the unrolled face ---


def test_the_unrolled_face_is_even():
    """A degree is 7/3 px everywhere, and about as wide as it is high in front."""
    front = np.array([[0.0, 7.0, 1.4], [0.0, 7.1, 1.4]])
    column, row = skin.to_marks_px(front)
    assert column == pytest.approx(120 * 7 / 3)
    assert row[0] - row[1] == pytest.approx(0.1 * skin.PX_PER_DM)
    angle = np.radians([0, 30, -60, 90])
    around = np.stack([np.sin(angle), np.full(4, 7.0), 0.45 + np.cos(angle)], 1)
    np.testing.assert_allclose(skin.to_marks_px(around)[0], (np.degrees(angle) + 120) * 7 / 3)


def test_look_up_is_bilinear_and_zero_outside():
    rng = np.random.default_rng(0)
    picture = rng.random((9, 12, 2)).astype(np.float32)
    column, row = rng.uniform(0, 11, 2000), rng.uniform(0, 8, 2000)
    x, y = column.astype(int).clip(0, 10), row.astype(int).clip(0, 7)
    u, v = (column - x)[:, None], (row - y)[:, None]
    expected = (1 - v) * ((1 - u) * picture[y, x] + u * picture[y, x + 1])
    expected += v * ((1 - u) * picture[y + 1, x] + u * picture[y + 1, x + 1])
    found = skin.look_up(picture, np.float32(column), np.float32(row))
    np.testing.assert_allclose(found, expected, atol=0.03)  # OpenCV looks up at 1/32 px
    assert (skin.look_up(picture, np.float32([-5, 30]), np.float32([3, 3])) == 0).all()
    assert skin.look_up(picture, np.float32([]), np.float32([])).shape == (0, 2)


def test_look_up_repeats():
    picture = np.random.default_rng(1).random((17, 17)).astype(np.float32)
    column, row = np.float32([3.25, 3.25 + 16, 3.25 - 32]), np.float32([5.5, 5.5 - 16, 5.5 + 64])
    found = skin.look_up(picture, column, row, wrap=True)
    np.testing.assert_allclose(found, found[0], atol=1e-4)


def test_lines_and_dots_lie_where_they_are_drawn(head_mesh):
    pen = skin.Pen(np.random.default_rng(0))
    a, b = head_mesh.landmarks[[31, 35]].astype(float)
    pen.line(np.array([a, b]), 1.0, 0.02)
    middle = (a + b) / 2
    column, row = skin.to_marks_px(middle)
    near = pen.picture[int(row) - 8 : int(row) + 9, int(column) - 3 : int(column) + 4]
    assert near.max() > 200
    marked = np.argwhere(pen.picture)
    assert abs(marked[:, 0] - row).max() < 15
    pen = skin.Pen(np.random.default_rng(0))
    pen.dot(a, 0.02, 0.5)
    place = np.argwhere(pen.picture).mean(0)
    np.testing.assert_allclose(place, np.array(skin.to_marks_px(a))[::-1], atol=1)
    assert pen.picture.max() == 127
    pen.line(np.array([[0, 3.0, 1.4], [0.1, 3.0, 1.4]]), 1.0, 0.02)  # below the unrolled part: nothing happens


def test_slopes_fall_into_a_wrinkle_from_both_sides(head_mesh):
    marks = skin.draw_marks(head_mesh, look(age=1.0, freckles=0.0), {"browInnerUp": 1.0}, np.random.default_rng(0))
    assert marks.shape == (skin.HEIGHT_PX, skin.WIDTH_PX, 4)
    wrinkle, across = marks[..., 1], marks[..., 3]
    row, column = np.unravel_index(np.argmax(wrinkle[:150, 200:360]), (150, 160))
    column += 200
    assert wrinkle[row, column] > 0.1
    above, below = across[row - 4 : row, column].sum(), across[row + 1 : row + 5, column].sum()
    assert above > 0 > below


def test_wrinkles_come_with_age_and_with_folds(head_mesh):
    def amount(age, units=None):
        drawn = [
            skin.draw_marks(head_mesh, look(age=age), units or {}, np.random.default_rng(seed))[..., 1].mean()
            for seed in range(6)
        ]
        return np.mean(drawn)

    young, old = amount(0.3), amount(1.0)
    assert old > 4 * young
    assert amount(0.5, {"mouthSmileLeft": 1.0, "cheekSquintLeft": 1.0, "eyeSquintLeft": 1.0}) > 1.5 * amount(0.5)


def test_freckles_are_marks(head_mesh):
    plain, freckled = (
        skin.draw_marks(head_mesh, look(age=0.4, freckles=f, blemishes=0.0), {}, np.random.default_rng(2))[..., 0]
        for f in (0.0, 1.0)
    )
    assert (freckled > 0.1).sum() > 10 * (plain > 0.1).sum() + 100


# --- colours ---


def test_melanin_darkens_skin():
    tones = [np.mean([skin.tone(m, np.random.default_rng(k)) for k in range(30)], 0) for m in np.linspace(0, 1, 6)]
    assert (np.diff(tones, axis=0) < 0).all()
    assert all(r > g > b for r, g, b in tones)


def test_lipstick_colours_lips_and_nothing_else(head_mesh):
    base = np.float32([0.5, 0.33, 0.25])
    red = np.float32([0.6, 0.02, 0.05])
    plain = skin.skin_color(head_mesh, look(lipstick=0.0), base, np.random.default_rng(0))[0]
    made_up = skin.skin_color(head_mesh, look(lipstick=1.0, lipstick_color=red), base, np.random.default_rng(0))[0]
    lips = head_mesh.masks["lips"]
    np.testing.assert_allclose(made_up[lips > 0.95], np.broadcast_to(red, (int((lips > 0.95).sum()), 3)), atol=0.02)
    np.testing.assert_array_equal(made_up[lips == 0], plain[lips == 0])


def test_the_skin_is_dark_along_the_upper_lid_and_beyond_the_outer_corner(head_mesh):
    fold, marks, places = head_mesh.masks["fold"], head_mesh.landmarks, head_mesh.canonical
    dark = places[fold > 0.5]
    lids = marks[[36, 37, 38, 39]] * [-1, 1, 1]
    above = dark[:, 1] - np.interp(abs(dark[:, 0]), lids[::-1, 0], lids[::-1, 1])
    assert above.min() > -0.005  # dm
    assert above.max() < 0.05
    assert (abs(dark[:, 0]) > lids[0, 0]).any()
    assert 0.45 < (dark[:, 0] > 0).mean() < 0.55
    assert abs(places[fold > 0.05, 0]).min() > 0.1  # none on the nose


def test_stubble_and_the_hairs_ground_darken_where_they_are(head_mesh):
    person = look(
        hair_color=np.float32([0.01, 0.01, 0.01]), natural_color=np.float32([0.01, 0.01, 0.01]), roughness=0.0
    )
    person = replace(person, beard=replace(person.beard, stubble=0.8))
    points = head_mesh.canonical[head_mesh.face_idx][:300]
    marks = np.zeros((skin.HEIGHT_PX, skin.WIDTH_PX, 4), np.float32)
    values = np.zeros((300, 7), np.float32)
    values[:, :3], values[:, 3] = 0.5, 0.2
    values[100:200, 5], values[200:, 6] = 1, 1  # stubble, ground
    color, gloss, slope = skin.skin_detail(person, marks, points, values, np.random.default_rng(0))
    np.testing.assert_allclose(color[:100], 0.5, atol=1e-6)
    assert color[100:200].max() < 0.45
    assert color[200:].max() < 0.25
    assert color[200:].mean() < 0.1
    assert gloss[200:].max() < 0.05
    assert (slope == 0).all()


def test_eyes_have_pupil_iris_and_white():
    person = look(iris=np.float32([0.1, 0.17, 0.24]), iris_deg=26.0, pupil_deg=10.0, red_eyes=0.0, melanin=0.0)
    turn = np.radians([0, 5, 18, 40, 60])
    points = np.stack([np.sin(turn), 0 * turn - 0.3 * np.sin(turn), np.cos(turn)], 1) * 1.3e4
    axis = np.tile([0.0, 0.0, 1.0], (5, 1))
    color = skin.eye_color(person, points, axis, np.random.default_rng(0))
    assert color[:2].max() < 0.02  # pupil
    assert color[2, 2] > color[2, 0]  # blue iris
    assert (color[3:] > 0.3).all()  # white
    moved = skin.eye_color(person, points, np.tile(points[3] / 1.3e4, (5, 1)), np.random.default_rng(0))
    assert moved[3].max() < 0.02  # it looks there now


def test_teeth_are_light_and_cavities_dark(head_mesh):
    part = np.array([PARTS.index(name) for name in ("upper_teeth", "lower_teeth", "tongue", "mouth_cavity")])
    idx = [np.unique(head_mesh.triangles[head_mesh.part == p]) for p in part]
    edge = (-1, 1, 0, 0)  # the biting edge of the upper teeth is their lowest part
    front = np.array([i[np.argmax(head_mesh.canonical[i] @ [0, e, 1.0])] for i, e in zip(idx, edge, strict=True)])
    teeth = np.float32([0.7, 0.65, 0.55])
    color, gloss, openness = skin.mouth_color(part, head_mesh.canonical[front], teeth)
    assert (color[:2, 1] > 0.2).all()
    assert color[3].max() < 0.15
    assert color[2, 0] > 2 * color[2, 1]
    assert gloss[0] > gloss[3]
    assert openness[0] > openness[2] > openness[3]
