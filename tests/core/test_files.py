"""Whole files or none."""

import hashlib
import json
import math
import os
import stat

import numpy as np
import pytest

from p2m_core.errors import InputError
from p2m_core.files import atomic_path, sha256, write_bytes, write_json, write_text


def test_the_name_appears_with_the_last_byte(tmp_path):
    path = tmp_path / "new" / "folder" / "a.npz"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".npz"  # np.savez appends one to any other
        np.savez(temporary, x=np.arange(3))
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]
    np.testing.assert_array_equal(np.load(path)["x"], [0, 1, 2])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half a new")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_who_reads_the_old_file_reads_all_of_it(tmp_path):
    """The new content comes by a new name, not into the old file, in which a memory map or a reader may be."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old" * 50_000)
    with open(path, "rb") as reader:
        assert reader.read(3) == b"old"
        write_bytes(path, b"new")
        assert reader.read() == b"old" * 49_999
    assert path.read_bytes() == b"new"


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    assert path.read_text() == "old"


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as one, atomic_path(path) as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one"  # the outer block ends last
    assert len(list(tmp_path.iterdir())) == 1


def test_temporaries_are_hidden_and_of_no_known_kind(tmp_path):
    """What a crash leaves is not taken for a sample: globs for *.mat skip hidden files, names do not match."""
    with atomic_path(tmp_path / "image00001.mat") as temporary:
        temporary.write_bytes(b"")
        assert temporary.name.startswith(".image00001.")
        assert ".partial" in temporary.name


def test_contents(tmp_path):
    write_bytes(tmp_path / "a", b"\x00\xff")
    write_text(tmp_path / "b", "grüße\n")
    write_json(tmp_path / "c", {"z": [1, 2.5], "a": None})
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == "grüße\n".encode()
    text = (tmp_path / "c").read_text()
    assert json.loads(text) == {"z": [1, 2.5], "a": None}
    assert list(json.loads(text)) == ["z", "a"]  # order kept
    assert text.endswith("}\n")
    assert stat.S_ISREG((tmp_path / "c").stat().st_mode)


def test_json_has_no_nan(tmp_path):
    write_json(
        tmp_path / "c", {"a": float("nan"), "b": [1.5, float("inf"), np.float64("nan")], "c": {"d": (-math.inf,)}}
    )
    assert json.loads((tmp_path / "c").read_text()) == {"a": None, "b": [1.5, None, None], "c": {"d": [None]}}


def test_json_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "c", {"a": object()})
    assert not list(tmp_path.iterdir())


def test_sha256(tmp_path):
    content = os.urandom(300_000)
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path):
    (tmp_path / "out").write_text("mine")
    for path in (tmp_path / "out" / "a.csv", tmp_path / "out" / "below" / "a.csv"):
        with pytest.raises(InputError, match=r"out.*: cannot be a folder: .* \(choose another place\)"):
            write_text(path, "x")
    assert (tmp_path / "out").read_text() == "mine"
