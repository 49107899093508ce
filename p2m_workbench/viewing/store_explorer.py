"""The explorer of a store: its samples with landmarks and ground truth, and the effect of crop and augmentation."""

from __future__ import annotations

from pathlib import Path

import cv2
import ipywidgets as widgets
import numpy as np
from IPython.display import HTML

from p2m_core.config.loading import save_config
from p2m_core.config.paths import run_folder, shown
from p2m_core.config.settings import AugmentConfig, Config
from p2m_core.data.face_store import FaceStore
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import apply_affine, compose, crop_matrix, invert_affine
from p2m_core.network.mesh_ops import REGION_RADII, region_density
from p2m_synth.render.shaded_mesh import draw_mesh
from p2m_workbench.doctor.outliers import find_outliers
from p2m_workbench.drawing.dataset_figures import augmented
from p2m_workbench.drawing.mesh_images import (
    contact_sheet,
    draw_landmarks,
    encode_photo,
    error_colors,
    fit,
    fit_square,
)
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.measuring.tables import attribute_groups
from p2m_workbench.preprocessing.store_photos import StorePhotos
from p2m_workbench.viewing.controls import checkbox, labelled
from p2m_workbench.viewing.scene import FaceScene, ViewOptions
from p2m_workbench.viewing.text_table import text_table

SIDE_PX = 460  # of the picture
ORDERS = ("as stored", "residual", "yaw", "face size")
# The most that a slider gives; all others are shares.
LARGEST = {"rotate_deg": 60.0, "scale": 0.4, "shift": 0.3}
UNITS = {"rotate_deg": ("rotate", "deg"), "scale": ("scale", "ln"), "shift": ("shift", "sides")}
ALL_FACES, LISTED, CELL_PX = "all faces", 16, 112  # LISTED samples at once, of CELL_PX each
REGIONS = (0.22, 0.17)  # shown where the config has none: those of older ports
INPUT_BOX, STORE_BOX = (255, 176, 59), (112, 178, 255)


