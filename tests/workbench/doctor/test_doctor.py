import dataclasses
import shutil

import numpy as np
import pytest
import scipy.io
from conftest import zipped
from example_predictions import FACE_MODEL_WRITERS
from folder_sets import write_set

from p2m_core.data.aflw2000 import find_samples
from p2m_core.morphable.model import FaceModel
from p2m_synth.mat_files import save_face_model, write_mat
from p2m_workbench.cli import main
from p2m_workbench.doctor import check, inventory

RESIDUAL = "pose convention: landmarks rebuilt from coefficients against pt3d_68: nme68-3d "
SAMPLE_SETS = {"AFLW2000-3D": "AFLW2000-3D", "300W-LP": "300W_LP", "synthetic set": "synthetic"}


def rows(root):
    return {row.name: row for row in inventory.report(root)}


def test_an_empty_project_lacks_everything_and_says_where_it_comes_from(tmp_path, monkeypatch):
    monkeypatch.setattr(inventory, "BUNDLED", tmp_path / "weights" / "face-lite.safetensors")
    report = inventory.report(tmp_path)
    assert len(report) == 7
    for row in report:
        assert row.status == "missing"
        assert row.path.is_relative_to(tmp_path)
        assert row.purpose
        assert row.licence
        assert row.source


@pytest.mark.parametrize("name", SAMPLE_SETS)
def test_samples_are_counted_with_their_images(tmp_path, name):
    folder = tmp_path / "data" / "raw" / SAMPLE_SETS[name] / "AFW"
    folder.mkdir(parents=True)
    for file in ("a.jpg", "a.mat", "b.png", "b.mat", "no_mat.jpg", "no_image.mat", ".c.1-2.partial.jpg"):
        (folder / file).touch()
    assert (rows(tmp_path)[name].status, rows(tmp_path)[name].detail) == ("there", "2 samples")


def test_further_sets_are_listed_where_they_hold_samples(tmp_path):
    for name in ("mine", "notes"):
        (tmp_path / "data" / "raw" / name).mkdir(parents=True)
    for file in ("a.jpg", "a.mat"):
        (tmp_path / "data" / "raw" / "mine" / file).touch()
    assert rows(tmp_path)["mine"].detail == "1 samples"
    assert "notes" not in rows(tmp_path)


def test_half_a_face_model_is_incomplete(tmp_path):
    folder = tmp_path / "data" / "raw" / "BFM"
    folder.mkdir(parents=True)
    (folder / "Model_Shape.mat").touch()
    row = rows(tmp_path)["Basel face model"]
    assert row.status == "incomplete"
    assert "Model_Exp.mat" in row.detail
    (folder / "Model_Exp.mat").touch()
    assert rows(tmp_path)["Basel face model"].status == "there"


def test_stores_and_weights_are_named(tmp_path, monkeypatch):
    store, weights = tmp_path / "data" / "processed" / "synthetic", tmp_path / "weights"
    store.mkdir(parents=True)
    weights.mkdir()
    (store / "manifest.json").write_text("{}")
    np.zeros(500_000, np.float32).tofile(weights / "face-lite.safetensors")
    monkeypatch.setattr(inventory, "BUNDLED", weights / "face-lite.safetensors")
    found = rows(tmp_path)
    assert found["store synthetic"].path == store
    assert found["weights face-lite"].detail == "2.0 MB"
    assert "store" not in found
    assert "bundled weights" not in found


# --- checks ---


def test_a_sound_set_has_nothing_to_complain_of(synthetic_set):
    lines = check.check(synthetic_set)
    assert lines[:3] == ["24 samples", "24 of 24 samples looked at can be read", "photos of 96 x 96 px"]
    [residual] = lines[3:]
    assert residual.startswith("pose convention: landmarks rebuilt from coefficients against pt3d_68: nme68-3d 0.00 %")


