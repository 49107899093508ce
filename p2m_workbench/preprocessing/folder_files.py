"""A set of one's own: pictures, beside each a mesh or points of the same name, and the camera that took them.

    SET/  camera.yaml or .json     for all, or NAME.yaml for one; sub-folders, as categories, may have their own
          NAME.jpg .jpeg .png
          NAME.obj .ply .stl .off .glb                    triangles, or points alone
          NAME.npz                                        points or vertices (N, 3), and, if there, faces, normals
          NAME.xyz                                        a point a line: x y z, or x y z nx ny nz

    camera: image                  coordinates are px of the picture: x right, y down, z to the viewer
    camera: orthographic           px = scale (x, -y) + shift of what rotation and translation make of the points
    camera: perspective            px = (-focal x / z, focal y / z) + centre; the object lies at negative z
    axes: opengl                   x right, y up, z to the viewer; opencv: x right, y down, z away from the viewer
    box: [x0, y0, x1, y1]          what the picture is cut around; the points' own box where there is none

`folders.py` makes a store of it. The project's own frames: docs/conventions.md.
"""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import trimesh
from pydantic import Field, ValidationError

from p2m_core import zip_files
from p2m_core.config.loading import parse_value
from p2m_core.config.settings import Section
from p2m_core.data.aflw2000 import MASK_SUFFIX, read_image
from p2m_core.errors import InputError
from p2m_core.files import NPZ_ERRORS, bare_obj
from p2m_core.geometry.camera import perspective_to_px
from p2m_core.geometry.crop import box_of

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MESH_SUFFIXES = (".obj", ".ply", ".stl", ".off", ".glb")
SHAPE_SUFFIXES = (*MESH_SUFFIXES, ".npz", ".xyz")
CAMERA_SUFFIXES = (".yaml", ".yml", ".json")
LEAST_POINTS = 4
# An object's size over that of the picture, or of the box where one is given: beyond, its units are not the camera's.
SIZE_RATIOS, SIZE_RATIOS_BOX = (0.02, 5.0), (0.2, 4.0)
Y_UP = np.array([1.0, -1.0, 1.0])
_OPENCV = np.array([1.0, -1.0, -1.0])
_UNUSED = {
    "image": {"axes", "rotation", "translation", "scale", "shift", "focal", "centre"},
    "orthographic": {"focal", "centre"},
    "perspective": {"scale", "shift"},
}
_log = logging.getLogger(__name__)

Three = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]


class Camera(Section):
    """A camera file, see the head of this module. focal: px; one number, or x and y."""

    camera: Literal["image", "orthographic", "perspective"]
    axes: Literal["opengl", "opencv"] = "opengl"
    rotation: tuple[Three, Three, Three] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    translation: Three = (0.0, 0.0, 0.0)
    scale: Positive = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    focal: Positive | tuple[Positive, Positive] | None = None
    centre: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None

    @property
    def focal_px(self) -> tuple[float, float]:
        """Focal length in x and y, of a perspective camera."""
        assert self.focal is not None
        return self.focal if isinstance(self.focal, tuple) else (self.focal, self.focal)

    @property
    def centre_px(self) -> tuple[float, float]:
        """The principal point, of a perspective camera."""
        assert self.centre is not None
        return self.centre

    def turned(self, vectors: np.ndarray) -> np.ndarray:
        """Directions (N, 3) of the file in the camera's frame: x right, y up, z to the viewer."""
        if self.camera == "image":
            return vectors * Y_UP
        turned = vectors @ np.array(self.rotation).T
        return turned * _OPENCV if self.axes == "opencv" else turned

    def placed(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) of the file in the camera's frame."""
        shift = np.array(self.translation) * (_OPENCV if self.axes == "opencv" else 1)
        return self.turned(points) + (0 if self.camera == "image" else shift)

    def to_px(self, placed: np.ndarray) -> np.ndarray:
        """The camera's frame to px of the picture, (N, 3); z to the viewer, in the same scale."""
        if self.camera == "image":
            return placed * Y_UP
        if self.camera == "orthographic":
            return placed * self.scale * Y_UP + [*self.shift, 0]
        middle = (0.0, 0.0, float(placed[:, 2].mean()))
        return perspective_to_px(placed - middle, self.focal_px, self.centre_px, middle)


def read_camera(path: Path) -> Camera:
    """A camera file.   Raises InputError naming the field that is missing or wrong."""
    remedy = "see data/README.md for the form of camera files"
    content = zip_files.read_bytes(path)
    try:
        values = parse_value(str(path), content.decode())
        camera = Camera.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(path, ".".join(map(str, first["loc"])), first["msg"].lower(), remedy) from None
    except (UnicodeDecodeError, RecursionError, ValueError) as error:  # an InputError too
        problem = getattr(error, "problem", str(error))
        raise InputError(path, "", f"is no YAML: {' '.join(str(problem).split())}", remedy) from None
    if unused := sorted(_UNUSED[camera.camera] & camera.model_fields_set):
        raise InputError(path, unused[0], f"has no meaning for the camera {camera.camera}", remedy)
    missing = [name for name in ("focal", "centre") if camera.camera == "perspective" and getattr(camera, name) is None]
    if missing:
        raise InputError(path, missing[0], "is missing, which a perspective camera needs", remedy)
    turn = np.array(camera.rotation)
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) or np.linalg.det(turn) < 0:
        raise InputError(
            path, "rotation", "is no rotation", "give three rows of unit length at right angles, no mirror"
        )
    if camera.box and not (camera.box[0] < camera.box[2] and camera.box[1] < camera.box[3]):
        raise InputError(path, "box", f"{list(camera.box)} has no area", "give x0 < x1 and y0 < y1 in px")
    return camera


