"""The processed set that training reads: crops as JPEG in one blob, coefficients instead of vertices.

STORE/  manifest.json   what it is made of, hashes, skipped samples; written last, so a store is whole or absent
        images.bin      the crops' JPEG files, one after another
        samples.npz     a row a sample: offsets, coefficients, pose, crop, landmarks, split
        model.npz       the template, and its vertices as linear points of the face model
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from p2m_core.camera import apply_affine, box_of, crop_matrix, face_size, model_to_crop, model_to_image, ndc_to_px
from p2m_core.config import AugmentConfig, Config, DataConfig, resolve
from p2m_core.data import archive
from p2m_core.data.aflw2000 import FLIPPED, Sample, find_samples, origin, read_image, read_sample, scan, unpaired
from p2m_core.data.augment import change_look, compose, crop_image, draw_matrix
from p2m_core.data.splits import SPLITS, assign_splits
from p2m_core.detect import detect_faces
from p2m_core.errors import InputError
from p2m_core.faces import registration
from p2m_core.faces.fit import fit_landmarks, guess_depth, mean_face_residual
from p2m_core.faces.formats import find_face_model, load_face_model
from p2m_core.faces.linear_model import FaceModel, LinearPoints
from p2m_core.files import atomic_path, read_npz, sha256, write_json
from p2m_core.jobs import map_jobs
from p2m_core.losses import Truth
from p2m_core.metrics import nme68_2d, nme68_3d
from p2m_core.synthetic.face_model import load_head_model
from p2m_core.template import Template

VERSION = 3
PART_SIZE = 100  # samples that are written, and after a stop kept, together
REMAKE = "run p2m preprocess again"
LISTED_SAMPLES = 20
LEAST_OVERLAP = 0.3  # intersection over union with the landmarks' box: what is found elsewhere is another face
REBUILT_LIMIT_PERCENT = 1.5  # of the face size; half of the mean face's residual, which a wrong model exceeds
_log = logging.getLogger(__name__)


# --- building -------------------------------------------------------------------------------------


def choose_face_model(face_model: str, raw: Path) -> tuple[FaceModel, bool, str]:
    """The face model that `data.face_model` means for a raw set: model, whether to fit it, and its name.

    Raises: InputError if the folder it names has no model.
    """
    bfm = resolve("data/raw/BFM")
    if face_model == "auto":
        own = archive.is_file(raw / "recipe.json")
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
    boxes = detect_faces(image)
    if not len(boxes):
        return None
    low, high = np.maximum(boxes[:, :2], landmark_box[:2]), np.minimum(boxes[:, 2:], landmark_box[2:])
    common = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(landmark_box[2:] - landmark_box[:2])
    overlap = common / (areas - common)
    return boxes[overlap.argmax()] if overlap.max() >= LEAST_OVERLAP else None


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
    placed = [model_to_image(p, sample.pose, sample.size[0]) for p, sample in zip(points, samples, strict=True)]
    return np.stack(placed), shape, expression


def sample_rows(samples: list[Sample], model: FaceModel, fit: bool) -> dict[str, np.ndarray]:
    """The table's columns for some samples: coefficients and pose from the files, or of a fit to the landmarks.

    Depth of landmarks that the files lack comes from the model.
    """
    landmarks = np.stack([sample.landmarks_px for sample in samples])
    heights = np.array([sample.size[0] for sample in samples])
    flat = np.isnan(landmarks).any((1, 2))
    if fit:
        angles = np.stack([sample.pose[:3] for sample in samples])
        landmarks[flat] = guess_depth(model, landmarks[flat], angles[flat])
        found = fit_landmarks(model, landmarks, heights)
        shape, expression, pose, residual = found.shape, found.expression, found.pose, found.residual_percent
    else:
        rebuilt, shape, expression = rebuilt_landmarks(samples, model)
        landmarks[flat, :, 2] = rebuilt[flat, :, 2]
        pose, residual = np.stack([sample.pose for sample in samples]), nme68_3d(rebuilt, landmarks)
    return {
        **{name: np.array([getattr(sample, name) for sample in samples]) for name in ("name", "source", "subset")},
        "flipped": np.array([sample.flipped for sample in samples], np.uint8),
        "shape": shape.astype(np.float32),
        "expression": expression.astype(np.float32),
        "pose": pose.astype(np.float64),
        "file_pose": np.stack([sample.pose for sample in samples]).astype(np.float64),
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
    raw, out = archive.top(resolve(raw or data.raw)), resolve(out or data.store)
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
    return out


def is_wanted(mat: Path, data: DataConfig) -> bool:
    """Whether data.subsets and data.flipped admit a sample; those of other sets always."""
    subset, flipped, _ = origin(mat)
    return not subset or (subset in data.subsets and (data.flipped or not flipped))


def store_key(settings: dict, raw: Path, files: list[Path]) -> str:
    """What a store is made of, as a hash: settings, and name, size and time of the raw files."""
    listing = [(str(path)[len(str(raw)) + 1 :], *archive.state(path)) for path in files]
    return hashlib.sha256(json.dumps([settings, listing]).encode()).hexdigest()


def is_made(out: Path, key: str) -> bool:
    """Whether a whole store of this key is there."""
    manifest = out / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text()).get("key") == key and is_whole(out)


def is_whole(folder: Path) -> bool:
    """Whether the files of a store are those of its manifest."""
    digests = json.loads((folder / "manifest.json").read_text())["sha256"]
    return all((folder / name).exists() and sha256(folder / name) == digest for name, digest in digests.items())


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


def checksums(blob: Path, lengths: np.ndarray) -> np.ndarray:
    """CRC-32 of each of the pieces (N,) that lie one after another in a file, (N,) uint32."""
    with open(blob, "rb") as stream:
        return np.array([zlib.crc32(stream.read(int(length))) for length in lengths], np.uint32)


# --- reading --------------------------------------------------------------------------------------


def open_store(config: Config, folder: str | Path | None = None):
    """The store that was made of data.raw, or the packed objects in data.raw itself.

    Args: folder: another one than the config's.
    """
    if config.data.kind == "objects":
        from p2m_core.data.shapenet import ObjectStore

        return ObjectStore(folder or config.data.raw, config)
    if config.data.kind == "folder":
        from p2m_core.data.folder_store import FolderStore

        return FolderStore(folder or config.data.store, config)
    return Store(folder or config.data.store)


class Store:
    """A store, opened.

    metric: the name of `error`.
    table: dict of columns, one row a sample: see `sample_rows`, and length, crop (N, 2, 3) image px to store px,
    box_px (N, 4) that it was cut around and detected, whether it is not the landmarks', and split.
    template: Template.   points: LinearPoints of the template's finest vertices.
    """

    metric = "nme68_2d"

    def __init__(self, folder: str | Path):
        self.folder = resolve(folder)
        path = self.folder / "manifest.json"
        if not path.exists():
            raise InputError(self.folder, "", "is no finished store", "run p2m preprocess")
        self.manifest = json.loads(path.read_text())
        if self.manifest.get("kind") == "folder":
            raise InputError(path, "kind", "is that of a folder set", "set data.kind=folder, or take -c folder")
        if self.manifest["version"] != VERSION:
            raise InputError(path, "version", f"is {self.manifest['version']}, not {VERSION}", REMAKE)
        self.table, arrays = (read_npz(self.folder / name, REMAKE) for name in ("samples.npz", "model.npz"))
        self.points = LinearPoints(*(arrays.pop(name) for name in ("mean", "shape_basis", "expression_basis")))
        self.template = Template.from_arrays(arrays)
        self.starts = np.concatenate([[0], np.cumsum(self.table["length"])])
        blob = self.folder / "images.bin"
        size = blob.stat().st_size if blob.exists() else 0
        if size != self.starts[-1]:
            raise InputError(blob, "", f"has {size} bytes, not {self.starts[-1]}", REMAKE)
        self.size_px, self.margin = self.manifest["data"]["store_px"], self.manifest["data"]["store_margin"]

    def __len__(self) -> int:
        return len(self.table["name"])

    @cached_property
    def blob(self) -> np.ndarray:
        return np.memmap(self.folder / "images.bin", np.uint8, "r")

    def crop(self, index: int) -> np.ndarray:
        """The stored crop, (S, S, 3) uint8 RGB.   Raises InputError if it is no longer as it was written."""
        jpeg = self.blob[self.starts[index] : self.starts[index + 1]]
        if "crc32" in self.table and zlib.crc32(jpeg) != self.table["crc32"][index]:
            raise InputError(self.folder / "images.bin", self.table["name"][index], "is damaged", REMAKE)
        return np.ascontiguousarray(cv2.imdecode(np.asarray(jpeg), cv2.IMREAD_COLOR)[..., ::-1])

    def summary(self) -> str:
        """What the store holds and how well its ground truth fits, in some lines."""
        table, manifest = self.table, self.manifest
        residual, mean_face = table["residual_percent"], table["mean_face_percent"]
        lines = [f"skipped {line}" for line in manifest["skipped"]]
        lines += [f"{name}: no face is found, cut around the landmarks" for name in manifest["undetected"]]
        if len(self) <= LISTED_SAMPLES:
            lines += [
                f"{name}  residual {r:.2f} %, mean face {m:.2f} %"
                for name, r, m in zip(table["name"], residual, mean_face, strict=True)
            ]
        counts = f"{len(self)} samples {manifest['splits']}, {len(manifest['skipped'])} skipped"
        lines.append(f"{counts}, ground truth from: {manifest['face_model']}")
        if table["detected"].any():
            lines.append(f"cut around the detected face: {table['detected'].sum()} of {len(self)}")
        if table["subset"].any():
            groups = [*zip(table["subset"].tolist(), table["flipped"].tolist(), strict=True)]
            of_each = [f"{s}{FLIPPED * f} {groups.count((s, f))}" for s, f in sorted(set(groups))]
            lines.append(f"300W-LP: {', '.join(of_each)}; {len(np.unique(table['source']))} photos")
        means = f"mean {residual.mean():.2f} %; the unfitted mean face: {mean_face.mean():.2f} %"
        lines.append(f"landmark residual (nme68-3d): {means}")
        if manifest["face_model"] != "fit" and residual.mean() > REBUILT_LIMIT_PERCENT:
            lines.append("pose, coefficients and landmarks do not belong together: see p2m doctor with this face model")
        return "\n".join([*lines, f"written: {self.folder}"])

    @cached_property
    def damaged(self) -> np.ndarray:
        """Indices of the samples whose crops are no longer as they were written. (Older stores have no checksums.)"""
        if "crc32" not in self.table:
            return np.zeros(0, np.int64)
        found = np.flatnonzero(checksums(self.folder / "images.bin", self.table["length"]) != self.table["crc32"])
        if len(found):
            names = ", ".join(self.table["name"][found])
            _log.warning("%s: %d damaged samples are skipped: %s", self.folder, len(found), names)
        return found

    def rows(self, split: str) -> np.ndarray:
        """Indices of a split's samples, without damaged ones; "all" gives those of every split."""
        chosen = np.ones(len(self), bool) if split == "all" else self.table["split"] == SPLITS.index(split)
        chosen[self.damaged] = False
        return np.flatnonzero(chosen)

    # --- what training and evaluation ask of any store ---

    def dataset(self, rows: np.ndarray, config: Config, train: bool) -> CropDataset:
        """Samples for the network; augmented where they are for training."""
        shape = (config.model.input_px, config.model.margin)
        return CropDataset(self, rows, *shape, config.augment if train else None, config.seed)

    def truth_decoder(self) -> TruthDecoder:
        """From a batch of `dataset` to its truth."""
        return TruthDecoder(self)

    def error(self, vertices: torch.Tensor, truth: Truth) -> np.ndarray:
        """nme68-2d in percent of predicted finest vertices (B, V, 3), one a sample."""
        return nme68_2d(*(self.template.landmarks(x.cpu().numpy()) for x in (vertices, truth.vertices)))

    def on_image(self, vertices: np.ndarray, side_px: int) -> np.ndarray:
        """The network's vertices in px of its input, drawn side_px wide; z to the viewer."""
        return ndc_to_px(vertices, side_px)

    # --- crops ---

    def input_matrix(self, input_px: int, margin: float) -> np.ndarray:
        """The affine map (2, 3) from store px to the network's input."""
        box = np.array([-1, -1, 1, 1]) * self.size_px / 2 / self.margin + (self.size_px - 1) / 2
        return crop_matrix(box, input_px, margin)

    def input_crop(self, index: int, input_px: int, margin: float) -> np.ndarray:
        """The network's input (input_px, input_px, 3) uint8, without augmentation."""
        return crop_image(self.crop(index), self.input_matrix(input_px, margin), input_px)

    def to_crop(self, points_px: np.ndarray, index: int) -> np.ndarray:
        """Px of a sample's photo to px of its stored crop, (..., 3)."""
        return apply_affine(self.table["crop"][index], points_px)

    def truth_px(self, index: int) -> np.ndarray:
        """True vertices of the finest template level, (V, 3), px of the original image."""
        row = {name: self.table[name][index] for name in ("shape", "expression", "pose", "height")}
        return model_to_image(self.points.vertices(row["shape"], row["expression"]), row["pose"], int(row["height"]))

    def yaw_deg(self) -> np.ndarray:
        """Yaw of every sample as its file gives it (N,)."""
        return np.degrees(self.table["file_pose"][:, 1])

    def face_size_px(self) -> np.ndarray:
        """sqrt(w h) of every sample's landmark box (N,)."""
        return face_size(self.table["landmarks_px"])


