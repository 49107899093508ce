"""Data sets as they lie in folders and zips, and the stores that training reads.

    aflw2000, a set of faces       ->  p2m_workbench.preprocessing.faces    ->  face_store
    pictures and meshes in folders ->  p2m_workbench.preprocessing.folders  ->  folder_store
    shapenet, packed objects, read as they are

`packed_store` opens the files that both kinds of store share, `splits` divides samples, `augment` changes crops for
training.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from p2m_core.config.settings import Config

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch.utils.data import Dataset

    from p2m_core.geometry.template import Template
    from p2m_core.targets import Truth


class Store(Protocol):
    """What training, evaluation and viewers ask of any store.

    folder: where it lies.   manifest: what it is made of, among that "raw", the data set.
    table: columns (N, ...), one row a sample, among them name, and split, an index into `splits.SPLITS`.
    template: the mesh that is deformed.   metric: the name of what `error` gives.
    camera: the model.camera that the data want.
    """

    folder: Path
    manifest: dict[str, Any]
    table: dict[str, np.ndarray]
    template: Template
    metric: str
    camera: str

    @property
    def damaged(self) -> np.ndarray:
        """Indices (n,) of samples that are no longer as they were written."""

    def __len__(self) -> int: ...

    def rows(self, split: str) -> np.ndarray:
        """Indices (n,) of the samples of "train", "val", "test" or "all", without damaged ones."""

    def dataset(self, rows: np.ndarray, config: Config, train: bool) -> Dataset:
        """Samples as inputs of the network that a config describes, augmented where they are for training."""

    def truth_decoder(self) -> torch.nn.Module:
        """A module from a batch of `dataset` to its `Truth`."""

    def error(self, vertices: torch.Tensor, truth: Truth) -> np.ndarray:
        """The metric (B,) of predicted finest vertices (B, V, 3) in the network's coordinates."""

    def on_image(self, vertices: np.ndarray, side_px: int) -> np.ndarray:
        """Vertices (V, 3) in the network's coordinates to px of its input, drawn side_px wide; z to the viewer."""


def open_store(config: Config, folder: str | Path | None = None) -> Store:
    """The store that was made of data.raw, or the packed objects in data.raw itself.

    Args:    folder: another one than the config's.
    Raises:  InputError if there is none, or if it does not suit the config.

    >>> store = open_store(config)  # the config of a set that was preprocessed
    >>> rows = store.rows("test")
    >>> store.table["landmarks_px"][rows].shape == (len(rows), 68, 3)
    True
    >>> store.dataset(rows, config, train=False)[0]["image"].shape  # of model.input_px
    (3, 64, 64)
    """
    if config.data.kind == "objects":
        from p2m_core.data.shapenet import ObjectStore

        return ObjectStore(folder or config.data.raw, config)
    if config.data.kind == "folder":
        from p2m_core.data.folder_store import FolderStore

        return FolderStore(folder or config.data.store, config)
    from p2m_core.data.face_store import FaceStore

    return FaceStore(folder or config.data.store)
