"""The science: geometry, network, chamfer, face models, data sets, metrics, inference. See also p2m_workbench.

Public names are loaded when they are first used, so that `import p2m_core` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME_OF = {
    "Pixel2Mesh": "p2m_core.network.model",
    "MeshLoss": "p2m_core.network.losses",
    "chamfer_distance": "p2m_core.chamfer",
    "nearest": "p2m_core.chamfer",
    "Template": "p2m_core.geometry.template",
    "FaceMesh": "p2m_core.face_mesh",
    "Config": "p2m_core.config.settings",
    "load_config": "p2m_core.config.loading",
    "open_store": "p2m_core.data",
    "InputError": "p2m_core.errors",
}
__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
