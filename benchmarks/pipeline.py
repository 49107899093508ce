"""What does a notebook cost beyond its own work, and how much faster is a sweep with two jobs?

    python benchmarks/pipeline.py [--runs 8] [--tiny]

Executes empty notebooks by `p2m run`'s function, by bare papermill (the baseline), and again, when they are skipped.
Then a sweep of so many runs of configs/tiny.yaml (data, training, evaluation: three notebooks each) with one job (the
baseline) and with two, each in a project of its own. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import papermill
from nbformat.v4 import new_code_cell, new_notebook

from p2m_core.config.settings import Config
from p2m_workbench.runs.pipeline import run_notebooks

ROOT = Path(__file__).resolve().parents[1]
EMPTY = 'config = "base"\noverrides = []'


def write_notebooks(folder: Path, count: int) -> list[Path]:
    """Notebooks that do nothing."""
    files = []
    for k in range(count):
        cells = [new_code_cell(EMPTY, metadata={"tags": ["parameters"]}), new_code_cell("1 + 1")]
        files.append(folder / f"{k:02d}_empty.ipynb")
        nbformat.write(new_notebook(cells=cells), files[-1])
    return files


def measure_notebooks(root: Path, count: int) -> None:
    """Print what an empty notebook costs."""
    files = write_notebooks(root, count)
    os.environ["P2M_HOME"] = str(root)
    start = time.perf_counter()
    for file in files:
        papermill.execute_notebook(file, root / f"bare-{file.name}", kernel_name="python3", progress_bar=False)
    bare = (time.perf_counter() - start) / count
    start = time.perf_counter()
    run_notebooks(Config(name="empty"), files)
    ours = (time.perf_counter() - start) / count
    start = time.perf_counter()
    results = run_notebooks(Config(name="empty"), files)
    kept = (time.perf_counter() - start) / count
    assert all(result.kept for result in results)
    print(f"empty notebook: {ours:.2f} s, {ours / bare:.2f} times bare papermill ({bare:.2f} s); kept: {kept:.3f} s")


def measure_sweep(folder: Path, runs: int, jobs: int) -> float:
    """Seconds of a sweep over learning rates in a new project."""
    home = folder / f"jobs-{jobs}"
    for name in ("notebooks", "configs"):
        shutil.copytree(ROOT / name, home / name)
    if (ROOT / "data/processed/face_model").is_dir():  # else the first run builds it
        shutil.copytree(ROOT / "data/processed/face_model", home / "data/processed/face_model")
    rates = ",".join(f"{(k + 1) * 1e-4:g}" for k in range(runs))
    words = ["sweep", "-c", "tiny", "--grid", f"train.lr={rates}", "--jobs", str(jobs)]
    words += ["--set", "notebooks=[01_preprocess, 02_train, 03_evaluate]", "--set", "sweep.report=null"]
    environment = os.environ | {"P2M_HOME": str(home), "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    command = [sys.executable, "-m", "p2m_workbench", *words]
    subprocess.run(command, env=environment, cwd=home, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=8, help="runs of the sweep")
    options.add_argument("--tiny", action="store_true", help="one empty notebook and no sweep, for the tests")
    chosen = options.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, papermill {papermill.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        measure_notebooks(Path(folder), 1 if chosen.tiny else 5)
        if chosen.tiny:
            return
        one, two = (measure_sweep(Path(folder), chosen.runs, jobs) for jobs in (1, 2))
        print(f"sweep of {chosen.runs} tiny runs, one job, the baseline: {one:.0f} s, {one / chosen.runs:.1f} s a run")
        print(f"two jobs: {two:.0f} s, {one / two:.2f} times as fast")


if __name__ == "__main__":
    main()
