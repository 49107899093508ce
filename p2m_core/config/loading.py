"""Reading and writing settings: YAML files, each with one parent at most, and `--set a.b=value` on top.

    face-lite.yaml  <-based_on-  demo.yaml  <-  --set train.lr=1e-4        later ones win

`load_config` is pure: it reads files and returns a `Config`, and nothing global changes. An error names the file, or
--set, that set the value in question.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from p2m_core.config.paths import project_root
from p2m_core.config.settings import Config, Section
from p2m_core.errors import InputError
from p2m_core.files import write_text

BASED_ON_MAX = 2
SET = "--set"
RENAMED = {
    "train.bf16": "train.precision",
    "model.surface": "model.correspondence_map",
    "model.shape_modes": "model.shape_basis",
    "loss.surface": "loss.correspondence",
}


def load_config(
    source: str | Path | None = None,
    overrides: str | Sequence[str] = (),
    options: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> Config:
    """Settings of a named or given file, with `overrides` on top.

    Args:    source: "face-lite" (configs/face-lite.yaml), the path of a YAML file, or None for the defaults.
             overrides: "train.lr=1e-4" and the like; the right side is read as YAML.
             options: {"train.lr": ("--lr", "1e-4")}, on top of these: errors name the option.
    Raises:  InputError naming file and field (or "--set", or the option), with the near name where one is unknown.

    >>> config = load_config("face-lite", ["train.lr=3e-4"])
    >>> config.name, config.model.backbone, config.train.lr
    ('face-lite', 'resnet18', 0.0003)
    >>> load_config("face-lite", ["train.lrr=3e-4"])
    Traceback (most recent call last):
    p2m_core.errors.InputError: --set: train.lrr: no such setting (did you mean train.lr?)
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}  # dotted field -> the file that set it last
    if source is not None:
        path = find_config(source)
        chain = read_chain(path)
        for file, part in chain:
            merge(values, part, str(file), origin)
        # A child that inherited its parent's name would write into its parent's folder.
        if "name" not in chain[-1][1]:
            values["name"] = path.stem
    for override in [overrides] if isinstance(overrides, str) else overrides:
        merge(values, parse_override(override), SET, origin)
    for field, (option, text) in options.items():
        merge(values, nested(field, parse_value("", text, option)), option, origin)
    return _checked(values, origin, str(source or "defaults"))


def with_values(config: Config, values: Mapping[str, Any], source: str) -> Config:
    """The config with other values of some settings, {"train.lr": 1e-4}.   Raises InputError that names the source."""
    merged: dict[str, Any] = config.model_dump(mode="json")
    origin: dict[str, str] = {}
    for field, value in values.items():
        merge(merged, nested(field, value), source, origin)
    return _checked(merged, origin, source)


def save_config(config: Config, path: str | Path) -> Path:
    """Write every setting as YAML, whole or not at all; `load_config` of it gives the same `config`."""
    path = Path(path)
    values = config.model_dump(mode="json")
    write_text(path, dump_yaml(values))
    return path


def config_hash(config: Section) -> str:
    """12 hex digits that differ whenever a setting differs; of the whole config or of one section."""
    values = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()[:12]


# --- files and overrides, one over the other ------------------------------------------------------


