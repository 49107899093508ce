import numpy as np
import pytest
import torch
from conftest import SET_COUNT, SET_PX

from p2m_core.config.settings import AugmentConfig
from p2m_core.data.aflw2000 import find_samples, read_image, read_sample
from p2m_core.data.augment import draw_matrix
from p2m_core.data.face_store import CropDataset, FaceStore, TruthDecoder
from p2m_core.data.splits import SPLITS
from p2m_core.geometry.camera import model_to_image
from p2m_core.geometry.crop import apply_affine, box_of, compose, crop_image, crop_matrix, ndc_to_px, px_to_ndc
from p2m_core.metrics import nme68_2d
from p2m_core.morphable.registration import face_template

FILES = ("images.bin", "samples.npz", "model.npz")
MOVED = AugmentConfig(flip=0.5, rotate_deg=20, scale=0.2, shift=0.05, color=0, blur=0, noise=0, occlude=0)


def batch_of(dataset, positions):
    return torch.utils.data.default_collate([dataset[k] for k in positions])


# --- round trip ---


def test_every_sample_is_there_once(store, synthetic_set):
    assert len(store) == SET_COUNT
    assert store.table["name"].tolist() == [path.stem for path in find_samples(synthetic_set)]
    manifest = store.manifest
    assert manifest["count"] == SET_COUNT
    assert manifest["skipped"] == []
    assert manifest["face_model"] == "synthetic"
    assert sum(manifest["splits"].values()) == SET_COUNT
    assert set(manifest["sha256"]) == set(FILES)
    assert manifest["residual_percent_mean"] < 0.01  # the files' own coefficients and pose
    assert sorted(path.name for path in store.folder.iterdir()) == sorted([*FILES, "manifest.json"])
    assert manifest["bytes_per_sample"] < 10_000


def test_crops_are_the_photos_around_the_landmarks(store, synthetic_set):
    for index, path in enumerate(find_samples(synthetic_set)):
        sample = read_sample(path)
        matrix = crop_matrix(box_of(sample.landmarks_px), 80, 1.9)
        np.testing.assert_allclose(store.table["crop"][index], matrix)
        crop = store.crop(index)
        assert crop.shape == (80, 80, 3)
        assert crop.dtype == np.uint8
        expected = crop_image(read_image(sample.image_path), matrix, 80)
        assert abs(crop.astype(int) - expected).mean() < 6  # JPEG; colours in order
        inside = store.to_crop(store.table["landmarks_px"][index], index)
        low, high = np.split(box_of(inside), 2)
        np.testing.assert_allclose(low + high, 79, atol=1e-3)
        assert (high - low).max() == pytest.approx(80 / 1.9, abs=1e-3)


def test_true_vertices_are_the_face_models(store, synthetic_set, face_model):
    template, truth = face_template(face_model, "semi_sphere", 2, 4)
    operator = truth.operator
    np.testing.assert_array_equal(store.template.faces[-1], template.faces[-1])
    for index, path in enumerate(find_samples(synthetic_set)):
        sample = read_sample(path)
        dense = operator @ face_model.vertices(sample.shape, sample.expression)
        expected = model_to_image(dense, sample.pose_para, SET_PX)
        np.testing.assert_allclose(store.truth_px(index), expected, atol=0.01)
    # the landmarks on the template lie near the files' own
    found = np.stack([store.template.landmarks(store.truth_px(k)) for k in range(len(store))])
    assert nme68_2d(found, store.table["landmarks_px"]).max() < 3  # 817 vertices: a coarse face


