"""Images that several lists share: by name, by content, and as copies that were renamed, scaled or mirrored.

An image's signature is the signs of its 64 lowest frequencies (a perceptual hash), of itself and of its mirror image.
Pairs whose signatures differ in few bits are compared as small grey pictures before they are reported.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np

from p2m_core.data.aflw2000 import IMAGE_SUFFIXES, MASK_SUFFIX, read_image
from p2m_core.errors import InputError
from p2m_core.files import decode_text
from p2m_synth.parallel import map_jobs

HASH_SIDE, THUMB_SIDE = 8, 32
BITS_APART = 10  # of 64; two unrelated photos differ in 32 on average
LEAST_CORRELATION = 0.97
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Overlap:
    """Two entries that are one image. kind: "name", "same file", "near-duplicate" or "mirrored"."""

    kind: str
    first_list: str
    first: Path
    second_list: str
    second: Path

    def __str__(self) -> str:
        where = f"in {self.first_list}" if self.first_list == self.second_list else f"{self.first_list} and"
        other = "" if self.first_list == self.second_list else f" {self.second_list}"
        return f"{self.kind}: {where}{other}: {self.first.name} = {self.second.name}"


@dataclass(frozen=True, eq=False)
class Signature:
    """digest: of the file.   bits, mirrored: perceptual hashes (64,) bool.   thumb (32, 32) float32, mean 0, norm 1."""

    digest: str
    bits: np.ndarray
    mirrored: np.ndarray
    thumb: np.ndarray


def read_list(source: str | Path, images: str | Path | None = None) -> list[Path]:
    """The images that a list means: of a folder all of them, of a text file those it names, a name or a path a line.

    Args:    images: folder in which names are looked up; the text file's own where None.
    Raises:  InputError if the list is missing, or names an image that is not there.
    """
    source = Path(source)
    if source.is_dir():
        found = sorted(path for path in source.rglob("*") if path.suffix.lower() in (*IMAGE_SUFFIXES, ".jpeg"))
        return [path for path in found if not path.name.endswith(MASK_SUFFIX)]
    if not source.is_file():
        raise InputError(source, "", "there is no such list", "give a text file of image names, or a folder")
    folder, paths = Path(images) if images else source.parent, []
    try:
        lines = decode_text(source.read_bytes()).splitlines()
    except UnicodeDecodeError as error:
        raise InputError(source, "", f"is no text: {error}", "write one image a line") from None
    for number, line in enumerate(lines, 1):
        name = line.split("#")[0].strip().replace("\\", "/")
        if not name:
            continue
        path = folder / name
        candidates = [path, *(path.with_suffix(suffix) for suffix in IMAGE_SUFFIXES)]
        candidates += [path.with_name(path.name + suffix) for suffix in IMAGE_SUFFIXES]
        image = next((p for p in candidates if p.is_file() and p.suffix.lower() in (*IMAGE_SUFFIXES, ".jpeg")), None)
        if image is None:
            raise InputError(source, f"line {number}", f"there is no image {path}", "give the images' folder")
        paths.append(image)
    return paths


def sign(path: Path) -> Signature:
    """The signature of an image file.   Raises InputError if it cannot be read."""
    grey = cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (THUMB_SIDE, THUMB_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    thumb = small - small.mean()
    return Signature(
        hashlib.sha256(path.read_bytes()).hexdigest(),
        perceptual_hash(small),
        perceptual_hash(small[:, ::-1]),
        thumb / max(float(np.linalg.norm(thumb)), 1e-6),
    )


def perceptual_hash(small: np.ndarray) -> np.ndarray:
    """Which of the 8 x 8 lowest frequencies of a picture (32, 32) lie above their median, (64,) bool.

    Source: Zauner, Implementation and benchmarking of perceptual image hash functions, 2010.
    """
    low = cv2.dct(np.ascontiguousarray(small, np.float32))[:HASH_SIDE, :HASH_SIDE].ravel()
    return low > np.median(low[1:])  # without the mean brightness


def find_overlaps(lists: dict[str, Sequence[Path]], workers: int = 1) -> list[Overlap]:
    """Every pair of entries, within a list and between lists, that is one image, worst kind last.

    Images that cannot be read are logged and left out.
    """
    entries = [(name, path) for name, paths in lists.items() for path in paths]
    pairs: dict[tuple[int, int], str] = {}
    for i, j in _pairs_by(path.stem for _, path in entries):  # within a list, a name may recur in its folders
        if entries[i][0] != entries[j][0] or entries[i][1] == entries[j][1]:
            pairs[i, j] = "name"
    unique = sorted({path for _, path in entries})
    signatures = {path: result for path, result in map_jobs(_sign_or_log, unique, workers, "images") if result}
    known = [k for k, (_, path) in enumerate(entries) if path in signatures]
    signed = [signatures[entries[k][1]] for k in known]
    for i, j in _pairs_by(s.digest for s in signed):
        pairs.setdefault((known[i], known[j]), "same file")
    for kind, i, j in _near(signed):
        pairs.setdefault((known[i], known[j]), kind)
    order = {"name": 0, "same file": 1, "near-duplicate": 2, "mirrored": 3}
    found = [Overlap(kind, *entries[i], *entries[j]) for (i, j), kind in pairs.items()]
    return sorted(found, key=lambda o: (order[o.kind], o.first_list, str(o.first), o.second_list, str(o.second)))


def _sign_or_log(path: Path) -> tuple[Path, Signature | None]:
    try:
        return path, sign(path)
    except InputError as error:
        _log.warning("left out: %s", error)
        return path, None


def _pairs_by(keys: Iterable[object]) -> Iterator[tuple[int, int]]:
    """Positions i < j of equal keys."""
    places = defaultdict(list)
    for k, key in enumerate(keys):
        places[key].append(k)
    for same in places.values():
        yield from combinations(same, 2)


def _near(signed: Sequence[Signature]) -> Iterator[tuple[str, int, int]]:
    """Pairs i < j of like pictures, upright or mirrored: every pair's bits are compared, 100,000 images in seconds."""
    if len(signed) < 2:
        return
    thumbs = np.stack([s.thumb for s in signed])
    bits = _packed(s.bits for s in signed)
    for kind, others, turned in (
        ("near-duplicate", bits, thumbs),
        ("mirrored", _packed(s.mirrored for s in signed), thumbs[:, :, ::-1]),
    ):
        for i in range(len(signed) - 1):
            close = i + 1 + np.flatnonzero(np.bitwise_count(bits[i] ^ others[i + 1 :]) <= BITS_APART)
            for j in close[np.tensordot(turned[close], thumbs[i]) >= LEAST_CORRELATION]:
                yield kind, i, int(j)


def _packed(hashes: Iterable[np.ndarray]) -> np.ndarray:
    """Hashes of 64 bits as whole numbers."""
    return np.packbits(np.stack(list(hashes)), axis=1).view(np.uint64).ravel()
