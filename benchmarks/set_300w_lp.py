"""Synthetic faces in the layout of 300W-LP: sub-sets, several poses of a photo, mirrored twins, landmarks apart.

The poses are shifts, turns and sizes of one picture, so that a set of any length takes few rendered faces.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import scipy.io
from PIL import Image

from p2m_core.data.aflw2000 import FLIPPED, SUBSETS, Sample, read_image
from p2m_core.geometry.camera import model_to_image, pose_para_from_similarity
from p2m_core.geometry.crop import apply_affine, box_of
from p2m_core.geometry.landmarks import MIRROR_68
from p2m_core.geometry.similarity import umeyama

CORNERS = np.concatenate([np.zeros((1, 3)), np.eye(3)])
STEMS = {"AFW": "AFW_{:d}_1", "HELEN": "HELEN_{:d}_1", "IBUG": "IBUG_image_{:03d}_1", "LFPW": "LFPW_image_train_{:04d}"}


def moved_pose(pose: np.ndarray, matrix: np.ndarray, height: int) -> np.ndarray:
    """Pose_Para (7,) of a face whose picture went through a similarity (2, 3) of px."""
    there = apply_affine(matrix, model_to_image(CORNERS / pose[6], pose, height))
    return pose_para_from_similarity(*umeyama(CORNERS / pose[6], there * [1, -1, 1]), height)


def photo_files(sample: Sample, number: int, poses: int, seed: int = 0) -> dict[str, bytes]:
    """One face as a photo of a sub-set: so many poses, their mirrored twins, and their landmarks, by their paths.

    The first pose is the picture as it is; sub-sets take turns with the photo's number, from 0.
    """
    subset, rng = list(SUBSETS)[number % len(SUBSETS)], np.random.default_rng([seed, number])
    image, (height, width) = read_image(sample.image_path), sample.size
    files = {}
    for pose in range(poses):
        angle, scale = (rng.normal(0, 8), np.exp(rng.normal(0, 0.04))) if pose else (0.0, 1.0)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
        moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        points = apply_affine(matrix, sample.landmarks_px)
        quality, pose_para = int(rng.integers(80, 97)), moved_pose(sample.pose_para, matrix, height)
        mirrored = points[MIRROR_68] * [-1, 1, 1] + [width - 1, 0, 0]
        turned = pose_para * [1, -1, -1, -1, 1, 1, 1] + [0, 0, 0, width + 1, 0, 0, 0]
        name = f"{STEMS[subset].format(number + 1)}_{pose}"
        for folder, picture, para, landmarks in (
            (subset, moved, pose_para, points),
            (f"{subset}{FLIPPED}", moved[:, ::-1], turned, mirrored),
        ):
            stream = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(picture)).save(stream, "JPEG", quality=quality)
            files[f"{folder}/{name}.jpg"] = stream.getvalue()
            files[f"{folder}/{name}.mat"] = as_mat(sample_fields(sample, para, landmarks))
        flat = (points[:, :2] + 1).astype(np.float32)
        files[f"landmarks/{subset}/{name}_pts.mat"] = as_mat({"pts_2d": flat, "pts_3d": flat})
    return files


def sample_fields(sample: Sample, pose: np.ndarray, landmarks_px: np.ndarray) -> dict[str, np.ndarray]:
    """What a .mat of 300W-LP holds: no pt3d_68, and a pt2d that is not of this pose."""
    return {
        "pt2d": (sample.landmarks_px[:, :2] + 1).T,
        "roi": np.rint(box_of(landmarks_px)[None]).astype(np.int16) + 1,
        "Pose_Para": pose[None].astype(np.float32),
        "Shape_Para": sample.shape[:, None],
        "Exp_Para": sample.expression[:, None],
    }


def as_mat(fields: dict[str, np.ndarray]) -> bytes:
    """The bytes of a MATLAB file."""
    stream = io.BytesIO()
    scipy.io.savemat(stream, fields)
    return stream.getvalue()


def write_set(root: Path, samples: list[Sample], photos: int, poses: int, seed: int = 0) -> Path:
    """Write a set of so many photos, each in so many poses and mirrored; faces take turns."""
    files = {"Code/Model_Exp.mat": as_mat({"w_exp": np.zeros((3, 1))})}
    for number in range(photos):
        files |= photo_files(samples[number % len(samples)], number, poses, seed)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root
