"""The tables of an evaluation of faces, a function each: from systems and the truth to a `Table`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from p2m_core.config.paths import resolve
from p2m_core.data.face_store import FaceStore
from p2m_core.geometry.camera import angles_from_rotation
from p2m_core.geometry.crop import face_size
from p2m_core.geometry.rasterizer import vertex_normals
from p2m_core.geometry.similarity import umeyama
from p2m_core.geometry.template import GROUPS, Template
from p2m_core.metrics import (
    f1_alone,
    identity_variance,
    nme68_2d,
    nme68_2d_seen,
    nme_dense_2d,
    nme_dense_3d,
    pose_mae,
    rec_umeyama,
    yaw_bins,
)
from p2m_synth.statistics import attribute_table
from p2m_workbench.measuring.annotations import Annotation
from p2m_workbench.measuring.bootstrap import bootstrap_interval, group_difference, paired_difference
from p2m_workbench.measuring.decomposition import error_decomposition
from p2m_workbench.measuring.results import System, Table

FLIP_Y = np.array([1, -1, 1])  # between y up (template, right-handed) and y down (photo, left-handed)
LEAST_OF_A_GROUP = 5  # samples; smaller groups are left out
MOST_SURFACES = 500  # nearest neighbours of a surface take longer than the network
F1 = "F1 at 1% of the face size"  # of the vertices of both surfaces, in %
PERCENT = "% of the face size"
BOOTSTRAP = "percentile bootstrap over samples, 2000 draws, seed 0"
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


def by_system(lines: dict[str, dict[str, object]], name: str = "system") -> pd.DataFrame:
    """One row a system, with its name as the index; columns that count are integers."""
    rows = pd.DataFrame.from_dict(lines, orient="index").rename_axis(name)
    return rows.astype({column: int for column in ("samples", "surfaces") if column in rows})


# --- landmarks ------------------------------------------------------------------------------------


def nme_table(errors: dict[str, np.ndarray], yaw_deg: np.ndarray, protocol: str, against: str = "") -> Table:
    """Mean errors (N,) of each system by |yaw|, balanced and plain mean, interval of the plain mean, samples."""
    lines = {}
    for name, values in errors.items():
        found = np.isfinite(values)
        row = yaw_bins(values[found], yaw_deg[found])
        row.pop("counts")
        low, high = bootstrap_interval(values[found], seed=0)
        lines[name] = {**row, "95% low": low, "95% high": high, "samples": int(found.sum())}
    title = f"{protocol} against {against}, %" if against else f"{protocol}, {PERCENT}"
    return Table(title, protocol, PERCENT, len(yaw_deg), by_system(lines), f"95% of the plain mean: {BOOTSTRAP}")


def annotation_table(other: Annotation, points: dict[str, np.ndarray], truth: np.ndarray, yaw_deg: np.ndarray) -> Table:
    """`nme_table` against another annotation.

    Args: points: {system: (N, 68, 2 or 3) px}.   truth: (N, 68, 3) px, whose face size is the unit where not all points
          of the other annotation count.
    """
    if other.whole:
        errors = {name: nme68_2d(landmarks, other.landmarks_px) for name, landmarks in points.items()}
        return nme_table(errors, yaw_deg, "nme68-2d", other.about)
    size = face_size(truth)
    errors = {name: nme68_2d_seen(p, other.landmarks_px, other.counts, size) for name, p in points.items()}
    return nme_table(errors, yaw_deg, "nme68-2d-seen", other.about)


def opening_table(systems: list[System], truth: np.ndarray) -> Table:
    """How far predicted mouths open where true ones do: the distance of the inner lips' middles, % of the face size."""
    lines, true = {}, mouth_opening(truth, truth)
    for system in systems:
        found, opening = system.found, mouth_opening(system.landmarks_px, truth)
        if found.sum() > 1:
            slope = np.polyfit(true[found], opening[found], 1)[0]
            correlation = np.corrcoef(true[found], opening[found])[0, 1]
            means = {"mean": opening[found].mean(), "true mean": true[found].mean()}
            lines[system.name] = {"slope": slope, "correlation": correlation, **means, "samples": int(found.sum())}
    title = (
        "Opening of the mouth, landmarks 62 to 66: slope of the predicted on the true one; means in % of the face size"
    )
    return Table(title, "mouth-opening", "slope; means in % of the face size", len(truth), by_system(lines))


