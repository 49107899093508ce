"""Weights of older Pixel2Mesh ports, and of the official network, as weights of this project.

What a file holds says what network it was: backbone, sizes, levels, decoder, unpooling. What no tensor tells (camera,
normalisation) has the reference's value, unless a setting says otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from p2m_core.config.loading import load_config
from p2m_core.config.settings import ModelConfig
from p2m_core.errors import InputError
from p2m_core.geometry.template import Template
from p2m_core.geometry.template_files import load_template
from p2m_core.network.encoders import VGG16
from p2m_core.network.weights import save_weights
from p2m_core.safe_pickle import load_arrays
from p2m_workbench.interop.reference_network import build_network

# By name: a classifier that no mesh needs, what the template gives, counters of batches, the template's own points.
IGNORED = re.compile(r"nn_encoder\.fc\.|.*\.adj_mat$|adj_mat$|.*num_batches_tracked$|init_pts$")
OUR_NAMES = {"nn_encoder.": "encoder.", "nn_decoder.": "decoder.", "gcns.": "stages.", "unpooling.": "unpool."}
# The official network has no offset: its template lies this far before the camera.
TENSORFLOW_CAMERA = {"focal_px": (250.0, 250.0), "centre_px": (112.0, 112.0), "mesh_offset": (0.0, 0.0, 0.0)}
TENSORFLOW_DEPTH_M = -0.8
INIT_TOLERANCE = 1e-4
MAX_BLOCKS = 64


@dataclass
class Report:
    """What became of each tensor, by its name in the old file (fresh: in the new one)."""

    target: Path
    model: dict
    loaded: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"model.{name}: {value}" for name, value in self.model.items()]
        for kind in ("loaded", "ignored", "renamed", "fresh", "unexpected"):
            names = getattr(self, kind)
            shown = f": {', '.join(names)}" if names and kind in ("renamed", "fresh", "unexpected") else ""
            lines.append(f"{len(names)} tensors {kind}{shown}")
        return "\n".join([*lines, f"written: {self.target}"])


def convert(
    source: str | Path,
    target: str | Path,
    template: str | Path | Template | None = None,
    overrides: Sequence[str] = (),
    incomplete: bool = False,
) -> Report:
    """Write the weights of an older checkpoint as a .safetensors with its settings and template.

    A three-stage network becomes the four-stage one where the template has four levels: its last layer moves to the
    new last stage, and what is new is reported as fresh.

    Args:    source: a PyTorch checkpoint (state dict, also in an entry "model", also with the prefix "module."), or the
             official network's pickled dict of arrays.   template: the template it was trained on, a file as for
             load_template.   overrides: settings that no tensor tells, such as "model.camera=perspective".
             incomplete: go on although tensors are missing or unexpected.
    Raises:  InputError if the file is none of these, holds code, or does not fit the network.
    """
    source, tensors = Path(source), read_old_weights(source)
    tensorflow = any(name.startswith("gcn/") for name in tensors)
    if tensorflow:
        tensors = from_tensorflow(source, tensors)
    kept = {name: tensor for name, tensor in tensors.items() if not IGNORED.match(name)}
    mesh = open_template(source, template, tensors.get("init_pts"), tensorflow)
    stages = 1 + max((int(name.split(".")[1]) for name in kept if name.startswith("gcns.")), default=-1)
    if not stages:
        raise InputError(source, "", "has no tensors gcns.*", "give a checkpoint of a Pixel2Mesh port")
    report = Report(Path(target), {}, ignored=[name for name in tensors if name not in kept])
    grown = stages == 3 and len(mesh.counts) == 4
    if grown:
        kept = move_last_layer(kept, report)
    settings = infer_settings(source, kept, len(mesh.counts), stages, tensorflow)
    values = [f"model.{name}={json.dumps(value)}" for name, value in settings.items()]
    ones = [1] * len(mesh.counts)  # of no meaning for weights, but a config's levels must agree
    values += [f"template.levels={len(ones)}", f"loss.chamfer_levels={ones}", f"loss.laplace_levels={ones}"]
    config = load_config(None, [*values, *overrides]).model
    report.model = {name: getattr(config, name) for name in ModelConfig.model_fields if name in settings}
    try:
        model = build_network(config, mesh)
    except ValueError as error:
        raise InputError(source, "", str(error), "give the template that it was trained on, with --template") from error
    renamed = {our_name(name): name for name in kept}
    own = model.state_dict()
    wrong = []
    for name, tensor in own.items():
        if name.endswith("num_batches_tracked"):
            continue
        old = renamed.pop(name, None)
        if old is None:
            report.fresh.append(name)
        elif kept[old].shape != tensor.shape:
            wrong.append(f"{old} {tuple(kept[old].shape)}, expected {tuple(tensor.shape)}")
        else:
            own[name] = kept[old].to(tensor.dtype)
            report.loaded.append(old)
    report.unexpected = sorted(renamed.values())
    expected_fresh = [name for name in report.fresh if grown and is_new_in_four_stages(name)]
    missing = [name for name in report.fresh if name not in expected_fresh]
    if wrong or ((missing or report.unexpected) and not incomplete):
        parts = [("missing", missing), ("unexpected", report.unexpected), ("of another shape", wrong)]
        problem = "; ".join(f"{len(names)} {kind}: {', '.join(names)}" for kind, names in parts if names)
        raise InputError(source, "", problem, "give other settings or template, or --incomplete")
    save_weights(target, own, model, {"converted from": source.name, "fresh": report.fresh})
    return report


def read_old_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name of a PyTorch checkpoint or of a pickle of arrays; nothing in it is run."""
    if not path.is_file():
        raise InputError(path, "", "there is no such file", "give a checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever torch's reader makes of a file that is none of its own
        try:
            content = load_arrays(path)
        except InputError as error:  # torch's own message advises to read the file unsafely
            problem = f"is neither a checkpoint of tensors nor a pickle of arrays: {error.problem.partition(': ')[2]}"
            raise InputError(path, "", problem, "give a file that holds nothing but weights") from error
    for entry in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
    if not isinstance(content, dict):
        raise InputError(path, "", "holds no tensors by name", "give a state dict")
    return {
        str(name).removeprefix("module."): torch.as_tensor(value)
        for name, value in content.items()
        if isinstance(value, torch.Tensor | np.ndarray)
    }


def from_tensorflow(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The official network's tensors by the names of its PyTorch port; convolutions HWIO to OIHW."""
    names = {}
    for k, name in enumerate(VGG16.CONVOLUTIONS):
        folder = f"gcn/Conv2D{f'_{k}' if k else ''}"
        names[f"{folder}/W:0"], names[f"{folder}/b:0"] = f"nn_encoder.{name}.weight", f"nn_encoder.{name}.bias"
    layers = []
    for stage in range(3):
        blocks = [f"gcns.{stage}.blocks.{block}.conv{k}" for block in range(6) for k in (1, 2)]
        layers += [f"gcns.{stage}.conv1", *blocks, f"gcns.{stage}.conv2"]
    for k, layer in enumerate([*layers, "gconv"]):
        folder = f"gcn/graphconvolution_{k + 1}_vars"
        names[f"{folder}/weights_0:0"], names[f"{folder}/weights_1:0"] = f"{layer}.loop_weight", f"{layer}.weight"
        names[f"{folder}/bias:0"] = f"{layer}.bias"
    unknown, missing = tensors.keys() - names.keys(), names.keys() - tensors.keys()
    if unknown or missing:
        problem = f"missing: {', '.join(sorted(missing)) or 'none'}; unexpected: {', '.join(sorted(unknown)) or 'none'}"
        raise InputError(path, "", problem, "give the official network's weights")
    return {names[name]: x.permute(3, 2, 0, 1).contiguous() if x.ndim == 4 else x for name, x in tensors.items()}


def open_template(
    source: Path, template: str | Path | Template | None, init_pts: torch.Tensor | None, tensorflow: bool
) -> Template:
    """The template, at the place where the checkpoint's own points lie.

    Raises: InputError if there is none, or its points differ from init_pts by more than a shift.
    """
    if template is None:
        raise InputError(source, "", "a template is needed", "give the one it was trained on, with --template")
    mesh = template if isinstance(template, Template) else load_template(template)
    shift = np.array([0, 0, TENSORFLOW_DEPTH_M if tensorflow else 0])
    if init_pts is not None:
        first = mesh.vertices[: mesh.counts[0]]
        problem = f"has shape {tuple(init_pts.shape)}, the template's first level {first.shape}"
        if init_pts.shape == first.shape:
            difference = init_pts.double().numpy() - first
            shift = difference.mean(0)
            problem = f"differs from the template's points by up to {abs(difference - shift).max():.3g}"
            if abs(difference - shift).max() < INIT_TOLERANCE:
                problem = ""
        if problem:
            raise InputError(source, "init_pts", problem, "give the template it was trained on, with --template")
    return (
        mesh
        if abs(shift).max() < INIT_TOLERANCE
        else dataclasses.replace(mesh, vertices=np.float32(mesh.vertices + shift))
    )


def move_last_layer(tensors: dict[str, torch.Tensor], report: Report) -> dict[str, torch.Tensor]:
    """A three-stage network's last layer, gcns.2.conv2, as the four-stage one's, gcns.3.conv2."""
    moved = {}
    for name, tensor in tensors.items():
        new = name.replace("gcns.2.conv2.", "gcns.3.conv2.")
        if new != name:
            report.renamed.append(f"{name} to {new}")
        moved[new] = tensor
    return moved


def is_new_in_four_stages(name: str) -> bool:
    """Whether the four-stage network has this tensor (by our name) and the three-stage one cannot have it."""
    return name.startswith(("stages.3.", "stages.2.conv2.", "unpool."))


def our_name(name: str) -> str:
    """A reference tensor's name in this project."""
    for old, new in OUR_NAMES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def infer_settings(
    source: Path, tensors: dict[str, torch.Tensor], levels: int, stages: int, tensorflow: bool
) -> dict[str, object]:
    """Settings of section model that names and shapes of the reference's tensors tell, and the reference's defaults."""

    def width(name: str) -> int:
        if name not in tensors:
            raise InputError(source, name, "is missing", "give a whole checkpoint")
        return int(tensors[name].shape[0])

    if "nn_encoder.conv0_1.weight" in tensors:
        backbone = "vgg16"
    else:
        backbone = "resnet50" if "nn_encoder.layer1.0.conv3.weight" in tensors else "resnet18"
    own = [min(k, stages - 1) for k in range(levels)]  # a level beyond the stages is like the last
    hidden = [width(f"gcns.{k}.conv1.bias") for k in own]
    blocks = [sum(f"gcns.{k}.blocks.{block}.conv1.bias" in tensors for block in range(MAX_BLOCKS)) for k in own]
    adaptive = any(name.startswith("unpooling.") for name in tensors)
    return {
        "backbone": backbone,
        "decoder": any(name.startswith("nn_decoder.") for name in tensors),
        "tensorflow_aligned": tensorflow,
        "normalisation": "none" if tensorflow else "imagenet",
        "input_px": 224,
        "camera": "legacy_crop" if adaptive else "perspective",
        **(TENSORFLOW_CAMERA if tensorflow else {}),
        "hidden": hidden,
        "blocks": blocks,
        "last_hidden": width("gconv.weight") if "gconv.weight" in tensors else 0,
        "unpooling": "adaptive" if adaptive else "midpoint",
        "residual": False,
        "pose_head": False,
        "feature_channels": 0,
    }
