"""The pictures of the README: a real photo's mesh, faces such as its network learned from, textured faces from three
sides, and a face that moves.

python -m benchmarks.readme_images [FOLDER]       writes overview.png, faces.jpg, textured.jpg and expressions.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from p2m_core.config.paths import project_root
from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.geometry.rasterizer import interpolate, rasterize
from p2m_core.geometry.template import GROUPS
from p2m_synth.person import Overrides
from p2m_synth.writer import Recipe, draw_sample, take_picture
from p2m_workbench.drawing.mesh_images import (
    MOUTH,
    PAPER,
    caption_row,
    contact_sheet,
    draw_turned,
    fit_square,
    save_picture,
    static_picture,
    turn,
)
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.photos.eyeballs import eye_textures, eyeballs
from p2m_workbench.photos.predict import predict
from p2m_workbench.photos.read import read_photo, sample_photo
from p2m_workbench.photos.rig import Rig, rig
from p2m_workbench.photos.texture import EYES, face_colors, face_texture, photo_colors

FACES = Recipe(256, seed=48)
# Of the sheet: the strength of units, without Left or Right for both.
EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {}, "smile": {"mouthSmile": 0.8, "cheekSquint": 0.6}, "open": {"jawOpen": 0.6},
    "kiss": {"mouthPucker": 1},
    "surprise": {"browInnerUp": 1, "browOuterUp": 0.8, "eyeWide": 0.8, "jawOpen": 0.35},
    "anger": {"browDown": 1, "noseSneer": 0.7, "mouthPress": 0.6},
    "sadness": {"browInnerUp": 1, "mouthFrown": 1, "mouthShrugLower": 0.5}, "blink": {"eyeBlink": 1},
    "wink": {"eyeBlinkLeft": 1, "mouthSmileLeft": 0.6, "cheekSquintLeft": 0.7}, "funnel": {"mouthFunnel": 1},
    "aside": {"jawLeft": 0.8, "mouthLeft": 0.8}, "puff": {"cheekPuff": 1},
    "glance": {"eyeLookInRight": 1, "eyeLookOutLeft": 1, "browInnerUp": 0.4},
}  # fmt: skip
PEOPLE, SHEET_PX = (14, 34), 200  # of FACES' recipe at 450 px
TURNED, SIDES_DEG, SIDES_PX = (14, -40.0), (-55, 0, 55), 300  # a person and the yaw of its picture; yaws of its mesh


def synthetic_faces(count: int, recipe: Recipe = FACES) -> np.ndarray:
    """The first faces of a synthetic set, eight in a row (H, W, 3)."""
    return contact_sheet([take_picture(draw_sample(recipe, index), recipe).image for index in range(count)])


def overview() -> np.ndarray:
    """A photo's mesh, and a row of synthetic faces (H, W, 3)."""
    photo = read_photo(sample_photo())
    above = static_picture(FacePrediction("Grace Hopper", predict(photo)[0], photo))
    below = synthetic_faces(8)
    height = round(below.shape[0] * above.shape[1] / below.shape[1])
    return np.concatenate([above, cv2.resize(below, (above.shape[1], height), interpolation=cv2.INTER_AREA)])


def upright(mesh: FaceMesh, world: np.ndarray) -> np.ndarray:
    """Points over a mesh's photo, y up, turned so that its head looks ahead; y down again (N, 3)."""
    return to_world((world - world.mean(0)) @ rotation_from_angles(np.radians(mesh.pose[:3])))


