"""From an old checkpoint to meshes of pictures, by networks that know no face."""

import csv

import golden_networks as golden
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from p2m_core.config.settings import PredictConfig
from p2m_core.data.clouds import on_input
from p2m_workbench.cli import main
from p2m_workbench.interop.convert import convert
from p2m_workbench.photos.batch import predict_files
from p2m_workbench.photos.predict import open_weights, predict

KINDS = ("obj", "ply", "glb", "overlay", "crop", "html", "json", "csv", "depth", "normals", "levels")


@pytest.fixture(scope="module", params=["p2m_vgg", "p2m_tensorflow", "p2m_face"])
def converted(request, tmp_path_factory):
    """The name of a reference network, and its weights as the command makes them from a checkpoint."""
    name, folder = request.param, tmp_path_factory.mktemp("old")
    torch.save({"model": golden.state_dict(name), "best_loss": np.float64(1.0)}, folder / "old.pth")
    convert(folder / "old.pth", folder / "new.safetensors", golden.template_path(name), golden.overrides(name))
    yield name, folder / "new.safetensors"
    (folder / "old.pth").unlink(), (folder / "new.safetensors").unlink()


def picture(name):
    image = golden.images(name)[0].permute(1, 2, 0).numpy()
    return np.uint8(np.round(255 * image))


@torch.no_grad()
def test_the_mesh_lies_where_the_networks_camera_sees_it(converted):
    name, path = converted
    image = picture(name)
    [mesh] = predict(image, weights=path, precision="fp32")
    model = open_weights(path, precision="fp32")
    assert (mesh.pose, len(mesh.landmarks_px)) == (None, 0)
    if name == "p2m_face":  # its crop camera's coordinates are those of the photo
        assert [len(level) for level in mesh.levels] == list(model.template.counts)
        assert np.isfinite(mesh.vertices_px).all()
        return
    pixels = torch.from_numpy(np.float32(image.transpose(2, 0, 1)) / 255)[None]
    expected = on_input(model(pixels).levels[-1][0].numpy(), model.config, 224)
    np.testing.assert_allclose(mesh.vertices_px, expected, atol=1e-3 * np.ptp(expected))
    # A box within a larger picture: the same mesh there.
    large = np.full((300, 400, 3), 255, np.uint8)
    large[40:264, 60:284] = image
    [there] = predict(large, np.array([59.5, 39.5, 283.5, 263.5]), path, precision="fp32")
    np.testing.assert_allclose(there.vertices_px - [60, 40, 0], mesh.vertices_px, atol=1e-3 * np.ptp(expected))


def test_a_folder_of_pictures_by_the_command(converted, tmp_path):
    name, path = converted
    (tmp_path / "views").mkdir()
    for k in range(2):
        Image.fromarray(np.roll(picture(name), 9 * k, 1)).save(tmp_path / "views" / f"{k}.png")
    words = ["predict", str(tmp_path / "views"), "--weights", str(path), "--out", str(tmp_path / "out")]
    assert main([*words, "--save", ",".join(KINDS)]) == 0
    rows = list(csv.DictReader((tmp_path / "out/predictions.csv").read_text().splitlines()))
    assert [(row["name"], row["problem"], row["yaw_deg"]) for row in rows] == [("0", "", ""), ("1", "", "")]
    counts = open_weights(path).template.counts
    for k in range(2):
        solid = trimesh.load(tmp_path / f"out/{k}.ply", process=False)
        assert len(solid.vertices) == counts[-1]
        assert (tmp_path / f"out/{k}-level{len(counts)}.obj").is_file()
        assert (tmp_path / f"out/{k}.html").stat().st_size > 1e5


def test_frames_of_a_video_are_seen_whole(converted, tmp_path):
    name, path = converted
    Image.fromarray(picture(name)).save(tmp_path / "f.png")
    settings = PredictConfig(weights=str(path), video=True, save=("json",))
    assert not predict_files(tmp_path, tmp_path / "out", settings=settings).problems
