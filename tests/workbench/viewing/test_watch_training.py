"""A training in a process of its own: watched, stopped from the notebook or the command line, and gone on with."""

import json
import threading
import time

import pytest
from conftest import ROOT

from p2m_core.config.loading import load_config
from p2m_core.config.paths import run_folder
from p2m_core.errors import InputError
from p2m_workbench import cli
from p2m_workbench.training.distributed import is_training
from p2m_workbench.training.legs import read_legs
from p2m_workbench.training.status import read_status
from p2m_workbench.viewing import watch_training as module

EVERY_S = 0.2


def test_a_detached_training_is_stopped_and_goes_on_whoever_watches(tiny_settings, store, home, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shown = []
    monkeypatch.setattr(module, "display", shown.append)
    words = ["name=alone", *tiny_settings, "loss.chamfer=0", "loss.normal=0"]
    config = load_config(None, [*words, "train.epochs=5000"])
    folder, seen = run_folder(config), []

    def when_it_trains(act):
        def wait():
            while not (is_training(folder) and read_status(folder).get("step", 0) > 0):
                time.sleep(0.1)
            seen.append(act())

        threading.Thread(target=wait, daemon=True).start()

    # The button of the cockpit.
    when_it_trains(lambda: [shown[-1].stop.click()])
    assert "stopped, with a checkpoint" in module.watch_training(config, True, EVERY_S)
    assert shown[-1].note.value.endswith("stopped")
    step = read_status(folder)["step"]
    assert step > 0
    # The command, while a kernel watches that did not start it.
    module.start_detached(config)
    child = module._children.pop(folder)
    when_it_trains(lambda: cli.main(["control", "alone", "--stop"]))
    while not is_training(folder):
        time.sleep(0.1)
    # It is not watched under other settings than it has.
    with pytest.raises(InputError, match=r"another process trains|train\.lr: was"):
        module.wait_for_detached(load_config(None, [*words, "train.epochs=5000", "train.lr=1e-5"]), EVERY_S)
    assert "stopped, with a checkpoint" in module.watch_training(config, True, EVERY_S)
    assert seen[-1] == 0
    assert child.wait(30) == 130
    assert read_status(folder)["step"] >= step
    assert [leg["asked"] for leg in read_legs(folder)[1:]] == [{"stop": True}] * 2
    # A failure is none of a stop.
    (folder / "history.json").write_text("[{")
    with pytest.raises(InputError, match="is damaged"):
        module.watch_training(config, True, EVERY_S)
    assert json.loads((folder / "status.json").read_text())["state"] != "trains"
