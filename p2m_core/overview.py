"""The picture of the README: a real photo's mesh, and faces such as its network learned from.

python -m p2m_core.overview [overview.png]
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from p2m_core.config import PROJECT_ROOT
from p2m_core.data.aflw2000 import read_image
from p2m_core.export import save_picture
from p2m_core.facemesh import Specimen
from p2m_core.figures import contact_sheet
from p2m_core.predict import predict, sample_photo
from p2m_core.raster import static_picture
from p2m_core.synthetic.canvas import load_canvas
from p2m_core.synthetic.renderer import render
from p2m_core.synthetic.writer import draw_sample

FACES, FACE_PX = 16, 160


def overview() -> np.ndarray:
    """The picture (H, W, 3)."""
    photo = read_image(sample_photo())
    above = static_picture(Specimen("Grace Hopper", predict(photo)[0], photo))
    faces = []
    for index in range(FACES):
        draw = draw_sample(3, index, FACE_PX, "aflw2000")
        faces.append(render(load_canvas(), draw.appearance, draw.shape, draw.expression, draw.pose, FACE_PX, draw.rng))
    below = contact_sheet(faces, FACES // 2)
    height = round(below.shape[0] * above.shape[1] / below.shape[1])
    return np.concatenate([above, cv2.resize(below, (above.shape[1], height), interpolation=cv2.INTER_AREA)])


if __name__ == "__main__":
    save_picture(sys.argv[1] if len(sys.argv) > 1 else Path(PROJECT_ROOT) / "overview.png", overview())
