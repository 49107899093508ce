"""How long does the inspector take to a new frame, at 7057 vertices?

    python benchmarks/viewer.py [--tiny]

Prints, for each step of the level slider in error colours: ms in the kernel, in which the notebook's inspector works
out and encodes what it sends, and the kB; ms a frame of the HTML page in headless Chromium with WebGL in software,
slider to drawn picture, if Chromium and playwright are there. Medians; ratios to the coarsest level, the baseline.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
import time
from pathlib import Path

import ipywidgets
import numpy as np

from p2m_core.data.aflw2000 import read_image
from p2m_workbench.drawing.html_page import write_html
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.photos.predict import predict
from p2m_workbench.photos.read import sample_photo
from p2m_workbench.viewing.inspector import UNIT, inspect

# In the page: the slider to each place, and the time until the frame after the drawn one begins.
FRAMES = """async places => {
  const slider = document.querySelector("#level"), times = [];
  const frame = () => new Promise(requestAnimationFrame);
  for (const place of places) {
    await frame();
    const start = performance.now();
    slider.value = place;
    slider.dispatchEvent(new Event("input", {bubbles: true}));
    await frame(); await frame();
    document.querySelector("canvas").getContext("webgl2")?.finish();
    times.push(performance.now() - start);
  }
  return times;
}"""


def kernel_ms(prediction: FacePrediction, places: list[float]) -> tuple[float, float]:
    """Median ms and kB of a step of the notebook's slider: every changed trait as the widgets send it."""
    view, sent = inspect([prediction]), [0]
    view.surface.value = "error"

    def encode(widget: ipywidgets.Widget, change: dict) -> None:
        state = widget.get_state(key=change["name"])
        _, _, buffers = ipywidgets.widgets.widget._remove_buffers(state)
        sent[0] += sum(memoryview(buffer).nbytes for buffer in buffers)

    for widget in list(ipywidgets.widgets.widget._instances.values()):
        names = [name for name in widget.keys if not name.startswith("_")]
        widget.observe(lambda change, widget=widget: encode(widget, change), names)
    times, sizes = [], []
    for place in places:
        sent[0], start = 0, time.perf_counter()
        view.level.value = round(place * UNIT)
        times.append(time.perf_counter() - start)
        sizes.append(sent[0] / 1000)
    return 1000 * float(np.median(times)), float(np.median(sizes))


def browser_ms(page_path: Path, places: list[float]) -> float:
    """Median ms to a new frame of the HTML page."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise ImportError("no Chromium")
    flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        page = browser.new_page(viewport={"width": 1180, "height": 760})
        page.goto(page_path.resolve().as_uri())
        page.wait_for_selector("body[data-ready=true]", timeout=60_000)
        page.click("#surfaces >> text=Error")
        times = page.evaluate(FRAMES, places)
        browser.close()
    return float(np.median(times))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiny", action="store_true", help="two steps, without a browser, for the tests")
    tiny = options.parse_args().tiny
    photo = read_image(sample_photo())
    [mesh], [other] = predict(photo, flip=False), predict(photo)
    prediction = FacePrediction(
        "grace_hopper", mesh, photo, other.vertices_px
    )  # the other prediction stands for a truth
    rounds = 1 if tiny else 20
    ends = {"the coarsest level": 1, "the finest level": len(mesh.levels)}
    kernel = {name: kernel_ms(prediction, [end - 0.5, end] * rounds) for name, end in ends.items()}
    base = kernel["the coarsest level"][0]
    for name, (ms, kilobytes) in kernel.items():
        print(f"kernel, {name}: {ms:.1f} ms and {kilobytes:.0f} kB a step, {ms / base:.1f} times the coarsest")
    if tiny:
        return
    with tempfile.TemporaryDirectory() as folder:
        page = write_html(Path(folder) / "a.html", dataclasses.replace(prediction))
        try:
            frames = {name: browser_ms(page, [end - 0.5, end] * rounds) for name, end in ends.items()}
        except ImportError as error:
            print(f"browser: not measured, {error}")
            return
    base = frames["the coarsest level"]
    for name, ms in frames.items():
        print(f"browser, {name}: {ms:.0f} ms to a new frame, {ms / base:.1f} times the coarsest")


if __name__ == "__main__":
    main()
