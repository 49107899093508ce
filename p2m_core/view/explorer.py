"""The explorer of a store: one sample after another, with what lies on it and what augmentation does to it."""

from __future__ import annotations

import cv2
import ipywidgets as widgets
import numpy as np

from p2m_core.config import Config
from p2m_core.data.store import Store
from p2m_core.figures import augmented
from p2m_core.raster import draw_landmarks, draw_mesh, encode_picture

ZOOM = 2


class Explorer(widgets.VBox):
    """Sliders and switches over a picture. Controls are attributes: sample, landmarks, mesh, rotate, scale, seed."""

    def __init__(self, store: Store, config: Config):
        self.store, self.config = store, config
        wide = {"style": {"description_width": "70px"}, "continuous_update": False}
        self.sample = widgets.IntSlider(0, 0, len(store) - 1, description="Sample", **wide)
        self.sample.add_class("p2m-sample")
        self.rotate = widgets.FloatSlider(
            config.augment.rotate_deg, min=0, max=60, step=1, description="Rotation", **wide
        )
        self.scale = widgets.FloatSlider(config.augment.scale, min=0, max=0.4, step=0.01, description="Scale", **wide)
        self.seed = widgets.IntSlider(0, 0, 99, description="Draw", **wide)
        self.landmarks = widgets.Checkbox(True, description="Landmarks")
        self.mesh = widgets.Checkbox(False, description="True mesh")
        self.facts = widgets.HTML()
        self.crop, self.augmented = widgets.Image(format="png"), widgets.Image(format="png")
        controls = (self.sample, self.landmarks, self.mesh, self.rotate, self.scale, self.seed)
        for control in controls:
            control.observe(self._show, "value")
        super().__init__([widgets.HBox([self.crop, widgets.VBox([*controls, self.facts])]), self.augmented])
        self._show()

    def _show(self, _: object = None) -> None:
        store, index = self.store, self.sample.value
        picture = cv2.resize(store.crop(index), None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)

        def zoomed(points_px: np.ndarray) -> np.ndarray:
            return (store.to_crop(points_px, index) + [0.5, 0.5, 0]) * ZOOM - [0.5, 0.5, 0]

        if self.mesh.value:
            picture = draw_mesh(picture, zoomed(store.truth_px(index)), store.template.faces[-1], alpha=0.8)
        if self.landmarks.value:
            picture = draw_landmarks(picture, zoomed(store.table["landmarks_px"][index]))
        self.crop.value = encode_picture(picture)
        row = {name: store.table[name][index] for name in ("name", "residual_percent")}
        angles = np.degrees(store.table["file_pose"][index, :3]).round(1)
        self.facts.value = (
            f"<b>{row['name']}</b><br>pitch, yaw, roll: {', '.join(map(str, angles))} deg<br>"
            f"landmark residual: {row['residual_percent']:.2f} %"
        )
        augment = self.config.augment.model_copy(update={"rotate_deg": self.rotate.value, "scale": self.scale.value})
        model = self.config.model
        sheet = augmented(store, index, augment, model.input_px, model.margin, seed=self.seed.value)
        self.augmented.value = encode_picture(sheet)


def explore(store: Store, config: Config) -> Explorer:
    """An explorer of a store, with the augmentation of a config."""
    return Explorer(store, config)
