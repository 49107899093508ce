"""Training in a notebook, attached or in a process of its own, under the cockpit."""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from IPython.display import HTML, display

from p2m_core.config.loading import save_config
from p2m_core.config.paths import project_root, run_folder, shown
from p2m_core.config.settings import Config
from p2m_synth.signals import Stopped
from p2m_workbench.drawing.curves import draw_curves
from p2m_workbench.training.distributed import busy, is_training
from p2m_workbench.training.legs import (
    HISTORY_FILE,
    as_asked,
    asked_lines,
    changed_settings,
    earlier_runs,
    read_legs,
    require_same,
)
from p2m_workbench.training.metrics_log import read_curves
from p2m_workbench.training.previews import read_preview
from p2m_workbench.training.requests import send
from p2m_workbench.training.status import METRICS, STATUS_FILE, read_status, status_line
from p2m_workbench.training.trainer import train
from p2m_workbench.viewing.cockpit import Cockpit

STOPPED = (75, 130)  # exit statuses of `p2m train` that was stopped after a checkpoint
# Processes that this kernel started, by run: kept, or Python warns that they are collected while they run.
_children: dict[Path, subprocess.Popen] = {}


def read_run(folder: Path) -> Callable[[], tuple[Any, ...]]:
    """A function for `Cockpit.follow`: the run's meshes, curves, status and what it was asked; None for what has not
    changed."""
    seen: dict[Path, Any] = {}

    def changed(name: str, more: object = None) -> bool:
        path = folder / name
        if not path.exists() or not path.stat().st_size:
            return False
        now = path.stat().st_mtime, more
        return seen.get(path) != now and bool(seen.update({path: now}) or True)

    def read() -> tuple[Any, ...]:
        status = read_status(folder)
        return (
            read_preview(folder / "preview.npz") if changed("preview.npz") else None,
            read_curves(folder) if changed("metrics.csv") else None,
            status if changed(STATUS_FILE, status.get("state")) else None,
            asked_lines(read_legs(folder)) if changed(HISTORY_FILE) else None,
        )

    return read


def behind(config: Config) -> dict[str, Any]:
    """What the curves of a run are drawn with: `earlier` runs like it, and `units`."""
    earlier = {path.name: read_curves(path) for path in earlier_runs(config)}
    metric = METRICS["nme68_2d" if config.data.kind == "faces" else "cd_x1000"]
    return {"earlier": earlier, "units": {"val_error": metric}}


def run_curves(config: Config) -> HTML:
    """The curves of a config's run, crisp at any width, with those of earlier runs like it behind them."""
    svg = draw_curves(read_curves(run_folder(config)), **behind(config))
    # As a picture, since notebooks that are not trusted show no SVG of their own.
    picture = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    return HTML(
        f'<img src="{picture}" alt="Loss, validation error, learning rate" style="width:100%;max-width:1200px">'
    )


def start_detached(config: Config) -> None:
    """Start training in a process of its own, which outlives notebook and browser; its output goes to train.log."""
    folder = run_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(as_asked(config), folder / "config.yaml")
    command = [sys.executable, "-m", "p2m_workbench", "train", "--config", str(folder / "config.yaml")]
    with open(folder / "train.log", "ab") as log:
        child = subprocess.Popen(
            command, cwd=project_root(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    _children[folder] = child


def watch_training(config: Config, detach: bool = False, every_s: float = 2.0) -> str:
    """Train and show the cockpit meanwhile: bar and numbers, buttons, meshes of some validation samples and curves.

    Interrupting the cell writes a checkpoint, and running it again goes on. With `detach` the training runs in a
    process of its own: interrupting the cell, closing the browser or restarting the kernel leaves it alone, and
    running the cell again attaches to it. With train.processes above 1 they are processes of their own in any case,
    which outlive the kernel with `detach` alone; the output of the first is shown here.

    Returns: one line with the state of the run.
    """
    folder = run_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    cockpit = Cockpit(lambda request: send(folder, request), **behind(config))
    display(cockpit)
    finish = cockpit.follow(read_run(folder), every_s)
    try:
        if detach:
            wait_for_detached(config, every_s)
        else:
            train(config, bar=False)
    except KeyboardInterrupt:
        state = "trains on in its own process" if detach and is_training(folder) else "stopped, with a checkpoint"
        return f"{folder.name} {state}; run this cell again to go on"
    finally:
        finish()
    status = read_status(folder)
    return f"{folder.name} is finished: {status_line(status) if status else ''}\n{shown(folder)}"


def wait_for_detached(config: Config, every_s: float) -> None:
    """Start the run's process, unless it is there, and wait for its end.

    Raises: InputError if it was, or is trained with other settings; Stopped if it was stopped; RuntimeError if it
            failed.
    """
    folder = run_folder(config)
    finished = folder / "finished.json"
    require_same(config)
    if is_training(folder):
        if changed_settings(config):
            raise busy(folder)
    elif not finished.exists() or changed_settings(config):
        start_detached(config)
    child = _children.get(folder)  # None where another kernel started it
    while is_training(folder) if child is None else child.poll() is None:
        time.sleep(every_s)
    _children.pop(folder, None)
    if finished.exists() and (child is None or child.returncode == 0):
        return
    stopped = read_status(folder).get("state") == "stopped" if child is None else child.returncode in STOPPED
    if stopped:
        raise Stopped(str(folder))
    tail = (folder / "train.log").read_text(errors="replace").splitlines()[-5:]
    raise RuntimeError("the training process ended early, see train.log: " + " | ".join(tail))
