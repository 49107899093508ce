"""A synthetic set beside AFLW2000-3D: what was drawn, and how poses and expressions spread in both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from p2m_core.config.paths import resolve
from p2m_core.data.aflw2000 import find_samples, read_sample
from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.geometry.similarity import umeyama
from p2m_core.morphable.model import FaceModel
from p2m_synth.head.head_model import load_head_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS, REAL = "#2b6cb0", "#dd8a3a"
READ_AT_MOST = 1000  # samples, evenly over the set

# Where AFLW2000-3D's landmark arrays (3DDFA's test lists) may lie; they are research-only and so not in the repository.
REAL_FOLDERS = ("data/raw/AFLW2000-3D-landmarks", "../shared/aflw2000-landmarks")
LANDMARKS_FILE, YAW_FILE = "AFLW2000-3D.pts68.npy", "AFLW2000-3D.pose.npy"


def real_folder() -> Path | None:
    """The folder of AFLW2000-3D's landmark arrays, if it is there."""
    folders = [resolve(name) for name in REAL_FOLDERS]
    return next((folder.resolve() for folder in folders if (folder / LANDMARKS_FILE).is_file()), None)


def real_landmarks(folder: Path) -> np.ndarray:
    """AFLW2000-3D's landmarks (2000, 68, 3), y up."""
    return np.load(folder / LANDMARKS_FILE).transpose(0, 2, 1) * [1.0, -1.0, 1.0]


def attribute_table(folder: str | Path) -> pd.DataFrame:
    """All rows of a synthetic set's attributes.csv files; empty for a set of another kind."""
    parts = [pd.read_csv(path, keep_default_na=False) for path in sorted(Path(folder).glob("*/attributes.csv"))]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def set_landmarks(folder: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (N, 68, 3), y up, and yaw in degrees (N,) of a raw set."""
    paths = find_samples(folder)
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), READ_AT_MOST)).astype(int))
    samples = [read_sample(paths[k]) for k in chosen]
    landmarks = np.stack([sample.landmarks_px for sample in samples])
    angles = np.stack([sample.pose_para[:3] for sample in samples])
    if (flat := np.isnan(landmarks).any((1, 2))).any():  # 300W-LP's have no depth
        landmarks[flat] = guess_depth(load_head_model().face_model(), landmarks[flat], angles[flat])
    return landmarks * [1.0, -1.0, 1.0], np.degrees(angles[:, 1])


def guess_depth(model: FaceModel, landmarks_px: np.ndarray, angles_rad: np.ndarray) -> np.ndarray:
    """Landmarks with the z of the mean face, rotated by the known angles and scaled and moved onto their x and y.

    Args:    landmarks_px: (N, 68, 2 or 3), a z is ignored.   angles_rad: (N, 3) pitch, yaw, roll as in AFLW2000-3D.
    Returns: (N, 68, 3); z is 0 at the landmarks' mean.
    """
    mean = model.mean[model.landmark_idx].astype(np.float64)
    turned = mean @ np.swapaxes(rotation_from_angles(angles_rad), -1, -2) * [1.0, -1.0, 1.0]
    turned -= turned.mean(1, keepdims=True)
    flat = landmarks_px[..., :2] - landmarks_px[..., :2].mean(1, keepdims=True)
    scale = (turned[..., :2] * flat).sum((1, 2)) / (turned[..., :2] ** 2).sum((1, 2))
    return np.concatenate([landmarks_px[..., :2], scale[:, None, None] * turned[..., 2:]], -1)


def aligned(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`source` (..., N, 3) under the best similarity onto `target`."""
    scale, rotation, shift = umeyama(source, np.broadcast_to(target, source.shape))
    return scale[..., None, None] * source @ np.swapaxes(rotation, -1, -2) + shift[..., None, :]


def expression_measures(landmarks: np.ndarray, mean: np.ndarray) -> dict[str, np.ndarray]:
    """What expressions change, (N,) each: lengths over the distance of the outer eye corners; yaw drops out.

    Args:    landmarks: (N, 68, 3), y up.   mean: (68, 3) frontal face that they are laid on.
    """
    points = aligned(landmarks, mean)

    def length(a: int, b: int) -> np.ndarray:
        return np.linalg.norm(points[:, a] - points[:, b], axis=1)

    def height(*idx: int) -> np.ndarray:
        return points[:, idx, 1].mean(1)

    unit = length(36, 45)
    return {
        "mouth opening": (length(61, 67) + length(62, 66) + length(63, 65)) / 3 / unit,
        "mouth width": length(48, 54) / unit,
        "corners over middle": (height(48, 54) - height(51, 57)) / unit,
        "eye opening / width": (length(37, 41) + length(38, 40)) / 2 / length(36, 39),
        "brow over eye": (height(*range(17, 27)) - height(*range(36, 48))) / unit,
        "inner brow over eye": (height(21, 22) - height(39, 42)) / unit,
    }


# --- figures --------------------------------------------------------------------------------------


def pose_and_expression(folder: str | Path, mean: np.ndarray) -> Figure:
    """Yaw and expressions of a raw set, and of AFLW2000-3D where its landmarks are there, as histograms.

    mean: (68, 3) landmarks of the mean face, y up.
    """
    landmarks, yaw = set_landmarks(folder)
    sets = {"this set": {"|yaw|, degrees": abs(yaw), **expression_measures(landmarks, mean)}}
    if (real := real_folder()) is not None:
        measures = expression_measures(real_landmarks(real), mean)
        sets["AFLW2000-3D"] = {"|yaw|, degrees": abs(np.load(real / YAW_FILE)), **measures}
    looks = {"this set": {"color": OURS, "alpha": 0.55}}
    looks["AFLW2000-3D"] = {"color": REAL, "histtype": "step", "linewidth": 1.8}  # an outline hides nothing
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    for axes, name in zip(figure.subplots(2, 4).flat, sets["this set"], strict=False):
        values = [measures[name] for measures in sets.values()]
        low, high = np.quantile(np.concatenate(values), [0.005, 0.995])
        for label, value in zip(sets, values, strict=True):
            axes.hist(value.clip(low, high), np.linspace(low, high, 25), density=True, label=label, **looks[label])
        axes.set_xlabel(name)
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=5)  # more would run into each other
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.axes[-1].axis("off")
    figure.axes[-1].legend(*figure.axes[0].get_legend_handles_labels(), loc="center", frameon=False, fontsize=11)
    missing = "" if len(sets) > 1 else "; AFLW2000-3D's landmarks are not here"
    lengths = "lengths over the distance of the outer eye corners"
    figure.suptitle(f"{len(yaw)} samples of {Path(folder).name}{missing}; {lengths}", fontsize=10)
    return figure


