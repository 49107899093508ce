"""300W-LP's layout: sub-sets, twins, poses of one photo, landmarks apart and without depth."""

import shutil

import numpy as np
import pytest
from conftest import LP_PHOTOS, LP_POSES, SET_PX, zipped

from p2m_core.config.loading import load_config
from p2m_core.data.aflw2000 import SUBSETS, find_samples, origin, read_image, read_sample, unpaired
from p2m_core.data.splits import SPLITS
from p2m_core.errors import InputError
from p2m_core.geometry.camera import model_to_image
from p2m_core.geometry.landmarks import MIRROR_68
from p2m_core.metrics import nme68_2d, nme_dense_2d
from p2m_core.morphable.formats import read_mat
from p2m_synth.statistics import pose_and_expression, set_landmarks
from p2m_workbench.drawing.dataset_figures import raw_samples
from p2m_workbench.preprocessing import preprocess
from p2m_workbench.preprocessing.faces import sample_columns


def built(tiny_settings, raw, out, *more):
    return preprocess(load_config(None, ["name=lp", *tiny_settings, *more]), raw, out)


@pytest.fixture(scope="module")
def lp_store(lp_set, tiny_settings, tmp_path_factory):
    return built(tiny_settings, lp_set, tmp_path_factory.mktemp("lp") / "store", "data.face_model=fit")


def test_names_tell_where_a_sample_comes_from(tmp_path):
    told = {
        "AFW/AFW_134212_1_0.mat": ("AFW", False, "AFW_134212"),
        "AFW/AFW_134212_2_17.mat": ("AFW", False, "AFW_134212"),  # another face in the same photo
        "HELEN_Flip/HELEN_1269874180_1_0.mat": ("HELEN", True, "HELEN_1269874180"),
        "IBUG/IBUG_image_092 _01_4.mat": ("IBUG", False, "IBUG_image_092 "),
        "LFPW_Flip/LFPW_image_train_0737_13.mat": ("LFPW", True, "LFPW_image_train_0737"),
        "AFW/odd.mat": ("AFW", False, "odd"),
        "AFLW2000/image00002.mat": ("", False, "image00002"),
    }
    assert {name: origin(tmp_path / name) for name in told} == told


def test_every_pair_is_found_and_nothing_else(lp_set):
    mats = find_samples(lp_set)
    assert len(mats) == 2 * LP_PHOTOS * LP_POSES
    assert {mat.parent.name for mat in mats} == {f"{subset}{flip}" for subset in SUBSETS for flip in ("", "_Flip")}
    assert unpaired(lp_set) == []
    names = [read_sample(mat).name for mat in mats]
    assert len(set(names)) == len(names)


def test_landmarks_come_from_their_own_folder_and_twins_mirror_them(lp_set):
    mat = lp_set / "AFW" / "AFW_1_1_1.mat"
    upright, twin = read_sample(mat), read_sample(lp_set / "AFW_Flip" / mat.name)
    told = read_mat(lp_set / "landmarks" / "AFW" / "AFW_1_1_1_pts.mat", ("pts_3d",), "")["pts_3d"]
    np.testing.assert_allclose(upright.landmarks_px[:, :2], told - 1, atol=1e-4)
    assert np.isnan(upright.landmarks_px[:, 2]).all()
    np.testing.assert_allclose(twin.landmarks_px[MIRROR_68, 0], SET_PX - 1 - upright.landmarks_px[:, 0], atol=1e-4)
    pictures = [read_image(sample.image_path).astype(float) for sample in (upright, twin)]
    assert np.abs(pictures[0] - pictures[1][:, ::-1]).mean() < 3
    assert (upright.name, twin.name) == ("AFW_1_1_1", "AFW_1_1_1_flip")


def test_without_the_landmarks_the_remedy_is_said(lp_set, tmp_path):
    shutil.copytree(lp_set / "AFW", tmp_path / "AFW")
    with pytest.raises(InputError, match=r"AFW_1_1_0_pts\.mat: is missing \(put 300W-LP's folder of landmarks beside"):
        read_sample(tmp_path / "AFW" / "AFW_1_1_0.mat")


