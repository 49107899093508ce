"""From a data set to the store that training reads, as `p2m preprocess` does it.

The package is not named like its function: `from p2m_workbench import preprocess` would then give the package.
"""

from __future__ import annotations

from pathlib import Path

from p2m_core.config.settings import Config
from p2m_core.data.face_store import FaceStore
from p2m_core.data.folder_store import FolderStore
from p2m_core.errors import InputError
from p2m_workbench.preprocessing.faces import build_face_store
from p2m_workbench.preprocessing.folders import build_folder_store


def preprocess(config: Config, raw: str | Path | None = None, out: str | Path | None = None) -> FaceStore | FolderStore:
    """Make the store of a set of faces or of a folder set, with the project's own face model, and open it.

    A stopped run goes on where it was; a store that is there already and made of the same files with the same
    settings is kept.

    Args:    raw: folder or zip, data.raw where None.   out: the store's folder, data.store where None.
    Raises:  InputError if there is no good sample, or for objects, which are read as they are.
    """
    if config.data.kind == "objects":
        problem = "is objects, which are read as they are"
        raise InputError(raw or config.data.raw, "data.kind", problem, "go on with p2m train")
    if config.data.kind == "folder":
        return FolderStore(build_folder_store(config, raw, out), config)
    return FaceStore(build_face_store(config, raw, out))
