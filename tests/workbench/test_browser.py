"""The HTML exports as a user sees them: in Chromium, without a network, by their pixels."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import nbformat
import numpy as np
import pytest
from browser import ROOT, changed, open_page, pixels, save, settled, trust
from example_predictions import made_up
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image

from p2m_workbench.drawing.html_page import write_gallery, write_html
from p2m_workbench.photos.export import save_prediction
from p2m_workbench.viewing.kept_view import kept_view

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def html_file(tmp_path_factory):
    return write_html(tmp_path_factory.mktemp("html") / "view.html", made_up("Made-up face </script>"))


def open_offline(page, path):
    """Open a page from the disk, without its hint, which fades by itself."""
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    page.evaluate("document.getElementById('hint').hidden = true")
    page.screenshot()  # a page's very first picture may have parts that are not painted yet
    return page.locator("#view")


def test_html_shows_eyes_and_mouth(tmp_path, with_eyes):
    bare = replace(with_eyes, mesh=replace(with_eyes.mesh, groups=None))
    pictures = []
    for prediction in (bare, with_eyes):
        with open_page(1180, 760, offline=True) as page:
            canvas = open_offline(page, write_html(tmp_path / "view.html", prediction))
            pictures.append(settled(page, canvas).astype(int))
            save(f"html-eyes-{prediction is with_eyes}.png", pixels(page))
    bare, painted = pictures
    darker = painted.sum(-1) < bare.sum(-1) - 150
    assert 0.0005 < darker.mean() < 0.02  # irises, pupils and mouth, and nothing else
    assert np.abs(painted - bare)[~darker].mean() < 4


def test_sliders_move_the_face_and_its_eyes(tmp_path, with_eyes):
    save_prediction(tmp_path, with_eyes, ["html", "rig"])

    def slide(page, **strengths):
        for unit, value in strengths.items():
            page.locator(f"#{unit}").evaluate(f"i => {{ i.value = {value}; i.dispatchEvent(new Event('input')); }}")

    with open_page(1180, 860, offline=True) as page:
        canvas = open_offline(page, tmp_path / "with eyes.html")
        start = settled(page, canvas)
        assert page.locator("#units input").count() == 52
        slide(page, eyeLookInRight=1, eyeLookOutLeft=1)
        aside = settled(page, canvas)
        assert 0.0005 < changed(start, aside, 30) < 0.02  # the eyes alone
        slide(page, jawOpen=0.8)
        opened = settled(page, canvas)
        rows = np.flatnonzero((np.abs(aside.astype(int) - opened).max(-1) > 30).any(1))
        assert rows.min() > 0.4 * len(opened)  # the jaw and the cheeks, nothing above
        assert changed(aside, opened, 30) > 0.02
        save("html-expression.png", pixels(page))
        page.click("#asPhoto")
        assert changed(start, settled(page, canvas)) == 0, "Photo's does not lead back"
        page.click("#surfaces >> text=Photo")
        textured = settled(page, canvas)
        slide(page, eyeBlinkLeft=1, eyeBlinkRight=1)
        assert changed(textured, settled(page, canvas), 30) > 0.001
        save("html-expression-photo.png", pixels(page))
        page.click("#jumps >> text=2")  # a coarser level moves as well
        page.wait_for_selector("body[data-stage='2']")
        before = settled(page, canvas)
        slide(page, jawOpen=0.8)
        assert changed(before, settled(page, canvas), 30) > 0.01
        assert page.problems == []


def test_html_works_offline(html_file):
    with open_page(1180, 760, offline=True) as page:
        canvas = open_offline(page, html_file)
        start = settled(page, canvas)
        save("html.png", pixels(page))
        assert len(np.unique(start.reshape(-1, 3), axis=0)) > 500, "the canvas is blank"

        page.click("#surfaces >> text=Error")
        heat = settled(page, canvas)
        assert changed(start, heat) > 0.1
        box, slider = canvas.bounding_box(), page.locator("#level").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 400)
        told = re.fullmatch(
            r"vertex (\d+) · error ([\d.]+)\s%x ([\d.]+), y ([\d.]+), z .* px", page.text_content("#reading")
        )
        vertex, error, x, y = (float(number) for number in told.groups())
        prediction = made_up()
        assert error == pytest.approx(prediction.error_percent()[int(vertex)], abs=0.006)
        mean = float(re.search(r"mean error ([\d.]+)", page.text_content("#counts")).group(1))
        assert mean == pytest.approx(prediction.mean_error_percent(), abs=0.01)
        assert prediction.mesh.vertices_px[int(vertex), :2] == pytest.approx([x, y], abs=0.06)
        assert changed(heat, settled(page, canvas)) > 0  # the ring
        save("html-error.png", pixels(page))
        page.mouse.click(box["x"] + 20, box["y"] + 20)
        assert "Click on the mesh" in page.text_content("#reading")
        # Drag the slider from the finest level to the middle between the first two.
        at = slider["y"] + slider["height"] / 2
        page.mouse.move(slider["x"] + slider["width"] - 9, at)
        page.mouse.down()
        page.mouse.move(slider["x"] + 0.375 * slider["width"], at, steps=6)
        page.mouse.up()
        between = settled(page, canvas)
        assert float(page.input_value("#level")) == pytest.approx(1.5, abs=0.2)
        assert changed(heat, between) > 0.02
        page.locator("#level").press("Home")
        template = settled(page, canvas, pause_ms=600)
        assert page.input_value("#level") == "0"
        assert "template" in page.text_content("#counts")
        assert changed(between, template) > 0.02
        page.click("#styles >> text=Edges")
        assert changed(template, settled(page, canvas)) > 0.02
        page.click("#jumps >> text=2")
        page.wait_for_selector("body[data-stage='2']")
        settled(page, canvas)
        save("html-edges.png", pixels(page))
        page.click("#styles >> text=Solid")
        page.locator("#level").press("End")
        page.click("#surfaces >> text=Clay")
        page.wait_for_selector("body[data-stage='4']")
        assert changed(start, settled(page, canvas)) == 0, "back at the first settings, but another picture"

        for surface in ("Photo", "Normals"):
            page.click(f"#surfaces >> text={surface}")
            assert changed(start, settled(page, canvas)) > 0.05
        page.click("#surfaces >> text=Clay")
        for truth in ("Alone", "Over", "Beside"):
            page.click(f"#truths >> text={truth}")
            assert changed(start, settled(page, canvas)) > 0.02
        save("html-beside.png", pixels(page))
        page.click("#truths >> text=Off")
        page.check("#turntable")
        page.wait_for_timeout(400)
        assert changed(start, pixels(canvas)) > 0.02
        page.uncheck("#turntable")
        page.uncheck("#photo")
        bare = settled(page, canvas)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2 + 150, box["y"] + box["height"] / 2 + 20, steps=4)
        page.mouse.up()
        turned = settled(page, canvas)
        assert changed(bare, turned) > 0.05
        assert "Click on the mesh" in page.text_content("#reading")  # a drag is no click
        page.click("#reset")
        assert changed(bare, settled(page, canvas, pause_ms=600)) == 0, "Front does not lead back"
        page.mouse.move(box["x"] + 330, box["y"] + 300)
        page.mouse.wheel(0, -400)
        near = settled(page, canvas)
        assert changed(bare, near) > 0.05
        # What lies under the pointer stays there.
        np.testing.assert_allclose(near[300, 330].astype(int), bare[300, 330], atol=3)
        page.locator("#view").dblclick(position={"x": 20, "y": 20})
        assert changed(bare, settled(page, canvas, pause_ms=600)) == 0, "a double click does not lead back"
        assert page.problems == []


def test_a_gallery_loads_what_is_looked_at(tmp_path):
    predictions = [made_up("first"), made_up("second", truth=False, rings=5, levels=3, height=300)]
    index = write_gallery(tmp_path / "gallery", [*predictions, made_up("third", rings=4)])
    with open_page(1180, 760, offline=True) as page:
        scripts = []
        page.on("request", lambda request: scripts.append(request.url) if request.url.endswith(".js") else None)
        canvas = open_offline(page, index)
        settled(page, canvas)
        page.click("#surfaces >> text=Error")
        heat = settled(page, canvas)
        page.click("#surfaces >> text=Clay")
        first = settled(page, canvas)
        assert changed(first, heat) > 0.1
        assert [url.rsplit("/", 1)[1] for url in scripts] == ["0000.js"]
        captions = page.locator("#gallery button").all_text_contents()
        assert captions == sorted(captions, key=lambda text: text or "~")
        assert page.evaluate("[...document.querySelectorAll('#gallery img')].every(i => i.naturalWidth > 0)")
        page.click("#surfaces >> text=Error")
        settled(page, canvas)
        save("gallery.png", pixels(page))
        page.locator("#gallery button").nth(2).click()  # without a ground truth
        page.wait_for_selector("body[data-sample='2']")
        assert page.text_content("#name") == "second"
        second = settled(page, canvas)
        assert changed(first, second) > 0.1
        assert not page.is_visible("#withTruth")
        page.locator("#gallery button").nth(0).click()
        page.wait_for_selector("body[data-sample='0']")
        page.click("#surfaces >> text=Clay")
        page.mouse.click(640, 400)
        assert "vertex" in page.text_content("#reading")
        page.mouse.click(140, 740)
        assert changed(first, settled(page, canvas)) == 0
        assert len(scripts) == 2  # what was there is not fetched again
        assert page.problems == []


def test_html_mesh_lies_on_its_pixels(html_file):
    """From the front each vertex is drawn where the photo has it: the mesh's box on the page is the box in px."""
    prediction = made_up()
    height, width = prediction.photo.shape[:2]
    with open_page(1180, 760, offline=True) as page:
        canvas = open_offline(page, html_file)
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.wheel(0, 150)  # so that all of the photo is in the picture
        full = settled(page, canvas)
        page.uncheck("#photo")
        bare = settled(page, canvas)
        page.fill("#opacity", "10")
        faint = settled(page, canvas)
    photo = np.abs(full.astype(int) - bare).max(-1) > 8  # the photo where the mesh does not hide it
    mesh = np.abs(bare.astype(int) - faint).max(-1) > 2
    columns, rows = np.flatnonzero((photo | mesh).any(0)), np.flatnonzero((photo | mesh).any(1))
    scale = (columns[-1] - columns[0] + 1) / width
    assert scale == pytest.approx((rows[-1] - rows[0] + 1) / height, rel=0.01)
    found = np.array(
        [np.flatnonzero(mesh.any(0))[[0, -1]] - columns[0], np.flatnonzero(mesh.any(1))[[0, -1]] - rows[0]]
    )
    vertices = prediction.mesh.vertices_px[:, :2]
    expected = np.stack([vertices.min(0), vertices.max(0)], 1) + 0.5
    np.testing.assert_allclose((found + [0, 1]) / scale, expected, atol=0.6)  # a pixel has two edges


