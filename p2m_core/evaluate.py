"""Measuring weights, and other systems' predictions, on a store: named protocols, beside baselines, with what they
stand on."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from p2m_core.camera import angles_from_rotation, box_of, face_size, umeyama
from p2m_core.checkpoint import weights_path
from p2m_core.config import BUNDLED, Config, run_folder, shown
from p2m_core.data.annotations import reannotated_px
from p2m_core.data.augment import compose
from p2m_core.data.store import Store
from p2m_core.errors import InputError
from p2m_core.facemesh import FaceMesh, Specimen
from p2m_core.metrics import (
    bootstrap_interval,
    cd_f1,
    error_budget,
    group_difference,
    identity_variance,
    mean_face_floor,
    nme68_2d,
    nme68_3d,
    nme_dense_2d,
    nme_dense_3d,
    paired_difference,
    pose_mae,
    rec_umeyama,
    yaw_bins,
)
from p2m_core.model import Pixel2Mesh
from p2m_core.predict import face_mesh, open_network, predict_crops
from p2m_core.predictions import read_predictions
from p2m_core.raster import vertex_normals
from p2m_core.report import Evaluation, Kind, write_report
from p2m_core.synthetic.compare import attribute_table

LEAST_OF_A_GROUP = 5
MOST_SURFACES = 500  # nearest neighbours of a surface take longer than the network
# Attributes of synthetic faces to slice by; for numbers, where each group begins.
ATTRIBUTES = {
    "woman": [(0, "man"), (1, "woman")],
    "age": [(0, "child"), (0.4, "young"), (0.6, "middle"), (0.8, "old")],
    "melanin": [(0, "light skin"), (1 / 3, "medium skin"), (2 / 3, "dark skin")],
    "visible": [(0, "less than half of the face seen"), (0.5, "half to 9/10 seen"), (0.9, "seen")],
    "glasses": None, "beard": None, "headwear": None, "occluder": None, "mask": None, "expression": None, "light": None,
    "photo": None,
}  # fmt: skip
LABELS = {"woman": "sex", "melanin": "skin", "visible": "visibility"}
UP = np.array([1, -1, 1])
FLOOR, IN_BOX, NOISE = "mean face, true pose (floor)", "mean face in the box", "re-annotated by hand (noise)"


@dataclass(frozen=True)
class System:
    """Whatever predicts faces: a row of the tables.

    landmarks_px  (N, 68, 2 or 3), nan where it found no face
    vertices_px   from a sample's place among the N to the template's vertices (V, 3) px; None if it has no surface
    """

    name: str
    kind: Kind
    landmarks_px: np.ndarray
    vertices_px: Callable[[int], np.ndarray] | None = None
    about: str = ""

    @property
    def found(self) -> np.ndarray:
        """Samples (N,) on which it found the face."""
        return np.isfinite(self.landmarks_px).all((1, 2))

    @property
    def solid(self) -> bool:
        """Whether it knows depth."""
        return self.landmarks_px.shape[2] == 3


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
    drawn = {network.name: lambda k, own=meshes: specimen(store, rows[k], own[k]) for network, meshes in networks}
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


# --- tables ---------------------------------------------------------------------------------------


def nme_table(errors: dict[str, np.ndarray], yaw_deg: np.ndarray) -> pd.DataFrame:
    """A row a system: mean by |yaw|, balanced and plain mean, 95% interval of the plain mean, and on how many samples
    it stands."""
    lines = {}
    for name, values in errors.items():
        found = np.isfinite(values)
        row = yaw_bins(values[found], yaw_deg[found])
        row.pop("counts")
        low, high = bootstrap_interval(values[found], seed=0)
        lines[name] = {**row, "95% low": low, "95% high": high, "samples": int(found.sum())}
    return pd.DataFrame.from_dict(lines, orient="index").astype({"samples": int})


def errors_reannotated(systems: list[System], truth: np.ndarray, again: np.ndarray) -> dict[str, np.ndarray]:
    """nme68-2d against the second annotation; the noise is then the first one's."""
    return {s.name: nme68_2d(truth if s.name == NOISE else s.landmarks_px, again) for s in systems}


