"""p2m_workbench.measuring.evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

Kind = Literal["network", "peer", "baseline"]
LISTED_SAMPLES = 20
DIGITS = {"surface": 3}
TITLES = {
    "nme68_2d": "nme68-2d, % of the face size",
    "nme68_2d_reannotated": "nme68-2d against the re-annotated landmarks, %",
    "paired": "The first system less each other one, nme68-2d on the same samples, points (below 0: it is better)",
    "nme68_3d": "nme68-3d, % of the face size",
    "pose": "pose-mae: the similarity that lays the mean face onto the landmarks, degrees",
    "surface": "Surfaces: dense NME, shape without pose, normals, cd-f1@p2m in px / 1000; identity variance",
    "budget": "nme68-2d if parts were true, each alone and together with those before it, %",
    "slices": "nme68-2d of groups, %; against the rest: the first system's mean on the group less that on all others",
}


@dataclass(frozen=True)
class Evaluation:
    """Results on one split of one store; a row a system in each table, the first weights first, baselines last.

    kinds            {system: "network", "peer" or "baseline"}
    nme              nme68-2d in percent by |yaw|, balanced and plain mean, 95% interval of the plain mean, samples
    nme_reannotated  the same against AFLW2000-3D's second annotation; empty for other sets
    nme_3d           nme68-3d of those that know depth
    paired           the first system less each of the others, on the same samples, with the 95% interval
    surface          nme-dense-*@template, rec-umeyama, angle between normals, cd-f1@p2m with coordinates in px of the
                     photo / 1000, and the landmarks' identity variance
    pose             pose-mae of the similarity that lays the mean face onto the landmarks
    budget           rows (system, "alone" or "together"): nme68-2d as it is, and with the true rotation, scale,
                     translation, shape
    slices           a row a group of samples: seen and hidden landmarks; by attribute, for synthetic sets
    samples          a row a sample: name, yaw_deg, and each system's nme68-2d
    error_maps       {system: (V,) mean error of each vertex of the template, % of the face size, nme-dense-3d}
    about            what the numbers stand on: protocol, store, split, samples, weights, machine
    folder           where tables and figures lie
    """

    kinds: dict[str, Kind]
    nme: pd.DataFrame
    nme_reannotated: pd.DataFrame
    nme_3d: pd.DataFrame
    paired: pd.DataFrame
    surface: pd.DataFrame
    pose: pd.DataFrame
    budget: pd.DataFrame
    slices: pd.DataFrame
    samples: pd.DataFrame
    error_maps: dict[str, np.ndarray]
    about: dict
    folder: Path

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables that are not empty, by the names of their files."""
        tables = {
            "nme68_2d": self.nme,
            "nme68_2d_reannotated": self.nme_reannotated,
            "paired": self.paired,
            "nme68_3d": self.nme_3d,
            "pose": self.pose,
            "surface": self.surface,
            "budget": self.budget,
            "slices": self.slices,
        }
        return {name: table for name, table in tables.items() if len(table)}

    @property
    def compared(self) -> list[str]:
        """The systems that are no baselines."""
        return [name for name, kind in self.kinds.items() if kind != "baseline"]

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.about.items()]
        for name, table in self.tables.items():
            if name != "slices":
                lines += ["", TITLES[name], table.round(DIGITS.get(name, 2)).to_string(na_rep="-")]
        if len(self.samples) <= LISTED_SAMPLES:
            lines += ["", "nme68-2d of each sample, %", self.samples.round(2).to_string(index=False, na_rep="-")]
        return "\n".join([*lines, "", f"written: {self.folder}"])