def mouth_opening(landmarks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Protocol mouth-opening: the distance of landmarks 62 and 66 in x, y over the truth's face size, % (N,)."""
    return np.linalg.norm(landmarks[:, 62, :2] - landmarks[:, 66, :2], axis=-1) / face_size(truth) * 100


def paired_table(errors: dict[str, np.ndarray]) -> Table:
    """The error of the first system minus that of each other one, on the samples that both have."""
    first, *others = errors
    title = "The first system minus each other one, nme68-2d on the same samples, points (below 0: it is better)"
    rows = {f"{first} - {other}": paired_difference(errors[first], errors[other], seed=0) for other in others}
    interval = f"95% of the difference, both drawn together: {BOOTSTRAP}"
    return Table(title, "nme68-2d", PERCENT, len(errors[first]), by_system(rows, "pair"), interval)


def pose_table(systems: list[System], store: FaceStore, rows: np.ndarray) -> Table:
    """pose-mae of the similarity that takes the mean face onto each system's landmarks, against the files' angles."""
    mean = store.template.landmarks(store.template.vertices.astype(np.float64))
    truth, lines = np.degrees(store.table["file_pose"][rows, :3]), {}
    has_pose = store.table["file_pose"][rows, 6] > 0
    for system in systems:
        if system.has_depth:
            kept = system.found & has_pose
            points = system.landmarks_px[kept] * FLIP_Y
            rotation = umeyama(np.broadcast_to(mean, points.shape), points)[1]
            line = pose_mae(np.degrees(angles_from_rotation(rotation)), truth[kept])
            lines[system.name] = {"samples" if key == "count" else key: value for key, value in line.items()}
    title = "pose-mae: the similarity that lays the mean face onto the landmarks, degrees"
    return Table(title, "pose-mae", "degrees", len(rows), by_system(lines))


def decomposition_table(systems: list[System], truth: np.ndarray) -> Table:
    """Two rows for each system with depth: what is left of its nme68-2d when one part of its prediction (pose, scale,
    ...) is replaced by the truth, alone, and together with the parts before it."""
    lines = []
    for system in systems:
        if system.has_depth:
            parts = error_decomposition(system.landmarks_px[system.found], truth[system.found])
            for how, values in parts.items():
                lines.append({"system": system.name, "swapped": how} | {k: v.mean() for k, v in values.items()})
    title = "nme68-2d if parts were true, each alone and together with those before it, %"
    return Table(title, "nme68-2d", PERCENT, len(truth), pd.DataFrame(lines).set_index(["system", "swapped"]))


# --- groups of samples ----------------------------------------------------------------------------


def slice_table(systems: list[System], truth: np.ndarray, store: FaceStore, rows: np.ndarray) -> Table:
    """nme68-2d of seen and of hidden landmarks, and, where the raw set has attributes, of groups of samples.

    Index attribute, group; columns samples, each system's mean, the first system's 95% interval, and its mean on the
    group less that on all other samples, with the interval of this difference.
    """
    offsets = {s.name: s.landmarks_px[..., :2] - truth[..., :2] for s in systems}
    distances = {name: np.linalg.norm(xy, axis=-1) / face_size(truth)[:, None] * 100 for name, xy in offsets.items()}
    hidden = store.table["hidden"][rows].astype(bool)
    masks = {("landmarks", "seen"): ~hidden, ("landmarks", "hidden"): hidden}
    for key, member in attribute_groups(store, rows).items():
        masks[key] = np.broadcast_to(member[:, None], hidden.shape)
    lines = {key: slice_line(distances, mask, key[0] != "landmarks") for key, mask in masks.items()}
    kept = {key: line for key, line in lines.items() if line}
    columns = ["samples", *distances, "95% low", "95% high", "against the rest", "low", "high"]
    index = pd.MultiIndex.from_tuples(kept, names=["attribute", "group"])
    title = "nme68-2d of groups, %; against the rest: the first system's mean on the group less that on all others"
    interval = f"95% of the first system's mean, and of its difference to the rest (low, high): {BOOTSTRAP}"
    return Table(
        title, "nme68-2d", PERCENT, len(rows), pd.DataFrame(list(kept.values()), index, columns=columns), interval
    )


def attribute_groups(store: FaceStore, rows: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Who of some samples (N,) belongs to which group: {(attribute, group): (N,) bool}; empty where the raw set has no
    attributes."""
    raw = resolve(store.manifest["raw"])
    table = attribute_table(raw) if raw.is_dir() else pd.DataFrame()
    if not len(table):
        return {}
    table, masks = table.set_index("name").reindex(store.table["name"][rows]), {}
    for attribute, bins in ATTRIBUTES.items():
        values = table[attribute]
        groups = [name for _, name in bins] if bins else sorted(values.unique(), key=str)
        if bins:
            values = pd.cut(values, [edge for edge, _ in bins] + [np.inf], labels=groups, right=False)
        for name in groups:
            masks[LABELS.get(attribute, attribute), str(name)] = (values == name).to_numpy()
    return masks


def slice_line(distances: dict[str, np.ndarray], mask: np.ndarray, of_faces: bool) -> dict[str, object]:
    """A row of `slice_table`, empty for a group that is too small.

    Args: distances: {system: (N, 68) percent}.   mask: (N, 68), true for the group.   of_faces: it has whole faces.
    """
    counts = mask.sum(1)
    member = counts > 0
    if member.sum() < LEAST_OF_A_GROUP:
        return {}
    line: dict[str, object] = {"samples": int(member.sum())}
    for name, values in distances.items():
        found = mask & np.isfinite(values)
        line[name] = values[found].mean() if found.any() else np.nan
    first = next(iter(distances.values()))
    # Of whole faces, since landmarks of one face err together.
    own, rest = np.where(mask, first, 0).sum(1)[member] / counts[member], first.mean(1)[~member]
    line["95% low"], line["95% high"] = bootstrap_interval(own, seed=0, weights=counts[member])
    if of_faces and len(rest) >= LEAST_OF_A_GROUP:
        difference = group_difference(own, rest, seed=0)
        line |= {"against the rest": difference["difference"], "low": difference["low"], "high": difference["high"]}
    return line


# --- surfaces -------------------------------------------------------------------------------------


def surface_table(systems: list[System], store: FaceStore, rows: np.ndarray) -> tuple[Table, dict[str, np.ndarray]]:
    """The finest level against the true vertices of the finest template level, mean over at most MOST_SURFACES samples,
    evenly over all; and the mean error of each vertex (V,), percent of the face size, by system, nan where it does not
    count. A system without a surface on the store's template has its identity variance alone."""
    surfaces = [system for system in systems if system.vertices_px]
    scores: dict[str, list[dict[str, float]]] = {system.name: [] for system in systems if system.has_depth}
    sums: dict[str, np.ndarray] = {}
    places = np.unique(np.linspace(0, len(rows) - 1, MOST_SURFACES).astype(int))
    part, faces = counted_surface(store.template)
    for k in tqdm(places, desc="surfaces", unit="sample"):
        true, landmarks = store.truth_px(rows[k])[part], store.table["landmarks_px"][rows[k]]
        for system in surfaces:
            if system.found[k]:
                row, error = surface_scores(system.vertices_px(k)[part], true, landmarks, faces)
                scores[system.name].append(row)
                sums[system.name] = sums.get(system.name, 0) + error
    truth, lines = store.table["landmarks_px"][rows].astype(np.float64), {}
    for system in systems:
        if system.has_depth:
            lines[system.name] = pd.DataFrame(scores[system.name]).mean().to_dict()
            lines[system.name]["surfaces"] = len(scores[system.name])
            points, true = system.landmarks_px[system.found], truth[system.found]
            lines[system.name]["identity variance"] = identity_variance(points, true) if len(true) > 1 else np.nan
    by_name = by_system(lines)  # whose first system may have no surface, and so not all columns
    table = Table(
        f"Surfaces, {counted_groups(store.template)}: nme-dense in % of the face size; rec-umeyama, the shape after "
        "one similarity, in % of the distance of the outer eye corners, about half the face size; normals; F1, the "
        "share of vertices within 1% of the face size of the other surface; identity variance",
        "nme-dense-2d@template, nme-dense-3d@template, rec-umeyama@template, cd-f1@p2m",
        "as each column says; F1 in %, of lengths in face sizes",
        len(places),
        by_name[sorted(by_name, key=("surfaces", "identity variance").__contains__)],
        digits=3,
    )
    maps = {name: np.full(len(store.template.vertices), np.nan) for name in sums}
    for name, total in sums.items():
        maps[name][part] = total / len(scores[name])
    return table, maps


def counted_surface(template: Template) -> tuple[np.ndarray | slice, np.ndarray]:
    """The finest vertices that dense protocols count, and the triangles between them, numbered among these."""
    counted = template.counted[-1]
    if counted.all():
        return slice(None), template.faces[-1]
    part, faces = np.unique(template.faces[-1][counted], return_inverse=True)
    return part, faces.reshape(-1, 3)


def counted_groups(template: Template) -> str:
    """The groups that dense protocols count, as tables and metrics.json name them."""
    counted = np.unique(template.groups[-1][template.counted[-1]])
    return "all vertices" if template.coarse_groups is None else f"{', '.join(GROUPS[k] for k in counted)} alone"


def surface_scores(
    predicted: np.ndarray, truth: np.ndarray, landmarks: np.ndarray, faces: np.ndarray
) -> tuple[dict[str, float], np.ndarray]:
    """The protocols on one surface, and the error of each vertex (V,) in percent of the face size.

    Args:    predicted, truth: (V, 3) px; the distance to the camera is open.   landmarks: (68, 3) true ones.
    """
    predicted = np.asarray(predicted, np.float64)
    truth = truth_at_depth(truth, predicted)
    size = face_size(truth)
    row = {
        "nme-dense-2d@template, %": nme_dense_2d(predicted[None], truth[None])[0],
        "nme-dense-3d@template, %": nme_dense_3d(predicted[None], truth[None])[0],
        "rec-umeyama@template, %": rec_umeyama(predicted[None], truth[None], landmarks[None])[0],
        "normals off by, deg": normal_error_deg(predicted, truth, faces),
        F1: f1_alone(predicted / size, truth / size),  # its 1e-4 is (1%)² where lengths are in face sizes
    }
    return row, np.linalg.norm(predicted - truth, axis=1) / size * 100


def truth_at_depth(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """True vertices (V, 3), moved in z to the prediction's mean depth, which weak perspective leaves open."""
    return truth + [0, 0, predicted[:, 2].mean() - truth[:, 2].mean()]


def normal_error_deg(predicted: np.ndarray, truth: np.ndarray, faces: np.ndarray) -> float:
    """Mean angle between predicted and true vertex normals of (V, 3) each: large where facets and bumps are wrong."""
    cosine = (vertex_normals(predicted, faces) * vertex_normals(truth, faces)).sum(1)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())
