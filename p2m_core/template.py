"""The mesh that is deformed: a semi-sphere or an ellipsoid in levels, each the midpoint subdivision of the one before.

Level k's vertices are the first n_k vertices of level k + 1, so one index set serves all levels:

    level 1   0 ........ n1
    level 2   0 ........ n1 .... n2          vertex n1 + i lies on edge unpool[0][i] = (a, b)
    level 3   0 ........ n1 .... n2 .... n3

Registered on a face model's mean, every vertex has a true place in every face: a sparse linear map of the
face model's vertices. Each of the 68 landmarks is a fixed point of a triangle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from scipy.spatial import cKDTree

from p2m_core.errors import InputError
from p2m_core.files import read_npz, write_text

ELLIPSOID_M = (0.28, 0.2, 0.2)  # half axes, near those of Pixel2Mesh's


@dataclass(frozen=True, eq=False)
class Template:
    """A template of L levels.

    vertices       (V, 3) float32, finest level; units of the face model, or of the file it was read from
    faces          L arrays (F_k, 3) int64, wound outwards      unpool  L - 1 arrays (E_k, 2) int64
    landmark_faces (68, 3) vertex indices of the triangle that carries each landmark, finest level
    landmark_bary  (68, 3) its weights; both empty (0, 3) where the template is not registered on a face
    mirror         (V,) the vertex that the mirror image of each falls on; empty where there is no symmetry
    """

    vertices: np.ndarray
    faces: tuple[np.ndarray, ...]
    unpool: tuple[np.ndarray, ...]
    landmark_faces: np.ndarray
    landmark_bary: np.ndarray
    mirror: np.ndarray

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of vertices of each level."""
        sizes = [len(self.vertices) - sum(len(pairs) for pairs in self.unpool)]
        for pairs in self.unpool:
            sizes.append(sizes[-1] + len(pairs))
        return tuple(sizes)

    @cached_property
    def edges(self) -> tuple[np.ndarray, ...]:
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
            graph = undirected(edges, n)
            means.append((sp.diags(1 / np.maximum(np.asarray(graph.sum(1)).ravel(), 1)) @ graph).tocsr())
        return tuple(means)

    def landmarks(self, vertices: np.ndarray) -> np.ndarray:
        """The 68 landmarks of finest-level vertices, (..., V, 3) -> (..., 68, 3)."""
        return (vertices[..., self.landmark_faces, :] * self.landmark_bary[..., None]).sum(-2)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that a checkpoint must hold to rebuild the template with `from_arrays`."""
        content = {"vertices": self.vertices, "mirror": self.mirror, "faces0": self.faces[0]}
        content |= {f"unpool{k}": pairs for k, pairs in enumerate(self.unpool)}
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
        )

    @staticmethod
    def from_mesh(vertices: np.ndarray, faces: np.ndarray, levels: int) -> Template:
        """A template of any triangle mesh (V, 3), (F, 3): its midpoint subdivisions as further levels."""
        vertices, unpool = np.asarray(vertices, np.float64), []
        level_faces = [np.asarray(faces, np.int64)]
        for _ in range(levels - 1):
            pairs = mesh_edges(level_faces[-1])
            level_faces.append(subdivide(level_faces[-1], pairs, len(vertices)))
            vertices = np.concatenate([vertices, vertices[pairs].mean(1)])
            unpool.append(pairs)
        none = np.zeros((0, 3))
        return Template(
            np.float32(vertices), tuple(level_faces), tuple(unpool), none.astype(int), none, find_mirror(vertices)
        )

    @staticmethod
    def load(path: str | Path, levels: int = 4) -> Template:
        """A template from a `.dat` pickle of the older ports, an `.npz` (coord, faces1, unpool1 ...), or any mesh file
        that trimesh reads.

        Raises: InputError for a file that is neither, or a pickle that holds more than numpy arrays.
        """
        path = Path(path)
        if not path.exists():
            raise InputError(path, "", "is missing", "give the path of an .obj, .ply, .npz or .dat template")
        if path.suffix == ".npz":
            return _load_npz(path)
        if path.suffix == ".dat":
            from p2m_core.legacy import load_dat

            return load_dat(path)
        import trimesh

        try:
            mesh = trimesh.load(path, force="mesh", process=False)
        except Exception as error:  # trimesh raises whatever its readers do
            raise InputError(path, "", f"cannot be read as a mesh: {error}", "give an .obj, .ply or .dat") from error
        vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
        if not len(faces):
            raise InputError(path, "faces", "there are none", "give a triangle mesh")
        if vertices.shape[1:] != (3,) or not np.isfinite(vertices).all():
            raise InputError(path, "vertices", "are not finite points in space", "give a triangle mesh")
        if faces.min() < 0 or faces.max() >= len(vertices):
            raise InputError(path, "faces", "name vertices that are not there", "give a triangle mesh")
        return Template.from_mesh(vertices, faces, levels)

    def save(self, folder: str | Path, stem: str = "template") -> list[Path]:
        """Write one OBJ a level, STEM_1.obj ...; returns the paths."""
        paths = []
        for k, (faces, n) in enumerate(zip(self.faces, self.counts, strict=True)):
            lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in self.vertices[:n]]
            lines += [f"f {a} {b} {c}" for a, b, c in faces + 1]
            paths.append(Path(folder) / f"{stem}_{k + 1}.obj")
            write_text(paths[-1], "\n".join(lines) + "\n")
        return paths

    def report(self) -> list[dict[str, object]]:
        """Quality of each level: counts, manifold, winding, components, boundary loops, symmetry, edge lengths."""
        rows = []
        for faces, edges, n in zip(self.faces, self.edges, self.counts, strict=True):
            directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
            uses = np.unique(np.sort(directed, 1), axis=0, return_counts=True)[1]
            length = np.linalg.norm(np.diff(self.vertices[edges], axis=1)[:, 0], axis=1)
            rows.append(
                {
                    "vertices": n,
                    "edges": len(edges),
                    "faces": len(faces),
                    "manifold": bool(uses.max() <= 2),
                    "winding consistent": len(np.unique(directed, axis=0)) == len(directed),
                    "components": int(connected_components(undirected(edges, n), directed=False)[0]),
                    "boundary loops": sorted(len(loop) for loop in boundary_loops(faces)),
                    "mirror symmetric": len(self.mirror) > 0,
                    "edge length max/median": round(float(length.max() / np.median(length)), 2),
                }
            )
        return rows


# --- meshes ---------------------------------------------------------------------------------------


def mesh_edges(faces: np.ndarray) -> np.ndarray:
    """Undirected edges (E, 2) of triangles (F, 3), each once, smaller index first."""
    return np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1), axis=0)


def undirected(edges: np.ndarray, count: int) -> sp.csr_matrix:
    """The adjacency matrix (n, n) of edges (E, 2), without self loops."""
    both = np.concatenate([edges, edges[:, ::-1]])
    return sp.csr_matrix((np.ones(len(both)), both.T), shape=(count, count))


def rescaled_laplacian(edges: np.ndarray, count: int) -> sp.csr_matrix:
    """A = (2 / lambda_max) (I - D^-1/2 Adj D^-1/2) - I, the first Chebyshev polynomial of the graph Laplacian.

    Source: Defferrard et al., NeurIPS 2016; Pixel2Mesh's official code.
    """
    graph = undirected(edges, count)
    root = sp.diags(1 / np.sqrt(np.maximum(np.asarray(graph.sum(1)).ravel(), 1)))
    laplacian = sp.identity(count) - root @ graph @ root
    start = np.random.default_rng(0).standard_normal(count)  # eigsh's own start is random
    largest = eigsh(laplacian, 1, which="LM", return_eigenvectors=False, v0=start)[0]
    return (2 / largest * laplacian - sp.identity(count)).tocsr()


def subdivide(faces: np.ndarray, pairs: np.ndarray, count: int) -> np.ndarray:
    """Each triangle in four, (F, 3) -> (4 F, 3); the new vertex count + i lies between pairs[i].

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


