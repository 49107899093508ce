"""Nearest neighbours between point clouds, and the chamfer distance.

A back end is a module with one function, `nearest_idx(a, b, lengths_a, lengths_b)`: KD-trees on the CPU, a Triton
kernel on CUDA, chunked torch anywhere; each is imported on its first use. They only name the neighbours. Distances and
gradients are made here, so they are the same whichever is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "BACKENDS", "chamfer_distance", "chosen_backend", "cloud_mean", "gather", "nearest", "squared_to", "use_backend",
]  # fmt: skip

BACKENDS = {"kdtree": "kdtree", "triton": "triton_kernel", "torch": "torch_chunked"}  # each with its module
_wanted: ContextVar[str | None] = ContextVar("chamfer_backend", default=None)


def chosen_backend(device: torch.device | str, backend: str | None = None) -> str:
    """The back end that searches on this device: the argument, else that of `use_backend`, else of the environment
    variable P2M_CHAMFER, else "kdtree" off CUDA, and on CUDA "triton" where it is installed and "torch" elsewhere.

    Raises: ValueError if there is none of that name.
    """
    wanted = backend or _wanted.get() or os.environ.get("P2M_CHAMFER")
    if wanted and wanted not in BACKENDS:
        raise ValueError(f"no chamfer back end is named {wanted!r}: there are {', '.join(BACKENDS)}")
    on_cuda = "triton" if find_spec("triton") else "torch"
    return wanted or (on_cuda if torch.device(device).type == "cuda" else "kdtree")


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Within the block searches run on this back end; None leaves it to the environment and the device.

    Raises: ValueError if there is none of that name.
    """
    chosen_backend("cpu", name)  # refuses an unknown name here, not at the first search
    token = _wanted.set(name)
    try:
        yield
    finally:
        _wanted.reset(token)


def nearest(
    a: Tensor, b: Tensor, lengths_a: Tensor | None = None, lengths_b: Tensor | None = None, backend: str | None = None
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b m"], Int[Tensor, "b n"], Int[Tensor, "b m"]]:
    """The nearest neighbour of each point in the other cloud, exact; of equally near ones, any.

    A ragged batch is padded, and comes with the number of each cloud's own points: entries beyond it take no part,
    whatever they hold, and give distance 0, index 0 and gradient 0.

    Args:    a: (B, N, 3).   b: (B, M, 3), of any float type.   lengths_a, lengths_b: (B,) int64, from 1 to N and to M;
             None for full clouds.   backend: one of BACKENDS, see `chosen_backend`.   All on one device.
    Returns: d_ab (B, N) and d_ba (B, M): **squared** distances by differences, float32 (float64 for float64 clouds),
             with gradients through the found neighbours to both clouds, equal on every run; idx_ab (B, N) into b and
             idx_ba (B, M) into a, int64.
    Raises:  ValueError if a cloud is empty, not finite, or the shapes, the lengths or the back end do not fit.

    >>> a, b = torch.tensor([[[0.0, 0, 0], [4, 0, 0]]]), torch.tensor([[[1.0, 0, 0], [0, 2, 0], [9, 0, 0]]])
    >>> d_ab, d_ba, idx_ab, idx_ba = nearest(a, b)
    >>> d_ab.tolist(), idx_ab.tolist()  # squared
    ([[1.0, 9.0]], [[0, 0]])
    >>> d_ba.tolist(), idx_ba.tolist()
    ([[1.0, 4.0, 25.0]], [[0, 0, 1]])
    """
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, sizes_a, beyond_a = _checked("a", a.to(dtype), lengths_a)
    b, sizes_b, beyond_b = _checked("b", b.to(dtype), lengths_b)
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} clouds, b has {len(b)}")
    module = import_module(f"{__name__}.{BACKENDS[chosen_backend(a.device, backend)]}")
    idx_ab, idx_ba = module.nearest_idx(a.detach(), b.detach(), sizes_a, sizes_b)
    idx_ab, idx_ba = _cleared(idx_ab, beyond_a), _cleared(idx_ba, beyond_b)
    return _cleared(squared_to(a, b, idx_ab), beyond_a), _cleared(squared_to(b, a, idx_ba), beyond_b), idx_ab, idx_ba


