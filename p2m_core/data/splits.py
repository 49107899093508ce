"""Which samples train, which test: by a hash of their names, or, for AFLW2000-3D, by lists that are tracked.

data/splits/aflw2000-3d/{train,val,test}.txt  fold-1.txt ... fold-5.txt

The lists hold names, and so serve any part of AFLW2000-3D's 2000 images. The folds are a shuffle cut into five; fold 1
is the test split, and 100 of the others validate.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from p2m_core.config.paths import project_root
from p2m_core.config.settings import DataConfig
from p2m_core.errors import InputError
from p2m_core.files import decode_text

SPLITS = ("train", "val", "test")
FOLDS, VAL_COUNT, SEED = 5, 100, 2000


def assign_splits(names: np.ndarray, data: DataConfig, sources: np.ndarray | None = None) -> tuple[np.ndarray, str]:
    """Index into SPLITS of each sample (N,), by `data.split`, and which way of splitting that was.

    Args:    names: (N,) str.   sources: (N,) str, the photo that each was made of; samples of one stay together.
    Raises: InputError if a tracked split is asked for another set.
    """
    hashed = by_shares(names if sources is None else sources, data), "shares of a hash of the names"
    folder = project_root() / "data" / "splits" / "aflw2000-3d"
    if data.split == "shares" or (data.split == "auto" and not folder.is_dir()):  # an installation without the lists
        return hashed
    folds = {k: read_names(folder / f"fold-{k}.txt") for k in range(1, FOLDS + 1)}
    other = np.setdiff1d(names, np.concatenate([*folds.values()]))
    if len(other) and data.split == "auto":
        return hashed
    if len(other):
        problem = f"{data.split} is of AFLW2000-3D's 2000 images, and {other[0]} is none of them"
        raise InputError(data.raw, "data.split", problem, "take auto or shares")
    fold = 1 if data.split == "auto" else int(data.split.removeprefix("fold-"))
    rest = np.concatenate([listed for k, listed in folds.items() if k != fold])
    val = rest[np.random.default_rng([SEED, fold]).permutation(len(rest))[:VAL_COUNT]]
    val = read_names(folder / "val.txt") if fold == 1 else val
    split = np.where(np.isin(names, folds[fold]), 2, np.where(np.isin(names, val), 1, 0)).astype(np.uint8)
    return split, f"tracked lists of AFLW2000-3D, fold {fold}, {len(names)} of its 2000 images"


def by_shares(names: np.ndarray, data: DataConfig) -> np.ndarray:
    """Index into SPLITS of each sample (N,): shares of a shuffle that depends on the names and the seed alone."""
    digests = (hashlib.sha256(f"{data.split_seed}:{name}".encode()).digest() for name in names)
    value = np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])
    val = np.where(value < data.test_share + data.val_share, 1, 0)
    return np.where(value < data.test_share, 2, val).astype(np.uint8)


def read_names(path: str | Path) -> np.ndarray:
    """Names of samples, one a line, (N,) str.   Raises InputError if the file is missing or no text."""
    try:
        return np.array(decode_text(Path(path).read_bytes()).split())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "", f"is no list of names: {error}", "take it from the repository again") from None
