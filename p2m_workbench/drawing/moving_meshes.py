"""A page of some meshes in a row that turn together, and that a slider moves through their frames, with curves below.

It is the time machine of a training (a frame is a step), one face through the steps of one quantity, two weights on one
sample after another, and, with one frame, meshes beside their true points. It needs neither Python nor network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from p2m_core.face_mesh import to_world
from p2m_workbench.drawing import matcap
from p2m_workbench.drawing.curves import Curves
from p2m_workbench.drawing.html_page import deflated, filled, photo_uri
from p2m_workbench.drawing.mesh_images import ERROR_RAMP, NO_DIFFERENCE, data_uri

GRID = 2**12 - 1  # steps of a coordinate over the largest side of a track: 0.1 px at 400 px
PHOTO_PX = 256


SHARES = 254  # steps of a place on the colour ramp; 255 is the colour beside it


@dataclass(frozen=True)
class Track:
    """A mesh through all frames, over its photo; px of the photo, z to the viewer.

    photo     (H, W, 3) uint8 RGB, or (N, H, W, 3)   faces     (F, 3)
    vertices  (N, V, 3), a row per frame             caption   a line below each frame, N of them
    truth     (V, 3) true vertices, or (N, V, 3), or None
    points    (P, 3) points of the true surface, or None
    shares    (N, V) each vertex' place on the ramp of `Colors`, 0 to 1, nan for the colour beside it; or None, where
              the page computes errors from `truth`
    """

    name: str
    photo: UInt8[np.ndarray, "*n h w 3"]
    vertices: Float[np.ndarray, "n v 3"]
    faces: Int[np.ndarray, "f 3"]
    captions: Sequence[str]
    truth: Float[np.ndarray, "*n v 3"] | None = None
    points: Float[np.ndarray, "p 3"] | None = None
    shares: Float[np.ndarray, "n v"] | None = None


@dataclass(frozen=True)
class Colors:
    """What colours of the meshes tell: the title of their switch, what stands at the ends of their ramp, the ramp, the
    colour beside it, and whether they are on at first."""

    title: str
    least: str
    most: str
    ramp: Sequence[tuple[int, int, int]] = ERROR_RAMP
    beside: tuple[int, int, int] = NO_DIFFERENCE
    on: bool = False


def moving_meshes_page(
    title: str,
    tracks: Sequence[Track],
    frames: Sequence[str],
    curves: Curves | None = None,
    places: Sequence[float] = (),
    errors_to: float = 5.0,
    colors: Colors | None = None,
    by_name: bool = False,
) -> str:
    """The page as HTML.

    Args: frames: what to say of each, N lines.   curves: drawn below, with a line at `places`, the x of each frame.
          errors_to: the error at the end of the colour scale, % of the face size.   colors: None for those of errors.
          by_name: whether a menu chooses the frame, from the first on; else they are a motion, shown at its end.
    """
    topologies: dict[bytes, int] = {}  # tracks of one network share theirs
    photos: dict[str, int] = {}  # nor is one stored twice
    contents = [
        _content(track, photos) | {"topology": topologies.setdefault(track.faces.tobytes(), len(topologies))}
        for track in tracks
    ]
    shared = {content["topology"]: track.faces for content, track in zip(contents, tracks, strict=True)}
    about = {
        "frames": list(frames),
        "tracks": contents,
        "topologies": [deflated(shared[k][None]) for k in range(len(shared))],
        "photos": list(photos),
        "errorsTo": errors_to,
        "colors": asdict(colors or Colors("Error colours", "0", f"≥ {errors_to:g} % of the face size")),
        "byName": by_name,
        "spheres": {
            name: data_uri(sphere, "JPEG", quality=95)
            for name, sphere in (("clay", matcap.clay()), ("paper", matcap.paper()))
        },
        "axes": [] if curves is None else curves.axes,
        "places": [float(x) for x in places],
    }
    drawing = b"" if curves is None else curves.svg[curves.svg.index(b"<svg") :]
    return filled("moving_meshes", title, about, curves=drawing.decode())


def _content(track: Track, photos: dict[str, int]) -> dict:
    """A track for moving_meshes.js; y up. Its photos join `photos`, which numbers all of the page."""
    vertices = to_world(track.vertices)
    known = {"truth": track.truth, "points": track.points}
    still = {name: to_world(array).reshape(-1, *array.shape[-2:]) for name, array in known.items() if array is not None}
    everything = np.concatenate([array.reshape(-1, 3) for array in (vertices, *still.values())])
    low = everything.min(0)
    step = max(float(np.ptp(everything, axis=0).max()), 1e-6) / GRID

    def stored(points: np.ndarray) -> dict:
        return deflated((points - low) / step)

    several = track.photo if track.photo.ndim == 4 else track.photo[None]
    content = {
        "name": track.name,
        "photos": [photos.setdefault(photo_uri(photo, PHOTO_PX), len(photos)) for photo in several],
        "width": several.shape[2],
        "height": several.shape[1],
        "captions": list(track.captions),
        "low": [float(x) for x in low],
        "step": step,
        "vertices": stored(vertices),
        **{name: stored(array) for name, array in still.items()},
    }
    if track.shares is not None:
        places = np.where(np.isnan(track.shares), SHARES + 1, SHARES * track.shares)
        content["shares"] = deflated(places)
    return content
