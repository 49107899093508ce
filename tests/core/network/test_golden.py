"""Same weights in, same vertices out: the reference networks of tests/golden/, through the converter."""

import dataclasses

import golden_networks as golden
import numpy as np
import pytest
import torch
from plain_network import PlainNetwork
from torch.nn import functional as F

from p2m_core.config.settings import LossConfig
from p2m_core.network.losses import MeshLoss
from p2m_workbench.interop.convert import convert, our_name
from p2m_workbench.interop.reference_network import LegacyCrop, build_network, load_network

TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1.5e-3  # float32 sums in another order: 1.01e-3 on some processors


@pytest.fixture(scope="module", params=golden.NAMES)
def reference(request, tmp_path_factory):
    """Name, our network with its weights, its prediction, losses and terms; the gradients of the total are there."""
    name, folder = request.param, tmp_path_factory.mktemp("golden")
    torch.save({"model": {f"module.{key}": x for key, x in golden.state_dict(name).items()}}, folder / "old.pth")
    convert(folder / "old.pth", folder / "new.safetensors", golden.template_path(name), golden.overrides(name))
    model, _ = load_network(folder / "new.safetensors")
    prediction = golden.predict(model, name)
    loss = MeshLoss(LossConfig(**golden.loss_settings(name)), model.template)
    total, terms = loss(prediction, golden.truth(name))
    total.backward()
    yield name, model, prediction, total, terms
    (folder / "old.pth").unlink(), (folder / "new.safetensors").unlink()


def check(found, expected):
    expected = torch.from_numpy(np.asarray(expected))
    assert found.shape == expected.shape
    assert float((found.detach() - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def check_vertices(prediction, name):
    wanted = golden.outputs(name)
    for k, (level, before) in enumerate(zip(prediction.levels, prediction.before, strict=True)):
        check(level, wanted[f"pred{k + 1}"])
        check(before, wanted[f"before{k + 1}"])


def test_vertices_of_every_level_before_and_after(reference):
    name, model, prediction, *_ = reference
    assert len(prediction.levels) == (4 if name == "p2m_face" else 3)
    check_vertices(prediction, name)
    columns = [stage.conv1.weight.shape[0] for stage in model.stages]
    assert name != "p2m_face" or columns == [3843, 4035, 4035, 4035]


def test_loss_terms(reference):
    name, _, _, total, terms = reference
    wanted = golden.facts(name)["loss"]
    assert float(total.detach()) == pytest.approx(wanted["loss"], rel=TOLERANCE)
    for term in ("chamfer", "edge", "laplace", "move", "normal"):
        assert float(terms[term].detach()) == pytest.approx(wanted[f"loss_{term}"], rel=TOLERANCE), term


def test_gradient_norms(reference):
    name, model, *_ = reference
    wanted, own = golden.facts(name)["grad_norm"], dict(model.named_parameters())
    assert len(wanted) > 10
    for key, norm in wanted.items():
        assert float(own[our_name(key)].grad.norm()) == pytest.approx(norm, rel=GRADIENT_TOLERANCE), key


def test_the_decoders_image(reference):
    name, _, prediction, *_ = reference
    wanted, content = golden.outputs(name), golden.facts(name)
    if "bce" not in content:
        assert prediction.image is None
        return
    check(prediction.image.mean((2, 3)), wanted["reconst_mean"])
    check(prediction.image[:, :, :8, :8], wanted["reconst_corner"])
    found = F.binary_cross_entropy(prediction.image, golden.images(name))
    assert float(found.detach()) == pytest.approx(content["bce"], rel=TOLERANCE)


@torch.no_grad()
def test_in_float64_the_formulas_as_written_are_met_to_1e_9(reference):
    """Beyond float32's noise: the same network by grid_sample, dense products and one tensor a step."""
    name, model, *_ = reference
    ours = build_network(model.config, model.template).double().eval()
    plain = PlainNetwork(model.config, model.template).double().eval()
    for other in (ours, plain):
        other.load_state_dict(model.state_dict())
    plain.matrices = [matrix.double() for matrix in plain.matrices]
    place = golden.crop(name)
    place = place and LegacyCrop(*(getattr(place, part.name).double() for part in dataclasses.fields(place)))
    arguments = (golden.images(name).double(), *([place] if place else []))
    for found, expected in zip(ours(*arguments).levels, plain(*arguments).levels, strict=True):
        assert found.dtype == torch.float64
        assert float((found - expected).abs().max()) <= 1e-9 * float(expected.abs().max())


@torch.no_grad()
def test_features_with_aligned_corners_are_grid_samples(reference):
    name, model, *_ = reference
    if model.config.tensorflow_aligned:
        return
    config = model.config.model_copy(update={"align_corners": True})
    ours, plain = build_network(config, model.template).eval(), PlainNetwork(config, model.template).eval()
    for other in (ours, plain):
        other.load_state_dict(model.state_dict())
    place = golden.crop(name)
    found, expected = ours(golden.images(name), *([place] if place else [])), plain(golden.images(name), place)
    for a, b, before in zip(found.levels, expected.levels, golden.predict(model, name).levels, strict=True):
        assert float((a - b).abs().max()) <= TOLERANCE * float(b.abs().max())
        assert float((a - before).abs().max()) > 10 * TOLERANCE * float(b.abs().max())


@torch.no_grad()
def test_the_benchmarks_baseline_computes_the_same(reference):
    name, model, *_ = reference
    plain = PlainNetwork(model.config, model.template).eval()
    plain.load_state_dict(model.state_dict())
    check_vertices(plain(golden.images(name), golden.crop(name)), name)
