"""What a training is asked while it runs: done at the next step, and noted in the run."""

import json
import math

import pytest
from children import metrics, start, wait
from conftest import quick

from p2m_core.config.loading import load_config
from p2m_core.config.paths import run_folder
from p2m_core.config.settings import TrainConfig
from p2m_core.errors import InputError
from p2m_synth.signals import Stopped
from p2m_workbench import cli
from p2m_workbench.training import legs, requests
from p2m_workbench.training.requests import Inbox, Request, send
from p2m_workbench.training.schedule import learning_rate
from p2m_workbench.training.status import read_status, status_line
from p2m_workbench.training.trainer import Trainer, train


def ask_at(monkeypatch, step, *asked):
    """The next run is asked in the step after which it stands at `step`, and looks at once."""
    real, left = Trainer.train_step, list(asked)
    monkeypatch.setattr(requests, "LOOK_S", 0.0)

    def asking(self, batch):
        while left and self.step == step - 1:
            send(self.folder, left.pop(0))
        return real(self, batch)

    monkeypatch.setattr(Trainer, "train_step", asking)


def rates(folder):
    return [float(row["lr"]) for row in metrics(folder) if row["loss"]]


def last_step(folder):
    return json.loads((folder / "finished.json").read_text())["steps"]


# --- pure ---


def test_a_run_by_epochs_is_prolonged_in_whole_epochs_and_one_by_the_clock_in_minutes():
    epochs, clock = TrainConfig(epochs=10, lr=0.1), TrainConfig(minutes=5.0, lr=0.1)
    assert Request(epochs=3).changes(epochs, 90.0) == {"epochs": 13}
    assert Request(minutes=4).changes(epochs, 90.0) == {"epochs": 13}  # 2.7 epochs
    assert Request(minutes=4).changes(clock, 90.0) == {"minutes": 9.0}
    assert Request(epochs=2).changes(clock, 90.0) == {"minutes": 8.0}
    assert Request(scale_lr=0.5, epochs=1).changes(epochs, 1.0) == {"epochs": 11, "lr": 0.05}
    assert Request(stop=True).changes(epochs, 1.0) == {}


@pytest.mark.parametrize(
    "wrong", [{}, {"epochs": -1}, {"minutes": math.inf}, {"minutes": math.nan}, {"scale_lr": 2.0}, {"scale_lr": 0.0}]
)
def test_a_request_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(InputError, match="request: "):
        Request(**wrong)


def test_nothing_is_asked_of_a_run_that_does_not_train(tmp_path):
    with pytest.raises(InputError, match="no process trains this run now"):
        send(tmp_path, Request(stop=True))
    assert not list(tmp_path.iterdir())


def test_the_inbox_gives_each_request_once_and_passes_over_what_is_none(tmp_path, caplog):
    folder = tmp_path / requests.FOLDER
    folder.mkdir()
    for name, text in (
        ("2.json", '{"stop": true}'),
        ("1.json", '{"epochs": 2}'),
        ("3.json", "{"),
        ("4.json", '{"a": 1}'),
    ):
        (folder / name).write_text(text)
    inbox = Inbox(tmp_path)
    assert inbox.take() == [Request(epochs=2), Request(stop=True)]
    assert caplog.text.count("is no request") == 2
    assert not list(folder.iterdir())
    (folder / "5.json").write_text('{"stop": true}')
    assert inbox.take() == []  # it looks once a second
    assert Inbox(tmp_path).take() == [Request(stop=True)]


def test_what_was_asked_stays_in_force_until_that_setting_is_changed():
    first = {"step": 0, "changed": {}, "settings": {"train.lr": 0.1, "train.epochs": 5}}
    asked = [
        {"step": 7, "asked": {"scale_lr": 0.5}, "changed": {"train.lr": [0.1, 0.05]}},
        {"step": 8, "asked": {"epochs": 1}, "changed": {"train.epochs": [5, 6]}},
    ]
    later = {"step": 9, "changed": {"train.lr": [0.05, 0.2]}, "settings": {"train.lr": 0.2, "train.epochs": 5}}
    assert legs.in_force([first]) == (first["settings"], {})
    assert legs.in_force([first, *asked])[1] == {"train.lr": 0.05, "train.epochs": 6}
    assert legs.in_force([first, *asked, later]) == (later["settings"], {"train.epochs": 6})
    assert legs.asked_lines([first, asked[0], {"step": 8, "asked": {"stop": True}, "changed": {}}]) == [
        "after step 7: train.lr 0.1 → 0.05", "after step 8: stopped"
    ]  # fmt: skip


# --- a training obeys ---


