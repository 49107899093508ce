"""From crops and boxes to meshes: `open_network`, then `predict_crops` (arrays) or `predict_views` (FaceMesh).

Finding faces in a photo is p2m_workbench.photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Num, UInt8

from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.geometry.camera import angles_from_rotation
from p2m_core.geometry.crop import apply_affine, crop_image, invert_affine, ndc_to_px
from p2m_core.geometry.similarity import umeyama
from p2m_core.network.encoders import fold_batch_norms
from p2m_core.network.model import PLACED_SCALE, Pixel2Mesh
from p2m_core.network.weights import Build, load_model, weights_path
from p2m_core.precision import autocast_type, choose_device


@lru_cache(maxsize=4)
def _network(path: Path, modified: int, device: str, low: torch.dtype | None, build: Build) -> Pixel2Mesh:
    """The network, read once: the cache's key holds `modified`, the file's time, so a changed file is read anew."""
    model, _ = load_model(path, device, build)
    fold_batch_norms(model.encoder)
    model.encoder.to(low)  # once; autocast alone would convert the weights again for each photo
    return model.to(memory_format=torch.channels_last)


def open_network(
    weights: str | Path = "bundled",
    device: str | None = None,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    build: Build = Pixel2Mesh,
) -> Pixel2Mesh:
    """The network of a weights file, in evaluation mode and kept in memory between calls.

    Args:   weights: a file, a run's folder, or "bundled".   device: None is CUDA where there is one.
            precision: of the encoder; "auto" is bf16 where that is the faster here.   build: as for `load_model`.
    Raises: InputError if there are no such weights, or no such device.

    >>> network = open_network("bundled", device="cpu")
    >>> network.template.counts, network.config.input_px
    ((138, 531, 2085, 8265), 112)
    """
    path = weights_path(weights)
    place = choose_device(device or "auto")
    return _network(path, path.stat().st_mtime_ns, str(place), autocast_type(precision, place), build)


def predict_crops(
    model: Pixel2Mesh, crops: UInt8[np.ndarray, "b s s 3"], flip: bool = True
) -> list[Float32[np.ndarray, "b _ 3"]]:
    """Vertices of every level in normalised crop coordinates.

    Args:    crops: RGB, as `crop_image` cuts them out.   flip: average with the prediction for the mirrored crop.

    >>> crops = np.zeros((2, 112, 112, 3), np.uint8)
    >>> levels = predict_crops(open_network(device="cpu"), crops)
    >>> [vertices.shape for vertices in levels]
    [(2, 138, 3), (2, 531, 3), (2, 2085, 3), (2, 8265, 3)]
    """
    return _predict_crops(model, crops, flip)[0]


@torch.no_grad()
def _predict_crops(
    model: Pixel2Mesh, crops: UInt8[np.ndarray, "b s s 3"], flip: bool
) -> tuple[list[Float32[np.ndarray, "b _ 3"]], Float[np.ndarray, "b"]]:
    """`predict_crops`, and the flip disagreement of each crop, see FaceMesh.doubt; 0 without flip."""
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
    return [x.astype(np.float32) for x in levels], doubt


def predict_views(
    model: Pixel2Mesh,
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    matrices: Sequence[Float[np.ndarray, "2 3"]],
    boxes: Num[np.ndarray, "k 4"],
    flip: bool = True,
) -> list[FaceMesh]:
    """A FaceMesh for each image, in one batch.

    Args: images: RGB.   matrices: from px of each to crop px, see `crop_matrix`.   boxes: kept in the meshes.
    """
    side = model.config.input_px
    crops = np.stack([crop_image(image, matrix, side) for image, matrix in zip(images, matrices, strict=True)])
    levels, doubt = _predict_crops(model, crops, flip)
    template, meshes = model.template, []
    start = model.start[: template.counts[0]].cpu().numpy() * [1, -1, 1] * PLACED_SCALE
    for k, back in enumerate(map(invert_affine, matrices)):
        own = tuple(apply_affine(back, ndc_to_px(level[k], side)).astype(np.float32) for level in levels)
        mesh = FaceMesh(
            vertices_px=own[-1],
            faces=template.faces[-1],
            levels=own,
            level_faces=template.faces,
            landmarks_px=template.landmarks(own[-1]).astype(np.float32),
            box=boxes[k].astype(np.float32),
            pose=pose_of(own[-1], template.vertices),
            crop=crops[k],
            doubt=float(doubt[k]),
            groups=None if template.coarse_groups is None else template.groups[-1],
            mirror=template.mirror if len(template.mirror) else None,
            template_px=apply_affine(back, ndc_to_px(start, side)).astype(np.float32),
        )
        meshes.append(mesh)
    return meshes


def pose_of(
    vertices_px: Float[np.ndarray, "v 3"], template_vertices: Float[np.ndarray, "v 3"]
) -> Float[np.ndarray, "7"]:
    """The best similarity of the template onto a mesh, as FaceMesh.pose.

    Args:    vertices_px: image px, z towards the viewer.   template_vertices: y up.
    Returns: pitch, yaw, roll (degrees), x, y, z (px) of the template's centroid, px per unit.
    """
    scale, rotation, shift = umeyama(template_vertices - template_vertices.mean(0), to_world(vertices_px))
    return np.concatenate([np.degrees(angles_from_rotation(rotation)), shift * [1, -1, 1], [scale]])
