"""Measuring weights, and other systems' predictions, on a store of faces: named protocols, beside baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from p2m_core.config.loading import with_values
from p2m_core.config.paths import BUNDLED, resolve, run_folder, shown
from p2m_core.config.settings import Config
from p2m_core.data.aflw2000 import FLIPPED, origin, read_image, scan
from p2m_core.data.face_store import FaceStore
from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import apply_affine, box_of, invert_affine
from p2m_core.geometry.similarity import umeyama
from p2m_core.metrics import mean_face_floor, nme68_2d, nme68_3d, yaw_bins
from p2m_core.network.model import Pixel2Mesh
from p2m_core.network.weights import weights_path
from p2m_workbench.face_prediction import FacePrediction, moved
from p2m_workbench.measuring.annotations import REANNOTATED, further_annotations
from p2m_workbench.measuring.external import read_predictions
from p2m_workbench.measuring.report import write_report
from p2m_workbench.measuring.results import Evaluation, System
from p2m_workbench.measuring.tables import (
    FLIP_Y,
    annotation_table,
    counted_groups,
    decomposition_table,
    nme_table,
    opening_table,
    paired_table,
    pose_table,
    slice_table,
    surface_table,
    truth_at_depth,
)
from p2m_workbench.photos.detect import box_iou
from p2m_workbench.photos.objects import knows_faces
from p2m_workbench.photos.predict import find_meshes, open_weights
from p2m_workbench.photos.upright import predict_upright
from p2m_workbench.preprocessing.store_photos import StorePhotos
from p2m_workbench.provenance import processor

ELSEWHERE = 20  # nme68-2d in percent above which a mesh is not on the labelled face
FLOOR, IN_BOX, NOISE = "mean face, true pose (floor)", "mean face in the box", "re-annotated by hand (noise)"

# --- systems -----------------------------------------------------------------------------


def predict_store(model: Pixel2Mesh, store: FaceStore, rows: np.ndarray, flip: bool, batch: int = 32) -> list[FaceMesh]:
    """A FaceMesh, in px of the original photo, for each of some samples of a store."""
    half, centre = store.size_px / store.margin / 2, (store.size_px - 1) / 2
    meshes, in_crop = [], np.array([centre - half, centre - half, centre + half, centre + half])
    progress = tqdm(total=len(rows), desc="predicting", unit="sample")
    for part in np.array_split(rows, range(batch, len(rows), batch)):
        to_crop = store.table["crop"][part]
        images, boxes = list(map(store.crop, part)), store.table["box_px"][part]
        views = predict_upright(model, images, np.tile(in_crop, (len(part), 1)), flip=flip)
        there = [moved(view, invert_affine(matrix)) for view, matrix in zip(views, to_crop, strict=True)]
        meshes += [replace(mesh, box=box) for mesh, box in zip(there, boxes, strict=True)]
        progress.update(len(part))
    progress.close()
    return meshes


def find_weights(config: Config, checkpoints: str | Path | Sequence[str | Path] = ()) -> dict[str, Path]:
    """Weights files by a short name: evaluate.weights, evaluate.checkpoints, then the given ones, each once.

    Raises: InputError if one is missing.
    """
    settings, found = config.evaluate, {}
    more = [checkpoints] if isinstance(checkpoints, (str, Path)) else checkpoints
    for source in (settings.weights, *settings.checkpoints, *more):
        path = weights_path(run_folder(config) if str(source) == "run" else source)
        name = weights_name(path)
        if path not in found.values():
            found[shown(path) if name in found else name] = path
    return found


def weights_name(source: str | Path) -> str:
    """How weights are called: bundled, the name of their run, or that of their file."""
    path = weights_path(source)
    return "bundled" if path == BUNDLED else path.parent.name if path.name == "weights.safetensors" else path.stem


def open_split(config: Config) -> tuple[FaceStore, np.ndarray]:
    """The store of faces to measure on, and the rows of evaluate.split.   Raises InputError if there are none."""
    store = FaceStore(config.evaluate.store or config.data.store)
    rows = store.rows(config.evaluate.split)
    if not len(rows):
        problem = f"{config.evaluate.split} has no sample"
        raise InputError(store.folder, "evaluate.split", problem, "take split all, or larger shares")
    return store, rows


def open_with_landmarks(path: Path) -> Pixel2Mesh:
    """The network of weights.   Raises InputError if it knows no landmarks, as those of older ports."""
    model = open_weights(path, precision="fp32")
    if not knows_faces(model):
        problem = "has no landmarks on its template, by which faces are compared here"
        raise InputError(path, "", problem, "measure its surface on a store of faces: p2m evaluate --protocol surface")
    return model


def network_of(name: str, path: Path, store: FaceStore, rows: np.ndarray, flip: bool) -> tuple[System, list[FaceMesh]]:
    """A network as a system, and its predictions; on another template than the store's it has landmarks alone."""
    model = open_with_landmarks(path)
    meshes = predict_store(model, store, rows, flip)
    landmarks = np.stack([mesh.landmarks_px for mesh in meshes])
    about = "bundled weights" if path == BUNDLED else shown(path)
    if not on_template(meshes[0], store):
        own, other = model.template.counts[-1], store.template.counts[-1]
        about += f"; landmarks and pose alone: the store has true places of its own template's vertices ({other}), "
        about += f"not of this network's ({own}), and dense protocols compare vertex with vertex"
        return System(name, "network", landmarks, about=about), meshes
    return System(name, "network", landmarks, lambda k: meshes[k].vertices_px, about), meshes


