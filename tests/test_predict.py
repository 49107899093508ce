"""Photos to meshes, and the faces in photos."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from p2m_core import detect as detect_module
from p2m_core import predict as predict_module
from p2m_core.camera import apply_affine, box_of, crop_matrix
from p2m_core.data.aflw2000 import find_samples, read_image, read_sample
from p2m_core.data.augment import crop_image
from p2m_core.detect import TO_LANDMARK_BOX, detect_faces, keep_distinct, landmark_boxes
from p2m_core.errors import InputError
from p2m_core.facemesh import to_world
from p2m_core.predict import find_photos, open_network, predict, predict_crops, predict_files, sample_photo

HOPPER_BOX = (168, 168, 358, 332)  # brows to chin, jaw to jaw, by eye
SUFFIXES = (".obj", ".ply", ".glb", ".png", ".html", ".json")


@pytest.fixture(scope="module")
def hopper():
    return read_image(sample_photo())


@pytest.fixture(scope="module")
def face(hopper):
    """The middle of the photo, 200 x 200, and the face's box in it at half the size of the photo."""
    return np.ascontiguousarray(hopper[::2, ::2][40:240, 20:220]), np.array([64.0, 44, 159, 126])


def overlap(a, b):
    """Intersection over union of two boxes."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0, wide) * max(0, high)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


# --- meshes ---


def test_a_face_mesh_is_whole(face, tiny_run):
    image, box = face
    [mesh] = predict(image, box[None], tiny_run)
    template = open_network(tiny_run).template
    assert tuple(len(level) for level in mesh.levels) == template.counts == (19, 61, 217, 817)
    np.testing.assert_array_equal(mesh.vertices_px, mesh.levels[-1])
    for level, faces, n in zip(mesh.levels, mesh.level_faces, template.counts, strict=True):
        assert level.dtype == np.float32
        assert level.shape == (n, 3)
        assert np.isfinite(level).all()
        assert faces.max() == n - 1
    np.testing.assert_array_equal(mesh.faces, mesh.level_faces[-1])
    assert mesh.faces.dtype == np.int64
    corners = mesh.vertices_px[template.landmark_faces]
    np.testing.assert_allclose(mesh.landmarks_px, (corners * template.landmark_bary[..., None]).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(mesh.box, np.float32(box))
    # even a network that has learned for seconds puts the face into its box, upright, outwards, towards the viewer
    assert overlap(box_of(mesh.landmarks_px), box) > 0.4
    assert mesh.landmarks_px[8, 1] > mesh.landmarks_px[27, 1]
    assert mesh.landmarks_px[30, 2] > mesh.landmarks_px[[0, 16], 2].max()
    solid = trimesh.Trimesh(to_world(mesh.vertices_px), mesh.faces, process=False)
    assert solid.face_normals[:, 2].mean() > 0.3


def test_moving_photo_and_box_moves_the_mesh(face, tiny_run):
    image, box = face
    canvas = np.random.default_rng(0).integers(0, 255, (260, 280, 3), np.uint8)
    canvas[17:217, 31:231] = image
    [here], [there] = predict(image, box[None], tiny_run), predict(canvas, box[None] + [31, 17, 31, 17], tiny_run)
    for a, b in zip(here.levels, there.levels, strict=True):
        np.testing.assert_allclose(b, a + [31, 17, 0], atol=1e-3)
    np.testing.assert_allclose(there.landmarks_px, here.landmarks_px + [31, 17, 0], atol=1e-3)


def test_a_photo_of_twice_the_size_gives_a_mesh_of_twice_the_size(face, tiny_run):
    """Each px becomes four: its centre c lies at 2 c + 0.5, and so does the mesh; z doubles as well."""
    image, box = face[0], np.array([70.0, 48, 136, 112])  # small enough that the large photo is halved
    large = image.repeat(2, 0).repeat(2, 1)
    [mesh], [double] = predict(image, box[None], tiny_run), predict(large, 2 * box[None] + 0.5, tiny_run)
    np.testing.assert_allclose(double.vertices_px, 2 * mesh.vertices_px + [0.5, 0.5, 0], atol=0.02)


def test_a_mirrored_photo_gives_the_mirrored_mesh(face, tiny_run):
    image, (x0, y0, x1, y1) = face
    wide = image.shape[1] - 1
    [mesh] = predict(image, [[x0, y0, x1, y1]], tiny_run, flip=True)
    [mirrored] = predict(image[:, ::-1], [[wide - x1, y0, wide - x0, y1]], tiny_run, flip=True)
    mirror = open_network(tiny_run).template.mirror
    np.testing.assert_allclose(mirrored.vertices_px[mirror] * [-1, 1, 1] + [wide, 0, 0], mesh.vertices_px, atol=0.02)


def test_flip_averages_with_the_mirrored_prediction(face, tiny_run):
    image, box = face
    model = open_network(tiny_run)
    crop = crop_image(image, crop_matrix(box, 64, 1.3), 64)
    both = predict_crops(model, np.stack([crop, crop[:, ::-1]]), flip=False)
    averaged = predict_crops(model, crop[None], flip=True)
    mirror = model.template.mirror
    for level, (one, other) in zip(averaged, both, strict=True):
        expected = (one + other[mirror[: len(one)]] * [-1, 1, 1]) / 2
        np.testing.assert_allclose(level[0], expected, atol=1e-5)
    assert abs(averaged[-1][0] - both[-1][0]).max() > 1e-3


def test_many_boxes_keep_their_order(face, tiny_run):
    image, box = face
    boxes = np.array([box, box + [20, 5, 20, 5], box - [10, 0, 10, 0]])
    meshes = predict(image, boxes, tiny_run)
    assert [mesh.box.tolist() for mesh in meshes] == np.float32(boxes).tolist()
    [alone] = predict(image, boxes[1:2], tiny_run)
    np.testing.assert_allclose(meshes[1].vertices_px, alone.vertices_px, atol=1e-2)
    assert predict(image, np.zeros((0, 4)), tiny_run) == []
    assert predict(image, [], tiny_run) == []


def test_a_box_at_the_edge_of_the_photo(face, tiny_run):
    image, _ = face
    [mesh] = predict(image, [[-30, -20, 60, 70]], tiny_run)
    assert np.isfinite(mesh.vertices_px).all()


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((40, 40), np.uint8), r"is uint8 of shape \(40, 40\)"),
        (np.zeros((40, 40, 4), np.uint8), r"is uint8 of shape \(40, 40, 4\)"),
        (np.zeros((40, 40, 3)), "is float64 of shape"),
        ([[1, 2], [3, 4]], "is int64 of shape"),
    ],
)
def test_other_images_are_refused(image, told):
    with pytest.raises(InputError, match=rf"image: {told}.*give \(H, W, 3\) uint8 RGB"):
        predict(image, [[0, 0, 9, 9]], "nowhere")


@pytest.mark.parametrize(
    ("boxes", "told"),
    [
        ([5, 5, 30, 30], r"boxes: have shape \(4,\)"),
        ([[5, 5, 30]], r"boxes: have shape \(1, 3\)"),
        ([[5, 5, 5, 30]], "box: .* has no area"),
        ([[30, 30, 5, 5]], "box: .* has no area"),
        ([[5, 5, np.nan, 30]], "box: .* has no area"),
    ],
)
def test_other_boxes_are_refused(face, tiny_run, boxes, told):
    with pytest.raises(InputError, match=told):
        predict(face[0], boxes, tiny_run)


def test_no_face_no_mesh(tiny_run):
    assert predict(np.full((120, 90, 3), 128, np.uint8), None, tiny_run) == []


def test_missing_weights(face):
    with pytest.raises(InputError, match="there are no such weights"):
        predict(face[0], [face[1]], "outputs/absent")


def test_a_network_is_kept_until_its_file_changes(tiny_run, tmp_path):
    path = shutil.copy(tiny_run / "weights.safetensors", tmp_path / "a.safetensors")
    first = open_network(path)
    assert open_network(path) is first
    assert not first.training
    os.utime(path, ns=(1, 1))
    assert open_network(path) is not first


# --- files ---


def test_what_one_takes_away(tiny_run, tmp_path, hopper):
    specimens, problems = predict_files(["grace_hopper"], tmp_path / "out", weights=tiny_run)
    assert problems == []
    [specimen] = specimens
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted("grace_hopper" + s for s in SUFFIXES)
    assert specimen.name == "grace_hopper"
    np.testing.assert_array_equal(specimen.photo, hopper)
    mesh = specimen.mesh
    for suffix in (".obj", ".ply", ".glb"):
        read = trimesh.load(tmp_path / "out" / f"grace_hopper{suffix}", force="mesh", process=False)
        np.testing.assert_allclose(read.vertices, mesh.vertices_px * [1, -1, 1], atol=1e-3)
        np.testing.assert_array_equal(read.faces, mesh.faces)
    content = json.loads((tmp_path / "out" / "grace_hopper.json").read_text())
    np.testing.assert_allclose(content["landmarks_px"], mesh.landmarks_px, rtol=1e-6)
    np.testing.assert_allclose(content["box_px"], mesh.box, rtol=1e-6)
    overlay = read_image(tmp_path / "out" / "grace_hopper.png")
    assert overlay.shape == hopper.shape
    changed = (overlay != hopper).any(-1)
    row, column = np.nonzero(changed)
    assert overlap([column.min(), row.min(), column.max(), row.max()], box_of(mesh.vertices_px)) > 0.8
    assert "<html" in (tmp_path / "out" / "grace_hopper.html").read_text().lower()


def test_bad_photos_are_told_and_the_others_done(face, tiny_run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_text("not a picture")
    Image.fromarray(np.full((80, 80, 3), 90, np.uint8)).save(photos / "b.png")
    shutil.copy(sample_photo(), photos / "c.jpg")
    (photos / "c.txt").write_text("no photo by name")
    content = sample_photo().read_bytes()
    (photos / "d.jpeg").write_bytes(content[: len(content) // 2])
    specimens, problems = predict_files([photos], tmp_path / "out", weights=tiny_run)
    assert [specimen.name for specimen in specimens] == ["c"]
    assert len(problems) == 3
    for line, name, told in zip(
        problems, ("a.jpg", "b.png", "d.jpeg"), ("is damaged or no image", "no face found", "is damaged"), strict=True
    ):
        assert f"{name}: {told}" in line
        assert "\n" not in line
    assert "--box" in problems[1]
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"c"}


def test_further_faces_are_numbered(face, tiny_run, tmp_path):
    image, box = face
    Image.fromarray(image).save(tmp_path / "two.png")
    specimens, _ = predict_files([tmp_path / "two.png"], tmp_path / "out", np.stack([box, box + 5]), tiny_run)
    assert [specimen.name for specimen in specimens] == ["two", "two-2"]
    assert len(list((tmp_path / "out").iterdir())) == 2 * len(SUFFIXES)


def test_photos_of_one_name_do_not_overwrite_each_other(tiny_run, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(sample_photo(), tmp_path / folder / "x.jpg")
    specimens, problems = predict_files([tmp_path / "a", tmp_path / "b"], tmp_path / "out", weights=tiny_run)
    assert [specimen.name for specimen in specimens] == ["x"]
    [line] = problems
    assert "another photo is called x" in line
    assert str(tmp_path / "b") in line


def test_photos_are_turned_as_their_tag_says(tiny_run, tmp_path, hopper):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be shown, turn it by 90 degrees clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(hopper))).save(tmp_path / "turned.png", exif=exif)
    [specimen], problems = predict_files([tmp_path / "turned.png"], tmp_path / "out", weights=tiny_run)
    assert problems == []
    np.testing.assert_array_equal(specimen.photo, hopper)


def test_photos_by_name_folder_and_sample(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    assert find_photos([tmp_path, "grace_hopper"]) == [tmp_path / "a.png", tmp_path / "b.JPG", sample_photo()]
    with pytest.raises(InputError, match="there is no such file"):
        find_photos([tmp_path / "absent.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no picture \(expected \.jpg"):
        find_photos([tmp_path / "empty"])


def test_boxes_go_with_one_photo(tmp_path, tiny_run):
    with pytest.raises(InputError, match="--box: is given with 2 photos"):
        predict_files(["grace_hopper"] * 2, tmp_path, np.array([[1, 2, 3, 4]]), tiny_run)


# --- faces in photos ---


def test_one_face_in_the_sample_photo(hopper):
    boxes = detect_faces(hopper)
    assert boxes.shape == (1, 4)
    assert overlap(boxes[0], HOPPER_BOX) > 0.7


def test_the_box_goes_with_the_photo(hopper):
    [box] = detect_faces(hopper)
    wide = hopper.shape[1] - 1
    [mirrored] = detect_faces(np.ascontiguousarray(hopper[:, ::-1]))
    assert overlap(mirrored, [wide - box[2], box[1], wide - box[0], box[3]]) > 0.85
    [large] = detect_faces(hopper.repeat(3, 0).repeat(3, 1))
    assert overlap((large - 1) / 3, box) > 0.85
    canvas = np.full((700, 640, 3), 40, np.uint8)
    canvas[50:650, 70:582] = hopper
    [moved] = detect_faces(canvas)
    assert overlap(moved - [70, 50, 70, 50], box) > 0.85


def test_the_largest_face_comes_first(hopper):
    small = cv2.resize(hopper, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    both = np.full((600, 512 + small.shape[1], 3), 40, np.uint8)
    both[: small.shape[0], : small.shape[1]] = small
    both[:, small.shape[1] :] = hopper
    boxes = detect_faces(both)
    assert len(boxes) == 2
    assert overlap(boxes[0] - [small.shape[1], 0, small.shape[1], 0], HOPPER_BOX) > 0.6
    assert overlap(boxes[1] / 0.6, HOPPER_BOX) > 0.6
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
        found += any(overlap(box, box_of(sample.landmarks_px)) > 0.4 for box in boxes)
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

    monkeypatch.setattr(detect_module, "search", bright)
    [box] = detect_faces(photo)
    assert sorted(seen) == [(False, 40), (True, 40), (True, 180)]
    left, top, right, bottom = TO_LANDMARK_BOX["profile"]
    np.testing.assert_allclose(box, [120 - 80 * right, 60 + 80 * top, 120 - 80 * left, 60 + 80 * bottom], atol=1e-6)


def test_of_overlapping_finds_the_surest_stays():
    finds = np.array([[0, 0, 10, 10, 1.0], [1, 1, 11, 11, 5], [50, 50, 60, 60, 2], [2, 2, 5, 5, 9], [9, 9, 20, 20, 3]])
    kept = keep_distinct(finds)
    assert kept[:, 4].tolist() == [9, 3, 2]  # 5 and 1 cover the surest, which lies inside both
    assert keep_distinct(np.zeros((0, 5))).shape == (0, 5)
    apart = finds[[0, 2]]
    np.testing.assert_array_equal(keep_distinct(apart), apart[::-1])


def test_a_cascades_box_is_brought_to_the_landmarks():
    found = np.array([[100, 200, 300, 400, 7.0]])
    for kind, (left, top, right, bottom) in TO_LANDMARK_BOX.items():
        expected = [100 + 200 * left, 200 + 200 * top, 100 + 200 * right, 200 + 200 * bottom, 7]
        np.testing.assert_allclose(landmark_boxes(found, kind), [expected])
        assert 0 <= left < 0.3 < 0.7 < right <= 1
        assert 0.1 < top < bottom < 1.2


def test_the_crop_a_network_sees_is_the_one_that_is_taken_back(face, tiny_run, monkeypatch):
    """A network that answers with the template's place in the crop gives that place in the photo."""
    image, box = face
    model = open_network(tiny_run)
    corners = np.array([[-1, -1, 0], [1, 1, 1], [0, 0, 0]], np.float32)
    answer = [np.tile(corners[:1], (len(image_), 1))[None] for image_ in map(np.zeros, model.template.counts)]
    for level in answer:
        level[0, :3] = corners
    monkeypatch.setattr(predict_module, "predict_crops", lambda *_: answer)
    [mesh] = predict(image, box[None], tiny_run)
    side, centre = max(box[2] - box[0], box[3] - box[1]) * 1.3, (box[:2] + box[2:]) / 2
    expected = np.array([[*(centre - side / 2), 0], [*(centre + side / 2), side / 2], [*centre, 0]])
    np.testing.assert_allclose(mesh.vertices_px[:3], expected, atol=1e-3)
    inside = apply_affine(crop_matrix(box, 64, 1.3), mesh.vertices_px[:3])
    np.testing.assert_allclose(inside, [[-0.5, -0.5, 0], [63.5, 63.5, 32], [31.5, 31.5, 0]], atol=1e-3)
    assert torch.is_grad_enabled()
