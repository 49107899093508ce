"""Which faces are found, and where."""

import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from p2m_core.data.aflw2000 import find_samples, read_image, read_sample
from p2m_core.errors import InputError
from p2m_core.geometry.crop import box_of
from p2m_workbench.photos import detect
from p2m_workbench.photos.detect import TO_LANDMARK_BOX, box_iou, detect_faces, landmark_boxes, suppress_overlapping
from p2m_workbench.photos.read import read_photo, sample_photo

HOPPER_BOX = np.array([168, 168, 358, 332])  # brows to chin, jaw to jaw, by eye


@pytest.fixture(scope="module")
def hopper():
    return read_photo(sample_photo())


def test_iou_of_boxes():
    assert box_iou(np.array([0, 0, 2, 2]), np.array([0, 0, 2, 2])) == 1
    assert box_iou(np.array([0, 0, 2, 2]), np.array([1, 1, 3, 3])) == pytest.approx(1 / 7)
    assert box_iou(np.array([0, 0, 1, 1]), np.array([5, 0, 6, 1])) == 0


def test_one_face_in_the_sample_photo(hopper):
    boxes = detect_faces(hopper)
    assert boxes.shape == (1, 4)
    assert box_iou(boxes[0], HOPPER_BOX) > 0.7


def test_the_box_goes_with_the_photo(hopper):
    [box] = detect_faces(hopper)
    wide = hopper.shape[1] - 1
    [mirrored] = detect_faces(np.ascontiguousarray(hopper[:, ::-1]))
    assert box_iou(mirrored, np.array([wide - box[2], box[1], wide - box[0], box[3]])) > 0.85
    [large] = detect_faces(hopper.repeat(3, 0).repeat(3, 1))
    assert box_iou((large - 1) / 3, box) > 0.85
    canvas = np.full((700, 640, 3), 40, np.uint8)
    canvas[50:650, 70:582] = hopper
    [moved] = detect_faces(canvas)
    assert box_iou(moved - [70, 50, 70, 50], box) > 0.85


def test_the_largest_face_comes_first(hopper):
    small = cv2.resize(hopper, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    both = np.full((600, 512 + small.shape[1], 3), 40, np.uint8)
    both[: small.shape[0], : small.shape[1]] = small
    both[:, small.shape[1] :] = hopper
    boxes = detect_faces(both)
    assert len(boxes) == 2
    assert box_iou(boxes[0] - [small.shape[1], 0, small.shape[1], 0], HOPPER_BOX) > 0.6
    assert box_iou(boxes[1] / 0.6, HOPPER_BOX) > 0.6
    rng = np.random.default_rng(0)
    assert detect_faces(rng.integers(0, 256, (300, 200, 3), np.uint8)).shape == (0, 4)


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (20, 20), (400, 300)])
def test_pictures_without_a_face(size):
    boxes = detect_faces(np.full((*size, 3), 200, np.uint8))
    assert boxes.shape == (0, 4)


def test_real_faces_are_found(aflw_samples):
    samples = [read_sample(path) for path in find_samples(aflw_samples)]
    found = 0
    for sample in samples:
        boxes = detect_faces(read_image(sample.image_path))
        found += any(box_iou(box, box_of(sample.landmarks_px)) > 0.4 for box in boxes)
    assert found >= 6


def test_profiles_of_both_sides_are_looked_for(monkeypatch):
    """The profile cascade knows one side: it also searches the mirrored photo, whose finds are turned back."""
    photo = np.zeros((200, 300, 3), np.uint8)
    photo[60:140, 40:120] = 255
    seen = []

    def bright(grey, name, least_px):
        column = np.flatnonzero(grey.max(0) == 255)
        seen.append(("profile" in name, column[0]))
        mirrored = column[0] > 150
        return np.array([[column[0], 60.0, column[-1] + 1, 140, 3]]) if mirrored else np.zeros((0, 5))

    monkeypatch.setattr(detect, "search", bright)
    [box] = detect_faces(photo)
    assert sorted(seen) == [(False, 40), (True, 40), (True, 180)]
    left, top, right, bottom = TO_LANDMARK_BOX["profile"]
    np.testing.assert_allclose(box, [120 - 80 * right, 60 + 80 * top, 120 - 80 * left, 60 + 80 * bottom], atol=1e-6)


