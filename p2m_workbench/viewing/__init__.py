"""What is shown in notebooks; the only place with widgets."""

from __future__ import annotations

from p2m_workbench.drawing.curves import draw_curves
from p2m_workbench.drawing.mesh_images import static_picture, static_pictures
from p2m_workbench.viewing.counterfactual_lab import CounterfactualLab, kept_faces, what_if
from p2m_workbench.viewing.difference_view import DifferenceView, compare_weights
from p2m_workbench.viewing.inspector import Inspector, inspect
from p2m_workbench.viewing.kept_view import kept_note, kept_picture, kept_view
from p2m_workbench.viewing.live_preview import MeshPreview
from p2m_workbench.viewing.scene import FaceScene, ViewOptions

__all__ = [
    "CounterfactualLab",
    "DifferenceView",
    "FaceScene",
    "Inspector",
    "MeshPreview",
    "ViewOptions",
    "compare_weights",
    "draw_curves",
    "inspect",
    "kept_faces",
    "kept_note",
    "kept_picture",
    "kept_view",
    "static_picture",
    "static_pictures",
    "what_if",
]