def find_config(source: str | Path) -> Path:
    """The file that a bare name (configs/NAME.yaml) or a path (from here, else from the project's root) means."""
    path = Path(source).expanduser()
    folder = project_root() / "configs"
    bare = path.name == str(source) and path.suffix not in (".yaml", ".yml")
    candidates = [folder / f"{source}.yaml"] if bare else [Path.cwd() / path, project_root() / path, folder / path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    near = nearest_name(path.stem, names)
    remedy = f"did you mean {near}?" if near else f"known names: {', '.join(names) or 'none'}"
    raise InputError(source, "", f"no such config, looked for {candidates[0]}", remedy)


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
            problem = f"{parent!r} is not a file name"
            raise InputError(path, "based_on", problem, "name one parent, e.g. face-lite.yaml")
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
        raise InputError(SET, text, "is not of the form a.b=value", "for example --set train.lr=1e-4")
    return nested(field, parse_value(field, value_text))


def nested(field: str, value: Any) -> dict[str, Any]:
    """The field "train.lr" and its value as {"train": {"lr": value}}."""
    for part in reversed(field.split(".")):
        value = {part: value}
    return value


def merge(values: dict[str, Any], part: dict[str, Any], file: str, origin: dict[str, str], prefix: str = "") -> None:
    """Lay `part` over `values` in place: dictionaries are merged, anything else is replaced.

    Args: file: where `part` is from, noted in `origin` for each of its dotted names.
    """
    for key, value in part.items():
        origin[f"{prefix}{key}"] = file
        if not isinstance(value, dict):
            values[key] = value
            continue
        if not isinstance(values.get(key), dict):
            values[key] = {}
        merge(values[key], value, file, origin, f"{prefix}{key}.")


# --- what is wrong, and where ---------------------------------------------------------------------


def _checked(values: dict[str, Any], origin: dict[str, str], source: str) -> Config:
    try:
        # By way of JSON, in which strict typing admits a list for a tuple but no text for a number.
        return Config.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise explain(error, Config, origin, source) from None


def explain(error: ValidationError, root: type[BaseModel], origin: dict[str, str], source: str) -> InputError:
    """The first of pydantic's complaints about the values of a settings class, as one line."""
    first, *others = error.errors(include_url=False)
    refused = first.get("ctx", {}).get("error")  # by a validator of ours, which names the field itself
    fields = refused.field.split() if isinstance(refused, InputError) else [".".join(map(str, first["loc"]))]
    field = next((field for field in fields if field in origin), fields[0])
    parts = field.split(".")
    above = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    set_as = next((name for name in above if name in origin), "")
    file = origin.get(set_as, source)
    # An option stands for one setting, which need not be named as well.
    where = "" if file.startswith("--") and file != SET and "." in set_as else field
    more = f"; {len(others)} more such" if others else ""
    if isinstance(refused, InputError):
        return InputError(file, where, refused.problem + more, refused.remedy)
    if first["type"] == "extra_forbidden":
        near = RENAMED.get(field) or _near_field(root, parts)
        remedy = f"did you mean {near}?" if near else f"known here: {', '.join(_names(_section(root, parts[:-1])))}"
        return InputError(file, field, f"no such setting{more}", remedy)
    given = json.dumps(first["input"], ensure_ascii=False, default=str)
    problem = f"{first['msg'][0].lower()}{first['msg'][1:]}, not {given if len(given) < 60 else given[:57] + '...'}"
    while parts[-1].isdecimal():  # an entry of a list
        parts.pop()
    section = _section(root, parts[:-1])
    info = section.model_fields.get(parts[-1]) if section else None
    remedy = "docs/settings.md lists all settings"
    if info is not None and not isinstance(info.default, BaseModel):
        remedy = f"the default is {json.dumps(info.default)}"
    return InputError(file, where, problem + more, remedy)


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


# --- YAML -----------------------------------------------------------------------------------------


class Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as in YAML 1.2 and Python, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, which wants a dot and a signed exponent, and takes 12:30 for 750, 2020-01-01 for a date,
# and on, off, yes and no for true and false.
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag.rsplit(":", 1)[-1] in ("null", "merge")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^([Tt]rue|TRUE|[Ff]alse|FALSE)$"), list("tTfF"))
Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?((\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|\.(inf|Inf)|\.(nan|NaN))$"),
    list("-+0123456789."),
)


class Dumper(yaml.SafeDumper):
    """The writer to `Loader`: quotes the texts that it would take for numbers."""

    yaml_implicit_resolvers = Loader.yaml_implicit_resolvers


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.   Raises InputError if it holds anything else, or damaged YAML."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(path, "", " ".join(str(error).split()), "correct the YAML") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(path, "", "holds no 'name: value' lines at its top", "see configs/face-lite.yaml")
    return values


def parse_value(field: str, text: str, source: str = SET) -> Any:
    """The value that a text from the command line means, read as YAML: 1e-4, [1, 2], null, true, a word.

    Raises: InputError, of this source and field.
    """
    try:
        return yaml.load(text, Loader=Loader) if text.strip() else ""
    except yaml.YAMLError as error:
        raise InputError(source, field, " ".join(str(error).split()), "quote the value") from None


def dump_yaml(values: dict[str, Any]) -> str:
    """A mapping as YAML text, in its own order."""
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
