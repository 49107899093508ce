"""The training losses: Pixel2Mesh's terms, and what known correspondences add.

Coordinates are the network's own: normalised crop coordinates for faces, metres for objects. Every weight is a field
of `LossConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import nn
from torch.nn import functional as F

from p2m_core.camera import face_size
from p2m_core.chamfer import cloud_mean, gather, nearest
from p2m_core.config import LossConfig
from p2m_core.errors import InputError
from p2m_core.layers import SparseMap, sample_features
from p2m_core.model import Prediction, unit_template
from p2m_core.template import Template

SURFACE_LEVEL = 2  # whose vertices teach the surface map: about two to a pixel of it
TERMS = ("vertex", "shape", "landmark", "chamfer", "normal", "edge", "laplace", "move", "surface", "reconst")
BY_CORRESPONDENCE = ("vertex", "shape", "landmark", "surface")  # want truth with the template's own vertices


@dataclass
class Truth:
    """What a prediction is compared with: the true place of every vertex of the finest level, or a cloud, or both.

    vertices (B, V, 3) or None;   points, normals (B, M, 3) or None;   lengths (B,) int64, where clouds are padded;
    image (B, 3, S, S), for the decoder.
    """

    vertices: torch.Tensor | None = None
    points: torch.Tensor | None = None
    normals: torch.Tensor | None = None
    lengths: torch.Tensor | None = None
    image: torch.Tensor | None = None


class MeshLoss(nn.Module):
    """The weighted sum of all terms with a weight above 0.

    Args of forward: prediction, truth.   Returns: the total, and each term before its weight.
    """

    def __init__(self, config: LossConfig, template: Template):
        super().__init__()
        self.config, self.counts = config, template.counts
        if not any(getattr(config, name) for name in TERMS):
            raise InputError("config", "loss", "every term has weight 0", "give one of them a weight above 0")
        for name in ("chamfer_levels", "laplace_levels"):
            if len(getattr(config, name)) < len(self.counts):
                problem = f"{len(getattr(config, name))} weights for {len(self.counts)} levels"
                raise InputError("config", f"loss.{name}", problem, "give one for each level")
        if config.landmark and not len(template.landmark_faces):
            raise InputError("config", "loss.landmark", "the template has no landmarks", "give it weight 0")
        self.neighbour_mean = nn.ModuleList(SparseMap(matrix) for matrix in template.neighbour_mean)
        self.along_edges = nn.ModuleList(SparseMap(edge_differences(edges, n)) for edges, n in level_edges(template))
        for k, edges in enumerate(template.edges):
            self.register_buffer(f"edges{k}", torch.from_numpy(edges), persistent=False)
        if config.surface:
            level = min(SURFACE_LEVEL, len(template.counts) - 1)
            self.register_buffer("surface_faces", torch.from_numpy(template.faces[level]), persistent=False)
            start = torch.from_numpy(unit_template(template))[: template.counts[level]]
            self.register_buffer("start", start, persistent=False)
            self.surface_sums = SparseMap(face_sums(template.faces[level], template.counts[level]))
        self.register_buffer("faces", torch.from_numpy(template.faces[-1]), persistent=False)
        if any(config.regions) and not config.chamfer:
            raise InputError("config", "loss.regions", "is set, but nothing draws points", "set loss.chamfer above 0")
        density = region_density(template, config.regions, config.region_radii) if any(config.regions) else None
        self.register_buffer("density", density, persistent=False)
        self.to_vertices = SparseMap(face_sums(template.faces[-1], template.counts[-1]))
        self.register_buffer("landmark_faces", torch.from_numpy(template.landmark_faces), persistent=False)
        self.register_buffer("landmark_bary", torch.from_numpy(template.landmark_bary).float(), persistent=False)

    def forward(self, prediction: Prediction, truth: Truth) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        config, levels = self.config, range(len(self.counts))
        terms: dict[str, torch.Tensor] = {}
        if config.vertex:
            terms["vertex"] = self.vertex(prediction, truth.vertices)
        if config.shape:
            terms["shape"] = sum(shape_error(v, truth.vertices[:, : v.shape[1]]) for v in prediction.levels)
        if config.landmark:
            terms["landmark"] = self.landmark(prediction.levels[-1], truth.vertices)
        edges = [self.edge_vectors(k, prediction.levels[k]) for k in levels] if config.edge or config.normal else []
        if config.chamfer or config.normal:
            terms |= self.to_the_surface(prediction, truth, edges)
        if config.edge:
            terms["edge"] = sum(self.mean_over_support(k, edges[k].square().sum(-1)) for k in levels)
        if config.laplace:
            terms["laplace"] = sum(config.laplace_levels[k] * self.laplace(k, prediction) for k in levels)
        if config.move:  # not at level 1, whose stage must be free to find the object
            terms["move"] = sum(
                config.laplace_levels[k] * squared_norm(prediction.levels[k] - prediction.before[k]) for k in levels[1:]
            )
        if config.surface:
            if prediction.surface is None:
                raise InputError("config", "loss.surface", "is above 0, but there is no map", "set model.surface=true")
            terms["surface"] = self.surface(prediction.surface, truth.vertices)
        if config.reconst:
            if prediction.image is None:
                raise InputError("config", "loss.reconst", "is above 0, but nothing draws", "set model.decoder=true")
            terms["reconst"] = F.binary_cross_entropy(prediction.image.float(), truth.image)
        return sum(getattr(config, name) * term for name, term in terms.items()), terms

    # --- with known correspondences ---

    def vertex(self, prediction: Prediction, truth: Float[torch.Tensor, "b v 3"]) -> Float[torch.Tensor, ""]:
        """Smooth L1 to the true place of every vertex, at every level and of the placed template; depth counts half."""
        weight = truth.new_tensor([1.0, 1.0, 0.5])
        total = 0.5 * smooth_l1(prediction.before[0], truth[:, : self.counts[0]], weight)
        return total + sum(smooth_l1(v, truth[:, : v.shape[1]], weight) for v in prediction.levels)

    def landmark(
        self, vertices: Float[torch.Tensor, "b v 3"], truth: Float[torch.Tensor, "b v 3"]
    ) -> Float[torch.Tensor, ""]:
        """Mean distance of the 68 landmarks in the image plane."""
        return (self.landmarks(vertices) - self.landmarks(truth))[..., :2].norm(dim=-1).mean()

    def landmarks(self, vertices: Float[torch.Tensor, "b v 3"]) -> Float[torch.Tensor, "b l 3"]:
        """The landmarks of finest-level vertices."""
        return (vertices[:, self.landmark_faces] * self.landmark_bary[..., None]).sum(2)

    def surface(
        self, surface: Float[torch.Tensor, "b 3 h w"], truth: Float[torch.Tensor, "b v 3"]
    ) -> Float[torch.Tensor, ""]:
        """Mean distance, on the unit template, of what the map says of the pixels where vertices are seen."""
        truth = truth[:, : len(self.start)]
        normals = self.surface_sums(face_cross(truth, self.surface_faces).transpose(0, 1))
        places = truth[..., :2].transpose(0, 1)
        # With y down, triangles that face the viewer have their normals away from it.
        seen = (normals[..., 2] < 0) & (places.abs() < 1).all(-1)
        away = sample_features([surface], places, "border") - self.start[:, None]
        return (away.norm(dim=-1) * seen).sum() / seen.sum().clamp(min=1)

    # --- Pixel2Mesh's ---

    def to_the_surface(
        self, prediction: Prediction, truth: Truth, edges: list[Float[torch.Tensor, "_ b 3"]]
    ) -> dict[str, torch.Tensor]:
        """chamfer: sum over levels of w_k (mean d2(truth -> pred) + o mean d2(pred -> truth)).

        normal: sum over levels of mean |cos| between the edges at a vertex and the true normal there: that of the
        vertex itself where correspondences are known, else of the nearest true point.
        """
        config, terms = self.config, {}
        points, normals, lengths = truth.points, truth.normals, truth.lengths
        cross = face_cross(truth.vertices, self.faces) if truth.vertices is not None else None
        if points is None and config.chamfer:
            points, normals = sample_surface(truth.vertices, self.faces, cross, config.points, self.density)
        known = self.vertex_normals(cross) if cross is not None and config.normal else None
        chamfer = normal = prediction.levels[-1].new_zeros(())
        for k, vertices in enumerate(prediction.levels):
            weight, idx = config.chamfer_levels[k] * bool(config.chamfer), None
            if weight or (config.normal and known is None):
                d_pred, d_true, idx, _ = nearest(vertices, points, lengths_b=lengths)
                chamfer = chamfer + weight * (cloud_mean(d_true, lengths) + config.chamfer_opposite * d_pred.mean())
            if config.normal:
                at_vertex = gather(normals, idx) if known is None else known[:, : vertices.shape[1]]
                normal = normal + self.normal(k, edges[k], at_vertex.transpose(0, 1))
        if config.chamfer:
            terms["chamfer"] = chamfer
        if config.normal:
            terms["normal"] = normal
        return terms

    def normal(
        self, level: int, edges: Float[torch.Tensor, "e b 3"], normals: Float[torch.Tensor, "v b 3"]
    ) -> Float[torch.Tensor, ""]:
        """Mean |cos| between each edge and the normals at both of its ends."""
        # Divided after the product: one number an edge, where a unit vector would be three.
        along = sum((edges * normals[end]).sum(-1).abs() for end in getattr(self, f"edges{level}").unbind(1))
        return self.mean_over_support(level, along / 2 / edges.square().sum(-1).clamp(min=1e-24).sqrt())

    def edge_vectors(self, level: int, vertices: Float[torch.Tensor, "b v 3"]) -> Float[torch.Tensor, "e b 3"]:
        """The difference of the two ends of each undirected edge."""
        return self.along_edges[level](vertices.transpose(0, 1))

    def mean_over_support(self, level: int, values: Float[torch.Tensor, "e b"]) -> Float[torch.Tensor, ""]:
        """The reference's mean: over both directions of each edge, and a zero for each vertex' own loop."""
        return 2 * values.sum(0).mean() / (2 * len(values) + self.counts[level])

    def laplace(self, level: int, prediction: Prediction) -> Float[torch.Tensor, ""]:
        """Mean squared change of the Laplacian coordinates across a stage."""
        change = (prediction.levels[level] - prediction.before[level]).transpose(0, 1)
        return squared_norm(change - self.neighbour_mean[level](change))

    def vertex_normals(self, cross: Float[torch.Tensor, "b f 3"]) -> Float[torch.Tensor, "b v 3"]:
        """Unit normals of the finest level's vertices, weighted by area: `face_cross` added up at each."""
        return F.normalize(self.to_vertices(cross.transpose(0, 1)), dim=-1).transpose(0, 1)