def paired_table(errors: dict[str, np.ndarray]) -> pd.DataFrame:
    """The first system less each of the others, on the samples that both have."""
    first, *others = errors
    rows = {f"{first} - {other}": paired_difference(errors[first], errors[other], seed=0) for other in others}
    return pd.DataFrame.from_dict(rows, orient="index").astype({"samples": int})


def pose_table(systems: list[System], store: Store, rows: np.ndarray) -> pd.DataFrame:
    """pose-mae of the similarity that lays the mean face onto each system's landmarks, against the files' angles."""
    mean = store.template.landmarks(store.template.vertices.astype(np.float64))
    truth, lines = np.degrees(store.table["file_pose"][rows, :3]), {}
    for system in systems:
        if system.solid:
            points = system.landmarks_px[system.found] * UP
            rotation = umeyama(np.broadcast_to(mean, points.shape), points)[1]
            lines[system.name] = pose_mae(np.degrees(angles_from_rotation(rotation)), truth[system.found])
    return pd.DataFrame.from_dict(lines, orient="index").rename(columns={"count": "samples"}).astype({"samples": int})


def budget_table(systems: list[System], truth: np.ndarray) -> pd.DataFrame:
    """Two rows a system that knows depth: its nme68-2d with each part of the truth alone, and with all up to it."""
    lines = []
    for system in systems:
        if system.solid:
            parts = error_budget(system.landmarks_px[system.found], truth[system.found])
            for how, values in parts.items():
                lines.append({"system": system.name, "swapped": how} | {k: v.mean() for k, v in values.items()})
    return pd.DataFrame(lines).set_index(["system", "swapped"])


def slice_table(systems: list[System], truth: np.ndarray, store: Store, rows: np.ndarray) -> pd.DataFrame:
    """nme68-2d of seen and of hidden landmarks, and, where the raw set tells attributes, of groups of samples.

    Columns: attribute, group, samples, each system's mean, the first system's 95% interval, and how much worse it is
    on the group than on all other samples, with its interval.
    """
    offsets = {s.name: s.landmarks_px[..., :2] - truth[..., :2] for s in systems}
    apart = {name: np.linalg.norm(xy, axis=-1) / face_size(truth)[:, None] * 100 for name, xy in offsets.items()}
    hidden = store.table["hidden"][rows].astype(bool)
    masks = [("landmarks", name, of) for name, of in (("seen", ~hidden), ("hidden", hidden))]
    table = attribute_table(store.manifest["raw"]) if Path(store.manifest["raw"]).is_dir() else pd.DataFrame()
    if len(table):
        table = table.set_index("name").reindex(store.table["name"][rows])
        for attribute, bins in ATTRIBUTES.items():
            values, order = table[attribute], None
            if bins:
                order = [name for _, name in bins]
                edges = [edge for edge, _ in bins] + [np.inf]
                values = pd.cut(values, edges, labels=order, right=False)
            for name in order or sorted(values.unique(), key=str):
                member = (values == name).to_numpy()
                masks.append(
                    (LABELS.get(attribute, attribute), str(name), np.broadcast_to(member[:, None], hidden.shape))
                )
    lines = [slice_line(apart, *mask) for mask in masks if mask[2].any(1).sum() >= LEAST_OF_A_GROUP]
    columns = ["attribute", "group", "samples", *apart, "95% low", "95% high", "against the rest", "low", "high"]
    return pd.DataFrame(lines, columns=columns)


def slice_line(apart: dict[str, np.ndarray], attribute: str, group: str, mask: np.ndarray) -> dict[str, object]:
    """A row of `slice_table`: of each system's distances (N, 68), those where mask (N, 68) is true."""
    means = {}
    for name, values in apart.items():
        found = mask & np.isfinite(values)
        means[name] = values[found].mean() if found.any() else np.nan
    values = apart[next(iter(apart))]
    counts = mask.sum(1)
    member = counts > 0
    # Of whole faces, since landmarks of one face err together.
    own = np.where(mask, values, 0).sum(1)[member] / counts[member]
    low, high = bootstrap_interval(own, seed=0, weights=counts[member])
    line = {"attribute": attribute, "group": group, "samples": int(member.sum()), **means}
    line |= {"95% low": low, "95% high": high}
    rest = values.mean(1)[~member]
    if attribute != "landmarks" and len(rest) >= LEAST_OF_A_GROUP:
        difference = group_difference(own, rest, seed=0)
        line |= {"against the rest": difference["difference"], "low": difference["low"], "high": difference["high"]}
    return line