@dataclass(frozen=True)
class Shape:
    """A mesh or a cloud: points (N, 3), faces (F, 3) or None, normals (N, 3) or None, as in the file."""

    points: np.ndarray
    faces: np.ndarray | None
    normals: np.ndarray | None


def read_shape(path: str | Path) -> Shape:
    """A mesh or points of any of SHAPE_SUFFIXES; files beside it, such as materials, are not opened.

    Raises: InputError if it is damaged, has fewer than four points, or numbers that are not finite.
    """
    path = Path(path)
    content, suffix = zip_files.read_bytes(path), path.suffix.lower()
    remedy = f"give a mesh or points as one of {' '.join(SHAPE_SUFFIXES)}"
    try:
        if suffix in MESH_SUFFIXES:
            content = bare_obj(content) if suffix == ".obj" else content
            found: Any = trimesh.load(io.BytesIO(content), file_type=suffix[1:], process=False, maintain_order=True)
            found = found.to_geometry() if isinstance(found, trimesh.Scene) else found
            points, faces, normals = np.asarray(found.vertices), getattr(found, "faces", None), None
        elif suffix == ".npz":
            with np.load(io.BytesIO(content)) as file:
                name = "points" if "points" in file.files else "vertices"
                points = file[name]
                faces, normals = (file[key] if key in file.files else None for key in ("faces", "normals"))
        else:
            rows = np.loadtxt(io.StringIO(content.decode().replace(",", " ")), ndmin=2)
            points, faces, normals = rows[:, :3], None, rows[:, 3:6] if rows.shape[1] >= 6 else None
    except NPZ_ERRORS as error:
        raise InputError(path, "", f"cannot be read: {' '.join(str(error).split())[:200]}", remedy) from error
    except Exception as error:  # trimesh raises whatever its readers do
        raise InputError(path, "", f"cannot be read as a mesh: {' '.join(str(error).split())[:200]}", remedy) from error
    return _checked(path, points, faces, normals, remedy)


def _checked(path: Path, points: np.ndarray, faces: Any, normals: np.ndarray | None, remedy: str) -> Shape:
    for field, values in (("points", points), ("normals", normals)):
        if values is None:
            continue
        if values.ndim != 2 or values.shape[1] != 3 or values.dtype.kind not in "uif" or len(values) != len(points):
            raise InputError(path, field, f"have the shape {values.shape}, not ({len(points)}, 3)", remedy)
        if not np.isfinite(values).all():
            raise InputError(path, field, "have numbers that are not finite", "mend the file, or remove the sample")
    if len(points) < LEAST_POINTS or not np.ptp(points, axis=0).max() > 0:
        raise InputError(path, "points", "are fewer than four, or all in one place", remedy)
    if faces is not None:
        faces = np.asarray(faces)
        if faces.ndim != 2 or faces.shape[1:] != (3,) or faces.dtype.kind not in "ui":
            raise InputError(path, "faces", f"have the shape {faces.shape}, not (F, 3)", "give triangles")
        if not len(faces) or faces.min() < 0 or faces.max() >= len(points):
            raise InputError(path, "faces", "are none, or name points that are not there", "give triangles from 0")
        faces = faces.astype(np.int64)
    return Shape(points.astype(np.float64), faces, None if normals is None else normals.astype(np.float64))


@dataclass(frozen=True)
class Entry:
    """A sample's files; camera: the .yaml or .json that holds for it, or None."""

    image: Path
    shape: Path
    camera: Path | None
    category: str


def scan(root: str | Path) -> tuple[list[Entry], list[InputError]]:
    """The samples of a set by folder and name, and an unraised error for each file without its partner."""
    entries, problems = [], []
    root = zip_files.top(root)
    shared = None
    for folder, names in zip_files.folders(root):
        own = next((folder / f"camera{suffix}" for suffix in CAMERA_SUFFIXES if f"camera{suffix}" in names), None)
        shared = own if folder == root else shared
        images = _by_stem(names, IMAGE_SUFFIXES, MASK_SUFFIX)
        shapes = _by_stem(names, SHAPE_SUFFIXES)
        category = folder.name if folder != root else root.name.removesuffix(".zip")
        for stem in sorted(images.keys() | shapes.keys()):
            if stem not in shapes:
                remedy = f"put {stem}.obj, .ply, .npz or .xyz there, or remove the image"
                problems.append(InputError(folder / images[stem], "", "has no mesh or points beside it", remedy))
            elif stem not in images:
                remedy = f"put {stem}.jpg there, or remove the file"
                problems.append(InputError(folder / shapes[stem], "", "has no picture beside it", remedy))
            else:
                camera = next((folder / f"{stem}{s}" for s in CAMERA_SUFFIXES if f"{stem}{s}" in names), own or shared)
                entries.append(Entry(folder / images[stem], folder / shapes[stem], camera, category))
    return entries, problems


