"""How near does our face model come to 68 landmarks, are its faces plausible, are they the right ones, and how fast?

    python benchmarks/fitting.py [--folder ../shared/aflw2000-landmarks] [--tiny]

Prints, for AFLW2000-3D's 2000 landmark sets, or random faces where they are not at hand:
residual (nme68-3d) by yaw, beside the mean face under the best similarity, the baseline; coefficients beyond 3 sigma;
the residual on landmarks left out of the fit. Then, on random faces whose shape is known, the dense error of the fit to
their 68 landmarks, exact and with noise. Then faces/s, beside scipy's least_squares face by face on the same objective.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import time

import numpy as np
import scipy
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from p2m_core.config.paths import resolve
from p2m_core.geometry.camera import model_to_image
from p2m_core.geometry.crop import face_size
from p2m_core.metrics import YAW_BINS, nme68_3d, nme_dense_3d, yaw_bins
from p2m_core.morphable.fitting import Fit, fit_landmarks, mean_face_residual
from p2m_core.morphable.model import FaceModel
from p2m_synth.head.expression import draw_expression
from p2m_synth.head.head_model import load_head_model
from p2m_synth.head.identity import draw_identity

NOISE_PERCENT, HEIGHT = 0.5, 450
QUANTILES = (0.5, 0.9, 0.99, 1)
FOLDS = 8
UNFITTED_PERCENT = 5  # residual beyond which landmarks are no face's
Y_UP = np.array([1.0, -1.0, 1.0])


def random_faces(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pose (N, 7), shape (N, K) and expression (N, M) of random people, yaw evenly from -90 to 90 degrees."""
    head, rng = load_head_model(), np.random.default_rng(seed)
    shape = np.stack([head.shape_of(draw_identity(rng)) for _ in range(count)])
    expression = np.stack([head.expression_of(draw_expression(rng)[1]) for _ in range(count)])
    angles = np.radians(rng.uniform(-1, 1, (count, 3)) * [30, 90, 30])
    place = np.tile([225, 225, 0, 1.2e-3], (count, 1))
    return np.concatenate([angles, place], 1), shape, expression


def print_distribution(name: str, values: np.ndarray, yaw_deg: np.ndarray) -> None:
    """Mean, by yaw too, and quantiles; percent."""
    bins = yaw_bins(values, yaw_deg)
    by_yaw = "  ".join(f"{bins[name]:5.2f} (n={bins['counts'][name]})" for name in YAW_BINS)
    quantiles = " ".join(f"{x:5.2f}" for x in np.quantile(values, QUANTILES))
    print(f"{name:26} mean {bins['plain']:5.2f}   by yaw {by_yaw}   50, 90, 99, 100% {quantiles}")


def rebuilt(model: FaceModel, fit: Fit) -> np.ndarray:
    """Landmarks of a fit (N, 68, 3), px."""
    return model_to_image(model.landmarks(fit.shape, fit.expression), fit.pose_para, HEIGHT)


def left_out(model: FaceModel, landmarks_px: np.ndarray) -> np.ndarray:
    """Mean distance of landmarks to a fit without them, percent of the face size (N,); an eighth is out at a time."""
    distance = np.zeros(landmarks_px.shape[:2])
    for fold in range(FOLDS):
        out, known = np.arange(fold, 68, FOLDS), np.arange(68)
        known[out] = (out + 1) % 68  # in the place of each that is left out, its neighbour once more
        without = dataclasses.replace(model, landmark_idx=model.landmark_idx[known])
        fit = fit_landmarks(without, landmarks_px[:, known], np.full(len(landmarks_px), HEIGHT), NOISE_PERCENT)
        distance[:, out] = np.linalg.norm(rebuilt(model, fit) - landmarks_px, axis=2)[:, out]
    return distance.mean(1) / face_size(landmarks_px) * 100


def dense_errors(model: FaceModel, count: int) -> dict[str, np.ndarray]:
    """nme-dense-3d of every eighth vertex, (count,) percent: of fits to random faces, and of the mean face."""
    pose, shape, expression = random_faces(count, seed=2)
    points, heights = model.at(np.arange(0, len(model.mean), 8)), np.full(count, HEIGHT)
    truth = model_to_image(points.vertices(shape, expression), pose, HEIGHT)
    exact = model_to_image(model.landmarks(shape, expression), pose, HEIGHT)
    noise = np.random.default_rng(3).normal(size=exact.shape) * face_size(exact)[:, None, None] / 100
    errors = {}
    for percent in (0, 0.5, 1):
        fit = fit_landmarks(model, exact + percent * noise, heights, NOISE_PERCENT)
        found = model_to_image(points.vertices(fit.shape, fit.expression), fit.pose_para, HEIGHT)
        errors[f"fit, {percent}% noise"] = nme_dense_3d(found, truth)
    without = fit_landmarks(model, exact, heights, 1e6)  # such noise leaves the mean face, and its best pose
    mean_face = model_to_image(points.vertices(without.shape, without.expression), without.pose_para, HEIGHT)
    return errors | {"mean face, by similarity": nme_dense_3d(mean_face, truth)}


