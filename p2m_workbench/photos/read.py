"""Photos of people as they come: found by name or folder, read upright, in colour, with 8 bits."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from p2m_core.config.paths import resolve
from p2m_core.errors import InputError

SAMPLE_PHOTO = "grace_hopper"
HEIC_SUFFIXES = (".heic", ".heif")
# HEIC is looked for, so that it is refused by name instead of left out in silence.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", *HEIC_SUFFIXES)
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
BEHIND = (128, 128, 128)  # RGB behind what is transparent


def sample_photo() -> Path:
    """A real photo that may be shown: Grace Hopper, public domain, from matplotlib's wheel."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def find_photos(names: Sequence[str | Path]) -> list[Path]:
    """Files, and the pictures in folders by name, relative to the project; "grace_hopper" is `sample_photo`.

    Raises: InputError for one that is missing, or a folder without pictures.
    """
    photos: list[Path] = []
    for name in names:
        path = sample_photo() if str(name) == SAMPLE_PHOTO else resolve(name)
        if path.is_dir():
            inside = sorted(
                p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")
            )
            if not inside:
                raise InputError(path, "", "holds no picture", f"expected {', '.join(IMAGE_SUFFIXES)}")
            photos += inside
        elif path.exists():
            photos.append(path)
        else:
            raise InputError(path, "", "there is no such file", "name photos or folders of photos")
    return photos


def read_photo(path: str | Path) -> np.ndarray:
    """A photo of any kind that Pillow reads, as a person would see it.

    Turned as its EXIF tag says; what is transparent before grey; grey, CMYK and palettes as RGB; 16 and 32 bits
    scaled to 8. (Data sets are read by `data.aflw2000.read_image`: their landmarks belong to the pixels as stored.)

    Returns: (H, W, 3) uint8 RGB.
    Raises:  InputError if it is missing, empty, HEIC, truncated or no image.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "", "is missing", "check the name")
    return decode_photo(path.read_bytes(), path)


def decode_photo(content: bytes, name: str | Path) -> np.ndarray:
    """`read_photo` of a file's bytes; `name` is for the error."""
    if not content:
        raise InputError(name, "", "is empty", "copy the file anew")
    if content[4:8] == b"ftyp" and content[8:12] in HEIC_BRANDS:
        remedy = "save it as JPEG; an iPhone does so under Settings, Camera, Formats, Most Compatible"
        raise InputError(name, "", "is HEIC, which is not read here", remedy)
    try:
        # Pillow refuses files that end too early, which OpenCV fills with grey.
        with Image.open(io.BytesIO(content)) as image:
            return to_rgb8(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise InputError(name, "", "has too many pixels", "scale it down to 100 million") from None
    except Exception as error:  # decoders raise whatever they stumble over
        problem = " ".join(str(error).replace(str(io.BytesIO), "file").split())
        if "cannot identify image file" in problem:
            problem = "no known picture format"
        raise InputError(name, "", f"is damaged or no image: {problem}", "take the original file again") from error


def to_rgb8(image: Image.Image) -> np.ndarray:
    """The pixels of a Pillow image of any mode as (H, W, 3) uint8 RGB."""
    if image.mode.startswith("I") or image.mode == "F":  # more than 8 bits, which convert() would clip at 255
        values = np.asarray(image, np.float64)
        top = values.max(initial=0.0)
        full = 1.0 if top <= 1 and image.mode == "F" else 255.0 if top <= 255 else 65535.0 if top <= 65535 else top
        grey = np.clip(np.nan_to_num(values) * (255 / full) + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, 2)
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        colors = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*BEHIND, 255)), colors)
    return np.array(image.convert("RGB"))
