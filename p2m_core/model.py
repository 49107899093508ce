"""Pixel2Mesh on faces: a CNN reads the crop, graph networks move the template's vertices, coarse to fine.

                  crop (B, 3, S, S)
                        |
      encoder: four feature maps --------------+------------------+-- ...
                        |                      | sampled          | sampled
      pose head: places the template           v                  v
      template, level 1 (B, n1, 3) --> [ graph network 1 ] -- unpool --> [ graph network 2 ] -- ... -> finest
                                            n1 vertices                     n2 vertices

Coordinates are normalised crop coordinates: x right, y down, [-1, 1] from edge to edge, z to the viewer in
the same scale; so a vertex's x and y are where its features are sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from p2m_core.backbones import IMAGENET_MEAN, IMAGENET_STD, build_backbone
from p2m_core.config import ModelConfig
from p2m_core.layers import GraphBottleneck, SparseMap, Unpooling, sample_features
from p2m_core.template import Template

PLACED_SCALE = 0.55  # of the unit template in a crop of the usual margin, where the pose head starts


@dataclass
class Prediction:
    """Vertices of each level after its stage, `levels` L x (B, n_k, 3), and before it, `before` L x (B, n_k, 3)."""

    levels: list[torch.Tensor]
    before: list[torch.Tensor]


class Pixel2MeshFace(nn.Module):
    """The network. Input (B, 3, S, S) RGB in [0, 1]; output a `Prediction`."""

    def __init__(self, config: ModelConfig, template: Template):
        super().__init__()
        self.config, self.template = config, template
        levels = len(template.counts)
        if len(config.hidden) != levels or len(config.blocks) != levels:
            raise ValueError(f"model.hidden and model.blocks need one entry for each of the {levels} levels")
        self.encoder = build_backbone(config.backbone, config.pretrained)
        channels, raw = config.feature_channels, self.encoder.channels
        self.reduce = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in raw) if channels else None
        sampled = channels or sum(raw)
        self.pose_head = nn.Linear(raw[-1], 9) if config.pose_head else None
        if self.pose_head is not None:
            nn.init.normal_(self.pose_head.weight, 0, 1e-3)
            with torch.no_grad():  # upright, frontal, centred
                self.pose_head.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 0]))
        self.to_global = nn.Linear(raw[-1], sampled) if config.global_feature else None

        fixed = sampled * (2 if config.global_feature else 1) + (6 if config.template_coordinates else 3)
        self.stages, self.unpool = nn.ModuleList(), nn.ModuleList()
        for k, (hidden, blocks) in enumerate(zip(config.hidden, config.blocks, strict=True)):
            before = config.hidden[k - 1] if k else 0
            stage = GraphBottleneck(fixed + before, hidden, 3, blocks, config.block)
            if config.residual:  # start as the placed template itself
                nn.init.normal_(stage.conv2.weight, 0, 1e-3)
                nn.init.normal_(stage.conv2.loop_weight, 0, 1e-3)
            self.stages.append(stage)
            if k:
                self.unpool.append(
                    Unpooling(template.unpool[k - 1], template.counts[k - 1], config.unpooling == "adaptive")
                )
        self.adjacency = nn.ModuleList(SparseMap(matrix) for matrix in template.adjacency)
        self.register_buffer("unit_template", torch.from_numpy(unit_template(template)), persistent=False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> Prediction:
        maps = self.encoder((images - self.mean) / self.std)
        pooled = maps[-1].mean((2, 3)).float()
        if self.reduce is not None:
            maps = [self.merge(maps)]
        maps = [x.float() for x in maps]
        with torch.autocast(images.device.type, enabled=False):  # coordinates need all their digits
            return self.deform(maps, pooled)

    def merge(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """All maps reduced to the same channels and added at the finest map's size, (B, C, h, w)."""
        maps = [reduce(x) for reduce, x in zip(self.reduce, maps, strict=True)]
        size = maps[0].shape[-2:]
        return maps[0] + sum(F.interpolate(x, size, mode="bilinear", align_corners=False) for x in maps[1:])

    def deform(self, maps: list[torch.Tensor], pooled: torch.Tensor) -> Prediction:
        """All stages from feature maps (B, C, h, w) and the pooled deepest map (B, C)."""
        counts, unit = self.template.counts, self.unit_template[:, None]
        place = self.placement(pooled)
        placed = vertices = place(unit[: counts[0]].expand(-1, len(pooled), -1))
        padding = "border" if self.reduce is not None else "zeros"
        levels, before, hidden = [], [], None
        for k, stage in enumerate(self.stages):
            # Columns of the input: coordinates, image features, the stage before's hidden state, what all
            # vertices of a sample share; and what a vertex has in all samples. A new vertex is a weighted mean
            # of two old ones, so all but the last are multiplied at the few coarse vertices, then unpooled.
            features = sample_features(maps, vertices[..., :2], padding)
            columns = torch.cat([vertices, features] + ([hidden] if k else []), -1)
            weights = stage.conv1.both_weights()
            product = columns @ weights[: columns.shape[-1]]
            if self.to_global is not None:
                product = product + self.to_global(pooled) @ weights[columns.shape[-1] :][: features.shape[-1]]
            if k:
                product = self.unpool[k - 1](product)
                if self.config.template_detail:
                    offset = self.unpool[k - 1](vertices - placed)
                    placed = place(unit[: counts[k]].expand(-1, len(pooled), -1))
                    vertices = placed + offset
                else:
                    vertices = self.unpool[k - 1](vertices)
            if self.config.template_coordinates:
                product = product + unit[: counts[k]] @ weights[-3:]
            before.append(vertices)
            moved, hidden = stage(product, self.adjacency[k])
            vertices = vertices + moved if self.config.residual else moved
            levels.append(vertices)
        return Prediction([x.transpose(0, 1) for x in levels], [x.transpose(0, 1) for x in before])

    def placement(self, pooled: torch.Tensor):
        """The similarity (one a sample) that places the unit template in the crop, as a function of (V, B, 3)."""
        batch = len(pooled)
        flip = pooled.new_tensor([1.0, -1.0, 1.0])  # the template has y up, the crop y down
        if self.pose_head is None:
            return lambda points: points * flip * PLACED_SCALE
        values = self.pose_head(pooled)
        rotation = rotation_from_6d(values[:, :6])
        scale = PLACED_SCALE * values[:, 6].exp().view(1, batch, 1)
        shift = F.pad(values[:, 7:9], (0, 1))
        return lambda points: torch.einsum("bij,vbj->vbi", rotation, points) * flip * scale + shift


def rotation_from_6d(values: torch.Tensor) -> torch.Tensor:
    """Rotations (B, 3, 3) from their first two rows, (B, 6), made orthonormal.   Source: Zhou et al., CVPR 2019."""
    a = F.normalize(values[:, :3], dim=1)
    b = values[:, 3:]
    b = F.normalize(b - (a * b).sum(1, keepdim=True) * a, dim=1)
    return torch.stack([a, b, torch.linalg.cross(a, b)], 1)


def unit_template(template: Template) -> np.ndarray:
    """The template's vertices (V, 3) about their mean, at a mean distance of 1, left-right symmetric if it can be."""
    vertices = template.vertices.astype(np.float64)
    if len(template.mirror):
        vertices = (vertices + vertices[template.mirror] * [-1, 1, 1]) / 2
    vertices = vertices - vertices.mean(0)
    return (vertices / np.linalg.norm(vertices, axis=1).mean()).astype(np.float32)


def count_parameters(model: nn.Module) -> int:
    """Number of trained numbers."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
