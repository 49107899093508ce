"""A face that moves: the 52 expression units of ARKit's names on a predicted mesh, and which of them the photo shows.

The units are those of the generator's head (CC0). They lie on the template of our own face model, are turned and scaled
as the predicted mesh is, and added to it; so a rig needs weights on that template, as the bundled ones are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import lsq_linear

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.files import atomic_path
from p2m_core.geometry.similarity import umeyama
from p2m_core.geometry.template import GROUPS, Template
from p2m_core.morphable import registration
from p2m_core.morphable.registration import face_template
from p2m_synth.head import head_model
from p2m_synth.head.asset import load_asset
from p2m_synth.head.expression import unit_basis
from p2m_synth.head.head_model import UM_PER_DM, default_folder, load_head_model, own_face_model, read_built

VERSION = 1  # raise it with any change to `build_units`, so that they are built anew
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
    differences at one standard deviation each; eyes (4, 3), centre and front of the right and of the left eyeball.
    """

    template: Template
    names: tuple[str, ...]
    mean: Float[np.ndarray, "v 3"]
    ways: Float[np.ndarray, "52 v 3"]
    shapes: Float[np.ndarray, "k v 3"]
    eyes: Float[np.ndarray, "4 3"]

    @cached_property
    def idx(self) -> Int[np.ndarray, "_"]:
        """The vertices that are fitted: of a coarser level, on the skin."""
        coarse, groups = self.template.faces[FIT_LEVEL], self.template.groups[FIT_LEVEL]
        skin = np.unique(coarse[groups == GROUPS.index("skin")])
        return skin[skin < self.template.counts[FIT_LEVEL]]

    @cached_property
    def system(self) -> Float[np.ndarray, "n m"]:
        """What shapes and units move these vertices by, over the noise."""
        parts = [part[:, self.idx].reshape(len(part), -1).T.astype(np.float64) for part in (self.shapes, self.ways)]
        return np.concatenate(parts, 1) / (NOISE_UM * np.sqrt(TOGETHER))

    @cached_property
    def root(self) -> Float[np.ndarray, "m m"]:
        """Triangular root of the normal equations of `fit`, with the spread of people and expressions."""
        prior = np.repeat([1, 1 / USUAL_STRENGTH], [len(self.shapes), len(self.ways)])
        return cholesky(self.system.T @ self.system + np.diag(prior**2))


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


def build_units() -> Units:
    """`own_units`, made anew: some seconds."""
    head, model = load_head_model(), own_face_model()
    template, truth = face_template(model)
    mean, points = truth(model.mean), truth.points(model)
    moves = unit_basis().reshape(len(unit_basis()), -1, 3) * np.float32(UM_PER_DM)
    ways = np.stack([truth(model.mean + head.face_map @ move) - mean for move in moves])
    shapes = points.shape_basis[:, :, :SHAPES] * model.shape_sigma[:SHAPES]
    names = tuple(load_asset()["unit_names"].tolist())
    shapes = np.float32(np.moveaxis(shapes[: len(mean)], 2, 0))
    return Units(template, names, mean, np.float32(ways), shapes, model.eyeball_map @ model.mean)


def keep_units(path: Path) -> None:
    """Build the units and write them to `path`."""
    units = build_units()
    content = {name: getattr(units, name) for name in ("names", "mean", "ways", "shapes", "eyes")}
    with atomic_path(path) as temporary:
        np.savez(temporary, **content, **{f"template.{name}": x for name, x in units.template.arrays().items()})


@cache
def own_units() -> Units:
    """The units on the template of our own face model, kept beside it: built anew when either of the two changes."""
    name = f"units-v{VERSION}-of-v{registration.VERSION}-of-v{head_model.VERSION}.npz"
    content = read_built(default_folder() / name, keep_units)
    parts = {name: content.pop(name) for name in tuple(content) if name.startswith("template.")}
    template = Template.from_arrays({name.removeprefix("template."): x for name, x in parts.items()})
    return Units(template, tuple(content.pop("names").tolist()), **content)


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
    idx, system, root, people = units.idx, units.system, units.root, len(units.shapes)
    noise, strength = NOISE_UM * np.sqrt(TOGETHER), np.zeros(len(units.ways))
    known, scale, rotation, shift = units.mean[idx], 1.0, np.eye(3), np.zeros(3)
    for _ in range(ROUNDS):
        scale, rotation, shift = umeyama(known, world[idx])
        left = ((world[idx] - shift) @ rotation / scale - units.mean[idx]).ravel() / noise
        # |system w - left|^2 + |prior w|^2 is |root w - goal|^2 up to a constant. The root's lower rows tell of units
        # alone, and whatever these are, the upper ones become 0 by shapes, which have no bounds.
        goal = solve_triangular(root, system.T @ left, trans="T")
        strength = lsq_linear(root[people:, people:], goal[people:], (0, 1), "bvls").x
        shape = solve_triangular(root[:people, :people], goal[:people] - root[:people, people:] @ strength)
        known = units.mean[idx] + noise * (system @ np.concatenate([shape, strength])).reshape(-1, 3)
    return strength.clip(0, 1), float(scale), rotation, shift
