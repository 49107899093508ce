"""Signals that end work in good order. In a training the step in hand is finished, a checkpoint is written:

SIGINT             Ctrl-C, or a notebook's stop button: KeyboardInterrupt after the checkpoint; at once if sent twice
SIGTERM, SIGUSR1   a cluster takes its machine back: Preempted after the checkpoint, by which `p2m train` exits with 75

In all other work SIGTERM does what Ctrl-C does.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from p2m_core.errors import Preempted

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopSignals:
    """While this context is open, a signal of SIGNALS only sets `received`. Without effect outside the main thread.

    Args: patient: take a second SIGINT for the first one's echo: from a terminal it comes from launcher and user.
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient, self.received = patient, None
        self.before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def receive(self, number: int, _: FrameType | None = None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT and not self.patient:
            raise KeyboardInterrupt
        self.received = number

    def raise_received(self, what: str) -> None:
        """Raise what the signal means: KeyboardInterrupt, or Preempted with a line on `what` was stopped."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        name = signal.Signals(self.received).name if self.received else "another process's signal"
        raise Preempted(f"{what}: stopped by {name} after a checkpoint; the same command goes on from there")


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises KeyboardInterrupt as Ctrl-C does; in another thread than the main one nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _interrupt)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # what is ignored stays so
        before[signal.SIGINT] = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _interrupts.clear()


_interrupts: set[int] = set()  # not an Event: its lock would hold up a second signal for ever


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupts.add(number)
    raise KeyboardInterrupt


def raise_interrupt() -> None:
    """Raise the KeyboardInterrupt of a signal once more.

    One is lost where NumPy makes a str of an array's item: https://github.com/numpy/numpy/issues/20596.
    """
    if _interrupts:
        raise KeyboardInterrupt
