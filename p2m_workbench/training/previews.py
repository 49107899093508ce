"""The meshes of some validation samples while a network trains, for pictures, the live view and the time machine.

RUN/preview/K.png   the crop of sample K, and its latest mesh over it
RUN/preview.npz     the latest meshes: step, names, photos (K, S, S, 3) uint8, vertices (K, V, 3), faces (F, 3), groups,
                    truth (K, V, 3) or points (K, P, 3) where they are known; px of the network's input, z to the viewer
RUN/previews.npz    the same samples through the training: steps (N,), vertices (N, K, V', 3) fp16 of the finest level
                    with at most MOST_VERTICES, its faces (F', 3); at most MOST_STEPS steps, evenly over the time
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from p2m_core.data import Store
from p2m_core.face_mesh import FaceMesh
from p2m_core.files import atomic_path, read_npz
from p2m_core.geometry.crop import apply_affine
from p2m_core.targets import Truth
from p2m_synth.render.shaded_mesh import draw_mesh
from p2m_workbench.drawing.mesh_images import clay_colors, fit, save_picture
from p2m_workbench.face_prediction import FacePrediction

SAMPLES = 4
MOST_STEPS = 64  # beyond that, half of them are dropped
MOST_VERTICES = 2500  # of a mesh through the training
MOST_POINTS = 1000  # of a true point cloud
REMEDY = "delete it; training writes it again"


def write_previews(
    folder: Path, step: int, store: Store, predicted: Sequence[tuple[torch.Tensor, torch.Tensor, Truth]], side_px: int
) -> None:
    """Write all files of a step.

    Args: predicted: batches of the first validation samples: images (B, 3, S, S), finest vertices (B, V, 3), truth.
          side_px: of the network's input.
    """
    if not predicted:
        return
    images, vertices, truth = zip(*predicted, strict=True)
    parts = {"vertices": vertices}
    if truth[0].vertices is not None:
        parts["truth"] = [part.vertices for part in truth]
    elif truth[0].points is not None:
        known = min(int(part.points.shape[1] if part.lengths is None else part.lengths.min()) for part in truth)
        some = np.unique(np.linspace(0, known - 1, MOST_POINTS).astype(int))
        parts["points"] = [part.points[:, some] for part in truth]
    arrays = {
        name: np.float32(store.on_image(torch.cat(list(part)).cpu().numpy(), side_px)) for name, part in parts.items()
    }
    photos = np.uint8((torch.cat(images).cpu().numpy().transpose(0, 2, 3, 1).clip(0, 1) * 255).round())
    names = store.table["name"][store.rows("val")[: len(photos)]]
    template = store.template
    faces, groups = template.faces[-1], template.groups[-1]
    with atomic_path(folder / "preview.npz") as temporary:
        np.savez(
            temporary, step=step, photos=photos, faces=faces, groups=groups, names=np.array(names, str), **arrays
        )  # fmt: skip
    level = max((k for k, count in enumerate(template.counts) if count <= MOST_VERTICES), default=0)
    keep_step(folder, step, arrays["vertices"][:, : template.counts[level]], template.faces[level])
    for k, (photo, mesh) in enumerate(zip(photos, arrays["vertices"], strict=True)):
        large, matrix = fit(photo, 2 * side_px)
        over = draw_mesh(large, apply_affine(matrix, mesh), faces, clay_colors(mesh, faces, groups), flat=False)
        save_picture(folder / "preview" / f"{k}.png", np.concatenate([large, over], 1))


def keep_step(folder: Path, step: int, vertices: np.ndarray, faces: np.ndarray) -> None:
    """Add the meshes (K, V', 3) of a step to previews.npz; later steps there are of a leg that was lost."""
    path, steps, kept = folder / "previews.npz", np.zeros(0, int), vertices[None][:0]
    if path.exists():
        before = read_npz(path, REMEDY)
        if before["vertices"].shape[1:] == vertices.shape:  # else another template, or another version wrote it
            earlier = before["steps"] < step
            steps, kept = before["steps"][earlier], before["vertices"][earlier]
    steps = np.append(steps, step)
    kept = np.concatenate([kept, vertices[None]]).astype(np.float16)
    if len(steps) > MOST_STEPS:
        wanted = np.linspace(steps[0], steps[-1], MOST_STEPS // 2)
        idx = np.unique(abs(steps[:, None] - wanted).argmin(0))
        steps, kept = steps[idx], kept[idx]
    with atomic_path(path) as temporary:
        np.savez(temporary, steps=steps, vertices=kept, faces=faces)


def read_preview(path: Path) -> list[FacePrediction]:
    """The meshes of validation photos that a run has left in its preview.npz."""
    content = read_npz(path, REMEDY)
    faces, nothing = content["faces"], np.zeros((0, 3), np.float32)
    predictions = []
    for k, (name, photo, vertices) in enumerate(
        zip(content["names"], content["photos"], content["vertices"], strict=True)
    ):
        box = np.concatenate([vertices[:, :2].min(0), vertices[:, :2].max(0)])
        truth = content["truth"][k] if "truth" in content else None
        if truth is not None:  # the network predicts no absolute depth: both have the same mean
            truth = truth + np.float32([0, 0, (vertices[:, 2] - truth[:, 2]).mean()])
        mesh = FaceMesh(vertices, faces, (vertices,), (faces,), nothing, box, groups=content.get("groups"))
        points = content["points"][k] if "points" in content else None
        predictions.append(FacePrediction(str(name), mesh, photo, truth, points))
    return predictions
