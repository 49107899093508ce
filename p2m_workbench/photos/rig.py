"""A face that moves: the 52 expression units of ARKit's names on a predicted mesh, and which of them the photo shows.

The units are those of the generator's head (CC0). They lie on the template of our own face model, are turned and scaled
as the predicted mesh is, and added to it; so a rig needs weights on that template, as the bundled ones are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cholesky
from scipy.optimize import lsq_linear

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.geometry.similarity import umeyama
from p2m_core.geometry.template import GROUPS, Template
from p2m_core.morphable.registration import face_template
from p2m_synth.head.asset import load_asset
from p2m_synth.head.expression import unit_basis
from p2m_synth.head.head_model import UM_PER_DM, load_head_model, own_face_model

SHAPES = 60  # directions of people that are told apart from expressions
FIT_LEVEL = 2  # of the template, whose vertices are fitted: a quarter of the finest
ROUNDS = 4  # of similarity, then shape and strengths
# A vertex of a predicted mesh is off by a millimetre or two, and its neighbours with it: as if 1 in 60 told anything.
NOISE_UM, TOGETHER = 1500.0, 60
USUAL_STRENGTH = 0.35  # standard deviation of a unit's strength


@dataclass(frozen=True, eq=False)
class Units:
    """What moves on the template, um.

    template; names (52,) of the units; mean (V, 3); ways (52, V, 3) of a unit at strength 1; shapes (K, V, 3), people's
    differences at one standard deviation each.
    """

    template: Template
    names: tuple[str, ...]
    mean: Float[np.ndarray, "v 3"]
    ways: Float[np.ndarray, "52 v 3"]
    shapes: Float[np.ndarray, "k v 3"]


@dataclass(frozen=True, eq=False)
class Rig:
    """A predicted face that moves, in the frame of `to_world`, px: `neutral + sum of strength * way` is a mesh.

    names (52,); strength (52,) in [0, 1], of the photo's expression; neutral (V, 3); ways (52, V, 3).
    """

    names: tuple[str, ...]
    strength: Float[np.ndarray, "52"]
    neutral: Float[np.ndarray, "v 3"]
    ways: Float[np.ndarray, "52 v 3"]

    def moved(self, strength: Float[np.ndarray, "52"]) -> Float[np.ndarray, "v 3"]:
        """The mesh with these strengths."""
        return self.neutral + np.tensordot(strength, self.ways, 1)


@cache
def own_units() -> Units:
    """The units on the template of our own face model; some seconds."""
    head, model = load_head_model(), own_face_model()
    template, truth = face_template(model)
    mean, points = truth(model.mean), truth.points(model)
    moves = unit_basis().reshape(len(unit_basis()), -1, 3) * np.float32(UM_PER_DM)
    ways = np.stack([truth(model.mean + head.face_map @ move) - mean for move in moves])
    shapes = points.shape_basis[:, :, :SHAPES] * model.shape_sigma[:SHAPES]
    names = tuple(load_asset()["unit_names"].tolist())
    return Units(template, names, mean, np.float32(ways), np.float32(np.moveaxis(shapes[: len(mean)], 2, 0)))


def can_move(mesh: FaceMesh) -> bool:
    """Whether a mesh is on the template of our own face model."""
    return mesh.groups is not None and np.array_equal(mesh.faces, own_units().template.faces[-1])


def rig(mesh: FaceMesh) -> Rig:
    """The rig of a predicted face.   Raises: InputError if its template is not that of our own face model."""
    units = own_units()
    if not can_move(mesh):
        remedy = "take the bundled weights, or train on template.kind=face with our face model"
        raise InputError("predict.save", "rig", "wants a mesh on the template of our own face model", remedy)
    world = to_world(mesh.vertices_px).astype(np.float64)
    strength, scale, rotation, _ = fit(world, units)
    ways = np.float32(scale * units.ways @ rotation.T)
    return Rig(units.names, strength, world - np.tensordot(strength, ways, 1), ways)


def fit(
    world: Float[np.ndarray, "v 3"], units: Units
) -> tuple[Float[np.ndarray, "52"], float, Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Strengths of the units in a mesh, and scale, rotation and shift of the head, by bounded least squares.

    People's differences are fitted beside the units with their own spread: a wide mouth is not taken for a smile.
    """
    idx = fitted_vertices(units.template)
    shapes, ways = (part[:, idx].reshape(len(part), -1).T.astype(np.float64) for part in (units.shapes, units.ways))
    noise = NOISE_UM * np.sqrt(TOGETHER)
    system = np.concatenate([shapes, ways], 1) / noise
    prior = np.concatenate([np.ones(shapes.shape[1]), np.full(ways.shape[1], 1 / USUAL_STRENGTH)])
    root = cholesky(system.T @ system + np.diag(prior**2))
    lower = np.concatenate([np.full(shapes.shape[1], -np.inf), np.zeros(ways.shape[1])])
    upper = np.concatenate([np.full(shapes.shape[1], np.inf), np.ones(ways.shape[1])])
    weights = np.zeros(len(prior))
    scale, rotation, shift = 1.0, np.eye(3), np.zeros(3)
    for _ in range(ROUNDS):
        known = units.mean[idx] + (system @ weights * noise).reshape(-1, 3)
        scale, rotation, shift = umeyama(known, world[idx])
        left = ((world[idx] - shift) @ rotation / scale - units.mean[idx]).ravel() / noise
        # |system w - left|^2 + |prior w|^2 up to a constant, by the triangular root of its normal equations.
        weights = lsq_linear(root, np.linalg.solve(root.T, system.T @ left), (lower, upper)).x
    return weights[shapes.shape[1] :].clip(0, 1), float(scale), rotation, shift


def fitted_vertices(template: Template) -> Int[np.ndarray, "_"]:
    """The vertices that are fitted: of a coarser level, on the skin."""
    skin = np.unique(template.faces[FIT_LEVEL][template.groups[FIT_LEVEL] == GROUPS.index("skin")])
    return skin[skin < template.counts[FIT_LEVEL]]
