"""The processed set that training reads: crops as JPEG in one blob, coefficients instead of vertices.

STORE/  manifest.json   what it is made of, hashes, skipped samples; written last, so a store is whole or absent
        images.bin      the crops' JPEG files, one after another
        samples.npz     a row a sample: offsets, coefficients, pose, crop, landmarks, split
        model.npz       the template, and its vertices as linear points of the face model

`preprocess` makes it.
"""

from __future__ import annotations

import json
import logging
import zlib
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from p2m_core.config.paths import resolve
from p2m_core.config.settings import AugmentConfig, Config
from p2m_core.data.aflw2000 import FLIPPED
from p2m_core.data.augment import change_look, draw_matrix
from p2m_core.data.splits import SPLITS
from p2m_core.data.store_files import REMAKE, VERSION, checksums
from p2m_core.errors import InputError
from p2m_core.files import read_npz
from p2m_core.geometry.camera import model_to_image
from p2m_core.geometry.crop import (
    apply_affine,
    compose,
    crop_image,
    crop_matrix,
    face_size,
    model_frame,
    model_to_crop,
    ndc_to_px,
)
from p2m_core.geometry.template import Template
from p2m_core.metrics import nme68_2d
from p2m_core.morphable.model import LinearPoints
from p2m_core.targets import Truth

LISTED_SAMPLES = 20
REBUILT_LIMIT_PERCENT = 1.5  # of the face size; half of the mean face's residual, which a wrong model exceeds
_log = logging.getLogger(__name__)


