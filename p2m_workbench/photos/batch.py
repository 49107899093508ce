"""Photos to meshes in files: what `p2m predict` and notebook 05 call."""

from __future__ import annotations

import csv
import io
import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from p2m_core.config.settings import PredictConfig
from p2m_core.errors import InputError
from p2m_core.face_mesh import FacePrediction
from p2m_core.files import write_text
from p2m_core.geometry.crop import box_of
from p2m_core.inference import open_network
from p2m_core.network.weights import weights_path
from p2m_core.parallel import map_jobs
from p2m_workbench.photos.export import POSE_FIELDS, save_prediction
from p2m_workbench.photos.predict import MAX_FLIP_DISAGREEMENT, find_meshes, is_unlikely, mesh_boxes
from p2m_workbench.photos.read import find_photos, read_photo

_log = logging.getLogger(__name__)


@dataclass
class Predictions:
    """What came of photos.

    predictions  the faces, unless they were not to be kept     rows      a dict a face or failed photo, as in the CSV
    problems   one line for each photo that failed            warnings  one line for each face that looks like none
    seconds    by stage, summed over photos and processes     photos    how many were looked at
    """

    predictions: list[FacePrediction] = field(default_factory=list)
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

    def fail(self, path: Path, error: InputError) -> None:
        """Note what is wrong with a photo."""
        self.problems.append(str(error))
        self.rows.append({"photo": path.name, "problem": str(error)})

    def add(self, other: Predictions) -> None:
        """Append another's photos to these."""
        for name in ("predictions", "rows", "problems", "warnings"):
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
    look = partial(_look, paths=paths, boxes=boxes, settings=settings, device=device)
    write = partial(_write, paths=paths, out=out, kinds=settings.save, keep=keep)
    start, done = time.perf_counter(), {}
    if settings.video:
        results = map_jobs(write, _follow(look, len(paths)), 1, "frames", len(paths))
    elif len(paths) == 1:
        results = [write(look(0))]
    else:
        results = map_jobs(
            partial(_look_and_write, look=look, write=write), range(len(paths)), settings.workers, "photos"
        )
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


def _look_and_write(index: int, look: partial, write: partial) -> tuple[int, Predictions]:
    if multiprocessing.parent_process() is not None:
        cv2.setNumThreads(1)  # a process a core: more threads only get in the way
    return write(look(index))


def _follow(look: partial, count: int) -> Iterator[tuple[int, Predictions]]:
    """Frames one after another: the faces of a frame are looked for where they were in the one before."""
    last: list[np.ndarray] = []
    for index in range(count):
        _, result = look(index, boxes=np.stack(last) if last else None)
        meshes = [prediction.mesh for prediction in result.predictions]
        lost = not meshes or any(is_unlikely(mesh) for mesh in meshes)
        last = [] if lost else [box_of(mesh.landmarks_px) for mesh in meshes]
        yield index, result


def _look(
    index: int, paths: list[Path], boxes: np.ndarray | None, settings: PredictConfig, device: str | None
) -> tuple[int, Predictions]:
    """The faces in one photo, as predictions."""
    path, result = paths[index], Predictions(photos=1)
    try:
        taken = {other.stem for other in paths[:index]}
        if path.stem in taken:
            raise InputError(path, "", f"another photo is called {path.stem}", "predict it into another folder")
        with result.timed("read"):
            photo = read_photo(path)
        model = open_network(settings.weights, device, settings.precision)
        if boxes is None:
            meshes = find_meshes(model, photo, settings.flip, settings.passes, settings.detector, result.timed)
        else:
            with result.timed("network"):
                meshes = mesh_boxes(model, photo, boxes, settings.flip, settings.passes)
        if not meshes:
            raise InputError(path, "", "no face found", "give its box with --box x0,y0,x1,y1")
        names = [path.stem + (f"-{k + 1}" if k else "") for k in range(len(meshes))]
        if clash := {other.stem for other in paths}.intersection(names[1:]):
            raise InputError(path, "", f"another photo is called {min(clash)}", "predict it into another folder")
        result.predictions = [FacePrediction(name, mesh, photo) for name, mesh in zip(names, meshes, strict=True)]
    except InputError as error:
        result.fail(path, error)
    return index, result


def _write(
    looked: tuple[int, Predictions], paths: list[Path], out: Path, kinds: Sequence[str], keep: bool
) -> tuple[int, Predictions]:
    """The files of one photo's faces, and their rows."""
    index, result = looked
    path, predictions, result.predictions = paths[index], result.predictions, []
    try:
        for prediction in predictions:
            with result.timed("write files"):
                save_prediction(out, prediction, kinds)
            result.rows.append(csv_row(prediction, path))
            if prediction.mesh.doubt > MAX_FLIP_DISAGREEMENT:
                result.warnings.append(doubt_line(prediction, path))
            if keep:
                result.predictions.append(prediction)
    except InputError as error:
        result.fail(path, error)
    return index, result


def doubt_line(prediction: FacePrediction, path: Path) -> str:
    """The warning for a face that looks like none."""
    box = ",".join(f"{x:.0f}" for x in prediction.mesh.box)
    return (
        f"{path}: {prediction.name} at {box} may be no face, or its box is wrong: two predictions of it differ by "
        f"{prediction.mesh.doubt:.3f}, usual is below {MAX_FLIP_DISAGREEMENT} "
        "(look at the crop, or give a box with --box)"
    )


def csv_row(prediction: FacePrediction, path: Path) -> dict:
    """A face's row of predictions.csv."""
    mesh = prediction.mesh
    row = {"name": prediction.name, "photo": path.name, "problem": "", "doubt": round(mesh.doubt, 4)}
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
