"""From a folder or zip in AFLW2000-3D's or 300W-LP's format to a store: read, fit, crop, in parts that a stop keeps."""

from __future__ import annotations

import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from p2m_core import zip_files
from p2m_core.config.paths import resolve
from p2m_core.config.settings import Config, DataConfig
from p2m_core.data.aflw2000 import Sample, find_samples, origin, read_image, read_sample, scan, unpaired
from p2m_core.data.splits import SPLITS, assign_splits
from p2m_core.data.store_files import VERSION, checksums, is_made, store_key
from p2m_core.errors import InputError
from p2m_core.files import atomic_path, sha256, write_json
from p2m_core.geometry.camera import model_to_image
from p2m_core.geometry.crop import box_of, crop_image, crop_matrix
from p2m_core.metrics import nme68_3d
from p2m_core.morphable import registration
from p2m_core.morphable.fitting import fit_landmarks, guess_depth, mean_face_residual
from p2m_core.morphable.formats import find_face_model, load_face_model
from p2m_core.morphable.model import FaceModel
from p2m_core.parallel import map_jobs
from p2m_synth.head.head_model import load_head_model
from p2m_workbench.photos.detect import detect_faces, overlap

PART_SIZE = 100  # samples that are written, and after a stop kept, together
LEAST_OVERLAP = 0.3  # intersection over union with the landmarks' box: what is found elsewhere is another face
_log = logging.getLogger(__name__)


def choose_face_model(face_model: str, raw: Path) -> tuple[FaceModel, bool, str]:
    """The face model that `data.face_model` means for a raw set: model, whether to fit it, and its name.

    Raises: InputError if the folder it names has no model.
    """
    bfm = resolve("data/raw/BFM")
    if face_model == "auto":
        own = zip_files.is_file(raw / "recipe.json")
        face_model = "synthetic" if own else str(bfm) if find_face_model(bfm) else "fit"
    if face_model in ("synthetic", "fit"):
        return load_head_model().face_model(), face_model == "fit", face_model
    return load_face_model(resolve(face_model)), False, face_model


@dataclass(frozen=True)
class Part:
    """Some samples to read, crop and write together; raw: the set's folder."""

    raw: Path
    mats: tuple[Path, ...]
    out: Path
    data: DataConfig


def detected_box(image: np.ndarray, landmark_box: np.ndarray) -> np.ndarray | None:
    """The found face (4,) that overlaps most with the landmarks' box, px; None if none does."""
    best = max(detect_faces(image), key=lambda box: overlap(box, landmark_box), default=None)
    return best if best is not None and overlap(best, landmark_box) >= LEAST_OVERLAP else None


def choose_box(image: np.ndarray, sample: Sample, data: DataConfig) -> tuple[np.ndarray, bool]:
    """The box (4,) to crop around, px, and whether it was detected.

    Raises: InputError if it should be, was not, and is to be skipped.
    """
    landmark_box = box_of(sample.landmarks_px)
    found = detected_box(image, landmark_box) if data.crop == "detected" else None
    if found is None and data.crop == "detected" and data.undetected == "skip":
        raise InputError(sample.image_path, "", "no face is found in it", "take data.undetected=landmarks")
    return (landmark_box, False) if found is None else (found, True)


def write_part(part: Part) -> list[str]:
    """Read, fit and crop the samples of a part, write them to its file; the lines on those that were skipped."""
    if part.out.exists():
        with np.load(part.out) as file:
            return file["skipped"].tolist()
    model, fit, _ = choose_face_model(part.data.face_model, part.raw)
    samples, jpegs, crops, boxes, detected, skipped = [], [], [], [], [], []
    for path in part.mats:
        try:
            sample = read_sample(path)
            counts = len(sample.shape), len(sample.expression)
            if not fit and not has_coefficients(sample, model):
                problem = f"{counts[0]} shape and {counts[1]} expression numbers, fewer than those of {model.name}"
                raise InputError(path, "Shape_Para", problem, "choose the set's own face model, or data.face_model=fit")
            image = read_image(sample.image_path)
            box, found = choose_box(image, sample, part.data)
            matrix = crop_matrix(box, part.data.store_px, part.data.store_margin)
            crop = crop_image(image, matrix, part.data.store_px)
        except InputError as error:
            skipped.append(str(error))
            continue
        quality = [cv2.IMWRITE_JPEG_QUALITY, part.data.jpeg_quality]
        jpegs.append(cv2.imencode(".jpg", crop[..., ::-1], quality)[1].ravel())
        samples.append(sample)
        crops.append(matrix)
        boxes.append(box)
        detected.append(found)
    rows = sample_rows(samples, model, fit) if samples else {}
    with atomic_path(part.out) as temporary:
        np.savez(
            temporary,
            skipped=np.array(skipped, dtype=str),
            bytes=np.concatenate(jpegs) if jpegs else np.zeros(0, np.uint8),
            length=np.array([len(jpeg) for jpeg in jpegs], np.int64),
            crop=np.array(crops, np.float64).reshape(-1, 2, 3),
            box_px=np.array(boxes, np.float32).reshape(-1, 4),
            detected=np.array(detected, np.uint8),
            **rows,
        )
    return skipped


def has_coefficients(sample: Sample, model: FaceModel) -> bool:
    """Whether a sample has a coefficient for each direction of the model; 3DDFA_V2's has the first ones only."""
    return len(sample.shape) >= model.shape_basis.shape[2] and len(sample.expression) >= model.expression_basis.shape[2]


