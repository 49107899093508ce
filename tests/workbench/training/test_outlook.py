"""What is said before a training starts."""

import pytest

from p2m_core.errors import InputError
from p2m_workbench.training import outlook as module
from p2m_workbench.training.outlook import outlook


def test_it_says_where_in_what_and_for_how_long(tiny_config, monkeypatch):
    monkeypatch.setattr(module.psutil, "cpu_percent", lambda seconds: 3.0)
    steps, epochs = 100 // tiny_config.train.batch_size, tiny_config.train.epochs
    lines = outlook(tiny_config, 100)
    assert len(lines) == 4
    assert "threads" in lines[0]
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
