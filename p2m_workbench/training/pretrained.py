"""What a network begins with: an encoder that learned elsewhere (`model.pretrained`), or whole weights
(`train.init_from`)."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from p2m_core.config.paths import resolve
from p2m_core.config.settings import ModelConfig
from p2m_core.errors import InputError
from p2m_core.geometry.rasterizer import vertex_normals
from p2m_core.geometry.template import Template
from p2m_core.network.model import SHAPE_LEVEL, Pixel2Mesh, unit_template
from p2m_core.network.weights import read_weights
from p2m_core.safe_pickle import load_arrays

BASIS = "shape_basis"
# Settings that change no tensor's shape but what it computes; the camera's numbers follow input_px.
MEANING = ("normalisation", "tensorflow_aligned", "align_corners", "camera", "z_threshold", "block", "residual")
NEAREST = 4  # vertices of the other template that a vertex takes its directions from
NORMAL_SHARE = 0.15  # of a template's size: vertices that face otherwise, as lips do, are so much farther apart

_log = logging.getLogger(__name__)


def load_pretrained(encoder: nn.Module, config: ModelConfig) -> None:
    """Load ImageNet weights, or the file of VGGFace2's, where the settings ask for them.   Raises InputError."""
    if isinstance(config.pretrained, str):
        load_vggface2(encoder, config.pretrained)
    elif config.pretrained:
        load_imagenet(encoder, config.backbone)


def initialise(model: Pixel2Mesh, source: str | Path) -> dict[str, list[str]]:
    """Copy into a network all tensors of a weights file that fit by name and shape; a shape basis of another template
    is carried over.

    Returns: the names that were "loaded", those left "fresh" (in the network alone or of another shape), and
    the "unused" ones of the file.
    """
    tensors, template, config, _ = read_weights(source)
    own = model.state_dict()
    if BASIS in tensors and BASIS in own and tensors[BASIS].shape[1:] == own[BASIS].shape[1:]:
        tensors[BASIS] = carried_over(tensors[BASIS], template, model.template)
    loaded = [name for name, tensor in own.items() if name in tensors and tensors[name].shape == tensor.shape]
    model.load_state_dict({name: tensors[name] for name in loaded}, strict=False)
    report = {
        "loaded": loaded,
        "fresh": [name for name in own if name not in loaded],
        "unused": [name for name in tensors if name not in loaded],
    }
    _log.info("%s: %s", source, ", ".join(f"{len(names)} {kind}" for kind, names in report.items()))
    other = {name: getattr(config, name) for name in MEANING if getattr(config, name) != getattr(model.config, name)}
    if other:
        values = " ".join(f"--set model.{name}={json.dumps(value)}" for name, value in other.items())
        _log.warning("%s was trained with other settings, by which its tensors mean something else: %s", source, values)
    return report


def carried_over(basis: Tensor, template: Template, other: Template) -> Tensor:
    """A shape basis (v, 3, K) on another template (w, 3, K): means of the nearest vertices that face alike."""

    def places(of: Template) -> np.ndarray:
        level = min(SHAPE_LEVEL, len(of.counts) - 1)
        vertices = unit_template(of).astype(np.float64)
        return np.concatenate([vertices, NORMAL_SHARE * vertex_normals(vertices, of.faces[-1])], 1)[: of.counts[level]]

    if len(places(template)) == len(places(other)) and np.allclose(places(template), places(other), atol=1e-3):
        return basis
    distance, idx = cKDTree(places(template)).query(places(other), NEAREST)
    weight = 1 / np.maximum(distance, 1e-6) ** 2
    weight = torch.from_numpy(weight / weight.sum(1, keepdims=True)).to(basis.dtype)
    return torch.einsum("wn,wnck->wck", weight, basis[torch.from_numpy(idx)])


def load_vggface2(net: nn.Module, path: str) -> None:
    """VGGFace2's ResNet50 weights, a pickle of numpy arrays by torchvision's names.

    Raises: InputError if the file is no such pickle, or a tensor is missing or of another shape.
    """
    content, own = load_arrays(resolve(path)), net.state_dict()
    if not isinstance(content, dict):
        raise InputError(path, "", "holds no dict of arrays", "give resnet50_ft_weight.pkl of VGGFace2's PyTorch port")
    tensors = {name: torch.from_numpy(array) for name, array in content.items() if not name.startswith("fc.")}
    wanted = [name for name in own if not name.startswith("fc.") and not name.endswith("num_batches_tracked")]
    for name in wanted:
        if name not in tensors or tensors[name].shape != own[name].shape:
            problem = "is missing" if name not in tensors else f"has shape {tuple(tensors[name].shape)}"
            raise InputError(path, name, problem, f"it should have shape {tuple(own[name].shape)}")
    net.load_state_dict({name: tensors[name] for name in wanted}, strict=False)


def load_imagenet(net: nn.Module, name: str) -> None:
    """ImageNet weights through torchvision; where the net is out of reach, random ones and a clear warning."""
    from torchvision.models import get_model_weights

    try:
        net.load_state_dict(get_model_weights(name).DEFAULT.get_state_dict(progress=False), strict=False)
    except OSError as error:
        _log.warning("no ImageNet weights for %s, but random ones (%s); set model.pretrained=false", name, error)
