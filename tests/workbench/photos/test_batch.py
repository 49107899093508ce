"""Photos as people bring them: nothing is lost, nothing is mixed up, and one bad photo costs no other."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from p2m_core.config.settings import PredictConfig
from p2m_core.errors import InputError
from p2m_synth.writer import SynthConfig, write_dataset
from p2m_workbench import cli
from p2m_workbench.photos.batch import predict_files
from p2m_workbench.photos.read import read_photo, sample_photo

HOPPER_BOX = np.array([168.0, 168, 358, 332])


@pytest.fixture
def settings(tiny_run):
    return PredictConfig(weights=str(tiny_run), save=("obj", "overlay", "crop", "csv"), flip=False, passes=1)


def table(folder):
    return list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))


def test_results_beside_photos_leave_them_as_they_are(tmp_path, settings):
    Image.open(sample_photo()).save(tmp_path / "me.png")
    before = (tmp_path / "me.png").read_bytes()
    result = predict_files(tmp_path / "me.png", tmp_path, HOPPER_BOX, settings)
    assert not result.problems
    assert (tmp_path / "me.png").read_bytes() == before
    assert read_photo(tmp_path / "me-overlay.png").shape == result.predictions[0].photo.shape
    # Now the overlay is a photo of the folder, and would be replaced.
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"me-overlay\.png: would be replaced by a result of me\.png \(choose another"):
        predict_files(tmp_path, tmp_path, settings=settings)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written


def test_a_further_faces_file_never_replaces_a_photo(tmp_path, settings):
    """How many faces a photo has is only known when it is predicted: the second one's crop would be a photo."""
    hopper = read_photo(sample_photo())
    Image.fromarray(np.concatenate([hopper, hopper], 1)).save(tmp_path / "me.png")
    shutil.copy(sample_photo(), tmp_path / "me-2-crop.png")
    before = (tmp_path / "me-2-crop.png").read_bytes()
    crops = PredictConfig(**{**settings.model_dump(), "save": ("crop", "csv")})
    result = predict_files(tmp_path, tmp_path, settings=crops)
    assert (tmp_path / "me-2-crop.png").read_bytes() == before
    [problem] = result.problems
    assert "me-2-crop.png: is a photo, and would be replaced by a result" in problem
    assert {row["name"] for row in table(tmp_path)} == {"me", "me-2-crop", ""}
    assert (tmp_path / "me-2-crop-crop.png").is_file()  # the other photo is predicted all the same


def test_names_that_would_be_written_twice_are_told_before_the_first_photo(tmp_path, settings):
    for name in ("me.png", "me-level1.png"):
        Image.open(sample_photo()).save(tmp_path / name)
    levels = PredictConfig(**{**settings.model_dump(), "save": ("obj", "levels")})
    with pytest.raises(InputError, match=r"me-level1\.obj: would be written twice"):
        predict_files(tmp_path, tmp_path / "out", settings=levels)
    assert not (tmp_path / "out").exists()


