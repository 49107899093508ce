"""Nearest neighbours on the CPU by KD-trees (scipy), exact."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from scipy.spatial import cKDTree


def nearest_idx(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Index of the nearest point of b for each of a (B, N), and of a for each of b (B, M), int64.

    Args: a: (B, N, 3).   b: (B, M, 3); on any device, the search runs on the CPU.
    """
    clouds_a, clouds_b = a.cpu().double().numpy(), b.cpu().double().numpy()

    def both(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        x, y = pair
        return cKDTree(y).query(x)[1], cKDTree(x).query(y)[1]

    with ThreadPoolExecutor(min(len(clouds_a), torch.get_num_threads()) or 1) as pool:  # scipy lets go of the GIL
        found = list(pool.map(both, zip(clouds_a, clouds_b, strict=True)))
    idx_ab, idx_ba = (torch.from_numpy(np.stack(side)).to(a.device) for side in zip(*found, strict=True))
    return idx_ab, idx_ba
