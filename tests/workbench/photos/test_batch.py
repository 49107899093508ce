"""Photos as people bring them: nothing is lost, nothing is mixed up, and one bad photo costs no other."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from p2m_core.config.settings import PredictConfig
from p2m_core.errors import InputError
from p2m_synth.writer import SynthConfig, write_dataset
from p2m_workbench import cli
from p2m_workbench.photos.batch import Predictions, predict_files, summary
from p2m_workbench.photos.read import find_photos, read_photo, sample_photo

HOPPER_BOX = np.array([168.0, 168, 358, 332])


@pytest.fixture
def settings(tiny_run):
    return PredictConfig(weights=str(tiny_run), save=("obj", "overlay", "crop", "csv"), flip=False, passes=1)


def table(folder):
    return list(csv.DictReader(io.StringIO((folder / "predictions.csv").read_text())))


def test_results_beside_photos_leave_them_as_they_are(tmp_path, settings):
    Image.open(sample_photo()).save(tmp_path / "me.png")
    before = (tmp_path / "me.png").read_bytes()
    result = predict_files(tmp_path / "me.png", tmp_path, HOPPER_BOX, settings)
    assert not result.problems
    assert (tmp_path / "me.png").read_bytes() == before
    assert read_photo(tmp_path / "me-overlay.png").shape == result.predictions[0].photo.shape
    # Named as a photo, the overlay would be replaced.
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"me-overlay\.png: would be replaced by a result of me\.png \(leave it out, "):
        predict_files([tmp_path / "me.png", tmp_path / "me-overlay.png"], tmp_path, settings=settings)
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


def test_another_photo_of_the_same_name_replaces_no_earlier_results(tmp_path, settings):
    for suffix in ("jpg", "png"):
        Image.open(sample_photo()).save(tmp_path / f"me.{suffix}")
    predict_files(tmp_path / "me.jpg", tmp_path / "out", HOPPER_BOX, settings)
    before = (tmp_path / "out/me.obj").stat().st_mtime_ns
    with pytest.raises(InputError, match=r"me\.png: has the name of me\.jpg, whose results are in .*another --out"):
        predict_files(tmp_path / "me.png", tmp_path / "out", HOPPER_BOX, settings)
    assert (tmp_path / "out/me.obj").stat().st_mtime_ns == before
    predict_files(tmp_path / "me.jpg", tmp_path / "out", HOPPER_BOX, settings)  # the same photo again may


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
    assert "no face found of 300 px or more (ask for smaller ones with a smaller --min-face, or give its box" in problem


def test_files_that_no_call_wrote_are_not_replaced(tmp_path, settings):
    """All of them are told before the first photo, and a further face's when it is found."""
    hopper = read_photo(sample_photo())
    Image.fromarray(np.concatenate([hopper, hopper], 1)).save(tmp_path / "me.png")
    for name in ("me.obj", "me.mtl"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "me-crop.png").symlink_to("nowhere")
    told = (
        r"me\.obj, me-crop\.png, me\.mtl would be replaced, and no earlier call wrote them \(move what is to stay, or"
    )
    with pytest.raises(InputError, match=told):
        predict_files(tmp_path / "me.png", tmp_path, HOPPER_BOX, settings)
    assert {path.name for path in tmp_path.iterdir()} == {"me.png", "me.obj", "me.mtl", "me-crop.png"}
    for name in ("me.obj", "me.mtl", "me-crop.png"):
        (tmp_path / name).rename(tmp_path / name.replace("me", "me-2"))
    for _ in range(2):  # a call may replace what one before it has written
        result = predict_files(tmp_path / "me.png", tmp_path, settings=settings)
        assert [prediction.name for prediction in result.predictions] == ["me"]
        [problem] = result.problems
        assert "me-2-crop.png, me-2.mtl, me-2.obj would be replaced" in problem
    assert (tmp_path / "me-2.obj").read_text() == "mine"


@pytest.mark.parametrize("save", [("obj", "crop", "overlay", "csv"), ("obj", "crop", "overlay")])
def test_a_folder_of_photos_and_results_is_predicted_again(tmp_path, settings, monkeypatch, caplog, save):
    """In the same folder, in one of its own below, in a folder above, by a relative name: with and without a table."""
    kinds = settings.model_copy(update={"save": save})
    (tmp_path / "in/deep").mkdir(parents=True)
    for name in ("in/me.jpg", "in/deep/you.jpg"):
        shutil.copy(sample_photo(), tmp_path / name)
    monkeypatch.chdir(tmp_path / "in")
    for out in (".", "meshes"):
        for count in (0 if out == "." else 6, 6 if out == "." else 12):
            caplog.clear()
            with caplog.at_level("INFO"):
                result = predict_files(tmp_path / "in", out, settings=kinds)
            assert [item.name for item in result.predictions] == ["me", "deep/you"]
            assert ([f"{tmp_path / 'in'}: results of earlier calls left out: {count}"] if count else []) == [
                line for line in caplog.messages if "left out" in line
            ]
    assert [photo.name for photo in find_photos(tmp_path / "in/deep")] == ["you"]
    assert [photo.name for photo in find_photos(tmp_path / "in/../in")] == ["me", "deep/you"]
    assert [photo.name for photo in find_photos(tmp_path / "in/me-crop.png")] == ["me-crop"]  # named by itself


