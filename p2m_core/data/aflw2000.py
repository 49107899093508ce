"""AFLW2000-3D and its twins: pairs of imageNNNNN.jpg and .mat, in one folder or in folders of it, or in a zip of them.

    Pose_Para  (1, 7) pitch, yaw, roll (rad), tx, ty, tz, scale     Shape_Para (K, 1)  Exp_Para (M, 1)
    pt3d_68    (3, 68) image px counted from 1, y down              pt2d (2, 21), roi, light, colour: not read
    only in our own sets, with imageNNNNN_mask.png:
    hidden_68  (1, 68) 1 where something hides the landmark         attributes_json  (1, n) bytes of the sample's row

300W-LP has folders AFW, HELEN, IBUG, LFPW, and AFW_Flip ... with the mirror images under the same names. Its .mat files
lack pt3d_68; what stands for it lies in a folder of its own, without depth and for the upright images alone:

    300W_LP/AFW/AFW_134212_1_0.jpg .mat                             photo 134212, face 1, turned by pose 0
    300W_LP/landmarks/AFW/AFW_134212_1_0_pts.mat                    pts_3d (68, 2) px counted from 1; pts_2d: not read

The reader takes 1 off x and y; pose and coefficients stay as in the file: docs/conventions.md.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from p2m_core import zip_files
from p2m_core.errors import InputError
from p2m_core.geometry.crop import box_of
from p2m_core.morphable.formats import read_mat

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".png")
MASK_SUFFIX = "_mask.png"
SUBSETS = {"AFW": 5207, "HELEN": 37676, "IBUG": 1786, "LFPW": 16556}  # of 300W-LP, samples; as many twins
FLIPPED = "_Flip"
LARGEST_PX = 89_000_000  # of a picture; more would take a gigabyte on the way to the network
# The photo that a sample of 300W-LP was made of: without its last number, the pose, and, where one photo has several
# faces, without the one before.
_SOURCE = re.compile(r"(LFPW_.+?)_\d+|((?:AFW|HELEN|IBUG)_.+?)_\d+_\d+")
_FIELDS = ("Pose_Para", "Shape_Para", "Exp_Para")
_REMEDY = "take the original file again, or remove the sample"


@dataclass(frozen=True, eq=False)
class Sample:
    """One annotated photo.

    name, image_path         size          (height, width) of the image, px
    pose_para    (7,)        the file's Pose_Para: pitch, yaw, roll (rad), tx, ty, tz (px from 1, y up), scale
    shape        (K,)        expression    (M,), raw units of the face model
    landmarks_px (68, 3)     px of p2m_core, iBUG order; z is NaN where the file has none, as in 300W-LP
    hidden       (68,)       bool, whether something hides the landmark; nowhere where the file does not say
    subset       of 300W-LP, or ""                flipped  whether it is one of 300W-LP's mirrored twins
    source       the photo that it and others, such as its twin, were made of
    """

    name: str
    image_path: Path
    size: tuple[int, int]
    pose_para: np.ndarray
    shape: np.ndarray
    expression: np.ndarray
    landmarks_px: np.ndarray
    hidden: np.ndarray
    subset: str
    flipped: bool
    source: str

    @property
    def has_pose(self) -> bool:
        """Whether the pose can be meant: its scale is above 0, as in all but one file of AFLW2000-3D."""
        return bool(self.pose_para[6] > 0)


def origin(mat_path: Path) -> tuple[str, bool, str]:
    """Subset of 300W-LP or "", whether it is a mirrored twin, and the photo that a sample comes from."""
    subset = mat_path.parent.name.removesuffix(FLIPPED)
    if subset not in SUBSETS:
        return "", False, mat_path.stem
    match = _SOURCE.fullmatch(mat_path.stem)
    return subset, mat_path.parent.name.endswith(FLIPPED), match[1] or match[2] if match else mat_path.stem


def scan(root: str | Path) -> Iterator[tuple[Path, Path | None]]:
    """Every .mat of a set with the image beside it, by folder and name: of `root`, then of the folders in it.

    Args:    root: a folder or a zip; where it holds one folder and nothing else, that one is meant.
    A folder in `root` without any pair, such as one of code, does not belong to the set.
    """
    root = zip_files.top(root)
    for folder, names in zip_files.folders(root):
        found = {}
        for mat in sorted(name for name in names if name.endswith(".mat")):
            images = (mat.removesuffix(".mat") + suffix for suffix in IMAGE_SUFFIXES)
            found[mat] = next((image for image in images if image in names), None)
        if folder == root or any(found.values()):
            for mat, image in found.items():
                yield folder / mat, folder / image if image else None


def find_samples(root: str | Path) -> list[Path]:
    """The .mat files of a set that have an image beside them, by folder and name; each one without is logged.

    Args:    root: a folder or zip with samples, or with folders of them.
    Raises:  InputError if it is missing, holds no sample, or is a zip that must not be trusted.
    """
    there = zip_files.is_set(Path(root))
    found = list(scan(root)) if there else []
    paired = [mat for mat, image in found if image]
    if not paired:
        problem = "has no sample (NAME.jpg with NAME.mat)" if there else "is missing"
        raise InputError(root, "", problem, "see `p2m doctor` for where data sets belong, or `p2m synth` to make one")
    for mat, image in found:
        if not image:
            log.warning("%s", _no_image(mat))
    return paired


def unpaired(root: str | Path) -> list[InputError]:
    """One unraised InputError for each .mat of a set that has no image, by folder and name."""
    return [_no_image(mat) for mat, image in scan(root) if not image]


def _image_of(mat_path: Path) -> Path | None:
    candidates = (mat_path.with_suffix(suffix) for suffix in IMAGE_SUFFIXES)
    return next((path for path in candidates if zip_files.is_file(path)), None)


def _no_image(mat_path: Path) -> InputError:
    return InputError(mat_path, "", "has no image beside it", f"put {mat_path.stem}.jpg there, or remove the .mat")


def read_sample(mat_path: str | Path) -> Sample:
    """Read and check one sample; of the image only the size (see `read_image`).

    Raises: InputError naming the file, the field and the remedy.
    """
    mat_path = Path(mat_path)
    content = read_mat(mat_path, _FIELDS, _REMEDY, ("pt3d_68", "hidden_68"))
    image_path = _image_of(mat_path)
    if image_path is None:
        raise _no_image(mat_path)
    pose_para = _numbers(mat_path, content, "Pose_Para", (1, 7)).ravel()
    size, (subset, flipped, source) = _image_size(image_path), origin(mat_path)
    if "pt3d_68" in content or not subset:
        landmarks_px = _numbers(mat_path, content, "pt3d_68", (3, 68)).T - [1, 1, 0]
    else:
        landmarks_px = _landmarks_beside(mat_path, subset, flipped, size[1])
    _check_box(mat_path, landmarks_px, size)
    hidden = _numbers(mat_path, {"hidden_68": np.zeros((1, 68))} | content, "hidden_68", (1, 68))
    return Sample(
        name=mat_path.stem + FLIPPED.lower() * flipped,
        image_path=image_path,
        size=size,
        pose_para=pose_para,
        shape=_numbers(mat_path, content, "Shape_Para", None).ravel(),
        expression=_numbers(mat_path, content, "Exp_Para", None).ravel(),
        landmarks_px=landmarks_px,
        hidden=hidden.ravel() > 0,
        subset=subset,
        flipped=flipped,
        source=source,
    )


def _landmarks_beside(mat_path: Path, subset: str, flipped: bool, width: int) -> np.ndarray:
    """Landmarks (68, 3) of a sample of 300W-LP from its folder of landmarks, z NaN; a twin's are the mirrored ones."""
    from p2m_core.geometry.landmarks import MIRROR_68

    path = mat_path.parent.parent / "landmarks" / subset / f"{mat_path.stem}_pts.mat"
    content = read_mat(path, ("pts_3d",), "put 300W-LP's folder of landmarks beside its sub-sets")
    points = _numbers(path, content, "pts_3d", (68, 2)) - 1
    if flipped:
        points = points[MIRROR_68] * [-1, 1] + [width - 1, 0]
    return np.concatenate([points, np.full((68, 1), np.nan)], 1)


