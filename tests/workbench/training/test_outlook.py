"""What is said before a training starts."""

import pytest
import torch

from p2m_core.config.paths import run_folder
from p2m_core.errors import InputError
from p2m_workbench.training import outlook as module
from p2m_workbench.training.legs import begin_leg
from p2m_workbench.training.outlook import outlook
from p2m_workbench.training.status import GIB, duration, memory_gib


def test_it_says_where_in_what_and_for_how_long(tiny_config, monkeypatch):
    monkeypatch.setattr(module.psutil, "cpu_percent", lambda seconds: 3.0)
    steps, epochs = 100 // tiny_config.train.batch_size, tiny_config.train.epochs
    lines = outlook(tiny_config, 100)
    assert len(lines) == 4
    assert "thread" in lines[0]
    assert lines[1].startswith("encoder and graph layers in float32")
    assert f"{epochs} epochs of {steps} steps: {epochs * steps} steps" in lines[3]


def test_busy_cores_are_said(tiny_config, monkeypatch):
    monkeypatch.setattr(module.psutil, "cpu_percent", lambda seconds: 60.0)
    assert outlook(tiny_config, 100)[-1].startswith("other work keeps 60% of the cores busy")


def test_a_clock_and_a_device_that_is_not_there(tiny_config):
    train = tiny_config.train.model_copy(update={"minutes": 2.5})
    assert "ends after 2.5 minutes" in outlook(tiny_config.model_copy(update={"train": train}), 100)[3]
    train = tiny_config.train.model_copy(update={"device": "warp:3"})
    with pytest.raises(InputError, match="device: warp:3: "):
        outlook(tiny_config.model_copy(update={"train": train}), 100)


def test_the_time_is_expected_by_the_speed_of_the_latest_run_like_it(settings, monkeypatch):
    config = settings("run")
    assert outlook(config, 100)[3].endswith("how long that takes is told after the first steps")
    for name, speed in (("fast", 50.0), ("other", 1.0)):
        like = settings(name) if name == "fast" else settings(name, "loss.shape=9")  # another loss, so no measure
        run_folder(like).mkdir(parents=True)
        begin_leg(like, 0)
        (run_folder(like) / "metrics.csv").write_text(f"step,loss,val_error,samples_per_s\n1,1.0,,{speed}\n2,,3.0,\n")
    steps = 100 // config.train.batch_size
    seconds = config.train.epochs * steps * config.train.batch_size / 50
    assert f"{duration(seconds)} at the 50.0 samples/s of fast" in outlook(config, 100)[3]


def test_a_card_is_named_with_its_memory_and_formats(tiny_config, monkeypatch):
    """By torch's own functions, stood in for: no card is needed."""
    card = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * GIB)
    monkeypatch.setattr(module, "choose_device", lambda name: card)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True  # no attribute that monkeypatch could put back
    try:
        lines = outlook(tiny_config, 100)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert lines[0] == "on NVIDIA H100, 20.0 of 80 GiB in use, bf16, TF32 on"
    assert len(lines) == 4  # busy cores are no matter there
    assert memory_gib(card) == 3
