"""Checkpoints from which a run continues: each a folder that is whole or absent; the last two are kept.

RUN/checkpoints/step-NNNNNNNN/  weights.safetensors   the network's own weights
                                state.pt              optimiser, averaged weights, position of the run
                                sha256.json           of both files, to detect damage
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch

from p2m_core.errors import InputError
from p2m_core.files import atomic_path, sha256, write_json
from p2m_core.network.model import Pixel2Mesh
from p2m_core.network.weights import save_weights
from p2m_workbench.training.pretrained import initialise

KEPT = 2
FILES = ("weights.safetensors", "state.pt")
_log = logging.getLogger(__name__)


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run's folder, oldest first."""
    return sorted((folder / "checkpoints").glob("step-*"))


def write_checkpoint(folder: Path, step: int, model: Pixel2Mesh, state: dict[str, Any]) -> None:
    """Write a run's checkpoint of this step, unless it is there, and delete the older ones but one.

    Raises: InputError if the disk is full; the checkpoints before it stay.
    """
    final = folder / "checkpoints" / f"step-{step:08d}"
    if final.exists():
        return
    partial = final.with_name(f".partial-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        save_weights(partial / FILES[0], model.state_dict(), model, {"step": step})
        with atomic_path(partial / FILES[1]) as temporary, open(temporary, "wb") as stream:
            torch.save(state, stream)
        write_json(partial / "sha256.json", {name: sha256(partial / name) for name in FILES})
        sync_folder(partial)
        partial.rename(final)
        sync_folder(final.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in list_checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the system can: a rename alone may not survive a power cut."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_checkpoint(folder: Path, model: Pixel2Mesh, device: torch.device) -> dict[str, Any] | None:
    """Load the last whole checkpoint's weights into the network, and return its state; None if there is no checkpoint.

    A damaged one is passed over with a warning.

    Raises: InputError if all are damaged, or if they are of another network.
    """
    found = list_checkpoints(folder)
    for path in reversed(found):
        try:
            require_whole(path)
            state = torch.load(path / FILES[1], weights_only=True, map_location=device)
            report = initialise(model, path / FILES[0])
        except (InputError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
            _log.warning("%s is damaged and passed over: %s", path, error)
            continue
        if report["fresh"] or report["unused"]:
            remedy = "choose another name, or delete the run's folder"
            raise InputError(path, "", "was made by a network of other settings", remedy)
        return state
    if found:
        raise InputError(found[-1].parent, "", "every checkpoint is damaged", "delete the run's folder to begin anew")
    return None


def require_whole(path: Path) -> None:
    """Raise InputError if a file of a checkpoint is not as it was written. (Old checkpoints have no digests.)"""
    digests = path / "sha256.json"
    for name, digest in json.loads(digests.read_text()).items() if digests.exists() else ():
        if not (path / name).exists() or sha256(path / name) != digest:
            raise InputError(path / name, "", "is not as it was written", "copy it anew")


def clear_damaged(folder: Path, step: int) -> None:
    """Delete what a run that continues from `step` cannot use: half-written checkpoints, and damaged later ones."""
    for partial in (folder / "checkpoints").glob(".partial-*"):  # of a run that was killed
        shutil.rmtree(partial)
    for path in list_checkpoints(folder):
        if path.name > f"step-{step:08d}":
            shutil.rmtree(path)