class CropDataset(Dataset):
    """Samples of a store as the network's inputs.

    Item: image (3, S, S) float32 in [0, 1]; shape, expression; linear (3, 3) and shift (3,), the map from model
    space to normalised crop coordinates; flip; index. Augmentation depends on seed, epoch and sample alone.
    """

    def __init__(
        self,
        store: Store,
        rows: np.ndarray,
        input_px: int,
        margin: float,
        augment: AugmentConfig | None = None,
        seed: int = 0,
    ):
        self.store, self.rows, self.input_px, self.margin = store, rows, input_px, margin
        self.augment, self.seed, self.epoch = augment, seed, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, np.ndarray]:
        # A sampler may hand over (epoch, position): workers that live on do not see self.epoch change.
        epoch, position = item if isinstance(item, tuple) else (self.epoch, item)
        index, table = int(self.rows[position]), self.store.table
        matrix, flip = self.store.input_matrix(self.input_px, self.margin), False
        rng = np.random.default_rng([self.seed, epoch, index])
        if self.augment is not None:
            change, flip = draw_matrix(self.augment, rng, self.input_px)
            matrix = compose(change, matrix)
        image = crop_image(self.store.crop(index), matrix, self.input_px).astype(np.float32) / 255
        if flip:
            image = image[:, ::-1]
        if self.augment is not None:
            image = change_look(image, self.augment, rng)
        to_crop = compose(matrix, table["crop"][index])
        linear, shift = model_to_crop(table["pose"][index], int(table["height"][index]), to_crop, self.input_px)
        return {
            "image": np.ascontiguousarray(image.transpose(2, 0, 1), np.float32),
            "shape": table["shape"][index],
            "expression": table["expression"][index],
            "linear": linear.astype(np.float32),
            "shift": shift.astype(np.float32),
            "flip": np.bool_(flip),
            "index": np.int64(index),
        }