def test_the_table_says_subset_and_twin_and_one_photo_is_in_one_split(lp_set, lp_store, tiny_settings, tmp_path):
    table = lp_store.table
    assert len(lp_store) == 2 * LP_PHOTOS * LP_POSES
    assert table["flipped"].sum() == LP_PHOTOS * LP_POSES
    for subset in SUBSETS:
        assert (table["subset"] == subset).sum() == len(lp_store) / 4
    for seed in range(3):
        store = built(tiny_settings, lp_set, tmp_path / "out", "data.face_model=fit", f"data.split_seed={seed}")
        split = {source: set(store.table["split"][store.table["source"] == source]) for source in table["source"]}
        assert len(split) == LP_PHOTOS
        assert all(len(found) == 1 for found in split.values())
    assert len(set().union(*split.values())) > 1
    assert "300W-LP: AFW 9, AFW_Flip 9, HELEN 9" in lp_store.summary()
    assert f"{LP_PHOTOS} photos" in lp_store.summary()


@pytest.mark.parametrize(
    ("change", "share"), [(["data.flipped=false"], 1 / 2), (["data.subsets=[IBUG]"], 1 / 4)], ids=["upright", "IBUG"]
)
def test_subsets_and_twins_are_chosen(lp_set, lp_store, tiny_settings, tmp_path, change, share):
    path = zipped(lp_set, tmp_path / "300W-LP.zip", "300W_LP")
    store = built(tiny_settings, path, tmp_path / "out", "data.face_model=fit", *change)
    assert len(store) == share * len(lp_store)
    assert set(store.table["subset"]) == ({"IBUG"} if share < 0.5 else set(SUBSETS))
    assert store.table["flipped"].any() == (share < 0.5)
    rows = [lp_store.table["name"].tolist().index(name) for name in store.table["name"]]
    np.testing.assert_array_equal(store.table["landmarks_px"], lp_store.table["landmarks_px"][rows])
    assert store.manifest["key"] != lp_store.manifest["key"]


def test_a_choice_without_samples_is_refused(lp_set, tiny_settings, tmp_path):
    shutil.copytree(lp_set / "AFW", tmp_path / "raw" / "AFW")
    with pytest.raises(InputError, match=r"data\.subsets: has no sample in IBUG"):
        built(tiny_settings, tmp_path / "raw", tmp_path / "out", "data.subsets=[IBUG]")


def test_depth_is_taken_from_the_model(lp_set, synthetic_set, head, face_model):
    """With the coefficients' own model z is exact; by a fit, the dense truth is near to that of 3D landmarks."""
    upright = [read_sample(mat) for mat in find_samples(lp_set) if mat.stem.endswith("_0")]
    upright = [s for s in upright if not s.flipped]
    truth = {s.name: s for s in map(read_sample, find_samples(synthetic_set))}
    original = [truth[f"image{int(s.source.rpartition('_')[2]):05d}"] for s in upright]
    expected = np.stack([s.landmarks_px for s in original])
    exact = sample_columns(upright, face_model, fit=False)
    np.testing.assert_allclose(exact["landmarks_px"], expected, atol=0.02)
    assert exact["residual_percent"].max() < 0.1
    assert not np.isnan(upright[0].landmarks_px[:, :2]).any()

    def dense(rows):
        return model_to_image(face_model.vertices(rows["shape"], rows["expression"]), rows["pose"], SET_PX)

    own = dense(exact)
    flat, solid = (dense(sample_columns(samples, face_model, fit=True)) for samples in (upright, original))
    errors = {name: nme_dense_2d(points, own).mean() for name, points in (("flat", flat), ("solid", solid))}
    assert errors["flat"] < 1.5 * errors["solid"] < 1
    assert nme68_2d(sample_columns(upright, face_model, fit=True)["landmarks_px"], expected).max() < 0.01
    for points in (flat, solid):  # depth too, up to where it begins
        off = points[..., 2] - own[..., 2]
        assert np.abs(off - off.mean(1, keepdims=True)).mean() < 0.05 * SET_PX


def test_the_notebooks_figures_take_landmarks_without_depth(lp_set, face_model):
    landmarks, yaw = set_landmarks(lp_set)
    assert landmarks.shape == (2 * LP_PHOTOS * LP_POSES, 68, 3)
    assert np.isfinite(landmarks).all()
    assert np.isfinite(yaw).all()
    pose_and_expression(lp_set, face_model.mean[face_model.landmark_idx])
    assert raw_samples(lp_set, 4, 60).std() > 10


def test_splits_are_not_empty(lp_store):
    assert {SPLITS[k] for k in set(lp_store.table["split"])} >= {"train", "test"}