def found_of(name: str, path: Path, store: FaceStore, rows: np.ndarray, flip: bool) -> System:
    """A network on faces that it finds itself in the whole photos of the set; of several the one that overlaps most
    with the labelled face.   Raises InputError if the photos are gone."""
    raw, model = resolve(store.manifest["raw"]), open_with_landmarks(path)
    photos = {mat.stem + FLIPPED.lower() * origin(mat)[1]: photo for mat, photo in scan(raw)}
    landmarks = np.full((len(rows), 68, 3), np.nan)
    for k, index in enumerate(tqdm(rows, desc="finding faces", unit="photo")):
        photo = photos.get(str(store.table["name"][index]))
        if photo is None:
            raise InputError(raw, str(store.table["name"][index]), "has no photo", "put the set back")
        meshes = find_meshes(model, read_image(photo), flip)
        if meshes:
            iou = box_iou(np.stack([box_of(mesh.landmarks_px) for mesh in meshes]), store.table["box_px"][index])
            landmarks[k] = meshes[iou[:, 0].argmax()].landmarks_px
    errors = nme68_2d(landmarks, store.table["landmarks_px"][rows])
    none, elsewhere = int(np.isnan(errors).sum()), int((errors > ELSEWHERE).sum())
    on = len(rows) - none - elsewhere
    about = f"faces found in the whole photo: {on} on the labelled face, {elsewhere} elsewhere (above {ELSEWHERE}%), "
    return System(f"{name}, found", "network", landmarks, about=f"{about}{none} none")


def peers_of(config: Config, store: FaceStore, rows: np.ndarray) -> list[System]:
    """Other systems, of evaluate.predictions.   Raises InputError as `read_predictions` does."""
    files, mapping = config.evaluate.predictions, config.evaluate.mapping
    mappings = mapping * len(files) if len(mapping) == 1 else mapping
    names = store.table["name"][rows]
    return [read_predictions(file, names, store.template, how) for file, how in zip(files, mappings, strict=True)]


