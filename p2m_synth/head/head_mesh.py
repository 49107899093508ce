"""The drawn head's fixed parts: triangles, canonical places, masks, ambient occlusion, hair distance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import cv2
import numpy as np
import scipy.sparse as sp

from p2m_core.geometry.rasterizer import depth_map, vertex_normals
from p2m_synth.head.asset import PARTS, load_asset, quads_to_triangles
from p2m_synth.head.head_model import UM_PER_DM, HeadModel, load_head_model, refinement
from p2m_synth.scene.primitives import smooth_step


@dataclass(frozen=True, eq=False)
class HeadMesh:
    """What does not change from one head to the next (m refined vertices, units dm on the mean head).

    refined (m, n) map from base vertices; triangles (T, 3) and their part (T,); canonical (m, 3);
    masks (m,) each: lips, lids, ears, occlusion, beard, and those of `skin_zones`; hairline (m,): height above it, dm;
    neck (m,): 1 where a vertex turns with the head, 0 where with the torso; pivot_um (3,): about which both turn;
    face (T,): which triangles belong to the face model; landmarks (68, 3);
    eye_idx (2, n): vertices of the eyeballs, left and right; teeth_idx: of the upper teeth;
    scalp (S, 3): triangles that can carry hair; noise (3, 512, 512): unit textures, fine to coarse, that wrap around.
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
    face: np.ndarray
    landmarks: np.ndarray
    eye_idx: np.ndarray
    teeth_idx: np.ndarray
    scalp: np.ndarray
    noise: np.ndarray

    @property
    def skin(self) -> np.ndarray:
        """The triangles of the skin (S, 3)."""
        return self.triangles[self.part == PARTS.index("skin")]

    @cached_property
    def scalp_idx(self) -> np.ndarray:
        """The vertices of the scalp."""
        return np.unique(self.scalp)

    @property
    def face_idx(self) -> np.ndarray:
        """The vertices of the face model (V,)."""
        return self.model.face_vertex_idx

    @property
    def landmark_idx(self) -> np.ndarray:
        """The vertices of the 68 landmarks."""
        return self.model.face_vertex_idx[self.model.landmark_idx]


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
        depth = depth_map(points, faces, size, size)
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


def spots(points: np.ndarray, place: np.ndarray, width: float, height: float) -> np.ndarray:
    """Soft spots (V,) around a place on the front of the mean head, dm, and its mirror image."""
    across, along = (np.abs(points[:, 0]) - abs(place[0])) / width, (points[:, 1] - place[1]) / height
    return np.exp(-(across**2) - along**2) * (points[:, 2] > 0.6)


def skin_zones(points: np.ndarray, landmark: np.ndarray, ears: np.ndarray) -> dict[str, np.ndarray]:
    """Where blood shows, rings under the eyes lie, make-up goes, and the skin is oily (V,) each."""
    eye = (landmark[36] + landmark[39]) / 2
    cheek = (landmark[48] + landmark[36]) / 2 * [1.12, 1, 1]
    red = 0.7 * spots(points, landmark[30], 0.14, 0.12) + 0.25 * spots(points, landmark[8], 0.25, 0.16)
    rings = spots(points, eye - [0, 0.12, 0], 0.14, 0.055)
    # Lashes and the fold above them darken the skin along the upper lid, and beyond the outer corner.
    lid = landmark[[39, 38, 37, 36, 36]] * [-1, 1, 1]
    lid[4] += [0.05, -0.012, 0]
    x = np.abs(points[:, 0])
    above = points[:, 1] - np.interp(x, lid[:, 0], lid[:, 1])
    fold = np.exp(-(((above - 0.016) / 0.022) ** 2)) * (points[:, 2] > 0.6)
    fold = fold * smooth_step(lid[0, 0] - 0.01, lid[1, 0], x) * smooth_step(lid[4, 0], lid[3, 0] + 0.01, x)
    oil = 0.35 + 0.7 * spots(points, landmark[27] + [0, 0.35, 0], 0.26, 0.25)
    oil = oil + 0.75 * spots(points, landmark[30], 0.1, 0.3)
    return {
        "red": red + spots(points, cheek, 0.2, 0.17) + 0.6 * ears,
        "rings": rings + 0.6 * spots(points, (landmark[39] + landmark[27]) / 2, 0.06, 0.07),
        "shadow": 0.8 * spots(points, eye + [0, 0.07, 0], 0.14, 0.05),
        "fold": fold,
        "blush": spots(points, (landmark[2] + landmark[31]) / 2 + [0, 0.03, 0], 0.16, 0.09),
        "oil": oil + 0.3 * spots(points, landmark[2] * [0.75, 1, 1], 0.15, 0.1),
    }


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
    azimuth, height = (0, 25, 45, 60, 72, 85, 100, 125, 180), (7.98, 7.96, 7.84, 7.62, 7.38, 7.36, 7.2, 6.75, 6.6)
    return (points[:, 1] - np.interp(angle, azimuth, height)) * np.where(angle > 60, 0.6, 1)