def subdivided_faces(faces: np.ndarray, unpool: list[np.ndarray], count: int) -> tuple[np.ndarray, ...]:
    """Faces of every level from those of the first; count: vertices of the finest level."""
    levels, n = [np.asarray(faces, np.int64)], count - sum(len(pairs) for pairs in unpool)
    for pairs in unpool:
        levels.append(subdivide(levels[-1], pairs, n))
        n += len(pairs)
    return tuple(levels)


def boundary_loops(faces: np.ndarray) -> list[np.ndarray]:
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


def find_mirror(vertices: np.ndarray) -> np.ndarray:
    """The index of each vertex's mirror image in x, (V,), or an empty array if the mesh is not symmetric."""
    distance, mirror = cKDTree(vertices).query(vertices * [-1, 1, 1])
    symmetric = distance.max() < 1e-4 * np.ptp(vertices) and (mirror[mirror] == np.arange(len(mirror))).all()
    return mirror if symmetric else np.zeros(0, np.int64)


# --- the semi-sphere ------------------------------------------------------------------------------


def hexagonal_disc(rings: int) -> tuple[np.ndarray, np.ndarray]:
    """A triangulated disc of radius 1: points (1 + 3 r (r + 1), 2) in rings, faces (6 r^2, 3) counter-clockwise."""
    cells = [(q, r) for q in range(-rings, rings + 1) for r in range(-rings, rings + 1) if abs(q + r) <= rings]
    number = {cell: k for k, cell in enumerate(cells)}
    q, r = np.array(cells).T
    ring = np.max([abs(q), abs(r), abs(q + r)], 0)
    angle = np.arctan2(r * np.sqrt(0.75), q + r / 2)
    faces = []
    for (i, j), a in number.items():
        for b, c in (((i + 1, j), (i, j + 1)), ((i + 1, j - 1), (i + 1, j))):
            if b in number and c in number:
                faces.append((a, number[b], number[c]))
    return np.stack([np.cos(angle), np.sin(angle)], 1) * (ring / rings)[:, None], np.array(faces)


