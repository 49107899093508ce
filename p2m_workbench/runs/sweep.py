"""Many runs of one config, each by a `p2m run` of its own: their plan, their execution, their tables.

outputs/NAME-sweep/  sweep.yaml           the settings
                     sweep.csv, sweep.md  a row a run; in sweep.md also a row a variant, with means over the seeds
                     notebooks/           the notebook `sweep.report`, executed for all runs that ended well
                     RUN/                 the folder of a run, see pipeline.py; run.log is the output of its `p2m run`
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from p2m_core.config.loading import config_hash, save_config, with_values
from p2m_core.config.paths import project_root, run_folder, shown
from p2m_core.config.settings import Config, SweepConfig
from p2m_core.errors import InputError
from p2m_core.files import write_text
from p2m_synth.parallel import THREADS, map_jobs
from p2m_synth.signals import PARENT, StopSignals
from p2m_workbench.runs.compare import headline, read_metrics
from p2m_workbench.runs.notebooks import find_notebooks, read_parameters
from p2m_workbench.runs.pipeline import LOCK_NAME, NotebookError, exclusive, is_finished, read_history, run_notebooks

GRACE_S = 150.0  # what a run gets to write its checkpoint and end
POLL_S = 0.1
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
class Outcome:
    """How a run ended: ok, failed, timeout, died, refused (wrong input) or stopped (by Ctrl-C); before that, waiting.

    attempts: how often it was started; 0 if it was finished already.
    """

    label: str
    status: str = "waiting"
    attempts: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Sweep:
    """A sweep that ended. table: a row a run.   summary: a row a variant.   failed: labels of runs that did not end
    well.   folder: of all its files."""

    table: pd.DataFrame
    summary: pd.DataFrame
    failed: list[str]
    folder: Path

    def __str__(self) -> str:
        tables = [self.table, self.summary] if len(self.summary) < len(self.table) else [self.table]
        return "\n\n".join([*(t.round(3).to_string() for t in tables), f"written: {self.folder}"])


# ------------------------------------------------------------------------------------------------ plan


def plan_runs(config: Config) -> list[Run]:
    """The runs of `config.sweep`, in order: every variant with every combination of the grid, and every seed.

    A run with other data or template settings than the config gets a store of its own.

    Raises: InputError if nothing varies, a setting is unknown or of the wrong type, or two runs would be the same.
    """
    wanted = config.sweep
    if not wanted.variants and not wanted.grid and wanted.seeds == 1:
        remedy = "give --grid train.lr=1e-4,3e-4, --seeds 3, or a config with sweep.variants"
        raise InputError("sweep", "sweep.grid", "nothing varies", remedy)
    base = config.model_copy(update={"sweep": SweepConfig()})
    last_names = Counter(field.rpartition(".")[2] for field in wanted.grid)
    runs = []
    for name, fixed in (wanted.variants or {"": {}}).items():
        for combination in itertools.product(*wanted.grid.values()):
            grid = dict(zip(wanted.grid, combination, strict=True))
            parts = [_slug(name)] if name else []
            for field, value in grid.items():
                last = field.rpartition(".")[2]
                parts.append(f"{last if last_names[last] == 1 else field}-{_slug(value)}")
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
        raise InputError("sweep", "sweep.grid", f"has two runs named {twice[0]}", "give each value once")
    return runs


def _sweep_name(config: Config) -> str:
    return f"{config.name}-sweep"


def _slug(value: Any) -> str:
    """A value as part of a folder's name."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip(".")[:40] or "empty"


# ------------------------------------------------------------------------------------------------ execution


def sweep(config: Config, parameters: Mapping[str, Any] | None = None) -> Sweep:
    """Execute every run that is not finished, then the notebook that compares them.

    A run that fails is tried again `sweep.retries` times; the others go on. Ctrl-C or SIGTERM lets the running ones
    write their checkpoints; the same call then goes on from there.

    Args:    parameters: of the notebooks, as for `run_notebooks`.
    Raises:  InputError before any run starts, also if another process works on this sweep.
    """
    wanted, runs = config.sweep, plan_runs(config)
    folder = project_root() / "outputs" / _sweep_name(config)
    finished = [run for run in runs if is_finished(run.config, parameters)]  # checks the parameters too
    outcomes = {run.label: Outcome(run.label, "ok" if run in finished else "waiting") for run in runs}
    options = ["--timeout", str(wanted.timeout_s)] if wanted.timeout_s else []
    for name, value in (parameters or {}).items():
        options += ["-p", f"{name}={json.dumps(value, ensure_ascii=False)}"]
    with exclusive(folder / "sweep.lock", "another process works on this sweep"):
        save_config(config, folder / "sweep.yaml")
        with StopSignals() as stop:

            def execute(run: Run) -> Outcome:
                return _run_with_retries(run, wanted, options, stop)

            waiting = [run for run in runs if run not in finished]
            for outcome in map_jobs(execute, waiting, wanted.jobs, config.name, threads=True):
                outcomes[outcome.label] = outcome
                write_tables(folder, runs, outcomes)
                if outcome.status not in ("ok", "stopped"):
                    _log.warning("%s %s: %s", outcome.label, outcome.status, outcome.error)
            if stop.received:
                raise KeyboardInterrupt
        table, summary = write_tables(folder, runs, outcomes)
        good = [run for run in runs if outcomes[run.label].status == "ok"]
        if wanted.report and good:
            _compare(config, good)
    return Sweep(table, summary, [run.label for run in runs if run not in good], folder)


