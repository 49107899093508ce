"""Run many independent jobs: `map_jobs`. Synthesis, preprocessing, prediction and sweeps all use it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

from tqdm.auto import tqdm

from p2m_core.errors import InputError
from p2m_synth.signals import raise_interrupt

JOBS_AHEAD = 4  # jobs submitted per worker: enough to keep it busy, few enough that a million jobs need no memory
CONNECT_S = 5
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # environment variables of linear algebra
_log = logging.getLogger(__name__)


def map_jobs(
    function: Callable[[Any], Any],
    jobs: Iterable[Any],
    workers: int = 1,
    title: str = "",
    total: int | None = None,
    scheduler: str | None = None,
    threads: bool = False,
) -> Iterator[Any]:
    """Yield function(job) for every job, in the order in which the jobs finish, with a progress bar.

    The jobs run in this process for one worker, else in worker processes with one thread of linear algebra each.
    `jobs` may be endless: it is read only JOBS_AHEAD jobs a worker ahead of the results.

    Args:    function: of module level, since processes need to pickle it. An exception that it raises ends the run.
             workers: number of processes.   title: of the progress bar.   total: number of jobs where `jobs` has no
             length.   scheduler: "tcp://host:port" of a Dask scheduler, whose workers then run the jobs.
             threads: use threads of this process as workers, for jobs that only wait for other processes.
    Raises:  InputError if the scheduler does not answer or its connection is lost.
    """
    if total is None and isinstance(jobs, Sized):
        total = len(jobs)
    results: Generator[Any]
    if scheduler:
        results = _on_cluster(function, jobs, scheduler)
    elif threads:
        results = _in_threads(function, jobs, workers)
    elif workers > 1:
        results = _in_processes(function, jobs, workers)
    else:
        results = (function(job) for job in jobs)
    with tqdm(total=total, desc=title, smoothing=0.05, dynamic_ncols=True) as bar, closing(results):
        for result in results:
            raise_interrupt()
            yield result
            bar.update()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let processes started in this context use one thread for linear algebra: one worker a core needs no more."""
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


def _in_threads(function: Callable[[Any], Any], jobs: Iterable[Any], workers: int) -> Generator[Any]:
    with ThreadPoolExecutor(workers) as pool:
        yield from _submit_ahead(pool, function, jobs, lambda: workers)


def _in_processes(function: Callable[[Any], Any], jobs: Iterable[Any], workers: int) -> Generator[Any]:
    # Spawned, not forked: the threads of torch and numba do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with one_thread_each(), ProcessPoolExecutor(workers, context, _exit_with_parent) as pool:
        yield from _submit_ahead(pool, function, jobs, lambda: JOBS_AHEAD * workers)


def _exit_with_parent() -> None:
    """Start a thread that ends this worker when its parent was killed; it would wait for the next job for ever."""

    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_cluster(function: Callable[[Any], Any], jobs: Iterable[Any], scheduler: str) -> Generator[Any]:
    try:
        from distributed import Client
    except ImportError:
        remedy = "pip install -e .[cluster]"
        raise InputError("--scheduler", scheduler, "needs the package distributed", remedy) from None
    logging.getLogger("distributed").setLevel(logging.WARNING)  # it logs every connection
    try:
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        problem, remedy = f"no Dask scheduler answers: {error}", "start one with `dask scheduler`, or work without"
        raise InputError("--scheduler", scheduler, problem, remedy) from None
    lost = InputError("--scheduler", scheduler, "was lost", "start it again; the same command goes on from here")

    def limit() -> int:  # workers may join and leave
        try:
            return JOBS_AHEAD * max(2, sum(client.nthreads().values()))
        except OSError as error:
            raise lost from error

    with client:
        if not client.nthreads():
            _log.warning("%s has no workers yet: start some with `dask worker %s --nthreads 1`", scheduler, scheduler)
        try:
            yield from _submit_ahead(client.get_executor(pure=False), function, jobs, limit)
        except CancelledError as error:
            raise lost from error


def _submit_ahead(
    pool: Executor, function: Callable[[Any], Any], jobs: Iterable[Any], limit: Callable[[], int]
) -> Iterator[Any]:
    """Yield the results of the jobs while at most limit() of them are submitted to the pool and unfinished."""
    queue = iter(jobs)
    running: set[Future[Any]] = set()
    try:
        while True:
            running |= {pool.submit(function, job) for job in islice(queue, max(0, limit() - len(running)))}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        for future in running:
            future.cancel()
