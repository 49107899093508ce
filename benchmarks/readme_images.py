"""The pictures of the README: a real photo's mesh, and faces such as its network learned from.

python -m benchmarks.readme_images [FOLDER]       writes overview.png and faces.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from p2m_core.config.paths import project_root
from p2m_synth.writer import Recipe, draw_sample, take_picture
from p2m_workbench.drawing.mesh_images import contact_sheet, save_picture, static_picture
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.photos.predict import predict
from p2m_workbench.photos.read import read_photo, sample_photo

FACES = Recipe(256, seed=48)


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


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else project_root()
    save_picture(folder / "overview.png", overview())
    save_picture(folder / "faces.jpg", synthetic_faces(48))
