"""p2m_workbench.measuring.tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from p2m_core.data.store import Store
from p2m_core.geometry.camera import angles_from_rotation
from p2m_core.geometry.crop import face_size
from p2m_core.geometry.rasterizer import vertex_normals
from p2m_core.geometry.similarity import umeyama
from p2m_core.metrics import (
    bootstrap_interval,
    cd_f1,
    error_budget,
    group_difference,
    identity_variance,
    nme68_2d,
    nme_dense_2d,
    nme_dense_3d,
    paired_difference,
    pose_mae,
    rec_umeyama,
    yaw_bins,
)
from p2m_synth.statistics import attribute_table
from p2m_workbench.measuring.evaluation import Kind

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
