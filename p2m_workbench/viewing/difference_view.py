"""Two weights against each other on every vertex: of one sample after another, and averaged over a set."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Sequence
from io import BytesIO

import ipywidgets as widgets
import numpy as np
from IPython.display import HTML, Image

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import apply_affine
from p2m_core.geometry.template import Template
from p2m_synth.render.shaded_mesh import draw_mesh
from p2m_workbench.drawing.html_page import around_face
from p2m_workbench.drawing.mesh_images import (
    DIFFERENCE_RAMP,
    NO_DIFFERENCE,
    PAPER,
    difference_colors,
    difference_shares,
    error_scale,
)
from p2m_workbench.drawing.moving_meshes import PHOTO_PX, Colors, Track, moving_meshes_page
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.measuring.figures import difference_figure
from p2m_workbench.measuring.vertex_differences import METHOD, VertexDifference, mean_difference, sample_difference
from p2m_workbench.viewing.controls import checkbox, css, room_told, save_and_full_screen, scale_bar, thumbnail_strip
from p2m_workbench.viewing.inspector import DRAG_S, TRUTH, truth_of
from p2m_workbench.viewing.kept_view import below_widget, evenly
from p2m_workbench.viewing.scene import FaceScene, ViewOptions

KEPT_PX, STAGE = 500, (42, 49, 60)  # of the page that stays: height, and what the mean face stands before
MEAN_FACE_PX = 400  # side of the empty picture that the mean face stands in


def scale_of(difference: VertexDifference) -> float:
    """Where the colours of a difference end, points."""
    return error_scale(abs(difference.points[difference.beyond]))


def mean_face(template: Template, mean: VertexDifference) -> FacePrediction:
    """The template's finest level as a face, over a picture of the mean difference on it."""
    points = template.vertices - (template.vertices.max(0) + template.vertices.min(0)) / 2
    size = 0.8 * MEAN_FACE_PX / np.ptp(points, axis=0).max()
    vertices = np.float32(points * [size, -size, size] + [MEAN_FACE_PX / 2, MEAN_FACE_PX / 2, 0])
    faces, box = template.faces[-1], np.array([0, 0, MEAN_FACE_PX, MEAN_FACE_PX], np.float32)
    groups = None if template.coarse_groups is None else template.groups[-1]
    mesh = FaceMesh(
        vertices, faces, (vertices,), (faces,), np.float32(template.landmarks(vertices)), box, groups=groups
    )
    paper = np.full((MEAN_FACE_PX, MEAN_FACE_PX, 3), PAPER, np.uint8)
    colors = difference_colors(mean.points, scale_of(mean), mean.beyond)
    return FacePrediction("mean over all", mesh, draw_mesh(paper, vertices, faces, colors))


