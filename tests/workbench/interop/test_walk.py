"""From an old options file and checkpoint to a table and meshes, by the commands of docs/migration.md."""

import csv
import json
import pickle

import golden_networks as golden
import numpy as np
import pandas as pd
import pytest
import torch
import trimesh
from conftest import ROOT
from PIL import Image

from p2m_core.data.aflw2000 import find_samples
from p2m_core.data.clouds import on_input
from p2m_core.geometry.crop import crop_image, crop_matrix
from p2m_workbench.cli import main
from p2m_workbench.interop.reference_network import LegacyCrop, load_network
from p2m_workbench.measuring.surfaces import COLUMNS, surface_distance
from p2m_workbench.photos.detect import box_iou

OLD_OPTIONS = """
based_on: [base.yml]
dataset: {camera_f: CAMERA_F, camera_c: [111.5, 111.5], normalization: NORMALISED}
model: {backbone: resnet50, z_threshold: 0}
"""
BASE_OPTIONS = """
dataset: {name: shapenet, mesh_pos: [0., 0., DEPTH], camera_f: [1., 1.]}
model: {name: pixel2mesh, align_with_tensorflow: false, gconv_activation: true}
"""


def converted(name, folder, depth, focal, normalised):
    """The command's new file of a reference network's weights, as a trainer keeps them."""
    state = golden.state_dict(name)
    optimiser = torch.optim.Adam([torch.nn.Parameter(state["gcns.0.conv1.weight"].clone())])
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, np.array([30, 45])).state_dict()
    content = {"model": state, "optimizer": optimiser.state_dict(), "lr_scheduler": schedule, "epoch": 7}
    torch.save(content | {"best_loss": np.float64(0.25)}, folder / "old.pth")
    (folder / "base.yml").write_text(BASE_OPTIONS.replace("DEPTH", str(depth)))
    own = OLD_OPTIONS.replace("CAMERA_F", f"[{focal}, {focal}]").replace("NORMALISED", normalised)
    (folder / "old.yml").write_text(own)
    words = ["convert", folder / "old.pth", folder / "new.safetensors", "--template", golden.template_path(name)]
    assert main([*map(str, words), "--options", str(folder / "old.yml")]) == 0
    return folder / "new.safetensors"


def least_chamfer(found, truth, depths):
    """CD x1000, from every point to every other, with `found` moved to that of some depths where it is least."""
    x, y, z = np.moveaxis(found[:, None] - truth[None], -1, 0)
    squares = (x**2 + y**2 + (z + depth) ** 2 for depth in depths)
    return 1000 * min(square.min(0).mean() + square.min(1).mean() for square in squares)


def test_object_weights(home, tmp_path, capsys):
    """Table and meshes are those of the reference network's own output, but for the pictures' 8 bits."""
    name, raw = "p2m_vgg", tmp_path / "raw"
    path = converted(name, tmp_path, -0.8, 248.0, "false")
    assert "(assumed" in capsys.readouterr().out  # the camera's kind and PyTorch's version, which no file tells
    vertices = golden.outputs(name)["pred3"]
    rng = np.random.default_rng(0)
    clouds = [v[rng.choice(len(v), 300)] + rng.normal(0, 0.05 * v.std(), (300, 3)) for v in vertices]
    for k, (image, cloud) in enumerate(zip(golden.images(name), clouds, strict=True)):
        view = raw / f"data_tf/car/m{k}/rendering/00.dat"
        view.parent.mkdir(parents=True)
        view.write_bytes(pickle.dumps(np.concatenate([cloud + [0, 0, -0.8], np.ones((300, 3))], 1)))
        pixels = np.uint8(np.round(255 * image.permute(1, 2, 0).numpy()))
        Image.fromarray(np.dstack([pixels, np.full((224, 224), 255, np.uint8)])).save(view.with_suffix(".png"))
    (raw / "train.txt").write_text("")
    (raw / "test.txt").write_text("".join(f"car/m{k}/rendering/00.dat\n" for k in range(2)))
    words = ["-c", str(ROOT / "configs/object-resnet50.yaml"), "--set", f"data.raw={raw}", "--weights", str(path)]
    assert main(["evaluate", *words]) == 0
    samples = pd.read_csv(home / "outputs/object-resnet50/evaluation/raw-test/samples.csv")
    scores = samples[samples["system"] == "new"]["CD x1000"]
    expected = [least_chamfer(v, cloud, [0]) for v, cloud in zip(vertices, clouds, strict=True)]
    np.testing.assert_allclose(scores, expected, rtol=0.02)
    assert (samples[samples["system"] != "new"]["CD x1000"].to_numpy() > 2 * np.array(expected)).all()
    words = ["predict", str(raw / "data_tf"), "--weights", str(path), "--out", str(tmp_path / "meshes")]
    assert main([*words, "--set", "predict.precision=fp32"]) == 0
    config = load_network(path)[0].config
    for k, found in enumerate(sorted((tmp_path / "meshes").rglob("*.ply"))):
        px = on_input(vertices[k], config, 224)
        solid = trimesh.load(found, process=False)
        np.testing.assert_allclose(solid.vertices * [1, -1, 1], px, atol=0.02 * np.ptp(px))
    assert k == 1
    # What is transparent is white to such networks, as in their sets.
    Image.fromarray(np.zeros((50, 50, 4), np.uint8)).save(tmp_path / "cut.png")
    words = ["predict", str(tmp_path / "cut.png"), "--weights", str(path), "--out", str(tmp_path / "cut")]
    assert main([*words, "--save", "crop"]) == 0
    assert (np.asarray(Image.open(tmp_path / "cut/cut-crop.png")) == 255).all()


