"""Measuring weights on a store: named protocols, beside baselines, with what they stand on."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import matplotlib.figure
import numpy as np
import pandas as pd
import torch

from p2m_core.camera import box_of, face_size
from p2m_core.checkpoint import weights_path
from p2m_core.config import Config, run_folder, shown
from p2m_core.data.augment import compose
from p2m_core.data.store import Store
from p2m_core.errors import InputError
from p2m_core.export import save_picture
from p2m_core.facemesh import FaceMesh, Specimen
from p2m_core.figures import save_figure
from p2m_core.files import write_json, write_text
from p2m_core.metrics import (
    bootstrap_interval,
    cd_f1,
    cumulative_error,
    error_budget,
    identity_variance,
    mean_face_floor,
    nme68_2d,
    nme_dense_2d,
    nme_dense_3d,
    yaw_bins,
)
from p2m_core.model import Pixel2Mesh
from p2m_core.predict import face_mesh, open_network, predict_crops
from p2m_core.raster import static_picture, vertex_normals
from p2m_core.synthetic.compare import attribute_table

CED_LIMIT_PERCENT = 10
LEAST_OF_A_GROUP = 5
# Attributes of synthetic faces to slice by; for numbers, where each group begins.
ATTRIBUTES = {
    "woman": [(0, "man"), (1, "woman")],
    "age": [(0, "child"), (0.4, "young"), (0.6, "middle"), (0.8, "old")],
    "melanin": [(0, "light skin"), (1 / 3, "medium skin"), (2 / 3, "dark skin")],
    "visible": [(0, "less than half of the face seen"), (0.5, "half to 9/10 seen"), (0.9, "seen")],
    "glasses": None, "beard": None, "headwear": None, "occluder": None, "mask": None, "expression": None, "light": None,
    "photo": None,
}  # fmt: skip
UP = np.array([1, -1, 1])


@dataclass(frozen=True)
class Evaluation:
    """Results on one split of one store.

    nme      a row a system: nme68-2d in percent by |yaw|, balanced and plain mean, 95% interval of the plain mean
    budget   the network's nme68-2d, and what it would be with the true rotation, scale, translation or shape: each part
             alone, and together with those before it
    slices   a row a group of samples or landmarks: seen and hidden landmarks; by attribute, for synthetic sets
    surface  the network's nme-dense-*@template, angle between normals, and cd-f1@p2m with coordinates in px of the
             photo / 1000
    samples  a row a sample: name, yaw_deg, and each system's nme68-2d
    about    what the numbers stand on: protocol, store, split, samples, weights, machine
    folder   where tables and figures lie
    """

    nme: pd.DataFrame
    budget: pd.DataFrame
    slices: pd.DataFrame
    surface: pd.DataFrame
    samples: pd.DataFrame
    about: dict
    folder: Path

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.about.items()]
        rows = self.samples.round(2).to_string(index=False) if len(self.samples) <= 20 else ""
        tables = [
            self.nme.round(2).to_string(),
            self.surface.round(3).to_string(),
            self.budget.round(2).to_string(),
            rows,
        ]
        return "\n".join([*lines, "", *(table + "\n" for table in tables if table), f"written: {self.folder}"])


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
            matrix, box = compose(to_input, store.table["crop"][index]), box_of(store.table["landmarks_px"][index])
            meshes.append(face_mesh(model, [level[k] for level in levels], matrix, box))
    return meshes


def mean_face_at_crop(store: Store, rows: np.ndarray) -> np.ndarray:
    """The mean face, frontal and upright, laid into each sample's box: what one knows without a network (N, 68, 3)."""
    mean = store.template.landmarks(store.template.vertices) * UP
    low, high = np.split(box_of(mean), 2)
    boxes = box_of(store.table["landmarks_px"][rows])
    size = (boxes[:, 2:] - boxes[:, :2]) / (high - low)
    scale = np.concatenate([size, size.mean(1, keepdims=True)], 1)
    shift = np.concatenate([boxes[:, :2] - low * size, np.zeros((len(rows), 1))], 1)
    return mean * scale[:, None] + shift[:, None]


