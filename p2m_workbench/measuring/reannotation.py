"""The second annotation of AFLW2000-3D: the distance of two annotations is the noise of the ground truth.

The 68 landmarks of all 2000 images exist as they were published and re-annotated by hand in 2D, as two arrays of one
row an image (3DDFA's and SynergyNet's test lists). A row's image is found by its published landmarks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from p2m_core.errors import InputError
from p2m_synth.statistics import LANDMARKS_FILE, real_folder

REANNOTATED_FILE = "AFLW2000-3D-Reannotated.pts68.npy"
SAME_PX = 0.01


def reannotated_px(landmarks_px: np.ndarray, folder: Path | None = None) -> np.ndarray | None:
    """The re-annotated landmarks of samples of AFLW2000-3D.

    Args:    landmarks_px: (N, 68, 3) as published, px of p2m_core.
             folder: of the two arrays; by default where `p2m doctor` looks for them.
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
    # The files count pixels from 1.
    distance, row = cKDTree(places).query((landmarks_px[..., :2] + 1).reshape(len(landmarks_px), -1), p=np.inf)
    return again.transpose(0, 2, 1)[row] - 1.0 if (distance < SAME_PX).all() else None
