import os
import pickle

import golden_networks as golden
import numpy as np
import pytest
import torch

from p2m_core.errors import InputError
from p2m_core.geometry.template import Template
from p2m_core.geometry.template_files import load_template
from p2m_core.network import encoders
from p2m_core.network.encoders import Normalise
from p2m_workbench.cli import main
from p2m_workbench.interop.convert import convert
from p2m_workbench.interop.reference_network import load_network

VGG = "p2m_vgg"
TEMPLATE = golden.template_path(VGG)


@pytest.fixture(scope="module")
def state():
    return golden.state_dict(VGG)


def saved(content, folder):
    path = folder / "old.pth"
    torch.save(content, path)
    return path


def test_what_is_ignored_is_said(state, tmp_path):
    extra = {"nn_encoder.fc.weight": torch.zeros(2, 2), "gcns.0.conv1.adj_mat": torch.zeros(3), "epoch": 7}
    report = convert(saved({"model": state | extra}, tmp_path), tmp_path / "new.safetensors", TEMPLATE)
    assert report.ignored == ["init_pts", "nn_encoder.fc.weight", "gcns.0.conv1.adj_mat"]
    assert sorted([*report.loaded, "init_pts"]) == sorted(state)
    assert not report.fresh
    assert "model.backbone: vgg16" in str(report)
    assert f"{len(state) - 1} tensors loaded" in str(report)
    assert load_network(tmp_path / "new.safetensors")[1]["converted from"] == "old.pth"


def test_missing_and_unexpected_tensors_are_listed_and_fail(state, tmp_path):
    odd = {name: x for name, x in state.items() if name != "gcns.1.blocks.3.conv2.bias"} | {"gcns.9a.x": torch.ones(1)}
    odd = {name.replace("gcns.9a", "extra"): x for name, x in odd.items()}
    target = tmp_path / "new.safetensors"
    with pytest.raises(InputError, match=r"1 missing: stages\.1\.blocks\.3\.conv2\.bias; 1 unexpected: extra\.x"):
        convert(saved(odd, tmp_path), target, TEMPLATE)
    assert not target.exists()
    report = convert(saved(odd, tmp_path), target, TEMPLATE, incomplete=True)
    assert (report.fresh, report.unexpected) == (["stages.1.blocks.3.conv2.bias"], ["extra.x"])


def test_another_shape_fails_whatever_one_says(state, tmp_path):
    odd = state | {"gcns.1.blocks.3.conv2.weight": torch.zeros(192, 100)}
    with pytest.raises(InputError, match=r"gcns\.1\.blocks\.3\.conv2\.weight \(192, 100\), expected \(192, 192\)"):
        convert(saved(odd, tmp_path), tmp_path / "new.safetensors", TEMPLATE, incomplete=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x + 0.01 * torch.eye(len(x), 3), "differs from the template's points by up to"),
        (lambda x: x[:100], r"has shape \(100, 3\), the template's first level \(156, 3\)"),
    ],
)
def test_points_of_another_template_are_refused(state, tmp_path, change, message):
    odd = state | {"init_pts": change(state["init_pts"])}
    with pytest.raises(InputError, match=f"init_pts: {message}"):
        convert(saved(odd, tmp_path), tmp_path / "new.safetensors", TEMPLATE)


def test_a_template_is_needed_and_must_fit(state, tmp_path):
    path = saved({name: x for name, x in state.items() if name != "init_pts"}, tmp_path)
    with pytest.raises(InputError, match=r"a template is needed.*--template"):
        convert(path, tmp_path / "new.safetensors")
    with pytest.raises(InputError, match="missing"):  # five levels want five stages
        convert(path, tmp_path / "new.safetensors", Template.from_mesh(np.eye(3), np.array([[0, 1, 2]]), 5))


def test_the_template_moves_to_where_its_points_were(state, tmp_path):
    moved = state | {"init_pts": state["init_pts"] + torch.tensor([0, 0, -0.8])}
    convert(saved(moved, tmp_path), tmp_path / "new.safetensors", TEMPLATE)
    template = load_network(tmp_path / "new.safetensors")[0].template
    np.testing.assert_allclose(template.vertices, load_template(TEMPLATE).vertices + [0, 0, -0.8], atol=1e-6)


