"""What a training or a store survives: kills, signals, a full disk, damage, NaN, want of memory, jumping clocks.

The measure of all is an undisturbed run: what went on after a fault must end with the same weights.
"""

import errno
import json
import multiprocessing.util
import os
import random
import resource
import shutil
import signal
import time
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from children import assert_same_weights, metrics, start, wait, weights_of
from conftest import quick

from p2m_core.config.loading import load_config
from p2m_core.config.paths import project_root, run_folder
from p2m_core.data.face_store import FaceStore
from p2m_core.errors import InputError, Preempted
from p2m_core.files import atomic_path
from p2m_workbench.preprocessing import preprocess, store_writer
from p2m_workbench.training import trainer as train_module
from p2m_workbench.training.checkpoints import list_checkpoints
from p2m_workbench.training.trainer import NonFiniteLoss, Trainer, train

OFTEN = "train.checkpoint_minutes=1e-9"


def assert_same_run(folder, calm):
    assert_same_weights(weights_of(folder), weights_of(calm), rtol=1e-5, atol=1e-6)
    last = list_checkpoints(folder)[-1], list_checkpoints(calm)[-1]
    assert last[0].name == last[1].name
    assert_same_weights(weights_of(last[0]), weights_of(last[1]), rtol=1e-5, atol=1e-6)
    rows, expected = ([(row["step"], row["loss"][:6]) for row in metrics(f)] for f in (folder, calm))
    assert rows == expected
    assert not list((folder / "checkpoints").glob(".*"))
    assert (folder / "finished.json").exists()


def once(monkeypatch, name, disturb):
    """Trainer.NAME first calls disturb(trainer, arguments), the first time that it is called."""
    real, left = getattr(Trainer, name), [1]

    def disturbed(self, *args):
        if left:
            left.pop()
            disturb(self, *args)
        return real(self, *args)

    monkeypatch.setattr(Trainer, name, disturbed)


# --- kills and signals ---


def kill_at_random(tiny_settings, home, kills, epochs):
    """A run that is killed so often, at random moments; it begins anew when it ends before."""
    words = quick("run", tiny_settings, OFTEN, "train.validate_minutes=1e-9", f"train.epochs={epochs}")
    wait(start(home / "calm", [*words, "train.batch_size=99"]))  # so that the server's own start does not count
    began = time.monotonic()
    assert wait(start(home / "calm", words)) == [0]
    usual_s, rng = time.monotonic() - began, random.Random(kills)
    folder, killed = home / "killed/outputs/run", 0
    while killed < kills:
        [child] = start(home / "killed", words)
        child.join(rng.uniform(0, 1.2 * usual_s))
        if child.exitcode is None:
            child.kill()
            killed += 1
        [code] = wait([child])
        if code == 0:
            assert_same_run(folder, home / "calm/outputs/run")
            shutil.rmtree(folder)
        else:
            assert code == -signal.SIGKILL, (home / "killed/child-0.txt").read_text()[-2000:]
    assert wait(start(home / "killed", words)) == [0]
    assert_same_run(folder, home / "calm/outputs/run")


@pytest.mark.slow
def test_killed_three_times_at_random_ends_as_undisturbed(tiny_settings, store, tmp_path):
    kill_at_random(tiny_settings, tmp_path, 3, epochs=2)


@pytest.mark.slow
def test_killed_thirty_times_at_random_ends_as_undisturbed(tiny_settings, store, tmp_path):
    kill_at_random(tiny_settings, tmp_path, 30, epochs=8)


ROOT = project_root()


def in_pairs():
    """Before preprocessing in a child: many parts, and the face model that is there."""
    store_writer.PART_SIZE, os.environ["P2M_HOME"] = 2, str(ROOT)


