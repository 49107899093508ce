"""What do OpenCV's cascades find, and how does a found box relate to the box around the 68 landmarks?

    python benchmarks/detection.py [--folder FOLDER] [--count 300] [--tiny]

FOLDER is in AFLW2000-3D's format; without it, synthetic faces of a seed of their own are made in data/raw/bench.

Prints, for the frontal and the profile cascade, the share of faces found by |yaw|, and the medians that
TO_LANDMARK_BOX of photos/detect.py holds; then the whole detector's share of faces found, against the frontal cascade
alone as the baseline.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np

from p2m_core.config.paths import resolve
from p2m_core.config.settings import SynthConfig
from p2m_core.data.aflw2000 import find_samples, read_image, read_sample
from p2m_core.geometry.crop import box_of
from p2m_synth.writer import write_dataset
from p2m_workbench.photos.detect import FILES, box_iou, detect_faces, search


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder")
    options.add_argument("--count", type=int, default=300)
    options.add_argument("--tiny", action="store_true", help="6 photos, for the tests")
    args = options.parse_args()
    count = 6 if args.tiny else args.count
    own = SynthConfig(out="data/raw/bench", count=count, seed=7, yaw="between", workers=1)
    folder = resolve(args.folder) if args.folder else write_dataset(own)
    samples = [read_sample(path) for path in find_samples(folder)[:count]]
    yaw = np.array([abs(np.degrees(sample.pose_para[1])) for sample in samples])
    bins = {"0-30": yaw <= 30, "30-60": (yaw > 30) & (yaw <= 60), "60-90": yaw > 60}
    relative, found = (
        {name: [] for name in FILES},
        {name: np.zeros(len(samples), bool) for name in (*FILES, "all")},
    )
    overlaps = []
    for k, sample in enumerate(samples):
        image, truth = read_image(sample.image_path), box_of(sample.landmarks_px)
        grey = cv2.equalizeHist(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        for name, file in FILES.items():
            mirrored = name == "profile" and sample.pose_para[1] < 0
            boxes = search(np.ascontiguousarray(grey[:, ::-1]) if mirrored else grey, file, 24)
            target = truth.copy()
            if mirrored:
                target[[0, 2]] = grey.shape[1] - truth[[2, 0]]
            boxes = [box for box in boxes if box_iou(box[:4], target) > 0.3]
            if boxes:
                found[name][k] = True
                x0, y0, x1, y1 = boxes[0][:4]
                relative[name].append((target - [x0, y0, x0, y0]) / [x1 - x0, y1 - y0, x1 - x0, y1 - y0])
        boxes = detect_faces(image)
        best = max((box_iou(box, truth).item() for box in boxes), default=0)
        found["all"][k] = best > 0.3
        overlaps.append(best)
    print(f"{len(samples)} photos of {folder.name}, OpenCV {cv2.__version__}")
    for name, hits in found.items():
        shares = ", ".join(
            f"{bin_} {100 * hits[members].mean():.0f}%" for bin_, members in bins.items() if members.any()
        )
        medians = np.round(np.median(relative[name], 0), 2).tolist() if relative.get(name) else ""
        print(f"{name:8} finds {100 * hits.mean():.0f}% ({shares}) {medians}")
    print(f"ratio all / frontal alone: {found['all'].mean() / max(found['frontal'].mean(), 1e-9):.2f}")
    overlaps = np.array(overlaps)[found["all"]]
    print(f"median overlap of a found box with the true one: {np.median(overlaps) if len(overlaps) else 0:.2f}")


if __name__ == "__main__":
    main()
