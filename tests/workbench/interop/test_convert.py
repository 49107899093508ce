import dataclasses
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
from p2m_workbench.interop.reference_network import LegacyCrop, load_network

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
    before_camera = load_template(TEMPLATE)  # as the official file of the ellipsoid has it
    before_camera = dataclasses.replace(before_camera, vertices=before_camera.vertices + np.float32([0, 0, -0.8]))
    convert(path, tmp_path / "again.safetensors", before_camera)
    np.testing.assert_allclose(
        load_network(tmp_path / "again.safetensors")[0].template.vertices, model.template.vertices, atol=1e-6
    )
    del arrays["gcn/graphconvolution_43_vars/bias:0"]
    path.write_bytes(pickle.dumps(arrays | {"gcn/odd:0": np.zeros(1)}))
    with pytest.raises(InputError, match=r"missing: gcn/graphconvolution_43_vars/bias:0; unexpected: gcn/odd:0"):
        convert(path, tmp_path / "new.safetensors", TEMPLATE)


def test_three_stages_grow_to_four(state, tmp_path):
    """The last layer moves to the new last stage; what takes its place is fresh, and said to be. The points of the old
    template, which every such checkpoint holds, give way to the new one's; camera and unpooling are the face port's."""
    assert state["init_pts"].shape == (156, 3)
    report = convert(saved(state, tmp_path), tmp_path / "new.safetensors", golden.template_path("p2m_face"))
    assert report.ignored == ["init_pts"]
    assert report.renamed == [f"gcns.2.conv2.{x} to gcns.3.conv2.{x}" for x in ("weight", "loop_weight", "bias")]
    assert {name.rpartition(".")[0] for name in report.fresh if name.startswith("stages.2.")} == {"stages.2.conv2"}
    assert all(name.startswith(("stages.2.conv2.", "stages.3.", "unpool.")) for name in report.fresh)
    model, _ = load_network(tmp_path / "new.safetensors")
    torch.testing.assert_close(model.stages[3].conv2.weight, state["gcns.2.conv2.weight"])
    assert model.stages[2].conv2.weight.shape == (192, 3)
    assert (model.config.camera, model.config.unpooling) == ("legacy_crop", "unbounded")
    place = LegacyCrop(torch.zeros(1, 2), torch.full((1,), 400.0), torch.full((1,), 400.0))
    assert model(torch.rand(1, 3, 224, 224), place).levels[-1].shape == (1, 7008, 3)
    assert "model.camera: legacy_crop (assumed: no tensor tells" in str(report)


# --- checkpoints as trainers write them ---


def test_numpys_numbers_and_arrays_beside_the_weights_are_no_fault(state, tmp_path):
    """A scheduler's milestones and a best loss, as trainers keep them."""
    model = torch.nn.Linear(1, 1)
    optimiser = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, np.array([30, 45]))
    content = {
        "net": state, "optimizer": optimiser.state_dict(), "lr_scheduler": scheduler.state_dict(),
        "best_loss": np.float64(0.25), "count": np.int64(3), "history": np.arange(4.0, dtype=np.float32), "epoch": 7,
    }  # fmt: skip
    report = convert(saved(content, tmp_path), tmp_path / "new.safetensors", TEMPLATE)
    assert sorted([*report.loaded, "init_pts"]) == sorted(state)


class Options:
    """A class of a trainer's own."""


def test_an_entry_that_is_refused_is_named(state, tmp_path):
    content = {"model": state, "extra": {"options": Options()}}
    with pytest.raises(InputError, match=r"extra\.options holds \S*test_convert\.Options .*state_dict\(\)"):
        convert(saved(content, tmp_path), tmp_path / "new.safetensors", TEMPLATE)


def test_new_files_are_safetensors_by_name(state, tmp_path):
    with pytest.raises(InputError, match=r"new\.pth: has the suffix \.pth, but .* \(call it new\.safetensors\)"):
        convert(saved(state, tmp_path), tmp_path / "new.pth", TEMPLATE)