def stop_preprocessing(tiny_settings, tmp_path, times, number):
    """A preprocessing that gets a signal so often, at random moments; it begins anew when it ends before."""

    def begin(home):
        words = [*tiny_settings, f"data.store={home / 'store'}"]
        return start(home, words, before=in_pairs, command="preprocess")[0]

    def made_of(home):
        return json.loads((home / "store/manifest.json").read_text())["sha256"]

    wait([begin(tmp_path / "first")])  # so that the server's own start does not count
    began = time.monotonic()
    assert wait([begin(tmp_path / "calm")]) == [0]
    usual_s, rng, home, stopped = time.monotonic() - began, random.Random(times), tmp_path / "stopped", 0
    while stopped < times:
        child = begin(home)
        child.join(rng.uniform(0, 1.2 * usual_s))
        if child.exitcode is None:
            os.kill(child.pid, number)
            stopped += 1
        [code] = wait([child])
        if code == 0:
            assert made_of(home) == made_of(tmp_path / "calm")
            shutil.rmtree(home)
        else:  # a signal before its handler is there ends Python itself
            assert code in ((130, -number) if number == signal.SIGTERM else (-number,))
    assert wait([begin(home)]) == [0]
    assert made_of(home) == made_of(tmp_path / "calm")
    assert not list((home / "store").glob("parts-*"))
    assert not [path for path in home.rglob("*") if "partial" in path.name]


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL], ids=["SIGTERM", "SIGKILL"]
)
def test_preprocessing_that_is_stopped_or_killed_makes_the_same_store(tiny_settings, tmp_path, number):
    stop_preprocessing(tiny_settings, tmp_path, 2, number)


@pytest.mark.slow
def test_preprocessing_that_is_killed_thirty_times_makes_the_same_store(tiny_settings, tmp_path):
    stop_preprocessing(tiny_settings, tmp_path, 30, signal.SIGKILL)


STAGES = ("restore", "train_step", "preview", "validate", "keep_best", "save")
EACH = [(stage, signal.SIGTERM) for stage in STAGES] + [("train_step", signal.SIGUSR1)]


@pytest.mark.parametrize(("stage", "number"), EACH, ids=lambda part: getattr(part, "name", part))
def test_told_to_stop_in_any_stage_it_goes_on_as_undisturbed(settings, monkeypatch, stage, number):
    more = ("train.validate_minutes=1e-9", "train.ema=0.5")
    calm = train(settings("calm", *more))
    once(monkeypatch, stage, lambda *_: signal.raise_signal(number))
    handlers = signal.getsignal(number)
    with pytest.raises(Preempted, match=rf"stopped by {number.name} after a checkpoint; the same command goes on"):
        train(settings("stopped", *more))
    assert signal.getsignal(number) == handlers
    folder = run_folder(settings("stopped"))
    [checkpoint] = list_checkpoints(folder)
    assert checkpoint.name == f"step-{0 if stage == 'restore' else 1:08d}"
    assert not (folder / "finished.json").exists()
    train(settings("stopped", *more))
    assert_same_weights(weights_of(folder), weights_of(calm), rtol=1e-5, atol=1e-6)
    assert [row["loss"] for row in metrics(folder) if row["loss"]] == [r["loss"] for r in metrics(calm) if r["loss"]]


def test_told_to_stop_while_it_ends_it_ends(settings, monkeypatch):
    real = Trainer.validate

    def stopping(self):
        signal.raise_signal(signal.SIGTERM)
        return real(self)

    monkeypatch.setattr(Trainer, "validate", stopping)
    assert (train(settings("run")) / "finished.json").exists()


def test_ctrl_c_twice_does_not_wait_for_the_checkpoint(settings, monkeypatch):
    def twice(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    once(monkeypatch, "train_step", twice)
    with pytest.raises(KeyboardInterrupt):
        train(settings("run"))
    assert not list_checkpoints(run_folder(settings("run")))


def test_a_process_that_is_told_to_stop_exits_with_75(tiny_settings, store, tmp_path):
    words = quick("run", tiny_settings, OFTEN, "train.epochs=100000")
    [child] = start(tmp_path, words)
    while child.exitcode is None and not list_checkpoints(tmp_path / "outputs/run"):
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGUSR1)
    assert wait([child]) == [75]
    assert "stopped by SIGUSR1 after a checkpoint" in (tmp_path / "child-0.txt").read_text()


