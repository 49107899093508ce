"""Nearest neighbours in plain torch, on any device: the twin of the Triton kernel."""

from __future__ import annotations

import torch
from torch import Tensor

TABLE = {"cpu": 2**19, "cuda": 2**24}  # distances of one chunk: on the CPU the fastest measured; what fills a GPU


def nearest_idx(a: Tensor, b: Tensor, lengths_a: Tensor, lengths_b: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest point of b for each of a, and of a for each of b; beyond the lengths, any index.

    Args:    a: (B, N, 3).   b: (B, M, 3).   lengths_a, lengths_b: (B,) int64.   Memory: O(B (N + M)) and one chunk.
    Returns: idx_ab (B, N) into b, idx_ba (B, M) into a, int64.
    """
    a, b = padded(a, lengths_a, torch.inf).mT, padded(b, lengths_b, -torch.inf).mT  # apart, so that inf - inf is none
    rows = max(1, TABLE["cpu" if a.device.type == "cpu" else "cuda"] // b[:, 0].numel())
    idx_ab = torch.zeros_like(a[:, 0], dtype=torch.int64)
    best, idx_ba = torch.full_like(b[:, 0], torch.inf), torch.zeros_like(b[:, 0], dtype=torch.int64)
    for start in range(0, a.shape[2], rows):
        x, y, z = ((a[:, k, start : start + rows, None] - b[:, k, None]).square_() for k in range(3))
        table = x.add_(y).add_(z)
        idx_ab[:, start : start + rows] = table.argmin(2)
        low, idx = table.min(1)
        idx_ba = torch.where(low < best, start + idx, idx_ba)
        best = torch.minimum(best, low)
    return idx_ab, idx_ba


def padded(cloud: Tensor, lengths: Tensor, value: float) -> Tensor:
    """(B, N, 3) with `value` beyond the lengths."""
    beyond = torch.arange(cloud.shape[1], device=cloud.device) >= lengths[:, None]
    return cloud.masked_fill(beyond[..., None], value)
