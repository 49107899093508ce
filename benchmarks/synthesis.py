"""What does a synthetic face cost, and where?

    python benchmarks/synthesis.py [--count 300] [--tiny]

Prints the milliseconds of each stage of a picture, on one core; images/s of `p2m synth` with a worker a core at several
sizes, and at 224 px without cast shadows as the baseline; images/s of the first and of the last third of a set, and
the time that a finished set takes; memory of a worker; MB per 1000 images; seconds to build the face model; size of
what is committed. Nothing else should run.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numba
import numpy as np

from p2m_core.config.settings import SynthConfig
from p2m_synth import writer
from p2m_synth.head.asset import ASSET_PATH
from p2m_synth.head.head_mesh import load_head_mesh
from p2m_synth.head.head_model import build_head_model
from p2m_synth.render import renderer

# Functions of a module by the stage that they belong to; one may call another of a different stage.
STAGES = {
    "person and pose": (writer, ["draw_sample"]),
    "geometry: head, dress, hair": (renderer, ["build_scene"]),
    "tracing: z-buffers, hairs, shadow maps": (renderer, ["rasterize", "draw_strands", "cast_shadows", "visibility"]),
    "shading": (renderer, ["paint_mesh", "paint_hairs", "paint_glass", "sky_share"]),
    "background": (renderer, ["draw_background", "add_companion"]),
    "camera effects": (renderer, ["take_photo"]),
    "writing": (writer, ["write_sample"]),
}


def stage_ms(size_px: int, count: int) -> dict[str, float]:
    """Milliseconds an image of each stage; what a stage calls of another counts there alone."""
    spent: dict[str, float] = defaultdict(float)
    stack: list[list[float]] = []

    def timed(stage: str, function):
        def wrapper(*args, **more):
            stack.append([0.0])
            start = time.perf_counter()
            result = function(*args, **more)
            took = time.perf_counter() - start
            spent[stage] += took - stack.pop()[0]
            if stack:
                stack[-1][0] += took
            return result

        return wrapper

    kept = [(module, name, getattr(module, name)) for module, names in STAGES.values() for name in names]
    recipe = writer.Recipe(size_px, 1)
    try:
        for stage, (module, names) in STAGES.items():
            for name in names:
                setattr(module, name, timed(stage, getattr(module, name)))
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / writer.RECIPE_FILE).touch()
            jobs = [writer.Job(Path(folder) / "00000", index, recipe) for index in range(count + 3)]
            for job in jobs[:3]:  # to warm up
                writer.write_one(job)
            spent.clear()
            start = time.perf_counter()
            for job in jobs[3:]:
                writer.write_one(job)
            whole = time.perf_counter() - start
    finally:
        for module, name, function in kept:
            setattr(module, name, function)
    spent["the rest"] = whole - sum(spent.values())
    return {stage: 1000 * spent[stage] / count for stage in (*STAGES, "the rest")}


def synth(out: Path, count: int, size_px: int, seed: int = 2) -> float:
    """Images/s of `p2m synth`, the start of its workers aside: the second half of the images is timed."""
    marks = []
    real = writer.map_jobs

    def watched(*args, **more):
        for result in real(*args, **more):
            marks.append(time.perf_counter())
            yield result

    writer.map_jobs = watched
    try:
        writer.write_dataset(
            SynthConfig(out=str(out), count=count, size_px=size_px, seed=seed, yaw="between", workers=os.cpu_count())
        )
    finally:
        writer.map_jobs = real
    half = len(marks) // 2
    return (len(marks) - half) / max(marks[-1] - marks[half - 1], 1e-9)


def without_shadows(size_px: int, count: int) -> float:
    """Times as long that an image takes with cast shadows as without, in this process."""
    recipe, seconds = writer.Recipe(size_px, 1), {}
    real = renderer.cast_shadows
    for name, function in (("with", real), ("without", lambda *args: {})):
        renderer.cast_shadows = function
        start = time.perf_counter()
        for index in range(count):
            writer.take_picture(writer.draw_sample(recipe, index), recipe)
        seconds[name] = time.perf_counter() - start
    renderer.cast_shadows = real
    return seconds["with"] / seconds["without"]


def worker_mb(size_px: int, count: int) -> float:
    """Peak memory of a fresh process that makes `count` images."""
    code = (
        "import resource, sys; from p2m_synth import writer; r = writer.Recipe(int(sys.argv[1]), 1)\n"
        "for i in range(int(sys.argv[2])): writer.take_picture(writer.draw_sample(r, i), r)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(size_px), str(count)], capture_output=True, check=True)
    unit = 1 if platform.system() == "Darwin" else 1024
    return int(out.stdout) * unit / 1e6


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=300, help="images of each set")
    options.add_argument("--tiny", action="store_true", help="next to nothing, for the tests")
    given = options.parse_args()
    count = 6 if given.tiny else given.count
    sizes = (48,) if given.tiny else (224, 256, 450)
    load_head_mesh()
    print(f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}, numba {numba.__version__}")

    milliseconds = stage_ms(sizes[0], max(2, count // 5))
    for stage, value in milliseconds.items():
        print(f"{value:7.1f} ms  {stage}")
    print(f"{sum(milliseconds.values()):7.1f} ms  an image of {sizes[0]} px on one core")
    print(f"{without_shadows(sizes[0], max(2, count // 10)):.2f} times as long as without cast shadows (ratio)")

    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            out = Path(folder) / str(size)
            rate = synth(out, count if size < 400 else count // 2, size)
            print(f"{rate:.1f} images/s at {size} px with {os.cpu_count()} workers")
        out = Path(folder) / str(sizes[0])
        first, more = (synth(Path(folder) / "first", n, sizes[0], 3) for n in (count, 3 * count))
        print(f"{first / more:.2f} times the images/s for the first {count} as for the next {2 * count} (ratio)")
        start = time.perf_counter()
        again = writer.write_dataset(SynthConfig(out=str(out), count=count, size_px=sizes[0], seed=2, yaw="between"))
        print(f"{time.perf_counter() - start:.3f} s to see that a set of {count} is whole")
        sizes_mb = sum(path.stat().st_size for path in again.rglob("*") if path.is_file()) / 1e6
        print(f"{1000 * sizes_mb / count:.1f} MB per 1000 images of {sizes[0]} px")
    print(f"{worker_mb(sizes[0], max(3, count // 10)):.0f} MB peak memory of a worker")
    if not given.tiny:
        start = time.perf_counter()
        build_head_model()
        print(f"{time.perf_counter() - start:.1f} s to build the face model")
    print(f"{ASSET_PATH.stat().st_size / 1e6:.2f} MB of head asset in the repository")


if __name__ == "__main__":
    with writer.thread_pools().limit(limits=1):  # as in a worker
        main()
