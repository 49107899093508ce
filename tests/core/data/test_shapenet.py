"""p2m_core.data.shapenet: both packed formats, published lists, and what training asks of the views."""

import pickle
import shutil

import numpy as np
import oracles
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch.utils.data import DataLoader, Subset

from p2m_core.config.loading import load_config
from p2m_core.data import open_store
from p2m_core.data.clouds import on_input
from p2m_core.data.shapenet import ObjectStore, on_white, read_list, read_view, scaled
from p2m_core.data.splits import SPLITS
from p2m_core.errors import InputError
from p2m_core.geometry.camera import project_perspective
from p2m_core.targets import Truth


@pytest.fixture(scope="module")
def config(object_set):
    return load_config(
        "object-tiny", [f"data.raw={object_set}", "data.val_share=0.4", "data.split_seed=3", "loss.points=500"]
    )


@pytest.fixture(scope="module")
def store(config):
    return open_store(config)


@pytest.fixture
def view(tmp_path):
    """A folder with one view of 3 points in the packed format."""
    path = tmp_path / "raw" / "data_tf" / "02958343" / "abc" / "rendering" / "00.dat"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(np.arange(18.0).reshape(3, 6)))
    Image.fromarray(np.full((137, 137, 4), 100, np.uint8)).save(path.with_suffix(".png"))
    return path


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "data_tf/", "Data/ShapeNetP2M/", "/somewhere/else/"])
def test_lines_of_published_lists_are_found(view, tmp_path, prefix):
    path = tmp_path / "train.txt"
    path.write_text(f"{prefix}02958343/abc/rendering/00.dat\r\n\n")
    for folder in (tmp_path / "raw", tmp_path / "raw" / "data_tf"):
        found = read_list(path, folder)
        assert found == {"name": ["car/abc/00"], "category": ["car"], "model": ["abc"], "path": [str(view)]}


def test_lines_of_the_larger_set(tmp_path):
    (tmp_path / "data" / "04256520").mkdir(parents=True)
    path = tmp_path / "test.txt"
    path.write_text("04256520_1a4_02.dat\n04256520\\1a4_03.dat\n")
    found = read_list(path, tmp_path)
    assert found["name"] == ["couch/1a4/02", "couch/1a4/03"]
    assert found["path"] == [str(tmp_path / "data" / "04256520" / f"1a4_0{k}.dat") for k in (2, 3)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", r"train\.txt: line 1: 'nonsense' names no view"),
        ("x/y/rendering/0.dat", "line 1: there is no folder x"),
    ],
)
def test_lines_that_name_nothing(tmp_path, line, message):
    (tmp_path / "train.txt").write_text(line)
    with pytest.raises(InputError, match=message):
        read_list(tmp_path / "train.txt", tmp_path)


def test_both_formats_give_the_same_view(view, tmp_path):
    picture, points = read_view(view)
    assert picture.shape == (137, 137, 3)
    assert (picture == 100).all()
    np.testing.assert_array_equal(points, np.arange(18, dtype=np.float32).reshape(3, 6))
    whole = tmp_path / "whole.dat"
    for image in (picture, picture.astype(np.float64)):
        whole.write_bytes(pickle.dumps([image, points.astype(np.float64)], protocol=2))
        for a, b in zip(read_view(whole), (picture, points), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


class Malicious:
    def __reduce__(self):
        return print, ("gotcha",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Malicious(), r"00\.dat: is not a pickle of numpy arrays: it asks for builtins\.print"),
        (np.zeros((3, 5)), r"00\.dat: points: has shape \(3, 5\)"),
        (np.zeros((0, 6)), r"00\.dat: points: has shape \(0, 6\)"),
        (np.zeros((3, 6), dtype="S1"), r"00\.dat: points: .* type \|S1"),
        (np.full((3, 6), np.nan), r"00\.dat: point 0: 3 points are not finite"),
        ([np.zeros((4, 4), np.uint8), np.zeros((3, 6))], r"00\.dat: picture: has shape \(4, 4\)"),
    ],
)
def test_bad_pickles_are_named(view, content, message, capsys):
    view.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=message):
        read_view(view)
    assert not capsys.readouterr().out


