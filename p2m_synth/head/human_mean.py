"""The human mean: by how much the base mesh is moved for the mean of random heads to have human proportions."""

from __future__ import annotations

import numpy as np

from p2m_core.geometry.landmarks import MIRROR_68
from p2m_synth.head.asset import PARTS, load_asset

# Landmark: its place on MakeHuman's neutral head, dm, and its way to the human mean, mm; midline and the subject's
# right half, mirrored for the left. The human mean is the Procrustes mean of AFLW2000-3D's 2000 landmark sets (that of
# the Basel model's 200 scans differs the same way: correlation 0.84), laid on the mean of random heads by a similarity.
# Along the normal of the skin landmarks go nearly all the way; along the skin, where a landmark may simply be set
# elsewhere, only eyes, nose and corners of the mouth do (made by benchmarks/landmarks.py --derive).
WAY_TO_HUMAN_MEAN = {
    0: ((-0.716, 7.228, 0.658), (0.5, 0.1, -0.4)), 1: ((-0.706, 7.045, 0.664), (1.3, 0.4, -0.7)),
    2: ((-0.667, 6.839, 0.682), (0.8, 0.7, -0.5)), 3: ((-0.621, 6.713, 0.740), (-0.6, 0, -0.6)),
    4: ((-0.546, 6.552, 0.846), (-0.7, -0.2, -0.2)), 5: ((-0.477, 6.443, 1.020), (0.2, -0.1, 0)),
    6: ((-0.379, 6.361, 1.170), (0.3, -0.2, 0.1)), 7: ((-0.221, 6.246, 1.327), (-0.2, -0.9, 0.5)),
    8: ((0, 6.181, 1.401), (0, -1.4, 0.8)), 17: ((-0.559, 7.413, 1.233), (-0.5, -0.5, 0)),
    18: ((-0.485, 7.466, 1.321), (-0.3, -0.2, -0.1)), 19: ((-0.378, 7.492, 1.400), (0.1, -0.2, -0.1)),
    20: ((-0.296, 7.487, 1.441), (0.3, -0.2, 0.4)), 21: ((-0.212, 7.465, 1.471), (0.3, -0.2, 1.0)),
    27: ((0, 7.291, 1.507), (0, 0.2, 0.9)), 28: ((0, 7.170, 1.546), (0, 0.7, 1.7)),
    29: ((0, 7.049, 1.617), (0, 1.4, 2.2)), 30: ((0, 6.954, 1.672), (0, 1.0, 0.2)),
    31: ((-0.113, 6.831, 1.515), (0.4, 0.5, -0.4)), 32: ((-0.069, 6.817, 1.542), (0.5, 0.9, -0.9)),
    33: ((0, 6.798, 1.569), (0, 1.2, -1.6)), 36: ((-0.431, 7.274, 1.327), (-0.9, -0.7, 0)),
    37: ((-0.382, 7.324, 1.395), (-0.2, -0.2, 0)), 38: ((-0.292, 7.328, 1.400), (0.3, -0.3, 0)),
    39: ((-0.195, 7.268, 1.371), (0.1, 0, 0.1)), 40: ((-0.276, 7.244, 1.396), (0, -0.5, -0.1)),
    41: ((-0.366, 7.246, 1.379), (-0.4, -0.8, -0.1)), 48: ((-0.243, 6.610, 1.374), (-0.5, 0.4, 0.3)),
    49: ((-0.178, 6.680, 1.525), (0.7, 0.4, -0.2)), 50: ((-0.051, 6.710, 1.592), (0.1, 0.9, -0.4)),
    51: ((0, 6.690, 1.599), (0, 0.9, -0.3)), 57: ((0, 6.494, 1.549), (0, 0.8, 0.3)),
    58: ((-0.092, 6.520, 1.530), (0.8, 0.6, 0.1)), 59: ((-0.183, 6.552, 1.475), (1.2, 0.4, -0.3)),
    60: ((-0.245, 6.614, 1.384), (-0.3, 0.4, 0.1)), 61: ((-0.062, 6.625, 1.558), (0.4, 0.7, -0.2)),
    62: ((0, 6.629, 1.576), (0, 0.8, -0.1)), 66: ((0, 6.605, 1.527), (0, 0.7, -0.1)),
    67: ((-0.079, 6.605, 1.523), (0.5, 0.6, -0.2)),
}  # fmt: skip
WIDE_DM, NARROW_DM = 0.35, 0.12  # reach of a landmark: the sum of two Gaussians, both with a deviation of 1 mm


def closeness(a_dm: np.ndarray, b_dm: np.ndarray) -> np.ndarray:
    """Covariance of the ways of points (N, 3) and (M, 3) as a Gaussian process has it, (N, M), mm^2."""
    squared = ((a_dm[:, None] - b_dm) ** 2).sum(2)
    return np.exp(-squared / (2 * WIDE_DM**2)) + np.exp(-squared / (2 * NARROW_DM**2))


def human_mean_offset_dm() -> np.ndarray:
    """What is added to MakeHuman's neutral vertices (n, 3), dm: smooth, symmetric, nothing far from the face.

    Eyeballs are shifted whole, so that they stay round.
    """
    asset, places, ways = load_asset(), np.zeros((68, 3)), np.zeros((68, 3))
    for k, (place, way) in WAY_TO_HUMAN_MEAN.items():
        for landmark, side in ((MIRROR_68[k], [-1, 1, 1]), (k, [1, 1, 1])):
            places[landmark], ways[landmark] = np.multiply(place, side), np.multiply(way, side)
    coefficients = np.linalg.solve(closeness(places, places) + 1e-2 * np.eye(68), ways)  # a landmark is as good as held
    offset = closeness(asset["vertices_dm"].astype(np.float64), places) @ coefficients / 100
    for eye in ("left_eye", "right_eye"):
        idx = np.unique(asset["quads"][asset["part"] == PARTS.index(eye)])
        offset[idx] = offset[idx].mean(0)
    return offset
