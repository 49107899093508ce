"""The explorer of the generator: one synthetic face after another, with overrides of what the recipe draws."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import replace

import ipywidgets as widgets
import numpy as np

from p2m_core.config.settings import SynthConfig
from p2m_synth.hair.style import CUTS
from p2m_synth.head.expression import PRESETS
from p2m_synth.head.head_mesh import load_head_mesh
from p2m_synth.person import Overrides
from p2m_synth.render.light import PLACES
from p2m_synth.render.renderer import FACE_HIDDEN, FACE_SEEN
from p2m_synth.render.shaded_mesh import draw_mesh
from p2m_synth.writer import SHARD_SIZE, Recipe, attributes, draw_sample, take_picture
from p2m_workbench.drawing.mesh_images import draw_landmarks, encode_photo
from p2m_workbench.viewing.controls import checkbox, labelled

AS_DRAWN = "as drawn"
SEEN, HIDDEN = (64, 224, 180), (240, 90, 90)  # RGB, of landmarks and mask
UNSHOWN = ("name", "seed", "index", "hidden")  # of the attributes: the controls say them, or the landmarks do


class GeneratorExplorer(widgets.HBox):
    """Controls beside a picture. Attributes: index, seed, yaw, turn, expression, hair, light, landmarks, mesh, mask.

    Until the yaw slider is moved, it shows the yaw that was drawn; then `turn` is on and the slider's counts.
    """

    def __init__(self, synth: SynthConfig, size_px: int = 400):
        self.recipe = replace(Recipe.of(synth), size_px=size_px)

        def slider(title: str, value: int, low: int, high: int) -> widgets.IntSlider:
            return labelled(widgets.IntSlider, title, 75, 290, value=value, min=low, max=high)

        def menu(title: str, names: Iterable[str]) -> widgets.Dropdown:
            # "", not None: ipywidgets takes None for no choice at all, and the menu goes blank.
            options = [(AS_DRAWN, ""), *((name.replace("_", " "), name) for name in names)]
            return labelled(widgets.Dropdown, title, 75, 290, options=options)

        def switch(title: str) -> widgets.Checkbox:
            return checkbox(title, width="auto", height="26px", margin="0 0 0 83px")

        self.index = slider("Face", 0, 0, SHARD_SIZE - 1)
        self.seed = slider("Seed", synth.seed, 0, max(99, synth.seed))
        self.yaw = slider("Yaw, deg", 0, -90, 90).add_class("p2m-yaw")
        self.turn = switch("Turn the head to this yaw")
        self.expression, self.hair = menu("Expression", PRESETS), menu("Hair", CUTS)
        self.light = menu("Light", PLACES)
        self.landmarks, self.mesh = switch("Landmarks (red: hidden)"), switch("True mesh")
        self.mask = switch("Mask of the face (red: hidden)")
        square = {"width": f"{size_px}px", "height": f"{size_px}px", "flex": "0 0 auto"}
        self.picture = widgets.Image(format="jpeg", layout=square).add_class("p2m-face")
        self.facts = widgets.HTML()
        drawn = (self.index, self.seed, self.yaw, self.turn, self.expression, self.hair, self.light)
        shown = (self.landmarks, self.mesh, self.mask)
        for control in drawn:
            control.observe(self._draw, "value")
        for control in shown:
            control.observe(self._show, "value")
        controls = widgets.VBox([*drawn, *shown], layout={"flex": "0 0 auto"})
        super().__init__([self.picture, controls, self.facts], layout={"flex_flow": "row wrap"})
        self._updating = False
        self._draw()

    def _set(self, control: widgets.Widget, value: object) -> None:
        """Set a control without drawing a new picture."""
        self._updating = True
        try:
            control.value = value
        finally:
            self._updating = False

    def _draw(self, change: dict | None = None) -> None:
        if self._updating:
            return
        if change and change["owner"] is self.yaw:
            self._set(self.turn, True)
        recipe, index = replace(self.recipe, seed=self.seed.value), self.index.value
        yaw_deg = float(self.yaw.value) if self.turn.value else None
        overrides = Overrides(self.expression.value or None, self.hair.value or None, yaw_deg, self.light.value or None)
        self.drawn = draw_sample(recipe, index, overrides)
        self.taken = take_picture(self.drawn, recipe, overrides)
        row = attributes(recipe, index, self.drawn, self.taken)
        if yaw_deg is None:
            self._set(self.yaw, round(row["yaw_deg"]))
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
        self.picture.value = encode_photo(picture)


def facts_table(row: dict[str, object]) -> str:
    """HTML table of the attributes that are present: names and values of a row."""
    there = {name: value for name, value in row.items() if value not in (None, "", "0", "none", 0)}
    cells = "".join(
        f"<tr><td>{name}</td><td style='padding-left: 10px'>{html.escape(str(value))}</td></tr>"
        for name, value in there.items()
    )
    return f"<table style='font-size: 11px; line-height: 1.35; white-space: nowrap'>{cells}</table>"


def explore_generator(synth: SynthConfig) -> GeneratorExplorer:
    """An explorer of the synthetic faces that a config's `synth` section makes."""
    return GeneratorExplorer(synth)