def smooth_l1(
    predicted: Float[torch.Tensor, "b v 3"],
    truth: Float[torch.Tensor, "b v 3"],
    weight: Float[torch.Tensor, "3"],
    beta: float = 0.005,
) -> Float[torch.Tensor, ""]:
    """Mean over vertices of the weighted smooth L1 distance; quadratic within `beta`."""
    return (F.smooth_l1_loss(predicted, truth, beta=beta, reduction="none") * weight).mean()


def shape_error(
    predicted: Float[torch.Tensor, "b v 3"], truth: Float[torch.Tensor, "b v 3"]
) -> Float[torch.Tensor, ""]:
    """Smooth L1 that is left under the best similarity onto the truth, which itself passes no gradient.

    An error of pose moves all vertices alike and outweighs those of shape in every other term.
    """
    with torch.no_grad():
        scale, rotation, shift = umeyama(predicted, truth)
    return smooth_l1(scale * predicted @ rotation.mT + shift, truth, truth.new_ones(3))


def umeyama(
    source: Float[torch.Tensor, "b v 3"], target: Float[torch.Tensor, "b v 3"]
) -> tuple[Float[torch.Tensor, "b 1 1"], Float[torch.Tensor, "b 3 3"], Float[torch.Tensor, "b 1 3"]]:
    """Scale, rotation and shift of the best similarity: `camera.umeyama` for tensors."""
    mean, aim = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    u, s, vt = torch.linalg.svd((target - aim).mT @ (source - mean))
    sign = torch.ones_like(s)
    sign[:, 2] = torch.linalg.det(u @ vt).sign()
    rotation = u * sign[:, None] @ vt
    scale = ((s * sign).sum(1) / (source - mean).square().sum((1, 2)))[:, None, None]
    return scale, rotation, aim - scale * mean @ rotation.mT


