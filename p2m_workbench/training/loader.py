"""Batches on their way to the network: which samples a process gets, what their workers heed, what is handed over."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

import cv2
import numpy as np
import torch
from torch.utils.data import Sampler

from p2m_core.signals import SIGNALS


class EpochSampler(Sampler):
    """(epoch, position) pairs without end: each epoch the first `whole` of a shuffle by seed and epoch.

    It begins in `epoch`, after its first `skip` pairs. Of every `batch` pairs, each of `world` processes gets a run of
    its own, so that the steps are the same whatever their number.
    """

    def __init__(
        self, count: int, whole: int, seed: int, epoch: int, skip: int, batch: int = 1, rank: int = 0, world: int = 1
    ):
        self.count, self.whole, self.seed, self.epoch, self.skip = count, whole, seed, epoch, skip
        self.batch, self.rank, self.world = batch, rank, world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, skip = self.epoch, self.skip
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.count)[: self.whole]
            own = order[skip:].reshape(-1, self.world, self.batch // self.world)[:, self.rank].ravel()
            yield from ((epoch, int(position)) for position in own)
            epoch, skip = epoch + 1, 0


def on_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """A batch as the network takes it: images that come as bytes, a quarter of the way's size, in [0, 1]."""
    batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    if batch["image"].dtype == torch.uint8:
        batch["image"] = batch["image"].float() / 255
    return batch


def split(batch: dict[str, torch.Tensor], parts: int) -> list[dict[str, torch.Tensor]]:
    """A batch in equal parts."""
    chunks = {name: tensor.chunk(parts) for name, tensor in batch.items()}
    return [{name: chunk[k] for name, chunk in chunks.items()} for k in range(parts)]


@contextmanager
def block_signals() -> Iterator[None]:
    """A data worker that is started inside hears no signal until it is up.

    Signals go to all processes of a terminal or a job. One that died on its start would leave the parent for ever in
    the middle of what it has to tell it.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # its start, which comes with a first worker's, ends in hearing signals again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def worker_init(_: int) -> None:
    """A data worker: one thread, and the parent alone answers Ctrl-C and a cluster's signals."""
    for number in set(SIGNALS) - {signal.SIGTERM}:  # by SIGTERM the parent ends its workers
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        while waiting := signal.sigpending() & set(SIGNALS):  # they were meant for the parent
            signal.sigwait(waiting)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