class DifferenceView(widgets.VBox):
    """The widget that `compare_weights` returns.

    Attributes: thumbnails (buttons): the mean first, then the samples, from where ours is better to where theirs is;
    shape (whose mesh is shown), photo, front, side; `read_out` tells both errors of the last clicked vertex; `index` is
    the number of the thumbnail on show.
    """

    def __init__(
        self,
        names: tuple[str, str],
        samples: Sequence[tuple[FacePrediction, FacePrediction]],
        mean: VertexDifference,
        template: Template,
        width_px: int = 620,
        height_px: int = 520,
    ):
        self.names, self.template, self._height, self._vertex, self._moved = names, template, height_px, None, 0.0
        found = sorted(((sample_difference(*pair), pair) for pair in samples), key=lambda item: item[0].mean)
        face = mean_face(template, mean)
        self.differences = [mean, *(difference for difference, _ in found)]
        self.shapes = [{"mean face": face}]
        for _, (ours, theirs) in found:
            self.shapes.append({TRUTH: truth_of(ours), names[0]: ours, names[1]: theirs})
        shown = [face, *(ours for _, (ours, _) in found)]
        captions = [f"{difference.mean:+.2f}" for difference in self.differences]
        self.thumbnails, rules = thumbnail_strip(shown, [f"mean {captions[0]}", *captions[1:]])
        self.titles = [f"mean over {mean.samples} samples", *(prediction.name for prediction in shown[1:])]
        for k, button in enumerate(self.thumbnails):
            button.on_click(lambda _, k=k: self.choose(k))
        self.index, self.scene = 0, FaceScene(face, width_px, height_px)
        self.shape = widgets.Dropdown(options=["mean face"], description="Shape")
        self.photo = checkbox("Photo", True)
        self.front, self.side = widgets.Button(description="Front"), widgets.Button(description="Side")
        self.front.on_click(lambda _: self.scene.camera.view_from())
        self.side.on_click(lambda _: self.scene.camera.view_from(60, 8))
        self._title, self._legend, self.read_out = widgets.HTML(), widgets.HTML(), widgets.HTML()
        for control in (self.shape, self.photo):
            control.observe(self._show, "value")
        self.scene.camera.camera.observe(self._camera_has_moved, "position")
        self.scene.picker.observe(self._pick, ["point", "faceIndex"])
        looks = widgets.HBox([self.front, self.side]).add_class("p2m-looks")
        panel = [self._title, self._legend, self.shape, self.photo, looks, save_and_full_screen(), self.read_out]
        views = widgets.HBox([widgets.VBox([self.scene.renderer]).add_class("p2m-view")]).add_class("p2m-views")
        body = widgets.HBox([views, widgets.VBox(panel).add_class("p2m-panel")]).add_class("p2m-body")
        strip = widgets.HBox(self.thumbnails).add_class("p2m-strip")
        super().__init__([css(rules), room_told(self._resize), strip, body])
        self.add_class("p2m-inspector").add_class("p2m-wide")
        self.choose(0)

    @property
    def difference(self) -> VertexDifference:
        """The one on show."""
        return self.differences[self.index]

    @property
    def maximum(self) -> float:
        """Where the colours end, points."""
        return scale_of(self.difference)

    def choose(self, index: int) -> None:
        """Show the mean, 0, or a sample."""
        self.thumbnails[self.index].remove_class("p2m-on")
        self.index, self._vertex = index, None
        self.thumbnails[index].add_class("p2m-on")
        names = tuple(self.shapes[index])
        if self.shape.options != names:
            self.shape.unobserve(self._show, "value")
            self.shape.options = names
            self.shape.observe(self._show, "value")
        self._show()

    def _show(self, _: object = None) -> None:
        shown, difference = self.shapes[self.index][self.shape.value], self.difference
        options = ViewOptions(photo=self.photo.value and self.index > 0, maximum=self.maximum)
        self.scene.show_difference(shown, difference.points, difference.beyond, options)
        self._describe()

    def _describe(self) -> None:
        ours, theirs = map(html.escape, self.names)
        difference, beyond = self.difference, self.difference.beyond
        means = (
            f"mean error {np.nanmean(difference.ours):.2f} % ({ours}), {np.nanmean(difference.theirs):.2f} % ({theirs})"
        )
        facts = f"{means}<br>difference <b>{difference.mean:+.2f} points</b>"
        if self.index == 0:
            counted = np.isfinite(difference.points).sum()
            shares = [100 * (beyond & side).sum() / counted for side in (difference.points < 0, difference.points > 0)]
            facts += f"<br>{ours} better on {shares[0]:.0f} % of the vertices, {theirs} on {shares[1]:.0f} %"
            facts += f"<br>grey: not beyond chance ({METHOD})"
        self._title.value = (
            f'<div class="name">{html.escape(self.titles[self.index])}</div><div class="soft">{facts}</div>'
        )
        vertex, at, shown = self._vertex, None, self.shapes[self.index][self.shape.value]
        self.scene.mark_place(None if vertex is None else shown.mesh.vertices_px[vertex])
        if vertex is None:
            self.read_out.value = '<div class="soft">Click on the mesh: the errors of both</div>'
        elif not np.isfinite(difference.points[vertex]):
            self.read_out.value = f"<b>vertex {vertex}</b> does not count: inside the mouth"
        else:
            at = float(difference_shares(difference.points[vertex], self.maximum))
            chance = "" if beyond[vertex] else "<br>not beyond chance"
            self.read_out.value = (
                f"<b>vertex {vertex}</b><br>{ours}: <b>{difference.ours[vertex]:.2f} %</b><br>"
                f"{theirs}: <b>{difference.theirs[vertex]:.2f} %</b><br>"
                f"difference {difference.points[vertex]:+.2f} points{chance}"
            )
        numbers = (f"{-self.maximum:g}", "0", f"{self.maximum:+g}")
        unit = f"points of % of face size; left, {self.names[0]} is better"
        self._legend.value = scale_bar(DIFFERENCE_RAMP, numbers, unit, at)

    def _camera_has_moved(self, change: dict) -> None:
        if not np.allclose(change["old"], change["new"], atol=1e-3):  # a click moves it by a rounding error
            self._moved = time.monotonic()

    def _pick(self, _: object) -> None:
        if time.monotonic() - self._moved >= DRAG_S:
            self._vertex = self.scene.picked_vertex(self.shapes[self.index][self.shape.value])
            self._describe()

    def _resize(self, width_px: int, height_px: int) -> None:
        height_px = height_px or self._height
        self.scene.resize(width_px, height_px)
        self.scene.camera.fit(width_px, height_px)
        self._show()


