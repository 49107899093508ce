"""From photos to meshes."""

from __future__ import annotations

import csv
import io
import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import torch

from p2m_core.backbones import fold_batch_norms
from p2m_core.camera import angles_from_rotation, apply_affine, box_of, crop_matrix, invert_affine, ndc_to_px, umeyama
from p2m_core.checkpoint import load_model, weights_path
from p2m_core.config import PredictConfig
from p2m_core.data.augment import crop_image
from p2m_core.detect import detect_faces, overlap
from p2m_core.errors import InputError
from p2m_core.export import POSE_FIELDS, save_specimen
from p2m_core.facemesh import FaceMesh, Specimen, to_world
from p2m_core.files import write_text
from p2m_core.jobs import map_jobs
from p2m_core.model import PLACED_SCALE, Pixel2Mesh
from p2m_core.photos import SAMPLE_PHOTO, find_photos, read_photo, sample_photo

__all__ = [
    "SAMPLE_PHOTO", "Predictions", "find_photos", "open_network", "predict", "predict_crops", "predict_files",
    "sample_photo",
]  # fmt: skip

# A crop is cut again around the first prediction unless the two boxes overlap (intersection over union) by so much:
# with the true box they did so on 88 photos of 88, with one moved by a tenth of the face on 3% (benchmarks/boxes.py).
SAME_BOX = 0.85
# Mean distance between the prediction and that for the mirrored crop, in halves of the crop, above which a crop does
# not look like a face: 98% of 182 crops without one lay above, of 319 detected synthetic faces 0.3%. Measures of the
# network's features told them apart less well (Mahalanobis distance: area under the ROC curve 0.985, this: 0.999).
DOUBT_LIMIT = 0.055
_log = logging.getLogger(__name__)


@lru_cache(maxsize=4)
def _network(path: Path, modified: int, device: str) -> Pixel2Mesh:
    # `modified` makes a file that was trained anew a new entry.
    model, _ = load_model(path, device)
    fold_batch_norms(model.encoder)
    return model.to(memory_format=torch.channels_last)


def open_network(weights: str | Path = "bundled", device: str | None = None) -> Pixel2Mesh:
    """The network of "bundled" or a weights file, kept in memory between calls."""
    path = weights_path(weights)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return _network(path, path.stat().st_mtime_ns, device)


def predict_crops(model: Pixel2Mesh, crops: np.ndarray, flip: bool = True) -> list[np.ndarray]:
    """Vertices of every level in normalised crop coordinates.

    Args:    crops: (B, S, S, 3) uint8 RGB.   flip: average with the prediction for the mirrored crop.
    Returns: one (B, n_k, 3) a level.
    """
    return _predict_crops(model, crops, flip)[0]


@torch.no_grad()
def _predict_crops(model: Pixel2Mesh, crops: np.ndarray, flip: bool) -> tuple[list[np.ndarray], np.ndarray]:
    """`predict_crops`, and each crop's doubt (B,): how far the two predictions lie apart; 0 without flip."""
    device = next(model.parameters()).device
    images = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).to(device).float() / 255
    count, mirror = len(crops), model.template.mirror
    flip = flip and len(mirror) > 0
    both = model(torch.cat([images, images.flip(3)]) if flip else images).levels
    levels, doubt = [x[:count].cpu().numpy() for x in both], np.zeros(count)
    if flip:
        mirrored = [x[count:].cpu().numpy()[:, mirror[: x.shape[1]]] * [-1, 1, 1] for x in both]
        doubt = np.linalg.norm((levels[-1] - mirrored[-1])[..., :2], axis=-1).mean(1)
        levels = [(a + b) / 2 for a, b in zip(levels, mirrored, strict=True)]
    return [np.float32(x) for x in levels], doubt


