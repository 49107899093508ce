"""The batch scripts, with stand-ins for Slurm's own commands on the PATH."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ("one_node", "several_nodes")
pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")

# Two tasks; signals go on to them; the exit status is the highest of theirs.
SRUN = """#!/usr/bin/env bash
shift  # --kill-on-bad-exit=1
for id in 0 1; do SLURM_PROCID=$id SLURM_LOCALID=$id SLURM_NTASKS=2 "$@" & pids="$pids $!"; done
trap 'kill -USR1 $pids' USR1
trap 'kill -TERM $pids' TERM
worst=0
for pid in $pids; do
    while kill -0 $pid 2>/dev/null; do wait $pid; status=$?; done
    wait $pid; status=$?; [ $status -gt $worst ] && worst=$status
done
exit $worst
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> calls.txt
[ "$1" = show ] && printf 'node7\\nnode8\\n'
exit 0
"""
# What stands for `p2m`: says its place, then works until it is told to stop.
P2M = """#!{python}
import os, signal, sys, time
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda *_: sys.exit(75))
with open(f"rank-{{os.environ['RANK']}}.txt", "a") as file:
    print(*(os.environ[name] for name in names), *sys.argv[1:], file=file)
deadline = time.monotonic() + {seconds}
while time.monotonic() < deadline:
    time.sleep(0.02)
sys.exit({status})
"""


@pytest.fixture
def submit(tmp_path):
    """A function that starts a script as Slurm does, from a project's root, with stand-ins."""
    shutil.copytree(ROOT / "slurm", tmp_path / "slurm")
    (tmp_path / "bin").mkdir()

    def write(name, text):
        path = tmp_path / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start(script, seconds=0.0, status=0):
        write("srun", SRUN), write("scontrol", SCONTROL)
        p2m = write("p2m", P2M.format(python=sys.executable, seconds=seconds, status=status))
        slurm = {"SLURM_JOB_ID": "20123", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_CPUS_PER_TASK": "8"}
        env = os.environ | slurm | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "P2M": str(p2m)}
        command = ["bash", f"slurm/{script}.sbatch", "face-full", "--set", "name=trial"]
        return subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)

    return start


def calls(folder):
    return (folder / "calls.txt").read_text().splitlines()


def wait_for(paths):
    while not all(path.exists() and path.stat().st_size for path in paths):
        time.sleep(0.02)


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_task_gets_its_place(submit, tmp_path, script):
    job = submit(script)
    assert (job.communicate(timeout=60)[1], job.returncode) == ("", 0)
    for rank in (0, 1):
        words = (tmp_path / f"rank-{rank}.txt").read_text().split()
        assert words[:5] == [str(rank), str(rank), "2", "node7", "20123"]
        assert words[5:] == "train --config face-full --set name=trial --set train.workers=7".split()
    assert calls(tmp_path) == ["show hostnames node[7-8]"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_warned_job_is_queued_again(submit, tmp_path, script, number):
    job = submit(script, seconds=60)
    wait_for([tmp_path / "rank-0.txt", tmp_path / "rank-1.txt"])
    job.send_signal(number)
    job.communicate(timeout=60)
    assert job.returncode == 75
    assert calls(tmp_path)[-1] == "requeue 20123"


def test_a_job_that_fails_by_itself_is_not_queued_again(submit, tmp_path):
    job = submit("one_node", status=2)
    job.communicate(timeout=60)
    assert job.returncode == 2
    assert not [line for line in calls(tmp_path) if line.startswith("requeue")]


def test_a_process_that_stopped_for_a_signal_of_its_own_is_queued_again(submit, tmp_path):
    job = submit("several_nodes", status=75)
    job.communicate(timeout=60)
    assert job.returncode == 75
    assert calls(tmp_path)[-1] == "requeue 20123"


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_ask_for_a_warning_and_for_one_task_a_card(script):
    text = (ROOT / f"slurm/{script}.sbatch").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.M))
    assert asked["signal"].startswith("B:USR1@")
    assert "requeue" in asked
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert asked["open-mode"] == "append"


def test_the_documented_status_is_that_of_the_command():
    from p2m_workbench.cli import PREEMPTED

    assert f"PREEMPTED={PREEMPTED}\n" in (ROOT / "slurm/train.sh").read_text()
    assert f"**{PREEMPTED}**" in (ROOT / "slurm/README.md").read_text()
