"""predictions.csv: a row a face or failed photo, of all calls into a folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from p2m_core.errors import InputError
from p2m_core.files import atomic_path, decode_text

TABLE_FILE = "predictions.csv"
BOX_FIELDS = ("x0", "y0", "x1", "y1")
POSE_FIELDS = ("pitch_deg", "yaw_deg", "roll_deg", "x_px", "y_px", "z_px", "px_per_unit")
CLIP_FIELDS = ("frame", "time_s", "identity")  # of a film's faces
TABLE_FIELDS = ("name", "photo", "problem", "doubt", *BOX_FIELDS, *POSE_FIELDS, *CLIP_FIELDS)


def open_table(path: Path) -> Iterator[dict]:
    """The rows of a predictions.csv, one by one; none where there is none.   Raises InputError if it is another one."""
    if not path.is_file():
        return iter(())
    try:
        text = io.StringIO(decode_text(path.read_bytes()))
        rows = csv.DictReader(text)
        names = set(rows.fieldnames or TABLE_FIELDS)
        for _ in rows:  # to its end, so that what is wrong is said before it is written over
            pass
        text.seek(0)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, "", f"cannot be read: {error}", "move it away, or choose another --out") from None
    if unlike := (names ^ set(TABLE_FIELDS)) - set(CLIP_FIELDS):  # which older tables lack
        problem = f"is no table of predictions: {min(unlike)} is in only one of them"
        raise InputError(path, "", problem, "move it away, or choose another --out")
    return csv.DictReader(text)


def write_table(path: Path, again: Collection[str], rows: Iterable[dict], row_files: Iterable[Path]) -> None:
    """Write rows, and those of tables, after the rows of other photos than `again` that the table has; what a row
    lacks stays empty. Films have many rows: they are in memory one by one."""
    before = (row for row in open_table(path) if row["photo"] not in again)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, TABLE_FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(before)
        writer.writerows(rows)
        for own in row_files:
            with open(own, encoding="utf-8", newline="") as stream:
                writer.writerows(csv.DictReader(stream))
