"""What a training is about to run on and how long it takes, and whether other work is in its way."""

from __future__ import annotations

import psutil
import torch

from p2m_core.config.settings import Config
from p2m_core.precision import autocast_type, choose_device, has_bf16
from p2m_workbench.provenance import processor
from p2m_workbench.training.legs import earlier_runs
from p2m_workbench.training.metrics_log import read_curves
from p2m_workbench.training.status import GIB, duration

BUSY_PERCENT = 25  # of all cores, at work for others: threads that wait for each other then lose most of their speed
LOOK_S = 0.3


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
        length if settings.minutes else f"{length}; {expected_time(config, settings.epochs * steps)}",
    ]
    if device.type == "cpu" and (busy := psutil.cpu_percent(LOOK_S)) > BUSY_PERCENT:
        lines.append(f"other work keeps {busy:.0f}% of the cores busy: training will lose more than its share of speed")
    return lines


def expected_time(config: Config, steps: int) -> str:
    """How long so many steps take, by the speed of the latest run of the same network on the same data."""
    for folder in earlier_runs(config):
        table = read_curves(folder)
        speed = table["samples_per_s"].dropna().median() if "samples_per_s" in table else float("nan")
        if speed > 0:
            time = duration(steps * config.train.batch_size / speed)
            return f"about {time} at the {speed:.1f} samples/s of {folder.name}"
    return "how long that takes is told after the first steps"


def machine(device: torch.device, threads: int = 0) -> str:
    """A device in words: its name, memory, and what it computes with."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        tf32 = "TF32 on" if torch.backends.cuda.matmul.allow_tf32 else "TF32 off"
        bf16 = "bf16" if has_bf16(device) else "no bf16"
        name = torch.cuda.get_device_name(device)
        return f"{name}, {(total - free) / GIB:.1f} of {total / GIB:.0f} GiB in use, {bf16}, {tf32}"
    free = psutil.virtual_memory().available / GIB
    count = threads or torch.get_num_threads()
    return f"{processor()}, {count} thread{'s' * (count > 1)}, {free:.1f} GiB of memory free"
