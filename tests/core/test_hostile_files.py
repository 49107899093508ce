"""A thousand damaged files: every reader takes them or refuses them by an InputError, and nothing else comes out."""

import pickle
import struct
import zipfile
import zlib

import folder_sets
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import trimesh
from conftest import zipped
from example_predictions import FACE_MODEL_WRITERS, face_sheet, write_basel
from PIL import Image

from p2m_core.config.loading import load_config
from p2m_core.config.settings import ModelConfig
from p2m_core.data.aflw2000 import find_samples, read_image, read_sample
from p2m_core.data.face_store import FaceStore
from p2m_core.data.shapenet import read_view
from p2m_core.errors import InputError
from p2m_core.geometry.template import ellipsoid
from p2m_core.geometry.template_files import load_template
from p2m_core.morphable.formats import load_face_model
from p2m_core.network.model import Pixel2Mesh
from p2m_core.network.weights import read_weights, save_weights
from p2m_core.safe_pickle import load_arrays
from p2m_synth.mat_files import save_face_model
from p2m_synth.sample_files import read_attributes
from p2m_workbench.interop.face_models import convert_face_model
from p2m_workbench.preprocessing import preprocess
from p2m_workbench.preprocessing.folder_files import SHAPE_SUFFIXES, read_camera, read_shape

ROUNDS = {"mat": 300, "jpg": 150, "dat": 200, "template": 100, "obj": 100, "weights": 60, "yaml": 60, "store": 30}
ROUNDS |= {"zip": 100, "pts": 60, "ply": 60, "glb": 60, "stl": 40, "off": 40, "xyz": 60, "npz": 60, "camera": 60}
ROUNDS |= {"basel": 60, "face3d": 60, "3ddfa_v2": 60, "face_npz": 60}


