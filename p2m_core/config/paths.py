"""Where things lie: the project's root, the bundled weights, a run's folder."""

from __future__ import annotations

import os
from pathlib import Path

from p2m_core.config.settings import Config

PACKAGE = Path(__file__).resolve().parents[1]
BUNDLED = PACKAGE / "weights" / "face-lite.safetensors"  # what weights="bundled" means


def project_root() -> Path:
    """$P2M_HOME, else the checkout that this package lies in, else (an installed wheel) the working directory."""
    if home := os.environ.get("P2M_HOME"):
        return Path(home).expanduser().resolve()
    checkout = PACKAGE.parent
    return checkout if (checkout / "configs").is_dir() else Path.cwd()


def resolve(path: str | Path) -> Path:
    """An absolute path: a relative one counts from the project's root, wherever the caller runs."""
    return project_root() / Path(path).expanduser()


def shown(path: str | Path) -> str:
    """A path as it is in every checkout: relative to the project where it lies inside."""
    path, root = Path(path), project_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def run_folder(config: Config) -> Path:
    """outputs/<name>: everything that a run writes."""
    return project_root() / "outputs" / config.name
