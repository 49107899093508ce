"""Options files of older Pixel2Mesh ports: what they say of the network beyond its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from p2m_core.config.loading import read_yaml
from p2m_core.errors import InputError

# Their option: our setting of section model.
SAME = {
    "dataset.camera_f": "focal_px",
    "dataset.camera_c": "centre_px",
    "dataset.mesh_pos": "mesh_offset",
    "model.align_with_tensorflow": "tensorflow_aligned",
}


def read_options(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """An options file's sections, over those of the files that its `based_on` lists, in their order.

    Args:    above: the files that are based on this one.
    Raises:  InputError if one is missing, holds no sections, or is based on itself.
    """
    if not path.is_file():
        raise InputError(path, "", "there is no such file", "give the options file of the training")
    if path.resolve() in above:
        raise InputError(path, "based_on", "leads back to this file", "take it out")
    own = read_yaml(path)
    bases = own.pop("based_on", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    merged: dict[str, Any] = {}
    for options in [*(read_options(path.parent / str(base), (*above, path.resolve())) for base in bases), own]:
        for name, section in options.items():
            both = isinstance(section, dict) and isinstance(merged.get(name), dict)
            merged[name] = merged[name] | section if both else section
    return merged


def model_settings(path: Path) -> dict[str, Any]:
    """Settings of section model that an options file gives, and gconv_activation, which has one value here and so is no
    setting; what it leaves out has the port's default, as ours.

    Raises: InputError if it is no options file, or the network of it is none that is computed here.
    """
    options = read_options(path)
    sections = {name: options.get(name) for name in ("dataset", "model")}
    if not any(isinstance(section, dict) for section in sections.values()):
        raise InputError(path, "", "has no section dataset or model", "give the options file of the training")
    given = {
        f"{name}.{key}": value
        for name, section in sections.items()
        if isinstance(section, dict)
        for key, value in section.items()
    }
    if given.get("model.gconv_activation") is False:
        problem = "is false: graph layers without ReLU are not computed here"
        raise InputError(path, "model.gconv_activation", problem, "predict with the code that trained these weights")
    found = {ours: given[theirs] for theirs, ours in SAME.items() if theirs in given}
    found |= {ours: [float(x) for x in value] for ours, value in found.items() if isinstance(value, list)}
    if "model.gconv_activation" in given:
        found["gconv_activation"] = True
    if "dataset.normalization" in given:
        found["normalisation"] = "imagenet" if given["dataset.normalization"] else "none"
    if "model.z_threshold" in given:  # 0 sets no limit
        found["z_threshold"] = float(given["model.z_threshold"]) or None
    return found
