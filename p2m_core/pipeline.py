"""The notebooks, executed in order by papermill, with what papermill leaves out.

Parameters are checked before any kernel starts, the kernel is this very interpreter, each notebook has a time limit,
an interrupted cell may still write its checkpoint, and outputs/<name>/run.json says what was done and written.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from p2m_core import config as settings
from p2m_core.config import Config, config_hash, load_config, provenance, run_folder, save_config
from p2m_core.errors import InputError
from p2m_core.files import atomic_path, write_json

COMMON = ("config", "overrides")  # the names that every notebook's parameters cell holds
LISTED_FILES = 12  # a folder with more new files is reported by their number

CHECKPOINT_S = 60.0  # what an interrupted cell gets to write its checkpoint


@dataclass
class NotebookResult:
    """What became of one notebook. `status`: ok, failed, timeout, interrupted or not run; `report`: what its cells
    tagged "report" printed."""

    name: str
    status: str = "not run"
    seconds: float = 0.0
    executed: str = ""
    written: list[str] = field(default_factory=list)
    report: str = ""
    error: str = ""


class NotebookError(RuntimeError):
    """A notebook did not end well: its name, the failing cell's first lines, the error."""


class _Kernel(AsyncKernelManager):
    """A kernel of this very interpreter, whatever kernelspec "python3" is installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        search_path = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            env={
                "PYTHONPATH": os.pathsep.join(filter(None, search_path)),
                "P2M_HOME": str(settings.PROJECT_ROOT),
                "MPLBACKEND": "module://matplotlib_inline.backend_inline",
                "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            },
        )

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """Kill the kernel; but after Ctrl-C let its cell end first, since training then writes a checkpoint."""
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):
            self.shutdown_wait_time = 2 * CHECKPOINT_S  # a polite shutdown interrupts the cell, and waits half of this
            now = False
        await super().shutdown_kernel(now=now, restart=restart)


def run_notebooks(
    config: str | Path | Config | None = None,
    notebooks: Sequence[str | Path] | None = None,
    parameters: Mapping[str, Any] | None = None,
    timeout_s: float | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> list[NotebookResult]:
    """Execute notebooks in order; the executed copies and run.json go to the run's folder.

    Args:    config: name or file, as for `load_config`, or a Config, of which a copy in the run's folder is passed on.
             notebooks: stems ("02_train") or paths; those that the config names where None.
             parameters: {"epochs": 3} for each notebook that knows the name, {"02_train.epochs": 3} for one.
             timeout_s: limit for each notebook.   out: folder of the executed copies, outputs/<name>/notebooks
             where None.   overrides: as for `load_config`, passed on to every notebook.
    Returns: one result a notebook.
    Raises:  InputError before any kernel starts; NotebookError at the first notebook that fails, after run.json.
    """
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it says again what we report, at length
    loaded = config if isinstance(config, Config) else load_config(config, overrides)
    files = find_notebooks(notebooks or loaded.notebooks)
    folder = run_folder(loaded)
    saved = folder / "config.yaml"
    common = _common_parameters(config, overrides, saved)
    plan = plan_parameters(files, parameters or {}, common)
    save_config(loaded, saved)
    out = folder / "notebooks" if out is None else settings.resolve(out)
    results = [NotebookResult(file.stem) for file in files]
    report = {
        "name": loaded.name,
        "config": common["config"],
        "overrides": list(common["overrides"]),
        "config_hash": config_hash(loaded),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "provenance": provenance(),
    }
    watched = [folder, *map(settings.resolve, (loaded.synth.out, loaded.data.store))]
    try:
        with tqdm(total=len(files), desc="notebooks", unit="notebook", dynamic_ncols=True) as bar:
            for file, result in zip(files, results, strict=True):
                bar.set_postfix_str(result.name)
                before = _snapshot(watched)
                try:
                    _run_one(file, out / file.name, plan[file], timeout_s, result, bar)
                finally:
                    result.written = _changed(before, _snapshot(watched), watched[1:])
                bar.update()
    finally:
        report["seconds"] = round(sum(result.seconds for result in results), 1)
        write_json(folder / "run.json", report | {"notebooks": [asdict(result) for result in results]})
    return results


def demo(overrides: Sequence[str] = ()) -> list[NotebookResult]:
    """The whole path in some minutes: every notebook with configs/demo.yaml."""
    return run_notebooks("demo", timeout_s=900, overrides=overrides)


# ------------------------------------------------------------------------------------------------ before a kernel


def find_notebooks(notebooks: Sequence[str | Path] | None = None) -> list[Path]:
    """Files of the named notebooks, or all of notebooks/ in order."""
    folder = settings.PROJECT_ROOT / "notebooks"
    known = {file.stem: file for file in sorted(folder.glob("[0-9]*.ipynb"))}
    if notebooks is None:
        if not known:
            raise InputError(folder, "", "holds no notebooks", "run from a checkout, or set P2M_HOME to one")
        return list(known.values())
    files = []
    for name in notebooks:
        candidates = [known.get(Path(name).stem), Path(name).resolve(), settings.resolve(name)]
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


def _common_parameters(config: str | Path | Config | None, overrides: Sequence[str], saved: Path) -> dict[str, Any]:
    """What every notebook is given: the name of the config as it came, or of the copy in the run's folder."""
    if isinstance(config, Config) or config is None:
        return {"config": str(saved), "overrides": []}
    found = settings.find_config(config)
    bare = found == settings.PROJECT_ROOT / "configs" / f"{config}.yaml"
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


