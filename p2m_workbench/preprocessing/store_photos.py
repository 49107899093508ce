"""The photos that a store was cut from, at full resolution, where their files are still there."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from p2m_core.config.paths import resolve
from p2m_core.data.aflw2000 import find_samples, read_image, read_sample
from p2m_core.data.face_store import FaceStore
from p2m_core.errors import InputError
from p2m_core.geometry.crop import invert_affine


class StorePhotos:
    """The photos of a store's samples."""

    def __init__(self, store: FaceStore):
        self.store = store

    @cached_property
    def _paths(self) -> dict[str, Path]:
        try:
            return {path.stem: path for path in find_samples(resolve(self.store.manifest["raw"]))}
        except InputError:
            return {}

    def photo(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A sample's photo (H, W, 3) uint8 and the map (2, 3) from its px to the file's; the stored crop where the file
        is gone."""
        path = self._paths.get(Path(str(self.store.table["name"][index])).name)
        if path is not None:
            return read_image(read_sample(path).image_path), np.eye(2, 3)
        return self.store.crop(index), invert_affine(self.store.table["crop"][index])
