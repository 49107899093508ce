"""A shape error for surfaces without correspondences; for scripts, too slow for the tables."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from p2m_core.geometry.similarity import aligned
from p2m_core.metrics import Errors, Landmarks, Points, eye_distance


def rec_icp(pred: Points, gt: Points, gt_landmarks: Landmarks, rounds: int = 30) -> Errors:
    """Protocol rec-icp, shape without pose and correspondences: 100 mean_i min_j |S(pred_i) - gt_j| / |outer eye
    corners of gt|, S by iterative closest points with scale, begun with the similarity of rec-umeyama.

    Args:    pred, gt: (N, V, 3), corresponding for the start.   gt_landmarks: (N, 68, 3), in the frame of `gt`.
    Returns: (N,) percent.
    """
    eyes = eye_distance(gt_landmarks)
    errors = []
    for moved, true in zip(aligned(pred, gt), np.asarray(gt, np.float64), strict=True):
        tree = cKDTree(true)
        distance, nearest = tree.query(moved)
        for _ in range(rounds):
            candidate = aligned(moved, true[nearest])
            closer, nearest = tree.query(candidate)
            if not np.mean(closer**2) < np.mean(distance**2) * (1 - 1e-6):
                break
            moved, distance = candidate, closer
        errors.append(np.mean(distance))
    return 100 * np.array(errors) / eyes
