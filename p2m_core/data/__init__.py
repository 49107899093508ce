"""Reading data sets, and the processed store that training reads."""

from __future__ import annotations

from pathlib import Path

from p2m_core.config.settings import Config


def open_store(config: Config, folder: str | Path | None = None):
    """The store that was made of data.raw, or the packed objects in data.raw itself.

    Args: folder: another one than the config's.
    """
    if config.data.kind == "objects":
        from p2m_core.data.shapenet import ObjectStore

        return ObjectStore(folder or config.data.raw, config)
    if config.data.kind == "folder":
        from p2m_core.data.folder_store import FolderStore

        return FolderStore(folder or config.data.store, config)
    from p2m_core.data.store import Store

    return Store(folder or config.data.store)
