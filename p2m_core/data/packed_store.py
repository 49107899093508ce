"""The files of a store, opened.

    STORE/  manifest.json   what the store is made of, hashes, skipped samples; written last: a store is whole or absent
            images.bin      the samples' crops as JPEG files, one after another; clouds.bin likewise, if there are any
            samples.npz     one row a sample: the columns that its kind of store lists, and split
            model.npz       the template (template.npz in stores of folder sets)
            parts-KEY/      only while the store is made, see p2m_workbench/preprocessing

`FaceStore` and `FolderStore` say what training asks of them.
"""

from __future__ import annotations

import json
import logging
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from p2m_core.config.paths import resolve, shown
from p2m_core.data.splits import SPLITS
from p2m_core.errors import InputError
from p2m_core.files import read_npz
from p2m_core.geometry.crop import crop_matrix
from p2m_core.geometry.template import Template

REMAKE = "run p2m preprocess again"
_log = logging.getLogger(__name__)


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
        splits = ", ".join(f"{name} {count}" for name, count in self.manifest["splits"].items())
        lines.append(f"{len(self)} samples ({splits}), {len(skipped)} skipped")
        return "\n".join([*lines, *self.facts(), f"written: {shown(self.folder)}"])

    def facts(self) -> list[str]:
        """Lines of the summary that are of this kind of store alone."""
        return []
