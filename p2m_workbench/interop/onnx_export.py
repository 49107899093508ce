"""The whole network as an ONNX file, for runtimes without torch.

    python -m p2m_workbench.interop.onnx_export bundled face-lite.onnx

Input "images": (1, 3, S, S) float32 RGB in [0, 1], cut out as for prediction. Outputs "level_1" ... (1, n_k, 3)
float32 in normalised crop coordinates.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import nn

from p2m_core.errors import InputError
from p2m_core.files import atomic_path
from p2m_core.network.layers import SparseMap
from p2m_core.network.model import Pixel2Mesh
from p2m_workbench.interop.reference_network import load_network

OPSET = 20  # knows GridSample


class GatheredMap(SparseMap):
    """`SparseMap` in operations that every runtime knows: the k-th entries of all rows at once, gathered and added.

    For export alone: a sparse product is faster.
    """

    def __init__(self, matrix: torch.Tensor):
        nn.Module.__init__(self)  # what a SparseMap holds, no export can copy
        starts, columns, values = matrix.crow_indices(), matrix.col_indices(), matrix.values()
        length = starts.diff()
        row = torch.repeat_interleave(torch.arange(len(length)), length)
        place = torch.arange(len(columns)) - starts[row]
        shape = int(length.max()), len(length)
        self.register_buffer("columns", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("weights", torch.zeros(shape))
        self.columns[place, row], self.weights[place, row] = columns.long(), values

    def forward(self, x: Float[torch.Tensor, "v b c"]) -> Float[torch.Tensor, "w b c"]:
        return sum(weight[:, None, None] * x[column] for column, weight in zip(self.columns, self.weights, strict=True))


class _Levels(nn.Module):
    """The levels alone, as a tuple."""

    def __init__(self, model: Pixel2Mesh):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model(images).levels)


def exportable(model: Pixel2Mesh) -> nn.Module:
    """The network, its sparse products replaced by gathers for good (sparse tensors cannot be copied)."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, SparseMap):
                setattr(module, name, GatheredMap(child.matrix))
    return _Levels(model)


def export_onnx(weights: str | Path, path: str | Path) -> Path:
    """Write the network of a weights file as one .onnx.

    Raises: InputError if onnx or onnxscript is not installed, or the network needs more than an image.
    """
    try:
        import onnxscript  # noqa: F401, torch's exporter asks for it deep inside
    except ImportError:
        remedy = "pip install 'p2m-core[onnx]'"
        raise InputError(path, "", "ONNX export needs the packages onnx and onnxscript", remedy) from None
    model, _ = load_network(weights)
    if model.config.camera == "legacy_crop":
        raise InputError(weights, "model.camera", "legacy_crop needs the crop of each photo", "export another network")
    side = model.config.input_px
    names = [f"level_{k + 1}" for k in range(len(model.template.counts))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own parts
        program = torch.onnx.export(
            exportable(model),
            (torch.zeros(1, 3, side, side),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=names,
            verbose=False,
        )
    with atomic_path(path) as temporary:
        program.save(temporary, external_data=False)
    return Path(path)


if __name__ == "__main__":
    export_onnx(*sys.argv[1:3])
