"""What a picture is made of besides the head: surfaces, hairs, lights.

Everything stands in the camera's frame: um, x to the right of the picture, y up, z to the viewer, turned with the
pose but not yet scaled and placed. Reflectances and light are linear RGB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Surface:
    """A thing of triangles.

    vertices (V, 3) um; triangles (T, 3); color (V, 3) reflectance.
    gloss: strength of the highlight, 0 felt, 0.1 cotton, 1 lacquer, 3 metal.
    soft: how far light wraps round, 0 hard, 0.3 skin.
    alpha: 1 hides what lies behind; less tints it by `color`, as glass does.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    color: np.ndarray
    gloss: float = 0.05
    soft: float = 0.05
    alpha: float = 1.0


@dataclass(frozen=True, eq=False)
class Strands:
    """Hairs as polylines from root to tip.

    points (N, P, 3) um; color (N, 3) reflectance; width_um: at the root, thinner towards the tip.
    """

    points: np.ndarray
    color: np.ndarray
    width_um: float


@dataclass(frozen=True, eq=False)
class Light:
    """Far lights and the ambient light.

    direction (L, 3) unit vectors towards the lights; color (L, 3) their strength; size (L,) rad, of their
    disc: how soft the shadows are; sky, ground (3,): ambient light from above and from below.
    """

    direction: np.ndarray
    color: np.ndarray
    size: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
