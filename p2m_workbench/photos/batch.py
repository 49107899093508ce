"""Photos and films to meshes in files: what `p2m predict` and notebook 05 call."""

from __future__ import annotations

import csv
import io
import logging
import multiprocessing
import tempfile
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
from p2m_core.face_mesh import FaceMesh
from p2m_core.files import atomic_path, decode_text, make_folder
from p2m_synth.parallel import map_jobs
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.photos.clip_files import ClipFiles, clip_files_of
from p2m_workbench.photos.clips import ENDS_EARLY, FRAMES_PER_S, Clip, Follower, Frame
from p2m_workbench.photos.detect import BlazeFace
from p2m_workbench.photos.export import POSE_FIELDS, files_of, save_prediction
from p2m_workbench.photos.predict import MAX_FLIP_DISAGREEMENT, find_meshes, mesh_boxes, open_weights
from p2m_workbench.photos.read import Photo, find_photos, read_photo, same_file

BOX_FIELDS = ("x0", "y0", "x1", "y1")
CLIP_FIELDS = ("frame", "time_s", "identity")  # of a film's faces
TABLE_FILE = "predictions.csv"
TABLE_FIELDS = ("name", "photo", "problem", "doubt", *BOX_FIELDS, *POSE_FIELDS, *CLIP_FIELDS)
_log = logging.getLogger(__name__)


@dataclass
class Predictions:
    """The result of `predict_files`.

    predictions  the faces, unless keep is False      rows      one a face or failed photo, those of predictions.csv
    problems     a line for each photo that failed    warnings  a line for each face that looks like none
    seconds      by stage, summed over processes      photos    how many were read, frames of films too
    clips        a line for each film, whose faces are neither in predictions nor in rows
    row_files    tables of the films' rows, which are deleted when predictions.csv is written
    identities   of the predictions, where the photos are frames
    """

    predictions: list[FacePrediction] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    photos: int = 0
    clips: list[str] = field(default_factory=list)
    row_files: list[Path] = field(default_factory=list)
    identities: list[int] = field(default_factory=list)

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
        for name in ("predictions", "rows", "problems", "warnings", "clips", "row_files"):
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
    not concern the others. Of a film `clip_files.ClipFiles` has the files. The rows of photos and films that were
    predicted into the same folder before are kept.

    Args:    photos: see `find_photos`.   boxes: (K, 4) or (4,), as for `predict`, for a single photo or the first
             frame of a single film.
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
    if "csv" in settings.save:
        _open_table(out / TABLE_FILE)  # what is wrong with it is said before the work
    model = open_weights(settings.weights, device, settings.precision)  # what is wrong with them is said once
    inputs = frozenset(photo.path.resolve() for photo in found)
    _check_names(found, out, settings.save, len(model.template.counts), inputs)
    make_folder(out)
    start, total = time.perf_counter(), Predictions()
    with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=out) as scratch:
        job = _Job(found, inputs, out, Path(scratch), boxes, settings, device, keep)
        frames = [index for index, photo in enumerate(found) if settings.video and not photo.is_clip]
        others = sorted(set(range(len(found))) - set(frames))
        results = list(map_jobs(job.write, job.frames(frames), 1, "frames", len(frames))) if frames else []
        if len(others) == 1:
            results.append(job.photo(others[0]))
        elif others:
            results += map_jobs(job.photo, others, settings.workers, "photos")
        for _, result in sorted(results, key=itemgetter(0)):
            total.add(result)
        total.seconds["all"] = time.perf_counter() - start
        for line in [*total.problems, *total.warnings]:
            _log.warning("%s", line)
        if "csv" in settings.save:
            _write_table(out / TABLE_FILE, {photo.label for photo in found}, total)
    return total


