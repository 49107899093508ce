"""Synthetic faces in the layout of 300W-LP: sub-sets, several poses of a photo, mirrored twins, landmarks apart.

The poses are shifts, turns and sizes of one picture, so that a set of any length takes few rendered faces.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from p2m_core.camera import apply_affine, box_of, model_to_image, pose_from_similarity, umeyama
from p2m_core.data.aflw2000 import FLIPPED, SUBSETS, Sample, read_image
from p2m_core.faces.formats import write_mat
from p2m_core.files import atomic_path
from p2m_core.synthetic.face_model import MIRROR_68

CORNERS = np.concatenate([np.zeros((1, 3)), np.eye(3)])
STEMS = {"AFW": "AFW_{:d}_1", "HELEN": "HELEN_{:d}_1", "IBUG": "IBUG_image_{:03d}_1", "LFPW": "LFPW_image_train_{:04d}"}


def moved_pose(pose: np.ndarray, matrix: np.ndarray, height: int) -> np.ndarray:
    """Pose_Para (7,) of a face whose picture went through a similarity (2, 3) of px."""
    there = apply_affine(matrix, model_to_image(CORNERS / pose[6], pose, height))
    return pose_from_similarity(*umeyama(CORNERS / pose[6], there * [1, -1, 1]), height)


def write_photo(root: Path, subset: str, number: int, sample: Sample, poses: int, rng: np.random.Generator) -> None:
    """Write one face as a photo of a sub-set: so many poses, their mirrored twins, and their landmarks.

    The first pose is the picture as it is.
    """
    image, (height, width) = read_image(sample.image_path), sample.size
    for pose in range(poses):
        angle, scale = (np.radians(rng.normal(0, 8)), np.exp(rng.normal(0, 0.04))) if pose else (0.0, 1.0)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), np.degrees(angle), scale)
        moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        points = apply_affine(matrix, sample.landmarks_px)
        quality, pose_para = int(rng.integers(80, 97)), moved_pose(sample.pose, matrix, height)
        name = f"{STEMS[subset].format(number)}_{pose}"
        write(root / subset / name, moved, quality, pose_para, points, sample)
        mirrored = points[MIRROR_68] * [-1, 1, 1] + [width - 1, 0, 0]
        turned = pose_para * [1, -1, -1, -1, 1, 1, 1] + [0, 0, 0, width + 1, 0, 0, 0]
        write(root / f"{subset}{FLIPPED}" / name, moved[:, ::-1], quality, turned, mirrored, sample)
        flat = (points[:, :2] + 1).astype(np.float32)
        write_mat(root / "landmarks" / subset / f"{name}_pts.mat", {"pts_2d": flat, "pts_3d": flat})


def write(
    path: Path, image: np.ndarray, quality: int, pose: np.ndarray, landmarks_px: np.ndarray, sample: Sample
) -> None:
    """Write NAME.jpg and NAME.mat as 300W-LP has them: no pt3d_68, and a pt2d that is not of this pose."""
    with atomic_path(path.with_name(f"{path.name}.jpg")) as temporary:
        Image.fromarray(np.ascontiguousarray(image)).save(temporary, quality=quality)
    fields = {
        "pt2d": (sample.landmarks_px[:, :2] + 1).T,
        "roi": np.rint(box_of(landmarks_px)[None]).astype(np.int16) + 1,
        "Pose_Para": pose[None].astype(np.float32),
        "Shape_Para": sample.shape[:, None],
        "Exp_Para": sample.expression[:, None],
    }
    write_mat(path.with_name(f"{path.name}.mat"), fields)


def write_set(root: Path, samples: list[Sample], photos: int, poses: int, seed: int = 0) -> Path:
    """Write a set of so many photos, each in so many poses and mirrored; faces and sub-sets take turns."""
    for number in range(photos):
        rng = np.random.default_rng([seed, number])
        subset = list(SUBSETS)[number % len(SUBSETS)]
        write_photo(root, subset, number + 1, samples[number % len(samples)], poses, rng)
    (root / "Code").mkdir(parents=True, exist_ok=True)
    write_mat(root / "Code" / "Model_Exp.mat", {"w_exp": np.zeros((3, 1))})
    return root
