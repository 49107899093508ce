import numpy as np
import pytest

from p2m_core import doctor

SAMPLE_SETS = {"AFLW2000-3D": "AFLW2000-3D", "300W-LP": "300W_LP", "synthetic set": "synthetic"}


def rows(root):
    return {row.name: row for row in doctor.report(root)}


def test_an_empty_project_lacks_everything_and_says_where_it_comes_from(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "WEIGHTS_FOLDER", tmp_path / "weights")
    report = doctor.report(tmp_path)
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
    monkeypatch.setattr(doctor, "WEIGHTS_FOLDER", weights)
    found = rows(tmp_path)
    assert found["store synthetic"].path == store
    assert found["weights face-lite"].detail == "2.0 MB"
    assert "store" not in found
    assert "bundled weights" not in found
