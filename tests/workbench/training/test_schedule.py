"""Each option of the optimisation changes what it claims, and nothing else."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from children import TinyEncoder, assert_same_weights, group_norm, metrics, weights_of

from p2m_core.config.settings import TrainConfig
from p2m_core.errors import InputError
from p2m_core.precision import autocast_type, bf16_is_faster, choose_device, has_bf16
from p2m_workbench.training.schedule import WeightAverage, learning_rate
from p2m_workbench.training.trainer import NonFiniteLoss, Trainer, split_batch, train

CPU = torch.device("cpu")


@pytest.fixture
def without_batch_norm(monkeypatch):
    """So that a sample's loss does not depend on the others of its pass."""
    monkeypatch.setattr("p2m_core.network.model.build_backbone", lambda *_: TinyEncoder(group_norm))


def losses(folder):
    return [float(row["loss"]) for row in metrics(folder) if row["loss"]]


# --- schedules ---


def rates(total, **settings):
    chosen = TrainConfig(lr=0.01, warmup_steps=0, **settings)
    return np.array([learning_rate(chosen, step, step / total) for step in range(total)])


def test_the_step_schedule_drops_at_its_milestones():
    found = rates(100, schedule="step", milestones=(0.3, 0.8), lr_drop=0.5)
    np.testing.assert_allclose(found, 0.01 * np.repeat([1, 0.5, 0.25], [30, 50, 20]))


def test_the_constant_schedule_stays():
    np.testing.assert_array_equal(rates(50, schedule="constant"), 0.01)


def test_the_cosine_falls_to_a_hundredth_by_its_formula():
    share = np.arange(100) / 100
    np.testing.assert_allclose(rates(100), 0.01 * (0.01 + 0.99 * (1 + np.cos(np.pi * share)) / 2))


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_warm_up_is_a_factor_of_every_schedule(schedule):
    warm = TrainConfig(lr=0.01, schedule=schedule, warmup_steps=20)
    plain = warm.model_copy(update={"warmup_steps": 0})
    for step in range(40):
        expected = min(1, (step + 1) / 20) * learning_rate(plain, step, step / 40)
        assert learning_rate(warm, step, step / 40) == pytest.approx(expected)


