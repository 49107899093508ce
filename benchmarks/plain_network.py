"""The baseline of benchmarks/network.py: the reference's formulas as they are written, on the same weights.

The sparse product runs sample by sample, and all channels of all maps are sampled at all vertices by grid_sample, laid
side by side and unpooled before anything is multiplied. It passes the golden tests like the network itself
(`tests/test_golden.py`).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from p2m_core.network.layers import GraphBottleneck, GraphConv
from p2m_core.network.model import NetworkOutput
from p2m_workbench.interop.reference_network import ReferencePixel2Mesh


class PlainNetwork(ReferencePixel2Mesh):
    """`Pixel2Mesh` with absolute coordinates and averaged blocks, computed the plain way; vertex features (B, V, C)."""

    def __init__(self, config, template):
        super().__init__(config, template)
        self.matrices = [torch.from_numpy(matrix.toarray()).float().to_sparse() for matrix in template.adjacency]

    def forward(self, images, crop=None) -> NetworkOutput:
        self.crop = crop
        maps = self.encoder(self.normalise(images))
        vertices = self.start[: self.template.counts[0]].expand(len(images), -1, -1)
        hidden, levels, before = None, [], []
        for k, stage in enumerate(self.stages):
            place = self.project(vertices.transpose(0, 1)).transpose(0, 1)
            x = torch.cat([vertices, self.sample(maps, place)] + ([hidden] if k else []), 2)
            if k:
                x = self.unpooled(x, k)
                vertices = x[..., :3]
            before.append(vertices)
            vertices, hidden = self.bottleneck(x, stage, self.matrices[k])
            if k == len(self.stages) - 1 and self.gconv is not None:
                vertices = self.convolution(F.relu(vertices), self.gconv, self.matrices[k])
            levels.append(vertices)
        return NetworkOutput(levels, before, self.decoder(maps) if self.decoder is not None else None)

    def sample(self, maps: list[torch.Tensor], place: torch.Tensor) -> torch.Tensor:
        """Features (B, V, C) at places (B, V, 2) in [-1, 1]."""
        if not self.config.tensorflow_aligned:
            grid = place[:, :, None]
            aligned = self.config.align_corners
            return torch.cat([F.grid_sample(x, grid, align_corners=aligned)[..., 0] for x in maps], 1).transpose(1, 2)
        half, sampled = (self.config.input_px - 1) / 2, []
        for features in maps:
            size = features.shape[-1]
            x, y = ((place * half + half) / (self.config.input_px / size)).clamp(0, size - 1).unbind(-1)
            batch, total = torch.arange(len(x))[:, None], 0
            for row, weight_y in ((y.floor(), y.ceil() - y), (y.ceil(), y - y.floor())):
                for column, weight_x in ((x.floor(), x.ceil() - x), (x.ceil(), x - x.floor())):
                    pixel = features.permute(0, 2, 3, 1)[batch, row.long(), column.long()]
                    total = total + pixel * (weight_x * weight_y)[..., None]
            sampled.append(total)
        return torch.cat(sampled, 2)

    def unpooled(self, x: torch.Tensor, level: int) -> torch.Tensor:
        a, b = torch.from_numpy(self.template.unpool[level - 1]).unbind(1)
        if self.config.unpooling != "midpoint":
            t = self.unpool[level - 1].new_pts_pos[:, None]
            t = t.clamp(0, 1) if self.config.unpooling == "adaptive" else t
            return torch.cat([x, t * x[:, a] + (1 - t) * x[:, b]], 1)
        return torch.cat([x, (x[:, a] + x[:, b]) / 2], 1)

    def bottleneck(self, x: torch.Tensor, stage: GraphBottleneck, matrix: torch.Tensor):
        x = F.relu(self.convolution(x, stage.conv1, matrix))
        for block in stage.blocks:
            inner = F.relu(self.convolution(x, block.conv1, matrix))
            x = (x + F.relu(self.convolution(inner, block.conv2, matrix))) / 2
        return self.convolution(x, stage.conv2, matrix), x

    @staticmethod
    def convolution(x: torch.Tensor, layer: GraphConv, matrix: torch.Tensor) -> torch.Tensor:
        mixed, own = x @ layer.weight, x @ layer.loop_weight
        return torch.stack([torch.sparse.mm(matrix, sample) for sample in mixed]) + own + layer.bias
