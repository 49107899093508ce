"""Every benchmark can be imported; `make test-all` also runs their tiny modes. What they print is for `make bench`."""

import importlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))
SHARED_SET = "data/raw/bench"  # made by several of them


@pytest.mark.parametrize("name", [path.stem for path in SCRIPTS])
def test_every_name_that_it_imports_is_there(name):
    importlib.import_module(name)


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [pytest.param(path, id=path.stem) for path in SCRIPTS if "--tiny" in path.read_text()]
)
def test_tiny_mode_prints_a_ratio(runs, script):
    run = runs[script]
    assert run.returncode == 0, run.stderr
    assert "times" in run.stdout or "ratio" in run.stdout