def test_learned_positions_beyond_the_edge_stay_there(tmp_path):
    """The older port computes positions held in [0, 1], and uses the others."""
    name = "p2m_face"
    state = golden.state_dict(name)
    state["unpooling.0.new_pts_pos"] = torch.full_like(state["unpooling.0.new_pts_pos"], 1.5)
    convert(saved(state, tmp_path), tmp_path / "new.safetensors", golden.template_path(name), golden.overrides(name))
    model, _ = load_network(tmp_path / "new.safetensors")
    x = torch.rand(model.template.counts[0], 1, 3)
    a, b = (x[torch.from_numpy(end)] for end in model.template.unpool[0].T)
    torch.testing.assert_close(model.unpool[0](x)[len(x) :], 1.5 * a - 0.5 * b)


OLD_OPTIONS = """
name: tensorflow
dataset: {name: shapenet, camera_f: [250., 250.], camera_c: [112, 112], mesh_pos: [0, 0, 0], normalization: false}
model: {name: pixel2mesh, backbone: vgg16, align_with_tensorflow: true, z_threshold: 0.1, gconv_activation: true}
train: {batch_size: 4}
"""


def test_an_options_file_tells_what_tensors_do_not(tmp_path):
    name = "p2m_tensorflow"
    (tmp_path / "old.yml").write_text(OLD_OPTIONS)
    path = saved({"model": golden.state_dict(name)}, tmp_path)
    words = ["convert", str(path), str(tmp_path / "new.safetensors"), "--template", str(TEMPLATE)]
    assert main([*words, "--options", str(tmp_path / "old.yml")]) == 0
    config = load_network(tmp_path / "new.safetensors")[0].config
    assert (config.focal_px, config.centre_px, config.mesh_offset) == ((250.0, 250.0), (112.0, 112.0), (0.0, 0.0, 0.0))
    assert (config.tensorflow_aligned, config.normalisation, config.z_threshold) == (True, "none", 0.1)
    report = convert(
        path, tmp_path / "new.safetensors", TEMPLATE, "model.align_corners=true", options=tmp_path / "old.yml"
    )
    assert report.assumed == ["camera"]
    (tmp_path / "linear.yml").write_text(OLD_OPTIONS.replace("gconv_activation: true", "gconv_activation: false"))
    with pytest.raises(InputError, match=r"linear\.yml: model\.gconv_activation: is false: graph layers without ReLU"):
        convert(path, tmp_path / "new.safetensors", TEMPLATE, options=tmp_path / "linear.yml")
    (tmp_path / "linear.yml").write_text("based_on: linear.yml\nmodel: {}")
    with pytest.raises(InputError, match=r"linear\.yml: based_on: leads back to this file"):
        convert(path, tmp_path / "new.safetensors", TEMPLATE, options=tmp_path / "linear.yml")
    with pytest.raises(InputError, match=r"none\.yml: there is no such file"):
        convert(path, tmp_path / "new.safetensors", TEMPLATE, options=tmp_path / "none.yml")
    (tmp_path / "other.yml").write_text("a: 1")
    with pytest.raises(InputError, match=r"other\.yml: has no section dataset or model"):
        convert(path, tmp_path / "new.safetensors", TEMPLATE, options=tmp_path / "other.yml")


@torch.no_grad()
def test_the_tensorflow_aligned_network_has_no_more_noise_than_float32(tmp_path):
    """Its places are computed once: in float32 its second level is as near to float64's as the plain formula's."""
    name = "p2m_tensorflow"
    path = saved(golden.state_dict(name), tmp_path)
    convert(path, tmp_path / "new.safetensors", golden.template_path(name), golden.overrides(name))
    model, _ = load_network(tmp_path / "new.safetensors")
    single = model(golden.images(name)).levels[1]
    double = model.double()(golden.images(name).double()).levels[1]
    assert float((single - double).abs().max()) < 3e-4


def test_weights_are_found_from_where_one_stands(state, tmp_path, monkeypatch):
    convert(saved(state, tmp_path), tmp_path / "new.safetensors", TEMPLATE)
    monkeypatch.chdir(tmp_path)
    assert load_network("new.safetensors")[0].config.backbone == "vgg16"


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
    port = Normalise("imagenet_of_255")(image)
    mean, std = torch.tensor(encoders.IMAGENET_MEAN)[:, None, None], torch.tensor(encoders.IMAGENET_STD)[:, None, None]
    torch.testing.assert_close(port, (image * 255 - mean) / std, atol=1e-3, rtol=1e-5)