class Store:
    """A store, opened.

    metric: the name of `error`.
    table: dict of columns, one row a sample: see `sample_rows`, and length, crop (N, 2, 3) image px to store px,
    box_px (N, 4) that it was cut around and detected, whether it is not the landmarks', and split.
    template: Template.   points: LinearPoints of the template's finest vertices.
    """

    metric = "nme68_2d"

    def __init__(self, folder: str | Path):
        self.folder = resolve(folder)
        path = self.folder / "manifest.json"
        if not path.exists():
            raise InputError(self.folder, "", "is no finished store", "run p2m preprocess")
        self.manifest = json.loads(path.read_text())
        if self.manifest.get("kind") == "folder":
            raise InputError(path, "kind", "is that of a folder set", "set data.kind=folder, or take -c folder")
        if self.manifest["version"] != VERSION:
            raise InputError(path, "version", f"is {self.manifest['version']}, not {VERSION}", REMAKE)
        self.table, arrays = (read_npz(self.folder / name, REMAKE) for name in ("samples.npz", "model.npz"))
        self.points = LinearPoints(*(arrays.pop(name) for name in ("mean", "shape_basis", "expression_basis")))
        self.template = Template.from_arrays(arrays)
        self.starts = np.concatenate([[0], np.cumsum(self.table["length"])])
        blob = self.folder / "images.bin"
        size = blob.stat().st_size if blob.exists() else 0
        if size != self.starts[-1]:
            raise InputError(blob, "", f"has {size} bytes, not {self.starts[-1]}", REMAKE)
        self.size_px, self.margin = self.manifest["data"]["store_px"], self.manifest["data"]["store_margin"]

    def __len__(self) -> int:
        return len(self.table["name"])

    @cached_property
    def blob(self) -> np.ndarray:
        return np.memmap(self.folder / "images.bin", np.uint8, "r")

    def crop(self, index: int) -> np.ndarray:
        """The stored crop, (S, S, 3) uint8 RGB.   Raises InputError if it is no longer as it was written."""
        jpeg = self.blob[self.starts[index] : self.starts[index + 1]]
        if "crc32" in self.table and zlib.crc32(jpeg) != self.table["crc32"][index]:
            raise InputError(self.folder / "images.bin", self.table["name"][index], "is damaged", REMAKE)
        return cv2.imdecode(np.asarray(jpeg), cv2.IMREAD_COLOR_RGB)

    def summary(self) -> str:
        """What the store holds and how well its ground truth fits, in some lines."""
        table, manifest = self.table, self.manifest
        residual, mean_face = table["residual_percent"], table["mean_face_percent"]
        lines = [f"skipped {line}" for line in manifest["skipped"]]
        lines += [f"{name}: no face is found, cut around the landmarks" for name in manifest["undetected"]]
        if len(self) <= LISTED_SAMPLES:
            lines += [
                f"{name}  residual {r:.2f} %, mean face {m:.2f} %"
                for name, r, m in zip(table["name"], residual, mean_face, strict=True)
            ]
        counts = f"{len(self)} samples {manifest['splits']}, {len(manifest['skipped'])} skipped"
        lines.append(f"{counts}, ground truth from: {manifest['face_model']}")
        if table["detected"].any():
            lines.append(f"cut around the detected face: {table['detected'].sum()} of {len(self)}")
        if table["subset"].any():
            groups = [*zip(table["subset"].tolist(), table["flipped"].tolist(), strict=True)]
            of_each = [f"{s}{FLIPPED * f} {groups.count((s, f))}" for s, f in sorted(set(groups))]
            lines.append(f"300W-LP: {', '.join(of_each)}; {len(np.unique(table['source']))} photos")
        means = f"mean {residual.mean():.2f} %; the unfitted mean face: {mean_face.mean():.2f} %"
        lines.append(f"landmark residual (nme68-3d): {means}")
        if manifest["face_model"] != "fit" and residual.mean() > REBUILT_LIMIT_PERCENT:
            lines.append("pose, coefficients and landmarks do not belong together: see p2m doctor with this face model")
        return "\n".join([*lines, f"written: {self.folder}"])

    @cached_property
    def damaged(self) -> np.ndarray:
        """Indices of the samples whose crops are no longer as they were written. (Older stores have no checksums.)"""
        if "crc32" not in self.table:
            return np.zeros(0, np.int64)
        found = np.flatnonzero(checksums(self.folder / "images.bin", self.table["length"]) != self.table["crc32"])
        if len(found):
            names = ", ".join(self.table["name"][found])
            _log.warning("%s: %d damaged samples are skipped: %s", self.folder, len(found), names)
        return found

    def rows(self, split: str) -> np.ndarray:
        """Indices of a split's samples, without damaged ones; "all" gives those of every split."""
        chosen = np.ones(len(self), bool) if split == "all" else self.table["split"] == SPLITS.index(split)
        chosen[self.damaged] = False
        return np.flatnonzero(chosen)

    # --- what training and evaluation ask of any store ---

    def dataset(self, rows: np.ndarray, config: Config, train: bool) -> CropDataset:
        """Samples for the network; augmented where they are for training."""
        shape = (config.model.input_px, config.model.margin)
        return CropDataset(self, rows, *shape, config.augment if train else None, config.seed)

    def truth_decoder(self) -> TruthDecoder:
        """From a batch of `dataset` to its truth."""
        return TruthDecoder(self)

    def error(self, vertices: torch.Tensor, truth: Truth) -> np.ndarray:
        """nme68-2d in percent of predicted finest vertices (B, V, 3), one a sample."""
        return nme68_2d(*(self.template.landmarks(x.cpu().numpy()) for x in (vertices, truth.vertices)))

    def on_image(self, vertices: np.ndarray, side_px: int) -> np.ndarray:
        """The network's vertices in px of its input, drawn side_px wide; z to the viewer."""
        return ndc_to_px(vertices, side_px)

    # --- crops ---

    def input_matrix(self, input_px: int, margin: float) -> np.ndarray:
        """The affine map (2, 3) from store px to the network's input."""
        box = np.array([-1, -1, 1, 1]) * self.size_px / 2 / self.margin + (self.size_px - 1) / 2
        return crop_matrix(box, input_px, margin)

    def input_crop(self, index: int, input_px: int, margin: float) -> np.ndarray:
        """The network's input (input_px, input_px, 3) uint8, without augmentation."""
        return crop_image(self.crop(index), self.input_matrix(input_px, margin), input_px)

    def to_crop(self, points_px: np.ndarray, index: int) -> np.ndarray:
        """Px of a sample's photo to px of its stored crop, (..., 3)."""
        return apply_affine(self.table["crop"][index], points_px)

    @cached_property
    def frames(self) -> np.ndarray:
        """Origin and unit vectors of model space in px of each sample's stored crop, (N, 4, 3)."""
        frames, crop = model_frame(self.table["pose"], self.table["height"]), self.table["crop"]
        scale = np.sqrt(abs(np.linalg.det(crop[..., :2])))[:, None, None]
        plane = frames[..., :2] @ crop[..., :2].swapaxes(1, 2) + crop[:, None, :, 2]
        return np.concatenate([plane, frames[..., 2:] * scale], -1)

    def truth_px(self, index: int) -> np.ndarray:
        """True vertices of the finest template level, (V, 3), px of the original image."""
        row = {name: self.table[name][index] for name in ("shape", "expression", "pose", "height")}
        return model_to_image(self.points.vertices(row["shape"], row["expression"]), row["pose"], int(row["height"]))

    def yaw_deg(self) -> np.ndarray:
        """Yaw of every sample as its file gives it (N,)."""
        return np.degrees(self.table["file_pose"][:, 1])

    def face_size_px(self) -> np.ndarray:
        """sqrt(w h) of every sample's landmark box (N,)."""
        return face_size(self.table["landmarks_px"])


