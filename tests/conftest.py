"""Shared fixtures."""

import gc
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# The shapes in the annotations of these modules are checked at every call, in tests alone.
ROOMS = ("chamfer", "face_mesh", "geometry", "inference", "metrics", "morphable", "network", "targets")
install_import_hook([f"p2m_core.{room}" for room in ROOMS], "shape_checker.check")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


# Each file's tests run in one of several processes: the longest start first, or one process would end alone with them.
LONGEST_FILES = ("test_notebooks.py", "test_sweep.py", "test_faults.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of the longest files first."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)


def pytest_collection_finish() -> None:
    """What has been imported stays: no search for garbage among it between the tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A JupyterLab that serves all temporary folders of the session's tests."""
    from browser import jupyter_lab, require_browser

    require_browser()
    with jupyter_lab(tmp_path_factory.getbasetemp()) as server:
        yield server


@pytest.fixture(scope="session")
def aflw_samples() -> Path:
    """The folder of real AFLW2000-3D samples, which is research-only and so not part of the project."""
    folder = SHARED / "aflw2000-samples"
    if not folder.is_dir():
        pytest.skip("needs ../shared/aflw2000-samples (real AFLW2000-3D samples, not in the repository)")
    return folder


@pytest.fixture(scope="session")
def aflw_landmarks() -> Path:
    """The folder of AFLW2000-3D's landmark arrays, which is research-only and so not part of the project."""
    folder = SHARED / "aflw2000-landmarks"
    if not folder.is_dir():
        pytest.skip("needs ../shared/aflw2000-landmarks (landmark arrays of AFLW2000-3D, not in the repository)")
    return folder


# --- a small synthetic set, its store, and networks for it: made once ------------------------------


@pytest.fixture(scope="session")
def head():
    """The project's head model; the first use on a machine builds it into data/processed/face_model."""
    from p2m_synth.head.head_model import load_head_model

    return load_head_model()


@pytest.fixture(scope="session")
def face_model(head):
    """Its face, as a morphable model."""
    return head.face_model()


@pytest.fixture(scope="session")
def registered(face_model):
    """The template of 6 rings and 4 levels on the mean face, and the map that lays it on any face."""
    from p2m_core.morphable.registration import face_template

    template, truth = face_template(face_model, "semi_sphere", 6, 4)
    return template, truth.operator


@pytest.fixture(scope="session")
def small_template(face_model):
    """A template of 19, 61 and 217 vertices on the mean face."""
    from p2m_core.morphable.registration import face_template

    return face_template(face_model, "semi_sphere", 2, 3)[0]


@pytest.fixture(scope="session")
def with_eyes(face_model):
    """A prediction with groups: the mean face, 200 px high, 30 degrees to the side, with the template's levels."""
    import numpy as np
    from example_predictions import photo

    from p2m_core.face_mesh import FaceMesh
    from p2m_core.geometry.camera import rotation_from_angles
    from p2m_core.morphable.registration import face_template
    from p2m_workbench.face_prediction import FacePrediction

    template, _ = face_template(face_model)
    turned = (template.vertices - template.vertices.mean(0)) @ rotation_from_angles(np.radians([0, 30, 0])).T
    scale = 200 / np.ptp(turned[:, 1])
    vertices = np.float32(turned * [scale, -scale, scale] + [140, 150, 0])
    levels, landmarks = tuple(vertices[:n] for n in template.counts), np.float32(template.landmarks(vertices))
    mesh = FaceMesh(
        vertices, template.faces[-1], levels, template.faces, landmarks, np.array([60, 60, 220, 240]),
        groups=template.groups[-1], mirror=template.mirror,
    )  # fmt: skip
    return FacePrediction("with eyes", mesh, photo(300, 280))


SET_COUNT, SET_PX, SET_SEED = 24, 96, 3


@pytest.fixture(scope="session")
def synthetic_set(tmp_path_factory) -> Path:
    """24 synthetic faces of 96 px. Not to be changed: copy it."""
    from threadpoolctl import threadpool_limits

    from p2m_core.config.settings import SynthConfig
    from p2m_synth.writer import write_dataset

    out = str(tmp_path_factory.mktemp("raw") / "set")
    with threadpool_limits(2):  # as in a user's process; the bytes must not show it
        return write_dataset(SynthConfig(out=out, count=SET_COUNT, size_px=SET_PX, seed=SET_SEED, workers=1))


