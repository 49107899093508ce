"""Photos to meshes in files: what `p2m predict` and notebook 05 call."""

from __future__ import annotations

import csv
import io
import logging
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np

from p2m_core.config.settings import PredictConfig
from p2m_core.errors import InputError
from p2m_core.files import decode_text, make_folder, write_text
from p2m_core.geometry.crop import box_of
from p2m_synth.parallel import map_jobs
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.photos.export import POSE_FIELDS, files_of, save_prediction
from p2m_workbench.photos.predict import MAX_FLIP_DISAGREEMENT, find_meshes, is_unlikely, mesh_boxes, open_weights
from p2m_workbench.photos.read import Photo, find_photos, read_photo, same_file

BOX_FIELDS = ("x0", "y0", "x1", "y1")
TABLE_FILE, TABLE_FIELDS = "predictions.csv", ("name", "photo", "problem", "doubt", *BOX_FIELDS, *POSE_FIELDS)
_log = logging.getLogger(__name__)


@dataclass
class Predictions:
    """The result of `predict_files`.

    predictions  the faces, unless keep is False      rows      one a face or failed photo, those of predictions.csv
    problems     a line for each photo that failed    warnings  a line for each face that looks like none
    seconds      by stage, summed over processes      photos    how many were read
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

    def fail(self, photo: Photo, error: Exception) -> None:
        """Record that a photo failed; what is no fault of the user's is logged whole."""
        if not isinstance(error, InputError):
            _log.error("%s", photo.path, exc_info=error)
            problem = f"could not be predicted: {type(error).__name__}: {error}"
            error = InputError(photo.path, "", problem, "please report it; the other photos are not concerned")
        self.problems.append(str(error))
        self.rows.append({"photo": photo.label, "problem": str(error)})

    def add(self, other: Predictions) -> None:
        """Append another's photos to these."""
        for name in ("predictions", "rows", "problems", "warnings"):
            getattr(self, name).extend(getattr(other, name))
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.photos += other.photos


def predict_files(
    photos: str | Path | Sequence[str | Path],
    out: str | Path,
    boxes: np.ndarray | None = None,
    settings: PredictConfig | None = None,
    device: str | None = None,
    keep: bool = True,
) -> Predictions:
    """Predict photos and write the files of each face that settings.save names: `export.SAVERS` lists them.

    Files are named as `find_photos` says, with -2, -3 ... for further faces; a photo that fails leaves none and does
    not concern the others. The rows of photos that were predicted into the same folder before are kept.

    Args:    photos: see `find_photos`.   boxes: (K, 4) or (4,), as for `predict`, for a single photo.
             settings: save says which files; workers > 1 shares the photos among processes; video takes the photos
             for consecutive frames.   keep: False for thousands of photos, which would fill the memory.
    Raises:  InputError, before the first photo, if a file to be written is one of the photos or another photo's, or
             the folder holds a predictions.csv of something else.
    """
    out, settings, found = Path(out), settings or PredictConfig(), find_photos(photos)
    if settings.frame != "photo" and "camera" not in settings.save:  # or nothing leads these meshes to their photo
        settings = settings.model_copy(update={"save": (*settings.save, "camera")})
    if boxes is not None and len(found) != 1:
        raise InputError("--box", "", f"is given with {len(found)} photos", "give boxes with one photo at a time")
    before = _read_table(out / TABLE_FILE) if "csv" in settings.save else []
    model = open_weights(settings.weights, device, settings.precision)  # what is wrong with them is said once
    inputs = frozenset(photo.path.resolve() for photo in found)
    _check_names(found, out, settings.save, len(model.template.counts), inputs)
    make_folder(out)
    job, start = _Job(found, inputs, out, boxes, settings, device, keep), time.perf_counter()
    if settings.video:
        results = list(map_jobs(job.write, job.frames(), 1, "frames", len(found)))
    elif len(found) == 1:
        results = [job.photo(0)]
    else:
        results = list(map_jobs(job.photo, range(len(found)), settings.workers, "photos"))
    total = Predictions()
    for _, result in sorted(results, key=itemgetter(0)):
        total.add(result)
    total.seconds["all"] = time.perf_counter() - start
    for line in [*total.problems, *total.warnings]:
        _log.warning("%s", line)
    if "csv" in settings.save:
        again = {photo.label for photo in found}
        _write_table(out / TABLE_FILE, [row for row in before if row["photo"] not in again] + total.rows)
    return total


def _check_names(
    photos: Sequence[Photo], out: Path, kinds: Sequence[str], levels: int, inputs: frozenset[Path]
) -> None:
    """Raise InputError if what is written for the first face of a photo is a photo, or another photo's."""
    names = {photo: files_of(photo.name, kinds, levels) for photo in photos}
    count = Counter(same_file(file) for files in names.values() for file in files)
    for photo, files in names.items():
        for file in files:
            if (out / file).resolve() in inputs:
                problem = f"would be replaced by a result of {photo.path.name}"
                raise InputError(out / file, "", problem, "choose another --out")
            if count[same_file(file)] > 1:
                problem = f"would be written twice, for {photo.path.name} and another photo"
                raise InputError(out / file, "", problem, "rename one of them, or predict it into another folder")


