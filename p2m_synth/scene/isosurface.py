"""The surface on which a field sampled on a grid is 0, as a mesh."""

from __future__ import annotations

import numpy as np


def surface_nets(values: np.ndarray, cyclic: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The surface on which a sampled field is 0: a vertex in each grid cell that it passes.

    Args:    values: (X, Y, Z), above 0 on the grid's own surface, so that the mesh is closed.
             cyclic: the axes across axis 1 are (2, 0) in place of (0, 2), which splits those quads along their other
             diagonal. Objects have one and hands the other, since written sets must come out the same again.
    Returns: vertices (V, 3) in grid steps, faces (F, 3) wound outwards, where the field grows.
    Source:  Gibson, Constrained elastic surface nets, 1998.
    """
    cells = tuple(n - 1 for n in values.shape)
    total, hits, crossings = np.zeros((*cells, 3)), np.zeros(cells), []
    for axis in range(3):
        v = np.moveaxis(values, axis, 0)
        low, high = v[:-1], v[1:]
        crossed = (low < 0) != (high < 0)
        at = np.where(crossed, low / np.where(crossed, low - high, 1), 0)
        crossings.append((crossed, low < 0))
        # A grid edge bounds four cells; to a cell it is one of four edges along this axis.
        others = [k for k in range(3) if k != axis]
        sums, counts = np.moveaxis(total, axis, 0), np.moveaxis(hits, axis, 0)
        for b in (0, 1):
            for c in (0, 1):
                window = (slice(None), slice(b, b + sums.shape[1]), slice(c, c + sums.shape[2]))
                sums[..., axis] += at[window]
                sums[..., others[0]] += b * crossed[window]
                sums[..., others[1]] += c * crossed[window]
                counts += crossed[window]
    number = np.full(cells, -1)
    number[hits > 0] = np.arange(np.count_nonzero(hits))
    vertices = np.argwhere(hits > 0) + total[hits > 0] / hits[hits > 0][:, None]
    faces = []
    for axis, (crossed, inside) in enumerate(crossings):
        i, j, k = np.nonzero(crossed[:, 1:-1, 1:-1])
        around = np.moveaxis(number, axis, 0)
        quad = np.stack([around[i, j, k], around[i, j + 1, k], around[i, j + 1, k + 1], around[i, j, k + 1]], 1)
        if cyclic and axis == 1:
            quad = quad[:, [0, 3, 2, 1]]
        # Counter-clockwise about the axis, but for axis 1, whose two others stand in the opposite order.
        flip = inside[:, 1:-1, 1:-1][i, j, k] == (axis == 1 and not cyclic)
        quad[flip] = quad[flip, ::-1]
        faces += [quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]]
    return vertices, np.concatenate(faces)
