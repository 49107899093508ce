"""Figures of data and template for notebooks and README; pictures are (H, W, 3) uint8 arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from p2m_core.config.settings import AugmentConfig
from p2m_core.data.aflw2000 import find_samples, read_image, read_sample
from p2m_core.data.face_store import CropDataset, FaceStore
from p2m_core.files import atomic_path
from p2m_core.geometry.crop import apply_affine, ndc_to_px
from p2m_core.geometry.template import Template
from p2m_synth.render.shaded_mesh import draw_mesh
from p2m_workbench.drawing.mesh_images import contact_sheet, draw_landmarks, draw_levels, fit_square


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write a matplotlib figure, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def raw_samples(folder: str | Path, count: int = 16, size_px: int = 200, landmarks: bool = True) -> np.ndarray:
    """A contact sheet of a raw set's photos, evenly spaced over it, with their landmarks."""
    paths = find_samples(folder)
    pictures = []
    for path in [paths[k] for k in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]:
        sample = read_sample(path)
        picture, matrix = fit_square(read_image(sample.image_path), size_px)
        pictures.append(draw_landmarks(picture, apply_affine(matrix, sample.landmarks_px)) if landmarks else picture)
    return contact_sheet(pictures)


def crops_with_truth(store: FaceStore, rows: Sequence[int]) -> np.ndarray:
    """Stored crops with the ground-truth mesh over them: above the crop, below the mesh."""
    above = [store.crop(index) for index in rows]
    truths = [store.to_crop(store.truth_px(index), index) for index in rows]
    faces = store.template.faces[-1]
    below = [draw_mesh(crop, truth, faces, alpha=0.85) for crop, truth in zip(above, truths, strict=True)]
    return contact_sheet(above + below, len(above))


def augmented(
    store: FaceStore, index: int, config: AugmentConfig, input_px: int, margin: float, count: int = 8, seed: int = 0
) -> np.ndarray:
    """A sample as the network sees it in training, in `count` epochs, with its landmarks moved alike."""
    data = CropDataset(store, np.array([index]), input_px, margin, config, seed)
    pictures = []
    for epoch in range(count):
        item = data[(epoch, 0)]
        points = store.points.vertices(item["shape"], item["expression"]) @ item["linear"].T + item["shift"]
        if item["flip"]:
            points = points[store.template.mirror] * [-1, 1, 1]
        picture = np.ascontiguousarray(item["image"].transpose(1, 2, 0))
        pictures.append(draw_landmarks(picture, ndc_to_px(store.template.landmarks(points), input_px)))
    return contact_sheet(pictures)


def template_levels(template: Template, size_px: int = 300) -> np.ndarray:
    """The template's levels side by side, with their edges."""
    vertices = template.vertices * [1, -1, 1]
    return draw_levels([vertices[:n] for n in template.counts], template.faces, size_px=size_px)


def distributions(store: FaceStore) -> Figure:
    """Histograms of pitch, yaw, roll, face size and landmark residual of a store."""
    angles = np.degrees(store.table["file_pose"][:, :3])
    columns = {
        "pitch, deg": angles[:, 0], "yaw, deg": angles[:, 1], "roll, deg": angles[:, 2],
        "face size, px": store.face_size_px(), "landmark residual, %": store.table["residual_percent"],
    }  # fmt: skip
    figure = Figure(figsize=(12, 2.4), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(columns)), columns.items(), strict=True):
        # Residuals of computed landmarks are rounding errors: on a scale of their own they would look like news.
        span = (0, max(values.max(), 1.0)) if "residual" in name else None
        axes.hist(values, bins=30, range=span, color="#2b6cb0")
        axes.set_xlabel(name)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_ylabel("samples" if axes is figure.axes[0] else "")
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{len(store)} samples, ground truth from: {store.truth_from}", fontsize=10)
    return figure