def evaluate(config: Config) -> Evaluation:
    """Measure weights on a split, write tables and figures to outputs/NAME/evaluation/STORE-SPLIT/.

    Raises: InputError if store, split or weights are missing or do not fit each other.
    """
    settings = config.evaluate
    store = Store(settings.store or config.data.store)
    rows = store.rows(settings.split)
    if not len(rows):
        raise InputError(
            store.folder, "evaluate.split", f"{settings.split} has no sample", "take split all, or larger shares"
        )
    weights = run_folder(config) if settings.weights == "run" else settings.weights
    model = open_network(weights)
    if model.template.counts != store.template.counts:
        problem = f"template of {store.template.counts} vertices, the network's has {model.template.counts}"
        raise InputError(store.folder, "template", problem, "preprocess with the network's template settings")
    meshes = predict_store(model, store, rows, settings.flip)
    truth, yaw = store.table["landmarks_px"][rows].astype(np.float64), store.yaw_deg()[rows]
    # The mean face is right-handed (y up), the truth left-handed (y down): one of them must be turned over.
    oracle = mean_face_floor(truth * UP, store.template.landmarks(store.template.vertices.astype(np.float64))) * UP
    landmarks = np.stack([mesh.landmarks_px for mesh in meshes])
    predicted = {
        "network": landmarks,
        "mean face, true pose (floor)": oracle,
        "mean face in the box": mean_face_at_crop(store, rows),
    }
    errors = {name: nme68_2d(points, truth) for name, points in predicted.items()}
    samples = pd.DataFrame({"name": store.table["name"][rows], "yaw_deg": yaw, **errors})
    source = f"{shown(store.manifest['raw'])}, split {settings.split}"
    about = {
        "protocol": "nme68-2d, percent of sqrt(w h) of the true landmarks' box; boxes from the truth",
        "data": f"{source}, ground truth from: {store.manifest['face_model']}",
        "samples": len(rows),
        "weights": "bundled" if settings.weights == "bundled" else shown(weights_path(weights)),
        "flip averaging": settings.flip,
        "identity variance": round(identity_variance(landmarks, truth), 3) if len(rows) > 1 else None,
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
    }
    result = Evaluation(
        nme=pd.DataFrame({name: nme_row(values, yaw) for name, values in errors.items()}).T,
        budget=pd.DataFrame(
            {
                how: {name: values.mean() for name, values in parts.items()}
                for how, parts in error_budget(landmarks, truth).items()
            }
        ),
        slices=slice_table(landmarks, truth, store, rows),
        surface=surface_table(meshes, store, rows),
        samples=samples,
        about=about,
        folder=run_folder(config) / "evaluation" / f"{store.folder.name}-{settings.split}",
    )
    write_results(result, store, rows, meshes)
    return result


def nme_row(values: np.ndarray, yaw_deg: np.ndarray) -> dict[str, float]:
    """One row of the NME table."""
    row = yaw_bins(values, yaw_deg)
    row.pop("counts")
    low, high = bootstrap_interval(values, seed=0)
    return {**row, "95% low": low, "95% high": high}


def slice_table(landmarks: np.ndarray, truth: np.ndarray, store: Store, rows: np.ndarray) -> pd.DataFrame:
    """nme68-2d of seen and of hidden landmarks, and, where the raw set tells attributes, of groups of samples."""
    errors = np.linalg.norm((landmarks - truth)[..., :2], axis=-1) / face_size(truth)[:, None] * 100
    hidden = store.table["hidden"][rows].astype(bool)
    groups = [("landmarks", name, errors[of]) for name, of in (("seen", ~hidden), ("hidden", hidden)) if of.any()]
    table = attribute_table(store.manifest["raw"]) if Path(store.manifest["raw"]).is_dir() else pd.DataFrame()
    if len(table):
        table = table.set_index("name").reindex(store.table["name"][rows])
        of_sample = errors.mean(1)
        for attribute, bins in ATTRIBUTES.items():
            values = table[attribute]
            if bins:
                values = pd.cut(
                    values, [edge for edge, _ in bins] + [np.inf], labels=[name for _, name in bins], right=False
                )
            groups += [(attribute, str(name), of_sample[(values == name).to_numpy()]) for name in values.unique()]
    lines = []
    for attribute, name, values in groups:
        if len(values) >= LEAST_OF_A_GROUP:
            low, high = bootstrap_interval(values, seed=0)
            lines.append((attribute, name, len(values), values.mean(), low, high))
    return pd.DataFrame(lines, columns=["attribute", "group", "count", "network", "95% low", "95% high"])


def truth_aligned_in_depth(store: Store, index: int, mesh: FaceMesh) -> np.ndarray:
    """True vertices (V, 3) of a sample, moved in z to the prediction's mean depth, which is open."""
    truth = store.truth_px(index)
    return truth + [0, 0, mesh.vertices_px[:, 2].mean() - truth[:, 2].mean()]


