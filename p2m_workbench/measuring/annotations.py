"""Further annotations of AFLW2000-3D: the distance of two annotations is the noise of the ground truth.

    SET/second-annotations.npz     names (N,);  pts68_reannotated (N, 68, 2), by hand;
                                   pts68_merl (N, 68, 2) of MERL-RAV, with seen_merl (N, 68): 0 seen, 1 hidden by a
                                   thing, 2 hidden by the head (no position), -1 not annotated. All in px of p2m_core

Where a set has no such file, the re-annotation is looked for in 3DDFA's and SynergyNet's two arrays of one row an
image, in which a row's image is found by its published landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from p2m_core.errors import InputError
from p2m_core.files import read_npz
from p2m_synth.statistics import LANDMARKS_FILE, real_folder

SET_FILE, REANNOTATED_FILE = "second-annotations.npz", "AFLW2000-3D-Reannotated.pts68.npy"
SAME_PX = 0.01
JAW = 17  # landmarks, the first ones
REANNOTATED = "reannotated"


@dataclass(frozen=True, eq=False)
class Annotation:
    """about: what it is.   landmarks_px: (N, 68, 2) px of p2m_core.   counts: (N, 68) bool, the points that count."""

    about: str
    landmarks_px: np.ndarray
    counts: np.ndarray

    @property
    def whole(self) -> bool:
        """Whether all points of all samples count."""
        return bool(self.counts.all())


def further_annotations(names: np.ndarray, landmarks_px: np.ndarray, raw: Path) -> dict[str, Annotation]:
    """What else is known of samples: "reannotated", "merl" and "merl_no_jaw", as far as it is there.

    Args:    names: (N,) of the samples.   landmarks_px: (N, 68, 3) as published, px of p2m_core.   raw: their set.
    Raises:  InputError if a file is damaged.
    """
    if (raw / SET_FILE).is_file():
        return annotations_of_set(raw / SET_FILE, names)
    again = reannotated_px(landmarks_px)
    return {} if again is None else {REANNOTATED: by_hand(again)}


def annotations_of_set(path: Path, names: np.ndarray) -> dict[str, Annotation]:
    """The annotations of a set's file; {} if one of the samples is not in it.   Raises InputError if it is damaged."""
    remedy = "take the original file again"
    content = read_npz(path, remedy)
    shapes = {"pts68_reannotated": (68, 2), "pts68_merl": (68, 2), "seen_merl": (68,)}
    for field, shape in shapes.items():
        found = np.shape(content.get(field))
        if found != (len(content.get("names", ())), *shape):
            raise InputError(path, field, f"has the shape {found}, not (names, {', '.join(map(str, shape))})", remedy)
    row = {str(name): k for k, name in enumerate(content["names"])}
    if not set(names) <= row.keys():
        return {}
    idx = np.array([row[str(name)] for name in names])
    merl, seen = content["pts68_merl"][idx].astype(np.float64), content["seen_merl"][idx] == 0
    again = content["pts68_reannotated"][idx].astype(np.float64)
    return {
        REANNOTATED: by_hand(again),
        "merl": Annotation("the seen points of MERL-RAV", merl, seen),
        "merl_no_jaw": Annotation("the seen points of MERL-RAV without the jaw", merl, seen & (np.arange(68) >= JAW)),
    }


def by_hand(landmarks_px: np.ndarray) -> Annotation:
    """The re-annotation, of which all points count."""
    return Annotation("the re-annotated landmarks", landmarks_px, np.ones(landmarks_px.shape[:2], bool))


def reannotated_px(landmarks_px: np.ndarray, folder: Path | None = None) -> np.ndarray | None:
    """The re-annotated landmarks of samples of AFLW2000-3D, from the two arrays.

    Args:    landmarks_px: (N, 68, 3) as published, px of p2m_core.
             folder: of the arrays; by default where `p2m doctor` looks for them.
    Returns: (N, 68, 2) px of p2m_core, or None if the arrays are not there or one of the samples is not among them.
    Raises:  InputError if the arrays are of another shape.
    """
    folder = real_folder() if folder is None else folder
    if folder is None or not (folder / REANNOTATED_FILE).is_file():
        return None
    published, again = (np.load(folder / name) for name in (LANDMARKS_FILE, REANNOTATED_FILE))
    if published.ndim != 3 or published.shape[1:] != (3, 68) or again.shape != (len(published), 2, 68):
        problem = f"shapes {published.shape} and {again.shape}, not (N, 3, 68) and (N, 2, 68)"
        raise InputError(folder, REANNOTATED_FILE, problem, "take the original files again")
    places = published.transpose(0, 2, 1)[..., :2].reshape(len(published), -1)
    # The published ones count pixels from 1, the re-annotated ones from 0: they lie 1.2 and 0.9 px before the others.
    distance, row = cKDTree(places).query((landmarks_px[..., :2] + 1).reshape(len(landmarks_px), -1), p=np.inf)
    return again.transpose(0, 2, 1)[row].astype(np.float64) if (distance < SAME_PX).all() else None
