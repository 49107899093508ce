"""A synthetic sample in the format of AFLW2000-3D: written, and what it says of itself read.

p2m_core/data/aflw2000.py reads the rest.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from p2m_core.data.aflw2000 import MASK_SUFFIX
from p2m_core.errors import InputError
from p2m_core.files import write_bytes
from p2m_core.morphable.formats import read_mat
from p2m_synth.mat_files import write_mat

_INVISIBLE = -1

# AFLW's 21 points as midpoints of two of the 68; the ears have none.
_AFLW21_FROM_68 = np.array(
    [[17, 17], [19, 19], [21, 21], [22, 22], [24, 24], [26, 26]]  # brows: outer, middle, inner, ...
    + [[36, 36], [36, 39], [39, 39], [42, 42], [42, 45], [45, 45]]  # eyes: corner, centre, corner
    + [[-1, -1], [31, 31], [30, 30], [35, 35], [-1, -1]]  # ear, nose, ear
    + [[48, 48], [62, 66], [54, 54], [8, 8]]  # mouth: corner, centre, corner; chin
)


def write_sample(
    folder: str | Path,
    name: str,
    image_rgb: np.ndarray,
    jpeg_quality: int,
    pose_para: np.ndarray,
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
             pose_para: (7,) AFLW2000-3D's Pose_Para.   shape: (K,).   expression: (M,), raw units.
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
    jpeg = cv2.imencode(".jpg", image_rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])[1]
    write_bytes(folder / f"{name}.jpg", jpeg.tobytes())
    if mask is not None:
        write_bytes(folder / f"{name}{MASK_SUFFIX}", cv2.imencode(".png", mask)[1].tobytes())
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
            "Pose_Para": np.reshape(pose_para, (1, 7)).astype(np.float32),
            "roi": (np.rint(np.reshape(roi_px, (1, 4))) + 1).astype(np.int16),
            "pt3d_68": from_one.T.astype(np.float32),
            **extra,
        },
    )
    return mat_path


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
