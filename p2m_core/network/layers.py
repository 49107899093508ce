"""Layers on meshes. Vertex features are (V, B, C): one sparse product then serves the whole batch."""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def to_torch(matrix: sp.csr_matrix) -> Tensor:
    """A scipy sparse matrix as float32 torch CSR; int32 indices, for which alone MKL's product is used."""
    matrix = matrix.tocsr()
    matrix.sort_indices()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*[Ss]parse")  # that CSR is beta, that invariants go unchecked
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int32)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            size=matrix.shape,
        )


def full(x: Tensor) -> Tensor:
    """In float32, or in float64 where it is in that, in which networks are compared."""
    return x if x.dtype == torch.float64 else x.float()


class _SparseProduct(torch.autograd.Function):
    """matrix @ x, with a gradient for x alone: torch's own backward would transpose the matrix at every step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        with torch.autocast(x.device.type, enabled=False):  # sparse products want float32
            return matrix @ x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(gradient.device.type, enabled=False):
            return ctx.transposed @ gradient.contiguous(), None, None


class SparseMap(nn.Module):
    """A fixed linear map between vertex sets: (V, B, C) -> (W, B, C) by a sparse (W, V) matrix."""

    matrix: Tensor
    transposed: Tensor

    def __init__(self, matrix: sp.csr_matrix):
        super().__init__()
        # Rebuilt from the template, so not part of a checkpoint.
        self.register_buffer("matrix", to_torch(matrix), persistent=False)
        self.register_buffer("transposed", to_torch(matrix.T.tocsr()), persistent=False)

    def forward(self, x: Float[Tensor, "v b c"]) -> Float[Tensor, "w b c"]:
        _, b, c = x.shape
        return _SparseProduct.apply(full(x.reshape(-1, b * c)), self.matrix, self.transposed).view(-1, b, c)


class _GraphConvolution(torch.autograd.Function):
    """A (X W) + X W_loop + b, and a ReLU if wanted: two matrix products, the rest added in place onto the second.

    Written out, since autograd's own way takes a new tensor for each sum and transposes A at every step. Under
    autocast the matrix products alone are taken in its type; sums stay float32.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, loop_weight: Tensor, bias: Tensor, adjacency: SparseMap, relu: bool
    ) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        flat, weight, loop_weight = (y.to(dtype) for y in (x.reshape(-1, x.shape[-1]), weight, loop_weight))
        out = full(flat @ loop_weight)
        with torch.autocast(device, enabled=False):
            out.view(len(x), -1).addmm_(adjacency.matrix, full(flat @ weight).view(len(x), -1))
        out.add_(bias)
        if relu:
            out.relu_()
        ctx.save_for_backward(flat, weight, loop_weight, *([out] if relu else []))
        ctx.transposed, ctx.shape = adjacency.transposed, x.shape
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, loop_weight, *out = ctx.saved_tensors
        gradient = gradient.contiguous()
        with torch.autocast(gradient.device.type, enabled=False):
            if out:
                gradient = gradient * (out[0] > 0)
            to_bias = gradient.sum(0)
            mixed = (ctx.transposed @ gradient.view(ctx.shape[0], -1)).view(-1, weight.shape[1]).to(x.dtype)
            gradient, to_x = gradient.to(x.dtype), None
            if ctx.needs_input_grad[0]:
                to_x = full((gradient @ loop_weight.T).addmm_(mixed, weight.T)).view(ctx.shape)
            return to_x, full(x.T @ mixed), full(x.T @ gradient), to_bias, None, None


class GraphConv(nn.Module):
    """A (X W) + X W_loop + b.

    Source: Pixel2Mesh, section 3.3, with the rescaled Laplacian A of its official code.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_in, channels_out))
        self.loop_weight = nn.Parameter(torch.empty(channels_in, channels_out))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        nn.init.xavier_uniform_(self.weight)
        nn.init.xavier_uniform_(self.loop_weight)

    def forward(
        self, x: Float[Tensor, "v b c_in"], adjacency: SparseMap, relu: bool = False
    ) -> Float[Tensor, "v b c_out"]:
        """relu: whether a ReLU follows."""
        if torch.compiler.is_exporting():
            out = self.mix(x @ self.both_weights(), adjacency)
            return F.relu(out) if relu else out
        out = _GraphConvolution.apply(x, self.weight, self.loop_weight, self.bias, adjacency, relu)
        return out.view(*x.shape[:2], -1)

    def both_weights(self) -> Float[Tensor, "c_in two_c_out"]:
        """[W, W_loop]: one product for both, where the input is not at hand as one tensor."""
        return torch.cat([self.weight, self.loop_weight], 1)

    def mix(self, both: Float[Tensor, "v b two_c_out"], adjacency: SparseMap) -> Float[Tensor, "v b c_out"]:
        """The convolution's output from X [W, W_loop]."""
        mixed, own = both.split(self.weight.shape[1], -1)
        return adjacency(mixed) + own + self.bias


class GraphBlock(nn.Module):
    """Two graph convolutions and a way around them.

    "averaged": (x + ReLU(conv2(ReLU(conv1 x)))) / 2, the reference.   "prenorm": x + conv2(ReLU(conv1(norm x))),
    which trains faster from scratch.
    """

    def __init__(self, channels: int, kind: str):
        super().__init__()
        self.conv1, self.conv2 = GraphConv(channels, channels), GraphConv(channels, channels)
        self.norm = nn.LayerNorm(channels) if kind == "prenorm" else None

    def forward(self, x: Float[Tensor, "v b c"], adjacency: SparseMap) -> Float[Tensor, "v b c"]:
        if self.norm is not None:
            return x + self.conv2(self.conv1(self.norm(x), adjacency, relu=True), adjacency)
        return torch.lerp(x, self.conv2(self.conv1(x, adjacency, relu=True), adjacency, relu=True), 0.5)


