import csv
import json
import math
import shutil
import signal

import numpy as np
import pytest
import torch
from children import assert_same_weights, metrics, weights_of
from filelock import FileLock
from PIL import Image

from p2m_core.config.loading import config_hash, load_config
from p2m_core.config.paths import run_folder
from p2m_core.errors import InputError
from p2m_core.network.weights import read_weights, save_weights
from p2m_core.targets import Truth
from p2m_workbench.training import checkpoints as resume
from p2m_workbench.training import trainer as train_module
from p2m_workbench.training.distributed import LOCK_NAME
from p2m_workbench.training.loader import EpochSampler
from p2m_workbench.training.metrics_log import COLUMNS, trim_metrics
from p2m_workbench.training.schedule import learning_rate
from p2m_workbench.training.trainer import NonFiniteLoss, Trainer, train

CHAMFER = ("loss.chamfer=10", "loss.normal=1e-3")  # the terms with random points


def interrupt_at(monkeypatch, step, error=None):
    """The next run gets Ctrl-C in the step after which it stands at `step`, or dies in the step after that."""
    real, left = Trainer.train_step, [1]

    def dying(self, batch):
        if left and self.step == (step if error else step - 1):
            left.pop()
            if error:
                raise error
            signal.raise_signal(signal.SIGINT)
        return real(self, batch)

    monkeypatch.setattr(Trainer, "train_step", dying)


# --- a whole run, with a ResNet ---


def test_the_loss_decreases(tiny_run):
    losses = [float(row["loss"]) for row in metrics(tiny_run) if row["loss"]]
    assert len(losses) >= 24
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])


