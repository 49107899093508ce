"""Ground truth without the Basel face model: a face model fitted to 68 landmarks.

Two steps in turns, for all faces at once: the similarity that takes the model's landmarks to the image's (Umeyama),
then the coefficients that take them nearest to the image's landmarks brought back to model space (ridge: a Gaussian
prior with each coefficient's sigma). Two things make it fast and its faces plausible:

- Coefficients are found in the complement of what a similarity of the mean face can do, so that neither step undoes
  the other: 6 rounds reach what 100 did.
- Each face has a noise of its own, never below the one given: where the landmarks are no face of the model (one of
  AFLW2000-3D's 2000 is annotated inside out), the residual says so, instead of a monster that hides it.

There may be more coefficients than the 204 numbers of a face, so a small residual alone says little: see
benchmarks/fitting.py for landmarks left out of the fit, and for the dense error on faces whose shape is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from p2m_core.geometry.camera import model_to_image, pose_para_from_similarity
from p2m_core.geometry.crop import face_size
from p2m_core.geometry.similarity import umeyama
from p2m_core.metrics import mean_face_floor, nme68_3d
from p2m_core.morphable.model import FaceModel

_Y_UP = np.array([1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Fit:
    """Poses and coefficients of N faces.

    pose_para        (N, 7)        AFLW2000-3D's Pose_Para, for `camera.model_to_image`
    shape            (N, K)        expression (N, M), raw units of the model
    residual_percent (N,)          nme68-3d of the fitted landmarks
    beyond_3_sigma   (N,)          share of the coefficients that are implausible
    """

    pose_para: Float[np.ndarray, "n 7"]
    shape: Float[np.ndarray, "n _"]
    expression: Float[np.ndarray, "n _"]
    residual_percent: Float[np.ndarray, "n"]
    beyond_3_sigma: Float[np.ndarray, "n"]


def fit_landmarks(
    model: FaceModel,
    landmarks_px: Num[np.ndarray, "..."],
    heights: Num[np.ndarray, "..."] | Sequence[float],
    noise_percent: float = 0.5,
    shape_components: int | None = None,
    rounds: int = 6,
) -> Fit:
    """Fit pose, shape and expression to landmarks.

    Each turn minimises |landmarks(c) - target|^2 / noise^2 + |c / sigma|^2 over the coefficients c, and then sets each
    face's noise to the root mean square of what is left, but never below noise_percent.

    Args:    landmarks_px: (N, 68, 3) px of p2m_core.   heights: (N,) of the images, px.
             noise_percent: how far landmarks may be off at least, in percent of the face size: the ridge. Less
             follows the landmarks closer, with less plausible faces.
             shape_components: use only the first ones, the others stay 0.   rounds: of the two steps.
    Returns: Fit; `pose_para` and coefficients have the full width of the model.
    Raises:  ValueError if the landmarks are not (N, 68, 3) and finite.
    """
    landmarks_px, heights = np.asarray(landmarks_px, np.float64), np.asarray(heights, np.float64).reshape(-1)
    if landmarks_px.shape != (len(heights), 68, 3) or not np.isfinite(landmarks_px).all():
        raise ValueError(f"landmarks {landmarks_px.shape} should be ({len(heights)}, 68, 3) and finite")
    target = landmarks_px * _Y_UP
    sigma = np.concatenate([model.shape_sigma[:shape_components], model.expression_sigma])
    shape_count = len(sigma) - len(model.expression_sigma)
    points = model.at(model.landmark_idx)
    mean = points.mean.astype(np.float64)
    bases = points.shape_basis[..., :shape_count], points.expression_basis
    basis = np.concatenate(bases, -1).reshape(mean.size, -1) * sigma  # (204, C), coefficients in sigmas
    least_noise = noise_percent / 100 * face_size(mean)
    # What turning, moving and scaling does to the mean face is none of the coefficients' business.
    moves = np.linalg.qr(_similarities(mean))[0]
    u, singular, vt = np.linalg.svd(basis - moves @ (moves.T @ basis), full_matrices=False)

    coefficients, noise = np.zeros((len(target), len(sigma))), np.full((len(target), 1), least_noise)
    for _ in range(rounds):
        current = (mean.ravel() + coefficients @ basis.T).reshape(-1, 68, 3)
        scale, rotation, translation = umeyama(current, target)
        back = (target - translation[:, None]) @ rotation / scale[:, None, None]
        if coefficients.any():
            noise = np.maximum(least_noise, np.sqrt(((back - current) ** 2).mean((1, 2)))[:, None])
        coefficients = (back - mean).reshape(-1, mean.size) @ u * (singular / (singular**2 + noise**2)) @ vt
    fitted = (mean.ravel() + coefficients @ basis.T).reshape(-1, 68, 3)
    similarities = zip(*umeyama(fitted, target), heights, strict=True)
    pose_para = np.array([pose_para_from_similarity(*similarity) for similarity in similarities]).reshape(-1, 7)
    shape = np.zeros((len(target), len(model.shape_sigma)))
    shape[:, :shape_count] = coefficients[:, :shape_count] * sigma[:shape_count]
    return Fit(
        pose_para=pose_para,
        shape=shape,
        expression=coefficients[:, shape_count:] * sigma[shape_count:],
        residual_percent=nme68_3d(model_to_image(fitted, pose_para, heights[:, None]), landmarks_px),
        beyond_3_sigma=(np.abs(coefficients) > 3).mean(-1),
    )


def _similarities(points: np.ndarray) -> np.ndarray:
    """Directions (3 N, 7) in which points (N, 3) go when they are moved, turned and scaled a little."""
    centred = points - points.mean(0)
    axes = [np.broadcast_to(axis, points.shape) for axis in np.eye(3)]
    return np.stack([*axes, *(np.cross(axis, centred) for axis in axes), centred]).reshape(7, -1).T


def mean_face_residual(model: FaceModel, landmarks_px: Num[np.ndarray, "n 68 3"]) -> Float[np.ndarray, "n"]:
    """nme68-3d of the model's mean face under the best similarity, percent.

    What `fit_landmarks` has to beat: pose without shape.
    """
    return nme68_3d(mean_face_floor(landmarks_px, model.mean[model.landmark_idx] * _Y_UP), landmarks_px)
