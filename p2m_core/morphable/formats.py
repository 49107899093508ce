"""The files that face models come in. `load_face_model` reads each, `convert_face_model` makes one .npz of any.

Model_Shape.mat and Model_Exp.mat, one folder, as users of the Basel face model with 3DDFA have them; our own too:

    mu_shape (3V, 1)  w (3V, K)      sigma (K, 1)      tri (3, F)  keypoints (1, 68), both counted from 1
    mu_exp   (3V, 1)  w_exp (3V, M)  sigma_exp (M, 1)

BFM.mat of face3d, one struct `model`:

    shapeMU (3V, 1)  shapePC (3V, K)  shapeEV (K, 1) standard deviations  tri (3, F)  kpt_ind (1, 68), from 1
    expMU   (3V, 1)  expPC   (3V, M)  expEV   (M, 1)

bfm_noneck_v3.pkl of 3DDFA_V2, with two more of its configs/ beside it, since it holds no sigmas and outdated triangles:

    u (3V, 1)  w_shp (3V, K)  w_exp (3V, M)  keypoints (204,) places in u of x, y, z of each landmark   all from 0
    tri.pkl (3, F); without it the first file's own tri     param_mean_std_62d_120x120.pkl: std (62,) = 12 pose, 40, 10

NAME.npz of this project: FaceModel's arrays by their names.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from p2m_core import zip_files
from p2m_core.errors import InputError
from p2m_core.files import read_npz
from p2m_core.morphable.model import FaceModel
from p2m_core.safe_pickle import load_arrays

SHAPE_FILE, EXPRESSION_FILE = "Model_Shape.mat", "Model_Exp.mat"
FACE3D_FILE, SIGMA_FILE, TRIANGLES_FILE = "BFM.mat", "param_mean_std_62d_120x120.pkl", "tri.pkl"
KNOWN_FILES = (SHAPE_FILE, FACE3D_FILE, "bfm_noneck_v3.pkl", "bfm_noneck_v3_slim.pkl", "bfm.npz")  # first found, taken
_SHAPE_FIELDS = ("mu_shape", "w", "sigma", "tri", "keypoints")
_EXPRESSION_FIELDS = ("mu_exp", "w_exp", "sigma_exp")
_FACE3D_FIELDS = ("shapeMU", "shapePC", "shapeEV", "expMU", "expPC", "expEV", "tri", "kpt_ind")
NPZ_FIELDS = tuple(field.name for field in dataclasses.fields(FaceModel) if not field.kw_only and field.name != "name")
_POSE_NUMBERS, _SHAPE_NUMBERS = 12, 40  # of the 62 in 3DDFA_V2's file of standard deviations
_REMEDY = "put the original Model_Shape.mat and Model_Exp.mat there, or let `p2m synth` make the project's own"
_ORIGINAL = "take the original file again"


def read_mat(
    path: str | Path, fields: tuple[str, ...], remedy: str, optional: tuple[str, ...] = (), struct: str | None = None
) -> dict[str, np.ndarray]:
    """Some fields of a MATLAB file, all of them arrays of real numbers.

    Args:    path: the .mat; it may lead through a zip.   fields: the variables to read.
             remedy: what the user can do where it is bad.   optional: variables that may be missing.
             struct: read the fields of this variable instead.
    Raises:  InputError if the file is missing, is not MATLAB 4 to 7.2, or a field is missing or no such array.
    """
    path = Path(path)
    if not zip_files.is_file(path):
        raise InputError(path, "", "is missing", remedy)
    source: Any = path if path.is_file() else io.BytesIO(zip_files.read_bytes(path))  # the stubs want names
    try:
        content = scipy.io.loadmat(source, variable_names=(struct,) if struct else (*fields, *optional))
    except NotImplementedError as error:  # scipy's word for HDF5
        raise InputError(path, "", "is a MATLAB 7.3 file", "save it in MATLAB with -v7") from error
    except Exception as error:  # scipy raises whatever its parser stumbles over
        raise InputError(path, "", f"is damaged or no .mat file: {error}".rstrip("."), remedy) from error
    if struct:
        record = content.get(struct)
        if not (isinstance(record, np.ndarray) and record.size == 1 and record.dtype.names):
            raise InputError(path, struct, "is missing, or no single struct", remedy)
        content = {name: record[name].item() for name in record.dtype.names}
    for field in fields:
        if field not in content:
            raise InputError(path, field, "is missing", remedy)
    wanted = [field for field in (*fields, *optional) if field in content]
    return {field: _real(path, field, content[field], remedy) for field in wanted}


def find_face_model(folder: str | Path) -> Path | None:
    """The file of a folder that `load_face_model` reads, or None."""
    return next((path for name in KNOWN_FILES if (path := Path(folder) / name).is_file()), None)


def load_face_model(path: str | Path) -> FaceModel:
    """Read a face model of any number of vertices and components, in any format of this module.

    Args:    path: a file, its suffix and name telling the format, or a folder with one of KNOWN_FILES.
    Returns: FaceModel, its triangles wound outwards and counted from 0.
    Raises:  InputError naming the file and field that is missing or does not fit.
    """
    path = Path(path)
    if path.is_dir() or not path.suffix:
        path = find_face_model(path) or path / SHAPE_FILE
    if path.suffix == ".npz":
        return _load_npz(path)
    if path.suffix == ".pkl":
        return _load_3ddfa_v2(path)
    return _load_basel(path.parent) if path.name in (SHAPE_FILE, EXPRESSION_FILE) else _load_face3d(path)


def _load_basel(folder: Path) -> FaceModel:
    """Model_Shape.mat and Model_Exp.mat of a folder."""
    shape_path, expression_path = folder / SHAPE_FILE, folder / EXPRESSION_FILE
    shape = read_mat(shape_path, _SHAPE_FIELDS, _REMEDY)
    expression = read_mat(expression_path, _EXPRESSION_FIELDS, _REMEDY)
    return _assemble(
        folder.resolve().name,
        mean=_sum((shape_path, "mu_shape", shape["mu_shape"]), (expression_path, "mu_exp", expression["mu_exp"])),
        bases=((shape_path, "w", shape["w"]), (expression_path, "w_exp", expression["w_exp"])),
        sigmas=((shape_path, "sigma", shape["sigma"]), (expression_path, "sigma_exp", expression["sigma_exp"])),
        triangles=(shape_path, "tri", shape["tri"]),
        landmark_idx=(shape_path, "keypoints", shape["keypoints"]),
        first_index=1,
    )


def _load_face3d(path: Path) -> FaceModel:
    """The struct `model` of face3d's BFM.mat."""
    content = read_mat(path, _FACE3D_FIELDS, _ORIGINAL, struct="model")
    field = {name: (path, name, content[name]) for name in _FACE3D_FIELDS}
    return _assemble(
        path.stem,
        mean=_sum(field["shapeMU"], field["expMU"]),
        bases=(field["shapePC"], field["expPC"]),
        sigmas=(field["shapeEV"], field["expEV"]),
        triangles=field["tri"],
        landmark_idx=field["kpt_ind"],
        first_index=1,
    )