def _check_names(
    photos: Sequence[Photo], out: Path, kinds: Sequence[str], levels: int, inputs: frozenset[Path]
) -> None:
    """Raise InputError if what is written for the first face of a photo is a photo, or another photo's."""
    names = {
        photo: clip_files_of(photo.name, kinds) if photo.is_clip else files_of(photo.name, kinds, levels)
        for photo in photos
    }
    count = Counter(same_file(file) for files in names.values() for file in files)
    for photo, files in names.items():
        for file in files:
            if (out / file).resolve() in inputs:
                problem = f"would be replaced by a result of {photo.path.name}"
                raise InputError(out / file, "", problem, "choose another --out")
            if count[same_file(file)] > 1:
                problem = f"would be written twice, for {photo.path.name} and another photo"
                raise InputError(out / file, "", problem, "rename one of them, or predict it into another folder")
    for clip in (photo for photo in photos if photo.is_clip):
        start = same_file(f"{clip.name}-face")
        if alike := [photo for photo in photos if same_file(photo.name).startswith(start)]:
            problem = f"is called as a face of {clip.path.name}"
            raise InputError(alike[0].path, "", problem, "rename one of them, or predict it into another folder")


@dataclass(frozen=True)
class _Job:
    """The arguments of `predict_files`, for the processes that share the photos. Results go by a photo's index."""

    photos: list[Photo]
    inputs: frozenset[Path]
    out: Path
    scratch: Path
    boxes: np.ndarray | None
    settings: PredictConfig
    device: str | None
    keep: bool

    def photo(self, index: int) -> tuple[int, Predictions]:
        """Predict a photo or film and write its files."""
        if multiprocessing.parent_process() is not None:
            cv2.setNumThreads(1)  # a process a core: more threads only get in the way
        return self.clip(index) if self.photos[index].is_clip else self.write(self.predict(index))

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, Predictions]]:
        """Photos that are the frames of a film, their faces followed."""
        follower = Follower(open_weights(self.settings.weights, self.device, self.settings.precision), self.settings)
        for k, index in enumerate(indices):
            yield self.predict(index, follower, k / FRAMES_PER_S)

    def predict(self, index: int, follower: Follower | None = None, time_s: float = 0.0) -> tuple[int, Predictions]:
        """The faces of a photo, found, followed or in boxes."""
        photo, settings, result = self.photos[index], self.settings, Predictions(photos=1)
        try:
            model = open_weights(settings.weights, self.device, settings.precision)
            with result.timed("read"):
                pixels = read_photo(photo.path, of_object=model.config.camera == "perspective")
            if follower is not None:
                with result.timed("follow faces"):
                    faces = follower(pixels, time_s, self.boxes)
                meshes, result.identities = [mesh for _, mesh in faces], [identity for identity, _ in faces]
            elif self.boxes is None:
                meshes = find_meshes(
                    model, pixels, settings.flip, settings.passes, BlazeFace(settings.min_face), timed=result.timed
                )
                # The mesh network's own search knows no sizes.
                meshes = [mesh for mesh in meshes if np.ptp(mesh.box.reshape(2, 2), 0).max() >= settings.min_face]
            else:
                with result.timed("network"):
                    meshes = mesh_boxes(model, pixels, self.boxes, settings.flip, settings.passes)
            if not meshes:
                raise InputError(photo.path, "", "no face found", "give its box with --box x0,y0,x1,y1")
            names = self.names(photo.name, len(meshes))
            result.predictions = [FacePrediction(name, mesh, pixels) for name, mesh in zip(names, meshes, strict=True)]
        except Exception as error:  # one bad photo costs neither the others nor the table
            result.fail(photo, error)
        return index, result

    def clip(self, index: int) -> tuple[int, Predictions]:
        """Predict a film and write its files: all of them, or none."""
        photo, settings, result = self.photos[index], self.settings, Predictions()
        people, doubted, scratch = Counter[int](), Counter[int](), self.scratch / str(index)
        try:
            with Clip(photo.path) as clip, open(self.scratch / f"{index}.csv", "w", encoding="utf-8") as rows:
                table = csv.DictWriter(rows, TABLE_FIELDS, lineterminator="\n")
                table.writeheader()
                model = open_weights(settings.weights, self.device, settings.precision)
                follower = Follower(model, settings)
                files = ClipFiles(make_folder(scratch), self.out, photo.name, settings.save, clip.fps)

                def step(frame: Frame) -> None:
                    with result.timed("follow faces"):
                        faces = follower(frame.pixels, frame.time_s, self.boxes if frame.index == 0 else None)
                    with result.timed("write files"):
                        files.add(frame, faces)
                    for identity, mesh in faces:
                        people[identity] += 1
                        doubted[identity] += mesh.doubt > MAX_FLIP_DISAGREEMENT
                        moment = dict(zip(CLIP_FIELDS, (frame.index, round(frame.time_s, 4), identity), strict=True))
                        table.writerow(_row(f"{photo.name}-face{identity}", photo, mesh) | moment)
                    result.photos += 1

                for _ in map_jobs(step, clip, 1, photo.path.name, clip.promised or None):
                    pass
            if not people:
                remedy = "name a film of faces, or give the box of one in its first frame with --box x0,y0,x1,y1"
                raise InputError(photo.path, "", f"no face found in {result.photos} frames", remedy)
            with result.timed("write files"):
                written = [path.relative_to(self.out).as_posix() for path in files.finish(self.inputs)]
            result.row_files.append(self.scratch / f"{index}.csv")
            result.clips.append(f"{photo.label}: {result.photos} frames, {len(people)} face(s); {', '.join(written)}")
            if result.photos < ENDS_EARLY * clip.promised:
                ends = f"ends after {result.photos} of the {clip.promised} frames that it says it has"
                result.warnings.append(f"{photo.path}: {ends} (take the original file again)")
            for identity, count in (+doubted).items():
                share = f"in {count} of {people[identity]} frames"
                result.warnings.append(f"{photo.path}: face {identity} may be no face {share} (look at the overlay)")
        except Exception as error:
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
            for k, prediction in enumerate(predictions):
                with result.timed("write files"):
                    save_prediction(self.out, prediction, self.settings.save, self.inputs, self.settings.frame)
                identity = {"identity": result.identities[k]} if result.identities else {}
                result.rows.append(_row(prediction.name, photo, prediction.mesh) | identity)
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


