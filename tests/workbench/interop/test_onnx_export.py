import sys

import numpy as np
import onnxruntime
import pytest
import torch

from p2m_core.config.settings import ModelConfig
from p2m_core.errors import InputError
from p2m_core.geometry.template import ellipsoid
from p2m_core.network.layers import SparseMap
from p2m_core.network.model import Pixel2Mesh
from p2m_core.network.weights import load_model, save_weights
from p2m_workbench.interop.onnx_export import GatheredMap, export_onnx

LITE = {
    "feature_channels": 8, "block": "prenorm", "global_feature": True, "template_coordinates": True,
    "pyramid": True, "correspondence_map": True, "template_detail": True, "shape_basis": 6,
}  # fmt: skip
OBJECT = {"camera": "perspective", "z_threshold": 0.1, "residual": False, "pose_head": False, "last_hidden": 6}


def check(weights, folder, tolerance=1e-4):
    """The file computes what the network does, on the same random image."""
    model, _ = load_model(weights)
    images = torch.rand(1, 3, model.config.input_px, model.config.input_px)
    with torch.no_grad():
        expected = model(images).levels
    path = export_onnx(weights, folder / "network.onnx")
    assert sorted(x.name for x in folder.iterdir() if "network" in x.name) == ["network.onnx"]  # one file is all
    session = onnxruntime.InferenceSession(path)
    assert [x.name for x in session.get_inputs()] == ["images"]
    assert [x.name for x in session.get_outputs()] == [f"level_{k + 1}" for k in range(len(expected))]
    for found, level in zip(session.run(None, {"images": images.numpy()}), expected, strict=True):
        assert abs(found - level.numpy()).max() <= tolerance * float(level.abs().max())


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("changes", [LITE, OBJECT], ids=["face-lite", "object"])
def test_the_file_computes_the_same(small_template, tmp_path, changes):
    template = ellipsoid(3) if "camera" in changes else small_template
    settings = ModelConfig(input_px=32, hidden=(8, 8, 8), blocks=(1, 1, 0), unpooling="adaptive", **changes)
    torch.manual_seed(0)
    model = Pixel2Mesh(settings, template)
    save_weights(tmp_path / "a.safetensors", model.state_dict(), model, {})
    check(tmp_path / "a.safetensors", tmp_path)


@pytest.mark.slow
def test_the_bundled_network(tmp_path):
    check("bundled", tmp_path)


def test_without_the_packages_the_error_names_them(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"needs the packages onnx and onnxscript.*p2m-core\[onnx\]"):
        export_onnx("bundled", tmp_path / "a.onnx")


def test_gathers_equal_the_sparse_product():
    import scipy.sparse as sp

    matrix = sp.random(9, 7, density=0.3, random_state=np.random.default_rng(0), format="csr")
    sparse, x = SparseMap(matrix), torch.randn(7, 2, 3)
    torch.testing.assert_close(GatheredMap(sparse.matrix)(x), sparse(x))
