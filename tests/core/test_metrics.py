import math

import numpy as np
import oracles
import pytest

from p2m_core import metrics
from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.geometry.similarity import procrustes_mean
from p2m_workbench.measuring import bootstrap, figures


def faces(seed, n, points=68):
    """Random point sets of face-like extent with a small disturbance as the prediction."""
    rng = np.random.default_rng(seed)
    gt = rng.normal(size=(n, points, 3)) * [60, 80, 50] + rng.normal(size=(n, 1, 3)) * 100
    return gt + rng.normal(size=gt.shape) * 5 + rng.normal(size=(n, 1, 3)) * 8, gt


@pytest.mark.parametrize(("n", "points"), [(1, 68), (7, 68), (3, 200)])
def test_nme_equals_the_loop(n, points):
    pred, gt = faces(0, n, points)
    np.testing.assert_allclose(metrics.nme68_2d(pred, gt), oracles.nme(pred, gt, 2))
    np.testing.assert_allclose(metrics.nme68_3d(pred, gt), oracles.nme(pred, gt, 3))
    np.testing.assert_array_equal(metrics.nme_dense_2d(pred, gt), metrics.nme68_2d(pred, gt))
    np.testing.assert_array_equal(metrics.nme_dense_3d(pred, gt), metrics.nme68_3d(pred, gt))


def test_nme_by_hand():
    gt = np.zeros((1, 68, 2))
    gt[0, 0], gt[0, 1] = [0, 0], [200, 50]  # a box of 200 x 50: face size 100
    assert metrics.nme68_2d(gt + [3, 4], gt) == pytest.approx(5)


def test_nme_invariants():
    pred, gt = faces(1, 5)
    for nme in (metrics.nme68_2d, metrics.nme68_3d):
        np.testing.assert_allclose(nme(pred * 3 + [5, -7, 0], gt * 3 + [5, -7, 0]), nme(pred, gt))
        assert (nme(gt, gt) == 0).all()
    np.testing.assert_allclose(metrics.nme68_2d(pred[..., :2], gt), metrics.nme68_2d(pred, gt))
    np.testing.assert_allclose(metrics.nme68_3d(pred + [0, 0, 99], gt), metrics.nme68_3d(pred, gt))
    assert (metrics.nme68_2d(pred + [0, 0, 99], gt) == metrics.nme68_2d(pred, gt)).all()


def test_nme_leaves_its_inputs_alone():
    pred, gt = faces(2, 2)
    before = pred.copy(), gt.copy()
    metrics.nme68_3d(pred, gt)
    assert (pred == before[0]).all()
    assert (gt == before[1]).all()


def test_nme_refuses_what_it_cannot_measure():
    pred, gt = faces(3, 2)
    with pytest.raises(ValueError, match="should both be"):
        metrics.nme68_2d(pred[:1], gt)
    with pytest.raises(ValueError, match="should both be"):
        metrics.nme68_3d(pred[..., :2], gt)
    gt[1, :, 0] = 7
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        metrics.nme68_2d(pred, gt)


def test_procrustes_mean_and_floor_equal_the_loop():
    _, gt = faces(4, 6)
    gt = gt[:1] + (gt - gt[:1]) * 0.1
    mean = oracles.procrustes_mean(gt)
    np.testing.assert_allclose(procrustes_mean(gt), mean, atol=1e-12)
    floor = np.stack([oracles.aligned(mean, g) for g in gt])
    np.testing.assert_allclose(metrics.mean_face_floor(gt), floor, atol=1e-8)


def test_floor_is_zero_where_all_faces_are_alike():
    rng = np.random.default_rng(5)
    shape = rng.normal(size=(68, 3))
    rotation = rotation_from_angles(rng.uniform(-1, 1, (9, 3)))
    gt = rng.uniform(50, 90, (9, 1, 1)) * shape @ rotation + rng.normal(size=(9, 1, 3)) * 100
    assert metrics.nme68_3d(metrics.mean_face_floor(gt), gt).max() < 1e-9
    assert metrics.nme68_3d(metrics.mean_face_floor(gt, shape), gt).max() < 1e-9
    assert metrics.rec_umeyama(np.broadcast_to(shape, gt.shape), gt, gt).max() < 1e-9


