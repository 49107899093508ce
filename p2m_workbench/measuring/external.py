"""Predictions of other systems from files: their landmarks or vertices, by sample, as 68 landmarks.

    X.npz            names (N,) and points, or landmarks_px, (N, P, 2 or 3); or one array (P, 2 or 3) a sample, under
                     the sample's name. not_found: names of samples on which the system found no face, if it says so
    X.npy            points (N, P, 2 or 3), with the samples' names in X.txt, one a line
    X.txt            lines NAME x y [z], one a point, each sample's in order
    X.obj            vertices of the one sample X
    X/               a folder of NAME.npy, NAME.txt (lines x y [z]) and NAME.obj, one a sample

Points are image px as in docs/conventions.md, which OpenCV and dlib count in too. From the points of a system that
counts from 1, as AFLW2000-3D's files do, take 1 off first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from p2m_core.config.paths import resolve
from p2m_core.errors import InputError
from p2m_core.files import decode_text, read_npz
from p2m_core.geometry.template import Template
from p2m_workbench.measuring.results import System

LANDMARKS = 68
SUFFIXES = (".npz", ".npy", ".txt", ".obj")
LISTED = 5
# MediaPipe's face mesh at the 68 points, in their order. The correspondence of eyes, mouth, brows and nose is the one
# that circulates in public code; its jaw is a chain of the mesh's outline from ear to chin, so a model of the face's
# silhouette in 3D, where the 68 points on a turned head's far side are too.
MEDIAPIPE_IDX = (
    *(127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356),  # jaw, from the right ear
    *(70, 63, 105, 66, 107), *(336, 296, 334, 293, 300),  # brows, right to left
    *(168, 197, 5, 4), *(75, 97, 2, 326, 305),  # bridge down to the tip; base of the nose
    *(33, 160, 158, 133, 153, 144), *(362, 385, 387, 263, 373, 380),  # eyes, clockwise as one sees them
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # outer lips
    *(78, 82, 13, 312, 308, 317, 14, 87),  # inner lips
)  # fmt: skip
MAPPINGS = {"dlib68": range(LANDMARKS), "mediapipe468": MEDIAPIPE_IDX}


def read_predictions(source: str | Path, names: Sequence[str], template: Template, mapping: str = "auto") -> System:
    """Another system's points of the named samples, as landmarks.

    Args:    source: a file or folder, see above.   names: of the samples, in the order wanted.
             template: ours, for points that are its vertices.
             mapping: "auto" (by the number of points), "dlib68", "mediapipe468" (also of the 478 with irises),
             "template", 68 indices such as "0,7,12+13,..." (12+13: the middle of both), or a file with them.
    Raises:  InputError if it cannot be read, if none of the samples is in it, if the number of points differs
             or does not suit the mapping, or if a number is not finite.
    """
    path = resolve(source)
    found, absent = read_points(path)
    check_names(path, [*found, *absent], names)
    if both := sorted(set(absent) & set(found)):
        raise InputError(path, "not_found", f"names {_some(both)}, whose points are there", "take one of them out")
    found = {name: found[name] for name in names if name in found}
    without = len(set(names) - found.keys() - set(absent))
    missing = len(names) - len(found) - without
    if not found:
        raise InputError(path, "", "says of every sample that it found no face", "leave it out")
    (first, one), *others = found.items()
    if other := next(((name, points) for name, points in others if points.shape != one.shape), None):
        problem = f"{first} has {_shape(one)}, {other[0]} has {_shape(other[1])}"
        raise InputError(path, "points", problem, "give the same points of every sample")
    for name, points in found.items():
        if not np.isfinite(points).all():
            problem = f"{int((~np.isfinite(points)).any(1).sum())} of {len(points)} are not finite"
            raise InputError(path, name, problem, "where no face was found, name the sample in not_found of an .npz")
    points = np.stack([found.get(name, np.full(one.shape, np.nan)) for name in names])
    kind = guess_mapping(path, len(one), template) if mapping == "auto" else mapping
    about = f"{path.name}, mapping {kind if len(kind) < 40 else 'of 68 indices'}"
    about += f", no face found on {missing}" if missing else ""
    about += f", {without} samples are not in it" if without else ""
    if kind != "template":
        return System(path.stem, "peer", mapped(points, read_mapping(kind), path), about=about)
    if one.shape != (template.counts[-1], 3):
        problem = f"has {_shape(one)}, not the template's {template.counts[-1]} in 3D"
        raise InputError(path, "points", problem, "give the finest level's vertices, or another mapping")
    return System(path.stem, "peer", template.landmarks(points), np.float32(points).__getitem__, about)


def _shape(points: np.ndarray) -> str:
    return f"{len(points)} points in {points.shape[1]}D"


def check_names(path: Path, given: Sequence[str], names: Sequence[str]) -> None:
    """Raise InputError if none of `names` is given; more may be, such as those of a whole set."""
    if set(names).isdisjoint(given):
        problem = f"none of the {len(names)} samples is in it: it has {_some(given)}, the set has {_some(names)}"
        raise InputError(path, "names", problem, "give the names of the set's files, without their suffix")


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:LISTED])) + (" ..." if len(names) > LISTED else "") if len(names) else "none"


# --- mapping --------------------------------------------------------------------------------------


def guess_mapping(path: Path, count: int, template: Template) -> str:
    """The mapping of so many points.   Raises InputError for a number that is not known."""
    known = {68: "dlib68", 468: "mediapipe468", 478: "mediapipe468", template.counts[-1]: "template"}
    if count not in known:
        remedy = "say with --mapping which of them are the 68 landmarks"
        raise InputError(path, "points", f"has {count} a sample, known are {', '.join(map(str, known))}", remedy)
    return known[count]


def read_mapping(mapping: str) -> list[list[int]]:
    """For each of the 68 landmarks the points whose mean it is.

    Args:    mapping: "dlib68", "mediapipe468", indices apart by commas, or a file with them.
    Raises:  InputError if they are not 68 entries of indices.
    """
    if mapping in MAPPINGS:
        return [[k] for k in MAPPINGS[mapping]]
    text, where = mapping, "--mapping"
    if "," not in mapping:
        path = resolve(mapping)
        if not path.is_file():
            remedy = "give dlib68, mediapipe468, template, 68 indices apart by commas, or a file with them"
            raise InputError(path, "", "is no mapping and no file", remedy)
        text, where = _read_text(path, "write 68 indices, apart by commas or lines"), str(path)
    entries = re.sub(r"[\[\],\s]+", " ", text).split()
    bad = [entry for entry in entries if not re.fullmatch(r"\d+(\+\d+)*", entry)]
    if bad or len(entries) != LANDMARKS:
        problem = f"{bad[0]!r} is no index" if bad else f"has {len(entries)} entries, not {LANDMARKS}"
        raise InputError(where, "", problem, "give the index of each of the 68 landmarks, or 12+13 for a middle")
    return [[int(index) for index in entry.split("+")] for entry in entries]


def mapped(points: np.ndarray, mapping: list[list[int]], path: Path) -> np.ndarray:
    """The 68 landmarks (N, 68, D) of points (N, P, D)."""
    largest = max(map(max, mapping))
    if largest >= points.shape[1]:
        problem = f"has {points.shape[1]} a sample, but the mapping asks for number {largest}"
        raise InputError(path, "points", problem, "give the points that the mapping is for, or another mapping")
    return np.stack([points[:, group].mean(1) for group in mapping], 1)


# --- files ----------------------------------------------------------------------------------------


def read_points(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The points (P, 2 or 3) of each sample in a file or folder, and the samples in which no face was found."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES[1:] and file.name[0] != ".")
        if not files:
            raise InputError(path, "", "holds no prediction", f"put NAME{', NAME'.join(SUFFIXES[1:])} there")
        if len(names := {file.stem for file in files}) < len(files):
            twice = next(name for name in sorted(names) if sum(file.stem == name for file in files) > 1)
            raise InputError(path, twice, "is there in two formats", "leave one file a sample")
        return {file.stem: read_one(file) for file in files}, []
    if not path.is_file():
        raise InputError(path, "", "there is no such file", "give a .npz, .npy, .txt, .obj, or a folder of them")
    readers = {".npz": _read_npz, ".npy": _read_npy, ".txt": _read_txt}
    if path.suffix.lower() in readers:
        return readers[path.suffix.lower()](path)
    if path.suffix.lower() != ".obj":
        raise InputError(path, "", f"has the suffix {path.suffix!r}", f"known are {', '.join(SUFFIXES)}, and folders")
    return {path.stem: read_one(path)}, []


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    content = read_npz(path, "write names and points with numpy.savez")
    absent = [str(name) for name in np.ravel(content.pop("not_found", []))]
    if "landmarks_px" in content:
        content["points"] = content.pop("landmarks_px")
    if "points" in content:
        if "names" not in content:
            raise InputError(path, "names", "is missing beside points", "add the samples' names")
        return _by_name(path, content["names"], content["points"]), absent
    content.pop("names", None)
    return {name: _checked(path, name, points) for name, points in content.items()}, absent


def _read_npy(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    names = path.with_suffix(".txt")
    if not names.is_file():
        raise InputError(names, "", "is missing", f"name the samples of {path.name} there, one a line")
    lines = map(str.strip, _read_text(names, "write one name a line").splitlines())
    return _by_name(path, np.array([*filter(None, lines)]), _load_npy(path)), []


def _read_txt(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    groups: dict[str, list[list[str]]] = {}
    for line in _lines(path):
        groups.setdefault(line[0], []).append(line[1:])
    if not groups:
        raise InputError(path, "", "is empty", "write lines NAME x y [z]")
    return {name: _numbers(path, name, rows) for name, rows in groups.items()}, []


def read_one(path: Path) -> np.ndarray:
    """The points (P, 2 or 3) of one sample's file: .npy, .txt of lines x y [z], or .obj."""
    if path.suffix.lower() == ".npy":
        return _checked(path, "", _load_npy(path))
    lines = _lines(path)
    if path.suffix.lower() == ".obj":
        lines = [line[1:4] for line in lines if line[0] == "v"]  # what may follow are colours
    if not lines:
        raise InputError(path, "", "holds no point", "write one a line")
    return _numbers(path, "", lines)


