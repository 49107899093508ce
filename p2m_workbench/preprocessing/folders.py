"""From a folder set to a store: pictures cut out, or warped to the network's camera, and a cloud for each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from p2m_core import zip_files
from p2m_core.config.paths import resolve
from p2m_core.config.settings import Config, DataConfig, ModelConfig
from p2m_core.data.folder_store import FolderStore
from p2m_core.data.splits import by_shares
from p2m_core.errors import InputError
from p2m_core.geometry.crop import apply_affine, crop_image, crop_matrix
from p2m_core.geometry.template import Template, ellipsoid
from p2m_core.geometry.template_files import load_template
from p2m_core.morphable.registration import face_template
from p2m_synth.head.head_model import own_face_model
from p2m_workbench.preprocessing.folder_files import Y_UP, Camera, Entry, Sample, find_entries, read_sample, scan
from p2m_workbench.preprocessing.store_writer import Columns, encode_jpeg, read_each, write_store

NEIGHBOURS = 12  # that a normal is estimated from


def network_camera(camera: Camera, model: ModelConfig, side_px: int) -> np.ndarray:
    """The affine map (2, 3) from a perspective camera's px to those of the network's, drawn side_px wide."""
    scale = side_px / model.input_px
    focal = np.array(model.focal_px) * scale / camera.focal_px
    centre = (np.array(model.centre_px) + 0.5) * scale - 0.5
    return np.concatenate([np.diag(focal), (centre - focal * camera.centre_px)[:, None]], 1)


def to_store_frame(
    sample: Sample, cloud: np.ndarray, data: DataConfig, model: ModelConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The map (2, 3) from px of the picture to those of the store, and the cloud in the store's frame.

    That is px of the stored crop, y down, for the crop camera, and the camera's frame for perspective.
    """
    if model.camera == "perspective":
        return network_camera(sample.camera, model, data.store_px), cloud
    matrix = crop_matrix(sample.box, data.store_px, data.store_margin)
    points = apply_affine(matrix, sample.camera.to_px(cloud[:, :3]))
    return matrix, np.concatenate([points, cloud[:, 3:] * Y_UP], 1)


def draw_cloud(sample: Sample, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points and unit normals (N, 6) of a sample in its camera's frame: drawn of a mesh, even by area, or of a cloud.

    A cloud with fewer points is kept whole; where it has no normals they are estimated.
    """
    if sample.faces is not None:
        mesh = trimesh.Trimesh(sample.points, sample.faces, process=False)
        points, face = trimesh.sample.sample_surface(mesh, count, seed=rng)
        return np.concatenate([points, mesh.face_normals[face]], 1)
    normals = estimate_normals(sample.points) if sample.normals is None else sample.normals
    normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    chosen = np.sort(rng.permutation(len(sample.points))[:count])
    return np.concatenate([sample.points, normals], 1)[chosen]


def estimate_normals(points: np.ndarray) -> np.ndarray:
    """Unit normals (N, 3) of a cloud (N, 3): the flattest direction of each point's neighbours, to the viewer."""
    _, near = cKDTree(points).query(points, min(NEIGHBOURS, len(points)))
    spread = points[near] - points[near].mean(1, keepdims=True)
    normals = np.linalg.svd(spread, full_matrices=False)[2][:, 2]
    return normals * np.where(normals[:, 2:] < 0, -1, 1)


def read_entries(
    entries: Sequence[Entry], first: int, data: DataConfig, model: ModelConfig
) -> tuple[Columns, list[str]]:
    """Read samples, cut their pictures and draw their clouds: `store_writer.ReadSamples` of folder sets."""

    def read(entry: Entry, number: int) -> tuple[Entry, np.ndarray, np.ndarray, np.ndarray, bool]:
        sample = read_sample(entry)
        if (sample.camera.camera == "perspective") != (model.camera == "perspective"):
            problem = f"is {sample.camera.camera}, but model.camera is {model.camera}"
            raise InputError(
                entry.camera or entry.shape, "camera", problem, "perspective wants perspective, the others want crop"
            )
        cloud = draw_cloud(sample, data.points, np.random.default_rng([data.split_seed, number]))
        matrix, cloud = to_store_frame(sample, cloud, data, model)
        jpeg = encode_jpeg(crop_image(sample.image, matrix, data.store_px))
        return entry, jpeg, cloud.astype(np.float32), matrix, sample.faces is None and sample.normals is None

    rows, skipped = read_each(entries, first, read)
    if not rows:
        return {}, skipped
    good, jpegs, clouds, matrices, estimated = zip(*rows, strict=True)
    columns = {
        "images.bin": np.concatenate(jpegs),
        "clouds.bin": np.concatenate(clouds),
        "name": np.array([entry.image.stem for entry in good]),
        "category": np.array([entry.category for entry in good]),
        "length": np.array([len(jpeg) for jpeg in jpegs], np.int64),
        "points": np.array([len(cloud) for cloud in clouds], np.int64),
        "crop": np.array(matrices, np.float64),
        "estimated": np.array(estimated, np.uint8),
    }
    return columns, skipped


def build_template(config: Config) -> Template:
    """The template of a config: its file, the ellipsoid, or the semi-sphere registered on our mean face."""
    kind = config.template
    if kind.file:
        return load_template(resolve(kind.file), kind.levels)
    if kind.kind == "ellipsoid":
        return ellipsoid(kind.levels)
    return face_template(own_face_model(), kind.kind, kind.rings, kind.levels)[0]


def build_folder_store(config: Config, raw: str | Path | None = None, out: str | Path | None = None) -> Path:
    """Make the store of a folder set, stopped and kept as `faces.build_face_store` says.

    Args:    raw, out: folders, data.raw and data.store where None.
    Returns: the store's folder, for `FolderStore`.
    Raises:  InputError if there is no good sample.
    """
    data, model = config.data, config.model
    raw, out = zip_files.top(resolve(raw or data.raw)), resolve(out or data.store)
    entries = find_entries(raw)
    used = {"store_px", "store_margin", "points", "val_share", "test_share", "split_seed"}
    lens = {"camera", "input_px", "focal_px", "centre_px"}
    settings = {
        "version": FolderStore.version,
        "kind": "folder",
        "data": data.model_dump(mode="json", include=used),
        "model": model.model_dump(mode="json", include=lens if model.camera == "perspective" else {"camera"}),
        "template": config.template.model_dump(mode="json"),
    }

    def finish(table: Columns) -> tuple[Columns, dict[str, Any]]:
        table["split"] = by_shares(np.char.add(np.char.add(table["category"], "/"), table["name"]), data)
        facts = {"normals estimated": table["name"][table["estimated"] > 0].tolist()}
        return build_template(config).arrays(), facts

    return write_store(
        out,
        raw,
        entries,
        files=sorted({path for e in entries for path in (e.image, e.shape, e.camera) if path}),
        settings=settings,
        read=partial(read_entries, data=data, model=model),
        finish=finish,
        template_name=FolderStore.template_name,
        unpaired=scan(raw)[1],
        workers=data.workers,
    )
