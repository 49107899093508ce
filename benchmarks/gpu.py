"""How fast is the search for nearest neighbours on this GPU?

    python benchmarks/gpu.py [--tiny]

Writes benchmarks/gpu.json and prints it: milliseconds of `nearest` forward, and forward and backward, by each back end
that runs on CUDA, as ratios to the torch twin; the device and the versions. Without a CUDA device it says so and ends.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from p2m_core.chamfer import nearest

OUT = Path(__file__).with_name("gpu.json")
SIZES = [(32, 141, 18000), (32, 1824, 18000), (8, 7008, 20000), (1, 53000, 53000)]  # clouds, points of each
BACKENDS = ("torch", "kdtree", *(["triton"] if find_spec("triton") else []))  # the first is the baseline


def median_ms(function: Callable[[], object], rounds: int) -> float:
    """Median time of a call on the device, after two to compile and warm up."""
    function(), function()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[rounds // 2]


def time_back_end(backend: str, batch: int, n: int, m: int, rounds: int) -> dict[str, float]:
    """Milliseconds and peak MB, the clouds aside."""
    generator = torch.Generator("cuda").manual_seed(0)
    a, b = (torch.randn(batch, k, 3, device="cuda", generator=generator).requires_grad_() for k in (n, m))

    def both() -> None:
        d_ab, d_ba, _, _ = nearest(a, b, backend=backend)
        torch.autograd.grad(d_ab.mean() + d_ba.mean(), (a, b))

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    forward, whole = (median_ms(function, rounds) for function in (lambda: nearest(a, b, backend=backend), both))
    peak = (torch.cuda.max_memory_allocated() - before) / 1e6
    return {"forward_ms": forward, "forward_backward_ms": whole, "peak_mb": peak}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiny", action="store_true", help="small clouds, nothing written")
    tiny = options.parse_args().tiny
    if not torch.cuda.is_available():
        print("no CUDA device here: no times taken")
        return
    versions = {name: version(name) for name in ("torch", "triton") if find_spec(name)}
    versions["python"] = platform.python_version()
    result = {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "versions": versions, "rows": []}
    print(result["device"], versions)
    for batch, n, m in [(2, 30, 40)] if tiny else SIZES:
        rows = {name: time_back_end(name, batch, n, m, 1 if tiny else 20) for name in BACKENDS}
        for name, row in rows.items():
            row["times_the_torch_twin"] = row["forward_backward_ms"] / rows[BACKENDS[0]]["forward_backward_ms"]
            result["rows"].append({"clouds": batch, "n": n, "m": m, "backend": name} | row)
            print(f"{batch} x {n} x {m} {name}: " + ", ".join(f"{value:.3g} {key}" for key, value in row.items()))
    if not tiny:
        OUT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
