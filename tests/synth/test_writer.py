"""p2m_synth.writer: which files are written, when, and by whom; not what is in the pictures."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from conftest import SET_COUNT, SET_PX, SET_SEED
from PIL import Image

from p2m_core.config.settings import SynthConfig
from p2m_core.data import aflw2000
from p2m_core.errors import InputError
from p2m_core.geometry.camera import model_to_image
from p2m_synth import sample_files, writer
from p2m_synth.hair.style import CUTS
from p2m_synth.head import expression
from p2m_synth.occluders.things import KINDS
from p2m_synth.render.camera_effects import LOOKS
from p2m_synth.render.light import PLACES
from p2m_synth.wear.clothes import OUTFITS
from p2m_synth.wear.style import HEADWEAR


def settings(out, count, **more):
    return SynthConfig(**{"out": str(out), "count": count, "size_px": SET_PX, "seed": SET_SEED, "workers": 1} | more)


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def head_of(found, expected):
    """Whether one set is the other's beginning; tables line by line."""
    assert set(found) <= set(expected)
    return all(expected[name].startswith(found[name]) for name in found)


@pytest.fixture
def shards_of_three(monkeypatch):
    monkeypatch.setattr(writer, "SHARD_SIZE", 3)


@pytest.fixture
def tiny():
    """Settings of pictures of 32 px."""
    return lambda out, count=8, **more: settings(out, count, size_px=32, **more)


@pytest.fixture
def rendered(monkeypatch):
    """The number of pictures taken, as a list that grows."""
    taken = []
    real = writer.take_picture
    monkeypatch.setattr(writer, "take_picture", lambda *args: taken.append(1) or real(*args))
    return taken


# --- the same bytes ---


def test_the_same_bytes_with_two_workers_and_another_count(synthetic_set, tmp_path):
    found = contents(writer.write_dataset(settings(tmp_path / "two", 3, workers=2)))
    assert len(found) == 11
    assert head_of(found, contents(synthetic_set))


def test_the_same_bytes_on_a_cluster(synthetic_set, tmp_path, scheduler):
    found = contents(writer.write_dataset(settings(tmp_path / "cluster", 3, scheduler=scheduler)))
    assert len(found) == 11
    assert head_of(found, contents(synthetic_set))


def test_another_seed_gives_other_faces(synthetic_set, tmp_path):
    found = contents(writer.write_dataset(settings(tmp_path / "other", 1, seed=SET_SEED + 1)))
    expected = contents(synthetic_set)
    assert all(content != expected[name] for name, content in found.items())


def test_ranges_of_indices_merge_to_one_set(tiny, tmp_path, shards_of_three):
    """As several machines write them: into a folder that they share, or each into its own."""
    whole = contents(writer.write_dataset(tiny(tmp_path / "whole")))
    shared, apart = tmp_path / "shared", tmp_path / "apart"
    for start, count in ((6, 2), (0, 6)):
        writer.write_dataset(tiny(shared, count, start=start))
        shutil.copytree(writer.write_dataset(tiny(apart / str(start), count, start=start)), apart, dirs_exist_ok=True)
        shutil.rmtree(apart / str(start))
    assert contents(shared) == contents(apart) == whole


# --- shards ---


def test_a_set_lies_in_shards(tiny, tmp_path, shards_of_three):
    found = contents(writer.write_dataset(tiny(tmp_path / "set")))
    names = [f"{k // 3:05d}/image{k + 1:05d}{suffix}" for k in range(8) for suffix in (".jpg", ".mat", "_mask.png")]
    tables = [f"0000{shard}/attributes.csv" for shard in range(3)]
    assert set(found) == {"recipe.json", *names, *tables}
    assert [found[name].count(b"\n") for name in tables] == [4, 4, 3]
    assert [path.stem for path in aflw2000.find_samples(tmp_path / "set")] == [f"image{k:05d}" for k in range(1, 9)]


def test_a_larger_count_completes_a_set(tiny, tmp_path, shards_of_three, rendered):
    writer.write_dataset(tiny(tmp_path / "set", 4))
    assert len(rendered) == 4
    writer.write_dataset(tiny(tmp_path / "set", 8))
    assert len(rendered) == 8
    assert contents(tmp_path / "set") == contents(writer.write_dataset(tiny(tmp_path / "once", 8)))


