"""Files of how strongly each expression unit moves: JSON for programs, CSV as Live Link Face records it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from p2m_core.files import write_json, write_text

SIDES = ("Left", "Right")
# Columns of Live Link Face's recordings, ARKit's names in its order; MediaPipe's is that of the alphabet.
LIVE_LINK = (
    *(f"Eye{what}{side}" for side in SIDES for what in (
        "Blink", "LookDown", "LookIn", "LookOut", "LookUp", "Squint", "Wide",
    )),
    "JawForward", "JawRight", "JawLeft", "JawOpen",
    "MouthClose", "MouthFunnel", "MouthPucker", "MouthRight", "MouthLeft",
    *(f"Mouth{what}{side}" for what in ("Smile", "Frown", "Dimple", "Stretch") for side in SIDES),
    "MouthRollLower", "MouthRollUpper", "MouthShrugLower", "MouthShrugUpper",
    *(f"Mouth{what}{side}" for what in ("Press", "LowerDown", "UpperUp") for side in SIDES),
    "BrowDownLeft", "BrowDownRight", "BrowInnerUp", "BrowOuterUpLeft", "BrowOuterUpRight",
    "CheekPuff", "CheekSquintLeft", "CheekSquintRight", "NoseSneerLeft", "NoseSneerRight", "TongueOut",
)  # fmt: skip


def save_strengths(path: Path, names: Sequence[str], strengths: Float[np.ndarray, "n 52"], fps: float = 60.0) -> Path:
    """Strengths of units from 0 to 1, of one photo or of a video's frames (N, 52).

    .json  {unit: strength} in the order of `names`; a list of them where there are several frames
    .csv   Timecode (hours:minutes:seconds:frame at `fps`), BlendShapeCount, and a column a unit, as Live Link Face
           writes them, but for its turns of head and eyes

    Returns: the path.
    """
    if path.suffix == ".json":
        frames = [dict(zip(names, np.round(row, 4).tolist(), strict=True)) for row in strengths]
        write_json(path, frames[0] if len(frames) == 1 else frames)
        return path
    order = [list(names).index(name[0].lower() + name[1:]) for name in LIVE_LINK]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["Timecode", "BlendShapeCount", *LIVE_LINK])
    for k, row in enumerate(strengths):
        seconds, frame = divmod(k, round(fps))
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:{frame:02}.000"
        table.writerow([clock, len(order), *(f"{value:.6f}" for value in row[order])])
    write_text(path, text.getvalue())
    return path
