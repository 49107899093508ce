"""A thousand damaged files: every reader takes them or refuses them by an InputError, and nothing else comes out."""

import pickle

import numpy as np
import pytest
from specimens import FACE_MODEL_WRITERS, face_sheet, write_basel

from p2m_core.checkpoint import read_weights, save_weights
from p2m_core.config import ModelConfig, load_config
from p2m_core.data.aflw2000 import find_samples, read_attributes, read_image, read_sample
from p2m_core.data.shapenet import read_view
from p2m_core.data.store import Store
from p2m_core.errors import InputError
from p2m_core.faces.formats import convert_face_model, load_face_model, save_face_model
from p2m_core.legacy import load_arrays
from p2m_core.model import Pixel2Mesh
from p2m_core.template import Template, ellipsoid

ROUNDS = {"mat": 300, "jpg": 150, "dat": 200, "template": 100, "obj": 100, "weights": 60, "yaml": 60, "store": 30}
ROUNDS |= {"basel": 60, "face3d": 60, "3ddfa_v2": 60, "npz": 60}


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
        return path, path.read_bytes(), lambda: Template.load(path)
    if kind == "obj":
        [path, _] = ellipsoid(2).save(tmp_path)
        return path, path.read_bytes(), lambda: Template.load(path, 1)
    if kind == "weights":
        path = tmp_path / "a.safetensors"
        settings = ModelConfig(input_px=32, hidden=(4, 4), blocks=(0, 0))
        model = Pixel2Mesh(settings, ellipsoid(2))
        save_weights(path, model.state_dict(), model, {})
        return path, path.read_bytes(), lambda: read_weights(path)
    if kind in FACE_MODEL_WRITERS or kind == "npz":
        path = FACE_MODEL_WRITERS.get(kind, write_basel)(tmp_path / "model", face_sheet(40, 10, 6))
        if kind == "npz":
            convert_face_model(path, path.parent / "bfm.npz")
            path = path.parent / "bfm.npz"
        return path, path.read_bytes(), lambda: load_face_model(path)
    if kind == "yaml":
        path = tmp_path / "a.yaml"
        return path, b"name: a\ntrain: {epochs: 3, lr: 1e-3}\nmodel:\n  hidden: [8, 8]\n", lambda: load_config(path)
    folder = tmp_path / "store"
    folder.mkdir()
    for file in store.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / "samples.npz", (folder / "samples.npz").read_bytes(), lambda: Store(folder)


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
    assert refused > 0.2 * ROUNDS[kind]


def test_a_damaged_face_model_is_refused(face_model, tmp_path):
    save_face_model(tmp_path, face_model)
    path = tmp_path / "Model_Shape.mat"
    content = path.read_bytes()
    for cut in (0, 100, len(content) // 2):
        path.write_bytes(content[:cut])
        with pytest.raises(InputError, match=r"Model_Shape\.mat"):
            load_face_model(tmp_path)