def test_whole_shards_are_not_looked_into(tiny, tmp_path, shards_of_three, monkeypatch):
    writer.write_dataset(tiny(tmp_path / "set"))
    before = contents(tmp_path / "set")
    monkeypatch.setattr(writer, "write_one", lambda job: pytest.fail("made anew"))
    for count in (8, 2):
        writer.write_dataset(tiny(tmp_path / "set", count))
        assert contents(tmp_path / "set") == before


def test_rows_wait_for_their_shard_alone(tiny, tmp_path, shards_of_three, monkeypatch):
    """A table is written as soon as its shard is whole, in order, in whatever order the samples come."""

    def shuffled(function, jobs, *args):
        results = [function(job) for job in jobs]
        for k in (2, 0, 5, 1, 3, 7, 6, 4):
            yield results[k]
            present.append(len(list((tmp_path / "set").glob("*/attributes.csv"))))

    present = []
    monkeypatch.setattr(writer, "map_jobs", shuffled)
    writer.write_dataset(tiny(tmp_path / "set"))
    assert present == [0, 0, 0, 1, 1, 1, 2, 3]
    found = contents(tmp_path / "set")
    monkeypatch.undo()
    monkeypatch.setattr(writer, "SHARD_SIZE", 3)
    assert found == contents(writer.write_dataset(tiny(tmp_path / "once")))


@pytest.mark.parametrize(("start", "near"), [(1, "0 or 1000"), (1999, "1000 or 2000")])
def test_a_start_within_a_shard_is_refused(tmp_path, start, near):
    with pytest.raises(InputError, match=rf"start: is {start}, not a multiple of 1000 \(choose {near}\)"):
        writer.write_dataset(settings(tmp_path / "set", 1, start=start))
    assert not (tmp_path / "set").exists()


# --- going on ---


@pytest.mark.parametrize("lost", ["image00003.mat", "image00007.*", "image00011.jpg", "image00002_mask.png"])
def test_a_stopped_run_goes_on_to_the_same_set(synthetic_set, tmp_path, lost, rendered):
    shard = shutil.copytree(synthetic_set, tmp_path / "set") / "00000"
    for path in (*shard.glob(lost), shard / "attributes.csv"):
        path.unlink()
    times = {path.name: path.stat().st_mtime_ns for path in shard.iterdir()}
    writer.write_dataset(settings(tmp_path / "set", SET_COUNT))
    assert len(rendered) == 1
    assert contents(tmp_path / "set") == contents(synthetic_set)
    unchanged = [path for path in shard.iterdir() if times.get(path.name) == path.stat().st_mtime_ns]
    assert len(unchanged) >= 3 * (SET_COUNT - 1)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=["SIGKILL", "SIGTERM"]
)
def test_a_killed_run_goes_on_to_the_same_set(tiny, tmp_path, number):
    folder = tmp_path / "killed"
    words = [folder, "--count", "1000", "--size", "32", "--seed", str(SET_SEED), "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-m", "p2m_workbench", "synth", *words], stderr=subprocess.DEVNULL)
    while len(list(folder.glob("*/image*.mat"))) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait(60) == (130 if number == signal.SIGTERM else -number)
    assert not (folder / "00000" / "attributes.csv").exists()
    (folder / "00000" / ".image00009.1-2.partial.jpg").write_bytes(b"half")  # what a kill in a write leaves
    count = len(list(folder.glob("*/image*.mat"))) + 3
    assert contents(writer.write_dataset(tiny(folder, count))) == contents(
        writer.write_dataset(tiny(tmp_path / "whole", count))
    )


def test_a_run_that_dies_leaves_no_finished_set(tmp_path, monkeypatch):
    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "take_picture", die)
    with pytest.raises(KeyboardInterrupt):
        writer.write_dataset(settings(tmp_path / "set", 2))
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["recipe.json"]


def test_a_cluster_has_to_see_the_folder(tmp_path):
    job = writer.Job(tmp_path / "set" / "00000", 0, writer.Recipe())
    with pytest.raises(InputError, match=r"set: .* \(choose a folder that all machines of the cluster share\)"):
        writer.write_one(job)
    assert not (tmp_path / "set").exists()