def test_html_fits_a_phone(html_file):
    with open_page(390, 844, offline=True) as page:
        page.goto(html_file.as_uri())
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        picture = settled(page, page.locator("#view"))
        save("html-phone.png", pixels(page))
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500
        assert page.problems == []


def test_what_a_notebook_keeps_is_alive_in_its_html_export(tmp_path):
    """Without kernel and network: the view opens by itself, and the slider and another face change the picture."""
    faces = [made_up("one"), made_up("another", rings=4)]
    view = kept_view(faces)
    cell = nbformat.v4.new_code_cell("kept", outputs=[nbformat.v4.new_output("display_data", {"text/html": view.data})])
    exported, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    path = tmp_path / "notebook.html"
    path.write_text(exported, "utf-8")
    with open_page(1180, 900, offline=True) as page:
        page.goto(path.as_uri())
        page.wait_for_selector("details[open] iframe", timeout=20_000)
        page.locator("details iframe").scroll_into_view_if_needed()
        frame = page.frame_locator("details iframe")
        frame.locator("body[data-ready]").wait_for(timeout=60_000)
        canvas = frame.locator("#view")
        start = settled(page, canvas)
        assert len(np.unique(start.reshape(-1, 3), axis=0)) > 500, "the canvas is blank"
        frame.locator("#level").press("Home")
        template = settled(page, canvas, pause_ms=600)
        assert changed(start, template) > 0.005
        frame.locator("#gallery button").nth(1).click()
        assert changed(template, settled(page, canvas, pause_ms=600)) > 0.005
        save("kept-view.png", pixels(page))


