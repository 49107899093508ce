"""Do synthetic faces show, where landmarks lie, what photos show there? Mean pictures, aligned by the landmarks.

    python benchmarks/mean_photo.py [--real ../shared/aflw2000-3d] [--synthetic data/raw/synthetic] [--tiny]

Pictures of heads that look ahead are laid on each other by their landmarks and averaged, with their mirror images.
Prints how bright the means are along five lines, and at which height each line is darkest and brightest, in % of the
face size below the nose's root: a brow, a nostril, a lip that lies elsewhere teaches a network a wrong place. Writes
outputs/mean_photo.png, both means with their landmarks. Without the folder of photos, a set of another seed stands in.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from p2m_core.config.paths import resolve
from p2m_core.config.settings import SynthConfig
from p2m_core.data.aflw2000 import find_samples, read_image, read_sample
from p2m_core.geometry.crop import apply_affine, face_size
from p2m_core.geometry.landmarks import MIRROR_68
from p2m_core.geometry.similarity import umeyama
from p2m_synth.writer import write_dataset

SIDE_PX, FACE_PX = 500, 310
AHEAD_DEG = (15, 14, 35)  # pitch, yaw, roll at most
# Lines down the face: at which landmarks' mean x they run, and the landmarks that are printed with them.
LINES = {
    "brow, middle": ((19,), (19, 37, 41)), "brow, inner end": ((21,), (21,)), "brow, outer end": ((17,), (17,)),
    "eye": ((36, 39), (19, 37, 41)), "middle": ((27,), (27, 30, 33, 51, 62, 66, 57, 8)),
}  # fmt: skip
INNER = slice(17, 68)  # the jaw's landmarks follow the outline of a head, not a place on it


def similarity(points: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """The (2, 3) similarity of the picture's plane that lays points (68, 2) on others, the jaw aside."""
    flat = [np.pad(p[INNER], ((0, 0), (0, 1))) for p in (points, onto)]
    scale, rotation, shift = umeyama(*flat)
    return np.concatenate([scale * rotation[:2, :2], shift[:2, None]], 1)


def heads_ahead(root: Path, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures and landmarks (68, 2) of heads that look at the camera."""
    found = []
    for mat in find_samples(root):
        sample = read_sample(mat)
        if sample.has_pose and (np.abs(np.degrees(sample.pose_para[:3])) < AHEAD_DEG).all():
            found.append((read_image(sample.image_path), sample.landmarks_px[:, :2]))
        if len(found) == count:
            break
    return found


def mean_landmarks(shapes: list[np.ndarray]) -> np.ndarray:
    """The symmetric mean of landmarks (68, 2), upright, FACE_PX large in the middle of the mean picture."""
    mean = shapes[0]
    for _ in range(4):
        laid = [apply_affine(similarity(shape, mean), np.pad(shape, ((0, 0), (0, 1))))[:, :2] for shape in shapes]
        mean = np.mean(laid, 0) - np.mean(laid, (0, 1))
        mean = (mean + mean[MIRROR_68] * [-1, 1]) / 2
    return mean * FACE_PX / face_size(mean) + [(SIDE_PX - 1) / 2, 0.55 * SIDE_PX]


def mean_picture(heads: list[tuple[np.ndarray, np.ndarray]], onto: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of pictures of equal contrast, (SIDE_PX, SIDE_PX, 3), and of their landmarks there (68, 2)."""
    total, places = np.zeros((SIDE_PX, SIDE_PX, 3)), []
    face = slice(int(0.2 * SIDE_PX), int(0.8 * SIDE_PX))
    for image, points in heads:
        matrix = similarity(points, onto)
        laid = cv2.warpAffine(image, matrix, (SIDE_PX, SIDE_PX), borderMode=cv2.BORDER_REFLECT).astype(np.float64)
        total += (laid - laid[face, face].mean()) / laid[face, face].std()
        places.append(apply_affine(matrix, np.pad(points, ((0, 0), (0, 1))))[:, :2])
    place = np.mean(places, 0)
    place = (place + place[MIRROR_68] * [-1, 1] + [SIDE_PX - 1, 0]) / 2
    return 125 + 45 * (total + total[:, ::-1]) / (2 * len(heads)), place


def turning_points(line: np.ndarray) -> list[tuple[int, str]]:
    """Where a line of brightness (N,) is darkest and brightest: index and "dark" or "bright" of each turn."""
    slope = np.sign(np.diff(line))
    turns = np.flatnonzero(slope[1:] != slope[:-1]) + 1
    return [(int(k), "dark" if slope[k] > 0 else "bright") for k in turns]


def print_lines(mean: np.ndarray, place: np.ndarray) -> None:
    """The turning points of each line, between brows and neck, and its landmarks."""
    grey = cv2.GaussianBlur(mean.mean(2), (0, 0), 3)
    root = place[27, 1]
    for name, (columns, marks) in LINES.items():
        line = grey[:, round(place[list(columns), 0].mean())]
        low, high = (place[list(marks), 1] + np.array([[-0.08], [0.08]]) * FACE_PX)[[0, 1], [0, -1]]
        turns = [
            f"{kind} {line[k]:.0f} at {(k - root) / FACE_PX * 100:.1f}"
            for k, kind in turning_points(line)
            if low <= k <= high
        ]
        heights = [f"{k}: {(place[k, 1] - root) / FACE_PX * 100:.1f}" for k in marks]
        print(f"  {name:16} {', '.join(turns)} | landmarks {', '.join(heights)}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--real", default="../shared/aflw2000-3d")
    options.add_argument("--synthetic", default="data/raw/synthetic")
    options.add_argument("--count", type=int, default=300)
    options.add_argument("--tiny", action="store_true", help="40 faces, for the tests")
    args = options.parse_args()
    roots = {"photos": resolve(args.real), "synthetic": resolve(args.synthetic)}
    if args.tiny or not roots["photos"].is_dir():
        roots["photos"] = write_dataset(
            SynthConfig(out="data/raw/bench", count=40 if args.tiny else 2000, seed=7, yaw="between")
        )
    if args.tiny:
        roots["synthetic"] = roots["photos"]
    elif not roots["synthetic"].is_dir():
        write_dataset(SynthConfig(out=args.synthetic))
    count = 5 if args.tiny else args.count
    heads = {name: heads_ahead(root, count) for name, root in roots.items()}
    onto = mean_landmarks([points for _, points in heads["photos"]])
    drawn, contrast = [], []
    for name, found in heads.items():
        mean, place = mean_picture(found, onto)
        print(f"{name}: {len(found)} heads of {roots[name].name}")
        print_lines(mean, place)
        contrast.append(mean.std())
        picture = cv2.resize(mean.clip(0, 255).astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        for x, y in np.int32((place * 2 + 0.5) * 8):
            cv2.circle(picture, (x, y), 24, (60, 220, 60), -1, cv2.LINE_AA, 3)
        drawn.append(picture)
    print(f"contrast of the synthetic mean: {contrast[1] / contrast[0]:.2f} times the photos'")
    path = resolve("outputs/mean_photo.png")
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(drawn, 1), cv2.COLOR_RGB2BGR))
    print(path)


if __name__ == "__main__":
    main()
