"""Pixel2Mesh as older code bases compute it, for weights that were trained with them.

The official TensorFlow code pads and samples in its own way (`model.tensorflow_aligned`), PyTorch up to 1.2 sampled
with the corners of a map aligned (`model.align_corners`), and an older face port has a crop camera of its own
(`model.camera=legacy_crop`) and places new vertices without bounds (`model.unpooling=unbounded`). `build_network` gives
the class that a config asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float

from p2m_core.config.settings import ModelConfig
from p2m_core.geometry.template import Template
from p2m_core.network.layers import Unpooling, weigh_corners
from p2m_core.network.model import NetworkOutput, Pixel2Mesh
from p2m_core.network.weights import load_model


@dataclass(frozen=True)
class LegacyCrop:
    """The crop of each photo, px: left_corner (B, 2) x, y; width (B,); height (B,)."""

    left_corner: torch.Tensor
    width: torch.Tensor
    height: torch.Tensor


class UnboundedUnpooling(Unpooling):
    """t a + (1 - t) b with any t: the older port computes a t held in [0, 1], and then uses the other one."""

    def forward(self, x: Float[torch.Tensor, "n b c"]) -> Float[torch.Tensor, "n_and_e b c"]:
        t, (a, b) = self.new_pts_pos[:, None, None], self.pairs.unbind(1)
        return torch.cat([x, t * x[a] + (1 - t) * x[b]])


class ReferencePixel2Mesh(Pixel2Mesh):
    """The network with what older code does otherwise. With the legacy crop camera, `forward` wants the crop."""

    crop: LegacyCrop | None = None

    def __init__(self, config: ModelConfig, template: Template):
        super().__init__(config, template)
        if config.unpooling == "unbounded":
            pairs = zip(template.unpool, template.counts, strict=False)
            self.unpool = torch.nn.ModuleList(UnboundedUnpooling(edges, count, True) for edges, count in pairs)

    def forward(self, images: Float[torch.Tensor, "b 3 s s"], crop: LegacyCrop | None = None) -> NetworkOutput:
        self.crop = crop
        return super().forward(images)

    def pooled_product(
        self,
        maps: list[Float[torch.Tensor, "b _ _ _"]],
        weights: Float[torch.Tensor, "c d"],
        vertices: Float[torch.Tensor, "v b 3"],
    ) -> Float[torch.Tensor, "v b d"]:
        config = self.config
        if config.tensorflow_aligned:
            places = pinhole_px(vertices, config)
            return sample_as_tensorflow(maps, places, config.input_px) @ weights
        if config.align_corners:
            return sample_with_aligned_corners(maps, self.project(vertices)) @ weights
        return super().pooled_product(maps, weights, vertices)

    def project(self, vertices: Float[torch.Tensor, "v b 3"]) -> Float[torch.Tensor, "v b 2"]:
        config = self.config
        if config.camera != "legacy_crop":
            return super().project(vertices)
        if self.crop is None:
            raise ValueError("the legacy crop camera needs the crop of each photo")
        return project_legacy_crop(vertices, self.crop, config.centre_px, config.input_px)


def build_network(config: ModelConfig, template: Template) -> Pixel2Mesh:
    """The network of settings, of the class that computes them."""
    return (ReferencePixel2Mesh if config.is_reference else Pixel2Mesh)(config, template)


def load_network(source: str | Path, device: str = "cpu") -> tuple[Pixel2Mesh, dict]:
    """`load_model` for weights of any settings."""
    return load_model(source, device, build_network)


def project_legacy_crop(
    vertices: torch.Tensor, crop: LegacyCrop, centre: tuple[float, float], size_px: int
) -> torch.Tensor:
    """The crop camera of an older face port, kept for parity alone.

    Its pixels count from the corner but are divided by the half size and clamped, so that half of the crop's width
    falls on its edge.

    Args:    vertices: (V, B, 3) px of the photo / 1000.   centre: px.
    Returns: (V, B, 2) in [-1, 1].
    """
    half = (size_px - 1) / 2
    size = torch.stack([crop.width, crop.height], -1)
    shift = vertices.new_tensor(centre) - half
    grid = (1000 * vertices[..., :2] - crop.left_corner) / size * size_px - shift
    return (grid / half).clamp(-1, 1)


def pinhole_px(vertices: Float[torch.Tensor, "v b 3"], config: ModelConfig) -> Float[torch.Tensor, "v b 2"]:
    """Where the perspective camera sees vertices, px of the input (V, B, 2), held within it: `project_perspective`
    without the division by the half size, which would be undone here and cost digits."""
    x, y, z = (vertices + vertices.new_tensor(config.mesh_offset)).unbind(-1)
    z = z if config.z_threshold is None else z.clamp(max=-config.z_threshold)
    (fx, fy), (cx, cy) = config.focal_px, config.centre_px
    return torch.stack([cx - fx * x / z, cy + fy * y / z], -1).clamp(0, config.input_px - 1)


def sample_with_aligned_corners(
    maps: list[Float[torch.Tensor, "b _ _ _"]], grid: Float[torch.Tensor, "v b 2"]
) -> Float[torch.Tensor, "v b c"]:
    """Image features as grid_sample(align_corners=True) has them.   Args: grid: x, y in [-1, 1]."""
    sampled = []
    for x in maps:
        place = (grid + 1) / 2 * (grid.new_tensor([x.shape[3], x.shape[2]]) - 1)
        sampled.append(weigh_corners(x, place, place.detach().floor() + 1))
    return torch.cat(sampled, -1)


def sample_as_tensorflow(
    maps: list[Float[torch.Tensor, "b _ _ _"]], places_px: Float[torch.Tensor, "v b 2"], size_px: int
) -> Float[torch.Tensor, "v b c"]:
    """Image features as the official TensorFlow code has them: weights ceil(p) - p and p - floor(p), so that a whole
    coordinate gives 0.

    Args: maps: (B, C_i, h_i, w_i).   places_px: x, y in px of the input.   size_px: the input's side.
    """
    sampled = []
    for x in maps:
        size = places_px.new_tensor([x.shape[3], x.shape[2]])
        place = torch.minimum((places_px / (size_px / size)).clamp(min=0), size - 1)
        sampled.append(weigh_corners(x, place, place.detach().ceil()))
    return torch.cat(sampled, -1)
