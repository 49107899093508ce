"""Nearest neighbours on CUDA by one Triton kernel, both ways in one launch; no distance table, no atomics.

A program is one warp. It holds BLOCK points of a cloud in registers, ROWS a thread, and meets a slice of the other
cloud's points one after another. Of each GROUP of those it keeps only the least distance, one instruction a pair; at
the end it finds which point of the nearest group it was. Torch then compares the slices. TRITON_INTERPRET=1, set before
this module is imported, runs it on the CPU.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP, ROWS = 8, 8
BLOCK = 32 * ROWS
SLICE, MAX_SLICES = 2048, 16  # programs enough to fill a GPU, of equal work; bounded memory for what they find


@triton.jit
@no_type_check
def squared(x, y, z, q):
    """Squared distance from the points x, y, z to the points at the pointers q: one for all, or one for each."""
    dx = x - tl.load(q)
    dy = y - tl.load(q + 1)
    dz = z - tl.load(q + 2)
    return dx * dx + dy * dy + dz * dz


@triton.jit
@no_type_check
def nearest_kernel(clouds, lengths, best_out, idx_out, batch, padded, size, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    """Cloud k of (2B, P, 3), inf beyond its length, against cloud k + B mod 2B, cut into S slices of `size` points.

    Writes to (S, 2B, P) the least squared distance to a slice's points, and which of the cloud's points that is.
    Grid: (2B P / BLOCK, S).
    """
    blocks = padded // BLOCK
    cloud = tl.program_id(0) // blocks
    other = (cloud + batch) % (2 * batch)
    first = tl.program_id(0) % blocks * BLOCK
    row = first + tl.arange(0, BLOCK)
    place = cloud.to(tl.int64) * padded + row  # 64 bits, here and below: 3 x 2B P may be above 2^31
    own = tl.load(lengths + cloud)
    mine = row < own
    x = tl.load(clouds + 3 * place, mask=mine, other=0.0)
    y = tl.load(clouds + 3 * place + 1, mask=mine, other=0.0)
    z = tl.load(clouds + 3 * place + 2, mask=mine, other=0.0)

    start = tl.program_id(1) * size
    end = tl.minimum(start + size, tl.load(lengths + other).to(tl.int32))
    end = tl.where(first < own, end, start)  # a block beyond the cloud has nothing to look for
    others = clouds + 3 * other.to(tl.int64) * padded
    best = tl.full([BLOCK], float("inf"), x.dtype)
    nearest = tl.full([BLOCK], 0, tl.int32)  # first of its group
    q = others + 3 * start.to(tl.int64)
    for j in range(start, end, GROUP):
        low = squared(x, y, z, q)
        for k in tl.static_range(1, GROUP):
            low = tl.minimum(low, squared(x, y, z, q + 3 * k))
        nearest = tl.where(low < best, j, nearest)
        best = tl.minimum(low, best)
        q += 3 * GROUP

    idx = nearest
    low = tl.full([BLOCK], float("inf"), x.dtype)
    for k in range(GROUP):
        found = squared(x, y, z, others + 3 * (nearest + k).to(tl.int64))
        idx = tl.where(found < low, nearest + k, idx)
        low = tl.minimum(found, low)
    out = tl.program_id(1).to(tl.int64) * (2 * batch) * padded + place
    tl.store(best_out + out, best)
    tl.store(idx_out + out, idx)


def nearest_idx(a: Tensor, b: Tensor, lengths_a: Tensor, lengths_b: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest point of b for each of a, and of a for each of b; beyond the lengths, any number.

    Args:    a: (B, N, 3).   b: (B, M, 3), float32 or float64, on CUDA.   lengths_a, lengths_b: (B,) int64.
    Returns: idx_ab (B, N) into b, idx_ba (B, M) into a, int64.
    Raises:  ValueError if the clouds are not on CUDA, unless Triton interprets.
    """
    if not a.is_cuda and not triton.knobs.runtime.interpret:
        raise ValueError(f"the Triton kernel needs clouds on CUDA, not on {a.device}")
    batch, longest = len(a), max(a.shape[1], b.shape[1])
    padded = BLOCK * triton.cdiv(longest, BLOCK)
    clouds = a.new_full((2 * batch, padded, 3), torch.inf)
    lengths = torch.cat([lengths_a, lengths_b])
    for cloud, half in ((a, clouds[:batch]), (b, clouds[batch:])):
        half[:, : cloud.shape[1]] = cloud
    clouds.masked_fill_((torch.arange(padded, device=a.device) >= lengths[:, None])[..., None], torch.inf)
    slices = min(MAX_SLICES, triton.cdiv(longest, SLICE))
    size = GROUP * triton.cdiv(longest, GROUP * slices)
    best = clouds.new_empty((slices, 2 * batch, padded))
    idx = torch.empty_like(best, dtype=torch.int32)
    grid = (2 * batch * (padded // BLOCK), slices)
    with torch.cuda.device_of(a):
        nearest_kernel[grid](clouds, lengths, best, idx, batch, padded, size, BLOCK, GROUP, num_warps=1)
    idx = idx.gather(0, best.argmin(0, keepdim=True))[0].long()
    return idx[:batch, : a.shape[1]], idx[batch:, : b.shape[1]]
