"""Every benchmark runs in its tiny mode; what it prints is for `make bench`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = [
    path for path in sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py")) if "--tiny" in path.read_text()
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_tiny_mode_prints_a_ratio(script):
    run = subprocess.run([sys.executable, script, "--tiny"], capture_output=True, text=True, env=os.environ)
    assert run.returncode == 0, run.stderr
    assert "times" in run.stdout or "ratio" in run.stdout
