"""Photos and films to meshes in files: what `p2m predict` and notebook 05 call."""

from __future__ import annotations

import csv
import logging
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np

from p2m_core.config.settings import SAVED, PredictConfig
from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh
from p2m_core.files import explain_unwritable, make_folder
from p2m_synth.parallel import map_jobs
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.photos.clip_files import ClipFiles
from p2m_workbench.photos.clips import ENDS_EARLY, FRAMES_PER_S, Clip, Follower, Frame
from p2m_workbench.photos.detect import FOUND_PX, BlazeFace
from p2m_workbench.photos.export import save_prediction
from p2m_workbench.photos.predict import MAX_FLIP_DISAGREEMENT, find_meshes, mesh_boxes, open_weights
from p2m_workbench.photos.read import Photo, find_photos, read_photo, same_file
from p2m_workbench.photos.result_files import Results, clip_files_of, files_of
from p2m_workbench.photos.table import (
    BOX_FIELDS,
    CLIP_FIELDS,
    POSE_FIELDS,
    TABLE_FIELDS,
    TABLE_FILE,
    open_table,
    write_table,
)

_log = logging.getLogger(__name__)


@dataclass
class Predictions:
    """The result of `predict_files`.

    predictions  the faces, unless keep is False      rows      one a face or failed photo, those of predictions.csv
    problems     a line for each photo that failed    warnings  a line for each face that looks like none
    seconds      by stage, summed over processes      kinds     of files that were written, "npz" for films
    photos, films, frames   how many there were, failed ones too; frames are those of films
    clips        a line for each film, whose faces are neither in predictions nor in rows
    row_files    tables of the films' rows, which are deleted when predictions.csv is written
    identities   of the predictions, where the photos are frames
    moment       frame and time_s of a photo that is a frame
    """

    predictions: list[FacePrediction] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    photos: int = 0
    films: int = 0
    frames: int = 0
    clips: list[str] = field(default_factory=list)
    row_files: list[Path] = field(default_factory=list)
    identities: list[int] = field(default_factory=list)
    moment: dict[str, float] = field(default_factory=dict)

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
        self.rows.append({"photo": photo.label, "problem": str(error)} | self.moment)

    def add(self, other: Predictions) -> None:
        """Append another's photos to these."""
        for name in ("predictions", "rows", "problems", "warnings", "clips", "row_files"):
            getattr(self, name).extend(getattr(other, name))
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.kinds |= other.kinds
        for name in ("photos", "films", "frames"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


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
    predicted into the same folder before are kept. Where nothing can be predicted, nothing is written: neither a folder
    nor a predictions.csv, but in one that is there already the problems are noted.

    Args:    photos: see `find_photos`.   boxes: (K, 4) or (4,), as for `predict`, for a single photo or the first
             frame of a single film.
             settings: save says which files; workers > 1 shares the photos among processes; video takes the photos
             for consecutive frames.   keep: False for thousands of photos, which would fill the memory.
    Raises:  InputError, before the first photo, if a file to be written is one of the photos, another photo's, or there
             already without being a result of an earlier call, or the folder holds a predictions.csv of something else.
    """
    out, settings, found = Path(out), settings or PredictConfig(), find_photos(photos)
    if settings.frame != "photo" and "camera" not in settings.save:  # or nothing leads these meshes to their photo
        settings = settings.model_copy(update={"save": (*settings.save, "camera")})
    if boxes is not None and len(found) != 1:
        raise InputError("--box", "", f"is given with {len(found)} photos", "give boxes with one photo at a time")
    table = out / TABLE_FILE
    # What is wrong with the table is said before the work.
    others = {row["name"]: row["photo"] for row in open_table(table)} if "csv" in settings.save else {}
    for photo in found:
        if (other := others.get(photo.name, photo.label)) != photo.label:
            problem = f"has the name of {other}, whose results are in {out} and would be replaced"
            raise InputError(photo.path, "", problem, "rename it, or choose another --out")
    model = open_weights(settings.weights, device, settings.precision)  # what is wrong with them is said once
    inputs = frozenset(photo.path.resolve() for photo in found)
    results = Results(out, inputs)
    _check_names(found, results, settings.save, len(model.template.counts))
    start, total = time.perf_counter(), Predictions()
    with _scratch_in(out) as scratch:
        job = _Job(found, results, out, scratch, boxes, settings, device, keep)
        frames = [index for index, photo in enumerate(found) if settings.video and not photo.is_clip]
        others = sorted(set(range(len(found))) - set(frames))
        done = list(map_jobs(job.write, job.frames(frames), 1, "frames", len(frames))) if frames else []
        if len(others) == 1:
            done.append(job.photo(others[0]))
        elif others:
            done += map_jobs(job.photo, others, settings.workers, "photos")
        for _, result in sorted(done, key=itemgetter(0)):
            total.add(result)
        total.seconds["all"] = time.perf_counter() - start
        for line in [*total.problems, *total.warnings]:
            _log.warning("%s", line)
        predicted = total.clips or any(row.get("name") for row in total.rows)
        if "csv" in settings.save and (predicted or table.is_file()):
            write_table(table, {photo.label for photo in found}, total.rows, total.row_files)
            total.kinds.add("csv")
    return total


@contextmanager
def _scratch_in(out: Path) -> Iterator[Path]:
    """A folder for what is unfinished, in another one, which is made where it is missing and goes where it stays
    empty."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    make_folder(out)
    try:
        with explain_unwritable(out), tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=out) as scratch:
            yield Path(scratch)
    finally:
        inside = [Path(folder) for folder, _, _ in os.walk(out, topdown=False)] if made else []
        for folder in [*inside, *made[1:]]:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _check_names(photos: Sequence[Photo], results: Results, kinds: Sequence[str], levels: int) -> None:
    """Raise InputError if what is written for the first face of a photo is a photo, another photo's, or no result of
    an earlier call."""
    names = {
        photo: clip_files_of(photo.name, kinds) if photo.is_clip else files_of(photo.name, kinds, levels)
        for photo in photos
    }
    count = Counter(same_file(file) for files in names.values() for file in files)
    out = results.folder
    for photo, files in names.items():
        for file in files:
            if (out / file).resolve() in results.photos:
                problem = f"would be replaced by a result of {photo.path.name}"
                as_result = "leave it out, as is done where its folder is named, or " * (out / file in results.records)
                raise InputError(out / file, "", problem, f"{as_result}choose another --out")
            if count[same_file(file)] > 1:
                problem = f"would be written twice, for {photo.path.name} and another photo"
                raise InputError(out / file, "", problem, "rename one of them, or predict it into another folder")
    for clip in (photo for photo in photos if photo.is_clip):
        start = same_file(f"{clip.name}-face")
        if alike := [photo for photo in photos if same_file(photo.name).startswith(start)]:
            problem = f"is called as a face of {clip.path.name}"
            raise InputError(alike[0].path, "", problem, "rename one of them, or predict it into another folder")
    results.check(file for files in names.values() for file in files)