def test_rec_umeyama_equals_the_loop():
    pred, gt = faces(6, 3, 90)
    expected = [
        np.mean([math.dist(a, b) for a, b in zip(oracles.aligned(p, g), g, strict=True)]) / math.dist(g[36], g[45])
        for p, g in zip(pred, gt, strict=True)
    ]
    np.testing.assert_allclose(metrics.rec_umeyama(pred, gt, gt[:, :68]), np.multiply(100, expected))


def test_yaw_bins_by_hand():
    table = metrics.yaw_bins(np.arange(1, 8), [0, -30, 30.001, -60, 60.001, -351, 30])
    assert table["counts"] == {"0-30": 3, "30-60": 2, "60-90": 2}
    assert (table["0-30"], table["30-60"], table["60-90"]) == pytest.approx((10 / 3, 3.5, 5.5))
    assert table["balanced"] == pytest.approx((10 / 3 + 3.5 + 5.5) / 3)
    assert table["plain"] == 4


def test_an_empty_yaw_bin_has_no_balanced_mean():
    table = metrics.yaw_bins([1, 2], [0, 45])
    assert math.isnan(table["60-90"])
    assert math.isnan(table["balanced"])
    assert table["plain"] == 1.5
    with pytest.raises(ValueError, match="should both be"):
        metrics.yaw_bins([1, 2], [0])


def test_cumulative_error_is_the_area_under_the_steps():
    rng = np.random.default_rng(7)
    values = np.append(rng.gamma(2, 2, 40), [np.nan, np.inf])
    errors, share, auc = figures.cumulative_error(values, 6)
    assert (np.diff(errors[:40]) >= 0).all()
    assert share[-1] == 1
    assert share[9] == pytest.approx(np.mean([v <= errors[9] for v in values]))
    grid = (np.arange(20000) + 0.5) / 20000 * 6
    assert auc == pytest.approx(np.mean([(errors <= x).mean() for x in grid]), abs=1e-4)
    assert figures.cumulative_error(np.zeros(3), 6)[2] == 1
    assert figures.cumulative_error(np.full(3, 6.0), 6)[2] == 0


def test_bootstrap_interval_covers_the_mean():
    rng = np.random.default_rng(8)
    inside = 0
    for seed in range(100):
        low, high = bootstrap.bootstrap_interval(rng.normal(3, 1, 80), seed, level=0.9, rounds=200)
        inside += low < 3 < high
    assert 80 <= inside <= 98
    values = rng.normal(size=50)
    assert bootstrap.bootstrap_interval(values, 1) == bootstrap.bootstrap_interval(values, 1)
    low, high = bootstrap.bootstrap_interval(values, 1)
    # the normal approximation of the standard error
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(50), rel=0.15)


def test_weights_make_a_weighted_mean():
    values, weights = np.array([1.0, 2, 3, 10]), np.array([1, 1, 1, 0])
    assert bootstrap.bootstrap_interval(values, 0, weights=weights + 1) != bootstrap.bootstrap_interval(values, 0)
    low, high = bootstrap.bootstrap_interval(np.repeat(values, 20), 0, weights=np.repeat(weights, 20))
    assert 1 < low < 2 < high < 3  # the fourth counts nothing
    with pytest.raises(ValueError, match="no values"):
        bootstrap.bootstrap_interval([], 0)


