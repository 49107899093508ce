"""How fast do training samples come from the store, against the ancestors' text files?

    python benchmarks/loading.py [--count 300] [--tiny]

Makes a small synthetic set and its store in a temporary folder. Prints samples/s of the store on all cores, without and
with full augmentation, truth decoded in batches; the ratio to the baseline, which parses a text file of 45,000 lines
(x y z nx ny nz weight) for every sample; and the bytes that a sample takes. Nothing else should run.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from p2m_core.config.loading import load_config
from p2m_core.config.settings import AugmentConfig, SynthConfig
from p2m_core.data.face_store import CropDataset
from p2m_synth.writer import write_dataset
from p2m_workbench.preprocessing import preprocess
from p2m_workbench.training.loader import worker_init

LINES = 45_000
BATCH = 32


class TextSamples(Dataset):
    """The ancestors' way: a text file a sample, parsed anew each time it is asked for."""

    def __init__(self, path: Path, count: int):
        self.path, self.count = path, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        text = self.path.read_text()
        return np.array([line.split(",") for line in text.splitlines()], np.float32)


class Repeated(Dataset):
    """A small set that looks like a large one: each round is another epoch."""

    def __init__(self, data: CropDataset, rounds: int):
        self.data, self.rounds = data, rounds

    def __len__(self) -> int:
        return self.rounds * len(self.data)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.data[divmod(index, len(self.data))]


def samples_per_s(data: Dataset, workers: int, after: callable = lambda batch: None) -> float:
    """Rate over one pass, from the first batch on, so that starting the workers does not count."""
    loader = DataLoader(
        data, BATCH, num_workers=workers, worker_init_fn=worker_init if workers else None, drop_last=len(data) > BATCH
    )
    batches: Iterable = iter(loader)
    next(batches)
    start, count = time.perf_counter(), 0
    for batch in batches:
        after(batch)
        count += BATCH
    return count / (time.perf_counter() - start) if count else float("nan")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--count", type=int, default=300, help="synthetic faces to make")
    options.add_argument("--tiny", action="store_true", help="one round of next to nothing, for the tests")
    chosen = options.parse_args()
    count, rounds, workers = (8, 10, 0) if chosen.tiny else (chosen.count, 20, os.cpu_count())
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    torch.set_num_threads(1)  # two workers and this process share two cores; more threads would only spin
    with tempfile.TemporaryDirectory() as folder:
        raw = write_dataset(SynthConfig(out=f"{folder}/raw", count=count, workers=1 if chosen.tiny else workers))
        store = preprocess(load_config("face-lite", ["data.workers=1"]), raw, f"{folder}/store")
        text = Path(folder) / "image00001.txt"
        rows = np.random.default_rng(0).normal(size=(200 if chosen.tiny else LINES, 7))
        text.write_text("\n".join(",".join(f"{x:.6f}" for x in row) for row in rows))
        decode, all_rows = store.truth_decoder(), store.rows("all")
        plain, full = (
            samples_per_s(Repeated(CropDataset(store, all_rows, 112, 1.3, augment), rounds), workers, decode)
            for augment in (None, AugmentConfig())
        )
        old = samples_per_s(TextSamples(text, 2 * BATCH if chosen.tiny else 4 * BATCH), workers)
        print(f"text files of {len(rows)} lines, the baseline: {old:.0f} samples/s")
        print(f"store, without augmentation: {plain:.0f} samples/s, {plain / old:.1f} times the baseline")
        print(f"store, with full augmentation: {full:.0f} samples/s, {full / old:.1f} times the baseline")
        print(f"store: {store.manifest['bytes_per_sample']} bytes a sample")


if __name__ == "__main__":
    main()
