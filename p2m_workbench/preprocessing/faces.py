"""From a folder or zip in AFLW2000-3D's or 300W-LP's format to a store: read, fit or check, and crop."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from p2m_core import zip_files
from p2m_core.config.paths import resolve
from p2m_core.config.settings import Config, DataConfig
from p2m_core.data.aflw2000 import Sample, find_samples, origin, read_image, read_sample, scan, unpaired
from p2m_core.data.face_store import FaceStore
from p2m_core.data.splits import assign_splits
from p2m_core.errors import InputError
from p2m_core.geometry.camera import model_to_image
from p2m_core.geometry.crop import box_of, crop_image, crop_matrix
from p2m_core.metrics import nme68_3d
from p2m_core.morphable import registration
from p2m_core.morphable.fitting import fit_landmarks, mean_face_residual
from p2m_core.morphable.formats import find_face_model, load_face_model
from p2m_core.morphable.model import FaceModel
from p2m_synth.head.head_model import own_face_model
from p2m_synth.statistics import guess_depth
from p2m_workbench.preprocessing.store_writer import Columns, encode_jpeg, read_each, write_store

# Settings of data without which the same raw files give another store.
DECISIVE = {"store_px", "store_margin", "split", "val_share", "test_share", "split_seed", "subsets", "flipped"}


def choose_face_model(face_model: str, raw: Path) -> tuple[FaceModel, bool, str]:
    """The face model that `data.face_model` means for a raw set: model, whether to fit it, and its name.

    Raises: InputError if the folder it names has no model.
    """
    bfm = resolve("data/raw/BFM")
    if face_model == "auto":
        own = zip_files.is_file(raw / "recipe.json")
        face_model = "synthetic" if own else str(bfm) if find_face_model(bfm) else "fit"
    if face_model in ("synthetic", "fit"):
        return own_face_model(), face_model == "fit", face_model
    return load_face_model(resolve(face_model)), False, face_model


def read_faces(mats: Sequence[Path], first: int, raw: Path, data: DataConfig) -> tuple[Columns, list[str]]:
    """Read and crop samples, and fit the face model where it is to be fitted: `store_writer.ReadSamples` of faces.

    Args: mats: the samples' .mat files.   first: number of the first one, not used.   raw: the set's folder.
    """
    model, fit, _ = choose_face_model(data.face_model, raw)

    def read(path: Path, _: int) -> tuple[Sample, np.ndarray, np.ndarray, np.ndarray]:
        sample = read_sample(path)
        if not fit and not sample.has_pose:
            problem = f"has the scale {sample.pose_para[6]:g}, not above 0"
            raise InputError(path, "Pose_Para", problem, "leave it out, or fit the face: data.face_model=fit")
        counts = len(sample.shape), len(sample.expression)
        if not fit and not has_coefficients(sample, model):
            problem = f"{counts[0]} shape and {counts[1]} expression numbers, fewer than those of {model.name}"
            raise InputError(path, "Shape_Para", problem, "choose the set's own face model, or data.face_model=fit")
        image, box = read_image(sample.image_path), box_of(sample.landmarks_px)
        matrix = crop_matrix(box, data.store_px, data.store_margin)
        return sample, encode_jpeg(crop_image(image, matrix, data.store_px)), matrix, box

    rows, skipped = read_each(mats, first, read)
    if not rows:
        return {}, skipped
    samples, jpegs, matrices, boxes = zip(*rows, strict=True)
    columns = {
        "images.bin": np.concatenate(jpegs),
        "length": np.array([len(jpeg) for jpeg in jpegs], np.int64),
        "crop": np.array(matrices, np.float64),
        "box_px": np.array(boxes, np.float32),
        **sample_columns(samples, model, fit),
        "crc32": np.array([zlib.crc32(jpeg) for jpeg in jpegs], np.uint32),
    }
    return columns, skipped


def has_coefficients(sample: Sample, model: FaceModel) -> bool:
    """Whether a sample has a coefficient for each direction of the model; 3DDFA_V2's has the first ones only."""
    return len(sample.shape) >= model.shape_basis.shape[2] and len(sample.expression) >= model.expression_basis.shape[2]