def _row(name: str, photo: Photo, mesh: FaceMesh) -> dict:
    """A face's row of predictions.csv."""
    row = {"name": name, "photo": photo.label, "problem": "", "doubt": round(mesh.doubt, 4)}
    row |= {name: round(float(value), 2) for name, value in zip(BOX_FIELDS, mesh.box, strict=True)}
    if mesh.pose is None:
        return row
    return row | {name: float(f"{value:.6g}") for name, value in zip(POSE_FIELDS, mesh.pose, strict=True)}


def _open_table(path: Path) -> Iterator[dict]:
    """The rows of a predictions.csv, one by one; none where there is none.   Raises InputError if it is another one."""
    if not path.is_file():
        return iter(())
    try:
        text = io.StringIO(decode_text(path.read_bytes()))
        rows = csv.DictReader(text)
        names = set(rows.fieldnames or TABLE_FIELDS)
        for _ in rows:  # to its end, so that what is wrong is said before it is written over
            pass
        text.seek(0)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, "", f"cannot be read: {error}", "move it away, or choose another --out") from None
    if unlike := (names ^ set(TABLE_FIELDS)) - set(CLIP_FIELDS):  # which older tables lack
        problem = f"is no table of predictions: {min(unlike)} is in only one of them"
        raise InputError(path, "", problem, "move it away, or choose another --out")
    return csv.DictReader(text)


def _write_table(path: Path, again: set[str], result: Predictions) -> None:
    """Write a result as CSV, after the rows of other photos than these that the table has; what a row lacks stays
    empty. Films have many rows: they are in memory one by one."""
    before = (row for row in _open_table(path) if row["photo"] not in again)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, TABLE_FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(before)
        writer.writerows(result.rows)
        for rows in result.row_files:
            with open(rows, encoding="utf-8", newline="") as own:
                writer.writerows(csv.DictReader(own))


def timing_table(result: Predictions, workers: int) -> str:
    """ms a photo by stage, and photos a second."""
    count, seconds = max(1, result.photos), dict(result.seconds)
    total = seconds.pop("all")
    lines = [f"{stage:<12} {1000 * value / count:7.1f} ms a photo" for stage, value in seconds.items()]
    rate = f"{result.photos / max(total, 1e-9):.1f} photos/s: {result.photos} in {total:.1f} s"
    return "\n".join(
        [*lines, f"{rate}, {workers} process{'es' if workers > 1 else ''}, loading of the network included"]
    )