def _load_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path)  # refuses pickles, which could run code
    except (OSError, ValueError, EOFError) as error:
        raise InputError(path, "", f"is damaged: {error}", "write an array of numbers with numpy.save") from None


def _lines(path: Path) -> list[list[str]]:
    """The words of each line, apart by spaces or commas, without comments."""
    text = _read_text(path, "write one point a line")
    lines = (line.split("#")[0].replace(",", " ").split() for line in text.splitlines())
    return [line for line in lines if line]


def _read_text(path: Path, remedy: str) -> str:
    try:
        return decode_text(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "", f"is no text: {error}", remedy) from None


def _numbers(path: Path, field: str, rows: list[list[str]]) -> np.ndarray:
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise InputError(path, field, f"has lines of {sorted(lengths)} numbers", "write x y, or x y z, on each line")
    try:
        points = np.array(rows, np.float64)
    except ValueError as error:
        raise InputError(path, field, f"holds what is no number: {error}", "write x y, or x y z") from None
    return _checked(path, field, points)


def _by_name(path: Path, names: np.ndarray, points: np.ndarray) -> dict[str, np.ndarray]:
    names = [str(name) for name in np.ravel(names)]
    if points.ndim != 3 or len(points) != len(names):
        problem = f"have the shape {points.shape} beside {len(names)} names"
        raise InputError(path, "points", problem, "give an array (names, points, 2 or 3)")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(path, "names", f"{twice} is there twice", "give each sample once")
    return {name: _checked(path, name, one) for name, one in zip(names, points, strict=True)}


def _checked(path: Path, field: str, points: np.ndarray) -> np.ndarray:
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not len(points) or points.dtype.kind not in "fiu":
        problem = f"is {points.dtype} of the shape {points.shape}"
        raise InputError(path, field, problem, "give numbers of the shape (points, 2 or 3)")
    return points.astype(np.float64)
