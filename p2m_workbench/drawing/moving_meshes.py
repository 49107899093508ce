"""A page of some meshes in a row that turn together, and that a slider moves through their frames, with curves below.

It is the time machine of a training (a frame is a step), and, with one frame, meshes beside their true points. It needs
neither Python nor network.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from p2m_core.face_mesh import to_world
from p2m_workbench.drawing import matcap
from p2m_workbench.drawing.curves import Curves
from p2m_workbench.drawing.html_page import base64_of, filled, photo_uri
from p2m_workbench.drawing.mesh_images import ERROR_RAMP, data_uri

GRID = 2**12 - 1  # steps of a coordinate over the largest side of a track: 0.1 px at 400 px
PHOTO_PX = 256


@dataclass(frozen=True)
class Track:
    """A mesh through all frames, over its photo; px of the photo, z to the viewer.

    photo     (H, W, 3) uint8 RGB                    faces     (F, 3)
    vertices  (N, V, 3), a row per frame             caption   a line below each frame, N of them
    truth     (V, 3) true vertices, or None          points    (P, 3) points of the true surface, or None
    """

    name: str
    photo: UInt8[np.ndarray, "h w 3"]
    vertices: Float[np.ndarray, "n v 3"]
    faces: Int[np.ndarray, "f 3"]
    captions: Sequence[str]
    truth: Float[np.ndarray, "v 3"] | None = None
    points: Float[np.ndarray, "p 3"] | None = None


def moving_meshes_page(
    title: str,
    tracks: Sequence[Track],
    frames: Sequence[str],
    curves: Curves | None = None,
    places: Sequence[float] = (),
    errors_to: float = 5.0,
) -> str:
    """The page as HTML.

    Args: frames: what to say of each, N lines.   curves: drawn below, with a line at `places`, the x of each frame.
          errors_to: the error at the end of the colour scale, % of the face size.
    """
    topologies: dict[bytes, int] = {}  # tracks of one network share theirs
    contents = [
        _content(track) | {"topology": topologies.setdefault(track.faces.tobytes(), len(topologies))}
        for track in tracks
    ]
    shared = {content["topology"]: track.faces for content, track in zip(contents, tracks, strict=True)}
    about = {
        "frames": list(frames),
        "tracks": contents,
        "topologies": [base64_of(shared[k], "<u4") for k in range(len(shared))],
        "ramp": ERROR_RAMP,
        "errorsTo": errors_to,
        "spheres": {
            name: data_uri(sphere, "JPEG", quality=95)
            for name, sphere in (("clay", matcap.clay()), ("paper", matcap.paper()))
        },
        "axes": [] if curves is None else curves.axes,
        "places": [float(x) for x in places],
    }
    drawing = b"" if curves is None else curves.svg[curves.svg.index(b"<svg") :]
    return filled("moving_meshes", title, about, curves=drawing.decode())


def _content(track: Track) -> dict:
    """A track for moving_meshes.js; y up, each frame as its difference from the one before, deflated."""
    vertices = to_world(track.vertices)
    known = {"truth": track.truth, "points": track.points}
    still = {name: to_world(array) for name, array in known.items() if array is not None}
    everything = np.concatenate([vertices.reshape(-1, 3), *still.values()])
    low = everything.min(0)
    step = max(float(np.ptp(everything, axis=0).max()), 1e-6) / GRID

    def deflated(points: np.ndarray) -> str:
        """(N, M, 3) as differences in 16 bits, first all low bytes, then all high ones, which are nearly all alike."""
        grid = np.round((points - low) / step).astype(np.int64).reshape(len(points), -1)
        differences = np.diff(grid, axis=0, prepend=0).astype("<u2")
        planes = differences.reshape(-1, 1).view("u1").T
        return base64_of(np.frombuffer(zlib.compress(planes.tobytes(), 9), "u1"), "u1")

    return {
        "name": track.name,
        "photo": photo_uri(track.photo, PHOTO_PX),
        "width": track.photo.shape[1],
        "height": track.photo.shape[0],
        "captions": list(track.captions),
        "low": [float(x) for x in low],
        "step": step,
        "vertices": deflated(vertices),
        **{name: deflated(array[None]) for name, array in still.items()},
    }
