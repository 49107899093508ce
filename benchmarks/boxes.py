"""What does a wrong box cost, what does the second pass mend, and does the doubt tell faces from none?

    python benchmarks/boxes.py [--folder FOLDER] [--count 300] [--without FOLDER] [--tiny]

FOLDER is in AFLW2000-3D's format; without it, synthetic faces of a seed of their own are made in data/raw/bench.
--without: a folder of pictures without faces, beside synthetic backgrounds.

Prints nme68-2d in percent with the bundled weights and flip averaging, in one pass and in two, with the true boxes (the
baseline of the ratios), with boxes found by each detector (of the faces that it finds, beside the true boxes of the
same faces) and by the cascades with the network's own search behind them, and with true boxes moved or scaled; then the
area under the ROC curve of the doubt, faces with detected boxes against crops without a face, the rates at
predict.MAX_FLIP_DISAGREEMENT, and in how many pictures without a face the network's search finds one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from p2m_core.config.paths import resolve
from p2m_core.config.settings import SynthConfig
from p2m_core.data.aflw2000 import Sample, find_samples, read_image, read_sample
from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import box_of
from p2m_core.inference import open_network
from p2m_core.metrics import nme68_2d
from p2m_synth.render.background import draw_background
from p2m_synth.render.light import PLACES
from p2m_synth.writer import write_dataset
from p2m_workbench.photos.detect import DETECTORS, FILES, box_iou, cascade, detect_faces, landmark_boxes
from p2m_workbench.photos.predict import MAX_FLIP_DISAGREEMENT, find_meshes, predict, search_face
from p2m_workbench.photos.read import IMAGE_SUFFIXES


def moved(box: np.ndarray, rng: np.random.Generator, shift: float, scale: float) -> np.ndarray:
    """A box whose centre is moved by `shift` of its longer side in a random direction, and that is (1 + scale) or
    1 / (1 + scale) times as large."""
    half, angle = (box[2:] - box[:2]) / 2, rng.uniform(0, 2 * np.pi)
    centre = (box[2:] + box[:2]) / 2 + 2 * half.max() * shift * np.array([np.cos(angle), np.sin(angle)])
    half = half * (1 + scale) ** rng.choice([-1, 1])
    return np.concatenate([centre - half, centre + half])


def found_boxes(samples: list[Sample], find: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray | None]:
    """For each photo the found box that overlaps the true one most, if by 0.3."""
    boxes = []
    for sample in samples:
        truth = box_of(sample.landmarks_px)
        found = find(read_image(sample.image_path))
        shared = box_iou(truth, found)[0]
        boxes.append(found[shared.argmax()] if shared.max(initial=0) > 0.3 else None)
    return boxes


def measure(samples: list[Sample], boxes: list[np.ndarray], passes: int) -> tuple[np.ndarray, list[FaceMesh]]:
    """nme68-2d of each sample (N,), and its mesh."""
    meshes = [predict(read_image(s.image_path), [box], passes=passes)[0] for s, box in zip(samples, boxes, strict=True)]
    truth = np.stack([sample.landmarks_px for sample in samples])
    return nme68_2d(np.stack([mesh.landmarks_px for mesh in meshes]), truth), meshes


def pictures_without(rng: np.random.Generator, count: int, folder: Path | None) -> list[np.ndarray]:
    """Pictures without a face: synthetic backgrounds, and those of a folder."""
    pictures = [np.uint8(255 * draw_background(rng, 224, rng.choice(list(PLACES))).clip(0, 1)) for _ in range(count)]
    if folder is not None:
        pictures += [read_image(p) for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
    return pictures


def crops_without(rng: np.random.Generator, pictures: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each picture with a box: random ones, and what the cascades take for a face if they are lax."""
    crops = []
    for picture in pictures:
        height, width = picture.shape[:2]
        side = rng.uniform(0.3, 0.7) * min(height, width)
        corner = rng.uniform(0, 1, 2) * (np.array([width, height]) - side)
        crops.append((picture, np.concatenate([corner, corner + side])))
        scale = min(1, 480 / max(height, width))
        grey = cv2.cvtColor(
            cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
        )
        for kind, name in FILES.items():
            for x, y, w, h in list(cascade(name).detectMultiScale(cv2.equalizeHist(grey), 1.1, 1))[:3]:
                crops.append((picture, landmark_boxes(np.array([[x, y, x + w, y + h, 1.0]]), kind)[0, :4] / scale))
    return crops


