"""p2m_workbench.runs.compare: the numbers of runs, whether they come out again, and how two runs differ."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from p2m_core.config.loading import load_config, save_config, with_values
from p2m_core.config.settings import Config
from p2m_core.errors import InputError
from p2m_core.network.model import Pixel2Mesh
from p2m_core.network.weights import save_weights
from p2m_workbench import cli
from p2m_workbench.measuring.evaluate import evaluate
from p2m_workbench.runs import compare
from p2m_workbench.runs.compare import diff_runs, find_run, headline, read_metrics, reproduce_run
from p2m_workbench.training.metrics_log import read_curves


def write_run(folder: Path, config: Config | None = None, losses=(2.0, 1.0), **content) -> Path:
    """A run's folder with a training log and the tables of the given evaluations, {table: rows}."""
    save_config(config or Config(), folder / "config.yaml")
    rows = pd.DataFrame({"step": range(len(losses)), "loss": losses, "val_error": np.nan})
    rows.loc[len(rows)] = [len(losses), np.nan, 5.0]  # a validation
    rows.to_csv(folder / "metrics.csv", index=False)
    for name, tables in content.items():
        (folder / "evaluation" / name).mkdir(parents=True)
        metrics = {"about": {"samples": 5}, "tables": {name: {"rows": rows} for name, rows in tables.items()}}
        (folder / "evaluation" / name / "metrics.json").write_text(json.dumps(metrics))
    return folder


# --- numbers ---


def test_all_finite_numbers_have_a_name(home):
    run = home / "outputs" / "x"
    cd_f1 = [
        {"system": "x", "category": "chair", "CD x1000": 3.0},
        {"system": "template", "category": "chair", "CD x1000": 4.0},
    ]
    tables = {
        "cd_f1": cd_f1,
        "nme68_2d": [{"system": "x", "plain": 2.5, "0-30": None}],
        "paired": [{"pair": "x - template", "difference": -1.0}],
        "slices": [{"attribute": "beard", "group": "yes", "samples": 3, "x": 2.0}],
    }
    write_run(run, test=tables)
    (run / "finished.json").write_text(json.dumps({"steps": 7, "metric": "nme", "val_error": 2.0}))
    assert read_metrics(run) == {
        "training.steps": 7,
        "training.val_error": 2.0,
        "training.exploded": 0.0,
        "cd_f1.run.chair.CD x1000": 3.0,  # under a name that other runs have too
        "cd_f1.template.chair.CD x1000": 4.0,
        "nme68_2d.run.plain": 2.5,
        "paired.run - template.difference": -1.0,
        "slices.beard.yes.samples": 3,
        "slices.beard.yes.run": 2.0,
    }
    assert headline(read_metrics(run)) == {"nme68-2d, %": 2.5, "val_error": 2.0, "steps": 7, "exploded steps, %": 0.0}
    write_run(run, val={"a": [{"system": "x", "b": 1}]})
    assert {"test.nme68_2d.run.plain", "val.a.run.b"} <= read_metrics(run).keys()


def test_the_share_of_exploded_steps(tmp_path):
    run = write_run(tmp_path / "x", losses=(2.0, 19.0, 21.0, np.inf))
    assert read_metrics(run)["training.exploded"] == 50


def test_the_curves_of_a_run_that_has_just_begun_and_of_another_version(tmp_path):
    assert {"step", "loss", "val_error"} <= set(read_curves(tmp_path))
    (tmp_path / "metrics.csv").touch()
    assert len(read_curves(tmp_path)) == 0
    assert read_metrics(tmp_path) == {}
    (tmp_path / "metrics.csv").write_text("iteration,loss\n1,2.0\n")
    with pytest.raises(InputError, match=r"metrics\.csv: step: is no column there"):
        read_curves(tmp_path)


def test_a_run_without_anything_has_no_numbers(tmp_path):
    assert read_metrics(tmp_path) == {}
    assert headline({"a": 1}) == {"a": 1}


