"""The store of a set of faces: crops as JPEG, coefficients of a face model instead of vertices.

    STORE/  see `packed_store`; model.npz holds the template, and its vertices as linear points of the face model

`preprocess` makes it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from p2m_core.config.paths import shown
from p2m_core.config.settings import AugmentConfig, Config
from p2m_core.data.aflw2000 import FLIPPED
from p2m_core.data.augment import change_look, draw_matrix
from p2m_core.data.packed_store import PackedStore
from p2m_core.geometry.camera import model_to_image
from p2m_core.geometry.crop import (
    apply_affine,
    compose,
    crop_image,
    face_size,
    model_frame,
    model_to_crop,
    ndc_to_px,
)
from p2m_core.metrics import nme68_2d
from p2m_core.morphable.model import LinearPoints, onto_eyeballs
from p2m_core.targets import Truth

LISTED_SAMPLES = 20
REBUILT_LIMIT_PERCENT = 1.5  # of the face size: a wrong face model leaves more, the unfitted mean face 3


class FaceStore(PackedStore):
    """A store of faces, opened.

    metric: the name of what `error` gives.
    table: the columns of every store, and those of `sample_columns` in p2m_workbench/preprocessing/faces.py;
    box_px (N, 4), the landmarks' box that was cut around; crc32 of the crops.
    template: Template.   points: LinearPoints of the template's finest vertices.
    """

    kind, version, template_name, metric, camera = "faces", 3, "model.npz", "nme68_2d", "crop"

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        mean, *bases = (self.arrays[name] for name in ("mean", "shape_basis", "expression_basis"))
        with_eyeballs = len(mean) > self.template.counts[-1]
        eyes = tuple(self.template.within(name) for name in ("right eye", "left eye")) if with_eyeballs else ()
        self.points = LinearPoints(mean, *bases, eyes=eyes)

    @property
    def truth_from(self) -> str:
        """What gives the true vertices, in words."""
        face_model = self.manifest["face_model"]
        own = {"synthetic": "the own face model, by the files' coefficients"}
        own["fit"] = "the own face model, fitted to the files' 68 landmarks"
        return own.get(face_model) or shown(face_model)

    def facts(self) -> list[str]:
        """Lines of the summary on the face model, and on how well it gives the landmarks of the files."""
        table, face_model = self.table, self.manifest["face_model"]
        residual, mean_face = table["residual_percent"], table["mean_face_percent"]
        lines = [f"ground truth from: {self.truth_from}"]
        if len(self) <= LISTED_SAMPLES:
            lines += [
                f"{name}  residual {r:.2f} %, mean face {m:.2f} %"
                for name, r, m in zip(table["name"], residual, mean_face, strict=True)
            ]
        if table["subset"].any():
            groups = [*zip(table["subset"].tolist(), table["flipped"].tolist(), strict=True)]
            of_each = [f"{s}{FLIPPED * f} {groups.count((s, f))}" for s, f in sorted(set(groups))]
            lines.append(f"300W-LP: {', '.join(of_each)}; {len(np.unique(table['source']))} photos")
        means = f"mean {residual.mean():.2f} %; the unfitted mean face: {mean_face.mean():.2f} %"
        lines.append(f"landmark residual (nme68-3d): {means}")
        if face_model != "fit" and residual.mean() > REBUILT_LIMIT_PERCENT:
            lines.append("pose, coefficients and landmarks do not belong together: see p2m doctor with this face model")
        return lines

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
        return nme68_2d(*(self.template.landmarks(x.cpu().numpy()) for x in (vertices, truth.known_vertices())))

    def on_image(self, vertices: np.ndarray, side_px: int) -> np.ndarray:
        """The network's vertices in px of its input, drawn side_px wide; z to the viewer."""
        return ndc_to_px(vertices, side_px)

    # --- crops, and what is known of them ---

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
        store: FaceStore,
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

    mean: torch.Tensor
    basis: torch.Tensor
    mirror: torch.Tensor

    def __init__(self, store: FaceStore):
        super().__init__()
        points = store.points
        self.register_buffer("mean", torch.from_numpy(points.mean.reshape(-1)))
        basis = np.concatenate([points.shape_basis, points.expression_basis], 2).reshape(len(self.mean), -1)
        self.register_buffer("basis", torch.from_numpy(np.ascontiguousarray(basis.T)))
        self.register_buffer("mirror", torch.from_numpy(store.template.mirror))
        for k, idx in enumerate(points.eyes):
            self.register_buffer(f"eye{k}", torch.from_numpy(idx))
        self.eyes = len(points.eyes)

    def forward(self, batch: dict[str, torch.Tensor]) -> Truth:
        coefficients = torch.cat([batch["shape"], batch["expression"]], 1)
        vertices = torch.addmm(self.mean, coefficients, self.basis).view(len(coefficients), -1, 3)
        if self.eyes:
            vertices = onto_eyeballs(vertices, [self.get_buffer(f"eye{k}") for k in range(self.eyes)])
        vertices = (vertices @ batch["linear"].transpose(1, 2)).add_(batch["shift"][:, None])
        vertices[..., 2] -= vertices[..., 2].mean(1, keepdim=True)
        flip = batch["flip"]
        if flip.is_cuda or flip.any():  # to ask a GPU would be to wait for it
            mirrored = vertices.index_select(1, self.mirror) * vertices.new_tensor([-1.0, 1.0, 1.0])
            vertices = torch.where(flip[:, None, None], mirrored, vertices)
        return Truth(vertices)
