"""p2m_synth.render.renderer: what is drawn lies where the face model says, and is known to be seen or hidden."""

import numpy as np
import pytest

from p2m_core.geometry.camera import angles_from_rotation, model_to_image, rotation_from_angles
from p2m_core.geometry.crop import box_of
from p2m_core.geometry.rasterizer import rasterize
from p2m_synth.hair.style import cut_style
from p2m_synth.head.asset import PARTS
from p2m_synth.head.head_mesh import load_head_mesh
from p2m_synth.person import Overrides, Person, draw_person
from p2m_synth.render import renderer
from p2m_synth.render.renderer import place_head, render
from p2m_synth.scene import elements
from p2m_synth.scene.elements import Camera, Surface
from p2m_synth.writer import DISTANCE_UM, Recipe, draw_angles, draw_sample, take_picture

SIZE = 128


@pytest.fixture(scope="module")
def head_mesh(head):
    return load_head_mesh()


def bare_person(head_mesh, seed=0, units=None) -> Person:
    """The mean face, without expression, hair, beard or anything worn."""
    from dataclasses import replace

    rng = np.random.default_rng(seed)
    person = draw_person(rng, head_mesh.model)
    wear_style = replace(person.look.wear, glasses="none", headwear="none", earrings="none", mask="none")
    beard = replace(person.look.beard, length=0.0, stubble=0.0)
    look = replace(person.look, wear=wear_style, beard=beard, hair=cut_style("bald", rng))
    shape, expression = np.zeros(199), np.zeros(29)
    units = dict.fromkeys(person.units, 0.0) | (units or {})
    return replace(
        person, look=look, units=units, shape=shape, expression=expression,
        vertices=head_mesh.model.vertices(shape, expression),
    )  # fmt: skip


def facing(head_mesh, angles_deg=(0, 0, 0), size=SIZE) -> Camera:
    """A camera on the mean face's middle."""
    pose = np.array([*np.radians(angles_deg), 0, 0, 0, 0.55 * size / 1.8e5])
    landmarks = model_to_image(head_mesh.model.face_model().landmarks(np.zeros(1), np.zeros(1)), pose, size)
    pose[3:5] += [size / 2 - landmarks[:, 0].mean(), landmarks[:, 1].mean() - size / 2]
    return Camera(pose, size)


@pytest.fixture
def nothing_in_front(monkeypatch):
    monkeypatch.setattr(renderer, "draw_occluder", lambda *args: ("none", []))
    monkeypatch.setattr(renderer, "COMPANION_SHARE", 0)


def part_picture(monkeypatch, head_mesh, camera, part, person=None):
    """A picture in which one part of the head is white and all else black: (S, S) in [0, 1]."""
    white = PARTS.index(part)
    seen = {}

    def paint_mesh(image, elements, mesh, solid, light, maps, triangle, bary, strand, open_sky, rng):
        image[:] = 0
        image[(triangle >= 0) & (mesh.part[triangle] == white)] = 1

    monkeypatch.setattr(renderer, "paint_mesh", paint_mesh)
    monkeypatch.setattr(renderer, "paint_hairs", lambda *args: None)
    monkeypatch.setattr(renderer, "take_photo", lambda image, *_: seen.update(image=image) or ("plain", image))
    render(head_mesh, person or bare_person(head_mesh), camera, np.random.default_rng(0))
    return seen["image"][..., 0]


# --- picture and truth agree ---


@pytest.mark.parametrize("angles_deg", [(0, 0, 0), (10, 25, -20), (-15, -30, 30)])
@pytest.mark.parametrize(("part", "idx"), [("right_eye", slice(36, 42)), ("left_eye", slice(42, 48))])
def test_eyes_are_drawn_where_their_landmarks_are(monkeypatch, head_mesh, nothing_in_front, angles_deg, part, idx):
    size = 200
    camera = facing(head_mesh, angles_deg, size)
    landmarks = model_to_image(head_mesh.model.face_model().landmarks(np.zeros(1), np.zeros(1)), camera.pose_para, size)
    picture = part_picture(monkeypatch, head_mesh, camera, part)
    row, column = np.mgrid[:size, :size]
    centre = np.array([(picture * column).sum(), (picture * row).sum()]) / picture.sum()
    eye = landmarks[idx, :2]
    assert np.linalg.norm(centre - eye.mean(0)) < 0.02 * size
    x0, y0, x1, y1 = box_of(eye) + [-2, -2, 2, 2]
    seen = picture > 0.5
    assert seen.sum() > 20
    inside = (column[seen] > x0) & (column[seen] < x1) & (row[seen] > y0) & (row[seen] < y1)
    assert inside.mean() > 0.9


