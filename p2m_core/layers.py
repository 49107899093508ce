"""Layers on meshes. Vertex features are (V, B, C): one sparse product then serves the whole batch."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn
from torch.nn import functional as F


def to_torch(matrix: sp.csr_matrix) -> torch.Tensor:
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


class _SparseProduct(torch.autograd.Function):
    """matrix @ x, with a gradient for x alone: torch's own backward would transpose the matrix at every step."""

    @staticmethod
    def forward(ctx, x, matrix, transposed):
        ctx.transposed = transposed
        return matrix @ x

    @staticmethod
    def backward(ctx, gradient):
        return ctx.transposed @ gradient.contiguous(), None, None


class SparseMap(nn.Module):
    """A fixed linear map between vertex sets: (V, B, C) -> (W, B, C) by a sparse (W, V) matrix."""

    def __init__(self, matrix: sp.csr_matrix):
        super().__init__()
        # Rebuilt from the template, so not part of a checkpoint.
        self.register_buffer("matrix", to_torch(matrix), persistent=False)
        self.register_buffer("transposed", to_torch(matrix.T), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, b, c = x.shape
        return _SparseProduct.apply(x.reshape(-1, b * c).float(), self.matrix, self.transposed).view(-1, b, c)


class GraphConv(nn.Module):
    """A (X W) + X W_loop + b, both products in one.

    Source: Pixel2Mesh, section 3.3, with the rescaled Laplacian A of its official code.
    """

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_in, channels_out))
        self.loop_weight = nn.Parameter(torch.empty(channels_in, channels_out))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        nn.init.xavier_uniform_(self.weight)
        nn.init.xavier_uniform_(self.loop_weight)

    def forward(self, x: torch.Tensor, adjacency: SparseMap) -> torch.Tensor:
        return self.mix(x @ self.both_weights(), adjacency)

    def both_weights(self) -> torch.Tensor:
        """[W, W_loop], (channels_in, 2 channels_out): one product for both."""
        return torch.cat([self.weight, self.loop_weight], 1)

    def mix(self, both: torch.Tensor, adjacency: SparseMap) -> torch.Tensor:
        """The convolution's output from X [W, W_loop], (V, B, 2 channels_out)."""
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

    def forward(self, x: torch.Tensor, adjacency: SparseMap) -> torch.Tensor:
        if self.norm is not None:
            return x + self.conv2(F.relu(self.conv1(self.norm(x), adjacency)), adjacency)
        return (x + F.relu(self.conv2(F.relu(self.conv1(x, adjacency)), adjacency))) / 2


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

    def forward(self, product: torch.Tensor, adjacency: SparseMap) -> tuple[torch.Tensor, torch.Tensor]:
        x = F.relu(self.conv1.mix(product, adjacency))
        for block in self.blocks:
            x = block(x, adjacency)
        return self.conv2(x, adjacency), x


class Unpooling(nn.Module):
    """New vertices on the edges: n -> n + E.

    "midpoint": (a + b) / 2.   "adaptive": t a + (1 - t) b with a learned t per edge, held in [0, 1].
    """

    def __init__(self, pairs: np.ndarray, count: int, adaptive: bool):
        super().__init__()
        self.adaptive = adaptive
        if adaptive:
            self.register_buffer("pairs", torch.from_numpy(pairs), persistent=False)
            self.new_pts_pos = nn.Parameter(torch.full((len(pairs), 1), 0.5))
        else:
            rows = np.repeat(np.arange(len(pairs)), 2)
            middle = sp.csr_matrix((np.full(2 * len(pairs), 0.5), (rows, pairs.ravel())), shape=(len(pairs), count))
            self.to_new = SparseMap(middle)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.adaptive:
            return torch.cat([x, self.to_new(x)])
        t = self.new_pts_pos.clamp(0, 1)[:, None]
        a, b = self.pairs.unbind(1)
        return torch.cat([x, t * x[a] + (1 - t) * x[b]])


def sample_features(maps: list[torch.Tensor], grid: torch.Tensor, padding: str) -> torch.Tensor:
    """Image features at the vertices' places, bilinear.

    Args:    maps: (B, C_i, h_i, w_i).   grid: (V, B, 2) x, y in [-1, 1].
             padding: what lies outside, "zeros" or "border".
    Returns: (V, B, sum of C_i), shallow to deep.
    """
    grid = grid.transpose(0, 1)[:, :, None]
    sampled = [F.grid_sample(x, grid, align_corners=False, padding_mode=padding)[..., 0] for x in maps]
    return torch.cat(sampled, 1).permute(2, 0, 1)
