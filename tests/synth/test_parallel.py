import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from itertools import count, repeat

import psutil
import pytest

from p2m_core.data.aflw2000 import read_image
from p2m_core.errors import InputError
from p2m_synth import parallel
from p2m_synth.parallel import map_jobs, one_thread_each
from p2m_synth.signals import stop_on_sigterm


def fail_at_three(value):
    if value == 3:
        raise InputError("file.mat", "Pose_Para", "is missing", "take it again")
    return value


def threads_of_worker(_):
    time.sleep(0.05)
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


@pytest.mark.parametrize("jobs", [[], [4.0], [1.0, 4.0, 9.0]], ids=len)
def test_one_worker_runs_here_and_in_order(jobs):
    assert list(map_jobs(math.sqrt, jobs)) == [math.sqrt(job) for job in jobs]


def test_one_worker_is_lazy():
    done = []
    results = map_jobs(lambda job: done.append(job) or job, range(5))
    assert next(results) == 0
    assert done == [0]
    results.close()
    assert done == [0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupt_that_a_job_swallows_ends_the_run_all_the_same(number):
    def swallow(job):
        with contextlib.suppress(KeyboardInterrupt):  # as NumPy does
            if job == 2:
                signal.raise_signal(number)
        return job

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with stop_on_sigterm():
        results = map_jobs(swallow, range(5))
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(KeyboardInterrupt):
            next(results)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
    assert list(map_jobs(math.sqrt, [4.0])) == [2.0]  # nothing is remembered


def test_many_workers_do_every_job_once_with_one_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    results = list(map_jobs(threads_of_worker, iter(range(40)), workers=2, total=40))
    assert len(results) == 40
    assert {threads for _, threads in results} == {"1"}
    assert os.getpid() not in {pid for pid, _ in results}
    assert os.environ["OMP_NUM_THREADS"] == "7"  # only there
    assert "MKL_NUM_THREADS" not in os.environ


def test_threads_do_every_job_once_and_as_many_at_a_time_as_there_are_workers():
    running, most = [], []

    def work(job):
        running.append(job)
        most.append(len(running))
        time.sleep(0.02)
        running.remove(job)
        return os.getpid(), job

    results = list(map_jobs(work, iter(range(20)), workers=3, threads=True))
    assert sorted(results) == [(os.getpid(), job) for job in range(20)]
    assert max(most) == 3


def test_an_error_of_a_worker_ends_the_run_and_keeps_its_parts():
    with pytest.raises(InputError) as caught:
        list(map_jobs(fail_at_three, range(6), workers=2))
    error = caught.value
    assert (error.path, error.field, error.problem, error.remedy) == (
        "file.mat",
        "Pose_Para",
        "is missing",
        "take it again",
    )
    assert str(error) == "file.mat: Pose_Para: is missing (take it again)"
    with pytest.raises(InputError, match="Pose_Para"):
        list(map_jobs(fail_at_three, range(6)))


def test_the_environment_comes_back_after_an_error(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")

    def fail():
        with one_thread_each():
            assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"


@pytest.mark.parametrize("workers", [1, 2])
def test_endless_jobs_are_taken_a_few_ahead(workers):
    taken = []
    results = map_jobs(math.sqrt, (taken.append(k) or k for k in count()), workers)
    for done in range(1, 60):
        next(results)
        assert len(taken) <= done + parallel.JOBS_AHEAD * workers
    results.close()


PARENT = """
import os, sys, time
from pathlib import Path
from p2m_synth.parallel import map_jobs

def tell(_):
    Path(sys.argv[1], f"pid{os.getpid()}").touch()
    time.sleep(0.05)

if __name__ == "__main__":
    for _ in map_jobs(tell, iter(int, 1), workers=2):
        pass
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    """Nobody stays behind who waits for work."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    process = subprocess.Popen([sys.executable, script, tmp_path], stderr=subprocess.DEVNULL)
    until(lambda: len(list(tmp_path.glob("pid*"))) == 2)
    process.kill()
    process.wait()
    pids = [int(path.name[3:]) for path in tmp_path.glob("pid*")]
    until(lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids))


CHILD = """
import sys, time
from pathlib import Path
from p2m_synth.signals import stop_on_sigterm, stop_with_parent

try:
    with stop_on_sigterm():
        stop_with_parent()
        Path(sys.argv[1], "started").touch()
        time.sleep(60)
except KeyboardInterrupt:
    Path(sys.argv[1], "stopped").touch()
"""
STARTER = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, *sys.argv[1:]], env=os.environ | {"P2M_PARENT": str(os.getpid())})
time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals as on Unix")
def test_a_child_is_interrupted_when_a_parent_that_asked_for_it_is_killed(tmp_path):
    child, starter = tmp_path / "child.py", tmp_path / "starter.py"
    child.write_text(CHILD)
    starter.write_text(STARTER)
    process = subprocess.Popen([sys.executable, starter, child, tmp_path])
    until((tmp_path / "started").exists)
    process.kill()
    process.wait()
    until((tmp_path / "stopped").exists)


def until(condition, limit_s=30):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- on a cluster ---


def test_a_cluster_does_every_job_once(scheduler):
    assert sorted(map_jobs(math.sqrt, iter(range(40)), scheduler=scheduler)) == [math.sqrt(job) for job in range(40)]
    results = map_jobs(os.path.abspath, iter(["/a", "/a"]), scheduler=scheduler)  # equal jobs are two jobs
    assert list(results) == ["/a", "/a"]


def test_a_cluster_gets_a_few_jobs_ahead(scheduler):
    taken = []
    results = map_jobs(math.sqrt, (taken.append(k) or k for k in count()), scheduler=scheduler)
    for done in range(1, 60):
        next(results)
        assert len(taken) <= done + 2 * parallel.JOBS_AHEAD
    results.close()
    assert list(map_jobs(math.sqrt, [4], scheduler=scheduler)) == [2]  # the one before holds nobody up


def test_an_error_on_a_cluster_ends_the_run_and_keeps_its_parts(scheduler, tmp_path):
    with pytest.raises(InputError) as caught:
        list(map_jobs(read_image, [tmp_path / "a.jpg"], scheduler=scheduler))
    assert (caught.value.path, caught.value.remedy) == (str(tmp_path / "a.jpg"), "check the name")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense"])
def test_a_scheduler_that_does_not_answer_is_one_line(address, monkeypatch):
    monkeypatch.setattr(parallel, "CONNECT_S", 0.3)
    problem = rf"--scheduler: {address}: no Dask scheduler answers.*\(start one with `dask scheduler`"
    with pytest.raises(InputError, match=problem):
        list(map_jobs(math.sqrt, [1], scheduler=address))


def test_without_the_package_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"needs the package distributed \(pip install -e \.\[cluster\]\)"):
        list(map_jobs(math.sqrt, [1], scheduler="tcp://127.0.0.1:9"))


def test_a_scheduler_that_is_lost_is_one_line(monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(parallel, "CONNECT_S", 0.3)
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        results = map_jobs(time.sleep, repeat(0.1), scheduler=cluster.scheduler_address)
        next(results)
    with pytest.raises(InputError, match=r"was lost \(start it again; the same command goes on from here\)"):
        list(results)
