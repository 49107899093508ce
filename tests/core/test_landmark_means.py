"""Our 68 landmarks mean what AFLW2000-3D's mean, and our faces vary as its do."""

import importlib.util

import numpy as np
import pytest
from conftest import ROOT
from scipy.spatial import cKDTree

from p2m_core.geometry.crop import face_size
from p2m_core.geometry.landmarks import MIRROR_68
from p2m_core.geometry.similarity import procrustes_mean
from p2m_synth.head import expression, identity
from p2m_synth.head.asset import PARTS, load_asset
from p2m_synth.head.head_model import RIGHT_LANDMARKS_DM, UM_PER_DM, refinement
from p2m_synth.head.human_mean import WAY_TO_HUMAN_MEAN, human_mean_offset_dm

_spec = importlib.util.spec_from_file_location("landmarks", ROOT / "benchmarks" / "landmarks.py")
landmarks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(landmarks)


@pytest.fixture(scope="module")
def drawn(head):
    return landmarks.drawn_landmarks(2000, seed=1)[1]


@pytest.fixture(scope="module")
def real(aflw_landmarks):
    return landmarks.real_landmarks(aflw_landmarks)


@pytest.fixture(scope="module")
def mean(drawn, face_model):
    """The Procrustes mean of random faces, turned and scaled as the mean face, dm."""
    return landmarks.aligned(procrustes_mean(drawn), face_model.mean[face_model.landmark_idx] / UM_PER_DM)


# --- beside real ones ---


def test_mean_landmarks_lie_on_the_real_ones(mean, real):
    wanted = landmarks.aligned(procrustes_mean(real), mean)
    apart = np.linalg.norm(mean - wanted, axis=1) / face_size(wanted) * 100
    assert apart[:17].max() < 2  # the jaw
    assert apart[17:].max() < 1.9  # those of nose and lower lip lie 1.3 mm higher than the means alone say
    assert apart.mean() < 0.7


def test_faces_spread_as_real_ones(drawn, mean, real):
    (ours, components), (theirs, real_components) = landmarks.spread(drawn, mean), landmarks.spread(real, mean)
    for part, value in ours.items():
        assert 0.75 < value / theirs[part] < 1.25, part
    np.testing.assert_allclose(components[:10], real_components[:10], rtol=0.3)


@pytest.mark.parametrize(
    ("name", "apart"), [("mouth opening", 0.02), ("corners over middle", 0.015), ("eye opening / width", 0.03)]
)
def test_expressions_spread_as_real_ones(drawn, mean, real, name, apart):
    quantiles = (0.05, 0.25, 0.5, 0.75, 0.95)
    ours, theirs = (landmarks.expression_measures(shapes, mean)[name] for shapes in (drawn, real))
    np.testing.assert_allclose(np.quantile(ours, quantiles), np.quantile(theirs, quantiles), atol=apart)


def test_faces_vary_in_every_direction_in_which_real_ones_do(drawn, mean, real):
    """No leading direction of the real landmarks, expressions among them, that ours hardly know."""
    wanted = landmarks.aligned(procrustes_mean(real), mean)
    ours, theirs = ((x - x.mean(0)).reshape(len(x), -1) for x in (landmarks.aligned(y, wanted) for y in (drawn, real)))
    directions = np.linalg.svd(theirs, full_matrices=False)[2][:12]
    ratio = (ours @ directions.T).std(0) / (theirs @ directions.T).std(0)
    assert ratio.min() > 0.6  # the fourth: chin forward, ears back
    assert ratio[[0, 1, 2]].min() > 0.7  # a smile, an open mouth, a long face
    assert ratio.max() < 1.4


# --- on the head ---


def test_the_way_to_the_human_mean_is_smooth_symmetric_and_of_the_face_alone():
    neutral, offset_mm = load_asset()["vertices_dm"], 100 * human_mean_offset_dm()
    mirrored = cKDTree(neutral).query(neutral * [-1, 1, 1])
    twins = mirrored[0] < 1e-3
    assert twins.mean() > 0.9
    np.testing.assert_allclose(offset_mm[twins], (offset_mm[mirrored[1]] * [-1, 1, 1])[twins], atol=0.05)
    assert abs(offset_mm[neutral[:, 2] < -0.3]).max() < 0.1  # the back of the head
    assert abs(offset_mm[neutral[:, 1] < 5]).max() < 0.01  # the shoulders
    skin = np.unique(load_asset()["quads"][load_asset()["part"] == PARTS.index("skin")])
    for place, way in WAY_TO_HUMAN_MEAN.values():
        nearest = skin[cKDTree(neutral[skin]).query(place)[1]]
        np.testing.assert_allclose(offset_mm[nearest], way, atol=0.5)
    for eye in ("left_eye", "right_eye"):
        idx = np.unique(load_asset()["quads"][load_asset()["part"] == PARTS.index(eye)])
        assert np.ptp(offset_mm[idx], axis=0).max() == 0


