"""From coefficients and looks to a photo: geometry, z-buffer, shadows, light, camera."""

from __future__ import annotations

import cv2
import numpy as np

from p2m_core.camera import model_to_image, rotation_from_angles
from p2m_core.raster import interpolate, rasterize, vertex_normals
from p2m_core.synthetic.appearance import Appearance, blend, eye_color, inner_color, sample_noise, skin_color
from p2m_core.synthetic.background import draw_background
from p2m_core.synthetic.canvas import Canvas, azimuth_deg, smooth_step
from p2m_core.synthetic.hair import draw_glasses, glasses_lines, hair_cap, hair_curtain
from p2m_core.synthetic.head import PARTS

SUPERSAMPLE = 2
SHADOW_MAP_PX = 256
UPRIGHT = np.zeros(3)


def render(
    canvas: Canvas,
    look: Appearance,
    shape: np.ndarray,
    expression: np.ndarray,
    pose: np.ndarray,
    size_px: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """A photo of a head.

    Args:    shape (K,), expression (M,): coefficients of canvas.model.   pose: (7,) as Pose_Para.
             size_px: side of the square picture.   rng: decides light, hair cut, clothes, background, camera.
    Returns: (size_px, size_px, 3) uint8 RGB.
    """
    side = size_px * SUPERSAMPLE
    head, model_head = place_head(canvas, shape, expression, pose, rng)
    vertices, triangles, kind, canonical, masks = add_hair(canvas, look, head, pose, rng)
    upright = np.concatenate([UPRIGHT, pose[3:]])

    def to_px(points: np.ndarray) -> np.ndarray:
        return (model_to_image(points, upright, size_px) + 0.5) * SUPERSAMPLE - 0.5

    triangle, bary, depth = rasterize(to_px(vertices), triangles, side, side)
    row, column = np.nonzero(triangle >= 0)
    hit, weights = triangle[row, column], bary[row, column]
    normals = vertex_normals(vertices, triangles)
    values = np.concatenate([normals, canonical, np.stack(list(masks.values()), 1), vertices / 1e5], 1)
    values = interpolate(values, triangles, hit, weights)
    normal, points, place = values[:, :3], values[:, 3:6], values[:, -3:]
    mask = dict(zip(masks, values[:, 6:-3].T, strict=True))
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    back = (normal[:, 2] < 0) & (kind[hit] > 0)  # hair is seen from both sides
    normal[back] *= -1

    color, gloss, soft = surface(canvas, look, points, mask, kind[hit], part_of(canvas, kind, hit), rng)
    light = draw_light(rng)
    lit = shadow(vertices, triangles, place * 1e5, normal, light["direction"])
    blurred = np.ones((side, side), np.float32)
    blurred[row, column] = lit
    blurred = cv2.GaussianBlur(blurred, (0, 0), rng.uniform(0.004, 0.012) * side)[row, column]
    color = shade(color, gloss, soft, normal, mask["occlusion"], blurred, light)

    image = draw_background(rng, size_px) * np.float32(0.6 * light["sky"].mean() + 0.5 * light["key"].mean())
    image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    image[row, column] = color
    if look.glasses != "none":
        rotation = rotation_from_angles(pose[:3])
        rims, bars = glasses_lines(model_head[canvas.model.landmark_idx], rng)
        draw_glasses(image, depth, rims, bars, lambda line: to_px(line @ rotation.T), look.glasses == "dark", rng)
    image = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return camera_effects(image, rng)


def place_head(canvas: Canvas, shape, expression, pose, rng) -> tuple[np.ndarray, np.ndarray]:
    """Refined vertices turned by the pose, um, the torso following only partly (m, 3); and the face unturned (V, 3)."""
    base = canvas.model.vertices(shape, expression)
    refined = canvas.refined @ base
    rotation = rotation_from_angles(pose[:3])
    torso = rotation_from_angles(pose[:3] * [0.35, rng.uniform(0.3, 1), 0.3])
    head = refined @ rotation.T
    body = (refined - canvas.pivot_um) @ torso.T + canvas.pivot_um @ rotation.T
    return body + (head - body) * canvas.neck[:, None], canvas.model.face_map @ base


def add_hair(canvas: Canvas, look: Appearance, head: np.ndarray, pose: np.ndarray, rng: np.random.Generator):
    """Head, cap and curtain as one mesh: vertices, triangles, kind (0 head, 1 hair), canonical places, masks."""
    cap, cap_triangles = hair_cap(canvas, look, head, rng)
    rotation = rotation_from_angles(pose[:3])
    curtain, curtain_triangles = hair_curtain(look, head @ rotation, canvas, rng)
    curtain = curtain @ rotation.T
    vertices = np.concatenate([head, cap, curtain])
    triangles = np.concatenate([canvas.triangles, cap_triangles + len(head), curtain_triangles + len(head) + len(cap)])
    kind = np.repeat([0, 1], [len(canvas.triangles), len(cap_triangles) + len(curtain_triangles)])
    extra = np.concatenate([cap, curtain]) @ rotation / 1e5  # strands follow the hair's own place
    masks = {**canvas.masks, "hairline": canvas.hairline}
    masks = {
        name: np.concatenate([mask, np.full(len(extra), 0.8 if name == "occlusion" else 0, np.float32)])
        for name, mask in masks.items()
    }
    return np.float32(vertices), triangles, kind, np.concatenate([canvas.canonical, extra]), masks


def part_of(canvas: Canvas, kind: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Part of each hit triangle, -1 for hair."""
    return np.where(kind[hit] == 0, canvas.part[np.minimum(hit, len(canvas.part) - 1)], -1)


def surface(canvas, look, points, mask, kind, part, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reflectance (P, 3), strength of the highlight (P,), and how far light wraps round by scattering (P, 3)."""
    skin, hair = part == PARTS.index("skin"), kind == 1
    eyes = (part == PARTS.index("left_eye")) | (part == PARTS.index("right_eye"))
    color, gloss = np.zeros((len(points), 3), np.float32), np.full(len(points), 0.02, np.float32)
    soft = np.full((len(points), 3), 0.04, np.float32)
    inner = ~(skin | hair | eyes)
    color[skin] = skin_color(canvas, look, points[skin], {name: m[skin] for name, m in mask.items()}, rng)
    color[inner] = inner_color(part[inner], rng)
    if eyes.any():
        color[eyes] = eye_color(canvas, look, points[eyes], part[eyes] == PARTS.index("left_eye"), rng)
    angle, height = azimuth_deg(points[hair]), points[hair, 1]
    strands = sample_noise(canvas, 1, angle * 12, height * 20) + 0.6 * sample_noise(canvas, 0, angle * 25, height * 30)
    color[hair] = look.hair_color * np.exp(0.28 * strands)[:, None]
    oily = 0.4 + 0.6 * np.exp(-((points[:, 0] / 0.3) ** 2)) + 0.6 * mask["lips"]
    gloss[skin] = (rng.uniform(0.02, 0.2) * oily)[skin]
    gloss[eyes], gloss[hair] = 1.5, 0.06
    soft[skin] = [0.32, 0.14, 0.09]
    # Clothes begin below a neckline on the skin.
    neckline = (
        6.05 + 0.06 * rng.normal() - rng.uniform(0, 0.35) * np.cos(np.radians(np.clip(azimuth_deg(points), -90, 90)))
    )
    cloth = np.float32(smooth_step(0.03, 0, points[:, 1] - neckline) * skin)
    stripes = 1 + 0.35 * (rng.random() < 0.25) * np.sign(np.sin(points[:, 1] * rng.uniform(20, 70)))
    color = blend(color, rng.uniform(0.02, 0.75, 3) * rng.uniform(0.3, 1) * stripes[:, None], cloth)
    return color, gloss * (1 - cloth), soft * (1 - cloth)[:, None] + 0.04 * cloth[:, None]


def draw_light(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A key light with a direction (x right, y up, z to the viewer), and light from the sky and from the ground."""
    turn, lift = rng.normal(0, 0.8), rng.normal(0.45, 0.4)
    sky = rng.uniform(0.15, 0.6) * rng.uniform(0.85, 1.15, 3)
    light = {
        "direction": [np.sin(turn) * np.cos(lift), np.sin(lift), np.cos(turn) * np.cos(lift)],
        "key": rng.uniform(0.4, 1.9) * np.array([1, rng.uniform(0.88, 1), rng.uniform(0.72, 1)]),
        "sky": sky,
        "ground": sky * rng.uniform(0.25, 0.8) * [1.05, 1, 0.9],
    }
    return {name: np.float32(value) for name, value in light.items()}


def shadow(
    vertices: np.ndarray, triangles: np.ndarray, place: np.ndarray, normal: np.ndarray, direction: np.ndarray
) -> np.ndarray:
    """1 where the key light reaches a point, 0 where something stands before it (P,), by a depth map from the light."""
    side = np.cross([0, 1, 0.01], direction)
    side /= np.linalg.norm(side)
    frame = np.stack([side, np.cross(direction, side), direction])
    seen = vertices @ frame.T
    low, scale = seen.min(0), (SHADOW_MAP_PX - 1) / np.ptp(seen[:, :2], 0).max()
    depth = rasterize((seen - low) * scale, triangles, SHADOW_MAP_PX, SHADOW_MAP_PX)[2]
    at = ((place + normal * 1.2e3) @ np.float32(frame.T) - np.float32(low)) * np.float32(scale)
    column, row = np.clip(at[:, :2].round().astype(int), 0, SHADOW_MAP_PX - 1).T
    return (at[:, 2] + 3.5e3 * scale > depth[row, column]).astype(np.float32)


def shade(color, gloss, soft, normal, occlusion, lit, light) -> np.ndarray:
    """Reflected light (P, 3), linear RGB."""
    up = np.clip(0.5 + 0.5 * (0.8 * normal[:, 1] + 0.25 * normal[:, 2]), 0, 1)[:, None]
    ambient = (light["ground"] + (light["sky"] - light["ground"]) * up) * (occlusion**1.2)[:, None]
    cosine = (normal @ light["direction"])[:, None]
    diffuse = np.clip((cosine + soft) / (1 + soft), 0, 1) * lit[:, None] * (0.35 + 0.65 * occlusion[:, None])
    halfway = light["direction"] + [0, 0, 1]
    halfway = np.float32(halfway / np.linalg.norm(halfway))
    shine = np.clip(normal @ halfway, 0, 1)
    highlight = gloss * (0.5 * shine**18 + 0.6 * shine**70) * lit
    rim = 0.05 * (1 - np.clip(normal[:, 2], 0, 1)) ** 3
    return color * (ambient + light["key"] * diffuse) + light["key"] * highlight[:, None] + light["sky"] * rim[:, None]


def camera_effects(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exposure, white balance, blur, gamma, contrast, noise: linear RGB -> uint8."""
    height = image.shape[0]
    image = np.clip(image * rng.uniform(0.7, 1.35) * rng.uniform(0.92, 1.08, 3), 0, None).astype(np.float32)
    image = 1.05 * image / (1 + 0.12 * image)
    image = cv2.GaussianBlur(image, (0, 0), rng.choice([0.0008, 0.0016, 0.003, 0.006]) * height + 0.1)
    image = np.clip(image, 0, 1) ** (1 / 2.2)
    image = 0.5 + (image - 0.5) * rng.uniform(0.85, 1.15)
    image += rng.standard_normal(image.shape, np.float32) * rng.uniform(0.002, 0.014)
    if rng.random() < 0.08:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
