"""Many runs of one config: variants, a grid, seeds; their table, and the comparing report.

outputs/NAME-sweep/  sweep.yaml    sweep.csv, sweep.md   a row a run; by variant with intervals over the seeds
                     notebooks/    the comparing report
                     RUN/          a run's folder, see pipeline.py; run.log: what it printed

`sweep` gives each run to `sweep_run.execute`, which has it executed by a process of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from p2m_core.config.loading import config_hash, save_config, with_values
from p2m_core.config.paths import project_root, run_folder, shown
from p2m_core.config.settings import Config, SweepConfig
from p2m_core.errors import InputError
from p2m_core.files import write_text
from p2m_core.parallel import THREADS, map_jobs

if TYPE_CHECKING:
    import pandas as pd


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One run of a sweep: name of its variant, its seed and place in the grid, and its settings."""

    variant: str
    values: dict[str, Any]
    config: Config

    @property
    def label(self) -> str:
        """Name of its folder in the sweep's."""
        return self.config.name.rpartition("/")[2]


@dataclass(frozen=True)
class Sweep:
    """A sweep that ended. table: a row a run.   summary: a row a variant.   failed: labels of runs that did not end
    well.   folder: where all of it lies."""

    table: pd.DataFrame
    summary: pd.DataFrame
    failed: list[str]
    folder: Path

    def __str__(self) -> str:
        tables = [self.table, self.summary] if len(self.summary) < len(self.table) else [self.table]
        return "\n\n".join([*(t.round(3).to_string() for t in tables), f"written: {self.folder}"])


# ------------------------------------------------------------------------------------------------ planning


def plan_runs(config: Config) -> list[Run]:
    """The runs of `config.sweep`, in order.

    A run of other data or template settings gets a store of its own.

    Raises: InputError if nothing varies, a setting is unknown or of the wrong type, or two runs would be the same.
    """
    wanted = config.sweep
    if not wanted.variants and not wanted.grid and wanted.seeds == 1:
        remedy = "give --grid train.lr=1e-4,3e-4, --seeds 3, or a config with sweep.variants"
        raise InputError("config", "sweep", "nothing varies", remedy)
    base = config.model_copy(update={"sweep": SweepConfig()})
    short = Counter(field.rpartition(".")[2] for field in wanted.grid)
    runs = []
    for name, fixed in (wanted.variants or {"": {}}).items():
        for combination in itertools.product(*wanted.grid.values()):
            grid = dict(zip(wanted.grid, combination, strict=True))
            parts = [_slug(name)] if name else []
            for field, value in grid.items():
                last = field.rpartition(".")[2]
                parts.append(f"{last if short[last] == 1 else field}-{_slug(value)}")
            variant = "_".join(parts)
            for seed in range(config.seed, config.seed + wanted.seeds):
                label = "_".join(filter(None, [variant, f"seed-{seed}" if wanted.seeds > 1 else ""]))
                values = {"seed": seed, **grid}
                run = with_values(base, fixed | values | {"name": f"{_sweep_name(config)}/{label}"}, "sweep")
                if (run.data, run.template) != (base.data, base.template) and run.data.store == base.data.store:
                    store = f"{base.data.store}-{config_hash(run.data)[:4]}{config_hash(run.template)[:4]}"
                    run = with_values(run, {"data.store": store}, "sweep")
                runs.append(Run(variant or "all", values, run))
    twice = [label for label, count in Counter(run.label for run in runs).items() if count > 1]
    if twice:
        raise InputError("config", "sweep", f"has two runs named {twice[0]}", "give each value once")
    return runs


def _sweep_name(config: Config) -> str:
    return f"{config.name}-sweep"