class TruthDecoder(nn.Module):
    """True vertices of a batch from its coefficients, on the model's device: normalised crop coordinates, z about its
    mean."""

    def __init__(self, store: Store):
        super().__init__()
        points = store.points
        self.register_buffer("mean", torch.from_numpy(points.mean.reshape(-1)))
        basis = np.concatenate([points.shape_basis, points.expression_basis], 2).reshape(len(self.mean), -1)
        self.register_buffer("basis", torch.from_numpy(np.ascontiguousarray(basis.T)))
        self.register_buffer("mirror", torch.from_numpy(store.template.mirror))

    def forward(self, batch: dict[str, torch.Tensor]) -> Truth:
        coefficients = torch.cat([batch["shape"], batch["expression"]], 1)
        vertices = torch.addmm(self.mean, coefficients, self.basis).view(len(coefficients), -1, 3)
        vertices = vertices @ batch["linear"].transpose(1, 2) + batch["shift"][:, None]
        vertices = vertices - vertices.mean(1, keepdim=True) * vertices.new_tensor([0.0, 0.0, 1.0])
        mirrored = vertices[:, self.mirror] * vertices.new_tensor([-1.0, 1.0, 1.0])
        return Truth(torch.where(batch["flip"][:, None, None], mirrored, vertices))
