"""p2m_workbench.runs.sweep: what is planned, runs that fail, hang, die and are killed, and the tables."""

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import scipy.stats
import torch
from conftest import ROOT
from stub_project import make_project, results, start

from p2m_core.config.loading import load_config, with_values
from p2m_core.config.paths import project_root, run_folder
from p2m_core.config.settings import Config, SweepConfig
from p2m_core.errors import InputError
from p2m_core.geometry.template import ellipsoid
from p2m_core.geometry.template_files import load_template
from p2m_core.morphable.registration import face_template
from p2m_core.network.losses import MeshLoss
from p2m_core.network.model import Pixel2Mesh
from p2m_workbench.runs import sweep as module
from p2m_workbench.runs.sweep import Outcome, plan_runs, sweep, write_tables

STEPS = 16
RUNNING = ["sweep", "-c", "stub", "--grid", "train.lr=0.5", "--seeds", "2", "--jobs", "2"]
RUNNING += ["-p", f"steps={STEPS}", "-p", "step_s=0.25"]
# What the stub adds up, see stub_project.py.
TOTALS = {f"lr-0.5_seed-{seed}": 0.5 * (seed + 1) * STEPS * (STEPS + 1) / 2 for seed in (0, 1)}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project of its own with the counting notebook."""
    root = tmp_path / "a {b} c"
    root.mkdir()
    monkeypatch.setenv("P2M_HOME", str(root))
    return make_project(root)


def until(condition, limit_s=120):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def processes_of(root: Path) -> list[psutil.Process]:
    """All processes that were told of this project, zombies aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("P2M_HOME") == str(root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def assert_all_totals(root: Path) -> None:
    found = results(root)
    assert {label: done for label, (_, done) in found.items()} == dict.fromkeys(TOTALS, STEPS)
    assert {label: total for label, (total, _) in found.items()} == pytest.approx(TOTALS)


# --- plans ---


def planned(**wanted) -> dict[str, Config]:
    config = with_values(Config(seed=3), {f"sweep.{name}": value for name, value in wanted.items()}, "test")
    return {run.label: run.config for run in plan_runs(config)}


def test_a_grid_is_the_product_and_each_run_has_a_folder_of_its_own():
    runs = planned(grid={"train.lr": [1e-4, 3e-4], "model.backbone": ["resnet18", "resnet50"]}, seeds=2)
    assert list(runs)[:3] == [
        "lr-0.0001_backbone-resnet18_seed-3",
        "lr-0.0001_backbone-resnet18_seed-4",
        "lr-0.0001_backbone-resnet50_seed-3",
    ]
    assert len(runs) == 8
    assert {(c.train.lr, c.model.backbone, c.seed) for c in runs.values()} == {
        (lr, backbone, seed) for lr in (1e-4, 3e-4) for backbone in ("resnet18", "resnet50") for seed in (3, 4)
    }
    assert {run_folder(c).relative_to(project_root()).as_posix() for c in runs.values()} == {
        f"outputs/base-sweep/{label}" for label in runs
    }
    # How the sweep is run is no setting of a run: other jobs or retries make no run anew.
    assert all(config.sweep == SweepConfig() for config in runs.values())


def test_variants_change_several_settings_and_are_combined_with_the_grid():
    variants = {"plain": {}, "deep": {"model.backbone": "resnet50", "train.batch_size": 8}}
    runs = planned(variants=variants, grid={"train.lr": [1e-4, 3e-4]})
    assert list(runs) == ["plain_lr-0.0001", "plain_lr-0.0003", "deep_lr-0.0001", "deep_lr-0.0003"]
    deep = runs["deep_lr-0.0003"]
    assert (deep.model.backbone, deep.train.batch_size, deep.train.lr, deep.seed) == ("resnet50", 8, 3e-4, 3)
    assert list(planned(seeds=2)) == ["seed-3", "seed-4"]


def test_fields_of_one_name_are_told_apart():
    assert list(planned(grid={"train.workers": [0], "data.workers": [1]})) == ["train.workers-0_data.workers-1"]


def test_other_data_or_templates_get_a_store_of_their_own():
    runs = planned(grid={"template.kind": ["face", "semi_sphere"], "train.lr": [1e-4, 3e-4]})
    stores = {label: config.data.store for label, config in runs.items()}
    assert stores["kind-face_lr-0.0001"] == stores["kind-face_lr-0.0003"] == Config().data.store
    assert stores["kind-semi-sphere_lr-0.0001"] == stores["kind-semi-sphere_lr-0.0003"] != Config().data.store
    given = planned(variants={"a": {}, "b": {"template.kind": "semi_sphere", "data.store": "mine"}})
    assert given["b"].data.store == "mine"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, r"sweep\.grid: nothing varies"),
        ({"grid": {"train.epoch": [1]}}, r"sweep: train\.epoch: no such setting \(did you mean train\.epochs\?\)"),
        ({"grid": {"train.epochs": [1, "x"]}}, r"sweep: train\.epochs: input should be a valid integer, not \"x\""),
        ({"grid": {"train.lr": [0.1, 0.1]}}, "has two runs named lr-0.1"),
    ],
)
def test_wrong_plans_are_one_line(wanted, message):
    with pytest.raises(InputError, match=message):
        planned(**wanted)


