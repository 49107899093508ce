"""What networks begin with: ImageNet's or VGGFace2's weights for the encoder, or other networks'."""

import logging
import pickle
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from p2m_core.config.settings import ModelConfig
from p2m_core.errors import InputError
from p2m_core.morphable.registration import face_template
from p2m_core.network.encoders import IMAGENET_MEAN, build_backbone
from p2m_core.network.model import Pixel2Mesh, unit_template
from p2m_core.network.weights import save_weights
from p2m_workbench.training.pretrained import carried_over, initialise, load_pretrained

SETTINGS = {"input_px": 64, "feature_channels": 8, "hidden": (8, 8, 8), "blocks": (1, 1, 0), "unpooling": "adaptive"}


def network(template, **changes):
    torch.manual_seed(len(changes))
    return Pixel2Mesh(ModelConfig(**{**SETTINGS, **changes}), template)


@pytest.fixture
def model(small_template):
    return network(small_template)


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


# --- whole networks ---


@pytest.mark.usefixtures("tiny_backbone")
def test_initialise_says_what_was_loaded_and_what_is_fresh(model, small_template, tmp_path):
    save_weights(tmp_path / "a.safetensors", model.state_dict(), model, {})
    other = network(small_template, hidden=(8, 8, 5), global_feature=True)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    report = initialise(other, tmp_path / "a.safetensors")
    after = other.state_dict()
    assert sorted(report["loaded"] + report["fresh"]) == sorted(after)
    for name in report["loaded"]:
        assert torch.equal(after[name], model.state_dict()[name]), name
    for name in report["fresh"]:
        assert torch.equal(after[name], before[name]), name
    assert {name.split(".")[0] for name in report["fresh"]} == {"to_global", "stages"}
    assert all(name in report["loaded"] for name in after if name.startswith(("encoder.", "reduce.", "unpool.")))
    assert "stages.2.conv2.weight" in report["fresh"]
    assert "stages.2.conv2.bias" in report["loaded"]  # its shape is the same
    assert set(report["unused"]) == set(model.state_dict()) - set(report["loaded"])


@pytest.mark.usefixtures("tiny_backbone")
def test_initialise_of_the_same_network_leaves_nothing_fresh(model, small_template, tmp_path):
    save_weights(tmp_path / "a.safetensors", model.state_dict(), model, {})
    report = initialise(network(small_template), tmp_path / "a.safetensors")
    assert (report["fresh"], report["unused"]) == ([], [])


@pytest.mark.usefixtures("tiny_backbone")
def test_settings_by_which_tensors_mean_something_else_are_named(model, small_template, tmp_path, caplog):
    save_weights(tmp_path / "a.safetensors", model.state_dict(), model, {})
    initialise(network(small_template), tmp_path / "a.safetensors")
    assert "--set" not in caplog.text
    other = {"residual": not model.config.residual, "normalisation": "none"}
    initialise(network(small_template, **other), tmp_path / "a.safetensors")
    residual, used = str(model.config.residual).lower(), model.config.normalisation
    assert f'--set model.normalisation="{used}" --set model.residual={residual}' in caplog.text


@pytest.mark.usefixtures("tiny_backbone")
def test_weights_go_on_to_another_template(model, face_model, tmp_path):
    """All but the unpooling's positions are independent of the number of vertices."""
    save_weights(tmp_path / "a.safetensors", model.state_dict(), model, {})
    finer = network(face_template(face_model, "semi_sphere", 3, 3)[0])
    report = initialise(finer, tmp_path / "a.safetensors")
    assert report["fresh"] == ["unpool.0.new_pts_pos", "unpool.1.new_pts_pos"]
    assert report["unused"] == report["fresh"]


def test_a_shape_basis_goes_on_to_another_template(face_model, small_template):
    """Directions that are smooth over the face are the same on both templates."""
    other = face_template(face_model, "face", levels=3)[0]

    def basis(template):  # a stretch in each of x, y and z
        places = torch.from_numpy(unit_template(template)[: template.counts[1]])
        return torch.einsum("vc,cd->vcd", places, torch.eye(3))

    found = carried_over(basis(small_template), small_template, other)
    assert found.shape == (other.counts[1], 3, 3)
    inside = np.linalg.norm(unit_template(other)[: other.counts[1], :2], axis=1) < 0.8  # their rims differ
    assert (found - basis(other))[inside].abs().mean() < 0.05
    assert torch.equal(carried_over(basis(other), other, other), basis(other))
