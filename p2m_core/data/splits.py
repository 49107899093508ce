"""Which samples train, which test: by a hash of their names, or, for AFLW2000-3D, by lists that are tracked.

data/splits/aflw2000-3d/{train,val,test}.txt  fold-1.txt ... fold-5.txt

AFLW2000-3D's 2000 images are named by their row, from 0, in ascending order of their names; so the lists hold none of
the data set. Fold 1 is the test split.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from p2m_core.config.paths import project_root
from p2m_core.config.settings import DataConfig
from p2m_core.errors import InputError
from p2m_core.files import write_text

SPLITS = ("train", "val", "test")
NAME_AT_ROW = {28: "image00050", 1636: "image03614"}  # of the whole set of 2000; names of synthetic sets have no gaps
AFLW2000_COUNT, FOLDS, VAL_COUNT, SEED = 2000, 5, 100, 2000


def assign_splits(names: np.ndarray, data: DataConfig, sources: np.ndarray | None = None) -> tuple[np.ndarray, str]:
    """Index into SPLITS of each sample (N,), and which way of splitting that was.

    data.split "auto" takes the tracked lists for a set of AFLW2000-3D's 2000 names, else shares.

    Args:    names: (N,) str.   sources: (N,) str, the photo that each was made of; samples of one stay together.
    Raises: InputError if a tracked split is asked for another set.
    """
    ascending = np.argsort(names)
    whole = len(names) == AFLW2000_COUNT and all(names[ascending[row]] == name for row, name in NAME_AT_ROW.items())
    if data.split == "shares" or (data.split == "auto" and not whole):
        return by_shares(names if sources is None else sources, data), "shares of a hash of the names"
    if not whole:
        problem = f"{data.split} is of the 2000 images of AFLW2000-3D, this set has {len(names)}"
        raise InputError(data.raw, "data.split", problem, "take auto or shares")
    fold = 1 if data.split == "auto" else int(data.split.removeprefix("fold-"))
    folder = project_root() / "data" / "splits" / "aflw2000-3d"
    if fold == 1:
        lists = {name: read_rows(folder / f"{name}.txt") for name in SPLITS}
    else:
        folds = {k: read_rows(folder / f"fold-{k}.txt") for k in range(1, FOLDS + 1)}
        rest = np.concatenate([rows for k, rows in folds.items() if k != fold])
        val = rest[np.random.default_rng([SEED, fold]).permutation(len(rest))[:VAL_COUNT]]
        lists = {"train": np.setdiff1d(rest, val), "val": val, "test": folds[fold]}
    split = np.empty(len(names), np.uint8)
    for k, name in enumerate(SPLITS):
        split[ascending[lists[name]]] = k
    return split, f"tracked lists of AFLW2000-3D, fold {fold}"


def by_shares(names: np.ndarray, data: DataConfig) -> np.ndarray:
    """Index into SPLITS of each sample (N,): shares of a shuffle that depends on the names and the seed alone."""

    def place(name: str) -> float:
        digest = hashlib.sha256(f"{data.split_seed}:{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    value = np.array([place(name) for name in names])
    return np.where(value < data.test_share, 2, np.where(value < data.test_share + data.val_share, 1, 0)).astype(
        np.uint8
    )


def read_rows(path: str | Path) -> np.ndarray:
    """Row numbers, one a line, (N,) int64.   Raises InputError if the file is missing or holds anything else."""
    path = Path(path)
    try:
        return np.array([int(line) for line in path.read_text().split()], np.int64)
    except (OSError, ValueError) as error:
        raise InputError(path, "", f"is no list of row numbers: {error}", "take it from the repository again") from None


def write_aflw2000_lists(folder: str | Path) -> None:
    """Draw the lists of AFLW2000-3D anew: five folds of a shuffle; fold 1 to test, 100 of the rest to validate."""
    order = np.random.default_rng(SEED).permutation(AFLW2000_COUNT)
    folds = np.split(order, FOLDS)
    lists = {f"fold-{k}": rows for k, rows in enumerate(folds, 1)}
    rest = np.concatenate(folds[1:])
    lists |= {"test": folds[0], "val": rest[:VAL_COUNT], "train": rest[VAL_COUNT:]}
    for name, rows in lists.items():
        write_text(Path(folder) / f"{name}.txt", "".join(f"{row}\n" for row in sorted(rows.tolist())))


if __name__ == "__main__":
    write_aflw2000_lists(project_root() / "data" / "splits" / "aflw2000-3d")
