"""A 3D view that outlives its kernel: beside a widget, what an executed notebook shows when it is opened again,
untrusted, without a network, or as an HTML page."""

from __future__ import annotations

import html
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import HTML, Image
from PIL import Image as PictureFile

from p2m_core.config.paths import shown
from p2m_workbench.drawing.html_page import html_page
from p2m_workbench.drawing.mesh_images import data_uri, encode_photo, static_picture
from p2m_workbench.drawing.moving_meshes import Track, moving_meshes_page
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.training.time_machine import PAGE, time_machine_page

HEIGHT_PX, PHOTO_PX = 710, 400
TIME_MACHINE_PX, ROW_PX, CONTROLS_PX = 905, 270, 130  # heights
MOST = 8  # predictions that a notebook keeps, 0.2 MB each; evenly from all
MOST_FILM_BYTES = 1_000_000  # of a film that a notebook keeps
# No script: a widget that is alive is a container, and one that came back without its kernel is marked.
BELOW_WIDGET = ".jp-OutputArea:has(.widget-container:not(.jupyter-widgets-disconnected)) .p2m-note"
# Open, but closed while the widget above is alive; one that came back without its kernel does nothing, and goes. Where
# a notebook is not trusted, no script runs and no frame shows: the picture is left, which the frame otherwise replaces.
# The frame's page is loaded once there is room for it: it would frame the face in a view of no size.
CLOSE = """
(() => {
  const kept = document.getElementById("KEY"), frame = kept.querySelector("iframe");
  for (const picture of kept.querySelectorAll("img")) picture.hidden = true;
  frame.hidden = false;
  const load = () => { if (frame.offsetWidth && !frame.srcdoc) frame.srcdoc = frame.dataset.page; };
  const look = (left) => {
    const widget = kept.closest(".jp-OutputArea, .output, body").querySelector(".p2m-inspector");
    const dead = widget?.classList.contains("jupyter-widgets-disconnected");
    if (dead) widget.style.display = "none";
    if (left > 20) kept.open = !widget || dead;
    load();
    if (left) setTimeout(look, 300, left - 1);
  };
  kept.addEventListener("toggle", () => requestAnimationFrame(load));
  setTimeout(look, 600, 40);
})();
"""


def kept_picture(path: str | Path) -> Image:
    """A PNG as a notebook keeps it: as JPEG where that is far smaller, which it is of photos and not of drawings."""
    content = Path(path).read_bytes()
    with PictureFile.open(path) as picture:
        small = encode_photo(np.asarray(picture.convert("RGB")))
    return Image(small, format="jpeg") if 2 * len(small) < len(content) else Image(content, format="png")


def kept_view(predictions: Sequence[FacePrediction]) -> HTML:
    """A self-contained 3D view of predictions, to be displayed after their widget.

    Raises: InputError if coordinates are not finite.
    """
    if not predictions:
        return HTML("")
    shown = evenly(predictions)
    picture = data_uri(static_picture(shown[0], 200), "JPEG", quality=85)
    left = f'<img src="{picture}" alt="{html.escape(shown[0].name)}">'
    some = f", {len(shown)} of {len(predictions)}" if len(shown) < len(predictions) else ""
    return below_widget(html_page(shown, PHOTO_PX), HEIGHT_PX, left, some)


def evenly(several: Sequence[Any]) -> Sequence[Any]:
    """Of several things MOST at most, evenly."""
    return several[:: max(1, -(-len(several) // MOST))]


def kept_note(stands_here: str) -> HTML:
    """What a page says in the place of a widget that leaves nothing else; hidden below a widget that is alive."""
    text = f"Run the notebook, and here stands {stands_here}."
    return HTML(f'<style>{BELOW_WIDGET} {{display: none}}</style><p class="p2m-note"><em>{html.escape(text)}</em></p>')


def below_widget(page: str, height_px: int, picture: str = "", some: str = "") -> HTML:
    """A page in a frame that is folded while the widget above it is alive.

    picture: HTML of what is left where the notebook is not trusted.   some: how many of how many it shows.
    """
    key = f"p2m-kept-{uuid.uuid4().hex[:8]}"
    return HTML(
        f'<details open id="{key}"><summary>The same without a kernel{some}</summary>{picture}'
        f'<iframe hidden sandbox="allow-scripts allow-downloads" data-page="{html.escape(page)}" '
        f'style="width:100%;height:{height_px}px;border:0"></iframe></details>'
        f"<script>{CLOSE.replace('KEY', key)}</script>"
    )


def kept_time_machine(folder: Path) -> HTML:
    """The time machine of a run's folder: meshes and curves through its training; empty without previews."""
    page = time_machine_page(folder)
    if page is None:
        return HTML("")
    views = page.count('"vertices":{"frames"') + page.count('"points":{"frames"')  # four in a row
    return framed(page, TIME_MACHINE_PX + ROW_PX * ((views - 1) // 4), f"In a page of its own: {shown(folder / PAGE)}")


def kept_points(title: str, predictions: Sequence[FacePrediction]) -> HTML:
    """Predicted meshes, each beside the points of its true surface, under one camera; empty without points."""
    tracks = [
        Track(one.name, one.photo, one.mesh.vertices_px[None], one.mesh.faces, [""], points=one.points_px)
        for one in predictions
        if one.points_px is not None
    ]
    if not tracks:
        return HTML("")
    height = CONTROLS_PX + ROW_PX * -(-len(tracks) // 2)
    return framed(moving_meshes_page(title, tracks, [""]), height, "Meshes, and beside each the points of its surface")


def framed(page: str, height_px: int, note: str) -> HTML:
    """A page in a frame, which a notebook shows that is trusted, with a note that all show."""
    return HTML(
        f"<p>{html.escape(note)}</p>"
        f'<iframe loading="lazy" sandbox="allow-scripts" srcdoc="{html.escape(page)}" '
        f'style="width:100%;height:{height_px}px;border:0"></iframe>'
    )