def attribute_shares(table: pd.DataFrame) -> Figure:
    """What was drawn in a synthetic set: shares of names, histograms of numbers.

    Where most have none, the title says how many, so that the others are not dwarfed.
    """
    named = ("expression", "hair", "beard", "glasses", "headwear", "occluder", "clothes", "light", "photo")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    grid = figure.subplots(3, 4).flat
    drawn = {name: 100 * table[name].value_counts(normalize=True, ascending=True) for name in named}
    largest = max(shares.drop("none", errors="ignore").max() for shares in drawn.values())
    for axes, (name, shares) in zip(grid[: len(named)], drawn.items(), strict=True):
        none = shares.pop("none") if "none" in shares else None
        axes.set_xlim(0, 1.05 * largest)  # one scale, so that bars of different charts compare
        axes.barh(shares.index, shares, color=OURS)
        axes.set_title(f"{name}, %" if none is None else f"{name}, % ({none:.0f} have none)", fontsize=10)
        axes.tick_params(labelsize=8)
    by_sex = {sex: table.loc[table["woman"] == woman, "age"] for woman, sex in ((1, "women"), (0, "men"))}
    age, melanin, visible = grid[len(named) :]
    age.hist([*by_sex.values()], np.linspace(0, 1, 21), stacked=True, color=(OURS, "#9cc3e6"), label=[*by_sex])
    age.legend(frameon=False, fontsize=8)
    melanin.hist(table["melanin"], np.linspace(0, 1, 21), color=OURS)
    visible.hist(table["visible"], np.linspace(0, 1, 21), color=OURS)
    titles = ("age: 0 child, 0.5 young, 1 old", "melanin of the skin: 0 light, 1 dark", "visible share of the face")
    for axes, title in zip((age, melanin, visible), titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set_yticks([])
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{len(table)} synthetic faces", fontsize=10)
    return figure
