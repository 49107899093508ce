"""The photo upload of notebook 5: a photo arrives, and boxes that are given by hand."""

import base64
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from p2m_core.config.settings import PredictConfig
from p2m_workbench.photos.read import sample_photo
from p2m_workbench.photos.result_files import RECORD_FILE
from p2m_workbench.viewing.photo_upload import PhotoUpload

SETTINGS = PredictConfig(save=("glb", "json"), flip=False, passes=1)


@pytest.fixture
def widget(tmp_path):
    return PhotoUpload(tmp_path, SETTINGS)


def test_an_uploaded_photo_is_predicted(widget, tmp_path):
    content = sample_photo().read_bytes()
    sent = {"name": "../hopper.jpg", "type": "image/jpeg", "size": len(content), "content": content}
    widget.upload.value = ({**sent, "last_modified": datetime.now(UTC)},)
    assert widget.upload.value == ()  # the same file can come again
    assert [item.name for item in widget.predictions] == ["hopper"]
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "hopper.glb", "hopper.json", RECORD_FILE}
    assert (tmp_path / "photos/hopper.jpg").read_bytes() == content
    assert bytes(widget.picture.value).startswith(b"\xff\xd8")
    assert "hopper: written; pitch " in widget.message.value
    assert re.search(r"yaw -?\d+°, roll -?\d+°, box \d+, \d+ to \d+, \d+ px, doubt 0\.\d{3}", widget.message.value)
    assert len(widget.view.children) == 1
    # The sliders stand at the box that was found.
    np.testing.assert_allclose(widget.box(), widget.predictions[0].mesh.box, atol=0.51)


def test_a_photo_by_the_camera_is_one_of_the_photos(widget, tmp_path):
    content = sample_photo().read_bytes()
    sent = "data:image/jpeg;base64," + base64.b64encode(content).decode()
    for _ in range(2):
        widget.webcam.field.value = sent
        assert widget.webcam.field.value == ""  # the notebook does not keep it
    assert list(widget.photos) == ["webcam-1.jpg", "webcam-2.jpg"]
    assert (tmp_path / "photos/webcam-2.jpg").read_bytes() == content
    assert [item.name for item in widget.predictions] == ["webcam-2"]
    widget.webcam.field.value = sent[:-3]  # cut off on its way
    assert len(widget.photos) == 2


def test_where_no_face_is_found_a_box_is_given(widget, tmp_path):
    Image.fromarray(np.full((90, 120, 3), 130, np.uint8)).save(tmp_path / "wall.png")
    widget.add("wall.png", (tmp_path / "wall.png").read_bytes())
    assert widget.predictions == []
    assert widget.by_hand.value
    assert "no face found: give a box" in widget.message.value
    before = bytes(widget.photo.value)
    widget.across.value, widget.down.value = (20, 70), (10, 65)
    assert bytes(widget.photo.value) != before
    widget.go.click()
    [item] = widget.predictions
    assert item.mesh.box.tolist() == [20, 10, 70, 65]
    assert (tmp_path / "wall.glb").exists()


def test_what_is_no_photo_is_told(widget, tmp_path):
    widget.add("notes.jpg", b"hello")
    assert "notes.jpg: is damaged or no image" in widget.message.value
    assert not (tmp_path / "photos").exists()