# --- surfaces -------------------------------------------------------------------------------------


def surface_table(systems: list[System], store: Store, rows: np.ndarray) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The finest level against the true vertices of the finest template level, mean over at most MOST_SURFACES samples,
    evenly over all; and the mean error of each vertex (V,), percent of the face size, by system."""
    lines, sums = {}, {}
    solid = [system for system in systems if system.solid]
    surfaces = [system for system in solid if system.vertices_px]
    scores: dict[str, list[dict[str, float]]] = {system.name: [] for system in surfaces}
    for k in tqdm(np.unique(np.linspace(0, len(rows) - 1, MOST_SURFACES).astype(int)), desc="surfaces", unit="sample"):
        index = rows[k]
        true, landmarks = store.truth_px(index), store.table["landmarks_px"][index]
        for system in surfaces:
            if system.found[k]:
                row, error = surface_scores(system.vertices_px(k), true, landmarks, store.template.faces[-1])
                scores[system.name].append(row)
                sums[system.name] = sums.get(system.name, 0) + error
    truth = store.table["landmarks_px"][rows].astype(np.float64)
    for system in solid:
        points, true = system.landmarks_px[system.found], truth[system.found]
        lines[system.name] = pd.DataFrame(scores.get(system.name, [])).mean().to_dict()
        lines[system.name]["surfaces"] = len(scores.get(system.name, []))
        lines[system.name]["identity variance"] = identity_variance(points, true) if len(true) > 1 else np.nan
    maps = {name: total / len(scores[name]) for name, total in sums.items()}
    return pd.DataFrame.from_dict(lines, orient="index").astype({"surfaces": int}), maps


def surface_scores(
    predicted: np.ndarray, truth: np.ndarray, landmarks: np.ndarray, faces: np.ndarray
) -> tuple[dict[str, float], np.ndarray]:
    """The protocols on one surface, and the error of each vertex (V,) in percent of the face size.

    Args:    predicted, truth: (V, 3) px; the distance to the camera is open.   landmarks: (68, 3) true ones.
    """
    predicted = np.asarray(predicted, np.float64)
    truth = truth_at_depth(truth, predicted)
    row = {
        "nme-dense-2d@template, %": nme_dense_2d(predicted[None], truth[None])[0],
        "nme-dense-3d@template, %": nme_dense_3d(predicted[None], truth[None])[0],
        "rec-umeyama@template, %": rec_umeyama(predicted[None], truth[None], landmarks[None])[0],
        "normals off by, deg": normal_error_deg(predicted, truth, faces),
    }
    scores = cd_f1(predicted / 1000, truth / 1000)
    row |= {"CD x1000": scores["cd"], "F1 at 1e-4 (10 px)": scores["f1"], "F1 at 2e-4": scores["f1_2tau"]}
    return row, np.linalg.norm(predicted - truth, axis=1) / face_size(truth) * 100


def truth_at_depth(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """True vertices (V, 3), moved in z to the prediction's mean depth, which is open."""
    return truth + [0, 0, predicted[:, 2].mean() - truth[:, 2].mean()]


def normal_error_deg(predicted: np.ndarray, truth: np.ndarray, faces: np.ndarray) -> float:
    """Mean angle between predicted and true vertex normals, (V, 3) each: what facets and bumps cost."""
    cosine = (vertex_normals(predicted, faces) * vertex_normals(truth, faces)).sum(1)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())


def specimen(store: Store, index: int, mesh: FaceMesh) -> Specimen:
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
    return Specimen(str(store.table["name"][index]), moved, store.crop(index), np.float32(truth))