def test_pixels_inside_a_surface_are_shaded_on_a_diagonal_and_edges_whole():
    triangle, strand = np.zeros((8, 8), np.int32), np.full((8, 8), -1, np.int32)
    depth = np.zeros((8, 8), np.float32)
    triangle[1, 2], triangle[4, 5] = -1, 1  # background within a px, and another part
    strand[2, 3], depth[6, 0] = 7, 50  # a hair, and a step in depth
    triangle[6, 6:8] = 2  # another triangle of the same part
    shaded, even = renderer.thin_out(triangle, strand, depth, np.int8([0, 1, 0]), 2)
    assert np.argwhere(~even).tolist() == [[0, 1], [1, 1], [2, 2], [3, 0]]
    left_out = np.kron(even, [[0, 1], [1, 0]]).astype(bool)
    assert np.array_equal(shaded, np.where(left_out, -1, triangle))
    image = np.random.default_rng(0).random((8, 8, 3)).astype(np.float32)
    spread = image.copy()
    renderer._spread(spread, even, 2)
    assert np.array_equal(spread[~left_out], image[~left_out])
    assert np.array_equal(spread[::2, 1::2][even], image[::2, ::2][even])
    assert np.array_equal(spread[1::2, ::2][even], image[1::2, 1::2][even])
    shaded, _ = renderer.thin_out(triangle, strand, depth, np.int8([0, 1, 0]), 1)
    assert np.array_equal(shaded, triangle)  # a single sample is its px's diagonal


def test_the_drawn_skin_is_the_face_models_surface(monkeypatch, head_mesh, nothing_in_front):
    """The face model's own depth picture and the drawn skin cover the same pixels."""
    camera, model = facing(head_mesh, (5, 20, 0)), head_mesh.model.face_model()
    points = model_to_image(model.mean, camera.pose_para, SIZE)
    covered = rasterize(points, model.triangles, SIZE, SIZE)[0] >= 0
    assert covered.sum() > 500
    picture = part_picture(monkeypatch, head_mesh, camera, "skin")
    assert (picture[covered] > 0.5).mean() > 0.97  # eyes apart


def test_the_face_of_a_placed_head_is_the_models(head_mesh):
    rng = np.random.default_rng(0)
    angles, model = np.radians([5, 40, -10]), head_mesh.model.face_model()
    shape, values = rng.normal(size=199) * model.shape_sigma, np.zeros(29)
    turned = place_head(head_mesh, head_mesh.model.vertices(shape, values), angles, rng)
    expected = model.vertices(shape, values) @ rotation_from_angles(angles).T
    apart = np.linalg.norm(turned[head_mesh.face_idx] - expected, axis=1)
    assert np.quantile(apart, 0.95) < 1  # um
    assert apart.max() < 1000  # below the chin the neck begins, which does not quite follow
    np.testing.assert_allclose(angles_from_rotation(rotation_from_angles(angles)), angles)


@pytest.mark.parametrize(("unit", "axis", "sign"), [("eyeLookOut", 0, 1), ("eyeLookIn", 0, -1), ("eyeLookUp", 1, 1)])
def test_eyes_look_where_the_expression_says(head_mesh, unit, axis, sign):
    looking = bare_person(head_mesh, units={f"{unit}Left": 1.0})
    camera = facing(head_mesh)
    moved_scene = renderer.Scene(head_mesh, looking, camera, place_head(head_mesh, looking.vertices, np.zeros(3),
                           np.random.default_rng(0)), [], [], 0, None, None, None)  # fmt: skip
    ahead = renderer.Scene(**{**vars(moved_scene), "person": bare_person(head_mesh)})
    moved = renderer.eye_axes(moved_scene)[1] - renderer.eye_axes(ahead)[1]
    assert (sign * moved[:, axis] > 0.1).all()  # both eyes the same way
    assert abs(renderer.eye_axes(ahead)[1][:, 0]).max() < 0.2


