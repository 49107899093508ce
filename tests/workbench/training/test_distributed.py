"""Several processes make the steps of one, survive the loss of one, and may be of another number next time."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from children import assert_same_weights, group_norm, metrics, start, wait, weights_of
from conftest import quick

from p2m_core.config.loading import load_config
from p2m_core.errors import InputError
from p2m_workbench.training import distributed
from p2m_workbench.training.distributed import Ranks
from p2m_workbench.training.loader import EpochSampler
from p2m_workbench.training.trainer import train

OFTEN = "train.checkpoint_minutes=1e-9"


@pytest.fixture(scope="module")
def calm(tiny_settings, store, tmp_path_factory):
    """The folder of a run of one process, undisturbed."""
    home = tmp_path_factory.mktemp("one")
    assert wait(start(home, quick("run", tiny_settings, OFTEN), norm=group_norm)) == [0]
    return home / "outputs/run"


def losses(folder):
    return np.array([float(row["loss"]) for row in metrics(folder) if row["loss"]])


def assert_same_run(folder, calm):
    np.testing.assert_allclose(losses(folder), losses(calm), rtol=1e-4)
    assert [row["step"] for row in metrics(folder)] == [row["step"] for row in metrics(calm)]
    # Sums in another order; Adam makes steps of gradients that are rounding alone.
    assert_same_weights(weights_of(folder), weights_of(calm), rtol=1e-2, atol=1e-3)


def dies_once():
    """The second process is killed as it begins its step 5, once."""
    from p2m_core.config.paths import project_root
    from p2m_workbench.training.trainer import Trainer

    real, mark = Trainer.train_step, project_root() / "killed"

    def dying(self, batch):
        if self.ranks.rank == 1 and self.step == 5 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, batch)

    Trainer.train_step = dying


def told_to_stop():
    """The second process alone gets SIGTERM in its step 3."""
    from p2m_workbench.training.trainer import Trainer

    real = Trainer.train_step

    def stopping(self, batch):
        if self.ranks.rank == 1 and self.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(self, batch)

    Trainer.train_step = stopping


def test_two_processes_have_the_loss_curve_of_one(calm, tiny_settings, tmp_path):
    assert wait(start(tmp_path, quick("run", tiny_settings, OFTEN), 2, group_norm)) == [0, 0]
    assert_same_run(tmp_path / "outputs/run", calm)
    assert len(losses(calm)) == 6


def test_after_a_killed_process_one_goes_on_from_the_last_checkpoint(calm, tiny_settings, tmp_path):
    """So the number of processes may be another one, too."""
    words = quick("run", tiny_settings, OFTEN)
    codes = wait(start(tmp_path, words, 2, group_norm, dies_once))
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, None)
    folder = tmp_path / "outputs/run"
    assert sorted(path.name for path in (folder / "checkpoints").glob("step-*"))[-1] == "step-00000005"
    assert wait(start(tmp_path, words, 1, group_norm)) == [0]
    assert_same_run(folder, calm)


def test_a_signal_to_one_process_stops_all_after_the_same_step(calm, tiny_settings, tmp_path):
    words = quick("run", tiny_settings)
    assert wait(start(tmp_path, words, 2, group_norm, told_to_stop)) == [75, 75]
    folder = tmp_path / "outputs/run"
    [checkpoint] = (folder / "checkpoints").iterdir()
    assert checkpoint.name == "step-00000003"
    assert "stopped by SIGTERM after a checkpoint" in (tmp_path / "child-1.txt").read_text()
    assert wait(start(tmp_path, words, 2, group_norm)) == [0, 0]
    assert_same_run(folder, calm)


@pytest.mark.slow
def test_the_launcher_starts_them_again_when_one_is_killed(tiny_settings, home, store, monkeypatch, capfd):
    """By `train` itself, with torch's launcher and a real encoder."""
    monkeypatch.setenv("P2M_HOME", str(home))
    (home / "configs").mkdir(parents=True)
    more = ("train.epochs=1", "loss.chamfer=0", "loss.normal=0", OFTEN, "model.pretrained=false")
    config = load_config(None, ["name=several", *tiny_settings, *more, "train.processes=2"])
    import threading
    import time

    import psutil

    folder, killed = home / "outputs/several", []

    def kill_one():
        while not list((folder / "checkpoints").glob("step-*")):
            time.sleep(0.1)
        ranks = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
        killed.append(len(ranks))
        ranks[-1].kill()

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert train(config) == folder
    assert killed == [2]
    assert list((folder / "ranks").glob("*/attempt_1"))
    assert json.loads((folder / "finished.json").read_text())["steps"] == 3
    assert len(losses(folder)) == 3
    assert "several 100%" in "".join(capfd.readouterr())  # what the first process says is shown here
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


# --- the parts ---


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_every_batch_of_the_sampler(world):
    def pairs(rank, world, skip=8):
        sampler = iter(EpochSampler(19, 16, 1, 0, skip, 8, rank, world))
        return [next(sampler) for _ in range(32 // world)]

    whole, share = pairs(0, 1), 8 // world
    for step in range(4):
        together = [pair for rank in range(world) for pair in pairs(rank, world)[step * share : (step + 1) * share]]
        assert together == whole[step * 8 : (step + 1) * 8]


def test_a_batch_that_cannot_be_shared_is_refused():
    assert Ranks(1, 2, 1).share(8) == 4
    with pytest.raises(
        InputError, match=r"train.batch_size: 7 samples a step.*by 2 processes \(give a multiple of 2\)"
    ):
        Ranks(1, 2, 1).share(7)


def test_one_process_needs_no_group():
    assert Ranks().mean({"a": 1.5}, torch.device("cpu")) == {"a": 1.5}
    model = torch.nn.Linear(2, 2)
    assert Ranks().wrap(model) is model
    assert not torch.distributed.is_initialized()


def test_a_launch_is_refused_while_another_runs(settings, monkeypatch):
    from filelock import FileLock

    from p2m_core.config.paths import run_folder

    config = settings("run", "train.processes=2")
    for name in (distributed.LOCK_NAME, distributed.LAUNCH_LOCK_NAME):
        run_folder(config).mkdir(parents=True, exist_ok=True)
        with FileLock(run_folder(config) / name):
            assert distributed.is_training(run_folder(config))
            with pytest.raises(InputError, match="another process trains this run"):
                train(config)
    assert not distributed.is_training(run_folder(config))


def test_several_processes_are_launched_once(settings, monkeypatch):
    """By the setting, but not again in the processes themselves."""
    calls = []
    monkeypatch.setattr(
        "p2m_workbench.training.trainer.launch", lambda train, config, folder: calls.append(config.train.processes)
    )
    train(settings("run", "train.processes=2"))
    assert calls == [2]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert (train(settings("run", "train.processes=2", "train.epochs=1")) / "finished.json").exists()
    assert calls == [2]