def test_what_a_run_leaves(tiny_run, tiny_config, store):
    rows = metrics(tiny_run)
    assert tuple(rows[0]) == COLUMNS
    steps = 12 * (len(store.rows("train")) // 4)
    assert [int(row["step"]) for row in rows if row["loss"]] == list(range(1, steps + 1))
    finished = json.loads((tiny_run / "finished.json").read_text())
    assert finished["steps"] == steps
    assert finished["parameters"] > 11e6
    assert finished["val_error"] == pytest.approx(float(rows[-1]["val_error"]))
    saved = load_config(tiny_run / "config.yaml")
    assert saved.model == tiny_config.model
    assert saved.train.epochs == 12
    provenance = json.loads((tiny_run / "provenance.json").read_text())
    assert provenance["store"] == store.manifest
    assert torch.__version__.startswith(provenance["packages"]["torch"])
    assert [path.name for path in (tiny_run / "checkpoints").iterdir()] == [f"step-{steps:08d}"]
    previews = sorted((tiny_run / "preview").iterdir())
    assert len(previews) == min(4, len(store.rows("val")))
    with Image.open(previews[0]) as picture:
        assert picture.size == (256, 128)  # the crop in double size, and the mesh over it
    with np.load(tiny_run / "previews.npz") as history, np.load(tiny_run / "preview.npz") as last:
        assert (np.diff(history["steps"]) > 0).all()
        assert history["steps"][-1] == last["step"]
        shown = history["vertices"][-1]  # the same four, of a level with few enough vertices
        np.testing.assert_allclose(shown, last["vertices"][:, : shown.shape[1]], atol=0.1)
        assert history["faces"].max() < shown.shape[1] <= 2500
    assert (tiny_run / "time_machine.html").stat().st_size > 250_000
    with np.load(tiny_run / "preview.npz") as meshes:  # what the 3D view of notebook 02 shows
        assert int(meshes["step"]) == steps
        assert meshes["names"].tolist() == store.table["name"][store.rows("val")][:4].tolist()
        assert meshes["vertices"].shape == meshes["truth"].shape == (len(previews), *store.template.vertices.shape)
        landmarks = np.stack([store.template.landmarks(x) for x in (meshes["truth"][0], meshes["vertices"][0])])
        assert (np.abs(landmarks - meshes["photos"].shape[1] / 2)[..., :2] < meshes["photos"].shape[1]).all()
        assert meshes["faces"].max() < meshes["vertices"].shape[1]
    assert list((tiny_run / "tensorboard").glob("events*"))
    assert (tiny_run / "weights.safetensors").exists()
    about = read_weights(tiny_run)[3]
    assert about["step"] == steps
    assert about["samples"] == len(store.rows("train"))


def test_images_reach_the_network_in_zero_to_one(settings, store):
    trainer = Trainer(settings("run", "augment.flip=0", "augment.rotate_deg=0", "augment.scale=0", "augment.shift=0"))
    batch = next(trainer.batches())
    assert batch["image"].dtype == torch.float32
    assert 0 <= batch["image"].min() < 0.2 < 0.8 < batch["image"].max() <= 1
    image, *_ = next(trainer.predict_validation(1))
    expected = store.input_crop(store.rows("val")[0], 64, trainer.config.model.margin)
    np.testing.assert_allclose(image[0].numpy(), expected.transpose(2, 0, 1) / 255, atol=1e-6)


# --- stopping and going on ---


@pytest.mark.parametrize("more", [(), CHAMFER, ("train.ema=0.9",)], ids=["plain", "random points", "average"])
@pytest.mark.parametrize("stop", [1, 4])
def test_stopped_and_resumed_equals_undisturbed(settings, monkeypatch, stop, more):
    calm = train(settings("calm", *more))
    interrupt_at(monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        train(settings("stopped", *more))
    folder = run_folder(settings("stopped"))
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step-{stop:08d}"]
    assert not (folder / "finished.json").exists()
    train(settings("stopped", *more))
    assert_same_weights(weights_of(folder), weights_of(calm), rtol=1e-6, atol=1e-6)
    last = sorted((folder / "checkpoints").iterdir())[-1]
    assert_same_weights(
        weights_of(last), weights_of(sorted((calm / "checkpoints").iterdir())[-1]), rtol=1e-6, atol=1e-6
    )
    kept = [[row[name] for name in ("step", "epoch", "lr", "loss")] for row in metrics(folder)]
    for found, expected in zip(kept, metrics(calm), strict=True):
        assert found[:2] == [expected["step"], expected["epoch"]]
        for a, b in zip(found[2:], (expected["lr"], expected["loss"]), strict=True):
            assert a == b or float(a) == pytest.approx(float(b), rel=1e-5)


def test_killed_without_warning_goes_on_from_the_last_checkpoint(settings, monkeypatch):
    """What was written after it is done again, not doubled."""
    fast = ("train.checkpoint_minutes=1e-9", "train.validate_minutes=1e-9")
    calm = train(settings("calm", *fast))
    monkeypatch.setattr(resume, "KEPT", 9)
    interrupt_at(monkeypatch, 4, SystemExit)  # saves nothing
    with pytest.raises(SystemExit):
        train(settings("killed", *fast))
    folder = run_folder(settings("killed"))
    assert len(list((folder / "checkpoints").iterdir())) == 4
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    (folder / "checkpoints" / ".partial-0000").mkdir()  # a checkpoint that was never whole
    (folder / "checkpoints" / ".partial-0000" / "state.pt").write_bytes(b"half")
    train(settings("killed", *fast))
    assert_same_weights(weights_of(folder), weights_of(calm), rtol=1e-6, atol=1e-6)
    assert [row["step"] for row in metrics(folder)] == [row["step"] for row in metrics(calm)]


def test_validation_in_between_changes_nothing(settings):
    """Nor do checkpoints: neither uses up random numbers nor leaves the averaged weights behind."""
    more = (*CHAMFER, "train.ema=0.9")
    calm = train(settings("calm", *more))
    busy = train(settings("busy", *more, "train.checkpoint_minutes=1e-9", "train.validate_minutes=1e-9"))
    assert len([row for row in metrics(busy) if row["val_error"]]) > 3
    last = [sorted((folder / "checkpoints").iterdir())[-1] for folder in (calm, busy)]
    assert_same_weights(weights_of(last[1]), weights_of(last[0]), rtol=1e-6, atol=1e-6)


def test_interrupted_under_averaged_weights_keeps_the_networks_own(settings, monkeypatch):
    own, sent = {}, []

    def interrupted(self, count, real=Trainer.predict_validation):
        if not sent:
            sent.append(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return real(self, count)

    def watched(self, real=Trainer.preview):
        own.update({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        return real(self)

    monkeypatch.setattr(Trainer, "predict_validation", interrupted)
    monkeypatch.setattr(Trainer, "preview", watched)
    with pytest.raises(KeyboardInterrupt):
        train(settings("run", "train.ema=0.9", "train.validate_minutes=1e-9"))
    [last] = (run_folder(settings("run")) / "checkpoints").iterdir()
    assert_same_weights(weights_of(last), own, rtol=0, atol=0)


def test_a_finished_run_is_not_repeated(settings, monkeypatch):
    folder = train(settings("run"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(train_module, "Trainer", lambda config: pytest.fail("trained again"))
    assert train(settings("run")) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_that_died_before_its_last_line_only_writes_that(settings, monkeypatch):
    folder = train(settings("run"))
    weights = weights_of(folder)
    (folder / "finished.json").unlink()
    monkeypatch.setattr(Trainer, "train_step", lambda self, batch: pytest.fail("another step"))
    train(settings("run"))
    assert (folder / "finished.json").exists()
    assert_same_weights(weights_of(folder), weights, rtol=0, atol=0)


def test_only_the_last_checkpoints_stay(settings):
    folder = train(settings("run", "train.checkpoint_minutes=1e-9"))
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    steps = json.loads((folder / "finished.json").read_text())["steps"]
    assert names == [f"step-{steps - 1:08d}", f"step-{steps:08d}"]


def test_two_processes_do_not_train_one_run(settings):
    config = settings("run")
    run_folder(config).mkdir(parents=True)
    with (
        FileLock(run_folder(config) / LOCK_NAME),
        pytest.raises(InputError, match="another process trains"),
    ):
        train(config)
    train(config)


def test_other_settings_do_not_go_on_with_a_run(settings, monkeypatch):
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        train(settings("run"))
    with pytest.raises(InputError, match=r"model\.hidden: was .*or the run another name"):
        train(settings("run", "model.hidden=[8, 8, 8, 4]"))


def test_workers_read_the_same_batches(settings):
    def images(workers):
        batches = Trainer(settings("run", f"train.workers={workers}")).batches()
        found = [next(batches) for _ in range(4)]
        batches.close()
        return found

    for one, other in zip(images(0), images(1), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name


def test_every_epoch_is_a_new_order_of_all_samples():
    order = iter(EpochSampler(10, 8, seed=1, epoch=0, skip=0))
    epochs = [[next(order) for _ in range(8)] for _ in range(3)]
    for number, pairs in enumerate(epochs):
        assert {epoch for epoch, _ in pairs} == {number}
        assert len({position for _, position in pairs}) == 8
        assert all(0 <= position < 10 for _, position in pairs)
    assert epochs[0] != [(0, position) for _, position in epochs[1]]
    assert len({position for pairs in epochs for _, position in pairs}) == 10  # none is left out for ever
    later = iter(EpochSampler(10, 8, seed=1, epoch=1, skip=5))
    assert [next(later) for _ in range(11)] == epochs[1][5:] + epochs[2]
    other = iter(EpochSampler(10, 8, seed=2, epoch=0, skip=0))
    assert [next(other) for _ in range(8)] != epochs[0]


def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    header = ",".join(COLUMNS)
    empty = "," * (len(COLUMNS) - 3)
    path.write_text("\n".join([header, *(f"{k},0,1.5{empty}" for k in (1, 2, 2, 3)), "1,0"]))  # and one cut short
    trim_metrics(path, 2)
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["1", "2", "2"]
    assert rows[0]["seconds"] == "1.5"
    trim_metrics(tmp_path / "absent.csv", 2)
    path.write_text(header[:20])  # killed while it wrote the header
    trim_metrics(path, 2)
    assert not path.exists()
    path.write_text("iteration,loss\n1,2.0\n")
    with pytest.raises(InputError, match=r"metrics\.csv: has other columns"):
        trim_metrics(path, 2)


# --- what is trained ---


def test_the_learning_rate_warms_up_and_falls(settings):
    trainer = Trainer(settings("run", "train.epochs=100", "train.warmup_steps=10", "train.lr=0.01"))
    total, rates = 100 * trainer.batches_per_epoch, []
    for trainer.step in range(total):  # its progress reads it
        rates.append(learning_rate(trainer.config.train, trainer.step, trainer.progress))
    np.testing.assert_allclose(rates[:10], 0.01 * np.arange(1, 11) / 10, rtol=0.01)
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[total // 2] == pytest.approx(0.01 * 0.505, rel=0.01)
    assert rates[-1] == pytest.approx(0.01 * 0.01, rel=0.05)


def test_a_run_by_the_clock_follows_the_clock(settings):
    trainer = Trainer(settings("run", "train.minutes=2"))
    trainer.step, trainer.seconds = 1000, 30.0
    assert trainer.progress == pytest.approx(0.25)
    trainer.seconds = 1e9
    assert trainer.progress == 1


def test_a_short_run_by_the_clock_ends(settings):
    folder = train(settings("run", "train.minutes=0.01", "train.epochs=1000000"))
    finished = json.loads((folder / "finished.json").read_text())
    assert finished["seconds"] >= 0.6
    assert finished["steps"] > 0


def test_the_average_is_exponential_with_a_short_memory_at_first(settings):
    trainer = Trainer(settings("run", "train.ema=0.5"))
    name = "stages.0.conv1.weight"
    expected = trainer.model.state_dict()[name].clone()
    for step, batch in zip(range(5), trainer.batches(), strict=False):
        trainer.train_step(batch)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * trainer.model.state_dict()[name]
        torch.testing.assert_close(trainer.average.tensors[name], expected)
    counter = "encoder.norms.0.num_batches_tracked"
    assert trainer.average.tensors[counter] == trainer.model.state_dict()[counter] == 5


def test_without_average_the_weights_are_the_networks_own(settings):
    folder = train(settings("run", "train.ema=0"))
    [last] = (folder / "checkpoints").iterdir()
    assert_same_weights(weights_of(folder), weights_of(last), rtol=0, atol=0)


def test_gradients_are_clipped(settings, monkeypatch):
    trainer = Trainer(settings("run", "train.clip=1e-3", "loss.vertex=1000"))
    norms = []

    def step(*args):
        norms.append(
            math.sqrt(sum(float(p.grad.square().sum()) for p in trainer.model.parameters() if p.grad is not None))
        )

    monkeypatch.setattr(trainer.optimizer, "step", step)
    trainer.train_step(next(trainer.batches()))
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)


def test_init_from_reports_what_was_loaded(settings, home):
    first = train(settings("first"))
    config = settings(
        "second", f"train.init_from={first}", "model.hidden=[8, 8, 8, 4]", "train.lr=1e-9", "train.epochs=1"
    )
    second = train(config)
    report = json.loads((second / "initialised.json").read_text())
    assert all(name in report["loaded"] for name in weights_of(first) if name.startswith("encoder."))
    assert "stages.3.conv2.weight" in report["fresh"]
    assert "stages.3.conv2.weight" in report["unused"]
    name = "encoder.convolutions.0.weight"
    torch.testing.assert_close(weights_of(second)[name], weights_of(first)[name], atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="there are no such weights"):
        train(settings("third", "train.init_from=outputs/absent"))


def test_a_frozen_backbone_stays_as_it_is(settings):
    """Its batch statistics, too: a network that is not trained computes the same as before."""
    start = Trainer(settings("start"))
    path = start.folder / "weights.safetensors"
    save_weights(path, start.model.state_dict(), start.model, {})
    frozen = train(
        settings("frozen", f"train.init_from={path}", "train.freeze_backbone=true", "train.validate_minutes=1e-9")
    )
    before, after = weights_of(path), weights_of(frozen)
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("encoder."), name


# --- when it goes wrong ---


def test_a_loss_that_is_not_finite_names_step_and_samples(settings, store, monkeypatch):
    trainer = Trainer(settings("run"))
    batches = trainer.batches()
    trainer.train_step(next(batches))
    batch = next(batches)
    monkeypatch.setattr(trainer, "truth", lambda batch: Truth(torch.full((4, 817, 3), torch.nan)))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items() if "norms" not in name}
    with pytest.raises(NonFiniteLoss, match=r"^step 1: ") as caught:
        trainer.train_step(batch)
    for index in batch["index"].tolist():
        assert store.table["name"][index] in str(caught.value)
    assert "vertex" in str(caught.value)
    for name, tensor in before.items():
        assert torch.equal(trainer.model.state_dict()[name], tensor)  # no step was made


def test_vertices_that_fly_away_are_told_likewise_by_every_loss(settings, store, monkeypatch):
    """The chamfer search refuses NaN by itself, without knowing the batch."""
    trainer = Trainer(settings("run", *CHAMFER))
    with torch.no_grad():
        trainer.model.stages[1].conv2.bias.fill_(torch.inf)
    batch = next(trainer.batches())
    with pytest.raises(NonFiniteLoss, match=r"^step 0: ") as caught:
        trainer.train_step(batch)
    assert store.table["name"][int(batch["index"][0])] in str(caught.value)


def test_a_gradient_that_is_not_finite_is_told_likewise(settings, store, monkeypatch):
    trainer = Trainer(settings("run"))
    batch = next(trainer.batches())
    trainer.model.stages[0].conv1.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteLoss, match=r"^step 0: .*gradient") as caught:
        trainer.train_step(batch)
    assert store.table["name"][int(batch["index"][0])] in str(caught.value)


def test_too_few_samples_for_a_batch(settings):
    with pytest.raises(InputError, match=r"training samples are fewer than train\.batch_size=99"):
        train(settings("run", "train.batch_size=99"))


def test_a_missing_store(settings, tmp_path):
    with pytest.raises(InputError, match=r"is no finished store \(run p2m preprocess\)"):
        train(settings("run", f"data.store={tmp_path / 'nowhere'}"))


def test_without_a_validation_split_the_last_weights_are_kept(settings, tiny_settings, tmp_path):
    from p2m_workbench.preprocessing import preprocess

    config = settings("run", f"data.store={tmp_path / 'store'}", "data.val_share=0")
    preprocess(config)
    folder = train(config)
    assert read_weights(folder)[3]["step"] == json.loads((folder / "finished.json").read_text())["steps"]
    json.loads((folder / "finished.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_bf16_learns_the_same_thing(settings):
    folder = train(settings("low", "train.precision=bf16"))
    losses = [float(row["loss"]) for row in metrics(folder) if row["loss"]]
    full = [float(row["loss"]) for row in metrics(train(settings("full"))) if row["loss"]]
    np.testing.assert_allclose(losses, full, rtol=0.05)


def test_the_seed_decides(settings):
    runs = [weights_of(train(settings(name, f"seed={seed}"))) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert_same_weights(runs[0], runs[1], rtol=0, atol=0)
    assert not torch.equal(runs[0]["stages.0.conv1.weight"], runs[2]["stages.0.conv1.weight"])
    assert config_hash(settings("a")) != config_hash(settings("a", "seed=1"))
