"""Reading data sets, and the processed store that training reads."""

from __future__ import annotations

from pathlib import Path

from p2m_core.config.settings import Config


def open_store(config: Config, folder: str | Path | None = None):
    """The store that was made of data.raw, or the packed objects in data.raw itself.

    Args: folder: another one than the config's.

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
    from p2m_core.data.store import Store

    return Store(folder or config.data.store)
