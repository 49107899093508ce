"""The store of a folder set: that of `data.store`, with a cloud in place of coefficients.

    STORE/ manifest.json  images.bin  samples.npz  template.npz       clouds.bin   (N, 6) float32 a sample

Pictures seen by a perspective camera are warped to the network's, which has one focal length and centre for all; the
others are cut around their box.
"""

from __future__ import annotations

import json
import logging
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from p2m_core.config.paths import resolve
from p2m_core.config.settings import Config, ModelConfig
from p2m_core.data.augment import change_look, draw_matrix
from p2m_core.data.clouds import CloudDecoder, cloud_errors, on_input, pad_clouds
from p2m_core.data.splits import SPLITS
from p2m_core.errors import InputError
from p2m_core.files import read_npz
from p2m_core.geometry.crop import apply_affine, compose, crop_image, crop_matrix, ndc_to_px, px_to_ndc
from p2m_core.geometry.template import Template
from p2m_core.targets import BY_CORRESPONDENCE, Truth

VERSION = 1
PART_SIZE = 50
REMAKE = "run p2m preprocess again"
_log = logging.getLogger(__name__)


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
