import numpy as np
import pytest

from p2m_core.data import aflw2000
from p2m_core.geometry.camera import model_to_image
from p2m_core.metrics import YAW_BINS, geodesic_deg, nme68_3d, yaw_bins
from p2m_core.morphable.fitting import fit_landmarks, mean_face_residual
from p2m_core.morphable.model import FaceModel

N, HEIGHT = 40, 450


@pytest.fixture(scope="module")
def model():
    """A face-sized cloud with few directions, so that 68 landmarks determine all of them."""
    rng = np.random.default_rng(0)
    return FaceModel(
        mean=(rng.normal(size=(80, 3)) * [40e3, 50e3, 30e3]).astype(np.float32),
        shape_basis=rng.normal(size=(80, 3, 8)).astype(np.float32),
        expression_basis=rng.normal(size=(80, 3, 4)).astype(np.float32),
        shape_sigma=np.linspace(4e3, 1e3, 8),
        expression_sigma=np.linspace(3e3, 1e3, 4),
        triangles=np.array([[0, 1, 2]]),
        landmark_idx=rng.permutation(80)[:68],
    )


@pytest.fixture(scope="module")
def faces(model):
    """Pose, shape, expression and landmarks of N faces, up to 80 degrees of yaw and 45 of pitch and roll."""
    rng = np.random.default_rng(1)
    angles = np.radians(rng.uniform(-1, 1, (N, 3)) * [45, 80, 45])
    pose = np.concatenate([angles, rng.uniform(100, 300, (N, 3)), rng.uniform(5e-4, 2e-3, (N, 1))], 1)
    shape, expression = rng.normal(size=(N, 8)) * model.shape_sigma, rng.normal(size=(N, 4)) * model.expression_sigma
    return pose, shape, expression, model_to_image(model.landmarks(shape, expression), pose, HEIGHT)


def test_what_was_put_in_comes_out(model, faces):
    pose, shape, expression, landmarks_px = faces
    fit = fit_landmarks(model, landmarks_px, np.full(N, HEIGHT), noise_percent=1e-3, rounds=200)
    assert fit.residual_percent.max() < 0.01
    assert geodesic_deg(np.degrees(fit.pose_para[:, :3]), np.degrees(pose[:, :3])).max() < 0.1
    np.testing.assert_allclose(fit.pose_para[:, 6], pose[:, 6], rtol=2e-3)
    np.testing.assert_allclose(fit.shape / model.shape_sigma, shape / model.shape_sigma, atol=0.05)
    np.testing.assert_allclose(fit.expression / model.expression_sigma, expression / model.expression_sigma, atol=0.05)


def test_the_residual_is_that_of_the_returned_face_in_the_image(model, faces):
    """Pose, coefficients and residual fit together through the public camera, with a height each."""
    heights = np.linspace(200, 700, N)
    landmarks_px = faces[3]
    fit = fit_landmarks(model, landmarks_px, heights)
    placed = np.stack(
        [
            model_to_image(model.landmarks(s, e), p, h)
            for s, e, p, h in zip(fit.shape, fit.expression, fit.pose_para, heights, strict=True)
        ]
    )
    np.testing.assert_allclose(nme68_3d(placed, landmarks_px), fit.residual_percent, atol=1e-3)
    np.testing.assert_allclose(placed.mean(1), landmarks_px.mean(1), atol=1e-2)


def test_each_face_is_fitted_on_its_own(model, faces):
    landmarks_px, heights = faces[3], np.full(N, HEIGHT)
    together = fit_landmarks(model, landmarks_px, heights)
    alone = fit_landmarks(model, landmarks_px[7:8], heights[7:8])
    np.testing.assert_allclose(alone.shape[0], together.shape[7])
    np.testing.assert_allclose(alone.pose_para[0], together.pose_para[7])
    assert fit_landmarks(model, landmarks_px[:0], []).pose_para.shape == (0, 7)


def test_moving_and_scaling_the_image_changes_the_pose_only(model, faces):
    landmarks_px, heights = faces[3], np.full(N, HEIGHT)
    before = fit_landmarks(model, landmarks_px, heights)
    after = fit_landmarks(model, landmarks_px * 2 + [30, -40, 5], heights)
    np.testing.assert_allclose(after.shape, before.shape, atol=1e-3)
    np.testing.assert_allclose(after.residual_percent, before.residual_percent, atol=1e-9)
    np.testing.assert_allclose(after.pose_para[:, 6], 2 * before.pose_para[:, 6])


def test_the_prior_holds_back_noise(model, faces):
    """More noise allowed: smaller coefficients and a larger residual; the mean face is the far end."""
    rng = np.random.default_rng(2)
    landmarks_px = faces[3] + rng.normal(size=(N, 68, 3)) * 5
    fits = [fit_landmarks(model, landmarks_px, np.full(N, HEIGHT), noise) for noise in (0.1, 1, 10, 1e6)]
    norms = [np.linalg.norm(fit.shape / model.shape_sigma) for fit in fits]
    residuals = [fit.residual_percent.mean() for fit in fits]
    assert norms == sorted(norms, reverse=True)
    assert residuals == sorted(residuals)
    np.testing.assert_allclose(fits[-1].residual_percent, mean_face_residual(model, landmarks_px), rtol=1e-6)
    assert residuals[0] < 0.7 * residuals[-1]


