import json
import os
import shutil

import numpy as np
import pytest
import scipy.io
from conftest import SET_COUNT, SET_PX
from example_predictions import photo

from p2m_core.config.loading import load_config
from p2m_core.config.settings import AugmentConfig
from p2m_core.data.aflw2000 import find_samples, read_sample
from p2m_core.data.face_store import FaceStore
from p2m_core.errors import InputError
from p2m_core.geometry.crop import box_of
from p2m_core.metrics import nme68_2d
from p2m_core.morphable.model import FaceModel
from p2m_synth.mat_files import save_face_model
from p2m_workbench.measuring.evaluate import mean_face_at_crop
from p2m_workbench.preprocessing import faces, preprocess, store_writer
from p2m_workbench.preprocessing.faces import choose_face_model

FILES = ("images.bin", "samples.npz", "model.npz")
MOVED = AugmentConfig(flip=0.5, rotate_deg=20, scale=0.2, shift=0.05, color=0, blur=0, noise=0, occlude=0)


@pytest.fixture
def raw(synthetic_set, tmp_path):
    """A copy of the synthetic set in one folder, as AFLW2000-3D lies, to be spoilt."""
    folder = shutil.copytree(synthetic_set / "00000", tmp_path / "raw")
    shutil.copy(synthetic_set / "recipe.json", folder)
    return folder


def settings(tiny_settings, raw, out, *more):
    return load_config(None, ["name=tiny", *tiny_settings, f"data.raw={raw}", f"data.store={out}", *more])


# --- stopping and starting ---


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(store_writer, "PART_SIZE", 5)


@pytest.fixture(scope="module")
def in_fives(tiny_settings, synthetic_set, tmp_path_factory):
    """Hashes of the store that is made in parts of five, undisturbed."""
    out = tmp_path_factory.mktemp("fives") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_writer, "PART_SIZE", 5)
        return preprocess(settings(tiny_settings, synthetic_set, out)).manifest["sha256"]


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stopped_run_goes_on_to_the_same_store(
    in_fives, tiny_settings, synthetic_set, tmp_path, small_parts, monkeypatch, stop
):
    """Killed between parts, in a part, and (5) before the first file of the store itself."""
    out = tmp_path / "out"
    config = settings(tiny_settings, synthetic_set, out)
    real_part, real_merge = store_writer.write_part, store_writer.merge_parts
    written = []

    def dying(part):
        if len(written) == stop:
            raise KeyboardInterrupt
        written.append(part.out)
        return real_part(part)

    def dying_merge(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(store_writer, "write_part", dying)
    monkeypatch.setattr(store_writer, "merge_parts", dying_merge)
    with pytest.raises(KeyboardInterrupt):
        preprocess(config)
    with pytest.raises(InputError, match="is no finished store"):
        FaceStore(out)
    kept = {path: path.stat().st_mtime_ns for path in written}
    assert len(kept) == stop
    # what a kill in the middle of a part leaves is not taken for the part
    (written[0].parent / f".{written[0].stem}.1-abc.partial.npz").write_bytes(b"half")

    reads = []
    monkeypatch.setattr(faces, "read_sample", lambda path: reads.append(path) or read_sample(path))
    monkeypatch.setattr(store_writer, "write_part", real_part)

    def merge(parts, *args):
        assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
        real_merge(parts, *args)

    monkeypatch.setattr(store_writer, "merge_parts", merge)
    preprocess(config)
    assert len(reads) == SET_COUNT - sum(min(5, SET_COUNT - 5 * k) for k in range(stop))
    assert json.loads((out / "manifest.json").read_text())["sha256"] == in_fives
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "manifest.json"])


def test_two_workers_make_the_same_store(in_fives, tiny_settings, synthetic_set, tmp_path, small_parts):
    made = preprocess(settings(tiny_settings, synthetic_set, tmp_path / "out", "data.workers=2"))
    assert made.manifest["sha256"] == in_fives


def test_folders_of_samples_make_the_store_that_one_folder_makes(tiny_settings, store, raw, tmp_path):
    flat = preprocess(settings(tiny_settings, raw, tmp_path / "out"))
    assert flat.manifest["sha256"] == store.manifest["sha256"]
    assert flat.manifest["key"] != store.manifest["key"]


def test_hidden_landmarks_are_in_the_table(tiny_settings, synthetic_set, store, raw, tmp_path):
    expected = [read_sample(path).hidden for path in find_samples(synthetic_set)]
    np.testing.assert_array_equal(store.table["hidden"], expected)
    assert store.table["hidden"].dtype == np.uint8
    assert 0 < store.table["hidden"].mean() < 0.6
    spoil(raw, "image00001", hidden_68=None)
    again = preprocess(settings(tiny_settings, raw, tmp_path / "out"))
    np.testing.assert_array_equal(again.table["hidden"], [np.zeros(68), *expected[1:]])


