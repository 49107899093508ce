"""The notebooks, executed in order by papermill, with what papermill leaves out.

Parameters are checked before any kernel starts, the kernel is this very interpreter, each notebook has a time limit,
an interrupted cell may still write its checkpoint, and outputs/<name>/run.json says what was done and written. The
same call again keeps the notebooks that would do the same once more.
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
from p2m_core.signals import stop_on_sigterm
from p2m_workbench.provenance import data_hashes, provenance
from p2m_workbench.runs.notebooks import COMMON, common_parameters, find_notebooks, plan_parameters, read_report

LOCK_NAME = "run.lock"
PREPARES = "01_preprocess"  # writes what several runs may share, so one of them at a time executes it
CHECKPOINT_S = 60.0  # what an interrupted cell gets to write its checkpoint


class NotebookError(RuntimeError):
    """A notebook did not end well: its name, the failing cell's first lines, the error."""


class _Kernel(AsyncKernelManager):
    """A kernel of this very interpreter, whatever kernelspec "python3" is installed."""

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
        """Kill the kernel; but after Ctrl-C let its cell end first, since training then writes a checkpoint."""
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):
            self.shutdown_wait_time = 2 * CHECKPOINT_S  # a polite shutdown interrupts the cell, and waits half of this
            now = False
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it tells at length what waited for the kernel
        await super().shutdown_kernel(now=now, restart=restart)


def run_notebooks(
    config: str | Path | Config | None = None,
    notebooks: Sequence[str | Path] | None = None,
    parameters: Mapping[str, Any] | None = None,
    timeout_s: float | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    wait_s: float = 0,
) -> list[NotebookResult]:
    """Execute notebooks in order; the executed copies and run.json go to the run's folder.

    A notebook that ended well is kept if its source, parameters and settings, the data, weights and photos that these
    name, and what it wrote are unchanged, and none before it was executed since.

    Args:    config: name or file, as for `load_config`, or a Config, of which a copy in the run's folder is passed on.
             notebooks: stems ("02_train") or paths; those that the config names where None.
             parameters: {"epochs": 3} for each notebook that knows the name, {"02_train.epochs": 3} for one.
             timeout_s: limit for each notebook.   out: folder of the executed copies, outputs/<name>/notebooks
             where None.   overrides: as for `load_config`, passed on to every notebook.   fresh: keep none.
             wait_s: how long to wait for another process that runs them.
    Returns: one result a notebook.
    Raises:  InputError before any kernel starts; NotebookError at the first notebook that fails, after run.json.
    """
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it says again what we report, at length
    loaded = config if isinstance(config, Config) else load_config(config, overrides)
    files = find_notebooks(notebooks or loaded.notebooks)
    folder = run_folder(loaded)
    saved = folder / "config.yaml"
    common = common_parameters(config, overrides, saved)
    plan = plan_parameters(files, parameters or {}, common)
    out = folder / "notebooks" if out is None else resolve(out)
    with _only_one(folder, wait_s), stop_on_sigterm():
        history = read_history(folder)
        results = [NotebookResult(file.stem, key=notebook_key(file, plan[file], loaded)) for file in files]
        others = [record for name, record in sorted(history.items()) if name not in {r.name for r in results}]
        executed = max((record.number for record in history.values()), default=0)
        save_config(loaded, saved)
        report = {
            "name": loaded.name,
            "config": common["config"],
            "overrides": list(common["overrides"]),
            "config_hash": config_hash(loaded),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "provenance": provenance(folder),
        }
        try:
            with tqdm(total=len(files), desc="notebooks", unit="notebook", dynamic_ncols=True) as bar:
                for k, (file, result) in enumerate(zip(files, results, strict=True)):
                    bar.set_postfix_str(result.name)
                    if not fresh and is_current(result, history):
                        results[k] = replace(history[result.name], kept=True)
                    else:
                        executed += 1
                        result.number, result.code = executed, report["provenance"]["git"]
                        history[result.name] = result
                        _execute(file, out / file.name, plan[file], loaded, timeout_s, result, bar)
                        _write_report(folder, report, others + results)  # before the next: a run may be killed
                    bar.update()
        finally:
            _write_report(folder, report | {"data": data_hashes(loaded)}, others + results)
    return results


def demo(overrides: Sequence[str] = ()) -> list[NotebookResult]:
    """The whole path in some minutes: every notebook with configs/demo.yaml."""
    return run_notebooks("demo", timeout_s=900, overrides=overrides)


def is_finished(config: Config, parameters: Mapping[str, Any] | None = None) -> bool:
    """Whether `run_notebooks` would keep every notebook of a config."""
    folder = run_folder(config)
    history, files = read_history(folder), find_notebooks(config.notebooks)
    plan = plan_parameters(files, parameters or {}, common_parameters(config, (), folder / "config.yaml"))
    wanted = [NotebookResult(file.stem, key=notebook_key(file, plan[file], config)) for file in files]
    return all(is_current(result, history) for result in wanted)


