"""Pixel2Mesh: a CNN reads the image, graph networks move the template's vertices, coarse to fine.

                  crop (B, 3, S, S)
                        |
      encoder: four feature maps --------------+------------------+-- ...
                        |                      | sampled          | sampled
      pose head: places the template           v                  v
      template, level 1 (B, n1, 3) --> [ graph network 1 ] -- unpool --> [ graph network 2 ] -- ... -> finest
                                            n1 vertices                     n2 vertices

Faces may have a surface map as well: the place on the template that each pixel of the merged maps shows. The coarse
stages read how far it is from their vertices. And the template may be given the person's shape before it is placed, as
a sum of learned modes: what a face is like as a whole is seen by no vertex alone.

Faces: coordinates are normalised crop coordinates, x right, y down, [-1, 1] from edge to edge, z to the viewer in
the same scale; so a vertex's x and y are where its features are sampled. Objects: metres before a perspective camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional as F

from p2m_core.config.settings import ModelConfig
from p2m_core.errors import InputError
from p2m_core.geometry.camera import project_perspective
from p2m_core.geometry.mesh import undirected
from p2m_core.geometry.template import Template
from p2m_core.network.encoders import Decoder, Normalise, build_backbone
from p2m_core.network.layers import GraphBottleneck, GraphConv, SparseMap, Unpooling, pool_features

SHAPE_LEVEL = 1  # whose vertices the shape modes move; finer ones follow by unpooling
SHAPE_SCALE = 0.02  # of the unit template: what a coefficient of 1 moves its vertices by, root mean square
PLACED_SCALE = 0.55  # of the unit template in a crop of the usual margin, where the pose head starts


@dataclass
class NetworkOutput:
    """Vertices of each level after its stage, `levels` L x (B, n_k, 3), and before it, `before` L x (B, n_k, 3);
    image: what the decoder draws, (B, 3, S, S), if there is one.   surface: where on the unit template lies what each
    pixel of the finest feature map shows, (B, 3, h, w), if the network says so."""

    levels: list[torch.Tensor]
    before: list[torch.Tensor]
    image: torch.Tensor | None = None
    surface: torch.Tensor | None = None


class Pixel2Mesh(nn.Module):
    """The network. Input (B, 3, S, S) RGB in [0, 1]; output a `NetworkOutput`."""

    def __init__(self, config: ModelConfig, template: Template):
        super().__init__()
        self.config, self.template = config, template
        levels = len(template.counts)
        for name in ("hidden", "blocks"):
            if len(getattr(config, name)) != levels:
                problem = f"{len(getattr(config, name))} entries for {levels} levels"
                raise InputError(
                    "config", f"model.{name}", problem, f"it needs one entry for each of the {levels} levels"
                )
        if config.pose_head and config.camera != "crop":
            problem = f"places a template in a crop, but model.camera is {config.camera}"
            raise InputError("config", "model.pose_head", problem, "set it to false")
        if (config.surface or config.pyramid) and not config.feature_channels:
            name = "surface" if config.surface else "pyramid"
            problem = "is for maps that are merged, but model.feature_channels is 0"
            raise InputError("config", f"model.{name}", problem, "set it to false, or give the number of channels")
        if config.surface and (config.camera != "crop" or config.last_hidden or not config.residual):
            problem = "needs a template in a crop and stages that move it"
            remedy = "set it to false, or camera=crop, last_hidden=0 and residual=true"
            raise InputError("config", "model.surface", problem, remedy)
        if config.shape_modes and not config.template_detail:
            problem = "gives the template another shape, but finer vertices do not ask the template for theirs"
            raise InputError("config", "model.shape_modes", problem, "set it to 0, or template_detail=true")
        if config.decoder and config.backbone != "vgg16":
            problem = f"draws from the maps of a vgg16, but model.backbone is {config.backbone}"
            raise InputError("config", "model.decoder", problem, "set it to false")
        self.normalise = Normalise(config.normalisation)
        self.encoder = build_backbone(config.backbone, config.pretrained, config.tensorflow_aligned)
        self.decoder = Decoder() if config.decoder else None
        channels, raw = config.feature_channels, self.encoder.channels
        self.reduce = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in raw) if channels else None
        self.fuse = nn.ModuleList(Fusion(channels) for _ in raw[1:]) if config.pyramid else None
        self.pose_head = nn.Linear(raw[-1], 9) if config.pose_head else None
        if self.pose_head is not None:
            nn.init.normal_(self.pose_head.weight, 0, 1e-3)
            with torch.no_grad():  # upright, frontal, centred
                self.pose_head.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 0]))
        self.shape_head = nn.Linear(sum(raw), config.shape_modes) if config.shape_modes else None
        if self.shape_head is not None:
            nn.init.zeros_(self.shape_head.weight)
            nn.init.zeros_(self.shape_head.bias)
            modes = smoothest_modes(template, min(SHAPE_LEVEL, levels - 1), config.shape_modes)
            self.modes = nn.Parameter(torch.from_numpy(modes))
        sampled = channels or sum(raw)
        self.to_global = nn.Linear(raw[-1], sampled) if config.global_feature else None
        self.to_surface = nn.Conv2d(channels, 3, 1) if config.surface else None

        self.stages, self.unpool = nn.ModuleList(), nn.ModuleList()
        for k, (hidden, blocks) in enumerate(zip(config.hidden, config.blocks, strict=True)):
            out = config.last_hidden if config.last_hidden and k == levels - 1 else sum(self.moves(k))
            self.stages.append(GraphBottleneck(sum(self.columns(k)), hidden, out, blocks, config.block))
            if k:
                adaptive = config.unpooling == "adaptive"
                self.unpool.append(Unpooling(template.unpool[k - 1], template.counts[k - 1], adaptive))
        self.gconv = GraphConv(config.last_hidden, 3) if config.last_hidden else None
        if config.residual:  # start as the placed template itself
            ends = [stage.conv2 for stage in self.stages]
            for convolution in [*ends[:-1], self.gconv] if self.gconv else ends:
                nn.init.normal_(convolution.weight, 0, 1e-3)
                nn.init.normal_(convolution.loop_weight, 0, 1e-3)
                convolution.bias.data[6:] = -4.0  # a map that has learned nothing is not trusted
        self.adjacency = nn.ModuleList(SparseMap(matrix) for matrix in template.adjacency)
        start = unit_template(template) if config.camera == "crop" else np.float32(template.vertices)
        self.register_buffer("start", torch.from_numpy(start), persistent=False)

    def forward(self, images: Float[torch.Tensor, "b 3 s s"]) -> NetworkOutput:
        # Convolutions and the sampling of their maps are fastest where a pixel's channels lie side by side.
        maps = self.encoder(self.normalise(images).contiguous(memory_format=torch.channels_last))
        image = self.decoder(maps) if self.decoder is not None else None
        pooled = maps[-1].mean((2, 3)).float()
        means = torch.cat([x.mean((2, 3)) for x in maps], 1).float() if self.shape_head is not None else None
        if self.reduce is not None:
            maps = [self.merge(maps)]
        maps = [x.float() for x in maps]
        low = torch.is_autocast_enabled(images.device.type)
        with torch.autocast(images.device.type, enabled=False):  # coordinates need all their digits
            surface = None if self.to_surface is None else self.to_surface(maps[0])
            levels, before = self.deform(maps, pooled, self.shaped(means), low, surface)
        return NetworkOutput([x.transpose(0, 1) for x in levels], [x.transpose(0, 1) for x in before], image, surface)

    def merge(self, maps: list[Float[torch.Tensor, "b _ _ _"]]) -> Float[torch.Tensor, "b c h w"]:
        """All maps reduced to the same channels and added at the finest map's size."""
        maps = [reduce(x) for reduce, x in zip(self.reduce, maps, strict=True)]
        if self.fuse is not None:
            merged = maps[-1]
            for x, fuse in zip(maps[-2::-1], self.fuse, strict=True):
                merged = fuse(x + F.interpolate(merged, x.shape[-2:], mode="bilinear", align_corners=False))
            return merged
        size = maps[0].shape[-2:]
        return maps[0] + sum(F.interpolate(x, size, mode="bilinear", align_corners=False) for x in maps[1:])

    def deform(
        self,
        maps: list[Float[torch.Tensor, "b _ _ _"]],
        pooled: Float[torch.Tensor, "b c"],
        templates: list[Float[torch.Tensor, "_ _ 3"]],
        low: bool = False,
        surface: Float[torch.Tensor, "b 3 h w"] | None = None,
    ) -> tuple[list[Float[torch.Tensor, "_ b 3"]], list[Float[torch.Tensor, "_ b 3"]]]:
        """Vertices after and before each stage, from the feature maps, the pooled deepest map, and the template of
        each level to begin with; low: whether the graph layers work under autocast."""
        counts, start = self.template.counts, self.start[:, None]
        turn, shift = self.placement(pooled)
        placed = vertices = turned(templates[0], turn) + shift
        levels, before, hidden = [], [], None
        for k, stage in enumerate(self.stages):
            # Columns of a stage's input, in the order of its weights' rows: coordinates, image features, the stage
            # before's hidden state, what all vertices of a sample share, what a vertex has in all samples. A new
            # vertex is a weighted mean of two old ones, so all but the last are multiplied at the few coarse
            # vertices, then unpooled.
            weights = stage.conv1.both_weights()
            of_place, of_image, of_hidden, of_all, of_vertex, of_away = weights.split(self.columns(k))
            product = vertices @ of_place + self.pooled_product(maps, of_image, vertices)
            if k:
                product = product + hidden @ of_hidden
            if self.to_global is not None:
                product = product + self.to_global(pooled) @ of_all
            if k:
                product = self.unpool[k - 1](product)
                if self.config.template_detail:
                    offset = self.unpool[k - 1](vertices - placed)
                    placed = turned(templates[k], turn) + shift
                    vertices = placed + offset
                else:
                    vertices = self.unpool[k - 1](vertices)
            if self.config.template_coordinates:
                product = product + start[: counts[k]] @ of_vertex
            if self.reads_surface(k):
                # From what the vertex' pixel shows to the vertex itself, on the template: the way it should move.
                away = start[: counts[k]] - pool_features([surface], vertices[..., :2], "border")
                product = product + away @ of_away
            before.append(vertices)
            with torch.autocast(vertices.device.type, enabled=low):
                moved, hidden = stage(product, self.adjacency[k])
            if self.gconv is not None and k == len(counts) - 1:
                moved = self.gconv(F.relu(moved), self.adjacency[k])
            if self.config.surface:
                # What a face is like does not hang on where it looks: a part of the move is turned as the template is.
                moved, in_template, trust = moved.split(self.moves(k), -1)
                if self.reads_surface(k):
                    in_template = in_template + trust.sigmoid() * away
                moved = moved + turned(in_template, turn)
            vertices = vertices + moved if self.config.residual else moved
            levels.append(vertices)
        return levels, before

    def shaped(self, means: Float[torch.Tensor, "b c"] | None) -> list[Float[torch.Tensor, "v _ 3"]]:
        """The template of each level: of all samples (V, 1, 3), or by the shape modes of each one's own (V, B, 3)."""
        templates = [self.start[:n, None] for n in self.template.counts]
        if means is None:
            return templates
        offset = SHAPE_SCALE * torch.einsum("vck,bk->vbc", self.modes, self.shape_head(means))
        offsets = [offset[:n] for n in self.template.counts[: SHAPE_LEVEL + 1]]
        for unpool in self.unpool[SHAPE_LEVEL:]:
            offsets.append(unpool(offsets[-1]))
        return [template + offset for template, offset in zip(templates, offsets, strict=True)]

    def columns(self, level: int) -> list[int]:
        """Number of input columns of a stage by kind: place, image, hidden, global, template, surface."""
        config = self.config
        sampled = config.feature_channels or sum(self.encoder.channels)
        shared, own = (sampled if config.global_feature else 0), (3 if config.template_coordinates else 0)
        return [3, sampled, config.hidden[level - 1] if level else 0, shared, own, 3 * self.reads_surface(level)]

    def moves(self, level: int) -> list[int]:
        """Number of output columns of a stage by kind: in the crop's frame, in the template's, trust in the map."""
        return [3, 3 * self.config.surface, int(self.reads_surface(level))]

    def reads_surface(self, level: int) -> bool:
        """Whether a stage is told what the surface map says of its vertices: while they are no more than its pixels."""
        return self.config.surface and self.template.counts[level] <= (self.config.input_px // 4) ** 2

    def pooled_product(
        self,
        maps: list[Float[torch.Tensor, "b _ _ _"]],
        weights: Float[torch.Tensor, "c d"],
        vertices: Float[torch.Tensor, "v b 3"],
    ) -> Float[torch.Tensor, "v b d"]:
        """The image features at the vertices, times their weights.

        Both are linear, so each map is multiplied where it has fewer rows: at its pixels before it is sampled, or at
        the vertices after.
        """
        padding = "border" if self.reduce is not None else "zeros"
        grid = self.project(vertices)
        large, large_weights, product = [], [], 0
        for x, w in zip(maps, weights.split([x.shape[1] for x in maps]), strict=True):
            if x.shape[2] * x.shape[3] < len(vertices):
                multiplied = (x.permute(0, 2, 3, 1) @ w).permute(0, 3, 1, 2)
                product = product + pool_features([multiplied], grid, padding)
            else:
                large.append(x), large_weights.append(w)
        return product + pool_features(large, grid, padding) @ torch.cat(large_weights) if large else product

    def project(self, vertices: Float[torch.Tensor, "v b 3"]) -> Float[torch.Tensor, "v b 2"]:
        """Where vertices fall on the input, x and y in [-1, 1]."""
        config = self.config
        if config.camera == "crop":
            return vertices[..., :2]
        return project_perspective(
            vertices, config.focal_px, config.centre_px, config.input_px, config.mesh_offset, config.z_threshold
        )

    def placement(
        self, pooled: Float[torch.Tensor, "b c"]
    ) -> tuple[Float[torch.Tensor, "b 3 3"], Float[torch.Tensor, "b 3"]]:
        """The similarity (one a sample) that places the template in the crop: its linear part, and its shift."""
        turn, shift = torch.eye(3, device=pooled.device).expand(len(pooled), -1, -1), pooled.new_zeros(len(pooled), 3)
        if self.config.camera == "crop":
            turn = turn * turn.new_tensor([1.0, -1.0, 1.0])[:, None] * PLACED_SCALE  # the crop has y down
        if self.pose_head is None:
            return turn, shift
        values = self.pose_head(pooled)
        turn = turn @ rotation_from_6d(values[:, :6]) * values[:, 6].exp().view(-1, 1, 1)
        return turn, F.pad(values[:, 7:9], (0, 1))


def turned(points: Float[torch.Tensor, "v _ 3"], turn: Float[torch.Tensor, "b 3 3"]) -> Float[torch.Tensor, "v b 3"]:
    """Points, of each sample or of all, turned and scaled as the template is."""
    return torch.einsum("bij,vbj->vbi", turn, points.expand(-1, len(turn), -1))


class Fusion(nn.Module):
    """Coarse and fine features of a place, added, read together: x + conv(ReLU(conv x)), at first x alone."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Float[torch.Tensor, "b c h w"]) -> Float[torch.Tensor, "b c h w"]:
        return x + self.conv2(F.relu(self.conv1(x)))


def rotation_from_6d(values: Float[torch.Tensor, "b 6"]) -> Float[torch.Tensor, "b 3 3"]:
    """Rotations from their first two rows, made orthonormal.   Source: Zhou et al., CVPR 2019."""
    a = F.normalize(values[:, :3], dim=1)
    b = values[:, 3:]
    b = F.normalize(b - (a * b).sum(1, keepdim=True) * a, dim=1)
    return torch.stack([a, b, torch.linalg.cross(a, b)], 1)


def smoothest_modes(template: Template, level: int, count: int) -> np.ndarray:
    """The template's smoothest displacements (V, 3, count), each 1 in the root mean square of its vertices: along x, y
    and z in turn, by the eigenvectors of a level's graph Laplacian after the constant one."""
    n, edges = template.counts[level], template.edges[level]
    if count > 3 * (n - 1):
        problem, remedy = f"is {count}, but level {level + 1} has {n} vertices", f"set it to at most {3 * (n - 1)}"
        raise InputError("config", "model.shape_modes", problem, remedy)
    graph = undirected(edges, n).toarray()
    vectors = np.linalg.eigh(np.diag(graph.sum(1)) - graph)[1][:, 1 : 1 + -(-count // 3)] * np.sqrt(n)
    modes = np.einsum("vk,cd->vckd", vectors, np.eye(3)).reshape(n, 3, -1)[..., :count]
    return np.ascontiguousarray(modes, np.float32)


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
