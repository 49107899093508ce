"""The files of a store: written in parts that a stopped run keeps, laid together, and opened.

    STORE/  manifest.json   what the store is made of, hashes, skipped samples; written last: a store is whole or absent
            images.bin      the samples' crops as JPEG files, one after another; clouds.bin likewise, if there are any
            samples.npz     one row a sample: the columns that its kind of store lists, and split
            model.npz       the template (template.npz in stores of folder sets)
            parts-KEY/      only while the store is made: PART_SIZE samples a file

`preprocess` and `preprocess_folder` say how samples of their kind are read, `FaceStore` and `FolderStore` what training
asks of them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from p2m_core import zip_files
from p2m_core.config.paths import resolve
from p2m_core.data.splits import SPLITS
from p2m_core.errors import InputError
from p2m_core.files import atomic_path, read_npz, sha256, write_json
from p2m_core.geometry.crop import crop_matrix
from p2m_core.geometry.template import Template
from p2m_core.parallel import map_jobs

JPEG_QUALITY = 95  # of the stored crops, 1 to 100; raise the versions of the stores when it changes
PART_SIZE = 100  # samples that are written, and after a stop kept, together
REMAKE = "run p2m preprocess again"
_log = logging.getLogger(__name__)

Columns = dict[str, np.ndarray]
# From samples and the number of the first one to columns of those that can be read, and the error lines of the others.
# A column named *.bin is bytes or numbers that are appended to the file of that name.
ReadSamples = Callable[[Sequence[Any], int], tuple[Columns, list[str]]]
# From the whole table, to which it adds the column split, to the template's arrays and further entries of the manifest.
FinishTable = Callable[[Columns], tuple[Columns, dict[str, Any]]]


# --- writing --------------------------------------------------------------------------------------


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


# --- reading --------------------------------------------------------------------------------------


class PackedStore:
    """A store, opened: what stores of faces and of folder sets have in common.

    manifest: the content of manifest.json.   table: the columns of samples.npz, one row a sample, among them name,
    length (bytes of the crop), crop (N, 2, 3) image px to store px, split (index into SPLITS).
    template: Template.   arrays: all that is in the template's file.   size_px, margin: of the stored crops.
    starts: (N + 1,) places of the crops in images.bin.

    Raises: InputError if there is no finished store, if it is of another kind or version, or if a file is missing or
            has another size.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    template_name: ClassVar[str]

    def __init__(self, folder: str | Path):
        self.folder = resolve(folder)
        path = self.folder / "manifest.json"
        if not path.exists():
            raise InputError(self.folder, "", "is no finished store", "run p2m preprocess")
        self.manifest: dict[str, Any] = json.loads(path.read_text())
        if (kind := self.manifest.get("kind", "faces")) != self.kind:
            raise InputError(path, "kind", f"is {kind}, not {self.kind}", f"set data.kind={kind}")
        if self.manifest["version"] != self.version:
            raise InputError(path, "version", f"is {self.manifest['version']}, not {self.version}", REMAKE)
        self.table = read_npz(self.folder / "samples.npz", REMAKE)
        self.size_px, self.margin = self.manifest["data"]["store_px"], self.manifest["data"]["store_margin"]
        self.starts = np.concatenate([[0], np.cumsum(self.table["length"])])
        self.check_size("images.bin", self.starts[-1])
        self.arrays = read_npz(self.folder / self.template_name, REMAKE)
        self.template = Template.from_arrays(self.arrays)

    def check_size(self, name: str, size: int) -> None:
        """Raise InputError unless a file of the store has so many bytes."""
        blob = self.folder / name
        found = blob.stat().st_size if blob.exists() else 0
        if found != size:
            raise InputError(blob, "", f"has {found} bytes, not {size}", REMAKE)

    def __len__(self) -> int:
        return len(self.table["name"])

    @cached_property
    def images(self) -> np.ndarray:
        """The bytes of images.bin (n,) uint8, read as they are needed."""
        return np.memmap(self.folder / "images.bin", np.uint8, "r")

    def crop(self, index: int) -> np.ndarray:
        """The stored crop, (S, S, 3) uint8 RGB.   Raises InputError if it is no longer as it was written."""
        jpeg = self.images[self.starts[index] : self.starts[index + 1]]
        sound = "crc32" not in self.table or zlib.crc32(jpeg.tobytes()) == self.table["crc32"][index]
        crop = cv2.imdecode(np.asarray(jpeg), cv2.IMREAD_COLOR_RGB) if sound else None
        if crop is None:
            raise InputError(self.folder / "images.bin", self.table["name"][index], "is damaged", REMAKE)
        return crop

    @cached_property
    def damaged(self) -> np.ndarray:
        """Indices of the samples whose crops are no longer as they were written; none in stores without checksums."""
        if "crc32" not in self.table:
            return np.zeros(0, np.int64)
        with open(self.folder / "images.bin", "rb") as stream:
            checksums = [zlib.crc32(stream.read(int(length))) for length in self.table["length"]]
        found = np.flatnonzero(np.array(checksums, np.uint32) != self.table["crc32"])
        if len(found):
            names = ", ".join(self.table["name"][found])
            _log.warning("%s: %d damaged samples are skipped: %s", self.folder, len(found), names)
        return found

    def rows(self, split: str) -> np.ndarray:
        """Indices of a split's samples, without damaged ones; "all" gives those of every split."""
        chosen = np.ones(len(self), bool) if split == "all" else self.table["split"] == SPLITS.index(split)
        chosen[self.damaged] = False
        return np.flatnonzero(chosen)

    def input_matrix(self, input_px: int, margin: float) -> np.ndarray:
        """The affine map (2, 3) from store px to a network's input of another size and margin."""
        box = np.array([-1, -1, 1, 1]) * self.size_px / 2 / self.margin + (self.size_px - 1) / 2
        return crop_matrix(box, input_px, margin)

    def summary(self) -> str:
        """What the store holds, in some lines: skipped samples, counts, what `facts` says, and the folder."""
        skipped = self.manifest["skipped"]
        lines = [f"skipped {line}" for line in skipped]
        lines.append(f"{len(self)} samples {self.manifest['splits']}, {len(skipped)} skipped")
        return "\n".join([*lines, *self.facts(), f"written: {self.folder}"])

    def facts(self) -> list[str]:
        """Lines of the summary that are of this kind of store alone."""
        return []