def test_a_lowered_rate_holds_from_the_next_step_and_when_the_run_goes_on(settings, monkeypatch):
    words = ("train.schedule=constant", "train.warmup_steps=0", "train.lr=0.01")
    ask_at(monkeypatch, 2, Request(scale_lr=0.5))
    folder = train(settings("run", *words))
    steps = last_step(folder)
    assert rates(folder) == pytest.approx([0.01] * 2 + [0.005] * (steps - 2))
    begun, asked = legs.read_legs(folder)
    assert (asked["step"], asked["asked"], asked["changed"]) == (2, {"scale_lr": 0.5}, {"train.lr": [0.01, 0.005]})
    assert begun["settings"]["train.lr"] == 0.01
    assert load_config(folder / "config.yaml").train.lr == 0.005
    # The same command finds it finished; so does the run's own config.
    assert train(settings("run", *words)) == folder
    assert train(load_config(folder / "config.yaml")) == folder
    # Longer, it keeps the rate that was asked for.
    train(settings("run", *words, "train.epochs=3", "train.continue_with=true"))
    assert last_step(folder) > steps
    assert rates(folder)[steps:] == pytest.approx([0.005] * (last_step(folder) - steps))
    with pytest.raises(InputError, match=r"train\.lr: was 0\.005 when this run was trained, and is 0\.002 now"):
        train(settings("run", *words, "train.epochs=3", "train.lr=0.002"))


def test_a_longer_run_has_the_rates_of_one_of_the_new_length(settings, monkeypatch):
    """Warm-up stays where it was; the decay is stretched from the next step on."""
    words = ("train.warmup_steps=2", "train.lr=0.01", "train.epochs=2")
    ask_at(monkeypatch, 4, Request(epochs=2))
    config = settings("run", *words)
    folder = train(config)
    steps = last_step(folder)
    per_epoch = steps // 4
    expected = [learning_rate(config.train, k, k / (per_epoch * (2 if k < 4 else 4))) for k in range(steps)]
    assert rates(folder) == pytest.approx(expected)
    assert rates(folder)[4] > rates(folder)[3]
    assert legs.read_legs(folder)[1]["changed"] == {"train.epochs": [2, 4]}


def test_asked_to_stop_it_ends_after_the_step_with_a_checkpoint_and_goes_on_when_called_again(settings, monkeypatch):
    ask_at(monkeypatch, 3, Request(epochs=1), Request(stop=True))
    config = settings("run")
    with pytest.raises(Stopped, match="stopped after step 3 as asked"):
        train(config)
    folder = run_folder(config)
    assert sorted((folder / "checkpoints").iterdir())[-1].name == "step-00000003"
    assert [leg["asked"] for leg in legs.read_legs(folder)[1:]] == [{"epochs": 1}, {"stop": True}]
    status = read_status(folder)
    assert (status["state"], status["step"]) == ("stopped", 3)
    train(config)  # with the settings as given: what was asked holds
    assert last_step(folder) == status["steps"] == 3 * (status["steps"] // 3)
    assert read_status(folder)["state"] == "finished"


def test_a_request_that_a_killed_run_did_not_see_is_dropped(settings):
    config = settings("run")
    stale = run_folder(config) / requests.FOLDER / "1.json"
    stale.parent.mkdir(parents=True)
    stale.write_text('{"stop": true}')
    assert (train(config) / "finished.json").exists()


def asked_by_another():
    """A process of several: in its step 3 the second one writes a request, which only the first one reads."""
    requests.LOOK_S = 0.0
    real = Trainer.train_step

    def asking(self, batch):
        if self.ranks.rank == 1 and self.step == 2:
            send(self.folder, Request(scale_lr=0.5))
            send(self.folder, Request(stop=True))
        return real(self, batch)

    Trainer.train_step = asking


def test_all_processes_obey(tiny_settings, store, tmp_path):
    words = quick("run", tiny_settings)
    codes = wait(start(tmp_path, words, 2, before=asked_by_another))
    assert codes == [130, 130]
    folder = tmp_path / "outputs/run"
    assert read_status(folder)["state"] == "stopped"
    assert 3 <= read_status(folder)["step"] <= 4
    assert [leg["asked"] for leg in legs.read_legs(folder)[1:]] == [{"scale_lr": 0.5}, {"stop": True}]


# --- status and command ---


def test_the_status_says_where_a_run_stands_and_when_its_process_is_gone(settings, home):
    folder = train(settings("run"))
    status = read_status(folder)
    assert (status["share"], status["seconds_left"], status["step"]) == (1, 0, last_step(folder))
    line = status_line(status)
    assert f"step {status['step']} of {status['steps']}, epoch 2 of 2, loss " in line
    assert "samples/s" in line
    assert "left" not in line
    running = status | {"state": "trains", "seconds_left": 3725.4, "samples_per_s": 12.345}
    (folder / "status.json").write_text(json.dumps(running))
    assert read_status(folder)["state"] == "ended"
    assert "12.3 samples/s" in status_line(running)
    assert status_line(running).endswith("1:02:05 left")


def test_the_command_tells_and_refuses(settings, home, capsys):
    train(settings("run"))
    assert cli.main(["control", "run"]) == 0
    assert capsys.readouterr().out.startswith("run finished, 100.0%: step ")
    assert cli.main(["control", "run", "--stop"]) == 2
    assert "no process trains this run now" in capsys.readouterr().err
    assert cli.main(["control", "run", "--scale-lr", "3"]) == 2
