"""Execute the notebooks of a run in order, by papermill.

outputs/NAME/  config.yaml   the settings, resolved
               notebooks/    the executed copies
               run.json      a notebook's status, seconds, inputs, written files; code, machine, hashes of the data
               run.lock      held while a process executes notebooks here

Papermill executes the cells. This module checks the parameters before any kernel starts, starts kernels of this Python
interpreter, gives each notebook a time limit, lets an interrupted cell write its checkpoint, and skips notebooks that
are done (`is_current`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
from filelock import FileLock, Timeout
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from p2m_core.config.loading import config_hash, load_config, save_config
from p2m_core.config.paths import BUNDLED, project_root, resolve, run_folder, shown
from p2m_core.config.settings import Config, SweepConfig
from p2m_core.errors import InputError
from p2m_core.files import atomic_path, sha256, write_json
from p2m_synth.signals import stop_on_sigterm
from p2m_workbench.provenance import data_hashes, provenance
from p2m_workbench.runs.notebooks import COMMON, find_notebooks, plan_parameters, read_report
from p2m_workbench.training.legs import as_asked, require_same

LOCK_NAME = "run.lock"
PREPROCESS = "01_preprocess"  # writes the data, which several runs may share
CHECKPOINT_S = 60.0  # what an interrupted cell gets to write its checkpoint
LISTED_FILES = 12  # of a folder with more new files only their number is listed


class NotebookError(RuntimeError):
    """A notebook failed. The message has its name, the first lines of the failing cell, and the error."""


@dataclass
class NotebookResult:
    """How the execution of one notebook ended.

    status    ok, failed, timeout, interrupted, not run; outdated: it was ok, then an earlier notebook was executed
    executed  the executed copy                    written  new and changed files
    report    output of its cells tagged "report"  error    why it failed
    kept      it was ok already and was skipped    key      hash of source, parameters and settings, `notebook_key`
    inputs    hashes of the files that its settings name, `input_hashes`    code  commit, and file of the diff to it
    """

    name: str
    status: str = "not run"
    seconds: float = 0.0
    executed: str = ""
    written: list[str] = field(default_factory=list)
    report: str = ""
    error: str = ""
    kept: bool = False
    key: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    code: dict[str, Any] | None = None


def run_notebooks(
    config: str | Path | Config | None = None,
    notebooks: Sequence[str | Path] | None = None,
    parameters: Mapping[str, Any] | None = None,
    timeout_s: float | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    fresh: bool = False,
) -> list[NotebookResult]:
    """Execute notebooks in order, except those that are done; see `is_current`.

    Args:    config: name or file, as for `load_config`, or a Config. Notebooks read its copy in the run's folder.
             notebooks: stems ("02_train") or paths; those that the config names where None.
             parameters: {"epochs": 3} for each notebook that has this parameter, {"02_train.epochs": 3} for one.
             timeout_s: limit for each notebook.   out: folder of the executed copies, outputs/NAME/notebooks
             where None.   overrides: of the config, as for `load_config`.   fresh: skip no notebook.
    Returns: one result a notebook.
    Raises:  InputError before any kernel starts; NotebookError at the first notebook that fails, after run.json is
             written.
    """
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it repeats at length the errors that we report
    loaded = config if isinstance(config, Config) else load_config(config, overrides)
    files = find_notebooks(notebooks or loaded.notebooks)
    plan = plan_parameters(files, parameters or {}, loaded)
    folder = run_folder(loaded)
    out = folder / "notebooks" if out is None else resolve(out)
    with exclusive(folder / LOCK_NAME, "another process runs notebooks here"), stop_on_sigterm():
        history = {file.stem: NotebookResult(file.stem) for file in files} | read_history(folder)
        require_same(loaded)  # or config.yaml would say what the run was not trained with
        saved = save_config(as_asked(loaded), folder / "config.yaml")
        report = {
            "name": loaded.name,
            "config": shown(saved) if config is None or isinstance(config, Config) else str(config),
            "overrides": list(overrides),
            "config_hash": config_hash(loaded),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "provenance": provenance(folder),
        }
        try:
            with tqdm(total=len(files), desc="notebooks", unit="notebook", dynamic_ncols=True) as bar:
                for file in files:
                    bar.set_postfix_str(file.stem)
                    if not fresh and is_current(history[file.stem], file, plan[file], loaded):
                        history[file.stem].kept = True
                    else:
                        for name, later in history.items():
                            if name > file.stem:
                                done = later.status in ("ok", "outdated")
                                history[name] = replace(later, status="outdated") if done else NotebookResult(name)
                        history[file.stem] = result = NotebookResult(file.stem, code=report["provenance"]["git"])
                        _execute(file, out / file.name, plan[file], loaded, timeout_s, result, bar)
                        _write_report(folder, report, history)  # now, since the run may be killed later
                    bar.update()
        finally:
            _write_report(folder, report | {"data": data_hashes(loaded)}, history)
    return [history[file.stem] for file in files]


@contextlib.contextmanager
def exclusive(lock: Path, problem: str) -> Iterator[None]:
    """Hold a lock file.   Raises InputError with this problem if another process holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise InputError(lock.parent, lock.name, problem, "wait for it, or choose another name") from None
    try:
        yield
    finally:
        held.release()


