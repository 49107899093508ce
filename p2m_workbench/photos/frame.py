"""Where written meshes lie: over their photo, or as a head in mm; and the camera file that leads them to the photo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Num

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh
from p2m_core.files import write_json
from p2m_core.geometry.camera import rotation_from_angles

UM_PER_MM = 1000.0  # templates of faces count micrometres, see docs/conventions.md
FACES_MM = 80.0, 400.0  # heights of a face: beyond them the template counts something else


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of written vertices, y up, whose places in `to_world`'s are `px_per_unit * rotation @ v + origin_px`."""

    name: Literal["photo", "head_mm"]
    px_per_unit: float
    rotation: Float[np.ndarray, "3 3"]
    origin_px: Float[np.ndarray, "3"]

    def place(self, world: Num[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Points of `to_world` in this frame."""
        return self.turn(world - self.origin_px)

    def turn(self, ways: Num[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Differences of such points in this frame."""
        return ways @ self.rotation / self.px_per_unit

    @property
    def matrix(self) -> Float[np.ndarray, "4 4"]:
        """From written vertices to the frame of `to_world`, on column vectors."""
        matrix = np.eye(4)
        matrix[:3] = np.column_stack([self.px_per_unit * self.rotation, self.origin_px])
        return matrix


PHOTO = Frame("photo", 1.0, np.eye(3), np.zeros(3))


def frame_of(mesh: FaceMesh, name: Literal["photo", "head_mm"]) -> Frame:
    """A mesh's frame: the photo's; or upright, centred, in mm, if its head is as large as the face model's mean head.

    Raises: InputError for mm where no pose is known, or the template is not in micrometres.
    """
    if name == "photo":
        return PHOTO
    remedy = "take weights on a face model's template, as the bundled ones are, or predict.frame=photo"
    if mesh.pose is None:
        raise InputError("predict.frame", "head_mm", "wants a head's pose, which these weights do not tell", remedy)
    *_, px_per_um = mesh.pose
    frame = Frame(name, float(px_per_um) * UM_PER_MM, rotation_from_angles(np.radians(mesh.pose[:3])),
                  mesh.pose[3:6] * [1, -1, 1])  # fmt: skip
    height_mm = float(np.ptp(mesh.vertices_px @ (frame.rotation * [[1], [-1], [1]]), axis=0)[1]) / frame.px_per_unit
    if not FACES_MM[0] < height_mm < FACES_MM[1]:
        problem = f"a face {height_mm:.3g} mm high: its template does not count micrometres"
        raise InputError("predict.frame", "head_mm", problem, remedy)
    return frame


def save_camera(path: Path, frame: Frame, height: int, width: int) -> None:
    """The camera of a photo (px) as JSON: orthographic, so it has a scale, but neither focal length nor distance."""
    matrix = frame.matrix
    content = {
        "photo_px": {"width": width, "height": height},
        "frame": frame.name,
        "unit": "px" if frame.name == "photo" else "mm",
        "model": "orthographic",
        "px_per_unit": frame.px_per_unit,
        "rotation": frame.rotation.tolist(),
        "origin_px": frame.origin_px.tolist(),
        "matrix": matrix.tolist(),
        "projection": (matrix[:2] * [[1], [-1]]).tolist(),
        "view": {"left": -0.5, "right": width - 0.5, "top": 0.5, "bottom": 0.5 - height},
    }
    write_json(path, content)
