"""Template files: meshes, .npz and the .dat of older ports."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import Int

from p2m_core.errors import InputError
from p2m_core.files import bare_obj, read_npz
from p2m_core.geometry.mesh import adjacency_matrix
from p2m_core.geometry.template import Template
from p2m_core.safe_pickle import load_arrays


def load_template(path: str | Path, levels: int = 4) -> Template:
    """Read a template.

    Args:   path: a `.dat` pickle of the older ports, an `.npz` (coord, faces1, unpool1 ...), or any mesh that trimesh
            reads.   levels: of a template that is made of a mesh; the other files hold their own.
    Raises: InputError if the file is none of these, or a pickle that holds more than numpy arrays.

    >>> from p2m_core.config.paths import resolve
    >>> load_template(resolve("configs/unit-sphere.obj"), levels=2).counts
    (162, 642)
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "", "is missing", "give the path of an .obj, .ply, .npz or .dat template")
    if path.suffix == ".npz":
        return _load_npz(path)
    if path.suffix == ".dat":
        return _load_dat(path)
    import trimesh

    try:
        content = bare_obj(path.read_bytes()) if path.suffix.lower() == ".obj" else path.read_bytes()
        mesh = trimesh.load_mesh(io.BytesIO(content), path.suffix[1:], process=False, maintain_order=True)
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


def _load_npz(path: Path) -> Template:
    """A template from arrays: coord (n1, 3), faces1 (F1, 3), and the pairs of new vertices unpool1, unpool2 ..."""
    remedy = "give arrays coord, faces1, unpool1 ..."
    content = read_npz(path, remedy)
    try:
        vertices, faces = np.asarray(content["coord"], np.float64), np.asarray(content["faces1"], np.int64)
        count = sum(name.startswith("unpool") for name in content)
        unpool = [np.asarray(content[f"unpool{k}"], np.int64) for k in range(1, 1 + count)]
        if not np.isfinite(vertices).all():
            raise ValueError("coordinates are not finite")
        return Template.from_unpool(vertices, faces, unpool)
    except (LookupError, ValueError, TypeError) as error:
        raise InputError(path, "", f"is not a template: {error}", remedy) from error


def _load_dat(path: Path) -> Template:
    """A `.dat` of older ports: [coordinates, support of each level, [unpool ...], 2 paddings, [laplace ...]]."""
    content = load_arrays(path)
    try:
        vertices = np.asarray(content[0], np.float64)
        levels = len(content) - 5
        edges = np.asarray(content[1][1][0], np.int64)
        unpool = tuple(np.asarray(pairs, np.int64).reshape(-1, 2) for pairs in content[1 + levels])
        if len(unpool) != levels - 1 or vertices.shape[1] != 3:
            raise ValueError(f"{levels} levels but {len(unpool)} unpoolings")
        first = _triangles_of_graph(edges[edges[:, 0] < edges[:, 1]], len(vertices))
        return Template.from_unpool(vertices, first, unpool)
    except (TypeError, IndexError, ValueError, KeyError) as error:
        raise InputError(path, "", f"is not a template: {error}", "give a .dat of a Pixel2Mesh port") from error


def _triangles_of_graph(edges: Int[np.ndarray, "e 2"], count: int) -> Int[np.ndarray, "f 3"]:
    """All triangles of a graph, with consistent winding where it is a surface."""
    graph = adjacency_matrix(edges, count)
    neighbours = [set(graph.indices[graph.indptr[v] : graph.indptr[v + 1]].tolist()) for v in range(count)]
    faces = [(a, b, c) for a, b in edges.tolist() for c in sorted(neighbours[a] & neighbours[b]) if b < c]
    if not faces:
        raise ValueError("its edges form no triangle")
    return _wind_alike(np.array(faces))


def _wind_alike(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "f 3"]:
    """Flip triangles so that neighbours have their common edge in opposite directions."""
    faces = faces.copy()
    at_edge: dict[tuple[int, int], list[int]] = {}
    for f, (a, b, c) in enumerate(faces.tolist()):
        for i, j in ((a, b), (b, c), (c, a)):
            at_edge.setdefault((min(i, j), max(i, j)), []).append(f)
    done = np.zeros(len(faces), bool)
    for seed in range(len(faces)):
        queue = [seed] if not done[seed] else []
        done[seed] = True
        while queue:
            a, b, c = faces[queue.pop()].tolist()
            for i, j in ((a, b), (b, c), (c, a)):
                for f in at_edge[(min(i, j), max(i, j))]:
                    if not done[f]:
                        x, y, z = faces[f].tolist()
                        if (i, j) in ((x, y), (y, z), (z, x)):
                            faces[f] = (x, z, y)
                        done[f] = True
                        queue.append(f)
    return faces