def fit_by_least_squares(model: FaceModel, landmarks_px: np.ndarray) -> float:
    """nme68-3d of one face (68, 3) fitted by scipy: turn, log scale, place and coefficients in sigmas, all at once."""
    points, target = model.at(model.landmark_idx), landmarks_px * Y_UP
    sigma = np.concatenate([model.shape_sigma, model.expression_sigma])
    basis = np.concatenate([points.shape_basis, points.expression_basis], 2) * sigma
    mean, noise_px = points.mean.astype(np.float64), NOISE_PERCENT / 100 * face_size(target)

    def placed(x: np.ndarray) -> np.ndarray:
        return np.exp(x[3]) * Rotation.from_rotvec(x[:3]).apply(mean + basis @ x[7:] - mean.mean(0)) + x[4:7]

    def residuals(x: np.ndarray) -> np.ndarray:
        return np.concatenate([(placed(x) - target).ravel() / noise_px, x[7:]])

    def jacobian(x: np.ndarray) -> np.ndarray:
        unit, step = np.eye(len(x)), 1e-6
        moves = [(placed(x + step * e) - placed(x - step * e)).ravel() / (2 * step) for e in unit[:7]]
        linear = np.exp(x[3]) * (Rotation.from_rotvec(x[:3]).as_matrix() @ basis)
        return np.concatenate([np.concatenate([np.stack(moves, 1), linear.reshape(204, -1)], 1) / noise_px, unit[7:]])

    scale = face_size(target) / face_size(mean)
    start = np.concatenate([[0, 0, 0, np.log(scale)], target.mean(0), np.zeros(len(sigma))])
    found = least_squares(residuals, start, jacobian, x_scale="jac").x
    return float(nme68_3d(placed(found)[None] * Y_UP, landmarks_px[None])[0])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", default="../shared/aflw2000-landmarks")
    options.add_argument("--tiny", action="store_true", help="20 random faces, for the tests")
    args = options.parse_args()
    folder, model = resolve(args.folder), load_head_model().face_model()
    if folder.is_dir() and not args.tiny:
        landmarks = np.load(folder / "AFLW2000-3D.pts68.npy").transpose(0, 2, 1) - [1, 1, 0]
        yaw_deg = np.load(folder / "AFLW2000-3D.pose.npy")
    else:
        pose, shape, expression = random_faces(20 if args.tiny else 2000, seed=1)
        landmarks = model_to_image(model.landmarks(shape, expression), pose, HEIGHT)
        landmarks += np.random.default_rng(0).normal(size=landmarks.shape) * face_size(landmarks)[:, None, None] / 200
        yaw_deg = np.degrees(pose[:, 1])
    count, name = len(landmarks), folder.name if folder.is_dir() and not args.tiny else "random faces, 0.5% noise"
    print(f"{count} landmark sets ({name}); numpy {np.__version__}, scipy {scipy.__version__}, {os.cpu_count()} CPUs, "
          f"{platform.machine()}; noise {NOISE_PERCENT}%, all figures % of the face size")  # fmt: skip

    heights = np.full(count, HEIGHT)
    fit_landmarks(model, landmarks[:9], heights[:9])  # imports
    start = time.perf_counter()
    fit = fit_landmarks(model, landmarks, heights, NOISE_PERCENT)
    rate = count / (time.perf_counter() - start)
    unfitted = mean_face_residual(model, landmarks)
    print_distribution("nme68-3d, fit", fit.residual_percent, yaw_deg)
    print_distribution("mean face, by similarity", unfitted, yaw_deg)
    print(f"ratio of the means {fit.residual_percent.mean() / unfitted.mean():.2f}")
    print_distribution("landmarks left out", left_out(model, landmarks), yaw_deg)
    values = np.concatenate([fit.shape / model.shape_sigma, fit.expression / model.expression_sigma], 1)
    beyond, chi2 = np.abs(values) > 3, (values**2).sum(1)
    print(f"coefficients beyond 3 sigma: {100 * beyond.mean():.2f}% (a Gaussian has 0.27%), in one face at most "
          f"{100 * beyond.mean(1).max():.1f}%; sum of squares of {values.shape[1]}: median {np.median(chi2):.0f}, "
          f"at most {chi2.max():.0f}")  # fmt: skip
    for row in np.flatnonzero(fit.residual_percent > UNFITTED_PERCENT):
        print(
            f"row {row}: residual {fit.residual_percent[row]:.1f}, yaw {yaw_deg[row]:.0f} degrees: no face's landmarks"
        )

    print("\ndense error on random faces whose shape is known (nme-dense-3d of every eighth vertex): mean, 99%")
    for name, errors in dense_errors(model, 20 if args.tiny else 500).items():
        print(f"{name:26} {errors.mean():5.2f} {np.quantile(errors, 0.99):5.2f}")

    chosen = np.linspace(0, count - 1, 2 if args.tiny else 10).astype(int)
    start = time.perf_counter()
    alone = [fit_by_least_squares(model, landmarks[row]) for row in chosen]
    slow = len(chosen) / (time.perf_counter() - start)
    print(f"\n{rate:.0f} faces/s, {rate / slow:.0f} times scipy's least_squares face by face ({slow:.1f} faces/s)")
    ours = fit.residual_percent[chosen].mean()
    print(f"residual on {len(chosen)} of them: ours {ours:.3f}, least_squares {np.mean(alone):.3f}")


if __name__ == "__main__":
    main()