def test_what_is_wrong_with_a_set_is_named(synthetic_set, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(synthetic_set, folder)
    mats = find_samples(folder)
    mats[0].with_suffix(".jpg").unlink()
    mats[1].with_suffix(".jpg").write_bytes(b"no picture")
    mats[2].write_bytes(b"no .mat")
    for mat in mats[3:]:  # yaw of the other sign, as in another convention
        content = scipy.io.loadmat(mat)
        content["Pose_Para"][0, 1] *= -1
        write_mat(mat, {name: value for name, value in content.items() if not name.startswith("__")})
    lines = "\n".join(check.check(folder))
    assert "23 samples" in lines
    assert f"{mats[0]}: has no image beside it" in lines
    for name in (mats[1].with_suffix(".jpg").name, mats[2].name):
        assert name in lines
    assert "21 of 23 samples looked at can be read" in lines
    assert "pose, coefficients and landmarks do not belong together" in lines


def test_real_samples_are_checked_by_a_fit(aflw_samples):
    lines = check.check(aflw_samples)
    assert lines[:3] == ["8 samples", "8 of 8 samples looked at can be read", "photos of 450 x 450 px"]
    assert "our face model fitted to the landmarks" in lines[3]


def test_a_face_model_is_checked_with_its_templates(face_model, tmp_path):
    save_face_model(tmp_path, face_model)
    lines = check.check(tmp_path)
    assert "199 shape and 29 expression directions" in lines[0]
    for kind in ("semi_sphere", "face"):
        assert len([line for line in lines if line.startswith(f"template {kind}, level")]) == 4
        [landmarks] = [line for line in lines if line.startswith(f"template {kind}, the 68 landmarks")]
        assert float(landmarks.split(": ")[1].split(" mm")[0]) < 1


@pytest.mark.parametrize("kind", FACE_MODEL_WRITERS)
def test_the_pose_convention_with_a_model_of_any_format(synthetic_set, face_model, tmp_path, kind, capsys):
    """The set's own model in another format; 3DDFA_V2's holds the first 40 and 10 directions, so less of each face."""
    path = FACE_MODEL_WRITERS[kind](tmp_path / "model", first_directions(face_model, kind))
    folder = tmp_path / "photos"
    shutil.copytree(synthetic_set, folder)
    (folder / "recipe.json").unlink()  # so that nothing tells that the set is ours
    assert main(["doctor", str(folder), "--face-model", str(path)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    residual = float(line.removeprefix(RESIDUAL).split(" %")[0])
    assert residual < 0.01 if kind != "3ddfa_v2" else 0.01 < residual < 1.5
    for mat in find_samples(folder):  # counted from another number
        content = scipy.io.loadmat(mat)
        content["pt3d_68"][:2] += 1
        write_mat(mat, {name: value for name, value in content.items() if not name.startswith("__")})
    assert check.check(folder, str(path))[-1].startswith("all landmarks are moved alike")


def test_another_model_is_told_from_another_origin(synthetic_set, face_model, tmp_path):
    path = FACE_MODEL_WRITERS["face3d"](tmp_path, dataclasses.replace(face_model, mean=face_model.mean + 3e4))
    assert check.check(synthetic_set, str(path))[-1].startswith(
        "pose, coefficients and landmarks do not belong together"
    )


def first_directions(model, kind):
    shape, expression = (40, 10) if kind == "3ddfa_v2" else (None, None)
    return dataclasses.replace(
        model,
        shape_basis=model.shape_basis[..., :shape],
        shape_sigma=model.shape_sigma[:shape],
        expression_basis=model.expression_basis[..., :expression],
        expression_sigma=model.expression_sigma[:expression],
    )


def test_the_basel_models_own_landmarks_on_real_samples(aflw_samples, tmp_path):
    """A model of these 68 vertices alone, 40 and 10 of its directions: near to pt3d_68, at the right origin."""
    folder = aflw_samples.parent / "bfm-keypoints"
    if not folder.is_dir():
        pytest.skip("needs ../shared/bfm-keypoints (the Basel model's landmarks, not in the repository)")
    mean, shape, expression = (np.loadtxt(folder / f"{name}.txt") for name in ("u_base", "w_shp_base", "w_exp_base"))
    model = FaceModel(
        mean=mean.reshape(68, 3),
        shape_basis=shape.reshape(68, 3, -1),
        expression_basis=expression.reshape(68, 3, -1),
        shape_sigma=np.ones(40),
        expression_sigma=np.ones(10),
        triangles=np.array([[27, 30, 33]]),
        landmark_idx=np.arange(68),
    )
    lines = check.check(aflw_samples, str(FACE_MODEL_WRITERS["3ddfa_v2"](tmp_path, model)))
    assert "of 199 shape and 29 expression coefficients" in lines[-2]
    assert float(lines[-1].removeprefix(RESIDUAL).split(" %")[0]) < 1.5
    assert all(abs(float(x)) < 0.2 for x in lines[-1].split("offset ")[1].removesuffix(" px").split(", "))


def test_a_face_model_in_any_format_is_there(tmp_path):
    folder = tmp_path / "data" / "raw" / "BFM"
    folder.mkdir(parents=True)
    (folder / "bfm_noneck_v3.pkl").touch()
    row = rows(tmp_path)["Basel face model"]
    assert (row.status, row.detail) == ("there", "bfm_noneck_v3.pkl")


def test_the_command_finds_a_leak_between_lists(synthetic_set, tmp_path, capsys):
    images = sorted(path for path in synthetic_set.rglob("*.jpg"))
    (tmp_path / "train.txt").write_text("".join(f"{path}\n" for path in images[:12]))
    (tmp_path / "test.txt").write_text("".join(f"{path}\n" for path in images[12:]))
    words = ["doctor", "--splits", str(tmp_path / "train.txt"), str(tmp_path / "test.txt")]
    assert main(words) == 0
    assert "no image is in two places" in capsys.readouterr().out
    (tmp_path / "test.txt").write_text("".join(f"{path}\n" for path in images[11:]))
    assert main(words) == 1
    assert f"{images[11].name} = {images[11].name}" in capsys.readouterr().out
    assert main(["doctor", str(tmp_path / "nothing")]) == 2


def test_a_set_may_lie_in_its_zip(lp_set, tmp_path):
    raw = tmp_path / "data" / "raw"
    raw.mkdir(parents=True)
    zipped(lp_set, raw / "300W-LP.zip", "300W_LP")
    (raw / "AFLW2000-3D.zip").write_bytes(b"no zip")
    zipped(lp_set / "AFW", raw / "more.zip")
    write_set(raw / "mine", "image", 2)
    found = rows(tmp_path)
    assert (found["300W-LP"].status, found["300W-LP"].detail) == ("there", "72 samples")
    assert found["300W-LP"].path == raw / "300W-LP.zip"
    assert found["AFLW2000-3D"].status == "incomplete"
    assert "is no whole zip file" in found["AFLW2000-3D"].detail
    assert found["more.zip"].detail == "9 samples"
    assert found["mine"].detail == "2 samples"
    lines = check.check(raw / "300W-LP.zip")
    assert lines[:2] == [
        "72 samples",
        "300W-LP: AFW 9 of 5207, AFW_Flip 9 of 5207, HELEN 9 of 37676, HELEN_Flip 9 of 37676, "
        "IBUG 9 of 1786, IBUG_Flip 9 of 1786, LFPW 9 of 16556, LFPW_Flip 9 of 16556",
    ]
    assert lines[2] == "50 of 50 samples looked at can be read"
    assert "our face model fitted to the landmarks" in lines[4]
