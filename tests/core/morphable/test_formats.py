import dataclasses
import json
import pickle

import numpy as np
import pytest
import scipy.io
from example_predictions import FACE_MODEL_WRITERS, face_sheet
from oracles import Bomb

from p2m_core.errors import InputError
from p2m_core.morphable.formats import load_face_model, read_mat
from p2m_core.morphable.model import FaceModel
from p2m_synth.mat_files import save_face_model, write_mat
from p2m_workbench.cli import main
from p2m_workbench.interop.face_models import convert_face_model

ARRAYS = ("mean", "shape_basis", "expression_basis", "shape_sigma", "expression_sigma", "triangles", "landmark_idx")


@pytest.fixture
def model():
    """A bulging grid, seen from outside at +z, with as odd a number of everything as real files have."""
    rng = np.random.default_rng(0)
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(11.0), np.arange(9.0)))
    corner = np.array([i + 11 * j for j in range(8) for i in range(10)])
    mean = np.stack([x - 5, y - 4, -0.1 * ((x - 5) ** 2 + (y - 4) ** 2)], 1)
    return FaceModel(
        mean=(1e4 * mean).astype(np.float32),
        shape_basis=rng.normal(size=(99, 3, 5)).astype(np.float32),
        expression_basis=rng.normal(size=(99, 3, 3)).astype(np.float32),
        shape_sigma=np.linspace(9, 1, 5),
        expression_sigma=np.linspace(2, 1, 3),
        triangles=np.concatenate([corner[:, None] + [0, 1, 12], corner[:, None] + [0, 12, 11]]),
        landmark_idx=rng.permutation(99)[:68],
        name="grid",
    )


@pytest.fixture
def folder(tmp_path, model):
    save_face_model(tmp_path / "grid", model)
    return tmp_path / "grid"


def change(path, **fields):
    """Rewrite a .mat with other fields; None drops one."""
    content = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    content = {k: v for k, v in (content | fields).items() if v is not None}
    scipy.io.savemat(path, content)


def test_round_trip(folder, model):
    for path in (folder, folder / "Model_Shape.mat", folder / "Model_Exp.mat"):
        loaded = load_face_model(path)
        assert loaded.name == "grid"
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name), err_msg=name)
            assert getattr(loaded, name).dtype == getattr(model, name).dtype, name
    assert sorted(path.name for path in folder.iterdir()) == ["Model_Exp.mat", "Model_Shape.mat"]


def test_files_are_as_the_basel_model_comes(folder, model):
    shape, expression = (scipy.io.loadmat(folder / name) for name in ("Model_Shape.mat", "Model_Exp.mat"))
    assert shape["mu_shape"].shape == expression["mu_exp"].shape == (297, 1)
    assert shape["w"].shape == (297, 5)
    assert expression["w_exp"].shape == (297, 3)
    assert shape["sigma"].shape == (5, 1)
    assert shape["tri"].shape == (3, 160)
    assert shape["tri"].min() == 1
    assert shape["keypoints"].shape == (1, 68)
    np.testing.assert_array_equal(
        shape["mu_shape"].reshape(-1, 3)[shape["keypoints"][0].astype(int) - 1], model.mean[model.landmark_idx]
    )


def test_other_layouts_of_the_same_model(folder, model):
    """tri as (F, 3) wound the other way, vectors lying, a mean expression, doubles."""
    shape = scipy.io.loadmat(folder / "Model_Shape.mat")
    change(
        folder / "Model_Shape.mat",
        tri=shape["tri"].T[:, ::-1].astype(np.uint16),
        mu_shape=shape["mu_shape"].T.astype(np.float64) - 3,
        keypoints=shape["keypoints"].T.astype(np.int32),
        sigma=shape["sigma"].T,
    )
    change(folder / "Model_Exp.mat", mu_exp=np.full((297, 1), 3.0))
    loaded = load_face_model(folder)
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(loaded, name), getattr(model, name), err_msg=name)


def test_equal_content_gives_equal_bytes(tmp_path, monkeypatch):
    content = {"a": np.arange(3.0)}
    write_mat(tmp_path / "one.mat", content)
    monkeypatch.setattr("time.asctime", lambda *_: "another day")
    write_mat(tmp_path / "two.mat", content)
    assert (tmp_path / "one.mat").read_bytes() == (tmp_path / "two.mat").read_bytes()
    np.testing.assert_array_equal(read_mat(tmp_path / "one.mat", ("a",), "")["a"], [[0, 1, 2]])


def test_optional_fields_may_be_missing_but_not_wrong(tmp_path):
    path = tmp_path / "a.mat"
    write_mat(path, {"a": np.arange(3.0), "b": np.array([1, 0], np.uint8), "c": np.ones(2)})
    content = read_mat(path, ("a",), "", optional=("b", "none"))
    assert {name for name in content if not name.startswith("__")} == {"a", "b"}
    change(path, b="words")
    with pytest.raises(InputError, match=r"a\.mat: b: is not made of real numbers"):
        read_mat(path, ("a",), "", optional=("b",))
    with pytest.raises(InputError, match=r"a\.mat: none: is missing"):
        read_mat(path, ("a", "none"), "")


