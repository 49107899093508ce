"""Nearest neighbours on CUDA by a Triton kernel whose one pass serves both ways; no distance table, no atomics.

A program is one warp. It holds BLOCK points of a in registers, ROWS a thread, and meets a slice of b's points one after
another. A distance serves both: the point of a keeps the least of each GROUP of b's, one instruction a pair, and the
warp finds the least of the block for b's point, in little more. Torch compares slices and blocks, and a second, short
kernel looks which point of the best group, or block, it was. TRITON_INTERPRET=1, set before this module is imported,
runs both on the CPU.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP, ROWS = 8, 8
BLOCK = 32 * ROWS
SLICE, MAX_SLICES = 1024, 32  # programs enough to fill a GPU, of equal work
MAX_BLOCKS = 64  # of a in one launch: bounded memory for what they find


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
def least(distance, bits: tl.constexpr):
    """The least of a block of distances, as an integer of the same bits: tl.min, as the interpreter runs it, too."""
    return tl.reduce(distance.to(bits, bitcast=True), 0, tl.standard._elementwise_min)


@triton.jit
@no_type_check
def least_kernel(
    a, b, low_a, group_a, low_b, batch, padded_a, padded_b, size, BLOCK: tl.constexpr, GROUP: tl.constexpr
):
    """Clouds a (B, N, 3) against b (B, M, 3), padded with -inf and inf; b is cut into S slices of `size` points.

    Writes to low_a and group_a (S, B, N) the least squared distance to a slice's points, and the first of its group;
    to low_b (N / BLOCK, B, M) the least one to a block's points, as an integer of the same bits: numbers from 0 on
    order as these do, and GPUs have one instruction for the least integer of a warp.
    Grid: (B N / BLOCK, S).
    """
    blocks = padded_a // BLOCK
    cloud = (tl.program_id(0) // blocks).to(tl.int64)  # 64 bits, here and below: 3 B N may be above 2^31
    block = tl.program_id(0) % blocks
    place = cloud * padded_a + block * BLOCK + tl.arange(0, BLOCK)
    x, y, z = tl.load(a + 3 * place), tl.load(a + 3 * place + 1), tl.load(a + 3 * place + 2)
    bits: tl.constexpr = low_b.dtype.element_ty
    start = tl.program_id(1) * size
    q = b + 3 * (cloud * padded_b + start)
    column = low_b + (block.to(tl.int64) * batch + cloud) * padded_b + start
    best = tl.full([BLOCK], float("inf"), x.dtype)
    nearest = tl.full([BLOCK], 0, tl.int32)
    for j in range(start, start + size, GROUP):
        low = squared(x, y, z, q)
        tl.store(column, least(low, bits))
        for k in tl.static_range(1, GROUP):
            one = squared(x, y, z, q + 3 * k)
            tl.store(column + k, least(one, bits))
            low = tl.minimum(low, one)
        nearest = tl.where(low < best, j, nearest)
        best = tl.minimum(low, best)
        q += 3 * GROUP
        column += GROUP
    out = tl.program_id(1).to(tl.int64) * batch * padded_a + place
    tl.store(low_a + out, best)
    tl.store(group_a + out, nearest)


@triton.jit
@no_type_check
def which_kernel(points, others, first, idx, padded, padded_others, count, total, BLOCK: tl.constexpr):
    """Which of the `count` points of the other cloud from `first` (B, N) on is the nearest to each point (B, N, 3).
    Writes to idx (B, N).   total: B N.   Grid: (total / BLOCK,), rounded up.
    """
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mine = place < total
    x = tl.load(points + 3 * place, mask=mine, other=0.0)
    y = tl.load(points + 3 * place + 1, mask=mine, other=0.0)
    z = tl.load(points + 3 * place + 2, mask=mine, other=0.0)
    start = tl.load(first + place, mask=mine, other=0)
    q = others + 3 * (tl.where(mine, place // padded, 0) * padded_others + start)
    nearest = start
    low = tl.full([BLOCK], float("inf"), x.dtype)
    for k in range(count):
        found = squared(x, y, z, q + 3 * k)
        nearest = tl.where(found < low, start + k, nearest)
        low = tl.minimum(found, low)
    tl.store(idx + place, nearest, mask=mine)


def padded(cloud: Tensor, lengths: Tensor, size: int, beyond: float) -> Tensor:
    """A cloud (B, N, 3) with another value beyond its lengths (B,), (B, size, 3)."""
    wide = cloud.new_full((len(cloud), size, 3), beyond)
    wide[:, : cloud.shape[1]] = cloud
    return wide.masked_fill_((torch.arange(size, device=cloud.device) >= lengths[:, None])[..., None], beyond)


def which(points: Tensor, others: Tensor, first: Tensor, count: int) -> Tensor:
    """The nearest of `count` of the others (B, M, 3) from `first` (B, N) on to each point (B, N, 3): (B, N), int64."""
    idx, total = torch.empty_like(first), first.numel()
    sizes = (first.shape[1], others.shape[1], count, total)
    which_kernel[(triton.cdiv(total, BLOCK),)](points, others, first, idx, *sizes, BLOCK)
    return idx.long()


def nearest_idx(a: Tensor, b: Tensor, lengths_a: Tensor, lengths_b: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the nearest point of b for each of a, and of a for each of b; beyond the lengths, any number.

    Args:    a: (B, N, 3).   b: (B, M, 3), float32 or float64, on CUDA.   lengths_a, lengths_b: (B,) int64.
    Returns: idx_ab (B, N) into b, idx_ba (B, M) into a, int64.
    Raises:  ValueError if the clouds are not on CUDA, unless Triton interprets.
    """
    if not a.is_cuda and not triton.knobs.runtime.interpret:
        raise ValueError(f"the Triton kernel needs clouds on CUDA, not on {a.device}")
    (batch, n, _), m = a.shape, b.shape[1]
    slices = min(MAX_SLICES, triton.cdiv(m, SLICE))
    size = GROUP * triton.cdiv(m, GROUP * slices)
    a = padded(a, lengths_a, BLOCK * triton.cdiv(n, BLOCK), -torch.inf)  # as far from b's as from any point
    b = padded(b, lengths_b, slices * size, torch.inf)
    bits = torch.int32 if a.dtype == torch.float32 else torch.int64
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.cuda.device_of(a):
        for part in a.split(MAX_BLOCKS * BLOCK, 1):
            rows, blocks = part.contiguous(), part.shape[1] // BLOCK
            low_a = a.new_empty((slices, batch, rows.shape[1]))
            group_a = torch.empty_like(low_a, dtype=torch.int32)
            low_b = torch.empty((blocks, batch, b.shape[1]), dtype=bits, device=a.device)
            sizes = (batch, rows.shape[1], b.shape[1], size)
            least_kernel[(batch * blocks, slices)](rows, b, low_a, group_a, low_b, *sizes, BLOCK, GROUP, num_warps=1)
            low, block = low_b.min(0)
            first_a = group_a.gather(0, low_a.argmin(0, keepdim=True))[0]
            found.append((first_a, low, (block + MAX_BLOCKS * len(found)) * BLOCK))
        firsts_a, lows, firsts_b = zip(*found)
        part = torch.stack(lows).argmin(0, keepdim=True)
        idx_ab = which(a, b, torch.cat(firsts_a, 1), GROUP)
        idx_ba = which(b, a, torch.stack(firsts_b).gather(0, part)[0].int(), BLOCK)
    return idx_ab[:, :n], idx_ba[:, :m]