def test_pairs_see_what_means_hide():
    """The hardness of samples, alike for both, drops out: a small constant gain is certain."""
    rng = np.random.default_rng(11)
    theirs = rng.gamma(2, 3, 40)
    ours = theirs - 0.1 + rng.normal(0, 0.05, 40)
    pair = bootstrap.paired_difference(ours, theirs, seed=0)
    assert pair["difference"] == pytest.approx((ours - theirs).mean())
    assert pair["95% low"] < pair["difference"] < pair["95% high"] < 0
    assert pair["better on, %"] == 100 * (ours < theirs).mean()
    swapped = bootstrap.paired_difference(theirs, ours, seed=0)
    assert [swapped[name] for name in ("95% low", "95% high")] == pytest.approx([-pair["95% high"], -pair["95% low"]])
    alone = bootstrap.group_difference(ours, theirs, seed=0)  # as if they were other samples
    assert alone["low"] < 0 < alone["high"]


def test_pairs_need_both():
    pair = bootstrap.paired_difference([1, np.nan, 3, 2], [2, 5, np.inf, 4], seed=0)
    assert (pair["difference"], pair["samples"]) == (-1.5, 2)
    assert bootstrap.paired_difference([np.nan], [1], seed=0)["samples"] == 0


def test_a_groups_difference_covers_the_true_one():
    rng, inside = np.random.default_rng(12), 0
    for seed in range(60):
        found = bootstrap.group_difference(rng.normal(3, 1, 50), rng.normal(2, 2, 90), seed, level=0.9, rounds=200)
        inside += found["low"] < 1 < found["high"]
    assert 46 <= inside <= 60


def test_pose_mae_by_hand():
    gt = np.array([[0, 0, 0], [10, -20, 30], [0, 99.5, 0]])
    table = metrics.pose_mae(gt + [[0, 6, 0], [2, 0, 0], [50, 50, 50]], gt)
    assert table == pytest.approx({"pitch": 1, "yaw": 3, "roll": 0, "mae": 4 / 3, "geodesic": 4, "count": 2})


def test_geodesic_equals_the_trace_formula():
    rng = np.random.default_rng(9)
    a, b = rng.uniform(-90, 90, (2, 50, 3))
    trace = [np.trace(p.T @ q) for p, q in zip(*map(rotation_from_angles, np.radians([a, b])), strict=True)]
    np.testing.assert_allclose(metrics.geodesic_deg(a, b), np.degrees(np.arccos((np.array(trace) - 1) / 2)), atol=1e-5)
    assert metrics.geodesic_deg(a, a + [1e-7, 0, 0]) == pytest.approx(1e-7, rel=1e-5)


@pytest.mark.parametrize(("p", "q"), [(1, 1), (1, 30), (40, 25)])
def test_cd_f1_equals_the_loop(p, q):
    rng = np.random.default_rng(10)
    pred, gt = rng.uniform(0, 0.03, (p, 3)), rng.uniform(0, 0.03, (q, 3))
    table = metrics.cd_f1(pred, gt)
    cd, f1 = oracles.cd_f1(pred, gt, 1e-4)
    assert (table["cd"], table["f1"]) == pytest.approx((cd, f1))
    assert table["f1_2tau"] == pytest.approx(oracles.cd_f1(pred, gt, 2e-4)[1])
    assert (metrics.f1_alone(pred, gt), metrics.f1_alone(pred, gt, 2e-4)) == (table["f1"], table["f1_2tau"])


def test_cd_f1_by_hand():
    gt = np.zeros((1, 3))
    # distance 0.012 squares to 1.44e-4: beyond tau, within 2 tau
    assert metrics.cd_f1(gt + [0.012, 0, 0], gt) == pytest.approx({"cd": 0.288, "f1": 0, "f1_2tau": 100})
    for bad in (np.zeros((0, 3)), np.full((2, 3), np.nan)):
        with pytest.raises(ValueError, match="not empty and finite"):
            metrics.cd_f1(bad, gt)


# --- the golden table of the protocols, on the landmarks of all 2000 images ------------------------

