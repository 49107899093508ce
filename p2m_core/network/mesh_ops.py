"""p2m_core.network.mesh_ops."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch.nn import functional as F

from p2m_core.chamfer import gather
from p2m_core.errors import InputError
from p2m_core.geometry.crop import face_size
from p2m_core.geometry.template import Template


def smooth_l1(
    predicted: Float[torch.Tensor, "b v 3"],
    truth: Float[torch.Tensor, "b v 3"],
    weight: Float[torch.Tensor, "3"],
    beta: float = 0.005,
) -> Float[torch.Tensor, ""]:
    """Mean over vertices of the weighted smooth L1 distance; quadratic within `beta`."""
    return (F.smooth_l1_loss(predicted, truth, beta=beta, reduction="none") * weight).mean()


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
