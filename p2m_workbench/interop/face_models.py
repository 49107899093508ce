"""Face models of other programs: made one .npz, and how well templates lie on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import trimesh
from jaxtyping import Float, Int, Num
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from p2m_core.errors import InputError
from p2m_core.files import atomic_path, write_json
from p2m_core.geometry.mesh import adjacency_matrix, boundary_loops
from p2m_core.geometry.template import GROUPS, Template
from p2m_core.morphable.feature_template import against_surface
from p2m_core.morphable.formats import NPZ_FIELDS, load_face_model
from p2m_core.morphable.model import FaceModel
from p2m_core.morphable.registration import FaceTruth, face_template
from p2m_core.morphable.semi_sphere import facing_outwards, inner_point

UM_PER_MM = 1000.0
FACE_WIDTH_MM = (90, 220)  # between the outer ends of the jaw; outside, a model is hardly in micrometres
SLIVER = 0.02  # a triangle's height over its longest edge, below which it is degenerate
FEW_SLIVERS = 1e-3  # so many of the triangles may be degenerate
PARTS = {"lids": slice(36, 48), "lips": slice(48, 68)}  # of the 68 landmarks
NEAR = 0.085  # of the face's width: so near to one of these landmarks is near to lids or lips

Kind = Literal["face", "semi_sphere"]


def convert_face_model(old: str | Path, new: str | Path) -> list[str]:
    """Turn a face model of any format into one .npz, with the report on it, `face_model_report`, as .json beside it.

    Returns: lines to read: what was converted, and the report.
    Raises:  InputError if the model cannot be read, or the template cannot be laid on it; then nothing is written.
    """
    new = Path(new)
    model = load_face_model(old)
    report = {"made_of": Path(old).name} | face_model_report(model)
    with atomic_path(new) as temporary:
        np.savez(temporary, **{name: getattr(model, name) for name in NPZ_FIELDS})
    beside = new.with_suffix(".json")
    write_json(beside, report)
    return [*report_lines(report), f"written: {new}, {beside}", "the licence of the original goes on to hold"]


def template_report(template: Template) -> list[dict[str, Any]]:
    """Quality of each level, from 1: counts, manifold, winding, components, boundary loops, symmetry, edge lengths."""
    rows = []
    levels = zip(template.faces, template.edges, template.counts, strict=True)
    for level, (faces, edges, n) in enumerate(levels, 1):
        directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        uses = np.unique(np.sort(directed, 1), axis=0, return_counts=True)[1]
        length = np.linalg.norm(np.diff(template.vertices[edges], axis=1)[:, 0], axis=1)
        rows.append(
            {
                "level": level,
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


def face_model_report(model: FaceModel, kinds: Sequence[Kind] = ("semi_sphere", "face"), *size: int) -> dict[str, Any]:
    """What a face model is, and how well templates of these kinds lie on it.

    Args:    size: rings and levels of `registration_report`.
    Returns: "model": counts and face_width_mm; "templates": {kind: `registration_report`, or {"problem": why it cannot
             be laid on this model}}.
    Raises:  InputError as `register`.
    """
    templates: dict[str, Any] = {}
    for kind in kinds:
        try:
            templates[kind] = registration_report(model, kind, *size)
        except InputError:
            raise
        except (ValueError, LookupError) as error:
            templates[kind] = {"problem": f"its landmarks lie as on no face ({type(error).__name__}: {error})"}
    facts = {
        "name": model.name,
        "vertices": len(model.mean),
        "triangles": len(model.triangles),
        "shape directions": model.shape_basis.shape[2],
        "expression directions": model.expression_basis.shape[2],
        "face_width_mm": round(_face_width(model) / UM_PER_MM, 1),
    }
    return {"model": facts, "templates": templates}


def registration_report(model: FaceModel, kind: Kind, rings: int = 6, levels: int = 4) -> dict[str, Any]:
    """How well a template lies on a face model; distances in mm, for models in micrometres.

    Returns: of the mean face "levels": `template_report` with flipped triangles (of the skin, against the model's own
             normals; where there are no groups, as seen from inside the head) and degenerate ones, but for the mouth's;
             "groups": {name: vertices and triangles of the finest level}, lids and lips being skin; "landmarks_mm": of
             the 68 to the finest level; "template_to_face_mm": of its vertices, more than 0 over eyes and mouth alone;
             "face_to_template_mm": of the face's vertices within the rim, what the template leaves out; "lids_mm" and
             "lips_mm": of those of them near lids or lips; "mirror_mm": of each vertex to its partner's mirror image at
             x = 0; "mirror_pairs"; "area_ratio" of template and face. Then "random_faces": `random_faces`.
    Raises:  InputError as `register`.
    """
    template, truth = face_template(model, kind, rings, levels)
    mean, places, centre = model.mean.astype(np.float64), template.vertices.astype(np.float64), inner_point(model)
    landmarks, finest = mean[model.landmark_idx], template.faces[-1]
    rows = []
    for level, (faces, row) in enumerate(zip(template.faces, template_report(template), strict=True)):
        corners = places[faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
        if template.coarse_groups is None:
            flipped = (normals * (corners.mean(1) - centre)).sum(1) <= 0
        else:
            flipped = turned_skin(template, truth, model, mean, level)
        sliver = template.counted[level] & (np.linalg.norm(normals, axis=1) < SLIVER * longest**2)
        rows.append({**row, "flipped triangles": int(flipped.sum()), "degenerate triangles": int(sliver.sum())})
    groups = {name: {"triangles": int((template.groups[-1] == k).sum())} for k, name in enumerate(GROUPS)}
    for name in GROUPS[1:]:
        groups[name]["vertices"] = len(template.within(name))
    groups["skin"]["vertices"] = len(places) - sum(groups[name]["vertices"] for name in GROUPS[1:])
    outside = facing_outwards(mean, model.triangles, centre)
    rim = boundary_loops(finest)[0]
    skin = np.unique(outside)
    # Within the rim: nearer to a vertex inside the template than to one of its rim.
    skin = skin[~np.isin(cKDTree(places).query(mean[skin])[1], rim)]
    left_out = closest_on_surface(mean[skin], places, finest)[1]
    near = {
        name: cKDTree(landmarks[part]).query(mean[skin])[0] < NEAR * _face_width(model) for name, part in PARTS.items()
    }
    mirrored = places[template.mirror] * [-1, 1, 1]
    return {
        "levels": rows,
        "groups": {name: counts for name, counts in groups.items() if counts["triangles"]},
        "landmarks_mm": _summary(np.linalg.norm(template.landmarks(places) - landmarks, axis=1)),
        "template_to_face_mm": _summary(closest_on_surface(places, mean, model.triangles)[1]),
        "face_to_template_mm": _summary(left_out),
        **{f"{name}_mm": _summary(left_out[member]) for name, member in near.items()},
        "mirror_mm": _summary(np.linalg.norm(mirrored - places, axis=1)),
        "mirror_pairs": int((template.mirror > np.arange(len(template.mirror))).sum()),
        "area_ratio": round(float(_area(places, finest[template.counted[-1]]) / _area(mean, outside)), 3),
        "random_faces": random_faces(model, template, truth),
    }


def random_faces(model: FaceModel, template: Template, truth: FaceTruth, count: int = 30) -> dict[str, Any]:
    """What is left of a face model's random faces, with expressions as strong as the model's, on a template.

    Returns: "count"; "landmarks_mm", and "lids_mm" and "lips_mm" of the landmarks there; "mouth_opening_mm": between
             the middles of the inner lips, mean "of the model" and "on the template"; "turned_percent": of the skin's
             triangles, against the model's own normals.
    """
    rng = np.random.default_rng(0)
    off, openings, turned = [], [], []
    for _ in range(count):
        coefficients = (rng.normal(0, sigma) for sigma in (model.shape_sigma, model.expression_sigma))
        surface = model.vertices(*coefficients).astype(np.float64)
        true, found = surface[model.landmark_idx], template.landmarks(truth(surface))
        off.append(np.linalg.norm(found - true, axis=1))
        openings.append([np.linalg.norm(points[62] - points[66]) for points in (true, found)])
        turned.append(turned_skin(template, truth, model, surface).sum())
    of_model, on_template = (round(float(value) / UM_PER_MM, 3) for value in np.mean(openings, 0))
    distances = np.stack(off)
    return {
        "count": count,
        "landmarks_mm": _summary(distances.ravel()),
        **{f"{name}_mm": _summary(distances[:, part].ravel()) for name, part in PARTS.items()},
        "mouth_opening_mm": {"of the model": of_model, "on the template": on_template},
        "turned_percent": round(100 * float(np.mean(turned) / (template.groups[-1] == 0).sum()), 3),
    }


def turned_skin(
    template: Template, truth: FaceTruth, model: FaceModel, surface: np.ndarray, level: int = -1
) -> np.ndarray:
    """Which triangles (F_k,) of a level's skin are turned over.   surface: (V, 3), the model's vertices in a face."""
    operator = truth.operator[: len(template.vertices)]
    against = against_surface(truth(surface), template.faces[level], operator, surface, model.triangles)
    return against & (template.groups[level] == 0)


def report_lines(report: dict[str, Any]) -> list[str]:
    """`face_model_report` to read, and what is amiss in it."""
    model = report["model"]
    sizes = f"{model['vertices']} vertices, {model['triangles']} triangles"
    directions = f"{model['shape directions']} shape and {model['expression directions']} expression directions"
    lines = [f"{model['name']}: {sizes}, {directions}, {model['face_width_mm']} mm from ear to ear"]
    if not FACE_WIDTH_MM[0] < model["face_width_mm"] < FACE_WIDTH_MM[1]:
        lines.append("no face is that wide: the model is not in micrometres, so no mm below is one")
    for kind, registered in report["templates"].items():
        if "problem" in registered:
            lines.append(f"template {kind}: cannot be laid on this model: {registered['problem']}")
        else:
            lines += [f"template {kind}, {line}" for line in registration_lines(registered)]
    return lines


def registration_lines(report: dict[str, Any]) -> list[str]:
    """`registration_report` to read."""
    levels, lines = report["levels"], []
    for k, row in enumerate(levels, 1):
        triangles = f"{row['flipped triangles']} flipped and {row['degenerate triangles']} degenerate triangles"
        sound = "sound" if row["manifold"] and row["winding consistent"] and row["components"] == 1 else "NOT a surface"
        stretch = f"longest edge {row['edge length max/median']} times the median"
        lines.append(f"level {k}: {row['vertices']} vertices, {sound}, {triangles}, {stretch}")
    groups = [f"{name} {n['vertices']} and {n['triangles']}" for name, n in report["groups"].items()]
    lines.append(f"vertices and triangles by group: {', '.join(groups)}")
    for name, what in (
        ("landmarks_mm", "the 68 landmarks from the finest level"),
        ("template_to_face_mm", "template vertices from the mean face (over eyes and mouth they float)"),
        ("face_to_template_mm", "the mean face's vertices within the rim from the template"),
        ("lids_mm", "those near the lids"),
        ("lips_mm", "those near the lips"),
        ("mirror_mm", f"vertices from their partners' mirror images, {report['mirror_pairs']} pairs"),
    ):
        lines.append(f"{what}: {_in_words(report[name])}")
    lines.append(f"it has {100 * report['area_ratio']:.0f}% of the mean face's area")
    drawn = report["random_faces"]
    faces, opening = f"{drawn['count']} random faces", drawn["mouth_opening_mm"]
    for name, what in (
        ("landmarks", "landmarks"),
        ("lids", "landmarks of the lids"),
        ("lips", "landmarks of the lips"),
    ):
        lines.append(f"{what} in {faces}: {_in_words(drawn[f'{name}_mm'])}")
    true, found = opening["of the model"], opening["on the template"]
    lines.append(f"opening of the mouth in {faces}: {true:.2f} mm in the model, {found:.2f} mm on the template")
    lines.append(f"triangles of the skin that are turned over in {faces}: {drawn['turned_percent']:.2f}%")
    finest = levels[-1]
    if finest["flipped triangles"] or finest["degenerate triangles"] > FEW_SLIVERS * finest["faces"]:
        lines.append("flipped or degenerate triangles: look at the template before training on this model")
    return lines


def _in_words(values: dict[str, float]) -> str:
    return f"{values['mean']:.2f} mm, 95% within {values['95%']:.2f}, at most {values['max']:.2f}"


def _face_width(model: FaceModel) -> float:
    """Between the outer ends of the jaw, model units."""
    left, right = model.mean[model.landmark_idx[[0, 16]]].astype(np.float64)
    return float(np.linalg.norm(left - right))


def _summary(distance_um: np.ndarray) -> dict[str, float]:
    values = {"mean": distance_um.mean(), "95%": np.quantile(distance_um, 0.95), "max": distance_um.max()}
    return {name: round(float(value) / UM_PER_MM, 3) for name, value in values.items()}


def _area(vertices: np.ndarray, faces: np.ndarray) -> float:
    return trimesh.triangles.area(vertices[faces]).sum()


def closest_on_surface(
    points: Float[np.ndarray, "p 3"], vertices: Num[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], near: int = 24
) -> tuple[Float[np.ndarray, "p 3"], Float[np.ndarray, "p"], Int[np.ndarray, "p"]]:
    """The point of a mesh that is closest to each point, its distance and its triangle, by the `near` triangles whose
    centres are nearest.

    The distance is never too small; too large only where triangles are so long that none of these is the nearest.
    """
    corners = vertices[faces]
    candidates = cKDTree(corners.mean(1)).query(points, min(near, len(faces)))[1].reshape(len(points), -1)
    repeated = np.repeat(points, candidates.shape[1], axis=0)
    closest = trimesh.triangles.closest_point(corners[candidates.ravel()], repeated)
    distance = np.linalg.norm(closest - repeated, axis=1).reshape(candidates.shape)
    best = distance.argmin(1)
    rows = np.arange(len(points))
    return closest.reshape(*candidates.shape, 3)[rows, best], distance[rows, best], candidates[rows, best]
