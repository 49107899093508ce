"""How long does a first mesh take from nothing, in times of `import torch`?

    python benchmarks/cold_start.py [--rounds 7] [--tiny]

`python -c "import torch"` (the baseline), the import of `predict`, and the whole command `p2m predict`, from the start
of a process to all files of a photo, in turn. Processor time tells more than wall time where other work runs beside.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

BASELINE = "import torch"


def seconds(*arguments: str) -> tuple[float, float]:
    """Wall and user processor time of one Python process."""
    before, start = os.times().children_user, time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start, os.times().children_user - before


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--tiny", action="store_true", help="one round, for the tests")
    given = options.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as out:
        commands = {
            BASELINE: ("-c", BASELINE),
            "from p2m_workbench import predict": ("-c", "from p2m_workbench import predict"),
            "p2m predict, all files": ("-m", "p2m_workbench", "predict", "grace_hopper", "--out", out),
        }
        for command in commands.values():
            seconds(*command)  # files into memory, kernels into numba's cache
        rounds = [
            {name: seconds(*command) for name, command in commands.items()}
            for _ in range(1 if given.tiny else given.rounds)
        ]
    for name in commands:
        wall, user = (statistics.median(one[name][k] for one in rounds) for k in (0, 1))
        ratios = (statistics.median(one[name][k] / one[BASELINE][k] for one in rounds) for k in (0, 1))
        print("{}: {:.2f} s, user {:.2f} s; {:.2f} and {:.2f} times `{}`".format(name, wall, user, *ratios, BASELINE))


if __name__ == "__main__":
    main()