def _slug(value: Any) -> str:
    """A value as part of a folder's name."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip(".")[:40] or "empty"


def _choose_scheduler(config: SweepConfig) -> str | None:
    """The scheduler for `map_jobs`, None for processes of its own."""
    if config.scheduler == "auto":
        return "local" if config.jobs > 1 and importlib.util.find_spec("distributed") else None
    return None if config.scheduler == "pool" else config.scheduler


# ------------------------------------------------------------------------------------------------ the sweep


def sweep(config: Config, parameters: Mapping[str, Any] | None = None) -> Sweep:
    """Execute every run that is not finished, then the comparing report.

    A run that fails is tried again, then left; the others go on. Ctrl-C or SIGTERM lets the runs write their
    checkpoints; the same call then goes on from there.

    Args:    parameters: of the notebooks, as for `run_notebooks`.
    Raises:  InputError before any run starts, also if another process works on this sweep.
    """
    from p2m_workbench.runs.pipeline import is_finished

    wanted, runs = config.sweep, plan_runs(config)
    folder = run_folder(config).with_name(Path(_sweep_name(config)).name)
    finished = [run for run in runs if is_finished(run.config, parameters)]  # checks the parameters too
    outcomes = {run.label: Outcome(run.label, "ok" if run in finished else "waiting") for run in runs}
    scheduler = _choose_scheduler(wanted)
    here = scheduler in (None, "local")
    threads = int(os.environ.get(THREADS[0]) or max(1, (os.cpu_count() or 1) // wanted.jobs))
    limit_s = wanted.timeout_s and (1 + len(config.notebooks)) * wanted.timeout_s + GRACE_S  # one to wait its turn
    jobs = [
        Job(
            label=run.label,
            root=project_root(),
            folder=run_folder(run.config),
            stop=folder / "stop",
            config=run.config.model_dump_json(),
            parameters=dict(parameters or {}),
            timeout_s=wanted.timeout_s,
            limit_s=limit_s,
            retries=wanted.retries,
            threads=threads if here else None,
        )
        for run in runs
        if run not in finished
    ]
    with _only_one(folder), _stopping(folder / "stop", jobs):
        save_config(config, folder / "sweep.yaml")
        for outcome in map_jobs(execute, jobs, wanted.jobs, config.name, scheduler=scheduler):
            outcomes[outcome.label] = outcome
            write_tables(folder, runs, outcomes)
            if outcome.status != "ok":
                _log.warning("%s %s: %s", outcome.label, outcome.status, outcome.error)
        table, summary = write_tables(folder, runs, outcomes)
        good = [run for run in runs if outcomes[run.label].status == "ok"]
        if wanted.report and good:
            write_comparison(config, good)
    return Sweep(table, summary, [run.label for run in runs if run not in good], folder)


def write_comparison(config: Config, runs: Sequence[Run]) -> None:
    """Execute the notebook `sweep.report` over the weights of some runs; a failure is a line in the log."""
    from p2m_workbench.runs.notebooks import find_notebooks, read_parameters
    from p2m_workbench.runs.pipeline import NotebookError, run_notebooks

    first, *others = [shown(run_folder(run.config)) for run in runs]
    values = {"name": _sweep_name(config), "evaluate.weights": first}
    try:
        [file] = find_notebooks([config.sweep.report])
        parameters = {"checkpoints": others} if "checkpoints" in read_parameters(file) else {}
        values |= {} if parameters else {"evaluate.checkpoints": others}
        own = with_values(config.model_copy(update={"sweep": SweepConfig()}), values, "sweep")
        run_notebooks(own, [file], parameters, config.sweep.timeout_s)
    except (InputError, NotebookError) as error:
        _log.warning("no comparing report: %s", error)


def write_tables(
    folder: Path, runs: Sequence[Run], outcomes: Mapping[str, Outcome]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write sweep.csv and sweep.md.

    Returns: a row a run, with its headline metrics once it has ended; and a row a variant: how many of its runs ended
    well, and of each metric the mean over them, half the width of its 95% interval, and the same of the difference to
    the first variant, seed by seed.
    """
    import pandas as pd

    from p2m_workbench.runs.compare import headline, read_metrics

    ended = [outcomes[run.label].status != "waiting" for run in runs]
    metrics = [headline(read_metrics(run_folder(run.config))) if e else {} for run, e in zip(runs, ended, strict=True)]
    names = list(dict.fromkeys(name for row in metrics for name in row))
    rows = []
    for run, found in zip(runs, metrics, strict=True):
        outcome, values = outcomes[run.label], {field: str(value) for field, value in run.values.items()}
        end = {"attempts": outcome.attempts, "seconds": round(outcome.seconds, 1), "error": outcome.error}
        rows.append({"run": run.label, "variant": run.variant, **values, "status": outcome.status, **found, **end})
    table = pd.DataFrame(rows).set_index("run")
    by_variant = {variant: part.set_index("seed") for variant, part in table.groupby("variant", sort=False)}
    first = next(iter(by_variant.values()))
    summary = {}
    for variant, part in by_variant.items():
        summary[variant] = {"runs ok": int((part["status"] == "ok").sum()), "of": len(part)}
        for name in names:
            difference = {} if part is first else _mean_and_interval(part[name] - first[name], f"{name}, less first")
            summary[variant] |= _mean_and_interval(part[name], name) | difference
    summary = pd.DataFrame(summary.values(), index=pd.Index(summary, name="variant"))
    write_text(folder / "sweep.csv", table.to_csv())
    write_text(folder / "sweep.md", f"{as_markdown(summary)}\n{as_markdown(table)}")
    return table, summary


