"""Face models of other programs: made one .npz, and how well the template lies on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float, Int, Num
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from p2m_core.files import atomic_path, write_json
from p2m_core.geometry.mesh import adjacency_matrix, boundary_loops
from p2m_core.geometry.template import Template
from p2m_core.morphable.formats import NPZ_FIELDS, load_face_model
from p2m_core.morphable.model import FaceModel
from p2m_core.morphable.registration import face_template
from p2m_core.morphable.semi_sphere import facing_outwards, inner_point

UM_PER_MM = 1000.0
FACE_WIDTH_MM = (90, 220)  # between the outer ends of the jaw; outside, a model is hardly in micrometres
SLIVER = 0.02  # a triangle's height over its longest edge, below which it is degenerate


def convert_face_model(old: str | Path, new: str | Path) -> list[str]:
    """Turn a face model of any format into one .npz, with the report on the template's registration as .json beside it.

    Returns: lines to read: what was converted, and the report.
    Raises:  InputError if the model cannot be read, or the template cannot be laid on it; then nothing is written.
    """
    new = Path(new)
    model = load_face_model(old)
    report = {"made_of": Path(old).name} | registration_report(model)
    with atomic_path(new) as temporary:
        np.savez(temporary, **{name: getattr(model, name) for name in NPZ_FIELDS})
    beside = new.with_suffix(".json")
    write_json(beside, report)
    return [*report_lines(report), f"written: {new}, {beside}", "the licence of the original goes on to hold"]


def template_report(template: Template) -> list[dict[str, Any]]:
    """Quality of each level: counts, manifold, winding, components, boundary loops, symmetry, edge lengths."""
    rows = []
    for faces, edges, n in zip(template.faces, template.edges, template.counts, strict=True):
        directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        uses = np.unique(np.sort(directed, 1), axis=0, return_counts=True)[1]
        length = np.linalg.norm(np.diff(template.vertices[edges], axis=1)[:, 0], axis=1)
        rows.append(
            {
                "vertices": n,
                "edges": len(edges),
                "faces": len(faces),
                "manifold": bool(uses.max() <= 2),
                "winding consistent": len(np.unique(directed, axis=0)) == len(directed),
                "components": int(connected_components(adjacency_matrix(edges, n), directed=False)[0]),
                "boundary loops": sorted(len(loop) for loop in boundary_loops(faces)),
                "mirror symmetric": len(template.mirror) > 0,
                "edge length max/median": round(float(length.max() / np.median(length)), 2),
            }
        )
    return rows


def registration_report(model: FaceModel, rings: int = 6, levels: int = 4) -> dict[str, Any]:
    """How well the semi-sphere lies on a face model's mean; distances in mm, for models in micrometres.

    Returns: "model": counts and face_width_mm; "levels": `template_report` and, as seen from inside the head, flipped
             and degenerate triangles; "landmarks_mm": of the 68 to the finest level; "template_to_face_mm": of its
             vertices, which is more than 0 over eyes and mouth alone; "face_to_template_mm": of the face's vertices
             within the rim, what the template leaves out; "mirror_mm": of each vertex to its partner's mirror image at
             x = 0; "mirror_pairs"; "area_ratio" of template and face.
    Raises:  InputError as `register`.
    """
    template, _ = face_template(model, "semi_sphere", rings, levels)
    mean, places, centre = model.mean.astype(np.float64), template.vertices.astype(np.float64), inner_point(model)
    landmarks, finest = mean[model.landmark_idx], template.faces[-1]
    rows = []
    for faces, row in zip(template.faces, template_report(template), strict=True):
        corners = places[faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
        flipped = (normals * (corners.mean(1) - centre)).sum(1) <= 0
        sliver = np.linalg.norm(normals, axis=1) < SLIVER * longest**2
        rows.append({**row, "flipped triangles": int(flipped.sum()), "degenerate triangles": int(sliver.sum())})
    outside = facing_outwards(mean, model.triangles, centre)
    rim = boundary_loops(finest)[0]
    skin = np.unique(outside)
    # Within the rim: nearer to a vertex inside the template than to one of its rim.
    skin = skin[~np.isin(cKDTree(places).query(mean[skin])[1], rim)]
    mirrored = places[template.mirror] * [-1, 1, 1]
    return {
        "model": {
            "name": model.name,
            "vertices": len(mean),
            "triangles": len(model.triangles),
            "shape directions": model.shape_basis.shape[2],
            "expression directions": model.expression_basis.shape[2],
            "face_width_mm": round(float(np.linalg.norm(landmarks[0] - landmarks[16])) / UM_PER_MM, 1),
        },
        "levels": rows,
        "landmarks_mm": _summary(np.linalg.norm(template.landmarks(places) - landmarks, axis=1)),
        "template_to_face_mm": _summary(distance_to_surface(places, mean, model.triangles)),
        "face_to_template_mm": _summary(distance_to_surface(mean[skin], places, finest)),
        "mirror_mm": _summary(np.linalg.norm(mirrored - places, axis=1)),
        "mirror_pairs": int((template.mirror > np.arange(len(template.mirror))).sum()),
        "area_ratio": round(float(_area(places, finest) / _area(mean, outside)), 3),
    }


def report_lines(report: dict[str, Any]) -> list[str]:
    """`registration_report` to read, and what is amiss in it."""
    model, levels = report["model"], report["levels"]
    sizes = f"{model['vertices']} vertices, {model['triangles']} triangles"
    directions = f"{model['shape directions']} shape and {model['expression directions']} expression directions"
    lines = [f"{model['name']}: {sizes}, {directions}, {model['face_width_mm']} mm from ear to ear"]
    for k, row in enumerate(levels, 1):
        triangles = f"{row['flipped triangles']} flipped and {row['degenerate triangles']} degenerate triangles"
        sound = "sound" if row["manifold"] and row["winding consistent"] and row["components"] == 1 else "NOT a surface"
        stretch = f"longest edge {row['edge length max/median']} times the median"
        lines.append(f"template level {k}: {row['vertices']} vertices, {sound}, {triangles}, {stretch}")
    for name, what in (
        ("landmarks_mm", "the 68 landmarks from the finest level"),
        ("template_to_face_mm", "template vertices from the mean face (over eyes and mouth they float)"),
        ("face_to_template_mm", "the mean face's vertices within the rim from the template"),
        ("mirror_mm", f"vertices from their partners' mirror images, {report['mirror_pairs']} pairs"),
    ):
        values = report[name]
        lines.append(f"{what}: {values['mean']:.2f} mm, 95% within {values['95%']:.2f}, at most {values['max']:.2f}")
    lines.append(f"the template has {100 * report['area_ratio']:.0f}% of the mean face's area")
    if not FACE_WIDTH_MM[0] < model["face_width_mm"] < FACE_WIDTH_MM[1]:
        lines.append("no face is that wide: the model is not in micrometres, so no mm above is one")
    if levels[-1]["flipped triangles"] or levels[-1]["degenerate triangles"]:
        lines.append("flipped or degenerate triangles: look at the template before training on this model")
    return lines


def _summary(distance_um: np.ndarray) -> dict[str, float]:
    values = {"mean": distance_um.mean(), "95%": np.quantile(distance_um, 0.95), "max": distance_um.max()}
    return {name: round(float(value) / UM_PER_MM, 3) for name, value in values.items()}


def _area(vertices: np.ndarray, faces: np.ndarray) -> float:
    return trimesh.triangles.area(vertices[faces]).sum()


def distance_to_surface(
    points: Float[np.ndarray, "p 3"], vertices: Num[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], near: int = 24
) -> Float[np.ndarray, "p"]:
    """Distance of points to a mesh, by the `near` triangles whose centres are nearest to each.

    Never too small; too large only where triangles are so long that none of these is the nearest.
    """
    corners = vertices[faces]
    candidates = cKDTree(corners.mean(1)).query(points, min(near, len(faces)))[1].reshape(len(points), -1)
    repeated = np.repeat(points, candidates.shape[1], axis=0)
    closest = trimesh.triangles.closest_point(corners[candidates.ravel()], repeated)
    return np.linalg.norm(closest - repeated, axis=1).reshape(candidates.shape).min(1)