def _write_report(folder: Path, report: dict[str, Any], history: Mapping[str, NotebookResult]) -> None:
    notebooks = [asdict(record) for _, record in sorted(history.items())]
    seconds = round(sum(record["seconds"] for record in notebooks), 1)
    write_json(folder / "run.json", report | {"seconds": seconds, "notebooks": notebooks})


# ------------------------------------------------------------------------------------------------ what is skipped


def is_finished(config: Config, parameters: Mapping[str, Any] | None = None) -> bool:
    """Whether `run_notebooks` would skip every notebook of a config."""
    history, files = read_history(run_folder(config)), find_notebooks(config.notebooks)
    plan = plan_parameters(files, parameters or {}, config)
    return all(file.stem in history and is_current(history[file.stem], file, plan[file], config) for file in files)


def is_current(record: NotebookResult, file: Path, parameters: Mapping[str, Any], config: Config) -> bool:
    """Whether a notebook is done: it ended well with the same source, parameters, settings and inputs, no notebook
    before it was executed since, and the files that it wrote exist."""
    if record.status != "ok" or record.key != notebook_key(file, parameters, config):
        return False
    written = [resolve(path.partition("/ (")[0]) for path in [record.executed, *record.written]]
    return record.inputs == input_hashes(file, parameters, config) and all(path.exists() for path in written)


def read_history(folder: Path) -> dict[str, NotebookResult]:
    """The notebooks in run.json by name; empty where there is no such file, or one that another version wrote."""
    try:
        entries = json.loads((folder / "run.json").read_text())["notebooks"]
        return {entry["name"]: NotebookResult(**entry | {"kept": False}) for entry in entries}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def notebook_key(file: Path, parameters: Mapping[str, Any], config: Config) -> str:
    """Hash of a notebook's source, parameters and settings."""
    settings = config_hash(config.model_copy(update={"notebooks": (), "sweep": SweepConfig()}))
    own = {name: value for name, value in parameters.items() if name not in COMMON}
    return hashlib.sha256(json.dumps([sha256(file), own, settings], sort_keys=True).encode()).hexdigest()[:16]


def input_hashes(file: Path, parameters: Mapping[str, Any], config: Config) -> dict[str, str]:
    """Hashes of the data, weights and photos that settings and parameters name, by path; "" for what is not there.

    A store counts as its manifest, other folders as names, sizes and times of their files. Weights are no input of
    the notebook that preprocesses, which would otherwise be outdated by each training.
    """
    data, measured = config.data, config.evaluate
    given = [data.raw, data.face_model, data.store, config.synth.backgrounds]
    weights: list[str | None] = []
    if file.stem != PREPROCESS:
        given += [measured.store, *measured.predictions, *config.predict.photos]
        given += _texts(parameters, "predictions", "photos")
        weights += [measured.weights, *measured.checkpoints, config.predict.weights, config.train.init_from]
        weights += _texts(parameters, "checkpoints", "compare")
    named = {"run": run_folder(config), "bundled": BUNDLED}
    files = [named.get(name) or resolve(name) for name in weights if name]
    paths = [resolve(path) for path in given if path]
    paths += [path if path.is_file() else path / "weights.safetensors" for path in files]
    return {shown(path): _hash(path) for path in paths}


def _texts(parameters: Mapping[str, Any], *names: str) -> list[str]:
    """All texts that some parameters of a notebook hold, alone or in lists."""
    values = [parameters.get(name) for name in names]
    lists = [value if isinstance(value, list | tuple) else [value] for value in values]
    return [text for texts in lists for text in texts if isinstance(text, str)]


def _hash(path: Path) -> str:
    content = path if path.is_file() else path / "manifest.json"
    if content.is_file():
        return sha256(content)[:16]
    listing = sorted((str(file), *state) for file, state in snapshot([path]).items())
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16] if listing else ""


# ------------------------------------------------------------------------------------------------ written files