def tell_all_as_a_worker_starts():
    """Before training in a child: as a data worker is started, it and its parent get SIGTERM, as from a cluster."""
    real = multiprocessing.util.spawnv_passfds

    def spawn(path, args, descriptors):
        pid = real(path, args, descriptors)
        if "resource_tracker" not in " ".join(map(str, args)):
            os.kill(pid, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return pid

    multiprocessing.util.spawnv_passfds = spawn


def test_told_to_stop_while_a_data_worker_starts_it_stops(tiny_settings, store, tmp_path):
    words = quick("run", tiny_settings, "train.epochs=100000", "train.workers=1")
    assert wait(start(tmp_path, words, before=tell_all_as_a_worker_starts), 60) == [75]
    said = (tmp_path / "child-0.txt").read_text()
    assert "stopped by SIGTERM after a checkpoint" in said
    assert "a data worker died" not in said


def test_a_second_run_on_the_same_folder_refuses(tiny_settings, store, tmp_path):
    words = quick("run", tiny_settings, OFTEN, "train.epochs=100000")
    [first] = start(tmp_path, words)
    while first.exitcode is None and not list_checkpoints(tmp_path / "outputs/run"):
        time.sleep(0.05)
    assert wait(start(tmp_path, words)) == [2]
    assert "another process trains this run" in (tmp_path / "child-0.txt").read_text()
    assert first.exitcode is None
    first.kill()
    wait([first])
    shorter = "train.minutes=1e-6", "train.continue_with=true"
    assert wait(start(tmp_path, quick("run", tiny_settings, *shorter))) == [0]  # a dead one holds nothing


# --- disks ---


@contextmanager
def largest_file(size):
    """No file grows beyond so many bytes: writing more fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt"])
def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(settings, file):
    calm = train(settings("calm", OFTEN))
    sizes = {name: (list_checkpoints(calm)[-1] / name).stat().st_size for name in ("weights.safetensors", "state.pt")}
    assert sizes["state.pt"] > 1.1 * sizes["weights.safetensors"]
    small = sizes[file] - 1000
    folder = run_folder(settings("full"))

    with (
        largest_file(small),
        pytest.raises(InputError, match=r"cannot be written: .*\(make room on the disk; the same"),
    ):
        train(settings("full", OFTEN))
    assert list_checkpoints(folder) == []
    assert [path for path in folder.rglob("*") if "partial" in path.name] == []
    train(settings("full", OFTEN))
    assert_same_run(folder, calm)


def test_a_full_disk_in_the_middle_goes_on_from_the_last_checkpoint(settings, monkeypatch):
    calm = train(settings("calm", OFTEN))
    real = Trainer.save

    def full_at_five(self):
        with largest_file(20_000) if self.step == 5 else atomic_path(self.folder / "free") as free:
            if free:
                free.touch()
            real(self)

    monkeypatch.setattr(Trainer, "save", full_at_five)
    folder = run_folder(settings("full"))
    with pytest.raises(InputError, match="cannot be written"):
        train(settings("full", OFTEN))
    assert [path.name for path in list_checkpoints(folder)] == ["step-00000003", "step-00000004"]
    monkeypatch.setattr(Trainer, "save", real)
    train(settings("full", OFTEN))
    assert_same_run(folder, calm)


def test_a_full_disk_while_a_store_is_written_leaves_none(tiny_settings, store, tmp_path):
    config = load_config(None, [*tiny_settings, f"data.store={tmp_path / 'store'}"])
    size = (store.folder / "images.bin").stat().st_size
    with largest_file(size // 2), pytest.raises(InputError, match="cannot be written"):
        preprocess(config)
    assert not (tmp_path / "store/manifest.json").exists()
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]
    again = preprocess(config)
    assert again.manifest["sha256"] == store.manifest["sha256"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENAMETOOLONG])
def test_every_full_disk_and_place_of_others_is_said_in_a_line(tmp_path, code):
    with pytest.raises(InputError, match=r"a\.bin: cannot be written"), atomic_path(tmp_path / "a.bin"):
        raise OSError(code, "as the system says it")
    with pytest.raises(OSError, match="another matter"), atomic_path(tmp_path / "a.bin"):
        raise OSError(errno.EIO, "another matter")


# --- damage ---


def cut(path):
    with open(path, "r+b") as stream:
        stream.truncate(path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def stop_at(monkeypatch, step):
    def stop(trainer, *_):
        if trainer.step == step - 1:
            signal.raise_signal(signal.SIGTERM)

    real = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda self, batch: (stop(self), real(self, batch))[1])


DAMAGES = {"cut in half": ("state.pt", cut), "one bit": ("weights.safetensors", flip)}
DAMAGES["missing"] = ("state.pt", lambda path: path.unlink())


@pytest.mark.parametrize(("file", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(settings, monkeypatch, caplog, damage, file):
    calm = train(settings("calm", OFTEN))
    stop_at(monkeypatch, 5)
    with pytest.raises(Preempted):
        train(settings("run", OFTEN))
    monkeypatch.undo()
    folder = calm.parent / "run"
    before, last = list_checkpoints(folder)
    damage(last / file)
    return_to = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2M_HOME", str(folder.parents[1]))
        from children import TinyEncoder

        patch.setattr("p2m_core.network.model.build_backbone", lambda *_: TinyEncoder())
        real = Trainer.restore
        patch.setattr(Trainer, "restore", lambda self: (real(self), return_to.append(self.step)))
        train(settings("run", OFTEN))
    assert f"{last} is damaged and passed over" in caplog.text
    assert return_to == [int(before.name.removeprefix("step-"))]
    assert_same_run(folder, calm)


def test_if_all_checkpoints_are_damaged_it_does_not_begin_anew_unasked(settings):
    folder = train(settings("run"))
    (folder / "finished.json").unlink()
    for checkpoint in list_checkpoints(folder):
        cut(checkpoint / "state.pt")
    with pytest.raises(InputError, match=r"every checkpoint is damaged \(delete the run's folder to begin anew\)"):
        train(settings("run"))


def test_a_checkpoint_of_before_without_digests_is_read(settings, monkeypatch):
    calm = train(settings("calm"))
    stop_at(monkeypatch, 3)
    with pytest.raises(Preempted):
        train(settings("run"))
    [checkpoint] = list_checkpoints(run_folder(settings("run")))
    (checkpoint / "sha256.json").unlink()
    train(settings("run"))
    assert_same_weights(weights_of(run_folder(settings("run"))), weights_of(calm), rtol=1e-5, atol=1e-6)


@pytest.fixture
def spoilt(store, tmp_path):
    """A copy of the store in which one byte of a training sample's picture is another, and that sample's index."""
    folder, index = shutil.copytree(store.folder, tmp_path / "spoilt"), int(store.rows("train")[3])
    blob = folder / "images.bin"
    content = bytearray(blob.read_bytes())
    content[(store.starts[index] + store.starts[index + 1]) // 2] ^= 255
    blob.write_bytes(content)
    return folder, index


def test_a_damaged_sample_of_a_store_is_skipped_and_listed(settings, store, spoilt, caplog):
    folder, index = spoilt
    name = store.table["name"][index]
    run = train(settings("run", f"data.store={folder}"))
    assert caplog.text.count(f"1 damaged samples are skipped: {name}") == 1
    assert json.loads((run / "provenance.json").read_text())["damaged"] == [name]
    opened = FaceStore(folder)
    for split in ("train", "all"):
        assert set(store.rows(split)) - set(opened.rows(split)) == {index}
    assert np.array_equal(opened.rows("val"), store.rows("val"))
    with pytest.raises(InputError, match=f"images.bin: {name}: is damaged"):
        opened.crop(index)
    assert len(store.damaged) == 0


def test_a_store_without_checksums_is_read_as_before(store, tmp_path):
    folder = shutil.copytree(store.folder, tmp_path / "old")
    table = {name: column for name, column in store.table.items() if name != "crc32"}
    np.savez(folder / "samples.npz", **table)
    assert np.array_equal(FaceStore(folder).rows("train"), store.rows("train"))
    assert np.array_equal(FaceStore(folder).crop(0), store.crop(0))


# --- numbers, memory, clocks ---


def spoil_batch(trainer, batch):
    batch["image"][0, 0, 3, 3] = torch.nan


def spoil_gradient(trainer, batch):
    trainer.model.stages[0].conv1.weight.register_hook(lambda gradient: gradient * torch.nan)


@pytest.mark.parametrize("spoil", [spoil_batch, spoil_gradient], ids=["batch", "gradient"])
def test_nan_ends_the_run_before_it_reaches_weights_or_checkpoints(settings, monkeypatch, spoil):
    calm = train(settings("calm", OFTEN))
    real, left = Trainer.train_step, [1]

    def spoilt(self, batch):
        if self.step == 4 and left:
            left.pop()
            spoil(self, batch)
        return real(self, batch)

    monkeypatch.setattr(Trainer, "train_step", spoilt)
    with pytest.raises(NonFiniteLoss, match=r"^step 4: .*; the batch: "):
        train(settings("run", OFTEN))
    folder = run_folder(settings("run"))
    assert list_checkpoints(folder)[-1].name == "step-00000004"
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(list_checkpoints(folder)[-1]).values())
    train(settings("run", OFTEN))
    assert_same_run(folder, calm)


def test_when_a_data_worker_dies_they_are_started_again(settings, monkeypatch, caplog):
    calm = train(settings("calm"))
    real, left = Trainer.loader, [MemoryError("no more"), RuntimeError("DataLoader worker (pid 7) is killed by signal")]

    def dying(self):
        for k, batch in enumerate(real(self)):
            if k == 2 and left:
                raise left.pop()
            yield batch

    monkeypatch.setattr(Trainer, "loader", dying)
    config = settings("run", "train.workers=1")
    real_loader = train_module.DataLoader
    own = {"num_workers": 0, "prefetch_factor": None, "worker_init_fn": None, "multiprocessing_context": None}
    monkeypatch.setattr(train_module, "DataLoader", lambda *args, **given: real_loader(*args, **{**given, **own}))
    train(config)
    assert caplog.text.count("the workers are started again") == 2
    assert_same_run(run_folder(config), calm)


def test_workers_that_die_again_and_again_end_the_run_with_a_remedy(settings, monkeypatch):
    def dying(self):
        raise MemoryError("no more")
        yield

    monkeypatch.setattr(Trainer, "loader", dying)
    with pytest.raises(
        InputError, match=r"a data worker died at step 0: no more \(use fewer train.workers or a smaller"
    ):
        train(settings("run", "train.workers=1"))


def test_what_a_sample_raises_is_not_tried_again(settings, monkeypatch):
    def failing(self):
        raise RuntimeError("another matter")
        yield

    monkeypatch.setattr(Trainer, "loader", failing)
    with pytest.raises(RuntimeError, match="another matter"):
        train(settings("run", "train.workers=1"))


class Hungry:
    """A data set whose first reader in a worker runs out of memory, or is killed for it."""

    def __init__(self, data, mark, killed):
        self.data, self.mark, self.killed = data, mark, killed

    def __len__(self):
        return len(self.data)

    def __getitem__(self, item):
        if not self.mark.exists():
            self.mark.touch()
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            resource.setrlimit(resource.RLIMIT_AS, (2**30, resource.getrlimit(resource.RLIMIT_AS)[1]))
            np.ones(2**32)
        return self.data[item]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True], ids=["RLIMIT_AS", "out-of-memory killer"])
def test_a_worker_out_of_memory_is_replaced(settings, monkeypatch, caplog, tmp_path, killed):
    calm = train(settings("calm"))
    real = Trainer.__init__

    def hungry(self, *args):
        real(self, *args)
        self.train_set = Hungry(self.train_set, tmp_path / "mark", killed)

    monkeypatch.setattr(Trainer, "__init__", hungry)
    folder = train(settings("run", "train.workers=1"))
    assert caplog.text.count("the workers are started again") == 1
    assert_same_run(folder, calm)


def test_jumps_of_the_clock_change_nothing(settings, monkeypatch):
    calm = train(settings("calm", OFTEN))
    real, calls = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + 86400 * (-1) ** next(calls))
    folder = train(settings("run", OFTEN))
    assert next(calls) > 0
    assert_same_run(folder, calm)
    seconds = [float(row["seconds"]) for row in metrics(folder)]
    assert all(0 <= a <= b < 3600 for a, b in pairwise(seconds))


def test_a_run_by_the_clock_does_not_end_by_a_jump(settings, monkeypatch):
    real, began = time.time, time.monotonic()
    monkeypatch.setattr(time, "time", lambda: real() + 86400 * (time.monotonic() > began + 0.1))
    folder = train(settings("run", "train.minutes=0.02", "train.epochs=1000000"))
    assert json.loads((folder / "finished.json").read_text())["seconds"] >= 1.2
