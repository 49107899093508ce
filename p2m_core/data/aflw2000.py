"""AFLW2000-3D and its twins: pairs of imageNNNNN.jpg and imageNNNNN.mat.

    Pose_Para  (1, 7) pitch, yaw, roll (rad), tx, ty, tz, scale     Shape_Para (K, 1)  Exp_Para (M, 1)
    pt3d_68    (3, 68) image px counted from 1, y down              pt2d (2, 21), roi, light, colour: not read

The reader takes 1 off x and y; pose and coefficients stay as in the file, for `camera.model_to_image`.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from p2m_core.camera import box_of
from p2m_core.errors import InputError
from p2m_core.faces.formats import read_mat, write_mat
from p2m_core.files import atomic_path

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".png")
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
    """

    name: str
    image_path: Path
    size: tuple[int, int]
    pose: np.ndarray
    shape: np.ndarray
    expression: np.ndarray
    landmarks_px: np.ndarray


def find_samples(folder: str | Path) -> list[Path]:
    """The .mat files of a folder that have an image beside them, by name; each one without is logged.

    Raises: InputError if the folder is missing or holds no sample.
    """
    mats = sorted(Path(folder).glob("*.mat")) if Path(folder).is_dir() else []
    paired = [mat for mat in mats if _image_of(mat)]
    if not paired:
        problem = "has no sample (NAME.jpg with NAME.mat)" if Path(folder).is_dir() else "is missing"
        raise InputError(folder, "", problem, "see `p2m doctor` for where data sets belong, or `p2m synth` to make one")
    for error in unpaired(folder):
        log.warning("%s", error)
    return paired


def unpaired(folder: str | Path) -> list[InputError]:
    """One unraised InputError for each .mat of a folder that has no image, by name."""
    return [_no_image(mat) for mat in sorted(Path(folder).glob("*.mat")) if not _image_of(mat)]


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
    content = read_mat(mat_path, _FIELDS, _REMEDY)
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
    )


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


def read_image(path: str | Path, upright: bool = False) -> np.ndarray:
    """Read a whole photo.

    Args:    path: jpg, png or whatever Pillow reads.
             upright: turn it as its EXIF tag says. For people's photos, not for data sets, whose
             landmarks belong to the pixels as stored.
    Returns: (H, W, 3) uint8 RGB.
    Raises:  InputError if it is missing, no image, or truncated.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "", "is missing", "check the name")
    try:
        # Pillow refuses files that end too early, which OpenCV fills with grey.
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            return np.array((ImageOps.exif_transpose(image) if upright else image).convert("RGB"))
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
) -> Path:
    """Write NAME.jpg and then NAME.mat, each whole or not at all: a sample is there when its .mat is.

    Args:    image_rgb: (H, W, 3) uint8.   jpeg_quality: 1 to 95.
             pose: (7,) as in AFLW2000-3D, counted from 1.   shape: (K,).   expression: (M,), raw units.
             landmarks_px: (68, 3) px of p2m_core.   roi_px: (4,) x0 y0 x1 y1 of the crop, px of p2m_core.
    Returns: the path of the .mat.
    """
    folder = Path(folder)
    height = image_rgb.shape[0]
    from_one = np.asarray(landmarks_px, np.float64) + [1, 1, 0]
    points21 = from_one[_AFLW21_FROM_68].mean(1)[:, :2]
    points21[_AFLW21_FROM_68[:, 0] < 0] = [_INVISIBLE, height + 1 - _INVISIBLE]  # as AFLW2000-3D has it
    with atomic_path(folder / f"{name}.jpg") as temporary:
        Image.fromarray(image_rgb).save(temporary, quality=jpeg_quality)
    mat_path = folder / f"{name}.mat"
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
        },
    )
    return mat_path