def test_implausible_faces_are_told(model, faces):
    pose, shape, expression, _ = faces
    landmarks_px = model_to_image(model.landmarks(10 * shape[:, :1], 0 * expression), pose, HEIGHT)
    fit = fit_landmarks(model, landmarks_px, np.full(N, HEIGHT), noise_percent=0.01, rounds=100)
    large = np.abs(np.concatenate([fit.shape / model.shape_sigma, fit.expression / model.expression_sigma], 1)) > 3
    np.testing.assert_allclose(fit.beyond_3_sigma, large.mean(1))
    assert fit.beyond_3_sigma.max() > 0


def test_fewer_components_leave_the_others_at_zero(model, faces):
    fit = fit_landmarks(model, faces[3], np.full(N, HEIGHT), shape_components=3)
    assert fit.shape.shape == (N, 8)
    assert (fit.shape[:, 3:] == 0).all()
    assert (fit.shape[:, :3] != 0).all()


def test_bad_landmarks_are_refused(model, faces):
    with pytest.raises(ValueError, match=r"should be \(40, 68, 3\) and finite"):
        fit_landmarks(model, faces[3][..., :2], np.full(N, HEIGHT))
    with pytest.raises(ValueError, match="finite"):
        fit_landmarks(model, faces[3] * np.nan, np.full(N, HEIGHT))


def test_landmarks_of_no_face_are_told_by_the_residual(model, faces):
    """Inside out: a monster could follow them; a plausible face cannot, and the others are fitted as before."""
    landmarks_px, heights = faces[3].copy(), np.full(N, HEIGHT)
    before = fit_landmarks(model, landmarks_px, heights)
    landmarks_px[5] *= [1, 1, -1]
    fit = fit_landmarks(model, landmarks_px, heights, rounds=12)
    assert fit.residual_percent[5] > 10 > 5 * np.delete(before.residual_percent, 5).max()
    assert fit.beyond_3_sigma[5] == 0
    others = np.arange(N) != 5
    np.testing.assert_allclose(fit.residual_percent[others], before.residual_percent[others], atol=0.05)


def test_few_rounds_suffice(model, faces):
    landmarks_px = faces[3] + np.random.default_rng(3).normal(size=(N, 68, 3))
    few, many = (fit_landmarks(model, landmarks_px, np.full(N, HEIGHT), rounds=rounds) for rounds in (6, 60))
    np.testing.assert_allclose(few.residual_percent, many.residual_percent, rtol=0.02)


# --- real landmarks, with the project's own model --------------------------------------------------


def test_real_samples_fit_below_one_percent(aflw_samples, face_model):
    """With the mean face and the files' poses as yardsticks."""
    samples = [aflw2000.read_sample(path) for path in aflw2000.find_samples(aflw_samples)]
    landmarks_px = np.stack([sample.landmarks_px for sample in samples])
    fit = fit_landmarks(face_model, landmarks_px, np.array([sample.size[0] for sample in samples]))
    unfitted = mean_face_residual(face_model, landmarks_px)
    assert fit.residual_percent.mean() < 0.8
    assert (fit.residual_percent < 0.6 * unfitted).all()
    assert fit.beyond_3_sigma.mean() < 0.01
    pose = np.array([sample.pose_para for sample in samples])
    # two models have no common frontal pose, so a constant few degrees remain
    assert geodesic_deg(np.degrees(fit.pose_para[:, :3]), np.degrees(pose[:, :3])).max() < 5


def test_all_2000_real_landmark_sets(aflw_landmarks, face_model):
    """Plausible faces below 1% on average; the one set that is inside out (yaw 188 degrees) stands out."""
    landmarks_px = np.load(aflw_landmarks / "AFLW2000-3D.pts68.npy").transpose(0, 2, 1) - [1, 1, 0]
    yaw_deg = np.load(aflw_landmarks / "AFLW2000-3D.pose.npy")
    fit = fit_landmarks(face_model, landmarks_px, np.full(2000, 450))
    bins = yaw_bins(fit.residual_percent, yaw_deg)
    assert bins["plain"] < 0.9
    assert max(bins[name] for name in YAW_BINS) < 1.1
    order = fit.residual_percent.argsort()
    assert abs(yaw_deg[order[-1]]) > 180
    assert fit.residual_percent[order[-1]] > 20
    assert fit.residual_percent[order[-2]] < 2.5
    assert fit.beyond_3_sigma.mean() < 0.0027  # what a Gaussian has
    assert fit.beyond_3_sigma.max() < 0.05
