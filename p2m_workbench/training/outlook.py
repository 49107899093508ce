"""What a training is about to run on and how long it takes, and whether other work is in its way."""

from __future__ import annotations

import psutil
import torch

from p2m_core.config.settings import Config
from p2m_core.precision import autocast_type, choose_device
from p2m_workbench.provenance import processor

BUSY_PERCENT = 25  # of all cores, at work for others: threads that wait for each other then lose most of their speed
LOOK_S = 0.3
GIB = 2**30


def outlook(config: Config, samples: int) -> list[str]:
    """Lines to read before a training starts.

    Args:    samples: number of training samples.
    Returns: device, number format, memory; batch and data processes; length; and a warning where the cores are busy.
    Raises:  InputError if there is no such device.
    """
    settings, device = config.train, choose_device(config.train.device)
    low = autocast_type(settings.precision, device, backward=True)
    numbers = str(low or torch.float32).removeprefix("torch.")
    why = ", measured to be the faster here" if settings.precision == "auto" and device.type == "cpu" else ""
    parts = settings.processes * settings.accumulate
    steps = samples // settings.batch_size
    length = (
        f"ends after {settings.minutes:g} minutes; an epoch has {steps} steps"
        if settings.minutes
        else f"{settings.epochs} epochs of {steps} steps: {settings.epochs * steps} steps"
    )
    lines = [
        f"on {machine(device, settings.threads)}",
        f"encoder and graph layers in {numbers}{why}",
        f"{settings.batch_size} samples a step{f' in {parts} parts' if parts > 1 else ''}, "
        f"loaded by {settings.workers or 'no'} further process{'es' * (settings.workers > 1)}",
        f"{length}; how long that takes is on the bar after the first steps",
    ]
    if device.type == "cpu" and (busy := psutil.cpu_percent(LOOK_S)) > BUSY_PERCENT:
        lines.append(f"other work keeps {busy:.0f}% of the cores busy: training will lose more than its share of speed")
    return lines


def machine(device: torch.device, threads: int = 0) -> str:
    """A device in words: its name, memory, and what it computes with."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        tf32 = "TF32" if torch.backends.cuda.matmul.allow_tf32 else "no TF32"
        name = torch.cuda.get_device_name(device)
        return f"{name}, {(total - free) / GIB:.1f} of {total / GIB:.0f} GiB in use, {tf32}"
    free = psutil.virtual_memory().available / GIB
    return f"{processor()}, {threads or torch.get_num_threads()} threads, {free:.1f} GiB of memory free"
