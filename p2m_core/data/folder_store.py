"""The store of a folder set: that of `packed_store`, with a cloud of surface points a sample.

    STORE/ manifest.json  images.bin  samples.npz  template.npz       clouds.bin   (N, 6) float32 a sample

Pictures seen by a perspective camera are warped to the network's, which has one focal length and centre for all; the
others are cut around their box. p2m_workbench/preprocessing/folders.py makes it.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import numpy as np

from p2m_core.config.settings import Config
from p2m_core.data.augment import change_look, draw_matrix
from p2m_core.data.clouds import CloudDataset, CloudStore
from p2m_core.data.packed_store import REMAKE, PackedStore
from p2m_core.errors import InputError
from p2m_core.geometry.crop import apply_affine, compose, crop_image, ndc_to_px, px_to_ndc


class FolderStore(CloudStore, PackedStore):
    """A store of a folder set, opened.

    table: besides the columns of every store category, points (of the cloud), and estimated, whether its normals are.
    camera: "crop", whose clouds are px of the stored crop, or "perspective", whose clouds are in the camera's frame.
    unit: of its error.
    """

    kind, version, template_name = "folder", 1, "template.npz"

    def __init__(self, folder: str | Path, config: Config):
        super().__init__(folder)
        self.config, self.camera = config, self.manifest["model"]["camera"]
        self.unit = "m" if self.camera == "perspective" else "(half the crop's side)"
        if config.model.camera != self.camera:
            problem = f"is {config.model.camera}, the store's is {self.camera}"
            raise InputError(self.folder, "model.camera", problem, REMAKE)
        for name, value in self.manifest["model"].items():
            if json.loads(json.dumps(getattr(config.model, name))) != value:
                raise InputError(self.folder, f"model.{name}", f"is not the store's {value}", REMAKE)
        self.cloud_starts = np.concatenate([[0], np.cumsum(self.table["points"])])
        self.check_size("clouds.bin", 24 * self.cloud_starts[-1])

    @cached_property
    def clouds(self) -> np.ndarray:
        """The content of clouds.bin (n, 6) float32, read as it is needed."""
        return np.memmap(self.folder / "clouds.bin", np.float32, "r").reshape(-1, 6)

    def cloud(self, index: int) -> np.ndarray:
        """Points and normals (N, 6) float32 in the store's frame."""
        return np.array(self.clouds[self.cloud_starts[index] : self.cloud_starts[index + 1]])

    def input_matrix(self, input_px: int, margin: float) -> np.ndarray:
        """The affine map (2, 3) from store px to the network's input."""
        if self.camera == "perspective":
            scale = input_px / self.size_px
            return np.array([[scale, 0, scale / 2 - 0.5], [0, scale, scale / 2 - 0.5]])
        return super().input_matrix(input_px, margin)

    def dataset(self, rows: np.ndarray, config: Config, train: bool) -> FolderDataset:
        """Samples for the network, augmented where they are for training."""
        return FolderDataset(self, rows, config, train)

    def on_image(self, vertices: np.ndarray, side_px: int) -> np.ndarray:
        """The network's vertices in px of its input, drawn side_px wide; z to the viewer."""
        return super().on_image(vertices, side_px) if self.camera != "crop" else ndc_to_px(vertices, side_px)

    def facts(self) -> list[str]:
        """Lines of the summary on categories and clouds."""
        categories, counts = np.unique(self.table["category"], return_counts=True)
        lines = [", ".join(f"{name} {count}" for name, count in zip(categories, counts, strict=True))]
        lines.append(f"{int(np.median(self.table['points']))} points a sample, for the camera {self.camera}")
        if estimated := self.manifest["normals estimated"]:
            lines.append(f"normals estimated for {len(estimated)} clouds that have none")
        return lines


class FolderDataset(CloudDataset):
    """Samples of a folder set's store as the network's inputs, see `CloudDataset`."""

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.store.crop(index), self.store.cloud(index)

    def to_input(
        self, picture: np.ndarray, cloud: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        model, augment, flip = self.config.model, self.config.augment, False
        matrix = self.store.input_matrix(model.input_px, model.margin)
        if self.train and self.store.camera == "crop":
            change, flip = draw_matrix(augment, rng, model.input_px)
            matrix = compose(change, matrix)
        image = crop_image(picture, matrix, model.input_px).astype(np.float32) / 255
        points, normals = self.placed(cloud, matrix)
        if flip:
            image, mirror = image[:, ::-1], np.array([-1, 1, 1])
            points, normals = points * mirror, normals * mirror
        return change_look(image, augment, rng) if self.train else image, points, normals

    def placed(self, cloud: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points and normals (M, 3) of a cloud in the network's coordinates; matrix: (2, 3) store px to its input."""
        if self.store.camera == "perspective":
            return cloud[:, :3] - self.config.model.mesh_offset, cloud[:, 3:]
        points = px_to_ndc(apply_affine(matrix, cloud[:, :3]), self.config.model.input_px)
        turn = matrix[:, :2] / np.sqrt(abs(np.linalg.det(matrix[:, :2])))
        normals = np.concatenate([cloud[:, 3:5] @ turn.T, cloud[:, 5:]], 1)
        return points - points.mean(0) * [0, 0, 1], normals
