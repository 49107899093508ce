"""Small folder sets of known truth, in each of the cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
import yaml
from PIL import Image

from p2m_core.geometry.camera import rotation_from_angles
from p2m_synth.render.shaded_mesh import draw_mesh

SIZE, PAPER = 120, (30, 150, 70)
FOCAL, CENTRE = (150.0, 140.0), (58.0, 63.0)


def blob(seed: int = 0) -> trimesh.Trimesh:
    """A closed lopsided body about the origin, of size 2, wound outwards."""
    mesh = trimesh.creation.icosphere(2)
    rng = np.random.default_rng(seed)
    bumps = 1 + 0.25 * np.sin(mesh.vertices @ rng.normal(size=(3, 3)) * 2).sum(1)[:, None] / 3
    return trimesh.Trimesh(mesh.vertices * bumps, mesh.faces, process=False)


def picture(placed_px: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The body, drawn where it is seen."""
    return draw_mesh(np.full((SIZE, SIZE, 3), PAPER, np.uint8), placed_px, faces)


def pinhole(placed: np.ndarray) -> np.ndarray:
    """Px (N, 3) of points in an OpenGL camera's frame, by the definition."""
    x, y, z = placed.T
    return np.stack([CENTRE[0] - FOCAL[0] * x / z, CENTRE[1] + FOCAL[1] * y / z, z * 40], 1)


TURN = rotation_from_angles(np.array([0.3, -0.5, 0.2])).T


def write_sample(folder: Path, name: str, kind: str, seed: int, suffix: str = ".obj") -> np.ndarray:
    """One sample; returns its true px (N, 3). kind: image, orthographic, perspective, opencv."""
    mesh = blob(seed)
    if kind == "image":
        px = mesh.vertices * [34, -30, 34] + [60, 62, 0]
        points, camera = px, {"camera": "image"}
    elif kind == "orthographic":
        points, shift = mesh.vertices / 10, [61.0, 57.0]
        px = points @ TURN.T * [350, -350, 350] + [*shift, 0]
        camera = {"camera": kind, "scale": 350.0, "shift": shift, "rotation": TURN.tolist()}
    else:
        points, away = mesh.vertices * 0.25, np.array([0.02, -0.03, -0.9])
        placed = points @ TURN.T + away
        px = pinhole(placed)
        camera = {"camera": "perspective", "focal": list(FOCAL), "centre": list(CENTRE)}
        flip = np.diag([1.0, -1, -1]) if kind == "opencv" else np.eye(3)
        camera |= {"rotation": (flip @ TURN).tolist(), "translation": (flip @ away).tolist()}
        camera |= {"axes": "opencv"} if kind == "opencv" else {}
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(px, mesh.faces)).save(folder / f"{name}.png")
    if suffix == ".xyz":
        normals = mesh.vertex_normals
        np.savetxt(folder / f"{name}.xyz", np.concatenate([points, normals], 1))
    elif suffix == ".npz":
        np.savez(folder / f"{name}.npz", points=points)
    else:
        trimesh.Trimesh(points, mesh.faces, process=False).export(folder / f"{name}{suffix}")
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(camera))
    return px


def write_set(folder: Path, kind: str, count: int, suffixes: tuple[str, ...] = (".obj",)) -> list[np.ndarray]:
    """A set of some samples; the true px of each."""
    return [write_sample(folder, f"body{k:02d}", kind, k, suffixes[k % len(suffixes)]) for k in range(count)]