LP_PHOTOS, LP_POSES = 12, 3


@pytest.fixture(scope="session")
def lp_set(synthetic_set, tmp_path_factory) -> Path:
    """12 photos of 3 poses, and their mirrored twins, in the layout of 300W-LP. Not to be changed: copy it."""
    from set_300w_lp import write_set

    from p2m_core.data.aflw2000 import find_samples, read_sample

    samples = [read_sample(mat) for mat in find_samples(synthetic_set)[:LP_PHOTOS]]
    return write_set(tmp_path_factory.mktemp("raw") / "300W_LP", samples, LP_PHOTOS, LP_POSES)


def zipped(folder: Path, archive: Path, inside: str = "") -> Path:
    """A folder as a zip, below a folder of that name."""
    import zipfile

    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, Path(inside) / path.relative_to(folder))
    return archive


@pytest.fixture(scope="session")
def object_set(tmp_path_factory) -> Path:
    """Procedural objects: 3 categories of 2 models, one of them for tests, seen from 2 sides. Not to be changed."""
    from p2m_synth.objects.writer import write_objects

    return write_objects(tmp_path_factory.mktemp("raw") / "objects", models=2, views=2, seed=5)


@pytest.fixture(scope="session")
def scheduler() -> str:
    """The address of a Dask scheduler with one worker process."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="session")
def tiny_settings(synthetic_set, tmp_path_factory):
    """Overrides of a config with which everything takes seconds."""
    store = tmp_path_factory.mktemp("processed") / "store"
    return (
        f"data.raw={synthetic_set}",
        f"data.store={store}",
        "data.store_px=80",
        "data.val_share=0.15",
        "data.test_share=0.2",
        "data.workers=1",
        "template.kind=semi_sphere",
        "template.rings=2",
        "template.levels=4",
        "model.input_px=64",
        "model.feature_channels=8",
        "model.hidden=[8, 8, 8, 8]",
        "model.blocks=[1, 1, 1, 0]",
        "model.block=prenorm",
        "model.global_feature=true",
        "model.template_coordinates=true",
        "loss.vertex=1",
        "loss.landmark=1",
        "loss.points=64",
        "train.batch_size=4",
        "train.workers=0",
        "train.device=cpu",
        "train.warmup_steps=2",
        "train.log_steps=1",
    )


@pytest.fixture(scope="session")
def tiny_config(tiny_settings):
    """The config of `tiny_settings`."""
    from p2m_core.config.loading import load_config

    return load_config(None, ["name=tiny", *tiny_settings])


@pytest.fixture(scope="session")
def store(tiny_config):
    """The store of the synthetic set, opened. Not to be changed: copy its folder."""
    from p2m_workbench.preprocessing import preprocess

    return preprocess(tiny_config)


@pytest.fixture
def home(tmp_path, monkeypatch, head) -> Path:
    """An empty project root, so that runs leave nothing in outputs/."""
    monkeypatch.setenv("P2M_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def tiny_run(tiny_config, store, head, tmp_path_factory) -> Path:
    """The finished folder of a short run with a ResNet18."""
    import shutil

    from p2m_workbench.training.trainer import train

    root = tmp_path_factory.mktemp("home")
    schedule = {"epochs": 12, "ema": 0.5}
    config = tiny_config.model_copy(update={"train": tiny_config.train.model_copy(update=schedule)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2M_HOME", str(root))
        folder = train(config)
    yield folder
    shutil.rmtree(root)  # checkpoints are large


@pytest.fixture
def tiny_backbone(monkeypatch):
    """In place of a ResNet: four convolutions with batch norm, so that a step takes milliseconds."""
    from children import TinyEncoder

    monkeypatch.setattr("p2m_core.network.model.build_backbone", lambda *_: TinyEncoder())


@pytest.fixture
def settings(tiny_settings, home, store, tiny_backbone):
    """A function from overrides to a config, in an empty project with the small store and a small encoder."""
    from p2m_core.config.loading import load_config

    def make(name, *more):
        return load_config(None, quick(name, tiny_settings, *more))

    return make


def quick(name: str, tiny_settings: tuple[str, ...], *more: str) -> list[str]:
    """Overrides of a training of a few steps, without the slow terms of the loss."""
    return [f"name={name}", *tiny_settings, "train.epochs=2", "loss.chamfer=0", "loss.normal=0", *more]