def _mean_and_interval(values: pd.Series, name: str) -> dict[str, float]:
    """Mean, and half of its 95% interval by Student's t where there are two values or more."""
    values = values.dropna()
    if len(values) < 2:
        return {name: values.mean()}
    from scipy.stats import t

    return {name: values.mean(), f"{name}, ±": t.ppf(0.975, len(values) - 1) * values.sem()}


def as_markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, numbers to four digits."""

    def line(cells: Sequence[Any]) -> str:
        texts = [str(cell) if not isinstance(cell, float) else f"{cell:.4g}" * (cell == cell) for cell in cells]
        return f"| {' | '.join(text.replace('|', '/') for text in texts)} |\n"

    heads = [table.index.name, *table.columns]
    return line(heads) + line(["---"] * len(heads)) + "".join(line(row) for row in table.itertuples())


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Refuse to work on a sweep that another process works on."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "sweep.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        remedy = "wait for it, or choose another name"
        raise InputError(folder, "sweep.lock", "another process works on this sweep", remedy) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _stopping(stop: Path, jobs: Sequence[Job]) -> Iterator[None]:
    """Ctrl-C and SIGTERM tell all runs to stop, wherever they are, and wait until they did."""

    def tell(*_: Any) -> None:
        stop.touch()
        raise KeyboardInterrupt

    stop.unlink(missing_ok=True)
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield
    except KeyboardInterrupt:
        for job in jobs:
            with contextlib.suppress(OSError, Timeout), FileLock(job.folder / "run.lock", timeout=GRACE_S):
                pass
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


BEAT_S, SILENT_S = 2.0, 60.0  # a run's process gives a sign of life; without one it is taken for dead
GRACE_S = 150.0  # what a run gets to write its checkpoint and end
POLL_S = 0.1
INTERRUPTED = 130
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a worker is told of a run. `threads`: of linear algebra, None leaves the worker's."""

    label: str
    root: Path
    folder: Path
    stop: Path
    config: str
    parameters: dict[str, Any]
    timeout_s: float | None
    limit_s: float | None
    retries: int
    threads: int | None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ok, failed, timeout, died, refused (bad input) or stopped; waiting before."""

    label: str
    status: str = "waiting"
    attempts: int = 0
    seconds: float = 0.0
    error: str = ""


def execute(job: Job) -> Outcome:
    """Execute a run in a process of its own, again if it fails; what became of it."""
    started, outcome = time.monotonic(), Outcome(job.label, "stopped")
    job.folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, job.retries + 2):
        if job.stop.exists():
            break
        status, error = _attempt(job)
        outcome = Outcome(job.label, status, attempt, time.monotonic() - started, error)
        if status in ("ok", "refused", "stopped"):
            break
    return outcome


def _attempt(job: Job) -> tuple[str, str]:
    """One attempt: status, and the error or ""."""
    paths = filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")])
    environment = os.environ | {
        "P2M_HOME": str(job.root),
        "PYTHONPATH": os.pathsep.join(paths),
        "TQDM_MININTERVAL": "5",
    }
    if job.threads:
        environment |= dict.fromkeys(THREADS, str(job.threads))
    told = {"config": job.config, "parameters": job.parameters, "timeout_s": job.timeout_s}
    with (
        open(job.folder / "run.log", "ab") as log,
        subprocess.Popen(
            [sys.executable, "-m", "p2m_workbench.runs.sweep"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=job.root,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches it by way of us alone
        ) as process,
    ):
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(told).encode() + b"\n")
                process.stdin.flush()
            ended = _watch(process, job)
        except KeyboardInterrupt:
            _end(process)
            raise
    return ended or _status_of(job, process.returncode)


def _watch(process: subprocess.Popen, job: Job) -> tuple[str, str] | None:
    """Wait for a run's process; status and error where it did not end by itself."""
    started = alive = time.monotonic()
    beat = None
    while process.poll() is None:
        now, seen = time.monotonic(), _beat_of(job.folder)
        if seen != beat:
            beat, alive = seen, now
        if job.stop.exists():
            _end(process)
            return "stopped", ""
        if now - alive > SILENT_S:
            _kill(process)
            return "died", f"no sign of life for {SILENT_S:g} s"
        if job.limit_s and now - started > job.limit_s:
            _kill(process)
            return "timeout", f"not done after {job.limit_s:g} s"
        time.sleep(POLL_S)
    return None


