"""The desk of notebook 5: uploads, boxes by hand; and all of it in JupyterLab."""

import shutil
from datetime import UTC, datetime

import nbformat
import numpy as np
import pytest
from browser import jupyter_lab, open_notebook, open_page, pixels, require_browser, run_all, save, settled
from conftest import ROOT
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


@pytest.mark.browser
def test_a_photo_uploaded_in_notebook_5(tmp_path, monkeypatch):
    require_browser()
    home = tmp_path / "home"
    for folder in ("notebooks", "configs"):
        shutil.copytree(ROOT / folder, home / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    monkeypatch.setenv("P2M_HOME", str(home))
    path = home / "notebooks/05_predict.ipynb"
    notebook = nbformat.read(path, as_version=4)
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source = cell.source.replace("overrides = []", 'overrides = ["predict.save=[json, glb]"]')
    nbformat.write(notebook, path)
    photo = shutil.copy(sample_photo(), tmp_path / "my own photo.jpg")
    with jupyter_lab(home) as url, open_page(1400, 1150) as page:
        open_notebook(page, url, "notebooks/05_predict.ipynb", timeout_s=180)
        run_all(page, timeout_s=400)
        button = page.locator(".p2m-upload").first
        button.scroll_into_view_if_needed()
        with page.expect_file_chooser() as chooser:
            button.click()
        chooser.value.set_files(photo)
        picture = page.locator("img.p2m-result").first
        page.get_by_text("my own photo: written").first.wait_for(timeout=180_000)
        picture.wait_for(timeout=30_000)
        page.locator(".p2m-desk canvas").first.wait_for(timeout=60_000)
        picture.scroll_into_view_if_needed()
        shown = settled(page, picture, timeout_s=60)
        assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 500, "the result is blank"
        button.scroll_into_view_if_needed()
        save("desk.png", pixels(page))
    folder = home / "outputs/face-lite/predictions"
    assert (folder / "my own photo.glb").stat().st_size > 100_000
    assert (folder / "photos/my own photo.jpg").read_bytes() == photo.read_bytes()
