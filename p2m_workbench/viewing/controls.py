"""The controls that several widgets share, and their style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import ipywidgets as widgets


def css(more: str = "") -> widgets.HTML:
    """The style sheet of what has class p2m-inspector, and more rules, as a widget that shows nothing."""
    sheet = resources.files("p2m_workbench.viewing").joinpath("inspector.css").read_text(encoding="utf-8")
    return widgets.HTML(f"<style>{sheet}{more}</style>", layout={"display": "none"})


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
