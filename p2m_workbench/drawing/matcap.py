"""Pictures of a lit sphere, from which the 3D views shade a mesh by its normals: soft light at no cost.

A material capture holds the colour of every direction a surface can face, so any number of lamps costs one look-up.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.geometry.rasterizer import interpolate, rasterize, vertex_normals
from p2m_synth.render.shaded_mesh import CLAY

SIDE_PX = 256
# Direction (y up, z to the viewer), RGB strength, and how far it reaches round the sphere: a soft box, no bulb.
LAMPS = (
    ((-0.50, 0.62, 0.60), (0.84, 0.80, 0.75), 0.40),
    ((0.85, 0.10, 0.45), (0.20, 0.23, 0.27), 0.50),
    ((0.10, -0.90, 0.40), (0.10, 0.09, 0.085), 0.50),
)
AMBIENT = np.array([0.19, 0.19, 0.20])


def _sphere() -> np.ndarray:
    """Unit normals (H, W, 3) of a sphere that fills the picture, y up; beyond its rim, those of the rim."""
    # The shader looks up normals at 0.495 of the picture's half size.
    axis = (np.arange(SIDE_PX) + 0.5 - SIDE_PX / 2) / (0.495 * SIDE_PX)
    x, y = np.meshgrid(axis, -axis)
    radius = np.maximum(np.hypot(x, y), 1e-9)
    inside = np.minimum(radius, 1) / radius
    x, y = x * inside, y * inside
    return np.stack([x, y, np.sqrt(np.maximum(1 - x**2 - y**2, 0))], -1)


def _lit(normals: np.ndarray) -> np.ndarray:
    """Light on each normal, RGB, without highlights."""
    light = AMBIENT * (1 + 0.12 * normals[..., 1:2])
    for direction, strength, wrap in LAMPS:
        cosine = normals @ (np.array(direction) / np.linalg.norm(direction))
        light = light + np.clip((cosine + wrap) / (1 + wrap), 0, 1)[..., None] ** 1.6 * strength
    return light


@cache
def clay(tint: tuple[int, int, int] = CLAY) -> np.ndarray:
    """Pale clay under a warm key, a cool fill and a thin rim of light (256, 256, 3) uint8; white for colours on it."""
    normals = _sphere()
    key = np.array(LAMPS[0][0]) / np.linalg.norm(LAMPS[0][0])
    half = (key + [0, 0, 1]) / np.linalg.norm(key + [0, 0, 1])
    shine = 0.09 * np.clip(normals @ half, 0, 1)[..., None] ** 28
    rim = 0.16 * (1 - normals[..., 2:]) ** 4 * np.clip(normals[..., 1:2] + 0.55, 0, 1)
    rgb = _lit(normals) * np.array(tint) / 255 + shine + rim * [0.85, 0.92, 1.0]
    return np.uint8(np.round(np.clip(rgb, 0, 1) * 255))


@cache
def paper() -> np.ndarray:
    """Nearly even light for surfaces that have their own colours (256, 256, 3) uint8."""
    grey = np.clip(0.46 + 0.56 * _lit(_sphere()).mean(-1, keepdims=True), 0, 1)
    return np.uint8(np.round(np.repeat(grey, 3, -1) * 255))


@cache
def directions() -> np.ndarray:
    """The normal itself as colour, x, y, z from -1 to 1 as red, green, blue (256, 256, 3) uint8."""
    return np.uint8(np.round((_sphere() + 1) / 2 * 255))


def facing(normals_z: np.ndarray) -> np.ndarray:
    """How well a camera sees a surface, by the z of its unit normals: 0 where that turns away, 1 where it faces it."""
    share = np.clip((normals_z - 0.12) / 0.35, 0, 1)
    return share * share * (3 - 2 * share)


def seen_from_the_front(mesh: FaceMesh, height: int, width: int, side_px: int = 256) -> np.ndarray:
    """How well a photo shows the mesh's surface, as a mask in the photo's shape for its colours on the mesh.

    255 where the finest level faces the camera, falling to 0 where it turns away, and 0 beside the mesh and at steps in
    depth.

    Returns: (h, w) uint8, the photo scaled to its longer side `side_px`.
    """
    scale = side_px / max(height, width)
    points = np.asarray(mesh.vertices_px, np.float32) * np.float32(scale)
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    triangle, bary, _ = rasterize(points, mesh.faces, *shape)
    hit = triangle >= 0
    normals = vertex_normals(to_world(points), mesh.faces)
    mask = np.zeros(shape, np.float32)
    mask[hit] = facing(interpolate(normals, mesh.faces, triangle[hit], bary[hit])[:, 2])
    mask = np.minimum(mask, cv2.erode(mask, np.ones((3, 3))))
    return np.uint8(np.round(255 * cv2.GaussianBlur(mask, (0, 0), 1.2)))
