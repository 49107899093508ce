"""What does the search for nearest neighbours cost on the CPU, and what would the Triton kernel cost on a GPU?

    python benchmarks/chamfer.py [--tiny]

Prints time, peak memory and wrong neighbours of a search both ways between a mesh's vertices and points on the same
bumpy sphere, by KD-tree (the baseline), the chunked torch twin, and what is installed of other packages (scipy, faiss,
open3d, point-cloud-utils, napf), each in a process of its own. Then, with no GPU, the machine instructions a
pair of the Triton kernel, counted in its machine code, and the time of an H100 that issues one each cycle. See gpu.py
for times on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from p2m_core.chamfer import nearest

SIZES = [(141, 18000), (492, 18000), (1824, 18000), (7008, 18000), (53000, 53000)]  # levels x points, and two scans
# H100 SXM: multiprocessors x schedulers x lanes x boost clock, one instruction a lane and cycle.
H100_PER_S = 132 * 4 * 32 * 1.755e9
BOUND_PER_PAIR = 8  # instructions: three differences, a product, two multiply-adds, and the lesser of two each way


def sphere(count: int, seed: int) -> np.ndarray:
    """Points on a bumpy unit sphere: (count, 3) float32."""
    points = np.random.default_rng(seed).normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return (points * (1 + 0.1 * np.sin(5 * points[:, :1]))).astype(np.float32)


# ---- one way, or both, by each package: (N, 3), (M, 3) -> the index in the other cloud ----------------------------


def ours(backend: str):
    def search(a, b):
        return (
            idx[0].numpy() for idx in nearest(torch.from_numpy(a)[None], torch.from_numpy(b)[None], backend=backend)[2:]
        )

    return search


def both(one_way):
    return lambda a, b: (one_way(a, b), one_way(b, a))


def scipy_way(a, b):
    from scipy.spatial import cKDTree

    return cKDTree(b).query(a, workers=-1)[1]


def faiss_way(a, b):
    import faiss

    index = faiss.IndexFlatL2(3)
    index.add(b)
    return index.search(a, 1)[1][:, 0]


def open3d_way(a, b):
    from open3d import core

    search = core.nns.NearestNeighborSearch(core.Tensor(b))
    search.knn_index()
    return search.knn_search(core.Tensor(a), 1)[0].numpy()[:, 0]


def point_cloud_utils_way(a, b):
    import point_cloud_utils

    return point_cloud_utils.k_nearest_neighbors(a, b, k=1)[1]


def napf_way(a, b):
    import napf

    return napf.KDT(b, metric=2, nthread=os.cpu_count()).knn_search(a, 1)[1][:, 0]


METHODS = {
    "kdtree": ours("kdtree"),
    "torch": ours("torch"),
    "scipy": both(scipy_way),
    "faiss": both(faiss_way),
    "open3d": both(open3d_way),
    "point_cloud_utils": both(point_cloud_utils_way),
    "napf": both(napf_way),
}


def status_mb(field: str) -> float:
    """A size in /proc/self/status, MB; not a number where there is none."""
    path = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+) kB", path.read_text()) if path.exists() else None
    return int(found[1]) / 1024 if found else float("nan")


def measure(method: str, n: int, m: int, rounds: int) -> dict[str, float]:
    """Median ms, MB at the first search's peak above what there was, and percent of the neighbours that are none."""
    a, b, search = sphere(n, 1), sphere(m, 2), METHODS[method]
    tuple(search(a[:9], b[:9]))  # imports
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, times = status_mb("VmRSS"), []
    for k in range(rounds):
        start = time.perf_counter()
        found = tuple(search(a, b))
        times.append(time.perf_counter() - start)
        if not k:
            peak = status_mb("VmHWM") - before
        if times[-1] > 1:
            break
    wrong = 0
    for x, y, idx, exact in zip((a, b), (b, a), found, METHODS["scipy"](a, b), strict=True):
        distance, least = (np.linalg.norm(x.astype(np.float64) - y[i.astype(np.int64)], axis=1) for i in (idx, exact))
        wrong += (distance > least + 1e-7).sum()
    return {"ms": 1000 * float(np.median(times[1:] or times)), "mb": peak, "wrong": 100 * wrong / (n + m)}