# --- cameras ---


def test_perspective_from_afar_is_none(head_mesh):
    camera = facing(head_mesh, (10, -35, 5))
    points = head_mesh.canonical * 1e5
    far = Camera(camera.pose_para, SIZE, 1e12)
    np.testing.assert_allclose(far.to_px(points), camera.to_px(points), atol=0.01)
    near = Camera(camera.pose_para, SIZE, 4e5)
    apart = near.to_px(points) - camera.to_px(points)
    assert abs(apart).max() > 3
    assert (apart[:, 2] == 0).all()
    # what is nearer than the head's centre grows
    nose = head_mesh.landmarks[30].astype(float) * 1e5
    offset = camera.to_px(nose[None])[0, :2] - (SIZE - 1) / 2
    np.testing.assert_allclose(
        near.to_px(nose[None])[0, :2] - (SIZE - 1) / 2, offset * 4e5 / (4e5 + elements.HEAD_CENTRE_Z_UM - nose[2]),
        rtol=1e-6,
    )  # fmt: skip


def test_samples_lie_evenly_in_pixels(head_mesh):
    camera = facing(head_mesh)
    points = np.float32(head_mesh.landmarks * 1e5)
    px, samples = camera.to_px(points), camera.to_samples(points, 2)
    np.testing.assert_allclose(samples[:, :2], 2 * px[:, :2] + 0.5, atol=1e-3)


# --- what is seen ---


def test_a_bare_frontal_face_hides_nothing(head_mesh, nothing_in_front):
    picture = render(head_mesh, bare_person(head_mesh), facing(head_mesh), np.random.default_rng(0))
    assert set(np.unique(picture.mask)) <= {0, 255}
    assert picture.hidden.sum() <= 4
    model = head_mesh.model.face_model()
    points = model_to_image(model.mean, facing(head_mesh).pose_para, SIZE)
    covered = rasterize(points, model.triangles, SIZE, SIZE)[0] >= 0
    both = (covered & (picture.mask > 0)).sum() / (covered | (picture.mask > 0)).sum()
    assert both > 0.95


@pytest.mark.parametrize("yaw_deg", [60, -60])
def test_a_turned_face_hides_its_far_side(head_mesh, nothing_in_front, yaw_deg):
    camera = facing(head_mesh, (0, yaw_deg, 0))
    picture = render(head_mesh, bare_person(head_mesh), camera, np.random.default_rng(0))
    landmarks = head_mesh.model.face_model().landmarks(np.zeros(1), np.zeros(1))
    depth = model_to_image(landmarks, camera.pose_para, SIZE)[:, 2]
    near, far = (range(9, 15), range(2, 8)) if depth[12] > depth[4] else (range(2, 8), range(9, 15))
    assert picture.hidden[list(far)].mean() > 0.8
    assert picture.hidden[list(near)].mean() < 0.2
    assert not picture.hidden[30]


def test_what_stands_in_front_hides(head_mesh, monkeypatch):
    """A board before the lower half of the face: its pixels are 128, its landmarks hidden, the others not."""
    camera, person = facing(head_mesh), bare_person(head_mesh)
    split = head_mesh.landmarks[33, 1] * 1e5
    board = np.array([[-2e5, split - 3e5, 3e5], [2e5, split - 3e5, 3e5], [2e5, split, 3e5], [-2e5, split, 3e5]])
    things = [Surface(np.float32(board), np.array([[0, 1, 2], [0, 2, 3]]), np.full((4, 3), 0.5))]
    monkeypatch.setattr(renderer, "draw_occluder", lambda *args: ("board", things))
    picture = render(head_mesh, person, camera, np.random.default_rng(0))
    assert picture.facts["occluder"] == "board"
    row = camera.to_px(np.array([[0, split, 0]]))[0, 1]
    above, below = picture.mask[: int(row) - 1], picture.mask[int(row) + 2 :]
    assert (above == renderer.FACE_HIDDEN).sum() < 0.02 * (above > 0).sum()
    assert (below == renderer.FACE_SEEN).sum() == 0
    assert (below == renderer.FACE_HIDDEN).sum() > 300
    assert picture.hidden[[8, 48, 54, 57, 62]].all()
    assert not picture.hidden[[19, 24, 27, 28, 29, 30]].any()


