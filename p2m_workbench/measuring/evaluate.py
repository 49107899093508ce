"""Measuring weights, and other systems' predictions, on a store: named protocols, beside baselines, with what they
stand on."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from p2m_core.config.paths import BUNDLED, run_folder, shown
from p2m_core.config.settings import Config
from p2m_core.data.store import Store
from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh, FacePrediction
from p2m_core.geometry.crop import box_of, compose
from p2m_core.geometry.similarity import umeyama
from p2m_core.inference import face_mesh, open_network, predict_crops
from p2m_core.metrics import mean_face_floor, nme68_2d, nme68_3d, yaw_bins
from p2m_core.network.model import Pixel2Mesh
from p2m_core.network.weights import weights_path
from p2m_workbench.measuring.evaluation import Evaluation
from p2m_workbench.measuring.external import read_predictions
from p2m_workbench.measuring.reannotation import reannotated_px
from p2m_workbench.measuring.report import write_report
from p2m_workbench.measuring.tables import (
    FLOOR,
    IN_BOX,
    NOISE,
    UP,
    System,
    budget_table,
    errors_reannotated,
    nme_table,
    paired_table,
    pose_table,
    slice_table,
    surface_table,
    truth_at_depth,
)

# --- what is measured -----------------------------------------------------------------------------


def predict_store(model: Pixel2Mesh, store: Store, rows: np.ndarray, flip: bool, batch: int = 32) -> list[FaceMesh]:
    """A FaceMesh, in px of the original photo, for each of some samples of a store."""
    side = model.config.input_px
    to_input = store.input_matrix(side, model.config.margin)
    meshes = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        crops = np.stack([store.input_crop(index, side, model.config.margin) for index in part])
        levels = predict_crops(model, crops, flip)
        for k, index in enumerate(part):
            matrix, box = compose(to_input, store.table["crop"][index]), store.table["box_px"][index]
            meshes.append(face_mesh(model, [level[k] for level in levels], matrix, box))
    return meshes


def find_weights(config: Config, checkpoints: Sequence[str | Path] = ()) -> dict[str, Path]:
    """Weights files by a short name: evaluate.weights, evaluate.checkpoints, then the given ones, each once.

    Raises: InputError if one is missing.
    """
    settings, found = config.evaluate, {}
    for source in (settings.weights, *settings.checkpoints, *checkpoints):
        path = weights_path(run_folder(config) if str(source) == "run" else source)
        name = "bundled" if path == BUNDLED else path.parent.name if path.name == "weights.safetensors" else path.stem
        if path not in found.values():
            found[shown(path) if name in found else name] = path
    return found


def network_of(name: str, path: Path, store: Store, rows: np.ndarray, flip: bool) -> tuple[System, list[FaceMesh]]:
    """A network as a system, and its predictions.   Raises InputError if it does not suit the store."""
    model = open_network(path)
    if model.template.counts != store.template.counts:
        problem = f"template of {store.template.counts} vertices, the network's has {model.template.counts}"
        raise InputError(store.folder, "template", problem, "preprocess with the network's template settings")
    meshes = predict_store(model, store, rows, flip)
    landmarks = np.stack([mesh.landmarks_px for mesh in meshes])
    about = "bundled weights" if path == BUNDLED else shown(path)
    return System(name, "network", landmarks, lambda k: meshes[k].vertices_px, about), meshes


def peers_of(config: Config, predictions: Sequence[str | Path], store: Store, rows: np.ndarray) -> list[System]:
    """Other systems, of evaluate.predictions and the given files.   Raises InputError as `read_predictions` does."""
    files = [*config.evaluate.predictions, *predictions]
    mapping = config.evaluate.mapping
    if len(mapping) not in (1, len(files)):
        problem = f"has {len(mapping)} entries for {len(files)} predictions"
        raise InputError("config", "evaluate.mapping", problem, "give one for all, or one each")
    if not files and mapping != ("auto",):
        raise InputError("config", "evaluate.mapping", "is set without predictions", "set evaluate.predictions too")
    systems = []
    for file, how in zip(files, mapping * len(files) if len(mapping) == 1 else mapping, strict=True):
        found = read_predictions(file, store.table["name"][rows], store.template, how)
        vertices = None if found.vertices_px is None else found.vertices_px.__getitem__
        systems.append(System(found.name, "peer", found.landmarks_px, vertices, found.about))
    return systems


def mean_face_at_crop(store: Store, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean face, frontal and upright, laid into each sample's box: what one knows without a network.

    Returns: scale (N, 3), shift (N, 3): px are scale * vertices * [1, -1, 1] + shift.
    """
    low, high = np.split(box_of(store.template.landmarks(store.template.vertices) * UP), 2)
    boxes = store.table["box_px"][rows]
    size = (boxes[:, 2:] - boxes[:, :2]) / (high - low)
    scale = np.concatenate([size, size.mean(1, keepdims=True)], 1)
    return scale, np.concatenate([boxes[:, :2] - low * size, np.zeros((len(rows), 1))], 1)


