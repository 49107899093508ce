"""HTML viewers of meshes: one file a face, or a gallery of many; both work offline, from a disk."""

from __future__ import annotations

import base64
import html
import importlib.util
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from p2m_core.errors import InputError
from p2m_core.face_mesh import to_world
from p2m_core.files import write_bytes, write_text
from p2m_workbench.drawing import matcap
from p2m_workbench.drawing.mesh_images import CLAY_RAMP, ERROR_RAMP, clay_shares, data_uri, encode_picture, error_scale
from p2m_workbench.face_prediction import FacePrediction, unpooled

PROTOCOL = "nme-dense-3d@template"  # of which a vertex's error is its share
PHOTO_PX, GALLERY_PHOTO_PX = 640, 512  # longer side of a photo in a page of its own, and in a gallery
THUMBNAIL_PX = 144
LEAST_WAY = 5e-4  # of the distance from eye to eye: vertices that a unit moves by less stay
GRID = 2**16 - 1  # coordinates are stored in 16 bits over the prediction's largest side: 0.01 px in a photo of 600 px


@dataclass(frozen=True, eq=False)
class EyeballPart:
    """An eyeball of a page: `neutral + sum of strength * way` in the frame of `to_world`.

    neutral (E, 3); ways (U, E, 3); faces (T, 3); uv (E, 2) in `picture` (S, S, 3), counted from the lower left corner;
    clay (E,), each vertex' place on CLAY_RAMP.
    """

    neutral: np.ndarray
    ways: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    picture: np.ndarray
    clay: np.ndarray


@dataclass(frozen=True, eq=False)
class Expressions:
    """What a page's sliders move: names (U,) of the units; strength (U,) of each in the prediction; the way (U, V, 3)
    of the finest level's vertices at strength 1, in the frame of `to_world`; its texture (S, S, 3), in which each has
    its place uv (V, 2), counted from the lower left corner; eyeballs in place of the mesh's eyes."""

    names: Sequence[str]
    strength: np.ndarray
    ways: np.ndarray
    picture: np.ndarray
    uv: np.ndarray
    eyes: Sequence[EyeballPart]


def sort_by_error(predictions: Iterable[FacePrediction]) -> list[FacePrediction]:
    """The best first; those without a ground truth last, in their order."""
    return sorted(predictions, key=lambda s: np.inf if s.truth_px is None else s.mean_error_percent())


