"""The notebooks as files: where they are, what parameters they take, and what their cells printed.

Parameters are checked before any kernel starts: papermill only warns of a name that a notebook does not know.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import nbformat

from p2m_core.config.loading import find_config
from p2m_core.config.paths import project_root, resolve
from p2m_core.config.settings import Config
from p2m_core.errors import InputError

COMMON = ("config", "overrides")  # the names that every notebook's parameters cell holds


def find_notebooks(notebooks: Sequence[str | Path] | None = None) -> list[Path]:
    """Files of the named notebooks, or all of notebooks/ in order."""
    folder = project_root() / "notebooks"
    known = {file.stem: file for file in sorted(folder.glob("[0-9]*.ipynb"))}
    if notebooks is None:
        if not known:
            raise InputError(folder, "", "holds no notebooks", "run from a checkout, or set P2M_HOME to one")
        return list(known.values())
    files = []
    for name in notebooks:
        candidates = [known.get(Path(name).stem), Path(name).resolve(), resolve(name)]
        if Path(name).name != str(name):  # a path means just that file
            candidates.pop(0)
        file = next((file for file in candidates if file and file.is_file()), None)
        if file is None:
            near = get_close_matches(str(name), known, n=1, cutoff=0.4)
            remedy = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
            raise InputError(name, "", "no such notebook", remedy)
        files.append(file)
    return files


def read_parameters(notebook: str | Path) -> dict[str, Any]:
    """Names and default values of a notebook's parameters cell.

    Raises:  InputError if there is no such cell, or if it holds more than plain literals, one a line: a value that
             is computed there would be computed from the defaults, not from the values passed in.
    """
    try:
        content = nbformat.read(notebook, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError, AttributeError) as error:
        raise InputError(notebook, "", f"is not a notebook: {str(error)[:80]}", "open and save it in Jupyter") from None
    cells = [cell for cell in content.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        problem = f"has {len(cells)} cells tagged 'parameters'"
        raise InputError(notebook, "", problem, "tag its first code cell with 'parameters', and no other")
    defaults = {}
    try:
        for statement in ast.parse(cells[0].source).body:
            defaults.update(_literal(statement))
    except (SyntaxError, ValueError):
        problem = "holds more than lines of the form name = literal"
        raise InputError(notebook, "parameters cell", problem, "compute in the next cell") from None
    return defaults


def read_report(notebook: Path) -> str:
    """What the cells tagged "report" of an executed notebook printed."""
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if "report" in cell.metadata.get("tags", [])]
    outputs = [output for cell in cells for output in cell.get("outputs", []) if output.output_type == "stream"]
    return "".join(output.text for output in outputs if output.name == "stdout")


def _literal(statement: ast.stmt) -> dict[str, Any]:
    """{name: value} of one assignment."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target = statement.target
    else:
        raise ValueError
    if not isinstance(target, ast.Name):
        raise ValueError
    return {target.id: ast.literal_eval(statement.value)}


def common_parameters(config: str | Path | Config | None, overrides: Sequence[str], saved: Path) -> dict[str, Any]:
    """What every notebook is given: the name of the config as it came, or of the copy in the run's folder."""
    if isinstance(config, Config) or config is None:
        return {"config": str(saved), "overrides": []}
    found = find_config(config)
    bare = found == project_root() / "configs" / f"{config}.yaml"
    return {"config": str(config) if bare else str(found), "overrides": list(overrides)}


def plan_parameters(
    files: Sequence[Path], parameters: Mapping[str, Any], common: Mapping[str, Any]
) -> dict[Path, dict[str, Any]]:
    """The parameters of each notebook, every one of them known there and of the type of its default."""
    defaults = {file: read_parameters(file) for file in files}
    stems = {file.stem: file for file in files}
    plan: dict[Path, dict[str, Any]] = {}
    for file in files:
        plan[file] = dict(common)
        for name in common:
            if name not in defaults[file]:
                raise InputError(file, name, "is missing in the parameters cell", f"add a line {name} = ...")
    for dotted, value in parameters.items():
        stem, _, name = dotted.rpartition(".")
        if stem and stem not in stems:
            raise InputError("parameters", dotted, f"no notebook {stem} in this run", f"in it: {', '.join(stems)}")
        chosen = [stems[stem]] if stem else [file for file in files if name in defaults[file]]
        if not chosen or name not in defaults[chosen[0]]:
            known = sorted({key for file in (chosen or files) for key in defaults[file]})
            near = get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise InputError(chosen[0] if chosen else "parameters", name, "no such parameter", remedy)
        for file in chosen:
            _check_type(file, name, value, defaults[file][name])
            plan[file][name] = value
    return plan


def _check_type(file: Path, name: str, value: Any, default: Any) -> None:
    """A value may have the type of the default, be a whole number for a float, or anything where that is None."""
    kind = type(default)
    if default is None or type(value) is kind or (kind is float and type(value) is int):
        return
    if kind in (list, tuple) and isinstance(value, list | tuple):
        return
    problem = f"{value!r} is not of the type {kind.__name__}"
    raise InputError(file, name, problem, f"the default is {default!r}")
