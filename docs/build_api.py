"""`make docs`: the API pages of the packages from their docstrings.

python docs/build_api.py [FOLDER] [PACKAGE ...]       by default docs/api/ and all three
"""

from __future__ import annotations

import pkgutil
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pdoc

PACKAGES = ("p2m_core", "p2m_synth", "p2m_workbench")
HERE = Path(__file__).resolve().parent
LEFT_OUT = ("__main__",) if find_spec("triton") else ("__main__", "triton_kernel")  # no wheel of Triton for macOS


def list_all(package_name: str) -> None:
    """Let pdoc see what an `__all__` hides from it: names that are loaded on first use, and the modules below."""
    package = import_module(package_name)
    if public := getattr(package, "__all__", ()):
        for name in public:
            setattr(package, name, getattr(package, name))
        below = [module.name for module in pkgutil.iter_modules(package.__path__) if module.name not in LEFT_OUT]
        package.__all__ = [*public, *below]


def build(folder: Path, packages: Sequence[str] = PACKAGES) -> Path:
    """Write the pages of some packages and all modules in them.   Returns: the first page."""
    for name in (*PACKAGES, "p2m_core.chamfer"):
        list_all(name)
    pdoc.render.configure(docformat="markdown", include_undocumented=False, template_directory=HERE / "pdoc")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # annotations may name packages that are imported on first use
        pdoc.pdoc(*packages, *(f"!.*[.]{name}" for name in LEFT_OUT), output_directory=folder)
    return folder / "index.html"


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if sys.argv[1:] else HERE / "api", sys.argv[2:] or PACKAGES))