def ellipsoid(levels: int) -> Template:
    """A closed template for objects: an icosphere of 162 vertices and its subdivisions, half axes in metres."""
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=2)
    return Template.from_mesh(np.asarray(sphere.vertices) * ELLIPSOID_M, np.asarray(sphere.faces), levels)


def _load_npz(path: Path) -> Template:
    """A template from arrays: coord (n1, 3), faces1 (F1, 3), and the pairs of new vertices unpool1, unpool2 ..."""
    remedy = "give arrays coord, faces1, unpool1 ..."
    content = read_npz(path, remedy)
    try:
        vertices, faces = np.asarray(content["coord"], np.float64), np.asarray(content["faces1"], np.int64)
        unpool = [
            np.asarray(content[f"unpool{k}"], np.int64)
            for k in range(1, 1 + sum(name.startswith("unpool") for name in content))
        ]
        for pairs in unpool:
            vertices = np.concatenate([vertices, vertices[pairs].mean(1)])
        if not np.isfinite(vertices).all():
            raise ValueError("coordinates are not finite")
        levels = subdivided_faces(faces, unpool, len(vertices))
        none = np.zeros((0, 3))
        return Template(np.float32(vertices), levels, tuple(unpool), none.astype(int), none, find_mirror(vertices))
    except (LookupError, ValueError, TypeError) as error:
        raise InputError(path, "", f"is not a template: {error}", remedy) from error


def semi_sphere(rings: int, levels: int) -> Template:
    """A left-right symmetric cap, as a disc: x, y in the unit circle, z = 0 (the cap opens when it is registered)."""
    points, faces = hexagonal_disc(rings)
    return Template.from_mesh(np.concatenate([points, np.zeros((len(points), 1))], 1), faces, levels)
