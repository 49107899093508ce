"""Every benchmark runs in its tiny mode; what it prints is for `make bench`."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

SCRIPTS = [
    path for path in sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py")) if "--tiny" in path.read_text()
]
SHARED_SET = "data/raw/bench"  # made by several of them


@pytest.fixture(scope="module")
def runs():
    """All scripts' runs, two at a time: most of a run is imports."""
    one_at_a_time = threading.Lock()

    def run(script: Path) -> subprocess.CompletedProcess:
        with one_at_a_time if SHARED_SET in script.read_text() else nullcontext():
            command = [sys.executable, script, "--tiny"]
            return subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(SCRIPTS, pool.map(run, SCRIPTS), strict=True))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_tiny_mode_prints_a_ratio(runs, script):
    run = runs[script]
    assert run.returncode == 0, run.stderr
    assert "times" in run.stdout or "ratio" in run.stdout
