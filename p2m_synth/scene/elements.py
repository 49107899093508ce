"""What a picture is made of besides the head: surfaces, hairs, lights, the camera.

Everything stands in the camera's frame: um, x to the right of the picture, y up, z to the viewer, turned with the
pose but not yet scaled and placed. Reflectances and light are linear RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from p2m_core.geometry.camera import rotation_from_angles, turned_to_image

HEAD_CENTRE_Z_UM = 0.6e5  # about which a near camera sees the head


def float32(values: ArrayLike) -> np.ndarray:
    """Values as float32: np.float32(values), which type checkers take for a single number."""
    return cast(np.ndarray, np.float32(values))  # type: ignore[arg-type]


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


@dataclass(frozen=True, eq=False)
class Camera:
    """Where the head stands in the picture.

    pose_para (7,); size_px: side of the square picture; distance_um: of a pinhole from the head's
    centre, or None for one that is infinitely far, as the data set's format has it.
    """

    pose_para: np.ndarray
    size_px: int
    distance_um: float | None = None

    @property
    def rotation(self) -> np.ndarray:
        """From the head's frame to the camera's (3, 3)."""
        return float32(rotation_from_angles(self.pose_para[:3]))

    def to_px(self, points: np.ndarray) -> np.ndarray:
        """Points turned by the pose (..., 3), um, to px of the picture, z towards the viewer."""
        px = turned_to_image(points, self.pose_para, self.size_px)
        if self.distance_um is not None:
            nearer = self.distance_um / (self.distance_um + HEAD_CENTRE_Z_UM - points[..., 2:])
            centre = (self.size_px - 1) / 2
            px[..., :2] = centre + (px[..., :2] - centre) * nearer
        return px

    def to_samples(self, points: np.ndarray, supersample: int) -> np.ndarray:
        """As `to_px`, in a grid of so many samples a px and axis, float32."""
        return float32((self.to_px(points) + 0.5) * supersample - 0.5)

    @property
    def px_per_um(self) -> float:
        """Size of a um in the picture."""
        return float(self.pose_para[6])
