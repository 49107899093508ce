"""Meshes by networks that know no face: of what is in a box, or in the whole picture."""

from __future__ import annotations

import numpy as np
import torch

from p2m_core.data.clouds import on_input
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import apply_affine, crop_image, crop_matrix, invert_affine, ndc_to_px
from p2m_core.network.model import Pixel2Mesh
from p2m_workbench.interop.reference_network import LegacyCrop, ReferencePixel2Mesh

LEGACY_UNIT = 1000  # px of the photo to a unit of the older face port


def knows_faces(model: Pixel2Mesh) -> bool:
    """Whether a network can be asked for landmarks and pose in a crop, as finding and turning faces does."""
    return len(model.template.landmark_faces) > 0 and model.config.camera == "crop"


def mesh_pictures(
    model: Pixel2Mesh, image: np.ndarray, boxes: np.ndarray | None = None, margin: float = 1.0
) -> list[FaceMesh]:
    """A mesh without landmarks and pose for each box (K, 4), or for the whole picture (H, W, 3).

    What is seen is the square around the box, `margin` times its longer side. The mesh is where the network's camera
    sees it, z in px to the viewer.
    """
    height, width = image.shape[:2]
    whole = np.array([[-0.5, -0.5, width - 0.5, height - 0.5]])
    meshes = []
    for box in whole if boxes is None else boxes:
        matrix = crop_matrix(box, model.config.input_px, 1.0 if boxes is None else margin)
        meshes.append(mesh_of_crop(model, crop_image(image, matrix, model.config.input_px), matrix, box))
    return meshes


@torch.no_grad()
def mesh_of_crop(model: Pixel2Mesh, crop: np.ndarray, matrix: np.ndarray, box: np.ndarray) -> FaceMesh:
    """A mesh without landmarks and pose, in px of the photo.

    Args: crop: (S, S, 3) uint8, the network's input.   matrix: (2, 3), from px of the photo to px of the crop.
          box: (4,), kept in the mesh.
    """
    config, side, back = model.config, model.config.input_px, invert_affine(matrix)
    device, low = next(model.parameters()).device, next(model.encoder.parameters()).dtype
    pixels = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))[None].to(device).float() / 255
    with torch.autocast(device.type, low, enabled=low != torch.float32):
        if isinstance(model, ReferencePixel2Mesh) and config.camera == "legacy_crop":
            corner, size = back[:, 2], torch.tensor([side / matrix[0, 0]], dtype=torch.float32, device=device)
            output = model(
                pixels, LegacyCrop(torch.tensor(corner[None], dtype=torch.float32, device=device), size, size)
            )
        else:
            output = model(pixels)
    start = model.start[: model.template.counts[0]]

    def on_photo(vertices: torch.Tensor) -> np.ndarray:
        points = vertices.float().cpu().numpy()
        if config.camera == "legacy_crop":
            return np.float32(points * LEGACY_UNIT)
        points = on_input(points, config, side) if config.camera == "perspective" else ndc_to_px(points, side)
        return np.float32(apply_affine(back, points))

    levels, template = tuple(on_photo(level[0]) for level in output.levels), model.template
    return FaceMesh(
        vertices_px=levels[-1],
        faces=template.faces[-1],
        levels=levels,
        level_faces=template.faces,
        landmarks_px=np.zeros((0, 3), np.float32),
        box=np.float32(box),
        crop=crop,
        groups=None if template.coarse_groups is None else template.groups[-1],
        mirror=template.mirror if len(template.mirror) else None,
        template_px=None if config.camera == "crop" else on_photo(start),
    )
