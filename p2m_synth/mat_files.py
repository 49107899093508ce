"""Writing .mat files: of a face model in the form of the Basel model's, and of samples."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import scipy.io

from p2m_core.files import write_bytes
from p2m_core.morphable.formats import EXPRESSION_FILE, SHAPE_FILE
from p2m_core.morphable.model import FaceModel


def write_mat(path: str | Path, content: dict[str, np.ndarray]) -> None:
    """Write a MATLAB file, compressed, whole or not at all; equal content gives equal bytes."""
    stream = io.BytesIO()
    scipy.io.savemat(stream, content, do_compression=True)  # type: ignore[arg-type]  # the stubs want names
    # The first 116 bytes are free text, in which scipy puts the time of day.
    header = b"MATLAB 5.0 MAT-file, written by p2m_core".ljust(116)
    write_bytes(path, header + stream.getvalue()[116:])


def save_face_model(folder: str | Path, model: FaceModel) -> None:
    """Write a model as Model_Shape.mat and Model_Exp.mat, each whole or not at all; Model_Shape.mat is the last."""
    folder = Path(folder)
    write_mat(
        folder / EXPRESSION_FILE,
        {
            "mu_exp": np.zeros((model.mean.size, 1), np.float32),  # it is in mu_shape
            "w_exp": model.expression_basis.reshape(model.mean.size, -1),
            "sigma_exp": model.expression_sigma.reshape(-1, 1),
        },
    )
    write_mat(
        folder / SHAPE_FILE,
        {
            "mu_shape": model.mean.reshape(-1, 1),
            "w": model.shape_basis.reshape(model.mean.size, -1),
            "sigma": model.shape_sigma.reshape(-1, 1),
            "tri": (model.triangles.T + 1).astype(np.float64),
            "keypoints": (model.landmark_idx[None] + 1).astype(np.float64),
        },
    )
