"""What is shown in notebooks; the only place with widgets."""

from p2m_core.pictures import static_picture
from p2m_core.view.inspector import Inspector, inspect
from p2m_core.view.preview import MeshPreview, draw_curves
from p2m_core.view.scene import Look, SpecimenScene

__all__ = ["Inspector", "Look", "MeshPreview", "SpecimenScene", "draw_curves", "inspect", "static_picture"]