# --- the recipe ---


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 9}, "seed=3"),
        ({"size_px": 64}, "size_px=96"),
        ({"yaw": "uniform"}, "yaw=aflw2000"),
        ({"perspective": True}, "perspective=0.0"),
        ({"even": 0.5}, "even=0.0"),
    ],
)
def test_another_recipe_is_refused(synthetic_set, changes, told):
    with pytest.raises(InputError, match=f"recipe.json: the folder holds a set made with {told} "):
        writer.write_dataset(settings(synthetic_set, SET_COUNT, **changes))


def test_a_set_from_before_a_setting_goes_on(tmp_path):
    """Its recipe lacks `even`, which was 0."""
    out = tmp_path / "set"
    writer.write_dataset(settings(out, 1))
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe.pop("even") == 0
    (out / "recipe.json").write_text(json.dumps(recipe))
    writer.write_dataset(settings(out, 2))
    with pytest.raises(InputError, match=r"made with even=0\.0"):
        writer.write_dataset(settings(out, 2, even=1.0))


def test_every_setting_that_decides_the_bytes_is_in_the_recipe(synthetic_set):
    recipe = json.loads((synthetic_set / "recipe.json").read_text())
    decides = set(SynthConfig.model_fields) - {"out", "start", "count", "workers", "scheduler"}
    assert set(recipe) == decides | {"generator", "face_model"}
    assert set(writer.Recipe.__dataclass_fields__) == decides


def test_backgrounds_are_known_by_their_pictures(tmp_path):
    def described(folder):
        return writer.Recipe.of(settings(tmp_path / "set", 1, backgrounds=str(folder))).described()["backgrounds"]

    with pytest.raises(InputError, match=r"pictures: holds no pictures to stand before"):
        described(tmp_path / "pictures")
    for folder, size in (("pictures", 8), ("copy", 8), ("other", 90)):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(tmp_path / folder / "wall.PNG")
    assert described(tmp_path / "pictures").startswith("1 pictures, ")
    assert described(tmp_path / "pictures") == described(tmp_path / "copy") != described(tmp_path / "other")


# --- ground truth beside the pictures, over 200 samples ---

WIDE_COUNT, WIDE_PX, WIDE_SEED = 200, 64, 9


def wide(out, count=WIDE_COUNT, **more):
    return settings(out, count, size_px=WIDE_PX, seed=WIDE_SEED, yaw="uniform", **more)


@pytest.fixture(scope="module")
def wide_set(tmp_path_factory, head):
    """200 small faces of all yaws, by two workers. Not to be changed: copy it."""
    return writer.write_dataset(wide(tmp_path_factory.mktemp("raw") / "wide", workers=2))


@pytest.fixture(scope="module")
def wide_samples(wide_set):
    return [aflw2000.read_sample(path) for path in aflw2000.find_samples(wide_set)]


