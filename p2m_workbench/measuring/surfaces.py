"""Protocol surface: how near predicted surfaces come to true ones of a store of faces, on any template.

Landmarks, pose and dense errors are of vertices whose meaning is known. A network of an older face port has a template
without landmarks, and no vertex of it is known to be a certain place of a face: what can be measured is its surface.

distance, %          mean distance of the true vertices to the predicted triangles over the face size
normals off by, deg  mean angle between the true normals and those of these triangles, whichever side they face
CD, F1               cd-f1@p2m in px / 1000, all predicted vertices against all true ones, as older ports' evaluation

Weak perspective leaves the distance to the camera open: a mesh is moved in depth to where its chamfer distance is
least. Networks with landmarks, and the mean face in the true pose, are measured likewise, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from tqdm.auto import tqdm

from p2m_core.config.paths import run_folder, shown
from p2m_core.config.settings import Config
from p2m_core.data.face_store import FaceStore
from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import compose, crop_image, face_size
from p2m_core.geometry.rasterizer import normalized, vertex_normals
from p2m_core.metrics import cd_f1, yaw_bins
from p2m_core.network.model import Pixel2Mesh
from p2m_workbench.drawing.mesh_images import save_picture, static_picture
from p2m_workbench.interop.face_models import closest_on_surface
from p2m_workbench.measuring.evaluate import (
    FLOOR,
    baselines_of,
    face_prediction,
    find_weights,
    machine,
    open_split,
    predict_store,
)
from p2m_workbench.measuring.report import write_tables
from p2m_workbench.measuring.results import Evaluation, Table
from p2m_workbench.measuring.tables import MOST_SURFACES, counted_groups, counted_surface
from p2m_workbench.photos.objects import knows_faces, mesh_of_crop
from p2m_workbench.photos.predict import open_weights

Surface = tuple[np.ndarray, np.ndarray]  # vertices (V, 3) px of the photo, z to the viewer; triangles (F, 3)
COLUMNS = ("distance, %", "normals off by, deg", "CD x1000", "F1 at 1e-4 (10 px)", "F1 at 2e-4")
DEPTH_STEP, SEARCHED = 1e-3, 4  # the depth is searched to this share of the face size, by every fourth vertex
PICTURED = 4
UNKNOWN = "; a template without landmarks: neither these nor pose nor errors by vertex can be measured"


def evaluate_surfaces(config: Config, checkpoints: Sequence[str | Path] = ()) -> Evaluation:
    """Measure the surfaces of weights on a split of a store of faces, of at most MOST_SURFACES samples, evenly over it.

    Writes surface.csv (a row a system and range of |yaw|), samples.csv, pictures and the other files of `write_tables`
    to outputs/NAME/evaluation/STORE-SPLIT-surface/.

    Args:    checkpoints: weights to measure beside evaluate.weights, as for `find_weights`.
    Raises:  InputError if store, split or weights are missing, or weights are of objects.
    """
    store, rows = open_split(config)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, MOST_SURFACES).astype(int))]
    part, faces = counted_surface(store.template)
    floor = baselines_of(store, rows, store.table["landmarks_px"][rows].astype(np.float64), None)[0].vertices_px
    assert floor is not None
    systems: dict[str, Callable[[int], Surface]] = {}
    about, pictures, places = {}, [], np.unique(np.linspace(0, len(rows) - 1, PICTURED).astype(int))
    for name, path in find_weights(config, checkpoints).items():
        model = open_weights(path, precision="fp32")
        meshes = predict_surfaces(model, path, store, rows, config.evaluate.flip)
        systems[name] = surfaces_of(model, meshes)
        about[name] = f"{shown(path)}, camera {model.config.camera}{UNKNOWN * (not knows_faces(model))}"
        drawn = [static_picture(face_prediction(store, rows[k], meshes[k]), 224) for k in places]
        pictures.append(np.concatenate(drawn))
    systems[FLOOR] = lambda k: (floor(k)[part], faces)
    lines = []
    for k, row in enumerate(tqdm(rows, desc="surfaces", unit="sample")):
        sample = {"name": store.table["name"][row], "yaw_deg": store.yaw_deg()[row]}
        truth = store.truth_px(row)[part], faces
        lines += [{"system": name, **sample, **surface_distance(of(k), truth)} for name, of in systems.items()]
    samples = pd.DataFrame(lines)
    table = Table(
        title="Surfaces by |yaw|: distance in % of the face size, normals, cd-f1@p2m in px / 1000",
        protocol="surface, cd-f1@p2m",
        unit="as each column says; CD and F1 of px / 1000",
        n=len(rows),
        rows=pd.concat({name: yaw_table(samples[samples["system"] == name]) for name in systems}, names=["system"]),
        digits=3,
    )
    result = Evaluation(
        kinds={name: "baseline" if name == FLOOR else "network" for name in systems},
        tables={"surface": table},
        samples=samples,
        about={
            "protocol": "surface, and cd-f1@p2m in px / 1000; boxes from the truth, distance to the camera left open",
            "data": f"{shown(store.manifest['raw'])}, split {config.evaluate.split} ({store.manifest['split_by']}), "
            f"ground truth from: {store.truth_from}",
            "samples": len(rows),
            "surfaces count": counted_groups(store.template),
            "machine": machine(),
            **about,
        },
        folder=run_folder(config) / "evaluation" / f"{store.folder.name}-{config.evaluate.split}-surface",
    )
    write_tables(result)
    for old in result.folder.glob("predictions_*.png"):  # of other checkpoints
        old.unlink()
    for number, picture in enumerate(pictures):
        save_picture(result.folder / f"predictions_{number}.png", picture)
    return result


def predict_surfaces(model: Pixel2Mesh, path: Path, store: FaceStore, rows: np.ndarray, flip: bool) -> list[FaceMesh]:
    """A mesh in px of the photo for each of some samples of a store; of a network without landmarks from the crop of
    its model.margin around the true landmarks' box.   Raises InputError if the network is of objects."""
    if knows_faces(model):
        return predict_store(model, store, rows, flip)
    if model.config.camera == "perspective":
        problem = "is perspective, as for objects, but the store is of faces"
        raise InputError(path, "model.camera", problem, "measure it on objects: p2m evaluate -c object-resnet50")
    to_input, meshes = store.input_matrix(model.config.input_px, model.config.margin), []
    for row in tqdm(rows, desc="predicting", unit="sample"):
        crop = crop_image(store.crop(row), to_input, model.config.input_px)
        matrix = compose(to_input, store.table["crop"][row])
        meshes.append(mesh_of_crop(model, crop, matrix, store.table["box_px"][row]))
    return meshes


