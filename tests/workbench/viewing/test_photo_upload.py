"""The photo upload of notebook 5: a photo arrives, and boxes that are given by hand."""

from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from p2m_core.config.settings import PredictConfig
from p2m_workbench.photos.read import sample_photo
from p2m_workbench.viewing.photo_upload import PhotoDesk

SETTINGS = PredictConfig(save=("glb", "json"), flip=False, passes=1, detector="fast")


@pytest.fixture
def desk(tmp_path):
    return PhotoDesk(tmp_path, SETTINGS)


def test_an_uploaded_photo_is_predicted(desk, tmp_path):
    content = sample_photo().read_bytes()
    sent = {"name": "../hopper.jpg", "type": "image/jpeg", "size": len(content), "content": content}
    desk.upload.value = ({**sent, "last_modified": datetime.now(UTC)},)
    assert desk.upload.value == ()  # the same file can come again
    assert [item.name for item in desk.predictions] == ["hopper"]
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "hopper.glb", "hopper.json"}
    assert (tmp_path / "photos/hopper.jpg").read_bytes() == content
    assert bytes(desk.picture.value).startswith(b"\x89PNG")
    assert "hopper: written" in desk.message.value
    assert len(desk.view.children) == 1
    # The sliders stand at the box that was found.
    np.testing.assert_allclose(desk.box(), desk.predictions[0].mesh.box, atol=0.51)


def test_where_no_face_is_found_a_box_is_given(desk, tmp_path):
    Image.fromarray(np.full((90, 120, 3), 130, np.uint8)).save(tmp_path / "wall.png")
    desk.take("wall.png", (tmp_path / "wall.png").read_bytes())
    assert desk.predictions == []
    assert desk.by_hand.value
    assert "no face found: give a box" in desk.message.value
    before = bytes(desk.photo.value)
    desk.across.value, desk.down.value = (20, 70), (10, 65)
    assert bytes(desk.photo.value) != before
    desk.go.click()
    [item] = desk.predictions
    assert item.mesh.box.tolist() == [20, 10, 70, 65]
    assert (tmp_path / "wall.glb").exists()


def test_what_is_no_photo_is_told(desk, tmp_path):
    desk.take("notes.jpg", b"hello")
    assert "notes.jpg: is damaged or no image" in desk.message.value
    assert not (tmp_path / "photos").exists()
