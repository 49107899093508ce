"""The template laid on a face model: every template vertex gets a true place in every face."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int, Num

from p2m_core.geometry.template import Template
from p2m_core.morphable.feature_template import feature_template
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

    >>> template, truth = face_template(face_model, "semi_sphere", rings=2, levels=2)  # any FaceModel
    >>> template.counts, truth(face_model.mean).shape
    ((19, 61), (61, 3))
    """
    if kind == "semi_sphere":
        template, operator = register(semi_sphere(rings, levels), model)
        return template, FaceTruth(operator)
    template, operator = feature_template(model, levels)
    if model.eyeball_map is None:
        return template, FaceTruth(operator)
    truth = FaceTruth(
        sp.vstack([operator, model.eyeball_map]).tocsr(), (template.within("right eye"), template.within("left eye"))
    )
    return replace(template, vertices=truth(model.mean).astype(np.float32)), truth
