import json
from pathlib import Path

import numpy as np
import oracles
import pandas as pd
import pytest

from p2m_core import evaluate as evaluate_module
from p2m_core.camera import box_of
from p2m_core.config import load_config, run_folder
from p2m_core.data.aflw2000 import read_image
from p2m_core.data.store import build_store
from p2m_core.errors import InputError
from p2m_core.evaluate import evaluate, mean_face_at_crop, normal_error_deg, predict_store, specimen
from p2m_core.facemesh import FaceMesh
from p2m_core.metrics import nme68_2d
from p2m_core.predict import open_network, predict

SYSTEMS = ["network", "mean face, true pose (floor)", "mean face in the box"]
FILES = {
    "nme68_2d.csv",
    "budget.csv",
    "slices.csv",
    "samples.csv",
    "metrics.json",
    "ced.png",
    "best.png",
    "median.png",
    "worst.png",
}


@pytest.fixture
def settings(tiny_settings, tiny_run, store, home):
    """A function from overrides to a config that measures the short run's weights."""

    def make(*more):
        return load_config(None, ["name=measured", *tiny_settings, f"evaluate.weights={tiny_run}", *more])

    return make


@pytest.fixture
def perfect(monkeypatch, store):
    """In place of the network's predictions: the truth."""

    def truth(model, store, rows, flip, batch=32):
        meshes = []
        for index in rows:
            finest = np.float32(store.truth_px(index))
            levels = tuple(finest[:n] for n in store.template.counts)
            landmarks, template = store.table["landmarks_px"][index], store.template
            meshes.append(FaceMesh(finest, template.faces[-1], levels, template.faces, landmarks, box_of(landmarks)))
        return meshes

    monkeypatch.setattr(evaluate_module, "predict_store", truth)


# --- the measure of all things ---


def test_the_truth_scores_perfectly(settings, perfect):
    result = evaluate(settings("evaluate.split=all"))
    assert result.nme.loc["network", "plain"] == pytest.approx(0, abs=1e-5)
    assert result.samples["network"].max() == pytest.approx(0, abs=1e-5)
    surface = result.surface.loc["network"]
    assert surface[["nme-dense-2d@template, %", "nme-dense-3d@template, %", "CD x1000"]].max() < 1e-3
    assert surface["normals off by, deg"] < 0.1
    assert surface[["F1 at 1e-4 (10 px)", "F1 at 2e-4"]].tolist() == [100, 100]
    floor, in_box = result.nme["plain"].iloc[1:]
    assert 0.5 < floor < in_box < 40  # what a face costs that is not known, and a pose that is not


def test_slices_cover_every_sample_once_an_attribute(settings, store):
    result = evaluate(settings("evaluate.split=all"))
    slices = result.slices
    raw = pd.read_csv(next(Path(store.manifest["raw"]).glob("*/attributes.csv")), keep_default_na=False)
    merged = result.samples.merge(raw, on="name")
    glasses = merged.groupby("glasses")["network"].agg(["mean", "size"])
    for name, row in glasses[glasses["size"] >= 5].iterrows():
        [found] = slices[(slices.attribute == "glasses") & (slices.group == name)].to_dict("records")
        assert found["count"] == row["size"]
        assert found["network"] == pytest.approx(row["mean"], rel=1e-5)
        assert found["95% low"] <= found["network"] <= found["95% high"]
    women = merged["woman"].sum()
    assert slices.set_index("group")["count"].get("woman", women) == women
    landmarks = slices[slices.attribute == "landmarks"].set_index("group")
    assert landmarks["count"].sum() == 68 * len(merged)
    mean = (landmarks["network"] * landmarks["count"]).sum() / landmarks["count"].sum()
    assert mean == pytest.approx(result.nme.loc["network", "plain"], rel=1e-5)


def test_the_budget_begins_with_the_nme_and_ends_at_nothing(settings):
    result = evaluate(settings("evaluate.split=all"))
    assert result.budget.loc["as it is"].tolist() == pytest.approx([result.nme.loc["network", "plain"]] * 2)
    assert result.budget.loc["true shape", "together"] == pytest.approx(0, abs=1e-6)
    assert 0 < result.about["identity variance"] < 3


