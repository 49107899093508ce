"""What stores have in common whose truth is a cloud of surface points: folder sets, and Pixel2Mesh's objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from p2m_core.config.settings import Config, ModelConfig
from p2m_core.geometry.camera import perspective_to_px
from p2m_core.metrics import cd_f1
from p2m_core.targets import Truth


class CloudDecoder(nn.Module):
    """The truth of a batch: its points and normals as they are."""

    def forward(self, batch: dict[str, torch.Tensor]) -> Truth:
        return Truth(points=batch["points"], normals=batch["normals"], lengths=batch.get("lengths"))


class CloudStore:
    """Truth and error of a store of clouds."""

    metric = "cd_x1000"
    config: Config

    def truth_decoder(self) -> CloudDecoder:
        """A module from a batch of `dataset` to its truth."""
        return CloudDecoder()

    def error(self, vertices: torch.Tensor, truth: Truth) -> np.ndarray:
        """CD x1000 (B,) of cd-f1@p2m for predicted finest vertices (B, V, 3), in the network's coordinates."""
        assert truth.points is not None
        lengths = [truth.points.shape[1]] * len(vertices) if truth.lengths is None else truth.lengths.tolist()
        pairs = zip(vertices.cpu().numpy(), truth.points.cpu().numpy(), lengths, strict=True)
        return np.array([cd_f1(predicted, points[:count])["cd"] for predicted, points, count in pairs])

    def on_image(self, vertices: np.ndarray, side_px: int) -> np.ndarray:
        """Vertices (V, 3) in the frame of a perspective camera to px of the network's input, see `on_input`."""
        return on_input(vertices, self.config.model, side_px)


class CloudDataset(Dataset):
    """Samples of a store of clouds as the network's inputs.

    Item: image (3, S, S) float32 in [0, 1]; points, normals (M, 3) float32 in the network's coordinates; index. For
    training M is loss.points, drawn by seed, epoch and sample; else all points are there, and lengths says how many.
    """

    def __init__(self, store: Any, rows: np.ndarray, config: Config, train: bool):
        self.store, self.rows, self.config, self.train, self.epoch = store, rows, config, train, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        # A sampler may hand over (epoch, position): workers that live on do not see self.epoch change.
        epoch, position = item if isinstance(item, tuple) else (self.epoch, item)
        index = int(self.rows[position])
        rng = np.random.default_rng([self.config.seed, epoch, index])
        picture, cloud = self.read(index)
        if self.train:
            # Points recur where the cloud has fewer than loss.points.
            cloud = cloud[np.resize(rng.permutation(len(cloud)), self.config.loss.points)]
        image, points, normals = self.to_input(picture, cloud, rng)
        content = {
            "image": np.ascontiguousarray(image.transpose(2, 0, 1), np.float32),
            "points": points.astype(np.float32),
            "normals": normals.astype(np.float32),
            "index": np.int64(index),
        }
        return content if self.train else content | {"lengths": np.int64(len(cloud))}

    def __getitems__(self, items: list[Any]) -> list[dict[str, Any]]:
        """A DataLoader's batch; clouds are padded with zeros to the longest one, so that they can be stacked."""
        batch = [self[item] for item in items]
        longest = max(len(content["points"]) for content in batch)
        for content in batch:
            for name in ("points", "normals"):
                content[name] = np.pad(content[name], ((0, longest - len(content[name])), (0, 0)))
        return batch

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture (H, W, 3) uint8 and cloud (N, 6), points and normals, of a sample of the store."""
        raise NotImplementedError

    def to_input(
        self, picture: np.ndarray, cloud: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (S, S, 3) in [0, 1], points and unit normals (N, 3) as the network has them; augmented for training."""
        raise NotImplementedError


def on_input(vertices: np.ndarray, model: ModelConfig, side_px: int) -> np.ndarray:
    """Object frame to px of a network's input that is drawn side_px wide, (V, 3) -> (V, 3), z to the viewer."""
    scale = side_px / model.input_px
    shift = np.array([0.5, 0.5, 0])
    return (perspective_to_px(vertices, model.focal_px, model.centre_px, model.mesh_offset) + shift) * scale - shift
