"""A photo from the camera of the browser in which the notebook is open."""

from __future__ import annotations

import base64
import binascii
import html
from collections.abc import Callable
from importlib import resources

import ipywidgets as widgets

STYLE = """
.p2m-webcam { overflow: visible; }
.p2m-webcam video { display: none; width: 420px; max-width: 100%; border-radius: 8px; transform: scaleX(-1); }
.p2m-webcam.p2m-on video { display: block; }
.p2m-webcam:not(.p2m-on) .p2m-take { display: none; }
"""  # the view is a mirror, the photo is not


class Webcam(widgets.VBox):
    """A button that opens the camera, its picture, and a button that takes the photo; where the browser gives no
    camera, a sentence says why.

    Args:    take: called with each photo, the bytes of a JPEG.
    """

    def __init__(self, take: Callable[[bytes], None]):
        self._take = take
        script = resources.files("p2m_workbench.viewing").joinpath("webcam.js").read_text(encoding="utf-8")
        start = html.escape(f"({script[script.index('(style)') :].strip()})(this)")
        style = widgets.HTML(f'<style onload="{start}">{STYLE}</style>', layout={"display": "none"})
        self.camera = widgets.Button(description="Use the camera", icon="camera").add_class("p2m-camera")
        self.shoot = widgets.Button(description="Take the photo", button_style="primary").add_class("p2m-take")
        view = widgets.HTML('<div class="p2m-camera-view"></div><div class="p2m-note"></div>')
        self.field = widgets.Textarea(layout={"display": "none"}).add_class("p2m-shot")
        self.field.observe(self._told, "value")
        super().__init__([style, widgets.HBox([self.camera, self.shoot]), view, self.field])
        self.add_class("p2m-webcam")

    def _told(self, change: dict) -> None:
        kind, _, content = change["new"].partition(",")
        if kind != "data:image/jpeg;base64":
            return
        self.field.value = ""  # or the notebook would keep it
        try:
            photo = base64.b64decode(content, validate=True)
        except binascii.Error:  # cut off on its way
            return
        self._take(photo)