def squared_norm(vectors: Float[torch.Tensor, "*_ 3"]) -> Float[torch.Tensor, ""]:
    """Mean squared length."""
    return vectors.square().sum(-1).mean()


def face_cross(vertices: Float[torch.Tensor, "b v 3"], faces: Int[torch.Tensor, "f 3"]) -> Float[torch.Tensor, "b f 3"]:
    """The cross product of two sides of each triangle: its normal, twice its area long."""
    a, b, c = (vertices[:, faces[:, k]] for k in range(3))
    return torch.linalg.cross(b - a, c - a)


def sample_surface(
    vertices: Float[torch.Tensor, "b v 3"],
    faces: Int[torch.Tensor, "f 3"],
    cross: Float[torch.Tensor, "b f 3"],
    count: int,
    density: Float[torch.Tensor, "f"] | None = None,
) -> tuple[Float[torch.Tensor, "b m 3"], Float[torch.Tensor, "b m 3"]]:
    """Random points on meshes, even by area, or as dense as said for each face, and the unit normals there.

    cross: the meshes' `face_cross`.
    """
    # by look-up in the summed areas: torch.multinomial admits 2^24 classes and is slower
    areas = cross.norm(dim=-1)
    summed = (areas if density is None else areas * density).cumsum(1)
    draws = torch.rand(len(vertices), count, device=vertices.device) * summed[:, -1:]
    face = torch.searchsorted(summed, draws).clamp(max=len(faces) - 1)
    u = torch.rand(2, *face.shape, 1, device=vertices.device)
    root = u[0].sqrt()
    weights = (1 - root, root * (1 - u[1]), root * u[1])
    corners = faces[face]
    points = sum(weight * gather(vertices, corners[..., k]) for k, weight in enumerate(weights))
    return points, F.normalize(gather(cross, face), dim=-1)


