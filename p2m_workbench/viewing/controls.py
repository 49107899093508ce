"""The controls that several widgets share, and their style sheet."""

from __future__ import annotations

import base64
import html
import uuid
from collections.abc import Callable, Sequence
from importlib import resources

import ipywidgets as widgets

from p2m_workbench.drawing.html_page import thumbnail
from p2m_workbench.face_prediction import FacePrediction

LEAST_PX, MOST_PX = 200, 4000  # sides of a view that a browser may ask for


def css(more: str = "") -> widgets.HTML:
    """The style sheet of what has class p2m-inspector, more rules, and what the browser does there by itself (see
    inspector.js), as a widget that shows nothing. A style sheet's event is the one that starts scripts in widgets."""
    folder = resources.files("p2m_workbench.viewing")
    sheet, script = (folder.joinpath(f"inspector.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    start = html.escape(f"({script.strip()})(this)")
    return widgets.HTML(f'<style onload="{start}">{sheet}{more}</style>', layout={"display": "none"})


def thumbnail_strip(predictions: Sequence[FacePrediction], captions: Sequence[str]) -> tuple[list[widgets.Button], str]:
    """A button with the face of each prediction, and the style rules that give them their pictures."""
    key = uuid.uuid4().hex[:8]
    buttons, rules = [], ""
    for k, (prediction, caption) in enumerate(zip(predictions, captions, strict=True)):
        button = widgets.Button(description=caption, tooltip=prediction.name)
        buttons.append(button.add_class("p2m-thumb").add_class(f"p2m-thumb-{key}-{k}"))
        uri = f"data:image/jpeg;base64,{base64.b64encode(thumbnail(prediction)).decode('ascii')}"
        rules += f".p2m-thumb-{key}-{k} {{background-image: url({uri}) !important}}\n"
    return buttons, rules


def scale_bar(ramp: Sequence[tuple[int, int, int]], numbers: Sequence[str], unit: str, at: float | None = None) -> str:
    """HTML of a colour scale with numbers below it, evenly spaced, and a mark at a share of it, 0 to 1."""
    colors = ", ".join(f"rgb{tuple(rgb)}" for rgb in ramp)
    spans = "".join(f"<span>{text}</span>" for text in numbers)
    mark = "" if at is None else f'<i style="left: {100 * min(max(at, 0), 1):.1f}%"></i>'
    return (
        f'<div class="bar" style="background: linear-gradient(90deg, {colors})">{mark}</div>'
        f'<div class="row">{spans}</div><div class="soft small">{html.escape(unit)}</div>'
    )


def save_and_full_screen() -> widgets.HBox:
    """Buttons that inspector.js answers: the views as a PNG, and the whole screen."""
    save = widgets.Button(description="Save PNG", tooltip="the views as they are").add_class("p2m-save")
    full = widgets.Button(description="Full screen", tooltip="and back").add_class("p2m-full")
    return widgets.HBox([save, full]).add_class("p2m-looks")


def room_told(resize: Callable[[int, int], None]) -> widgets.Text:
    """A hidden field into which inspector.js writes the room that there is for views; `resize` is called with its width
    and height in px, the height 0 where it is left to the kernel."""

    def told(change: dict) -> None:
        width, height = (int(number) for number in change["new"].split())
        resize(min(max(width, LEAST_PX), MOST_PX), min(height, MOST_PX))

    field = widgets.Text(layout={"display": "none"}).add_class("p2m-size")
    field.observe(told, "value")
    return field


def checkbox(title: str, value: bool = False, **layout: str) -> widgets.Checkbox:
    """A check box with its title at its right."""
    return widgets.Checkbox(value, description=title, indent=False, layout=layout)


def choice(names: Sequence[str]) -> widgets.ToggleButtons:
    """Buttons of which one is chosen, at first the first."""
    options = [(name.capitalize(), name) for name in names]
    return widgets.ToggleButtons(options=options, value=names[0]).add_class("p2m-choice")


def labelled(kind: type[widgets.Widget], title: str, label_px: int, width_px: int, **options: object) -> widgets.Widget:
    """A slider or menu of a width with its title at its left; sliders report their value when they are let go."""
    if "continuous_update" in kind.class_trait_names():
        options.setdefault("continuous_update", False)
    style, layout = {"description_width": f"{label_px}px"}, {"width": f"{width_px}px"}
    return kind(description=title, style=style, layout=layout, **options)


def answer_while_busy(*controls: widgets.Widget) -> None:
    """Let the kernel handle these controls' messages while a cell runs.

    JupyterLab sends them to a subshell of the kernel, but ipykernel 7.4 hands them on to the shell whose cell made the
    widget, which is busy. Without effect on kernels without subshells.
    """
    for control in controls:
        if hasattr(control.comm, "_reply_subshell_for"):
            control.comm._reply_subshell_for = lambda _data, sent_to: sent_to