def _by_stem(names: set[str], suffixes: tuple[str, ...], without: str = "\0") -> dict[str, str]:
    """File names by stem; of several of one stem, the one whose suffix comes first."""
    found: dict[str, str] = {}
    for suffix in reversed(suffixes):
        found |= {name[: -len(suffix)]: name for name in names if name.lower().endswith(suffix) and without not in name}
    return found


def is_folder_set(root: str | Path) -> bool:
    """Whether a folder or zip looks like such a set: a camera file or a mesh beside a picture, and no .mat."""
    root = Path(root)
    if not zip_files.is_set(root) or any(
        n.endswith(".mat") for _, names in zip_files.folders(zip_files.top(root)) for n in names
    ):
        return False
    entries, problems = scan(root)
    meshes = [e for e in problems if e.path.lower().endswith(MESH_SUFFIXES)]
    return any(entry.camera or entry.shape.suffix.lower() in MESH_SUFFIXES for entry in entries) or bool(meshes)


def find_entries(root: str | Path) -> list[Entry]:
    """The samples of a set; what has no partner is logged.   Raises InputError if there is none."""
    there = zip_files.is_set(Path(root))
    entries, problems = scan(root) if there else ([], [])
    if not entries:
        problem = "has no sample (NAME.jpg with NAME.obj)" if there else "is missing"
        raise InputError(root, "", problem, "see data/README.md for the form of a folder set")
    for line in problems:
        _log.warning("%s", line)
    return entries


@dataclass(frozen=True)
class Sample:
    """A sample in its camera's frame: x right, y up, z to the viewer.

    image (H, W, 3) uint8; points (N, 3), faces or None, normals or None; camera.
    """

    image: np.ndarray
    points: np.ndarray
    faces: np.ndarray | None
    normals: np.ndarray | None
    camera: Camera

    @cached_property
    def px(self) -> np.ndarray:
        """Points in px of the picture (N, 3)."""
        return self.camera.to_px(self.points)

    @property
    def box(self) -> np.ndarray:
        """What is cut out (4,), px: the camera file's box, or that of the points."""
        return np.array(self.camera.box or box_of(self.px))


def read_sample(entry: Entry) -> Sample:
    """Read and check one sample.

    Raises: InputError if a file is missing or bad, the object lies behind the camera or outside the picture, or its
            units are not the camera's.
    """
    if entry.camera is None:
        problem = "has no camera: neither camera.yaml nor a file of its own name"
        raise InputError(entry.image, "", problem, "write one, e.g. `camera: image`, see data/README.md")
    camera, shape = read_camera(entry.camera), read_shape(entry.shape)
    sample = Sample(
        read_image(entry.image),
        camera.placed(shape.points),
        shape.faces,
        None if shape.normals is None else camera.turned(shape.normals),
        camera,
    )
    check_units(sample, entry)
    if camera.camera == "perspective" and sample.points[:, 2].max() >= 0:
        problem = "reaches behind the camera, where z is not below 0"
        raise InputError(entry.shape, "points", problem, "mend translation, or set axes: opencv")
    x0, y0, x1, y1 = box_of(sample.px)
    height, width = sample.image.shape[:2]
    if x1 < 0 or y1 < 0 or x0 > width - 1 or y0 > height - 1:
        problem = f"fall on {x0:.0f} {y0:.0f} to {x1:.0f} {y1:.0f} px, outside the picture of {width} x {height}"
        raise InputError(entry.shape, "points", problem, "mend the camera file")
    return sample


def check_units(sample: Sample, entry: Entry) -> None:
    """Raise InputError if the object is far too large or too small for its picture or its box."""
    camera = sample.camera
    if camera.camera == "perspective":
        # Of the origin, or of the points: where their units are wrong, the points are not where they should be.
        depths = abs(np.array([camera.placed(np.zeros(3))[2], sample.points[:, 2].mean()]))
        distance = depths[depths > 1e-12].min(initial=np.inf)
        extent = np.ptp(sample.points[:, :2], axis=0).max() / distance * max(camera.focal_px)
    else:
        extent = np.ptp(sample.px[:, :2], axis=0).max()
    box = camera.box and max(camera.box[2] - camera.box[0], camera.box[3] - camera.box[1])
    ratio = extent / (box or max(sample.image.shape))
    low, high = SIZE_RATIOS_BOX if box else SIZE_RATIOS
    if not low < ratio < high:
        factor = 10.0 ** abs(round(np.log10(max(ratio, 1e-30))))
        size = f"are {ratio:.2g} times as large as the {'box' if box else 'picture'}"
        problem = f"{size}: their unit looks {factor:g} times too {'large' if ratio > 1 else 'small'}"
        raise InputError(entry.shape, "points", problem, "mend scale or translation in the camera file")
