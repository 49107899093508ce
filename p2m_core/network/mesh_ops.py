"""Mesh operations of the losses: distances, normals, points on surfaces, sparse maps of a template."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from p2m_core.chamfer import gather
from p2m_core.errors import InputError
from p2m_core.geometry.crop import face_size
from p2m_core.geometry.template import Template
from p2m_core.network.layers import added

REGION_RADII = (0.1, 0.05)  # of loss.regions about each landmark, in face sizes


def smooth_l1(
    predicted: Float[Tensor, "b v 3"], truth: Float[Tensor, "b v 3"], weight: Float[Tensor, "*_ 3"], beta: float = 0.005
) -> Float[Tensor, ""]:
    """Mean over vertices of the smooth L1 distance, quadratic within `beta`.   weight: of each axis, or (V, 3)."""
    return (F.smooth_l1_loss(predicted, truth, beta=beta, reduction="none") * weight).mean()


def squared_norm(vectors: Float[Tensor, "*_ 3"]) -> Float[Tensor, ""]:
    """Mean squared length."""
    return vectors.square().sum(-1).mean()


def face_cross(vertices: Float[Tensor, "b v 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "b f 3"]:
    """The cross product of two sides of each triangle: along its normal, twice its area long."""
    a, b, c = (vertices[:, faces[:, k]] for k in range(3))
    return torch.linalg.cross(b - a, c - a)


def sample_surface(
    vertices: Float[Tensor, "b v 3"],
    faces: Int[Tensor, "f 3"],
    cross: Float[Tensor, "b f 3"],
    count: int,
    density: Float[Tensor, "f"] | None = None,
) -> tuple[Float[Tensor, "b m 3"], Float[Tensor, "b m 3"]]:
    """Random points on meshes and the unit normals there.

    Args: cross: the meshes' `face_cross`.   density: of each face, relative; None draws points uniformly by area.
    """
    # By binary search in the cumulative areas: torch.multinomial admits 2^24 classes and is slower.
    areas = cross.norm(dim=-1)
    summed = (areas if density is None else areas * density).cumsum(1)
    draws = torch.rand(len(vertices), count, device=vertices.device) * summed[:, -1:]
    face = torch.searchsorted(summed, draws).clamp(max=len(faces) - 1)
    u = torch.rand(2, *face.shape, 1, device=vertices.device)
    root = u[0].sqrt()
    weights = (1 - root, root * (1 - u[1]), root * u[1])
    corners = faces[face]
    points = added(weight * gather(vertices, corners[..., k]) for k, weight in enumerate(weights))
    return points, F.normalize(gather(cross, face), dim=-1)


def region_density(
    template: Template, shares: tuple[float, float], radii: tuple[float, float] = REGION_RADII
) -> Float[Tensor, "f"]:
    """The density of points on each face of the finest level, for `sample_surface`: higher near the landmarks.

    On a mesh of the template's proportions, shares[k] of the points are drawn within radii[k] face sizes of a landmark
    and the rest on the whole mesh, each uniformly by area. The regions are nested: of the points of an outer one some
    fall into those inside it.

    Raises: InputError if the template has no landmarks, or a region holds no triangle.
    """
    if not len(template.landmark_faces):
        raise InputError("template", "loss.regions", "there are no landmarks", "set it to [0, 0]")
    vertices, landmarks = template.vertices.astype(np.float64), template.landmarks(template.vertices.astype(np.float64))
    corners = vertices[template.faces[-1]]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    area *= template.counted[-1]
    distance = cKDTree(landmarks).query(corners.mean(1))[0] / face_size(landmarks)
    density = np.full(len(area), (1 - sum(shares)) / area.sum())
    for share, radius in zip(shares, radii, strict=True):
        near = distance <= radius
        if share and not near.any():
            problem = f"no triangle lies within {radius:g} face sizes of a landmark"
            raise InputError("template", "loss.regions", problem, "set that share to 0, or take more levels")
        density += share * near / max(area[near].sum(), 1e-12)
    return torch.from_numpy(density * area.sum()).float()


def edge_differences(edges: Int[np.ndarray, "e 2"], count: int) -> sp.csr_matrix:
    """The map (E, V) from vertices to the vector of each edge: its first end minus its second."""
    rows = np.arange(len(edges)).repeat(2)
    values = np.tile([1.0, -1.0], len(edges))
    return sp.csr_matrix((values, (rows, edges.ravel())), shape=(len(edges), count))


def face_sums(faces: Int[np.ndarray, "f 3"], count: int) -> sp.csr_matrix:
    """The map (V, F) from faces to vertices: at each vertex, the sum over its faces."""
    columns = np.arange(len(faces)).repeat(3)
    return sp.csr_matrix((np.ones(3 * len(faces)), (faces.ravel(), columns)), shape=(count, len(faces)))
