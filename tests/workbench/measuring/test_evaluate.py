import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracles
import pandas as pd
import pytest

from p2m_core.config.loading import load_config
from p2m_core.config.paths import run_folder
from p2m_core.data.aflw2000 import read_image
from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import box_of
from p2m_core.inference import open_network
from p2m_core.metrics import nme68_2d
from p2m_workbench.measuring import evaluate as evaluate_module
from p2m_workbench.measuring.annotations import REANNOTATED, Annotation, by_hand
from p2m_workbench.measuring.evaluate import (
    ELSEWHERE,
    FLOOR,
    IN_BOX,
    NOISE,
    baselines_of,
    evaluate,
    face_prediction,
    find_weights,
    predict_store,
)
from p2m_workbench.measuring.report import write_tables
from p2m_workbench.measuring.tables import LEAST_OF_A_GROUP, normal_error_deg
from p2m_workbench.photos.predict import predict
from p2m_workbench.preprocessing import preprocess

NET = "tiny"  # the short run's name
SYSTEMS = [NET, FLOOR, IN_BOX]
FILES = {
    "nme68_2d.csv",
    "error_decomposition.csv",
    "slices.csv",
    "samples.csv",
    "metrics.json",
    "ced.png",
    "nme68_3d.csv",
    "paired.csv",
    "pose.csv",
    "opening.csv",
    "surface.csv",
    "report.md",
    "tables.tex",
    "yaw.png",
    "error_decomposition.png",
    "groups.png",
    "error_maps.png",
    "worst_cases.png",
    "best.png",
    "median.png",
    "worst.png",
}


@pytest.fixture
def pictures():
    """For tests that want figures and pictures too."""


