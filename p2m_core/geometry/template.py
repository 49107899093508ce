"""The mesh that is deformed, in levels, each the midpoint subdivision of the one before.

Level k's vertices are the first n_k vertices of level k + 1, so one index set serves all levels:

    level 1   0 ........ n1
    level 2   0 ........ n1 .... n2          vertex n1 + i lies on edge unpool[0][i] = (a, b)
    level 3   0 ........ n1 .... n2 .... n3

Registered on a face model's mean, every vertex has a true place in every face: a sparse linear map of the
face model's vertices. Each of the 68 landmarks is a fixed point of a triangle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Float32, Int, Int64, Num

from p2m_core.geometry.mesh import (
    adjacency_matrix,
    find_mirror,
    mesh_edges,
    rescaled_laplacian,
    subdivide,
    subdivided_faces,
)

GROUPS = ("skin", "right eye", "left eye", "mouth")  # of triangles: between the lids, between the lips, all others
ELLIPSOID_M = (0.28, 0.2, 0.2)  # half axes, near those of Pixel2Mesh's


@dataclass(frozen=True, eq=False)
class Template:
    """A template of L levels.

    vertices       (V, 3) float32, finest level; units of the face model, or of the file it was read from
    faces          L arrays (F_k, 3) int64, wound outwards      unpool  L - 1 arrays (E_k, 2) int64
    landmark_faces (68, 3) vertex indices of the triangle that carries each landmark, finest level
    landmark_bary  (68, 3) its weights; both empty (0, 3) where the template is not registered on a face
    mirror         (V,) the vertex that the mirror image of each falls on; empty where there is no symmetry
    coarse_groups  (F_1,) index into GROUPS of each triangle of level 1; None: all are skin

    >>> template = Template.from_mesh(np.eye(3), np.array([[0, 1, 2]]), levels=3)
    >>> template.counts
    (3, 6, 15)
    >>> template.faces[1].tolist(), template.unpool[0].tolist()  # vertex 3 lies in the middle of edge (0, 1)
    ([[0, 3, 4], [3, 1, 5], [4, 5, 2], [3, 5, 4]], [[0, 1], [0, 2], [1, 2]])
    """

    vertices: Float32[np.ndarray, "v 3"]
    faces: tuple[Int64[np.ndarray, "_ 3"], ...]
    unpool: tuple[Int64[np.ndarray, "_ 2"], ...]
    landmark_faces: Int64[np.ndarray, "landmarks 3"]
    landmark_bary: Float[np.ndarray, "landmarks 3"]
    mirror: Int64[np.ndarray, "_"]
    coarse_groups: Int64[np.ndarray, "_"] | None = None

    @cached_property
    def groups(self) -> tuple[Int64[np.ndarray, "_"], ...]:
        """Index into GROUPS of each triangle, (F_k,) a level."""
        first = np.zeros(len(self.faces[0]), np.int64) if self.coarse_groups is None else self.coarse_groups
        return tuple(np.tile(first, 4**k) for k in range(len(self.faces)))

    @cached_property
    def counted(self) -> tuple[Bool[np.ndarray, "_"], ...]:
        """Which triangles (F_k,) of each level dense metrics and losses count, and with them their vertices: all but
        the mouth's, a membrane whose place is no truth about a face."""
        return tuple(groups != GROUPS.index("mouth") for groups in self.groups)

    def within(self, group: str) -> Int64[np.ndarray, "_"]:
        """The vertices of the finest level that only triangles of a group have."""
        own = self.groups[-1] == GROUPS.index(group)
        return np.setdiff1d(self.faces[-1][own], self.faces[-1][~own])

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of vertices of each level."""
        sizes = [len(self.vertices) - sum(len(pairs) for pairs in self.unpool)]
        for pairs in self.unpool:
            sizes.append(sizes[-1] + len(pairs))
        return tuple(sizes)

    @cached_property
    def edges(self) -> tuple[Int64[np.ndarray, "_ 2"], ...]:
        """Undirected edges of each level, (E_k, 2), sorted."""
        return tuple(mesh_edges(faces) for faces in self.faces)

    @cached_property
    def adjacency(self) -> tuple[sp.csr_matrix, ...]:
        """The graph convolution's matrix of each level."""
        return tuple(rescaled_laplacian(edges, n) for edges, n in zip(self.edges, self.counts, strict=True))

    @cached_property
    def neighbour_mean(self) -> tuple[sp.csr_matrix, ...]:
        """The map from vertices to the mean of their neighbours, each level: Laplacian coordinate = x - mean."""
        means = []
        for edges, n in zip(self.edges, self.counts, strict=True):
            graph = adjacency_matrix(edges, n)
            means.append((sp.diags(1 / np.maximum(np.asarray(graph.sum(1)).ravel(), 1)) @ graph).tocsr())
        return tuple(means)

    def landmarks(self, vertices: Num[np.ndarray, "*batch v 3"]) -> Float[np.ndarray, "*batch landmarks 3"]:
        """The 68 landmarks of finest-level vertices, (..., V, 3) -> (..., 68, 3); none where there are none."""
        return (vertices[..., self.landmark_faces, :] * self.landmark_bary[..., None]).sum(-2)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that a checkpoint must hold to rebuild the template with `from_arrays`."""
        content = {"vertices": self.vertices, "mirror": self.mirror, "faces0": self.faces[0]}
        content |= {f"unpool{k}": pairs for k, pairs in enumerate(self.unpool)}
        if self.coarse_groups is not None:
            content["groups0"] = self.coarse_groups
        return content | {"landmark_faces": self.landmark_faces, "landmark_bary": self.landmark_bary}

    @staticmethod
    def from_arrays(content: dict[str, np.ndarray]) -> Template:
        """The template of `arrays`."""
        unpool = [content[f"unpool{k}"] for k in range(sum(name.startswith("unpool") for name in content))]
        return Template(
            vertices=content["vertices"],
            faces=subdivided_faces(content["faces0"], unpool, len(content["vertices"])),
            unpool=tuple(unpool),
            landmark_faces=content["landmark_faces"],
            landmark_bary=content["landmark_bary"],
            mirror=content["mirror"],
            coarse_groups=content.get("groups0"),
        )

    @staticmethod
    def from_mesh(vertices: Num[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], levels: int) -> Template:
        """A template of any triangle mesh: its midpoint subdivisions as further levels."""
        finest, count, unpool = np.asarray(faces, np.int64), len(vertices), []
        for _ in range(levels - 1):
            unpool.append(mesh_edges(finest))
            finest = subdivide(finest, unpool[-1], count)
            count += len(unpool[-1])
        return Template.from_unpool(vertices, faces, unpool)

    @staticmethod
    def from_unpool(vertices: np.ndarray, faces: np.ndarray, unpool: Sequence[np.ndarray]) -> Template:
        """A template of its first level's mesh (n1, 3), (F1, 3) and `unpool`; new vertices are the edges' midpoints."""
        vertices, none = np.asarray(vertices, np.float64), np.zeros((0, 3))
        for pairs in unpool:
            vertices = np.concatenate([vertices, vertices[pairs].mean(1)])
        levels, mirror = subdivided_faces(faces, unpool, len(vertices)), find_mirror(vertices)
        return Template(vertices.astype(np.float32), levels, tuple(unpool), none.astype(int), none, mirror)


def ellipsoid(levels: int) -> Template:
    """A closed template for objects: an icosphere of 162 vertices and its subdivisions, half axes in metres."""
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=2)
    return Template.from_mesh(np.asarray(sphere.vertices) * ELLIPSOID_M, np.asarray(sphere.faces), levels)