def test_of_overlapping_finds_the_surest_stays():
    finds = np.array([[0, 0, 10, 10, 1.0], [1, 1, 11, 11, 5], [50, 50, 60, 60, 2], [2, 2, 5, 5, 9], [9, 9, 20, 20, 3]])
    kept = suppress_overlapping(finds)
    assert kept[:, 4].tolist() == [9, 3, 2]  # 5 and 1 cover the surest, which lies inside both
    assert suppress_overlapping(np.zeros((0, 5))).shape == (0, 5)
    apart = finds[[0, 2]]
    np.testing.assert_array_equal(suppress_overlapping(apart), apart[::-1])


def test_a_cascades_box_is_brought_to_the_landmarks():
    found = np.array([[100, 200, 300, 400, 7.0]])
    for kind, (left, top, right, bottom) in TO_LANDMARK_BOX.items():
        expected = [100 + 200 * left, 200 + 200 * top, 100 + 200 * right, 200 + 200 * bottom, 7]
        np.testing.assert_allclose(landmark_boxes(found, kind), [expected])
        assert 0 <= left < 0.3 < 0.7 < right <= 1
        assert 0.05 < top < bottom < 1.2


def test_fast_looks_at_a_small_picture_first_and_at_a_larger_one_only_if_it_must(hopper, monkeypatch):
    [box] = detect_faces(hopper, "fast")
    assert box_iou(box, HOPPER_BOX) > 0.6
    shapes = []
    answers = iter([0, 0, 0, 1])

    def search(grey, name, least_px):
        shapes.append((grey.shape, "profile" in name))
        return np.array([[10, 10, 60.0, 60, 3]]) if next(answers) else np.zeros((0, 5))

    monkeypatch.setattr(detect, "search", search)
    boxes = detect_faces(np.zeros((800, 400, 3), np.uint8), "fast")
    # Nothing at 224 px, not even profiles; at 640 a frontal face, so no profiles there.
    assert shapes == [((224, 112), False), ((224, 112), True), ((224, 112), True), ((640, 320), False)]
    left, top, right, bottom = (10 + 50 * share for share in TO_LANDMARK_BOX["frontal"])
    np.testing.assert_allclose(boxes, [(np.array([left, top, right, bottom]) + 0.5) / 0.8 - 0.5])


def test_blazeface_where_mediapipe_is_installed(monkeypatch):
    """A stand-in of mediapipe's interface: shares of the picture become px of the landmarks' box."""
    box = SimpleNamespace(xmin=0.25, ymin=0.5, width=0.5, height=0.25)
    find = SimpleNamespace(location_data=SimpleNamespace(relative_bounding_box=box), score=[0.9])
    network = SimpleNamespace(process=lambda image: SimpleNamespace(detections=[find]))
    solutions = SimpleNamespace(face_detection=SimpleNamespace(FaceDetection=lambda **_: network))
    monkeypatch.setitem(sys.modules, "mediapipe", SimpleNamespace(solutions=solutions))
    detect.blazeface_network.cache_clear()
    left, top, right, bottom = TO_LANDMARK_BOX["blazeface"]
    expected = [49.5 + 100 * left, 49.5 + 25 * top, 49.5 + 100 * right, 49.5 + 25 * bottom]
    np.testing.assert_allclose(detect_faces(np.zeros((100, 200, 3), np.uint8), "blazeface"), [expected])
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    detect.blazeface_network.cache_clear()
    with pytest.raises(InputError, match=r"blazeface: no such package here.*pip install mediapipe"):
        detect_faces(np.zeros((9, 9, 3), np.uint8), "blazeface")
