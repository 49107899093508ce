"""Every number the project reports, by the name of its protocol.

NME, the normalised mean error, is the mean distance of corresponding points over the face size, in percent:
100 mean_i |pred_i - gt_i| / sqrt(w h), with w and h the sides of the box of the ground truth's points in x, y.
Arrays may be in any frame that both sides share. Of a template with groups the dense protocols are given the vertices
that `Template.counted` triangles have. Boxes, units and bins: docs/conventions.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Num
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.geometry.crop import face_size
from p2m_core.geometry.similarity import aligned, procrustes_mean

Errors = Float[np.ndarray, " n"]  # one a sample
Points = Num[np.ndarray, "n v 3"]
Landmarks = Num[np.ndarray, "n 68 3"]
Angles = Num[np.ndarray, "n 3"]  # pitch, yaw, roll, degrees
YAW_BINS = ("0-30", "30-60", "60-90")
OUTER_EYE_CORNERS_IDX = (36, 45)


# --- distances of corresponding points ------------------------------------------------------------


def _nme(pred: ArrayLike, gt: ArrayLike, dims: int) -> np.ndarray:
    """Mean distance in the first `dims` coordinates over the face size, percent, (N,)."""
    pred, gt = np.asarray(pred, np.float64), np.asarray(gt, np.float64)
    if pred.ndim != 3 or pred.shape[:2] != gt.shape[:2] or min(pred.shape[2], gt.shape[2]) < dims:
        raise ValueError(f"pred {pred.shape} and gt {gt.shape} should both be (N, points, {dims} or more)")
    size = face_size(gt)
    if not (size > 0).all():
        raise ValueError(f"ground truth without extent in rows {np.flatnonzero(~(size > 0)).tolist()}")
    difference = pred[..., :dims] - gt[..., :dims]
    if dims == 3:
        difference[..., 2] -= difference[..., 2].mean(-1, keepdims=True)  # takes the mean z off both
    return np.linalg.norm(difference, axis=-1).mean(-1) / size * 100


def nme68_2d(pred: ArrayLike, gt: ArrayLike) -> Errors:
    """Protocol nme68-2d: 100 mean_i |pred_i - gt_i| / sqrt(w h) over the 68 landmarks, in x, y.

    Args:    pred, gt: (N, 68, 2 or 3), px.
    Returns: (N,) percent.
    Raises:  ValueError if shapes differ or a ground truth has no extent.
    Source:  Zhu et al., CVPR 2016.

    >>> gt = np.random.default_rng(0).uniform(50, 150, (1, 68, 2))
    >>> gt[0, :2] = [50, 50], [150, 150]  # a face size of 100 px
    >>> nme68_2d(gt + [3, 4], gt)
    array([5.])
    """
    return _nme(pred, gt, 2)


def nme68_2d_seen(pred: ArrayLike, gt: ArrayLike, seen: np.ndarray, size: Errors) -> Errors:
    """Protocol nme68-2d-seen: as nme68-2d over the landmarks that `seen` (N, 68) marks, size (N,) px being the face
    size of an annotation that has all of them; nan where none is marked. (N, 68, 2 or 3) twice -> (N,) percent."""
    distance = np.linalg.norm(np.asarray(pred)[..., :2] - np.asarray(gt)[..., :2], axis=-1)
    return np.ma.masked_array(distance, ~seen).mean(-1).filled(np.nan) / size * 100


def nme68_3d(pred: ArrayLike, gt: ArrayLike) -> Errors:
    """Protocol nme68-3d: as nme68-2d in x, y, z, after the mean z is taken off both. (N, 68, 3) -> (N,) percent."""
    return _nme(pred, gt, 3)


def nme_dense_2d(pred: ArrayLike, gt: ArrayLike) -> Errors:
    """Protocol nme-dense-2d@template: as nme68-2d over the vertices that are given. (N, V, 2 or 3) -> (N,) percent."""
    return _nme(pred, gt, 2)


def nme_dense_3d(pred: ArrayLike, gt: ArrayLike) -> Errors:
    """Protocol nme-dense-3d@template: as nme68-3d over the vertices that are given. (N, V, 3) -> (N,) percent."""
    return _nme(pred, gt, 3)


def rec_umeyama(pred: Points, gt: Points, gt_landmarks: Landmarks) -> Errors:
    """Protocol rec-umeyama, shape without pose: 100 mean_i |S(pred_i) - gt_i| / |outer eye corners of gt|, S being the
    similarity that takes pred nearest to gt in the least squares.

    Args:    pred, gt: (N, V, 3) corresponding vertices.   gt_landmarks: (N, 68, 3), in the frame of `gt`.
    Returns: (N,) percent.
    """
    distance = np.linalg.norm(aligned(pred, gt) - gt, axis=-1).mean(-1)
    return distance / eye_distance(gt_landmarks) * 100


def eye_distance(landmarks: np.ndarray) -> np.ndarray:
    """The 3D distance of the outer eye corners, (N, 68, 3) -> (N,): what shape errors without pose are percents of."""
    left, right = (np.asarray(landmarks, np.float64)[:, idx] for idx in OUTER_EYE_CORNERS_IDX)
    return np.linalg.norm(left - right, axis=-1)


# --- summaries ------------------------------------------------------------------------------------


def yaw_bins(values: ArrayLike, yaw_deg: ArrayLike) -> dict[str, Any]:
    """Means by |yaw| in [0, 30], (30, 60], (60, inf) degrees.

    Args:    values: (N,).   yaw_deg: (N,) as in the data set's list, of either sign.
    Returns: {"0-30", "30-60", "60-90": mean of the bin, "balanced": mean of the three bin means,
             "plain": mean of all, "counts": {bin: samples}}. An empty bin's mean is nan, and so is then
             the balanced mean, which would not be comparable.
    """
    values, yaw = np.asarray(values, np.float64), np.abs(np.asarray(yaw_deg, np.float64))
    if values.ndim != 1 or values.shape != yaw.shape:
        raise ValueError(f"values {values.shape} and yaw_deg {yaw.shape} should both be (N,)")
    members = (yaw <= 30, (yaw > 30) & (yaw <= 60), yaw > 60)
    means = [mean_or_nan(values[member]) for member in members]
    counts = {name: int(member.sum()) for name, member in zip(YAW_BINS, members, strict=True)}
    bins = dict(zip(YAW_BINS, means, strict=True))
    return {**bins, "balanced": float(np.mean(means)), "plain": mean_or_nan(values), "counts": counts}


def mean_or_nan(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def mean_face_floor(gt: Points, mean_shape: Num[np.ndarray, "v 3"] | None = None) -> Points:
    """The mean face under the best similarity onto each truth: the error of knowing the pose and no shape.

    Args:    gt: (N, 68, 3).   mean_shape: (68, 3) in the handedness of `gt`; by default the Procrustes mean of `gt`.
    Returns: (N, 68, 3), least squares in x, y, z; its NME is the floor in every table.
    """
    gt = np.asarray(gt, np.float64)
    mean_shape = procrustes_mean(gt) if mean_shape is None else mean_shape
    return aligned(np.broadcast_to(mean_shape, gt.shape), gt)


# --- pose -----------------------------------------------------------------------------------------


def pose_mae(pred_deg: ArrayLike, gt_deg: ArrayLike) -> dict[str, Any]:
    """Protocol pose-mae: mean absolute error of the angles, and the geodesic error.

    Args:    pred_deg, gt_deg: (N, 3) pitch, yaw, roll in degrees.
    Returns: {"pitch", "yaw", "roll", "mae": their mean, "geodesic": mean angle between the rotations;
             "count"}, over the samples whose three true angles are all within [-99, 99].
    """
    pred, gt = np.asarray(pred_deg, np.float64), np.asarray(gt_deg, np.float64)
    if pred.shape != gt.shape or gt.shape[1:] != (3,):
        raise ValueError(f"pred {pred.shape} and gt {gt.shape} should both be (N, 3)")
    kept = (np.abs(gt) <= 99).all(1)
    pred, gt = pred[kept], gt[kept]
    angles = {
        name: mean_or_nan(column) for name, column in zip(("pitch", "yaw", "roll"), np.abs(pred - gt).T, strict=True)
    }
    return {
        **angles,
        "mae": float(np.mean(list(angles.values()))),
        "geodesic": mean_or_nan(geodesic_deg(pred, gt)),
        "count": int(kept.sum()),
    }


def geodesic_deg(pred_deg: Angles, gt_deg: Angles) -> Errors:
    """The angle of the rotation that takes one pose to the other, (N, 3) pitch, yaw, roll -> (N,) degrees."""
    pred, gt = rotation_from_angles(np.radians(pred_deg)), rotation_from_angles(np.radians(gt_deg))
    # |R - R'| = 2 sqrt(2) sin(angle / 2): unlike the arc cosine of the trace, exact for small angles.
    sine = np.linalg.norm(pred - gt, axis=(-2, -1)) / np.sqrt(8)
    return np.degrees(2 * np.arcsin(np.clip(sine, 0, 1)))


# --- point sets -----------------------------------------------------------------------------------


def cd_f1(pred: ArrayLike, gt: ArrayLike, tau: float = 1e-4) -> dict[str, float]:
    """Protocol cd-f1@p2m: chamfer distance and F1 on squared nearest-neighbour distances d.

    CD = 1000 (mean d(pred -> gt) + mean d(gt -> pred)); F1 = 100 * 2 P R / (P + R), P and R being the
    shares of d < tau from each side.

    Args:    pred: (P, 3), all vertices of the last level.   gt: (Q, 3), all stored points.
             tau: on the squared distance: 1e-4 is 1 cm in metres, 10 px in px / 1000.
    Returns: {"cd", "f1" at tau, "f1_2tau" at 2 tau}.
    Raises:  ValueError if a set is empty or has points that are not finite.
    Source:  Pixel2Mesh, section 4.
    """
    to_gt, to_pred = _squared_nearest(pred, gt)
    cd = float(1000 * (to_gt.mean() + to_pred.mean()))
    return {"cd": cd, "f1": _f1(to_gt, to_pred, tau), "f1_2tau": _f1(to_gt, to_pred, 2 * tau)}


def f1_alone(pred: ArrayLike, gt: ArrayLike, tau: float = 1e-4) -> float:
    """The F1 of `cd_f1` at tau, for surfaces by the thousand: it looks for no neighbour that is farther."""
    return _f1(*_squared_nearest(pred, gt, within=np.sqrt(tau) * (1 + 1e-9)), tau)


def _squared_nearest(pred: ArrayLike, gt: ArrayLike, within: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances of each set's points to the other set, infinite beyond `within`.   Raises as `cd_f1` does."""
    pred, gt = np.asarray(pred, np.float64), np.asarray(gt, np.float64)
    for name, points in (("pred", pred), ("gt", gt)):
        if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
            raise ValueError(f"{name} {points.shape} should be (points, 3), not empty and finite")
    to_gt, to_pred = (cKDTree(a).query(b, distance_upper_bound=within)[0] for a, b in ((gt, pred), (pred, gt)))
    return np.square(to_gt), np.square(to_pred)


def _f1(to_gt: np.ndarray, to_pred: np.ndarray, limit: float) -> float:
    """F1 in percent of squared distances below a limit."""
    precision, recall = (to_gt < limit).mean(), (to_pred < limit).mean()
    return float(200 * precision * recall / (precision + recall)) if precision + recall else 0.0


# --- where the error comes from -------------------------------------------------------------------


def identity_variance(pred: Points, gt: Points) -> float:
    """Variance of the predicted shapes over that of the true ones, without pose: far below 1, all faces look alike.

    Args: pred, gt: (N, L, 3) points of N samples; each set is aligned with its own Procrustes mean.
    """

    def spread(shapes: np.ndarray) -> float:
        return float(aligned(shapes, np.broadcast_to(procrustes_mean(shapes), np.shape(shapes))).var(0).sum())

    return spread(pred) / spread(gt)