class GraphBottleneck(nn.Module):
    """The network of one stage: conv1, ReLU, blocks, conv2; returns conv2's output and the hidden state.

    Its input is the product of conv1's weights and the input columns, since that product is cheapest before
    columns are unpooled or repeated.
    """

    def __init__(self, channels_in: int, hidden: int, channels_out: int, blocks: int, kind: str):
        super().__init__()
        self.conv1 = GraphConv(channels_in, hidden)
        self.blocks = nn.ModuleList(GraphBlock(hidden, kind) for _ in range(blocks))
        self.conv2 = GraphConv(hidden, channels_out)

    def forward(
        self, product: Float[Tensor, "v b two_c"], adjacency: SparseMap
    ) -> tuple[Float[Tensor, "v b c_out"], Float[Tensor, "v b c"]]:
        x = F.relu(self.conv1.mix(product, adjacency))
        for block in self.blocks:
            x = block(x, adjacency)
        return self.conv2(x, adjacency), x


class Unpooling(nn.Module):
    """New vertices on the edges: n -> n + E.

    "midpoint": (a + b) / 2.   "adaptive": t a + (1 - t) b with a learned t per edge, held in [0, 1].
    """

    pairs: Tensor

    def __init__(self, pairs: np.ndarray, count: int, adaptive: bool):
        super().__init__()
        self.adaptive = adaptive
        if adaptive:
            self.register_buffer("pairs", torch.from_numpy(pairs), persistent=False)
            self.new_pts_pos = nn.Parameter(torch.full((len(pairs),), 0.5))
        else:
            new, edges = np.arange(len(pairs)).repeat(2) + count, pairs.ravel()
            rows, columns = np.concatenate([np.arange(count), new]), np.concatenate([np.arange(count), edges])
            values = np.where(rows < count, 1.0, 0.5)
            self.to_all = SparseMap(sp.csr_matrix((values, (rows, columns)), shape=(count + len(pairs), count)))

    def forward(self, x: Float[Tensor, "n b c"]) -> Float[Tensor, "n_and_e b c"]:
        if not self.adaptive:
            return self.to_all(x)
        t = self.new_pts_pos.clamp(0, 1)[:, None, None]
        a, b = self.pairs.unbind(1)
        return torch.cat([x, t * x[a] + (1 - t) * x[b]])


def added(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of one or more tensors of a shape, in their order."""
    return functools.reduce(operator.add, tensors)


# --- image features at the vertices ---------------------------------------------------------------


def pool_features(
    maps: list[Float[Tensor, "b _ _ _"]], grid: Float[Tensor, "v b 2"], padding: str
) -> Float[Tensor, "v b c"]:
    """Image features at the vertices' places, bilinear, as grid_sample(align_corners=False) has them.

    On the CPU each vertex is a bag of four rows of a map in channels-last order, weighted and summed: 10 to 50 times
    faster than grid_sample, which walks through each channel apart (`benchmarks/network.py`).

    Args:    maps: (B, C_i, h_i, w_i).   grid: x, y in [-1, 1].
             padding: what lies outside, "zeros" or "border".
    Returns: the sum of C_i channels, shallow to deep.
    """
    if torch.compiler.is_exporting():  # ONNX knows grid_sample by name
        places = grid.transpose(0, 1)[:, :, None]
        sampled = [F.grid_sample(x, places, align_corners=False, padding_mode=padding)[..., 0] for x in maps]
        return torch.cat(sampled, 1).permute(2, 0, 1)
    sampled = []
    for x in maps:
        size = grid.new_tensor([x.shape[3], x.shape[2]])
        place = ((grid + 1) * size - 1) / 2
        if padding == "border":
            place = torch.minimum(place.clamp(min=0), size - 1)
        sampled.append(weigh_corners(x, place, place.detach().floor() + 1))
    return sampled[0] if len(sampled) == 1 else torch.cat(sampled, -1)


def weigh_corners(
    features: Float[Tensor, "b c h w"], place: Float[Tensor, "v b 2"], upper: Float[Tensor, "v b 2"]
) -> Float[Tensor, "v b c"]:
    """The four pixels about each place, weighted by the distances to the opposite ones; a pixel outside counts 0.

    Args: place: x, y in px of the map.   upper: the whole pixel right of and below it.
    """
    (batch, channels, height, width), lower = features.shape, place.detach().floor()
    weights, rows = [], []
    first = torch.arange(batch, device=features.device) * (height * width)
    for y, weight_y in ((lower[..., 1], upper[..., 1] - place[..., 1]), (upper[..., 1], place[..., 1] - lower[..., 1])):
        for x, weight_x in (
            (lower[..., 0], upper[..., 0] - place[..., 0]),
            (upper[..., 0], place[..., 0] - lower[..., 0]),
        ):
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            weights.append(weight_x * weight_y * inside)
            row, column = (c.clamp(0, side - 1).nan_to_num().long() for c, side in ((y, height), (x, width)))
            rows.append(first + row * width + column)  # a NaN shows in its weight
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    bags, shares = torch.stack(rows, -1).view(-1, 4), torch.stack(weights, -1).view(-1, 4)
    return F.embedding_bag(bags, table, per_sample_weights=shares, mode="sum").view(*place.shape[:2], channels)
