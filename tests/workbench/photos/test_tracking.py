"""Faces keep their identity, and the filter takes jitter away without coming late."""

import numpy as np
import pytest

from p2m_workbench.photos.tracking import (
    BETA,
    COAST_S,
    LOST_S,
    MIN_CUTOFF_HZ,
    SPEED_CUTOFF_HZ,
    OneEuro,
    Tracker,
    distance,
    share,
    size_of,
)

FPS = 30
WALK = 1.4 / 0.13  # face sizes a second: 1.4 m/s, a face size being 13 cm


@pytest.fixture
def face():
    """68 landmarks in a face of size 100 about the origin."""
    points = np.random.default_rng(0).uniform(-1, 1, (68, 3))
    return points * np.append(100 / np.ptp(points[:, :2], axis=0), 50)


def filtered(points, size):
    smooth = OneEuro()
    return np.array([smooth(frame, size, 1 / FPS) for frame in points])


def test_the_size_of_a_face(face):
    assert size_of(face) == pytest.approx(100)
    assert size_of(face * [2, 0.5, 1]) == pytest.approx(100)
    assert distance(face, face + [30, 40, 99]) == pytest.approx(0.5)
    assert distance(face, 2 * face + [60, 80, 0]) == pytest.approx(distance(2 * face + [60, 80, 0], face))


def test_the_filter_is_that_of_the_paper():
    """A loop of scalars, as the paper has it; the speed is that of a whole point."""
    rng, size = np.random.default_rng(1), 50.0
    frames, steps = rng.normal(0, 5, (9, 4, 3)), rng.uniform(0.01, 0.1, 9)
    smooth = OneEuro()
    out = [smooth(frame, size, step) for frame, step in zip(frames, steps, strict=True)]

    def alpha(cutoff, step):
        tau = 1 / (2 * np.pi * cutoff)
        return 1 / (1 + tau / step)

    for n in range(4):
        value, speed = [*frames[0, n]], [0.0] * 3
        for k in range(1, 9):
            a = alpha(SPEED_CUTOFF_HZ, steps[k])
            speed = [a * (frames[k, n, c] - frames[k - 1, n, c]) / steps[k] + (1 - a) * speed[c] for c in range(3)]
            a = alpha(MIN_CUTOFF_HZ + BETA * np.hypot(np.hypot(*speed[:2]), speed[2]) / size, steps[k])
            value = [a * frames[k, n, c] + (1 - a) * value[c] for c in range(3)]
            np.testing.assert_allclose(out[k][n], value)
    assert share(1.0, 1 / (2 * np.pi)) == pytest.approx(0.5)


@pytest.mark.parametrize("percent", [0.1, 0.5])  # of the face size: a still photo's jitter, and five times as much
def test_a_still_face_keeps_less_than_half_of_its_jitter(face, percent):
    noise = np.random.default_rng(2).normal(0, percent, (90, 68, 3))
    before, after = noise[20:].std(0).mean(), (filtered(face + noise, 100) - face)[20:].std(0).mean()
    assert after < 0.5 * before


@pytest.mark.parametrize("fps", [15, 30, 60])
def test_who_walks_past_is_less_than_a_frame_late(face, fps):
    smooth, step = OneEuro(), 100 * WALK / fps
    for k in range(fps):
        out = smooth(face + [step * max(0, k - 10), 0, 0], 100, 1 / fps)
        late = step * max(0, k - 10) - (out - face)[:, 0].mean()
        assert late < step * (1 if k < 13 else 0.1)  # from the first step on


def test_large_and_small_faces_are_filtered_alike(face):
    frames = face + np.random.default_rng(3).normal(0, 3, (20, 68, 3))
    np.testing.assert_allclose(filtered(7 * frames, 700), 7 * filtered(frames, 100))


def test_identities_are_kept_whatever_the_order(face):
    tracker = Tracker()
    left, right = face, face + [300, 0, 0]
    assert [t.identity for t in tracker.assign([left, right], 0)] == [1, 2]
    assert [t.identity for t in tracker.assign([right + 5, left - 5], 0.04)] == [2, 1]
    assert [t.identity for t in tracker.assign([face - [300, 0, 0], left, right], 0.08)] == [3, 1, 2]
    assert len(tracker.in_view()) == 3


def test_who_crosses_another_keeps_their_identity(face):
    """Two walk through each other, and for half a second only the one in front is seen."""
    tracker = Tracker()
    for k in range(60):
        a, b = face + [10 * (k - 30), 0, 0], face - [10 * (k - 30), 30, 0]
        seen = [a] if abs(a[0, 0] - b[0, 0]) < 150 else [b, a]
        assert [t.identity for t in tracker.assign(seen, k / FPS)] == ([2] if len(seen) == 1 else [1, 2])


def test_who_comes_back_soon_is_the_same_and_later_another(face):
    tracker = Tracker()
    tracker.assign([face], 0)
    first = tracker.assign([face], 0.1)[0].smooth
    tracker.assign([], 0.2)
    assert not tracker.in_view()
    [back] = tracker.assign([face + [60, 0, 0]], 0.1 + 0.9 * LOST_S)
    assert back.identity == 1
    assert back.smooth is not first  # nothing is drawn from where it was lost
    assert tracker.assign([face], 0.1 + 2.5 * LOST_S)[0].identity == 2
    assert tracker.people == 2


def test_a_face_elsewhere_is_another_one(face):
    tracker = Tracker()
    tracker.assign([face], 0)
    assert tracker.assign([face + [200, 0, 0]], 0.03)[0].identity == 2


def test_a_lost_face_is_not_expected_beyond_the_horizon(face):
    tracker = Tracker()
    for k in range(10):
        [track] = tracker.assign([face + [10 * k, 0, 0]], k / FPS)
    speed = track.velocity[0]
    assert speed == pytest.approx(10 * FPS, rel=0.01)
    moved = (track.expected(99.0) - track.landmarks)[:, 0]
    np.testing.assert_allclose(moved, speed * COAST_S)


def test_frames_of_another_size(face):
    tracker = Tracker()
    for k in range(5):
        tracker.assign([face + [2 * k, 0, 0]], k / FPS)
    tracker.rescale(np.array([3.0, 3.0]))
    assert tracker.assign([3 * (face + [10, 0, 0])], 5 / FPS)[0].identity == 1