def test_runs_are_found_by_path_and_by_name(home, monkeypatch):
    run = write_run(home / "outputs" / "sweep" / "one")
    assert find_run(run) == find_run("sweep/one") == find_run("outputs/sweep/one") == run
    monkeypatch.chdir(run.parent)
    assert find_run("one") == run
    write_run(home / "outputs" / "trial")
    with pytest.raises(InputError, match=r"trail: is no run \(did you mean trial\?\)"):
        find_run("trail")


# --- two runs ---


def test_what_differs_is_listed_and_nothing_else(home, capsys):
    one = write_run(home / "outputs" / "one", Config(name="one"), test={"t": [{"a": 1.0, "same": 2.0, "gone": 1.0}]})
    two = with_values(Config(), {"name": "two", "train.lr": 0.5, "model.hidden": [8] * 4}, "test")
    two = write_run(home / "outputs" / "two", two, test={"t": [{"a": 1.5, "same": 2.0}]})
    for run, commit in ((one, "a" * 40), (two, "b" * 40)):
        record = {"provenance": {"git": {"commit": commit}, "cpus": 2}, "data": {"splits": {"test": "1"}}}
        (run / "run.json").write_text(json.dumps(record))
    found = diff_runs("one", "two")
    assert {name: tuple(row) for name, row in found.tables["settings"].iterrows()} == {
        "name": ("one", "two"),
        "train.lr": (1e-3, 0.5),
        "model.hidden": ([192] * 4, [8] * 4),
    }
    assert list(found.tables["about"].index) == ["git.commit"]
    assert found.tables["metrics"].loc["t.a"].tolist() == [1.0, 1.5, 0.5]
    assert set(found.tables["metrics"].index) == {"t.a", "t.gone"}
    assert cli.main(["diff", "one", "two", "--out", str(home / "tables")]) == 0
    assert "train.lr" in capsys.readouterr().out
    assert len(pd.read_csv(home / "tables" / "settings.csv")) == 3
    same = diff_runs("one", "one")
    assert all(table.empty for table in same.tables.values())
    assert "settings: no difference" in str(same)


@pytest.fixture
def evaluated(home, tiny_config, store) -> Path:
    """A run of an untrained network, with its evaluation."""
    config = with_values(tiny_config, {"evaluate.split": "all", "model.pose_head": True}, "test")
    model = Pixel2Mesh(config.model, store.template)
    run = write_run(home / "outputs" / "tiny", config)
    save_weights(run / "weights.safetensors", model.state_dict(), model, {})
    evaluate(config)
    return run


def test_a_run_is_evaluated_again_and_its_numbers_are_checked(evaluated, store, capsys):
    result = reproduce_run(evaluated)
    assert not result.differing
    assert len(result.numbers) > 20
    assert "numbers are reproduced" in str(result)
    path = evaluated / "evaluation" / f"{store.folder.name}-all" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["tables"]["nme68_2d"]["rows"][0]["plain"] *= 1.01
    path.write_text(json.dumps(metrics))
    assert cli.main(["evaluate", "--run", str(evaluated)]) == 1
    assert "1 of " in (shown := capsys.readouterr().out)
    assert "nme68_2d.run.plain" in shown
    assert load_config(evaluated / "config.yaml").name == "tiny"  # it stays as it was
    shutil.rmtree(evaluated / "evaluation")
    with pytest.raises(InputError, match="p2m evaluate it first"):
        reproduce_run(evaluated)


def test_other_code_and_data_are_said(home, tiny_config, store, monkeypatch):
    git = {"commit": "a" * 40, "dirty": False}
    run = write_run(home / "outputs" / "x")
    (run / "run.json").write_text(json.dumps({"provenance": {"git": git}, "data": {"store": "another"}}))
    monkeypatch.setattr(compare, "git_state", lambda: git | {"dirty": True})
    notes = compare._notes(run, tiny_config)
    assert notes == [
        "the data are not those of the run: their hashes differ",
        "the code is not that of the run: aaaaaaaaaaaa then, aaaaaaaaaaaa with changes now",
    ]
