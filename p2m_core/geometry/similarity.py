"""The similarity between two sets of corresponding points, and the mean shape of many."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float, Num


def umeyama(
    source: Num[Any, "*batch n 3"], target: Num[Any, "*batch n 3"]
) -> tuple[Float[Any, "*batch"], Float[Any, "*batch 3 3"], Float[Any, "*batch 3"]]:
    """The similarity that takes `source` nearest to `target` in the least squares.

    Args:    source, target: both arrays or both tensors. Arrays are computed in float64.
    Returns: scale, rotation, translation: target ~ scale source @ rotation.T + translation.
    Source:  Umeyama, PAMI 1991.

    >>> source = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    >>> scale, rotation, translation = umeyama(source, 2 * source @ [[0, 1, 0], [-1, 0, 0], [0, 0, 1]] + [5, 0, 0])
    >>> float(scale.round(6)), np.allclose(translation, [5, 0, 0])
    (2.0, True)
    >>> np.allclose(rotation @ [1, 0, 0], [0, 1, 0])  # a quarter turn from x to y
    True
    """
    xp: Any = np
    if isinstance(source, np.ndarray):
        source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    else:
        xp = import_module("torch")  # 400 MB, which a process that only draws faces can do without
    source_mean, target_mean = (xp.mean(points, -2, keepdims=True) for points in (source, target))
    x, y = source - source_mean, target - target_mean
    u, s, vt = xp.linalg.svd(xp.swapaxes(y, -1, -2) @ x)
    sign = xp.ones_like(s)
    sign[..., 2] = xp.sign(xp.linalg.det(u @ vt))
    rotation = u * sign[..., None, :] @ vt
    scale = (s * sign).sum(-1) / (x**2).sum((-2, -1))
    translation = target_mean[..., 0, :] - scale[..., None] * (rotation @ source_mean[..., 0, :, None])[..., 0]
    return scale, rotation, translation


def aligned(
    source: Num[np.ndarray, "*batch n 3"], target: Num[np.ndarray, "*batch n 3"]
) -> Float[np.ndarray, "*batch n 3"]:
    """`source` under the best similarity onto `target`, (..., N, 3) float64."""
    scale, rotation, translation = umeyama(source, target)
    rotated = np.asarray(source, np.float64) @ np.swapaxes(rotation, -1, -2)
    return scale[..., None, None] * rotated + translation[..., None, :]


def procrustes_mean(shapes: Num[np.ndarray, "n points 3"]) -> Float[np.ndarray, "points 3"]:
    """The mean shape by generalised Procrustes: 5 rounds from the first shape.

    Returns: centred, of unit Frobenius norm.
    """
    shapes = np.asarray(shapes, np.float64)

    def normalised(shape: np.ndarray) -> np.ndarray:
        centred = shape - shape.mean(0)
        return centred / np.linalg.norm(centred)

    mean = normalised(shapes[0])
    for _ in range(5):
        mean = normalised(aligned(shapes, np.broadcast_to(mean, shapes.shape)).mean(0))
    return mean