# --- tables ---


def test_tables_have_means_and_intervals_over_the_seeds_paired_with_the_first_variant(root):
    runs = plan_runs(load_config("stub", ["sweep.grid={train.lr: [0.1, 0.2]}", "sweep.seeds=3"]))
    scores = {"0.1": [1.0, 2.0, 4.0], "0.2": [1.5, 2.25, 5.0]}
    for run in runs:
        folder = run_folder(run.config) / "evaluation" / "x"
        folder.mkdir(parents=True)
        rows = [{"system": run.label, "error": scores[str(run.config.train.lr)][run.config.seed]}]
        (folder / "metrics.json").write_text(json.dumps({"tables": {"score": {"rows": rows}}}))
    outcomes = {run.label: Outcome(run.label, "ok", 1, 2.0) for run in runs}
    outcomes["lr-0.2_seed-1"] = Outcome("lr-0.2_seed-1", "failed", 2, 3.0, "x | y")
    unfinished = {label: Outcome(label, "waiting") for label in outcomes}
    assert "score.run.error" not in write_tables(root, runs, unfinished)[0]  # of a run that goes on, nothing is read
    table, summary = write_tables(root, runs, outcomes)
    assert list(table["score.run.error"]) == [*scores["0.1"], *scores["0.2"]]
    assert list(summary["runs ok"]) == [3, 2]
    for row, values in zip(("lr-0.1", "lr-0.2"), scores.values(), strict=True):
        low, high = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
        assert summary.loc[row, "score.run.error"] == pytest.approx(np.mean(values))
        assert summary.loc[row, "score.run.error, ±"] == pytest.approx((high - low) / 2)
    gained = np.subtract(scores["0.2"], scores["0.1"])
    low, high = scipy.stats.t.interval(0.95, 2, gained.mean(), scipy.stats.sem(gained))
    assert summary.loc["lr-0.2", "score.run.error, less first"] == pytest.approx(gained.mean())
    assert summary.loc["lr-0.2", "score.run.error, less first, ±"] == pytest.approx((high - low) / 2)
    lines = (root / "sweep.md").read_text().splitlines()
    assert {line.count("|") for line in lines if "lr-0.1" in line and "seed" not in line} == {lines[0].count("|")}
    assert any("| failed " in line and "x / y" in line for line in lines)


# --- runs ---


@pytest.mark.slow
def test_a_failed_run_is_tried_again_and_stops_no_other(root):
    wanted = ["sweep.grid={train.device: [cpu, raise once, raise]}", "sweep.jobs=2"]
    first = sweep(load_config("stub", wanted), {"steps": 2})
    ends = {label: (row["status"], row["attempts"]) for label, row in first.table.iterrows()}
    assert ends == {"device-cpu": ("ok", 1), "device-raise-once": ("ok", 2), "device-raise": ("failed", 2)}
    assert first.failed == ["device-raise"]
    assert first.table.loc["device-raise", "error"].endswith("ValueError: as told")
    assert "ValueError: as told" in (first.folder / "device-raise" / "run.log").read_text()
    run = json.loads((first.folder / "device-cpu" / "run.json").read_text())
    assert run["notebooks"][0]["status"] == "ok"
    assert load_config(first.folder / "device-cpu" / "config.yaml").train.device == "cpu"
    # The notebook that compares sees the good ones.
    compared = json.loads((first.folder / "compared.json").read_text())
    assert compared == ["outputs/stub-sweep/device-cpu", "outputs/stub-sweep/device-raise-once"]
    # The same again: what is done is kept, what failed is tried again.
    again = sweep(load_config("stub", [*wanted, "sweep.retries=0"]), {"steps": 2})
    assert list(again.table["attempts"]) == [0, 0, 1]
    assert list(again.table["score.run.total"].dropna()) == list(first.table["score.run.total"].dropna())
    starts = [json.loads(path.read_text())[2] for path in sorted(again.folder.glob("*/state.json"))]
    assert starts == [1, 3, 2]


