"""A run's folder as a capsule: its numbers, the check that they come out again, and how two runs differ."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from p2m_core.config.loading import load_config, with_values
from p2m_core.config.paths import project_root, resolve, shown
from p2m_core.config.settings import Config
from p2m_core.errors import InputError
from p2m_core.files import write_text
from p2m_workbench.training.metrics_log import read_curves

# What a table of runs shows of `read_metrics`, and under which name.
HEADLINES = {
    "nme68_2d.run.plain": "nme68-2d, %",
    "nme68_2d.run.balanced": "nme68-2d balanced, %",
    "surface.run.nme-dense-3d@template, %": "nme-dense-3d, %",
    "surface.run.CD x1000": "CD x1000",
    "table.run.mean of categories.CD x1000": "CD x1000",
    "table.run.mean of categories.F1 at 1e-4": "F1 at 1e-4",
    "training.val_error": "val_error",
    "training.steps": "steps",
    "training.exploded": "exploded steps, %",
}
OF_RUN = "run"  # what the run's own weights are called, whatever the run's name
EXPLODED = 10.0  # a step whose loss is that many times the first one's
TOLERANCE = 1e-3  # relative, and absolute: what another machine's arithmetic may change
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
    """All numbers of a run by dotted name: of its training, and of its evaluation(s).

    A name begins with that of the evaluation where there are several. training.exploded: percent of the logged steps
    whose loss is above EXPLODED times the first.
    """
    numbers = {f"training.{name}": value for name, value in _numbers(_read_json(run / "finished.json"), run)}
    loss = read_curves(run)["loss"].dropna()  # rows of a validation have none
    if len(loss):
        numbers["training.exploded"] = 100 * float((loss > EXPLODED * loss.iloc[0]).mean())
    evaluations = sorted(run.glob("evaluation/*/metrics.json"))
    for path in evaluations:
        prefix = f"{path.parent.name}." if len(evaluations) > 1 else ""
        numbers |= {f"{prefix}{name}": value for name, value in _numbers(_without_about(path), run)}
    return numbers


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics for a table of runs, under short names; all of them where none is known."""
    return {name: metrics[key] for key, name in HEADLINES.items() if key in metrics} or dict(metrics)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _without_about(path: Path) -> Any:
    return {name: part for name, part in _read_json(path).items() if name != "about"}


def _numbers(content: Any, run: Path, name: str = "") -> Iterator[tuple[str, float]]:
    """Finite numbers in nested dictionaries and lists; a list's rows are named by their texts, or their places."""
    if isinstance(content, dict):
        for key, value in content.items():
            key = OF_RUN if key in ("network", run.name, shown(run)) else key
            yield from _numbers(value, run, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list):
        for place, row in enumerate(content):
            texts = [value for value in row.values() if isinstance(value, str)] if isinstance(row, dict) else []
            texts = [OF_RUN if text in (run.name, shown(run)) else text for text in texts] or [str(place)]
            yield from _numbers(row, run, f"{name}.{'.'.join(texts)}")
    elif isinstance(content, int | float) and not isinstance(content, bool) and math.isfinite(content):
        yield name, content


# ------------------------------------------------------------------------------------------------ again


@dataclass(frozen=True)
class Check:
    """A run evaluated again. numbers: name, recorded, again.   differing: names of those that differ by more than
    TOLERANCE, or are missing on one side.   notes: what else is not as it was."""

    numbers: pd.DataFrame
    differing: list[str]
    notes: list[str]

    def __str__(self) -> str:
        if not self.differing:
            result = f"all {len(self.numbers)} numbers come out again"
        else:
            result = f"{len(self.differing)} of {len(self.numbers)} numbers do not come out again:\n"
            result += self.numbers.loc[self.differing[:SHOWN_ROWS]].to_string()
        return "\n".join([*self.notes, result])


def check_run(run: str | Path) -> Check:
    """Evaluate a run again with its own settings and weights, beside it, and compare every number.

    Raises: InputError if it was not evaluated, or its data or weights are gone.
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
    pair = [dict(_numbers(_without_about(path), folder)) for path in (recorded, made / "metrics.json")]
    numbers = pd.DataFrame({"recorded": pair[0], "again": pair[1]})
    apart = (numbers["recorded"] - numbers["again"]).abs()
    fine = apart <= TOLERANCE * (1 + numbers["recorded"].abs())
    return Check(numbers, list(numbers.index[~fine]), _notes(folder, config))


def _notes(folder: Path, config: Config) -> list[str]:
    """What is not as it was when the run was made."""
    from p2m_workbench.provenance import data_hashes, git_state

    record = _read_json(folder / "run.json")
    then, now = record.get("provenance", {}).get("git"), git_state()
    notes = []
    if record.get("data") and record["data"] != data_hashes(config):
        notes.append("the data are not those of the run: their hashes differ")
    if then and now and (then["commit"], then["dirty"]) != (now["commit"], now["dirty"]):
        notes.append(f"the code is not that of the run: {_commit(then)} then, {_commit(now)} now")
    return notes


def _commit(git: dict[str, Any] | None) -> str:
    return f"{git['commit'][:12]}{' with changes' if git['dirty'] else ''}" if git else "unknown"


# ------------------------------------------------------------------------------------------------ two runs


@dataclass(frozen=True)
class Difference:
    """How run B differs from run A. settings, about, metrics: a row a name that differs.   samples: a row a sample of
    A's split: both errors, and how far the meshes are apart; empty where a run has no weights."""

    runs: tuple[Path, Path]
    settings: pd.DataFrame
    about: pd.DataFrame
    metrics: pd.DataFrame
    samples: pd.DataFrame

    def __str__(self) -> str:
        lines = [f"A  {shown(self.runs[0])}", f"B  {shown(self.runs[1])}"]
        for name in ("settings", "about", "metrics", "samples"):
            table = getattr(self, name)
            lines += ["", f"{name}: no difference" if table.empty else f"{name}:"]
            if name == "samples" and len(table):
                means = table.mean(numeric_only=True).round(3)
                lines[-1] = f"samples: {len(table)}, mean {', '.join(f'{k} {v}' for k, v in means.items())}"
            if len(table):
                lines.append(table.head(SHOWN_ROWS).round(4).to_string(max_colwidth=60))
            if len(table) > SHOWN_ROWS:
                lines.append(f"and {len(table) - SHOWN_ROWS} more")
        return "\n".join(lines)

    def save(self, folder: Path) -> None:
        """Write settings.csv, about.csv, metrics.csv and samples.csv, whole."""
        for name in ("settings", "about", "metrics", "samples"):
            write_text(folder / f"{name}.csv", getattr(self, name).to_csv())


