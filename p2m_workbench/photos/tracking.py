"""Faces followed from frame to frame: whose each mesh is, and a filter that takes its jitter away."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Num

# Parameters of the One-Euro filter, its speeds in face sizes a second. A still face's landmarks keep a quarter of their
# jitter, and a face that walks past lags by 0.02 frames at 30 a second (benchmarks/clips.py). One filter for vertices
# is as good as one for the head's similarity and one for the shape that is left, and damps a talking mouth less.
MIN_CUTOFF_HZ, BETA, SPEED_CUTOFF_HZ = 0.5, 20.0, 3.0
# A face that was not seen for LOST_S gets a new identity when it comes back. Where it may be found: within REACH face
# sizes of the place to which its last speed has led in COAST_S at most, and SPREAD more for each second since then.
LOST_S, REACH, COAST_S, SPREAD = 1.5, 0.6, 0.6, 2.0


class OneEuro:
    """A low-pass filter of points whose cutoff grows with their speed: still points are smooth, fast ones don't lag.

    cutoff = MIN_CUTOFF_HZ + BETA * speed, one for all coordinates of a point; the speed is itself smoothed, at
    SPEED_CUTOFF_HZ.

    Source: Casiez, Roussel and Vogel, 1 Euro filter, CHI 2012.
    """

    def __init__(self) -> None:
        self.smooth: np.ndarray | None = None

    def __call__(self, points: Num[np.ndarray, "n 3"], size: float, seconds: float) -> Float[np.ndarray, "n 3"]:
        """The next points, smoothed.   Args: size: of a face, in the points' unit.   seconds: since the last ones."""
        points = np.asarray(points, np.float64)
        if self.smooth is None:
            self.smooth, self.speed = points, np.zeros_like(points)
        else:
            self.speed = self.speed + share(SPEED_CUTOFF_HZ, seconds) * ((points - self.last) / seconds - self.speed)
            cutoff = MIN_CUTOFF_HZ + BETA / size * np.linalg.norm(self.speed, axis=1, keepdims=True)
            self.smooth = self.smooth + share(cutoff, seconds) * (points - self.smooth)
        self.last = points
        return self.smooth


def share(cutoff_hz: float | np.ndarray, seconds: float) -> float | np.ndarray:
    """How much of a new value a low-pass filter of the first order takes over after some seconds."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff_hz * seconds))


def size_of(points: Num[np.ndarray, "n _"]) -> float:
    """The size of a face: sqrt(w h) of its points' box."""
    return max(float(np.sqrt(np.prod(np.ptp(points[:, :2], axis=0)))), 1e-6)


@dataclass
class Track:
    """A person: landmarks where they were last seen, px; when, s; their speed, px a second; the filter of the mesh."""

    identity: int
    landmarks: Num[np.ndarray, "n 3"]
    seen_s: float
    velocity: Float[np.ndarray, "3"] = field(default_factory=lambda: np.zeros(3))
    smooth: OneEuro = field(default_factory=OneEuro)

    def expected(self, now_s: float) -> Float[np.ndarray, "n 3"]:
        """Landmarks where the last speed leads."""
        return self.landmarks + self.velocity * min(now_s - self.seen_s, COAST_S)

    def see(self, landmarks: Num[np.ndarray, "n 3"], now_s: float) -> None:
        """Take over the landmarks of a new frame."""
        speed = (landmarks - self.landmarks).mean(0) / (now_s - self.seen_s)
        self.velocity = (self.velocity + speed) / 2
        self.landmarks, self.seen_s = landmarks, now_s


class Tracker:
    """The people of a clip. `tracks` are those who were seen less than LOST_S ago; identities count from 1."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []
        self.people = 0
        self.before_s = -np.inf  # time of the last frame

    def in_view(self) -> list[Track]:
        """The tracks that were seen in the last frame."""
        return [track for track in self.tracks if track.seen_s == self.before_s]

    def assign(self, faces: list[Num[np.ndarray, "n 3"]], now_s: float) -> list[Track]:
        """The track of each face's landmarks in a new frame; of faces that are nobody's yet, new ones.

        Those are matched that together lie nearest to where they are expected, in shares of their size.
        """
        self.tracks = [track for track in self.tracks if now_s - track.seen_s <= LOST_S]
        cost = np.array([[distance(track.expected(now_s), face) for face in faces] for track in self.tracks])
        reach = np.array([REACH + SPREAD * (now_s - track.seen_s) for track in self.tracks])
        owners: dict[int, Track] = {}
        if cost.size:
            from scipy.optimize import linear_sum_assignment  # a tenth of a second that photos need not wait for

            allowed = cost <= reach[:, None]
            for k, n in zip(*linear_sum_assignment(np.where(allowed, cost, 1e6)), strict=True):
                if allowed[k, n]:
                    owners[n] = self.tracks[k]
        for n, face in enumerate(faces):
            if n in owners:
                if owners[n].seen_s != self.before_s:
                    owners[n].smooth = OneEuro()  # back again: not drawn from where it was lost
                owners[n].see(face, now_s)
            else:
                self.people += 1
                owners[n] = Track(self.people, face, now_s)
                self.tracks.append(owners[n])
        self.before_s = now_s
        return [owners[n] for n in range(len(faces))]

    def rescale(self, factor: Float[np.ndarray, "2"]) -> None:
        """Move all tracks to frames of another size: x and y times a factor."""
        by = np.append(factor, np.sqrt(np.prod(factor)))
        for track in self.tracks:
            track.landmarks, track.velocity, track.smooth = track.landmarks * by, track.velocity * by, OneEuro()


def distance(a: Num[np.ndarray, "n _"], b: Num[np.ndarray, "n _"]) -> float:
    """Mean distance of two faces' landmarks in the picture, in sizes of the larger one."""
    return float(np.linalg.norm(a[:, :2] - b[:, :2], axis=1).mean() / max(size_of(a), size_of(b)))
