"""The pictures of the README: a real photo's mesh, faces such as its network learned from, and a face that moves.

python -m benchmarks.readme_images [FOLDER]       writes overview.png, faces.jpg and expressions.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from p2m_core.config.paths import project_root
from p2m_core.face_mesh import to_world
from p2m_core.geometry.camera import rotation_from_angles
from p2m_synth.person import Overrides
from p2m_synth.writer import Recipe, draw_sample, take_picture
from p2m_workbench.drawing.mesh_images import (
    caption_row,
    contact_sheet,
    draw_turned,
    fit_square,
    save_picture,
    static_picture,
)
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.photos.predict import predict
from p2m_workbench.photos.read import read_photo, sample_photo
from p2m_workbench.photos.rig import Rig, rig
from p2m_workbench.photos.texture import face_colors

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
}  # fmt: skip
PEOPLE, SHEET_PX = (3, 14), 200  # of FACES' recipe at 450 px


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


def strengths(moving: Rig, wanted: dict[str, float]) -> np.ndarray:
    """The strength of each unit (52,)."""
    return np.array([max(wanted.get(name, 0), wanted.get(name.removesuffix("Left").removesuffix("Right"), 0))
                     for name in moving.names])  # fmt: skip


def expression_sheet() -> np.ndarray:
    """Two synthetic people: the photo, and twelve expressions of the predicted mesh in its colours (H, W, 3)."""
    rows = []
    for index in PEOPLE:
        recipe, frontal = Recipe(450, FACES.seed), Overrides(yaw_deg=8.0)
        photo = take_picture(draw_sample(recipe, index, frontal), recipe, frontal).image
        mesh = predict(photo)[0]
        moving, colors = rig(mesh), face_colors(photo, mesh)
        rotation = rotation_from_angles(np.radians(mesh.pose[:3]))
        pictures = [fit_square(photo, SHEET_PX)[0]]
        for wanted in EXPRESSIONS.values():
            upright = (moving.moved(strengths(moving, wanted)) - moving.neutral.mean(0)) @ rotation
            pictures.append(draw_turned(to_world(upright), mesh.faces, 10, SHEET_PX, colors))  # y down again
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
    save_picture(folder / "expressions.jpg", expression_sheet())