def _beat_of(folder: Path) -> int | None:
    """A number that changes while the run's process lives. Compared for change alone: clocks may jump or differ."""
    with contextlib.suppress(OSError):
        return (folder / ".heartbeat").stat().st_mtime_ns
    return None


def _end(process: subprocess.Popen) -> None:
    """Have a run write its checkpoint and end."""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        _kill(process)


def _kill(process: subprocess.Popen) -> None:
    """End a run's process at once; its kernel ends when it misses its parent."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _status_of(job: Job, code: int) -> tuple[str, str]:
    """Status and error of a run whose process ended by itself."""
    if code == 0:
        return "ok", ""
    lines = (job.folder / "run.log").read_text(errors="replace").splitlines()
    last = lines[-1].rpartition("\r")[2].strip() if lines else ""
    if code == 2:
        return "refused", last
    if code == 1:
        return ("timeout" if ": not done after " in last else "failed"), last
    return "died", f"ended by signal {-code}" if code < 0 else f"ended with exit status {code}: {last}"


def main() -> int:
    """Execute the run that stdin tells of.   Returns exit status: 0 done, 1 a notebook failed, 2 bad input, 130."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background may have it ignored
    told = json.loads(sys.stdin.buffer.readline())
    config = Config.model_validate_json(told["config"])
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    run_folder(config).mkdir(parents=True, exist_ok=True)
    threading.Thread(target=_beat, args=(run_folder(config) / ".heartbeat",), daemon=True).start()
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        from p2m_workbench.runs.pipeline import NotebookError, run_notebooks

        try:
            run_notebooks(config, parameters=told["parameters"], timeout_s=told["timeout_s"], wait_s=GRACE_S)
        except (InputError, NotebookError) as error:
            _log.error("%s", error)
            return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _beat(path: Path) -> None:
    while True:
        with contextlib.suppress(OSError):  # a full disk is for the run to report
            path.touch()
        time.sleep(BEAT_S)


def _stop_with_parent() -> None:
    """Interrupt this process when its stdin closes: whoever watches it wants it to stop, or is dead."""
    with contextlib.suppress(OSError):
        os.read(0, 1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE_S)
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