@pytest.fixture(scope="module")
def table(wide_set):
    with open(wide_set / "00000" / "attributes.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def mask_of(root, name):
    return np.asarray(Image.open(root / "00000" / f"{name}_mask.png"))


def column(table, name):
    return np.array([float(row[name]) for row in table])


def test_one_worker_gives_the_same_bytes_as_two(wide_set, tmp_path):
    found = contents(writer.write_dataset(wide(tmp_path / "one", 6)))
    assert len(found) == 20
    assert head_of(found, contents(wide_set))


def test_200_samples_lost_in_part_come_back_the_same(wide_set, tmp_path, rendered):
    folder = tmp_path / "wide"
    shutil.copytree(wide_set, folder)
    for name in ("image00017.mat", "image00100.jpg", "image00101_mask.png", "attributes.csv"):
        (folder / "00000" / name).unlink()
    writer.write_dataset(wide(folder))
    assert len(rendered) == 3
    assert contents(folder) == contents(wide_set)


def test_the_files_give_the_landmarks_to_a_hundredth_of_a_pixel(wide_samples, face_model):
    for sample in wide_samples:
        points = model_to_image(face_model.landmarks(sample.shape, sample.expression), sample.pose_para, WIDE_PX)
        assert abs(points - sample.landmarks_px).max() < 0.01


def test_attributes_have_a_row_a_sample(wide_set, wide_samples, table):
    assert [row["name"] for row in table] == [sample.name for sample in wide_samples]
    assert len(table) == WIDE_COUNT
    for index, (row, sample) in enumerate(zip(table, wide_samples, strict=True)):
        assert (int(row["seed"]), int(row["index"])) == (WIDE_SEED, index)
        angles = [float(row[name]) for name in ("pitch_deg", "yaw_deg", "roll_deg")]
        np.testing.assert_allclose(angles, np.degrees(sample.pose_para[:3]), atol=0.006)
        assert float(row["african"]) + float(row["asian"]) + float(row["caucasian"]) == pytest.approx(1, abs=0.002)
        assert [int(k) for k in row["hidden"].split()] == np.flatnonzero(sample.hidden).tolist()
        mask = mask_of(wide_set, sample.name)
        assert float(row["visible"]) == pytest.approx((mask == 255).sum() / (mask > 0).sum(), abs=6e-4)
        told = sample_files.read_attributes(wide_set / "00000" / f"{sample.name}.mat")
        assert {name: "" if value is None else str(value) for name, value in told.items()} == row


def test_no_two_samples_are_alike(wide_samples, table):
    assert len({sample.shape.tobytes() for sample in wide_samples}) == WIDE_COUNT
    assert len({sample.pose_para.tobytes() for sample in wide_samples}) == WIDE_COUNT
    first, second = column(table[:-1], "age"), column(table[1:], "age")
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2  # nor neighbours akin


def test_attributes_are_within_range(table):
    for name, low, high in (("age", 0, 1), ("melanin", 0, 1), ("weight", 0, 1), ("stubble", 0, 1), ("lipstick", 0, 1),
                            ("yaw_deg", -90, 90), ("pitch_deg", -75, 75), ("roll_deg", -75, 75), ("visible", 0, 1),
                            ("mouth_open", 0, 1), ("blink", 0, 1), ("freckles", 0, 1)):  # fmt: skip
        values = column(table, name)
        assert low <= values.min() <= values.max() <= high, name
        assert len(set(values)) > 5, name
    for name, known in (("expression", expression.PRESETS), ("cut", CUTS), ("light", PLACES), ("photo", LOOKS),
                        ("clothes", OUTFITS), ("occluder", ["none", *KINDS]), ("headwear", ["none", *HEADWEAR]),
                        ("glasses", ["none", "clear", "dark"]), ("mask", ["none", "surgical", "cloth"])):  # fmt: skip
        drawn = {row[name] for row in table}
        assert drawn <= set(known), name
        assert len(drawn) > 1, name
    assert {row["woman"] for row in table} == {"0", "1"}
    assert all(row["distance_m"] == "" for row in table)


def test_masks_cover_the_landmarks(wide_set, wide_samples):
    for sample in wide_samples:
        mask = mask_of(wide_set, sample.name)
        assert mask.shape == sample.size
        assert set(np.unique(mask)) <= {0, 128, 255}
        assert (mask > 0).mean() > 0.05
        x, y = np.rint(sample.landmarks_px[:, :2]).astype(int).T
        assert (cv2.dilate(mask, np.ones((5, 5)))[y, x] > 0).mean() > 0.95  # many lie on the outline


def test_landmarks_are_hidden_where_they_should_be(wide_set, wide_samples):
    """By the head itself in profile, by things elsewhere: then the mask says so as well."""
    turned = np.array([abs(sample.pose_para[1]) for sample in wide_samples])
    hidden = np.array([sample.hidden.sum() for sample in wide_samples])
    assert np.corrcoef(turned, hidden)[0, 1] > 0.4
    for sample in wide_samples:
        if abs(sample.pose_para[1]) > np.radians(50):
            depth = sample.landmarks_px[:, 2]
            assert depth[sample.hidden].mean() < depth[~sample.hidden].mean()
    covered = [
        (mask_of(wide_set, sample.name) == 128).sum() / (mask_of(wide_set, sample.name) > 0).sum()
        for sample in wide_samples
    ]
    frontal = turned < np.radians(25)
    assert np.corrcoef(np.array(covered)[frontal], hidden[frontal])[0, 1] > 0.5
    assert np.median(hidden[frontal]) < 12


def test_drawing_faces_loads_no_torch():
    code = "import sys, p2m_synth.writer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
