"""Sets that stay in their zip."""

import struct
import zipfile

import numpy as np
import pytest
from conftest import zipped

from p2m_core import zip_files
from p2m_core.data.aflw2000 import find_samples, read_image, read_sample
from p2m_core.errors import InputError
from p2m_workbench.cli import main
from p2m_workbench.preprocessing import preprocess, store_writer


def made(path, content):
    """A zip of {name: bytes}."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path


def test_a_path_leads_through_a_zip_as_through_a_folder(tmp_path):
    tree = {
        "set/a.txt": b"one",
        "set/sub/b.txt": b"two",
        "set/sub/deep/c.txt": b"three",
        "set/.hidden": b"",
        "set/d/": b"",
    }
    path = made(tmp_path / "x.zip", tree)
    assert zip_files.read_bytes(path / "set" / "sub" / "b.txt") == b"two"
    assert zip_files.is_file(path / "set" / "a.txt")
    assert not zip_files.is_file(path / "set" / "b.txt")
    assert zip_files.is_set(path)
    assert zip_files.is_set(path / "set")
    assert zip_files.top(path) == path / "set"
    found = [(folder.relative_to(path).as_posix(), names) for folder, names in zip_files.folders(path / "set")]
    assert found == [("set", {"a.txt"}), ("set/sub", {"b.txt"})]
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path / "plain")
    plain = [
        (f.relative_to(tmp_path / "plain").as_posix(), n) for f, n in zip_files.folders(tmp_path / "plain" / "set")
    ]
    assert [pair for pair in plain if pair[1]] == found
    assert zip_files.top(tmp_path / "plain") == tmp_path / "plain" / "set"
    with pytest.raises(InputError, match=r"x\.zip/set/none: is missing"):
        zip_files.read_bytes(path / "set" / "none")


def test_a_zip_that_was_replaced_is_read_anew(tmp_path):
    path = made(tmp_path / "x.zip", {"a": b"old"})
    assert zip_files.read_bytes(path / "a") == b"old"
    made(path, {"a": b"newer", "b": b""})
    assert zip_files.read_bytes(path / "a") == b"newer"


def test_a_member_that_is_too_large_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = made(tmp_path / "bomb.zip", {"a.mat": bytes(zip_files.LARGEST_MEMBER + 1)})
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("was read"))
    with pytest.raises(InputError, match=r"a\.mat: has more than 64 MB"):
        zip_files.read_bytes(path / "a.mat")


def test_a_bomb_that_lies_about_its_size_is_cut_short(tmp_path):
    """The size in the directory says 10 bytes."""
    path = made(tmp_path / "bomb.zip", {"a.mat": bytes(20_000_000)})
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 20_000_000), struct.pack("<I", 10)))
    with pytest.raises(InputError, match=r"a\.mat: is damaged"):
        zip_files.read_bytes(path / "a.mat")


def test_an_encrypted_member_is_named(tmp_path):
    path = made(tmp_path / "x.zip", {"a.jpg": b"123"})
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"a\.jpg: is damaged: .*encrypted, password required"):
        zip_files.read_bytes(path / "a.jpg")


def test_a_truncated_zip_is_refused(synthetic_set, tmp_path):
    path = zipped(synthetic_set, tmp_path / "x.zip")
    content = path.read_bytes()
    for length in (0, 100, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"x\.zip: is no whole zip file"):
            find_samples(path)


def test_a_damaged_member_is_named(synthetic_set, tmp_path):
    path = zipped(synthetic_set / "00000", tmp_path / "x.zip", "set")
    with zipfile.ZipFile(path) as file:
        info = file.getinfo("set/image00002.mat")
    content = bytearray(path.read_bytes())
    place = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    content[place : place + 8] = bytes(8)
    path.write_bytes(bytes(content))
    mats = find_samples(path)
    with pytest.raises(InputError, match=r"x\.zip/set/image00002\.mat: is damaged"):
        read_sample(mats[1])
    assert read_sample(mats[0]).name == "image00001"


def test_a_zip_gives_the_samples_and_the_store_of_its_folder(synthetic_set, store, tiny_config, tmp_path):
    path = zipped(synthetic_set, tmp_path / "set.zip", "anything")
    mats = find_samples(path)
    assert [m.name for m in mats] == [m.name for m in find_samples(synthetic_set)]
    np.testing.assert_array_equal(
        read_image(read_sample(mats[3]).image_path), read_image(find_samples(synthetic_set)[3].with_suffix(".jpg"))
    )
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "out"
    found = preprocess(tiny_config, path, out).manifest
    assert found["sha256"] == store.manifest["sha256"]
    assert (found["count"], found["face_model"]) == (24, "synthetic")
    written = (out / "manifest.json").stat().st_mtime_ns
    preprocess(tiny_config, path, out)
    assert (out / "manifest.json").stat().st_mtime_ns == written  # is kept
    assert [p for p in sorted(tmp_path.rglob("*")) if out not in (p, *p.parents)] == before  # nothing unpacked


def test_the_commands_read_a_zip(synthetic_set, tiny_settings, tmp_path, capsys):
    path = zipped(synthetic_set, tmp_path / "faces.zip", "faces")
    sets = [f"--set={text}" for text in tiny_settings if not text.startswith(("data.raw", "data.store"))]
    assert main(["preprocess", str(path), "--out", str(tmp_path / "out"), *sets]) == 0
    assert "24 samples" in capsys.readouterr().out
    assert main(["doctor", str(path)]) == 0
    assert capsys.readouterr().out.startswith("24 samples\n24 of 24 samples looked at can be read")
    path.write_bytes(path.read_bytes()[:1000])
    assert main(["doctor", str(path)]) == 2
    assert "no whole zip file" in capsys.readouterr().err


def test_two_processes_read_one_zip(synthetic_set, tiny_settings, tmp_path, monkeypatch):
    from p2m_core.config.loading import load_config

    monkeypatch.setattr(store_writer, "PART_SIZE", 8)
    path = zipped(synthetic_set, tmp_path / "set.zip")
    one, two = (load_config(None, ["name=a", *tiny_settings, f"data.workers={n}"]) for n in (1, 2))
    a, b = preprocess(one, path, tmp_path / "a"), preprocess(two, path, tmp_path / "b")
    assert a.manifest["sha256"] == b.manifest["sha256"]
