"""What is measured (`System`), and the result of it (`Evaluation` of `Table`s): the same for faces and objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from p2m_core.metrics import YAW_BINS
from p2m_workbench.face_prediction import FacePrediction

Kind = Literal["network", "peer", "baseline"]
LISTED_SAMPLES = 20  # up to so many, each sample's errors are printed
SMALLER_IS_BETTER = {"balanced", "plain", "mae", "geodesic", *YAW_BINS}  # and the protocols nme-... and rec-...


@dataclass(frozen=True)
class System:
    """Whatever predicts faces: a network, another system (peer) or a baseline. A row of the tables.

    landmarks_px  (N, 68, 2 or 3) px of the photo, nan where it found no face
    vertices_px   from a sample's place among the N to the template's vertices (V, 3) px; None if it has no surface
    about         where it comes from, for the report
    """

    name: str
    kind: Kind
    landmarks_px: np.ndarray
    vertices_px: Callable[[int], np.ndarray] | None = None
    about: str = ""

    @property
    def found(self) -> np.ndarray:
        """Samples (N,) on which it found the face."""
        return np.isfinite(self.landmarks_px).all((1, 2))

    @property
    def has_depth(self) -> bool:
        """Whether its landmarks have a z."""
        return self.landmarks_px.shape[2] == 3


@dataclass(frozen=True, repr=False)
class Table:
    """One table of an evaluation, with what its numbers are.

    title     a line above the table
    protocol  name of the protocol(s) in `p2m_core.metrics`
    unit      of the numbers
    n         samples that the table stands on; a row's own number is in its column "samples"
    rows      a row a system; further levels of the index where a system has several rows
    interval  how the interval in the columns "95% low" and "95% high" is made; None if there is none
    digits    decimals that are printed
    compared  the systems among which the best value is marked
    """

    title: str
    protocol: str
    unit: str
    n: int
    rows: pd.DataFrame
    interval: str | None = None
    digits: int = 2
    compared: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = self.rows if self.rows.index.nlevels > 1 else self.rows.rename_axis(None)
        return f"{self.title}\n{rows.round(self.digits).to_string(na_rep='-')}"

    __repr__ = __str__

    @property
    def lower_is_better(self) -> list[str]:
        """The columns of errors."""
        return [name for name in self.rows if name in SMALLER_IS_BETTER or str(name).startswith(("nme-", "rec-"))]

    def best(self) -> tuple[list[str], list[str]]:
        """The rows of the compared systems and the columns of errors, of which each column's least value is marked;
        none where a system has several rows or is alone."""
        rows = [name for name in self.compared if name in self.rows.index] if self.rows.index.nlevels == 1 else []
        return (rows, self.lower_is_better) if len(rows) > 1 else ([], [])

    def to_markdown(self) -> str:
        """The rows as a table of GitHub's Markdown, the best values in bold."""
        columns = {}
        names, lower = self.best()
        for column, values in self.rows.items():
            decimals = self.digits if values.dtype.kind == "f" else None
            text = ["–" if pd.isna(x) else str(x) if decimals is None else f"{x:.{decimals}f}" for x in values]
            least = values.loc[names].min() if column in lower else None
            columns[column] = [
                f"**{cell}**" if name in names and x == least else cell
                for name, x, cell in zip(self.rows.index, values, text, strict=True)
            ]
        cells = pd.DataFrame(columns, index=self.rows.index).reset_index()
        levels = self.rows.index.nlevels
        align = ["left"] * levels + ["right" if kind.kind in "fi" else "left" for kind in self.rows.dtypes]
        return cells.to_markdown(index=False, disable_numparse=True, colalign=align)

    def _repr_markdown_(self) -> str:  # so Jupyter shows it
        direction = f"\n\n*lower is better: {', '.join(self.lower_is_better)}*" if self.lower_is_better else ""
        return f"**{self.title}**{direction}\n\n{self.to_markdown()}"

    def to_dict(self) -> dict[str, object]:
        """As in metrics.json: protocol, unit, n, interval, and rows that name their system and columns."""
        content = {"protocol": self.protocol, "unit": self.unit, "n": self.n, "interval": self.interval}
        return content | {"rows": self.rows.reset_index().to_dict("records")}


@dataclass(frozen=True)
class Evaluation:
    """Results on one split of one store.

    kinds        {system: "network", "peer" or "baseline"}; the first weights first, baselines last
    tables       {file name: table}, those without a row left out
    samples      of faces a row a sample: name, yaw_deg, and each system's nme68-2d; of objects a row a system and view:
                 system, name, category, and the numbers of cd-f1@p2m
    about        what the numbers stand on: protocol, store, split, samples, weights, machine
    folder       where tables and figures lie
    error_maps   of faces: {system: (V,) mean error of each vertex of the template, % of the face size, nme-dense-3d;
                 nan where it does not count}
    predictions  of objects: {system: predictions of some views, evenly over the split}
    """

    kinds: dict[str, Kind]
    tables: dict[str, Table]
    samples: pd.DataFrame
    about: dict[str, object]
    folder: Path
    error_maps: dict[str, np.ndarray] = field(default_factory=dict)
    predictions: dict[str, list[FacePrediction]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> pd.DataFrame:
        """The rows of a table."""
        return self.tables[name].rows

    @property
    def compared(self) -> list[str]:
        """The systems that are no baselines."""
        return [name for name, kind in self.kinds.items() if kind != "baseline"]

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.about.items()]
        for name, table in self.tables.items():
            if name != "slices":  # long, and drawn in groups.png
                lines += ["", str(table)]
        main = next(iter(self.tables.values()))
        if len(self.samples) == main.n <= LISTED_SAMPLES:
            listed = self.samples.round(main.digits).to_string(index=False, na_rep="-")
            lines += ["", f"{main.protocol} of each sample, %", listed]
        return "\n".join([*lines, "", f"written: {self.folder}"])
