"""What the network computes on and in: the device, and the floating-point type of the encoder."""

from __future__ import annotations

import torch


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device that `train.device` names: "auto" is CUDA where there is one; of several GPUs, that of local_rank."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", local_rank) if name == "cuda" else torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; a CPU without them is slower in it than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Public names for this are still missing in torch.
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The type in which the encoder computes at a `train.precision`; None is float32, without autocast."""
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