class CropDataset(Dataset):
    """Samples of a store as the network's inputs.

    Item: image (3, S, S) uint8, as prediction cuts it out; shape, expression; linear (3, 3) and shift (3,), the map
    from model space to normalised crop coordinates; flip; index. Augmentation depends on seed, epoch and sample alone.
    """

    def __init__(
        self,
        store: Store,
        rows: np.ndarray,
        input_px: int,
        margin: float,
        augment: AugmentConfig | None = None,
        seed: int = 0,
    ):
        self.store, self.rows, self.input_px, self.margin = store, rows, input_px, margin
        self.augment, self.seed, self.epoch = augment, seed, 0
        self.matrix = store.input_matrix(input_px, margin)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, np.ndarray]:
        # A sampler may hand over (epoch, position): workers that live on do not see self.epoch change.
        epoch, position = item if isinstance(item, tuple) else (self.epoch, item)
        index, table = int(self.rows[position]), self.store.table
        matrix, flip = self.matrix, False
        if self.augment is not None:
            rng = np.random.default_rng([self.seed, epoch, index])
            change, flip = draw_matrix(self.augment, rng, self.input_px)
            matrix = compose(change, matrix)
        image = crop_image(self.store.crop(index), matrix, self.input_px)
        if flip:
            image = image[:, ::-1]
        if self.augment is not None:
            look = change_look(image.astype(np.float32) / 255, self.augment, rng)
            image = np.rint(look * 255).astype(np.uint8)
        linear, shift = model_to_crop(self.store.frames[index], matrix, self.input_px)
        return {
            "image": np.ascontiguousarray(image.transpose(2, 0, 1)),
            "shape": table["shape"][index],
            "expression": table["expression"][index],
            "linear": linear.astype(np.float32),
            "shift": shift.astype(np.float32),
            "flip": np.bool_(flip),
            "index": np.int64(index),
        }


class TruthDecoder(nn.Module):
    """True vertices of a batch from its coefficients, on the model's device: normalised crop coordinates, z about its
    mean."""

    def __init__(self, store: Store):
        super().__init__()
        points = store.points
        self.register_buffer("mean", torch.from_numpy(points.mean.reshape(-1)))
        basis = np.concatenate([points.shape_basis, points.expression_basis], 2).reshape(len(self.mean), -1)
        self.register_buffer("basis", torch.from_numpy(np.ascontiguousarray(basis.T)))
        self.register_buffer("mirror", torch.from_numpy(store.template.mirror))

    def forward(self, batch: dict[str, torch.Tensor]) -> Truth:
        coefficients = torch.cat([batch["shape"], batch["expression"]], 1)
        vertices = torch.addmm(self.mean, coefficients, self.basis).view(len(coefficients), -1, 3)
        vertices = (vertices @ batch["linear"].transpose(1, 2)).add_(batch["shift"][:, None])
        vertices[..., 2] -= vertices[..., 2].mean(1, keepdim=True)
        flip = batch["flip"]
        if flip.is_cuda or flip.any():  # to ask a GPU would be to wait for it
            mirrored = vertices.index_select(1, self.mirror) * vertices.new_tensor([-1.0, 1.0, 1.0])
            vertices = torch.where(flip[:, None, None], mirrored, vertices)
        return Truth(vertices)