def test_missing_and_damaged_files_are_named(view):
    view.with_suffix(".png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"00\.png: cannot be read as a picture"):
        read_view(view)
    view.with_suffix(".png").unlink()
    with pytest.raises(InputError, match=r"00\.png: is missing"):
        read_view(view)
    view.unlink()
    with pytest.raises(InputError, match=r"00\.dat: is missing"):
        read_view(view)


def test_transparent_pixels_become_white_and_no_others():
    picture = np.array([[(10, 20, 30, 0), (10, 20, 30, 1), (10, 20, 30, 255)]], np.uint8)
    assert on_white(picture).tolist() == [[[255] * 3, [10, 20, 30], [10, 20, 30]]]
    assert on_white(picture[..., :3]).tolist() == picture[..., :3].tolist()


@pytest.mark.parametrize("size", [224, 64])
def test_scaling_keeps_the_centre_and_the_edges(size):
    ramp = np.uint8(np.broadcast_to(np.arange(137)[None, :, None], (137, 137, 3)))
    row = scaled(ramp, size)[size // 2, :, 0] * 255
    places = (np.arange(size) + 0.5) * 137 / size - 0.5
    np.testing.assert_allclose(row, places.clip(0, 136), atol=0.02 if size > 137 else 0.6)


# --- the store ------------------------------------------------------------------------------------


def test_a_store_is_what_the_lists_say(store, object_set):
    assert len(store) == len(store.rows("all")) == 12
    assert store.manifest["splits"] == {"train": 2, "val": 4, "test": 6}
    assert store.manifest["categories"] == {"car": 4, "sofa": 4, "vase": 4}
    assert store.manifest["raw"] == str(object_set)
    assert store.template.counts == (162, 642, 2562)
    models = [set(store.table["model"][store.rows(split)]) for split in SPLITS]
    assert not models[0] & models[1] | models[0] & models[2] | models[1] & models[2]


def test_lists_may_lie_elsewhere_but_must_be_there(config, object_set, tmp_path):
    lists = tmp_path / "lists" / "meta"
    lists.mkdir(parents=True)
    for split in ("train", "test"):
        shutil.copy(object_set / f"{split}.txt", lists / f"{split}_tf.txt")
    moved = config.model_copy(update={"data": config.data.model_copy(update={"lists": str(lists.parent)})})
    assert len(ObjectStore(object_set, moved)) == 12
    with pytest.raises(InputError, match=r"train\.txt: there is no list of views"):
        ObjectStore(tmp_path, config)


def test_a_view_in_both_lists_is_refused_and_a_model_in_both_is_said(config, object_set, tmp_path, caplog):
    shutil.copytree(object_set, tmp_path / "set")
    first, *others = (tmp_path / "set" / "train.txt").read_text().splitlines()
    (tmp_path / "set" / "test.txt").write_text(first)
    with pytest.raises(InputError, match="1 of its views are in"):
        ObjectStore(tmp_path / "set", config)
    (tmp_path / "set" / "train.txt").write_text("\n".join(others))
    assert ObjectStore(tmp_path / "set", config).manifest["models in train and test"] == 1
    assert "1 models have views in both lists" in caplog.text


def test_points_of_the_object_frame_fall_on_the_object(store, config):
    side = config.model.input_px
    for item in (store.dataset(store.rows("all"), config, train=False)[k] for k in range(0, 12, 3)):
        assert item["image"].shape == (3, side, side)
        assert 0 <= item["image"].min() < item["image"].max() <= 1
        assert np.abs(item["points"]).max() < 0.32
        np.testing.assert_allclose(np.linalg.norm(item["normals"], axis=1), 1, atol=1e-5)
        x, y, _ = store.on_image(item["points"], 4 * side).T
        enlarged = item["image"].min(0).repeat(4, 0).repeat(4, 1)
        assert (enlarged[y.round().astype(int), x.round().astype(int)] < 0.999).mean() > 0.98


def test_drawing_and_the_network_share_their_camera(config):
    model = config.model
    vertices = np.random.default_rng(0).uniform(-0.2, 0.2, (50, 3)).astype(np.float32)
    grid = project_perspective(
        torch.from_numpy(vertices), model.focal_px, model.centre_px, model.input_px, model.mesh_offset
    )
    half = (model.input_px - 1) / 2
    px = on_input(vertices, model, model.input_px)
    np.testing.assert_allclose(px[:, :2], grid.numpy() * half + half, atol=1e-4)
    twice = on_input(vertices, model, 2 * model.input_px)
    np.testing.assert_allclose((twice[:, :2] + 0.5) / 2 - 0.5, px[:, :2], atol=1e-6)
    near, far = on_input(np.array([[0, 0, 0.1], [0, 0, -0.1]]), model, 100)
    assert near[2] > far[2]


def test_training_draws_by_seed_epoch_and_sample(store, config):
    data = store.dataset(store.rows("train"), config, train=True)
    first, again, later = data[0], data[(0, 0)], data[(1, 0)]
    assert first["points"].shape == first["normals"].shape == (500, 3)
    assert "lengths" not in first
    np.testing.assert_array_equal(first["points"], again["points"])
    assert (first["points"] != later["points"]).any()
    np.testing.assert_array_equal(first["image"], later["image"])
    everything = store.dataset(store.rows("train"), config, train=False)[0]
    assert {tuple(p) for p in first["points"]} <= {tuple(p) for p in everything["points"]}
    many = config.model_copy(update={"loss": config.loss.model_copy(update={"points": 7000})})
    assert store.dataset(store.rows("train"), many, train=True)[0]["points"].shape == (7000, 3)


def test_clouds_of_a_batch_are_padded(store, config):
    data = store.dataset(store.rows("all"), config, train=False)
    [batch] = DataLoader(Subset(data, range(3)), 3, generator=torch.Generator())
    alone = [data[k] for k in range(3)]
    assert batch["lengths"].tolist() == [len(item["points"]) for item in alone]
    assert len(set(batch["lengths"].tolist())) > 1
    truth = store.truth_decoder()(batch)
    for k, item in enumerate(alone):
        np.testing.assert_array_equal(truth.points[k, : truth.lengths[k]], item["points"])
        assert not truth.points[k, truth.lengths[k] :].any()


def test_a_template_of_a_file(object_set, config):
    golden = str(ROOT / "tests/golden/ellipsoid.npz")
    changed = config.model_copy(update={"template": config.template.model_copy(update={"file": golden})})
    assert ObjectStore(object_set, changed).template.counts == (156, 618, 2466)


def test_the_error_is_the_chamfer_distance_without_the_padding(store):
    rng = np.random.default_rng(0)
    predicted, points = rng.normal(size=(2, 9, 3)) / 50, rng.normal(size=(2, 12, 3)) / 50
    lengths = [12, 7]
    points[1, 7:] = 0
    found = store.error(torch.tensor(predicted), Truth(points=torch.tensor(points), lengths=torch.tensor(lengths)))
    expected = [oracles.cd_f1(p, q[:n], 1e-4)[0] for p, q, n in zip(predicted, points, lengths, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    whole = store.error(torch.tensor(predicted[:1]), Truth(points=torch.tensor(points[:1])))
    np.testing.assert_allclose(whole, expected[:1], rtol=1e-9)
