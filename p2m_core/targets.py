"""The ground truth of a batch: what the data sets give and the losses compare predictions with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64


@dataclass
class Truth:
    """The true place of every vertex of the finest level, or a point cloud, or both; in the network's coordinates.

    vertices  (B, V, 3)        points, normals  (B, M, 3)        lengths  (B,) int64, of clouds that are padded
    image     (B, 3, S, S) in [0, 1], for the decoder
    """

    vertices: Float[torch.Tensor, "b v 3"] | None = None
    points: Float[torch.Tensor, "b m 3"] | None = None
    normals: Float[torch.Tensor, "b m 3"] | None = None
    lengths: Int64[torch.Tensor, "b"] | None = None
    image: Float[torch.Tensor, "b 3 s s"] | None = None

    def known_vertices(self) -> Float[torch.Tensor, "b v 3"]:
        """`vertices`.   Raises ValueError if this truth has none."""
        if self.vertices is None:
            raise ValueError("the truth has no vertices to compare with")
        return self.vertices