def rebuilt_landmarks(samples: list[Sample], model: FaceModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Landmarks (N, 68, 3) px that pose and coefficients of the files give; shape (N, K), expression (N, M).

    Coefficients beyond the model's directions are left out.
    """
    shape = np.stack([sample.shape[: model.shape_basis.shape[2]] for sample in samples])
    expression = np.stack([sample.expression[: model.expression_basis.shape[2]] for sample in samples])
    points = model.landmarks(shape, expression)
    placed = [model_to_image(p, sample.pose_para, sample.size[0]) for p, sample in zip(points, samples, strict=True)]
    return np.stack(placed), shape, expression


def sample_rows(samples: list[Sample], model: FaceModel, fit: bool) -> dict[str, np.ndarray]:
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


def build_store(config: Config, raw: str | Path | None = None, out: str | Path | None = None) -> Path:
    """Make the store of a folder or a zip in AFLW2000-3D's or 300W-LP's format.

    Bad samples are listed in the manifest and skipped. A stopped run goes on from its last part; a store that is
    there already and made of the same files with the same settings is kept.

    Args:    raw, out: folders, data.raw and data.store where they are None.
    Returns: the store's folder.
    Raises:  InputError if there is no good sample, or no face model.
    """
    data = config.data
    if config.template.kind != "semi_sphere" or config.template.file:
        problem = "faces are registered on the semi-sphere, which gives its vertices their meaning"
        raise InputError("config", "template", problem, "leave template.kind and template.file as they are")
    raw, out = zip_files.top(resolve(raw or data.raw)), resolve(out or data.store)
    mats = [mat for mat in find_samples(raw) if is_wanted(mat, data)]
    if not mats:
        problem = f"has no sample in {', '.join(data.subsets)} with flipped={data.flipped}"
        raise InputError(raw, "data.subsets", problem, "choose others")
    model, _, model_name = choose_face_model(data.face_model, raw)
    arrays = (model.mean, model.shape_basis, model.expression_basis, model.triangles, model.landmark_idx)
    model_key = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]
    decisive = {"store_px", "store_margin", "jpeg_quality", "split", "val_share", "test_share", "split_seed"}
    decisive |= {"subsets", "flipped", "crop", "undetected"}
    settings = {
        "version": VERSION,
        "face_model": model_name,
        "face_model_hash": model_key,
        "data": data.model_dump(include=decisive),
        "template": config.template.model_dump() | {"registration": registration.VERSION},
    }
    files = [path for pair in scan(raw) for path in pair if path]
    key, manifest = store_key(settings, raw, files), out / "manifest.json"
    if is_made(out, key):
        return out
    parts_folder = out / f"parts-{key[:12]}"
    parts = [
        Part(raw, tuple(mats[i : i + PART_SIZE]), parts_folder / f"{i:08d}.npz", data)
        for i in range(0, len(mats), PART_SIZE)
    ]
    for skipped in map_jobs(write_part, parts, data.workers if len(parts) > 1 else 1, f"crops, {PART_SIZE} a step"):
        for line in skipped:
            _log.warning("skipped %s", line)
    manifest.unlink(missing_ok=True)  # from here on, the old store is no more
    merge_parts(parts, out, config, model, {"key": key, **settings, "raw": str(raw)}, [str(e) for e in unpaired(raw)])
    for old in out.glob("parts-*"):
        shutil.rmtree(old)
    for left in out.glob(".*.partial.*"):  # of a run that was killed
        left.unlink()
    return out


def is_wanted(mat: Path, data: DataConfig) -> bool:
    """Whether data.subsets and data.flipped admit a sample; those of other sets always."""
    subset, flipped, _ = origin(mat)
    return not subset or (subset in data.subsets and (data.flipped or not flipped))


def merge_parts(
    parts: list[Part], out: Path, config: Config, model: FaceModel, manifest: dict, skipped: list[str]
) -> None:
    """Lay the parts' files together, and write the template and the manifest."""
    columns: dict[str, list[np.ndarray]] = {}
    with atomic_path(out / "images.bin") as temporary, open(temporary, "wb") as blob:
        for part in parts:
            with np.load(part.out) as file:
                skipped += file["skipped"].tolist()
                blob.write(file["bytes"].tobytes())
                for name in file.files:
                    if name not in ("skipped", "bytes") and len(file["length"]):
                        columns.setdefault(name, []).append(file[name])
    if not columns:
        raise InputError(
            manifest["raw"], "", f"none of its samples can be used, the first: {skipped[0]}", "mend the files"
        )
    table = {name: np.concatenate(arrays) for name, arrays in columns.items()}
    table["crc32"] = checksums(out / "images.bin", table["length"])
    table["split"], manifest["split_by"] = assign_splits(table["name"], config.data, table["source"])
    template, operator = registration.face_template(model, config.template.rings, config.template.levels)
    points = model.sampled(operator)
    with atomic_path(out / "samples.npz") as temporary:
        np.savez(temporary, **table)
    with atomic_path(out / "model.npz") as temporary:
        np.savez(
            temporary,
            mean=points.mean,
            shape_basis=points.shape_basis,
            expression_basis=points.expression_basis,
            **template.arrays(),
        )
    count = len(table["name"])
    manifest |= {
        "count": count,
        "splits": {name: int((table["split"] == k).sum()) for k, name in enumerate(SPLITS)},
        "skipped": skipped,
        "undetected": table["name"][table["detected"] == 0].tolist() if config.data.crop == "detected" else [],
        "residual_percent_mean": float(table["residual_percent"].mean()),
        "bytes_per_sample": round(sum((out / name).stat().st_size for name in ("images.bin", "samples.npz")) / count),
        "sha256": {name: sha256(out / name) for name in ("images.bin", "samples.npz", "model.npz")},
    }
    write_json(out / "manifest.json", manifest)
