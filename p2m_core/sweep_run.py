"""One run of a sweep, in a process of its own that executes the notebooks.

    sweep() --map_jobs--> execute() a run, watches --stdin, .heartbeat--> main() in its process --papermill--> kernel

Whoever dies, what hangs below it stops: a run's process ends when its stdin closes, after its cell wrote a checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2m_core.config import Config, run_folder
from p2m_core.errors import InputError
from p2m_core.jobs import THREADS

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


# ------------------------------------------------------------------------------------------------ beside a run


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
    paths = filter(None, [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")])
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
            [sys.executable, "-m", "p2m_core.sweep_run"],
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


# ------------------------------------------------------------------------------------------------ a run's process


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
        from p2m_core.pipeline import NotebookError, run_notebooks

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