@pytest.fixture(autouse=True)
def only_tables(request, monkeypatch):
    """Without `pictures`, the tables alone are written."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(evaluate_module, "write_report", lambda result, *_: write_tables(result))


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
    assert result["nme68_2d"].loc[NET, "plain"] == pytest.approx(0, abs=1e-5)
    assert result.samples[NET].max() == pytest.approx(0, abs=1e-5)
    surface = result["surface"].loc[NET]
    assert surface[["nme-dense-2d@template, %", "nme-dense-3d@template, %"]].max() < 1e-3
    assert surface["normals off by, deg"] < 0.1
    assert surface["F1 at 1% of the face size"] == 100
    floor, in_box = result["nme68_2d"]["plain"].iloc[1:]
    assert 0.5 < floor < in_box < 40  # what a face costs that is not known, and a pose that is not


def test_slices_cover_every_sample_once_an_attribute(settings, store):
    result = evaluate(settings("evaluate.split=all"))
    slices = result["slices"].reset_index()
    raw = pd.read_csv(next(Path(store.manifest["raw"]).glob("*/attributes.csv")), keep_default_na=False)
    merged = result.samples.merge(raw, on="name")
    glasses = merged.groupby("glasses")[NET].agg(["mean", "size"])
    for name, row in glasses[glasses["size"] >= 5].iterrows():
        [found] = slices[(slices.attribute == "glasses") & (slices.group == name)].to_dict("records")
        assert found["samples"] == row["size"]
        assert found[NET] == pytest.approx(row["mean"], rel=1e-5)
        assert found["95% low"] <= found[NET] <= found["95% high"]
    women = merged["woman"].sum()
    assert slices.set_index("group")["samples"].get("woman", women) == women
    landmarks = slices[slices.attribute == "landmarks"].set_index("group")[NET]
    hidden = store.table["hidden"].mean()
    assert landmarks["hidden"] * hidden + landmarks["seen"] * (1 - hidden) == pytest.approx(
        result["nme68_2d"].loc[NET, "plain"], rel=1e-5
    )
    rest = merged.loc[merged["glasses"] != "none", NET]
    line = slices[(slices.attribute == "glasses") & (slices.group == "none")].iloc[0]
    if len(rest) >= 5:
        assert line["against the rest"] == pytest.approx(line[NET] - rest.mean(), rel=1e-4)
        assert line["low"] <= line["against the rest"] <= line["high"]
    assert set(slices["attribute"]) >= {"sex", "age", "skin"}


def test_the_decomposition_begins_with_the_nme_and_ends_at_nothing(settings):
    result = evaluate(settings("evaluate.split=all"))
    assert result["error_decomposition"].loc[NET]["as it is"].tolist() == pytest.approx(
        [result["nme68_2d"].loc[NET, "plain"]] * 2
    )
    assert result["error_decomposition"].loc[(NET, "together"), "true shape"] == pytest.approx(0, abs=1e-6)
    floor = result["error_decomposition"].loc[(FLOOR, "together")]
    assert floor.iloc[:-1].tolist() == pytest.approx([floor.iloc[0]] * 4)  # its pose is true already
    assert 0 < result["surface"].loc[NET, "identity variance"] < 3
    assert result["surface"].loc[FLOOR, "identity variance"] == pytest.approx(0, abs=1e-9)


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
    surface = evaluate(settings("evaluate.split=all"))["surface"].loc[NET]
    assert surface["nme-dense-3d@template, %"] < 1e-3
    assert surface["F1 at 1% of the face size"] == 100


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
    np.testing.assert_allclose(result.samples[NET], 500 / store.face_size_px(), rtol=1e-4)
    assert result["surface"].loc[NET, "normals off by, deg"] < 0.1


# --- tables and files ---


def test_tables_and_files_of_a_short_run(settings, store, pictures):
    config = settings("evaluate.split=all")
    result = evaluate(config)
    rows = store.rows("all")
    assert result.folder == run_folder(config) / "evaluation" / "store-all"
    names = {path.name for path in result.folder.iterdir()}
    assert names >= FILES
    assert not [name for name in names if "partial" in name]
    assert list(result["nme68_2d"].index) == SYSTEMS
    assert list(result.samples) == ["name", "yaw_deg", *SYSTEMS]
    assert result.samples["name"].tolist() == store.table["name"][rows].tolist()
    np.testing.assert_allclose(result["nme68_2d"]["plain"], result.samples[SYSTEMS].mean())
    assert result["nme68_2d"]["samples"].tolist() == [len(rows)] * 3
    assert (result["nme68_2d"]["95% low"] <= result["nme68_2d"]["plain"]).all()
    assert (result["nme68_2d"]["plain"] <= result["nme68_2d"]["95% high"]).all()
    yaw = abs(result.samples["yaw_deg"])
    for name, inside in {"0-30": yaw <= 30, "30-60": (yaw > 30) & (yaw <= 60), "60-90": yaw > 60}.items():
        np.testing.assert_allclose(result["nme68_2d"][name], result.samples.loc[inside, SYSTEMS].mean(), equal_nan=True)
    assert result.about["samples"] == len(rows)
    assert "split all" in result.about["data"]
    assert "nme68-2d" in result.about["protocol"]
    read = pd.read_csv(result.folder / "nme68_2d.csv", index_col=0)
    np.testing.assert_allclose(read, result["nme68_2d"], equal_nan=True)
    read = pd.read_csv(result.folder / "samples.csv")
    np.testing.assert_allclose(read[NET], result.samples[NET])
    for name in (name for name in FILES if name.endswith(".png")):
        assert read_image(result.folder / name).std() > 10
    text = str(result)
    assert all(name in text for name in [*SYSTEMS, "pose-mae", str(result.folder)])
    markdown = (result.folder / "report.md").read_text()
    assert result.tables["nme68_2d"].to_markdown() in markdown
    assert f"| {NET} | {result['nme68_2d'].loc[NET, '0-30']:.2f} |" in " ".join(markdown.split())
    latex = (result.folder / "tables.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == len(result.tables)
    assert f"{NET} & {result['nme68_2d'].loc[NET, '0-30']:.2f} &" in latex


def test_few_samples_are_listed(settings):
    result = evaluate(settings("evaluate.split=test"))
    assert all(name in str(result) for name in result.samples["name"])


def test_groups_of_few_samples_are_left_out(settings, pictures):
    result = evaluate(settings("evaluate.split=val"))
    assert len(result.samples) < LEAST_OF_A_GROUP
    assert "slices" not in result.tables
    assert not (result.folder / "groups.png").exists()


def test_the_metrics_are_json_that_others_read(settings):
    """No NaN, which JSON does not know, even where a bin of yaws is empty."""
    result = evaluate(settings("evaluate.split=val"))
    assert result["nme68_2d"].isna().any(axis=None)
    text = (result.folder / "metrics.json").read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["about"] == result.about
    assert set(content["tables"]) == set(result.tables)
    for name, table in content["tables"].items():
        assert table["protocol"]
        assert table["unit"]
        assert table["n"] == len(result.samples)
        assert (table["interval"] is None) == ("95% low" not in result[name])
        assert len(table["rows"]) == len(result[name])
    for row in content["tables"]["nme68_2d"]["rows"]:
        system = row.pop("system")
        for name, value in row.items():
            expected = result["nme68_2d"].loc[system, name]
            assert (value is None) == bool(np.isnan(expected))
            assert value is None or value == pytest.approx(expected)


def test_the_networks_errors_are_those_of_its_landmarks(settings, store, tiny_run):
    result = evaluate(settings())
    rows = store.rows("test")
    meshes = predict_store(open_network(tiny_run), store, rows, flip=True, batch=2)
    landmarks = np.stack([mesh.landmarks_px for mesh in meshes])
    expected = oracles.nme(landmarks, store.table["landmarks_px"][rows].astype(float), 2)
    np.testing.assert_allclose(result.samples[NET], expected, rtol=1e-4)
    plain = evaluate(settings("evaluate.flip=false"))
    assert plain.about["flip averaging"] == "no"
    assert abs(plain.samples[NET] - result.samples[NET]).max() > 1e-6


def test_another_store_and_split(settings, store, tmp_path, tiny_settings):
    other = preprocess(
        load_config(None, ["name=x", *tiny_settings, f"data.store={tmp_path / 'other'}", "data.test_share=1"])
    )
    result = evaluate(settings(f"evaluate.store={other.folder}"))
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
        [direct] = predict(photo, box[None], tiny_run, flip=False, passes=1, precision="fp32")
        np.testing.assert_allclose(mesh.box, direct.box, atol=1e-3)
        size = store.face_size_px()[index]
        assert np.linalg.norm(mesh.vertices_px - direct.vertices_px, axis=1).mean() < 0.06 * size  # JPEG and two warps


def test_a_prediction_lies_on_the_stored_crop(store, tiny_run):
    index = store.rows("test")[0]
    [mesh] = predict_store(open_network(tiny_run), store, [index], flip=False)
    shown = face_prediction(store, index, mesh)
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
    truth = store.table["landmarks_px"].astype(float)
    floor, in_box = baselines_of(store, rows, truth, None)
    placed = in_box.landmarks_px
    for system in (floor, in_box):  # landmarks and surface of a baseline are one face
        surface = np.stack([system.vertices_px(k) for k in range(len(rows))])
        np.testing.assert_allclose(store.template.landmarks(surface), system.landmarks_px, atol=1e-3)
    np.testing.assert_allclose(box_of(placed), box_of(store.table["landmarks_px"][rows]), atol=1e-3)
    assert (placed[:, 30, 2] > placed[:, 0, 2]).all()  # nose before the ears
    assert (placed[:, 8, 1] > placed[:, 27, 1]).all()
    frontal = abs(store.yaw_deg()) < 20
    errors = nme68_2d(placed, store.table["landmarks_px"])
    assert errors[frontal].mean() < 0.6 * errors[abs(store.yaw_deg()) > 50].mean()


def test_normals_by_angle():
    flat = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    c, s = np.cos(0.3), np.sin(0.3)
    turned = flat @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T
    faces = np.array([[0, 1, 2]])
    assert normal_error_deg(flat, turned, faces) == pytest.approx(np.degrees(0.3), abs=1e-3)


# --- other systems beside ours ---


@pytest.fixture
def peer(store, tmp_path):
    """Made-up predictions: the truth, beside it by 3 and 4 px, in 2D; on one sample no face was found."""
    names, points = store.table["name"], store.table["landmarks_px"][..., :2] + np.float32([3, 4])
    path = tmp_path / "them.npz"
    np.savez(path, names=names[1:], points=points[1:], not_found=names[:1])
    return path


def test_peers_and_checkpoints_stand_in_every_table(settings, store, peer, tiny_run, tmp_path, pictures):
    other = tmp_path / "other.safetensors"
    shutil.copy(tiny_run / "weights.safetensors", other)
    vertices = np.stack([store.truth_px(index) for index in range(len(store))])
    np.savez(tmp_path / "truth.npz", names=store.table["name"], points=vertices)
    result = evaluate(settings("evaluate.split=all"), [other, tiny_run], [peer, tmp_path / "truth.npz"])
    assert list(result["nme68_2d"].index) == [NET, "other", "them", "truth", FLOOR, IN_BOX]
    assert list(result.kinds.values()) == ["network"] * 2 + ["peer"] * 2 + ["baseline"] * 2
    np.testing.assert_allclose(result.samples["them"][1:], 500 / store.face_size_px()[1:], rtol=1e-4)
    assert np.isnan(result.samples["them"][0])
    assert result["nme68_2d"]["samples"].tolist() == [24, 24, 23, 24, 24, 24]
    assert result["nme68_2d"].loc["them", "plain"] == pytest.approx(np.nanmean(result.samples["them"]))
    # the same weights under another name
    assert result["paired"].loc[f"{NET} - other", ["difference", "95% low", "95% high"]].tolist() == [0, 0, 0]
    pair = (result.samples[NET] - result.samples["them"]).to_numpy()
    assert result["paired"].loc[f"{NET} - them", "difference"] == pytest.approx(np.nanmean(pair))
    assert result["paired"].loc[f"{NET} - them", "samples"] == 23
    # what has no depth is not in the tables that want it; what is our template is a surface too
    for table in (result["nme68_3d"], result["pose"], result["surface"]):
        assert list(table.index) == [NET, "other", "truth", FLOOR, IN_BOX]
    assert result["surface"].loc["truth", "nme-dense-3d@template, %"] < 1e-3
    assert set(result.error_maps) == {NET, "other", "truth", FLOOR, IN_BOX}
    assert {"them", "other"} < set(result["slices"])
    assert "no face found on 1" in result.about["them"]
    assert read_image(result.folder / "worst_cases.png").shape[1] > 5 * 260


def test_peers_by_settings_and_their_faults(settings, peer, tmp_path):
    result = evaluate(settings("evaluate.split=all", f"evaluate.predictions=[{peer}]", "evaluate.mapping=[dlib68]"))
    assert "them" in result["nme68_2d"].index
    for more, match in {
        "evaluate.mapping=[dlib68, auto]": "has 2 entries for 1 predictions",
        "evaluate.mapping=[mediapipe468]": "the mapping asks for number 454",
    }.items():
        with pytest.raises(InputError, match=match):
            evaluate(settings("evaluate.split=all", f"evaluate.predictions=[{peer}]", more))
    with pytest.raises(InputError, match="is set without predictions"):
        evaluate(settings("evaluate.mapping=[dlib68]"))
    np.savez(tmp_path / f"{NET}.npz", **np.load(peer))
    with pytest.raises(InputError, match=f"{NET}: names two systems"):
        evaluate(settings("evaluate.split=all"), (), [tmp_path / f"{NET}.npz"])


def test_weights_have_short_names(settings, tiny_run, tmp_path):
    config = settings("evaluate.checkpoints=[bundled]")
    other = tmp_path / NET / "weights.safetensors"
    other.parent.mkdir()
    shutil.copy(tiny_run / "weights.safetensors", other)
    assert list(find_weights(config, ["bundled", other, tiny_run])) == [NET, "bundled", str(other)]


def test_a_second_annotation_makes_the_noise_and_a_second_table(settings, store, monkeypatch):
    rows = store.rows("all")
    again = store.table["landmarks_px"][rows][..., :2].astype(float) + [0, 2]
    monkeypatch.setattr(evaluate_module, "further_annotations", lambda *_: {REANNOTATED: by_hand(again)})
    result = evaluate(settings("evaluate.split=all"))
    np.testing.assert_allclose(result.samples[NOISE], 200 / store.face_size_px()[rows], rtol=1e-4)
    np.testing.assert_allclose(result["nme68_2d_reannotated"].loc[NOISE], result["nme68_2d"].loc[NOISE], rtol=1e-4)
    assert list(result["nme68_2d_reannotated"].index) == list(result["nme68_2d"].index) == [*SYSTEMS, NOISE]
    assert result["nme68_2d_reannotated"].loc[NET, "plain"] != pytest.approx(
        result["nme68_2d"].loc[NET, "plain"], rel=1e-4
    )
    assert (result.folder / "nme68_2d_reannotated.csv").exists()


def test_points_that_another_annotation_lacks_do_not_count(settings, store, monkeypatch, tiny_run):
    rows = store.rows("all")
    other = store.table["landmarks_px"][rows][..., :2].astype(float) + [3, 4]
    counts = np.ones(other.shape[:2], bool)
    counts[:, :17], counts[0] = False, False
    other[~counts] = np.nan
    merl = {"merl_no_jaw": Annotation("others", other, counts)}
    monkeypatch.setattr(evaluate_module, "further_annotations", lambda *_: merl)
    result = evaluate(settings("evaluate.split=all"))
    table = result["nme68_2d_merl_no_jaw"]
    assert table.loc[NET, "samples"] == len(rows) - 1  # the first has no point that counts
    points = np.stack([mesh.landmarks_px for mesh in predict_store(open_network(tiny_run), store, rows[1:], True)])
    expected = np.linalg.norm(points[:, 17:, :2] - other[1:, 17:], axis=-1).mean(1) / store.face_size_px()[rows[1:]]
    assert table.loc[NET, "plain"] == pytest.approx(100 * expected.mean(), rel=1e-4)


def test_faces_that_the_network_finds_itself(settings, store, monkeypatch, tiny_run):
    """One photo without a find, one with a find elsewhere, and of two finds the one on the labelled face."""
    rows = store.rows("all")
    finds = iter(range(len(rows)))

    def found(model, image, flip):
        k = next(finds)
        truth = store.table["landmarks_px"][rows[k]]
        there, away = (
            FaceMesh(truth, np.zeros((1, 3), int), (), (), truth + [by, 0, 0], box_of(truth)) for by in (1, 500)
        )
        return [[], [away]][k] if k < 2 else [away, there]

    monkeypatch.setattr(evaluate_module, "find_meshes", found)
    result = evaluate(settings("evaluate.split=all", "evaluate.found=true"))
    errors = result.samples[f"{NET}, found"].to_numpy()
    assert np.isnan(errors[0])
    assert errors[1] > ELSEWHERE
    np.testing.assert_allclose(errors[2:], 100 / store.face_size_px()[rows[2:]], rtol=1e-4)
    about = result.about[f"{NET}, found"]
    assert f"{len(rows) - 2} on the labelled face, 1 elsewhere (above 20%), 1 none" in about
    assert list(result["nme68_2d"].index)[:2] == [NET, f"{NET}, found"]


def test_the_opening_of_mouths_is_compared(settings, perfect):
    table = evaluate(settings("evaluate.split=all"))["opening"]
    assert table.loc[NET, ["slope", "correlation"]].tolist() == pytest.approx([1, 1])
    assert table.loc[NET, "mean"] == pytest.approx(table.loc[NET, "true mean"])
    assert abs(table.loc[IN_BOX, "slope"]) < 0.5  # the mean face's mouth does not open


# --- when it cannot be measured ---


def test_what_does_not_fit_is_one_line(settings, tiny_settings, tmp_path):
    with pytest.raises(InputError, match="there are no such weights"):
        evaluate(settings("evaluate.weights=run"))
    with pytest.raises(InputError, match="is no finished store"):
        evaluate(settings(f"evaluate.store={tmp_path / 'absent'}"))
    untested = preprocess(
        load_config(None, ["name=x", *tiny_settings, f"data.store={tmp_path / 'un'}", "data.test_share=0"])
    )
    with pytest.raises(InputError, match="test has no sample"):
        evaluate(settings(f"evaluate.store={untested.folder}"))


# --- templates with groups, and of other kinds ---


@pytest.fixture(scope="module")
def grouped_store(tiny_settings, tmp_path_factory):
    """The set on the template whose mouth is closed by a membrane."""
    folder = tmp_path_factory.mktemp("processed") / "grouped"
    return preprocess(
        load_config(None, ["name=x", *tiny_settings, f"data.store={folder}", "template.kind=face", "template.rings=6"])
    )


def test_what_lies_within_the_mouth_counts_in_no_metric(settings, grouped_store, tmp_path):
    """Beside it, the short run's weights, which are of another template, have landmarks and pose alone."""
    store, rng = grouped_store, np.random.default_rng(0)
    still = np.stack([store.truth_px(k) for k in range(len(store))])
    still += rng.normal(0, 0.3, still.shape)
    inside = store.template.within("mouth")
    lips = np.setdiff1d(store.template.faces[-1][~store.template.counted[-1]], inside)
    files = []
    for name, idx in {"still": [], "moved": inside, "lips": lips}.items():
        points = still.copy()
        points[:, idx] += [2.0, -3, 5]
        files.append(tmp_path / f"{name}.npz")
        np.savez(files[-1], names=store.table["name"], points=points)
    result = evaluate(settings(f"evaluate.store={store.folder}", "evaluate.split=all"), (), files)
    for table in ("nme68_2d", "nme68_3d", "pose", "surface"):
        rows = result[table]
        pd.testing.assert_series_equal(rows.loc["moved"], rows.loc["still"], check_names=False)
    surface = result["surface"]
    dense = [column for column in surface if column not in ("surfaces", "identity variance")]
    assert (surface.loc["lips", dense] != surface.loc["still", dense]).sum() >= 5
    maps = result.error_maps
    np.testing.assert_array_equal(maps["moved"], maps["still"])
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(maps["still"])), inside)
    assert result.about["dense protocols count"] == "skin, right eye, left eye alone"
    assert "skin, right eye, left eye alone" in result.tables["surface"].title
    assert surface.loc[NET, dense].isna().all()
    assert surface.loc[NET, "surfaces"] == 0
    assert "not of this network's" in result.about[NET]