@dataclass(frozen=True)
class _Job:
    """The arguments of `predict_files`, for the processes that share the photos. Results go by a photo's index."""

    photos: list[Photo]
    inputs: frozenset[Path]
    out: Path
    boxes: np.ndarray | None
    settings: PredictConfig
    device: str | None
    keep: bool

    def photo(self, index: int) -> tuple[int, Predictions]:
        """Predict a photo and write its files."""
        if multiprocessing.parent_process() is not None:
            cv2.setNumThreads(1)  # a process a core: more threads only get in the way
        return self.write(self.predict(index, self.boxes))

    def frames(self) -> Iterator[tuple[int, Predictions]]:
        """The frames of a video, predicted from the landmarks of the frame before; detected anew after a lost face."""
        last: list[np.ndarray] = []
        for index in range(len(self.photos)):
            _, result = self.predict(index, np.stack(last) if last else None)
            meshes = [prediction.mesh for prediction in result.predictions]
            lost = not meshes or any(mesh.pose is None or is_unlikely(mesh) for mesh in meshes)
            last = [] if lost else [box_of(mesh.landmarks_px) for mesh in meshes]
            yield index, result

    def predict(self, index: int, boxes: np.ndarray | None) -> tuple[int, Predictions]:
        """The faces of a photo, found or in boxes."""
        photo, settings, result = self.photos[index], self.settings, Predictions(photos=1)
        try:
            model = open_weights(settings.weights, self.device, settings.precision)
            with result.timed("read"):
                pixels = read_photo(photo.path, of_object=model.config.camera == "perspective")
            if boxes is None:
                meshes = find_meshes(model, pixels, settings.flip, settings.passes, timed=result.timed)
            else:
                with result.timed("network"):
                    meshes = mesh_boxes(model, pixels, boxes, settings.flip, settings.passes)
            if not meshes:
                raise InputError(photo.path, "", "no face found", "give its box with --box x0,y0,x1,y1")
            names = self.names(photo.name, len(meshes))
            result.predictions = [FacePrediction(name, mesh, pixels) for name, mesh in zip(names, meshes, strict=True)]
        except Exception as error:  # one bad photo costs neither the others nor the table
            result.fail(photo, error)
        return index, result

    def names(self, name: str, count: int) -> list[str]:
        """The names of a photo's faces: its own, and with numbers; with -face2 where a photo is called so."""
        taken = {same_file(photo.name) for photo in self.photos}
        numbered = [(f"{name}-{k}", f"{name}-face{k}") for k in range(2, count + 1)]
        return [name, *(long if same_file(short) in taken else short for short, long in numbered)]

    def write(self, predicted: tuple[int, Predictions]) -> tuple[int, Predictions]:
        """Write the files of a photo's faces, and add their rows and warnings."""
        index, result = predicted
        photo, predictions, result.predictions = self.photos[index], result.predictions, []
        try:
            for prediction in predictions:
                with result.timed("write files"):
                    save_prediction(self.out, prediction, self.settings.save, self.inputs, self.settings.frame)
                result.rows.append(_row(prediction, photo))
                if prediction.mesh.doubt > MAX_FLIP_DISAGREEMENT:
                    result.warnings.append(_warning(prediction, photo.path))
                if self.keep:
                    result.predictions.append(prediction)
        except Exception as error:
            result.fail(photo, error)
        return index, result


def _warning(prediction: FacePrediction, path: Path) -> str:
    """The line for a face whose flip disagreement is large."""
    box = ",".join(f"{x:.0f}" for x in prediction.mesh.box)
    return (
        f"{path}: {prediction.name} at {box} may be no face, or its box is wrong: two predictions of it differ by "
        f"{prediction.mesh.doubt:.3f}, usual is below {MAX_FLIP_DISAGREEMENT} "
        "(look at the crop, or give a box with --box)"
    )


def _row(prediction: FacePrediction, photo: Photo) -> dict:
    """A face's row of predictions.csv."""
    mesh = prediction.mesh
    row = {"name": prediction.name, "photo": photo.label, "problem": "", "doubt": round(mesh.doubt, 4)}
    row |= {name: round(float(value), 2) for name, value in zip(BOX_FIELDS, mesh.box, strict=True)}
    if mesh.pose is None:
        return row
    return row | {name: float(f"{value:.6g}") for name, value in zip(POSE_FIELDS, mesh.pose, strict=True)}


def _read_table(path: Path) -> list[dict]:
    """The rows of a predictions.csv, [] where there is none.   Raises InputError if it is another table."""
    if not path.is_file():
        return []
    try:
        reader = csv.DictReader(io.StringIO(decode_text(path.read_bytes())))
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, "", f"cannot be read: {error}", "move it away, or choose another --out") from None
    if unlike := set(reader.fieldnames or TABLE_FIELDS) ^ set(TABLE_FIELDS):
        problem = f"is no table of predictions: {min(unlike)} is in only one of them"
        raise InputError(path, "", problem, "move it away, or choose another --out")
    return rows


def _write_table(path: Path, rows: list[dict]) -> None:
    """Write rows as CSV; what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, TABLE_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def timing_table(result: Predictions, workers: int) -> str:
    """ms a photo by stage, and photos a second."""
    count, seconds = max(1, result.photos), dict(result.seconds)
    total = seconds.pop("all")
    lines = [f"{stage:<12} {1000 * value / count:7.1f} ms a photo" for stage, value in seconds.items()]
    rate = f"{result.photos / max(total, 1e-9):.1f} photos/s: {result.photos} in {total:.1f} s"
    return "\n".join(
        [*lines, f"{rate}, {workers} process{'es' if workers > 1 else ''}, loading of the network included"]
    )
