"""What became of a run's notebooks, and whether one would do the same once more.

outputs/<name>/run.json holds a `NotebookResult` for each. A notebook that ended well is kept while its source,
parameters and settings, the files that these name, and those that it wrote are what they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2m_core import config as settings
from p2m_core.config import Config, SweepConfig, config_hash, resolve, run_folder
from p2m_core.files import sha256
from p2m_core.notebooks import COMMON

LISTED_FILES = 12  # a folder with more new files is reported by their number


@dataclass
class NotebookResult:
    """What became of one notebook.

    status    ok, failed, timeout, interrupted or not run; kept: it was ok already, and not executed again
    report    what its cells tagged "report" printed
    key       hash of its source, parameters and settings      state  hashes of the files that it read and wrote
    number    of its execution, counted over the run's folder  code   commit, and the diff's file
    """

    name: str
    status: str = "not run"
    seconds: float = 0.0
    executed: str = ""
    written: list[str] = field(default_factory=list)
    report: str = ""
    error: str = ""
    kept: bool = False
    key: str = ""
    number: int = 0
    state: dict[str, str] = field(default_factory=dict)
    code: dict[str, Any] | None = None


def read_history(folder: Path) -> dict[str, NotebookResult]:
    """The notebooks of a run's run.json by name; empty where there is none, or one of another version."""
    try:
        entries = json.loads((folder / "run.json").read_text())["notebooks"]
        return {entry["name"]: NotebookResult(**entry | {"kept": False}) for entry in entries}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def notebook_key(file: Path, parameters: Mapping[str, Any], config: Config) -> str:
    """Hash of what a notebook is told: its source, parameters and settings."""
    told = config_hash(config.model_copy(update={"notebooks": (), "sweep": SweepConfig()}))
    own = {name: value for name, value in parameters.items() if name not in COMMON}
    return hashlib.sha256(json.dumps([sha256(file), own, told], sort_keys=True).encode()).hexdigest()[:16]


def is_current(wanted: NotebookResult, history: Mapping[str, NotebookResult]) -> bool:
    """Whether a notebook was executed to the end, and would find and write the same again."""
    record = history.get(wanted.name)
    if record is None or record.status != "ok" or record.key != wanted.key:
        return False
    if any(other.number > record.number for name, other in history.items() if name < wanted.name):
        return False  # one that it may read from was executed since
    return all(fingerprint(settings.resolve(path)) == digest for path, digest in record.state.items())


def named_paths(config: Config, parameters: Mapping[str, Any]) -> list[Path]:
    """The data, weights and photos that settings and parameters name, and the run's own weights."""
    folder = run_folder(config)
    texts = list(_texts([config.model_dump(), parameters]))
    named = [resolve(text) for text in texts if {"/", "."} & set(text)] + [settings.BUNDLED] * ("bundled" in texts)
    outside = [path for path in dict.fromkeys(named) if not path.is_relative_to(folder) and path.exists()]
    return outside + list(folder.glob("weights.safetensors"))


def _texts(value: Any) -> Iterator[str]:
    """All texts in nested dictionaries and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def fingerprint(path: Path) -> str:
    """What changes when a file or folder changes: bytes of a file, of a run's weights, of a store's manifest, which has
    its files' hashes; else names, sizes and times of all files below; "" of what is not there."""
    marks = [path] if path.is_file() else [path / "weights.safetensors", path / "manifest.json"]
    for file in marks:
        if file.is_file():
            return sha256(file)[:16]
    if not path.is_dir():
        return ""
    listing = sorted((str(file), *state) for file, state in snapshot([path]).items())
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------ what was written


def snapshot(folders: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Time and size of each file below the folders, without locks and other hidden files."""
    files: dict[Path, tuple[int, int]] = {}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                if name.startswith(".") or name.endswith((".lock", ".log")):
                    continue
                with contextlib.suppress(FileNotFoundError):  # a temporary one
                    state = (path := Path(parent, name)).stat()
                    files[path] = (state.st_mtime_ns, state.st_size)
    return files


def changed_files(before: Mapping[Path, Any], after: Mapping[Path, Any]) -> list[Path]:
    """New and changed files."""
    return sorted(path for path, state in after.items() if before.get(path) != state)


def listed_files(changed: Sequence[Path], sets: Sequence[Path]) -> list[str]:
    """Files relative to the root; a folder of many, or a set of many folders, is one entry."""
    by_folder: dict[Path, list[Path]] = {}
    for path in changed:
        by_folder.setdefault(path.parent, []).append(path)
    for whole in sets:
        inside = [folder for folder in by_folder if folder.is_relative_to(whole)]
        if len(inside) > LISTED_FILES:
            by_folder[whole] = [path for folder in inside for path in by_folder.pop(folder)]
    listed = []
    for folder, paths in by_folder.items():
        many = len(paths) > LISTED_FILES
        shown = [f"{settings.shown(folder)}/ ({len(paths)} files)"] if many else map(settings.shown, paths)
        listed += shown
    return listed