def region_density(
    template: Template, shares: tuple[float, float], radii: tuple[float, float]
) -> Float[torch.Tensor, "f"]:
    """How dense points lie on each face of the finest level, so that shares of them fall near and very near landmarks.

    On a mesh of the template's proportions, shares[k] of the points are drawn within radii[k] face sizes of a landmark
    and the rest anywhere, each even by area: nested regions get the points of those around them as well.

    Raises: InputError if the template has no landmarks, the shares exceed 1, or a region holds no face.
    """
    if not len(template.landmark_faces):
        raise InputError("config", "loss.regions", "the template has no landmarks", "set it to [0, 0]")
    if sum(shares) > 1:
        raise InputError("config", "loss.regions", f"adds up to {sum(shares):g}", "give shares of at most 1 in all")
    vertices, landmarks = template.vertices.astype(np.float64), template.landmarks(template.vertices.astype(np.float64))
    corners = vertices[template.faces[-1]]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    distance = cKDTree(landmarks).query(corners.mean(1))[0] / face_size(landmarks)
    density = np.full(len(area), (1 - sum(shares)) / area.sum())
    for share, radius in zip(shares, radii, strict=True):
        near = distance <= radius
        if share and not near.any():
            raise InputError("config", "loss.region_radii", f"no face lies within {radius:g}", "give a larger radius")
        density += share * near / max(area[near].sum(), 1e-12)
    return torch.from_numpy(density * area.sum()).float()


def level_edges(template: Template) -> list[tuple[np.ndarray, int]]:
    """Edges and number of vertices of each level."""
    return list(zip(template.edges, template.counts, strict=True))


def edge_differences(edges: np.ndarray, count: int) -> sp.csr_matrix:
    """The map (E, V) to the difference of the ends of each edge."""
    rows = np.arange(len(edges)).repeat(2)
    values = np.tile([1.0, -1.0], len(edges))
    return sp.csr_matrix((values, (rows, edges.ravel())), shape=(len(edges), count))


def face_sums(faces: np.ndarray, count: int) -> sp.csr_matrix:
    """The map (V, F) that adds up what the triangles at a vertex hold."""
    columns = np.arange(len(faces)).repeat(3)
    return sp.csr_matrix((np.ones(3 * len(faces)), (faces.ravel(), columns)), shape=(count, len(faces)))
