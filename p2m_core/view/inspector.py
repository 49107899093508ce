"""The inspector: specimens one after another in 3D, with levels, wireframe, ground truth and error colours."""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets as widgets

from p2m_core.facemesh import Specimen
from p2m_core.raster import ERROR_RAMP, error_scale
from p2m_core.view.scene import Look, SpecimenScene

_SOFT = "color: var(--jp-ui-font-color2, #667); font-size: 12px; line-height: 1.5"


def color_bar(maximum: float) -> str:
    """HTML of the error scale with numbers, from 0 to `maximum` percent of the face size."""
    ramp = ", ".join(f"rgb{tuple(rgb)}" for rgb in ERROR_RAMP)
    numbers = "".join(f"<span>{text}</span>" for text in ("0", f"{maximum / 2:g} %", f"≥ {maximum:g} %"))
    return (
        f'<div style="height: 12px; border-radius: 6px; background: linear-gradient(90deg, {ramp})"></div>'
        f'<div style="display: flex; justify-content: space-between; {_SOFT}">{numbers}</div>'
    )


class Inspector(widgets.HBox):
    """The widget that `inspect` returns. Its controls are attributes: sample, level, wireframe, landmarks,
    photo, truth, error, reset; `scene` is the `SpecimenScene` that they drive."""

    def __init__(self, specimens: Sequence[Specimen], width_px: int = 620, height_px: int = 560):
        if not specimens:
            raise ValueError("inspect needs at least one specimen")
        self.specimens = list(specimens)
        self.scene = SpecimenScene(self.specimens[0], width_px, height_px)
        wide = widgets.Layout(width="100%")
        names = [(f"{k + 1}. {specimen.name}", k) for k, specimen in enumerate(self.specimens)]
        self.sample = widgets.Dropdown(options=names, value=0, layout=wide)
        self.level = widgets.IntSlider(
            min=1, max=1, description="Level", layout=wide, style={"description_width": "40px"}
        )
        self.level.add_class("p2m-level")
        self.photo = self._switch("Photo", True)
        self.wireframe = self._switch("Wireframe")
        self.landmarks = self._switch("Landmarks")
        self.truth = self._switch("Ground truth (teal)")
        self.error = self._switch("Error colours")
        self.reset = widgets.Button(description="Reset view", icon="undo", layout=widgets.Layout(width="auto"))
        self._counts, self._legend = widgets.HTML(), widgets.HTML()
        panel = widgets.VBox(
            [
                self.sample, self.level, self._counts, self.photo, self.wireframe, self.landmarks, self.truth,
                self.error, self._legend, self.reset,
            ],
            layout=widgets.Layout(width="270px", flex="0 0 auto", padding="4px 16px", overflow="hidden"),
        )  # fmt: skip
        self._quiet = False
        self._enter_sample()
        for control in (self.level, self.photo, self.wireframe, self.landmarks, self.truth, self.error):
            control.observe(self._show, "value")
        self.sample.observe(self._enter_sample, "value")
        self.reset.on_click(lambda _: self.scene.reset())
        super().__init__([self.scene.renderer, panel], layout=widgets.Layout(flex_flow="row wrap"))
        self.add_class("p2m-inspector")

    @staticmethod
    def _switch(title: str, value: bool = False) -> widgets.Checkbox:
        return widgets.Checkbox(
            value, description=title, indent=False, layout=widgets.Layout(width="100%", height="26px")
        )

    @property
    def specimen(self) -> Specimen:
        """The one on show."""
        return self.specimens[self.sample.value]

    def _enter_sample(self, _=None) -> None:
        count = len(self.specimen.mesh.levels)
        was_finest = self.level.value == self.level.max
        self._quiet = True  # one redraw for the new sample, not one per control
        try:
            self.level.max = count
            self.level.value = count if was_finest else min(self.level.value, count)
            for switch in (self.truth, self.error):
                switch.disabled = self.specimen.truth_px is None
        finally:
            self._quiet = False
        self._show()

    def _show(self, _=None) -> None:
        if self._quiet:
            return
        look = Look(
            level=self.level.value - 1, wireframe=self.wireframe.value, landmarks=self.landmarks.value,
            photo=self.photo.value, truth=self.truth.value, error=self.error.value,
        )  # fmt: skip
        self.scene.show(self.specimen, look)
        mesh = self.specimen.mesh
        vertices, faces = len(mesh.levels[look.level]), len(mesh.level_faces[look.level])
        self._counts.value = f'<div style="{_SOFT}">{vertices} vertices, {faces} faces</div>'
        self._legend.value = self._legend_html(look)

    def _legend_html(self, look: Look) -> str:
        if self.specimen.truth_px is None:
            return f'<div style="{_SOFT}">{html.escape(self.specimen.name)} has no ground truth</div>'
        error = self.specimen.error_percent(look.level)
        text = f'<div style="{_SOFT}">mean {error.mean():.2f} %, worst {error.max():.2f} %<br>of the face size</div>'
        bar = color_bar(error_scale(self.specimen.error_percent())) if look.error else ""
        return f'<div style="width: 230px">{bar}{text}</div>'


def inspect(specimens: Sequence[Specimen], width_px: int = 620, height_px: int = 560) -> Inspector:
    """A widget to look at predictions: sample menu, level slider, wireframe, landmarks, photo, and, where there
    is a ground truth, its surface and the error colours with their scale.

    Args:    specimens: at least one; they share one live 3D view.   width_px, height_px: of that view.
    Raises:  ValueError if there is no specimen.
    """
    return Inspector(specimens, width_px, height_px)
