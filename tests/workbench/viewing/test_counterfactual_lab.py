import html
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from p2m_workbench.measuring.counterfactuals import QUANTITIES, faces_over
from p2m_workbench.viewing import kept_faces, what_if


def picture(image):
    return np.asarray(Image.open(io.BytesIO(image.value)).convert("RGB")).astype(int)


def test_sliders_move_picture_error_and_mark(head):
    lab = what_if()
    first, error = picture(lab.picture), lab.error
    assert f"{error:.2f} %" in lab.message.value
    lab.controls["yaw"].value = 50
    assert np.abs(picture(lab.picture) - first).max(-1).mean() > 10
    assert lab.error != error
    assert lab.curve.layout.display == "none"
    lab.of.value = "glasses"
    lab.draw.click()
    assert lab.curve.layout.display is None
    np.testing.assert_array_equal(lab._errors["glasses"], [error for _, error in faces_over(lab.person, "glasses")])
    assert lab._errors["glasses"][0] == pytest.approx(lab.error, abs=0.02)
    drawn = lab.curve.value
    lab.controls["glasses"].value = "dark"
    assert lab._errors.keys() == {"glasses"}  # the mark moves, the curve stays
    assert lab.curve.value != drawn
    lab.controls["beard"].value = "full"
    assert not lab._errors  # of another face
    assert lab.curve.layout.display == "none"
    assert set(lab.controls) == set(QUANTITIES)


def test_what_stays_without_a_kernel_has_the_curve_and_every_step(head):
    lab = what_if()
    over = faces_over(lab.person, "glasses")
    text = html.unescape(re.search(r'srcdoc="(.*?)"', kept_faces("glasses", over).data, re.S)[1])
    about = json.loads(re.search(r"<script>const about = (.*?);</script>", text, re.S)[1])
    assert about["frames"] == [f"glasses: {value}" for value in QUANTITIES["glasses"].values]
    [track] = about["tracks"]
    assert track["captions"] == [f"error of the landmarks {error:.2f} %" for _, error in over]
    assert track["vertices"]["frames"] == len(about["photos"]) == 3
    [(*_, least, most)] = about["axes"]
    assert about["places"] == [0, 1, 2]
    assert least < 0 < 2 < most
    assert "<svg" in text