def wrapping_noise(sigma_px: float, seed: int) -> np.ndarray:
    """(512, 512) Gaussian noise of unit variance and one scale, that repeats without a seam."""
    noise = np.random.default_rng(seed).standard_normal((512, 512)).astype(np.float32)
    pad = int(6 * sigma_px)
    wide = np.pad(noise, pad, mode="wrap")
    band = cv2.GaussianBlur(wide, (0, 0), sigma_px) - cv2.GaussianBlur(wide, (0, 0), 6 * sigma_px)
    band = band[pad:-pad, pad:-pad]
    return band / band.std()


@cache
def load_head_mesh() -> HeadMesh:
    """The mesh of the project's own head model."""
    model, asset = load_head_model(), load_asset()
    refined, quads, quad_part = refinement()
    drawn = quad_part != PARTS.index("lashes")
    triangles, part = quads_to_triangles(quads[drawn]), np.tile(quad_part[drawn], 2)
    points = refined @ (model.mean / np.float32(UM_PER_DM))
    masks = dict(zip(("lips", "lids", "ears"), (refined @ asset["masks"]).clip(0, 1).T, strict=True))
    masks["occlusion"] = ambient_occlusion(points, triangles)
    masks["beard"] = beard_density(points, masks["lips"])
    landmarks = points[model.face_vertex_idx[model.landmark_idx]]
    masks |= skin_zones(points, landmarks, masks["ears"])
    skin = np.zeros(len(points), bool)
    skin[quads[quad_part == PARTS.index("skin")]] = True
    hairline = np.where(skin & (masks["ears"] < 0.35) & (points[:, 1] > 6.4), hairline_distance(points), -9)
    skin_triangles = triangles[part == PARTS.index("skin")]
    neck = smooth_step(5.75, 6.3, points[:, 1] + 0.12 * np.clip(points[:, 2] - 0.9, None, 0))
    at_neck = skin & (abs(points[:, 1] - 6.2) < 0.08)
    eye_idx = [np.unique(quads[quad_part == PARTS.index(name)]) for name in ("left_eye", "right_eye")]
    of_face = np.zeros(len(points), bool)
    of_face[model.face_vertex_idx] = True
    return HeadMesh(
        model=model,
        refined=refined,
        triangles=triangles,
        part=part,
        canonical=points.astype(np.float32),
        masks={name: mask.astype(np.float32) for name, mask in masks.items()},
        hairline=hairline.astype(np.float32),
        neck=neck.astype(np.float32),
        pivot_um=points[at_neck].mean(0) * UM_PER_DM,
        face=of_face[triangles].all(1) & (part == PARTS.index("skin")),
        landmarks=landmarks.astype(np.float32),
        eye_idx=np.array(eye_idx),
        teeth_idx=np.unique(quads[quad_part == PARTS.index("upper_teeth")]),
        scalp=skin_triangles[(hairline[skin_triangles] > -0.3).all(1)],
        noise=np.stack([wrapping_noise(sigma, k) for k, sigma in enumerate((1.2, 3.0, 9.0))]),
    )
