"""Photos to meshes in files: what `p2m predict` and notebook 05 call."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np

from p2m_core.config.settings import PredictConfig
from p2m_core.errors import InputError
from p2m_core.files import write_text
from p2m_core.geometry.crop import box_of
from p2m_core.inference import open_network
from p2m_core.network.weights import weights_path
from p2m_synth.parallel import map_jobs
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.photos.export import POSE_FIELDS, save_prediction
from p2m_workbench.photos.predict import MAX_FLIP_DISAGREEMENT, find_meshes, is_unlikely, mesh_boxes
from p2m_workbench.photos.read import find_photos, read_photo

BOX_FIELDS = ("x0", "y0", "x1", "y1")
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

    def fail(self, path: Path, error: InputError) -> None:
        """Record that a photo failed."""
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
    """Predict photos and write the files of each face that settings.save names: `export.SAVERS` lists them.

    Files are named after the photo, with -2, -3 ... for further faces; a photo that fails leaves none.

    Args:    photos: see `find_photos`.   boxes: as for `predict`, for a single photo.
             settings: save says which files; workers > 1 shares the photos among processes; video takes the photos
             for consecutive frames.   keep: False for thousands of photos, which would fill the memory.
    """
    out, settings, paths = Path(out), settings or PredictConfig(), find_photos(photos)
    if boxes is not None and len(paths) != 1:
        raise InputError("--box", "", f"is given with {len(paths)} photos", "give boxes with one photo at a time")
    weights_path(settings.weights)  # says once, not for each photo, that there are none
    job, start = _Job(paths, out, boxes, settings, device, keep), time.perf_counter()
    if settings.video:
        results = list(map_jobs(job.write, job.frames(), 1, "frames", len(paths)))
    elif len(paths) == 1:
        results = [job.photo(0)]
    else:
        results = list(map_jobs(job.photo, range(len(paths)), settings.workers, "photos"))
    total = Predictions()
    for _, result in sorted(results, key=itemgetter(0)):
        total.add(result)
    total.seconds["all"] = time.perf_counter() - start
    for line in [*total.problems, *total.warnings]:
        _log.warning("%s", line)
    if "csv" in settings.save and total.rows:
        write_text(out / "predictions.csv", _csv(total.rows))
    return total


@dataclass(frozen=True)
class _Job:
    """The arguments of `predict_files`, for the processes that share the photos. Results go by a photo's index."""

    paths: list[Path]
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
        for index in range(len(self.paths)):
            _, result = self.predict(index, np.stack(last) if last else None)
            meshes = [prediction.mesh for prediction in result.predictions]
            lost = not meshes or any(is_unlikely(mesh) for mesh in meshes)
            last = [] if lost else [box_of(mesh.landmarks_px) for mesh in meshes]
            yield index, result

    def predict(self, index: int, boxes: np.ndarray | None) -> tuple[int, Predictions]:
        """The faces of a photo, found or in boxes."""
        path, settings, result = self.paths[index], self.settings, Predictions(photos=1)
        try:
            if path.stem in {other.stem for other in self.paths[:index]}:
                raise _name_clash(path, path.stem)
            with result.timed("read"):
                photo = read_photo(path)
            model = open_network(settings.weights, self.device, settings.precision)
            if boxes is None:
                meshes = find_meshes(model, photo, settings.flip, settings.passes, timed=result.timed)
            else:
                with result.timed("network"):
                    meshes = mesh_boxes(model, photo, boxes, settings.flip, settings.passes)
            if not meshes:
                raise InputError(path, "", "no face found", "give its box with --box x0,y0,x1,y1")
            names = [path.stem + (f"-{k + 1}" if k else "") for k in range(len(meshes))]
            if clash := {other.stem for other in self.paths}.intersection(names[1:]):
                raise _name_clash(path, min(clash))
            result.predictions = [FacePrediction(name, mesh, photo) for name, mesh in zip(names, meshes, strict=True)]
        except InputError as error:
            result.fail(path, error)
        return index, result

    def write(self, predicted: tuple[int, Predictions]) -> tuple[int, Predictions]:
        """Write the files of a photo's faces, and add their rows and warnings."""
        index, result = predicted
        path, predictions, result.predictions = self.paths[index], result.predictions, []
        try:
            for prediction in predictions:
                with result.timed("write files"):
                    save_prediction(self.out, prediction, self.settings.save)
                result.rows.append(_row(prediction, path))
                if prediction.mesh.doubt > MAX_FLIP_DISAGREEMENT:
                    result.warnings.append(_warning(prediction, path))
                if self.keep:
                    result.predictions.append(prediction)
        except InputError as error:
            result.fail(path, error)
        return index, result


def _name_clash(path: Path, stem: str) -> InputError:
    return InputError(path, "", f"another photo is called {stem}", "predict it into another folder")


def _warning(prediction: FacePrediction, path: Path) -> str:
    """The line for a face whose flip disagreement is large."""
    box = ",".join(f"{x:.0f}" for x in prediction.mesh.box)
    return (
        f"{path}: {prediction.name} at {box} may be no face, or its box is wrong: two predictions of it differ by "
        f"{prediction.mesh.doubt:.3f}, usual is below {MAX_FLIP_DISAGREEMENT} "
        "(look at the crop, or give a box with --box)"
    )


def _row(prediction: FacePrediction, path: Path) -> dict:
    """A face's row of predictions.csv."""
    mesh = prediction.mesh
    row = {"name": prediction.name, "photo": path.name, "problem": "", "doubt": round(mesh.doubt, 4)}
    row |= {name: round(float(value), 2) for name, value in zip(BOX_FIELDS, mesh.box, strict=True)}
    return row | {name: float(f"{value:.6g}") for name, value in zip(POSE_FIELDS, mesh.pose, strict=True)}


def _csv(rows: list[dict]) -> str:
    """Rows as CSV; what a row lacks stays empty."""
    import pandas as pd

    columns = ["name", "photo", "problem", "doubt", *BOX_FIELDS, *POSE_FIELDS]
    return pd.DataFrame(rows, columns=columns).to_csv(index=False, lineterminator="\n")


def timing_table(result: Predictions, workers: int) -> str:
    """ms a photo by stage, and photos a second."""
    count, seconds = max(1, result.photos), dict(result.seconds)
    total = seconds.pop("all")
    lines = [f"{stage:<12} {1000 * value / count:7.1f} ms a photo" for stage, value in seconds.items()]
    rate = f"{result.photos / max(total, 1e-9):.1f} photos/s: {result.photos} in {total:.1f} s"
    return "\n".join(
        [*lines, f"{rate}, {workers} process{'es' if workers > 1 else ''}, loading of the network included"]
    )
