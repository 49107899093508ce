"""Samples of a store that one should look at before training on them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from p2m_core.data.face_store import FaceStore

RESIDUAL_PERCENT = 3.0  # twice what a fit leaves of an ordinary face
ANGLE_DEG = 90.0  # of yaw, beyond which no half of the face is seen
SMALL_PX = 40.0  # of face size: fewer than the network's input has
CUT_OFF = 5  # landmarks outside the photo


def find_outliers(store: FaceStore) -> pd.DataFrame:
    """A row for each reason to doubt a sample: index (into the store), name, reason; largest residuals first.

    Reasons: a large landmark residual, a yaw beyond profile, a small face, landmarks outside the photo, a pose that
    its file cannot mean.
    """
    table, residual = store.table, store.table["residual_percent"]
    points, yaw, size = table["landmarks_px"][..., :2], store.yaw_deg(), store.face_size_px()
    beyond = np.stack([table["width"], table["height"]], 1)[:, None] - 0.5
    outside = ((points < -0.5) | (points > beyond)).any(2).sum(1)
    reasons = [
        (residual > RESIDUAL_PERCENT, lambda k: f"landmark residual {residual[k]:.1f} %"),
        (np.abs(yaw) > ANGLE_DEG, lambda k: f"yaw {yaw[k]:.0f} degrees"),
        (size < SMALL_PX, lambda k: f"face of {size[k]:.0f} px"),
        (table["file_pose"][:, 6] <= 0, lambda k: f"scale {table['file_pose'][k, 6]:g} in its file"),
        (outside >= CUT_OFF, lambda k: f"{outside[k]} landmarks outside the photo"),
    ]
    rows = [(k, str(table["name"][k]), tell(k)) for of, tell in reasons for k in np.flatnonzero(of)]
    rows.sort(key=lambda row: -residual[row[0]])
    return pd.DataFrame(rows, columns=["index", "name", "reason"])