def _run_with_retries(run: Run, wanted: SweepConfig, options: Sequence[str], stop: StopSignals) -> Outcome:
    """Execute a run by `p2m run`, again if it fails, until a signal comes."""
    started, outcome = time.monotonic(), Outcome(run.label, "stopped")
    for attempt in range(1, wanted.retries + 2):
        if stop.received:
            break
        status, error = _run_once(run, wanted, options, stop)
        outcome = Outcome(run.label, status, attempt, time.monotonic() - started, error)
        if status in ("ok", "refused", "stopped"):
            break
    return outcome


def _run_once(run: Run, wanted: SweepConfig, options: Sequence[str], stop: StopSignals) -> tuple[str, str]:
    """One `p2m run`: its status, and its error or ""."""
    folder = run_folder(run.config)
    folder.mkdir(parents=True, exist_ok=True)
    # The run of a sweep that was killed may still write its checkpoint here.
    with suppress(Timeout), FileLock(folder / LOCK_NAME, timeout=GRACE_S):
        config = save_config(run.config, folder / "config.yaml")
    limit_s = _time_limit(run, wanted)
    with open(folder / "run.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "p2m_workbench", "run", "-c", str(config), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=project_root(),
            env=_environment(wanted.jobs),
            start_new_session=True,  # so that Ctrl-C in the terminal reaches it only through us
        )
    started = time.monotonic()
    while process.poll() is None:
        if stop.received:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            process.kill()
            process.wait()
            return "stopped", ""
        if time.monotonic() - started > limit_s:
            process.kill()  # its kernel ends when it misses its parent
            process.wait()
            return "timeout", f"not done after {limit_s:g} s"
        time.sleep(POLL_S)
    return _status(folder, process.returncode)


def _time_limit(run: Run, wanted: SweepConfig) -> float:
    """Seconds after which a `p2m run` counts as hung: each of its notebooks has a limit of its own, shorter."""
    notebooks = 1 + len(run.config.notebooks)
    return notebooks * wanted.timeout_s + GRACE_S if wanted.timeout_s else float("inf")


def _environment(jobs: int) -> dict[str, str]:
    """Environment variables of a `p2m run` that shares this machine with others."""
    package = str(Path(__file__).resolve().parents[2])
    threads = os.environ.get(THREADS[0]) or str(max(1, (os.cpu_count() or 1) // jobs))
    return os.environ | {
        "P2M_HOME": str(project_root()),
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "TQDM_MININTERVAL": "5",
        PARENT: str(os.getpid()),
        **dict.fromkeys(THREADS, threads),
    }


def _status(folder: Path, code: int) -> tuple[str, str]:
    """Status and error of a `p2m run` by its exit status, its run.json and its output."""
    if code == 0:
        return "ok", ""
    failed = [record for record in read_history(folder).values() if record.status in ("failed", "timeout")]
    if code == 1 and failed:
        return failed[0].status, failed[0].error
    lines = (folder / "run.log").read_text(errors="replace").splitlines()
    last = lines[-1].rpartition("\r")[2].strip() if lines else ""
    if code in (1, 2):
        return ("failed", last) if code == 1 else ("refused", last)
    return "died", f"ended by signal {-code}" if code < 0 else f"ended with exit status {code}: {last}"


def _compare(config: Config, runs: Sequence[Run]) -> None:
    """Execute the notebook `sweep.report` for the weights of some runs; if it fails, log a warning."""
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


# ------------------------------------------------------------------------------------------------ tables


def write_tables(
    folder: Path, runs: Sequence[Run], outcomes: Mapping[str, Outcome]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write sweep.csv and sweep.md.

    Returns: table: a row a run, with its headline metrics once it has ended.   summary: a row a variant: how many of
    its runs ended well, and of each metric the mean over them, half the width of its 95% interval, and the same of
    the difference to the first variant, seed by seed.
    """
    rows, names = [], {}
    for run in runs:
        outcome = outcomes[run.label]
        metrics = headline(read_metrics(run_folder(run.config))) if outcome.status != "waiting" else {}
        names |= metrics
        values = {field: str(value) for field, value in run.values.items()}
        end = {"attempts": outcome.attempts, "seconds": round(outcome.seconds, 1), "error": outcome.error}
        rows.append({"run": run.label, "variant": run.variant, **values, "status": outcome.status, **metrics, **end})
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
    write_text(folder / "sweep.md", "\n".join(_as_markdown(part) for part in (summary, table)))
    return table, summary


def _mean_and_interval(values: pd.Series, name: str) -> dict[str, float]:
    """Mean, and half of its 95% interval by Student's t where there are two values or more."""
    values = values.dropna()
    if len(values) < 2:
        return {name: values.mean()}
    from scipy.stats import t

    return {name: values.mean(), f"{name}, ±": t.ppf(0.975, len(values) - 1) * values.sem()}


def _as_markdown(table: pd.DataFrame) -> str:
    cells = table.astype(object).where(table.notna(), "").replace(r"\|", "/", regex=True)
    return cells.to_markdown(floatfmt=".4g") + "\n"
