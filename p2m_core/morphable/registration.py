"""The template laid on a face model: every template vertex gets a true place in every face."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int, Num

from p2m_core.config.paths import PACKAGE, resolve
from p2m_core.files import atomic_path
from p2m_core.geometry.template import Template
from p2m_core.morphable.model import FaceModel, LinearPoints, onto_eyeballs
from p2m_core.morphable.semi_sphere import register, semi_sphere

VERSION = 5  # raise it when the same model gives another template, so that stores are made anew


@dataclass(frozen=True, eq=False)
class FaceTruth:
    """Where a template's vertices lie in any face of a model.

    operator  (T, V) sparse, each vertex as a weighted mean of the model's; with `eyes` (T + 4, V), the last four rows
              being centre and front of the right and of the left eyeball
    eyes      empty, or of each eye the indices of the vertices that lie on its eyeball
    """

    operator: sp.csr_matrix
    eyes: tuple[Int[np.ndarray, "_"], ...] = ()

    def __call__(self, vertices: Num[np.ndarray, "v 3"]) -> Float[np.ndarray, "t 3"]:
        """The template's vertices in the face with these vertices of the model."""
        points = self.operator @ np.asarray(vertices, np.float64)
        return onto_eyeballs(points, self.eyes) if self.eyes else points

    def points(self, model: FaceModel) -> LinearPoints:
        """The template's vertices as a function of the model's coefficients."""
        return replace(model.sampled(self.operator), eyes=self.eyes)


@cache
def face_template(
    model: FaceModel, kind: Literal["face", "semi_sphere"] = "face", rings: int = 6, levels: int = 4
) -> tuple[Template, FaceTruth]:
    """The template on a face model's mean, and its place in all other faces.   rings: of the semi-sphere.

    What takes seconds to make is kept beside our own face model, under a digest of all that it depends on.

    >>> template, truth = face_template(face_model, "semi_sphere", rings=2, levels=2)  # any FaceModel
    >>> template.counts, truth(face_model.mean).shape
    ((19, 61), (61, 3))
    """
    path = resolve("data/processed/face_model") / f"template-{_digest(model, kind, rings, levels)}.npz"
    if path.exists():
        return _read(path)
    made = build_face_template(model, kind, rings, levels)
    with suppress(OSError):  # no place to keep it in
        path.parent.mkdir(parents=True, exist_ok=True)
        _keep(path, *made)
    return made


def build_face_template(
    model: FaceModel, kind: Literal["face", "semi_sphere"], rings: int, levels: int
) -> tuple[Template, FaceTruth]:
    """`face_template`, made anew."""
    if kind == "semi_sphere":
        template, operator = register(semi_sphere(rings, levels), model)
        return template, FaceTruth(operator)
    from p2m_core.morphable.feature_template import feature_template  # what it imports takes half a second

    template, operator = feature_template(model, levels)
    if model.eyeball_map is None:
        return template, FaceTruth(operator)
    truth = FaceTruth(
        sp.vstack([operator, model.eyeball_map]).tocsr(), (template.within("right eye"), template.within("left eye"))
    )
    return replace(template, vertices=truth(model.mean).astype(np.float32)), truth


def _digest(model: FaceModel, *options: object) -> str:
    """Tells apart what gives different templates: the model's mean face, the options, and the code."""
    content = hashlib.sha256(repr((VERSION, np.__version__, *options)).encode())
    for room in ("morphable", "geometry"):
        for path in sorted((PACKAGE / room).glob("*.py")):
            content.update(path.read_bytes())
    eyes = () if model.eyeball_map is None else (model.eyeball_map.toarray(),)
    for array in (model.mean, model.triangles, model.landmark_idx, *eyes):
        content.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    return content.hexdigest()[:16]


def _keep(path: Path, template: Template, truth: FaceTruth) -> None:
    operator = {name: getattr(truth.operator, name) for name in ("data", "indices", "indptr", "shape")}
    groups = {"template": template.arrays(), "operator": operator, "eyes": dict(zip("01", truth.eyes, strict=False))}
    content = {f"{group}.{name}": x for group, arrays in groups.items() for name, x in arrays.items()}
    with atomic_path(path) as temporary:
        np.savez(temporary, **content)


def _read(path: Path) -> tuple[Template, FaceTruth]:
    with np.load(path) as file:
        names = [name.split(".") for name in file.files]
        template, operator, eyes = (
            {name: file[f"{group}.{name}"] for held, name in names if held == group}
            for group in ("template", "operator", "eyes")
        )
    parts = operator["data"], operator["indices"], operator["indptr"]
    return Template.from_arrays(template), FaceTruth(sp.csr_matrix(parts, operator["shape"]), tuple(eyes.values()))
