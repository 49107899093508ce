"""YAML as settings want it: YAML 1.2's numbers and words, keys given once.   Written so that it is read the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from p2m_core.errors import InputError


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
        raise InputError(path, "", "holds no 'name: value' lines at its top", "see configs/base.yaml")
    return values


def parse_value(field: str, text: str) -> Any:
    """The value that a text from the command line means, read as YAML: 1e-4, [1, 2], null, true, a word."""
    try:
        return yaml.load(text, Loader=Loader) if text.strip() else ""
    except yaml.YAMLError as error:
        raise InputError("--set", field, " ".join(str(error).split()), "quote the value") from None


def dump_yaml(values: dict[str, Any]) -> str:
    """A mapping as YAML text, in its own order."""
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
