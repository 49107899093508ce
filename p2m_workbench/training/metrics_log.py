"""The log of a training: metrics.csv, TensorBoard and the progress bar."""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from p2m_core.config.settings import LOSS_TERMS
from p2m_core.errors import InputError
from p2m_core.files import atomic_path
from p2m_workbench.training.status import StatusFile, status_line

COLUMNS = ("step", "epoch", "seconds", "lr", "loss", *LOSS_TERMS, "val_error", "samples_per_s")
REFRESH_S, REFRESH_LINES_S = 0.2, 10.0  # of the bar: in a terminal or notebook, and as lines of a log file


class MetricsLog:
    """Writes a run's metrics and shows its progress, as a context.

    Args: folder: the run's.   title: of the bar.   step: of the run; TensorBoard drops records after it.
          progress: share of the run that is done.   bar: whether to show one.
    """

    def __init__(self, folder: Path, title: str, step: int, progress: float, bar: bool = True):
        self.file = open(folder / "metrics.csv", "a", newline="")  # noqa: SIM115, closed in __exit__
        self.writer = csv.DictWriter(self.file, COLUMNS)
        if self.file.tell() == 0:
            self.writer.writeheader()
        self.board = SummaryWriter(folder / "tensorboard", purge_step=step)
        self.status = StatusFile(folder)
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed} {postfix}"
        self.bar = tqdm(total=100, initial=100 * progress, unit="%", desc=title, bar_format=form, disable=not bar)
        # A bar that is drawn over itself would be one endless line in a log file.
        self.lines = not hasattr(self.bar, "container") and not sys.stderr.isatty()
        if self.lines:
            self.bar.bar_format = form + "\n"
        self.shown = time.monotonic()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.board.close()
        self.bar.close()

    def record(self, step: int, values: dict[str, float]) -> None:
        """Add a row."""
        self.writer.writerow({"step": step, **values})
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def show(self, status: dict[str, Any], at_once: bool = False) -> None:
        """Move the bar, write the numbers behind it and into status.json."""
        self.status.write(status, at_once)
        now = time.monotonic()
        if at_once or now - self.shown > (REFRESH_LINES_S if self.lines else REFRESH_S) or status["share"] >= 1:
            self.bar.n = round(100 * status["share"], 1)
            self.bar.set_postfix_str(status_line(status), refresh=False)
            self.bar.refresh()
            self.shown = now


def trim_metrics(path: Path, step: int) -> None:
    """Drop the rows after `step`, which a stopped run wrote after its last checkpoint, and a last row cut short.

    Raises: InputError if the file has other columns than those of today.
    """
    if not path.exists():
        return
    if b"\n" not in path.read_bytes():  # the run was killed while it wrote the names of the columns
        path.unlink()
        return
    with open(path, newline="") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames) != COLUMNS:
            raise InputError(path, "", "has other columns: another version wrote it", "train under another name")
        rows = [row for row in reader if row["step"].isdigit() and None not in row.values()]
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(row for row in rows if int(row["step"]) <= step)


def read_curves(run: Path) -> pd.DataFrame:
    """A run's metrics.csv so far: columns COLUMNS, rows of training and of validation; no rows if there are none yet.

    Raises: InputError if the file lacks one of step, loss and val_error.
    """
    path = run / "metrics.csv"
    if not path.exists() or not path.stat().st_size:  # a training that has just begun
        return pd.DataFrame(columns=list(COLUMNS), dtype=float)
    table = pd.read_csv(path, on_bad_lines="skip")
    if missing := [name for name in ("step", "loss", "val_error") if name not in table]:
        raise InputError(path, missing[0], "is no column there: another version wrote it", "give another run")
    return table
