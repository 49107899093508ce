"""p2m_workbench.cli: help, how options become settings, exit codes. The library's functions are stood in for."""

import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest

from p2m_core import __version__
from p2m_core.config.paths import project_root
from p2m_core.config.settings import SAVED, Config
from p2m_core.errors import InputError, Preempted
from p2m_workbench import cli, cli_options

COMMANDS = (
    "synth",
    "preprocess",
    "train",
    "control",
    "evaluate",
    "predict",
    "run",
    "sweep",
    "diff",
    "convert",
    "doctor",
    "demo",
    "settings",
)


@pytest.fixture
def calls(monkeypatch):
    """Stand-ins for the functions that the commands call; what each was called with, by name."""
    seen = {}

    def stand_in(module: str, name: str, answer=None, **more):
        def function(*args, **kwargs):
            seen[name] = (*args, *kwargs.values())
            return answer or f"{name} done"

        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{name: function}, **more))

    stand_in("p2m_synth.writer", "write_dataset")
    stand_in("p2m_workbench.preprocessing", "preprocess", types.SimpleNamespace(summary=lambda: "its summary"))
    stand_in("p2m_workbench.training.trainer", "train")
    stand_in("p2m_workbench.measuring.evaluate", "evaluate")
    rows = [{"name": "a", "problem": ""}, {"photo": "b.jpg", "problem": "b.jpg: is empty"}]
    predictions = types.SimpleNamespace(rows=rows, photos=2, problems=["b.jpg: is empty"], clips=["c.mp4: 9 frames"])
    predictions.kinds = {"glb", "csv"}
    table = types.SimpleNamespace(
        timing_table=lambda result, workers: f"{workers} worked", summary=lambda result, out: f"all of it; {out}"
    )
    stand_in("p2m_workbench.photos.batch", "predict_files", predictions, **vars(table))
    return seen


