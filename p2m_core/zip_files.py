"""Files of a data set, in a folder or in a zip that is never unpacked: a path leads through a .zip as through a folder.

data/raw/AFLW2000-3D.zip/AFLW2000/image00002.mat
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from p2m_core.errors import InputError

LARGEST_MEMBER = 64_000_000  # bytes of one picture, mesh or .mat; more is refused before it is unpacked
_ANEW = "take the original file again"
_ZIP_ERRORS = (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zipfile.BadZipFile, zlib.error)


class Archive:
    """An open zip with its listing. `zipfile.Path` would search the whole listing for each folder.

    members: {name in the zip: ZipInfo}, without folders.   folders: {name of a folder, "" the top: names in it}.
    Raises:  InputError if it is no zip, or a damaged one.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self.file = zipfile.ZipFile(path)
        except _ZIP_ERRORS as error:
            raise InputError(path, "", f"is no whole zip file: {error}", _ANEW) from error
        self.members = {info.filename: info for info in self.file.infolist() if not info.is_dir()}
        self.folders: dict[str, list[str]] = {"": []}
        for name in self.members:
            folder, _, base = name.rpartition("/")
            self.folders.setdefault(folder, []).append(base)
            for above in PurePosixPath(folder).parents:  # also those that hold nothing but folders
                self.folders.setdefault("" if above.name == "" else str(above), [])

    def read(self, name: str) -> bytes:
        """A member's bytes.   Raises InputError if it is missing, damaged, encrypted or too large."""
        where = self.path / name
        if name not in self.members:
            raise InputError(where, "", "is missing", "check the name")
        if self.members[name].file_size > LARGEST_MEMBER:
            raise InputError(where, "", f"has more than {LARGEST_MEMBER // 1_000_000} MB", _ANEW)
        try:
            with self.file.open(name) as stream:
                return stream.read(LARGEST_MEMBER)  # the size in the listing may be wrong
        except _ZIP_ERRORS as error:
            raise InputError(where, "", f"is damaged: {error}", _ANEW) from error


@lru_cache(maxsize=4)
def _opened(path: Path, size: int, time_ns: int, process: int) -> Archive:
    return Archive(path)


def open_archive(path: Path) -> Archive:
    """The zip at a path, kept open, for this process alone: a shared file would share its place in the file."""
    state = path.stat()
    return _opened(path, state.st_size, state.st_mtime_ns, os.getpid())


def archive_and_member(path: Path) -> tuple[Path, str] | None:
    """The zip that a path leads through and the name in it; None for a path of plain files."""
    parts = path.parts
    for k, part in enumerate(parts):
        if part.lower().endswith(".zip") and (archive := Path(*parts[: k + 1])).is_file():
            return archive, "/".join(parts[k + 1 :])
    return None


def is_set(path: Path) -> bool:
    """Whether a path is a folder, or a zip or a folder in one."""
    inside = archive_and_member(path)
    return path.is_dir() if inside is None else not inside[1] or inside[1] in open_archive(inside[0]).folders


def is_file(path: Path) -> bool:
    """Whether there is such a file."""
    inside = archive_and_member(path)
    return path.is_file() if inside is None else inside[1] in open_archive(inside[0]).members


def read_bytes(path: str | Path, remedy: str = "check the name") -> bytes:
    """A file's content.   Raises InputError, with this remedy if it is missing."""
    path = Path(path)
    if inside := archive_and_member(path):
        return open_archive(inside[0]).read(inside[1])
    if not path.is_file():
        raise InputError(path, "", "is missing", remedy)
    return path.read_bytes()


def state(path: Path) -> tuple[int, int]:
    """Size and what changes with the content: the time of writing, or a zip's checksum."""
    if inside := archive_and_member(path):
        info = open_archive(inside[0]).members[inside[1]]
        return info.file_size, info.CRC
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def folders(root: str | Path) -> Iterator[tuple[Path, set[str]]]:
    """`root` and the folders in it by name, each with the names of its files; hidden ones are left out."""
    root = Path(root)
    if inside := archive_and_member(root):
        archive, top = open_archive(inside[0]), inside[1]
        below = [name for name in archive.folders if name != top and (not top or name.startswith(f"{top}/"))]
        children = {name[len(top) :].strip("/").split("/")[0] for name in below}
        names = {name: archive.folders.get(f"{top}/{name}".strip("/"), []) for name in sorted(children)}
        found = {"": archive.folders.get(top, []), **names}
    else:
        found = {"": _listed(root, False)}
        found |= {name: _listed(root / name, False) for name in sorted(_listed(root, True))}
    for name, files in found.items():
        if not name.startswith((".", "__MACOSX")):
            yield root / name, {file for file in files if not file.startswith(".")}


def _listed(folder: Path, directories: bool) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir() == directories]


def top(root: str | Path) -> Path:
    """The set's own folder: `root`, or what lies in it where it holds one folder and nothing else, as zips often do."""
    root = Path(root)
    while is_set(root):
        (_, files), *below = folders(root)
        if files or len(below) != 1:
            break
        root = below[0][0]
    return root
