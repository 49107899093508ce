import logging

import cv2
import numpy as np
import pytest

from p2m_core.errors import InputError
from p2m_workbench.doctor import overlaps
from p2m_workbench.doctor.overlaps import find_overlaps, perceptual_hash, read_list, sign


def photo(seed, size=96):
    """A picture with structure at all scales, unlike any of another seed."""
    rng = np.random.default_rng(seed)
    total = sum(
        cv2.resize(np.float32(rng.normal(size=(n, n, 3))), (size, size), interpolation=cv2.INTER_CUBIC) / k
        for k, n in enumerate((3, 6, 12, 24), 1)
    )
    return np.uint8(np.clip(128 + 50 * total, 0, 255))


def write(path, picture, quality=95):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return path


@pytest.fixture
def lists(tmp_path):
    """Two lists of 12 unrelated pictures each."""
    return {
        name: [write(tmp_path / name / f"{name}{k:02d}.jpg", photo(100 * (name == "test") + k)) for k in range(12)]
        for name in ("train", "test")
    }


def found(lists):
    return [(o.kind, o.first.name, o.second.name) for o in find_overlaps(lists)]


def test_unrelated_pictures_do_not_overlap(lists):
    assert found(lists) == []


def test_a_planted_leak_of_every_kind_is_found(lists, tmp_path):
    original = photo(3)
    copies = {
        "renamed.jpg": None,
        "reencoded.jpg": write(tmp_path / "test" / "reencoded.jpg", original, 40),
        "scaled.jpg": write(tmp_path / "test" / "scaled.jpg", cv2.resize(original, (150, 150))),
        "mirrored.jpg": write(tmp_path / "test" / "mirrored.jpg", original[:, ::-1], 70),
    }
    copies["renamed.jpg"] = tmp_path / "test" / "renamed.jpg"
    copies["renamed.jpg"].write_bytes((tmp_path / "train" / "train03.jpg").read_bytes())
    named = write(tmp_path / "test" / "train07.jpg", photo(999))
    lists["test"] += [*copies.values(), named]
    leaks = [entry for entry in found(lists) if entry[1].startswith("train")]
    assert leaks == [
        ("name", "train07.jpg", "train07.jpg"),
        ("same file", "train03.jpg", "renamed.jpg"),
        ("near-duplicate", "train03.jpg", "reencoded.jpg"),
        ("near-duplicate", "train03.jpg", "scaled.jpg"),
        ("mirrored", "train03.jpg", "mirrored.jpg"),
    ]


def test_overlaps_within_a_list(lists, tmp_path):
    copy = write(tmp_path / "train" / "again.jpg", photo(5), 60)
    assert found({"train": [*lists["train"], copy]}) == [("near-duplicate", "train05.jpg", "again.jpg")]
    twice = [*lists["train"], lists["train"][0]]
    assert found({"train": twice}) == [("name", "train00.jpg", "train00.jpg")]


def test_what_cannot_be_read_is_left_out_and_named(lists, tmp_path, caplog):
    broken = tmp_path / "test" / "broken.jpg"
    broken.write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        assert found(lists | {"test": [*lists["test"], broken]}) == []
    assert "broken.jpg" in caplog.text


def test_a_hash_changes_little_with_the_coding_and_much_with_the_picture(tmp_path):
    own = sign(write(tmp_path / "a.jpg", photo(1))).bits
    recoded = sign(write(tmp_path / "b.jpg", photo(1), 30)).bits
    other = sign(write(tmp_path / "c.jpg", photo(2))).bits
    assert (own != recoded).sum() <= overlaps.BITS_APART < 20 < (own != other).sum() < 44
    assert own.sum() in range(30, 35)


def test_the_mirrored_hash_is_that_of_the_mirror_image():
    small = np.float32(cv2.resize(photo(4)[..., 0], (32, 32)))
    np.testing.assert_array_equal(perceptual_hash(small[:, ::-1]), perceptual_hash(np.fliplr(small)))
    assert (perceptual_hash(small) != perceptual_hash(small[:, ::-1])).sum() > 10


def test_lists_are_folders_or_text_files(lists, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("# some\ntrain/train01.jpg\n\ntrain/train02   # without suffix\n")
    assert [path.name for path in read_list(names)] == ["train01.jpg", "train02.jpg"]
    names.write_text("train03\n")
    assert read_list(names, tmp_path / "train") == [tmp_path / "train" / "train03.jpg"]
    write(tmp_path / "train" / "train00_mask.png", photo(0))
    assert read_list(tmp_path / "train") == lists["train"]
    names.write_text("train/train01.jpg\nmissing\n")
    with pytest.raises(InputError, match=r"names\.txt: line 2: there is no image"):
        read_list(names)
    with pytest.raises(InputError, match="there is no such list"):
        read_list(tmp_path / "none.txt")