def damaged(content, rng):
    """The bytes with some changed, cut off, doubled or put in."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        if len(data) < 2:
            break
        place, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
        match rng.integers(5):
            case 0:
                data[place : place + length] = rng.bytes(len(data[place : place + length]))
            case 1:
                data[place] ^= 1 << int(rng.integers(8))
            case 2:
                data[place:place] = rng.bytes(length)
            case 3:
                del data[place : place + length]
            case 4:
                data = data[: max(1, place)]
    return bytes(data)


@pytest.fixture
def sound(tmp_path, synthetic_set, store, tiny_backbone, request):
    """Path and content of a sound file of a kind, and the function that reads it."""
    kind, path = request.param, tmp_path / "file"
    mat = find_samples(synthetic_set)[0]
    if kind == "mat":
        path = tmp_path / mat.name
        path.with_suffix(".jpg").write_bytes(mat.with_suffix(".jpg").read_bytes())
        return path, mat.read_bytes(), lambda: (read_sample(path), read_attributes(path))
    if kind == "jpg":
        path = tmp_path / "a.jpg"
        return path, mat.with_suffix(".jpg").read_bytes(), lambda: read_image(path)
    if kind == "dat":
        path = tmp_path / "00.dat"
        picture = np.zeros((8, 8, 3), np.uint8)
        content = pickle.dumps((picture, np.ones((20, 6), np.float32)), protocol=2)
        return path, content, lambda: (load_arrays(path), read_view(path))
    if kind == "template":
        path = tmp_path / "a.npz"
        mesh = ellipsoid(2)
        np.savez(path, coord=mesh.vertices[: mesh.counts[0]], faces1=mesh.faces[0], unpool1=mesh.unpool[0])
        return path, path.read_bytes(), lambda: load_template(path)
    if kind == "obj":
        path, mesh = tmp_path / "template_1.obj", ellipsoid(1)
        trimesh.Trimesh(mesh.vertices, mesh.faces[0], process=False).export(path)
        return path, path.read_bytes(), lambda: (read_shape(path), load_template(path, 1))
    if kind == "weights":
        path = tmp_path / "a.safetensors"
        settings = ModelConfig(input_px=32, hidden=(4, 4), blocks=(0, 0))
        model = Pixel2Mesh(settings, ellipsoid(2))
        save_weights(path, model.state_dict(), model, {})
        return path, path.read_bytes(), lambda: read_weights(path)
    if kind in FACE_MODEL_WRITERS or kind == "face_npz":
        path = FACE_MODEL_WRITERS.get(kind, write_basel)(tmp_path / "model", face_sheet(40, 10, 6))
        if kind == "face_npz":
            convert_face_model(path, path.parent / "bfm.npz")
            path = path.parent / "bfm.npz"
        return path, path.read_bytes(), lambda: load_face_model(path)
    if kind == "yaml":
        path = tmp_path / "a.yaml"
        return (
            path,
            b"name: a\ntrain: {epochs: 3, lr: 1e-3}\nmodel:\n  hidden: [8, 8, 8, 8]\n",
            lambda: load_config(path),
        )
    if kind == "zip":
        path = zipped(synthetic_set / "00000", tmp_path / "a.zip", "set")
        with zipfile.ZipFile(path) as whole:  # small, so that damage hits what is read
            parts = {name: whole.read(name) for name in whole.namelist() if "image00001" in name}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as small:
            for name, content in parts.items():
                small.writestr(name, content)
        return path, path.read_bytes(), lambda: [read_image(read_sample(mat).image_path) for mat in find_samples(path)]
    if kind == "pts":
        lp = request.getfixturevalue("lp_set")
        for name in ("AFW/AFW_1_1_0.jpg", "AFW/AFW_1_1_0.mat", "landmarks/AFW/AFW_1_1_0_pts.mat"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((lp / name).read_bytes())
        path = tmp_path / "landmarks" / "AFW" / "AFW_1_1_0_pts.mat"
        return path, path.read_bytes(), lambda: read_sample(tmp_path / "AFW" / "AFW_1_1_0.mat")
    if kind == "camera":
        path = tmp_path / "camera.yaml"
        content = b"camera: perspective\nfocal: [100, 90]\ncentre: [60, 60]\naxes: opencv\nbox: [1, 2, 30, 40]\n"
        return path, content, lambda: read_camera(path)
    if f".{kind}" in SHAPE_SUFFIXES and kind != "obj":
        folder_sets.write_sample(tmp_path, "a", "image", 0, f".{kind}")
        path = tmp_path / f"a.{kind}"
        return path, path.read_bytes(), lambda: read_shape(path)
    folder = tmp_path / "store"
    folder.mkdir()
    for file in store.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / "samples.npz", (folder / "samples.npz").read_bytes(), lambda: FaceStore(folder)


@pytest.mark.filterwarnings("ignore")  # numpy and scipy warn of what they then cannot read
@pytest.mark.parametrize("sound", ROUNDS, indirect=True)
def test_only_our_errors_come_out(sound, request):
    path, content, read = sound
    kind = request.node.callspec.params["sound"]
    path.write_bytes(content)
    read()  # sound, it is read
    rng, refused = np.random.default_rng(len(content)), 0
    for _ in range(ROUNDS[kind]):
        path.write_bytes(damaged(content, rng))
        try:
            read()
        except InputError:
            refused += 1
    # Binary meshes and bare numbers hold mostly coordinates, any of which may be meant.
    assert refused > (0.05 if kind in ("ply", "stl", "glb", "xyz", "off") else 0.2) * ROUNDS[kind]


def test_a_damaged_face_model_is_refused(face_model, tmp_path):
    save_face_model(tmp_path, face_model)
    path = tmp_path / "Model_Shape.mat"
    content = path.read_bytes()
    for cut in (0, 100, len(content) // 2):
        path.write_bytes(content[:cut])
        with pytest.raises(InputError, match=r"Model_Shape\.mat"):
            load_face_model(tmp_path)


def huge_png(path, width, height):
    """A picture whose head says so much; its pixels are those of a small one."""
    Image.new("RGB", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (20_000, 5_000), (10**9, 1)])
def test_a_picture_of_20000_px_is_refused_before_it_is_decoded(tmp_path, monkeypatch, width, height):
    huge_png(tmp_path / "a.png", width, height)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("was decoded"))
    with pytest.raises(InputError, match=r"a\.png: has more than 89 million px \(scale it down\)"):
        read_image(tmp_path / "a.png")


def test_a_long_narrow_picture_is_read(tmp_path):
    Image.new("RGB", (20_000, 10), (9, 8, 7)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (10, 20_000, 3)


def test_a_set_with_a_picture_of_20000_px_loses_that_sample_alone(synthetic_set, tiny_config, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for mat in find_samples(synthetic_set)[:3]:
        for path in (mat, mat.with_suffix(".jpg")):
            (raw / path.name).write_bytes(path.read_bytes())
    (raw / "image00002.jpg").unlink()
    huge_png(raw / "image00002.png", 20_000, 20_000)
    store = preprocess(tiny_config, raw, tmp_path / "out")
    assert store.table["name"].tolist() == ["image00001", "image00003"]
    [line] = store.manifest["skipped"]
    assert line.startswith(f"{raw / 'image00002.png'}: has more than 89 million px")


@pytest.mark.parametrize(
    "content",
    [
        {"Pose_Para": {"a": 1}},
        {"Pose_Para": scipy.sparse.csc_matrix(np.ones((1, 7)))},
        {"Pose_Para": np.ones((1, 7)) * 1j},
        {"Pose_Para": "seven"},
        {"Pose_Para": np.array([[1, "x"]], object)},
        {"w": np.ones((3, 3))},
        {},
    ],
    ids=["struct", "sparse", "complex", "text", "cell", "model", "empty"],
)
def test_a_mat_of_another_kind_is_refused(synthetic_set, tmp_path, content):
    mat = find_samples(synthetic_set)[0]
    (tmp_path / "a.jpg").write_bytes(mat.with_suffix(".jpg").read_bytes())
    fields = {k: v for k, v in scipy.io.loadmat(mat).items() if not k.startswith("__")}
    scipy.io.savemat(tmp_path / "a.mat", (fields if "Pose_Para" in content else {}) | content)
    with pytest.raises(InputError, match=r"a\.mat: Pose_Para: (is missing|is not made of real numbers)"):
        read_sample(tmp_path / "a.mat")


def test_landmarks_that_are_no_numbers_or_span_no_box_are_refused(lp_set, tmp_path):
    (tmp_path / "AFW").mkdir()
    for name in ("AFW/AFW_1_1_0.jpg", "AFW/AFW_1_1_0.mat"):
        (tmp_path / name).write_bytes((lp_set / name).read_bytes())
    (tmp_path / "landmarks" / "AFW").mkdir(parents=True)
    for points, problem in (
        (np.full((68, 2), np.nan), "pts_3d: has entries that are not finite"),
        (np.full((68, 2), 40.0), "spans a box without area"),
        (np.column_stack([np.linspace(900, 950, 68)] * 2), "outside the image"),
        (np.ones((2, 68)), r"pts_3d: has the shape \(2, 68\)"),
    ):
        scipy.io.savemat(tmp_path / "landmarks" / "AFW" / "AFW_1_1_0_pts.mat", {"pts_3d": points})
        with pytest.raises(InputError, match=problem):
            read_sample(tmp_path / "AFW" / "AFW_1_1_0.mat")