@torch.no_grad()
def by_hand(model, image, box):
    """Finest vertices (V, 3) px of the photo, of the network's answer to the square of 1.3 boxes."""
    side = 1.3 * max(box[2] - box[0], box[3] - box[1])
    pixel = side / 224
    corner = [(box[k] + box[2 + k]) / 2 - 111.5 * pixel for k in range(2)]
    crop = crop_image(image, crop_matrix(box, 224, 1.3), 224)
    pixels = torch.from_numpy(np.float32(crop.transpose(2, 0, 1)) / 255)[None]
    size = torch.tensor([side], dtype=torch.float32)
    place = LegacyCrop(torch.tensor([corner], dtype=torch.float32), size, size)
    return 1000 * model(pixels, place).levels[-1][0].numpy().astype(np.float64)


def test_face_weights(home, tmp_path, store, synthetic_set, capsys):
    """The table is of the network's answer to each face's crop, against the store's true vertices."""
    name = "p2m_face"
    path = converted(name, tmp_path, 0.0, 25.0, "true")
    model, _ = load_network(path)
    assert (model.config.camera, model.config.normalisation) == ("legacy_crop", "imagenet_of_255")
    words = ["evaluate", "--weights", str(path), "--data", str(store.folder), "--set", "name=old"]
    assert main(words) == 2
    assert "has no landmarks" in (said := capsys.readouterr().err)
    assert "--protocol surface" in said
    assert main([*words, "--protocol", "surface"]) == 0
    folder = home / f"outputs/old/evaluation/{store.folder.name}-test-surface"
    samples, rows = pd.read_csv(folder / "samples.csv").set_index(["system", "name"]), store.rows("test")
    photos = {mat.stem: np.asarray(Image.open(mat.with_suffix(".jpg"))) for mat in find_samples(synthetic_set)}
    for row in rows[:2]:
        sample, truth = str(store.table["name"][row]), store.truth_px(row)
        found, box = by_hand(model, photos[sample], store.table["box_px"][row]), store.table["box_px"][row]
        depths = truth[:, 2].mean() - found[:, 2].mean() + np.linspace(-80, 80, 81)
        least = least_chamfer(found / 1000, truth / 1000, depths / 1000)
        # The store's crop is a JPEG of another size than the photo's.
        assert samples.loc[("new", sample), "CD x1000"] == pytest.approx(least, rel=0.1), box
    table = pd.read_csv(folder / "surface.csv").set_index(["system", "|yaw|"])
    plain = samples.loc["new"][list(COLUMNS)].mean()
    np.testing.assert_allclose(table.loc[("new", "plain"), list(COLUMNS)].to_numpy(float), plain, rtol=1e-9)
    assert table.loc[("mean face, true pose (floor)", "plain"), "distance, %"] < 4
    assert table.loc[("new", "plain"), "samples"] == len(rows)
    (tmp_path / "photos").mkdir()
    chosen = [*photos][:2]
    for sample in chosen:
        Image.fromarray(photos[sample]).save(tmp_path / "photos" / f"{sample}.png")
    words = ["predict", str(tmp_path / "photos"), "--weights", str(path), "--out", str(tmp_path / "meshes")]
    assert main([*words, "--set", "predict.precision=fp32"]) == 0
    boxes = dict(zip(store.table["name"].tolist(), store.table["box_px"], strict=True))
    for sample in chosen:
        box = np.array(json.loads((tmp_path / f"meshes/{sample}.json").read_text())["box_px"])
        assert box_iou(box, boxes[sample]).item() > 0.5  # the face, which the detector finds
        expected = by_hand(model, photos[sample], box)
        solid = trimesh.load(tmp_path / f"meshes/{sample}.ply", process=False)
        np.testing.assert_allclose(solid.vertices * [1, -1, 1], expected, atol=1e-3 * np.ptp(expected))
    with (tmp_path / "meshes/predictions.csv").open() as file:
        assert [row["problem"] for row in csv.DictReader(file)] == ["", ""]


def test_a_surface_is_measured_at_its_own_depth():
    """The truth itself, divided more finely and moved towards the camera, is at no distance from the truth."""
    sphere = trimesh.creation.icosphere(3, 100)
    finer = sphere.subdivide()
    row = surface_distance((finer.vertices + [0, 0, 37], finer.faces), (sphere.vertices, sphere.faces))
    assert row["distance, %"] < 0.15  # the depth is searched to 0.1
    assert row["F1 at 1e-4 (10 px)"] == 100
    assert row["normals off by, deg"] < 10
    larger = trimesh.creation.icosphere(4, 105)
    row = surface_distance((larger.vertices, larger.faces[:, ::-1]), (sphere.vertices, sphere.faces))
    assert row["distance, %"] == pytest.approx(100 * 5 / 200, rel=0.05)  # whichever way its triangles wind