@dataclass(frozen=True)
class _Job:
    """The arguments of `predict_files`, for the processes that share the photos. Results go by a photo's index."""

    photos: list[Photo]
    results: Results
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
            yield self.predict(index, follower, k)

    def predict(self, index: int, follower: Follower | None = None, frame: int = 0) -> tuple[int, Predictions]:
        """The faces of a photo, found, followed or in boxes."""
        photo, settings, result = self.photos[index], self.settings, Predictions(photos=1)
        if follower is not None:
            result.moment = {"frame": frame, "time_s": round(frame / FRAMES_PER_S, 4)}
        try:
            model = open_weights(settings.weights, self.device, settings.precision)
            with result.timed("read"):
                pixels = read_photo(photo.path, of_object=model.config.camera == "perspective")
            if follower is not None:
                with result.timed("follow faces"):
                    faces = follower(pixels, frame / FRAMES_PER_S, self._boxes_in(pixels))
                meshes, result.identities = [mesh for _, mesh in faces], [identity for identity, _ in faces]
            elif self.boxes is None:
                meshes = find_meshes(
                    model, pixels, settings.flip, settings.passes, BlazeFace(settings.min_face), timed=result.timed
                )
                # The mesh network's own search knows no sizes.
                meshes = [mesh for mesh in meshes if np.ptp(mesh.box.reshape(2, 2), 0).max() >= settings.min_face]
            else:
                with result.timed("network"):
                    meshes = mesh_boxes(model, pixels, self._boxes_in(pixels), settings.flip, settings.passes)
            if not meshes:
                raise self._no_face(photo, *pixels.shape[:2])
            names = self.names(photo.name, len(meshes))
            result.predictions = [FacePrediction(name, mesh, pixels) for name, mesh in zip(names, meshes, strict=True)]
        except Exception as error:  # one bad photo costs neither the others nor the table
            result.fail(photo, error)
        return index, result

    def _boxes_in(self, pixels: np.ndarray) -> np.ndarray | None:
        """The boxes that were given.   Raises InputError if one lies outside the picture."""
        height, width = pixels.shape[:2]
        for x0, y0, x1, y1 in np.reshape([] if self.boxes is None else self.boxes, (-1, 4)):
            if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
                problem = f"lies outside the picture, which has {width} x {height} px"
                raise InputError(
                    "--box", f"{x0:g},{y0:g},{x1:g},{y1:g}", problem, "give it in px of the upright picture"
                )
        return self.boxes

    def _no_face(self, photo: Photo, height: int, width: int) -> InputError:
        """The error of a photo in which no face is found, with what may help."""
        least = self.settings.min_face
        if min(height, width) < FOUND_PX:
            return InputError(
                photo.path, "", f"no face found in {width} x {height} px",
                f"take a larger picture: faces of {FOUND_PX} px or more are found",
            )  # fmt: skip
        box = "its box with --box x0,y0,x1,y1"
        remedy = f"give {box}" if len(self.photos) == 1 else f"predict it alone, and give {box}"
        if least:
            remedy = f"ask for smaller ones with a smaller --min-face, or {remedy}"
        return InputError(photo.path, "", f"no face found{f' of {least} px or more' if least else ''}", remedy)

    def clip(self, index: int) -> tuple[int, Predictions]:
        """Predict a film and write its files: all of them, or none."""
        photo, settings, result = self.photos[index], self.settings, Predictions(films=1)
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
                        boxes = self._boxes_in(frame.pixels) if frame.index == 0 else None
                        faces = follower(frame.pixels, frame.time_s, boxes)
                    with result.timed("write files"):
                        files.add(frame, faces)
                    for identity, mesh in faces:
                        people[identity] += 1
                        doubted[identity] += mesh.doubt > MAX_FLIP_DISAGREEMENT
                        moment = dict(zip(CLIP_FIELDS, (frame.index, round(frame.time_s, 4), identity), strict=True))
                        table.writerow(_row(f"{photo.name}-face{identity}", photo, mesh) | moment)
                    result.frames += 1

                for _ in map_jobs(step, clip, 1, photo.path.name, clip.promised or None):
                    pass
            if not people:
                remedy = "name a film of faces, or give the box of one in its first frame with --box x0,y0,x1,y1"
                raise InputError(photo.path, "", f"no face found in {result.frames} frames", remedy)
            with result.timed("write files"):
                written = files.finish(self.results)
            result.row_files.append(self.scratch / f"{index}.csv")
            result.clips.append(f"{photo.label}: {result.frames} frames, {len(people)} face(s); {', '.join(written)}")
            result.kinds |= files.saved
            if result.frames < ENDS_EARLY * clip.promised:
                ends = f"ends after {result.frames} of the {clip.promised} frames that it says it has"
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
                    saved = save_prediction(self.out, prediction, self.settings.save, self.results, self.settings.frame)
                result.kinds.update(saved)
                identity = {"identity": result.identities[k]} if result.identities else {}
                result.rows.append(_row(prediction.name, photo, prediction.mesh) | result.moment | identity)
                if prediction.mesh.doubt > MAX_FLIP_DISAGREEMENT:
                    result.warnings.append(_warning(prediction, photo.path, self.boxes is not None))
                if self.keep:
                    result.predictions.append(prediction)
        except Exception as error:
            result.fail(photo, error)
        return index, result