INSPECT = """
from example_predictions import made_up
from IPython.display import display
from p2m_workbench.viewing import inspect, kept_view

faces = [made_up("one", rings=4), made_up("another", rings=3)]
display(inspect(faces), kept_view(faces))
"""


def inspect_notebook():
    """A notebook of one cell, with the inspector and what is kept of it."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(INSPECT.strip())], metadata=kernel)


@pytest.mark.slow
def test_the_inspector_has_the_width_and_leaves_the_wheel(lab, tmp_path):
    """The wheel scrolls the page, after a click it zooms; full screen is filled; what is saved is what is seen."""
    path = tmp_path / "inspect.ipynb"
    notebook = inspect_notebook()
    notebook.cells.append(nbformat.v4.new_markdown_cell("below\n\n" * 60))  # so that there is something to scroll
    nbformat.write(notebook, path)
    with lab.run_notebook(path, {}, {}) as page:
        inspector = page.locator(".p2m-inspector").first
        canvas, views = inspector.locator("canvas").first, inspector.locator(".p2m-views")
        canvas.wait_for(timeout=60_000)
        page.wait_for_function("document.querySelector('.p2m-inspector canvas').clientWidth > 640")
        before = settled(page, canvas)
        assert canvas.bounding_box()["width"] == pytest.approx(views.bounding_box()["width"], abs=2)
        save("inspector-wide.png", pixels(page))
        scrolled = "document.querySelector('.jp-WindowedPanel-outer').scrollTop"
        box, start = canvas.bounding_box(), page.evaluate(scrolled)
        page.mouse.move(box["x"] + 300, box["y"] + 200)
        page.mouse.wheel(0, 60)
        page.wait_for_function(f"{scrolled} === {start} + 60")
        page.mouse.wheel(0, -60)
        page.wait_for_function(f"{scrolled} === {start}")
        assert changed(before, settled(page, canvas)) == 0
        page.mouse.click(box["x"] + 10, box["y"] + 10)
        page.mouse.wheel(0, -300)
        assert changed(before, settled(page, canvas)) > 0.1
        assert page.evaluate(scrolled) == start
        with page.expect_download() as download:
            inspector.get_by_role("button", name="Save PNG").click()
        saved = np.asarray(Image.open(download.value.path()).convert("RGB"))
        assert saved.shape[:2] == (round(box["height"]), round(box["width"]))
        assert len(np.unique(saved.reshape(-1, 3), axis=0)) > 500
        inspector.get_by_role("button", name="Full screen").click()
        page.wait_for_function("document.querySelector('.p2m-inspector canvas').clientHeight > 800")
        settled(page, canvas)
        save("inspector-full-screen.png", pixels(page))
        inspector.get_by_role("button", name="Full screen").click()
        page.wait_for_function("document.querySelector('.p2m-inspector canvas').clientHeight < 600")
        assert canvas.bounding_box()["width"] == box["width"]
        assert page.problems == []


@pytest.mark.slow
def test_an_executed_notebook_opened_again_in_jupyterlab(lab, monkeypatch):
    """Not trusted, it shows a picture; trusted, the view in place of the widget, whose slider changes the picture."""
    notebook, path = inspect_notebook(), lab.root / "executed.ipynb"
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")  # of the kernel
    NotebookClient(notebook).execute()
    nbformat.write(notebook, path)
    with lab.open_notebook(path) as page:
        picture = page.locator("details img")
        picture.wait_for(timeout=60_000)
        assert picture.evaluate("image => image.naturalWidth") > 500
        assert len(np.unique(pixels(picture).reshape(-1, 3), axis=0)) > 500
        assert page.locator("details iframe").count() == 0
        save("reopened-untrusted.png", pixels(page))

        trust(page)
        for state in ("attached", "hidden"):  # it comes back without a kernel to answer, and goes
            page.locator(".p2m-inspector").wait_for(state=state, timeout=60_000)
        page.locator("details[open] iframe").wait_for(timeout=60_000)
        frame = page.frame_locator("details iframe")
        page.locator("details iframe").scroll_into_view_if_needed()
        frame.locator("body[data-ready]").wait_for(timeout=60_000)
        canvas = frame.locator("#view")
        canvas.scroll_into_view_if_needed()
        start = settled(page, canvas)
        save("reopened-trusted.png", pixels(page))
        assert len(np.unique(start.reshape(-1, 3), axis=0)) > 500, "the canvas is blank"
        frame.locator("#level").press("Home")
        assert changed(start, settled(page, canvas, pause_ms=600)) > 0.005
        assert not page.locator("details img").is_visible()
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth && i.offsetWidth).length"
        assert page.evaluate(broken) == 0