def compare(sizes: list[tuple[int, int]], rounds: int) -> None:
    """Print the table of the CPU's back ends and of the other packages."""
    absent = [name for name in METHODS if name not in ("kdtree", "torch") and find_spec(name) is None]
    for n, m in sizes:
        base = None
        for method in METHODS:
            if method in absent:
                continue
            command = [sys.executable, __file__, "--one", method, str(n), str(m), str(rounds)]
            run = subprocess.run(command, check=False, capture_output=True, text=True)
            if run.returncode:
                print(f"{n} x {m} {method}: fails, {run.stderr.strip().splitlines()[-1]}")
                continue
            row = json.loads(run.stdout)
            base = base or row["ms"]
            print(
                f"{n} x {m} {method}: {row['ms']:.1f} ms, {row['ms'] / base:.2f} times the KD-tree; "
                f"{row['mb']:.0f} MB; {row['wrong']:.2g}% wrong"
            )
    print(f"not installed: {', '.join(absent) or 'none'}")


# ---- the kernel's machine code ------------------------------------------------------------------------------------


def inner_loop(assembly: str) -> Counter[str]:
    """The instructions by name of the loop that has the most of them."""
    code, labels, loops = [], {}, []
    for line in assembly.splitlines():
        if label := re.match(r"\s*(\.L\w+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?(\S+)(.*);", line):
            code.append(instruction[1])
            target = re.search(r"`\((\.L\w+)\)", instruction[2])
            if code[-1].startswith("BRA") and target and target[1] in labels:  # a branch back
                loops.append(Counter(code[labels[target[1]] :]))
    return max((loop for loop in loops if loop.total() > 1), key=Counter.total)


def compile_for(kernel: ModuleType, capability: int, dtype: torch.dtype = torch.float32) -> bytes:
    """The machine code of `p2m_core.chamfer.triton_kernel` for an architecture (80, 90, 100); needs no GPU."""
    import triton

    real, bits = {torch.float32: ("*fp32", "*i32"), torch.float64: ("*fp64", "*i64")}[dtype]
    pointers = {"a": real, "b": real, "low_a": real, "group_a": "*i32", "low_b": bits}
    numbers = dict.fromkeys(("batch", "padded_a", "padded_b", "size"), "i32")
    fixed = {"BLOCK": kernel.BLOCK, "GROUP": kernel.GROUP}
    signature = pointers | numbers | dict.fromkeys(fixed, "constexpr")
    source = triton.compiler.ASTSource(kernel.least_kernel, signature, fixed)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": 1}).asm["cubin"]


def kernel_cost(capability: int) -> float:
    """Print registers, spills, shared memory and instructions a pair of an architecture; return the last."""
    import triton

    from p2m_core.chamfer import triton_kernel

    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compile_for(triton_kernel, capability))
        usage, assembly = (
            subprocess.run([tools / tool, option, path], capture_output=True, text=True, check=True).stdout
            for tool, option in (("cuobjdump", "--dump-resource-usage"), ("nvdisasm", "-c"))
        )
    used = dict(re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", usage))
    loop = inner_loop(assembly)
    pairs = loop["FFMA"] / 2 + loop["FFMA2"]  # two multiply-adds end a squared distance; FFMA2 is two of them
    print(
        f"sm_{capability}: {used['REG']} registers, {used['STACK']} bytes of stack (spills), {used['SHARED']} of "
        f"shared memory; {loop.total()} instructions for {pairs:.0f} pairs both ways, {loop.total() / pairs:.2f} a pair"
    )
    return loop.total() / pairs


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiny", action="store_true", help="one small size, for the tests")
    options.add_argument("--one", nargs=4, metavar=("METHOD", "N", "M", "ROUNDS"), help="what each process does")
    given = options.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], *map(int, given.one[1:]))))
        return
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, numpy {np.__version__}")
    compare([(20, 30)] if given.tiny else SIZES, 2 if given.tiny else 8)
    if find_spec("triton") is None:
        print("Triton is not installed: no kernel to look at")
        return
    per_pair = {capability: kernel_cost(capability) for capability in (80, 90, 100)}
    pairs = 8 * 7008 * 20000
    ours_ms, bound_ms = (1000 * count * pairs / H100_PER_S for count in (per_pair[90], BOUND_PER_PAIR))
    print(
        f"8 x 7008 x 20000 both ways on an H100 at 1.755 GHz, if it issues every cycle: {ours_ms:.2f} ms, "
        f"{ours_ms / bound_ms:.2f} times the bound of one pass ({BOUND_PER_PAIR} a pair, {bound_ms:.2f} ms)"
    )


if __name__ == "__main__":
    main()