def test_depth_is_left_open(settings, perfect, monkeypatch):
    """Weak perspective says nothing of the distance: a truth that stands 50 px nearer scores the same."""
    real = evaluate_module.predict_store

    def nearer(*args):
        meshes = real(*args)
        return [
            FaceMesh(m.vertices_px + np.float32([0, 0, 50]), m.faces, m.levels, m.level_faces, m.landmarks_px, m.box)
            for m in meshes
        ]

    monkeypatch.setattr(evaluate_module, "predict_store", nearer)
    surface = evaluate(settings("evaluate.split=all")).surface.loc["network"]
    assert surface["nme-dense-3d@template, %"] < 1e-3
    assert surface["F1 at 1e-4 (10 px)"] == 100


def test_a_prediction_beside_the_truth_is_that_far_off(settings, perfect, monkeypatch, store):
    real = evaluate_module.predict_store

    def beside(*args):
        shift = np.float32([3, 4, 0])
        return [
            FaceMesh(
                m.vertices_px + shift,
                m.faces,
                tuple(x + shift for x in m.levels),
                m.level_faces,
                m.landmarks_px + shift,
                m.box,
            )
            for m in real(*args)
        ]

    monkeypatch.setattr(evaluate_module, "predict_store", beside)
    result = evaluate(settings("evaluate.split=all"))
    np.testing.assert_allclose(result.samples["network"], 500 / store.face_size_px(), rtol=1e-4)
    assert result.surface.loc["network", "normals off by, deg"] < 0.1


# --- tables and files ---


def test_tables_and_files_of_a_short_run(settings, store):
    config = settings()
    result = evaluate(config)
    rows = store.rows("test")
    assert result.folder == run_folder(config) / "evaluation" / "store-test"
    names = {path.name for path in result.folder.iterdir()}
    assert names >= FILES
    assert not [name for name in names if "partial" in name]
    assert list(result.nme.index) == SYSTEMS
    assert list(result.samples) == ["name", "yaw_deg", *SYSTEMS]
    assert result.samples["name"].tolist() == store.table["name"][rows].tolist()
    np.testing.assert_allclose(result.nme["plain"], result.samples[SYSTEMS].mean())
    assert (result.nme["95% low"] <= result.nme["plain"]).all()
    assert (result.nme["plain"] <= result.nme["95% high"]).all()
    yaw = abs(result.samples["yaw_deg"])
    for name, inside in {"0-30": yaw <= 30, "30-60": (yaw > 30) & (yaw <= 60), "60-90": yaw > 60}.items():
        np.testing.assert_allclose(result.nme[name], result.samples.loc[inside, SYSTEMS].mean(), equal_nan=True)
    assert result.about["samples"] == len(rows)
    assert "split test" in result.about["data"]
    assert "nme68-2d" in result.about["protocol"]
    read = pd.read_csv(result.folder / "nme68_2d.csv", index_col=0)
    np.testing.assert_allclose(read, result.nme, equal_nan=True)
    read = pd.read_csv(result.folder / "samples.csv")
    np.testing.assert_allclose(read["network"], result.samples["network"])
    for name in ("ced.png", "best.png", "worst.png"):
        assert read_image(result.folder / name).std() > 10
    text = str(result)
    assert all(name in text for name in [*SYSTEMS, *result.samples["name"], str(result.folder)])


def test_the_metrics_are_json_that_others_read(settings):
    """No NaN, which JSON does not know, even where a bin of yaws is empty."""
    result = evaluate(settings("evaluate.split=val"))
    assert result.nme.isna().any(axis=None)
    text = (result.folder / "metrics.json").read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["about"] == result.about
    for system in SYSTEMS:
        for name, value in content["nme68_2d"][system].items():
            expected = result.nme.loc[system, name]
            assert (value is None) == bool(np.isnan(expected))
            assert value is None or value == pytest.approx(expected)


def test_the_networks_errors_are_those_of_its_landmarks(settings, store, tiny_run):
    result = evaluate(settings())
    rows = store.rows("test")
    meshes = predict_store(open_network(tiny_run), store, rows, flip=True, batch=2)
    landmarks = np.stack([mesh.landmarks_px for mesh in meshes])
    expected = oracles.nme(landmarks, store.table["landmarks_px"][rows].astype(float), 2)
    np.testing.assert_allclose(result.samples["network"], expected, rtol=1e-4)
    plain = evaluate(settings("evaluate.flip=false"))
    assert plain.about["flip averaging"] is False
    assert abs(plain.samples["network"] - result.samples["network"]).max() > 1e-6


