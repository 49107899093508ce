"""Training in a notebook, with curves and meshes that are updated while the network trains."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from p2m_core.config.loading import save_config
from p2m_core.config.paths import project_root, run_folder
from p2m_core.config.settings import Config
from p2m_core.face_mesh import FaceMesh
from p2m_core.files import read_npz
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.training.distributed import is_training
from p2m_workbench.training.legs import changed_settings, require_same
from p2m_workbench.training.metrics_log import read_curves
from p2m_workbench.training.trainer import train
from p2m_workbench.viewing.live_preview import MeshPreview

# Processes that this kernel started, by run: kept, or Python warns that they are collected while they run.
_children: dict[Path, subprocess.Popen] = {}


def read_preview(path: Path) -> list[FacePrediction]:
    """The meshes of validation photos that a run has left in its preview.npz."""
    content = read_npz(path, "delete it; training writes it again")
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
        predictions.append(FacePrediction(str(name), mesh, photo, truth))
    return predictions


def read_previews(folder: Path) -> list[FacePrediction]:
    """The first validation photo's mesh through the training, a prediction a step, named by it."""
    [first, *_] = read_preview(folder / "preview.npz")
    content = read_npz(folder / "previews.npz", "delete it; training writes it again")
    return [
        replace(first, name=f"step {step}", mesh=replace(first.mesh, vertices_px=vertices, levels=(vertices,)))
        for step, vertices in zip(content["steps"], np.float32(content["vertices"]), strict=True)
        if vertices.shape == first.mesh.vertices_px.shape  # a run begun anew may have another template
    ]


def read_run(folder: Path) -> Callable[[], tuple[list[FacePrediction] | None, pd.DataFrame | None]]:
    """A function for `MeshPreview.follow`: the run's meshes and curves, None for what has not changed."""
    seen: dict[Path, float] = {}

    def changed(path: Path) -> bool:
        if not path.exists() or not path.stat().st_size or path.stat().st_mtime == seen.get(path):
            return False
        seen[path] = path.stat().st_mtime
        return True

    def read() -> tuple[list[FacePrediction] | None, pd.DataFrame | None]:
        metrics, preview = folder / "metrics.csv", folder / "preview.npz"
        predictions = read_preview(preview) if changed(preview) else None
        return predictions, read_curves(folder) if changed(metrics) else None

    return read


def start_detached(config: Config) -> None:
    """Start training in a process of its own, which outlives notebook and browser; its output goes to train.log."""
    folder = run_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder / "config.yaml")
    command = [sys.executable, "-m", "p2m_workbench", "train", "--config", str(folder / "config.yaml")]
    with open(folder / "train.log", "ab") as log:
        child = subprocess.Popen(
            command, cwd=project_root(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    _children[folder] = child


def watch_training(config: Config, detach: bool = False, every_s: float = 2.0) -> str:
    """Train and show curves and the meshes of some validation photos meanwhile.

    Interrupting the cell writes a checkpoint, and running it again goes on. With `detach` the training runs in a
    process of its own: interrupting the cell, closing the browser or restarting the kernel leaves it alone, and
    running the cell again attaches to it. With train.processes above 1 they are processes of their own in any case,
    which outlive the kernel with `detach` alone; the output of the first is shown here.

    Returns: one line with the state of the run.
    """
    folder = run_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    preview = MeshPreview()
    display(preview)
    finish = preview.follow(read_run(folder), every_s)
    try:
        if detach:
            wait_for_detached(config, every_s)
        else:
            train(config)
    except KeyboardInterrupt:
        state = "trains on in its own process" if detach and is_training(folder) else "stopped, with a checkpoint"
        return f"{folder.name} {state}; run this cell again to go on"
    finally:
        finish()
    return f"{folder.name} is finished: {folder}"


def wait_for_detached(config: Config, every_s: float) -> None:
    """Start the run's process, unless it is there, and wait for its end.   Raises RuntimeError if it failed."""
    folder = run_folder(config)
    finished = folder / "finished.json"
    if not is_training(folder):
        require_same(config)
        if not finished.exists() or changed_settings(config):
            start_detached(config)
    child = _children.get(folder)  # None where another kernel started it
    while is_training(folder) if child is None else child.poll() is None:
        time.sleep(every_s)
    _children.pop(folder, None)
    if not finished.exists():
        tail = (folder / "train.log").read_text(errors="replace").splitlines()[-5:]
        raise RuntimeError("the training process ended early, see train.log: " + " | ".join(tail))