def snapshot(folders: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Modification time (ns) and size of each file below the folders, except locks, logs and hidden files."""
    files: dict[Path, tuple[int, int]] = {}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                if name.startswith(".") or name.endswith((".lock", ".log")):
                    continue
                with contextlib.suppress(FileNotFoundError):  # a temporary file
                    state = (path := Path(parent, name)).stat()
                    files[path] = (state.st_mtime_ns, state.st_size)
    return files


def list_changes(before: Mapping[Path, Any], after: Mapping[Path, Any], sets: Sequence[Path]) -> list[str]:
    """New and changed files of two snapshots; many in one folder, or anywhere below one of `sets`, as one entry."""
    groups: dict[Path, list[Path]] = {}
    for path in sorted(path for path, state in after.items() if before.get(path) != state):
        group = next((folder for folder in sets if path.is_relative_to(folder)), path.parent)
        groups.setdefault(group, []).append(path)
    listed = []
    for folder, paths in groups.items():
        many = len(paths) > LISTED_FILES
        listed += [f"{shown(folder)}/ ({len(paths)} files)"] if many else map(shown, paths)
    return listed


# ------------------------------------------------------------------------------------------------ one notebook


class _Kernel(AsyncKernelManager):
    """Starts kernels of this Python interpreter, whatever the installed kernelspec "python3" says."""

    @property
    def kernel_spec(self) -> KernelSpec:
        search_path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            env={
                "PYTHONPATH": os.pathsep.join(filter(None, search_path)),
                "P2M_HOME": str(project_root()),
                "MPLBACKEND": "module://matplotlib_inline.backend_inline",
                "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            },
        )

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """Kill the kernel; but after Ctrl-C let its cell end first, since a training then writes a checkpoint."""
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):
            self.shutdown_wait_time = 2 * CHECKPOINT_S  # it interrupts the cell, and waits half of this time
            now = False
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it lists all that waited for the kernel
        await super().shutdown_kernel(now=now, restart=restart)


class _TimeLimit:
    """papermill's `timeout_func`: gives each cell the rest of the notebook's time. Has the cell's source for errors."""

    def __init__(self, deadline: float | None, show: Callable[[str], None]):
        self.deadline, self.show = deadline, show
        self.source, self.cells = "", 0

    def __call__(self, cell: nbformat.NotebookNode) -> float | None:
        if cell.source != self.source:
            self.source, self.cells = cell.source, self.cells + 1
            self.show(f"code cell {self.cells}")
        return None if self.deadline is None else max(0.01, self.deadline - time.monotonic())  # 0 means no limit


def _execute(
    file: Path,
    copy: Path,
    parameters: dict[str, Any],
    config: Config,
    timeout_s: float | None,
    result: NotebookResult,
    bar: tqdm,
) -> None:
    """Execute `file` into `copy`, which is also written if the notebook fails, and fill in `result`."""
    sets = [resolve(config.synth.out), resolve(config.data.store)]
    folders = [run_folder(config), *sets]
    running = copy.with_suffix(".running.ipynb")  # so that a killed run leaves no half-executed copy under the name
    copy.parent.mkdir(parents=True, exist_ok=True)
    # Of several runs that share raw data, one at a time prepares them.
    lock = FileLock(project_root() / "outputs" / f".{resolve(config.data.raw).name}.lock")
    with lock if file.stem == PREPROCESS else contextlib.nullcontext():
        before, started = snapshot(folders), time.monotonic()
        deadline = started + timeout_s if timeout_s else None
        limit = _TimeLimit(deadline, lambda cell: bar.set_postfix_str(f"{file.stem}, {cell}"))
        try:
            papermill.execute_notebook(
                _escape_braces(file),
                _escape_braces(running),
                parameters,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                kernel_manager_class=_Kernel,
                timeout_func=limit,
                shutdown_kernel="immediate",
                extra_arguments=["--IPKernelApp.log_level=50"],
                resources={"metadata": {"path": str(file.parent)}},  # its cwd= would change the whole process's
            )
            result.status = "ok"
        except KeyboardInterrupt:
            result.status = "interrupted"
            raise
        except (PapermillExecutionError, CellTimeoutError, RuntimeError) as error:
            result.status, source, problem = "failed", limit.source, str(error)
            if isinstance(error, PapermillExecutionError):
                source, problem = error.source, f"{error.ename}: {error.evalue}"
            elif isinstance(error, CellTimeoutError):
                result.status, problem = "timeout", f"not done after {timeout_s:g} s"
            # Other RuntimeErrors: the kernel died, most often because memory ran out, or did not start.
            result.error = _error_line(file, source, problem)
            raise NotebookError(result.error) from None
        finally:
            result.seconds = round(time.monotonic() - started, 1)
            if running.exists():
                if result.status == "timeout":
                    _insert_line(running, result.error)  # papermill itself marks only errors
                os.replace(running, copy)
                result.executed, result.report = shown(copy), read_report(copy)
            result.written = list_changes(before, snapshot(folders), sets)
        result.key = notebook_key(file, parameters, config)
        result.inputs = input_hashes(file, parameters, config)  # after it, since it may write some of them


def _insert_line(notebook: Path, line: str) -> None:
    content = nbformat.read(notebook, as_version=4)
    content.cells.insert(0, nbformat.v4.new_markdown_cell(f"**{line}**"))
    with atomic_path(notebook) as temporary:
        nbformat.write(content, temporary)


def _error_line(file: Path, source: str, error: str) -> str:
    """One line: name of the notebook, first lines of the cell, the error."""
    lines = [line.strip() for line in source.strip().splitlines() if line.strip() and not line.startswith("#")]
    head = " / ".join(lines[:3]) + (" ..." if len(lines) > 3 else "")
    return f"{file.name}: in the cell '{head}': {' '.join(error.split())}"


def _escape_braces(path: Path) -> str:
    """The path for papermill, which replaces {names} in paths."""
    return str(path).replace("{", "{{").replace("}", "}}")
