"""Files of expression strengths, as other programs read them."""

import csv
import json
import re

import numpy as np

from p2m_core.config.paths import project_root
from p2m_synth.head.asset import load_asset
from p2m_workbench.photos.strengths import LIVE_LINK, save_strengths

NAMES = load_asset()["unit_names"].tolist()
# A recording of Live Link Face begins so, without its nine turns of head and eyes.
HEADER = (
    "Timecode,BlendShapeCount,EyeBlinkLeft,EyeLookDownLeft,EyeLookInLeft,EyeLookOutLeft,EyeLookUpLeft,EyeSquintLeft,"
    "EyeWideLeft,EyeBlinkRight,EyeLookDownRight,EyeLookInRight,EyeLookOutRight,EyeLookUpRight,EyeSquintRight,"
    "EyeWideRight,JawForward,JawRight,JawLeft,JawOpen,MouthClose,MouthFunnel,MouthPucker,MouthRight,MouthLeft,"
    "MouthSmileLeft,MouthSmileRight,MouthFrownLeft,MouthFrownRight,MouthDimpleLeft,MouthDimpleRight,MouthStretchLeft,"
    "MouthStretchRight,MouthRollLower,MouthRollUpper,MouthShrugLower,MouthShrugUpper,MouthPressLeft,MouthPressRight,"
    "MouthLowerDownLeft,MouthLowerDownRight,MouthUpperUpLeft,MouthUpperUpRight,BrowDownLeft,BrowDownRight,BrowInnerUp,"
    "BrowOuterUpLeft,BrowOuterUpRight,CheekPuff,CheekSquintLeft,CheekSquintRight,NoseSneerLeft,NoseSneerRight,TongueOut"
)


def column(unit):
    return unit[0].upper() + unit[1:]


def test_names_are_arkits_in_mediapipes_order():
    assert len(NAMES) == 52
    assert NAMES[:-1] == sorted(NAMES[:-1])  # MediaPipe has these 51, after "_neutral"
    assert NAMES[-1] == "tongueOut"
    assert sorted(LIVE_LINK) == sorted(map(column, NAMES))


def test_the_table_of_names_is_right():
    page = (project_root() / "docs/meshes.md").read_text()
    rows = re.findall(r"\| (\d+|-) \| `(\w+)` \| (\d+) \|", page.replace(" | | ", " |\n| "))
    told = {name: (index, int(place)) for index, name, place in rows}
    for k, name in enumerate(NAMES):
        assert told.pop(name) == ("-" if name == "tongueOut" else str(k + 1), LIVE_LINK.index(column(name)) + 1)
    assert not told


def test_a_photos_strengths_and_those_of_frames(tmp_path):
    strengths = np.random.default_rng(0).random((62, 52))
    assert json.loads(save_strengths(tmp_path / "x.json", NAMES, strengths[:1]).read_text()) == dict(
        zip(NAMES, np.round(strengths[0], 4), strict=True)
    )
    frames = json.loads(save_strengths(tmp_path / "v.json", NAMES, strengths).read_text())
    assert [list(frame) for frame in frames] == [NAMES] * 62
    lines = save_strengths(tmp_path / "v.csv", NAMES, strengths, fps=30).read_text().splitlines()
    assert lines[0] == HEADER
    rows = list(csv.DictReader(lines))
    assert [row["Timecode"] for row in (rows[0], rows[29], rows[61])] == [
        "00:00:00:00.000", "00:00:00:29.000", "00:00:02:01.000",
    ]  # fmt: skip
    for name in ("jawLeft", "tongueOut", "eyeLookInRight"):
        np.testing.assert_allclose(
            [float(row[column(name)]) for row in rows], strengths[:, NAMES.index(name)], atol=1e-6
        )
