"""The training losses: Pixel2Mesh's terms, and what known correspondences add.

All coordinates are normalised crop coordinates. Every weight is a field of `LossConfig`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from p2m_core.chamfer import gather, nearest
from p2m_core.config import LossConfig
from p2m_core.errors import InputError
from p2m_core.layers import SparseMap
from p2m_core.model import Prediction
from p2m_core.template import Template


class FaceLoss(nn.Module):
    """The weighted sum of all terms with a weight above 0.

    Args of forward: prediction; truth (B, V, 3), the finest level's true vertices.
    Returns: the total, and each term before its weight.
    """

    def __init__(self, config: LossConfig, template: Template):
        super().__init__()
        self.config, self.counts = config, template.counts
        weights = config.model_dump(include={"vertex", "landmark", "chamfer", "normal", "edge", "laplace", "move"})
        if not any(weights.values()):
            raise InputError("config", "loss", "every term has weight 0", "give one of them a weight above 0")
        for name in ("chamfer_levels", "laplace_levels"):
            if len(getattr(config, name)) < len(self.counts):
                problem = f"{len(getattr(config, name))} weights for {len(self.counts)} levels"
                raise InputError("config", f"loss.{name}", problem, "give one for each level")
        self.neighbour_mean = nn.ModuleList(SparseMap(matrix) for matrix in template.neighbour_mean)
        for k, edges in enumerate(template.edges):
            self.register_buffer(f"edges{k}", torch.from_numpy(edges), persistent=False)
        self.register_buffer("faces", torch.from_numpy(template.faces[-1]), persistent=False)
        self.register_buffer("landmark_faces", torch.from_numpy(template.landmark_faces), persistent=False)
        self.register_buffer("landmark_bary", torch.from_numpy(template.landmark_bary).float(), persistent=False)

    def forward(self, prediction: Prediction, truth: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        config = self.config
        terms: dict[str, torch.Tensor] = {}
        if config.vertex:
            terms["vertex"] = self.vertex(prediction, truth)
        if config.landmark:
            terms["landmark"] = self.landmark(prediction.levels[-1], truth)
        if config.chamfer or config.normal:
            points, normals = sample_surface(truth, self.faces, config.points)
            terms["chamfer"], terms["normal"] = self.chamfer_and_normal(prediction, points, normals)
        if config.edge:
            terms["edge"] = sum(edge_length(v, self.edges(k)) for k, v in enumerate(prediction.levels))
        if config.laplace:
            terms["laplace"] = sum(
                weight * self.laplace(k, prediction)
                for k, weight in enumerate(config.laplace_levels[: len(self.counts)])
            )
        if config.move:  # not at level 1, whose stage must be free to find the face
            terms["move"] = sum(
                config.laplace_levels[k] * squared_norm(prediction.levels[k] - prediction.before[k])
                for k in range(1, len(self.counts))
            )
        return sum(getattr(config, name) * term for name, term in terms.items()), terms

    def edges(self, level: int) -> torch.Tensor:
        return getattr(self, f"edges{level}")

    def vertex(self, prediction: Prediction, truth: torch.Tensor) -> torch.Tensor:
        """Smooth L1 to the true place of every vertex, at every level and of the placed template; depth counts half."""
        weight = truth.new_tensor([1.0, 1.0, 0.5])
        total = 0.5 * smooth_l1(prediction.before[0], truth[:, : self.counts[0]], weight)
        return total + sum(smooth_l1(v, truth[:, : v.shape[1]], weight) for v in prediction.levels)

    def landmark(self, vertices: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Mean distance of the 68 landmarks in the image plane."""
        return (self.landmarks(vertices) - self.landmarks(truth))[..., :2].norm(dim=-1).mean()

    def landmarks(self, vertices: torch.Tensor) -> torch.Tensor:
        """(B, V, 3) -> (B, 68, 3)."""
        return (vertices[:, self.landmark_faces] * self.landmark_bary[..., None]).sum(2)

    def chamfer_and_normal(self, prediction: Prediction, points, normals) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum over levels of w_k (mean d2(truth -> pred) + o mean d2(pred -> truth)), and of mean |cos| between the
        edges at a vertex and the true normal nearest to it."""
        chamfer = normal = points.new_zeros(())
        for k, vertices in enumerate(prediction.levels):
            d_pred, d_true, idx, _ = nearest(vertices, points)
            chamfer = chamfer + self.config.chamfer_levels[k] * (
                d_true.mean() + self.config.chamfer_opposite * d_pred.mean()
            )
            a, b = self.edges(k).unbind(1)
            direction = F.normalize(vertices[:, a] - vertices[:, b], dim=-1)
            normal = normal + (direction * gather(normals, idx)[:, a]).sum(-1).abs().mean()
        return chamfer, normal

    def laplace(self, level: int, prediction: Prediction) -> torch.Tensor:
        """Mean squared change of the Laplacian coordinates across a stage."""
        change = (prediction.levels[level] - prediction.before[level]).transpose(0, 1)
        return squared_norm(change - self.neighbour_mean[level](change))


def smooth_l1(predicted: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor, beta: float = 0.005) -> torch.Tensor:
    """Mean over vertices of the weighted smooth L1 distance; quadratic within `beta`."""
    return (F.smooth_l1_loss(predicted, truth, beta=beta, reduction="none") * weight).mean()


def squared_norm(vectors: torch.Tensor) -> torch.Tensor:
    """Mean squared length of vectors (..., 3)."""
    return vectors.square().sum(-1).mean()


def edge_length(vertices: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Mean squared edge length of (B, V, 3)."""
    return squared_norm(vertices[:, edges[:, 0]] - vertices[:, edges[:, 1]])


def sample_surface(vertices: torch.Tensor, faces: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random points on meshes, even by area, and the unit normals there: (B, V, 3), (F, 3) -> 2 x (B, count, 3)."""
    corners = vertices[:, faces]
    cross = torch.linalg.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    face = torch.multinomial(cross.norm(dim=-1), count, replacement=True)
    u = torch.rand(2, *face.shape, 1, device=vertices.device)
    root = u[0].sqrt()
    weights = torch.stack([1 - root, root * (1 - u[1]), root * u[1]], 2)
    chosen = corners[torch.arange(len(face), device=face.device)[:, None], face]
    return (chosen * weights).sum(2), F.normalize(gather(cross, face), dim=-1)
