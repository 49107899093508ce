"""Photos of people as they come: found by name or folder, read upright, in colour, with 8 bits."""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from p2m_core.config.paths import resolve
from p2m_core.data.aflw2000 import MASK_SUFFIX
from p2m_core.data.shapenet import on_white
from p2m_core.errors import InputError
from p2m_workbench.photos.result_files import Records

SAMPLE_PHOTO = "grace_hopper"
HEIC_SUFFIXES = (".heic", ".heif")
READ_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".gif", ".avif", ".jp2", ".tif", ".tiff")
# HEIC is looked for, so that it is refused by name instead of left out in silence.
IMAGE_SUFFIXES = (*READ_SUFFIXES, *HEIC_SUFFIXES)
CLIP_SUFFIXES = (
    ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp", ".mts", ".m2ts",
)  # fmt: skip
LEFT_OUT = (
    ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".psd", ".svg", ".pdf", ".jxl", *CLIP_SUFFIXES,
)  # fmt: skip
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
BEHIND = (128, 128, 128)  # RGB behind what is transparent
_log = logging.getLogger(__name__)


def sample_photo() -> Path:
    """A real photo that may be shown: Grace Hopper, public domain, from matplotlib's wheel."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


@dataclass(frozen=True)
class Photo:
    """path: of the file.   name: of what is written for it, without suffix; with "/" where it lay in a folder below
    the one that was named, or shares its name with another photo."""

    path: Path
    name: str

    @property
    def label(self) -> str:
        """The name with the file's suffix, for people and tables."""
        return str(PurePath(self.name).with_name(self.path.name).as_posix())

    @property
    def is_clip(self) -> bool:
        """Whether it is a film."""
        return self.path.suffix.lower() in CLIP_SUFFIXES


def find_photos(names: str | Path | Sequence[str | Path]) -> list[Photo]:
    """Files, and the pictures in folders and the folders in them, by name; each once, each with a name of its own.

    Masks of synthetic faces are left out, and so are results of earlier calls (`Records`), films in folders and raw
    pictures, which are logged. A film, or a result, that is named itself is among the photos, see `Photo.is_clip`.

    Args:    names: relative to the project; "grace_hopper" is `sample_photo`.
    Raises:  InputError for one that is missing, or a folder without pictures.
    """
    places: dict[Path, str] = {}  # each file, and its place below the folder that was named
    for name in [names] if isinstance(names, (str, Path)) else names:
        path = sample_photo() if str(name) == SAMPLE_PHOTO else resolve(name)
        if path.is_dir():
            inside = photos_in(path)
            if not inside:
                raise InputError(path, "", "holds no picture", f"expected {', '.join(READ_SUFFIXES)}")
            for photo in inside:
                places.setdefault(photo, photo.relative_to(path).with_suffix("").as_posix())
        elif path.exists():
            places.setdefault(path, path.stem)
        else:
            address = {"http:", "https:"} & {*path.parts}
            remedy = "download it: photos are read from files" if address else "name photos or folders of photos"
            raise InputError(path, "", "there is no such file", remedy)
    return [Photo(path, name) for path, name in zip(places, distinct(places), strict=True)]


def photos_in(folder: Path) -> list[Path]:
    """The pictures in a folder and the folders in it, in the order of `by_number`, without hidden ones, masks and
    results.   Raises InputError if it cannot be read."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(folder, "", "cannot be read", "see that you may read it")
    inside = [
        path
        for path in sorted(folder.rglob("*"), key=lambda path: (path.parent, by_number(path.name)))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    records = Records()
    named = [path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES + LEFT_OUT and not path.is_dir()]
    results = {path for path in named if path in records}
    files = [path for path in named if path not in results]
    left_out = [path for path in files if path.suffix.lower() in LEFT_OUT]
    # Links may lead to where one is.
    left_out += [x for x in inside if x.is_dir() and (x.is_symlink() or not os.access(x, os.R_OK | os.X_OK))]
    if left_out:
        names = ", ".join(path.relative_to(folder).as_posix() for path in left_out[:5])
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        _log.warning("%s: not read here: %s%s (name films and linked folders themselves)", folder, names, more)
    if results:
        _log.info("%s: results of earlier calls left out: %d", folder, len(results))
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.endswith(MASK_SUFFIX)]


def by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them, as frames are meant: f2 before f10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def same_file(name: str) -> str:
    """What two names share if what is written for them may fall together: blanks are written as _, and many file
    systems don't tell capitals from small letters."""
    return "_".join(name.split()).casefold()