def predict(
    image: np.ndarray,
    boxes: np.ndarray | None = None,
    weights: str | Path = "bundled",
    device: str | None = None,
    flip: bool = True,
    passes: int = 2,
    detector: str = "cascades",
) -> list[FaceMesh]:
    """The mesh of every face in a photo.

    Args:    image: (H, W, 3) uint8 RGB.
             boxes: (K, 4) x0 y0 x1 y1 in px, tight around the 68 landmarks; None looks for faces.
             weights: "bundled" or a weights file.   device: None takes CUDA where there is one.
             flip: average with the prediction for the mirrored photo (better, twice the time; and tells the doubt).
             passes: 2 crops again around the first prediction where the box was not as tight as said.
             detector: see `detect.detect_faces`.
    Returns: a FaceMesh a box, in the boxes' order, or the largest face first; [] if no face is found.
    Raises:  InputError for an image or boxes of another shape.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError("image", "", f"is {image.dtype} of shape {image.shape}", "give (H, W, 3) uint8 RGB")
    boxes = detect_faces(image, detector) if boxes is None else np.asarray(boxes, np.float64)
    if boxes.size == 0:
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError("boxes", "", f"have shape {boxes.shape}", "give (K, 4) x0 y0 x1 y1")
    model = open_network(weights, device)
    meshes: list[FaceMesh] = [None] * len(boxes)
    tight, todo = boxes.copy(), np.arange(len(boxes))
    for _ in range(passes):
        for k, mesh in zip(todo, predict_boxes(model, image, tight[todo], flip), strict=True):
            meshes[k] = replace(mesh, box=np.float32(boxes[k]))
        found = np.stack([box_of(mesh.landmarks_px) for mesh in meshes])
        # A crop of next to nothing could only come of a network that failed.
        size = (found[:, 2:] - found[:, :2]).min(1)
        todo = np.array([k for k in todo if size[k] > 1 and overlap(tight[k], found[k]) < SAME_BOX], int)
        tight[todo] = found[todo]
        if not len(todo):
            break
    return meshes


def predict_boxes(model: Pixel2Mesh, image: np.ndarray, boxes: np.ndarray, flip: bool = True) -> list[FaceMesh]:
    """A FaceMesh for each box (K, 4), in one pass."""
    side, margin = model.config.input_px, model.config.margin
    matrices = [crop_matrix(box, side, margin) for box in boxes]
    crops = np.stack([crop_image(image, matrix, side) for matrix in matrices])
    levels, doubt = _predict_crops(model, crops, flip)
    return [
        face_mesh(model, [level[k] for level in levels], matrices[k], boxes[k], crops[k], float(doubt[k]))
        for k in range(len(boxes))
    ]


def face_mesh(
    model: Pixel2Mesh,
    levels_ndc: list[np.ndarray],
    matrix: np.ndarray,
    box: np.ndarray,
    crop: np.ndarray | None = None,
    doubt: float = 0.0,
) -> FaceMesh:
    """A FaceMesh from levels (n_k, 3) in normalised crop coordinates, matrix (2, 3) image px to crop px."""
    back, side, template = invert_affine(matrix), model.config.input_px, model.template
    start = model.start[: template.counts[0]].cpu().numpy() * [1, -1, 1] * PLACED_SCALE
    levels = tuple(np.float32(apply_affine(back, ndc_to_px(level, side))) for level in levels_ndc)
    return FaceMesh(
        vertices_px=levels[-1],
        faces=template.faces[-1],
        levels=levels,
        level_faces=template.faces,
        landmarks_px=np.float32(template.landmarks(levels[-1])),
        box=np.float32(box),
        pose=pose_of(levels[-1], template.vertices),
        crop=crop,
        doubt=doubt,
        template_px=np.float32(apply_affine(back, ndc_to_px(start, side))),
    )


def pose_of(vertices_px: np.ndarray, template_vertices: np.ndarray) -> np.ndarray:
    """The similarity that lays the template nearest to a mesh, as FaceMesh.pose.

    Args:    vertices_px: (V, 3) image px, z towards the viewer.   template_vertices: (V, 3), y up.
    Returns: (7,) pitch, yaw, roll (degrees), x, y, z (px) of the template's centroid, px per unit.
    """
    scale, rotation, shift = umeyama(template_vertices - template_vertices.mean(0), to_world(vertices_px))
    return np.concatenate([np.degrees(angles_from_rotation(rotation)), shift * [1, -1, 1], [scale]])


# --- files ----------------------------------------------------------------------------------------


@dataclass
class Predictions:
    """What came of photos.

    specimens  the faces, unless they were not to be kept     rows      a dict a face or failed photo, as in the CSV
    problems   one line for each photo that failed            warnings  one line for each face that looks like none
    seconds    by stage, summed over photos and processes     photos    how many were looked at
    """

    specimens: list[Specimen] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    photos: int = 0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's time to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def add(self, other: Predictions) -> None:
        """Append another's photos to these."""
        for name in ("specimens", "rows", "problems", "warnings"):
            getattr(self, name).extend(getattr(other, name))
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.photos += other.photos


def predict_files(
    photos: Sequence[str | Path],
    out: str | Path,
    boxes: np.ndarray | None = None,
    settings: PredictConfig | None = None,
    device: str | None = None,
    keep: bool = True,
) -> Predictions:
    """Predict photos and write what one takes away, a set of files for each face: `export.SAVERS` lists them.

    Files are named after the photo, with -2, -3 ... for further faces; a photo that fails leaves none.

    Args:    photos: see `find_photos`.   boxes: as for `predict`, for a single photo.
             settings: save says which files; workers > 1 shares the photos among processes; video takes the photos
             for consecutive frames.   keep: False for thousands of photos, which would fill the memory.
    """
    out, settings, paths = Path(out), settings or PredictConfig(), find_photos(photos)
    if boxes is not None and len(paths) != 1:
        raise InputError("--box", "", f"is given with {len(paths)} photos", "give boxes with one photo at a time")
    if settings.video and settings.workers > 1:
        raise InputError("predict.workers", "", "is above 1 for a video, whose frames follow each other", "set it to 1")
    weights_path(settings.weights)  # says once, not for each photo, that there are none
    job = partial(_predict_file, paths=paths, out=out, boxes=boxes, settings=settings, device=device, keep=keep)
    start, done = time.perf_counter(), {}
    if settings.video:
        results = _predict_video(job, len(paths))
    elif len(paths) == 1:
        results = [job(0)]
    else:
        results = map_jobs(job, range(len(paths)), settings.workers, "photos")
    for index, result in results:
        done[index] = result
    total = Predictions()
    for index in range(len(paths)):
        total.add(done[index])
    total.seconds["all"] = time.perf_counter() - start
    for line in [*total.problems, *total.warnings]:
        _log.warning("%s", line)
    if "csv" in settings.save and total.rows:
        write_text(out / "predictions.csv", csv_of(total.rows))
    return total


