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


def answer_while_busy(*controls: widgets.Widget) -> None:
    """Let the kernel handle these controls' messages while a cell runs.

    JupyterLab sends them to a subshell of the kernel, but ipykernel 7.4 hands them on to the shell whose cell made the
    widget, which is busy. Without effect on kernels without subshells.
    """
    for control in controls:
        if hasattr(control.comm, "_reply_subshell_for"):
            control.comm._reply_subshell_for = lambda _data, sent_to: sent_to
