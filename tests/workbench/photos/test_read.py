"""Photos of people as they come."""

import io

import numpy as np
import pytest
from PIL import Image

from p2m_core.errors import InputError
from p2m_workbench.photos.read import BEHIND, decode_photo, find_photos, read_photo, sample_photo

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 40, 3), np.uint8)


def test_photos_by_name_folder_and_sample(tmp_path):
    for name in ("b.JPG", "a.png", "c.heic", "notes.txt", ".a.partial.png"):
        (tmp_path / name).touch()
    expected = [tmp_path / "a.png", tmp_path / "b.JPG", tmp_path / "c.heic", sample_photo()]
    assert find_photos([tmp_path, "grace_hopper"]) == expected
    with pytest.raises(InputError, match="there is no such file"):
        find_photos([tmp_path / "absent.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no picture \(expected \.jpg"):
        find_photos([tmp_path / "empty"])


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
    with pytest.raises(InputError, match="is missing"):
        read_photo(tmp_path / "absent.jpg")
