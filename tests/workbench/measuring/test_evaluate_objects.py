"""p2m_workbench.measuring.evaluate_objects against a slow and obvious count of cd-f1@p2m."""

import json
import pickle

import numpy as np
import oracles
import pandas as pd
import pytest
import torch
from conftest import ROOT
from PIL import Image

from p2m_core.config.loading import load_config
from p2m_core.data import open_store
from p2m_core.errors import InputError
from p2m_core.network.model import NetworkOutput, Pixel2Mesh
from p2m_core.network.weights import save_weights
from p2m_workbench.measuring.evaluate_objects import evaluate_objects, views_with_points

NUMBERS = ["CD x1000", "F1 at 1e-4", "F1 at 2e-4"]


@pytest.fixture
def config(home, tmp_path, tiny_backbone):
    """One category with 3 test views, another with 1; 20 to 40 points each; a network of one level."""
    rng, raw = np.random.default_rng(0), tmp_path / "raw"
    lines = {"test": [("car", 0), ("car", 1), ("car", 2), ("02828884", 3)], "train": [("car", 4)]}
    for split, views in lines.items():
        for category, k in views:
            path = raw / "data_tf" / category / f"m{k}" / "rendering" / "00.dat"
            path.parent.mkdir(parents=True)
            cloud = rng.normal(size=(rng.integers(20, 40), 6)) * 0.1 + [0, 0, -0.8, 0, 0, 0]
            path.write_bytes(pickle.dumps(cloud))
            Image.fromarray(rng.integers(0, 255, (137, 137, 4), dtype=np.uint8)).save(path.with_suffix(".png"))
        (raw / f"{split}.txt").write_text("".join(f"data_tf/{c}/m{k}/rendering/00.dat\n" for c, k in views))
    one_level = ["template.levels=1", "model.hidden=[8]", "model.blocks=[1]", "model.residual=true"]
    return load_config(ROOT / "configs/object-tiny.yaml", [f"data.raw={raw}", "name=trial", *one_level])


def write_weights(config, path, seed=0, **changes):
    """Weights of a network that moves the ellipsoid a little, as `seed` says."""
    torch.manual_seed(seed)
    model = Pixel2Mesh(config.model.model_copy(update=changes), open_store(config).template).eval()
    save_weights(path, model.state_dict(), model, {"step": seed, "data": "nowhere"})
    return path, model


def by_hand(config, model):
    """Table rows, slowly: {row: [samples, CD, F1, F1 at twice the limit]}."""
    store = open_store(config)
    data = store.dataset(store.rows("test"), config, train=False)
    scores = []
    for k in range(len(data)):
        points = data[k]["points"].astype(np.float64)
        with torch.no_grad():
            vertices = model(torch.from_numpy(data[k]["image"])[None]).levels[-1][0].double().numpy()
        cd, f1 = oracles.cd_f1(vertices, points, 1e-4)
        scores.append([cd, f1, oracles.cd_f1(vertices, points, 2e-4)[1]])
    cars, bench = np.mean(scores[:3], 0), np.array(scores[3])
    return {
        "bench": [1, *bench],
        "car": [3, *cars],
        "mean of categories": [4, *((cars + bench) / 2)],
        "weighted by samples": [4, *np.mean(scores, 0)],
    }


def test_the_table_is_the_protocol_for_each_checkpoint(config, home):
    first, one = write_weights(config, home / "outputs/trial/weights.safetensors", 1)
    second, two = write_weights(config, home / "other.safetensors", 2)
    result = evaluate_objects(config, [second, "run", first])
    table = result["cd_f1"]
    names = table.index.get_level_values("system")
    assert list(dict.fromkeys(names)) == ["trial", "other", "template as it is"]
    undeformed = torch.from_numpy(one.template.vertices)[None]

    def still(images):
        return NetworkOutput([undeformed], [undeformed])

    for name, model in zip(dict.fromkeys(names), (one, two, still), strict=True):
        rows = table.loc[name]
        expected = by_hand(config, model)
        assert list(rows.index) == list(expected)
        np.testing.assert_allclose(rows.to_numpy(float), np.array(list(expected.values())), rtol=1e-5)
    assert not table.loc["trial"].equals(table.loc["other"])
    assert result.about["samples"] == 4
    assert "squared distances in m²" in result.about["protocol"]
    text = str(result)
    assert all(word in text for word in ("mean of categories", "weighted by samples", "trial", "bench"))


