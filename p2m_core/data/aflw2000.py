"""AFLW2000-3D and its twins: pairs of imageNNNNN.jpg and imageNNNNN.mat, in one folder or in folders of it.

    Pose_Para  (1, 7) pitch, yaw, roll (rad), tx, ty, tz, scale     Shape_Para (K, 1)  Exp_Para (M, 1)
    pt3d_68    (3, 68) image px counted from 1, y down              pt2d (2, 21), roi, light, colour: not read
    only in our own sets, with imageNNNNN_mask.png:
    hidden_68  (1, 68) 1 where something hides the landmark         attributes_json  (1, n) bytes of the sample's row

The reader takes 1 off x and y; pose and coefficients stay as in the file, for `camera.model_to_image`.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from p2m_core.camera import box_of
from p2m_core.errors import InputError
from p2m_core.faces.formats import read_mat, write_mat
from p2m_core.files import atomic_path

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".png")
MASK_SUFFIX = "_mask.png"
_FIELDS = ("Pose_Para", "pt3d_68", "Shape_Para", "Exp_Para")
_REMEDY = "take the original file again, or remove the sample"
_INVISIBLE = -1

# AFLW's 21 points as midpoints of two of the 68; the ears have none.
_AFLW21_FROM_68 = np.array(
    [[17, 17], [19, 19], [21, 21], [22, 22], [24, 24], [26, 26]]  # brows: outer, middle, inner, ...
    + [[36, 36], [36, 39], [39, 39], [42, 42], [42, 45], [45, 45]]  # eyes: corner, centre, corner
    + [[-1, -1], [31, 31], [30, 30], [35, 35], [-1, -1]]  # ear, nose, ear
    + [[48, 48], [62, 66], [54, 54], [8, 8]]  # mouth: corner, centre, corner; chin
)


@dataclass(frozen=True, eq=False)
class Sample:
    """One annotated photo.

    name, image_path         size          (height, width) of the image, px
    pose         (7,)        as in the file: pitch, yaw, roll (rad), tx, ty, tz (px from 1, y up), scale
    shape        (K,)        expression    (M,), raw units of the face model
    landmarks_px (68, 3)     px of p2m_core, iBUG order
    hidden       (68,)       bool, whether something hides the landmark; nowhere where the file does not say
    """

    name: str
    image_path: Path
    size: tuple[int, int]
    pose: np.ndarray
    shape: np.ndarray
    expression: np.ndarray
    landmarks_px: np.ndarray
    hidden: np.ndarray


def scan(root: str | Path) -> Iterator[tuple[Path, Path | None]]:
    """Every .mat of a set with the image beside it, by folder and name: of `root`, then of the folders in it.

    A folder in `root` without any pair, such as one of code, does not belong to the set.
    """
    root = Path(root)
    with os.scandir(root) as entries:
        shards = sorted(root / entry.name for entry in entries if entry.is_dir())
    for folder in (root, *shards):
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries if not entry.name.startswith(".")}
        found = {}
        for mat in sorted(name for name in names if name.endswith(".mat")):
            images = (mat.removesuffix(".mat") + suffix for suffix in IMAGE_SUFFIXES)
            found[mat] = next((image for image in images if image in names), None)
        if folder == root or any(found.values()):
            for mat, image in found.items():
                yield folder / mat, folder / image if image else None


def find_samples(root: str | Path) -> list[Path]:
    """The .mat files of a set that have an image beside them, by folder and name; each one without is logged.

    Args:    root: a folder with samples, or with folders of them.
    Raises:  InputError if the folder is missing or holds no sample.
    """
    found = list(scan(root)) if Path(root).is_dir() else []
    paired = [mat for mat, image in found if image]
    if not paired:
        problem = "has no sample (NAME.jpg with NAME.mat)" if Path(root).is_dir() else "is missing"
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
    return next((path for path in candidates if path.is_file()), None)


def _no_image(mat_path: Path) -> InputError:
    return InputError(mat_path, "", "has no image beside it", f"put {mat_path.stem}.jpg there, or remove the .mat")


def read_sample(mat_path: str | Path) -> Sample:
    """Read and check one sample; of the image only the size (see `read_image`).

    Raises: InputError naming the file, the field and the remedy.
    """
    mat_path = Path(mat_path)
    content = read_mat(mat_path, _FIELDS, _REMEDY, ("hidden_68",))
    image_path = _image_of(mat_path)
    if image_path is None:
        raise _no_image(mat_path)
    pose = _numbers(mat_path, content, "Pose_Para", (1, 7)).ravel()
    if pose[6] <= 0:
        raise InputError(mat_path, "Pose_Para", f"has the scale {pose[6]:g}, not above 0", _REMEDY)
    landmarks_px = _numbers(mat_path, content, "pt3d_68", (3, 68)).T - [1, 1, 0]
    size = _image_size(image_path)
    _check_box(mat_path, landmarks_px, size)
    return Sample(
        name=mat_path.stem,
        image_path=image_path,
        size=size,
        pose=pose,
        shape=_numbers(mat_path, content, "Shape_Para", None).ravel(),
        expression=_numbers(mat_path, content, "Exp_Para", None).ravel(),
        landmarks_px=landmarks_px,
        hidden=_numbers(mat_path, content, "hidden_68", (1, 68)).ravel() > 0
        if "hidden_68" in content
        else np.zeros(68, bool),
    )


def read_attributes(mat_path: str | Path) -> dict[str, object]:
    """What a sample of our own says of itself, as `write_sample` was told.

    Raises: InputError naming file and field.
    """
    field = "attributes_json"
    content = read_mat(mat_path, (field,), "remove the sample, and make it again")
    try:
        return json.loads(content[field].astype(np.uint8).tobytes())
    except ValueError:
        raise InputError(mat_path, field, "is no JSON", "remove the sample, and make it again") from None


def _numbers(path: Path, content: dict[str, np.ndarray], field: str, shape: tuple[int, ...] | None) -> np.ndarray:
    """A field as finite float64 of the given shape; without one, a vector lying or standing."""
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
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # decoders raise whatever they stumble over
        raise InputError(path, "", f"is no readable image: {error}", _REMEDY) from error


def read_image(path: str | Path) -> np.ndarray:
    """Read a whole photo of a data set, its pixels as stored, to which its landmarks belong.

    Args:    path: jpg, png or whatever Pillow reads.
    Returns: (H, W, 3) uint8 RGB.
    Raises:  InputError if it is missing, no image, or truncated.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "", "is missing", "check the name")
    try:
        # Pillow refuses files that end too early, which OpenCV fills with grey.
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            return np.array(image.convert("RGB"))
    except Exception as error:  # decoders raise whatever they stumble over
        raise InputError(path, "", f"is damaged or no image: {error}", "take the original file again") from error