@contextlib.contextmanager
def _only_one(folder: Path, wait_s: float) -> Iterator[None]:
    """Refuse to run in a folder in which another process runs."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME, timeout=wait_s)
    try:
        lock.acquire()
    except Timeout:
        remedy = "wait for it, or choose another name"
        raise InputError(folder, LOCK_NAME, "another process runs notebooks here", remedy) from None
    try:
        yield
    finally:
        lock.release()


def _turn(file: Path, config: Config) -> contextlib.AbstractContextManager:
    """Wait for runs that prepare the same raw data, so that no two write one set or store."""
    if file.stem != PREPARES:
        return contextlib.nullcontext()
    folder = project_root() / "outputs"
    return FileLock(folder / f".{resolve(config.data.raw).name}.lock")


def _write_report(folder: Path, report: dict[str, Any], entries: Sequence[NotebookResult]) -> None:
    seconds = round(sum(entry.seconds for entry in entries), 1)
    write_json(folder / "run.json", report | {"seconds": seconds, "notebooks": [asdict(entry) for entry in entries]})


# ------------------------------------------------------------------------------------------------ one notebook


def _execute(
    file: Path,
    copy: Path,
    parameters: dict[str, Any],
    config: Config,
    timeout_s: float | None,
    result: NotebookResult,
    bar: tqdm,
) -> None:
    """`_run_one` in its turn; `result` then also tells what was written, and where all that was read stands."""
    folder, sets = run_folder(config), [resolve(config.synth.out), resolve(config.data.store)]
    with _turn(file, config):
        before = snapshot([folder, *sets])
        try:
            _run_one(file, copy, parameters, timeout_s, result, bar)
        finally:
            changed = changed_files(before, snapshot([folder, *sets]))
            result.written = listed_files(changed, sets)
        own = [path for path in changed if path.is_relative_to(folder)]
        paths = [copy, *own, *named_paths(config, parameters)]
        result.state = {shown(path): fingerprint(path) for path in paths}


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
            result.executed, result.report = shown(copy), read_report(copy)


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


LISTED_FILES = 12  # a folder with more new files is reported by their number


@dataclass
class NotebookResult:
    """What became of one notebook.

    status    ok, failed, timeout, interrupted or not run; kept: it was ok already, and not executed again
    report    what its cells tagged "report" printed
    key       hash of its source, parameters and settings      state  hashes of the files that it read and wrote
    number    of its execution, counted over the run's folder  code   commit, and the diff's file
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
    number: int = 0
    state: dict[str, str] = field(default_factory=dict)
    code: dict[str, Any] | None = None


def read_history(folder: Path) -> dict[str, NotebookResult]:
    """The notebooks of a run's run.json by name; empty where there is none, or one of another version."""
    try:
        entries = json.loads((folder / "run.json").read_text())["notebooks"]
        return {entry["name"]: NotebookResult(**entry | {"kept": False}) for entry in entries}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def notebook_key(file: Path, parameters: Mapping[str, Any], config: Config) -> str:
    """Hash of what a notebook is told: its source, parameters and settings."""
    told = config_hash(config.model_copy(update={"notebooks": (), "sweep": SweepConfig()}))
    own = {name: value for name, value in parameters.items() if name not in COMMON}
    return hashlib.sha256(json.dumps([sha256(file), own, told], sort_keys=True).encode()).hexdigest()[:16]


def is_current(wanted: NotebookResult, history: Mapping[str, NotebookResult]) -> bool:
    """Whether a notebook was executed to the end, and would find and write the same again."""
    record = history.get(wanted.name)
    if record is None or record.status != "ok" or record.key != wanted.key:
        return False
    if any(other.number > record.number for name, other in history.items() if name < wanted.name):
        return False  # one that it may read from was executed since
    return all(fingerprint(resolve(path)) == digest for path, digest in record.state.items())


def named_paths(config: Config, parameters: Mapping[str, Any]) -> list[Path]:
    """The data, weights and photos that settings and parameters name, and the run's own weights."""
    folder = run_folder(config)
    texts = list(_texts([config.model_dump(), parameters]))
    named = [resolve(text) for text in texts if {"/", "."} & set(text)] + [BUNDLED] * ("bundled" in texts)
    outside = [path for path in dict.fromkeys(named) if not path.is_relative_to(folder) and path.exists()]
    return outside + list(folder.glob("weights.safetensors"))


def _texts(value: Any) -> Iterator[str]:
    """All texts in nested dictionaries and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def fingerprint(path: Path) -> str:
    """What changes when a file or folder changes: bytes of a file, of a run's weights, of a store's manifest, which has
    its files' hashes; else names, sizes and times of all files below; "" of what is not there."""
    marks = [path] if path.is_file() else [path / "weights.safetensors", path / "manifest.json"]
    for file in marks:
        if file.is_file():
            return sha256(file)[:16]
    if not path.is_dir():
        return ""
    listing = sorted((str(file), *state) for file, state in snapshot([path]).items())
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]


def snapshot(folders: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Time and size of each file below the folders, without locks and other hidden files."""
    files: dict[Path, tuple[int, int]] = {}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                if name.startswith(".") or name.endswith((".lock", ".log")):
                    continue
                with contextlib.suppress(FileNotFoundError):  # a temporary one
                    state = (path := Path(parent, name)).stat()
                    files[path] = (state.st_mtime_ns, state.st_size)
    return files


def changed_files(before: Mapping[Path, Any], after: Mapping[Path, Any]) -> list[Path]:
    """New and changed files."""
    return sorted(path for path, state in after.items() if before.get(path) != state)


def listed_files(changed: Sequence[Path], sets: Sequence[Path]) -> list[str]:
    """Files relative to the root; a folder of many, or a set of many folders, is one entry."""
    by_folder: dict[Path, list[Path]] = {}
    for path in changed:
        by_folder.setdefault(path.parent, []).append(path)
    for whole in sets:
        inside = [folder for folder in by_folder if folder.is_relative_to(whole)]
        if len(inside) > LISTED_FILES:
            by_folder[whole] = [path for folder in inside for path in by_folder.pop(folder)]
    listed = []
    for folder, paths in by_folder.items():
        many = len(paths) > LISTED_FILES
        listed += [f"{shown(folder)}/ ({len(paths)} files)"] if many else map(shown, paths)
    return listed
