"""Which data sets, face models, stores and weights are there, what each is for, and where missing ones come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from p2m_core import zip_files
from p2m_core.config.paths import BUNDLED
from p2m_core.data.aflw2000 import scan
from p2m_core.errors import InputError
from p2m_core.morphable.formats import EXPRESSION_FILE, SHAPE_FILE, find_face_model
from p2m_workbench.preprocessing import folder_files as folder_set

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
        _data_set(raw / "synthetic", "synthetic set", *_SYNTHETIC),
        _face_model(
            processed / "face_model",
            "own face model",
            "template, synthetic faces, ground truth by fitting",
            "CC0 (MakeHuman)",
            "made by `p2m synth`",
        ),
        *_other_sets(raw),
        *_stores(processed),
        *_weights(BUNDLED.parent),
    ]


def _data_set(path: Path, name: str, *texts: str) -> Row:
    """The row of a set in a folder, or in a zip of the folder's or the set's name."""
    for place in (path, path.with_name(f"{path.name}.zip"), path.with_name(f"{name}.zip")):
        try:
            if zip_files.is_set(place) and (samples := count_samples(place)):
                return Row(name, "there", f"{samples} samples", place, *texts)
        except InputError as error:
            return Row(name, "incomplete", str(error), place, *texts)
    return Row(name, "missing", "", path, *texts)


def _other_sets(raw: Path) -> Iterator[Row]:
    """One row each further folder of samples, such as a second synthetic set."""
    known = {"AFLW2000-3D", "300W_LP", "300W-LP", "BFM", "synthetic"}
    others = [path for path in (*raw.glob("*/"), *raw.glob("*.zip")) if path.name.removesuffix(".zip") not in known]
    for path in sorted(others):
        texts = ("photos with annotation", "not known here", "put there by you")
        row = _data_set(path, path.name, *(_SYNTHETIC if path.name.startswith("synthetic") else texts))
        if row.status != "missing":
            yield row


def count_samples(place: str | Path) -> int:
    """How many .mat files, or meshes and points of a folder set, have an image beside them in a folder or zip."""
    return sum(image is not None for _, image in scan(place)) or (
        len(folder_set.scan(place)[0]) if folder_set.is_folder_set(place) else 0
    )


def _face_model(path: Path, name: str, *texts: str) -> Row:
    """The row of a face model in a folder: incomplete if only one of its two files is there."""
    missing = [file for file in (SHAPE_FILE, EXPRESSION_FILE) if not (path / file).is_file()]
    if missing and (other := find_face_model(path)) and other.name != SHAPE_FILE:
        return Row(name, "there", other.name, path, *texts)
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


def _weights(folder: Path) -> Iterator[Row]:
    """One row a bundled weight file, or one that says that there is none."""
    texts = ("prediction without training", "MIT, trained on CC0 faces only", "part of the project's repository")
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        yield Row(f"weights {file.stem}", "there", f"{file.stat().st_size / 1e6:.1f} MB", file, *texts)
    if not files:
        yield Row("bundled weights", "missing", "", folder, *texts)
