"""How fast does training go, where does a step's time go, and what do two processes bring?

    python benchmarks/training.py [--configs face-lite face-full] [--count 48] [--steps 8] [--tiny]

Makes a small synthetic set and its stores in a temporary folder, and trains on them by the trainer itself. Prints, for
each config, samples/s on all cores and the shares of data (waiting for the loader), forward (with the loss), backward
and optimiser (clipping and averaging too), medians over steps; then samples/s of two gloo processes of a thread each
against one process of two, the same samples a step. Nothing else should run.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from p2m_core.config.loading import load_config
from p2m_core.config.paths import project_root
from p2m_core.config.settings import Config, SynthConfig
from p2m_synth.writer import write_dataset
from p2m_workbench.preprocessing import preprocess
from p2m_workbench.training.trainer import Trainer, train

PHASES = {"forward": "compute_loss", "backward": "backward", "optimiser": "update"}
WARM = 2


def timed(function: Callable, seconds: list[float]) -> Callable:
    """The function, that also notes how long each call takes."""

    def call(*args: object) -> object:
        start = time.perf_counter()
        result = function(*args)
        seconds.append(time.perf_counter() - start)
        return result

    return call


def measure_phases(config: Config, steps: int) -> dict[str, float]:
    """Median seconds of each phase of a step."""
    trainer, seconds = Trainer(config), {name: [] for name in ("data", *PHASES)}
    for phase, method in PHASES.items():
        setattr(trainer, method, timed(getattr(trainer, method), seconds[phase]))
    trainer.set_training()
    batches = trainer.batches()
    take = timed(lambda: next(batches), seconds["data"])
    for _ in range(WARM + steps):
        trainer.train_step(take())
    batches.close()
    return {phase: float(np.median(times[WARM:])) for phase, times in seconds.items()}


def training_rate(config: Config) -> float:
    """Median samples/s of a whole run, as its metrics.csv has them, without its first steps."""
    folder = train(config)
    return float(pd.read_csv(folder / "metrics.csv")["samples_per_s"].dropna()[WARM:].median())


def configure(name: str, raw: Path, folder: Path, *more: str) -> Config:
    """A config with its own store of the set."""
    store = (f"data.raw={raw}", f"data.store={folder / name}", "data.val_share=0.05", "data.test_share=0.05")
    fixed = ("model.pretrained=false", "train.log_steps=1", "train.epochs=1000000", "train.init_from=null")
    return load_config(name, [*store, *fixed, *more])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--configs", nargs="+", default=["face-lite", "face-full"], help="names in configs/")
    options.add_argument("--count", type=int, default=48, help="synthetic faces to make")
    options.add_argument("--steps", type=int, default=8, help="steps to measure")
    options.add_argument("--tiny", action="store_true", help="one round of next to nothing, for the tests")
    chosen = options.parse_args()
    names, count, steps = (["tiny"], 12, 1) if chosen.tiny else (chosen.configs, chosen.count, chosen.steps)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        size = 96 if chosen.tiny else 300
        raw = write_dataset(SynthConfig(out=str(folder / "raw"), count=count, size_px=size, seed=9, workers=1))
        for name in names:
            preprocess(configure(name, raw, folder))
        # From here on, also in the processes that are started: runs go to the temporary folder.
        configs = Path(project_root()) / "configs"
        os.environ["P2M_HOME"] = str(folder)
        (folder / "configs").symlink_to(configs)
        for name in names:
            config = configure(name, raw, folder)
            seconds = measure_phases(config, steps)
            whole = sum(seconds.values())
            shares = ", ".join(f"{phase} {100 * part / whole:.0f}%" for phase, part in seconds.items())
            back = seconds["backward"] / seconds["forward"]
            print(
                f"{name}: {config.train.batch_size / whole:.1f} samples/s; {shares}; backward {back:.2f} times forward"
            )
        if not chosen.tiny:
            name = names[0]
            batch = load_config(name).train.batch_size
            epochs = f"train.epochs={-(-(WARM + steps) // max(1, int(0.9 * count) // batch))}"
            same = (epochs, "train.workers=0", "train.device=cpu")
            one = training_rate(configure(name, raw, folder, *same, "name=one", "train.threads=2"))
            two = configure(name, raw, folder, *same, "name=two", "train.threads=1", "train.processes=2")
            pair = training_rate(two)
            print(f"{name}: {pair:.1f} samples/s by two processes of a thread each, {pair / one:.2f} times one of two")


if __name__ == "__main__":
    main()