class StoreExplorer(widgets.VBox):
    """A picker with filters, a photo with layers, its truth in 3D, and sliders for crop and augmentation.

    Controls are attributes: yaw, size, residual, group, outliers, order, sample; landmarks, mesh, regions, boxes;
    margin, store_margin, augment (a slider a field), seed. Pictures: picture, the samples from it on
    (`sheet_of_samples`), and what augmentation makes of it (`sheet`).
    """

    def __init__(self, store: FaceStore, config: Config):
        self.store, self.config = store, config
        self.outlier_table = find_outliers(store)
        self.photos = StorePhotos(store)
        self.columns = {
            "residual": store.table["residual_percent"], "yaw": store.yaw_deg(), "face size": store.face_size_px()
        }  # fmt: skip

        def slider(title: str, value: float, low: float, high: float, step: float = 0.01) -> widgets.Widget:
            kind = widgets.IntSlider if isinstance(value, int) else widgets.FloatSlider
            return labelled(kind, title, 100, 350, value=value, min=low, max=high, step=step)

        def span(title: str, values: np.ndarray) -> widgets.FloatRangeSlider:
            low, high = float(np.floor(values.min())), float(np.ceil(values.max())) + 1e-3
            return labelled(
                widgets.FloatRangeSlider, title, 100, 350, value=(low, high), min=low, max=high, readout_format=".1f"
            )

        self.yaw, self.size = (
            span("|yaw|, deg", np.abs(self.columns["yaw"])),
            span("face, px", self.columns["face size"]),
        )
        self.residual = span("residual, %", self.columns["residual"])
        self.groups = attribute_groups(store, np.arange(len(store)))
        names = [
            ALL_FACES,
            *(f"{attribute}: {group} ({mask.sum()})" for (attribute, group), mask in self.groups.items()),
        ]
        options = [(name, k) for k, name in enumerate(names)]
        self.group = labelled(widgets.Dropdown, "attribute", 100, 350, options=options, disabled=not self.groups)
        self.outliers = checkbox(f"the {self.outlier_table['index'].nunique()} outliers only", margin="0 0 0 108px")
        self.order = widgets.Dropdown(options=ORDERS, description="order", style={"description_width": "100px"})
        self.chosen = np.arange(len(store))
        self.sample = slider("sample", 0, 0, len(store) - 1, 1).add_class("p2m-sample")
        for name, value in {"landmarks": True, "mesh": False, "regions": False, "boxes": True}.items():
            setattr(self, name, checkbox(name, value, width="110px"))
        self.margin = slider("input margin", config.model.margin, 1.01, 2.0).add_class("p2m-margin")
        self.store_margin = slider("store margin", config.data.store_margin, 1.01, 2.5)
        self.augment = {
            name: slider(
                ", ".join(UNITS.get(name, (name, "share"))), float(value), 0, LARGEST.get(name, 1.0),
                1 if name == "rotate_deg" else 0.01,
            )
            for name, value in config.augment.model_dump().items()
        }  # fmt: skip
        self.seed = slider("draw", 0, 0, 99, 1)
        self.facts, self.saved, self.legend, self.listed = (widgets.HTML() for _ in range(4))
        self.sheet_of_samples = widgets.Image(format="jpeg").add_class("p2m-samples")
        self.picture = widgets.Image(format="jpeg").add_class("p2m-picture")
        self.sheet = widgets.Image(format="jpeg").add_class("p2m-sheet")
        self.scene = FaceScene(self.truth(0), SIDE_PX, SIDE_PX)
        self.save = widgets.Button(description="Keep these settings", button_style="primary", layout={"width": "auto"})
        self.save.on_click(lambda _: self.write())
        found = [(f"{name}: {reason}", index) for index, name, reason in self.outlier_table.to_numpy().tolist()]
        self.outlier = widgets.Select(options=found, value=None, rows=6, layout={"width": "350px"})
        super().__init__(self._laid_out())
        for controls, changed in (
            ((self.yaw, self.size, self.residual, self.group, self.outliers, self.order), self._filter),
            (
                (self.sample, self.landmarks, self.mesh, self.regions, self.boxes, self.margin, self.store_margin),
                self._show,
            ),
            ((self.sample, self.margin, self.seed, *self.augment.values()), self._show_sheet),
            ((self.outlier,), self._go_to_outlier),
        ):
            for control in controls:
                control.observe(changed, "value")
        self._show()
        self._show_sheet()

    def _laid_out(self) -> list[widgets.Widget]:
        def block(title: str, *children: widgets.Widget) -> widgets.VBox:
            return widgets.VBox([widgets.HTML(f"<b>{title}</b>"), *children], layout={"margin": "0 18px 8px 0"})

        def explained(name: str) -> widgets.HBox:
            text = f"<span style='color: #777'>{AugmentConfig.model_fields[name].description}</span>"
            return widgets.HBox([self.augment[name], widgets.HTML(text)])

        layers = widgets.HBox([self.landmarks, self.mesh, self.regions, self.boxes])
        filters = (self.yaw, self.size, self.residual, self.group, self.outliers, self.order, self.sample)
        crop = block("Crop, sides of the landmarks' box", self.margin, self.store_margin)
        outliers = block("Outliers", self.outlier if len(self.outlier_table) else widgets.HTML("none"))
        controls = widgets.HBox(
            [block("Which sample", *filters, self.facts), widgets.VBox([crop, outliers])],
            layout={"flex_flow": "row wrap", "margin": "8px 0"},
        )
        views = widgets.VBox([widgets.HBox([self.picture, self.scene.renderer]), layers, self.legend])
        samples = block("The samples from this one on", self.listed, self.sheet_of_samples)
        augmentation = block("Augmentation, and this sample in eight epochs", *map(explained, self.augment), self.seed)
        return [views, controls, samples, augmentation, self.sheet, widgets.HBox([self.save, self.saved])]

    # --- which sample ---

    @property
    def index(self) -> int:
        """The shown sample's index into the store."""
        return int(self.chosen[self.sample.value])

    def _filter(self, _: object = None) -> None:
        shown, columns = self.index, self.columns
        kept = np.ones(len(self.store), bool)
        for control, values in (
            (self.yaw, np.abs(columns["yaw"])), (self.size, columns["face size"]), (self.residual, columns["residual"])
        ):  # fmt: skip
            kept &= (values >= control.value[0]) & (values <= control.value[1])
        if self.group.value:
            kept &= list(self.groups.values())[self.group.value - 1]
        if self.outliers.value:
            kept &= np.isin(np.arange(len(kept)), self.outlier_table["index"])
        found = np.flatnonzero(kept)
        if not len(found):
            self.facts.value = "<i>no sample passes: widen the filters</i>"
            return
        if self.order.value != "as stored":
            found = found[np.argsort(columns[self.order.value][found])[::-1]]
        self.chosen = found
        place = np.flatnonzero(found == shown)
        self.sample.value = 0
        self.sample.max = len(found) - 1
        self.sample.value = int(place[0]) if len(place) else 0
        self._show()
        self._show_sheet()

    def _go_to_outlier(self, change: dict) -> None:
        place = np.flatnonzero(self.chosen == change["new"])
        if len(place):
            self.sample.value = int(place[0])

    # --- what is shown ---

    def truth(self, index: int) -> FacePrediction:
        """The ground truth of a sample as a mesh over its stored crop."""
        store = self.store
        vertices = np.float32(store.to_crop(store.truth_px(index), index))
        levels, faces = tuple(vertices[:n] for n in store.template.counts), store.template.faces
        landmarks = np.float32(store.template.landmarks(vertices))
        box = np.array([0, 0, store.size_px, store.size_px], np.float32)
        mesh = FaceMesh(vertices, faces[-1], levels, faces, landmarks, box, groups=store.template.groups[-1])
        return FacePrediction(str(store.table["name"][index]), mesh, store.crop(index))

    def _show(self, _: object = None) -> None:
        store, index = self.store, self.index
        photo, to_file = self.photos.photo(index)
        picture, zoom = fit(photo, SIDE_PX)
        to_view = compose(zoom, invert_affine(to_file))
        truth, faces, self.legend.value = store.truth_px(index), store.template.faces[-1], ""
        if self.mesh.value or self.regions.value:
            colors = self._region_colors() if self.regions.value else None
            picture = draw_mesh(picture, apply_affine(to_view, truth), faces, colors, alpha=0.8)
        if self.landmarks.value:
            picture = draw_landmarks(picture, apply_affine(to_view, store.table["landmarks_px"][index]))
        if self.boxes.value:
            box = store.table["box_px"][index]
            for margin, color in ((self.store_margin.value, STORE_BOX), (self.margin.value, INPUT_BOX)):
                unit_crop = np.array([[-0.5, -0.5, 0], [1.5, 1.5, 0]])  # corners of a crop of 2 px
                corners = apply_affine(invert_affine(crop_matrix(box, 2, margin)), unit_crop)
                low, high = np.round(apply_affine(to_view, corners)[:, :2]).astype(int)
                cv2.rectangle(picture, low.tolist(), high.tolist(), color, 2, cv2.LINE_AA)
        self.picture.value = encode_photo(picture)
        self.scene.show(self.truth(index), ViewOptions())
        self._show_samples()
        angles = np.degrees(store.table["file_pose"][index, :3]).round(1)
        self.facts.value = (
            f"<b>{store.table['name'][index]}</b>, {self.sample.value + 1} of {len(self.chosen)}<br>"
            f"pitch, yaw, roll: {', '.join(map(str, angles))} deg<br>"
            f"face {store.face_size_px()[index]:.0f} px, "
            f"landmark residual {store.table['residual_percent'][index]:.2f} %"
        )

    def _show_samples(self) -> None:
        """The samples from the one on show on, with their landmarks."""
        store, first = self.store, self.sample.value
        rows = self.chosen[first : first + LISTED]
        pictures = []
        for index in rows:
            crop, zoom = fit_square(store.crop(index), CELL_PX)
            points = apply_affine(zoom, store.to_crop(store.table["landmarks_px"][index], index))
            pictures.append(draw_landmarks(crop, points) if self.landmarks.value else crop)
        self.sheet_of_samples.value = encode_photo(contact_sheet(pictures))
        self.listed.value = f"{first + 1} to {first + len(rows)} of {len(self.chosen)}: " + ", ".join(
            map(str, store.table["name"][rows])
        )

    def _region_colors(self) -> np.ndarray:
        """Colours of the finest vertices by the density with which the clouds of the loss are drawn there."""
        loss, faces = self.config.loss, self.store.template.faces[-1]
        shares = loss.regions if any(loss.regions) else REGIONS
        density = region_density(self.store.template, shares).numpy()
        at_vertex, top = np.zeros(self.store.template.counts[-1]), float(density.max())
        np.maximum.at(at_vertex, faces.ravel(), density.repeat(3))
        note = "" if any(loss.regions) else f" (loss.regions {list(REGIONS)}; this config draws them evenly)"
        self.legend.value = f"points of the loss, times an even density: {region_legend(density, shares)}{note}"
        return error_colors(at_vertex, top)

    def _show_sheet(self, _: object = None) -> None:
        config = self.settings()
        sheet = augmented(
            self.store, self.index, config.augment, config.model.input_px, config.model.margin, seed=self.seed.value
        )
        self.sheet.value = encode_photo(sheet)

    # --- what is kept ---

    def settings(self) -> Config:
        """The config with the margins and the augmentation of the sliders: what to preprocess and train with."""
        config = self.config
        augment = AugmentConfig(**{name: slider.value for name, slider in self.augment.items()})
        return config.model_copy(
            update={
                "augment": augment,
                "model": config.model.model_copy(update={"margin": self.margin.value}),
                "data": config.data.model_copy(update={"store_margin": self.store_margin.value}),
            }
        )

    def augmentation_table(self) -> HTML:
        """A row a setting of the augmentation: its value by the sliders, and what it is."""
        values, fields = self.settings().augment.model_dump(), AugmentConfig.model_fields
        return text_table(
            [
                {"setting": f"augment.{name}", "value": f"{value:g}", "meaning": fields[name].description}
                for name, value in values.items()
            ]
        )

    def write(self) -> Path:
        """Write `settings` to outputs/NAME/explored.yaml, which notebooks and commands take as their config."""
        settings = self.settings()
        before, after = (c.model_dump() for c in (self.config, settings))
        changed = [
            f"{section}.{name}={value:g}"
            for section in ("data", "model", "augment")
            for name, value in after[section].items()
            if value != before[section][name]
        ]
        path = save_config(settings, run_folder(settings) / "explored.yaml")
        self.saved.value = f"{', '.join(changed) or 'nothing is changed'}; <code>p2m preprocess -c {shown(path)}</code>"
        return path


def region_legend(density: np.ndarray, shares: tuple[float, float]) -> str:
    """HTML of what the colours of a density (F,) mean that `region_density` made of loss.regions."""
    places = ["elsewhere"]
    places += [f"within {r:g} face sizes of a landmark" for share, r in zip(shares, REGION_RADII, strict=True) if share]
    parts = []
    for value, place in zip(np.unique(density.round(3)), places, strict=True):
        color = f"rgb{tuple(error_colors(np.array([value]), float(density.max()))[0].tolist())}"
        chip = f"<span style='background: {color}; padding: 0 8px; margin: 0 4px 0 10px'></span>"
        parts.append(f"{chip}{place}: {value:.1f}")
    return "".join(parts)


def explore(store: FaceStore, config: Config) -> StoreExplorer:
    """An explorer of a store, with crop and augmentation of a config."""
    return StoreExplorer(store, config)
