"""Measuring weights on objects: cd-f1@p2m by category, for any number of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from p2m_core.config.paths import run_folder, shown
from p2m_core.config.settings import Config
from p2m_core.data import open_store
from p2m_core.data.clouds import on_input
from p2m_core.data.shapenet import ObjectStore
from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import box_of
from p2m_core.metrics import cd_f1
from p2m_core.network.model import PLACED_SCALE, Pixel2Mesh, unit_template
from p2m_core.precision import choose_device
from p2m_workbench.drawing.mesh_images import contact_sheet, draw_landmarks, save_picture, static_picture
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.interop.reference_network import load_network
from p2m_workbench.measuring.evaluate import find_weights, machine
from p2m_workbench.measuring.report import write_tables
from p2m_workbench.measuring.results import Evaluation, Table

TEMPLATE = "template as it is"  # the baseline: not deformed
COLUMNS = {"cd": "CD x1000", "f1": "F1 at 1e-4", "f1_2tau": "F1 at 2e-4"}
BATCH = 8
PICTURED, PHOTO_PX, MOST_POINTS = 6, 448, 1500
PROTOCOL = (
    "cd-f1@p2m: squared distances in {unit}², all vertices of the last level and all stored points; CD is the sum of "
    "both means; F1 in percent, at 1e-4 (0.01 {unit}) and 2e-4 (0.014 {unit})"
)


def evaluate_objects(config: Config, checkpoints: Sequence[str | Path] = ()) -> Evaluation:
    """Measure weights on a split, write tables and pictures to outputs/NAME/evaluation/DATA-SPLIT/.

    The table "cd_f1" has rows (system, category), and for each system "mean of categories" and "weighted by samples";
    the last system is the template, not deformed.

    Args:    checkpoints: weights to measure beside evaluate.weights, as for `evaluate.find_weights`.
    Raises:  InputError if data, split or weights are missing, or weights are of another camera.
    """
    settings = config.evaluate
    sources = find_weights(config, checkpoints)
    store = open_store(config, settings.store)
    rows = store.rows(settings.split)
    if not len(rows):
        raise InputError(store.folder, "evaluate.split", f"{settings.split} has no view", "take another split")
    chosen = set(rows[np.unique(np.linspace(0, len(rows) - 1, PICTURED).astype(int))].tolist())
    samples, predictions, facts = {}, {}, {}
    for name, path in sources.items():
        model, about = load_network(path, str(choose_device("auto")))
        if model.config.camera != store.camera:
            problem = f"is {model.config.camera}, but the data want {store.camera}"
            surface = "; those of an older face port are measured on a store of faces: p2m evaluate --protocol surface"
            remedy = "give weights that were trained on such data" + surface * (model.config.camera == "legacy_crop")
            raise InputError(path, "model.camera", problem, remedy)
        facts[name] = {key: about[key] for key in ("step", "data", "converted from") if key in about}
        samples[name], predictions[name] = measure(model, store, rows, config, chosen)
    samples[TEMPLATE] = measure_template(store, rows, config)
    table = Table(
        title="cd-f1@p2m by category",
        protocol="cd-f1@p2m",
        unit=f"CD x1000: {store.unit}² / 1000; F1: %",
        n=len(rows),
        rows=pd.concat({name: category_table(part) for name, part in samples.items()}, names=["system"]),
        digits=3,
    )
    result = Evaluation(
        kinds={name: "baseline" if name == TEMPLATE else "network" for name in samples},
        tables={"cd_f1": table},
        samples=pd.concat(samples, names=["system"]).reset_index("system").reset_index(drop=True),
        about={
            "protocol": PROTOCOL.format(unit=store.unit),
            "data": f"{shown(store.folder)}, split {settings.split}",
            "samples": len(rows),
            "weights": facts,
            "machine": machine(),
        },
        folder=run_folder(config) / "evaluation" / f"{store.folder.name}-{settings.split}",
        predictions=predictions,
    )
    write_tables(result)
    for old in result.folder.glob("predictions_*.png"):  # of other checkpoints
        old.unlink()
    for number, some in enumerate(predictions.values()):
        picture = np.concatenate([static_picture(one, 224) for one in some])
        save_picture(result.folder / f"predictions_{number}.png", picture)
    return result


@torch.no_grad()
def measure(
    model: Pixel2Mesh, store: ObjectStore, rows: np.ndarray, config: Config, chosen: set[int]
) -> tuple[pd.DataFrame, list[FacePrediction]]:
    """The scores of a network on some views, a row each, and predictions of the chosen ones."""
    data = store.dataset(rows, config.model_copy(update={"model": model.config}), train=False)
    device = next(model.parameters()).device
    scores, predictions = [], []
    for batch in tqdm(DataLoader(data, BATCH, generator=torch.Generator()), desc="views", unit="batch"):
        levels = [x.cpu().numpy() for x in model(batch["image"].to(device)).levels]
        clouds = zip(batch["points"].numpy(), batch["lengths"].tolist(), batch["index"].tolist(), strict=True)
        for k, (points, count, index) in enumerate(clouds):
            scores.append(score(store, index, levels[-1][k], points[:count]))
            if index in chosen:
                caption = f"{store.table['name'][index]}, CD {scores[-1][COLUMNS['cd']]:.2f}"
                image, places = batch["image"][k].numpy(), [x[k] for x in levels]
                predictions.append(object_prediction(caption, model, store, image, places, points[:count]))
    return pd.DataFrame(scores), predictions


def measure_template(store: ObjectStore, rows: np.ndarray, config: Config) -> pd.DataFrame:
    """The scores of the undeformed template on some views, a row each."""
    data, vertices = store.dataset(rows, config, train=False), store.template.vertices
    if store.camera == "crop":  # where the network begins
        vertices = unit_template(store.template) * np.float32([1, -1, 1]) * PLACED_SCALE
    items = (data[k] for k in range(len(data)))
    return pd.DataFrame([score(store, int(item["index"]), vertices, item["points"]) for item in items])


def score(store: ObjectStore, index: int, vertices: np.ndarray, points: np.ndarray) -> dict[str, object]:
    """A view's row: name, category, and the numbers of the protocol."""
    values = {COLUMNS[key]: value for key, value in cd_f1(vertices, points).items()}
    return {"name": store.table["name"][index], "category": store.table["category"][index], **values}


