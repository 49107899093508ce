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

The store is that of `data.store`, with a cloud in place of coefficients. Pictures seen by a perspective camera are
warped to the network's, which has one focal length and centre for all; the others are cut around their box.

    STORE/ manifest.json  images.bin  samples.npz  template.npz       clouds.bin   (N, 6) float32 a sample
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
import trimesh
from pydantic import Field, ValidationError
from scipy.spatial import cKDTree
from torch import nn
from torch.utils.data import Dataset

from p2m_core.camera import apply_affine, box_of, crop_matrix, ndc_to_px, perspective_to_px, px_to_ndc
from p2m_core.config import Config, DataConfig, ModelConfig, Section, parse_value, resolve
from p2m_core.data import archive
from p2m_core.data.aflw2000 import MASK_SUFFIX, read_image
from p2m_core.data.augment import change_look, compose, crop_image, draw_matrix
from p2m_core.data.shapenet import CloudDecoder, on_input, pad_clouds
from p2m_core.data.splits import SPLITS, by_shares
from p2m_core.errors import InputError
from p2m_core.files import NPZ_ERRORS, atomic_path, read_npz, sha256, write_json
from p2m_core.jobs import map_jobs
from p2m_core.losses import Truth
from p2m_core.metrics import cd_f1
from p2m_core.raster import rasterize
from p2m_core.template import Template, ellipsoid

VERSION = 1
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MESH_SUFFIXES = (".obj", ".ply", ".stl", ".off", ".glb")
SHAPE_SUFFIXES = (*MESH_SUFFIXES, ".npz", ".xyz")
CAMERA_SUFFIXES = (".yaml", ".yml", ".json")
NEIGHBOURS = 12  # that a normal is estimated from
PART_SIZE = 50
LEAST_POINTS = 4
# An object's size over that of the picture, or of the box where one is given: beyond, its units are not the camera's.
SIZE_RATIOS, SIZE_RATIOS_BOX = (0.02, 5.0), (0.2, 4.0)
REMAKE = "run p2m preprocess again"
SEEN_PX = 128
_Y_UP = np.array([1.0, -1.0, 1.0])
_OPENCV = np.array([1.0, -1.0, -1.0])
_UNUSED = {
    "image": {"axes", "rotation", "translation", "scale", "shift", "focal", "centre"},
    "orthographic": {"focal", "centre"},
    "perspective": {"scale", "shift"},
}
_log = logging.getLogger(__name__)

Three = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]


# --- files ----------------------------------------------------------------------------------------


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
        """Focal length in x and y."""
        return self.focal if isinstance(self.focal, tuple) else (self.focal, self.focal)

    def turned(self, vectors: np.ndarray) -> np.ndarray:
        """Directions (N, 3) of the file in the camera's frame: x right, y up, z to the viewer."""
        if self.camera == "image":
            return vectors * _Y_UP
        turned = vectors @ np.array(self.rotation).T
        return turned * _OPENCV if self.axes == "opencv" else turned

    def placed(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) of the file in the camera's frame."""
        shift = np.array(self.translation) * (_OPENCV if self.axes == "opencv" else 1)
        return self.turned(points) + (0 if self.camera == "image" else shift)

    def to_px(self, placed: np.ndarray) -> np.ndarray:
        """The camera's frame to px of the picture, (N, 3); z to the viewer, in the same scale."""
        if self.camera == "image":
            return placed * _Y_UP
        if self.camera == "orthographic":
            return placed * self.scale * _Y_UP + [*self.shift, 0]
        middle = (0.0, 0.0, float(placed[:, 2].mean()))
        return perspective_to_px(placed - middle, self.focal_px, self.centre, middle)


def read_camera(path: Path) -> Camera:
    """A camera file.   Raises InputError naming the field that is missing or wrong."""
    remedy = "see data/README.md for the form of camera files"
    content = archive.read_bytes(path)
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
    content, suffix = archive.read_bytes(path), path.suffix.lower()
    remedy = f"give a mesh or points as one of {' '.join(SHAPE_SUFFIXES)}"
    try:
        if suffix in MESH_SUFFIXES:
            found = trimesh.load(io.BytesIO(content), file_type=suffix[1:], process=False)
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