def surfaces_of(model: Pixel2Mesh, meshes: Sequence[FaceMesh]) -> Callable[[int], Surface]:
    """From a sample's place to the part of its mesh that counts."""
    part, faces = counted_surface(model.template)
    return lambda k: (meshes[k].vertices_px[part], faces)


def surface_distance(predicted: Surface, truth: Surface) -> dict[str, float]:
    """Protocol surface of one sample, by column; the prediction is moved in depth to the least chamfer distance."""
    vertices, faces = predicted[0].astype(np.float64), predicted[1]
    true, size = truth[0].astype(np.float64), face_size(truth[0])
    start = true[:, 2].mean() - vertices[:, 2].mean()

    def chamfer(depth: float) -> float:
        return cd_f1(vertices[::SEARCHED] + [0, 0, start + depth], true[::SEARCHED])["cd"]

    step = {"xatol": DEPTH_STEP * size}
    depth = minimize_scalar(chamfer, bounds=(-size, size), method="bounded", options=step).x
    there = vertices + [0, 0, start + depth]
    scores = cd_f1(there / 1000, true / 1000)
    _, distance, triangle = closest_on_surface(true, there, faces)
    a, b, c = there[faces[triangle]].swapaxes(0, 1)
    cosine = abs((normalized(np.cross(b - a, c - a)) * vertex_normals(true, truth[1])).sum(1))
    angle = np.degrees(np.arccos(cosine.clip(0, 1))).mean()
    numbers = 100 * distance.mean() / size, angle, scores["cd"], scores["f1"], scores["f1_2tau"]
    return dict(zip(COLUMNS, map(float, numbers), strict=True))


def yaw_table(samples: pd.DataFrame) -> pd.DataFrame:
    """Means of one system's COLUMNS by |yaw|, balanced and plain, with the number of samples; empty ranges left out."""
    table = pd.DataFrame({name: yaw_bins(samples[name], samples["yaw_deg"]) for name in COLUMNS})
    counts = table.loc["counts", COLUMNS[0]]
    table = table.drop("counts").astype(float).rename_axis("|yaw|")
    table.insert(0, "samples", [counts.get(name, len(samples)) for name in table.index])
    return table[table["samples"] > 0]
