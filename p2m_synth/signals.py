"""Signals that stop work in an orderly way.

In a training (`StopSignals`) the current step is finished and a checkpoint is written first:

SIGINT             Ctrl-C, or a notebook's stop button: then KeyboardInterrupt; at once if sent twice
SIGTERM, SIGUSR1   a cluster takes its machine back: then Preempted, by which `p2m train` exits with status 75

In all other work (`stop_on_sigterm`) SIGTERM does what Ctrl-C does.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from p2m_core.errors import Preempted

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
PARENT = "P2M_PARENT"  # environment variable, see stop_with_parent
POLL_S = 1.0


class Stopped(KeyboardInterrupt):
    """A training was asked to stop, and did after a checkpoint: the same command goes on."""


class StopSignals:
    """While this context is open, a signal of SIGNALS only sets `received`. Without effect outside the main thread.

    Args: patient: ignore a second SIGINT. Ctrl-C in a terminal reaches a process twice where its launcher, which the
          terminal signals as well, passes the signal on.
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self.received: int | None = None
        self.before: dict[int, Any] = {}

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
        """Raise KeyboardInterrupt after SIGINT, else Preempted with a message that names `what` was stopped."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        name = signal.Signals(self.received).name if self.received else "another process's signal"
        raise Preempted(f"{what}: stopped by {name} after a checkpoint; the same command goes on from there")


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt as Ctrl-C does. Without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _interrupt)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # an ignored SIGINT stays ignored
        before[signal.SIGINT] = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _interrupts.clear()


_interrupts: set[int] = set()  # not a threading.Event: a second signal would wait for its lock for ever


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupts.add(number)
    raise KeyboardInterrupt


def raise_interrupt() -> None:
    """Raise KeyboardInterrupt if `stop_on_sigterm` raised one that was lost.

    NumPy loses it where it makes a str of an array's item: https://github.com/numpy/numpy/issues/20596.
    """
    if _interrupts:
        raise KeyboardInterrupt


def stop_with_parent() -> None:
    """Send SIGTERM to this process when its parent ends, if the parent asked for it with $P2M_PARENT=<its own id>.

    A sweep that is killed cannot stop its runs; so they watch it. The variable is removed: children do not inherit it.
    """
    parent = os.environ.pop(PARENT, None)

    def watch() -> None:
        while str(os.getppid()) == parent:
            time.sleep(POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent:
        threading.Thread(target=watch, daemon=True).start()
