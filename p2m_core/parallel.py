"""One way to run many independent jobs: synthesis, preprocessing and sweeps all use it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from itertools import islice
from typing import Any

from tqdm.auto import tqdm

from p2m_core.errors import InputError
from p2m_core.signals import raise_interrupt

JOBS_AHEAD = 4  # a worker: enough to keep it busy, and few, so that a million jobs need no memory
CONNECT_S = 5
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # what linear algebra heeds
log = logging.getLogger(__name__)


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started inside use one thread for linear algebra: with one worker a core, more only get in the way."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def map_jobs(
    function: Callable[[Any], Any],
    jobs: Iterable[Any],
    workers: int = 1,
    title: str = "",
    total: int | None = None,
    scheduler: str | None = None,
) -> Iterator[Any]:
    """Results of function(job), in the order in which they finish, with a progress bar and ETA.

    `jobs` may be endless: it is read only a few jobs a worker ahead of the results.

    Args:    function: a module-level function; what it raises ends the run.   workers: 1 runs in this
             process.   title: of the progress bar.   total: number of jobs where `jobs` has no length.
             scheduler: "tcp://host:port" of a Dask scheduler, whose workers run the jobs in place of processes here;
             "local" for Dask's LocalCluster, "slurm" for dask-jobqueue's SLURMCluster, each of so many workers.
    Raises:  InputError if no scheduler answers there, or if it is lost.
    """
    if total is None and hasattr(jobs, "__len__"):
        total = len(jobs)
    if scheduler:
        results = _on_cluster(function, jobs, scheduler, workers)
    elif workers > 1:
        results = _in_processes(function, jobs, workers)
    else:
        results = (function(job) for job in jobs)
    with tqdm(total=total, desc=title, smoothing=0.05, dynamic_ncols=True) as bar, closing(results):
        for result in results:
            raise_interrupt()
            yield result
            bar.update()


def _in_processes(function: Callable[[Any], Any], jobs: Iterable[Any], workers: int) -> Iterator[Any]:
    # Spawned, not forked: torch's and numba's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with one_thread_each(), ProcessPoolExecutor(workers, context, _end_with_parent) as pool:
        yield from _windowed(pool, function, jobs, lambda: JOBS_AHEAD * workers)


def _end_with_parent() -> None:
    """End this worker when its parent was killed: it would wait for its next job for ever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_cluster(function: Callable[[Any], Any], jobs: Iterable[Any], scheduler: str, workers: int) -> Iterator[Any]:
    try:
        from distributed import Client

        logging.getLogger("distributed").setLevel(logging.WARNING)  # it tells of every connection
        cluster = _start_cluster(scheduler, workers)
    except ImportError as error:
        package = "dask-jobqueue" if error.name == "dask_jobqueue" else "distributed"
        remedy = "pip install dask-jobqueue" if package == "dask-jobqueue" else "pip install -e .[cluster]"
        raise InputError("--scheduler", scheduler, f"needs the package {package}", remedy) from None
    with cluster:
        try:
            client = Client(getattr(cluster, "scheduler_address", scheduler), timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            problem, remedy = f"no Dask scheduler answers: {error}", "start one with `dask scheduler`, or work without"
            raise InputError("--scheduler", scheduler, problem, remedy) from None
        yield from _with_client(client, function, jobs, scheduler)


def _start_cluster(scheduler: str, workers: int) -> AbstractContextManager:
    """The cluster that "local" and "slurm" mean; nothing for an address."""
    if scheduler == "local":
        from distributed import LocalCluster

        return LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0")
    if scheduler == "slurm":
        from dask_jobqueue import SLURMCluster

        cluster = SLURMCluster()  # queue, cores, memory: in ~/.config/dask/jobqueue.yaml
        cluster.scale(jobs=workers)
        return cluster
    return nullcontext()


def _with_client(client: Any, function: Callable[[Any], Any], jobs: Iterable[Any], scheduler: str) -> Iterator[Any]:
    lost = InputError("--scheduler", scheduler, "was lost", "start it again; the same command goes on from here")

    def window() -> int:  # workers may come and go
        try:
            return JOBS_AHEAD * max(2, sum(client.nthreads().values()))
        except OSError as error:
            raise lost from error

    with client:
        if not client.nthreads():
            log.warning("%s has no workers yet: start some with `dask worker %s --nthreads 1`", scheduler, scheduler)
        try:
            yield from _windowed(client.get_executor(pure=False), function, jobs, window)
        except CancelledError as error:
            raise lost from error


def _windowed(
    pool: Executor, function: Callable[[Any], Any], jobs: Iterable[Any], window: Callable[[], int]
) -> Iterator[Any]:
    """Results of the jobs, of which no more than window() are in the pool's hands."""
    queue, running = iter(jobs), set()
    try:
        while True:
            running |= {pool.submit(function, job) for job in islice(queue, max(0, window() - len(running)))}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        for future in running:
            future.cancel()
