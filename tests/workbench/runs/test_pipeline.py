"""p2m_workbench.runs.pipeline: notebooks that end well, fail, hang, die, and those that never get a kernel."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from p2m_core.config.loading import load_config
from p2m_core.config.paths import project_root
from p2m_core.config.settings import Config
from p2m_core.errors import InputError
from p2m_workbench.runs import pipeline
from p2m_workbench.runs.notebooks import find_notebooks, plan_parameters, read_parameters
from p2m_workbench.runs.pipeline import NotebookError, list_changes, run_notebooks

PARAMETERS = 'config = "tiny"\noverrides = []\nepochs = 2\nrate = 0.5\ndetach = False\nlimit: int | None = None'


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project's root of its own, with a config and no notebook."""
    # Braces and spaces, which papermill would take for names to fill in.
    root = tmp_path / "a {b} c"
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "tiny.yaml").write_text("seed: 3\n")
    (root / "notebooks").mkdir()
    monkeypatch.setenv("P2M_HOME", str(root))
    return root


def add(root: Path, name: str, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    """A notebook of code cells, after a title and a parameters cell."""
    content = new_notebook(cells=[new_markdown_cell(f"# {name}")])
    if parameters is not None:
        content.cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    content.cells += [new_code_cell(cell) for cell in cells]
    path = root / "notebooks" / f"{name}.ipynb"
    nbformat.write(content, path)
    names = sorted(file.stem for file in path.parent.glob("[0-9]*.ipynb"))
    (root / "configs" / "tiny.yaml").write_text(f"seed: 3\nnotebooks: {json.dumps(names)}\n")
    return path


def printed(path: Path) -> str:
    """What the cells of an executed notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(out.text for cell in cells for out in cell.get("outputs", []) if out.output_type == "stream")


WRITE = """from p2m_core.config.loading import load_config; from p2m_core.config.paths import run_folder
folder = run_folder(load_config(config, overrides))
(folder / "made.txt").write_text("x")
for i in range(20):
    (folder / "many").mkdir(exist_ok=True)
    (folder / "many" / f"{i}.txt").write_text("x")"""
SHOW = """import json, os, sys
from p2m_core.config.paths import project_root
from p2m_core.config.loading import load_config
seed = load_config(config, overrides).seed
print(json.dumps([sys.executable, os.getcwd(), str(project_root()), epochs, rate, seed]))"""


def test_notebooks_run_in_order_and_the_report_says_what_was_written(root, monkeypatch):
    add(root, "02_second", WRITE)
    add(root, "01_first", SHOW)
    monkeypatch.chdir("/")
    # A kernelspec that points elsewhere, as another environment of the user may have installed it.
    spec = root / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(root / "jupyter"))
    parameters = {"01_first.epochs": 5, "rate": 2}
    results = run_notebooks("tiny", parameters=parameters, timeout_s=120, overrides=["seed=4"])

    assert [(result.name, result.status) for result in results] == [("01_first", "ok"), ("02_second", "ok")]
    folder = root / "outputs" / "tiny"
    assert sorted(path.name for path in (folder / "notebooks").iterdir()) == ["01_first.ipynb", "02_second.ipynb"]
    seen = json.loads(printed(folder / "notebooks" / "01_first.ipynb"))
    assert seen == [sys.executable, str(root / "notebooks"), str(root), 5, 2, 4]
    assert Path.cwd() == Path("/")

    report = json.loads((folder / "run.json").read_text())
    assert [entry["status"] for entry in report["notebooks"]] == ["ok", "ok"]
    assert all(entry["seconds"] > 0 for entry in report["notebooks"])
    written = report["notebooks"][1]["written"]
    assert "outputs/tiny/made.txt" in written
    assert "outputs/tiny/many/ (20 files)" in written
    assert "outputs/tiny/notebooks/02_second.ipynb" in written
    assert report["notebooks"][0]["written"] == ["outputs/tiny/notebooks/01_first.ipynb"]
    assert (report["config"], report["overrides"]) == ("tiny", ["seed=4"])
    assert load_config(folder / "config.yaml") == load_config("tiny", ["seed=4"])


def test_what_tagged_cells_print_is_the_report(root):
    path = add(root, "01_a", "print('no')", "import sys\nprint('a table')\nprint('noise', file=sys.stderr)")
    content = nbformat.read(path, as_version=4)
    content.cells[-1].metadata["tags"] = ["report"]
    nbformat.write(content, path)
    [result] = run_notebooks("tiny", timeout_s=120)
    assert result.report == "a table\n"
    report = json.loads((root / "outputs" / "tiny" / "run.json").read_text())
    assert report["notebooks"][0]["report"] == "a table\n"


def test_a_set_of_many_folders_is_one_line(root):
    made = {root / "data" / "set" / str(k) / name: (1, 1) for k in range(20) for name in ("a.png", "a.dat")}
    other = {root / "outputs" / "x.txt": (1, 1)}
    changed = list_changes({}, made | other, [root / "data" / "set"])
    assert sorted(changed) == ["data/set/ (40 files)", "outputs/x.txt"]


def test_the_source_notebook_stays_as_it_was(root):
    path = add(root, "01_a", "print(1)")
    before = path.read_bytes()
    run_notebooks("tiny", timeout_s=120)
    assert path.read_bytes() == before


def test_a_config_object_and_another_folder(root):
    add(root, "01_a", SHOW)
    [result] = run_notebooks(Config(name="own", seed=9, notebooks=("01_a",)), out="elsewhere", timeout_s=120)
    assert result.executed == "elsewhere/01_a.ipynb"
    assert json.loads(printed(root / "elsewhere" / "01_a.ipynb"))[-1] == 9


def test_a_failing_cell_ends_the_run_and_is_named(root):
    add(root, "01_bad", "x = 1", "# a comment\na = 1\nb = a / 0\nc = 2\nd = 3")
    add(root, "02_never", "print(1)")
    with pytest.raises(NotebookError) as caught:
        run_notebooks("tiny", timeout_s=120)
    assert str(caught.value) == (
        "01_bad.ipynb: in the cell 'a = 1 / b = a / 0 / c = 2 ...': ZeroDivisionError: division by zero"
    )
    report = json.loads((root / "outputs" / "tiny" / "run.json").read_text())
    assert [entry["status"] for entry in report["notebooks"]] == ["failed", "not run"]
    assert report["notebooks"][0]["error"] == str(caught.value)
    copies = [path.name for path in (root / "outputs" / "tiny" / "notebooks").iterdir()]
    assert copies == ["01_bad.ipynb"]  # with the traceback, for a look


def test_the_time_limit_is_the_notebooks_not_the_cells(root):
    # No cell alone takes as long as the limit.
    add(root, "01_slow", "import time", *["time.sleep(1.4)"] * 6)
    # On a busy machine the kernel alone may take that long to start: then the first cell is named.
    with pytest.raises(NotebookError, match=r"^01_slow\.ipynb: in the cell '.+': not done after 3 s$"):
        run_notebooks("tiny", timeout_s=3)
    copy = root / "outputs" / "tiny" / "notebooks" / "01_slow.ipynb"
    content = nbformat.read(copy, as_version=4)
    assert "not done after 3 s" in content.cells[0].source
    assert content.cells[-1].execution_count is None
    report = json.loads((root / "outputs" / "tiny" / "run.json").read_text())
    assert report["notebooks"][0]["status"] == "timeout"


def test_a_kernel_that_dies_is_reported(root):
    add(root, "01_dies", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(NotebookError, match=r"^01_dies\.ipynb: in the cell 'import os, signal.*died"):
        run_notebooks("tiny", timeout_s=120)


@pytest.mark.skipif(os.name == "nt", reason="signals as on Unix")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_cell_may_write_its_checkpoint(root, number):
    cell = """import time
from p2m_core.config.loading import load_config; from p2m_core.config.paths import run_folder
folder = run_folder(load_config(config, overrides))
try:
    (folder / "started.txt").write_text("x")
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    (folder / "checkpoint.txt").write_text("x")"""
    add(root, "01_train", cell)
    add(root, "02_never", "print(1)")
    folder = root / "outputs" / "tiny"
    command = [sys.executable, "-m", "p2m_workbench", "run", "-c", "tiny"]
    paths = {"P2M_HOME": str(root), "PYTHONPATH": str(Path(pipeline.__file__).parents[2])}
    # A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd="/", env=os.environ | paths, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with process:
        deadline = time.monotonic() + 60
        while not (folder / "started.txt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.rstrip().endswith("goes on from here")
    assert (folder / "checkpoint.txt").exists()
    report = json.loads((folder / "run.json").read_text())
    assert [entry["status"] for entry in report["notebooks"]] == ["interrupted", "not run"]


def test_two_runs_at_once_do_not_disturb_each_other(root, monkeypatch):
    monkeypatch.chdir(root)
    add(root, "01_a", "import time\ntime.sleep(0.5)", SHOW)

    def run(seed: int) -> list:
        run_notebooks("tiny", overrides=[f"name=run{seed}", f"seed={seed}"], timeout_s=120)
        return json.loads(printed(root / "outputs" / f"run{seed}" / "notebooks" / "01_a.ipynb"))

    # Threads are the harder case: papermill's own cwd= would move them all.
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run, seed) for seed in (1, 2)]
        while not all(future.done() for future in runs):
            assert Path.cwd() == root
            time.sleep(0.02)
    seen = [future.result() for future in runs]
    assert [entry[-1] for entry in seen] == [1, 2]
    assert {entry[1] for entry in seen} == {str(root / "notebooks")}


@pytest.fixture
def no_kernel(monkeypatch):
    """Make sure that a check comes before any kernel."""

    def fail(*args, **kwargs):
        raise AssertionError("a kernel was started")

    monkeypatch.setattr(pipeline.papermill, "execute_notebook", fail)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epoch": 3}, r"parameters: epoch: no such parameter \(did you mean epochs\?\)"),
        ({"01_a.epoch": 3}, r"01_a\.ipynb: epoch: no such parameter \(did you mean epochs\?\)"),
        ({"02_b.epochs": 3}, r"02_b\.ipynb: epochs: no such parameter"),
        ({"03_c.epochs": 3}, r"no notebook 03_c in this run \(in it: 01_a, 02_b\)"),
        ({"epochs": 3.5}, r"epochs: 3\.5 is not of the type int \(the default is 2\)"),
        ({"epochs": "3"}, r"epochs: '3' is not of the type int"),
        ({"epochs": True}, r"epochs: True is not of the type int"),
        ({"detach": 1}, r"detach: 1 is not of the type bool"),
        ({"rate": None}, r"rate: None is not of the type float"),
    ],
)
def test_wrong_parameters_never_reach_a_kernel(root, no_kernel, parameters, message):
    add(root, "01_a", "print(1)")
    add(root, "02_b", "print(1)", parameters='config = "tiny"\noverrides = []')
    with pytest.raises(InputError, match=message):
        run_notebooks("tiny", parameters=parameters)
    assert not (root / "outputs").exists()


@pytest.mark.parametrize("parameters", [{"epochs": 3}, {"rate": 1}, {"limit": 5}, {"limit": None}, {"detach": True}])
def test_right_parameters_go_to_the_notebooks_that_know_them(root, parameters):
    known = add(root, "01_a")
    other = add(root, "02_b", parameters='config = "tiny"\noverrides = []')
    common = {"config": "outputs/tiny/config.yaml", "overrides": []}
    plan = plan_parameters([known, other], parameters, Config(name="tiny"))
    assert plan == {known: common | parameters, other: common}


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "has 0 cells tagged 'parameters'"),
        ("epochs = 3", "config: is missing in the parameters cell"),
        ("config = 'a'", "overrides: is missing in the parameters cell"),
        ("config = 'a'\noverrides = list()", "more than lines of the form name = literal"),
        ("config = 'a'\noverrides = []\nn = 2 * 3", "more than lines of the form name = literal"),
        ("config = overrides = []", "more than lines of the form name = literal"),
        ("config, overrides = 'a', []", "more than lines of the form name = literal"),
        ("import os", "more than lines of the form name = literal"),
        ("config = ", "more than lines of the form name = literal"),
    ],
)
def test_parameter_cells_that_papermill_would_only_warn_about(root, no_kernel, cell, message):
    add(root, "01_a", parameters=cell)
    with pytest.raises(InputError, match=message):
        run_notebooks("tiny")


def test_a_file_that_is_no_notebook(root, no_kernel):
    for content in ("not json", "[]", "{}", '{"nbformat": 4}'):
        (root / "notebooks" / "01_a.ipynb").write_text(content)
        with pytest.raises(InputError, match=r"01_a\.ipynb"):
            run_notebooks("tiny", ["01_a"])


def test_a_wrong_config_never_reaches_a_kernel(root, no_kernel):
    add(root, "01_a")
    with pytest.raises(InputError, match=r"did you mean tiny\?"):
        run_notebooks("tinyy")
    with pytest.raises(InputError, match=r"did you mean seed\?"):
        run_notebooks("tiny", overrides=["sed=1"])


def test_notebooks_are_found_by_stem_and_by_path(root, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no such notebook \(known in .*notebooks: none\)"):
        find_notebooks(["02_train"])
    second, first = add(root, "02_train"), add(root, "01_a")
    add(root, "draft")
    assert find_notebooks(["02_train", "01_a"]) == [second, first]
    assert find_notebooks(["02_train.ipynb", second]) == [second, second]
    monkeypatch.chdir(root / "notebooks")
    assert find_notebooks(["./draft.ipynb"]) == [root / "notebooks" / "draft.ipynb"]
    with pytest.raises(InputError, match=r"did you mean 02_train\?"):
        find_notebooks(["02_trian"])


def test_parameters_are_read_with_their_types(root):
    found = read_parameters(add(root, "01_a"))
    assert found == {
        "config": "tiny",
        "overrides": [],
        "epochs": 2,
        "rate": 0.5,
        "detach": False,
        "limit": None,
    }


# --- what is kept ---


@pytest.fixture
def executed(monkeypatch):
    """Names of the notebooks that are executed, without a kernel: each writes NAME.txt with what it was given."""
    names = []

    def execute(source, copy, parameters, **_):
        source, copy = (Path(text.replace("{{", "{").replace("}}", "}")) for text in (source, copy))
        copy.write_bytes(source.read_bytes())
        (project_root() / "outputs" / "tiny" / f"{source.stem}.txt").write_text(json.dumps(parameters))
        names.append(source.stem)

    monkeypatch.setattr(pipeline.papermill, "execute_notebook", execute)
    return names


def run_tiny(executed: list, *notebooks: str, **more) -> list[str]:
    """What is executed of a run of the root's notebooks."""
    executed.clear()
    results = run_notebooks("tiny", list(notebooks) or None, **more)
    assert [result.name for result in results if not result.kept] == executed
    assert {result.status for result in results} == {"ok"}
    return list(executed)


@pytest.fixture
def three(root, executed):
    """The root with three notebooks that have run, one after another, in two calls."""
    for name in ("01_a", "02_b", "03_c"):
        add(root, name)
    assert run_tiny(executed, "01_a", "02_b") == ["01_a", "02_b"]
    assert run_tiny(executed, "03_c") == ["03_c"]
    assert run_tiny(executed) == []
    return root


def test_finished_notebooks_are_kept_and_stay_in_the_report(three, executed):
    folder = three / "outputs" / "tiny"
    assert run_tiny(executed, "02_b") == []
    entries = json.loads((folder / "run.json").read_text())["notebooks"]
    assert {entry["name"]: entry["status"] for entry in entries} == dict.fromkeys(("01_a", "02_b", "03_c"), "ok")
    assert run_tiny(executed, fresh=True) == ["01_a", "02_b", "03_c"]
    assert pipeline.is_finished(load_config("tiny"))
    assert not pipeline.is_finished(load_config("tiny"), {"epochs": 7})


def test_a_changed_source_parameter_or_setting_executes_it_and_what_comes_after(three, executed):
    add(three, "02_b", "print('new')")
    assert run_tiny(executed) == ["02_b", "03_c"]
    assert run_tiny(executed, parameters={"03_c.epochs": 9}) == ["03_c"]
    assert run_tiny(executed, parameters={"03_c.epochs": 9}) == []
    assert run_tiny(executed) == ["03_c"]
    assert run_tiny(executed, overrides=["train.lr=0.5"]) == ["01_a", "02_b", "03_c"]
    # Which notebooks there are, and how a sweep would run them, changes none of them.
    assert run_tiny(executed, "03_c", overrides=["train.lr=0.5", "sweep.jobs=2", "notebooks=[03_c]"]) == []


def test_one_executed_alone_makes_those_after_it_old(three, executed):
    assert run_tiny(executed, "01_a", fresh=True) == ["01_a"]
    assert run_tiny(executed, "03_c") == ["03_c"]
    assert run_tiny(executed) == ["02_b", "03_c"]


def test_what_was_written_must_be_there(three, executed):
    folder = three / "outputs" / "tiny"
    (folder / "02_b.txt").unlink()
    assert run_tiny(executed) == ["02_b", "03_c"]
    (folder / "notebooks" / "03_c.ipynb").unlink()
    assert run_tiny(executed) == ["03_c"]
    (folder / "run.json").write_text("{")
    assert run_tiny(executed) == ["01_a", "02_b", "03_c"]


@pytest.mark.parametrize(
    ("field", "content"),
    [
        ("predict.photos", "."),
        ("predict.photos", "a/b"),
        ("data.raw", "a/b"),
        ("data.store", "manifest.json"),
        ("evaluate.store", "manifest.json"),
        ("evaluate.weights", "."),
        ("evaluate.checkpoints", "weights.safetensors"),
        ("predict.weights", "weights.safetensors"),
        ("train.init_from", "weights.safetensors"),
        ("-p checkpoints", "weights.safetensors"),
    ],
)
def test_what_settings_and_parameters_name_must_be_as_it_was(root, executed, field, content):
    named = root / "data" / "named"
    file = named / content  # "." is the named file itself
    file.parent.mkdir(parents=True)
    file.write_text("1")
    add(root, "02_a", parameters=f"{PARAMETERS}\ncheckpoints = []")
    value = str(named) if field.endswith((".raw", ".store", ".weights", ".init_from")) else [str(named)]
    more = {"overrides": [f"{field}={json.dumps(value)}"]}
    if field.startswith("-p "):
        more = {"parameters": {"checkpoints": value}}
    assert run_tiny(executed, **more) == ["02_a"]
    assert run_tiny(executed, **more) == []
    if content in ("manifest.json", "weights.safetensors"):  # which stand for the whole folder
        (named / "more.txt").write_text("x")
        assert run_tiny(executed, **more) == []
    file.write_text("22")
    assert run_tiny(executed, **more) == ["02_a"]
    assert run_tiny(executed, **more) == []


def test_other_weights_execute_all_but_the_preprocessing(root, executed, tmp_path, monkeypatch):
    bundled, own = tmp_path / "bundled.safetensors", root / "outputs" / "tiny" / "weights.safetensors"
    monkeypatch.setattr(pipeline, "BUNDLED", bundled)
    for name in ("01_preprocess", "02_train", "03_evaluate"):
        add(root, name)
    assert run_tiny(executed) == ["01_preprocess", "02_train", "03_evaluate"]
    for file in (bundled, own):
        for content in (b"a", b"b"):
            file.write_bytes(content)
            assert run_tiny(executed) == ["02_train", "03_evaluate"]
            assert run_tiny(executed) == []


def test_a_failed_notebook_is_executed_again_and_those_before_are_kept(root, executed, monkeypatch):
    add(root, "01_a")
    add(root, "02_b")
    fake = pipeline.papermill.execute_notebook

    def fail(source, *args, **kwargs):
        fake(source, *args, **kwargs)
        if Path(source).stem == "02_b":
            raise RuntimeError("no")

    monkeypatch.setattr(pipeline.papermill, "execute_notebook", fail)
    with pytest.raises(NotebookError):
        run_notebooks("tiny")
    monkeypatch.setattr(pipeline.papermill, "execute_notebook", fake)
    assert run_tiny(executed) == ["02_b"]


def test_the_failure_of_an_earlier_call_is_not_reported_again(root, executed, monkeypatch):
    add(root, "01_a")
    add(root, "02_b")
    for failing in ("02_b", "01_a"):

        def fail(source, *_, failing=failing, **__):
            if Path(source).stem == failing:
                raise RuntimeError("no")

        monkeypatch.setattr(pipeline.papermill, "execute_notebook", fail)
        with pytest.raises(NotebookError):
            run_notebooks("tiny", fresh=True)
    report = json.loads((root / "outputs" / "tiny" / "run.json").read_text())
    assert [(entry["status"], bool(entry["error"])) for entry in report["notebooks"]] == [
        ("failed", True),
        ("not run", False),
    ]


def test_two_runs_in_one_folder_the_second_refuses(root, no_kernel):
    add(root, "01_a")
    folder = root / "outputs" / "tiny"
    folder.mkdir(parents=True)
    with FileLock(folder / "run.lock"), pytest.raises(InputError, match=r"run\.lock: another process runs notebooks"):
        run_notebooks("tiny")


def test_of_runs_that_share_raw_data_one_at_a_time_prepares_them(root, executed):
    add(root, "01_preprocess")
    lock = FileLock(root / "outputs" / ".synthetic.lock")
    with ThreadPoolExecutor(1) as pool:
        with lock:
            future = pool.submit(run_notebooks, "tiny")
            with pytest.raises(TimeoutError):
                future.result(timeout=1)
        assert future.result(timeout=60)[0].status == "ok"
