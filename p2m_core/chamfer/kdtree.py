"""Nearest neighbours on the CPU by KD-trees (pykdtree), exact."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from pykdtree.kdtree import KDTree
from threadpoolctl import threadpool_limits
from torch import Tensor


def nearest_idx(a: Tensor, b: Tensor, lengths_a: Tensor, lengths_b: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest point of b for each of a, and of a for each of b; 0 beyond the lengths.

    Args:    a: (B, N, 3).   b: (B, M, 3), float32 or float64, on any device.   lengths_a, lengths_b: (B,) int64.
    Returns: idx_ab (B, N) into b, idx_ba (B, M) into a, int64.
    """
    clouds_a, clouds_b = (
        [np.ascontiguousarray(points[:n]) for points, n in zip(cloud.cpu().numpy(), lengths.tolist(), strict=True)]
        for cloud, lengths in ((a, lengths_a), (b, lengths_b))
    )
    idx_ab, idx_ba = (np.zeros(cloud.shape[:2], np.int64) for cloud in (a, b))
    threads = torch.get_num_threads()
    searches = min(threads, 2 * len(a))  # at a time; each with threads of its own where these are fewer

    def search(out: np.ndarray, points: np.ndarray, others: np.ndarray) -> None:
        out[: len(points)] = KDTree(others).query(points)[1]

    limit = {"limits": max(1, threads // searches), "user_api": "openmp"}
    # Threads suffice, since the search releases the GIL.
    with ThreadPoolExecutor(searches, initializer=lambda: threadpool_limits(**limit)) as pool:
        list(pool.map(search, [*idx_ab, *idx_ba], clouds_a + clouds_b, clouds_b + clouds_a))
    return torch.from_numpy(idx_ab).to(a.device), torch.from_numpy(idx_ba).to(a.device)
