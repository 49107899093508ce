"""Where the error of predicted landmarks comes from: pose, place, size or shape."""

from __future__ import annotations

import numpy as np

from p2m_core.geometry.similarity import umeyama
from p2m_core.metrics import Errors, Landmarks, nme68_2d


def error_decomposition(pred: Landmarks, gt: Landmarks) -> dict[str, dict[str, Errors]]:
    """Oracle error decomposition: nme68-2d of each sample if the prediction had the true rotation, scale, translation
    or shape.

    A set of points is c + s X R^T: centroid, scale, rotation and shape. Those of the truth, relative to the prediction,
    follow from the best 3D similarity of the prediction onto the truth.

    Args:    pred, gt: (N, 68, 3) px.
    Returns: "alone": each part made true by itself; "together": each with all before it. Both begin with "as it is";
             the values are (N,) percent.
    """
    pred, gt = np.asarray(pred, np.float64), np.asarray(gt, np.float64)
    factor, rotation, _ = umeyama(pred, gt)
    factor = factor[:, None, None]
    centre, true_centre = pred.mean(1, keepdims=True), gt.mean(1, keepdims=True)
    shape, true_shape = pred - centre, (gt - true_centre) @ rotation / factor

    def error(*true: str) -> np.ndarray:
        points = true_shape if "true shape" in true else shape
        points = points @ np.swapaxes(rotation, 1, 2) if "true rotation" in true else points
        points = factor * points if "true scale" in true else points
        return nme68_2d(points + (true_centre if "true translation" in true else centre), gt)

    parts = ("true rotation", "true scale", "true translation", "true shape")
    return {
        "alone": {"as it is": error(), **{part: error(part) for part in parts}},
        "together": {"as it is": error(), **{part: error(*parts[: k + 1]) for k, part in enumerate(parts)}},
    }
