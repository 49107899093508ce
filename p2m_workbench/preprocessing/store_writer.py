"""Writing a store: in parts that a stopped run keeps, then laid together, the manifest last.

`faces` and `folders` say how samples of their kind are read; p2m_core/data/packed_store.py says what lies in a store.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from p2m_core import zip_files
from p2m_core.data.packed_store import REMAKE
from p2m_core.data.splits import SPLITS
from p2m_core.errors import InputError
from p2m_core.files import atomic_path, read_npz, sha256, write_json
from p2m_synth.parallel import map_jobs

JPEG_QUALITY = 95  # of the stored crops, 1 to 100; raise the versions of the stores when it changes
PART_SIZE = 100  # samples that are written, and after a stop kept, together
_log = logging.getLogger(__name__)

Columns = dict[str, np.ndarray]
# From samples and the number of the first one to columns of those that can be read, and the error lines of the others.
# A column named *.bin is bytes or numbers that are appended to the file of that name.
ReadSamples = Callable[[Sequence[Any], int], tuple[Columns, list[str]]]
# From the whole table, to which it adds the column split, to the template's arrays and further entries of the manifest.
FinishTable = Callable[[Columns], tuple[Columns, dict[str, Any]]]


@dataclass(frozen=True)
class Part:
    """Samples that are read and written together.

    samples; first: number of the first one in the set; out: the part's file; read: picklable, for other processes.
    """

    samples: tuple[Any, ...]
    first: int
    out: Path
    read: ReadSamples


def read_each(samples: Sequence[Any], first: int, read: Callable[[Any, int], Any]) -> tuple[list[Any], list[str]]:
    """read(sample, number) of every sample for which it raises no InputError, and the error lines of the others."""
    rows, skipped = [], []
    for number, sample in enumerate(samples, first):
        try:
            rows.append(read(sample, number))
        except InputError as error:
            skipped.append(str(error))
    return rows, skipped


def encode_jpeg(crop: np.ndarray) -> np.ndarray:
    """A crop (S, S, 3) uint8 RGB as the bytes of a JPEG file (n,) uint8."""
    return cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].ravel()


def write_part(part: Part) -> list[str]:
    """Read the samples of a part and write its file, unless it is there; the error lines of skipped samples."""
    if part.out.exists():
        return read_npz(part.out, REMAKE)["skipped"].tolist()
    columns, skipped = part.read(part.samples, part.first)
    with atomic_path(part.out) as temporary:
        np.savez(temporary, **columns, skipped=np.array(skipped, dtype=str))  # type: ignore[arg-type]  # the stubs take any array for allow_pickle
    return skipped


def write_store(
    out: Path,
    raw: Path,
    samples: Sequence[Any],
    files: list[Path],
    settings: dict[str, Any],
    read: ReadSamples,
    finish: FinishTable,
    template_name: str,
    unpaired: Sequence[InputError] = (),
    workers: int = 1,
) -> Path:
    """Make a store, unless one of the same files and settings is there.

    Samples that cannot be read are logged, listed in the manifest and skipped. A stopped run goes on after its last
    part.

    Args:    out: the store's folder.   raw: the data set's.   samples: what `read` gets, in order.
             files: raw files whose names, sizes and times decide whether a store is made anew.
             settings: the settings that decide it; they go into the manifest.   template_name: the template's file.
             unpaired: what else cannot be used, for the list in the manifest.   workers: processes.
    Returns: out.
    Raises:  InputError if no sample can be used, or the disk is full.
    """
    key = store_key(settings, raw, files)
    if is_made(out, key):
        return out
    folder = out / f"parts-{key[:12]}"
    parts = [
        Part(tuple(samples[i : i + PART_SIZE]), i, folder / f"{i:08d}.npz", read)
        for i in range(0, len(samples), PART_SIZE)
    ]
    for skipped in map_jobs(write_part, parts, workers if len(parts) > 1 else 1, f"samples, {PART_SIZE} a step"):
        for line in skipped:
            _log.warning("skipped %s", line)
    (out / "manifest.json").unlink(missing_ok=True)  # from here on, the old store is no more
    manifest = {"key": key, **settings, "raw": str(raw)}
    merge_parts(parts, out, manifest, [str(error) for error in unpaired], finish, template_name)
    for old in out.glob("parts-*"):
        shutil.rmtree(old)
    for left in out.glob(".*.partial.*"):  # of a run that was killed
        left.unlink()
    return out


def merge_parts(
    parts: list[Part], out: Path, manifest: dict[str, Any], skipped: list[str], finish: FinishTable, template_name: str
) -> None:
    """Lay the parts' files together, and write the template and the manifest.

    Args: manifest: its first entries.   skipped: error lines besides those of the parts.   The others: `write_store`'s.
    """
    columns: dict[str, list[np.ndarray]] = {}
    blobs: dict[str, Any] = {}
    with ExitStack() as stack:
        for part in parts:
            content = read_npz(part.out, REMAKE)
            skipped += content.pop("skipped").tolist()
            for name, values in content.items():
                if not name.endswith(".bin"):
                    columns.setdefault(name, []).append(values)
                    continue
                if name not in blobs:
                    blobs[name] = stack.enter_context(open(stack.enter_context(atomic_path(out / name)), "wb"))
                blobs[name].write(values.tobytes())
    if not columns:
        problem = f"none of its samples can be used, the first: {skipped[0]}"
        raise InputError(manifest["raw"], "", problem, "mend the files")
    table = {name: np.concatenate(arrays) for name, arrays in columns.items()}
    template, facts = finish(table)
    for name, arrays in (("samples.npz", table), (template_name, template)):
        with atomic_path(out / name) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]  # the stubs take any array for allow_pickle
    count, packed = len(table["name"]), [*blobs, "samples.npz"]
    manifest |= {
        "count": count,
        "splits": {name: int((table["split"] == k).sum()) for k, name in enumerate(SPLITS)},
        "skipped": skipped,
        **facts,
        "bytes_per_sample": round(sum((out / name).stat().st_size for name in packed) / count),
        "sha256": {name: sha256(out / name) for name in (*packed, template_name)},
    }
    write_json(out / "manifest.json", manifest)


def store_key(settings: dict[str, Any], raw: Path, files: list[Path]) -> str:
    """What a store is made of, as a hash: settings, and name, size and time of the raw files."""
    listing = [(str(path)[len(str(raw)) + 1 :], *zip_files.state(path)) for path in files]
    return hashlib.sha256(json.dumps([settings, listing]).encode()).hexdigest()


def is_made(out: Path, key: str) -> bool:
    """Whether a whole store of this key is there: its files have the hashes of its manifest."""
    if not (out / "manifest.json").exists():
        return False
    manifest = json.loads((out / "manifest.json").read_text())
    return manifest.get("key") == key and all(
        (out / name).exists() and sha256(out / name) == digest for name, digest in manifest["sha256"].items()
    )