@torch.no_grad()
def test_the_official_networks_arrays(tmp_path):
    """Convolutions HWIO, graph layers numbered; weights_0 is the vertex' own, weights_1 that of its neighbours."""
    name, arrays = "p2m_tensorflow", {}
    state = golden.state_dict(name)
    encoder = [key.removesuffix(".weight") for key in state if key.startswith("nn_encoder.") and key.endswith("weight")]
    for k, layer in enumerate(encoder):
        folder = f"gcn/Conv2D{f'_{k}' if k else ''}"
        arrays[f"{folder}/W:0"] = state[f"{layer}.weight"].numpy().transpose(2, 3, 1, 0)
        arrays[f"{folder}/b:0"] = state[f"{layer}.bias"].numpy()
    layers = [
        f"gcns.{stage}.{part}"
        for stage in range(3)
        for part in ("conv1", *(f"blocks.{b}.conv{k}" for b in range(6) for k in (1, 2)), "conv2")
    ]
    for k, layer in enumerate([*layers, "gconv"]):
        for kind, array in (("weights_0", "loop_weight"), ("weights_1", "weight"), ("bias", "bias")):
            arrays[f"gcn/graphconvolution_{k + 1}_vars/{kind}:0"] = state[f"{layer}.{array}"].numpy()
    path = tmp_path / "official.dat"
    path.write_bytes(pickle.dumps(arrays, protocol=2))
    report = convert(path, tmp_path / "new.safetensors", TEMPLATE)
    assert (report.fresh, report.unexpected) == ([], [])
    model, _ = load_network(tmp_path / "new.safetensors")
    prediction, wanted = model(golden.images(name)), golden.outputs(name)
    for k, level in enumerate(prediction.levels):
        expected = wanted[f"pred{k + 1}"]
        assert abs(level.numpy() - expected).max() <= 1e-4 * abs(expected).max()
    del arrays["gcn/graphconvolution_43_vars/bias:0"]
    path.write_bytes(pickle.dumps(arrays | {"gcn/odd:0": np.zeros(1)}))
    with pytest.raises(InputError, match=r"missing: gcn/graphconvolution_43_vars/bias:0; unexpected: gcn/odd:0"):
        convert(path, tmp_path / "new.safetensors", TEMPLATE)


def test_three_stages_grow_to_four(state, tmp_path):
    """The last layer moves to the new last stage; what takes its place is fresh, and said to be."""
    own = {name: x for name, x in state.items() if name != "init_pts"}
    report = convert(saved(own, tmp_path), tmp_path / "new.safetensors", golden.template_path("p2m_face"))
    assert report.renamed == [f"gcns.2.conv2.{x} to gcns.3.conv2.{x}" for x in ("weight", "loop_weight", "bias")]
    assert {name.rpartition(".")[0] for name in report.fresh if name.startswith("stages.2.")} == {"stages.2.conv2"}
    assert all(name.startswith(("stages.2.conv2.", "stages.3.")) for name in report.fresh)
    model, _ = load_network(tmp_path / "new.safetensors")
    torch.testing.assert_close(model.stages[3].conv2.weight, state["gcns.2.conv2.weight"])
    assert model.stages[2].conv2.weight.shape == (192, 3)
    assert model(torch.rand(1, 3, 224, 224)).levels[-1].shape == (1, 7008, 3)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_malicious_file_raises_and_runs_nothing(tmp_path, write):
    path, trace = tmp_path / "old.pth", tmp_path / "was-here"
    write({"model": {"gcns.0.conv1.weight": Evil(trace)}}, path)
    with pytest.raises(InputError, match="neither a checkpoint of tensors nor a pickle of arrays") as caught:
        convert(path, tmp_path / "new.safetensors", TEMPLATE)
    assert "weights_only" not in str(caught.value)  # torch advises to read such a file unsafely
    assert not trace.exists()
    pickle.loads(pickle.dumps(Evil(trace)))  # it would have, read the other way
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(2)}, r"has no tensors gcns\.\*"),
        ([torch.zeros(2)], "holds no tensors by name"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        convert(saved(content, tmp_path), tmp_path / "new.safetensors", TEMPLATE)
    with pytest.raises(InputError, match="there is no such file"):
        convert(tmp_path / "none.pth", tmp_path / "new.safetensors", TEMPLATE)


def test_the_command_prints_what_became_of_the_tensors(state, tmp_path, capsys):
    source, target = saved(state, tmp_path), tmp_path / "new.safetensors"
    words = ["convert", str(source), str(target), "--template", str(TEMPLATE), "--set", "model.z_threshold=0.1"]
    assert main(words) == 0
    assert "tensors loaded" in capsys.readouterr().out
    assert load_network(target)[0].config.z_threshold == 0.1
    assert main([*words[:3]]) == 2
    assert "--template" in capsys.readouterr().err


# --- normalisations ---


def test_each_normalisation_is_its_backbones():
    image = torch.rand(2, 3, 4, 4)
    assert torch.equal(Normalise("none")(image), image)
    face = Normalise("vggface2")(image)
    for k, mean in enumerate(encoders.VGGFACE2_MEAN_BGR):  # BGR of 255
        torch.testing.assert_close(face[:, k], image[:, 2 - k] * 255 - mean, atol=1e-4, rtol=1e-4)