# ------------------------------------------------------------------------------------------------ one notebook


def _run_one(
    file: Path, copy: Path, parameters: dict[str, Any], timeout_s: float | None, result: NotebookResult, bar: tqdm
) -> None:
    """Execute `file` into `copy` and fill in `result`; the copy is there whether it ends well or not."""
    started = time.monotonic()
    limit = _Limit(started + timeout_s if timeout_s else None, lambda done: bar.set_postfix_str(f"{file.stem}, {done}"))
    running = copy.with_suffix(".running.ipynb")  # so that a killed run leaves no half-executed copy under the name
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            _brace(file),
            _brace(running),
            parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            kernel_manager_class=_Kernel,
            timeout_func=limit,
            shutdown_kernel="immediate",
            extra_arguments=["--IPKernelApp.log_level=50"],
            resources={"metadata": {"path": str(file.parent)}},  # papermill's own cwd= moves the whole process
        )
        result.status = "ok"
    except PapermillExecutionError as error:
        result.status, result.error = "failed", _say(file, error.source, f"{error.ename}: {error.evalue}")
        raise NotebookError(result.error) from None
    except CellTimeoutError:
        result.status, result.error = "timeout", _say(file, limit.source, f"not done after {timeout_s:g} s")
        raise NotebookError(result.error) from None
    except RuntimeError as error:  # the kernel died, most often for want of memory, or did not start
        result.status, result.error = "failed", _say(file, limit.source, str(error))
        raise NotebookError(result.error) from None
    except KeyboardInterrupt:
        result.status = "interrupted"
        raise
    finally:
        result.seconds = round(time.monotonic() - started, 1)
        if running.exists():
            _finish_copy(running, copy, result.error if result.status == "timeout" else "")
            result.executed, result.report = settings.shown(copy), read_report(copy)


class _Limit:
    """Gives each cell what is left of the notebook's time, and remembers the cell for the error message."""

    def __init__(self, deadline: float | None, show: Callable[[str], None]):
        self.deadline, self.show = deadline, show
        self.source, self.cells = "", 0

    def __call__(self, cell: nbformat.NotebookNode) -> float | None:
        if cell.source != self.source:
            self.source, self.cells = cell.source, self.cells + 1
            self.show(f"code cell {self.cells}")
        # 0 would mean no limit at all.
        return None if self.deadline is None else max(0.01, self.deadline - time.monotonic())


def _finish_copy(running: Path, copy: Path, mark: str) -> None:
    """Give the executed copy its name; a time-out is marked at its top, which papermill does for errors only."""
    if mark:
        content = nbformat.read(running, as_version=4)
        content.cells.insert(0, nbformat.v4.new_markdown_cell(f"**{mark}**"))
        with atomic_path(copy) as temporary:
            nbformat.write(content, temporary)
        running.unlink()
    else:
        os.replace(running, copy)


def _say(file: Path, source: str, error: str) -> str:
    """One line: notebook, first lines of the cell, last line of the error."""
    lines = [line.strip() for line in source.strip().splitlines() if line.strip() and not line.startswith("#")]
    head = " / ".join(lines[:3]) + (" ..." if len(lines) > 3 else "")
    return f"{file.name}: in the cell '{head}': {' '.join(error.split())}"


def _brace(path: Path) -> str:
    """The path for papermill, which fills in {names}."""
    return str(path).replace("{", "{{").replace("}", "}}")


# ------------------------------------------------------------------------------------------------ what was written


def _snapshot(folders: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Time and size of each file below the folders."""
    files: dict[Path, tuple[int, int]] = {}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # a temporary one
                    state = (path := Path(parent, name)).stat()
                    files[path] = (state.st_mtime_ns, state.st_size)
    return files


def _changed(before: Mapping[Path, Any], after: Mapping[Path, Any], sets: Sequence[Path]) -> list[str]:
    """New and changed files, relative to the root; a folder of many, or a set of many folders, is one entry."""
    by_folder: dict[Path, list[Path]] = {}
    for path in sorted(path for path, state in after.items() if before.get(path) != state):
        by_folder.setdefault(path.parent, []).append(path)
    for whole in sets:
        inside = [folder for folder in by_folder if folder.is_relative_to(whole)]
        if len(inside) > LISTED_FILES:
            by_folder[whole] = [path for folder in inside for path in by_folder.pop(folder)]
    listed = []
    for folder, paths in by_folder.items():
        many = len(paths) > LISTED_FILES
        shown = [f"{settings.shown(folder)}/ ({len(paths)} files)"] if many else map(settings.shown, paths)
        listed += shown
    return listed