def rebuilt_landmarks(samples: Sequence[Sample], model: FaceModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Landmarks (N, 68, 3) px that pose and coefficients of the files give; shape (N, K), expression (N, M).

    Coefficients beyond the model's directions are left out.
    """
    shape = np.stack([sample.shape[: model.shape_basis.shape[2]] for sample in samples])
    expression = np.stack([sample.expression[: model.expression_basis.shape[2]] for sample in samples])
    points = model.landmarks(shape, expression)
    placed = [model_to_image(p, sample.pose_para, sample.size[0]) for p, sample in zip(points, samples, strict=True)]
    return np.stack(placed), shape, expression


def sample_columns(samples: Sequence[Sample], model: FaceModel, fit: bool) -> dict[str, np.ndarray]:
    """The table's columns for some samples: coefficients and pose from the files, or of a fit to the landmarks.

    Depth of landmarks that the files lack comes from the model.
    """
    landmarks = np.stack([sample.landmarks_px for sample in samples])
    heights = np.array([sample.size[0] for sample in samples])
    flat = np.isnan(landmarks).any((1, 2))
    if fit:
        angles = np.stack([sample.pose_para[:3] for sample in samples])
        landmarks[flat] = guess_depth(model, landmarks[flat], angles[flat])
        found = fit_landmarks(model, landmarks, heights)
        shape, expression, pose_para, residual = found.shape, found.expression, found.pose_para, found.residual_percent
    else:
        rebuilt, shape, expression = rebuilt_landmarks(samples, model)
        landmarks[flat, :, 2] = rebuilt[flat, :, 2]
        pose_para, residual = np.stack([sample.pose_para for sample in samples]), nme68_3d(rebuilt, landmarks)
    return {
        **{name: np.array([getattr(sample, name) for sample in samples]) for name in ("name", "source", "subset")},
        "flipped": np.array([sample.flipped for sample in samples], np.uint8),
        "shape": shape.astype(np.float32),
        "expression": expression.astype(np.float32),
        "pose": pose_para.astype(np.float64),
        "file_pose": np.stack([sample.pose_para for sample in samples]).astype(np.float64),
        "height": heights,
        "width": np.array([sample.size[1] for sample in samples]),
        "landmarks_px": landmarks.astype(np.float32),
        "hidden": np.stack([sample.hidden for sample in samples]).astype(np.uint8),
        "residual_percent": residual.astype(np.float32),
        "mean_face_percent": mean_face_residual(model, landmarks).astype(np.float32),
    }


def build_face_store(config: Config, raw: str | Path | None = None, out: str | Path | None = None) -> Path:
    """Make the store of a folder or a zip in AFLW2000-3D's or 300W-LP's format.

    Bad samples are listed in the manifest and skipped. A stopped run goes on from its last part; a store that is
    there already and made of the same files with the same settings is kept.

    Args:    raw, out: folders, data.raw and data.store where None.
    Returns: the store's folder, for `FaceStore`.
    Raises:  InputError if there is no good sample, or no face model.
    """
    data = config.data
    raw, out = zip_files.top(resolve(raw or data.raw)), resolve(out or data.store)
    mats = [mat for mat in find_samples(raw) if is_wanted(mat, data)]
    if not mats:
        problem = f"has no sample in {', '.join(data.subsets)} with flipped={data.flipped}"
        raise InputError(raw, "data.subsets", problem, "choose others")
    model, _, model_name = choose_face_model(data.face_model, raw)
    arrays = (model.mean, model.shape_basis, model.expression_basis, model.triangles, model.landmark_idx)
    settings = {
        "version": FaceStore.version,
        "face_model": model_name,
        "face_model_hash": hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16],
        "data": data.model_dump(include=DECISIVE),
        "template": config.template.model_dump() | {"registration": registration.VERSION},
    }

    def finish(table: Columns) -> tuple[Columns, dict[str, Any]]:
        table["split"], split_by = assign_splits(table["name"], data, table["source"])
        kind = config.template
        template, truth = registration.face_template(model, kind.kind, kind.rings, kind.levels)
        points = truth.points(model)
        facts = {"split_by": split_by, "residual_percent_mean": float(table["residual_percent"].mean())}
        arrays = {name: getattr(points, name) for name in ("mean", "shape_basis", "expression_basis")}
        return arrays | template.arrays(), facts

    return write_store(
        out,
        raw,
        mats,
        files=[path for pair in scan(raw) for path in pair if path],
        settings=settings,
        read=partial(read_faces, raw=raw, data=data),
        finish=finish,
        template_name=FaceStore.template_name,
        unpaired=unpaired(raw),
        workers=data.workers,
    )


def is_wanted(mat: Path, data: DataConfig) -> bool:
    """Whether data.subsets and data.flipped admit a sample; those of other sets always."""
    subset, flipped, _ = origin(mat)
    return not subset or (subset in data.subsets and (data.flipped or not flipped))
