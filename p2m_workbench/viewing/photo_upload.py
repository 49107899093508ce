"""Photos in a notebook from the browser or its camera, a box by hand where no face is found, and their meshes."""

from __future__ import annotations

import html
from itertools import count
from pathlib import Path

import cv2
import ipywidgets as widgets
import numpy as np

from p2m_core.config.settings import PredictConfig
from p2m_core.errors import InputError
from p2m_core.files import write_bytes
from p2m_core.geometry.crop import apply_affine
from p2m_workbench.drawing.mesh_images import encode_photo, fit, static_picture
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.photos.batch import predict_files
from p2m_workbench.photos.detect import BlazeFace
from p2m_workbench.photos.predict import MAX_FLIP_DISAGREEMENT, find_meshes, open_weights
from p2m_workbench.photos.read import decode_photo
from p2m_workbench.viewing.controls import checkbox, labelled
from p2m_workbench.viewing.inspector import inspect
from p2m_workbench.viewing.webcam import Webcam

FOUND, GIVEN = (64, 224, 180), (255, 176, 32)  # RGB of found boxes, and of the one given by hand
PHOTO_PX = 420  # longer side of the photo as shown


class PhotoUpload(widgets.VBox):
    """Buttons to upload photos and to take one; the photo with its boxes; two range sliders that give a box; meshes.

    Photos go to FOLDER/photos, meshes to FOLDER. Attributes: upload, webcam, choice (of the photo), by_hand, across,
    down, go, message, picture; `predictions` are those of the photo on show.
    """

    def __init__(self, folder: str | Path, settings: PredictConfig, device: str | None = None):
        self.folder, self.settings, self.device = Path(folder), settings, device
        self.photos: dict[str, np.ndarray] = {}
        self.predictions: list[FacePrediction] = []
        self._boxes = np.zeros((0, 4))
        self.upload = widgets.FileUpload(
            accept="image/*",
            multiple=True,
            description="Upload photos",
            layout={"width": "auto", "align_self": "flex-start"},
        )
        self.upload.add_class("p2m-upload")
        self.webcam = Webcam(lambda content: self.add(self._free_name(), content))
        self.choice = widgets.Dropdown(description="Photo", layout={"width": "300px", "display": "none"})
        self.by_hand = checkbox("Give the box by hand: brows, jaw and chin")
        self.across, self.down = (
            labelled(widgets.FloatRangeSlider, title, 50, 300, min=0, max=1, step=1, readout_format=".0f",
                     continuous_update=True)
            for title in ("Across", "Down")
        )  # fmt: skip
        self.go = widgets.Button(description="Predict", icon="play", button_style="primary")
        self.message, self.view = widgets.HTML(), widgets.VBox()
        self.photo = widgets.Image(format="jpeg", layout={"max_width": f"{PHOTO_PX}px"})
        # Hidden while it is empty: a picture of nothing is a broken icon.
        self.picture = widgets.Image(format="jpeg", layout={"max_width": "100%", "display": "none"})
        self.picture.add_class("p2m-result")
        controls = widgets.VBox([self.choice, self.by_hand, self.across, self.down, self.go])
        self.box_editor = widgets.HBox([self.photo, controls], layout={"display": "none", "flex_flow": "row wrap"})
        self.upload.observe(self._uploaded, "value")
        self.choice.observe(lambda _: self._open(), "value")
        for control in (self.by_hand, self.across, self.down):
            control.observe(self._show, "value")
        self.go.on_click(lambda _: self.predict())
        super().__init__([self.upload, self.webcam, self.message, self.box_editor, self.picture, self.view])
        self.add_class("p2m-photo-upload")

    def add(self, name: str, content: bytes) -> None:
        """Add a photo, detect its faces, and predict them."""
        name = Path(name).name
        self._report("working ...")
        try:
            self.photos[name] = decode_photo(content, name)
        except InputError as error:
            self._report(str(error))
            return
        write_bytes(self.folder / "photos" / name, content)
        self.choice.options = list(self.photos)
        self.choice.layout.display = None if len(self.photos) > 1 else "none"
        if self.choice.value == name:
            self._open()
        else:
            self.choice.value = name

    def predict(self) -> None:
        """Predict the photo on show: from the found boxes, or from the one given by hand."""
        boxes = self.box()[None] if self.by_hand.value else self._boxes
        self.predictions, self.picture.layout.display, self.view.children = [], "none", ()
        if not len(boxes):
            self.by_hand.value = True
            self._report("no face found: give a box around brows, jaw and chin with the sliders, then press Predict")
            return
        path = self.folder / "photos" / self.choice.value
        self._report("working ...")
        result = predict_files([path], self.folder, boxes, self.settings, self.device)
        self.predictions = result.predictions
        told = [", ".join(" ".join(pair) for pair in facts(item).items()) for item in self.predictions]
        written = [f"{item.name}: written; {text}" for item, text in zip(self.predictions, told, strict=True)]
        self._report(*result.problems, *result.warnings, *written, f"{result.seconds['all']:.2f} s")
        if self.predictions:
            rows = [static_picture(item, 240) for item in self.predictions]
            self.picture.value, self.picture.layout.display = encode_photo(np.concatenate(rows)), None
            self.view.children = (inspect(self.predictions),)

    def box(self) -> np.ndarray:
        """The box of the sliders, (4,) x0 y0 x1 y1."""
        (x0, x1), (y0, y1) = self.across.value, self.down.value
        return np.array([x0, y0, x1, y1])

    def _free_name(self) -> str:
        """The name of the next photo by the camera."""
        names = (f"webcam-{number}.jpg" for number in count(1))
        return next(name for name in names if not (self.folder / "photos" / name).exists())

    def _uploaded(self, _: object) -> None:
        for item in self.upload.value:
            self.add(item["name"], bytes(item["content"]))
        self.upload.value = ()  # so that the same file can come again

    def _open(self) -> None:
        photo = self.photos[self.choice.value]
        height, width = photo.shape[:2]
        model = open_weights(self.settings.weights, self.device, self.settings.precision)
        found = find_meshes(model, photo, detector=BlazeFace(self.settings.min_face))
        self._boxes = np.array([mesh.box for mesh in found]).reshape(-1, 4)
        middle = np.array([0.3 * width, 0.3 * height, 0.7 * width, 0.7 * height])
        x0, y0, x1, y1 = np.round(self._boxes[0] if len(self._boxes) else middle)
        for slider, size, low, high in ((self.across, width, x0, x1), (self.down, height, y0, y1)):
            slider.max = size
            slider.value = (max(low, 0), min(high, size))
        self.by_hand.value = False
        self.box_editor.layout.display = None
        self._show()
        self.predict()

    def _show(self, _: object = None) -> None:
        if not self.choice.value:
            return
        photo, matrix = fit(self.photos[self.choice.value], PHOTO_PX)
        boxes = [(self.box(), GIVEN)] if self.by_hand.value else [(box, FOUND) for box in self._boxes]
        for box, color in boxes:
            corners = np.append(box.reshape(2, 2), [[0], [0]], 1)
            low, high = np.round(apply_affine(matrix, corners)[:, :2]).astype(int).tolist()
            cv2.rectangle(photo, low, high, color, 3)
        self.photo.value = encode_photo(photo)

    def _report(self, *lines: str) -> None:
        self.message.value = "<br>".join(html.escape(line) for line in lines)


def facts(prediction: FacePrediction) -> dict[str, str]:
    """Pose, box and confidence of a predicted face in numbers, by what they are."""
    mesh, told = prediction.mesh, {}
    if mesh.pose is not None:
        told = {name: f"{round(angle)}°" for name, angle in zip(("pitch", "yaw", "roll"), mesh.pose, strict=False)}
    x0, y0, x1, y1 = (f"{value:.0f}" for value in mesh.box)
    told["box"] = f"{x0}, {y0} to {x1}, {y1} px"
    if mesh.pose is not None:
        told["doubt"] = f"{mesh.doubt:.3f} (below {MAX_FLIP_DISAGREEMENT} is usual)"
    return told


def upload_photos(folder: str | Path, settings: PredictConfig) -> PhotoUpload:
    """A photo upload that writes meshes to a folder, with the settings of a config's `predict` section."""
    return PhotoUpload(folder, settings)
