"""Encoders that begin with what they have learned elsewhere: `model.pretrained`."""

from __future__ import annotations

import logging

import torch
from torch import nn

from p2m_core.config.paths import resolve
from p2m_core.config.settings import ModelConfig
from p2m_core.errors import InputError
from p2m_core.safe_pickle import load_arrays

_log = logging.getLogger(__name__)


def load_pretrained(encoder: nn.Module, config: ModelConfig) -> None:
    """Load ImageNet weights, or the file of VGGFace2's, where the settings ask for them.   Raises InputError."""
    if isinstance(config.pretrained, str):
        load_vggface2(encoder, config.pretrained)
    elif config.pretrained:
        load_imagenet(encoder, config.backbone)


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
