"""p2m_core.data.store_files."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np

from p2m_core import zip_files
from p2m_core.files import sha256


def store_key(settings: dict, raw: Path, files: list[Path]) -> str:
    """What a store is made of, as a hash: settings, and name, size and time of the raw files."""
    listing = [(str(path)[len(str(raw)) + 1 :], *zip_files.state(path)) for path in files]
    return hashlib.sha256(json.dumps([settings, listing]).encode()).hexdigest()


def is_made(out: Path, key: str) -> bool:
    """Whether a whole store of this key is there."""
    manifest = out / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text()).get("key") == key and is_whole(out)


def is_whole(folder: Path) -> bool:
    """Whether the files of a store are those of its manifest."""
    digests = json.loads((folder / "manifest.json").read_text())["sha256"]
    return all((folder / name).exists() and sha256(folder / name) == digest for name, digest in digests.items())


VERSION = 3
REMAKE = "run p2m preprocess again"


def checksums(blob: Path, lengths: np.ndarray) -> np.ndarray:
    """CRC-32 of each of the pieces (N,) that lie one after another in a file, (N,) uint32."""
    with open(blob, "rb") as stream:
        return np.array([zlib.crc32(stream.read(int(length))) for length in lengths], np.uint32)
