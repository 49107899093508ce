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
# more than 10 s, by `make test-all`
LONG = ("network", "synthesis", "store_size", "chamfer", "training", "boxes", "viewer", "bundled", "speed")


@pytest.fixture(scope="module")
def runs(request):
    """The runs of all scripts that are asked for, two at a time: most of a run is imports."""
    one_at_a_time = threading.Lock()

    def run(script: Path) -> subprocess.CompletedProcess:
        with one_at_a_time if SHARED_SET in script.read_text() else nullcontext():
            command = [sys.executable, script, "--tiny"]
            return subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)

    wanted = [item.callspec.params["script"] for item in request.session.items if "runs" in item.fixturenames]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(wanted, pool.map(run, wanted), strict=True))


@pytest.mark.parametrize(
    "script",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in LONG else [], id=path.stem) for path in SCRIPTS],
)
def test_tiny_mode_prints_a_ratio(runs, script):
    run = runs[script]
    assert run.returncode == 0, run.stderr
    assert "times" in run.stdout or "ratio" in run.stdout
