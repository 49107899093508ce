"""What a run's results depend on besides its config: code, package versions, machine, data."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from p2m_core.config.paths import project_root, resolve, shown
from p2m_core.config.settings import Config
from p2m_core.files import NPZ_ERRORS, sha256, write_text

MAIN_PACKAGES = (
    "p2m-core", "torch", "torchvision", "numpy", "scipy", "numba", "opencv-python-headless", "matplotlib", "pandas",
    "trimesh", "pythreejs", "papermill", "safetensors", "triton",
)  # fmt: skip


def provenance(folder: Path | None = None) -> dict[str, Any]:
    """Git commit, package versions, machine and command of this process.

    Args: folder: a run's; if tracked files differ from the commit, the diff is written there as code-HASH.diff.
    """
    git = git_state()
    if folder is not None and git and git["dirty"] and (diff := code_diff()):
        git["diff"] = f"code-{hashlib.sha256(diff.encode()).hexdigest()[:12]}.diff"
        write_text(folder / git["diff"], diff)
    return {
        "git": git,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "gpus": _gpus(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "packages": {name: version for name in MAIN_PACKAGES if (version := _version(name))},
    }


def data_hashes(config: Config) -> dict[str, Any]:
    """SHA-256 of a run's data: of the files of its store and the sample names of each split; or of lists of objects.

    Returns: {} where there are no data yet.
    """
    if config.data.kind == "objects":
        lists = sorted(resolve(config.data.raw).glob("*.txt"))
        return {"raw": config.data.raw, "sha256": {path.name: sha256(path) for path in lists}} if lists else {}
    import numpy as np

    from p2m_core.data.splits import SPLITS

    folder = resolve(config.data.store)
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        with np.load(folder / "samples.npz") as file:
            names, split = file["name"], file["split"]
    except NPZ_ERRORS:
        return {}
    of_split = {
        name: hashlib.sha256("\n".join(sorted(names[split == k])).encode()).hexdigest() for k, name in enumerate(SPLITS)
    }
    return {"store": shown(folder), "sha256": manifest["sha256"], "splits": of_split}


def git_state() -> dict[str, Any] | None:
    """{"commit": hash, "dirty": whether tracked files differ from it}; None outside a checkout or without git."""
    try:
        return {"commit": _git("rev-parse", "HEAD").strip(), "dirty": bool(_git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def code_diff() -> str:
    """How tracked files differ from the commit; of notebooks the cells alone, since outputs take megabytes."""
    parts = [_git("diff", "HEAD", "--", ".", ":(exclude)*.ipynb")]
    for name in _git("diff", "--name-only", "HEAD", "--", "*.ipynb").splitlines():
        path = project_root() / name
        before, after = _git_or("", "show", f"HEAD:{name}"), path.read_text("utf-8") if path.exists() else ""
        cells = (cell_sources(text).splitlines(keepends=True) for text in (before, after))
        parts += difflib.unified_diff(*cells, f"a/{name}", f"b/{name}")
    return "".join(parts)


def cell_sources(notebook: str) -> str:
    """The cells of a notebook's JSON, without outputs, each under a line with its type; "" of what is none."""
    try:
        cells = json.loads(notebook)["cells"]
    except (ValueError, LookupError, TypeError):
        return ""
    return "".join(f"# %% {cell['cell_type']}\n{''.join(cell['source'])}\n" for cell in cells)


def _git_or(otherwise: str, *words: str) -> str:
    try:
        return _git(*words)
    except subprocess.SubprocessError:  # such as a file that the commit does not have
        return otherwise


def _git(*words: str) -> str:
    command = ["git", "-C", str(project_root()), *words]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=True).stdout


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Names of the CUDA devices; none if torch is not loaded, which would take seconds."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return [cuda.get_device_name(k) for k in range(cuda.device_count())] if cuda and cuda.is_available() else []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
