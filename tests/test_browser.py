"""The HTML export and the inspector as a user sees them: in Chromium, by their pixels."""

from __future__ import annotations

import nbformat
import numpy as np
import pytest
from browser import changed, open_page, pixels, run_notebook_and_move_slider, save, settled
from specimens import made_up

from p2m_core.export import write_html

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def html_file(tmp_path_factory):
    return write_html(tmp_path_factory.mktemp("html") / "view.html", made_up("Made-up face </script>"))


def test_html_works_offline(html_file):
    with open_page(1180, 760, offline=True) as page:
        page.goto(html_file.as_uri())
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        canvas = page.locator("#view")
        page.evaluate(
            "document.getElementById('hint').hidden = true"
        )  # it fades by itself and is no part of the picture
        start = settled(page, canvas)
        save("html.png", pixels(page))
        assert len(np.unique(start.reshape(-1, 3), axis=0)) > 500, "the canvas is blank"

        page.check("#colors")
        heat = settled(page, canvas)
        assert changed(start, heat) > 0.1
        page.locator("#level").focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        coarse = settled(page, canvas)
        assert page.input_value("#level") == "1"
        assert changed(heat, coarse) > 0.02
        page.check("#wire")
        assert changed(coarse, settled(page, canvas)) > 0.02
        save("html-coarse.png", pixels(page))
        page.uncheck("#wire")
        page.keyboard.press("End")
        page.locator("#level").press("End")
        page.uncheck("#colors")
        assert changed(start, settled(page, canvas)) == 0, "back at the first settings, but another picture"

        page.click("text=Truth")
        assert changed(start, settled(page, canvas)) > 0.05
        page.click("text=Prediction")
        page.uncheck("#photo")
        bare = settled(page, canvas)
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2 + 150, box["y"] + box["height"] / 2 + 20, steps=4)
        page.mouse.up()
        turned = settled(page, canvas)
        assert changed(bare, turned) > 0.05
        save("html-turned.png", pixels(page))
        page.click("#reset")
        assert changed(bare, settled(page, canvas, pause_ms=600)) == 0, "reset does not lead back"
        page.mouse.move(box["x"] + 330, box["y"] + 300)
        page.mouse.wheel(0, -400)
        near = settled(page, canvas)
        assert changed(bare, near) > 0.05
        # What lies under the pointer stays there.
        np.testing.assert_allclose(near[300, 330].astype(int), bare[300, 330], atol=3)
        assert abs(near[300, 330].astype(int) - near[300, 380]).max() > 3
        page.locator("#view").dblclick(position={"x": 20, "y": 20})
        assert changed(bare, settled(page, canvas, pause_ms=600)) == 0, "a double click does not lead back"
        assert page.problems == []


def test_html_mesh_lies_on_its_pixels(html_file):
    """From the front each vertex is drawn where the photo has it: the mesh's box on the page is the box in px."""
    specimen = made_up()
    height, width = specimen.photo.shape[:2]
    with open_page(1180, 760, offline=True) as page:
        page.goto(html_file.as_uri())
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        page.evaluate("document.getElementById('hint').hidden = true")
        canvas = page.locator("#view")
        full = settled(page, canvas)
        page.uncheck("#photo")
        bare = settled(page, canvas)
        page.fill("#opacity", "10")
        faint = settled(page, canvas)
    photo = np.abs(full.astype(int) - bare).max(-1) > 8  # the photo where the mesh does not hide it
    mesh = np.abs(bare.astype(int) - faint).max(-1) > 8
    columns, rows = np.flatnonzero((photo | mesh).any(0)), np.flatnonzero((photo | mesh).any(1))
    scale = (columns[-1] - columns[0] + 1) / width
    assert scale == pytest.approx((rows[-1] - rows[0] + 1) / height, rel=0.01)
    found = np.array(
        [np.flatnonzero(mesh.any(0))[[0, -1]] - columns[0], np.flatnonzero(mesh.any(1))[[0, -1]] - rows[0]]
    )
    vertices = specimen.mesh.vertices_px[:, :2]
    expected = np.stack([vertices.min(0), vertices.max(0)], 1) + 0.5
    np.testing.assert_allclose((found + 0.5) / scale, expected, atol=0.5)


def test_html_fits_a_phone(html_file):
    with open_page(390, 844, offline=True) as page:
        page.goto(html_file.as_uri())
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        picture = settled(page, page.locator("#view"))
        save("html-phone.png", pixels(page))
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500
        assert page.problems == []


NOTEBOOK = """
from specimens import made_up
from p2m_core.view import inspect
widget = inspect([made_up("first"), made_up("second", truth=False, rings=5, levels=3)])
widget
"""


def test_inspector_in_jupyterlab(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(NOTEBOOK.strip())],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, tmp_path / "inspect.ipynb")
    seen = {}

    def more(page, canvas):
        level = settled(page, canvas)
        for title in ("Error colours", "Wireframe", "Landmarks", "Photo", "Ground truth (teal)"):
            page.get_by_label(title).click()
            page.wait_for_timeout(400)
            now = settled(page, canvas)
            seen[title], level = changed(level, now), now
            if title == "Landmarks":
                save("inspector-all.png", pixels(page))
        page.locator(".p2m-inspector select").select_option(index=1)
        page.wait_for_timeout(400)
        now = settled(page, canvas)
        seen["sample"], level = changed(level, now), now
        save("inspector-second.png", pixels(page))
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 300, box["y"] + 280)
        page.mouse.down()
        page.mouse.move(box["x"] + 420, box["y"] + 300, steps=4)
        page.mouse.up()
        turned = settled(page, canvas)
        seen["drag"] = changed(level, turned)
        save("inspector-turned.png", pixels(page))
        page.get_by_role("button", name="Reset view").click()
        page.wait_for_timeout(500)
        seen["reset"] = changed(level, settled(page, canvas))

    run = run_notebook_and_move_slider(tmp_path / "inspect.ipynb", picture="inspector.png", then=more)
    assert len(np.unique(run.before.reshape(-1, 3), axis=0)) > 500, "the view is blank"
    assert run.changed > 0.01
    back = seen.pop("reset")
    assert all(share > 0.002 for share in seen.values()), seen
    assert back == 0, "reset does not lead back"