def write_sample(
    folder: str | Path,
    name: str,
    image_rgb: np.ndarray,
    jpeg_quality: int,
    pose: np.ndarray,
    shape: np.ndarray,
    expression: np.ndarray,
    landmarks_px: np.ndarray,
    roi_px: np.ndarray,
    mask: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
    attributes: dict[str, object] | None = None,
) -> Path:
    """Write NAME.jpg, NAME_mask.png and last NAME.mat, each whole or not at all: a sample is there when its .mat is.

    Args:    image_rgb: (H, W, 3) uint8.   jpeg_quality: 1 to 95.
             pose: (7,) as in AFLW2000-3D, counted from 1.   shape: (K,).   expression: (M,), raw units.
             landmarks_px: (68, 3) px of p2m_core.   roi_px: (4,) x0 y0 x1 y1 of the crop, px of p2m_core.
             mask: (H, W) uint8, 255 where the face is seen, 128 where something hides it, or None for no such file.
             hidden: (68,) bool, which landmarks something hides; attributes: whatever else is known of the
             sample; None for no such field.
    Returns: the path of the .mat.
    """
    folder = Path(folder)
    height = image_rgb.shape[0]
    from_one = np.asarray(landmarks_px, np.float64) + [1, 1, 0]
    points21 = from_one[_AFLW21_FROM_68].mean(1)[:, :2]
    points21[_AFLW21_FROM_68[:, 0] < 0] = [_INVISIBLE, height + 1 - _INVISIBLE]  # as AFLW2000-3D has it
    with atomic_path(folder / f"{name}.jpg") as temporary:
        Image.fromarray(image_rgb).save(temporary, quality=jpeg_quality)
    if mask is not None:
        with atomic_path(folder / f"{name}{MASK_SUFFIX}") as temporary:
            Image.fromarray(mask).save(temporary)
    mat_path = folder / f"{name}.mat"
    extra = {} if hidden is None else {"hidden_68": np.reshape(hidden, (1, 68)).astype(np.uint8)}
    if attributes is not None:
        extra["attributes_json"] = np.frombuffer(json.dumps(attributes).encode(), np.uint8)
    write_mat(
        mat_path,
        {
            "pt2d": points21.T,
            "Illum_Para": np.array([[1, 1, 1, 0, 0, 0, 0, 0, 0, 20]], np.float64),
            "Color_Para": np.array([[1, 1, 1, 0, 0, 0, 1]], np.float32),
            "Tex_Para": np.zeros((199, 1)),
            "Shape_Para": np.reshape(shape, (-1, 1)).astype(np.float64),
            "Exp_Para": np.reshape(expression, (-1, 1)).astype(np.float64),
            "Pose_Para": np.reshape(pose, (1, 7)).astype(np.float32),
            "roi": (np.rint(np.reshape(roi_px, (1, 4))) + 1).astype(np.int16),
            "pt3d_68": from_one.T.astype(np.float32),
            **extra,
        },
    )
    return mat_path
