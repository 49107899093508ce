"""Pixel2Mesh: a CNN reads the image, graph networks move the template's vertices, coarse to fine.

                  crop (B, 3, S, S)
                        |
      encoder: four feature maps --------------+------------------+-- ...
                        |                      | sampled          | sampled
      pose head: places the template           v                  v
      template, level 1 (B, n1, 3) --> [ graph network 1 ] -- unpool --> [ graph network 2 ] -- ... -> finest
                                            n1 vertices                     n2 vertices

Two optional parts for faces. A dense correspondence map: for each pixel of the merged feature maps, the point of the
template that the pixel shows (canonical coordinates); the coarse stages read its offset from their vertices. A learned
linear shape basis: before the template is placed, a linear combination of learned displacements is added to it, with
coefficients from features of the whole image, which no single vertex sees.

Vertices are in normalised crop coordinates for faces, so that x and y are where a vertex' features are sampled, and in
metres before a perspective camera for objects: docs/conventions.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.nn import functional as F

from p2m_core.config.settings import ModelConfig
from p2m_core.errors import InputError
from p2m_core.geometry.camera import project_perspective
from p2m_core.geometry.mesh import adjacency_matrix
from p2m_core.geometry.template import Template
from p2m_core.network.encoders import Decoder, Normalise, build_backbone
from p2m_core.network.layers import GraphBottleneck, GraphConv, SparseMap, Unpooling, added, full, pool_features

SHAPE_LEVEL = 1  # the shape basis has the vertices of this level; finer ones follow by unpooling
SHAPE_SCALE = 0.02  # root mean square displacement for a coefficient of 1, in units of the unit template
PLACED_SCALE = 0.55  # of the unit template in a crop of the usual margin, where the pose head starts


@dataclass
class NetworkOutput:
    """What the network returns for a batch of B crops.

    levels          L x (B, n_k, 3) vertices of each level after its stage
    before          L x (B, n_k, 3) the same before its stage
    image           (B, 3, S, S) drawn by the decoder; None without `model.decoder`
    correspondence  (B, 3, h, w) the point of the unit template that each pixel of the finest feature map shows;
                    None without `model.correspondence_map`
    """

    levels: list[Float[Tensor, "b _ 3"]]
    before: list[Float[Tensor, "b _ 3"]]
    image: Float[Tensor, "b 3 s s"] | None = None
    correspondence: Float[Tensor, "b 3 h w"] | None = None


class Pixel2Mesh(nn.Module):
    """The network. Input (B, 3, S, S) RGB in [0, 1]; output a `NetworkOutput`.

    >>> from p2m_core.geometry.template import ellipsoid
    >>> config = ModelConfig(camera="perspective", pose_head=False, hidden=(16, 16), blocks=(1, 1))
    >>> network = Pixel2Mesh(config, ellipsoid(levels=2))
    >>> output = network(torch.zeros(2, 3, 64, 64))
    >>> [tuple(vertices.shape) for vertices in output.levels]
    [(2, 162, 3), (2, 642, 3)]
    """

    start: Tensor  # (V, 3) the template before it is placed

    def __init__(self, config: ModelConfig, template: Template):
        super().__init__()
        self.config, self.template = config, template
        levels = len(template.counts)
        self.normalise = Normalise(config.normalisation)
        self.encoder = build_backbone(config.backbone, config.tensorflow_aligned)
        self.decoder = Decoder() if config.decoder else None
        channels, raw = config.feature_channels, self.encoder.channels
        self.reduce = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in raw) if channels else None
        self.fuse = nn.ModuleList(Fusion(channels) for _ in raw[1:]) if config.pyramid else None
        self.pose_head = nn.Linear(raw[-1], 9) if config.pose_head else None
        if self.pose_head is not None:
            nn.init.normal_(self.pose_head.weight, 0, 1e-3)
            with torch.no_grad():  # upright, frontal, centred
                self.pose_head.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 0]))
        self.shape_head = nn.Linear(sum(raw), config.shape_basis) if config.shape_basis else None
        if self.shape_head is not None:
            nn.init.zeros_(self.shape_head.weight)
            nn.init.zeros_(self.shape_head.bias)
            basis = smoothest_displacements(template, min(SHAPE_LEVEL, levels - 1), config.shape_basis)
            self.shape_basis = nn.Parameter(torch.from_numpy(basis))
        sampled = channels or sum(raw)
        self.to_global = nn.Linear(raw[-1], sampled) if config.global_feature else None
        self.to_correspondence = nn.Conv2d(channels, 3, 1) if config.correspondence_map else None

        self.stages, self.unpool = nn.ModuleList(), nn.ModuleList()
        ends: list[GraphConv] = []  # the convolutions whose output moves the vertices
        for k, (_, hidden, blocks) in enumerate(zip(template.counts, config.hidden, config.blocks, strict=True)):
            out = config.last_hidden if config.last_hidden and k == levels - 1 else sum(self.moves(k))
            stage = GraphBottleneck(sum(self.columns(k)), hidden, out, blocks, config.block)
            self.stages.append(stage)
            ends.append(stage.conv2)
            if k:
                adaptive = config.unpooling != "midpoint"
                self.unpool.append(Unpooling(template.unpool[k - 1], template.counts[k - 1], adaptive))
        self.gconv = GraphConv(config.last_hidden, 3) if config.last_hidden else None
        if self.gconv is not None:
            ends[-1] = self.gconv
        if config.residual:  # so that training begins with the placed template
            for convolution in ends:
                nn.init.normal_(convolution.weight, 0, 1e-3)
                nn.init.normal_(convolution.loop_weight, 0, 1e-3)
                convolution.bias.data[6:] = -4.0  # the gate of an untrained correspondence map is nearly closed
        self.adjacency = nn.ModuleList(SparseMap(matrix) for matrix in template.adjacency)
        start = unit_template(template) if config.camera == "crop" else template.vertices.astype(np.float32)
        self.register_buffer("start", torch.from_numpy(start), persistent=False)

    def forward(self, images: Float[Tensor, "b 3 s s"]) -> NetworkOutput:
        """Vertices of every level for crops, RGB in [0, 1]."""
        # Convolutions and the sampling of their maps are fastest where a pixel's channels lie side by side.
        maps = self.encoder(self.normalise(images).contiguous(memory_format=torch.channels_last))
        image = self.decoder(maps) if self.decoder is not None else None
        pooled = full(maps[-1].mean((2, 3)))
        means = full(torch.cat([x.mean((2, 3)) for x in maps], 1)) if self.shape_head is not None else None
        if self.reduce is not None:
            maps = [self.merge(maps)]
        maps = [full(x) for x in maps]
        low = torch.is_autocast_enabled(images.device.type)
        with torch.autocast(images.device.type, enabled=False):  # coordinates stay float32
            correspondence = None if self.to_correspondence is None else self.to_correspondence(maps[0])
            levels, before = self.deform(maps, pooled, self.shaped(means), low, correspondence)
        levels, before = ([x.transpose(0, 1) for x in stages] for stages in (levels, before))
        return NetworkOutput(levels, before, image, correspondence)

    def merge(self, maps: list[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b c h w"]:
        """All maps reduced to the same channels and added at the finest map's size."""
        assert self.reduce is not None
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
        maps: list[Float[Tensor, "b _ _ _"]],
        pooled: Float[Tensor, "b c"],
        templates: list[Float[Tensor, "_ _ 3"]],
        low: bool = False,
        correspondence: Float[Tensor, "b 3 h w"] | None = None,
    ) -> tuple[list[Float[Tensor, "_ b 3"]], list[Float[Tensor, "_ b 3"]]]:
        """The stages, one after another.

        Args:    maps: the feature maps.   pooled: the mean of the deepest one.   templates: of each level, from
                 `shaped`.   low: whether the graph layers run under autocast.   correspondence: the map, if any.
        Returns: the vertices after and before each stage.
        """
        counts, start = self.template.counts, self.start[:, None]
        turn, shift = self.placement(pooled)
        placed = vertices = turned(templates[0], turn) + shift
        levels, before, hidden = [], [], None
        for k, stage in enumerate(self.stages):
            assert isinstance(stage, GraphBottleneck)
            # Columns of a stage's input, in the order of its weights' rows: coordinates, image features, the hidden
            # state of the stage before, the global feature, the template's coordinates, the offset by the
            # correspondence map. A new vertex is a weighted mean of two old ones, so the first four are multiplied at
            # the few coarse vertices and the product is unpooled.
            weights = stage.conv1.both_weights()
            of_place, of_image, of_hidden, of_global, of_template, of_offset = weights.split(self.columns(k))
            product = vertices @ of_place + self.pooled_product(maps, of_image, vertices)
            if hidden is not None:
                product = product + hidden @ of_hidden
            if self.to_global is not None:
                product = product + self.to_global(pooled) @ of_global
            if k:
                product = self.unpool[k - 1](product)
                if self.config.template_detail:
                    moved = self.unpool[k - 1](vertices - placed)
                    placed = turned(templates[k], turn) + shift
                    vertices = placed + moved
                else:
                    vertices = self.unpool[k - 1](vertices)
            if self.config.template_coordinates:
                product = product + start[: counts[k]] @ of_template
            offset = None
            if correspondence is not None and self.reads_correspondence(k):
                # On the template, from the point that the vertex's pixel shows to the vertex: its way to its place.
                offset = start[: counts[k]] - pool_features([correspondence], vertices[..., :2], "border")
                product = product + offset @ of_offset
            before.append(vertices)
            with torch.autocast(vertices.device.type, enabled=low):
                moved, hidden = stage(product, self.adjacency[k])
            if self.gconv is not None and k == len(counts) - 1:
                moved = self.gconv(F.relu(moved), self.adjacency[k])
            if self.config.correspondence_map:
                # Besides the displacement in the crop's frame, one in the canonical frame, turned like the template.
                moved, canonical, gate = moved.split(self.moves(k), -1)
                if offset is not None:
                    canonical = canonical + gate.sigmoid() * offset
                moved = moved + turned(canonical, turn)
            vertices = vertices + moved if self.config.residual else moved
            levels.append(vertices)
        return levels, before

    def shaped(self, means: Float[Tensor, "b c"] | None) -> list[Float[Tensor, "v _ 3"]]:
        """The template of each level: (V, 1, 3) for all samples, or (V, B, 3) with each sample's own shape."""
        templates = [self.start[:n, None] for n in self.template.counts]
        if means is None or self.shape_head is None:
            return templates
        offset = SHAPE_SCALE * torch.einsum("vck,bk->vbc", self.shape_basis, self.shape_head(means))
        offsets = [offset[:n] for n in self.template.counts[: SHAPE_LEVEL + 1]]
        for unpool in self.unpool[SHAPE_LEVEL:]:
            offsets.append(unpool(offsets[-1]))
        return [template + offset for template, offset in zip(templates, offsets, strict=True)]

    def columns(self, level: int) -> list[int]:
        """Number of input columns of a stage by kind: coordinates, image features, hidden state, global feature,
        template coordinates, offset by the correspondence map."""
        config = self.config
        sampled = config.feature_channels or sum(self.encoder.channels)
        shared, own = (sampled if config.global_feature else 0), (3 if config.template_coordinates else 0)
        return [3, sampled, config.hidden[level - 1] if level else 0, shared, own, 3 * self.reads_correspondence(level)]

    def moves(self, level: int) -> list[int]:
        """Number of output columns of a stage by kind: displacement in the crop's frame, displacement in the canonical
        frame, gate of the correspondence map."""
        return [3, 3 * self.config.correspondence_map, int(self.reads_correspondence(level))]

    def reads_correspondence(self, level: int) -> bool:
        """Whether a stage reads the correspondence map: where it has no more vertices than the map has pixels."""
        return self.config.correspondence_map and self.template.counts[level] <= (self.config.input_px // 4) ** 2

    def pooled_product(
        self, maps: list[Float[Tensor, "b _ _ _"]], weights: Float[Tensor, "c d"], vertices: Float[Tensor, "v b 3"]
    ) -> Float[Tensor, "v b d"]:
        """The image features at the vertices, times their weights.

        Sampling and product are linear, so they can be swapped: each map is multiplied where it has fewer rows, at its
        pixels before it is sampled, or at the vertices after.
        """
        padding = "border" if self.reduce is not None else "zeros"
        grid = self.project(vertices)
        large, large_weights, products = [], [], []
        for x, w in zip(maps, weights.split([x.shape[1] for x in maps]), strict=True):
            if x.shape[2] * x.shape[3] < len(vertices):
                multiplied = (x.permute(0, 2, 3, 1) @ w).permute(0, 3, 1, 2)
                products.append(pool_features([multiplied], grid, padding))
            else:
                large.append(x)
                large_weights.append(w)
        if large:
            products.append(pool_features(large, grid, padding) @ torch.cat(large_weights))
        return added(products)

    def project(self, vertices: Float[Tensor, "v b 3"]) -> Float[Tensor, "v b 2"]:
        """Where vertices fall on the input, x and y in [-1, 1]."""
        config = self.config
        if config.camera == "crop":
            return vertices[..., :2]
        return project_perspective(
            vertices, config.focal_px, config.centre_px, config.input_px, config.mesh_offset, config.z_threshold
        )

    def placement(self, pooled: Float[Tensor, "b c"]) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
        """The similarity that places the template in the crop, one for each sample: linear part and shift."""
        turn, shift = torch.eye(3).to(pooled).expand(len(pooled), -1, -1), pooled.new_zeros(len(pooled), 3)
        if self.config.camera == "crop":
            turn = turn * turn.new_tensor([1.0, -1.0, 1.0])[:, None] * PLACED_SCALE  # the crop has y down
        if self.pose_head is None:
            return turn, shift
        values = self.pose_head(pooled)
        turn = turn @ rotation_from_6d(values[:, :6]) * values[:, 6].exp().view(-1, 1, 1)
        return turn, F.pad(values[:, 7:9], (0, 1))


def turned(points: Float[Tensor, "v _ 3"], turn: Float[Tensor, "b 3 3"]) -> Float[Tensor, "v b 3"]:
    """Points of each sample (V, B, 3), or of all (V, 1, 3), under the linear part of `placement`."""
    return torch.einsum("bij,vbj->vbi", turn, points.expand(-1, len(turn), -1))


class Fusion(nn.Module):
    """x + conv(ReLU(conv x)) with 3x3 convolutions, on the sum of a coarse and a fine map; the identity at first."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.conv2(F.relu(self.conv1(x)))


def rotation_from_6d(values: Float[Tensor, "b 6"]) -> Float[Tensor, "b 3 3"]:
    """Rotations from their first two rows, made orthonormal.   Source: Zhou et al., CVPR 2019."""
    a = F.normalize(values[:, :3], dim=1)
    b = values[:, 3:]
    b = F.normalize(b - (a * b).sum(1, keepdim=True) * a, dim=1)
    return torch.stack([a, b, torch.linalg.cross(a, b)], 1)


def smoothest_displacements(template: Template, level: int, count: int) -> Float[np.ndarray, "v 3 {count}"]:
    """The smoothest displacements of a level, with which the shape basis begins.

    They are the eigenvectors of its graph Laplacian with the least eigenvalues, the constant one left out, each along
    x, y and z in turn, scaled to a root mean square of 1.
    Raises: InputError if the level has too few vertices.
    """
    n, edges = template.counts[level], template.edges[level]
    if count > 3 * (n - 2):
        problem, remedy = f"is {count}, but level {level + 1} has {n} vertices", f"set it to at most {3 * (n - 2)}"
        raise InputError("template", "model.shape_basis", problem, remedy)
    graph, start = adjacency_matrix(edges, n), np.random.default_rng(0).standard_normal(n)  # eigsh's own is random
    laplacian = sp.diags(np.asarray(graph.sum(1)).ravel()) - graph
    values, vectors = eigsh(laplacian.tocsc(), 1 + -(-count // 3), sigma=-0.01, v0=start)
    vectors = vectors[:, np.argsort(values)[1:]] * np.sqrt(n)
    basis = np.einsum("vk,cd->vckd", vectors, np.eye(3)).reshape(n, 3, -1)
    return np.ascontiguousarray(basis[..., :count], np.float32)


def unit_template(template: Template) -> Float[np.ndarray, "v 3"]:
    """The template's vertices (V, 3) about their mean, at a mean distance of 1, left-right symmetric if it can be."""
    vertices = template.vertices.astype(np.float64)
    if len(template.mirror):
        vertices = (vertices + vertices[template.mirror] * [-1, 1, 1]) / 2
    vertices = vertices - vertices.mean(0)
    return (vertices / np.linalg.norm(vertices, axis=1).mean()).astype(np.float32)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
