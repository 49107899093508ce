"""Shared fixtures."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def aflw_samples() -> Path:
    """The folder of real AFLW2000-3D samples, which is research-only and so not part of the project."""
    folder = SHARED / "aflw2000-samples"
    if not folder.is_dir():
        pytest.skip("needs ../shared/aflw2000-samples (real AFLW2000-3D samples, not in the repository)")
    return folder


@pytest.fixture(scope="session")
def aflw_landmarks() -> Path:
    """The folder of AFLW2000-3D's landmark arrays, which is research-only and so not part of the project."""
    folder = SHARED / "aflw2000-landmarks"
    if not folder.is_dir():
        pytest.skip("needs ../shared/aflw2000-landmarks (landmark arrays of AFLW2000-3D, not in the repository)")
    return folder
