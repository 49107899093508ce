"""Weights that carry their network's settings and template, so that one file is all a prediction needs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

from p2m_core.config.paths import BUNDLED, resolve
from p2m_core.config.settings import ModelConfig
from p2m_core.errors import InputError
from p2m_core.files import finite_only, write_bytes
from p2m_core.geometry.template import Template
from p2m_core.network.model import Pixel2Mesh

# Names in weights files of earlier versions, and what they are now: settings of the model, and tensors.
OLD_SETTINGS = {"surface": "correspondence_map", "shape_modes": "shape_basis"}
OLD_TENSORS = {"to_surface": "to_correspondence", "modes": "shape_basis"}  # by the first part of their names
Build = Callable[[ModelConfig, Template], Pixel2Mesh]


def weights_path(source: str | Path) -> Path:
    """The file that "bundled", a path, from here or else the project, or a run's name means.   Raises InputError."""
    places = (Path(source).expanduser().absolute(), resolve(source), resolve("outputs") / source)
    path = BUNDLED if source == "bundled" else next((place for place in places if place.exists()), places[1])
    if path.is_dir():
        path = path / "weights.safetensors"
    if not path.exists():
        raise InputError(path, "", "there are no such weights", "train a network first, or use weights=bundled")
    return path


def save_weights(
    path: str | Path, tensors: dict[str, Tensor], model: Pixel2Mesh, about: dict[str, Any], half: bool = False
) -> None:
    """Write weights with the network's settings and template.

    Args:    tensors: the network's state dict, or averaged ones of the same names.   about: facts for the reader
             (steps, data, figures), kept as JSON.   half: store floats as fp16.
    """
    content = {f"network.{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if half:
        content = {name: x.half() if x.is_floating_point() else x for name, x in content.items()}
    for name, array in model.template.arrays().items():
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
        content[f"template.{name}"] = torch.from_numpy(np.ascontiguousarray(array))
    metadata = {"model": model.config.model_dump_json(), "about": json.dumps(finite_only(about))}
    # Not by its own save_file, whose error hides that a disk is full.
    write_bytes(path, save(content, metadata))


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], Template, ModelConfig, dict[str, Any]]:
    """Network tensors (float32), template, settings and facts of a weights file.

    Raises: InputError if it is missing or not one of ours.
    """
    path = weights_path(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        settings = {OLD_SETTINGS.get(name, name): value for name, value in json.loads(metadata["model"]).items()}
        config = ModelConfig.model_validate_json(json.dumps(settings))
    except (SafetensorError, KeyError, ValueError, AttributeError) as error:
        problem = f"is not a weights file of this project: {' '.join(str(error).split())}"
        raise InputError(path, "", problem, "give a .safetensors of p2m train") from error
    arrays = {}
    for name, tensor in tensors.items():
        if name.startswith("template."):
            array = tensor.numpy()
            arrays[name.removeprefix("template.")] = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
    network = {}
    for name, tensor in tensors.items():
        if name.startswith("network."):
            old, dot, rest = name.removeprefix("network.").partition(".")
            network[OLD_TENSORS.get(old, old) + dot + rest] = tensor.float() if tensor.is_floating_point() else tensor
    try:
        return network, Template.from_arrays(arrays), config, json.loads(metadata.get("about", "{}"))
    except (LookupError, ValueError) as error:
        raise InputError(path, "", f"holds no sound template: {error}", "copy the file anew") from error


class _NoDraws(TorchFunctionMode):
    """Layers keep the memory they get: their first random numbers, two thirds of what it takes to build a network,
    would be replaced by those of the file."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.uniform_, Tensor.normal_, init.kaiming_uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def load_model(source: str | Path, device: str = "cpu", build: Build = Pixel2Mesh) -> tuple[Pixel2Mesh, dict[str, Any]]:
    """The network of a weights file, in evaluation mode, and the facts kept with it.

    Args: build: makes the network of settings and template, for what a class beyond this package computes.
    """
    tensors, template, config, about = read_weights(source)
    if build is Pixel2Mesh and config.is_reference:
        remedy = "use p2m predict or evaluate --protocol surface, or interop.reference_network.load_network"
        raise InputError(source, "model", "are weights of an older code, which computes otherwise", remedy)
    with _NoDraws():
        model = build(config, template)
    model.load_state_dict(tensors)
    return model.to(device).eval(), about


def halve(source: str | Path, target: str | Path) -> None:
    """Copy a weights file with floats as fp16: half the size, for the weights that come with the package."""
    tensors, *_ = read_weights(source)
    model, about = load_model(source)
    save_weights(target, tensors, model, about, half=True)


if __name__ == "__main__":
    halve(*sys.argv[1:3])