def test_folders_are_kept_and_rows_of_earlier_calls_too(tmp_path, settings):
    for name in ("in/a/front.jpg", "in/b/front.jpg", "later.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sample_photo(), tmp_path / name)
    out = tmp_path / "out"
    predict_files(tmp_path / "in", out, settings=settings)
    assert [row["name"] for row in table(out)] == ["a/front", "b/front"]
    assert (out / "a/front.obj").is_file()
    assert (out / "b/front-overlay.png").is_file()
    predict_files(tmp_path / "later.jpg", out, HOPPER_BOX, settings)
    predict_files(tmp_path / "in/a", out / "a", settings=settings)
    predict_files(tmp_path / "later.jpg", out, HOPPER_BOX + 5, settings)  # in place of its row
    assert [row["name"] for row in table(out)] == ["a/front", "b/front", "later"]
    assert float(table(out)[-1]["x0"]) == HOPPER_BOX[0] + 5


def test_a_table_of_something_else_is_not_written_over(tmp_path, settings):
    (tmp_path / "predictions.csv").write_text("id,score\n1,2\n")
    with pytest.raises(InputError, match=r"predictions\.csv: is no table of predictions"):
        predict_files("grace_hopper", tmp_path, HOPPER_BOX, settings)
    assert (tmp_path / "predictions.csv").read_text() == "id,score\n1,2\n"


def test_one_bad_photo_costs_no_other(tmp_path, settings, monkeypatch):
    long = "x" * 245
    for name in (f"{long}.jpg", "a.jpg", "z.jpg"):
        shutil.copy(sample_photo(), tmp_path / name)
    original = read_photo

    def broken(path, **options):
        if path.name == "a.jpg":
            raise RuntimeError("a decoder's own")
        return original(path, **options)

    monkeypatch.setattr("p2m_workbench.photos.batch.read_photo", broken)
    result = predict_files(tmp_path, tmp_path / "out", settings=settings)
    assert [row["name"] for row in table(tmp_path / "out")] == ["", "", "z"]
    assert "could not be predicted: RuntimeError: a decoder's own" in result.problems[0]
    assert "File name too long" in result.problems[1]


def test_a_stem_of_230_bytes_is_fine(tmp_path, settings):
    name = "ü" * 115
    shutil.copy(sample_photo(), tmp_path / f"{name}.jpg")
    result = predict_files(tmp_path / f"{name}.jpg", tmp_path / "out", HOPPER_BOX, settings)
    assert not result.problems
    assert (tmp_path / "out" / f"{name}.obj").is_file()


def test_what_synth_writes_can_be_predicted(tmp_path, settings):
    write_dataset(SynthConfig(out=str(tmp_path / "faces"), count=2, size_px=96))
    result = predict_files(tmp_path / "faces", tmp_path / "out", settings=settings)
    assert {row["photo"] for row in result.rows} == {"00000/image00001.jpg", "00000/image00002.jpg"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device", "gpu"), "device: gpu: "),
        (("--out", "/proc/none"), "/proc/none: cannot be a folder"),
        (("--box", "-4,9"), "--box: -4,9: is not four numbers"),
    ],
)
def test_a_users_value_at_fault_is_one_line(arguments, said, capsys):
    status = cli.main(["predict", "grace_hopper", "--save", "json", *arguments])
    shown = capsys.readouterr()
    assert status in (1, 2)
    assert "Traceback" not in shown.err + shown.out
    assert said in shown.err


def test_a_box_beyond_the_photos_edge_is_read(tmp_path, tiny_run):
    arguments = ["--box", "-42,90,240,365", "--out", str(tmp_path), "--save", "json", "--weights", str(tiny_run)]
    assert cli.main(["predict", "grace_hopper", *arguments]) == 0
    assert (tmp_path / "grace_hopper.json").is_file()


def test_meshes_in_mm_come_with_their_camera(tmp_path, settings):
    """And it leads them to where the network has them."""
    in_mm = settings.model_copy(update={"save": ("obj",), "frame": "head_mm"})
    result = predict_files("grace_hopper", tmp_path, settings=in_mm)
    assert not result.problems
    camera = json.loads((tmp_path / "grace_hopper-camera.json").read_text())
    lines = (tmp_path / "grace_hopper.obj").read_text().splitlines()
    vertices = np.array([[*line.split()[1:4], 1] for line in lines if line.startswith("v ")], float)
    found = result.predictions[0].mesh.vertices_px
    np.testing.assert_allclose(vertices @ np.transpose(camera["projection"]), found[:, :2], atol=0.01)


def test_faces_smaller_than_wanted_are_none(tmp_path):
    """Neither the detector's finds nor what the network finds itself."""
    small, large = (PredictConfig(save=("csv",), flip=False, passes=1, min_face=size) for size in (100, 300))
    assert not predict_files("grace_hopper", tmp_path / "small", settings=small).problems
    [problem] = predict_files("grace_hopper", tmp_path / "large", settings=large).problems
    assert "no face found" in problem


def test_tables_of_before_there_were_films_are_kept(tmp_path, settings):
    predict_files("grace_hopper", tmp_path, HOPPER_BOX, settings)
    old = [{key: value for key, value in row.items() if key not in ("frame", "time_s", "identity")}
           for row in table(tmp_path)]  # fmt: skip
    with open(tmp_path / "predictions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(old[0]))
        writer.writeheader()
        writer.writerows(old)
    shutil.copy(sample_photo(), tmp_path / "me.jpg")
    predict_files(tmp_path / "me.jpg", tmp_path, HOPPER_BOX, settings)
    assert [(row["name"], row["frame"]) for row in table(tmp_path)] == [("grace_hopper", ""), ("me", "")]
