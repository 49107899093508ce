"""A synthetic data set in the format of AFLW2000-3D."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController

from p2m_core.camera import box_of, model_to_image, rotation_from_angles
from p2m_core.data.aflw2000 import write_sample
from p2m_core.errors import InputError
from p2m_core.files import write_json, write_text
from p2m_core.jobs import map_jobs
from p2m_core.synthetic.appearance import Appearance, draw_appearance
from p2m_core.synthetic.canvas import load_canvas
from p2m_core.synthetic.expression import draw_expression
from p2m_core.synthetic.face_model import VERSION as FACE_MODEL_VERSION
from p2m_core.synthetic.identity import Identity, draw_identity
from p2m_core.synthetic.renderer import render

VERSION = 1  # raise it when the same seed gives another picture
YAW_BINS_DEG = ((0, 30), (30, 60), (60, 90))
YAW_SHARES = {"aflw2000": (0.656, 0.1915, 0.1525), "uniform": (1 / 3, 1 / 3, 1 / 3), "between": (0.5, 0.26, 0.24)}


@dataclass(frozen=True)
class Draw:
    """All that is drawn for one sample before it is rendered."""

    identity: Identity
    preset: str
    appearance: Appearance
    shape: np.ndarray
    expression: np.ndarray
    pose: np.ndarray
    face_px: np.ndarray
    jpeg_quality: int
    rng: np.random.Generator


def sample_name(index: int) -> str:
    """File name of a sample, from 0."""
    return f"image{index + 1:05d}"


def draw_angles(rng: np.random.Generator, yaw: str) -> np.ndarray:
    """Pitch, yaw, roll in radians; `yaw` names the shares of the yaw bins (AFLW2000-3D's, equal, or between)."""
    low, high = YAW_BINS_DEG[rng.choice(3, p=YAW_SHARES[yaw])]
    yaw_deg = rng.uniform(low, high) * rng.choice([-1, 1])
    roll_deg = rng.normal(0, 9 + 0.12 * abs(yaw_deg))
    return np.radians([np.clip(rng.normal(-4, 10), -40, 35), yaw_deg, np.clip(roll_deg, -50, 50)])


def draw_sample(seed: int, index: int, size_px: int, yaw: str) -> Draw:
    """The draws of sample `index`, the same whatever came before."""
    rng, canvas = np.random.default_rng([seed, index]), load_canvas()
    identity = draw_identity(rng)
    preset, strengths = draw_expression(rng)
    look = draw_appearance(rng, identity)
    shape, expression = canvas.model.shape_of(identity), canvas.model.expression_of(strengths)
    angles = draw_angles(rng, yaw)
    face = canvas.model.face_map @ canvas.model.vertices(shape, expression)
    extent = box_of(face @ rotation_from_angles(angles).T)
    # The face's longer side over the picture's: room for the crop's margin around it.
    scale = rng.uniform(0.46, 0.62) * size_px / max(extent[2] - extent[0], extent[3] - extent[1])
    place = (size_px + 1) / 2 + rng.normal(0, 0.02 * size_px, 2) - scale * (extent[:2] + extent[2:]) / 2
    pose = np.concatenate([angles, place, [0, scale]])
    face_px = model_to_image(face, pose, size_px)
    return Draw(identity, preset, look, shape, expression, pose, face_px, int(rng.integers(75, 97)), rng)


def attributes(name: str, draw: Draw) -> dict[str, object]:
    """One row of attributes.csv."""
    look, angles = draw.appearance, np.degrees(draw.pose[:3]).round(2).tolist()
    return {
        "name": name, "pitch_deg": angles[0], "yaw_deg": angles[1], "roll_deg": angles[2],
        "age": round(draw.identity.age, 3), "woman": int(look.woman), "melanin": round(look.melanin, 3),
        "african": round(draw.identity.ancestry[0], 3), "asian": round(draw.identity.ancestry[1], 3),
        "caucasian": round(draw.identity.ancestry[2], 3), "expression": draw.preset, "hair": look.hair,
        "beard": round(look.beard, 3), "glasses": look.glasses,
    }  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One sample to write."""

    folder: Path
    index: int
    seed: int
    size_px: int
    yaw: str


@cache
def thread_pools() -> ThreadpoolController:
    """The thread pools of the linear algebra that is loaded."""
    return ThreadpoolController()


def write_one(job: Job) -> dict[str, object]:
    """Draw, render and write one sample, unless it is there; its row of attributes."""
    # Several threads add up in another order than one: the last digits, and so the bytes, would differ.
    with thread_pools().limit(limits=1):
        return write_one_alone(job)


def write_one_alone(job: Job) -> dict[str, object]:
    """`write_one` on one thread."""
    name = sample_name(job.index)
    draw = draw_sample(job.seed, job.index, job.size_px, job.yaw)
    if not all((job.folder / f"{name}{suffix}").exists() for suffix in (".jpg", ".mat")):
        canvas = load_canvas()
        image = render(canvas, draw.appearance, draw.shape, draw.expression, draw.pose, job.size_px, draw.rng)
        write_sample(
            job.folder,
            name,
            image,
            draw.jpeg_quality,
            draw.pose,
            draw.shape,
            draw.expression,
            draw.face_px[canvas.model.landmark_idx],
            box_of(draw.face_px),
        )
    return attributes(name, draw)


def write_dataset(
    out: str | Path, count: int, size_px: int = 224, seed: int = 0, workers: int = 1, yaw: str = "aflw2000"
) -> Path:
    """Write `count` synthetic faces to a folder; what is there already is kept, so a stopped run goes on.

    Each sample depends on seed and index alone: the same bytes whatever the workers.

    Args:    out: folder.   count: samples.   size_px: side of the pictures.   yaw: a name in YAW_SHARES.
    Returns: the folder, with image00001.jpg and .mat ..., attributes.csv, and dataset.json, written last.
    Raises:  InputError if the folder holds a set of another recipe.
    """
    out = Path(out)
    if yaw not in YAW_SHARES:
        raise InputError(out, "yaw", f"is {yaw!r}", f"choose one of {', '.join(YAW_SHARES)}")
    recipe = {"seed": seed, "size_px": size_px, "yaw": yaw, "generator": VERSION, "face_model": FACE_MODEL_VERSION}
    started = out / "recipe.json"
    if started.exists() and (found := json.loads(started.read_text())) != recipe:
        other = ", ".join(f"{key}={found.get(key)}" for key in recipe if found.get(key) != recipe[key])
        raise InputError(started, "", f"the folder holds a set made with {other}", "choose another folder or delete it")
    write_json(started, recipe)
    load_canvas()  # builds the face model once, before any worker asks for it
    jobs = [Job(out, index, seed, size_px, yaw) for index in range(count)]
    rows = sorted(map_jobs(write_one, jobs, workers, "faces"), key=lambda row: row["name"])
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "attributes.csv", table.getvalue())
    write_json(out / "dataset.json", {**recipe, "count": count})
    return out
