"""The explorer of the generator: one synthetic face after another, and what each wish does to it."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import replace

import ipywidgets as widgets
import numpy as np

from p2m_core.config.settings import SynthConfig
from p2m_core.geometry.rasterizer import draw_mesh
from p2m_synth.hair.style import CUTS
from p2m_synth.head.expression import PRESETS
from p2m_synth.head.head_mesh import load_head_mesh
from p2m_synth.person import Overrides
from p2m_synth.render.light import PLACES
from p2m_synth.render.renderer import FACE_HIDDEN, FACE_SEEN
from p2m_synth.writer import SHARD_SIZE, Recipe, attributes, draw_sample, take_picture
from p2m_workbench.drawing.mesh_images import draw_landmarks, encode_picture

AS_DRAWN = "as drawn"
SEEN, HIDDEN = (64, 224, 180), (240, 90, 90)  # RGB, of landmarks and mask
UNSHOWN = ("name", "seed", "index", "hidden")  # of the attributes: the controls say them, or the landmarks do


class GeneratorExplorer(widgets.HBox):
    """Controls beside a picture. Attributes: index, seed, yaw, turn, expression, hair, light, landmarks, mesh, mask.

    Until the yaw slider is moved, it shows the yaw that was drawn; then `turn` is on and the slider's counts.
    """

    def __init__(self, synth: SynthConfig, size_px: int = 400):
        self.recipe = replace(Recipe.of(synth), size_px=size_px)
        wide = {"style": {"description_width": "75px"}, "layout": widgets.Layout(width="290px")}
        slider = {**wide, "continuous_update": False}
        self.index = widgets.IntSlider(0, 0, SHARD_SIZE - 1, description="Face", **slider)
        self.seed = widgets.IntSlider(synth.seed, 0, max(99, synth.seed), description="Seed", **slider)
        self.yaw = widgets.IntSlider(0, -90, 90, description="Yaw, deg", **slider)
        self.yaw.add_class("p2m-yaw")
        self.turn = self._switch("Turn the head to this yaw")
        self.expression = self._wish("Expression", PRESETS, wide)
        self.hair = self._wish("Hair", CUTS, wide)
        self.light = self._wish("Light", PLACES, wide)
        self.landmarks = self._switch("Landmarks (red: hidden)")
        self.mesh = self._switch("True mesh")
        self.mask = self._switch("Mask of the face (red: hidden)")
        square = widgets.Layout(width=f"{size_px}px", height=f"{size_px}px", flex="0 0 auto")
        self.picture, self.facts = widgets.Image(format="png", layout=square), widgets.HTML()
        self.picture.add_class("p2m-face")
        drawn = (self.index, self.seed, self.yaw, self.turn, self.expression, self.hair, self.light)
        shown = (self.landmarks, self.mesh, self.mask)
        for control in drawn:
            control.observe(self._draw, "value")
        for control in shown:
            control.observe(self._show, "value")
        controls = widgets.VBox([*drawn, *shown], layout=widgets.Layout(flex="0 0 auto"))
        super().__init__([self.picture, controls, self.facts], layout=widgets.Layout(flex_flow="row wrap"))
        self._quiet = False
        self._draw()

    @staticmethod
    def _switch(title: str) -> widgets.Checkbox:
        layout = widgets.Layout(width="auto", height="26px", margin="0 0 0 83px")
        return widgets.Checkbox(False, description=title, indent=False, layout=layout)

    @staticmethod
    def _wish(title: str, names: Iterable[str], wide: dict) -> widgets.Dropdown:
        # Not None: ipywidgets takes that for no choice at all, and the menu goes blank.
        options = [(AS_DRAWN, ""), *((name.replace("_", " "), name) for name in names)]
        return widgets.Dropdown(options=options, description=title, **wide)

    def _set_quietly(self, control: widgets.Widget, value: object) -> None:
        """Set a control without a new picture."""
        self._quiet = True
        try:
            control.value = value
        finally:
            self._quiet = False

    def _draw(self, change: dict | None = None) -> None:
        if self._quiet:
            return
        if change and change["owner"] is self.yaw:
            self._set_quietly(self.turn, True)
        recipe, index = replace(self.recipe, seed=self.seed.value), self.index.value
        yaw_deg = float(self.yaw.value) if self.turn.value else None
        overrides = Overrides(self.expression.value or None, self.hair.value or None, yaw_deg, self.light.value or None)
        self.drawn = draw_sample(recipe, index, overrides)
        self.taken = take_picture(self.drawn, recipe, overrides)
        row = attributes(recipe, index, self.drawn, self.taken)
        if yaw_deg is None:
            self._set_quietly(self.yaw, round(row["yaw_deg"]))
        row["hidden landmarks"] = int(self.taken.hidden.sum())
        self.facts.value = facts_table({name: value for name, value in row.items() if name not in UNSHOWN})
        self._show()

    def _show(self, _: object = None) -> None:
        picture, model = self.taken.image, load_head_mesh().model
        if self.mask.value:
            picture = picture.copy()
            for kind, color in ((FACE_SEEN, SEEN), (FACE_HIDDEN, HIDDEN)):
                at = self.taken.mask == kind
                picture[at] = (0.6 * picture[at] + 0.4 * np.array(color)).astype(np.uint8)
        if self.mesh.value:
            picture = draw_mesh(picture, self.drawn.face_px, model.face_triangles, alpha=0.8)
        if self.landmarks.value:
            points, hidden = self.drawn.face_px[model.landmark_idx], self.taken.hidden
            for which, color in ((~hidden, SEEN), (hidden, HIDDEN)):
                picture = draw_landmarks(picture, points[which], color, radius_px=0.006 * self.recipe.size_px)
        self.picture.value = encode_picture(picture)


def facts_table(row: dict[str, object]) -> str:
    """HTML of what is there: no nothings."""
    there = {name: value for name, value in row.items() if value not in (None, "", "0", "none", 0)}
    cells = "".join(
        f"<tr><td>{name}</td><td style='padding-left: 10px'>{html.escape(str(value))}</td></tr>"
        for name, value in there.items()
    )
    return f"<table style='font-size: 11px; line-height: 1.35; white-space: nowrap'>{cells}</table>"


def explore_generator(synth: SynthConfig) -> GeneratorExplorer:
    """An explorer of the synthetic faces that a config's `synth` section makes."""
    return GeneratorExplorer(synth)