def test_a_store_of_the_same_files_is_kept(tiny_settings, raw, tmp_path, monkeypatch):
    out = tmp_path / "out"
    preprocess(settings(tiny_settings, raw, out))
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    monkeypatch.setattr(store_writer, "write_part", lambda part: pytest.fail("made anew"))
    preprocess(settings(tiny_settings, raw, out, "data.workers=2", "train.lr=1"))
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    ["data.store_px=64", "data.split_seed=4", "template.rings=3", "data.face_model=fit"],
)
def test_another_setting_makes_it_anew(tiny_settings, raw, tmp_path, change):
    out = tmp_path / "out"
    first = preprocess(settings(tiny_settings, raw, out)).manifest
    second = preprocess(settings(tiny_settings, raw, out, change)).manifest
    assert first["key"] != second["key"]
    assert first["sha256"] != second["sha256"]


def test_another_file_makes_it_anew(tiny_settings, raw, tmp_path):
    out = tmp_path / "out"
    config = settings(tiny_settings, raw, out)
    preprocess(config)
    (raw / "image00002.mat").unlink()
    preprocess(config)
    assert len(FaceStore(out)) == SET_COUNT - 1
    os.utime(raw / "image00001.mat", ns=(1, 1))
    before = (out / "manifest.json").stat().st_mtime_ns
    preprocess(config)
    assert (out / "manifest.json").stat().st_mtime_ns > before


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("way", ["cut", "gone"])
def test_a_damaged_store_is_told_and_made_anew(tiny_settings, raw, tmp_path, name, way):
    out = tmp_path / "out"
    config = settings(tiny_settings, raw, out)
    good = preprocess(config).manifest["sha256"]
    path = out / name
    content = path.read_bytes()
    path.unlink() if way == "gone" else path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"{name}.*\(run p2m preprocess again\)"):
        FaceStore(out)
    assert preprocess(config).manifest["sha256"] == good
    assert path.read_bytes() == content


def test_a_mended_picture_is_taken_up(tiny_settings, raw, tmp_path):
    picture = raw / "image00002.jpg"
    content = picture.read_bytes()
    picture.write_bytes(content[:1000])
    config = settings(tiny_settings, raw, tmp_path / "out")
    assert len(preprocess(config)) == SET_COUNT - 1
    picture.write_bytes(content)
    store = preprocess(config)
    assert len(store) == SET_COUNT
    assert store.manifest["skipped"] == []


def test_a_store_of_another_version_is_refused(store, tmp_path):
    folder = shutil.copytree(store.folder, tmp_path / "old")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": 0}))
    with pytest.raises(InputError, match=r"version: is 0, not \d+ \(run p2m preprocess again\)"):
        FaceStore(folder)


# --- bad samples ---


def spoil(raw, name, **fields):
    path = raw / f"{name}.mat"
    content = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")} | fields
    scipy.io.savemat(path, {k: v for k, v in content.items() if v is not None})


def test_bad_samples_are_listed_and_skipped(tiny_settings, raw, tmp_path, caplog):
    jpg = raw / "image00002.jpg"
    jpg.write_bytes(jpg.read_bytes()[:1500])
    spoil(raw, "image00004", Pose_Para=None)
    spoil(raw, "image00006", pt3d_68=np.random.default_rng(0).uniform(500, 600, (3, 68)))
    spoil(raw, "image00008", Shape_Para=np.zeros((99, 1)))
    (raw / "image00010.mat").write_bytes(b"MATLAB 5.0")
    (raw / "image00012.jpg").unlink()
    (raw / "image00014.jpg").write_text("no picture")
    bad = {2, 4, 6, 8, 10, 12, 14}
    store = preprocess(settings(tiny_settings, raw, tmp_path / "out"))
    good = [f"image{k:05d}" for k in range(1, SET_COUNT + 1) if k not in bad]
    assert store.table["name"].tolist() == good
    lines = {line.split(".", 1)[0].rpartition("image")[2]: line for line in store.manifest["skipped"]}
    assert len(store.manifest["skipped"]) == len(bad)
    assert set(lines) == {f"{k:05d}" for k in bad}
    wanted = {
        "00002": "image00002.jpg: is damaged", "00004": "image00004.mat: Pose_Para: is missing",
        "00006": "image00006.mat: pt3d_68: spans 4", "00008": "image00008.mat: Shape_Para: 99 shape and 29 expression",
        "00010": "image00010.mat: is damaged", "00012": "image00012.mat: has no image", "00014": "image00014.jpg: is ",
    }  # fmt: skip
    for key, text in wanted.items():
        assert text in lines[key], lines[key]
        assert lines[key].endswith(")")  # the remedy
        assert len(lines[key].splitlines()) == 1
        assert f"image{key}" in caplog.text
    # the others are as they were, whatever stood between them
    index = store.table["name"].tolist().index("image00009")
    sample = read_sample(raw / "image00009.mat")
    np.testing.assert_allclose(store.to_crop(sample.landmarks_px, index).mean(0)[:2], 39.5, atol=12)
    assert store.crop(index).shape == (80, 80, 3)


