"""The numbers of a run, whether evaluating it again reproduces them, and how two runs differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from p2m_core.config.loading import load_config, with_values
from p2m_core.config.paths import project_root, resolve, shown
from p2m_core.config.settings import Config
from p2m_core.errors import InputError
from p2m_core.files import write_text
from p2m_workbench.provenance import data_hashes, git_state
from p2m_workbench.training.metrics_log import read_curves

# The columns of a table of runs: a name of `read_metrics`, and the heading.
HEADLINES = {
    "nme68_2d.run.plain": "nme68-2d, %",
    "nme68_2d.run.balanced": "nme68-2d balanced, %",
    "surface.run.nme-dense-3d@template, %": "nme-dense-3d, %",
    "surface.run.F1 at 1% of the face size": "F1 at 1%",
    "cd_f1.run.mean of categories.CD x1000": "CD x1000",
    "cd_f1.run.mean of categories.F1 at 1e-4": "F1 at 1e-4",
    "training.val_error": "val_error",
    "training.steps": "steps",
    "training.exploded": "exploded steps, %",
}
OF_RUN = "run"  # stands for the run's own weights, which tables name after its folder
EXPLODED = 10.0  # a step whose loss is that many times the first one's
TOLERANCE = 1e-3  # relative and absolute: what the arithmetic of another machine may change
SHOWN_ROWS = 20


def find_run(run: str | Path) -> Path:
    """The folder of a run: a path, or its name in outputs/.   Raises InputError if it has no config.yaml."""
    outputs = project_root() / "outputs"
    for folder in (Path(run).absolute(), resolve(run), outputs / run):
        if (folder / "config.yaml").is_file():
            return folder
    near = get_close_matches(str(run), [path.parent.name for path in outputs.glob("*/config.yaml")], n=1)
    raise InputError(run, "", "is no run", f"did you mean {near[0]}?" if near else "give a folder with a config.yaml")


# ------------------------------------------------------------------------------------------------ numbers


def read_metrics(run: Path) -> dict[str, float]:
    """All numbers of a run: "training.NAME", and "TABLE.ROW.COLUMN" of its evaluations.

    If there are several evaluations, their names begin with that of the evaluation. training.exploded is the percentage
    of the logged steps whose loss is above EXPLODED times the first one's.
    """
    finished = _read_json(run / "finished.json")
    numbers = {f"training.{name}": value for name, value in finished.items() if _is_number(value)}
    loss = read_curves(run)["loss"].dropna()  # rows of a validation have none
    if len(loss):
        numbers["training.exploded"] = 100 * float((loss > EXPLODED * loss.iloc[0]).mean())
    evaluations = sorted(run.glob("evaluation/*/metrics.json"))
    for path in evaluations:
        prefix = f"{path.parent.name}." if len(evaluations) > 1 else ""
        numbers |= {f"{prefix}{name}": value for name, value in _read_tables(path, run).items()}
    return numbers


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics for a table of runs, with short names; all of them where none of HEADLINES is there."""
    return {name: metrics[key] for key, name in HEADLINES.items() if key in metrics} or dict(metrics)


def _read_tables(path: Path, run: Path) -> dict[str, float]:
    """The numbers of a metrics.json, named "TABLE.ROW.COLUMN"; a row is named by its texts."""

    def named(text: str) -> str:  # also the run's part of a pair "A - B"
        return " - ".join(OF_RUN if part in (run.name, shown(run)) else part for part in text.split(" - "))

    numbers = {}
    for table, content in _read_json(path).get("tables", {}).items():
        for row in content["rows"]:
            texts = [named(value) for value in row.values() if isinstance(value, str)]
            found = {".".join([table, *texts, named(key)]): value for key, value in row.items() if _is_number(value)}
            numbers |= found
    return numbers


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)  # JSON has null for nan


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


# ------------------------------------------------------------------------------------------------ reproduction


@dataclass(frozen=True)
class Reproduction:
    """A run evaluated again.

    numbers    by name, columns recorded and again
    differing  names of the numbers that differ by more than TOLERANCE, or are missing on one side
    notes      what else is not as it was when the run was made
    """

    numbers: pd.DataFrame
    differing: list[str]
    notes: list[str]

    def __str__(self) -> str:
        if not self.differing:
            result = f"all {len(self.numbers)} numbers are reproduced"
        else:
            result = f"{len(self.differing)} of {len(self.numbers)} numbers are not reproduced:\n"
            result += self.numbers.loc[self.differing[:SHOWN_ROWS]].to_string()
        return "\n".join([*self.notes, result])