def test_the_networks_input_is_the_photo_around_the_face(store, synthetic_set):
    """The input crop's matrix is that of a crop from the photo itself with the input's margin."""
    for index, path in list(enumerate(find_samples(synthetic_set)))[:5]:
        box = box_of(read_sample(path).landmarks_px)
        direct = crop_matrix(box, 64, 1.3)
        np.testing.assert_allclose(compose(store.input_matrix(64, 1.3), store.table["crop"][index]), direct, atol=1e-9)
        again = crop_image(read_image(path.with_suffix(".jpg")), direct, 64)
        assert abs(store.input_crop(index, 64, 1.3).astype(int) - again).mean() < 12
    np.testing.assert_allclose(store.input_matrix(80, 1.9), [[1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_yaw_and_face_size(store, synthetic_set):
    samples = [read_sample(path) for path in find_samples(synthetic_set)]
    np.testing.assert_allclose(store.yaw_deg(), [np.degrees(sample.pose_para[1]) for sample in samples])
    sizes = [np.sqrt(np.prod(np.ptp(sample.landmarks_px[:, :2], axis=0))) for sample in samples]
    np.testing.assert_allclose(store.face_size_px(), sizes, rtol=1e-5)


# --- splits ---


def test_splits_are_disjoint_and_whole(store):
    rows = {split: set(store.rows(split).tolist()) for split in SPLITS}
    assert set.union(*rows.values()) == set(store.rows("all").tolist()) == set(range(SET_COUNT))
    assert sum(len(part) for part in rows.values()) == SET_COUNT
    assert {split: len(part) for split, part in rows.items()} == store.manifest["splits"]
    assert all(rows.values())


# --- batches and their truth ---


@pytest.mark.parametrize("augment", [None, MOVED], ids=["plain", "moved"])
def test_truth_of_a_batch_equals_the_steps_one_by_one(store, augment):
    dataset = CropDataset(store, store.rows("all"), 64, 1.3, augment, seed=5)
    dataset.epoch = 2
    batch = batch_of(dataset, range(SET_COUNT))
    found = TruthDecoder(store)(batch).vertices.numpy()
    flips = []
    for index in range(SET_COUNT):
        matrix, flip = store.input_matrix(64, 1.3), False
        if augment:
            change, flip = draw_matrix(augment, np.random.default_rng([5, 2, index]), 64)
            matrix = compose(change, matrix)
        in_input = apply_affine(matrix, store.to_crop(store.truth_px(index), index))
        expected = px_to_ndc(in_input, 64)
        expected[:, 2] -= expected[:, 2].mean()
        if flip:
            expected = (expected * [-1, 1, 1])[store.template.mirror]
        np.testing.assert_allclose(found[index], expected, atol=2e-5)
        assert bool(batch["flip"][index]) == flip
        flips.append(flip)
    assert not augment or 3 < sum(flips) < SET_COUNT - 3


def test_picture_and_truth_move_together(store, monkeypatch):
    """A bright spot painted at the tip of the nose of each stored crop is where the truth's tip of the nose is."""

    def painted(self, index):
        tip = self.to_crop(self.template.landmarks(self.truth_px(index)), index)[30]
        row, column = np.mgrid[: self.size_px, : self.size_px]
        bright = 250 * np.exp(-((column - tip[0]) ** 2 + (row - tip[1]) ** 2) / 18)
        return np.repeat(bright[..., None], 3, 2).round().astype(np.uint8)

    monkeypatch.setattr(FaceStore, "crop", painted)
    dataset = CropDataset(store, store.rows("all"), 64, 1.3, MOVED, seed=1)
    batch = batch_of(dataset, range(SET_COUNT))
    truth = store.template.landmarks(TruthDecoder(store)(batch).vertices.numpy())[:, 30]
    row, column = np.mgrid[:64, :64]
    seen = 0
    for picture, place in zip(batch["image"][:, 0].numpy() / 255, truth, strict=True):
        if abs(place[:2]).max() < 0.6:  # the whole spot is in the picture; so may be its mirror image beyond the edge
            x, y = ndc_to_px(place[:2], 64)
            near = picture * (np.hypot(column - x, row - y) < 9)
            centre = np.array([(near * column).sum(), (near * row).sum()]) / near.sum()
            assert near.max() > 0.7
            np.testing.assert_allclose(px_to_ndc(centre, 64), place[:2], atol=0.02)
            seen += 1
    assert seen > 10
    assert batch["flip"].any()
    assert not batch["flip"].all()


def test_items_are_what_the_network_reads(store):
    rows = store.rows("train")
    item = CropDataset(store, rows, 64, 1.3)[1]
    assert item["image"].shape == (3, 64, 64)
    assert item["image"].dtype == np.uint8
    assert item["index"] == rows[1]
    np.testing.assert_array_equal(item["image"], store.input_crop(rows[1], 64, 1.3).transpose(2, 0, 1))


def test_augmentation_hangs_on_seed_epoch_and_sample_alone(store):
    def items(seed=0, rows=None, augment=AugmentConfig()):  # noqa: B008, it is frozen
        return CropDataset(store, store.rows("all") if rows is None else rows, 64, 1.3, augment, seed)

    def same(a, b):
        return all(np.array_equal(a[name], b[name]) for name in a)

    dataset = items()
    first = dataset[3]
    assert same(dataset[3], first)
    assert same(items()[3], first)
    assert same(items()[(0, 3)], first)  # as a sampler asks
    assert same(items(rows=np.array([7, 3]))[1], first)  # its place among others does not matter
    for other in (items()[(1, 3)], items(seed=1)[3]):
        assert not np.array_equal(other["image"], first["image"])
        assert not np.array_equal(other["linear"], first["linear"])
    dataset.epoch = 1
    assert same(dataset[3], items()[(1, 3)])
    still = items(augment=None)
    assert same(still[(4, 3)], still[(0, 3)])
