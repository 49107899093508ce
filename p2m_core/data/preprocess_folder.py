"""p2m_core.data.preprocess_folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from p2m_core import zip_files
from p2m_core.config.paths import resolve
from p2m_core.config.settings import Config, DataConfig, ModelConfig
from p2m_core.data.folder import Y_UP, Camera, Entry, Sample, draw_cloud, find_entries, read_sample, scan
from p2m_core.data.folder_store import PART_SIZE, REMAKE, VERSION, _log
from p2m_core.data.splits import SPLITS, by_shares
from p2m_core.data.store_files import is_made, store_key
from p2m_core.errors import InputError
from p2m_core.files import atomic_path, read_npz, sha256, write_json
from p2m_core.geometry.crop import apply_affine, crop_image, crop_matrix
from p2m_core.geometry.template import Template, ellipsoid
from p2m_core.geometry.template_files import load_template
from p2m_core.parallel import map_jobs


@dataclass(frozen=True)
class Part:
    """Some samples to read, cut and write together."""

    entries: tuple[Entry, ...]
    first: int
    out: Path
    data: DataConfig
    model: ModelConfig


def network_camera(camera: Camera, model: ModelConfig, side_px: int) -> np.ndarray:
    """The affine map (2, 3) from a perspective camera's px to those of the network's, drawn side_px wide."""
    scale = side_px / model.input_px
    focal = np.array(model.focal_px) * scale / camera.focal_px
    centre = (np.array(model.centre_px) + 0.5) * scale - 0.5
    return np.concatenate([np.diag(focal), (centre - focal * camera.centre)[:, None]], 1)


def cut(sample: Sample, cloud: np.ndarray, data: DataConfig, model: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """The map (2, 3) from px of the picture to those of the store, and the cloud in the store's frame.

    That is px of the stored crop, y down, for the crop camera, and the camera's frame for perspective.
    """
    if model.camera == "perspective":
        return network_camera(sample.camera, model, data.store_px), cloud
    matrix = crop_matrix(sample.box, data.store_px, data.store_margin)
    points = apply_affine(matrix, sample.camera.to_px(cloud[:, :3]))
    return matrix, np.concatenate([points, cloud[:, 3:] * Y_UP], 1)


def write_part(part: Part) -> list[str]:
    """Read, cut and write the samples of a part to its file; the lines on those that were skipped."""
    if part.out.exists():
        return read_npz(part.out, REMAKE)["skipped"].tolist()
    rows, jpegs, clouds, skipped = [], [], [], []
    for number, entry in enumerate(part.entries, part.first):
        try:
            sample = read_sample(entry)
            if (sample.camera.camera == "perspective") != (part.model.camera == "perspective"):
                problem = f"is {sample.camera.camera}, but model.camera is {part.model.camera}"
                raise InputError(entry.camera, "camera", problem, "perspective wants perspective, the others want crop")
            cloud = draw_cloud(sample, part.data.points, np.random.default_rng([part.data.split_seed, number]))
            matrix, cloud = cut(sample, cloud, part.data, part.model)
        except InputError as error:
            skipped.append(str(error))
            continue
        picture = crop_image(sample.image, matrix, part.data.store_px)
        quality = [cv2.IMWRITE_JPEG_QUALITY, part.data.jpeg_quality]
        jpegs.append(cv2.imencode(".jpg", picture[..., ::-1], quality)[1].ravel())
        clouds.append(cloud.astype(np.float32))
        rows.append((entry.image.stem, entry.category, matrix, sample.faces is None and sample.normals is None))
    name, category, crop, estimated = zip(*rows, strict=True) if rows else ((), (), (), ())
    with atomic_path(part.out) as temporary:
        np.savez(
            temporary,
            skipped=np.array(skipped, dtype=str),
            images=np.concatenate(jpegs) if jpegs else np.zeros(0, np.uint8),
            clouds=np.concatenate(clouds) if clouds else np.zeros((0, 6), np.float32),
            name=np.array(name, dtype=str),
            category=np.array(category, dtype=str),
            length=np.array([len(jpeg) for jpeg in jpegs], np.int64),
            points=np.array([len(cloud) for cloud in clouds], np.int64),
            crop=np.array(crop, np.float64).reshape(-1, 2, 3),
            estimated=np.array(estimated, np.uint8),
        )
    return skipped


def build_template(config: Config) -> Template:
    """The template of a config: its file, the ellipsoid, or the semi-sphere registered on our mean face."""
    kind = config.template
    if kind.file:
        return load_template(resolve(kind.file), kind.levels)
    if kind.kind == "ellipsoid":
        return ellipsoid(kind.levels)
    from p2m_core.morphable.registration import face_template
    from p2m_synth.head.head_model import load_head_model

    return face_template(load_head_model().face_model(), kind.rings, kind.levels)[0]


def build_folder_store(config: Config, raw: str | Path | None = None, out: str | Path | None = None) -> Path:
    """Make the store of a folder set: pictures cut or warped, a cloud for each.

    Bad samples are listed in the manifest and skipped; a stopped run goes on from its last part; a store of the same
    files and settings is kept.

    Args:    raw, out: data.raw and data.store where they are None.   Returns: the store's folder.
    Raises:  InputError if there is no good sample.
    """
    data, model = config.data, config.model
    raw, out = zip_files.top(resolve(raw or data.raw)), resolve(out or data.store)
    entries, problems = find_entries(raw), [str(error) for error in scan(raw)[1]]
    used = {"store_px", "store_margin", "jpeg_quality", "points", "val_share", "test_share", "split_seed"}
    lens = {"camera", "input_px", "focal_px", "centre_px"}
    settings = {
        "version": VERSION,
        "kind": "folder",
        "data": data.model_dump(mode="json", include=used),
        "model": model.model_dump(mode="json", include=lens if model.camera == "perspective" else {"camera"}),
        "template": config.template.model_dump(mode="json"),
    }
    files = sorted({path for e in entries for path in (e.image, e.shape, e.camera) if path})
    key, manifest = store_key(settings, raw, files), out / "manifest.json"
    if is_made(out, key):
        return out
    folder = out / f"parts-{key[:12]}"
    parts = [
        Part(tuple(entries[i : i + PART_SIZE]), i, folder / f"{i:08d}.npz", data, model)
        for i in range(0, len(entries), PART_SIZE)
    ]
    for skipped in map_jobs(write_part, parts, data.workers if len(parts) > 1 else 1, f"samples, {PART_SIZE} a step"):
        for line in skipped:
            _log.warning("skipped %s", line)
    manifest.unlink(missing_ok=True)
    merge_parts(parts, out, config, {"key": key, **settings, "raw": str(raw)}, problems)
    for old in out.glob("parts-*"):
        shutil.rmtree(old)
    return out


def merge_parts(parts: list[Part], out: Path, config: Config, manifest: dict, skipped: list[str]) -> None:
    """Lay the parts' files together, and write the template and the manifest."""
    columns: dict[str, list[np.ndarray]] = {}
    with (
        atomic_path(out / "images.bin") as images,
        atomic_path(out / "clouds.bin") as clouds,
        open(images, "wb") as image_file,
        open(clouds, "wb") as cloud_file,
    ):
        for part in parts:
            content = read_npz(part.out, REMAKE)
            skipped += content.pop("skipped").tolist()
            image_file.write(content.pop("images").tobytes())
            cloud_file.write(content.pop("clouds").tobytes())
            for name, values in content.items():
                columns.setdefault(name, []).append(values)
    table = {name: np.concatenate(arrays) for name, arrays in columns.items()}
    count = len(table["name"])
    if not count:
        problem = f"none of its samples can be used, the first: {skipped[0]}"
        raise InputError(manifest["raw"], "", problem, "mend the files")
    table["split"] = by_shares(np.char.add(np.char.add(table["category"], "/"), table["name"]), config.data)
    with atomic_path(out / "samples.npz") as temporary:
        np.savez(temporary, **table)
    with atomic_path(out / "template.npz") as temporary:
        np.savez(temporary, **build_template(config).arrays())
    names = ("images.bin", "clouds.bin", "samples.npz", "template.npz")
    manifest |= {
        "count": count,
        "splits": {name: int((table["split"] == k).sum()) for k, name in enumerate(SPLITS)},
        "skipped": skipped,
        "normals estimated": table["name"][table["estimated"] > 0].tolist(),
        "bytes_per_sample": round(sum((out / name).stat().st_size for name in names[:3]) / count),
        "sha256": {name: sha256(out / name) for name in names},
    }
    write_json(out / "manifest.json", manifest)
