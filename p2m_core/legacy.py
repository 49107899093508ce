"""Files of the older Pixel2Mesh ports, read without running what is in them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np

from p2m_core.errors import InputError
from p2m_core.template import Template, find_mirror, subdivided_faces, undirected

# What a damaged or a foreign pickle makes the unpickler raise.
UNPICKLING_ERRORS = (
    pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError, TypeError, ValueError, MemoryError,
    OverflowError,
)  # fmt: skip


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that builds numpy arrays and nothing else, so that a file cannot run code."""

    ALLOWED = {
        (module, name)
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("ndarray", "dtype", "_reconstruct", "scalar")
    } | {("_codecs", "encode"), ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer")}

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def load_arrays(path: str | Path) -> object:
    """The numpy arrays of a pickle, in lists, tuples and dicts.

    Raises: InputError if the file holds anything else or is no pickle.
    """
    try:
        return _ArraysOnly(io.BytesIO(Path(path).read_bytes()), encoding="latin1").load()
    except UNPICKLING_ERRORS as error:
        problem = f"is not a pickle of numpy arrays: {error}"
        raise InputError(path, "", problem, "give a file from a source you trust") from error


def triangles_of_graph(edges: np.ndarray, count: int) -> np.ndarray:
    """All triangles (F, 3) of a graph with edges (E, 2), wound alike where it is a surface."""
    graph = undirected(edges, count)
    neighbours = [set(graph.indices[graph.indptr[v] : graph.indptr[v + 1]].tolist()) for v in range(count)]
    faces = [(a, b, c) for a, b in edges.tolist() for c in sorted(neighbours[a] & neighbours[b]) if b < c]
    return _wind_alike(np.array(faces))


def _wind_alike(faces: np.ndarray) -> np.ndarray:
    """Flip triangles so that neighbours run through their common edge in opposite directions."""
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


def load_dat(path: Path) -> Template:
    """A `.dat` of older ports: [coordinates, support of each level, [unpool ...], 2 paddings, [laplace ...]]."""
    content = load_arrays(path)
    try:
        vertices = np.asarray(content[0], np.float64)
        levels = len(content) - 5
        edges = np.asarray(content[1][1][0], np.int64)
        unpool = tuple(np.asarray(pairs, np.int64).reshape(-1, 2) for pairs in content[1 + levels])
        if len(unpool) != levels - 1 or vertices.shape[1] != 3:
            raise ValueError(f"{levels} levels but {len(unpool)} unpoolings")
        first = triangles_of_graph(edges[edges[:, 0] < edges[:, 1]], len(vertices))
        for pairs in unpool:
            vertices = np.concatenate([vertices, vertices[pairs].mean(1)])
        faces = subdivided_faces(first, list(unpool), len(vertices))
    except (TypeError, IndexError, ValueError, KeyError) as error:
        raise InputError(path, "", f"is not a template: {error}", "give a .dat of a Pixel2Mesh port") from error
    none = np.zeros((0, 3))
    return Template(np.float32(vertices), faces, unpool, none.astype(int), none, find_mirror(vertices))
