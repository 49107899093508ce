"""p2m_core.inference."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.geometry.camera import angles_from_rotation
from p2m_core.geometry.crop import apply_affine, crop_image, crop_matrix, invert_affine, ndc_to_px
from p2m_core.geometry.similarity import umeyama
from p2m_core.network.encoders import fold_batch_norms
from p2m_core.network.model import PLACED_SCALE, Pixel2Mesh
from p2m_core.network.precision import autocast_type
from p2m_core.network.weights import load_model, weights_path


@lru_cache(maxsize=4)
def _network(path: Path, modified: int, device: str, low: torch.dtype | None) -> Pixel2Mesh:
    # `modified` makes a file that was trained anew a new entry.
    model, _ = load_model(path, device)
    fold_batch_norms(model.encoder)
    model.encoder.to(low)  # once: autocast alone would do so anew for each photo
    return model.to(memory_format=torch.channels_last)


def open_network(
    weights: str | Path = "bundled", device: str | None = None, precision: Literal["auto", "fp32", "bf16"] = "fp32"
) -> Pixel2Mesh:
    """The network of "bundled" or a weights file, kept in memory between calls.

    Args: precision: of the encoder; "auto" is bf16 where the device has instructions for it. `predict_crops` knows.

    >>> network = open_network("bundled", device="cpu")
    >>> network.template.counts, network.config.input_px
    ((127, 469, 1801, 7057), 112)
    """
    path = weights_path(weights)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return _network(path, path.stat().st_mtime_ns, device, autocast_type(precision, torch.device(device)))


def predict_crops(model: Pixel2Mesh, crops: np.ndarray, flip: bool = True) -> list[np.ndarray]:
    """Vertices of every level in normalised crop coordinates.

    Args:    crops: (B, S, S, 3) uint8 RGB.   flip: average with the prediction for the mirrored crop.
    Returns: one (B, n_k, 3) a level.

    >>> crops = np.zeros((2, 112, 112, 3), np.uint8)
    >>> levels = predict_crops(open_network(device="cpu"), crops)
    >>> [vertices.shape for vertices in levels]
    [(2, 127, 3), (2, 469, 3), (2, 1801, 3), (2, 7057, 3)]
    """
    return _predict_crops(model, crops, flip)[0]


@torch.no_grad()
def _predict_crops(model: Pixel2Mesh, crops: np.ndarray, flip: bool) -> tuple[list[np.ndarray], np.ndarray]:
    """`predict_crops`, and each crop's doubt (B,): how far the two predictions lie apart; 0 without flip."""
    device = next(model.parameters()).device
    images = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).to(device).float() / 255
    count, mirror = len(crops), model.template.mirror
    flip = flip and len(mirror) > 0
    low = next(model.encoder.parameters()).dtype
    with torch.autocast(device.type, low, enabled=low != torch.float32):
        both = model(torch.cat([images, images.flip(3)]) if flip else images).levels
    levels, doubt = [x[:count].cpu().numpy() for x in both], np.zeros(count)
    if flip:
        mirrored = [x[count:].cpu().numpy()[:, mirror[: x.shape[1]]] * [-1, 1, 1] for x in both]
        doubt = np.linalg.norm((levels[-1] - mirrored[-1])[..., :2], axis=-1).mean(1)
        levels = [(a + b) / 2 for a, b in zip(levels, mirrored, strict=True)]
    return [np.float32(x) for x in levels], doubt


def predict_boxes(model: Pixel2Mesh, image: np.ndarray, boxes: np.ndarray, flip: bool = True) -> list[FaceMesh]:
    """A FaceMesh for each box (K, 4), in one pass."""
    side, margin = model.config.input_px, model.config.margin
    matrices = [crop_matrix(box, side, margin) for box in boxes]
    crops = np.stack([crop_image(image, matrix, side) for matrix in matrices])
    levels, doubt = _predict_crops(model, crops, flip)
    return [
        face_mesh(model, [level[k] for level in levels], matrices[k], boxes[k], crops[k], float(doubt[k]))
        for k in range(len(boxes))
    ]


def face_mesh(
    model: Pixel2Mesh,
    levels_ndc: list[np.ndarray],
    matrix: np.ndarray,
    box: np.ndarray,
    crop: np.ndarray | None = None,
    doubt: float = 0.0,
) -> FaceMesh:
    """A FaceMesh from levels (n_k, 3) in normalised crop coordinates, matrix (2, 3) image px to crop px."""
    back, side, template = invert_affine(matrix), model.config.input_px, model.template
    start = model.start[: template.counts[0]].cpu().numpy() * [1, -1, 1] * PLACED_SCALE
    levels = tuple(np.float32(apply_affine(back, ndc_to_px(level, side))) for level in levels_ndc)
    return FaceMesh(
        vertices_px=levels[-1],
        faces=template.faces[-1],
        levels=levels,
        level_faces=template.faces,
        landmarks_px=np.float32(template.landmarks(levels[-1])),
        box=np.float32(box),
        pose=pose_of(levels[-1], template.vertices),
        crop=crop,
        doubt=doubt,
        template_px=np.float32(apply_affine(back, ndc_to_px(start, side))),
    )


def pose_of(vertices_px: np.ndarray, template_vertices: np.ndarray) -> np.ndarray:
    """The similarity that lays the template nearest to a mesh, as FaceMesh.pose.

    Args:    vertices_px: (V, 3) image px, z towards the viewer.   template_vertices: (V, 3), y up.
    Returns: (7,) pitch, yaw, roll (degrees), x, y, z (px) of the template's centroid, px per unit.
    """
    scale, rotation, shift = umeyama(template_vertices - template_vertices.mean(0), to_world(vertices_px))
    return np.concatenate([np.degrees(angles_from_rotation(rotation)), shift * [1, -1, 1], [scale]])
