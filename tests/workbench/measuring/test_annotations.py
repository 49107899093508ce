import numpy as np
import pytest

from p2m_core.errors import InputError
from p2m_workbench.measuring.annotations import SET_FILE, further_annotations

NAMES = np.array(["b", "a", "c"])


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    seen = rng.integers(-1, 3, (3, 68), np.int8)
    merl = rng.normal(100, 30, (3, 68, 2))
    merl[seen == 2] = np.nan
    return {"names": NAMES, "pts68_reannotated": rng.normal(100, 30, (3, 68, 2)), "pts68_merl": merl, "seen_merl": seen}


def test_annotations_go_by_name(tmp_path, arrays):
    np.savez(tmp_path / SET_FILE, **arrays)
    found = further_annotations(np.array(["c", "b"]), np.zeros((2, 68, 3)), tmp_path)
    assert list(found) == ["reannotated", "merl", "merl_no_jaw"]
    np.testing.assert_array_equal(found["reannotated"].landmarks_px, arrays["pts68_reannotated"][[2, 0]])
    assert found["reannotated"].whole
    seen = arrays["seen_merl"][[2, 0]] == 0
    np.testing.assert_array_equal(found["merl"].counts, seen)
    np.testing.assert_array_equal(found["merl_no_jaw"].counts[:, 17:], seen[:, 17:])
    assert not found["merl_no_jaw"].counts[:, :17].any()
    assert np.isfinite(found["merl"].landmarks_px[found["merl"].counts]).all()


def test_a_set_of_other_samples_has_none(tmp_path, arrays):
    np.savez(tmp_path / SET_FILE, **arrays)
    assert further_annotations(np.array(["b", "other"]), np.zeros((2, 68, 3)), tmp_path) == {}


@pytest.mark.parametrize("field", ["pts68_reannotated", "pts68_merl", "seen_merl"])
def test_a_damaged_file_names_the_field(tmp_path, arrays, field):
    np.savez(tmp_path / SET_FILE, **arrays | {field: arrays[field][:2]})
    with pytest.raises(InputError, match=rf"{SET_FILE}: {field}: has the shape"):
        further_annotations(NAMES, np.zeros((3, 68, 3)), tmp_path)
    np.savez(tmp_path / SET_FILE, names=NAMES)
    with pytest.raises(InputError, match="pts68_reannotated: has the shape"):
        further_annotations(NAMES, np.zeros((3, 68, 3)), tmp_path)


def test_the_second_annotations_of_the_real_set(aflw_samples, aflw_landmarks):
    """The file of the set, where it is there, has the re-annotation as the two arrays have it."""
    folder = aflw_samples.parent / "aflw2000-3d"
    if not (folder / SET_FILE).is_file():
        pytest.skip("no second annotations here")
    from p2m_core.data.aflw2000 import read_sample
    from p2m_workbench.measuring.annotations import reannotated_px

    names = np.array(["image00002", "image00010"])
    truth = np.stack([read_sample(folder / f"{name}.mat").landmarks_px for name in names])
    found = further_annotations(names, truth, folder)["reannotated"].landmarks_px
    np.testing.assert_allclose(found, reannotated_px(truth, aflw_landmarks), atol=1e-4)
