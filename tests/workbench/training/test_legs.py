"""Changed settings are neither ignored nor misrecorded."""

import json

import pytest
from conftest import ROOT

from p2m_core.config.loading import load_config
from p2m_core.config.paths import run_folder
from p2m_core.errors import InputError
from p2m_workbench import cli
from p2m_workbench.cli_options import build_parser
from p2m_workbench.runs import pipeline
from p2m_workbench.training import legs
from p2m_workbench.training.trainer import train
from p2m_workbench.viewing.watch_training import wait_for_detached

SLOWER = "train.lr=1e-5"


def steps_of(folder):
    return json.loads((folder / "finished.json").read_text())["steps"]


def test_a_finished_run_with_other_settings_is_refused_and_left_as_it_is(settings):
    folder = train(settings("run"))
    before = {path: path.read_bytes() for path in folder.glob("*.*") if path.is_file()}
    with pytest.raises(
        InputError, match=r"train\.lr: was .* when this run was trained, and is 1e-05 now.*--continue-with"
    ):
        train(settings("run", SLOWER))
    with pytest.raises(InputError, match=r"augment\.blur: was .*; changed, too: train\.lr"):
        wait_for_detached(settings("run", SLOWER, "augment.blur=0.9"), 0.1)
    with pytest.raises(InputError, match=r"train\.lr: was"):
        pipeline.run_notebooks(settings("run", SLOWER), [ROOT / "notebooks/02_train.ipynb"])
    assert {path: path.read_bytes() for path in folder.glob("*.*") if path.is_file() and path in before} == before
    assert load_config(folder / "config.yaml").train.lr != 1e-5


def test_what_does_not_decide_the_weights_may_change(settings):
    folder = train(settings("run"))
    assert train(settings("run", "train.workers=0", "train.log_steps=3", "evaluate.split=val")) == folder
    assert len(legs.read_legs(folder)) == 1


def test_a_finished_run_goes_on_for_longer_and_keeps_both_legs(settings):
    config = settings("run")
    folder = train(config)
    first, longer = steps_of(folder), f"train.epochs={2 * config.train.epochs}"
    train(settings("run", longer, SLOWER, "train.continue_with=true"))
    assert steps_of(folder) == 2 * first
    begun, later = legs.read_legs(folder)
    assert (begun["step"], begun["changed"], later["step"]) == (0, {}, first)
    assert later["changed"] == {
        "train.epochs": [config.train.epochs, 2 * config.train.epochs], "train.lr": [config.train.lr, 1e-5]
    }  # fmt: skip
    saved = load_config(folder / "config.yaml")
    assert (saved.train.lr, saved.train.epochs) == (1e-5, 2 * config.train.epochs)
    # Once it has gone on, the same settings are the run's own, with the word or without.
    assert train(settings("run", longer, SLOWER)) == folder
    with pytest.raises(InputError, match=r"train\.epochs: was"):
        train(settings("run"))


def test_a_run_that_was_trained_before_legs_were_kept_goes_on(settings):
    folder = train(settings("run"))
    (folder / legs.HISTORY_FILE).unlink()
    assert train(settings("run", SLOWER)) == folder


@pytest.mark.parametrize(("words", "value"), [(["--continue-with"], "true"), (["--continue-with", "false"], "false")])
def test_the_commands_option(words, value):
    args = build_parser(cli.COMMANDS).parse_args(["train", *words])
    assert args.values == {"train.continue_with": ("--continue-with", value)}


def test_a_damaged_history_is_named(settings):
    config = settings("run")
    folder = run_folder(config)
    folder.mkdir(parents=True)
    (folder / legs.HISTORY_FILE).write_text("[{")
    with pytest.raises(InputError, match=r"history\.json: is damaged"):
        train(config)
