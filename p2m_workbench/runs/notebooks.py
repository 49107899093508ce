"""Notebooks as files: where they lie, which parameters they take, and what an executed one printed.

Parameters are checked before any kernel starts: papermill only warns of a name that a notebook does not know.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import nbformat

from p2m_core.config.paths import project_root, resolve, run_folder, shown
from p2m_core.config.settings import Config
from p2m_core.errors import InputError

COMMON = ("config", "overrides")  # the parameters that every notebook has


def find_notebooks(notebooks: Sequence[str | Path]) -> list[Path]:
    """The files of notebooks that are named by stem or by path.   Raises InputError if there is no such file."""
    folder = project_root() / "notebooks"
    known = {file.stem: file for file in sorted(folder.glob("[0-9]*.ipynb"))}
    files = []
    for name in notebooks:
        candidates = [known.get(Path(name).stem), Path(name).resolve(), resolve(name)]
        if Path(name).name != str(name):  # a path means just that file
            candidates.pop(0)
        file = next((file for file in candidates if file and file.is_file()), None)
        if file is None:
            near = get_close_matches(str(name), known, n=1, cutoff=0.4)
            remedy = f"did you mean {near[0]}?" if near else f"known in {folder}: {', '.join(known) or 'none'}"
            raise InputError(name, "", "no such notebook", remedy)
        files.append(file)
    return files


def read_parameters(notebook: str | Path) -> dict[str, Any]:
    """Names and default values in a notebook's parameters cell.

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
            match statement:
                case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                    defaults[name] = ast.literal_eval(value)
                case _:
                    raise ValueError
    except (SyntaxError, ValueError):
        problem = "holds more than lines of the form name = literal"
        raise InputError(notebook, "parameters cell", problem, "compute in the next cell") from None
    return defaults


def read_report(notebook: Path) -> str:
    """What the cells tagged "report" of an executed notebook printed and displayed, as text."""
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if "report" in cell.metadata.get("tags", [])]
    parts = []
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        if output.output_type == "stream" and output.name == "stdout":
            parts.append(output.text)
        elif "text/plain" in output.get("data", {}):
            parts.append(output.data["text/plain"] + "\n")
    return "".join(parts)


def plan_parameters(files: Sequence[Path], parameters: Mapping[str, Any], config: Config) -> dict[Path, dict[str, Any]]:
    """The parameters of each notebook: those given, and COMMON, by which it reads the config in the run's folder.

    Raises: InputError if a name is unknown or a value is of the wrong type.
    """
    common = dict(zip(COMMON, (shown(run_folder(config) / "config.yaml"), []), strict=True))
    defaults = {file: read_parameters(file) for file in files}
    stems = {file.stem: file for file in files}
    for file in files:
        if missing := [name for name in COMMON if name not in defaults[file]]:
            problem, remedy = "is missing in the parameters cell", f"add a line {missing[0]} = ..."
            raise InputError(file, missing[0], problem, remedy)
    plan = {file: dict(common) for file in files}
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
    """A value has the type of the default, or is an int for a float, or anything where the default is None."""
    kind = type(default)
    if default is None or type(value) is kind or (kind is float and type(value) is int):
        return
    if kind in (list, tuple) and isinstance(value, list | tuple):
        return
    problem = f"{value!r} is not of the type {kind.__name__}"
    raise InputError(file, name, problem, f"the default is {default!r}")
