"""p2m_core.data.clouds."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from p2m_core.config.settings import ModelConfig
from p2m_core.geometry.camera import perspective_to_px
from p2m_core.metrics import cd_f1
from p2m_core.targets import Truth


def on_input(vertices: np.ndarray, model: ModelConfig, side_px: int) -> np.ndarray:
    """Object frame to px of a network's input that is drawn side_px wide, (V, 3) -> (V, 3), z to the viewer."""
    scale = side_px / model.input_px
    shift = np.array([0.5, 0.5, 0])
    return (perspective_to_px(vertices, model.focal_px, model.centre_px, model.mesh_offset) + shift) * scale - shift


def cloud_errors(vertices: torch.Tensor, truth: Truth) -> np.ndarray:
    """CD x1000 of cd-f1@p2m between vertices (B, V, 3) and the truth's clouds, one a sample."""
    lengths = [truth.points.shape[1]] * len(vertices) if truth.lengths is None else truth.lengths.tolist()
    pairs = zip(vertices.cpu().numpy(), truth.points.cpu().numpy(), lengths, strict=True)
    return np.array([cd_f1(predicted, points[:count])["cd"] for predicted, points, count in pairs])


def pad_clouds(batch: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Items of a batch with their clouds padded with zeros to the longest one, so that they can be stacked."""
    longest = max(len(content["points"]) for content in batch)
    for content in batch:
        for name in ("points", "normals"):
            content[name] = np.pad(content[name], ((0, longest - len(content[name])), (0, 0)))
    return batch


class CloudDecoder(nn.Module):
    """The truth of a batch: its points and normals as they are."""

    def forward(self, batch: dict[str, torch.Tensor]) -> Truth:
        return Truth(points=batch["points"], normals=batch["normals"], lengths=batch.get("lengths"))