def reproduce_run(run: str | Path) -> Reproduction:
    """Evaluate a run again with its own settings and weights, into outputs/NAME-again, and compare every number.

    Raises: InputError if it was not evaluated, or its data or weights are missing.
    """
    folder = find_run(run)
    config = load_config(folder / "config.yaml")
    again = with_values(config, {"name": f"{config.name}-again"}, "--run")
    if config.evaluate.weights == "run":
        again = with_values(again, {"evaluate.weights": str(folder)}, "--run")
    if config.data.kind == "objects":
        from p2m_workbench.measuring.evaluate_objects import evaluate_objects as evaluate
    else:
        from p2m_workbench.measuring.evaluate import evaluate
    made = evaluate(again).folder
    recorded = folder / "evaluation" / made.name / "metrics.json"
    if not recorded.exists():
        raise InputError(folder, f"evaluation/{made.name}", "is missing", "p2m evaluate it first")
    pair = {"recorded": _read_tables(recorded, folder), "again": _read_tables(made / "metrics.json", folder)}
    numbers = pd.DataFrame(pair)
    difference = (numbers["recorded"] - numbers["again"]).abs()
    same = difference <= TOLERANCE * (1 + numbers["recorded"].abs())
    return Reproduction(numbers, list(numbers.index[~same]), _notes(folder, config))


def _notes(folder: Path, config: Config) -> list[str]:
    """A line each if data or code differ from those that the run's run.json records."""
    record = _read_json(folder / "run.json")
    then, now = record.get("provenance", {}).get("git"), git_state()
    notes = []
    if record.get("data") and record["data"] != data_hashes(config):
        notes.append("the data are not those of the run: their hashes differ")
    if then and now and (then["commit"], then["dirty"]) != (now["commit"], now["dirty"]):
        notes.append(f"the code is not that of the run: {_commit(then)} then, {_commit(now)} now")
    return notes


def _commit(git: dict[str, Any]) -> str:
    return f"{git['commit'][:12]}{' with changes' if git['dirty'] else ''}"


# ------------------------------------------------------------------------------------------------ two runs


@dataclass(frozen=True)
class Difference:
    """How run B differs from run A. tables: "settings", "about" (code, versions, machine, data) and "metrics" (of
    `read_metrics`, HEADLINES first), with columns A and B and a row for each name that differs."""

    runs: tuple[Path, Path]
    tables: dict[str, pd.DataFrame]

    def __str__(self) -> str:
        lines = [f"A  {shown(self.runs[0])}", f"B  {shown(self.runs[1])}"]
        for name, table in self.tables.items():
            lines += ["", f"{name}: no difference" if table.empty else f"{name}:"]
            if len(table):
                lines.append(table.head(SHOWN_ROWS).round(4).to_string(max_colwidth=60))
            if len(table) > SHOWN_ROWS:
                lines.append(f"and {len(table) - SHOWN_ROWS} more")
        return "\n".join(lines)

    def save(self, folder: Path) -> None:
        """Write settings.csv, about.csv and metrics.csv, with all rows."""
        for name, table in self.tables.items():
            write_text(folder / f"{name}.csv", table.to_csv())


def diff_runs(a: str | Path, b: str | Path) -> Difference:
    """Compare two runs: settings, code and data, and metrics. For their samples, evaluate with both weights.

    Raises: InputError if one is no run.
    """
    folders = find_run(a), find_run(b)
    settings = [_flatten(load_config(folder / "config.yaml").model_dump(mode="json")) for folder in folders]
    records = [_read_json(folder / "run.json") for folder in folders]
    about = [_flatten(r.get("provenance", {}) | {"data": r.get("data", {}), "command": None}) for r in records]
    metrics = pd.DataFrame(dict(zip("AB", map(read_metrics, folders), strict=True)), dtype=float)
    metrics["B - A"] = metrics["B"] - metrics["A"]
    change = (metrics["B - A"] / metrics["A"].abs().clip(lower=1e-9)).abs()
    order = pd.DataFrame({"other": ~metrics.index.isin(list(HEADLINES)), "change": -change})
    metrics = metrics.loc[order.sort_values(["other", "change"]).index]
    tables = {"settings": _differing(*settings), "about": _differing(*about)}
    return Difference(folders, tables | {"metrics": metrics[metrics["A"] != metrics["B"]]})


def _flatten(content: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries as one with dotted names."""
    return pd.json_normalize(content).iloc[0].to_dict()


def _differing(a: dict[str, Any], b: dict[str, Any]) -> pd.DataFrame:
    names = [name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)]
    rows = {name: {"A": a.get(name, "-"), "B": b.get(name, "-")} for name in names}
    return pd.DataFrame(rows.values(), index=list(rows), columns=["A", "B"])