def area_under_roc(low: np.ndarray, high: np.ndarray) -> float:
    """The share of pairs in which the value of `high` is the higher one."""
    return float((high[:, None] > low).mean() + 0.5 * (high[:, None] == low).mean())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder")
    options.add_argument("--count", type=int, default=300)
    options.add_argument("--moved", type=int, default=100, help="photos of the moved boxes")
    options.add_argument("--without", type=Path)
    options.add_argument("--tiny", action="store_true", help="2 photos, for the tests")
    args = options.parse_args()
    count = 2 if args.tiny else args.count
    own = SynthConfig(out="data/raw/bench", count=count, seed=7, yaw="between", workers=1)
    folder = resolve(args.folder) if args.folder else write_dataset(own)
    samples, rng = [read_sample(path) for path in find_samples(folder)[:count]], np.random.default_rng(0)
    truth = [box_of(sample.landmarks_px) for sample in samples]
    one, two = (measure(samples, truth, passes)[0] for passes in (1, 2))
    print(f"{len(samples)} photos of {folder.name}, nme68-2d in percent")
    print(f"{'true boxes':34} one pass {one.mean():5.2f}, two {two.mean():5.2f}")
    doubts = []
    network = open_network(precision="auto")

    def with_search(image: np.ndarray) -> np.ndarray:
        return np.array([mesh.box for mesh in find_meshes(network, image)]).reshape(-1, 4)

    ways = {name: partial(detect_faces, detector=name) for name in DETECTORS}
    for detector, find in {"cascades": ways.pop("cascades"), "cascades, then the network": with_search, **ways}.items():
        try:
            boxes = found_boxes(samples, find)
        except InputError as error:
            print(f"{detector:34} not measured: {error}")
            continue
        has = np.array([box is not None for box in boxes])
        seen = [sample for sample, there in zip(samples, has, strict=True) if there]
        if not seen:
            print(f"{detector:34} finds none")
            continue
        found = [box for box in boxes if box is not None]
        first, (second, meshes) = measure(seen, found, 1)[0], measure(seen, found, 2)
        doubts = doubts or [mesh.doubt for mesh in meshes]
        print(
            f"{detector:34} one pass {first.mean():5.2f}, two {second.mean():5.2f}; {100 * has.mean():.1f}% found, "
            f"true boxes of the same {one[has].mean():.2f}: two {second.mean() / one[has].mean():.3f} times that",
            flush=True,
        )
    part = samples[: 2 if args.tiny else args.moved]
    for shift, scale in ((0.1, 0.0), (0.2, 0.0), (0.0, 0.15), (0.0, 0.3), (0.15, 0.25)):
        boxes = [moved(box, rng, shift, scale) for box in truth[: len(part)]]
        first, second = measure(part, boxes, 1)[0].mean(), measure(part, boxes, 2)[0].mean()
        name = f"moved by {100 * shift:.0f}%, scaled by {100 * scale:.0f}%"
        print(f"{name:34} one pass {first:5.2f}, two {second:5.2f}: {second / first:.2f} times", flush=True)
    pictures = pictures_without(rng, 2 if args.tiny else 60, args.without)
    crops = crops_without(rng, pictures)
    without = np.array([predict(picture, [box])[0].doubt for picture, box in crops])
    area, rates = (
        area_under_roc(np.array(doubts), without),
        [100 * np.mean(np.array(x) > MAX_FLIP_DISAGREEMENT) for x in (doubts, without)],
    )
    print(f"doubt: {len(doubts)} faces against {len(without)} crops without, area under ROC {area:.4f}")
    print(f"above {MAX_FLIP_DISAGREEMENT}: {rates[0]:.1f}% of faces, {rates[1]:.1f}% of crops without")
    wrong = sum(len(search_face(network, picture)) for picture in pictures)
    print(f"the network's search finds a face in {wrong} of {len(pictures)} pictures without")


if __name__ == "__main__":
    main()
