"""What does the smoothing of films take away, and by how much does it come late?

    python benchmarks/clips.py [--frames 60] [--tiny]

Frames are made of the sample photo, at 30 a second, with noise and JPEG's losses of their own: a still face, one that
walks past at 1.4 m/s, and one that nods in the picture's plane. Prints for each the jitter of the landmarks (standard
deviation over the frames of their distance to the truth, in percent of the face size), and the lag in frames, as found
and smoothed; then what a mouth and eyelids that move keep of their way, by motion of the units of our own head.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import cv2
import numpy as np

from p2m_core.config.settings import PredictConfig
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import apply_affine
from p2m_workbench.photos.clips import Follower
from p2m_workbench.photos.predict import open_weights
from p2m_workbench.photos.read import read_photo, sample_photo
from p2m_workbench.photos.rig import own_units
from p2m_workbench.photos.tracking import OneEuro, Track, size_of

FPS, FACE_PX = 30, 110
WALK_PX = 1.4 / 0.13 * FACE_PX / FPS  # a face size is 13 cm
NOISE, QUALITY = 4, 80  # standard deviation of the noise, of 255; of the JPEGs


class Found(Follower):
    """Faces as they are found."""

    def _smoothed(self, track: Track, mesh: FaceMesh, step_s: float) -> FaceMesh:
        return mesh


def places(kind: str, frames: int) -> list[np.ndarray]:
    """From the photo to each frame (2, 3), in a frame that is wide enough."""
    scale = FACE_PX / 174
    for_each = []
    for k in range(frames):
        angle = 8 * np.sin(2 * np.pi * 1.0 * k / FPS) if kind == "nod" else 0.0
        matrix = cv2.getRotationMatrix2D((265, 230), angle, scale)
        matrix[:, 2] += [-100 + (WALK_PX * k if kind == "walk" else 0), -60]
        for_each.append(matrix)
    return for_each


def pictures(matrices: list[np.ndarray], width: int) -> Iterator[np.ndarray]:
    """The frames."""
    photo, rng = read_photo(sample_photo()), np.random.default_rng(0)
    for matrix in matrices:
        frame = cv2.warpAffine(photo, matrix, (width, 300), flags=cv2.INTER_AREA, borderValue=(60, 70, 90))
        noisy = np.clip(frame + rng.normal(0, NOISE, frame.shape), 0, 255).astype(np.uint8)
        yield cv2.imdecode(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1], cv2.IMREAD_COLOR)


def followed(follower: Follower, matrices: list[np.ndarray], width: int) -> np.ndarray:
    """Landmarks (T, 68, 2) of the person in the frames."""
    faces = [follower(frame, k / FPS) for k, frame in enumerate(pictures(matrices, width))]
    assert all(len(face) == 1 and face[0][0] == 1 for face in faces), "the face was lost"
    return np.array([face[0][1].landmarks_px[:, :2] for face in faces])


def measure(estimate: np.ndarray, truth: np.ndarray, start: int) -> tuple[float, float]:
    """Jitter in percent of the face size, and lag in frames, from a frame on."""
    difference, speed = (estimate - truth)[start:], np.gradient(truth, axis=0)[start:]
    moves = np.square(speed).sum() > 1e-9
    lag = -float((difference * speed).sum() / np.square(speed).sum()) if moves else 0.0
    jitter = (difference + lag * speed).std(0)
    return 100 * float(np.sqrt(np.square(jitter).sum(1).mean())) / size_of(truth[0]), lag


def kept(names: list[str], period_s: float, landmark: int, frames: int) -> float:
    """Which share of its way a landmark keeps when units go from 0 to 1 and back."""
    units, smooth = own_units(), OneEuro()
    idx = [units.names.index(name) for name in names]
    points = units.template.landmarks(units.mean)
    ways = np.stack([units.template.landmarks(units.mean + units.ways[k]) - points for k in idx]).sum(0)
    size, way = size_of(points), []
    for k in range(frames):
        strength = 0.5 - 0.5 * np.cos(2 * np.pi * k / FPS / period_s)
        way.append(smooth(points + strength * ways, size, 1 / FPS)[landmark, 1])
    return float(np.ptp(way[FPS // 2 :]) / abs(ways[landmark, 1]))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--frames", type=int, default=60)
    options.add_argument("--tiny", action="store_true", help="8 frames, for the tests")
    args = options.parse_args()
    frames = 8 if args.tiny else args.frames
    model, settings, start = open_weights("bundled"), PredictConfig(), min(10, frames // 2)
    for kind in ("still", "walk", "nod"):
        count = min(frames, 36) if kind == "walk" else frames
        matrices, width = places(kind, count), 420 + int(WALK_PX * count if kind == "walk" else 0)
        found = followed(Found(model, settings), matrices, width)
        # Where the network sees the photo itself, through each frame's map: its own faults are no jitter.
        clean = followed(Found(model, settings), [matrices[0]] * 3, width).mean(0)
        back = cv2.invertAffineTransform(matrices[0])
        truth = np.array(
            [apply_affine(m, apply_affine(back, np.pad(clean, ((0, 0), (0, 1)))))[:, :2] for m in matrices]
        )
        jitter, lag = measure(found, truth, start)
        smooth, smooth_lag = measure(followed(Follower(model, settings), matrices, width), truth, start)
        print(f"{kind:6} jitter {jitter:.3f}%, smoothed {smooth:.3f}%, {smooth / jitter:.2f} times; "
              f"lag {lag:.2f} frames, smoothed {smooth_lag:.2f}", flush=True)  # fmt: skip
    for what, names, period_s, landmark in (
        ("mouth, 4 times a second", ["jawOpen"], 0.25, 57),
        ("blink of 0.3 s", ["eyeBlinkLeft", "eyeBlinkRight"], 0.3, 37),
    ):
        print(f"{what}: {100 * kept(names, period_s, landmark, 4 * FPS):.0f}% of the way is kept")


if __name__ == "__main__":
    main()
