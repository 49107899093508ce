import numpy as np
import pytest

from p2m_core.config.paths import project_root
from p2m_core.config.settings import DataConfig
from p2m_core.data.splits import FOLDS, SPLITS, assign_splits, by_shares, read_names
from p2m_core.errors import InputError

FOLDER = project_root() / "data" / "splits" / "aflw2000-3d"
BY_FOLD = {k: read_names(FOLDER / f"fold-{k}.txt") for k in range(1, FOLDS + 1)}
ALL = np.sort(np.concatenate([*BY_FOLD.values()]))
REAL = ("image00050", "image00251", "image02283", "image03614", "image04157")  # some that are known to be among them


def test_tracked_lists_are_disjoint_and_whole():
    splits = [read_names(FOLDER / f"{name}.txt") for name in SPLITS]
    for lists in (splits, [*BY_FOLD.values()]):
        np.testing.assert_array_equal(np.sort(np.concatenate(lists)), ALL)
        assert all((np.sort(names) == names).all() for names in lists)
    assert len(np.unique(ALL)) == 2000
    assert set(REAL) <= set(ALL)
    assert [len(names) for names in splits] == [1500, 100, 400]
    assert [len(names) for names in BY_FOLD.values()] == [400] * FOLDS
    np.testing.assert_array_equal(splits[2], BY_FOLD[1])


@pytest.mark.parametrize("fold", range(1, FOLDS + 1))
def test_a_tracked_fold_is_the_test_split(fold):
    names = np.random.default_rng(0).permutation(ALL)
    split, how = assign_splits(names, DataConfig(split="auto" if fold == 1 else f"fold-{fold}"))
    assert how == f"tracked lists of AFLW2000-3D, fold {fold}, 2000 of its 2000 images"
    assert set(names[split == 2]) == set(BY_FOLD[fold])
    assert np.bincount(split).tolist() == [1500, 100, 400]
    part, how = assign_splits(names[1200:200:-1], DataConfig(split=f"fold-{fold}"))  # a part keeps its places
    np.testing.assert_array_equal(part, split[1200:200:-1])
    assert how.endswith("1000 of its 2000 images")


def test_the_default_is_the_lists_for_a_part_of_the_set_too():
    split, how = assign_splits(np.array(REAL), DataConfig())
    assert how == "tracked lists of AFLW2000-3D, fold 1, 5 of its 2000 images"
    assert [SPLITS[k] for k in split] == [
        next(name for name in SPLITS if real in read_names(FOLDER / f"{name}.txt")) for real in REAL
    ]


def test_other_sets_go_by_shares():
    synthetic = np.array([f"image{k:05d}" for k in range(2000)])
    for some in (synthetic, np.append(ALL, "image99999")):
        assert assign_splits(some, DataConfig())[1].startswith("shares")
        with pytest.raises(InputError, match=r"data\.split: fold-2 is of AFLW2000-3D's 2000 images, and image\d+ is"):
            assign_splits(some, DataConfig(split="fold-2"))
    assert assign_splits(ALL, DataConfig(split="shares"))[1].startswith("shares")


def test_without_the_lists_auto_goes_by_shares(monkeypatch, tmp_path):
    monkeypatch.setattr("p2m_core.data.splits.project_root", lambda: tmp_path)
    assert assign_splits(ALL, DataConfig())[1].startswith("shares")
    with pytest.raises(InputError, match=r"fold-1\.txt: is no list of names"):
        assign_splits(ALL, DataConfig(split="fold-2"))


def test_a_damaged_list_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("a.txt", "b.txt"):
        with pytest.raises(InputError, match=rf"{name}: is no list of names"):
            read_names(tmp_path / name)


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