GOLDEN = {
    ("re", "original", "AFLW2000-3D.pose.npy"): (2.8116, 3.2341, 4.0962, 3.3806, 3.0884),
    ("original", "re", "AFLW2000-3D.pose.npy"): (2.7899, 3.1978, 4.2006, 3.3961, 3.0832),
    ("re", "original", "AFLW2000-3D-new.pose.npy"): (2.8136, 3.2864, 4.2412, 3.4471, 3.0884),
}
COUNTS = {"AFLW2000-3D.pose.npy": [1312, 383, 305], "AFLW2000-3D-new.pose.npy": [1306, 462, 232]}


@pytest.fixture(scope="module")
def landmarks(aflw_landmarks):
    names = {"original": "AFLW2000-3D.pts68.npy", "re": "AFLW2000-3D-Reannotated.pts68.npy"}
    return {key: np.load(aflw_landmarks / name).transpose(0, 2, 1) for key, name in names.items()}


def row(table):
    return tuple(table[key] for key in (*metrics.YAW_BINS, "balanced", "plain"))


@pytest.mark.parametrize(("pred", "gt", "yaw_file"), GOLDEN)
def test_golden_reannotation(aflw_landmarks, landmarks, pred, gt, yaw_file):
    table = metrics.yaw_bins(metrics.nme68_2d(landmarks[pred], landmarks[gt]), np.load(aflw_landmarks / yaw_file))
    assert list(table["counts"].values()) == COUNTS[yaw_file]
    assert row(table) == pytest.approx(GOLDEN[pred, gt, yaw_file], abs=5e-5)


def test_the_second_annotation_is_found_by_the_first(aflw_landmarks, landmarks):
    from p2m_workbench.measuring.annotations import reannotated_px

    some = [1636, 28, 0]
    published = landmarks["original"][some] - [1, 1, 0]  # as our reader gives them
    again = reannotated_px(published, aflw_landmarks)
    np.testing.assert_allclose(again, landmarks["re"][some])  # it counts from 0 already
    assert reannotated_px(published + 1, aflw_landmarks) is None  # of another set
    assert reannotated_px(published, aflw_landmarks.parent) is None  # no arrays there


def test_golden_mean_face(aflw_landmarks, landmarks):
    gt, yaw = landmarks["original"], np.load(aflw_landmarks / "AFLW2000-3D.pose.npy")
    floor = metrics.mean_face_floor(gt)
    flat = metrics.yaw_bins(metrics.nme68_2d(floor, gt), yaw)
    assert row(flat) == pytest.approx((2.0321, 2.1611, 2.4570, 2.2167, 2.1216), abs=2e-3)
    solid = metrics.yaw_bins(metrics.nme68_3d(floor, gt), yaw)
    assert row(solid)[:4] == pytest.approx((2.6517, 2.7067, 2.9679, 2.7754), abs=2e-3)


# --- shape ---


def turned(points, degrees, scale=1.0, shift=(0.0, 0.0, 0.0)):
    rotation = rotation_from_angles(np.radians(degrees))
    centre = points.mean(-2, keepdims=True)
    return centre + scale * (points - centre) @ rotation.T + np.asarray(shift)


def test_identity_variance_is_1_for_the_truth_and_less_for_like_faces():
    rng = np.random.default_rng(2)
    mean, own = rng.normal(size=(68, 3)), 0.1 * rng.normal(size=(40, 68, 3))
    poses = rng.normal(0, 20, (40, 3))
    true = np.stack([turned(mean + x, d, 1 + 0.3 * k / 40, (k, 0, 0)) for k, (x, d) in enumerate(zip(own, poses))])
    assert metrics.identity_variance(true, true) == pytest.approx(1)
    half = np.stack([turned(mean + x / 2, d) for x, d in zip(own, poses)])
    assert metrics.identity_variance(half, true) == pytest.approx(0.25, rel=0.03)
    same = np.stack([turned(mean, d) for d in poses])
    assert metrics.identity_variance(same, true) == pytest.approx(0, abs=1e-9)