def mean_face_at_crop(store: FaceStore, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean face, frontal and upright, laid into each sample's box: the baseline without a network.

    Returns: scale (N, 3), shift (N, 3): px are scale * vertices * [1, -1, 1] + shift.
    """
    low, high = np.split(box_of(store.template.landmarks(store.template.vertices) * FLIP_Y), 2)
    boxes = store.table["box_px"][rows]
    size = (boxes[:, 2:] - boxes[:, :2]) / (high - low)
    scale = np.concatenate([size, size.mean(1, keepdims=True)], 1)
    return scale, np.concatenate([boxes[:, :2] - low * size, np.zeros((len(rows), 1))], 1)


def baselines_of(store: FaceStore, rows: np.ndarray, truth: np.ndarray, again: np.ndarray | None) -> list[System]:
    """The mean face with the true pose, and in the box; and a second annotation where there is one.

    Args: truth: (N, 68, 3) px, landmarks of the rows.   again: (N, 68, 2) px, the second annotation.
    """
    vertices = store.template.vertices.astype(np.float64)
    mean = store.template.landmarks(vertices)
    # The template has y up, the truth y down: one of them must be mirrored, or no rotation would fit.
    floor = mean_face_floor(truth * FLIP_Y, mean) * FLIP_Y
    size, rotation, place = umeyama(np.broadcast_to(mean, truth.shape), truth * FLIP_Y)
    scale, shift = mean_face_at_crop(store, rows)
    in_box = scale[:, None] * (mean * FLIP_Y) + shift[:, None]
    systems = [
        System(FLOOR, "baseline", floor, lambda k: (size[k] * vertices @ rotation[k].T + place[k]) * FLIP_Y),
        System(IN_BOX, "baseline", in_box, lambda k: scale[k] * (vertices * FLIP_Y) + shift[k]),
    ]
    return systems if again is None else [*systems, System(NOISE, "baseline", again)]


# --- the evaluation -------------------------------------------------------------------------------


def evaluate(
    config: Config, checkpoints: Sequence[str | Path] = (), predictions: Sequence[str | Path] = ()
) -> Evaluation:
    """Measure weights and other systems' predictions on a split; the first weights are those that others are held
    against. Writes tables, figures and pictures to outputs/NAME/evaluation/STORE-SPLIT/.

    Args:    checkpoints: weights beside evaluate.weights and evaluate.checkpoints: "run", "bundled", files, folders.
             predictions: files or folders beside evaluate.predictions, in a format of `measuring.external`.
    Raises:  InputError if store, split, weights or predictions are missing, damaged, or do not fit each other.
    """
    if predictions:
        files = [*config.evaluate.predictions, *map(str, predictions)]
        config = with_values(config, {"evaluate.predictions": files}, "predictions")
    settings = config.evaluate
    store, rows = open_split(config)
    truth, yaw = store.table["landmarks_px"][rows].astype(np.float64), store.yaw_deg()[rows]
    weights, peers = find_weights(config, checkpoints), peers_of(config, store, rows)
    networks = [network_of(name, path, store, rows, settings.flip) for name, path in weights.items()]
    found = [found_of(name, path, store, rows, settings.flip) for name, path in weights.items() if settings.found]
    further = further_annotations(store.table["name"][rows], truth, resolve(store.manifest["raw"]))
    again = further[REANNOTATED].landmarks_px if REANNOTATED in further else None
    systems = [*(network for network, _ in networks), *found, *peers, *baselines_of(store, rows, truth, again)]
    names = [system.name for system in systems]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError("predictions", twice, "names two systems", "rename the file of predictions")
    errors = {s.name: nme68_2d(s.landmarks_px, truth) for s in systems}
    surface, error_maps = surface_table(systems, store, rows)
    tables = {
        "nme68_2d": nme_table(errors, yaw, "nme68-2d"),
        "paired": paired_table(errors),
        "nme68_3d": nme_table(
            {s.name: nme68_3d(s.landmarks_px, truth) for s in systems if s.has_depth}, yaw, "nme68-3d"
        ),
        "pose": pose_table(systems, store, rows),
        "opening": opening_table(systems, truth),
        "surface": surface,
        "error_decomposition": decomposition_table(systems, truth),
        "slices": slice_table(systems, truth, store, rows),
    }
    # Against another annotation the noise is the first one's distance.
    points = {s.name: truth if s.name == NOISE else s.landmarks_px for s in systems}
    others = {f"nme68_2d_{key}": annotation_table(other, points, truth, yaw) for key, other in further.items()}
    tables = {"nme68_2d": tables.pop("nme68_2d"), **others, **tables}
    counts = yaw_bins(errors[FLOOR], yaw)["counts"]
    about = {
        "protocol": "nme68-2d, percent of sqrt(w h) of the true landmarks' box; boxes from the truth, "
        "where the system's name does not say that they are found",
        "data": f"{shown(store.manifest['raw'])}, split {settings.split} ({store.manifest['split_by']}), "
        f"ground truth from: {store.truth_from}",
        "samples": len(rows),
        "samples by |yaw|": ", ".join(f"{name}: {count}" for name, count in counts.items()),
        "dense protocols count": counted_groups(store.template),
        "annotation noise": noise_note(store, again),
        "flip averaging": "yes" if settings.flip else "no",
        "machine": machine(),
        **{system.name: system.about for system in systems if system.about},
    }
    compared = tuple(system.name for system in systems if system.kind != "baseline")
    result = Evaluation(
        kinds={system.name: system.kind for system in systems},
        tables={name: replace(table, compared=compared) for name, table in tables.items() if len(table.rows)},
        samples=pd.DataFrame({"name": store.table["name"][rows], "yaw_deg": yaw, **errors}),
        about=about,
        folder=run_folder(config) / "evaluation" / f"{store.folder.name}-{settings.split}",
        error_maps=error_maps,
    )
    drawn = {
        network.name: lambda k, own=meshes: face_prediction(store, rows[k], own[k]) for network, meshes in networks
    }
    write_report(result, store, rows, drawn, {peer.name: peer.landmarks_px for peer in peers})
    return result


def machine() -> str:
    """Processor and torch, as the report names them."""
    return f"{processor()}, torch {torch.__version__}"


def noise_note(store: FaceStore, again: np.ndarray | None) -> str:
    """Where the row of annotation noise comes from, or why there is none."""
    if again is not None:
        return "the published landmarks against those re-annotated by hand"
    if store.manifest["face_model"] == "synthetic":
        return "none: these landmarks are computed, not annotated"
    return "unknown: no second annotation of these samples is there"


def on_template(mesh: FaceMesh, store: FaceStore) -> bool:
    """Whether a mesh is on the store's template: templates of as many vertices may number them otherwise."""
    return np.array_equal(mesh.faces, store.template.faces[-1])


def face_prediction(store: FaceStore, index: int, mesh: FaceMesh, photos: StorePhotos | None = None) -> FacePrediction:
    """A stored sample with its prediction, over the stored crop, or over its whole photo if `photos` are given; without
    a truth where the mesh is not on the store's template."""
    photo, to_file = (
        (store.crop(index), invert_affine(store.table["crop"][index])) if not photos else photos.photo(index)
    )
    truth, over = store.truth_px(index), invert_affine(to_file)
    known = on_template(mesh, store)
    truth = np.float32(apply_affine(over, truth_at_depth(truth, mesh.vertices_px))) if known else None
    return FacePrediction(str(store.table["name"][index]), moved(mesh, over), photo, truth)
