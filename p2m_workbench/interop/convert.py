"""Weights of older Pixel2Mesh ports, and of the official network, as weights of this project.

What a file holds says what network it was: backbone, sizes, levels, decoder, unpooling. What no tensor tells (camera,
normalisation, PyTorch's version) an options file of the port or a setting says; else it has the reference's value, and
the report says so.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray, numeric

from p2m_core.config.loading import load_config
from p2m_core.config.settings import ModelConfig
from p2m_core.errors import InputError
from p2m_core.geometry.template import Template
from p2m_core.geometry.template_files import load_template
from p2m_core.network.encoders import VGG16
from p2m_core.network.weights import save_weights
from p2m_core.safe_pickle import load_arrays
from p2m_workbench.interop.old_options import model_settings
from p2m_workbench.interop.reference_network import build_network

# By name: a classifier that no mesh needs, what the template gives, counters of batches, the template's own points.
IGNORED = re.compile(r"nn_encoder\.fc\.|.*\.adj_mat$|adj_mat$|.*num_batches_tracked$|init_pts$")
OUR_NAMES = {"nn_encoder.": "encoder.", "nn_decoder.": "decoder.", "gcns.": "stages.", "unpooling.": "unpool."}
# The official network has no offset: its template lies this far before the camera.
TENSORFLOW_CAMERA = {"focal_px": (250.0, 250.0), "centre_px": (112.0, 112.0), "mesh_offset": (0.0, 0.0, 0.0)}
TENSORFLOW_DEPTH_M = -0.8
RELU = "gconv_activation"  # an option of the ports that has one value here, and so no setting
ENTRIES = ("model", "state_dict", "net", "network")  # in which trainers keep the tensors
UNTOLD = ("camera", "normalisation", "tensorflow_aligned", "align_corners", "focal_px", "centre_px", "mesh_offset",
          "z_threshold", RELU)  # fmt: skip
INIT_TOLERANCE = 1e-4
MAX_BLOCKS = 64


@dataclass
class Report:
    """What became of each tensor, by its name in the old file (fresh: in the new one), and which settings of `model`
    neither a tensor nor the user tells (assumed)."""

    target: Path
    model: dict
    assumed: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = " (assumed: no tensor tells; give --options or --set)"
        lines = [f"model.{name}: {value}{said if name in self.assumed else ''}" for name, value in self.model.items()]
        lines += [f"model.{RELU}: true{said}"] * (RELU in self.assumed)
        for kind in ("loaded", "ignored", "renamed", "fresh", "unexpected"):
            names = getattr(self, kind)
            shown = f": {', '.join(names)}" if names and kind in ("renamed", "fresh", "unexpected") else ""
            lines.append(f"{len(names)} tensors {kind}{shown}")
        return "\n".join([*lines, f"written: {self.target}"])


def convert(
    source: str | Path,
    target: str | Path,
    template: str | Path | Template | None = None,
    overrides: str | Sequence[str] = (),
    incomplete: bool = False,
    options: str | Path | None = None,
) -> Report:
    """Write the weights of an older checkpoint as a .safetensors with its settings and template.

    A three-stage network becomes the four-stage one of the face port where the template has four levels: its last layer
    moves to the new last stage, its points give way to the template's, and what is new is reported as fresh.

    Args:    source: a PyTorch checkpoint (state dict, also in one of ENTRIES, also with the prefix "module."), or the
             official network's pickled dict of arrays.   target: a .safetensors.   template: the template it was
             trained on, a file as for load_template.   overrides: settings that no tensor tells, such as
             "model.camera=perspective".   incomplete: go on although tensors are missing or unexpected.
             options: the port's options file, see `old_options`; overrides come after it.
    Raises:  InputError if the file is none of these, holds code, or does not fit the network.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        problem = f"has the suffix {target.suffix or 'none'}, but will be a safetensors file"
        raise InputError(target, "", problem, f"call it {target.with_suffix('.safetensors').name}")
    overrides = [overrides] if isinstance(overrides, str) else list(overrides)
    told = model_settings(Path(options)) if options else {}
    tensors = read_old_weights(source)
    tensorflow = any(name.startswith("gcn/") for name in tensors)
    if tensorflow:
        tensors = from_tensorflow(source, tensors)
    kept = {name: tensor for name, tensor in tensors.items() if not IGNORED.match(name)}
    stages = 1 + max((int(name.split(".")[1]) for name in kept if name.startswith("gcns.")), default=-1)
    if not stages:
        raise InputError(source, "", "has no tensors gcns.*", "give a checkpoint of a Pixel2Mesh port")
    mesh = open_template(source, template, tensors.get("init_pts"), tensorflow, stages)
    report = Report(target, {}, ignored=[name for name in tensors if name not in kept])
    grown = stages == 3 and len(mesh.counts) == 4
    if grown:
        kept = move_last_layer(kept, report)
    settings = infer_settings(source, kept, len(mesh.counts), stages, tensorflow)
    set_by_hand = {text.partition("=")[0].strip().removeprefix("model.") for text in overrides}
    untold = [] if tensorflow else [*UNTOLD, *["margin"] * (settings["camera"] == "legacy_crop")]
    report.assumed = [name for name in untold if name not in told.keys() | set_by_hand]
    if told.get("normalisation") == "imagenet":  # of values up to 1 or to 255: what this port has
        told["normalisation"] = settings["normalisation"]
    settings |= {name: value for name, value in told.items() if name != RELU}
    values = [f"model.{name}={json.dumps(value)}" for name, value in settings.items()]
    ones = [1] * len(mesh.counts)  # of no meaning for weights, but a config's levels must agree
    values += [f"template.levels={len(ones)}", f"loss.chamfer_levels={ones}", f"loss.laplace_levels={ones}"]
    config = load_config(None, [*values, *overrides]).model
    shown = settings.keys() | set_by_hand | set(UNTOLD) | set(untold)
    report.model = {name: getattr(config, name) for name in ModelConfig.model_fields if name in shown}
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
    """Tensors by name of a PyTorch checkpoint or of a pickle of arrays; nothing in it is run.

    Beside tensors a checkpoint may hold plain values and numpy's numbers and arrays, as trainers keep them.
    Raises: InputError, which names the entry that holds something else.
    """
    if not path.is_file():
        raise InputError(path, "", "there is no such file", "give a checkpoint")
    try:
        with torch.serialization.safe_globals(numpy_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever torch's reader makes of a file that is none of its own
        try:
            content = load_arrays(path)
        except InputError as error:  # torch's own message advises to read the file unsafely
            foreign = next(foreign_entries(path), None)
            why = f"{foreign[0]} holds {foreign[1]}" if foreign else error.problem.partition(": ")[2]
            problem = f"is neither a checkpoint of tensors nor a pickle of arrays: {why}"
            remedy = "give a file that holds nothing but weights: torch.save(network.state_dict(), FILE)"
            raise InputError(path, "", problem, remedy) from error
    for entry in ENTRIES:
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
    if not isinstance(content, dict):
        raise InputError(path, "", "holds no tensors by name", "give a state dict")
    return {
        str(name).removeprefix("module."): torch.as_tensor(value)
        for name, value in content.items()
        if isinstance(value, torch.Tensor | np.ndarray)
    }


def numpy_globals() -> list:
    """What a pickle of numpy's numbers and arrays asks for, by its names of numpy 1 and 2; none of it runs code."""
    functions = [(multiarray, "scalar"), (multiarray, "_reconstruct"), (numeric, "_frombuffer")]
    found: list = [np.ndarray, np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdSU"}]
    for package in ("numpy.core", "numpy._core"):
        for module, name in functions:
            place = f"{package}.{module.__name__.rpartition('.')[2]}.{name}"
            found.append((getattr(module, name), place))
    return found


class Foreign:
    """Stands for an object of a pickle that was not made: `kind` is the name that the pickle asks for."""

    kind = ""

    def __new__(cls, *args: object, **kwargs: object) -> Foreign:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object):
        pass

    def ignore(self, *args: object) -> None:
        """Take part of the object's content, and leave it."""

    append = extend = add = update = __setitem__ = __setstate__ = ignore


class _Outline(pickle.Unpickler):
    """The outline of a pickle: plain values as they are, everything else a Foreign. Nothing is imported or run."""

    def find_class(self, module: str, name: str) -> Any:
        plain = {"OrderedDict": OrderedDict, "Counter": Counter}
        if module == "collections" and name in plain:
            return plain[name]
        return type(name, (Foreign,), {"kind": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> None:
        return None


def foreign_entries(path: Path) -> Iterator[tuple[str, str]]:
    """Entry and kind of each object in a checkpoint that is neither tensor, number, text nor array."""
    harmless = ("torch.", "numpy.", "collections.", "_codecs.")
    try:
        content = path.read_bytes()
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                content = archive.read(name)
        waiting = [("", _Outline(io.BytesIO(content), encoding="latin1").load())]
    except Exception:  # a file of another kind, of which there is nothing to tell
        return
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Foreign) and not value.kind.startswith(harmless):
            yield name or "the file", value.kind
        elif isinstance(value, dict):
            waiting += [(f"{name}.{key}".lstrip("."), part) for key, part in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{name}[{k}]", part) for k, part in enumerate(value)]


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
    source: Path, template: str | Path | Template | None, init_pts: torch.Tensor | None, tensorflow: bool, stages: int
) -> Template:
    """The template, at the place where the checkpoint's own points lie; of a network that grows by a stage, which gets
    another template, as it is.

    Raises: InputError if there is none, or its points differ from init_pts by more than a shift.
    """
    if template is None:
        raise InputError(source, "", "a template is needed", "give the one it was trained on, with --template")
    mesh = template if isinstance(template, Template) else load_template(template)
    shift = np.zeros(3)
    if tensorflow and mesh.vertices[:, 2].max() > 0:  # else it lies before the camera, as in the official file
        shift[2] = TENSORFLOW_DEPTH_M
    if init_pts is not None and len(mesh.counts) <= stages:
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
    """Settings of section model that names and shapes of the reference's tensors tell, and the reference's defaults: of
    the face port where unpooling is learned or a stage is added, else of the object version."""

    def width(name: str) -> int:
        if name not in tensors:
            raise InputError(source, name, "is missing", "give a whole checkpoint")
        return int(tensors[name].shape[0])

    if "nn_encoder.conv0_1.weight" in tensors:
        backbone = "vgg16"
    else:
        backbone = "resnet50" if "nn_encoder.layer1.0.conv3.weight" in tensors else "resnet18"
    own = [min(k, stages - 1) for k in range(levels)]  # a level beyond the stages is like the last
    face_port = levels > stages or any(name.startswith("unpooling.") for name in tensors)
    hidden = [width(f"gcns.{k}.conv1.bias") for k in own]
    blocks = [sum(f"gcns.{k}.blocks.{block}.conv1.bias" in tensors for block in range(MAX_BLOCKS)) for k in own]
    return {
        "backbone": backbone,
        "decoder": any(name.startswith("nn_decoder.") for name in tensors),
        "tensorflow_aligned": tensorflow,
        "normalisation": "none" if tensorflow else "imagenet_of_255" if face_port else "imagenet",
        "input_px": 224,
        "camera": "legacy_crop" if face_port else "perspective",
        **(TENSORFLOW_CAMERA if tensorflow else {}),
        "hidden": hidden,
        "blocks": blocks,
        "last_hidden": width("gconv.weight") if "gconv.weight" in tensors else 0,
        "unpooling": "unbounded" if face_port else "midpoint",
        "residual": False,
        "pose_head": False,
        "feature_channels": 0,
    }
