"""Whole files or none: temporary name first, rename last; and hashes of what was written."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from p2m_core.errors import InputError

if TYPE_CHECKING:
    import numpy as np


# What numpy, zipfile and zlib raise at a damaged .npz.
NPZ_ERRORS = (
    OSError, ValueError, EOFError, LookupError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_HERE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EISDIR)


@contextmanager
def explain_unwritable(path: str | Path) -> Iterator[None]:
    """Turn the OSError of a full disk, a file too large, a place that is not one's own or a name too long into an
    InputError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL + NOT_HERE:
            raise
        full = error.errno in FULL
        remedy = "make room on the disk; the same command goes on" if full else "choose another place or name"
        raise InputError(path, "", f"cannot be written: {os.strerror(error.errno)}", remedy) from error


def make_folder(path: Path) -> Path:
    """A folder, made with those above it where it is missing.   Raises InputError if it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(path, "", f"cannot be a folder: {error.strerror}", "choose another place") from error
    return path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary sibling of `path`, renamed to it when the block ends well, deleted when it fails.

    The suffix is kept, since many writers choose the format by it.

    Raises: InputError if the disk is full, or the folder cannot be made.
    """
    path = make_folder(Path(path).parent) / Path(path).name
    short = path.stem.encode()[:100].decode(errors="ignore")  # names end at 255 bytes
    temporary = path.with_name(f".{short}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        with explain_unwritable(path):
            yield temporary
            # Without the sync a power cut can leave the new name on an empty file.
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write `content` as UTF-8 to `path`, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: str | Path, content: object) -> None:
    """Write `content` as indented JSON to `path`, whole or not at all; NaN and infinity, which JSON lacks, as null."""
    write_text(path, json.dumps(finite_only(content), indent=1) + "\n")


def decode_text(content: bytes) -> str:
    """A text's bytes as editors write them: UTF-8, or UTF-16 where they begin with its mark, as Windows has it."""
    return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def finite_only(content: object) -> object:
    """`content` with None in place of every number that is not finite, in dictionaries and lists of any depth."""
    if isinstance(content, dict):
        return {key: finite_only(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite_only(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def bare_obj(obj: bytes) -> bytes:
    """An .obj's content without materials, texture coordinates and normals, by which trimesh would part it and double
    the vertices of its seams."""
    obj = re.sub(rb"(?m)^(usemtl|mtllib|vt|vn)\b.*", b"", obj)
    return re.sub(rb"(?m)^f\b.*", lambda line: re.sub(rb"/\S*", b"", line[0]), obj)


def read_npz(path: str | Path, remedy: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz.   Raises InputError with this remedy if it is missing or damaged."""
    import numpy as np

    try:
        with open(path, "rb") as stream, np.load(stream) as file:  # np.load by itself leaves a damaged file open
            return {name: file[name] for name in file.files}
    except NPZ_ERRORS as error:
        raise InputError(path, "", f"is missing or damaged: {error}", remedy) from error