def test_a_template_of_as_many_vertices_is_another_where_it_numbers_them_otherwise(
    settings, perfect, monkeypatch, store
):
    perfectly, order = evaluate_module.predict_store, np.random.default_rng(0).permutation(store.template.counts[-1])

    def renumbered(*arguments):
        meshes = perfectly(*arguments)
        return [replace(m, vertices_px=m.vertices_px[order], faces=np.argsort(order)[m.faces]) for m in meshes]

    monkeypatch.setattr(evaluate_module, "predict_store", renumbered)
    result = evaluate(settings("evaluate.split=all"))
    assert result["nme68_2d"].loc[NET, "plain"] == pytest.approx(0, abs=1e-5)
    assert result["surface"].loc[NET, "surfaces"] == 0
    assert np.isnan(result["surface"].loc[NET, "nme-dense-3d@template, %"])
    assert "not of this network's" in result.about[NET]
    index = store.rows("test")[0]
    [mesh] = renumbered(None, store, [index], False)
    assert face_prediction(store, index, mesh).truth_px is None


def test_weights_of_another_template_score_by_landmarks_as_on_their_own(settings, grouped_store, pictures):
    own, other = (evaluate(settings(*more)) for more in ((), (f"evaluate.store={grouped_store.folder}",)))
    for table in ("nme68_2d", "nme68_3d", "pose"):
        np.testing.assert_allclose(other[table].loc[NET], own[table].loc[NET], rtol=0.02)
    np.testing.assert_array_equal(other.samples[NET], own.samples[NET])
    assert own.about["dense protocols count"] == "all vertices"
    assert (own.folder / "error_maps.png").exists()
    assert not (other.folder / "error_maps.png").exists()
    for name in ("worst_cases.png", "best.png"):
        assert read_image(other.folder / name).std() > 10
