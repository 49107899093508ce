"""The time machine of a training: a page whose slider moves meshes and curves through it together."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from p2m_core.files import read_npz, write_text
from p2m_core.metrics import nme_dense_3d
from p2m_workbench.drawing.curves import curves
from p2m_workbench.drawing.moving_meshes import Track, moving_meshes_page
from p2m_workbench.training.metrics_log import read_curves
from p2m_workbench.training.previews import REMEDY, read_preview
from p2m_workbench.training.status import METRICS, read_status

PAGE = "time_machine.html"
MOST_FRAMES = 40  # of a page, evenly: some 60 kB each


def write_time_machine(folder: Path) -> Path | None:
    """Write RUN/time_machine.html, and return its path; None of a run without previews."""
    page = time_machine_page(folder)
    if page is None:
        return None
    write_text(folder / PAGE, page)
    return folder / PAGE


def time_machine_page(folder: Path) -> str | None:
    """A self-contained page of a run's validation samples through its training; None if it has no previews."""
    if not (folder / "preview.npz").exists() or not (folder / "previews.npz").exists():
        return None
    content, latest, table = (
        read_npz(folder / "previews.npz", REMEDY),
        read_preview(folder / "preview.npz"),
        read_curves(folder),
    )
    if content["vertices"].ndim != 4 or content["vertices"].shape[1] != len(latest):  # another version wrote it
        return None
    chosen = np.unique(np.linspace(0, len(content["steps"]) - 1, MOST_FRAMES).astype(int))
    steps, vertices = content["steps"][chosen], np.float32(content["vertices"][chosen])
    tracks, errors_to = [], 1.0
    for k, prediction in enumerate(latest):
        truth, captions = prediction.truth_px, [""] * len(steps)
        if truth is not None:
            truth = truth[: vertices.shape[2]]
            errors = nme_dense_3d(vertices[:, k], np.broadcast_to(truth, vertices[:, k].shape))
            errors_to = max(
                errors_to, min(10.0, np.ceil(2 * errors[-1]))
            )  # those of the first steps would fade the last
            captions = [f"mean error {error:.1f} %" for error in errors]
        tracks.append(
            Track(
                prediction.name,
                prediction.photo,
                vertices[:, k],
                content["faces"],
                captions,
                truth,
                prediction.points_px,
            )
        )
    metric = read_status(folder).get("metric", "")
    unit = METRICS.get(metric, "")
    frames = []
    for step in steps:
        before = table[table["step"] <= step]
        facts = [f"step {step}"]
        for name, words in (
            ("loss", "loss"),
            ("val_error", f"validation error ({unit})" if unit else "validation error"),
        ):
            if len(known := before[name].dropna()):
                facts.append(f"{words} {known.iloc[-1]:.4g}")
        frames.append(" · ".join(facts))
    drawing = curves(table, units={"val_error": unit}) if len(table) else None
    return moving_meshes_page(f"{folder.name} through its training", tracks, frames, drawing, steps, float(errors_to))
