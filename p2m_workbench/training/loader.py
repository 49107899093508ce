"""Batches for the training: the sampler, the transfer to the device, and signals in data workers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

import cv2
import numpy as np
import torch
from torch.utils.data import Sampler

from p2m_synth.signals import SIGNALS


class EpochSampler(Sampler):
    """Endless (epoch, position) pairs: each epoch is a new permutation, seeded by seed and epoch, cut to whole steps.

    It begins in `epoch`, after its first `skip` pairs. Every `batch` pairs are divided among `world` processes, so that
    a step has the same samples whatever their number.
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
    """A batch on the device, with images in [0, 1]; they travel as bytes, a quarter of the size of floats."""
    batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    if batch["image"].dtype == torch.uint8:
        batch["image"] = batch["image"].float() / 255
    return batch


def split_batch(batch: dict[str, torch.Tensor], parts: int) -> list[dict[str, torch.Tensor]]:
    """A batch in equal parts."""
    chunks = {name: tensor.chunk(parts) for name, tensor in batch.items()}
    return [{name: chunk[k] for name, chunk in chunks.items()} for k in range(parts)]


@contextmanager
def block_signals() -> Iterator[None]:
    """Block SIGNALS in data workers that are started inside, until `worker_init` has set their handlers.

    Signals go to all processes of a terminal or a job. A worker that dies while it starts would leave the parent
    waiting for ever on the pipe between them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # started together with the first worker, it would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def worker_init(_: int) -> None:
    """Set up a data worker: one thread, and signals are left to the parent, which ends its workers by SIGTERM."""
    for number in set(SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        while waiting := signal.sigpending() & set(SIGNALS):  # sent to all, meant for the parent
            signal.sigwait(waiting)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