def surface_table(meshes: list[FaceMesh], store: Store, rows: np.ndarray) -> pd.DataFrame:
    """The finest level against the true vertices of the finest template level, mean over samples."""
    truth = [truth_aligned_in_depth(store, index, mesh) for mesh, index in zip(meshes, rows, strict=True)]
    scores = pd.DataFrame(
        [cd_f1(mesh.vertices_px / 1000, true / 1000) for mesh, true in zip(meshes, truth, strict=True)]
    )
    predicted, truth = np.stack([mesh.vertices_px for mesh in meshes]), np.stack(truth)
    values = {
        "nme-dense-2d@template, %": nme_dense_2d(predicted, truth).mean(),
        "nme-dense-3d@template, %": nme_dense_3d(predicted, truth).mean(),
        "normals off by, deg": normal_error_deg(predicted, truth, meshes[0].faces),
        "CD x1000": scores["cd"].mean(),
        "F1 at 1e-4 (10 px)": scores["f1"].mean(),
        "F1 at 2e-4": scores["f1_2tau"].mean(),
    }
    return pd.DataFrame({"network": values}).T


def normal_error_deg(predicted: np.ndarray, truth: np.ndarray, faces: np.ndarray) -> float:
    """Mean angle between predicted and true vertex normals, (N, V, 3) each: what facets and bumps cost."""
    angles = []
    for a, b in zip(predicted, truth, strict=True):
        cosine = (vertex_normals(a, faces) * vertex_normals(b, faces)).sum(1)
        angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())
    return float(np.mean(angles))


def specimen(store: Store, index: int, mesh: FaceMesh) -> Specimen:
    """A stored sample with its prediction, over the stored crop instead of the whole photo."""
    matrix = store.table["crop"][index]
    truth = store.to_crop(truth_aligned_in_depth(store, index, mesh), index)
    levels = tuple(np.float32(store.to_crop(level, index)) for level in mesh.levels)
    box = np.concatenate([matrix[:, :2] @ corner + matrix[:, 2] for corner in np.split(mesh.box, 2)])
    landmarks, template = (
        None if points is None else np.float32(store.to_crop(points, index))
        for points in (mesh.landmarks_px, mesh.template_px)
    )
    moved = FaceMesh(levels[-1], mesh.faces, levels, mesh.level_faces, landmarks, box, template)
    return Specimen(str(store.table["name"][index]), moved, store.crop(index), np.float32(truth))


def write_results(result: Evaluation, store: Store, rows: np.ndarray, meshes: list[FaceMesh]) -> None:
    """Tables as csv and json, the CED curve, and pictures of the best, the median and the worst sample."""
    write_text(result.folder / "nme68_2d.csv", result.nme.to_csv())
    write_text(result.folder / "surface.csv", result.surface.to_csv())
    write_text(result.folder / "budget.csv", result.budget.to_csv())
    write_text(result.folder / "slices.csv", result.slices.to_csv(index=False))
    write_text(result.folder / "samples.csv", result.samples.to_csv(index=False))
    write_json(
        result.folder / "metrics.json",
        {
            "about": result.about,
            "nme68_2d": result.nme.to_dict("index"),
            "surface": result.surface.to_dict("index"),
            "budget": result.budget.to_dict("index"),
            "slices": result.slices.to_dict("records"),
        },
    )
    save_figure(result.folder / "ced.png", ced_figure(result))
    order = np.argsort(result.samples["network"].to_numpy())
    for name, k in (("best", order[0]), ("median", order[len(order) // 2]), ("worst", order[-1])):
        save_picture(result.folder / f"{name}.png", static_picture(specimen(store, rows[k], meshes[k])))


def ced_figure(result: Evaluation) -> matplotlib.figure.Figure:
    """Cumulative error curves of all systems."""
    figure = matplotlib.figure.Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in result.nme.index:
        errors, share, auc = cumulative_error(result.samples[name].to_numpy(), CED_LIMIT_PERCENT)
        axes.step([0, *errors], [0, *(100 * share)], where="post", label=f"{name}, area {auc:.2f}")
    axes.set(xlim=(0, CED_LIMIT_PERCENT), ylim=(0, 100), xlabel="nme68-2d, %", ylabel="samples below, %")
    axes.set_title(f"{result.about['samples']} samples, {result.about['data'].split(',')[-2].strip()}", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
