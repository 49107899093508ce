"""What one works with: preprocessing, training, measuring, photos, drawing, viewing, runs, doctor, interop, `p2m`.

Public names are loaded when they are first used, so that `import p2m_workbench` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME_OF = {
    "preprocess": "p2m_workbench.preprocessing",
    "predict": "p2m_workbench.photos.predict",
    "train": "p2m_workbench.training.trainer",
    "evaluate": "p2m_workbench.measuring.evaluate",
    "inspect": "p2m_workbench.viewing.inspector",
}
__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