def _predict_video(job: partial, count: int) -> Iterator[tuple[int, Predictions]]:
    """Frames one after another: the faces of a frame are looked for where they were in the one before."""
    last: list[np.ndarray] = []

    def follow(index: int) -> tuple[int, Predictions]:
        nonlocal last
        meshes: list[FaceMesh] = []
        result = job(index, boxes=np.stack(last) if last else None, meshes=meshes)
        lost = not meshes or any(mesh.doubt > DOUBT_LIMIT for mesh in meshes)
        last = [] if lost else [box_of(mesh.landmarks_px) for mesh in meshes]
        return result

    yield from map_jobs(follow, range(count), 1, "frames")


def _predict_file(
    index: int,
    paths: list[Path],
    out: Path,
    boxes: np.ndarray | None,
    settings: PredictConfig,
    device: str | None,
    keep: bool,
    meshes: list[FaceMesh] | None = None,
) -> tuple[int, Predictions]:
    """One photo of `predict_files`; what was found is appended to `meshes`."""
    if multiprocessing.parent_process() is not None:
        cv2.setNumThreads(1)  # a process a core: more threads only get in the way
    path, result = paths[index], Predictions(photos=1)
    meshes = [] if meshes is None else meshes
    try:
        taken = {other.stem for other in paths[:index]}
        if path.stem in taken:
            raise InputError(path, "", f"another photo is called {path.stem}", "predict it into another folder")
        with result.timed("read"):
            photo = read_photo(path)
        if boxes is None:
            with result.timed("find faces"):
                boxes = detect_faces(photo, settings.detector)
            if not len(boxes):
                raise InputError(path, "", "no face found", "give its box with --box x0,y0,x1,y1")
        with result.timed("network"):
            meshes += predict(photo, boxes, settings.weights, device, settings.flip, settings.passes)
        names = [path.stem + (f"-{k + 1}" if k else "") for k in range(len(meshes))]
        if clash := {other.stem for other in paths}.intersection(names[1:]):
            raise InputError(path, "", f"another photo is called {min(clash)}", "predict it into another folder")
        for name, mesh in zip(names, meshes, strict=True):
            specimen = Specimen(name, mesh, photo)
            with result.timed("write files"):
                save_specimen(out, specimen, settings.save)
            result.rows.append(csv_row(specimen, path))
            if mesh.doubt > DOUBT_LIMIT:
                result.warnings.append(doubt_line(specimen, path))
            if keep:
                result.specimens.append(specimen)
    except InputError as error:
        result.problems.append(str(error))
        result.rows.append({"photo": path.name, "problem": str(error)})
    return index, result


def doubt_line(specimen: Specimen, path: Path) -> str:
    """The warning for a face that looks like none."""
    box = ",".join(f"{x:.0f}" for x in specimen.mesh.box)
    return (
        f"{path}: {specimen.name} at {box} may be no face, or its box is wrong: two predictions of it differ by "
        f"{specimen.mesh.doubt:.3f}, usual is below {DOUBT_LIMIT} (look at the crop, or give a box with --box)"
    )


def csv_row(specimen: Specimen, path: Path) -> dict:
    """A face's row of predictions.csv."""
    mesh = specimen.mesh
    row = {"name": specimen.name, "photo": path.name, "problem": "", "doubt": round(mesh.doubt, 4)}
    row |= {name: round(float(value), 2) for name, value in zip(("x0", "y0", "x1", "y1"), mesh.box, strict=True)}
    return row | {name: float(f"{value:.6g}") for name, value in zip(POSE_FIELDS, mesh.pose, strict=True)}


def csv_of(rows: list[dict]) -> str:
    """Rows as CSV; what a row lacks stays empty."""
    stream = io.StringIO()
    names = ["name", "photo", "problem", "doubt", "x0", "y0", "x1", "y1", *POSE_FIELDS]
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def timing_table(result: Predictions, workers: int) -> str:
    """ms a photo by stage, and photos a second."""
    count, seconds = max(1, result.photos), dict(result.seconds)
    total = seconds.pop("all")
    lines = [f"{stage:<12} {1000 * value / count:7.1f} ms a photo" for stage, value in seconds.items()]
    rate = f"{result.photos / max(total, 1e-9):.1f} photos/s: {result.photos} in {total:.1f} s"
    return "\n".join(
        [*lines, f"{rate}, {workers} process{'es' if workers > 1 else ''}, loading of the network included"]
    )