def test_an_interrupted_call_can_be_given_again(tmp_path, settings, monkeypatch):
    """Though it has written no table, its results are known."""
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(sample_photo(), tmp_path / name)
    original = read_photo

    def interrupted(path, **options):
        if path.name == "b.jpg":
            raise KeyboardInterrupt
        return original(path, **options)

    monkeypatch.setattr("p2m_workbench.photos.batch.read_photo", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_files(tmp_path, tmp_path, settings=settings)
    assert (tmp_path / "a.obj").is_file()
    assert not (tmp_path / "predictions.csv").exists()
    monkeypatch.undo()
    assert len(predict_files(tmp_path, tmp_path, settings=settings).predictions) == 2


@pytest.mark.parametrize("save", [("json", "csv"), ("json",)])
def test_where_nothing_is_predicted_nothing_is_left(tmp_path, settings, capsys, save):
    """But a table that is there already notes the problem."""
    bad, kinds = tmp_path / "bad.jpg", settings.model_copy(update={"save": save})
    bad.write_text("no picture")
    assert predict_files(bad, tmp_path / "new/er", settings=kinds).problems
    arguments = ["predict", str(bad), "--out", str(tmp_path / "new"), "--save", ",".join(save)]
    assert cli.main(arguments) == 1
    assert capsys.readouterr().out == "1 photo, 0 meshes, 1 failed; nothing written\n"
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jpg"]
    predict_files("grace_hopper", tmp_path / "new", HOPPER_BOX, kinds)
    assert cli.main(arguments) == 1
    assert capsys.readouterr().out.endswith(
        f"failed; {tmp_path / 'new'}: csv\n" if "csv" in save else "nothing written\n"
    )
    if "csv" in save:
        assert [(row["photo"], bool(row["problem"])) for row in table(tmp_path / "new")] == [
            ("grace_hopper.jpg", False), ("bad.jpg", True),
        ]  # fmt: skip


def test_the_summary_names_what_was_written(tmp_path, settings):
    """A rig wants our own template, which these weights are not on."""
    result = predict_files(
        "grace_hopper", tmp_path, settings=settings.model_copy(update={"save": ("crop", "rig", "json")})
    )
    assert summary(result, "there") == "1 photo, 1 mesh, 0 failed; there: json, crop"
    counted = Predictions(rows=[{"problem": ""}] * 3, photos=2, films=1, frames=40, kinds={"npz", "csv", "obj"})
    assert summary(counted, "there") == "2 photos, 3 meshes, 1 film, 40 frames, 0 failed; there: npz, obj, csv"
    films = Predictions(films=2, frames=1, problems=["a.mp4: is empty"], kinds={"npz"})
    assert summary(films, "there") == "2 films, 1 frame, 1 failed; there: npz"


def test_what_helps_where_no_face_is_found(tmp_path, settings):
    Image.new("RGB", (120, 90), "gray").save(tmp_path / "grey.png")
    Image.new("RGB", (1, 90), "gray").save(tmp_path / "small.png")
    [alone] = predict_files(tmp_path / "grey.png", tmp_path, settings=settings).problems
    assert alone.endswith("grey.png: no face found (give its box with --box x0,y0,x1,y1)")
    first, second = predict_files(tmp_path, tmp_path, settings=settings).problems
    assert first.endswith("(predict it alone, and give its box with --box x0,y0,x1,y1)")
    assert second.endswith("no face found in 1 x 90 px (take a larger picture: faces of 65 px or more are found)")
    beside = np.array([120.0, 10, 150, 40])
    [problem] = predict_files(tmp_path / "grey.png", tmp_path, beside, settings).problems
    assert problem.startswith("--box: 120,10,150,40: lies outside the picture, which has 120 x 90 px")
    doubted, flag = PredictConfig(save=("csv",), passes=1), np.array([10.0, 10, 90, 100])
    [warning] = predict_files("grace_hopper", tmp_path, flag, doubted).warnings
    assert warning.endswith("(look at the crop, or give another box)")


def test_a_name_with_a_line_break_is_told_in_one_line(tmp_path, settings):
    (tmp_path / "a\nb.jpg").write_text("no picture")
    [problem] = predict_files(tmp_path, tmp_path / "out", settings=settings).problems
    assert "\n" not in problem
    shutil.copy(sample_photo(), tmp_path / "a\nb.jpg")
    for _ in range(2):
        assert not predict_files(tmp_path, tmp_path, HOPPER_BOX, settings).problems
    assert table(tmp_path)[0]["name"] == "a\nb"


def test_a_folder_that_takes_no_files_is_told(tmp_path, settings, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("p2m_workbench.photos.batch.tempfile.TemporaryDirectory", refused)
    with pytest.raises(InputError, match=r"out: cannot be written: Permission denied \(choose another place"):
        predict_files("grace_hopper", tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


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
