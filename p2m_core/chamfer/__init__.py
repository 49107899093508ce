"""Nearest neighbours between point clouds, and the chamfer distance.

Public: `nearest`, `chamfer_distance`. On the CPU neighbours are found by KD-trees.
"""

from __future__ import annotations

import torch

from p2m_core.chamfer.kdtree import nearest_idx

__all__ = ["chamfer_distance", "nearest"]


def nearest(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The nearest neighbour of each point in the other cloud.

    Args:    a: (B, N, 3).   b: (B, M, 3).
    Returns: d_ab (B, N) and d_ba (B, M): **squared** distances, with gradients through the found neighbours to
             both clouds; idx_ab (B, N) into b and idx_ba (B, M) into a, int64.
    Raises:  ValueError if a cloud is empty, not finite, or the shapes do not fit.
    """
    for name, cloud in (("a", a), ("b", b)):
        if cloud.ndim != 3 or cloud.shape[-1] != 3 or not cloud.shape[1]:
            raise ValueError(f"{name} has shape {tuple(cloud.shape)}: expected (B, N, 3) with N of at least 1")
        if not torch.isfinite(cloud).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} clouds, b has {len(b)}")
    idx_ab, idx_ba = nearest_idx(a.detach(), b.detach())
    return squared_to(a, b, idx_ab), squared_to(b, a, idx_ba), idx_ab, idx_ba


def squared_to(a: torch.Tensor, b: torch.Tensor, idx: torch.Tensor) -> torch.Tensor:
    """Squared distance from each point of a (B, N, 3) to b (B, M, 3) at idx (B, N): (B, N)."""
    return (a - gather(b, idx)).square().sum(-1)


def gather(points: torch.Tensor, idx: torch.Tensor) -> torch.Tensor:
    """points (B, M, C) at idx (B, N): (B, N, C)."""
    return points.gather(1, idx[..., None].expand(-1, -1, points.shape[-1]))


def chamfer_distance(a: torch.Tensor, b: torch.Tensor, opposite: float = 1.0) -> torch.Tensor:
    """mean d(b -> a) + opposite * mean d(a -> b), d squared; a scalar.

    Args: a: predicted (B, N, 3).   b: ground truth (B, M, 3).   opposite: weight of the way back.
    """
    d_ab, d_ba, _, _ = nearest(a, b)
    return d_ba.mean() + opposite * d_ab.mean()
