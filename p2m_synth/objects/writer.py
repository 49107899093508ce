"""Procedural objects in Pixel2Mesh's packed format: what the object version learns from where there is no ShapeNet.

    SET/  recipe.json  train.txt  test.txt            every fifth model is a test model
          data_tf/CATEGORY/MODEL/rendering/NN.png     137x137 RGBA, lit; transparent where there is no object
                                           NN.dat     pickle of (N, 6) float32: points on the whole surface, even by
                                                      area, and outward unit normals; metres, camera frame of the view
      y
      |    the object is about (0, 0, -0.8)
      +---x
     /     the camera at 0 looks along -z, f = 248 px at 224 px
    z

    python -m p2m_synth.objects.writer OUT [--models 20] [--views 3] [--seed 0] [--workers 1]

A view depends on seed, category, model and its own number alone; what is there already is kept.
"""

from __future__ import annotations

import argparse
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from p2m_core.config.paths import resolve
from p2m_core.errors import InputError
from p2m_core.files import atomic_path, write_bytes, write_text
from p2m_core.geometry.camera import perspective_to_px
from p2m_synth.objects.sdf_shapes import CATEGORIES, Field, Solid
from p2m_synth.parallel import map_jobs
from p2m_synth.recipe import keep_recipe
from p2m_synth.render.shaded_mesh import draw_mesh
from p2m_synth.scene.isosurface import surface_nets

VERSION = 1  # raise it when the same recipe gives other files
PICTURE_PX = 137
INPUT_PX, FOCAL_PX, OFFSET = 224, 248.0, (0.0, 0.0, -0.8)  # Pixel2Mesh's camera
RADIUS_M = (0.24, 0.30)  # of the sphere around an object: at 0.32 it would fill the picture
ELEVATION_DEG = (10.0, 35.0)
POINTS = (3000, 6000)
GRID_CELLS = 72  # along the longest side of an object


# --- meshes ---------------------------------------------------------------------------------------


def gradient(field: Field, points: np.ndarray, step: float) -> np.ndarray:
    """Central differences of a field, (N, 3) -> (N, 3)."""
    moves = step * np.eye(3)
    return np.stack([field(points + move) - field(points - move) for move in moves], 1) / (2 * step)


