"""p2m_core.targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch

BY_CORRESPONDENCE = ("vertex", "shape", "landmark", "correspondence")  # want truth with the template's own vertices


@dataclass
class Truth:
    """What a prediction is compared with: the true place of every vertex of the finest level, or a cloud, or both.

    vertices (B, V, 3) or None;   points, normals (B, M, 3) or None;   lengths (B,) int64, where clouds are padded;
    image (B, 3, S, S), for the decoder.
    """

    vertices: torch.Tensor | None = None
    points: torch.Tensor | None = None
    normals: torch.Tensor | None = None
    lengths: torch.Tensor | None = None
    image: torch.Tensor | None = None
