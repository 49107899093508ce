"""The log of a training: metrics.csv, TensorBoard and the progress bar."""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import pandas as pd
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from p2m_core.config.settings import LOSS_TERMS
from p2m_core.errors import InputError
from p2m_core.files import atomic_path

COLUMNS = ("step", "epoch", "seconds", "lr", "loss", *LOSS_TERMS, "val_error", "samples_per_s")
REFRESH_S, REFRESH_LINES_S = 0.2, 10.0  # of the bar: in a terminal or notebook, and as lines of a log file


class MetricsLog:
    """Writes a run's metrics and shows its progress, as a context.

    Args: folder: the run's.   title: of the bar.   step: of the run; TensorBoard drops records after it.
          progress: share of the run that is done.
    """

    def __init__(self, folder: Path, title: str, step: int, progress: float):
        self.file = open(folder / "metrics.csv", "a", newline="")  # noqa: SIM115, closed in __exit__
        self.writer = csv.DictWriter(self.file, COLUMNS)
        if self.file.tell() == 0:
            self.writer.writeheader()
        self.board = SummaryWriter(folder / "tensorboard", purge_step=step)
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
        self.bar = tqdm(total=100, initial=100 * progress, unit="%", desc=title, bar_format=form)
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

    def show(self, progress: float, text: str = "") -> None:
        """Move the bar; `text` stands behind it, until there is a new one."""
        if text:
            self.bar.set_postfix_str(text, refresh=False)
        self.bar.n = round(100 * progress, 1)
        now = time.monotonic()
        if now - self.shown > (REFRESH_LINES_S if self.lines else REFRESH_S) or progress >= 1:
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
    """Columns step, loss and val_error of a run's metrics.csv so far; no rows if there are none yet.

    Raises: InputError if the file lacks one of them.
    """
    path, columns = run / "metrics.csv", ["step", "loss", "val_error"]
    if not path.exists() or not path.stat().st_size:  # a training that has just begun
        return pd.DataFrame(columns=columns, dtype=float)
    table = pd.read_csv(path, on_bad_lines="skip")
    if missing := [name for name in columns if name not in table]:
        raise InputError(path, missing[0], "is no column there: another version wrote it", "give another run")
    return table[columns]