def test_every_landmark_has_a_place_and_a_mirror_image(face_model):
    assert set(RIGHT_LANDMARKS_DM) | {MIRROR_68[k] for k in RIGHT_LANDMARKS_DM} == set(range(68))
    assert all(RIGHT_LANDMARKS_DM[k][0] == 0 for k in RIGHT_LANDMARKS_DM if MIRROR_68[k] == k)
    points = face_model.mean[face_model.landmark_idx] / 1000  # mm
    apart = np.linalg.norm(points[MIRROR_68] * [-1, 1, 1] - points, axis=1)
    assert apart[17:].max() < 3
    assert apart.max() < 5  # the jaw's triangles are large


def test_landmarks_are_where_their_table_says(face_model):
    points = face_model.mean[face_model.landmark_idx] / UM_PER_DM
    for k, place in RIGHT_LANDMARKS_DM.items():
        assert np.linalg.norm(points[k] - place) * 100 < 1, k  # mm


def test_eye_nose_and_mouth_points_lie_on_their_edges(head, face_model):
    rows = refinement()[0][head.face_vertex_idx[head.landmark_idx]]
    distance_mm = landmarks.edge_distances(head.mean / UM_PER_DM, rows)
    for k, edge in landmarks.EDGES.items():
        assert distance_mm[edge][k] < (2 if 55 < k < 59 else 1.5), (k, edge)  # the lower lip's lie within it
    points = face_model.mean[face_model.landmark_idx] / 1000
    assert abs(points[27:31, 0]).max() < 1  # the bridge, on the midline, down to the tip
    assert np.argmax(face_model.mean[:, 2]) in np.flatnonzero(
        np.linalg.norm(face_model.mean / 1000 - points[30], axis=1) < 4
    )
    assert (np.diff(points[27:31, 1]) < 0).all()
    assert (np.diff(points[27:31, 2]) > 0).all()
    assert np.linalg.norm(points[31:36] - points[33], axis=1).max() < 20  # the base, below the tip
    assert points[31:36, 1].max() < points[30, 1]


@pytest.mark.parametrize("side", ["Right", "Left"])
def test_a_blink_brings_the_lids_points_together(head, side):
    names = load_names()
    strength = np.zeros(52)
    strength[names.index(f"eyeBlink{side}")] = 1
    points = head.face_model().landmarks(np.zeros(1), head.expression_of(strength))
    still = head.face_model().landmarks(np.zeros(1), np.zeros(1))
    uppers, lowers = ([37, 38], [41, 40]) if side == "Right" else ([43, 44], [47, 46])
    opening, before = (np.linalg.norm(p[uppers] - p[lowers], axis=1).mean() for p in (points, still))
    assert opening < 0.45 * before


def test_an_opening_jaw_parts_the_inner_lips_and_takes_the_lower_one_along(head):
    strength = np.zeros(52)
    strength[load_names().index("jawOpen")] = 0.6
    points = head.face_model().landmarks(np.zeros(1), head.expression_of(strength)) / 1000
    still = head.face_model().landmarks(np.zeros(1), np.zeros(1)) / 1000
    opening, before = (np.linalg.norm(p[61:64] - p[[67, 66, 65]], axis=1) for p in (points, still))
    assert (before < 4).all()
    assert (opening > 10).all()
    for outer, inner in ((51, 62), (57, 66)):
        thick, was = (np.linalg.norm(p[outer] - p[inner]) for p in (points, still))
        assert thick == pytest.approx(was, rel=0.3)


def load_names():
    return load_asset()["unit_names"].tolist()


# --- the draws ---


def test_the_sampler_moves_few_shapes_and_little():
    names = set(load_asset()["local_names"])
    assert len(identity.LOCAL_MEAN) < 10
    for name, value in identity.LOCAL_MEAN.items():
        assert name in names
        assert not name.split("/")[1].startswith(("l-", "r-", *identity.LEFT_OUT)), "the mean face is symmetric"
        assert 0 < abs(value) <= 0.5


def test_strong_expressions_are_rare_and_there():
    rng = np.random.default_rng(9)
    strength = np.array([expression.draw_expression(rng)[1] for _ in range(3000)])
    names = load_names()

    def share(unit, least):
        return (strength[:, names.index(unit)] > least).mean()

    assert 0.02 < share("jawOpen", 0.4) < 0.10
    assert 0.01 < share("eyeBlinkLeft", 0.5) < 0.06
    assert 0.005 < share("cheekPuff", 0.3) < 0.04
    assert 0.1 < share("mouthSmileLeft", 0.3) < 0.4
    blinks = strength[:, [names.index("eyeBlinkLeft"), names.index("eyeBlinkRight")]]
    assert abs(np.diff(blinks)).max() < 0.2  # both eyes, and no winks


def test_presets_mix():
    rng = np.random.default_rng(10)
    names, shares = load_names(), []
    smile = names.index("mouthSmileLeft")
    for _ in range(1500):
        preset, strength = expression.draw_expression(rng)
        if preset == "anger":
            shares.append(strength[smile] > 0)
    assert 0.02 < np.mean(shares) < 0.2  # an angry smile, at times