def _checked(name: str, cloud: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The cloud with zeros beyond its lengths, the lengths, and the (B, N) mask of what is beyond, None for nothing."""
    if cloud.ndim != 3 or cloud.shape[-1] != 3 or not cloud.numel():
        raise ValueError(f"{name} has shape {tuple(cloud.shape)}: expected (B, N, 3) with B and N of at least 1")
    (batch, size, _), beyond = cloud.shape, None
    if lengths is not None:
        if lengths.shape != (batch,) or lengths.dtype != torch.int64 or lengths.min() < 1 or lengths.max() > size:
            raise ValueError(f"lengths_{name} is {lengths.tolist()}: expected {batch} int64 from 1 to {size}")
        beyond = torch.arange(size, device=cloud.device) >= lengths[:, None]
        cloud = cloud.masked_fill(beyond[..., None], 0)
    if not torch.isfinite(cloud).all():
        raise ValueError(f"{name} holds numbers that are not finite")
    return cloud, torch.full((batch,), size, device=cloud.device) if lengths is None else lengths, beyond


def _cleared(values: Tensor, beyond: Tensor | None) -> Tensor:
    return values if beyond is None else values.masked_fill(beyond, 0)


def squared_to(a: Float[Tensor, "b n 3"], b: Float[Tensor, "b m 3"], idx: Int[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Squared distance from each point of a (B, N, 3) to b (B, M, 3) at idx (B, N): (B, N)."""
    return _SquaredTo.apply(a, b, idx)


class _SquaredTo(torch.autograd.Function):
    """|a - b[idx]|^2. With g above: da = 2 g (a - b[idx]); db[j] = -sum of da over the points whose neighbour is j.

    Autograd's own derivative of a gather adds by atomics on CUDA: in another order, to another sum, on each run.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, idx: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, idx)
        return (a - gather(b, idx)).square().sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        a, b, idx = ctx.saved_tensors
        grad_a = 2 * grad[..., None] * (a - gather(b, idx))
        if not ctx.needs_input_grad[1]:
            return grad_a, None, None
        batch, size, _ = b.shape
        row = (idx + size * torch.arange(batch, device=idx.device)[:, None]).flatten()
        zeros, values = b.new_zeros(batch * size, 3), -grad_a.flatten(0, 1)
        if b.is_cuda:  # there index_add has atomics, and index_put sorts first
            return grad_a, zeros.index_put((row,), values, accumulate=True).view_as(b), None
        return grad_a, zeros.index_add(0, row, values).view_as(b), None


def gather(points: Float[Tensor, "b m c"], idx: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
    """points (B, M, C) at idx (B, N): (B, N, C)."""
    return points.gather(1, idx[..., None].expand(-1, -1, points.shape[-1]))


def chamfer_distance(
    a: Tensor,
    b: Tensor,
    opposite: float = 1.0,
    lengths_a: Tensor | None = None,
    lengths_b: Tensor | None = None,
    backend: str | None = None,
) -> Float[Tensor, ""]:
    """mean d(b -> a) + opposite * mean d(a -> b), d squared, each over a cloud's own points, then over the batch.

    Args:   a: predicted (B, N, 3).   b: ground truth (B, M, 3).   opposite: weight of d(a -> b).   The others, and
            the errors raised: see `nearest`.
    Source: Pixel2Mesh, the chamfer loss.

    >>> predicted = torch.zeros(1, 1, 3, requires_grad=True)
    >>> distance = chamfer_distance(predicted, torch.tensor([[[1.0, 0, 0], [0, 2, 0]]]))  # (1 + 4) / 2 and back 1
    >>> distance.backward()
    >>> distance.item(), predicted.grad.tolist()
    (3.5, [[[-3.0, -2.0, 0.0]]])
    """
    d_ab, d_ba, _, _ = nearest(a, b, lengths_a, lengths_b, backend)
    return cloud_mean(d_ba, lengths_b) + opposite * cloud_mean(d_ab, lengths_a)


def cloud_mean(distances: Float[Tensor, "b n"], lengths: Tensor | None) -> Float[Tensor, ""]:
    """Mean over each cloud's own points, then over the batch; of distances that are 0 beyond the lengths (B,)."""
    return distances.mean() if lengths is None else (distances.sum(1) / lengths).mean()
