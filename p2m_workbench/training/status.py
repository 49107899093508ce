"""Where a training stands, for its bar, for notebook 02 and for `p2m control`: RUN/status.json."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch

from p2m_core.files import write_json
from p2m_workbench.training.distributed import is_training

STATUS_FILE = "status.json"
WRITE_S = 2.0  # between two writings
GIB = 2**30
# The validation metrics of the stores in words, with their units.
METRICS = {"nme68_2d": "nme68-2d, % of the face size", "cd_x1000": "CD x1000"}


class StatusFile:
    """Writes a run's status, at most once in WRITE_S."""

    def __init__(self, folder: Path):
        self.path, self.written = folder / STATUS_FILE, float("-inf")

    def write(self, status: dict[str, Any], at_once: bool = False) -> None:
        if at_once or time.monotonic() - self.written > WRITE_S:
            write_json(self.path, status)
            self.written = time.monotonic()


def read_status(folder: Path) -> dict[str, Any]:
    """A run's status as last written; {} if it has none. `state` is trains, stopped, finished, or, where the process
    is gone without a word, ended."""
    path = folder / STATUS_FILE
    status: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if status.get("state") == "trains" and not is_training(folder):
        status["state"] = "ended"
    return status


def status_line(status: dict[str, Any]) -> str:
    """The numbers of a status as one line."""
    parts = [f"step {status['step']}" + (f" of {status['steps']}" if status["steps"] else "")]
    parts.append(f"epoch {status['epoch']}" + (f" of {status['epochs']}" if status["steps"] else ""))
    if status["loss"] is not None:
        parts.append(f"loss {status['loss']:.4f}")
    parts.append(f"learning rate {status['lr']:.2e}")
    if status["samples_per_s"]:
        parts.append(f"{status['samples_per_s']:.1f} samples/s")
    if status["best"] is not None:
        parts.append(
            f"best {status['metric'].replace('_', '-')} {status['best']:.2f}"
            + " %" * status["metric"].startswith("nme")
        )
    parts.append(f"{status['memory_gib']:.1f} GiB of memory")
    if status["seconds_left"] is not None and status["state"] == "trains":
        parts.append(f"{duration(status['seconds_left'])} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


def memory_gib(device: torch.device) -> float:
    """Memory in use: of this process, or on CUDA what torch holds of the card."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device) / GIB
    return psutil.Process().memory_info().rss / GIB
