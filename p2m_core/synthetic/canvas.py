"""The drawn head's fixed parts: triangles, canonical places, masks, ambient occlusion, hair distance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import scipy.sparse as sp

from p2m_core.raster import rasterize, vertex_normals
from p2m_core.synthetic.face_model import UM_PER_DM, HeadModel, load_head_model, refinement
from p2m_core.synthetic.head import PARTS, load_asset, quads_to_triangles


def smooth_step(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@dataclass(frozen=True)
class Canvas:
    """What does not change from one head to the next (m refined vertices, units dm on the mean head).

    refined (m, n) map from base vertices; triangles (T, 3) and their part (T,); canonical (m, 3);
    lips, lids, ears, occlusion, beard, hairline (m,): masks in [0, 1], and for `hairline` the distance
    above it, dm (negative below); neck (m,): 1 where a vertex turns with the head, 0 where with the torso;
    eye_centre, eye_axis (2, 3): left, right; scalp (S, 3): triangles that can carry hair;
    noise (3, 512, 512): unit textures, fine to coarse, that wrap around.
    """

    model: HeadModel
    refined: sp.csr_matrix
    triangles: np.ndarray
    part: np.ndarray
    canonical: np.ndarray
    masks: dict[str, np.ndarray]
    hairline: np.ndarray
    neck: np.ndarray
    pivot_um: np.ndarray
    eye_centre: np.ndarray
    eye_axis: np.ndarray
    scalp: np.ndarray
    noise: np.ndarray


def azimuth_deg(points: np.ndarray) -> np.ndarray:
    """Angle around the head's vertical axis, 0 in front, positive to the subject's left."""
    return np.degrees(np.arctan2(points[..., 0], points[..., 2] - 0.45))


def ambient_occlusion(vertices: np.ndarray, faces: np.ndarray, directions: int = 64, size: int = 192) -> np.ndarray:
    """Share of the sky that each vertex sees (V,), by depth maps from many directions."""
    normals, rng = vertex_normals(vertices, faces), np.random.default_rng(0)
    open_, total = np.zeros(len(vertices)), np.zeros(len(vertices))
    centre, scale = vertices.mean(0), size / np.ptp(vertices, 0).max() / 1.5
    for _ in range(directions):
        rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        points = (vertices - centre) @ rotation.T * scale + size / 2
        depth = rasterize(points, faces, size, size)[2]
        column, row = np.clip(points[:, :2].round().astype(int), 0, size - 1).T
        cosine = np.clip(normals @ rotation[2], 0, None)
        open_ += cosine * (points[:, 2] > depth[row, column] - 0.03 * scale)
        total += cosine
    sky = open_ / np.maximum(total, 1e-6)
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    graph = sp.coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(sky),) * 2).tocsr() + sp.eye(len(sky))
    graph = graph + graph.T
    for _ in range(2):  # depth maps are coarse: neighbours share what they see
        sky = graph @ sky / np.asarray(graph.sum(1)).ravel()
    return sky.astype(np.float32)


def beard_density(points: np.ndarray, lips: np.ndarray) -> np.ndarray:
    """Where a beard grows (V,) in [0, 1]: chin, jaw, sideburns, upper lip."""
    x, y, z = points.T
    jaw = smooth_step(0.10, -0.02, y - 6.62 - 0.35 * np.clip(abs(x) - 0.15, 0, 0.5))
    moustache = np.exp(-(((y - 6.80) / 0.035) ** 2)) * (abs(x) < 0.26) * (z > 1.3)
    sideburn = smooth_step(0.54, 0.64, abs(x)) * smooth_step(7.2, 6.9, y)
    below_jaw = smooth_step(-0.08, 0.06, y - (6.92 - 0.686 * z))
    return np.clip(np.maximum(np.maximum(jaw, sideburn), moustache) * below_jaw * (z > 0.5) * (1 - lips), 0, 1)


def hairline_distance(points: np.ndarray) -> np.ndarray:
    """Height above the hairline (V,), dm: high over the forehead, round the ears, down to the nape."""
    angle = abs(azimuth_deg(points))
    line = np.interp(
        angle, [0, 25, 45, 60, 72, 85, 100, 125, 180], [7.98, 7.96, 7.84, 7.62, 7.38, 7.36, 7.2, 6.75, 6.6]
    )
    return (points[:, 1] - line) * np.where(angle > 60, 0.6, 1)


def wrapping_noise(sigma_px: float, seed: int) -> np.ndarray:
    """(512, 512) Gaussian noise of unit variance and one scale, that repeats without a seam."""
    noise = np.random.default_rng(seed).standard_normal((512, 512)).astype(np.float32)
    pad = int(6 * sigma_px)
    wide = np.pad(noise, pad, mode="wrap")
    band = cv2.GaussianBlur(wide, (0, 0), sigma_px) - cv2.GaussianBlur(wide, (0, 0), 6 * sigma_px)
    band = band[pad:-pad, pad:-pad]
    return band / band.std()


@cache
def load_canvas() -> Canvas:
    """The canvas of the project's own head model."""
    model, asset = load_head_model(), load_asset()
    refined, quads, quad_part = refinement()
    drawn = quad_part != PARTS.index("lashes")
    triangles, part = quads_to_triangles(quads[drawn]), np.tile(quad_part[drawn], 2)
    points = refined @ (model.mean / np.float32(UM_PER_DM))
    masks = dict(zip(("lips", "lids", "ears"), (refined @ asset["masks"]).clip(0, 1).T, strict=True))
    masks["occlusion"] = ambient_occlusion(points, triangles)
    masks["beard"] = beard_density(points, masks["lips"])
    skin = np.zeros(len(points), bool)
    skin[quads[quad_part == PARTS.index("skin")]] = True
    hairline = np.where(skin & (masks["ears"] < 0.35) & (points[:, 1] > 6.4), hairline_distance(points), -9)
    skin_triangles = triangles[part == PARTS.index("skin")]
    neck = smooth_step(5.75, 6.3, points[:, 1] + 0.12 * np.clip(points[:, 2] - 0.9, None, 0))
    at_neck = skin & (abs(points[:, 1] - 6.2) < 0.08)
    eyes = [points[np.unique(quads[quad_part == PARTS.index(name)])] for name in ("left_eye", "right_eye")]
    centre = np.array([(eye.min(0) + eye.max(0)) / 2 for eye in eyes])
    front = np.array([eye[eye[:, 2] > np.quantile(eye[:, 2], 0.93)].mean(0) for eye in eyes]) - centre
    return Canvas(
        model=model,
        refined=refined,
        triangles=triangles,
        part=part,
        canonical=points.astype(np.float32),
        masks={name: mask.astype(np.float32) for name, mask in masks.items()},
        hairline=hairline.astype(np.float32),
        neck=neck.astype(np.float32),
        pivot_um=points[at_neck].mean(0) * UM_PER_DM,
        eye_centre=centre,
        eye_axis=front / np.linalg.norm(front, axis=1, keepdims=True),
        scalp=skin_triangles[(hairline[skin_triangles] > -0.3).all(1)],
        noise=np.stack([wrapping_noise(sigma, k) for k, sigma in enumerate((1.2, 3.0, 9.0))]),
    )
