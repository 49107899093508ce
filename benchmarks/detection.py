"""Which faces are found, and how do a find's box and points relate to the 68 landmarks?

    python benchmarks/detection.py [--folder FOLDER] [--count 300] [--tiny]

FOLDER is in AFLW2000-3D's format; without it, synthetic faces of a seed of their own are made in data/raw/bench.

Prints, for each of BlazeFace's nets and for the detector, the share of faces found (IoU with the landmarks' box above
0.3) by |yaw|, the error of the tilt that a find's eyes, or its ears, tell, and the time of one core a photo, as a ratio
to the short-range net's; then the medians that TO_LANDMARK_BOX of photos/detect.py holds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from p2m_core.config.paths import resolve
from p2m_core.config.settings import SynthConfig
from p2m_core.data.aflw2000 import find_samples, read_image, read_sample
from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.geometry.crop import box_of
from p2m_synth.writer import write_dataset
from p2m_workbench.photos.detect import BACK, SHORT_RANGE, BlazeFace, box_iou, corners, finds_in
from p2m_workbench.photos.upright import angle_between

EYES, EARS = (5, 7), (13, 15)  # columns of a find


def whole(image: np.ndarray, net: tuple[str, int]) -> np.ndarray:
    """What a net finds in a whole photo, the surest find first."""
    height, width = image.shape[:2]
    side = max(height, width)
    finds = finds_in(image, ((width - side) // 2, (height - side) // 2, side), *net)
    return finds[np.argsort(-finds[:, 0])]


def tilt_deg(find: np.ndarray, points: tuple[int, int]) -> float:
    """The tilt that two points of a find (17,) tell, degrees."""
    x, y = find[points[1] : points[1] + 2] - find[points[0] : points[0] + 2]
    return float(-np.degrees(np.arctan2(y, x)))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder")
    options.add_argument("--count", type=int, default=300)
    options.add_argument("--tiny", action="store_true", help="6 photos, for the tests")
    args = options.parse_args()
    cv2.setNumThreads(1)
    count = 6 if args.tiny else args.count
    own = SynthConfig(out="data/raw/bench", count=count, seed=7, yaw="between", workers=1)
    folder = resolve(args.folder) if args.folder else write_dataset(own)
    samples = [read_sample(path) for path in find_samples(folder)[:count]]
    yaw = np.array([abs(np.degrees(sample.pose_para[1])) for sample in samples])
    bins = {"0-30": yaw <= 30, "30-60": (yaw > 30) & (yaw <= 60), "60-90": yaw > 60}
    rotations = rotation_from_angles(np.stack([sample.pose_para[:3] for sample in samples]))
    tilts = np.degrees(np.arctan2(-rotations[:, 0, 1], rotations[:, 1, 1]))
    print(f"{len(samples)} photos of {folder.name}, OpenCV {cv2.__version__}")
    relative, baseline_s = [], None
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        name: partial(whole, net=(name, side)) for name, side in (SHORT_RANGE, BACK)
    }
    ways["detector"] = lambda image: BlazeFace().detect(image).boxes
    for name, find in ways.items():
        found, errors, seconds = np.zeros(len(samples), bool), [], []
        for k, sample in enumerate(samples):
            image, truth = read_image(sample.image_path), box_of(sample.landmarks_px)
            start = time.perf_counter()
            finds = find(image)
            seconds.append(time.perf_counter() - start)
            boxes = finds if name == "detector" else corners(finds)
            iou = box_iou(boxes, truth)[:, 0]
            found[k] = iou.max(initial=0) > 0.3
            if name != "detector" and found[k]:
                best = finds[iou.argmax()]
                errors.append([abs(angle_between(tilt_deg(best, points), tilts[k])) for points in (EYES, EARS)])
                c, s = np.cos(np.radians(tilts[k])), np.sin(np.radians(tilts[k]))
                upright = (sample.landmarks_px[:, :2] - best[1:3]) @ np.array([[c, s], [-s, c]])
                relative.append(box_of(upright) / np.tile(best[3:5], 2) + 0.5)
        spent = float(np.median(seconds))
        baseline_s = baseline_s or spent
        shares = ", ".join(
            f"{bin_} {100 * found[members].mean():.1f}%" for bin_, members in bins.items() if members.any()
        )
        cost = f"{1000 * spent:.1f} ms, {spent / baseline_s:.1f} times"
        print(f"{name:12} finds {100 * found.mean():.1f}% ({shares}), {cost}")
        if errors:
            for points, median, worst in zip(
                ("eyes", "ears"), np.median(errors, 0), np.percentile(errors, 95, axis=0), strict=True
            ):
                print(f"{'':12} the {points} tell the tilt within {median:.1f} degrees, 95% within {worst:.0f}")
    print(f"landmarks' box in the find's: {np.round(np.median(relative, 0), 2).tolist()}")


if __name__ == "__main__":
    main()