def _numbers(path: Path, content: dict[str, np.ndarray], field: str, shape: tuple[int, ...] | None) -> np.ndarray:
    """A field as finite float64 of the given shape; without one, a vector lying or standing."""
    if field not in content:
        raise InputError(path, field, "is missing", _REMEDY)
    values = content[field]
    if shape and values.shape != shape:
        raise InputError(path, field, f"has the shape {values.shape}, not {shape}", _REMEDY)
    if not shape and min(values.shape, default=0) > 1:
        raise InputError(path, field, f"has the shape {values.shape}, not a vector's", _REMEDY)
    if not np.isfinite(values).all():
        raise InputError(path, field, "has entries that are not finite", _REMEDY)
    return values.astype(np.float64)


def _check_box(path: Path, landmarks_px: np.ndarray, size: tuple[int, int]) -> None:
    x0, y0, x1, y1 = box_of(landmarks_px)
    if not (x1 > x0 and y1 > y0):
        raise InputError(path, "pt3d_68", "spans a box without area", _REMEDY)
    height, width = size
    if x1 < -0.5 or y1 < -0.5 or x0 > width - 0.5 or y0 > height - 0.5:
        problem = f"spans {x0:.0f} {y0:.0f} to {x1:.0f} {y1:.0f} px, outside the image of {width} x {height}"
        raise InputError(path, "pt3d_68", problem, _REMEDY)


def _image_size(path: Path) -> tuple[int, int]:
    """(height, width) from the file's head."""
    with _opened(path, _REMEDY) as image:
        return image.height, image.width


@contextmanager
def _opened(path: Path, remedy: str) -> Iterator[Image.Image]:
    """A picture whose head was read.   Raises InputError for whatever goes wrong until the block ends."""
    content = zip_files.read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ours is the stricter limit
            image = Image.open(io.BytesIO(content))
        with image:
            if image.width * image.height > LARGEST_PX:
                raise Image.DecompressionBombError
            yield image
    except Image.DecompressionBombError:
        raise InputError(path, "", f"has more than {LARGEST_PX // 1_000_000} million px", "scale it down") from None
    except Exception as error:  # decoders raise whatever they stumble over
        raise InputError(path, "", f"is damaged or no image: {error}", remedy) from error


def read_image(path: str | Path) -> np.ndarray:
    """Read a whole photo of a data set, its pixels as stored, to which its landmarks belong.

    Args:    path: jpg, png or whatever Pillow reads; it may lead through a zip.
    Returns: (H, W, 3) uint8 RGB.
    Raises:  InputError if it is missing, no image, truncated, or larger than LARGEST_PX.
    """
    # Pillow refuses files that end too early, which OpenCV fills with grey.
    with _opened(Path(path), "take the original file again") as image:
        return np.array(image.convert("RGB"))