def test_what_is_written(config, home):
    write_weights(config, home / "outputs/trial/weights.safetensors")
    result = evaluate_objects(config)
    assert result.folder == home / "outputs/trial/evaluation/raw-test"
    names = {path.name for path in result.folder.iterdir()}
    assert names == {"cd_f1.csv", "samples.csv", "metrics.json", "report.md", "tables.tex", "predictions_0.png"}
    table = pd.read_csv(result.folder / "cd_f1.csv")
    np.testing.assert_allclose(table[NUMBERS].to_numpy(), result["cd_f1"][NUMBERS].to_numpy())
    samples = pd.read_csv(result.folder / "samples.csv")
    assert samples["name"].tolist() == ["car/m0/00", "car/m1/00", "car/m2/00", "bench/m3/00"] * 2
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics["about"]["weights"]["trial"] == {"step": 0, "data": "nowhere"}
    table = metrics["tables"]["cd_f1"]
    assert len(table["rows"]) == 2 * 4
    assert (table["protocol"], table["n"], table["interval"]) == ("cd-f1@p2m", 4, None)
    [predictions] = result.predictions.values()
    assert len(predictions) == 4
    assert predictions[0].name.startswith("car/m0/00, CD ")
    mesh = predictions[0].mesh
    assert mesh.vertices_px.shape == (162, 3)
    assert (np.abs(mesh.vertices_px.mean(0)[:2] - 223.5) < 30).all()  # the ellipsoid, in the middle of its picture


def test_predictions_can_be_inspected(config, home):
    from p2m_workbench.viewing import inspect

    write_weights(config, home / "outputs/trial/weights.safetensors")
    [predictions] = evaluate_objects(config).predictions.values()
    inspector = inspect({"trial": predictions, "again": predictions})
    assert "Template" in [button.description for button in inspector._jumps.children]  # the ellipsoid
    inspector.choose(1)
    inspector.landmarks.value, inspector.style_.value = True, "edges"
    inspector.beside.label = "again"
    assert inspector.compared is predictions[1]
    inspector.level.value = 0


def test_weights_of_another_input_size_see_their_own(config, home):
    larger = {"input_px": 112, "focal_px": (124.0, 124.0), "centre_px": (55.5, 55.5)}
    path, model = write_weights(config, home / "larger.safetensors", **larger)
    chosen = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"weights": str(path)})})
    rows = evaluate_objects(chosen)["cd_f1"].loc["larger"]
    its_own = config.model_copy(update={"model": model.config})
    np.testing.assert_allclose(rows.to_numpy(float), np.array(list(by_hand(its_own, model).values())), rtol=1e-5)


def test_meshes_are_drawn_where_their_own_camera_sees_them(config, home):
    """The official network has no offset, its template lies before the camera; others' is twice as far off here."""
    own, _ = write_weights(config, home / "own.safetensors")
    far, _ = write_weights(config, home / "far.safetensors", mesh_offset=(0.0, 0.0, -1.6))
    chosen = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"weights": str(own)})})
    found = evaluate_objects(chosen, [far]).predictions
    sizes = [np.ptp(found[name][0].mesh.template_px, axis=0) for name in ("own", "far")]
    np.testing.assert_allclose(sizes[1][:2], sizes[0][:2] / 2, rtol=0.1)


def test_refusals(config, home):
    with pytest.raises(InputError, match="there are no such weights"):
        evaluate_objects(config)
    write_weights(config, home / "outputs/trial/weights.safetensors")
    with pytest.raises(InputError, match=r"model\.camera: is crop, but the data want perspective"):
        evaluate_objects(config, [write_weights(config, home / "face.safetensors", camera="crop")[0]])
    with pytest.raises(InputError, match=r"model\.camera: is legacy_crop, .*--protocol surface"):
        evaluate_objects(config, [write_weights(config, home / "old.safetensors", camera="legacy_crop")[0]])
    for wrong, match in {
        "evaluate.flip=true": r"evaluate\.flip: .*no mirror image",
        "evaluate.predictions=[x.npz]": r"evaluate\.predictions: .*of faces",
    }.items():
        with pytest.raises(InputError, match=match):
            load_config(ROOT / "configs/object-tiny.yaml", [wrong])
    with pytest.raises(InputError, match=r"evaluate\.split: val has no view"):
        evaluate_objects(config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"split": "val"})}))


def test_views_with_points_are_two_rows(config):
    picture = views_with_points(open_store(config), [0, 1, 2], 50)
    assert picture.shape == (100, 150, 3)
    assert (picture[:50] != picture[50:]).any()
