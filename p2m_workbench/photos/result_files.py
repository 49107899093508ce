"""The names of results, and which files in a folder are results: of those alone a further call may replace any."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePath

from p2m_core.errors import InputError
from p2m_core.files import explain_unwritable
from p2m_workbench.photos.table import TABLE_FILE, open_table

# By the names of predict.save: what is added to the face's name. `csv` is one table for all faces.
SUFFIXES = {
    "obj": ".obj",
    "ply": ".ply",
    "glb": ".glb",
    "levels": "-level.obj",
    "rig": "-rig.glb",
    "camera": "-camera.json",
    "json": ".json",
    "pts": ".pts",
    "overlay": "-overlay.png",
    "crop": "-crop.png",
    "depth": "-depth.png",
    "normals": "-normals.png",
    "turntable": "-turntable.gif",
    "turning-levels": "-levels.gif",
    "html": ".html",
}
RECORD_FILE = ".predictions"  # in a folder of results: their places in it, a line of JSON each
MOST_NAMED = 4  # files in an error
MOST_LEVELS = 9  # of a mesh whose template is not at hand


def without_blanks(stem: str) -> str:
    """The name of the files beside an .obj: many readers end a name at a blank."""
    return "_".join(stem.split())


def files_of(name: str, kinds: Iterable[str], levels: int) -> list[str]:
    """Names of the files that `export.save_prediction` may write for a face, relative to its folder."""
    kinds = [kind for kind in kinds if kind in SUFFIXES]
    beside = PurePath(name).with_name(without_blanks(PurePath(name).name)).as_posix()
    files = [f"{name}{SUFFIXES[kind]}" for kind in kinds if kind != "levels"]
    if "obj" in kinds:
        files += [f"{beside}.mtl", f"{beside}-texture.png"]
    if "rig" in kinds:
        files += [f"{name}-rig.json", f"{name}-rig.csv"]
    if "levels" in kinds:
        for k in range(levels):
            files += [f"{name}-level{k + 1}.obj", f"{beside}-level{k + 1}.mtl"]
    return files


def clip_files_of(name: str, kinds: Collection[str]) -> list[str]:
    """Names of the files that `ClipFiles` may write for a film and its first face, relative to its folder."""
    files = [f"{name}.npz", *([f"{name}-overlay.webm"] if "overlay" in kinds else [])]
    if "glb" in kinds or "rig" in kinds:
        files.append(f"{name}-face1.glb")
    return [*files, *([f"{name}-face1-units.csv"] if "rig" in kinds else [])]


class Records:
    """The results in all folders, as their records tell: `path in records`.

    A folder of before there were records has its table, whose names tell which files may be results.
    """

    def __init__(self) -> None:
        self.known: dict[Path, set[str]] = {}

    def __contains__(self, path: Path) -> bool:
        path = path.parent.resolve() / path.name
        return any(path.relative_to(folder).as_posix() in self.below(folder) for folder in path.parents)

    def below(self, folder: Path) -> set[str]:
        """The places of the results that were written with --out FOLDER, an absolute path."""
        if folder not in self.known:
            record = folder / RECORD_FILE
            self.known[folder] = set(_read_record(record) if record.is_file() else _from_table(folder))
        return self.known[folder]


def _read_record(path: Path) -> Iterable[str]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield str(json.loads(line))
        except json.JSONDecodeError:  # a line that a kill or a full disk has cut off
            continue


def _from_table(folder: Path) -> Iterable[str]:
    try:
        rows = {(row["name"], row.get("identity")) for row in open_table(folder / TABLE_FILE)}
    except (InputError, OSError):  # another table of this name
        return
    kinds = tuple(SUFFIXES)
    for name, identity in rows:
        files = files_of(name, kinds, MOST_LEVELS) if name else []
        film = name.removesuffix(f"-face{identity}")
        if identity and film != name:
            files += [*clip_files_of(film, kinds), f"{name}-units.csv"]
        yield from (file for file in files if os.path.lexists(folder / file))


class Results:
    """What may be written into a folder: nothing over a photo that is read, nor over what is no result."""

    def __init__(self, folder: Path, photos: Collection[Path] = ()):
        self.folder, self.photos, self.records = folder.absolute(), photos, Records()

    def check(self, files: Iterable[str]) -> None:
        """Raise InputError, which names them, if there are files at these places in the folder that are no results."""
        foreign = [file for file in files if self._is_foreign(self.folder / file)]
        if not foreign:
            return
        more = f" and {len(foreign) - MOST_NAMED} more" if len(foreign) > MOST_NAMED else ""
        named = f"{', '.join(foreign[:MOST_NAMED])}{more}"
        problem = f"{named} would be replaced, and no earlier call wrote {'it' if len(foreign) == 1 else 'them'}"
        raise InputError(self.folder, "", problem, "move what is to stay, or choose another --out")

    def claim(self, files: Sequence[str]) -> None:
        """Note in the folder's record that these files are results, before they are written.   Raises as `check`, and
        if one is a photo."""
        for path in (self.folder / file for file in files):
            if path.exists() and path.resolve() in self.photos:
                raise InputError(path, "", "is a photo, and would be replaced by a result", "choose another --out")
        self.check(files)
        folder = self.folder.resolve()
        known, record = self.records.below(folder), folder / RECORD_FILE
        new = [file for file in files if file not in known]
        if new:
            lines = new if record.exists() else [*known, *new]
            with explain_unwritable(record), open(record, "a", encoding="utf-8") as stream:
                # A line begins with its break: what a kill has cut off spoils no other.
                stream.write("".join(f"\n{json.dumps(line)}" for line in lines))
            known.update(new)

    def _is_foreign(self, path: Path) -> bool:
        return os.path.lexists(path) and path not in self.records