def _warning(prediction: FacePrediction, path: Path, given: bool) -> str:
    """The line for a face whose flip disagreement is large; given: its box was."""
    box = ",".join(f"{x:.0f}" for x in prediction.mesh.box)
    return (
        f"{path}: {prediction.name} at {box} may be no face, or its box is wrong: two predictions of it differ by "
        f"{prediction.mesh.doubt:.3f}, usual is below {MAX_FLIP_DISAGREEMENT} "
        f"(look at the crop, or give {'another box' if given else 'a box with --box'})"
    )


def _row(name: str, photo: Photo, mesh: FaceMesh) -> dict:
    """A face's row of predictions.csv."""
    row = {"name": name, "photo": photo.label, "problem": "", "doubt": round(mesh.doubt, 4)}
    row |= {name: round(float(value), 2) for name, value in zip(BOX_FIELDS, mesh.box, strict=True)}
    if mesh.pose is None:
        return row
    return row | {name: float(f"{value:.6g}") for name, value in zip(POSE_FIELDS, mesh.pose, strict=True)}


def summary(result: Predictions, out: str | Path) -> str:
    """How many photos and films there were and what came of them, in a line."""
    meshes = sum(not row["problem"] for row in result.rows)
    counts = {"photo": result.photos, "mesh": meshes, "film": result.films, "frame": result.frames}
    wanted = ("photo", "mesh") if not result.films else ("film", "frame") if not result.photos else tuple(counts)
    plural = {"mesh": "meshes"}
    parts = [f"{counts[word]} {word if counts[word] == 1 else plural.get(word, f'{word}s')}" for word in wanted]
    kinds = [kind for kind in ("npz", *SAVED) if kind in result.kinds]
    written = f"{out}: {', '.join(kinds)}" if kinds else "nothing written"
    return f"{', '.join(parts)}, {len(result.problems)} failed; {written}"


def timing_table(result: Predictions, workers: int) -> str:
    """ms a photo or frame by stage, and photos or frames a second."""
    number = result.photos + result.frames
    count, seconds = max(1, number), dict(result.seconds)
    total = seconds.pop("all")
    lines = [f"{stage:<12} {1000 * value / count:7.1f} ms a photo" for stage, value in seconds.items()]
    rate = f"{number / max(total, 1e-9):.1f} photos/s: {number} in {total:.1f} s"
    return "\n".join(
        [*lines, f"{rate}, {workers} process{'es' if workers > 1 else ''}, loading of the network included"]
    )
