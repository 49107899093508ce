"""The files that face models come in.

Model_Shape.mat and Model_Exp.mat, one folder, as users of the Basel face model with 3DDFA have them:

    mu_shape (3V, 1)  w (3V, K)      sigma (K, 1)      tri (3, F)  keypoints (1, 68), both counted from 1
    mu_exp   (3V, 1)  w_exp (3V, M)  sigma_exp (M, 1)
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import scipy.io

from p2m_core.data import archive
from p2m_core.errors import InputError
from p2m_core.faces.linear_model import FaceModel
from p2m_core.files import write_bytes

SHAPE_FILE, EXPRESSION_FILE = "Model_Shape.mat", "Model_Exp.mat"
_SHAPE_FIELDS = ("mu_shape", "w", "sigma", "tri", "keypoints")
_EXPRESSION_FIELDS = ("mu_exp", "w_exp", "sigma_exp")
_REMEDY = "put the original Model_Shape.mat and Model_Exp.mat there, or let `p2m synth` make the project's own"


def read_mat(
    path: str | Path, fields: tuple[str, ...], remedy: str, optional: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Some fields of a MATLAB file, all of them arrays of real numbers.

    Args:    path: the .mat; it may lead through a zip.   fields: the variables to read.
             remedy: what the user can do where it is bad.
             optional: variables that may be missing.
    Raises:  InputError if the file is missing, is not MATLAB 4 to 7.2, or a field is missing or no such array.
    """
    path = Path(path)
    if not archive.is_file(path):
        raise InputError(path, "", "is missing", remedy)
    source = path if path.is_file() else io.BytesIO(archive.read_bytes(path))
    try:
        content = scipy.io.loadmat(source, variable_names=(*fields, *optional))
    except NotImplementedError as error:  # scipy's word for HDF5
        raise InputError(path, "", "is a MATLAB 7.3 file", "save it in MATLAB with -v7") from error
    except Exception as error:  # scipy raises whatever its parser stumbles over
        raise InputError(path, "", f"is damaged or no .mat file: {error}".rstrip("."), remedy) from error
    for field in (*fields, *optional):
        if field not in content:
            if field in optional:
                continue
            raise InputError(path, field, "is missing", remedy)
        values = content[field]
        if not (isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.number) and np.isrealobj(values)):
            raise InputError(path, field, "is not made of real numbers", remedy)
    return content


def write_mat(path: str | Path, content: dict[str, np.ndarray]) -> None:
    """Write a MATLAB file, compressed, whole or not at all; equal content gives equal bytes."""
    stream = io.BytesIO()
    scipy.io.savemat(stream, content, do_compression=True)
    # The first 116 bytes are free text, in which scipy puts the time of day.
    header = b"MATLAB 5.0 MAT-file, written by p2m_core".ljust(116)
    write_bytes(path, header + stream.getvalue()[116:])


def load_face_model(path: str | Path) -> FaceModel:
    """Read a face model of any number of vertices and components.

    Args:    path: the folder with Model_Shape.mat and Model_Exp.mat, or one of the two.
    Returns: FaceModel, its triangles wound outwards and counted from 0.
    Raises:  InputError naming the file and field that is missing or does not fit.
    """
    path = Path(path)
    folder = path.parent if path.suffix == ".mat" else path
    shape_path, expression_path = folder / SHAPE_FILE, folder / EXPRESSION_FILE
    shape = read_mat(shape_path, _SHAPE_FIELDS, _REMEDY)
    expression = read_mat(expression_path, _EXPRESSION_FIELDS, _REMEDY)
    mean = shape["mu_shape"].astype(np.float64).ravel()
    if not mean.size or mean.size % 3:
        raise InputError(shape_path, "mu_shape", f"has {mean.size} numbers, not x, y, z of vertices", _REMEDY)
    if expression["mu_exp"].size != mean.size:
        problem = f"has {expression['mu_exp'].size} numbers, {SHAPE_FILE}'s mu_shape has {mean.size}"
        raise InputError(expression_path, "mu_exp", problem, "take both files from one model")
    mean = (mean + expression["mu_exp"].ravel()).reshape(-1, 3)
    shape_basis, shape_sigma = _basis(shape_path, shape, "w", "sigma", len(mean))
    expression_basis, expression_sigma = _basis(expression_path, expression, "w_exp", "sigma_exp", len(mean))
    triangles = shape["tri"].T if shape["tri"].shape[0] == 3 else shape["tri"]
    if triangles.ndim != 2 or triangles.shape[1] != 3:
        raise InputError(shape_path, "tri", f"has the shape {shape['tri'].shape}, not (3, F)", _REMEDY)
    triangles = _indices(shape_path, "tri", triangles, len(mean))
    landmark_idx = _indices(shape_path, "keypoints", shape["keypoints"].ravel(), len(mean))
    if landmark_idx.shape != (68,):
        raise InputError(shape_path, "keypoints", f"has {landmark_idx.size} entries, not 68", _REMEDY)
    return FaceModel(
        mean=mean.astype(np.float32),
        shape_basis=shape_basis,
        expression_basis=expression_basis,
        shape_sigma=shape_sigma,
        expression_sigma=expression_sigma,
        triangles=_outwards(mean, triangles),
        landmark_idx=landmark_idx,
        name=folder.resolve().name,
    )


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


def _basis(
    path: Path, content: dict[str, np.ndarray], field: str, sigma_field: str, vertices: int
) -> tuple[np.ndarray, np.ndarray]:
    """Directions (V, 3, K) float32 and their sigmas (K,) float64, checked against each other."""
    basis, sigma = content[field], content[sigma_field].astype(np.float64).ravel()
    if basis.ndim != 2 or basis.shape[0] != 3 * vertices:
        raise InputError(path, field, f"has the shape {basis.shape}, not ({3 * vertices}, components)", _REMEDY)
    if sigma.size != basis.shape[1]:
        raise InputError(path, sigma_field, f"has {sigma.size} entries for {basis.shape[1]} components", _REMEDY)
    if not (np.isfinite(basis).all() and np.isfinite(sigma).all()):
        raise InputError(path, field, "has entries that are not finite", _REMEDY)
    return np.ascontiguousarray(basis, np.float32).reshape(vertices, 3, -1), sigma


def _indices(path: Path, field: str, from_one: np.ndarray, vertices: int) -> np.ndarray:
    """Indices from 0 of indices from 1, checked."""
    index = from_one.astype(np.int64) - 1
    if index.size == 0 or index.min() < 0 or index.max() >= vertices:
        raise InputError(path, field, f"has indices outside 1 to {vertices}", _REMEDY)
    return index


def _outwards(mean: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """The triangles wound outwards: files with either winding are about."""
    # Volume of the cones from a point behind the face: right for closed heads and for open masks.
    behind = [*mean[:, :2].mean(0), mean[:, 2].min()]
    a, b, c = (mean - behind)[triangles].transpose(1, 0, 2)
    volume = (np.cross(a, b) * c).sum()
    return triangles if volume >= 0 else np.ascontiguousarray(triangles[:, ::-1])
