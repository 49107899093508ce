"""A project whose one notebook takes moments: it counts, with a checkpoint a step, and fails as train.device says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PACKAGE = Path(__file__).parents[1]
PARAMETERS = 'config = "stub"\noverrides = []\nsteps = 3\nstep_s = 0.0'
IMPORTS = """import json, os, signal, time
from p2m_core.config.loading import load_config
from p2m_core.config.paths import resolve, run_folder
from p2m_core.files import write_json
settings = load_config(config, overrides)
folder = run_folder(settings)
state = folder / "state.json"
total, done, starts = json.loads(state.read_text()) if state.exists() else (0.0, 0, 0)
write_json(state, [total, done, starts + 1])"""
WORK = """while done < steps:
    time.sleep(step_s)
    total, done = total + settings.train.lr * (settings.seed + 1) * (done + 1), done + 1
    write_json(state, [total, done, starts + 1])
if settings.train.device == "raise":
    raise ValueError("as told")
if settings.train.device == "raise once" and not starts:
    raise ValueError("only now")
if settings.train.device == "hang":
    time.sleep(1000)
if settings.train.device == "die":
    os.kill(os.getpid(), signal.SIGKILL)
rows = [{"system": folder.name, "total": total}]
write_json(folder / "evaluation" / "stub" / "metrics.json", {"tables": {"score": {"rows": rows}}})"""
COMPARE = """from p2m_core.config.loading import load_config
from p2m_core.config.paths import resolve, run_folder
from p2m_core.files import write_json
settings = load_config(config, overrides)
weights = [settings.evaluate.weights, *checkpoints]
write_json(run_folder(settings) / "compared.json", weights)"""


def write_notebook(path: Path, parameters: str, *cells: str) -> Path:
    """A notebook of code cells after a title and a parameters cell."""
    content = new_notebook(cells=[new_markdown_cell(f"# {path.stem}")])
    content.cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    content.cells += [new_code_cell(cell) for cell in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(content, path)
    return path


def make_project(root: Path, sweep: str = "") -> Path:
    """A project's root with configs/stub.yaml, 02_count and 03_compare."""
    write_notebook(root / "notebooks" / "02_count.ipynb", PARAMETERS, IMPORTS, WORK)
    write_notebook(
        root / "notebooks" / "03_compare.ipynb", 'config = "stub"\noverrides = []\ncheckpoints = []', COMPARE
    )
    (root / "configs").mkdir()
    text = f"notebooks: [02_count]\ntrain: {{lr: 0.5}}\nsweep: {{report: 03_compare{sweep}}}\n"
    (root / "configs" / "stub.yaml").write_text(text)
    return root


def environment(root: Path) -> dict[str, str]:
    """Of a command in the project."""
    paths = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH")]))
    return os.environ | {"P2M_HOME": str(root), "PYTHONPATH": paths}


def start(root: Path, *words: str, **more) -> subprocess.Popen:
    """`p2m WORDS` in a session of its own."""
    command = [sys.executable, "-m", "p2m_workbench", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command, cwd=root, env=environment(root), **pipes | more)


def results(root: Path, sweep: str = "stub-sweep") -> dict[str, list]:
    """[total, steps done] of each run."""
    return {
        path.parent.name: json.loads(path.read_text())[:2]
        for path in sorted(root.glob(f"outputs/{sweep}/*/state.json"))
    }