@pytest.mark.skipif(os.name == "nt", reason="signals as on Unix")
@pytest.mark.parametrize(
    "number",
    [*(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGINT)), signal.SIGKILL],
    ids=["SIGTERM", "SIGINT", "SIGKILL"],
)
def test_a_sweep_that_is_stopped_or_killed_goes_on_to_the_same_end(root, number):
    with start(root, *RUNNING) as process:
        until(lambda: any(done >= 2 for _, done in results(root).values()))
        if number == signal.SIGTERM:
            with pytest.raises(InputError, match=r"sweep\.lock: another process works on this sweep"):
                sweep(load_config("stub", ["sweep.seeds=2"]))
        process.send_signal(number)
        errors = process.communicate(timeout=120)[1]
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert errors.rstrip().endswith("the same command goes on from here")
    # Nobody goes on by himself: neither the processes that watch, nor runs, nor kernels.
    until(lambda: not processes_of(root))
    assert [done for _, done in results(root).values()] != [STEPS] * 2  # there is something left to do
    with start(root, *RUNNING) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    assert_all_totals(root)


@pytest.mark.skipif(os.name == "nt", reason="signals as on Unix")
def test_a_run_whose_process_hangs_is_ended_at_its_limit_and_tried_again(root, monkeypatch):
    real, frozen = module.subprocess.Popen, []

    def start_frozen(*args, **kwargs):
        process = real(*args, **kwargs)
        if not frozen:
            process.send_signal(signal.SIGSTOP)
        frozen.append(process.pid)
        return process

    monkeypatch.setattr(module.subprocess, "Popen", start_frozen)
    monkeypatch.setattr(module, "_time_limit", lambda run, wanted: 120.0 if frozen else 2.0)
    result = sweep(load_config("stub", ["sweep.grid={train.lr: [0.5]}"]), {"steps": 1})
    assert list(result.table["attempts"]) == [2]
    assert not result.failed
    assert not psutil.pid_exists(frozen[0])


@pytest.mark.slow
def test_every_fault_ends_its_run_alone(root):
    faults = ["sweep.grid={train.device: [cpu, raise, hang, die]}", "sweep.jobs=2", "sweep.timeout_s=25"]
    result = sweep(load_config("stub", [*faults, "sweep.retries=0"]), {"steps": 2})
    assert dict(result.table["status"]) == {
        "device-cpu": "ok",
        "device-raise": "failed",
        "device-hang": "timeout",
        "device-die": "failed",
    }
    assert "died" in result.table.loc["device-die", "error"].lower()
    assert "not done after 25 s" in result.table.loc["device-hang", "error"]
    until(lambda: not processes_of(root))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals as on Unix")
def test_thirty_kills_at_random_moments_change_nothing(root):
    chance = random.Random(5)
    for _ in range(30):
        with start(root, *RUNNING) as process:
            time.sleep(chance.uniform(0.5, 12))
            process.kill()
            process.communicate(timeout=120)
    with start(root, *RUNNING) as process:
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-2000:]
    assert_all_totals(root)
    until(lambda: not processes_of(root))


@pytest.mark.slow
def test_a_run_whose_process_is_killed_is_tried_again(root):
    with start(root, *RUNNING) as process:
        until(lambda: any(done >= 2 for _, done in results(root).values()))
        for run in processes_of(root):
            if run.pid != process.pid and "run" in run.cmdline():
                run.kill()
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    assert_all_totals(root)


# --- the ablation ---


@pytest.mark.parametrize("name", ["ablation", "ablation-objects"])
def test_every_variant_of_the_ablation_makes_a_network_and_a_loss(name, face_model):
    runs = plan_runs(load_config(ROOT / "configs" / f"{name}.yaml", ["sweep.seeds=1"]))
    assert runs[0].label == "base"
    assert len({run.config.data.store for run in runs}) < len(runs)
    for run in runs:
        config, kind = run.config, run.config.template
        assert config.train.minutes <= 3
        if config.data.kind == "faces":
            template = face_template(face_model, kind.kind, kind.rings, kind.levels)[0]
        else:
            template = load_template(ROOT / kind.file, kind.levels) if kind.file else ellipsoid(kind.levels)
        model = Pixel2Mesh(config.model, template).eval()
        with torch.no_grad():
            prediction = model(torch.rand(1, 3, config.model.input_px, config.model.input_px))
        assert [x.shape[1] for x in prediction.levels] == list(template.counts)
        MeshLoss(config.loss, template)


def test_the_ablation_has_twelve_variants_at_most():
    names = ("ablation", "ablation-objects")
    assert sum(len(load_config(ROOT / "configs" / f"{name}.yaml").sweep.variants) for name in names) <= 12