def test_dark_glass_hides_and_clear_glass_does_not(head_mesh, monkeypatch):
    pane = np.array([[-0.6e5, 7.15e5, 3e5], [0.6e5, 7.15e5, 3e5], [0.6e5, 7.4e5, 3e5], [-0.6e5, 7.4e5, 3e5]])
    shares = []
    for alpha in (0.1, 0.9):
        glass = Surface(np.float32(pane), np.array([[0, 1, 2], [0, 2, 3]]), np.full((4, 3), 0.02), alpha=alpha)
        monkeypatch.setattr(renderer, "draw_occluder", lambda *args, glass=glass: ("pane", [glass]))
        picture = render(head_mesh, bare_person(head_mesh), facing(head_mesh), np.random.default_rng(0))
        shares.append((picture.mask == renderer.FACE_HIDDEN).sum())
    assert shares[0] < 30
    assert shares[1] > 200


# --- the whole ---


def test_pictures_are_the_draws_alone(head):
    recipe = Recipe(64, 5)
    first, second = (take_picture(draw_sample(recipe, 3), recipe) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)
    assert first.facts == second.facts


def test_wishes_are_granted(head):
    recipe = Recipe(64, 5)
    overrides = Overrides(preset="shout", cut="bald", yaw_deg=-40.0, place="night")
    draw = draw_sample(recipe, 2, overrides)
    assert draw.person.preset == "shout"
    assert draw.person.look.hair.cut == "bald"
    assert np.degrees(draw.pose_para[1]) == pytest.approx(-40)
    assert take_picture(draw, recipe, overrides).facts["light"] == "night"
    # what was not wished for stays as it was drawn
    plain = draw_sample(recipe, 2)
    assert plain.person.identity.age == draw.person.identity.age
    assert draw_sample(recipe, 2, Overrides()).person.preset == plain.person.preset


def test_faces_seen_in_perspective_have_the_nearest_pose(head):
    recipe = Recipe(96, 6, perspective=True)
    model = load_head_mesh().model.face_model()
    for index in range(4):
        draw = draw_sample(recipe, index)
        assert DISTANCE_UM[0] <= draw.camera.distance_um <= DISTANCE_UM[1]
        rebuilt = model_to_image(model.vertices(draw.person.shape, draw.person.expression), draw.pose_para, 96)
        apart = np.linalg.norm((rebuilt - draw.face_px)[:, :2], axis=1)
        assert 0.01 < apart.mean() < 2.5
        moved = draw.pose_para + np.array([0, 0.02, 0, 0, 0, 0, 0])
        worse = model_to_image(model.vertices(draw.person.shape, draw.person.expression), moved, 96)
        assert ((worse - draw.face_px) ** 2).sum() > ((rebuilt - draw.face_px) ** 2).sum()


def test_pitch_and_roll_go_together_in_profile():
    rng = np.random.default_rng(3)
    angles = np.degrees([draw_angles(rng, "uniform") for _ in range(4000)])
    turned = abs(angles[:, 1])
    roll = angles[:, 2] * np.sign(angles[:, 1])
    for low, high, least, most in ((0, 30, -0.1, 0.5), (60, 90, 0.8, 1)):
        within = (turned >= low) & (turned < high)
        assert least < np.corrcoef(angles[within, 0], roll[within])[0, 1] < most
    assert 10 < angles[turned < 30, 0].std() < 15
    assert abs(angles[:, [0, 2]]).max() <= 75
