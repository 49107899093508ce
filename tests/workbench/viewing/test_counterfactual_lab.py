import io

import numpy as np
import pytest
from PIL import Image

from p2m_workbench.measuring.counterfactuals import QUANTITIES, error_over
from p2m_workbench.viewing import what_if


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
    np.testing.assert_array_equal(lab._errors["glasses"], error_over(lab.person, "glasses"))
    assert lab._errors["glasses"][0] == pytest.approx(lab.error, abs=0.02)
    drawn = lab.curve.value
    lab.controls["glasses"].value = "dark"
    assert lab._errors.keys() == {"glasses"}  # the mark moves, the curve stays
    assert lab.curve.value != drawn
    lab.controls["beard"].value = "full"
    assert not lab._errors  # of another face
    assert lab.curve.layout.display == "none"
    assert set(lab.controls) == set(QUANTITIES)
