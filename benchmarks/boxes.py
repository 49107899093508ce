"""What do found, wrong and turned boxes cost, and are pictures without a face left empty?

    python benchmarks/boxes.py [--folder FOLDER] [--count 300] [--without FOLDER] [--tiny]

FOLDER is in AFLW2000-3D's format; without it, synthetic faces of a seed of their own are made in data/raw/bench.
--without: a folder of pictures without faces, beside synthetic backgrounds.

Prints nme68-2d in percent with the bundled weights and flip averaging: with the true boxes (the baseline of the
ratios), by yaw bin; with faces found in the whole photo, how many of them are on the labelled face, how many elsewhere
(error above 20); with true boxes moved or scaled, in one pass and in two; with the photos turned in their plane by 0,
15, ... 345 degrees; then how many faces are found in pictures without one, and the area under the ROC curve of the
doubt, found faces against crops without one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from p2m_core.config.paths import resolve
from p2m_core.config.settings import SynthConfig
from p2m_core.data.aflw2000 import Sample, find_samples, read_image, read_sample
from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import apply_affine, box_of
from p2m_core.metrics import nme68_2d, yaw_bins
from p2m_synth.render.background import draw_background
from p2m_synth.render.light import PLACES
from p2m_synth.writer import write_dataset
from p2m_workbench.photos.predict import MAX_FLIP_DISAGREEMENT, predict
from p2m_workbench.photos.read import IMAGE_SUFFIXES

ELSEWHERE = 20  # nme68-2d in percent above which a mesh is not on the labelled face


def moved(box: np.ndarray, rng: np.random.Generator, shift: float, scale: float) -> np.ndarray:
    """A box whose centre is moved by `shift` of its longer side in a random direction, and that is (1 + scale) or
    1 / (1 + scale) times as large."""
    half, angle = (box[2:] - box[:2]) / 2, rng.uniform(0, 2 * np.pi)
    centre = (box[2:] + box[:2]) / 2 + 2 * half.max() * shift * np.array([np.cos(angle), np.sin(angle)])
    half = half * (1 + scale) ** rng.choice([-1, 1])
    return np.concatenate([centre - half, centre + half])


def turned(image: np.ndarray, landmarks: np.ndarray, angle_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """A photo turned about its centre on a square that holds it, and its landmarks there."""
    height, width = image.shape[:2]
    side = int(np.ceil(np.hypot(height, width)))
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle_deg, 1)
    matrix[:, 2] += (side - np.array([width, height])) / 2
    return cv2.warpAffine(image, matrix, (side, side), borderValue=(90, 90, 90)), apply_affine(matrix, landmarks)


def nearest(meshes: list[FaceMesh], truth: np.ndarray) -> tuple[float, FaceMesh | None]:
    """nme68-2d of the mesh that is nearest to the true landmarks (68, 3), and the mesh."""
    errors = [nme68_2d(mesh.landmarks_px[None], truth[None])[0] for mesh in meshes]
    return min(zip(errors, meshes, strict=True), default=(np.inf, None), key=lambda pair: pair[0])


def measure(samples: list[Sample], boxes: list[np.ndarray] | None, passes: int = 2) -> tuple[np.ndarray, list]:
    """nme68-2d of each sample (N,), inf where nothing is found, and its mesh."""
    pairs = []
    for k, sample in enumerate(samples):
        meshes = predict(read_image(sample.image_path), None if boxes is None else [boxes[k]], passes=passes)
        pairs.append(nearest(meshes, sample.landmarks_px))
    return np.array([error for error, _ in pairs]), [mesh for _, mesh in pairs]


def pictures_without(rng: np.random.Generator, count: int, folder: Path | None) -> list[np.ndarray]:
    """Pictures without a face: synthetic backgrounds, and those of a folder."""
    pictures = [np.uint8(255 * draw_background(rng, 224, rng.choice(list(PLACES))).clip(0, 1)) for _ in range(count)]
    if folder is not None:
        pictures += [read_image(p) for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
    return pictures


def area_under_roc(low: np.ndarray, high: np.ndarray) -> float:
    """The share of pairs in which the value of `high` is the higher one."""
    return float((high[:, None] > low).mean() + 0.5 * (high[:, None] == low).mean())


def line(name: str, errors: np.ndarray, yaw: np.ndarray, baseline: np.ndarray) -> None:
    """Print a row: bins, balanced, plain, and the ratio of balanced to that of the baseline's same samples."""
    bins, base = yaw_bins(errors, yaw), yaw_bins(baseline, yaw)
    values = ", ".join(
        f"{key} {bins[key]:.2f}" for key in ("0-30", "30-60", "60-90", "balanced", "plain") if key in bins
    )
    print(f"{name:34} {values}; {bins['balanced'] / base['balanced']:.3f} times the baseline", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder")
    options.add_argument("--count", type=int, default=300)
    options.add_argument("--moved", type=int, default=100, help="photos of the moved boxes")
    options.add_argument("--turned", type=int, default=40, help="photos that are turned")
    options.add_argument("--without", type=Path)
    options.add_argument("--tiny", action="store_true", help="2 photos, for the tests")
    args = options.parse_args()
    count = 2 if args.tiny else args.count
    own = SynthConfig(out="data/raw/bench", count=count, seed=7, yaw="between", workers=1)
    folder = resolve(args.folder) if args.folder else write_dataset(own)
    samples, rng = [], np.random.default_rng(0)
    for path in find_samples(folder)[:count]:
        try:
            samples.append(read_sample(path))
        except InputError as error:
            print(f"skipped: {error}")
    yaw = np.degrees([sample.pose_para[1] for sample in samples])
    truth = [box_of(sample.landmarks_px) for sample in samples]
    print(f"{len(samples)} photos of {folder.name}, nme68-2d in percent")
    one, _ = measure(samples, truth, 1)
    line("true boxes, one pass", one, yaw, one)
    line("true boxes, two passes", measure(samples, truth)[0], yaw, one)
    errors, meshes = measure(samples, None)
    there, empty = errors <= ELSEWHERE, np.isinf(errors)
    print(
        f"found: {there.sum()} of {len(samples)} on the face, {(~there & ~empty).sum()} elsewhere, {empty.sum()} none"
    )
    line("found", errors[there], yaw[there], one[there])
    if (~empty).any():
        line("found, the strays counted too", errors[~empty], yaw[~empty], one[~empty])
    part = slice(2 if args.tiny else args.moved)
    for shift, scale in ((0.1, 0.0), (0.2, 0.0), (0.0, 0.15), (0.0, 0.3), (0.15, 0.25)):
        boxes = [moved(box, rng, shift, scale) for box in truth[part]]
        first, second = (measure(samples[part], boxes, passes)[0].mean() for passes in (1, 2))
        name = f"moved by {100 * shift:.0f}%, scaled by {100 * scale:.0f}%"
        print(f"{name:34} one pass {first:5.2f}, two {second:5.2f}; {second / one[part].mean():.3f} times", flush=True)
    every = samples[:: max(1, len(samples) // (1 if args.tiny else args.turned))][: 1 if args.tiny else args.turned]
    upright = None
    for angle in range(0, 360, 180 if args.tiny else 15):
        around = []
        for sample in every:
            image, landmarks = turned(read_image(sample.image_path), sample.landmarks_px, angle)
            around.append(nearest(predict(image), landmarks)[0])
        around = np.minimum(around, 100)  # a lost face
        upright = upright or around.mean()
        lost = (around > ELSEWHERE).sum()
        print(
            f"turned by {angle:3} degrees: {around.mean():5.2f}, {around.mean() / upright:.3f} times; {lost} lost",
            flush=True,
        )
    pictures = pictures_without(rng, 2 if args.tiny else 60, args.without)
    wrong = sum(len(predict(picture)) for picture in pictures)
    print(f"{wrong} faces found in {len(pictures)} pictures without one")
    doubts = []
    for picture in pictures:
        side = rng.uniform(0.3, 0.7) * min(picture.shape[:2])
        corner = rng.uniform(0, 1, 2) * (np.array(picture.shape[1::-1]) - side)
        doubts.append(predict(picture, [np.concatenate([corner, corner + side])])[0].doubt)
    faces, without = np.array([mesh.doubt for mesh in meshes if mesh is not None]), np.array(doubts)
    rates = [100 * np.mean(doubt > MAX_FLIP_DISAGREEMENT) for doubt in (faces, without)]
    print(f"doubt: area under ROC {area_under_roc(faces, without):.4f}; above {MAX_FLIP_DISAGREEMENT}: "
          f"{rates[0]:.1f}% of faces, {rates[1]:.1f}% of crops without")  # fmt: skip


if __name__ == "__main__":
    main()