def baselines_of(store: Store, rows: np.ndarray, truth: np.ndarray, again: np.ndarray | None) -> list[System]:
    """The mean face with the true pose, and in the box; and a second annotator where there is one."""
    template, vertices = store.template, store.template.vertices.astype(np.float64)
    mean = template.landmarks(vertices)
    # The mean face is right-handed (y up), the truth left-handed (y down): one of them must be turned over.
    oracle = mean_face_floor(truth * UP, mean) * UP
    size, turn, place = umeyama(np.broadcast_to(mean, truth.shape), truth * UP)
    scale, shift = mean_face_at_crop(store, rows)
    systems = [
        System(FLOOR, "baseline", oracle, lambda k: (size[k] * vertices @ turn[k].T + place[k]) * UP),
        System(
            IN_BOX,
            "baseline",
            scale[:, None] * (mean * UP) + shift[:, None],
            lambda k: scale[k] * (vertices * UP) + shift[k],
        ),
    ]
    return systems if again is None else [*systems, System(NOISE, "baseline", again)]


def evaluate(
    config: Config, checkpoints: Sequence[str | Path] = (), predictions: Sequence[str | Path] = ()
) -> Evaluation:
    """Measure weights and other systems' predictions on a split; the first weights are those that others are held
    against. Writes tables, figures and pictures to outputs/NAME/evaluation/STORE-SPLIT/.

    Args:    checkpoints: weights beside evaluate.weights and evaluate.checkpoints: "run", "bundled", files, folders.
             predictions: files or folders beside evaluate.predictions, see p2m_core/predictions.py.
    Raises:  InputError if store, split, weights or predictions are missing, damaged, or do not fit each other.
    """
    settings = config.evaluate
    store = Store(settings.store or config.data.store)
    rows = store.rows(settings.split)
    if not len(rows):
        raise InputError(
            store.folder, "evaluate.split", f"{settings.split} has no sample", "take split all, or larger shares"
        )
    truth, yaw = store.table["landmarks_px"][rows].astype(np.float64), store.yaw_deg()[rows]
    weights, peers = find_weights(config, checkpoints), peers_of(config, predictions, store, rows)
    networks = [network_of(name, path, store, rows, settings.flip) for name, path in weights.items()]
    again = reannotated_px(truth)
    systems = [*(network for network, _ in networks), *peers, *baselines_of(store, rows, truth, again)]
    names = [system.name for system in systems]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError("predictions", twice, "names two systems", "rename the file of predictions")
    errors = {system.name: nme68_2d(system.landmarks_px, truth) for system in systems}
    surface, maps = surface_table(systems, store, rows)
    source = f"{shown(store.manifest['raw'])}, split {settings.split}"
    bins = yaw_bins(errors[FLOOR], yaw)["counts"]
    about = {
        "protocol": f"nme68-2d, percent of sqrt(w h) of the true landmarks' box; boxes from {boxes_from(store, rows)}",
        "data": f"{source}, ground truth from: {store.manifest['face_model']}",
        "samples": len(rows),
        "samples by |yaw|": ", ".join(f"{name}: {count}" for name, count in bins.items()),
        "annotation noise": noise_note(store, again),
        "flip averaging": settings.flip,
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
        **{system.name: system.about for system in systems if system.about},
    }
    result = Evaluation(
        kinds={system.name: system.kind for system in systems},
        nme=nme_table(errors, yaw),
        nme_reannotated=pd.DataFrame() if again is None else nme_table(errors_reannotated(systems, truth, again), yaw),
        nme_3d=nme_table({s.name: nme68_3d(s.landmarks_px, truth) for s in systems if s.solid}, yaw),
        paired=paired_table(errors),
        surface=surface,
        pose=pose_table(systems, store, rows),
        budget=budget_table(systems, truth),
        slices=slice_table(systems, truth, store, rows),
        samples=pd.DataFrame({"name": store.table["name"][rows], "yaw_deg": yaw, **errors}),
        error_maps=maps,
        about=about,
        folder=run_folder(config) / "evaluation" / f"{store.folder.name}-{settings.split}",
    )
    drawn = {
        network.name: lambda k, own=meshes: face_prediction(store, rows[k], own[k]) for network, meshes in networks
    }
    write_report(result, store, rows, drawn, {peer.name: peer.landmarks_px for peer in peers})
    return result


def boxes_from(store: Store, rows: np.ndarray) -> str:
    """What the crops of some samples were cut around, in words."""
    share = store.table["detected"][rows].mean()
    return "the truth" if share == 0 else "detection" if share == 1 else f"detection, {1 - share:.1%} from the truth"


def noise_note(store: Store, again: np.ndarray | None) -> str:
    """What the tables say of annotation noise."""
    if again is not None:
        return "the published landmarks against those re-annotated by hand"
    if store.manifest["face_model"] == "synthetic":
        return "none: these landmarks are computed, not annotated"
    return "unknown: no second annotation of these samples is there"


def face_prediction(store: Store, index: int, mesh: FaceMesh) -> FacePrediction:
    """A stored sample with its prediction, over the stored crop instead of the whole photo."""
    matrix = store.table["crop"][index]
    truth = store.to_crop(truth_at_depth(store.truth_px(index), mesh.vertices_px), index)
    levels = tuple(np.float32(store.to_crop(level, index)) for level in mesh.levels)
    box = np.concatenate([matrix[:, :2] @ corner + matrix[:, 2] for corner in np.split(mesh.box, 2)])
    landmarks, template = (
        None if points is None else np.float32(store.to_crop(points, index))
        for points in (mesh.landmarks_px, mesh.template_px)
    )
    moved = FaceMesh(levels[-1], mesh.faces, levels, mesh.level_faces, landmarks, box, template)
    return FacePrediction(str(store.table["name"][index]), moved, store.crop(index), np.float32(truth))
