"""From YAML files and --set to the values of settings, and from a refusal to the line that says what is wrong.

Values are nested dictionaries; `origin` tells which file, or --set, gave each dotted field last.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from p2m_core.errors import InputError
from p2m_core.yaml_file import parse_value, read_yaml

BASED_ON_MAX = 2
BF16 = {"auto": "auto", "on": "bf16", "off": "fp32"}  # what train.bf16 once said, as train.precision


def read_chain(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The file and its parents, oldest first."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    while True:
        values = read_yaml(path)
        parent = values.pop("based_on", None)
        chain.insert(0, (path, values))
        if parent is None:
            return chain
        if not isinstance(parent, str):
            raise InputError(path, "based_on", f"{parent!r} is not a file name", "name one parent, e.g. base.yaml")
        child, path = path, (path.parent / parent).resolve()
        if path in [file for file, _ in chain]:
            raise InputError(child, "based_on", f"{parent} leads back to itself", "remove one of the based_on lines")
        if len(chain) > BASED_ON_MAX:
            raise InputError(child, "based_on", f"is more than {BASED_ON_MAX} deep", "name an older parent directly")
        if not path.is_file():
            raise InputError(child, "based_on", f"there is no {path}", "name a file relative to this one")


def parse_override(text: str) -> dict[str, Any]:
    """The text "train.lr=1e-4" as {"train": {"lr": 0.0001}}."""
    field, equals, value_text = text.partition("=")
    field = field.strip()
    if not equals or not all(field.split(".")):
        raise InputError("--set", text, "is not of the form a.b=value", "for example --set train.lr=1e-4")
    return nested(field, parse_value(field, value_text))


def nested(field: str, value: Any) -> dict[str, Any]:
    """The field "train.lr" and its value as {"train": {"lr": value}}."""
    for part in reversed(field.split(".")):
        value = {part: value}
    return value


def merge(values: dict[str, Any], part: dict[str, Any], file: str, origin: dict[str, str], prefix: str = "") -> None:
    """Lay `part` over `values` in place: dictionaries are merged, anything else is replaced."""
    if prefix == "train." and str(part.get("bf16")) in BF16 and "precision" not in part:
        part = {name: value for name, value in part.items() if name != "bf16"} | {"precision": BF16[part["bf16"]]}
    for key, value in part.items():
        dotted = f"{prefix}{key}"
        origin[dotted] = file
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            merge(values[key], value, file, origin, f"{dotted}.")
            continue
        values[key] = {} if isinstance(value, dict) else value
        if isinstance(value, dict):
            merge(values[key], value, file, origin, f"{dotted}.")


# ------------------------------------------------------------------------------------------------ what is wrong


def explain(error: ValidationError, root: type[BaseModel], origin: dict[str, str], source: str) -> InputError:
    """The first of pydantic's complaints about the values of a settings class, as one line."""
    first, *others = error.errors(include_url=False)
    parts = [str(part) for part in first["loc"]]
    field = ".".join(parts)
    file = next((origin[key] for n in range(len(parts), 0, -1) if (key := ".".join(parts[:n])) in origin), source)
    more = f"; {len(others)} more such" if others else ""
    if first["type"] == "extra_forbidden":
        near = _near_field(root, parts)
        remedy = f"did you mean {near}?" if near else f"known here: {', '.join(_names(_section(root, parts[:-1])))}"
        return InputError(file, field, f"no such setting{more}", remedy)
    given = json.dumps(first["input"], ensure_ascii=False, default=str)
    problem = f"{first['msg'][0].lower()}{first['msg'][1:]}, not {given if len(given) < 60 else given[:57] + '...'}"
    return InputError(file, field, problem + more, _remedy(root, parts))


def _remedy(root: type[BaseModel], parts: list[str]) -> str:
    """The default of the field, if it is one."""
    section = _section(root, parts[:-1])
    info = section.model_fields.get(parts[-1]) if section else None
    if info is None or isinstance(info.default, BaseModel):
        return "see p2m_core/config.py"
    return f"the default is {json.dumps(info.default)}"


def _section(root: type[BaseModel], parts: Sequence[str]) -> type[BaseModel] | None:
    """The settings class at a dotted place below another, or None."""
    section: Any = root
    for part in parts:
        info = getattr(section, "model_fields", {}).get(part)
        if info is None:
            return None
        kinds = [info.annotation, *get_args(info.annotation)]
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if section is None:
            return None
    return section


def _names(section: type[BaseModel] | None) -> list[str]:
    return list(section.model_fields) if section else []


def nearest_name(name: str, known: Sequence[str]) -> str | None:
    """The known name that looks most like `name`, or None."""
    matches = difflib.get_close_matches(name.lower().replace("-", "_"), [k.replace("-", "_") for k in known], n=1)
    return next((k for k in known if matches and k.replace("-", "_") == matches[0]), None)


def _near_field(root: type[BaseModel], parts: list[str]) -> str | None:
    """The field meant by an unknown dotted name: of the same section, or of that name in another one."""
    prefix = ".".join(parts[:-1])
    if near := nearest_name(parts[-1], _names(_section(root, parts[:-1]))):
        return f"{prefix}.{near}" if prefix else near
    everywhere = {f"{name}.{field}": field for name in root.model_fields for field in _names(_section(root, [name]))}
    near = nearest_name(parts[-1], list(everywhere.values()))
    return next((dotted for dotted, field in everywhere.items() if field == near), None)