def test_another_store_and_split(settings, store, tmp_path, tiny_settings):
    other = build_store(
        load_config(None, ["name=x", *tiny_settings, f"data.store={tmp_path / 'other'}", "data.test_share=1"])
    )
    result = evaluate(settings(f"evaluate.store={other}"))
    assert result.about["samples"] == len(store)
    assert result.folder.name == "other-test"
    assert evaluate(settings("evaluate.split=train")).about["samples"] == len(store.rows("train"))


def test_from_the_store_as_from_the_photo(store, synthetic_set, tiny_run):
    """The mesh over the stored crop, in px of the photo, is near that of the photo itself."""
    rows = store.rows("test")[:3]
    meshes = predict_store(open_network(tiny_run), store, rows, flip=False)
    for index, mesh in zip(rows, meshes, strict=True):
        photo = read_image(synthetic_set / "00000" / f"{store.table['name'][index]}.jpg")
        box = box_of(store.table["landmarks_px"][index])
        [direct] = predict(photo, box[None], tiny_run, flip=False)
        np.testing.assert_allclose(mesh.box, direct.box, atol=1e-3)
        size = store.face_size_px()[index]
        assert np.linalg.norm(mesh.vertices_px - direct.vertices_px, axis=1).mean() < 0.06 * size  # JPEG and two warps


def test_a_specimen_lies_on_the_stored_crop(store, tiny_run):
    index = store.rows("test")[0]
    [mesh] = predict_store(open_network(tiny_run), store, [index], flip=False)
    shown = specimen(store, index, mesh)
    np.testing.assert_array_equal(shown.photo, store.crop(index))
    matrix = store.table["crop"][index]
    scale = matrix[0, 0]
    np.testing.assert_allclose(
        shown.mesh.vertices_px[:, :2], mesh.vertices_px[:, :2] * scale + matrix[:, 2], rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(
        box_of(store.to_crop(store.table["landmarks_px"][index], index)), shown.mesh.box, atol=1e-3
    )
    assert shown.truth_px[:, 2].mean() == pytest.approx(shown.mesh.vertices_px[:, 2].mean(), abs=1e-2)
    true = store.template.landmarks(shown.truth_px)
    np.testing.assert_allclose(
        true.mean(0)[:2], store.to_crop(store.table["landmarks_px"][index], index).mean(0)[:2], atol=1.5
    )


# --- baselines ---


def test_the_mean_face_in_the_box_fills_it(store):
    rows = store.rows("all")
    placed = mean_face_at_crop(store, rows)
    np.testing.assert_allclose(box_of(placed), box_of(store.table["landmarks_px"][rows]), atol=1e-3)
    assert (placed[:, 30, 2] > placed[:, 0, 2]).all()  # nose before the ears
    assert (placed[:, 8, 1] > placed[:, 27, 1]).all()
    frontal = abs(store.yaw_deg()) < 20
    errors = nme68_2d(placed, store.table["landmarks_px"])
    assert errors[frontal].mean() < 0.5 * errors[abs(store.yaw_deg()) > 50].mean()


def test_normals_by_angle():
    flat = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    c, s = np.cos(0.3), np.sin(0.3)
    turned = flat @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T
    faces = np.array([[0, 1, 2]])
    assert normal_error_deg(flat[None], turned[None], faces) == pytest.approx(np.degrees(0.3), abs=1e-3)
    assert normal_error_deg(np.stack([flat, flat]), np.stack([turned, flat]), faces) == pytest.approx(
        np.degrees(0.15), abs=0.05
    )


# --- when it cannot be measured ---


def test_what_does_not_fit_is_one_line(settings, tiny_settings, tmp_path):
    with pytest.raises(InputError, match="there are no such weights"):
        evaluate(settings("evaluate.weights=run"))
    with pytest.raises(InputError, match="is no finished store"):
        evaluate(settings(f"evaluate.store={tmp_path / 'absent'}"))
    finer = build_store(
        load_config(None, ["name=x", *tiny_settings, f"data.store={tmp_path / 'finer'}", "template.rings=3"])
    )
    with pytest.raises(
        InputError, match=r"template of \(37, 127, 469, 1801\) vertices, the network's has \(19, 61, 217, 817\)"
    ):
        evaluate(settings(f"evaluate.store={finer}"))
    untested = build_store(
        load_config(None, ["name=x", *tiny_settings, f"data.store={tmp_path / 'un'}", "data.test_share=0"])
    )
    with pytest.raises(InputError, match="test has no sample"):
        evaluate(settings(f"evaluate.store={untested}"))
