"""The inspector: predictions in 3D over their photos, one after another or two side by side."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import numpy as np

from p2m_core.face_mesh import FaceMesh
from p2m_workbench.drawing.html_page import PROTOCOL, sort_by_error
from p2m_workbench.drawing.mesh_images import ERROR_RAMP, error_scale
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.viewing.controls import (
    checkbox,
    choice,
    css,
    room_told,
    save_and_full_screen,
    scale_bar,
    thumbnail_strip,
)
from p2m_workbench.viewing.scene import STYLES, SURFACES, FaceScene, ViewOptions

UNIT = 100  # steps of the level slider from one level to the next
GLIDE_S, GLIDE_STEPS = 0.4, 12
GAP_PX = 4  # between two views
DRAG_S = 0.15  # a click this soon after the camera moved is the end of a drag
NOTHING, TRUTH = "nothing", "ground truth"


def color_bar(maximum: float, at: float | None = None) -> str:
    """HTML of the error scale with numbers, from 0 to `maximum` percent of the face size, and a mark at an error."""
    numbers = ("0", f"{maximum / 2:g} %", f"≥ {maximum:g} %")
    return scale_bar(ERROR_RAMP, numbers, f"{PROTOCOL}, % of face size", None if at is None else at / maximum)


def truth_of(prediction: FacePrediction) -> FacePrediction:
    """The ground truth of a prediction as one of its own, without landmarks."""
    mesh = prediction.mesh
    levels = tuple(prediction.truth_px[: len(level)] for level in mesh.levels)
    nothing = np.zeros((0, 3), np.float32)
    truth = FaceMesh(levels[-1], mesh.faces, levels, mesh.level_faces, nothing, mesh.box, groups=mesh.groups)
    return FacePrediction(TRUTH, truth, prediction.photo)


class Inspector(widgets.VBox):
    """The widget that `inspect` returns.

    Its controls are attributes: thumbnails (buttons), level, jumps (buttons), play, surface, style, photo, landmarks,
    truth, opacity, beside, turntable, front, side; `scene` and `other` are the scenes of the left and the right view.
    `stage` is the position of the level slider, `read_out` shows the last clicked vertex. The views become as wide as
    the page has room.
    """

    def __init__(self, checkpoints: Mapping[str, Sequence[FacePrediction]], width_px: int = 620, height_px: int = 560):
        self.size, self._height = (width_px, height_px), height_px
        self.checkpoints = {name: list(predictions) for name, predictions in checkpoints.items()}
        if not self.checkpoints or not all(self.checkpoints.values()):
            raise ValueError("inspect needs at least one prediction")
        self.first = next(iter(self.checkpoints))
        self.predictions = sort_by_error(self.checkpoints[self.first])
        self.index, self._vertex, self._camera_moved, self._updating = 0, None, 0.0, False
        self._truths: dict[int, FacePrediction] = {}
        self._scales: dict[int, float] = {}
        self.scene = FaceScene(self.prediction, width_px, height_px)
        self.other: FaceScene | None = None  # made when it is asked for: live views are few
        self._build_controls()
        self._captions = [widgets.HTML().add_class("p2m-caption") for _ in range(2)]
        self._views = widgets.HBox([self._view(self.scene, 0)]).add_class("p2m-views")
        body = widgets.HBox([self._views, self._panel()]).add_class("p2m-body")
        strip = widgets.HBox(self.thumbnails).add_class("p2m-strip")
        super().__init__([css(self._rules), room_told(self._resize), strip, body])
        self.add_class("p2m-inspector").add_class("p2m-wide")
        self.choose(0)
        self._connect()

    @property
    def prediction(self) -> FacePrediction:
        """The one on show in the left view."""
        return self.predictions[self.index]

    @property
    def compared(self) -> FacePrediction | None:
        """The one on show in the right view."""
        return self._candidates[self.beside.value or 0][1]

    @property
    def stage(self) -> float:
        """Position of the level slider: 0 the template, 1 the first level."""
        return self.level.value / UNIT

    # --- controls ---

    def _build_controls(self) -> None:
        captions = [self._mean_error(s) for s in self.predictions]
        self.thumbnails, self._rules = thumbnail_strip(self.predictions, captions)
        self.level = widgets.IntSlider(step=5, readout=False).add_class("p2m-level")
        self.play = widgets.Play(step=5, interval=40, show_repeat=True).add_class("p2m-play")
        widgets.jslink((self.play, "value"), (self.level, "value"))
        self._jumps = widgets.HBox().add_class("p2m-jumps")
        self.surface, self.style_ = choice(SURFACES), choice(STYLES)
        self.photo, self.landmarks = checkbox("Photo", True), checkbox("Landmarks")
        self.truth = checkbox("Ground truth over it")
        self.opacity = widgets.FloatSlider(1.0, min=0.1, max=1.0, step=0.05, readout=False, description="Opacity")
        self.opacity.add_class("p2m-opacity")
        self.beside = widgets.Dropdown(options=[(NOTHING, 0)], value=0, description="Beside")
        self._candidates: list[tuple[str, FacePrediction | None]] = [(NOTHING, None)]
        self.turntable = widgets.ToggleButton(False, description="Turntable")
        self.front, self.side = widgets.Button(description="Front"), widgets.Button(description="Side")
        self._title, self._legend, self.read_out = widgets.HTML(), widgets.HTML(), widgets.HTML()

    @staticmethod
    def _mean_error(prediction: FacePrediction) -> str:
        return "" if prediction.truth_px is None else f"{prediction.mean_error_percent():.2f} %"

    def _view(self, scene: FaceScene, number: int) -> widgets.VBox:
        return widgets.VBox([scene.renderer, self._captions[number]]).add_class("p2m-view")

    def _panel(self) -> widgets.VBox:
        switches = widgets.HBox([self.photo, self.landmarks]).add_class("p2m-pair")
        looks = widgets.HBox([self.front, self.side, self.turntable]).add_class("p2m-looks")
        levels = widgets.HBox([self.level, self.play]).add_class("p2m-slide")
        return widgets.VBox(
            [
                self._title, levels, self._jumps, self.surface, self.style_, self._legend, switches, self.truth,
                self.opacity, self.beside, looks, save_and_full_screen(), self.read_out,
            ]
        ).add_class("p2m-panel")  # fmt: skip

    def _connect(self) -> None:
        for control in (self.level, self.surface, self.style_, self.photo, self.landmarks, self.truth, self.opacity):
            control.observe(self._show, "value")
        for k, button in enumerate(self.thumbnails):
            button.on_click(lambda _, k=k: self.choose(k))
        self.beside.observe(self._show_beside, "value")
        self.turntable.observe(self._turn, "value")
        self.front.on_click(lambda _: self.scene.camera.view_from())
        self.side.on_click(lambda _: self.scene.camera.view_from(60, 8))
        self.scene.camera.camera.observe(self._camera_has_moved, "position")
        self._connect_clicks(self.scene)

    def _connect_clicks(self, scene: FaceScene) -> None:
        scene.picker.observe(lambda _: self._pick(scene), ["point", "faceIndex"])

    def _camera_has_moved(self, change: dict) -> None:
        if not np.allclose(change["old"], change["new"], atol=1e-3):  # a click moves it by a rounding error
            self._camera_moved = time.monotonic()

    # --- what is shown ---

    def choose(self, index: int) -> None:
        """Show a sample, counted from the one with the smallest error."""
        self.thumbnails[self.index].remove_class("p2m-on")
        self.index = index
        self.thumbnails[index].add_class("p2m-on")
        was_finest, stages = self.level.value == self.level.max, self.scene.stages_of(self.prediction)
        self._updating = True  # one new picture for the sample, not one for each control
        try:
            for control in (self.level, self.play):
                control.min, control.max = 0, UNIT * stages.last
                control.min = UNIT * stages.first
            if was_finest or not self.level.value:
                self.level.value = self.level.max
            self.truth.disabled = self.prediction.truth_px is None
            self._set_jumps(stages.first, stages.last)
            chosen, self._candidates = self.beside.label, self._all_beside()
            labels = [label for label, _ in self._candidates]
            # Numbers as values: the menu compares them, and predictions hold arrays.
            self.beside.options = [(label, k) for k, label in enumerate(labels)]
            self.beside.value = labels.index(chosen) if chosen in labels else 0
        finally:
            self._updating = False
        self._vertex = None
        self._show_beside()

    def _set_jumps(self, first: int, last: int) -> None:
        numbers = range(first, last + 1)
        if len(self._jumps.children) != len(numbers):
            buttons = [widgets.Button(description=str(k) if k else "Template") for k in numbers]
            for k, button in zip(numbers, buttons, strict=True):
                button.on_click(lambda _, k=k: self.glide_to(k))
            self._jumps.children = buttons

    def glide_to(self, stage: float) -> None:
        """Move the level slider to a stage in visible steps."""
        for value in np.linspace(self.level.value, UNIT * stage, GLIDE_STEPS + 1)[1:]:
            # The browser snaps other values to a step and sends that back.
            self.level.value = self.level.step * round(value / self.level.step)
            time.sleep(GLIDE_S / GLIDE_STEPS)

    def _all_beside(self) -> list[tuple[str, FacePrediction | None]]:
        """Options of the right view: the truth, the same sample by other weights, other samples."""
        options, shown = [(NOTHING, None)], self.prediction
        if shown.truth_px is not None:
            options.append((TRUTH, self._truths.setdefault(id(shown), truth_of(shown))))
        place = next(k for k, s in enumerate(self.checkpoints[self.first]) if s is shown)
        others = [(name, s) for name, s in self.checkpoints.items() if name != self.first]
        options += [(name, predictions[place]) for name, predictions in others if place < len(predictions)]
        return options + [(s.name, s) for s in self.predictions if s is not shown]

    def _show_beside(self, _: object = None) -> None:
        if self._updating:
            return
        shown, (width, height) = self.compared is not None, self.size
        if shown:
            width = (width - GAP_PX) // 2
            if self.other is None:
                # The same camera and mouse controls in both views: both are drawn while one turns.
                self.other = FaceScene(self.compared, width, height, self.scene.camera)
                self._connect_clicks(self.other)
        self.scene.resize(width, height)
        self.scene.camera.fit(width, height)  # after the size, which clears the view until something is drawn
        self._show()
        if shown and len(self._views.children) == 1:
            self._views.children = [*self._views.children, self._view(self.other, 1)]
        for view in self._views.children[1:]:  # hidden, not taken away: that would end the shared controls
            view.layout.display = None if shown else "none"
        if self.turntable.value:
            self._turn()

    def _resize(self, width_px: int, height_px: int) -> None:
        self.size = (width_px, height_px or self._height)
        self._show_beside()

    def _scale(self, prediction: FacePrediction) -> float:
        if id(prediction) not in self._scales:
            self._scales[id(prediction)] = error_scale(prediction.error_percent())
        return self._scales[id(prediction)]

    def _options(self) -> ViewOptions:
        maxima = [self._scale(s) for s in (self.prediction, self.compared) if s is not None and s.truth_px is not None]
        return ViewOptions(
            stage=self.stage, surface=self.surface.value, style=self.style_.value, landmarks=self.landmarks.value,
            photo=self.photo.value, truth=self.truth.value, opacity=self.opacity.value,
            maximum=max(maxima, default=1.0),
        )  # fmt: skip

    def _show(self, _: object = None) -> None:
        if self._updating:
            return
        options, shown, other = self._options(), self.prediction, self.compared
        self.scene.show(shown, options)
        if other is not None:
            self.other.show(other, options, shown if np.array_equal(other.photo, shown.photo) else None)
        self._describe(options)

    def _counted_error(self, scene: FaceScene, prediction: FacePrediction) -> np.ndarray:
        """Errors at the stage on show of the vertices that count, %."""
        values = prediction.error_at(self.stage, scene.stages_of(prediction))
        return values[prediction.counted[: len(values)]]

    def _describe(self, options: ViewOptions) -> None:
        """Captions, and the title with numbers of vertices and errors."""
        level, mesh = max(int(np.ceil(self.stage)), 1), self.prediction.mesh
        where = f"level {self.stage:.4g}" if self.stage else "template"
        counts = f"{where} · {len(mesh.levels[level - 1])} vertices · {len(mesh.level_faces[level - 1])} faces"
        error, label = "", html.escape(self.beside.label)
        if self.prediction.truth_px is not None:
            values = self._counted_error(self.scene, self.prediction)
            error = f"mean error <b>{values.mean():.2f} %</b>, worst {values.max():.1f} %"
            if self.compared is not None and self.compared.truth_px is not None:
                mean = self._counted_error(self.other, self.compared).mean()
                error += f"<br>{label}: mean <b>{mean:.2f} %</b>"
        elif options.surface == "error":
            error = "no ground truth, so no error"
        name = html.escape(self.prediction.name)
        captions = ("", "") if self.compared is None else (html.escape(self.first) or name, label)
        for caption, text in zip(self._captions, captions, strict=True):
            caption.value = text
        for button in self._jumps.children:
            at = (button.description == "Template" and not self.stage) or button.description == f"{self.stage:g}"
            (button.add_class if at else button.remove_class)("p2m-on")
        self._title.value = f'<div class="name">{name}</div><div class="soft">{counts}<br>{error}</div>'
        self._describe_vertex(options)

    # --- clicks ---

    def _pick(self, scene: FaceScene) -> None:
        if time.monotonic() - self._camera_moved >= DRAG_S:
            self._vertex = scene.picked_vertex(self.prediction if scene is self.scene else self.compared)
            self._describe_vertex(self._options())

    def _describe_vertex(self, options: ViewOptions) -> None:
        """The ring around the chosen vertex, its position and error, and its mark on the error scale."""
        stages, vertex, error = self.scene.stages_of(self.prediction), self._vertex, None
        places = stages.vertices(self.stage)
        if vertex is not None and vertex >= len(places):
            vertex = None  # of a finer level
        self.scene.mark_place(None if vertex is None else places[vertex])
        if self.compared is not None:
            there = self.other.stages_of(self.compared).vertices(self.stage)
            self.other.mark_place(there[vertex] if vertex is not None and vertex < len(there) else None)
        if vertex is None:
            self.read_out.value = '<div class="soft">Click on the mesh: vertex, error, position</div>'
        else:
            x, y, z = places[vertex]
            facts = f"<b>vertex {vertex}</b>"
            if self.prediction.truth_px is not None:
                error = float(self.prediction.error_at(self.stage, stages)[vertex])
                facts += f" · error <b>{error:.2f} %</b>"
            self.read_out.value = f'<div>{facts}<br><span class="soft">x {x:.1f}, y {y:.1f}, z {z:.1f} px</span></div>'
        shown = options.surface == "error" and self.prediction.truth_px is not None
        self._legend.value = color_bar(options.maximum, error) if shown else ""

    def _turn(self, _: object = None) -> None:
        for scene in [self.scene] if self.compared is None else [self.scene, self.other]:
            (scene.turntable.play if self.turntable.value else scene.turntable.stop)()


def inspect(
    predictions: Sequence[FacePrediction] | Mapping[str, Sequence[FacePrediction]],
    width_px: int = 620,
    height_px: int = 560,
) -> Inspector:
    """A widget to look at predictions: thumbnails sorted by error, the mesh over its photo, a slider from the template
    through the levels, surfaces and styles, the ground truth over it or beside it, error colours with their scale,
    and vertex, error and position at a click. Two views side by side share a camera.

    Args:    predictions: at least one, or by name a list for each of several weights, with the same samples in the same
             order; the first of them is in the left view.
             width_px, height_px: of the view.
    Raises:  ValueError if there is no prediction.
    """
    checkpoints = predictions if isinstance(predictions, Mapping) else {"": predictions}
    return Inspector(checkpoints, width_px, height_px)
