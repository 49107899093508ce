import numpy as np
import pytest

from p2m_core.config.paths import project_root
from p2m_core.config.settings import DataConfig
from p2m_core.data.splits import FOLDS, SPLITS, assign_splits, by_shares, read_rows, write_aflw2000_lists
from p2m_core.errors import InputError

FOLDER = project_root() / "data" / "splits" / "aflw2000-3d"


@pytest.fixture
def names():
    """2000 names of the form of AFLW2000-3D's, with gaps, in no order, in which two rows are where they should be."""
    numbers = [*range(2, 30), 50, *range(52, 1659), 3614, *range(3700, 4063)]
    names = np.array([f"image{k:05d}" for k in numbers])
    assert (len(names), names[28], names[1636]) == (2000, "image00050", "image03614")
    return np.random.default_rng(0).permutation(names)


def test_tracked_lists_are_disjoint_whole_and_reproducible(tmp_path):
    splits = [read_rows(FOLDER / f"{name}.txt") for name in SPLITS]
    folds = [read_rows(FOLDER / f"fold-{k}.txt") for k in range(1, FOLDS + 1)]
    for lists in (splits, folds):
        np.testing.assert_array_equal(np.sort(np.concatenate(lists)), np.arange(2000))
    assert [len(rows) for rows in splits] == [1500, 100, 400]
    assert [len(rows) for rows in folds] == [400] * FOLDS
    np.testing.assert_array_equal(splits[2], folds[0])
    write_aflw2000_lists(tmp_path)
    for path in FOLDER.glob("*.txt"):
        assert (tmp_path / path.name).read_text() == path.read_text()


@pytest.mark.parametrize("fold", range(1, FOLDS + 1))
def test_rows_are_those_of_ascending_names(names, fold):
    split, how = assign_splits(names, DataConfig(split="auto" if fold == 1 else f"fold-{fold}"))
    assert how == f"tracked lists of AFLW2000-3D, fold {fold}"
    ascending = np.sort(names)
    wanted = set(ascending[read_rows(FOLDER / f"fold-{fold}.txt")])
    assert set(names[split == 2]) == wanted
    assert np.bincount(split).tolist() == [1500, 100, 400]
    again, _ = assign_splits(names[::-1], DataConfig(split=f"fold-{fold}"))
    np.testing.assert_array_equal(again, split[::-1])


def test_other_sets_go_by_shares(names):
    synthetic = np.array([f"image{k:05d}" for k in range(2000)])
    for some in (synthetic, names[:1999]):
        assert assign_splits(some, DataConfig())[1].startswith("shares")
        with pytest.raises(InputError, match=r"data\.split: fold-2 is of the 2000 images of AFLW2000-3D"):
            assign_splits(some, DataConfig(split="fold-2"))
    assert assign_splits(names, DataConfig(split="shares"))[1].startswith("shares")


def test_a_damaged_list_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("1\nimage00002\n")
    for name in ("a.txt", "b.txt"):
        with pytest.raises(InputError, match=rf"{name}: is no list of row numbers"):
            read_rows(tmp_path / name)


def test_splits_hang_on_names_and_seed_alone():
    data = DataConfig(val_share=0.1, test_share=0.25)
    names = np.array([f"image{k:05d}" for k in range(20_000)])
    split = by_shares(names, data)
    assert [np.mean(split == k) for k in range(3)] == pytest.approx([0.65, 0.1, 0.25], abs=0.02)
    np.testing.assert_array_equal(by_shares(names[::-7], data), split[::-7])  # more samples move none
    other = by_shares(names, data.model_copy(update={"split_seed": 1}))
    assert 0.4 < (other == split).mean() < 0.6
    # a larger test share keeps what was in it
    wider = by_shares(names, data.model_copy(update={"test_share": 0.5}))
    assert (wider[split == 2] == 2).all()
