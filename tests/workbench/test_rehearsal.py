"""A rehearsal of the real thing: a set under AFLW2000-3D's names with a face model in the Basel model's files.

The faces are synthetic, so the model that made them is known; its file has the vertices in another order, and in the
slow test the Basel model's number of them.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracles
import pytest
import scipy.io
import torch
from conftest import ROOT
from example_predictions import shuffled

from p2m_core.config.loading import load_config
from p2m_core.data.aflw2000 import find_samples, read_sample
from p2m_core.data.face_store import FaceStore
from p2m_core.geometry.camera import model_to_image
from p2m_core.metrics import nme68_3d
from p2m_core.morphable.formats import load_face_model
from p2m_core.morphable.registration import face_template
from p2m_synth.mat_files import save_face_model, write_mat
from p2m_workbench.doctor import check
from p2m_workbench.preprocessing import preprocess

ORIGINAL_FIELDS = (
    "pt2d",
    "Illum_Para",
    "Color_Para",
    "Tex_Para",
    "Shape_Para",
    "Exp_Para",
    "Pose_Para",
    "roi",
    "pt3d_68",
)
BASEL_VERTICES = 53215


def as_aflw2000(synthetic: Path, folder: Path) -> Path:
    """A synthetic set's samples in one folder, with the names and fields of AFLW2000-3D alone."""
    folder.mkdir(parents=True)
    for k, mat in enumerate(find_samples(synthetic)):
        name = f"image{2 + 7 * k // 2:05d}"  # with gaps, as there
        shutil.copy(mat.with_suffix(".jpg"), folder / f"{name}.jpg")
        content = scipy.io.loadmat(mat)
        write_mat(folder / f"{name}.mat", {field: content[field] for field in ORIGINAL_FIELDS})
    return folder


def check_truth(store: FaceStore, raw: Path, model_folder: Path, rows: range) -> None:
    """Decoded vertices are those of the model's file, by this project's camera and by the formulas as written."""
    model, template = load_face_model(model_folder), store.manifest["template"]
    operator = face_template(model, template["kind"], template["rings"], template["levels"])[1].operator
    for k in rows:
        mat = raw / f"{store.table['name'][k]}.mat"
        content, sample = scipy.io.loadmat(mat), read_sample(mat)
        height = sample.size[0]
        vertices = model.vertices(content["Shape_Para"].ravel(), content["Exp_Para"].ravel())
        pose = content["Pose_Para"].ravel().astype(np.float64)
        by_hand = oracles.aflw_projection(vertices, pose, height) - [1, 1, 0]
        np.testing.assert_allclose(store.truth_px(k), operator @ by_hand, atol=2e-3)
        np.testing.assert_allclose(model_to_image(vertices, sample.pose_para, height), by_hand, atol=2e-3)
        # and the 68 of them that the file's keypoints name are the file's own landmarks
        np.testing.assert_allclose(by_hand[model.landmark_idx].T, content["pt3d_68"] - [[1], [1], [0]], atol=0.02)
        on_template = store.template.landmarks(store.truth_px(k))
        assert nme68_3d(on_template[None], sample.landmarks_px[None]) < 2  # of 2 rings; 6 give 0.5
    assert store.table["residual_percent"].max() < 0.02


def test_the_store_of_a_basel_format_model(tiny_settings, synthetic_set, face_model, home):
    raw, model_folder = as_aflw2000(synthetic_set, home / "data/raw/AFLW2000-3D"), home / "data/raw/BFM"
    save_face_model(model_folder, shuffled(face_model))
    assert "offset +0.00, +0.00 px" in check.check(raw)[-1]
    config = load_config(None, [*tiny_settings, f"data.raw={raw}", f"data.store={home / 'store'}"])
    store = preprocess(config)
    assert store.manifest["face_model"] == str(model_folder)  # found by itself
    assert (len(store), store.manifest["skipped"]) == (24, [])
    check_truth(store, raw, model_folder, range(len(store)))
    # what training decodes is the same, in the crop
    dataset = store.dataset(np.arange(4), config, train=False)
    batch = {name: torch.from_numpy(np.stack([dataset[k][name] for k in range(4)])) for name in dataset[0]}
    found = store.truth_decoder()(batch).vertices.numpy()
    scale = config.model.input_px / 2
    for k in range(4):
        crop = store.to_crop(store.truth_px(k), k)
        matrix = store.input_matrix(config.model.input_px, config.model.margin)
        expected = crop[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        np.testing.assert_allclose(found[k, :, :2] * scale + (config.model.input_px - 1) / 2, expected, atol=2e-3)


def p2m(home: Path, *words: str) -> str:
    """What a command prints, in a project root of its own."""
    environment = {**os.environ, "P2M_HOME": str(home), "OMP_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-m", "p2m_workbench", *words], env=environment, cwd=home, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


@pytest.mark.slow
def test_the_notebooks_on_200_samples_with_a_model_of_the_basel_models_size(tmp_path, face_model):
    for folder in ("notebooks", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copytree(ROOT / "data/processed/face_model", tmp_path / "data/processed/face_model")
    p2m(tmp_path, "synth", "made", "--count", "200", "--size", "128", "--seed", "5")
    raw, model_folder = as_aflw2000(tmp_path / "made", tmp_path / "data/raw/AFLW2000-3D"), tmp_path / "data/raw/BFM"
    save_face_model(model_folder, shuffled(face_model, BASEL_VERTICES))
    assert f"{BASEL_VERTICES} vertices, 105" in p2m(tmp_path, "doctor", "data/raw/BFM")
    assert "offset +0.00, +0.00 px" in p2m(tmp_path, "doctor", "data/raw/AFLW2000-3D")
    settings = ("data.raw=data/raw/AFLW2000-3D", "data.store=data/processed/AFLW2000-3D", "name=rehearsal")
    words = [word for setting in settings for word in ("--set", setting)]
    p2m(tmp_path, "run", "-c", "tiny", *words, "01_preprocess", "02_train", "03_evaluate")
    store = FaceStore(tmp_path / "data/processed/AFLW2000-3D")
    assert (len(store), store.manifest["skipped"]) == (200, [])
    assert store.manifest["face_model"] == str(model_folder)
    check_truth(store, raw, model_folder, range(0, 200, 10))
    [metrics] = (tmp_path / "outputs/rehearsal/evaluation").glob("*/metrics.json")
    rows = json.loads(metrics.read_text())["tables"]["nme68_2d"]["rows"]
    [floor] = [row for row in rows if row["system"] == "mean face, true pose (floor)"]
    assert np.isfinite(floor["plain"])


@pytest.mark.slow
def test_the_notebooks_on_the_real_samples(tmp_path, face_model, aflw_samples):
    """No Basel model, so our own is fitted; a few tiny steps of training, evaluated on all eight."""
    for folder in ("notebooks", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copytree(ROOT / "data/processed/face_model", tmp_path / "data/processed/face_model")
    settings = (f"data.raw={aflw_samples}", "data.store=data/processed/real8", "name=real", "train.batch_size=2")
    words = [word for setting in (*settings, "evaluate.split=all") for word in ("--set", setting)]
    p2m(tmp_path, "run", "-c", "tiny", *words, "01_preprocess", "02_train", "03_evaluate")
    store = FaceStore(tmp_path / "data/processed/real8")
    assert (len(store), store.manifest["face_model"]) == (8, "fit")
    assert store.manifest["residual_percent_mean"] < 0.8
    landmarks = np.stack([store.template.landmarks(store.truth_px(k)) for k in range(8)])
    assert nme68_3d(landmarks, store.table["landmarks_px"]).mean() < 1.5
