"""The store of a folder set: that of `data.store`, with a cloud in place of coefficients.

    STORE/ manifest.json  images.bin  samples.npz  template.npz       clouds.bin   (N, 6) float32 a sample

Pictures seen by a perspective camera are warped to the network's, which has one focal length and centre for all; the
others are cut around their box.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from p2m_core.camera import apply_affine, crop_matrix, ndc_to_px, px_to_ndc
from p2m_core.config import Config, DataConfig, ModelConfig, resolve
from p2m_core.data import archive
from p2m_core.data.augment import change_look, compose, crop_image, draw_matrix
from p2m_core.data.folder import Y_UP, Camera, Entry, Sample, draw_cloud, find_entries, read_sample, scan
from p2m_core.data.preprocess import is_made, store_key
from p2m_core.data.shapenet import CloudDecoder, cloud_errors, on_input, pad_clouds
from p2m_core.data.splits import SPLITS, by_shares
from p2m_core.errors import InputError
from p2m_core.files import atomic_path, read_npz, sha256, write_json
from p2m_core.jobs import map_jobs
from p2m_core.losses import BY_CORRESPONDENCE, Truth
from p2m_core.template import Template, ellipsoid

VERSION = 1
PART_SIZE = 50
REMAKE = "run p2m preprocess again"
_log = logging.getLogger(__name__)


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
    return matrix, np.concatenate([points, cloud[:, 3:] * Y_UP], 1)


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
    key, manifest = store_key(settings, raw, files), out / "manifest.json"
    if is_made(out, key):
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
        for name in BY_CORRESPONDENCE:
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
        return cloud_errors(vertices, truth)

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