def diff_runs(a: str | Path, b: str | Path) -> Difference:
    """Compare two runs: settings, what they stand on, metrics, and the meshes of A's split sample by sample.

    Raises: InputError if one is no run, or A's data are gone.
    """
    folders = find_run(a), find_run(b)
    configs = [load_config(folder / "config.yaml") for folder in folders]
    flat = [_flat(config.model_dump(mode="json")) for config in configs]
    records = [_read_json(folder / "run.json") for folder in folders]
    about = [_flat({**r.get("provenance", {}), "data": r.get("data", {}), "command": None}) for r in records]
    metrics = pd.DataFrame(dict(zip("AB", map(read_metrics, folders), strict=True)), dtype=float)
    metrics["B - A"] = metrics["B"] - metrics["A"]
    change = (metrics["B - A"] / metrics["A"].abs().clip(lower=1e-9)).abs()
    known = metrics.index.isin(list(HEADLINES))  # these first, then the largest changes
    order = pd.DataFrame({"known": ~known, "change": -change}).sort_values(["known", "change"]).index
    metrics = metrics.loc[order]
    whole = all((folder / "weights.safetensors").exists() for folder in folders)
    return Difference(
        folders,
        _differing(*flat),
        _differing(*about),
        metrics[metrics["A"] != metrics["B"]],
        compare_meshes(configs[0], *folders) if whole else pd.DataFrame(),
    )


def compare_meshes(config: Config, a: Path, b: Path) -> pd.DataFrame:
    """Errors of two runs on the samples of a config's split, and how far their finest meshes are apart.

    Of faces in percent of the face size, errors being nme68-2d; of objects in mm, errors being CD x1000. Meshes of one
    template are compared vertex by vertex, others by nearest vertices, both ways.
    """
    from p2m_core.data import open_store

    store = open_store(config, config.evaluate.store)
    rows = store.rows(config.evaluate.split)
    compare = _compare_objects if config.data.kind == "objects" else _compare_faces
    table = compare(store, rows, config, a, b).set_index("name")
    table.insert(2, "B - A", table["B"] - table["A"])
    return table.sort_values(table.columns[-1], ascending=False)


def _compare_faces(store, rows, config: Config, a: Path, b: Path) -> pd.DataFrame:
    from p2m_core.geometry.crop import face_size
    from p2m_core.inference import open_network
    from p2m_core.metrics import nme68_2d
    from p2m_workbench.measuring.evaluate import predict_store

    meshes = [predict_store(open_network(run), store, rows, config.evaluate.flip) for run in (a, b)]
    truth = store.table["landmarks_px"][rows].astype(np.float64)
    errors = [nme68_2d(np.stack([mesh.landmarks_px for mesh in of_run]), truth) for of_run in meshes]
    apart = [_apart(x.vertices_px, y.vertices_px) for x, y in zip(*meshes, strict=True)] / face_size(truth) * 100
    return pd.DataFrame({"name": store.table["name"][rows], "A": errors[0], "B": errors[1], "apart, %": apart})


def _compare_objects(store, rows, config: Config, a: Path, b: Path) -> pd.DataFrame:
    import torch
    from torch.utils.data import DataLoader

    from p2m_core.metrics import cd_f1
    from p2m_workbench.interop.reference_network import load_network

    lines: dict[int, dict[str, Any]] = {}
    for side, run in zip("AB", (a, b), strict=True):
        model, _ = load_network(run)
        data = store.dataset(rows, config.model_copy(update={"model": model.config}), train=False)
        for batch in DataLoader(data, 8, generator=torch.Generator()):
            with torch.no_grad():
                vertices = model(batch["image"]).levels[-1].numpy()
            for k, index in enumerate(batch["index"].tolist()):
                line = lines.setdefault(index, {"name": store.table["name"][index]})
                line[side] = cd_f1(vertices[k], batch["points"][k, : batch["lengths"][k]].numpy())["cd"]
                line["apart, mm"] = 1000 * _apart(line["apart, mm"], vertices[k]) if side == "B" else vertices[k]
    return pd.DataFrame(lines.values())[["name", "A", "B", "apart, mm"]]


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of two meshes' vertices, (V, 3) and (W, 3)."""
    from scipy.spatial import cKDTree

    if a.shape == b.shape:
        return float(np.linalg.norm(a - b, axis=1).mean())
    return float((cKDTree(a).query(b)[0].mean() + cKDTree(b).query(a)[0].mean()) / 2)


def _differing(a: dict[str, Any], b: dict[str, Any]) -> pd.DataFrame:
    names = [name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)]
    rows = {name: {"A": a.get(name, "-"), "B": b.get(name, "-")} for name in names}
    return pd.DataFrame(rows.values(), index=list(rows), columns=["A", "B"])


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
