"""Encoders that begin with ImageNet's or VGGFace2's weights."""

import logging
import pickle
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from p2m_core.config.settings import ModelConfig
from p2m_core.errors import InputError
from p2m_core.network.encoders import IMAGENET_MEAN, build_backbone
from p2m_workbench.training.pretrained import load_pretrained


def test_imagenet_weights_out_of_reach_warn_and_go_on(monkeypatch, caplog):
    def unreachable(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", unreachable)
    with caplog.at_level(logging.WARNING):
        load_pretrained(build_backbone("resnet18"), ModelConfig(backbone="resnet18", pretrained=True))
    assert "no ImageNet weights for resnet18" in caplog.text
    assert "model.pretrained=false" in caplog.text


@pytest.mark.parametrize("pretrained", [True, False])
def test_imagenet_weights_are_loaded_where_they_are_wanted(monkeypatch, pretrained):
    known = torchvision.models.resnet18(weights=None).state_dict()
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda *args, **kwargs: known)
    encoder = build_backbone("resnet18")
    load_pretrained(encoder, ModelConfig(backbone="resnet18", pretrained=pretrained))
    same = {name: torch.equal(tensor, known[name]) for name, tensor in encoder.state_dict().items() if "conv" in name}
    assert len(same) == 17
    assert set(same.values()) == {pretrained}
    assert IMAGENET_MEAN == (0.485, 0.456, 0.406)


def test_vggface2_weights_from_their_pickle(tmp_path):
    encoder = build_backbone("resnet50")
    rng = np.random.default_rng(0)
    arrays = {n: np.float32(rng.normal(size=x.shape)) for n, x in encoder.state_dict().items() if x.ndim}
    path = tmp_path / "resnet50_ft_weight.pkl"
    config = ModelConfig(backbone="resnet50", pretrained=str(path))
    path.write_bytes(pickle.dumps(arrays | {"fc.weight": np.zeros((4, 4), np.float32)}))
    load_pretrained(encoder, config)
    for name, array in arrays.items():
        np.testing.assert_array_equal(encoder.state_dict()[name], array, err_msg=name)
    path.write_bytes(pickle.dumps({name: x for name, x in arrays.items() if name != "layer2.1.bn2.bias"}))
    with pytest.raises(InputError, match=r"layer2\.1\.bn2\.bias: is missing"):
        load_pretrained(encoder, config)
