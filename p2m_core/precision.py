"""What the network computes on and in: the device, and the floating-point type of the encoder."""

from __future__ import annotations

import time
from functools import lru_cache

import torch

from p2m_core.errors import InputError

PROBE_ROUNDS = 5  # of which the shortest counts


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of a name: "auto" is CUDA where there is one; of several GPUs, "cuda" is that of local_rank. Raises
    InputError if there is no such device here."""
    name = name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=torch.device("cuda", local_rank) if name == "cuda" else name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        problem = "is no device that is here" if "Expected one of" in str(error) else str(error).split("\n")[0]
        raise InputError("device", name, problem, "use cpu, or cuda where there is a GPU") from None


def has_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; a CPU without them is slower in it than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Public names for this are still missing in torch.
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


@lru_cache
def bf16_is_faster(device: torch.device, backward: bool) -> bool:
    """Whether a convolution of the encoder's is faster in bfloat16 here and now, forward, or both ways.

    On CPUs it is measured, some 20 ms once a process: those with instructions for bfloat16 but without tiles for it
    make half as many products in it as in float32.
    """
    if device.type == "cuda" or not has_bf16(device):
        return has_bf16(device)
    images = torch.rand(4, 64, 28, 28).to(memory_format=torch.channels_last).requires_grad_(backward)
    weights = torch.rand(64, 64, 3, 3, requires_grad=backward)
    seconds = dict.fromkeys((torch.bfloat16, torch.float32), float("inf"))
    for _ in range(PROBE_ROUNDS + 1):  # the first one warms up
        for low in seconds:
            start = time.perf_counter()
            with torch.set_grad_enabled(backward), torch.autocast(device.type, low, enabled=low is torch.bfloat16):
                out = torch.nn.functional.conv2d(images, weights, padding=1)
                if backward:
                    out.sum().backward()
            seconds[low] = min(seconds[low], time.perf_counter() - start)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def autocast_type(precision: str, device: torch.device, backward: bool = False) -> torch.dtype | None:
    """The type in which the encoder computes at a `train.precision`; None is float32, without autocast.

    Args: backward: whether gradients are wanted, too, in which the faster type may be another one.
    """
    if precision == "auto":
        precision = "bf16" if bf16_is_faster(device, backward) else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