def test_a_set_of_bad_samples_only_is_one_line(tiny_settings, raw, tmp_path):
    for path in raw.glob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of its samples can be used, the first: .*image00001"):
        preprocess(settings(tiny_settings, raw, tmp_path / "out"))
    with pytest.raises(InputError, match="is no finished store"):
        FaceStore(tmp_path / "out")


def test_folders_without_samples(tiny_settings, tmp_path):
    with pytest.raises(InputError, match="nowhere: is missing"):
        preprocess(settings(tiny_settings, tmp_path / "nowhere", tmp_path / "out"))
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match="has no sample"):
        preprocess(settings(tiny_settings, tmp_path / "raw", tmp_path / "out"))


# --- face models ---


def test_a_face_model_in_a_folder(tiny_settings, raw, tmp_path, face_model):
    """The same model read from Model_Shape.mat and Model_Exp.mat gives the same truth; a missing one is named."""
    save_face_model(tmp_path / "model", face_model)
    store = preprocess(settings(tiny_settings, raw, tmp_path / "out", f"data.face_model={tmp_path / 'model'}"))
    assert store.manifest["residual_percent_mean"] < 0.01
    with pytest.raises(InputError, match=r"Model_Shape\.mat: is missing"):
        preprocess(settings(tiny_settings, raw, tmp_path / "out", f"data.face_model={tmp_path / 'absent'}"))
    FaceStore(tmp_path / "out")  # which is still there


def test_auto_takes_our_own_model_for_our_own_sets_and_fits_others(tiny_settings, raw, tmp_path, home):
    config = settings(tiny_settings, raw, tmp_path / "out")
    assert preprocess(config).manifest["face_model"] == "synthetic"
    (raw / "recipe.json").unlink()
    store = preprocess(config)
    assert store.manifest["face_model"] == "fit"
    residual = store.table["residual_percent"]
    assert 0.05 < residual.mean() < 1.5  # a fit, near but not exact
    # the fitted pose serves the vertices, the file's own is kept beside it
    assert abs(store.table["pose"] - store.table["file_pose"]).max() > 1e-4
    found = np.stack([store.template.landmarks(store.truth_px(k)) for k in range(len(store))])
    assert nme68_2d(found, store.table["landmarks_px"]).mean() < 3


def test_auto_takes_the_basel_model_where_it_is(raw, home, face_model):
    (raw / "recipe.json").unlink()
    plain = FaceModel(**{**vars(face_model), "mean": face_model.mean + 1})
    save_face_model(home / "data" / "raw" / "BFM", plain)
    model, fit, name = choose_face_model("auto", raw)
    assert (fit, name) == (False, str(home / "data" / "raw" / "BFM"))
    np.testing.assert_allclose(model.mean, plain.mean, atol=0.1)


def test_the_real_samples_by_a_fit(aflw_samples, tmp_path):
    config = load_config(None, [f"data.raw={aflw_samples}", f"data.store={tmp_path / 'real'}", "data.workers=1"])
    store = preprocess(config)
    assert len(store) == 8
    assert store.manifest["face_model"] == "fit"
    assert store.manifest["skipped"] == []
    assert store.manifest["residual_percent_mean"] < 2
    assert store.table["residual_percent"].max() < 3
    found = np.stack([store.template.landmarks(store.truth_px(k)) for k in range(8)])
    assert nme68_2d(found, store.table["landmarks_px"]).mean() < 2.5
    assert store.crop(0).std() > 20


def test_a_sample_of_another_kind_of_picture(tiny_settings, raw, tmp_path):
    """A .png is read as well as a .jpg, and its crop kept as JPEG."""
    from PIL import Image

    (raw / "image00001.jpg").unlink()
    Image.fromarray(photo(SET_PX, SET_PX)).save(raw / "image00001.png")
    store = preprocess(settings(tiny_settings, raw, tmp_path / "out"))
    assert len(store) == SET_COUNT
    assert bytes(store.images[:2]) == b"\xff\xd8"


@pytest.mark.parametrize("change", ["template.kind=ellipsoid", "template.file=mine.obj"])
def test_another_template_is_refused_for_faces(tiny_settings, change):
    with pytest.raises(InputError, match=r"template\.(kind|file): faces want a template that is registered"):
        preprocess(load_config(None, ["name=a", *tiny_settings, change]))


# --- the box that is cut around ---


def test_crops_are_cut_around_the_landmarks_box(store):
    np.testing.assert_allclose(store.table["box_px"], box_of(store.table["landmarks_px"]), atol=1e-4)
    rows = store.rows("all")
    scale, shift = mean_face_at_crop(store, rows)
    mean = store.template.landmarks(store.template.vertices) * [1, -1, 1]
    np.testing.assert_allclose(box_of(scale[:, None] * mean + shift[:, None]), store.table["box_px"], atol=1e-3)
