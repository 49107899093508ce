"""Photos of people as they come."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from p2m_core.errors import InputError
from p2m_workbench.photos.read import BEHIND, decode_photo, find_photos, read_photo, sample_photo

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 40, 3), np.uint8)


def found(names) -> dict:
    return {photo.name: photo.path for photo in find_photos(names)}


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_photos_by_name_folder_and_sample(tmp_path, caplog):
    make(tmp_path, "b.JPG", "a.png", "c.heic", "notes.txt", ".a.partial.png", "deep/er/d.jfif", "deep/e.avif",
         "face_mask.png", ".hidden/f.png", "film.mp4", "raw.CR2")  # fmt: skip
    assert [photo.label for photo in find_photos([tmp_path, "grace_hopper"])] == [
        "a.png", "b.JPG", "c.heic", "deep/e.avif", "deep/er/d.jfif", "grace_hopper.jpg"
    ]  # fmt: skip
    assert "not read here: film.mp4, raw.CR2" in caplog.text
    assert found("grace_hopper") == {"grace_hopper": sample_photo()}
    with pytest.raises(InputError, match="there is no such file"):
        find_photos(tmp_path / "absent.jpg")
    make(tmp_path, *(f"frames/f{k}.jpg" for k in (10, 2, 1)))
    assert [*found(tmp_path / "frames")] == ["f1", "f2", "f10"]
    make(tmp_path, "empty/none.txt")
    with pytest.raises(InputError, match=r"holds no picture \(expected \.jpg"):
        find_photos([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("a/front.jpg", "b/front.jpg"), ["a/front", "b/front"]),
        (("a/front.jpg", "a/x/front.jpg", "a/side.jpg"), ["front", "x/front", "side"]),
        (("me.jpg", "me.png"), ["me-jpg", "me-png"]),
        (("me.jpg", "ME.jpg"), ["me-jpg-1", "ME-jpg-2"]),
        (("photo 1.jpg", "photo_1.jpg"), ["photo 1-jpg-1", "photo_1-jpg-2"]),
        (("v1.2.jpg", "v1.3.jpg"), ["v1.2", "v1.3"]),
        (("a.jpg", "a.jpg"), ["a"]),
    ],
)
def test_photos_of_one_name_get_names_of_their_own(tmp_path, files, names):
    make(tmp_path, *files)
    photos = find_photos([tmp_path / name for name in files])
    assert [photo.name for photo in photos] == names
    assert [photo.path for photo in photos] == [tmp_path / name for name in dict.fromkeys(files)]


@pytest.mark.parametrize(("top", "bits"), [(200, 8), (900, 10), (4000, 12), (60000, 16)])
def test_bits_that_are_used_are_scaled_to_eight(tmp_path, top, bits):
    values = np.linspace(0, top, 400).reshape(20, 20).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    expected = np.round(values * (255 / (2**bits - 1)))
    np.testing.assert_allclose(read_photo(tmp_path / "deep.png")[..., 0], expected, atol=1)


@pytest.mark.parametrize("suffix", [".jfif", ".gif", ".avif", ".jp2", ".webp", ".tif"])
def test_pictures_of_every_kind_that_is_looked_for(tmp_path, suffix):
    smooth = np.uint8(np.add.outer(np.arange(64), 2 * np.arange(48))[..., None] + np.arange(3) * 9)
    kind = {".jfif": "JPEG"}.get(suffix)
    Image.fromarray(smooth).save(tmp_path / f"x{suffix}", kind)
    assert abs(read_photo(tmp_path / f"x{suffix}").astype(int) - smooth).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_their_tag_says(tmp_path, orientation):
    # What the camera stores for an upright picture held in each of the eight ways.
    stored = {
        1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1], 5: PIXELS.transpose(1, 0, 2),
        6: np.rot90(PIXELS), 7: PIXELS[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(PIXELS, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "side.png", exif=exif)
    np.testing.assert_array_equal(read_photo(tmp_path / "side.png"), PIXELS)


def test_sixteen_bits_become_eight(tmp_path):
    grey = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    for suffix in ("png", "tiff"):
        Image.fromarray(grey).save(tmp_path / f"deep.{suffix}")
        read = read_photo(tmp_path / f"deep.{suffix}")
        assert (read == read[..., :1]).all()
        np.testing.assert_allclose(read[..., 0], grey / 257, atol=0.51)


def test_what_is_transparent_lies_before_grey(tmp_path):
    alpha = np.zeros((30, 40), np.uint8)
    alpha[:, 10:] = 255
    Image.fromarray(np.dstack([PIXELS, alpha])).save(tmp_path / "cut.png")
    read = read_photo(tmp_path / "cut.png")
    np.testing.assert_array_equal(read[:, 10:], PIXELS[:, 10:])
    np.testing.assert_array_equal(read[:, :10], np.broadcast_to(BEHIND, (30, 10, 3)))
    Image.fromarray(np.dstack([PIXELS[..., 0], alpha]), "LA").save(tmp_path / "grey.png")
    assert (read_photo(tmp_path / "grey.png")[:, :10] == BEHIND).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "F"])
def test_every_mode_comes_as_rgb(tmp_path, mode):
    image = Image.fromarray(PIXELS).convert("L" if mode in ("1", "F") else "RGB").convert(mode)
    path = tmp_path / ("x.tiff" if mode in ("CMYK", "YCbCr", "F") else "x.png")
    image.save(path)
    read = read_photo(path)
    assert (read.shape, read.dtype) == ((30, 40, 3), np.uint8)
    expected = np.asarray(image.convert("L").convert("RGB") if mode == "F" else image.convert("RGB"))
    np.testing.assert_allclose(read, expected, atol=1)


def test_what_a_folder_holds_and_is_not_read_is_told(tmp_path, caplog, monkeypatch):
    """A link that leads nowhere is a photo that is missing; linked folders, which may lead back, are left out."""
    make(tmp_path, "photos/a.jpg", "other/b.jpg", "photos/locked/c.jpg")
    (tmp_path / "photos/lost.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "photos/loop").symlink_to("..")
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "locked" and may(path, mode))
    assert [photo.label for photo in find_photos(tmp_path / "photos")] == ["a.jpg", "lost.jpg", "locked/c.jpg"]
    assert "photos: not read here: locked, loop (name films and linked folders themselves)" in caplog.text
    with pytest.raises(InputError, match=r"lost\.jpg: is missing"):
        read_photo(tmp_path / "photos/lost.jpg")
    with pytest.raises(InputError, match=r"locked: cannot be read \(see that you may read it"):
        find_photos(tmp_path / "photos/locked")


def test_a_photo_that_may_not_be_read(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied")

    make(tmp_path, "a.jpg")
    monkeypatch.setattr("pathlib.Path.read_bytes", refused)
    with pytest.raises(InputError, match=r"a\.jpg: cannot be read: Permission denied \(see that you may read it"):
        read_photo(tmp_path / "a.jpg")


def test_an_address_is_no_file():
    with pytest.raises(InputError, match=r"there is no such file \(download it: photos are read from files\)"):
        find_photos("https://example.org/me.jpg")


@pytest.mark.parametrize(
    "exif", [b"\xff" * 30, b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x06abcdef"]
)
def test_a_damaged_tag_costs_no_picture(tmp_path, exif):
    Image.fromarray(PIXELS).save(tmp_path / "x.png")
    Image.fromarray(PIXELS).save(tmp_path / "tagged.png", exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(read_photo(tmp_path / "tagged.png"), PIXELS)


def test_large_pictures_are_read_without_a_word_and_larger_ones_refused():
    """Pillow warns above 89 million px. A picture of one bit is small enough to be made here."""
    for size, told in (((10_000, 9_000), None), ((16_000, 12_000), r"has too many pixels \(scale it down")):
        stream = io.BytesIO()
        Image.new("1", size).save(stream, "PNG")
        if told is None:
            assert decode_photo(stream.getvalue(), "x.png").shape == (9_000, 10_000, 3)
        else:
            with pytest.raises(InputError, match=told):
                decode_photo(stream.getvalue(), "x.png")


def test_what_is_no_photo_is_one_clear_line(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG")
    whole = stream.getvalue()
    for content, told in (
        (b"", "is empty"),
        (b"hello", r"is damaged or no image: no known picture format \(take the original"),
        (whole[: len(whole) // 2], "is damaged or no image"),
        (b"\0\0\0\x18ftypheic" + bytes(40), r"is HEIC.*\(save it as JPEG"),
        (b"\0\0\0\x18ftypmif1" + bytes(40), "is HEIC"),
    ):
        with pytest.raises(InputError, match=rf"x\.jpg: {told}") as caught:
            decode_photo(content, "x.jpg")
        assert "\n" not in str(caught.value)
        assert "0x" not in str(caught.value)
    with pytest.raises(
        InputError, match=r"notes\.txt: is no picture \(photos end in \.jpg, .*\.tiff, films in \.mp4, "
    ):
        decode_photo(b"hello", "notes.txt")
    assert decode_photo(whole, "photo.of_mine").shape == PIXELS.shape  # whatever it is called
    with pytest.raises(InputError, match="is missing"):
        read_photo(tmp_path / "absent.jpg")
