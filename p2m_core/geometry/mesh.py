"""Triangle meshes as index arrays: edges, graph matrices, subdivision, boundary loops, mirror symmetry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int, Num
from scipy.sparse.linalg import eigsh
from scipy.spatial import cKDTree


def mesh_edges(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "e 2"]:
    """The undirected edges of triangles, each once and sorted, smaller index first."""
    return np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1), axis=0)


def adjacency_matrix(edges: Int[np.ndarray, "e 2"], count: int) -> sp.csr_matrix:
    """The symmetric 0/1 matrix (n, n) of undirected edges among `count` vertices, without self loops."""
    both = np.concatenate([edges, edges[:, ::-1]])
    return sp.csr_matrix((np.ones(len(both)), both.T), shape=(count, count))


def rescaled_laplacian(edges: Int[np.ndarray, "e 2"], count: int) -> sp.csr_matrix:
    """A = (2 / lambda_max) (I - D^-1/2 Adj D^-1/2) - I, the first Chebyshev polynomial of the graph Laplacian.

    Source: Defferrard et al., NeurIPS 2016; Pixel2Mesh's official code.
    """
    graph = adjacency_matrix(edges, count)
    root = sp.diags(1 / np.sqrt(np.maximum(np.asarray(graph.sum(1)).ravel(), 1)))
    laplacian = sp.identity(count) - root @ graph @ root
    start = np.random.default_rng(0).standard_normal(count)  # eigsh's own start is random
    largest = eigsh(laplacian, 1, which="LM", return_eigenvectors=False, v0=start)[0]
    return (2 / largest * laplacian - sp.identity(count)).tocsr()


def subdivide(faces: Int[np.ndarray, "f 3"], pairs: Int[np.ndarray, "e 2"], count: int) -> Int[np.ndarray, "4*f 3"]:
    """Each triangle in four; the new vertex count + i lies between the vertices pairs[i].

    Raises: ValueError if an edge of the triangles is not among the pairs.
    """
    ordered = np.sort(pairs, 1)
    key = ordered[:, 0] * count + ordered[:, 1]
    order = np.argsort(key)

    def middle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        wanted = np.minimum(a, b) * count + np.maximum(a, b)
        found = order[np.searchsorted(key[order], wanted).clip(max=len(key) - 1)]
        if (key[found] != wanted).any():
            raise ValueError("an edge has no new vertex")
        return count + found

    a, b, c = faces.T
    ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
    return np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])


def subdivided_faces(
    faces: Int[np.ndarray, "f 3"], unpool: Sequence[Int[np.ndarray, "_ 2"]], count: int
) -> tuple[Int[np.ndarray, "_ 3"], ...]:
    """Faces of every level from those of the first, `unpool` as of Template; count: vertices of the finest level."""
    levels, n = [np.asarray(faces, np.int64)], count - sum(len(pairs) for pairs in unpool)
    for pairs in unpool:
        levels.append(subdivide(levels[-1], pairs, n))
        n += len(pairs)
    return tuple(levels)


def boundary_loops(faces: Int[np.ndarray, "f 3"]) -> list[Int[np.ndarray, "_"]]:
    """The vertices of each boundary loop, in order, longest first."""
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, inverse, uses = np.unique(np.sort(directed, 1), axis=0, return_inverse=True, return_counts=True)
    following: dict[int, list[int]] = {}
    for a, b in directed[uses[inverse.ravel()] == 1]:
        following.setdefault(int(a), []).append(int(b))
    loops = []
    while following:
        start = next(iter(following))
        loop = [start]
        while loop[-1] in following:  # else an open chain, where three triangles share an edge or windings differ
            ways = following[loop[-1]]
            onward = ways.pop()
            if not ways:
                del following[loop[-1]]
            if onward == start:
                break
            loop.append(onward)
        loops.append(np.array(loop))
    return sorted(loops, key=len, reverse=True)


def find_mirror(vertices: Num[np.ndarray, "v 3"]) -> Int[np.ndarray, "_"]:
    """The vertex (V,) at the mirror image in x of each vertex, or an empty array if the mesh is not symmetric."""
    distance, mirror = (np.asarray(x) for x in cKDTree(vertices).query(vertices * [-1, 1, 1]))
    symmetric = distance.max() < 1e-4 * np.ptp(vertices) and (mirror[mirror] == np.arange(len(mirror))).all()
    return mirror if symmetric else np.zeros(0, np.int64)
