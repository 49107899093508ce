"""The training losses: Pixel2Mesh's terms, and what known correspondences add.

Coordinates are the network's own: normalised crop coordinates for faces, metres for objects. Every weight is a field
of `LossConfig`.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from p2m_core.chamfer import cloud_mean, gather, nearest
from p2m_core.config.settings import LossConfig
from p2m_core.geometry.landmarks import LOWER, UPPER
from p2m_core.geometry.similarity import umeyama
from p2m_core.geometry.template import Template
from p2m_core.network.layers import SparseMap, added, pool_features
from p2m_core.network.mesh_ops import (
    edge_differences,
    face_cross,
    face_sums,
    region_density,
    sample_surface,
    smooth_l1,
    squared_norm,
)
from p2m_core.network.model import NetworkOutput, unit_template
from p2m_core.targets import Truth

MEMBRANE_WEIGHT = 0.05  # in the term vertex
CORRESPONDENCE_LEVEL = 2  # whose vertices supervise the correspondence map: about two for each of its pixels


class MeshLoss(nn.Module):
    """The weighted sum of all terms with a weight above 0, see LossConfig; `forward` computes them one after another.

    Of a template with groups the terms count skin, lips and eyes, but no place within the mouth (`Template.counted`):
    the membrane there is held by edge, laplace and move, and in the term vertex by MEMBRANE_WEIGHT of other vertices'.

    Args of forward: prediction, truth.   Returns: the total, and each term before its weight.

    >>> from p2m_core.geometry.template import ellipsoid
    >>> template = ellipsoid(levels=2)
    >>> levels = [torch.from_numpy(template.vertices[:n])[None] for n in template.counts]
    >>> cloud = torch.rand(1, 500, 3, generator=torch.Generator().manual_seed(0))
    >>> loss = MeshLoss(LossConfig(normal=0), template)
    >>> total, terms = loss(NetworkOutput(levels, before=levels), Truth(points=cloud))
    >>> sorted(terms), bool(total > 0)
    (['chamfer', 'edge', 'laplace', 'move'], True)
    """

    faces: Tensor  # (F, 3) of the finest level, those that count
    axes: Tensor  # (V, 3) weights in the term vertex; (1, 3) where all is counted
    counted_idx: Tensor | None  # ascending, of the finest level; None where all is counted
    density: Tensor | None  # (F,) of the points that are drawn for the chamfer term
    landmark_faces: Tensor
    landmark_bary: Tensor
    seen_faces: Tensor  # (F_k, 3) of CORRESPONDENCE_LEVEL
    start: Tensor  # (n_k, 3) of CORRESPONDENCE_LEVEL, on the unit template

    def __init__(self, config: LossConfig, template: Template):
        super().__init__()
        self.config, self.counts = config, template.counts
        membrane, whole = template.within("mouth"), len(template.vertices)
        counted_idx = np.setdiff1d(np.arange(whole), membrane)
        self.counted_counts = {n: int((counted_idx < n).sum()) for n in template.counts}
        self.register_buffer("counted_idx", torch.from_numpy(counted_idx) if len(membrane) else None, persistent=False)
        axes = torch.tensor([[1.0, 1.0, 0.5]]).repeat(whole if len(membrane) else 1, 1)
        axes[membrane] *= MEMBRANE_WEIGHT
        self.register_buffer("axes", axes, persistent=False)
        self.neighbour_mean = nn.ModuleList(SparseMap(matrix) for matrix in template.neighbour_mean)
        self.along_edges = nn.ModuleList(map(SparseMap, map(edge_differences, template.edges, template.counts)))
        for k, edges in enumerate(template.edges):
            self.register_buffer(f"edges{k}", torch.from_numpy(edges), persistent=False)
            counted = torch.from_numpy(~np.isin(edges, membrane).any(1))[:, None]
            self.register_buffer(f"counted_edges{k}", counted, persistent=False)
        if config.correspondence:
            level = min(CORRESPONDENCE_LEVEL, len(template.counts) - 1)
            seen_faces = template.faces[level][template.counted[level]]
            self.register_buffer("seen_faces", torch.from_numpy(seen_faces), persistent=False)
            start = torch.from_numpy(unit_template(template))[: template.counts[level]]
            self.register_buffer("start", start, persistent=False)
            self.seen_to_vertices = SparseMap(face_sums(seen_faces, template.counts[level]))
        faces = template.faces[-1][template.counted[-1]]
        self.register_buffer("faces", torch.from_numpy(faces), persistent=False)
        density = region_density(template, config.regions)[template.counted[-1]] if any(config.regions) else None
        self.register_buffer("density", density, persistent=False)
        self.to_vertices = SparseMap(face_sums(faces, whole))
        self.register_buffer("landmark_faces", torch.from_numpy(template.landmark_faces), persistent=False)
        self.register_buffer("landmark_bary", torch.from_numpy(template.landmark_bary).float(), persistent=False)

    def forward(self, prediction: NetworkOutput, truth: Truth) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted total, and each term before its weight."""
        config, levels = self.config, range(len(self.counts))
        terms: dict[str, Tensor] = {}
        if config.vertex:
            terms["vertex"] = self.vertex(prediction, truth.known_vertices())
        if config.shape:
            true, part = truth.known_vertices(), self.counted
            terms["shape"] = added(shape_error(part(v), part(true[:, : v.shape[1]])) for v in prediction.levels)
        if config.landmark or config.opening:
            off = self.landmark_places(prediction.levels[-1] - truth.known_vertices())[..., :2]
            if config.landmark:
                terms["landmark"] = off.norm(dim=-1).mean()
            if config.opening:  # as DECA's eye closure loss: an error of place does not hide one of opening
                terms["opening"] = (off[:, UPPER] - off[:, LOWER]).norm(dim=-1).mean()
        edges = [self.edge_vectors(k, prediction.levels[k]) for k in levels] if config.edge or config.normal else []
        if config.chamfer or config.normal:
            terms |= self.chamfer_and_normal(prediction, truth, edges)
        if config.edge:
            terms["edge"] = added(self.mean_over_support(k, edges[k].square().sum(-1)) for k in levels)
        if config.laplace:
            terms["laplace"] = added(config.laplace_levels[k] * self.laplace(k, prediction) for k in levels)
        if config.move:  # not at level 1, whose stage must be free to find the object
            terms["move"] = added(
                config.laplace_levels[k] * squared_norm(prediction.levels[k] - prediction.before[k]) for k in levels[1:]
            )
        if config.correspondence:
            assert prediction.correspondence is not None
            terms["correspondence"] = self.correspondence(prediction.correspondence, truth.known_vertices())
        if config.reconst:
            assert prediction.image is not None
            assert truth.image is not None
            terms["reconst"] = F.binary_cross_entropy(prediction.image.float(), truth.image)
        return sum(getattr(config, name) * term for name, term in terms.items()), terms

    # --- with known correspondences ---

    def vertex(self, prediction: NetworkOutput, truth: Float[Tensor, "b v 3"]) -> Float[Tensor, ""]:
        """Smooth L1 to the true place of every vertex, at every level and of the placed template; depth counts half."""
        stages = (prediction.before[0], *prediction.levels)
        placed, *levels = (smooth_l1(v, truth[:, : v.shape[1]], self.axes[: v.shape[1]]) for v in stages)
        return 0.5 * placed + sum(levels)

    def counted(self, vertices: Float[Tensor, "b _ 3"]) -> Float[Tensor, "b _ 3"]:
        """A level's vertices without those within the mouth."""
        if self.counted_idx is None:
            return vertices
        return vertices.index_select(1, self.counted_idx[: self.counted_counts[vertices.shape[1]]])

    def landmark_places(self, vertices: Float[Tensor, "b v 3"]) -> Float[Tensor, "b l 3"]:
        """The landmarks of finest-level vertices, or of differences of such."""
        return (vertices[:, self.landmark_faces] * self.landmark_bary[..., None]).sum(2)

    def correspondence(
        self, correspondence: Float[Tensor, "b 3 h w"], truth: Float[Tensor, "b v 3"]
    ) -> Float[Tensor, ""]:
        """Mean distance on the unit template between the correspondence map, sampled where the true vertices are seen,
        and these vertices."""
        truth = truth[:, : len(self.start)]
        normals = self.seen_to_vertices(face_cross(truth, self.seen_faces).transpose(0, 1))
        places = truth[..., :2].transpose(0, 1)
        # With y down, triangles that face the viewer have their normals away from it.
        seen = (normals[..., 2] < 0) & (places.abs() < 1).all(-1)
        away = pool_features([correspondence], places, "border") - self.start[:, None]
        return (away.norm(dim=-1) * seen).sum() / seen.sum().clamp(min=1)

    # --- Pixel2Mesh's ---

    def chamfer_and_normal(
        self, prediction: NetworkOutput, truth: Truth, edges: list[Float[Tensor, "_ b 3"]]
    ) -> dict[str, Tensor]:
        """chamfer: sum over levels of w_k (mean d2(truth -> pred) + o mean d2(pred -> truth)).

        normal: sum over levels of mean |cos| between the edges at a vertex and the true normal there: that of the
        vertex itself where correspondences are known, else of the nearest true point.
        """
        config, terms = self.config, {}
        points, normals, lengths, known = truth.points, truth.normals, truth.lengths, None
        if truth.vertices is not None:
            cross = face_cross(truth.vertices, self.faces)
            known = self.vertex_normals(cross) if config.normal else None
            if points is None and config.chamfer:
                points, normals = sample_surface(truth.vertices, self.faces, cross, config.points, self.density)
        chamfer = normal = prediction.levels[-1].new_zeros(())
        for k, vertices in enumerate(prediction.levels):
            weight, idx = config.chamfer_levels[k] * bool(config.chamfer), None
            if weight or (config.normal and known is None):
                assert points is not None
                d_pred, d_true, idx, _ = nearest(self.counted(vertices), points, lengths_b=lengths)
                chamfer = chamfer + weight * (cloud_mean(d_true, lengths) + config.chamfer_opposite * d_pred.mean())
            if config.normal:
                if known is not None:
                    at_vertex = known[:, : vertices.shape[1]]
                else:
                    assert normals is not None
                    assert idx is not None
                    at_vertex = gather(normals, idx)
                normal = normal + self.normal(k, edges[k], at_vertex.transpose(0, 1))
        if config.chamfer:
            terms["chamfer"] = chamfer
        if config.normal:
            terms["normal"] = normal
        return terms

    def normal(self, level: int, edges: Float[Tensor, "e b 3"], normals: Float[Tensor, "v b 3"]) -> Float[Tensor, ""]:
        """Mean |cos| between each edge and the normals at both of its ends."""
        # Divided after the product: one number an edge, where a unit vector would be three.
        along = sum((edges * normals[end]).sum(-1).abs() for end in getattr(self, f"edges{level}").unbind(1))
        along = along * getattr(self, f"counted_edges{level}")
        return self.mean_over_support(level, along / 2 / edges.square().sum(-1).clamp(min=1e-24).sqrt())

    def edge_vectors(self, level: int, vertices: Float[Tensor, "b v 3"]) -> Float[Tensor, "e b 3"]:
        """The difference of the two ends of each undirected edge."""
        return self.along_edges[level](vertices.transpose(0, 1))

    def mean_over_support(self, level: int, values: Float[Tensor, "e b"]) -> Float[Tensor, ""]:
        """The reference's mean: over both directions of each edge, and a zero for each vertex's self loop."""
        return 2 * values.sum(0).mean() / (2 * len(values) + self.counts[level])

    def laplace(self, level: int, prediction: NetworkOutput) -> Float[Tensor, ""]:
        """Mean squared change of the Laplacian coordinates across a stage."""
        change = (prediction.levels[level] - prediction.before[level]).transpose(0, 1)
        return squared_norm(change - self.neighbour_mean[level](change))

    def vertex_normals(self, cross: Float[Tensor, "b f 3"]) -> Float[Tensor, "b v 3"]:
        """Unit normals of the finest level's vertices, weighted by area: `face_cross` added up at each."""
        return F.normalize(self.to_vertices(cross.transpose(0, 1)), dim=-1).transpose(0, 1)


def shape_error(predicted: Float[Tensor, "b v 3"], truth: Float[Tensor, "b v 3"]) -> Float[Tensor, ""]:
    """Smooth L1 after the best similarity onto the truth; the similarity itself passes no gradient.

    In the other terms an error of pose, which moves all vertices together, outweighs errors of shape.
    """
    with torch.no_grad():
        scale, rotation, shift = umeyama(predicted, truth)
    placed = scale[:, None, None] * predicted @ rotation.mT + shift[:, None]
    return smooth_l1(placed, truth, truth.new_ones(3))