def test_a_missing_file_is_named_with_a_remedy(tmp_path, folder):
    with pytest.raises(InputError, match=r"nowhere.Model_Shape\.mat: is missing \(put the original"):
        load_face_model(tmp_path / "nowhere")
    (folder / "Model_Exp.mat").unlink()
    with pytest.raises(InputError, match=r"Model_Exp\.mat: is missing"):
        load_face_model(folder)


def test_a_file_cut_short_is_refused(folder):
    content = (folder / "Model_Shape.mat").read_bytes()
    for length in (0, 50, 200, len(content) // 2, len(content) - 1):
        (folder / "Model_Shape.mat").write_bytes(content[:length])
        with pytest.raises(InputError, match=r"Model_Shape\.mat"):
            load_face_model(folder)


def test_a_matlab_73_file_says_how_to_save_it(folder):
    (folder / "Model_Exp.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(InputError, match="save it in MATLAB with -v7"):
        load_face_model(folder)


@pytest.mark.parametrize(
    ("file", "field", "value", "problem"),
    [
        *[("Model_Shape.mat", field, None, "is missing") for field in ("mu_shape", "w", "sigma", "tri", "keypoints")],
        *[("Model_Exp.mat", field, None, "is missing") for field in ("mu_exp", "w_exp", "sigma_exp")],
        ("Model_Shape.mat", "w", "missing", "not made of real numbers"),
        ("Model_Shape.mat", "mu_shape", np.zeros((298, 1)), "298 numbers"),
        ("Model_Exp.mat", "mu_exp", np.zeros((294, 1)), "from one model"),
        ("Model_Shape.mat", "w", np.zeros((294, 5)), r"not \(297, components\)"),
        ("Model_Shape.mat", "w", np.full((297, 5), np.nan), "not finite"),
        ("Model_Exp.mat", "sigma_exp", np.ones((2, 1)), "2 entries for 3 components"),
        ("Model_Shape.mat", "tri", np.zeros((4, 7)), r"not \(3, F\)"),
        ("Model_Shape.mat", "tri", np.array([[0], [1], [2]]), "outside 1 to 99"),
        ("Model_Shape.mat", "keypoints", np.full((1, 68), 100), "outside 1 to 99"),
        ("Model_Shape.mat", "keypoints", np.ones((1, 67)), "67 entries, not 68"),
    ],
)
def test_a_bad_field_is_named(folder, file, field, value, problem):
    change(folder / file, **{field: value})
    with pytest.raises(InputError, match=problem) as caught:
        load_face_model(folder)
    assert (caught.value.path, caught.value.field) == (str(folder / file), field)


# --- every format ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sheet():
    return face_sheet(40, 10)  # as many directions as 3DDFA_V2 has


@pytest.mark.parametrize("kind", FACE_MODEL_WRITERS)
def test_every_format_gives_the_same_model_and_becomes_one_npz(tmp_path, sheet, kind, capsys):
    path = FACE_MODEL_WRITERS[kind](tmp_path / kind, sheet)
    new = tmp_path / "new" / "bfm.npz"
    assert main(["convert", str(path), str(new)]) == 0
    for where in (path, path.parent, new, new.parent):  # a file, or the folder that it is found in
        loaded = load_face_model(where)
        for name in ARRAYS:
            expected = getattr(sheet, name)
            np.testing.assert_allclose(getattr(loaded, name), expected, rtol=1e-6, atol=1e-2, err_msg=name)
            assert getattr(loaded, name).dtype == expected.dtype, name
    shape, expression = sheet.shape_sigma, -sheet.expression_sigma
    np.testing.assert_allclose(loaded.vertices(shape, expression), sheet.vertices(shape, expression), atol=0.05)
    report = json.loads(new.with_suffix(".json").read_text())
    assert report["made_of"] == path.name
    assert report["model"]["vertices"] == 1801
    printed = capsys.readouterr().out
    landmarks_mm = report["templates"]["semi_sphere"]["landmarks_mm"]
    assert f"the 68 landmarks from the finest level: {landmarks_mm['mean']:.2f} mm" in printed
    assert "template face: cannot be laid on this model" in printed  # whose landmarks lie on a spiral
    assert str(new) in printed
    assert sorted(path.name for path in new.parent.iterdir()) == ["bfm.json", "bfm.npz"]


def test_a_model_that_cannot_be_registered_is_not_converted(tmp_path, sheet):
    away = dataclasses.replace(sheet, mean=sheet.mean * np.float32([-1, 1, -1]))
    with pytest.raises(InputError, match="miss the mean face"):
        convert_face_model(FACE_MODEL_WRITERS["basel"](tmp_path / "away", away), tmp_path / "new" / "bfm.npz")
    assert not (tmp_path / "new").exists()
    assert main(["convert", str(tmp_path / "away"), str(tmp_path / "a.npz"), "--incomplete"]) == 2


def rewrite(path, **changes):
    """A pickled dictionary with other entries; None drops one."""
    content = pickle.loads(path.read_bytes()) | changes
    path.write_bytes(pickle.dumps({k: v for k, v in content.items() if v is not None}, protocol=4))


def test_the_pickle_without_its_neighbours(tmp_path, sheet):
    path = FACE_MODEL_WRITERS["3ddfa_v2"](tmp_path, sheet)
    (tmp_path / "tri.pkl").unlink()
    rewrite(path, tri=sheet.triangles.T)  # as the slim file has it
    np.testing.assert_array_equal(load_face_model(path).triangles, sheet.triangles)
    # More directions than standard deviations: the first ones are taken.
    deviations = np.concatenate([np.ones(12), sheet.shape_sigma, sheet.expression_sigma[:4]])
    rewrite(tmp_path / "param_mean_std_62d_120x120.pkl", std=deviations)
    loaded = load_face_model(path)
    assert (loaded.shape_basis.shape[2], loaded.expression_basis.shape[2]) == (40, 4)
    np.testing.assert_array_equal(loaded.expression_basis, sheet.expression_basis[..., :4])
    (tmp_path / "param_mean_std_62d_120x120.pkl").unlink()
    with pytest.raises(InputError, match=r"param_mean_std_62d_120x120\.pkl: is missing: bfm_noneck_v3\.pkl holds no"):
        load_face_model(path)


@pytest.mark.parametrize("name", ["bfm_noneck_v3.pkl", "tri.pkl", "param_mean_std_62d_120x120.pkl"])
def test_a_face_model_that_would_run_code_is_refused_and_runs_nothing(tmp_path, sheet, name):
    trace = tmp_path / "trace"
    path = FACE_MODEL_WRITERS["3ddfa_v2"](tmp_path, sheet)
    held = pickle.loads((tmp_path / name).read_bytes())
    bad = {**held, "more": Bomb(trace)} if isinstance(held, dict) else [held, Bomb(trace)]
    (tmp_path / name).write_bytes(pickle.dumps(bad))
    with pytest.raises(InputError, match=r"is not a pickle of numpy arrays: it asks for") as caught:
        load_face_model(path)
    assert caught.value.path == str(tmp_path / name)
    assert not trace.exists()
    pickle.loads((tmp_path / name).read_bytes())
    assert trace.exists()  # the file was dangerous


def test_bad_fields_of_the_other_formats_are_named(tmp_path, sheet):
    path = FACE_MODEL_WRITERS["3ddfa_v2"](tmp_path / "v2", sheet)
    good, places = path.read_bytes(), (3 * sheet.landmark_idx[:, None] + [0, 1, 2]).ravel()
    for field, value, problem in (
        ("u", None, "is missing"),
        ("u", [1, 2], "not made of real numbers"),
        ("w_shp", np.zeros((5400, 40)), r"not \(5403, components\)"),
        ("w_exp", np.full((5403, 10), np.inf), "not finite"),
        ("keypoints", places + 1, "not the places"),
        ("keypoints", places[:-3], "not the places"),
        ("keypoints", places + 5403, "outside 0 to 1800"),
    ):
        rewrite(path, **{field: value})
        with pytest.raises(InputError, match=problem) as caught:
            load_face_model(path)
        assert (caught.value.path, caught.value.field) == (str(path), field)
        path.write_bytes(good)
    face3d = FACE_MODEL_WRITERS["face3d"](tmp_path / "f3d", sheet)
    struct = scipy.io.loadmat(face3d, simplify_cells=True)["model"]
    for changed, field, problem in (
        ({"model": {**struct, "kpt_ind": struct["kpt_ind"] * 0}}, "kpt_ind", "outside 1 to 1801"),
        ({"model": {k: v for k, v in struct.items() if k != "expEV"}}, "expEV", "is missing"),
        ({"model": struct["shapeMU"]}, "model", "no single struct"),
        ({"other": struct}, "model", "no single struct"),
    ):
        scipy.io.savemat(face3d, changed)
        with pytest.raises(InputError, match=problem) as caught:
            load_face_model(face3d)
        assert (caught.value.path, caught.value.field) == (str(face3d), field)
    new = tmp_path / "a.npz"
    np.savez(new, mean=sheet.mean)
    with pytest.raises(InputError, match=r"a\.npz: shape_basis: is missing \(give a file that p2m convert"):
        load_face_model(new)
    for missing in ("nothing.pkl", "nothing.mat", "nothing.npz", "nothing"):
        with pytest.raises(InputError, match="is missing"):
            load_face_model(tmp_path / missing)