def onto_surface(field: Field, points: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) moved onto the surface near them, by `step` at most, and the outward unit normals there."""
    for _ in range(2):  # Newton's method
        slope = gradient(field, points, 0.02 * step)
        steepness = np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-9)
        normals, distance = slope / steepness, field(points)[:, None] / steepness
        points = points - np.clip(distance, -step / 2, step / 2) * normals
    return points, normals


@dataclass(frozen=True)
class Mesh:
    """A solid's surface in its units: vertices (V, 3), faces (F, 3) outwards, colors (V, 3); step: of the grid."""

    solid: Solid
    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray
    step: float

    @property
    def centre(self) -> np.ndarray:
        return (self.vertices.min(0) + self.vertices.max(0)) / 2

    @property
    def radius(self) -> float:
        return float(np.linalg.norm(self.vertices - self.centre, axis=1).max())

    def sample(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Random points on the surface, even by area, and outward unit normals: 2 x (count, 3)."""
        corners = self.vertices[self.faces]
        area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        chosen = corners[rng.choice(len(area), count, p=area / area.sum())]
        root, u = np.sqrt(rng.random(count)), rng.random(count)
        weights = np.stack([1 - root, root * (1 - u), root * u], 1)
        return onto_surface(self.solid.field, (chosen * weights[..., None]).sum(1), self.step)


def mesh_of(solid: Solid) -> Mesh:
    """The surface of a solid as a mesh."""
    half = np.array(solid.half)
    step = 2 * half.max() / GRID_CELLS
    counts = np.ceil(2 * half / step).astype(int) + 5  # two cells of air around it
    axes = [(np.arange(n) - (n - 1) / 2) * step for n in counts]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    vertices, faces = surface_nets(solid.field(grid.reshape(-1, 3)).reshape(grid.shape[:3]))
    vertices, _ = onto_surface(solid.field, vertices * step + grid[0, 0, 0], 0.5 * step)
    return Mesh(solid, vertices, faces, solid.colors(vertices), step)


# --- views ----------------------------------------------------------------------------------------


def view_rotation(azimuth_deg: float, elevation_deg: float) -> np.ndarray:
    """Object to camera axes (3, 3), for column vectors, of a camera that stands at an azimuth and looks down."""
    a, e = np.radians([azimuth_deg, elevation_deg])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(e), -np.sin(e)], [0, np.sin(e), np.cos(e)]])
    return about_x @ about_y


def draw_object(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray, size_px: int = PICTURE_PX) -> np.ndarray:
    """A lit picture of a mesh about the origin, seen by Pixel2Mesh's camera.

    Args:    vertices: (V, 3), camera frame less OFFSET.   colors: (V, 3) RGB.
    Returns: (size_px, size_px, 4) uint8; colours at the edge are mixed with white, alpha is the share of the pixel
             that the object covers.
    """
    focal, centre = FOCAL_PX * size_px / INPUT_PX, (size_px - 1) / 2
    places = perspective_to_px(vertices, (focal, focal), (centre, centre), OFFSET)
    white = np.full((size_px, size_px, 3), 255, np.uint8)
    on_white = draw_mesh(white, places, faces, colors, supersample=3)
    on_black = draw_mesh(np.zeros_like(white), places, faces, colors, supersample=3)
    alpha = 255 - (on_white.astype(int) - on_black).max(2, keepdims=True).clip(0, 255)
    return np.concatenate([on_white, alpha.astype(np.uint8)], 2)


@dataclass(frozen=True)
class Job:
    """A model whose views are to be written."""

    folder: Path
    category: str
    model: int
    views: int
    seed: int


def model_name(category: str, model: int) -> str:
    """Folder of a model below its category's."""
    return f"{category}-{model:03d}"


def view_path(job: Job, view: int) -> Path:
    """The .dat of a view."""
    folder = job.folder / "data_tf" / job.category / model_name(job.category, job.model)
    return folder / "rendering" / f"{view:02d}.dat"


def write_model(job: Job) -> None:
    """Write the missing views of a model, each picture before its points."""
    missing = [view for view in range(job.views) if not view_path(job, view).exists()]
    if not missing:
        return
    number = list(CATEGORIES).index(job.category)
    rng = np.random.default_rng([job.seed, number, job.model])
    mesh = mesh_of(CATEGORIES[job.category](rng))
    scale = rng.uniform(*RADIUS_M) / mesh.radius
    for view in missing:
        rng = np.random.default_rng([job.seed, number, job.model, 1 + view])
        rotation = view_rotation(rng.uniform(0, 360), rng.uniform(*ELEVATION_DEG))
        points, normals = mesh.sample(int(rng.integers(*POINTS)), rng)
        points = (points - mesh.centre) @ rotation.T * scale + OFFSET
        picture = draw_object((mesh.vertices - mesh.centre) @ rotation.T * scale, mesh.faces, mesh.colors)
        path = view_path(job, view)
        with atomic_path(path.with_suffix(".png")) as temporary:
            Image.fromarray(picture).save(temporary)
        packed = np.concatenate([points, normals @ rotation.T], 1).astype(np.float32)
        write_bytes(path, pickle.dumps(packed, protocol=4))


def write_objects(out: str | Path, models: int = 20, views: int = 3, seed: int = 0, workers: int = 1) -> Path:
    """Write procedural objects; what is there already is kept, so a stopped run goes on.

    Args:    out: the set's folder.   models: of each category.   views: of each model.
    Returns: the set's folder, as the head of this module shows it.
    Raises:  InputError for fewer than two models, or a folder that holds a set of another recipe.
    """
    out = resolve(out)
    if models < 2:
        remedy = "make 2 or more of each category: the second one is a test model"
        raise InputError(out, "models", f"is {models}", remedy)
    keep_recipe(out / "recipe.json", {"generator": VERSION, "categories": list(CATEGORIES), "seed": seed})
    jobs = [Job(out, category, model, views, seed) for category in CATEGORIES for model in range(models)]
    for _ in map_jobs(write_model, jobs, workers, "objects"):
        pass
    for split in ("train", "test"):
        chosen = [job for job in jobs if (job.model % 5 == 1) == (split == "test")]
        lines = [view_path(job, view).relative_to(out).as_posix() for job in chosen for view in range(views)]
        write_text(out / f"{split}.txt", "\n".join(lines) + "\n")
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write procedural objects in Pixel2Mesh's packed format.")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--models", type=int, default=20, help="of each of the 3 categories (default: %(default)s)")
    parser.add_argument("--views", type=int, default=3, help="of each model (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    args = parser.parse_args()
    write_objects(args.out.absolute(), args.models, args.views, args.seed, args.workers)