def draw_textured(mesh: FaceMesh, picture: np.ndarray, uv: np.ndarray, yaw_deg: float, size_px: int) -> np.ndarray:
    """A mesh turned from looking ahead, with its texture and no light but the photo's (size_px, size_px, 3)."""
    points, side = turn(upright(mesh, to_world(mesh.vertices_px)), yaw_deg), 2 * size_px
    points *= 0.86 * side / np.ptp(mesh.vertices_px, axis=0).max()
    points[:, :2] += side / 2 - (points.min(0) + points.max(0))[:2] / 2
    triangle, bary, _ = rasterize(points, mesh.faces, side, side)
    hit, drawn = triangle >= 0, np.full((side, side, 3), PAPER, np.uint8)
    places = (uv * [1, -1] + [0, 1]) * len(picture) - 0.5
    drawn[hit] = photo_colors(picture, interpolate(places, mesh.faces, triangle[hit], bary[hit]))
    drawn[hit & (mesh.groups[triangle] == GROUPS.index("mouth"))] = MOUTH
    return cv2.resize(drawn, (size_px, size_px), interpolation=cv2.INTER_AREA)


def textured() -> np.ndarray:
    """A real photo and a synthetic one, the head turned away in it: the photo, and its mesh from three sides
    (H, W, 3)."""
    index, yaw = TURNED
    recipe, away = Recipe(450, FACES.seed), Overrides(yaw_deg=yaw)
    rows = []
    for photo in (read_photo(sample_photo()), take_picture(draw_sample(recipe, index, away), recipe, away).image):
        mesh = predict(photo)[0]
        picture, uv = face_texture(photo, mesh, 1024)
        low, high = mesh.vertices_px[:, :2].min(0), mesh.vertices_px[:, :2].max(0)
        reach, (x, y) = int(0.85 * (high - low).max()), ((low + high) / 2).astype(int)
        part = photo[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach]
        pictures = [fit_square(part, SIDES_PX)[0]]
        pictures += [draw_textured(mesh, picture, uv, side, SIDES_PX) for side in SIDES_DEG]
        rows.append(np.concatenate(pictures, 1))
    return np.concatenate(rows)


def strengths(moving: Rig, wanted: dict[str, float]) -> np.ndarray:
    """The strength of each unit (52,)."""
    return np.array([max(wanted.get(name, 0), wanted.get(name.removesuffix("Left").removesuffix("Right"), 0))
                     for name in moving.names])  # fmt: skip


def expression_sheet() -> np.ndarray:
    """Two synthetic people: the photo, and thirteen expressions of the predicted mesh in its colours (H, W, 3)."""
    rows = []
    for index in PEOPLE:
        recipe, frontal = Recipe(450, FACES.seed), Overrides(yaw_deg=8.0)
        photo = take_picture(draw_sample(recipe, index, frontal), recipe, frontal).image
        mesh = predict(photo)[0]
        moving = rig(mesh)
        eyes = eyeballs(mesh, moving)
        colors, faces = [face_colors(photo, mesh)], [mesh.faces[~np.isin(mesh.groups, EYES)]]
        for eye, picture in zip(eyes, eye_textures(photo, mesh, eyes, moving.strength), strict=True):
            faces.append(eye.faces + sum(map(len, colors)))
            colors.append(photo_colors(picture, (eye.uv * [1, -1] + [0, 1]) * len(picture) - 0.5))
        pictures = [fit_square(photo, SHEET_PX)[0]]
        for wanted in EXPRESSIONS.values():
            strength = strengths(moving, wanted)
            moved = [moving.moved(strength), *(eye.neutral + np.tensordot(strength, eye.ways, 1) for eye in eyes)]
            whole = upright(mesh, np.concatenate(moved))
            pictures.append(draw_turned(whole, np.concatenate(faces), 10, SHEET_PX, np.concatenate(colors)))
        captions = ["photo", *EXPRESSIONS]
        half = (len(pictures) + 1) // 2
        rows += [
            caption_row(pictures[:half], captions[:half], None),
            caption_row(pictures[half:], captions[half:], None),
        ]
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(r, ((0, 6), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows])


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else project_root()
    save_picture(folder / "overview.png", overview())
    save_picture(folder / "faces.jpg", synthetic_faces(48))
    save_picture(folder / "textured.jpg", textured())
    save_picture(folder / "expressions.jpg", expression_sheet())
