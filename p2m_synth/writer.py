"""A synthetic data set in the format of AFLW2000-3D, in folders of SHARD_SIZE samples.

    SET/  recipe.json             what decides the bytes of the samples
          00000/                  a shard: samples 0 to 999
              image00001.jpg      with image00001_mask.png and, last, image00001.mat
              attributes.csv      a row a sample; written when all of the shard's are there

A sample depends on the recipe and its index alone, and a shard on nothing outside it: any process on any machine may
write it, and folders of one recipe are merged by copying.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from threadpoolctl import ThreadpoolController

from p2m_core.config.paths import resolve
from p2m_core.config.settings import SynthConfig
from p2m_core.data.aflw2000 import MASK_SUFFIX
from p2m_core.errors import InputError
from p2m_core.files import write_text
from p2m_core.geometry.camera import pose_para_from_similarity, rotation_from_angles
from p2m_core.geometry.crop import box_of
from p2m_core.geometry.similarity import umeyama
from p2m_synth.head.head_mesh import load_head_mesh
from p2m_synth.head.head_model import VERSION as FACE_MODEL_VERSION
from p2m_synth.parallel import map_jobs
from p2m_synth.person import Overrides, Person, draw_person
from p2m_synth.recipe import keep_recipe
from p2m_synth.render.background import own_pictures
from p2m_synth.render.renderer import FACE_SEEN, Picture, render
from p2m_synth.sample_files import read_attributes, write_sample
from p2m_synth.scene.elements import Camera

VERSION = 7  # raise it when the same recipe gives other files
SHARD_SIZE = 1000
RECIPE_FILE, TABLE_FILE = "recipe.json", "attributes.csv"
DISTANCE_UM = (0.5e6, 5e6)  # of the camera, where pictures are taken in perspective: a selfie to a portrait from afar
EVEN_RANGE = (-2.8, 2.8)  # of sum and difference of pitch and roll where they are drawn evenly, in their deviations
YAW_BINS_DEG = ((0, 30), (30, 60), (60, 90))
YAW_SHARES = {"aflw2000": (0.656, 0.1915, 0.1525), "uniform": (1 / 3, 1 / 3, 1 / 3), "between": (0.5, 0.26, 0.24)}


@dataclass(frozen=True)
class Recipe:
    """What decides the bytes of a sample besides its index: the settings of SynthConfig of these names."""

    size_px: int = 224
    seed: int = 0
    yaw: str = "aflw2000"
    perspective: float = 0.0
    even: float = 0.0
    backgrounds: Path | None = None

    @classmethod
    def of(cls, synth: SynthConfig) -> Recipe:
        """The part of the settings that decides the samples."""
        folder = synth.backgrounds and resolve(synth.backgrounds)
        return cls(synth.size_px, synth.seed, synth.yaw, synth.perspective, synth.even, folder)

    def described(self) -> dict[str, object]:
        """What recipe.json holds; the names and sizes of the pictures, not where they lie, stand for backgrounds."""
        return {
            "seed": self.seed, "size_px": self.size_px, "yaw": self.yaw, "perspective": self.perspective,
            "even": self.even, "backgrounds": self.backgrounds and pictures_key(own_pictures(self.backgrounds)),
            "generator": VERSION, "face_model": FACE_MODEL_VERSION,
        }  # fmt: skip


def pictures_key(paths: tuple[Path, ...]) -> str:
    """A text that differs where names or sizes of pictures do."""
    listing = json.dumps([(path.name, path.stat().st_size) for path in paths])
    return f"{len(paths)} pictures, {hashlib.sha256(listing.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Draw:
    """All that is drawn for one sample before it is rendered; `rng` decides the rest."""

    person: Person
    pose_para: np.ndarray
    camera: Camera
    face_px: np.ndarray
    jpeg_quality: int
    rng: np.random.Generator


def sample_name(index: int) -> str:
    """File name of a sample, from 0."""
    return f"image{index + 1:05d}"


def shard_name(index: int) -> str:
    """Folder name of the shard that a sample lies in."""
    return f"{index // SHARD_SIZE:05d}"


def draw_angles(rng: np.random.Generator, yaw: str, even: bool = False) -> np.ndarray:
    """Pitch, yaw, roll in radians; `yaw` names the shares of the yaw bins (AFLW2000-3D's, equal, or between).

    Pitch and roll spread as those of AFLW2000-3D's landmarks do. Towards 90 degrees of yaw both turn the head about
    the same axis: their difference stays small, while their sum means little and grows. `even`: both within a range,
    drawn evenly.
    """
    low, high = YAW_BINS_DEG[rng.choice(3, p=YAW_SHARES[yaw])]
    side, turn = rng.choice([-1, 1]), rng.uniform(low, high)
    spreads = min(20 / np.cos(np.radians(turn)), 70), 16 - 0.08 * turn
    total, difference = (-6, -4) + spreads * (rng.uniform(*EVEN_RANGE, 2) if even else rng.standard_normal(2))
    pitch, roll = np.clip([(total + difference) / 2, side * (total - difference) / 2], -75, 75)
    return np.radians([pitch, side * turn, roll])


def draw_sample(recipe: Recipe, index: int, overrides: Overrides | None = None) -> Draw:
    """The draws of sample `index`, the same whatever came before."""
    rng, model = np.random.default_rng([recipe.seed, index]), load_head_mesh().model
    even = recipe.even > 0 and bool(rng.spawn(1)[0].random() < recipe.even)
    angles = draw_angles(rng, recipe.yaw, even)
    if overrides and overrides.yaw_deg is not None:
        angles[1] = np.radians(overrides.yaw_deg)
    if overrides and overrides.pitch_deg is not None:
        angles[0] = np.radians(overrides.pitch_deg)
    person = draw_person(rng, model, overrides, even, to_camera=rotation_from_angles(angles)[2])
    near = recipe.perspective == 1 or (recipe.perspective > 0 and bool(rng.spawn(1)[0].random() < recipe.perspective))
    distance_um = float(np.exp(rng.uniform(*np.log(DISTANCE_UM)))) if near else None
    face = model.face_map @ person.vertices
    pose_para = place_face(face, angles, recipe.size_px, rng)
    camera = Camera(pose_para, recipe.size_px, distance_um)
    face_px = camera.to_px(face @ rotation_from_angles(angles).T)
    if distance_um is not None:
        # The files know no perspective: their pose is the similarity that comes nearest to it.
        pose_para = pose_para_from_similarity(*umeyama(face, face_px * [1, -1, 1]), recipe.size_px)
    return Draw(person, pose_para, camera, face_px, int(rng.integers(75, 97)), rng)


def place_face(face: np.ndarray, angles: np.ndarray, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """Pose_Para (7,) of a face (V, 3) so turned, in the middle of the picture with room for the crop's margin."""
    extent = box_of(face @ rotation_from_angles(angles).T)
    scale = rng.uniform(0.46, 0.62) * size_px / max(extent[2] - extent[0], extent[3] - extent[1])
    place = (size_px + 1) / 2 + rng.normal(0, 0.02 * size_px, 2) - scale * (extent[:2] + extent[2:]) / 2
    return np.concatenate([angles, place, [0, scale]])


def take_picture(draw: Draw, recipe: Recipe, overrides: Overrides | None = None) -> Picture:
    """The picture of a draw."""
    return render(load_head_mesh(), draw.person, draw.camera, draw.rng, recipe.backgrounds, overrides)


def attributes(recipe: Recipe, index: int, draw: Draw, picture: Picture) -> dict[str, object]:
    """One row of attributes.csv; `visible` is the seen share of the face's pixels, `hidden` lists landmarks from 0.

    Age, ancestry and weight are the shape's; sex, melanin and hair are what one sees, which may be somebody else's.
    """
    person, look, angles = draw.person, draw.person.look, np.degrees(draw.pose_para[:3]).round(2).tolist()
    ancestry = dict(zip(("african", "asian", "caucasian"), person.identity.ancestry.round(3).tolist(), strict=True))
    seen, hidden = (picture.mask == FACE_SEEN).sum(), (picture.mask > 0).sum()
    return {
        "name": sample_name(index), "seed": recipe.seed, "index": index,
        "pitch_deg": angles[0], "yaw_deg": angles[1], "roll_deg": angles[2],
        "distance_m": draw.camera.distance_um and round(draw.camera.distance_um / 1e6, 3),
        "age": round(person.identity.age, 3), "woman": int(look.woman), "melanin": round(look.melanin, 3), **ancestry,
        "weight": round(person.identity.weight, 3), "expression": person.preset,
        "mouth_open": round(person.units["jawOpen"], 3), "blink": round(person.units["eyeBlinkLeft"], 3),
        "hair": look.hair.name, "cut": look.hair.cut, "beard": look.beard.name, "stubble": round(look.beard.stubble, 3),
        "lipstick": round(look.lipstick, 3), "freckles": round(look.freckles, 3),
        "glasses": look.wear.glasses, "headwear": look.wear.headwear, "mask": look.wear.mask,
        "earrings": look.wear.earrings, **picture.facts,
        "visible": round(float(seen / max(hidden, 1)), 3), "hidden": " ".join(map(str, np.flatnonzero(picture.hidden))),
    }  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One sample to write into the folder of its shard."""

    folder: Path
    index: int
    recipe: Recipe


@cache
def thread_pools() -> ThreadpoolController:
    """The thread pools of the loaded linear algebra libraries."""
    return ThreadpoolController()


@contextmanager
def one_cv_thread() -> Iterator[None]:
    """Let OpenCV, whose threads `thread_pools` does not know, work on one."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


_one_at_a_time = threading.Lock()


def write_one(job: Job) -> tuple[int, dict[str, object]]:
    """Draw one sample, render and write it unless it is there; its index and its row of attributes."""
    if not (job.folder.parent / RECIPE_FILE).exists():
        problem = "is not what it is where the command runs"
        raise InputError(job.folder.parent, "", problem, "choose a folder that all machines of the cluster share")
    # Several threads add up in another order than one: the last digits, and so the bytes, would differ. The limit
    # holds for the whole process, so that the threads of a Dask worker have to take turns.
    with _one_at_a_time, thread_pools().limit(limits=1), one_cv_thread():
        return job.index, write_on_one_thread(job)


def write_on_one_thread(job: Job) -> dict[str, object]:
    """`write_one` on one thread."""
    name = sample_name(job.index)
    if all((job.folder / f"{name}{suffix}").exists() for suffix in (".mat", ".jpg", MASK_SUFFIX)):
        return read_attributes(job.folder / f"{name}.mat")
    draw = draw_sample(job.recipe, job.index)
    picture = take_picture(draw, job.recipe)
    row = attributes(job.recipe, job.index, draw, picture)
    write_sample(
        job.folder, name, picture.image, draw.jpeg_quality, draw.pose_para, draw.person.shape, draw.person.expression,
        draw.face_px[load_head_mesh().model.landmark_idx], box_of(draw.face_px), picture.mask, picture.hidden, row,
    )  # fmt: skip
    return row


def write_dataset(synth: SynthConfig) -> Path:
    """Write synthetic faces; what is there already is kept, so a stopped run goes on.

    The same bytes whatever the workers, and whichever machines write which range of indices.

    Args:    synth: the settings, e.g. SynthConfig(out="data/raw/faces", count=500).
    Returns: the set's folder, as the head of this module shows it.
    Raises:  InputError if the folder holds a set of another recipe, or `start` lies within a shard.
    """
    out, recipe = resolve(synth.out), Recipe.of(synth)
    if odd := synth.start % SHARD_SIZE:
        remedy = f"choose {synth.start - odd} or {synth.start - odd + SHARD_SIZE}"
        raise InputError(out, "start", f"is {synth.start}, not a multiple of {SHARD_SIZE}", remedy)
    keep_recipe(out / RECIPE_FILE, recipe.described(), {"even": 0.0})
    load_head_mesh()  # builds the face model once, before any worker asks for it
    end = synth.start + synth.count
    shards = {
        out / shard_name(first): range(first, min(first + SHARD_SIZE, end))
        for first in range(synth.start, end, SHARD_SIZE)
    }
    shards = {folder: indices for folder, indices in shards.items() if rows_of(folder) < len(indices)}
    jobs = (Job(folder, index, recipe) for folder, indices in shards.items() for index in indices)
    unwritten: dict[Path, dict[int, dict[str, object]]] = {}  # rows of the shards in work: one or two, however many
    total = sum(map(len, shards.values()))
    for index, row in map_jobs(write_one, jobs, synth.workers, "faces", total, synth.scheduler):
        folder = out / shard_name(index)
        rows = unwritten.setdefault(folder, {})
        rows[index] = row
        if len(rows) == len(shards[folder]):
            write_table(folder, unwritten.pop(folder))
    return out


def rows_of(folder: Path) -> int:
    """How many samples the table of a shard lists, 0 where it has none."""
    path = folder / TABLE_FILE
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


def write_table(folder: Path, rows: dict[int, dict[str, object]]) -> None:
    """Write the attributes.csv of a shard whose samples are all there."""
    for left in folder.glob(".*.partial.*"):  # of a run that was killed
        left.unlink(missing_ok=True)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(next(iter(rows.values()))), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[index] for index in sorted(rows))
    write_text(folder / TABLE_FILE, table.getvalue())