def _checked(path: Path, points: np.ndarray, faces: object, normals: object, remedy: str) -> Shape:
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
    root = archive.top(root)
    shared = None
    for folder, names in archive.folders(root):
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
    found = {}
    for suffix in reversed(suffixes):
        found |= {name[: -len(suffix)]: name for name in names if name.lower().endswith(suffix) and without not in name}
    return found


def is_folder_set(root: str | Path) -> bool:
    """Whether a folder or zip looks like such a set: a camera file or a mesh beside a picture, and no .mat."""
    root = Path(root)
    if not archive.is_set(root) or any(
        n.endswith(".mat") for _, names in archive.folders(archive.top(root)) for n in names
    ):
        return False
    entries, problems = scan(root)
    meshes = [e for e in problems if e.path.lower().endswith(MESH_SUFFIXES)]
    return any(entry.camera or entry.shape.suffix.lower() in MESH_SUFFIXES for entry in entries) or bool(meshes)


def find_entries(root: str | Path) -> list[Entry]:
    """The samples of a set; what has no partner is logged.   Raises InputError if there is none."""
    there = archive.is_set(Path(root))
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


def facing_share(sample: Sample) -> float:
    """Which share of a mesh's seen surface is wound towards the viewer: 1 if it is sound, 0 if it is inside out."""
    corners = sample.points[sample.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    to_viewer = -corners.mean(1) if sample.camera.camera == "perspective" else np.array([0.0, 0.0, 1.0])
    towards = (normals * to_viewer).sum(1) > 0
    px = apply_affine(crop_matrix(box_of(sample.px), SEEN_PX, 1.05), sample.px)
    seen = rasterize(px, sample.faces, SEEN_PX, SEEN_PX)[0]
    return float(towards[seen[seen >= 0]].mean()) if (seen >= 0).any() else 1.0


def complaints(entry: Entry, sample: Sample) -> list[str]:
    """What is wrong with a sample that can be read: winding and normals."""
    found = []
    if sample.faces is not None:
        mesh = trimesh.Trimesh(sample.points, sample.faces, process=False)
        if not mesh.is_winding_consistent:
            problem = "are wound in both ways"
            found.append(
                InputError(entry.shape, "faces", problem, "make them consistent, e.g. trimesh.repair.fix_winding")
            )
        elif (share := facing_share(sample)) < 0.5:
            problem = f"are wound inside out: {share:.0%} of what is seen faces the viewer"
            found.append(InputError(entry.shape, "faces", problem, "turn them over, or mend a mirroring camera"))
    elif sample.normals is None:
        remedy = "none is needed: they will be estimated"
        found.append(InputError(entry.shape, "normals", "are missing", remedy))
    return [str(error) for error in found]


def draw_cloud(sample: Sample, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points and unit normals (N, 6) of a sample in its camera's frame: drawn of a mesh, even by area, or of a cloud.

    A cloud with fewer points is kept whole; where it has no normals they are estimated.
    """
    if sample.faces is not None:
        mesh = trimesh.Trimesh(sample.points, sample.faces, process=False)
        points, face = trimesh.sample.sample_surface(mesh, count, seed=rng)
        return np.concatenate([points, mesh.face_normals[face]], 1)
    normals = estimate_normals(sample.points) if sample.normals is None else sample.normals
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    chosen = np.sort(rng.permutation(len(sample.points))[:count])
    return np.concatenate([sample.points, normals], 1)[chosen]


def estimate_normals(points: np.ndarray) -> np.ndarray:
    """Unit normals (N, 3) of a cloud (N, 3): the flattest direction of each point's neighbours, to the viewer."""
    _, near = cKDTree(points).query(points, min(NEIGHBOURS, len(points)))
    spread = points[near] - points[near].mean(1, keepdims=True)
    normals = np.linalg.svd(spread, full_matrices=False)[2][:, 2]
    return normals * np.where(normals[:, 2:] < 0, -1, 1)


# --- building -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Some samples to read, cut and write together."""

    entries: tuple[Entry, ...]
    first: int
    out: Path
    data: DataConfig
    model: ModelConfig


def network_camera(camera: Camera, model: ModelConfig, side_px: int) -> np.ndarray:
    """The affine map (2, 3) from a perspective camera's px to those of the network's, drawn side_px wide."""
    scale = side_px / model.input_px
    focal = np.array(model.focal_px) * scale / camera.focal_px
    centre = (np.array(model.centre_px) + 0.5) * scale - 0.5
    return np.concatenate([np.diag(focal), (centre - focal * camera.centre)[:, None]], 1)


def cut(sample: Sample, cloud: np.ndarray, data: DataConfig, model: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """The map (2, 3) from px of the picture to those of the store, and the cloud in the store's frame.

    That is px of the stored crop, y down, for the crop camera, and the camera's frame for perspective.
    """
    if model.camera == "perspective":
        return network_camera(sample.camera, model, data.store_px), cloud
    matrix = crop_matrix(sample.box, data.store_px, data.store_margin)
    points = apply_affine(matrix, sample.camera.to_px(cloud[:, :3]))
    return matrix, np.concatenate([points, cloud[:, 3:] * _Y_UP], 1)


def write_part(part: Part) -> list[str]:
    """Read, cut and write the samples of a part to its file; the lines on those that were skipped."""
    if part.out.exists():
        return read_npz(part.out, REMAKE)["skipped"].tolist()
    rows, jpegs, clouds, skipped = [], [], [], []
    for number, entry in enumerate(part.entries, part.first):
        try:
            sample = read_sample(entry)
            if (sample.camera.camera == "perspective") != (part.model.camera == "perspective"):
                problem = f"is {sample.camera.camera}, but model.camera is {part.model.camera}"
                raise InputError(entry.camera, "camera", problem, "perspective wants perspective, the others want crop")
            cloud = draw_cloud(sample, part.data.points, np.random.default_rng([part.data.split_seed, number]))
            matrix, cloud = cut(sample, cloud, part.data, part.model)
        except InputError as error:
            skipped.append(str(error))
            continue
        picture = crop_image(sample.image, matrix, part.data.store_px)
        quality = [cv2.IMWRITE_JPEG_QUALITY, part.data.jpeg_quality]
        jpegs.append(cv2.imencode(".jpg", picture[..., ::-1], quality)[1].ravel())
        clouds.append(cloud.astype(np.float32))
        rows.append((entry.image.stem, entry.category, matrix, sample.faces is None and sample.normals is None))
    name, category, crop, estimated = zip(*rows, strict=True) if rows else ((), (), (), ())
    with atomic_path(part.out) as temporary:
        np.savez(
            temporary,
            skipped=np.array(skipped, dtype=str),
            images=np.concatenate(jpegs) if jpegs else np.zeros(0, np.uint8),
            clouds=np.concatenate(clouds) if clouds else np.zeros((0, 6), np.float32),
            name=np.array(name, dtype=str),
            category=np.array(category, dtype=str),
            length=np.array([len(jpeg) for jpeg in jpegs], np.int64),
            points=np.array([len(cloud) for cloud in clouds], np.int64),
            crop=np.array(crop, np.float64).reshape(-1, 2, 3),
            estimated=np.array(estimated, np.uint8),
        )
    return skipped


def build_template(config: Config) -> Template:
    """The template of a config: its file, the ellipsoid, or the semi-sphere registered on our mean face."""
    kind = config.template
    if kind.file:
        return Template.load(resolve(kind.file), kind.levels)
    if kind.kind == "ellipsoid":
        return ellipsoid(kind.levels)
    from p2m_core.faces.registration import face_template
    from p2m_core.synthetic.face_model import load_head_model

    return face_template(load_head_model().face_model(), kind.rings, kind.levels)[0]


def build_folder_store(config: Config, raw: str | Path | None = None, out: str | Path | None = None) -> Path:
    """Make the store of a folder set: pictures cut or warped, a cloud for each.

    Bad samples are listed in the manifest and skipped; a stopped run goes on from its last part; a store of the same
    files and settings is kept.

    Args:    raw, out: data.raw and data.store where they are None.   Returns: the store's folder.
    Raises:  InputError if there is no good sample.
    """
    from p2m_core.data.store import is_whole

    data, model = config.data, config.model
    raw, out = archive.top(resolve(raw or data.raw)), resolve(out or data.store)
    entries, problems = find_entries(raw), [str(error) for error in scan(raw)[1]]
    used = {"store_px", "store_margin", "jpeg_quality", "points", "val_share", "test_share", "split_seed"}
    lens = {"camera", "input_px", "focal_px", "centre_px"}
    settings = {
        "version": VERSION,
        "kind": "folder",
        "data": data.model_dump(mode="json", include=used),
        "model": model.model_dump(mode="json", include=lens if model.camera == "perspective" else {"camera"}),
        "template": config.template.model_dump(mode="json"),
    }
    files = sorted({path for e in entries for path in (e.image, e.shape, e.camera) if path})
    listing = [(str(path)[len(str(raw)) + 1 :], *archive.state(path)) for path in files]
    key = hashlib.sha256(json.dumps([settings, listing]).encode()).hexdigest()
    manifest = out / "manifest.json"
    if manifest.exists() and json.loads(manifest.read_text()).get("key") == key and is_whole(out):
        return out
    folder = out / f"parts-{key[:12]}"
    parts = [
        Part(tuple(entries[i : i + PART_SIZE]), i, folder / f"{i:08d}.npz", data, model)
        for i in range(0, len(entries), PART_SIZE)
    ]
    for skipped in map_jobs(write_part, parts, data.workers if len(parts) > 1 else 1, f"samples, {PART_SIZE} a step"):
        for line in skipped:
            _log.warning("skipped %s", line)
    manifest.unlink(missing_ok=True)
    merge_parts(parts, out, config, {"key": key, **settings, "raw": str(raw)}, problems)
    for old in out.glob("parts-*"):
        shutil.rmtree(old)
    return out


def merge_parts(parts: list[Part], out: Path, config: Config, manifest: dict, skipped: list[str]) -> None:
    """Lay the parts' files together, and write the template and the manifest."""
    columns: dict[str, list[np.ndarray]] = {}
    with (
        atomic_path(out / "images.bin") as images,
        atomic_path(out / "clouds.bin") as clouds,
        open(images, "wb") as image_file,
        open(clouds, "wb") as cloud_file,
    ):
        for part in parts:
            content = read_npz(part.out, REMAKE)
            skipped += content.pop("skipped").tolist()
            image_file.write(content.pop("images").tobytes())
            cloud_file.write(content.pop("clouds").tobytes())
            for name, values in content.items():
                columns.setdefault(name, []).append(values)
    table = {name: np.concatenate(arrays) for name, arrays in columns.items()}
    count = len(table["name"])
    if not count:
        problem = f"none of its samples can be used, the first: {skipped[0]}"
        raise InputError(manifest["raw"], "", problem, "mend the files")
    table["split"] = by_shares(np.char.add(np.char.add(table["category"], "/"), table["name"]), config.data)
    with atomic_path(out / "samples.npz") as temporary:
        np.savez(temporary, **table)
    with atomic_path(out / "template.npz") as temporary:
        np.savez(temporary, **build_template(config).arrays())
    names = ("images.bin", "clouds.bin", "samples.npz", "template.npz")
    manifest |= {
        "count": count,
        "splits": {name: int((table["split"] == k).sum()) for k, name in enumerate(SPLITS)},
        "skipped": skipped,
        "normals estimated": table["name"][table["estimated"] > 0].tolist(),
        "bytes_per_sample": round(sum((out / name).stat().st_size for name in names[:3]) / count),
        "sha256": {name: sha256(out / name) for name in names},
    }
    write_json(out / "manifest.json", manifest)


# --- reading --------------------------------------------------------------------------------------


class FolderStore:
    """A store of a folder set, opened; training and evaluation ask it what they ask any store.

    table: columns name, category, split, length, points, crop (N, 2, 3) picture px to store px, estimated.
    camera: "crop", whose clouds are px of the stored crop, or "perspective", whose clouds are in the camera's frame.
    """

    metric = "cd_x1000"
    damaged = np.zeros(0, np.int64)  # a store whose files have other sizes is refused as a whole

    def __init__(self, folder: str | Path, config: Config):
        self.folder, self.config = resolve(folder), config
        path = self.folder / "manifest.json"
        if not path.exists():
            raise InputError(self.folder, "", "is no finished store", "run p2m preprocess")
        self.manifest = json.loads(path.read_text())
        if (self.manifest.get("kind"), self.manifest.get("version")) != ("folder", VERSION):
            raise InputError(path, "kind", "is no folder set of this version", f"{REMAKE}, or mend data.kind")
        self.camera = self.manifest["model"]["camera"]
        self.unit = "m" if self.camera == "perspective" else "(half the crop's side)"
        if config.model.camera != self.camera:
            raise InputError("config", "model.camera", f"is {config.model.camera}", f"the store wants {self.camera}")
        for name, value in self.manifest["model"].items():
            if json.loads(json.dumps(getattr(config.model, name))) != value:
                raise InputError("config", f"model.{name}", f"is not the store's {value}", REMAKE)
        self.table = read_npz(self.folder / "samples.npz", REMAKE)
        self.template = Template.from_arrays(read_npz(self.folder / "template.npz", REMAKE))
        self.size_px, self.margin = self.manifest["data"]["store_px"], self.manifest["data"]["store_margin"]
        self.starts = np.concatenate([[0], np.cumsum(self.table["length"])])
        self.cloud_starts = np.concatenate([[0], np.cumsum(self.table["points"])])
        for name, size in (("images.bin", self.starts[-1]), ("clouds.bin", 24 * self.cloud_starts[-1])):
            blob = self.folder / name
            if not blob.exists() or blob.stat().st_size != size:
                raise InputError(blob, "", f"does not have {size} bytes", REMAKE)

    def __len__(self) -> int:
        return len(self.table["name"])

    @cached_property
    def images(self) -> np.ndarray:
        return np.memmap(self.folder / "images.bin", np.uint8, "r")

    @cached_property
    def clouds(self) -> np.ndarray:
        return np.memmap(self.folder / "clouds.bin", np.float32, "r").reshape(-1, 6)

    def crop(self, index: int) -> np.ndarray:
        """The stored picture (S, S, 3) uint8 RGB."""
        jpeg = np.asarray(self.images[self.starts[index] : self.starts[index + 1]])
        return np.ascontiguousarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1])

    def cloud(self, index: int) -> np.ndarray:
        """Points and normals (N, 6) float32 in the store's frame."""
        return np.array(self.clouds[self.cloud_starts[index] : self.cloud_starts[index + 1]])

    def rows(self, split: str) -> np.ndarray:
        """Indices of a split's samples; "all" gives every one."""
        return np.arange(len(self)) if split == "all" else np.nonzero(self.table["split"] == SPLITS.index(split))[0]

    def input_matrix(self, model: ModelConfig) -> np.ndarray:
        """The affine map (2, 3) from store px to the network's input."""
        if self.camera == "perspective":
            scale = model.input_px / self.size_px
            return np.array([[scale, 0, scale / 2 - 0.5], [0, scale, scale / 2 - 0.5]])
        box = np.array([-1, -1, 1, 1]) * self.size_px / 2 / self.margin + (self.size_px - 1) / 2
        return crop_matrix(box, model.input_px, model.margin)

    def dataset(self, rows: np.ndarray, config: Config, train: bool) -> FolderDataset:
        """Samples for the network, augmented where they are for training.

        Raises: InputError for losses by correspondence, which clouds have not, and for moves of pictures that a
                perspective camera took.
        """
        for name in ("vertex", "landmark"):
            if train and getattr(config.loss, name):
                raise InputError("config", f"loss.{name}", "is above 0, but clouds have no vertices", "set it to 0")
        if train and any(config.loss.regions):
            raise InputError("config", "loss.regions", "is set, but clouds have no landmarks", "set it to [0, 0]")
        moves = [name for name in ("flip", "rotate_deg", "scale", "shift") if getattr(config.augment, name)]
        if train and self.camera == "perspective" and moves:
            problem = f"{', '.join(moves)} above 0, but a perspective camera stands where it stands"
            raise InputError("config", "augment", problem, "set them to 0")
        return FolderDataset(self, rows, config, train)

    def truth_decoder(self) -> nn.Module:
        """From a batch of `dataset` to its truth."""
        return CloudDecoder()

    def error(self, vertices: torch.Tensor, truth: Truth) -> np.ndarray:
        """CD x1000 of cd-f1@p2m for predicted finest vertices (B, V, 3), in the network's coordinates, one a sample."""
        lengths = [truth.points.shape[1]] * len(vertices) if truth.lengths is None else truth.lengths.tolist()
        pairs = zip(vertices.cpu().numpy(), truth.points.cpu().numpy(), lengths, strict=True)
        return np.array([cd_f1(predicted, points[:count])["cd"] for predicted, points, count in pairs])

    def on_image(self, vertices: np.ndarray, side_px: int) -> np.ndarray:
        """The network's vertices in px of its input, drawn side_px wide; z to the viewer."""
        return on_input(vertices, self.config.model, side_px) if self.camera != "crop" else ndc_to_px(vertices, side_px)

    def summary(self) -> str:
        """What the store holds, in some lines."""
        manifest = self.manifest
        lines = [f"skipped {line}" for line in manifest["skipped"]]
        lines.append(f"{len(self)} samples {manifest['splits']}, {len(manifest['skipped'])} skipped")
        categories, counts = np.unique(self.table["category"], return_counts=True)
        lines.append(", ".join(f"{name} {count}" for name, count in zip(categories, counts, strict=True)))
        lines.append(f"{int(np.median(self.table['points']))} points a sample, for the camera {self.camera}")
        if manifest["normals estimated"]:
            lines.append(f"normals estimated for {len(manifest['normals estimated'])} clouds that have none")
        return "\n".join([*lines, f"written: {self.folder}"])


class FolderDataset(Dataset):
    """Samples of a store as the network's inputs.

    Item: image (3, S, S) float32 in [0, 1]; points, normals (M, 3) float32 in the network's coordinates; index. For
    training M is loss.points, drawn by seed, epoch and sample; else all points are there, and lengths says how many.
    """

    def __init__(self, store: FolderStore, rows: np.ndarray, config: Config, train: bool):
        self.store, self.rows, self.config, self.train, self.epoch = store, rows, config, train, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, np.ndarray]:
        # A sampler may hand over (epoch, position): workers that live on do not see self.epoch change.
        epoch, position = item if isinstance(item, tuple) else (self.epoch, item)
        index, model, augment = int(self.rows[position]), self.config.model, self.config.augment
        rng = np.random.default_rng([self.config.seed, epoch, index])
        matrix, flip, cloud = self.store.input_matrix(model), False, self.store.cloud(index)
        if self.train:
            cloud = cloud[np.resize(rng.permutation(len(cloud)), self.config.loss.points)]  # again where there are few
            if self.store.camera == "crop":
                change, flip = draw_matrix(augment, rng, model.input_px)
                matrix = compose(change, matrix)
        image = crop_image(self.store.crop(index), matrix, model.input_px).astype(np.float32) / 255
        points, normals = self.placed(cloud, matrix)
        if flip:
            image, mirror = image[:, ::-1], np.array([-1, 1, 1])
            points, normals = points * mirror, normals * mirror
        if self.train:
            image = change_look(image, augment, rng)
        content = {
            "image": np.ascontiguousarray(image.transpose(2, 0, 1), np.float32),
            "points": points.astype(np.float32),
            "normals": normals.astype(np.float32),
            "index": np.int64(index),
        }
        return content if self.train else content | {"lengths": np.int64(len(cloud))}

    def placed(self, cloud: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points and normals (M, 3) of a cloud in the network's coordinates; matrix: (2, 3) store px to its input."""
        if self.store.camera == "perspective":
            return cloud[:, :3] - self.config.model.mesh_offset, cloud[:, 3:]
        points = px_to_ndc(apply_affine(matrix, cloud[:, :3]), self.config.model.input_px)
        turn = matrix[:, :2] / np.sqrt(abs(np.linalg.det(matrix[:, :2])))
        normals = np.concatenate([cloud[:, 3:5] @ turn.T, cloud[:, 5:]], 1)
        return points - points.mean(0) * [0, 0, 1], normals

    def __getitems__(self, items: list) -> list[dict[str, np.ndarray]]:
        """A DataLoader's batch, clouds padded to the longest."""
        return pad_clouds([self[item] for item in items])
