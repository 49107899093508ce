import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from p2m_core.config.settings import ModelConfig
from p2m_core.errors import InputError
from p2m_core.network import weights as checkpoint
from p2m_core.network.model import Pixel2Mesh
from p2m_core.network.weights import load_model, read_weights, save_weights, weights_path

SETTINGS = {"input_px": 64, "feature_channels": 8, "hidden": (8, 8, 8), "blocks": (1, 1, 0), "unpooling": "adaptive"}

pytestmark = pytest.mark.usefixtures("tiny_backbone")


def network(template, **changes):
    torch.manual_seed(len(changes))
    return Pixel2Mesh(ModelConfig(**{**SETTINGS, **changes}), template)


@pytest.fixture
def model(small_template):
    """A network whose buffers, too, are no longer those of the start."""
    model = network(small_template)
    model.train()(torch.rand(4, 3, 64, 64))
    return model


def test_one_file_is_all_a_prediction_needs(model, tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    save_weights(path, model.state_dict(), model, {"step": 7, "note": "grüße", "score": float("nan")})
    again, about = load_model(path)
    assert about == {"step": 7, "note": "grüße", "score": None}
    assert again.config == model.config
    assert not again.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
        assert again.state_dict()[name].dtype == tensor.dtype
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for found, expected in zip(again(images).levels, model.eval()(images).levels, strict=True):
            torch.testing.assert_close(found, expected)
    for name, array in model.template.arrays().items():
        np.testing.assert_allclose(again.template.arrays()[name], array, rtol=1e-6)
    assert again.template.faces[0].dtype == np.int64


def test_other_tensors_of_the_same_names_are_written_as_given(model, tmp_path):
    """The averaged weights, not the network's own."""
    average = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    save_weights(tmp_path / "a.safetensors", average, model, {})
    tensors, *_ = read_weights(tmp_path / "a.safetensors")
    assert set(tensors) == set(average)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, average[name])


def test_half_precision_is_half_the_size_and_read_as_float32(model, tmp_path):
    for name, half in (("full", False), ("half", True)):
        save_weights(tmp_path / name, model.state_dict(), model, {}, half)
    tensors, template, *_ = read_weights(tmp_path / "half")
    for name, tensor in model.state_dict().items():
        assert tensors[name].dtype == tensor.dtype
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(template.vertices, model.template.vertices)  # in um, beyond half precision
    with safe_open(tmp_path / "half", "pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys() if name.startswith("network.")}  # noqa: SIM118
    assert kinds == {torch.float16, torch.int64}


def test_the_settings_are_readable_without_torch(model, tmp_path):
    save_weights(tmp_path / "a.safetensors", model.state_dict(), model, {"step": 7})
    head = (tmp_path / "a.safetensors").read_bytes()
    header = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])["__metadata__"]
    assert ModelConfig.model_validate_json(header["model"]) == model.config
    assert json.loads(header["about"]) == {"step": 7}


def test_a_write_that_fails_leaves_the_old_weights(model, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_weights(path, model.state_dict(), model, {"step": 1})
    before = path.read_bytes()

    def die(temporary, content, real=Path.write_bytes):
        real(temporary, content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", die)
    with pytest.raises(KeyboardInterrupt):
        save_weights(path, model.state_dict(), model, {"step": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_where_weights_are_looked_for(model, home):
    run = home / "outputs" / "run"
    save_weights(run / "weights.safetensors", model.state_dict(), model, {})
    for source in (run, run / "weights.safetensors", "outputs/run", "outputs/run/weights.safetensors"):
        assert weights_path(source) == run / "weights.safetensors"
    for source in ("outputs/other", home, run / "absent.safetensors"):
        with pytest.raises(InputError, match=r"there are no such weights \(train a network first"):
            weights_path(source)


def test_bundled_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "BUNDLED", tmp_path / "face.safetensors")
    with pytest.raises(InputError, match=r"face\.safetensors: there are no such weights"):
        weights_path("bundled")
    (tmp_path / "face.safetensors").touch()
    assert weights_path("bundled") == tmp_path / "face.safetensors"


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "foreign", "metadata of another"])
def test_files_that_are_none_of_ours(model, tmp_path, kind):
    path = tmp_path / "a.safetensors"
    save_weights(path, model.state_dict(), model, {})
    content = path.read_bytes()
    if kind == "foreign":
        save_file({"weight": torch.zeros(3)}, path)
    elif kind == "metadata of another":
        save_file({"weight": torch.zeros(3)}, path, {"model": '{"backbone": "resnet999"}'})
    else:
        path.write_bytes({"empty": b"", "text": b"not weights" * 9, "cut": content[: len(content) // 2]}[kind])
    with pytest.raises(InputError, match=r"a\.safetensors: is not a weights file of this project.*p2m train") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_weights_are_found_by_a_runs_name(model, tmp_path, monkeypatch):
    monkeypatch.setenv("P2M_HOME", str(tmp_path))
    save_weights(tmp_path / "outputs/trial/weights.safetensors", model.state_dict(), model, {})
    assert weights_path("trial") == weights_path("outputs/trial") == tmp_path / "outputs/trial/weights.safetensors"
    with pytest.raises(InputError, match=r"absent: there are no such weights"):
        weights_path("absent")


def test_names_of_earlier_versions_are_read(small_template, tmp_path):
    model = network(small_template, correspondence_map=True, shape_basis=6, template_detail=True)
    save_weights(tmp_path / "new.safetensors", model.state_dict(), model, {})
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        metadata, content = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for old, new in checkpoint.OLD_SETTINGS.items():
        metadata["model"] = metadata["model"].replace(f'"{new}"', f'"{old}"')
    for old, new in checkpoint.OLD_TENSORS.items():
        content = {name.replace(f"network.{new}", f"network.{old}"): tensor for name, tensor in content.items()}
    save_file(content, tmp_path / "old.safetensors", metadata)
    again, _ = load_model(tmp_path / "old.safetensors")
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