def test_a_run_follows_its_schedule(settings):
    folder = train(settings("run", "train.schedule=step", "train.milestones=[0.5]", "train.warmup_steps=0"))
    found = [float(row["lr"]) for row in metrics(folder) if row["lr"]]
    np.testing.assert_allclose(found, np.repeat([1e-3, 1e-4], len(found) // 2))


# --- accumulation, precision, compilation ---


def test_accumulated_passes_make_the_same_step(settings, without_batch_norm):
    whole, halves = (train(settings(name, f"train.accumulate={k}")) for name, k in (("whole", 1), ("halves", 2)))
    np.testing.assert_allclose(losses(halves), losses(whole), rtol=1e-4)
    # Adam divides by the gradient's size, so a weight whose gradient is rounding alone may go either way.
    assert_same_weights(weights_of(halves), weights_of(whole), rtol=1e-2, atol=1e-3)


def test_accumulation_holds_one_pass_at_a_time(settings):
    trainer, seen = Trainer(settings("run", "train.accumulate=4")), []
    trainer.model.register_forward_pre_hook(lambda module, images: seen.append(len(images[0])))
    trainer.train_step(next(trainer.batches()))
    assert seen == [1, 1, 1, 1]
    assert trainer.step == 1


def test_a_batch_is_split_without_loss():
    batch = {"a": torch.arange(6), "b": torch.rand(6, 2)}
    for name, tensor in batch.items():
        assert torch.equal(torch.cat([part[name] for part in split_batch(batch, 3)]), tensor)


@pytest.mark.parametrize(
    ("precision", "low"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.half)]
)
def test_the_encoder_computes_in_the_precision_that_is_asked_for(settings, precision, low):
    trainer, seen = Trainer(settings("run", f"train.precision={precision}")), []
    trainer.model.encoder.convolutions[0].register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
    batch = next(trainer.batches())
    assert {x.dtype for x in trainer.forward(batch).levels} == {torch.float32}  # vertices need their digits
    assert seen == [low]
    assert trainer.scaler.is_enabled() == (precision == "fp16")


@pytest.mark.parametrize("backward", [True, False])
def test_auto_is_bf16_where_the_device_has_it_and_it_is_the_faster(monkeypatch, backward):
    if not has_bf16(CPU):
        assert autocast_type("auto", CPU, backward) is None
    for has, seconds_of_bf16 in ((True, 1), (True, 3), (False, 1)):
        now = [0.0]

        def convolution(images, weights, padding, now=now, own=seconds_of_bf16):
            now[0] += own if torch.is_autocast_enabled("cpu") else 2
            return images * weights.sum()

        monkeypatch.setattr("p2m_core.precision.has_bf16", lambda device, has=has: has)
        monkeypatch.setattr("torch.nn.functional.conv2d", convolution)
        monkeypatch.setattr("p2m_core.precision.time.perf_counter", lambda now=now: now[0])
        bf16_is_faster.cache_clear()
        assert autocast_type("auto", CPU, backward) == (torch.bfloat16 if has and seconds_of_bf16 < 2 else None)
    bf16_is_faster.cache_clear()


def test_fp16_learns_the_same_thing(settings):
    low, full = (train(settings(name, f"train.precision={name}")) for name in ("fp16", "fp32"))
    np.testing.assert_allclose(losses(low), losses(full), rtol=0.08)


def test_fp16_leaves_out_a_step_that_overflows_and_scales_less(settings):
    trainer = Trainer(settings("run", "train.precision=fp16"))
    trainer.model.stages[0].conv1.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    scale = trainer.scaler.get_scale()
    trainer.train_step(next(trainer.batches()))
    assert trainer.scaler.get_scale() == scale / 2
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    batches = trainer.batches()
    with pytest.raises(NonFiniteLoss, match="gradient"):  # no scale helps: it does not go on so for ever
        [trainer.train_step(next(batches)) for _ in range(40)]


def test_the_scale_of_fp16_is_kept_in_the_checkpoint(settings):
    trainer = Trainer(settings("run", "train.precision=fp16"))
    trainer.train_step(next(trainer.batches()))
    trainer.scaler.update(8.0)
    trainer.save()
    assert Trainer(settings("run", "train.precision=fp16")).scaler.get_scale() == 8


def test_convolutions_are_channels_last(settings):
    weight = Trainer(settings("run")).model.encoder.convolutions[1].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_each_process_has_its_own_card(monkeypatch):
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, device: SimpleNamespace(device=torch.device(device)))
    assert choose_device("cuda", 3) == torch.device("cuda", 3)
    assert choose_device("cpu", 3) == CPU
    assert choose_device("cuda:1", 3) == torch.device("cuda", 1)
    monkeypatch.setattr(torch, "empty", real)
    for name in ("warp", "cuda:99"):
        with pytest.raises(InputError, match=f"device: {name}: "):
            choose_device(name)


# --- average, early stopping ---


def test_the_average_is_applied_and_taken_back():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    model[1].eval()
    average = WeightAverage(model, 0.5)
    start = average.tensors["0.weight"].clone()
    with torch.no_grad():
        model[0].weight += 1
    average.update(model, step=1000)
    torch.testing.assert_close(average.tensors["0.weight"], start + 0.5)
    with average.applied(model):
        torch.testing.assert_close(model[0].weight.detach(), start + 0.5)
        assert not model.training
    torch.testing.assert_close(model[0].weight.detach(), start + 1)
    assert (model.training, model[0].training, model[1].training) == (True, True, False)  # a frozen part stays so


def test_a_run_without_improvement_ends_early_and_keeps_its_best(settings, monkeypatch):
    scores = iter([3.0, 2.0, 2.5, 2.1, 9.0, 9.0, 9.0])
    monkeypatch.setattr(Trainer, "validate", lambda self: next(scores))
    more = ("train.patience=2", "train.validate_minutes=1e-9", "train.epochs=50")
    folder = train(settings("run", *more))
    finished = json.loads((folder / "finished.json").read_text())
    assert finished["steps"] == 4  # the best at 2, none better at 3 and 4
    assert finished["val_error"] == 2.0
    from p2m_core.network.weights import read_weights

    assert read_weights(folder)[3]["step"] == 2
    assert Trainer(settings("run", *more)).stale >= 2  # a run that goes on has not forgotten


def test_without_patience_it_goes_on(settings, monkeypatch):
    monkeypatch.setattr(Trainer, "validate", lambda self: 9.0)
    folder = train(settings("run", "train.validate_minutes=1e-9"))
    finished = json.loads((folder / "finished.json").read_text())
    assert finished["steps"] == len(losses(folder)) == 6
