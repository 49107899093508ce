"""What are the bundled weights worth beyond the landmarks' error, and do they agree with themselves?

    python benchmarks/bundled.py [--weights FILE] [--store STORE] [--count 500] [--photos FOLDER] [--tiny]

On a store with ground truth (by default synthetic faces of a seed of their own, made in data/raw/bench): how sound the
meshes are, beside the truth's; the errors are `p2m evaluate`'s.
On photos, without any label (by default Grace Hopper's): how far the landmarks move, in percent of the face size, when
the picture is mirrored, the box shifted or scaled, the colours changed, the picture blurred.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np

from p2m_core.config.loading import load_config
from p2m_core.config.paths import resolve
from p2m_core.data.face_store import FaceStore
from p2m_core.geometry.crop import face_size
from p2m_core.inference import open_network
from p2m_synth.writer import write_dataset
from p2m_workbench.measuring.evaluate import predict_store
from p2m_workbench.measuring.mesh_quality import intersecting, turned_over
from p2m_workbench.measuring.tables import truth_at_depth
from p2m_workbench.photos.predict import predict
from p2m_workbench.photos.read import SAMPLE_PHOTO, find_photos, read_photo
from p2m_workbench.preprocessing import preprocess

SOUND = 100  # meshes that are searched for triangles through each other


def bench_store(count: int) -> FaceStore:
    """The store of some faces of a seed that training has not seen."""
    settings = ["synth.out=data/raw/bench", f"synth.count={count}", "synth.seed=7", "synth.workers=1"]
    config = load_config("weights", [*settings, "data.raw=data/raw/bench", "data.store=data/processed/bench"])
    write_dataset(config.synth)
    return preprocess(config)


def with_truth(store: FaceStore, weights: str, count: int) -> None:
    """Print what `p2m evaluate` does not: how sound the meshes are."""
    model, rows = open_network(weights), np.arange(min(count, len(store)))
    meshes = predict_store(model, store, rows, flip=True)
    predicted = np.stack([mesh.vertices_px for mesh in meshes]).astype(np.float64)
    truth = np.stack(
        [truth_at_depth(store.truth_px(k), mesh.vertices_px) for k, mesh in zip(rows, meshes, strict=True)]
    )
    print(f"{len(rows)} samples of {store.folder.name}, flip averaging, true boxes:")
    faces, some = store.template.faces[-1], range(min(SOUND, len(rows)))
    over = np.mean([turned_over(predicted[k], truth[k], faces) for k in some])
    net, true = (np.mean([intersecting(x[k], faces) for k in some]) for x in (predicted, truth))
    print(f"triangles turned over {100 * over:.3f}%")
    print(f"triangles running through others {100 * net:.3f}%, in the truth {100 * true:.3f}%")


def changes(image: np.ndarray, box: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pictures and boxes that show the same face."""
    size = box[2:] - box[:2]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    dark = (255 * (image / 255.0) ** 1.6).astype(np.uint8)
    out = {"grey": (grey, box), "darker": (dark, box)}
    out["blurred"] = cv2.GaussianBlur(image, (0, 0), float(size.mean() / 60)), box
    for name, dx, dy in (("left", -1, 0), ("right", 1, 0), ("up", 0, -1), ("down", 0, 1)):
        out[f"box {name} by 8%"] = image, box + 0.08 * np.tile([dx, dy] * size, 2)
    for name, factor in (("smaller", -0.06), ("larger", 0.06)):
        out[f"box {name} by 12%"] = image, box + factor * np.concatenate([-size, size])
    return out


def agreement(photos: list, weights: str) -> None:
    """Print how far landmarks move under changes that do not move the face."""
    moved: dict[str, list[float]] = {}
    for path in photos:
        image = read_photo(path)
        for mesh in predict(image, weights=weights)[:1]:
            [once] = predict(image, mesh.box[None], weights, flip=False)
            [mirrored] = predict(
                np.ascontiguousarray(image[:, ::-1]), mirror_box(mesh.box, image)[None], weights, flip=False
            )
            back = mirrored.vertices_px[open_network(weights).template.mirror] * [-1, 1, 1] + [image.shape[1] - 1, 0, 0]
            marks = open_network(weights).template.landmarks(back)
            pairs = {"mirrored": (once.landmarks_px, marks)}
            for name, (picture, box) in changes(image, mesh.box).items():
                pairs[name] = mesh.landmarks_px, predict(picture, box[None], weights)[0].landmarks_px
            for name, (a, b) in pairs.items():
                distance = np.linalg.norm((a - b)[:, :2], axis=1).mean()
                moved.setdefault(name, []).append(100 * distance / face_size(mesh.landmarks_px))
    found = len(next(iter(moved.values()), []))
    print(f"agreement on {found} faces in {len(photos)} photos, landmarks moved by, % of the face size:")
    print(", ".join(f"{name} {np.mean(values):.2f}" for name, values in moved.items()))


def mirror_box(box: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A box in the mirrored picture."""
    right = image.shape[1] - 1
    return np.array([right - box[2], box[1], right - box[0], box[3]])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--weights", default="bundled")
    options.add_argument("--store")
    options.add_argument("--count", type=int, default=500)
    options.add_argument("--photos")
    options.add_argument("--tiny", action="store_true", help="4 faces, for the tests")
    args = options.parse_args()
    count = 4 if args.tiny else args.count
    with_truth(FaceStore(resolve(args.store)) if args.store else bench_store(count), args.weights, count)
    agreement([photo.path for photo in find_photos(args.photos or SAMPLE_PHOTO)], args.weights)


if __name__ == "__main__":
    main()