def object_prediction(
    name: str,
    model: Pixel2Mesh,
    store: ObjectStore,
    image: np.ndarray,
    levels: list[np.ndarray],
    points: np.ndarray,
) -> FacePrediction:
    """A prediction over its input.

    Args:    image: (3, S, S) in [0, 1].   levels: (n_k, 3) each, and points (P, 3) of the true surface, object frame.
    """
    photo = cv2.resize(image.transpose(1, 2, 0), (PHOTO_PX, PHOTO_PX), interpolation=cv2.INTER_LINEAR)
    start = model.template.vertices[: model.template.counts[0]]

    def on_photo(level: np.ndarray) -> np.ndarray:  # where the network's own camera, not the store's, sees it
        if store.camera == "perspective":
            return np.float32(on_input(level, model.config, PHOTO_PX))
        return np.float32(store.on_image(level, PHOTO_PX))

    template, *places = map(on_photo, (start, *levels))
    faces, nothing = model.template.faces, np.zeros((0, 3), np.float32)
    mesh = FaceMesh(places[-1], faces[-1], tuple(places), faces, nothing, box_of(places[-1]), template)
    some = np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).astype(int))
    true = np.float32(store.on_image(points[some], PHOTO_PX))
    return FacePrediction(name, mesh, np.uint8(np.round(photo.clip(0, 1) * 255)), points_px=true)


def category_table(samples: pd.DataFrame) -> pd.DataFrame:
    """The scores of one system by category, their mean over categories and over samples."""
    numbers, groups = list(COLUMNS.values()), samples.groupby("category")
    table, count = groups[numbers].mean(), len(samples)
    table.insert(0, "samples", groups.size())
    table.loc["mean of categories"] = [count, *table[numbers].mean()]
    table.loc["weighted by samples"] = [count, *samples[numbers].mean()]
    return table.astype({"samples": int})


def views_with_points(store: ObjectStore, rows: Sequence[int], size_px: int = 224) -> np.ndarray:
    """Views in a row, and below each its points that face the camera, where the camera sees them (H, W, 3)."""
    data = store.dataset(np.asarray(rows), store.config, train=False)
    above, below = [], []
    for k in range(len(data)):
        item = data[k]
        image = cv2.resize(item["image"].transpose(1, 2, 0), (size_px, size_px), interpolation=cv2.INTER_LINEAR)
        above.append(np.uint8(np.round(image.clip(0, 1) * 255)))
        places = store.on_image(item["points"][item["normals"][:, 2] > 0], size_px)
        below.append(draw_landmarks(above[-1], places[:: max(1, len(places) // 300)], radius_px=0.8))
    return contact_sheet(above + below, len(above))