def distinct(names: dict[Path, str]) -> list[str]:
    """The names of files, made different where they are the same: by their folders, else their suffixes, else a
    number."""
    found = dict(names)

    def same() -> list[list[Path]]:
        groups = defaultdict(list)
        for path, name in found.items():
            groups[same_file(name)].append(path)
        return [group for group in groups.values() if len(group) > 1]

    def with_folders(path: Path, group: list[Path]) -> str:
        above = os.path.commonpath([other.parent for other in group])
        below = path.relative_to(above).with_suffix("").as_posix()
        return below if len({other.parent for other in group}) > 1 else found[path]

    ways: list[Callable[[Path, list[Path]], str]] = [
        with_folders,
        lambda path, group: f"{found[path]}-{path.suffix[1:].lower()}",
        lambda path, group: f"{found[path]}-{group.index(path) + 1}",
    ]
    for way in ways:
        for group in same():
            found |= {path: way(path, group) for path in group}
    return [*found.values()]


def read_photo(path: str | Path, of_object: bool = False) -> np.ndarray:
    """A photo of any kind that Pillow reads, as a person would see it.

    Turned as its EXIF tag says; what is transparent before grey, of an object white, as in the sets that its network
    has learned from; grey, CMYK and palettes as RGB; more than 8 bits scaled to 8 by as many of them as are used; the
    first picture of several. (Data sets are read by `data.aflw2000.read_image`: their landmarks belong to the pixels
    as stored.)

    Returns: (H, W, 3) uint8 RGB.
    Raises:  InputError if it is missing, unreadable, empty, HEIC, truncated or no image.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "", "is missing", "check the name")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(path, "", f"cannot be read: {error.strerror}", "see that you may read it") from error
    return decode_photo(content, path, of_object)


def decode_photo(content: bytes, name: str | Path, of_object: bool = False) -> np.ndarray:
    """`read_photo` of a file's bytes; `name` is for the error."""
    if not content:
        raise InputError(name, "", "is empty", "copy the file anew")
    if content[4:8] == b"ftyp" and content[8:12] in HEIC_BRANDS:
        remedy = "save it as JPEG; an iPhone does so under Settings, Camera, Formats, Most Compatible"
        raise InputError(name, "", "is HEIC, which is not read here", remedy)
    try:
        # Pillow refuses files that end too early, which OpenCV fills with grey.
        # What it warns of, such as a damaged tag, leaves the picture as it is.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            image.load()
            return to_rgb8(_upright(image), of_object)
    except Image.DecompressionBombError:
        raise InputError(name, "", "has too many pixels", "scale it down to 100 million") from None
    except Exception as error:  # decoders raise whatever they stumble over
        problem = " ".join(str(error).replace(str(io.BytesIO), "file").split())
        if isinstance(error, UnidentifiedImageError):
            if Path(name).suffix.lower() not in IMAGE_SUFFIXES:
                kinds = f"photos end in {', '.join(READ_SUFFIXES)}, films in {', '.join(CLIP_SUFFIXES)}"
                raise InputError(name, "", "is no picture", kinds) from None
            problem = "no known picture format"
        raise InputError(name, "", f"is damaged or no image: {problem}", "take the original file again") from error


def _upright(image: Image.Image) -> Image.Image:
    """A picture turned as its EXIF tag says, or as it is where the tags cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged tags raise whatever is stumbled over
        return image


def to_rgb8(image: Image.Image, of_object: bool = False) -> np.ndarray:
    """The pixels of a Pillow image of any mode as (H, W, 3) uint8 RGB."""
    if image.mode.startswith("I") or image.mode == "F":  # more than 8 bits, which convert() would clip at 255
        values = np.asarray(image, np.float64)
        top = values.max(initial=0.0)
        # Cameras and scanners put 10 or 12 bits into 16: scaled by 16, these would be black.
        bits = max(8, int(np.ceil(np.log2(top + 1)))) if np.isfinite(top) else 16
        full = 1.0 if top <= 1 and image.mode == "F" else 2.0**bits - 1 if bits <= 16 else top
        grey = np.clip(np.nan_to_num(values) * (255 / full) + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, 2)
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        colors = image.convert("RGBA")
        if of_object:
            return on_white(np.asarray(colors))
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*BEHIND, 255)), colors)
    return np.array(image.convert("RGB"))
