"""What data and models are there, what each is for, and where the missing ones come from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from p2m_core.data.aflw2000 import IMAGE_SUFFIXES
from p2m_core.faces.formats import EXPRESSION_FILE, SHAPE_FILE

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
_3DDFA_PAGE = "http://www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm"
_SYNTHETIC = ("faces to train and to test on", "CC0 (MakeHuman)", "made by `p2m synth`")


class Row(NamedTuple):
    """One thing that the project can use.

    name   status: "there", "incomplete" or "missing"   detail: how many samples, or which file is missing
    path   purpose   licence   source: where it comes from
    """

    name: str
    status: str
    detail: str
    path: Path
    purpose: str
    licence: str
    source: str


def report(root: str | Path) -> list[Row]:
    """Look for data sets, face models, stores and weights.

    Args:    root: the project's root, which holds data/.
    Returns: one row each, those that are missing included.
    """
    raw, processed = Path(root) / "data" / "raw", Path(root) / "data" / "processed"
    return [
        _data_set(
            raw / "AFLW2000-3D",
            "AFLW2000-3D",
            "real photos to evaluate on",
            "research only, not to be passed on",
            f"AFLW2000-3D.zip of {_3DDFA_PAGE}",
        ),
        _data_set(
            raw / "300W_LP",
            "300W-LP",
            "real photos to train on",
            "research only, not to be passed on",
            f"300W-LP.zip of {_3DDFA_PAGE}",
        ),
        _face_model(
            raw / "BFM",
            "Basel face model",
            "exact dense ground truth of the real sets; without it our model is fitted to the landmarks",
            "non-commercial, not to be passed on",
            f"https://faces.dmi.unibas.ch/bfm, in the form of {_3DDFA_PAGE}",
        ),
        _data_set(
            raw / "synthetic",
            "synthetic set",
            *_SYNTHETIC,
        ),
        _face_model(
            processed / "face_model",
            "own face model",
            "template, synthetic faces, ground truth by fitting",
            "CC0 (MakeHuman)",
            "made by `p2m synth`",
        ),
        *_other_sets(raw),
        *_stores(processed),
        *_weights(),
    ]


def _data_set(path: Path, name: str, *texts: str) -> Row:
    samples = count_samples(path)
    return Row(name, "there" if samples else "missing", f"{samples} samples" if samples else "", path, *texts)


def _other_sets(raw: Path) -> Iterator[Row]:
    """One row each further folder of samples, such as a second synthetic set."""
    known = {"AFLW2000-3D", "300W_LP", "BFM", "synthetic"}
    for folder in sorted(path for path in raw.glob("*/") if path.name not in known):
        texts = ("photos with annotation", "not known here", "put there by you")
        row = _data_set(folder, folder.name, *(_SYNTHETIC if folder.name.startswith("synthetic") else texts))
        if row.status == "there":
            yield row


def count_samples(folder: str | Path) -> int:
    """How many .mat files in a folder and below have an image beside them."""
    return sum(
        any(f"{name[:-4]}{suffix}" in present for suffix in IMAGE_SUFFIXES)
        for _, _, names in os.walk(folder)
        for present in [set(names)]
        for name in names
        if name.endswith(".mat")
    )


def _face_model(path: Path, name: str, *texts: str) -> Row:
    missing = [file for file in (SHAPE_FILE, EXPRESSION_FILE) if not (path / file).is_file()]
    status = {0: "there", 1: "incomplete", 2: "missing"}[len(missing)]
    return Row(name, status, f"{missing[0]} is missing" if len(missing) == 1 else "", path, *texts)


def _stores(processed: Path) -> Iterator[Row]:
    """One row a store, or one that says that there is none."""
    texts = ("photos cut and packed, what training reads", "that of the data set in it", "made by `p2m preprocess`")
    stores = sorted(path.parent for path in processed.glob("*/manifest.json"))
    for store in stores:
        yield Row(f"store {store.name}", "there", "", store, *texts)
    if not stores:
        yield Row("store", "missing", "", processed, *texts)


def _weights() -> Iterator[Row]:
    """One row a bundled weight file, or one that says that there is none."""
    texts = ("prediction without training", "MIT, trained on CC0 faces only", "part of the project's repository")
    files = sorted(WEIGHTS_FOLDER.glob("*.safetensors"))
    for file in files:
        yield Row(f"weights {file.stem}", "there", f"{file.stat().st_size / 1e6:.1f} MB", file, *texts)
    if not files:
        yield Row("bundled weights", "missing", "", WEIGHTS_FOLDER, *texts)