def kept_differences(view: DifferenceView) -> HTML:
    """What stays of a view without its kernel: the mean face, and beside it both meshes of a sample that a menu
    chooses, in the colours of the differences; evenly some of many samples."""
    if len(view.shapes) == 1:
        return HTML("")
    samples = evenly(list(zip(view.shapes, view.differences, strict=True))[1:])
    scale = max(map(scale_of, view.differences))

    def shares(difference: VertexDifference) -> np.ndarray:
        places = difference_shares(difference.points, scale)
        return np.where(difference.beyond, places, np.nan)[: faces.max() + 1]

    face, mean, count = view.shapes[0]["mean face"], view.differences[0], len(samples)
    faces = view.template.faces[-2:][0]  # a quarter of the finest level's

    def in_square(shown: FacePrediction, of: FacePrediction) -> np.ndarray:
        vertices = apply_affine(around_face(of, PHOTO_PX)[1], shown.mesh.vertices_px[: faces.max() + 1])
        return vertices - [0, 0, vertices[:, 2].mean()]  # turned about its own middle

    everywhere = [f"{mean.mean:+.2f} points; grey: not beyond chance"] * count
    still, alike = (np.repeat(array[None], count, 0) for array in (in_square(face, face), shares(mean)))
    tracks = [
        Track(view.titles[0], np.full((PHOTO_PX, PHOTO_PX, 3), STAGE, np.uint8), still, faces, everywhere, shares=alike)
    ]
    photos = np.stack([around_face(shapes[view.names[0]], PHOTO_PX)[0] for shapes, _ in samples])
    colors = np.stack([shares(difference) for _, difference in samples])
    for k, name in enumerate(view.names):
        vertices = np.stack([in_square(shapes[name], shapes[view.names[0]]) for shapes, _ in samples])
        errors = [float(np.nanmean((difference.ours, difference.theirs)[k])) for _, difference in samples]
        captions = [f"mean error {error:.2f} % of the face size" for error in errors]
        tracks.append(Track(name, photos, vertices, faces, captions, shares=colors))
    names = [f"{shapes[view.names[0]].name}: {difference.mean:+.2f} points" for shapes, difference in samples]
    most = f"{scale:+g} points of % of face size; left, {view.names[0]} is better"
    told = Colors("Difference colours", f"{-scale:g}", most, DIFFERENCE_RAMP, NO_DIFFERENCE, on=True)
    title = f"Error of {view.names[0]} less that of {view.names[1]}"
    return below_widget(moving_meshes_page(title, tracks, names, colors=told, by_name=True), KEPT_PX)


def compare_weights(
    names: tuple[str, str],
    samples: Sequence[tuple[FacePrediction, FacePrediction]],
    whole: Iterable[tuple[FacePrediction, FacePrediction]],
    template: Template,
) -> list[widgets.Widget | Image | HTML]:
    """The error of one weights file less that of another on every vertex.

    Args:    names: of the two.   samples: the two predictions of each sample to look at.
             whole: those of the set to average over, which may be made one after another.   template: of all of them.
    Returns: what a notebook displays: the view, what stays of it, and its static picture; or a line that says why there
             is none, such as weights of another template.
    """
    try:
        mean = mean_difference([sample_difference(*pair) for pair in whole])
        view = DifferenceView(names, samples, mean, template)
    except InputError as error:
        return [HTML(f"<b>No difference can be shown.</b> {html.escape(str(error))}")]
    stream = BytesIO()
    difference_figure(mean, template, *names).savefig(stream, format="png", dpi=110)
    return [view, kept_differences(view), Image(stream.getvalue())]