def help_of(command: str, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_command_of_the_list_is_there(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"    {command}" in shown for command in COMMANDS)
    assert {function.__name__ for function in cli.COMMANDS} == set(COMMANDS) == set(cli_options.EXAMPLES)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_parses_and_a_default_for_every_option(command, capsys):
    shown = help_of(command, capsys)
    example = shown[shown.index("example:") :].splitlines()[1].strip()
    words = shlex.split(example)
    assert words[:2] == ["p2m", command]
    parser = cli_options.build_parser(cli.COMMANDS)
    args = parser.parse_args(words[1:])
    assert args.command.__name__ == command
    cli._config(args)  # its settings exist and are of the right type

    [subparsers] = [action for action in parser._actions if hasattr(action, "choices") and action.choices]
    for action in subparsers.choices[command]._actions:
        if action.dest != "help":
            assert "default: " in action.help, action.dest


@pytest.mark.parametrize(
    "command",
    [name for name in COMMANDS if name not in ("control", "convert", "diff", "doctor", "demo", "run", "settings")],
)
def test_shown_defaults_are_the_configs(command, capsys):
    shown = " ".join(help_of(command, capsys).split())
    for option in cli_options.OPTIONS[command]:
        value = Config()
        for part in option.field.split("."):
            value = getattr(value, part)
        assert f"(setting {option.field}, default: {value})" in shown


def test_help_shows_the_settings_own_texts(capsys):
    shown = " ".join(help_of("train", capsys).split())
    assert "Samples of a step, shared by all processes (setting train.batch_size" in shown
    assert "p2m settings lists all" in shown


def test_settings_lists_a_section_and_docs_hold_them_all(capsys):
    assert cli.main(["settings", "train"]) == 0
    shown = capsys.readouterr().out
    assert all(f"| `train.{name}` |" in shown for name in Config().train.model_dump())
    assert "data.store" not in shown
    assert cli.main(["settings", "trian"]) == 2
    page = (project_root() / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == cli_options.settings_page() + "\n", "run p2m settings > docs/settings.md"


def test_options_win_over_set_which_wins_over_the_file(calls, tmp_path, capsys):
    file = tmp_path / "own.yaml"
    file.write_text("synth: {count: 1, size_px: 11, seed: 21}\n")
    arguments = ["synth", "--config", str(file), "--set", "synth.count=2", "--set", "synth.size_px=12", "--count", "3"]
    assert cli.main(arguments) == 0
    [synth] = calls["write_dataset"]
    assert synth == Config().synth.model_copy(update={"count": 3, "size_px": 12, "seed": 21})
    assert capsys.readouterr().out == "write_dataset done\n"


def test_paths_count_from_where_the_user_is(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(["synth", "faces: # new", "--count", "3"])
    assert calls["write_dataset"][0].out == str(tmp_path / "faces: # new")
    cli.main(["train", "--data", "store", "--init-from", "1.safetensors"])
    [config] = calls["train"]
    assert (config.data.store, config.train.init_from) == (str(tmp_path / "store"), str(tmp_path / "1.safetensors"))


@pytest.mark.parametrize(("word", "value"), [("bundled", "bundled"), ("null", None)])
def test_words_in_place_of_a_path_stay_words(calls, word, value):
    cli.main(["train", "--init-from", word])
    assert calls["train"][0].train.init_from == value


def test_options_given_again_make_lists(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "--weights run --weights bundled --weights a.safetensors --predictions a.npz --predictions b"
    assert cli.main(["evaluate", *words.split(), "--mapping", "dlib68", "--mapping", "0,1+2"]) == 0
    settings = calls["evaluate"][0].evaluate
    assert settings.weights == "run"
    assert settings.checkpoints == ("bundled", str(tmp_path / "a.safetensors"))
    assert settings.predictions == (str(tmp_path / "a.npz"), str(tmp_path / "b"))
    assert settings.mapping == ("dlib68", "0,1+2")
    cli.main(["evaluate", "--predictions", "a.npz", "--mapping", "my.txt"])
    assert calls["evaluate"][0].evaluate.mapping == (str(tmp_path / "my.txt"),)


def test_a_schedulers_address_stays_one(calls):
    cli.main(["synth", "--start", "4000", "--scheduler", "tcp://10.0.0.1:8786", "--backgrounds", "null"])
    [synth] = calls["write_dataset"]
    assert (synth.start, synth.scheduler, synth.backgrounds) == (4000, "tcp://10.0.0.1:8786", None)


def test_numbers_stay_numbers(calls):
    cli.main(["train", "--minutes", "5", "--lr", "1e-4"])
    [config] = calls["train"]
    assert (config.train.minutes, config.train.lr) == (5.0, 1e-4)


def test_another_folder_gets_a_store_of_its_own(calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "photos/", "sub/../photos"):
        cli.main(["preprocess", folder, "--face-model", "fit"])
        [config] = calls["preprocess"]
        assert Path(config.data.raw).resolve() == tmp_path / "photos"
        assert config.data.store == "data/processed/photos"
        assert config.data.face_model == "fit"
    cli.main(["preprocess", "photos", "--out", "there"])
    assert calls["preprocess"][0].data.store == str(tmp_path / "there")
    cli.main(["preprocess", "photos", "--set", "data.store=there"])
    assert calls["preprocess"][0].data.store == "there"
    cli.main(["preprocess"])
    assert calls["preprocess"][0].data.store == Config().data.store


def test_predict_passes_boxes_and_photos(calls):
    cli.main(["predict", "a.jpg", "--box", "1,2,3.5,4", "--box=-1,2,3,4", "--out", "x", "--device", "cpu"])
    photos, out, boxes, settings, device, keep = calls["predict_files"]
    # A path on the command line counts from where the user is.
    assert (photos, out, boxes) == ([Path.cwd() / "a.jpg"], Path("x"), [(1, 2, 3.5, 4), (-1, 2, 3, 4)])
    assert (settings, device, keep) == (Config().predict, "cpu", False)
    cli.main(["predict", "a.jpg", "grace_hopper"])
    assert calls["predict_files"][0] == [Path.cwd() / "a.jpg", Path("grace_hopper")]
    assert calls["predict_files"][2] is None


def test_predict_options_are_settings(calls, capsys):
    options = ["--save", "glb,csv", "--passes", "1", "--workers", "2", "--min-face", "30"]
    assert cli.main(["predict", "frames", *options, "--timing"]) == 1  # one photo failed
    settings = calls["predict_files"][3]
    assert settings.save == ("glb", "csv")
    assert (settings.passes, settings.workers, settings.video, settings.min_face) == (1, 2, False, 30)
    shown = capsys.readouterr().out
    assert "meshes/a.*\nc.mp4: 9 frames\nall of it; meshes\n" in shown
    assert "2 worked" in shown
    cli.main(["predict", "frames", "--all", "--video", "--frame", "head_mm"])
    settings = calls["predict_files"][3]
    assert settings.frame == "head_mm"
    assert settings.save == SAVED
    assert settings.video


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synth", "--count", "0"], "p2m: --count: input should be greater than or equal to 1, not 0 (the default is "),
        (["synth", "--count", "many"], 'p2m: --count: input should be a valid integer, not "many"'),
        (["synth", "--count", "[3"], "p2m: --count: while parsing"),
        (["synth", "x", "--set", "synth.count=0", "--seed", "3"], "p2m: --set: synth.count: "),
        (["train", "--set", "train.epoch=1"], "did you mean train.epochs?"),
        (["train", "-c", "face-lit"], "did you mean face-lite?"),
        (["evaluate", "-c", "/nowhere/x.yaml"], "/nowhere/x.yaml: no such config"),
        (["predict", "a.jpg", "--box", "1,2,3"], "--box: 1,2,3: is not four numbers"),
        (["predict", "a.jpg", "--box", "3,2,1,4"], "--box: 3,2,1,4: has no area"),
        (["predict", "a.jpg", "b.jpg", "--box", "1,2,3,4"], "given with several photos"),
        (["predict", "a.jpg", "--save", "glb,stl"], "p2m: --save: input should be 'obj', 'ply', "),
        (["predict", "a.jpg", "--save", ""], "p2m: --save: input should be 'obj', "),
        (["predict", "a.jpg", "--passes", "9"], "p2m: --passes: input should be less than or equal to 4, not 9"),
        (["predict", "a.jpg", "--video", "--workers", "2"], "p2m: --workers: is above 1 for a video"),
        (["train", "--lr", "fast"], "p2m: --lr: "),
        (["evaluate", "--protocol", "x"], "p2m: --protocol: "),
        (["run", "-p", "epochs"], "not of the form name=value"),
        (["sweep", "--grid", "train.lr"], "--grid: train.lr: is not of the form a.b=v1,v2"),
        (["sweep", "--grid", "train.lr=1,x"], "train.lr: input should be a valid number"),
        (["sweep", "--grid", "train.lr={"], "p2m: --grid: train.lr: while parsing"),
        (["sweep", "--seeds", "0"], "p2m: --seeds: "),
        (["sweep"], "nothing varies"),
        (["evaluate", "--run", "x", "--data", "y"], "--run: x: has settings of its own"),
        (["diff", "no-such-run", "another"], "no-such-run: is no run"),
        (["run", "-c", "face-lit"], "did you mean face-lite?"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(calls, arguments, message, capsys):
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("p2m: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not calls


def test_what_the_library_refuses_is_shown_the_same_way(monkeypatch, capsys):
    def preprocess(config):
        raise InputError("a.mat", "Pose_Para", "is missing", "take the original file")

    monkeypatch.setitem(sys.modules, "p2m_workbench.preprocessing", types.SimpleNamespace(preprocess=preprocess))
    assert cli.main(["preprocess"]) == 2
    assert capsys.readouterr().err == "p2m: a.mat: Pose_Para: is missing (take the original file)\n"


def test_an_interrupt_says_that_one_can_go_on(monkeypatch, capsys):
    def train(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "p2m_workbench.training.trainer", types.SimpleNamespace(train=train))
    assert cli.main(["train"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    monkeypatch.setattr("p2m_workbench.photos.batch.predict_files", train)
    assert cli.main(["predict", "grace_hopper"]) == 130
    assert "the same command begins anew" in capsys.readouterr().err


def test_a_training_that_a_cluster_stops_has_a_status_of_its_own(monkeypatch, capsys):
    def train(config):
        raise Preempted("outputs/a: stopped by SIGTERM after a checkpoint")

    monkeypatch.setitem(sys.modules, "p2m_workbench.training.trainer", types.SimpleNamespace(train=train))
    assert cli.main(["train"]) == 75
    assert capsys.readouterr().err == "p2m: outputs/a: stopped by SIGTERM after a checkpoint\n"


def test_run_passes_everything_on(monkeypatch, capsys):
    from p2m_workbench.runs import pipeline

    seen = []

    def run_notebooks(*args, **kwargs):
        seen.append((*args, *kwargs.values()))
        return [pipeline.NotebookResult("02_train", "ok", 1.25, "x", ["a/b", "c"])]

    monkeypatch.setattr(pipeline, "run_notebooks", run_notebooks)
    words = "run -c tiny 02_train -p epochs=3 -p 02_train.rate=1e-2 --timeout 9 --set seed=1 --fresh".split()
    assert cli.main(words) == 0
    assert seen == [("tiny", ["02_train"], {"epochs": 3, "02_train.rate": 0.01}, 9.0, ["seed=1"], True)]
    assert capsys.readouterr().out.split() == ["02_train", "ok", "1.2", "s", "a/b", "c"]


def test_sweep_reads_the_grid_and_tells_failures(monkeypatch, capsys):
    seen = []

    def stand_in(config, parameters):
        seen.append((config.sweep, parameters))
        return types.SimpleNamespace(failed=["x"] * (config.sweep.jobs - 1))

    monkeypatch.setitem(sys.modules, "p2m_workbench.runs.sweep", types.SimpleNamespace(sweep=stand_in))
    words = ["sweep", "--grid", "train.lr=1e-4,3e-4", "model.hidden=[8, 8],[4, 4]", "train.device=cpu", "--seeds", "3"]
    assert cli.main([*words, "-p", "samples=4", "--timeout", "60"]) == 0
    wanted, parameters = seen.pop()
    assert wanted.grid == {
        "train.lr": (1e-4, 3e-4),
        "model.hidden": ([8, 8], [4, 4]),
        "train.device": ("cpu",),
    }
    assert (wanted.seeds, wanted.timeout_s, parameters) == (3, 60.0, {"samples": 4})
    assert cli.main([*words, "--jobs", "2"]) == 1


@pytest.mark.parametrize("command", ["run", "demo"])
def test_a_failed_notebook_is_one_line_and_exit_code_1(monkeypatch, capsys, command):
    from p2m_workbench.runs import pipeline

    def run_notebooks(*args, **kwargs):
        raise pipeline.NotebookError("02_train.ipynb: in the cell 'x': ValueError: y")

    monkeypatch.setattr(pipeline, "run_notebooks", run_notebooks)
    assert cli.main([command]) == 1
    assert capsys.readouterr().err == "p2m: 02_train.ipynb: in the cell 'x': ValueError: y\n"


def test_objects_have_writer_and_measure_of_their_own(monkeypatch, capsys):
    seen = []
    for module, name in (
        ("p2m_synth.objects.writer", "write_objects"),
        ("p2m_workbench.measuring.evaluate_objects", "evaluate_objects"),
    ):
        stand_in = types.SimpleNamespace(**{name: lambda *args, **kwargs: seen.append((*args, *kwargs.values()))})
        monkeypatch.setitem(sys.modules, module, stand_in)
    assert cli.main(["synth", "-c", "object-tiny", "--count", "7", "--seed", "3"]) == 0
    assert seen.pop() == ("data/raw/objects-tiny", 7, 3, 2)
    assert cli.main(["evaluate", "-c", "object-tiny", "--weights", "bundled"]) == 0
    assert seen.pop()[0].evaluate.weights == "bundled"
    assert cli.main(["preprocess", "-c", "object-tiny"]) == 2
    assert "data.kind: is objects, which are read as they are" in capsys.readouterr().err


def test_python_m_is_the_same_command_and_help_loads_no_torch():
    code = "import sys, runpy; sys.argv = ['p2m', '--version']\n"
    code += "try: runpy.run_module('p2m_workbench', run_name='__main__')\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'numpy', 'matplotlib') if name in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=project_root()
    )
    assert answer.stdout.split("\n")[:2] == [f"p2m {__version__}", "[]"]


def test_the_doctor_shows_where_missing_things_belong(capsys):
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "AFLW2000-3D" in shown
    assert str(project_root() / "data" / "raw") in shown
