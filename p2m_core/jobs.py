"""One way to run many independent jobs: synthesis, preprocessing and sweeps all use it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import Any

from tqdm.auto import tqdm


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started inside use one thread for linear algebra: with one worker a core, more only get in the way."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def map_jobs(
    function: Callable[[Any], Any], jobs: Iterable[Any], workers: int = 1, title: str = "", total: int | None = None
) -> Iterator[Any]:
    """Results of function(job), in the order in which they finish, with a progress bar and ETA.

    Args:    function: a module-level function; what it raises ends the run.   workers: 1 runs in this
             process.   title: of the progress bar.   total: number of jobs where `jobs` has no length.
    """
    if total is None and hasattr(jobs, "__len__"):
        total = len(jobs)
    with tqdm(total=total, desc=title, smoothing=0.05, dynamic_ncols=True) as bar:
        if workers <= 1:
            for job in jobs:
                yield function(job)
                bar.update()
            return
        # Spawned, not forked: torch's and numba's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with one_thread_each(), ProcessPoolExecutor(workers, mp_context=context) as pool:
            queue = iter(jobs)
            running = {pool.submit(function, job) for job in islice(queue, 4 * workers)}
            try:
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    running |= {pool.submit(function, job) for job in islice(queue, len(done))}
                    for future in done:
                        yield future.result()
                        bar.update()
            finally:
                for future in running:
                    future.cancel()