def base64_of(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode("ascii")


def deflated(values: np.ndarray) -> dict:
    """Numbers in N frames (N, ...), rounded, modulo 2**16, for `unpacked` of page.js: the differences of each frame to
    the one before, first all low bytes, then all high ones, which are nearly all alike."""
    grid = np.round(values).astype(np.int64).reshape(len(values), -1)
    differences = np.diff(grid, axis=0, prepend=0).astype("<u2")
    planes = differences.reshape(-1, 1).view("u1").T
    packed = base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode("ascii")
    return {"frames": len(grid), "packed": packed}


def _packed_ways(ways: np.ndarray, size: float) -> list[dict]:
    """The ways (V, 3) of units, each as a bit a vertex, which ones it moves, and 8 bits a coordinate of those."""
    packed = []
    for way in ways:
        step = max(float(np.abs(way).max()) / 127, 1e-9)
        moved = np.abs(way).max(1) > LEAST_WAY * size
        entry = {"moved": base64_of(np.packbits(moved, bitorder="little"), "u1"), "step": step}
        packed.append(entry | {"by": base64_of(np.round(way[moved] / step), "i1")} if moved.any() else {})
    return packed


def _moving(expressions: Expressions) -> dict:
    """Expressions for viewer.js."""
    size = float(np.ptp(np.concatenate([eye.neutral for eye in expressions.eyes]), axis=0).max())
    eyes = [
        {
            "neutral": base64_of(eye.neutral, "<f4"),
            "ways": _packed_ways(eye.ways, size),
            "index": base64_of(eye.faces, "<u2"),
            "uv": base64_of(eye.uv, "<f4"),
            "clay": base64_of(np.round(eye.clay * 255), "u1"),
            "picture": data_uri(eye.picture, "JPEG", quality=90),
        }
        for eye in expressions.eyes
    ]
    strength = [round(float(x), 4) for x in expressions.strength]
    return {
        "names": list(expressions.names),
        "strength": strength,
        "ways": _packed_ways(expressions.ways, size),
        "picture": data_uri(expressions.picture, "JPEG", quality=88),
        "uv": base64_of(expressions.uv, "<f4"),
        "eyes": eyes,
    }


def photo_uri(photo: np.ndarray, side_px: int = PHOTO_PX) -> str:
    """A photo (H, W, 3) as JPEG in a data URI, scaled down to a longer side of `side_px`."""
    picture = Image.fromarray(photo)
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return data_uri(np.asarray(picture), "JPEG", quality=88)


def around_face(prediction: FacePrediction, side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """The square of a photo around its face (S, S, 3), and the affine map (2, 3) from the photo's px to its own."""
    points = prediction.mesh.vertices_px[:, :2]
    low, high = points.min(0), points.max(0)
    scale = side_px / (1.15 * max(float((high - low).max()), 1e-6))
    shift = (side_px - 1) / 2 - scale * (low + high) / 2
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    picture = cv2.warpAffine(
        prediction.photo, matrix, (side_px, side_px), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE
    )
    return picture, matrix


def thumbnail(prediction: FacePrediction, side_px: int = THUMBNAIL_PX) -> bytes:
    """The face on its photo as a square JPEG."""
    return encode_picture(around_face(prediction, side_px)[0], "JPEG", quality=84)


def _topology(prediction: FacePrediction) -> list[dict]:
    """The faces of every level."""
    levels = []
    for vertices, faces in zip(prediction.mesh.levels, prediction.mesh.level_faces, strict=True):
        wide = len(vertices) > 2**16
        index = base64_of(faces, "<u4") if wide else deflated(faces[None])
        levels.append({"vertices": len(vertices), "faces": len(faces), "index": index, "wide": wide})
    return levels


def _content(prediction: FacePrediction, photo_px: int = PHOTO_PX) -> dict:
    """A prediction for viewer.js, without its faces; y up, 16 bits a coordinate, deflated."""
    mesh = prediction.mesh
    points = {"template": mesh.template_px, "landmarks": mesh.landmarks_px, "truth": prediction.truth_px}
    points = {name: to_world(array) for name, array in points.items() if array is not None}
    levels = [to_world(level) for level in mesh.levels]
    everything = np.concatenate([*levels, *points.values()])
    low, step = everything.min(0), max(float(np.ptp(everything, axis=0).max()), 1e-6) / GRID

    def grid(array: np.ndarray) -> np.ndarray:
        return np.round((array - low) / step)

    def stored(array: np.ndarray, base: np.ndarray | float = 0.0) -> dict:
        """What its grid is over another, rounded half up as viewer.js does."""
        return deflated((grid(array) - np.floor(base + 0.5))[None])

    grids = [grid(level) for level in levels]
    finer = zip(grids, grids[1:], mesh.level_faces[1:], strict=False)
    bases = [0.0, *(unpooled(coarse, np.zeros_like(fine), faces) for coarse, fine, faces in finer)]
    base_of = {"truth": grids[-1]}

    height, width = prediction.photo.shape[:2]
    seen = matcap.seen_from_the_front(mesh, height, width)
    content = {
        "name": prediction.name,
        "width": width,
        "height": height,
        "photo": photo_uri(prediction.photo, photo_px),
        "seen": data_uri(np.repeat(seen[..., None], 3, -1), "JPEG", quality=90),
        "low": [float(x) for x in low],
        "step": step,
        "levels": [stored(level, base) for level, base in zip(levels, bases, strict=True)],
        **{name: stored(array, base_of.get(name, 0.0)) for name, array in points.items()},
    }
    if mesh.groups is not None:
        shares = clay_shares(mesh.vertices_px, mesh.faces, mesh.groups)
        content["clay"] = deflated(shares[None] * 255)
    if prediction.truth_px is not None:
        content["errorMaximum"] = error_scale(prediction.error_percent())
        content["counted"] = deflated(prediction.counted[None])
    return content


def require_finite(path: str | Path, prediction: FacePrediction) -> None:
    """Raise InputError if a coordinate is not finite."""
    mesh = prediction.mesh
    arrays = [*mesh.levels, mesh.landmarks_px, mesh.template_px, prediction.truth_px]
    if not all(np.isfinite(array).all() for array in arrays if array is not None):
        raise InputError(path, prediction.name, "has coordinates that are not finite", "do not export this mesh")


@cache
def three_js() -> str:
    """The script html/page.js: three.js from the pythreejs wheel with its licence, so that nothing is fetched, now or
    later."""
    package = importlib.util.find_spec("pythreejs")  # found, not imported: it would pull in the widgets
    if package is None or not package.submodule_search_locations:
        raise InputError("pythreejs", "", "is not installed", "pip install pythreejs")
    script = Path(package.submodule_search_locations[0]) / "static" / "three.js"
    if not script.is_file():
        raise InputError(script, "", "is missing from the installed pythreejs", "pip install pythreejs==2.4.2")
    packed = base64.b64encode(zlib.compress(script.read_bytes(), 9)).decode("ascii")
    return _part("page.js").replace("{{packed}}", packed)


def script_json(content: object) -> str:
    """JSON to stand inside <script>: every "<" is escaped, so that no text can end the tag."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _part(name: str) -> str:
    return resources.files("p2m_workbench.drawing").joinpath("html", name).read_text(encoding="utf-8")


def filled(name: str, title: str, about: dict, **more: str) -> str:
    """The page html/NAME.html with its script, three.js, what the script is told, and more texts by their places."""
    page = _part(f"{name}.html")
    parts = {"title": html.escape(title), "about": script_json(about), "three": three_js()}
    for place, text in (parts | {"js": _part(f"{name}.js")} | more).items():
        page = page.replace("{{" + place + "}}", text)
    return page


def _page(title: str, about: dict) -> str:
    """The viewer with what it shows."""
    clays = {"clay": matcap.clay(), "white": matcap.clay((255, 255, 255))}
    spheres = clays | {"paper": matcap.paper(), "normals": matcap.directions()}
    about = {
        "protocol": PROTOCOL,
        "ramp": ERROR_RAMP,
        "clayRamp": CLAY_RAMP,
        "spheres": {name: data_uri(sphere, "JPEG", quality=95) for name, sphere in spheres.items()},
        **about,
    }
    return filled("viewer", title, about, css=_part("viewer.css"))


def html_page(
    predictions: FacePrediction | Sequence[FacePrediction],
    photo_px: int = PHOTO_PX,
    expressions: Expressions | None = None,
) -> str:
    """The page that `write_html` writes, as text; of several predictions with thumbnails to choose by.

    expressions: of the first.
    Raises: InputError if coordinates are not finite.
    """
    several = [predictions] if isinstance(predictions, FacePrediction) else list(predictions)
    samples, topologies = [], {}
    for prediction in several:
        require_finite("page", prediction)
        topology = topologies.setdefault(json.dumps(_topology(prediction)), len(topologies))
        sample = {"name": prediction.name, "topology": topology, "content": _content(prediction, photo_px)}
        if len(several) > 1:
            picture = base64.b64encode(thumbnail(prediction)).decode("ascii")
            sample["thumbnail"] = f"data:image/jpeg;base64,{picture}"
            if prediction.truth_px is not None:
                sample["error"] = float(prediction.mean_error_percent())
        samples.append(sample)
    if expressions is not None:
        samples[0]["content"]["moving"] = _moving(expressions)
    return _page(several[0].name, {"topologies": [*map(json.loads, topologies)], "samples": samples})


def write_html(path: str | Path, prediction: FacePrediction, expressions: Expressions | None = None) -> Path:
    """One self-contained HTML file that shows a prediction in 3D, with no network, in any browser with WebGL.

    Orbit, zoom and pan; a slider from the template through the levels; clay, photo, normals and error colours; solid,
    edges, wireframe and points; landmarks; the ground truth in its place, over the mesh or beside it; vertex,
    error and position at a click. About 0.5 MB for 8000 vertices, 1.5 MB with a slider a unit of its expressions.

    The photo is scaled down to a longer side of PHOTO_PX.

    Returns: the path.
    Raises:  InputError if coordinates are not finite, or three.js is not installed.
    """
    require_finite(path, prediction)
    write_text(path, html_page(prediction, expressions=expressions))
    return Path(path)


def write_gallery(folder: str | Path, predictions: Iterable[FacePrediction]) -> Path:
    """A page of many predictions, the best first, that fetches each from a file beside it when it is looked at.

    FOLDER/index.html            the viewer with all thumbnails
    FOLDER/samples/NNNN.js .jpg  a prediction, some 150 kB at 8000 vertices, and its thumbnail

    Args:    predictions: at least one.
    Returns: the path of index.html, which opens from a disk as well as from a server.
    Raises:  InputError if there is none, coordinates are not finite, or three.js is not installed.
    """
    folder = Path(folder)
    samples, topologies = [], {}
    for number, prediction in enumerate(sort_by_error(predictions)):
        require_finite(folder, prediction)
        topology = json.dumps(_topology(prediction))  # samples of one network share it
        stem = f"samples/{number:04d}"
        write_text(folder / f"{stem}.js", f"take({number},{script_json(_content(prediction, GALLERY_PHOTO_PX))});\n")
        write_bytes(folder / f"{stem}.jpg", thumbnail(prediction))
        sample = {"name": prediction.name, "file": stem, "topology": topologies.setdefault(topology, len(topologies))}
        if prediction.truth_px is not None:
            sample["error"] = float(prediction.mean_error_percent())
        samples.append(sample)
    if not samples:
        raise InputError(folder, "", "a gallery of no prediction", "give one at least")
    _remove_others(folder / "samples", samples)
    write_text(
        folder / "index.html", _page("Gallery", {"topologies": [*map(json.loads, topologies)], "samples": samples})
    )
    return folder / "index.html"


def _remove_others(folder: Path, samples: Sequence[dict]) -> None:
    """Delete what a larger gallery has left in this folder."""
    kept = {Path(sample["file"]).name for sample in samples}
    for path in folder.glob("[0-9][0-9][0-9][0-9].*"):
        if path.stem not in kept and path.suffix in (".js", ".jpg"):
            path.unlink()