def _load_3ddfa_v2(path: Path) -> FaceModel:
    """bfm_noneck_v3.pkl, with the files beside it that hold what it lacks."""
    if not path.is_file():
        raise InputError(path, "", "is missing", "check the name")
    content = _pickled(path, ("u", "w_shp", "w_exp", "keypoints"))
    beside = path.with_name(TRIANGLES_FILE)
    if beside.is_file():
        triangles = (beside, "", _real(beside, "", load_arrays(beside)))
    else:
        triangles = (path, "tri", _pickled(path, ("tri",))["tri"])
    sigma_path = path.with_name(SIGMA_FILE)
    if not sigma_path.is_file():
        problem = f"is missing: {path.name} holds no standard deviations"
        raise InputError(sigma_path, "", problem, "copy it from the folder configs of 3DDFA_V2")
    deviations = _pickled(sigma_path, ("std",))["std"].ravel()[_POSE_NUMBERS:]
    shape_sigma, expression_sigma = deviations[:_SHAPE_NUMBERS], deviations[_SHAPE_NUMBERS:]
    # Directions beyond the standard deviations are left out, as in 3DDFA_V2.
    shape, expression = content["w_shp"][..., : len(shape_sigma)], content["w_exp"][..., : len(expression_sigma)]
    places = content["keypoints"].ravel()
    first = places[::3]
    if places.size != 3 * 68 or (first % 3).any() or (places.reshape(-1, 3) - first[:, None] != [0, 1, 2]).any():
        raise InputError(path, "keypoints", "are not the places of x, y, z of 68 vertices", _ORIGINAL)
    return _assemble(
        path.stem,
        mean=(path, "u", content["u"]),
        bases=((path, "w_shp", shape), (path, "w_exp", expression)),
        sigmas=((sigma_path, "std", shape_sigma), (sigma_path, "std", expression_sigma)),
        triangles=triangles,
        landmark_idx=(path, "keypoints", first // 3),
        first_index=0,
    )


def _load_npz(path: Path) -> FaceModel:
    """FaceModel's arrays by their names."""
    content = read_npz(path, "make it again with p2m convert")
    for name in NPZ_FIELDS:
        if name not in content:
            raise InputError(path, name, "is missing", "give a file that p2m convert made of a face model")
    field = {name: (path, name, _real(path, name, content[name])) for name in NPZ_FIELDS}

    def flat(name: str) -> tuple[Path, str, np.ndarray]:
        values = content[name]
        return path, name, values.reshape(-1, values.shape[-1]) if values.ndim == 3 else values

    return _assemble(
        path.stem,
        mean=field["mean"],
        bases=(flat("shape_basis"), flat("expression_basis")),
        sigmas=(field["shape_sigma"], field["expression_sigma"]),
        triangles=field["triangles"],
        landmark_idx=field["landmark_idx"],
        first_index=0,
    )


def _pickled(path: Path, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Some arrays of real numbers in a pickled dictionary, of which nothing is run."""
    content = load_arrays(path)
    for field in fields:
        if not isinstance(content, dict) or field not in content:
            raise InputError(path, field, "is missing", _ORIGINAL)
    return {field: _real(path, field, content[field]) for field in fields}


def _real(path: Path, field: str, values: Any, remedy: str = _ORIGINAL) -> np.ndarray:
    if not (isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.number) and np.isrealobj(values)):
        raise InputError(path, field, "is not made of real numbers", remedy)
    return values


_Field = tuple[Path, str, np.ndarray]  # file, field, array: what errors name with what they are about


def _sum(shape: _Field, expression: _Field) -> _Field:
    """The mean shape plus the mean expression, (3V,) float64."""
    (path, field, mean), (other_path, other_field, more) = shape, expression
    if more.size != mean.size and mean.size % 3 == 0:
        problem = f"has {more.size} numbers, {field} has {mean.size}"
        raise InputError(other_path, other_field, problem, "take both from one model")
    return path, field, mean.astype(np.float64).ravel() + (more.ravel() if more.size == mean.size else 0)


def _assemble(
    name: str,
    *,
    mean: _Field,
    bases: tuple[_Field, _Field],
    sigmas: tuple[_Field, _Field],
    triangles: _Field,
    landmark_idx: _Field,
    first_index: int,
) -> FaceModel:
    """The model of its files' arrays, shape before expression, each checked against the others."""
    path, field, values = mean
    numbers = values.astype(np.float64).ravel()
    if not numbers.size or numbers.size % 3:
        raise InputError(path, field, f"has {numbers.size} numbers, not x, y, z of vertices", _REMEDY)
    if not np.isfinite(numbers).all():
        raise InputError(path, field, "has entries that are not finite", _REMEDY)
    vertices = numbers.reshape(-1, 3)
    (shape_basis, shape_sigma), (expression_basis, expression_sigma) = (
        _directions(basis, sigma, len(vertices)) for basis, sigma in zip(bases, sigmas, strict=True)
    )
    path, field, values = triangles
    corners = values.T if values.shape[0] == 3 and values.shape != (3, 3) else values
    if corners.ndim != 2 or corners.shape[1] != 3:
        raise InputError(path, field, f"has the shape {values.shape}, not (3, F)", _REMEDY)
    corners = _indices(path, field, corners, len(vertices), first_index)
    path, field, values = landmark_idx
    landmarks = _indices(path, field, values.ravel(), len(vertices), first_index)
    if landmarks.shape != (68,):
        raise InputError(path, field, f"has {landmarks.size} entries, not 68", _REMEDY)
    return FaceModel(
        mean=vertices.astype(np.float32),
        shape_basis=shape_basis,
        expression_basis=expression_basis,
        shape_sigma=shape_sigma,
        expression_sigma=expression_sigma,
        triangles=_outwards(vertices, corners),
        landmark_idx=landmarks,
        name=name,
    )


def _directions(basis: _Field, sigma: _Field, vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions (V, 3, K) float32 and their sigmas (K,) float64, checked against each other."""
    path, field, values = basis
    sigma_path, sigma_field, deviations = sigma
    deviations = deviations.astype(np.float64).ravel()
    if values.ndim != 2 or values.shape[0] != 3 * vertices:
        raise InputError(path, field, f"has the shape {values.shape}, not ({3 * vertices}, components)", _REMEDY)
    if deviations.size != values.shape[1]:
        problem = f"has {deviations.size} entries for {values.shape[1]} components"
        raise InputError(sigma_path, sigma_field, problem, _REMEDY)
    for where, which, numbers in ((path, field, values), (sigma_path, sigma_field, deviations)):
        if not np.isfinite(numbers).all():
            raise InputError(where, which, "has entries that are not finite", _REMEDY)
    return np.ascontiguousarray(values, np.float32).reshape(vertices, 3, -1), deviations


def _indices(path: Path, field: str, values: np.ndarray, vertices: int, first: int) -> np.ndarray:
    """Indices from 0 of indices from `first`, checked."""
    with np.errstate(invalid="ignore"):  # NaN, which the check finds
        index = values.astype(np.int64) - first
    if index.size == 0 or index.min() < 0 or index.max() >= vertices or (index + first != values).any():
        raise InputError(path, field, f"has indices outside {first} to {vertices - 1 + first}", _REMEDY)
    return index


def _outwards(mean: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """The triangles wound outwards: files with either winding are about."""
    # Volume of the cones from a point behind the face: right for closed heads and for open masks.
    behind = [*mean[:, :2].mean(0), mean[:, 2].min()]
    a, b, c = (mean - behind)[triangles].transpose(1, 0, 2)
    volume = (np.cross(a, b) * c).sum()
    return triangles if volume >= 0 else np.ascontiguousarray(triangles[:, ::-1])
