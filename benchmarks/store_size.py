"""How large does a store of 300W-LP become, and how long does it take to make it from the zip?

    python benchmarks/store_size.py [--count 20000] [--faces 160] [--folder DIR] [--tiny]

Renders some synthetic faces of 450 px, writes them in 300W-LP's layout into one zip, in 16 poses and mirrored, each
encoded anew, until there are so many samples; makes the store straight from the zip, our face model fitted to the
landmarks as without the Basel model; and reads it. Prints bytes a sample, the size of all 122,450, the ratio to the
limit of 33 kB and to the zip, and samples/s. With --folder it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from set_300w_lp import photo_files

from p2m_core.config.loading import load_config
from p2m_core.config.settings import SynthConfig
from p2m_core.data.aflw2000 import SUBSETS, Sample, find_samples, read_sample
from p2m_core.data.face_store import FaceStore
from p2m_core.files import atomic_path
from p2m_synth.parallel import map_jobs
from p2m_synth.writer import write_dataset
from p2m_workbench.preprocessing import preprocess

LIMIT, ALL = 33_000, 2 * sum(SUBSETS.values())


@dataclass(frozen=True)
class Photo:
    """A photo to write into a zip of its own, so that a stopped run goes on."""

    out: Path
    sample: Sample
    number: int
    poses: int


def write_photo(photo: Photo) -> Path:
    """The zip of a photo, in a worker."""
    if not photo.out.exists():
        with atomic_path(photo.out) as temporary, zipfile.ZipFile(temporary, "w") as file:
            for name, content in photo_files(photo.sample, photo.number, photo.poses).items():
                file.writestr(f"300W_LP/{name}", content)
    return photo.out


def write_zip(path: Path, samples: list[Sample], photos: int, poses: int, workers: int) -> None:
    """The set as one zip, as one has it from its page."""
    jobs = [
        Photo(path.parent / "photos" / f"{number:05d}.zip", samples[number % len(samples)], number, poses)
        for number in range(photos)
    ]
    parts = sorted(map_jobs(write_photo, jobs, workers, "photos"))
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as whole:
        for part in parts:
            with zipfile.ZipFile(part) as file:
                for name in file.namelist():
                    whole.writestr(name, file.read(name))


def report(store: FaceStore, seconds: float, zip_bytes: int) -> None:
    """Print size and speed of a store of the whole zip or of a part of it."""
    size, count = store.manifest["bytes_per_sample"], len(store)
    print(f"{count} samples of {store.size_px} px, {store.manifest['splits']}")
    print(f"  {size / 1000:.1f} kB a sample, {size / LIMIT:.2f} times the limit of {LIMIT // 1000} kB")
    whole = f"all {ALL} samples of 300W-LP: {size * ALL / 1e9:.2f} GB"
    print(f"  {whole}; {size * count / zip_bytes:.2f} times the size of its share of the zip")
    if seconds:
        print(f"  made from the zip at {count / seconds:.0f} samples/s")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--count", type=int, default=20_000, help="samples, twins included")
    options.add_argument("--faces", type=int, default=160, help="faces to render")
    options.add_argument("--folder", type=Path, help="to keep set and store in (default: a temporary one)")
    options.add_argument("--tiny", action="store_true", help="next to nothing, for the tests")
    chosen = options.parse_args()
    count, faces, side, poses = (32, 2, 96, 4) if chosen.tiny else (chosen.count, chosen.faces, 450, 16)
    workers = 1 if chosen.tiny else os.cpu_count()
    print(f"{platform.machine()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.folder or Path(temporary)).absolute()
        raw = write_dataset(SynthConfig(out=str(folder / "raw"), count=faces, size_px=side, workers=workers))
        samples, path = [read_sample(mat) for mat in find_samples(raw)], folder / "300W-LP.zip"
        if not path.exists():
            write_zip(path, samples, count // (2 * poses), poses, workers)
        for config in ("face-lite", "face-full"):
            some = [] if config == "face-lite" else ["data.subsets=[IBUG]", "data.flipped=false"]
            settings = load_config(config, [f"data.workers={workers}", "data.face_model=fit", *some])
            out, start = folder / config, time.perf_counter()
            there = (out / "manifest.json").exists() or bool(list(out.glob("parts-*")))
            store = preprocess(settings, path, out)
            part = path.stat().st_size * len(store) / count
            report(store, 0 if there else time.perf_counter() - start, part)
            assert json.loads((out / "manifest.json").read_text())["skipped"] == []


if __name__ == "__main__":
    main()
