"""Which faces stand behind a number of an evaluation: those of a bin of yaw, a group, a part of the error curve."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from p2m_core.data.face_store import FaceStore
from p2m_core.metrics import YAW_BINS
from p2m_workbench.measuring.tables import attribute_groups

ALL = "all faces"


def face_groups(store: FaceStore, rows: Int[np.ndarray, "n"]) -> dict[str, Bool[np.ndarray, "n"]]:
    """Who of some samples belongs to which group: all, the bins of |yaw|, and those of attributes; none is empty."""
    yaw = np.abs(store.yaw_deg()[rows])
    bins = (yaw <= 30, (yaw > 30) & (yaw <= 60), yaw > 60)
    masks = {ALL: np.ones(len(rows), bool)}
    masks |= {f"|yaw| {name}": mask for name, mask in zip(YAW_BINS, bins, strict=True)}
    masks |= {f"{attribute}: {group}": mask for (attribute, group), mask in attribute_groups(store, rows).items()}
    return {name: mask for name, mask in masks.items() if mask.any()}


def pick(
    errors: Float[np.ndarray, "n"], member: Bool[np.ndarray, "n"], low: float, high: float, most: int
) -> tuple[Int[np.ndarray, "k"], int]:
    """Faces of a group whose error lies between two, evenly over them where they are more than `most`.

    Returns: their places (K,), from the smallest error to the largest; and how many they stand for.
    """
    found = np.flatnonzero(member & (errors >= low) & (errors <= high))
    found = found[np.argsort(errors[found], kind="stable")]
    if len(found) <= most:
        return found, len(found)
    return found[np.linspace(0, len(found) - 1, most).round().astype(int)], len(found)
