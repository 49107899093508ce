"""The notebooks as users run them: in order by `p2m run`, alone by bare papermill, in JupyterLab."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser import changed, move_slider, pixels, save, settled
from conftest import ROOT
from PIL import Image

from p2m_core.config.loading import load_config
from p2m_core.geometry.template_files import load_template
from p2m_workbench.photos.read import sample_photo

MOST_BYTES = 6_000_000  # of an executed notebook
NAMES = ["01_preprocess", "02_train", "03_evaluate", "04_inspect", "05_predict"]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "P2M_HOME": str(home), "OMP_NUM_THREADS": "2"}


@pytest.fixture(scope="module")
def home(tmp_path_factory, head) -> Path:
    """A project root of its own in which `p2m run -c tiny` has run."""
    home = tmp_path_factory.mktemp("project")
    for folder in ("notebooks", "configs"):
        shutil.copytree(ROOT / folder, home / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copytree(ROOT / "data/processed/face_model", home / "data/processed/face_model")
    command = [sys.executable, "-m", "p2m_workbench", "run", "-c", "tiny", "--timeout", "300"]
    run = subprocess.run(command, env=environment(home), cwd=home, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return home


def test_all_run_and_report(home):
    report = json.loads((home / "outputs/tiny/run.json").read_text())
    assert [(entry["name"], entry["status"]) for entry in report["notebooks"]] == [(name, "ok") for name in NAMES]
    for name in NAMES:
        notebook = nbformat.read(home / f"outputs/tiny/notebooks/{name}.ipynb", as_version=4)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output.output_type == "error"]
        # Every notebook that shows a face leaves a static picture of it in its copy.
        assert any({"image/png", "image/jpeg"} & output.get("data", {}).keys() for output in outputs), name
        assert (home / f"outputs/tiny/notebooks/{name}.ipynb").stat().st_size < MOST_BYTES, name


@pytest.mark.slow
def test_two_weights_compared_stay_small(home):
    """Beside the inspector stands the difference view, and each has its page for later."""
    words = "run -c tiny --set name=tiny --timeout 300 04_inspect -p compare=bundled".split()
    run = subprocess.run(
        [sys.executable, "-m", "p2m_workbench", *words], env=environment(home), cwd=home, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    path = home / "outputs/tiny/notebooks/04_inspect.ipynb"
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    shown = "".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)
    assert "No difference can be shown" not in shown
    assert shown.count("<iframe") == 3  # of the inspector, of the differences, of the what-if lab
    assert path.stat().st_size < MOST_BYTES


def test_what_the_demo_promises_is_there(home):
    run = home / "outputs/tiny"
    metrics = json.loads((run / "evaluation/tiny-test/metrics.json").read_text())
    scores = {row["system"]: row["plain"] for row in metrics["tables"]["nme68_2d"]["rows"]}
    assert scores["mean face, true pose (floor)"] < scores["mean face in the box"]
    assert metrics["about"]["samples"] > 0
    page = (run / "inspect.html").read_text()
    assert "<canvas" in page
    assert "https://" not in page.split("<script", 1)[0]
    assert len(list((run / "gallery/samples").glob("*.js"))) == min(8, metrics["about"]["samples"])
    mesh = load_template(run / "predictions/grace_hopper.obj", levels=1)
    assert mesh.vertices.shape == (8265, 3)
    assert np.isfinite(mesh.vertices).all()
    for suffix in (".ply", ".glb", "-overlay.png", ".html", ".json"):
        assert (run / f"predictions/grace_hopper{suffix}").stat().st_size > 100


def test_the_object_version_runs_and_prints_its_table(home):
    weights = home / "outputs/object-tiny/weights.safetensors"
    command = [sys.executable, "-m", "p2m_workbench", "run", "-c", "object-tiny", "--timeout", "300"]
    run = subprocess.run(command, env=environment(home), cwd=home, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    shown = run.stdout
    for words in ("06_objects       ok", "cd-f1@p2m", "mean of categories", "weighted by samples", "template as it is"):
        assert words in shown
    # Other weights beside the run's; what is there already is neither made nor trained again.
    shutil.copy(weights, home / "other.safetensors")
    trained = weights.stat().st_mtime_ns
    command += ["-p", "checkpoints=[other.safetensors, run]"]
    run = subprocess.run(command, env=environment(home), cwd=home, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert weights.stat().st_mtime_ns == trained
    [report] = json.loads((home / "outputs/object-tiny/run.json").read_text())["notebooks"]
    assert report["report"] in run.stdout
    assert "\nother " in report["report"]
    notebook = nbformat.read(home / "outputs/object-tiny/notebooks/06_objects.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum(bool({"image/png", "image/jpeg"} & output.get("data", {}).keys()) for output in outputs) == 4
    assert (home / "outputs/object-tiny/notebooks/06_objects.ipynb").stat().st_size < MOST_BYTES
    shown = "".join(str(output.get("data", {}).get("text/html", "")) for output in outputs)
    assert shown.count("data:image/svg+xml") == 1  # the curves
    assert shown.count("<iframe") == 2  # the time machine, and the meshes beside their true points


@pytest.mark.slow
def test_bare_papermill_from_another_folder(home, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (home / "outputs/tiny/evaluation").rglob("*.csv")}
    command = [sys.executable, "-m", "papermill", home / "notebooks/03_evaluate.ipynb", "copy.ipynb"]
    run = subprocess.run(
        [*command, "-p", "config", "tiny"], env=environment(home), cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert (tmp_path / "copy.ipynb").exists()
    after = {path: path.stat().st_mtime_ns for path in (home / "outputs/tiny/evaluation").rglob("*.csv")}
    assert after.keys() == before.keys()
    assert all(after[path] > before[path] for path in before)
    assert {path.name for path in tmp_path.iterdir()} == {"copy.ipynb"}


def test_training_in_a_process_of_its_own(home, monkeypatch):
    from p2m_workbench.viewing import watch_training as training

    monkeypatch.setenv("P2M_HOME", str(home))
    monkeypatch.setattr(training, "display", lambda widget: None)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    config = load_config("tiny", ["name=alone"])
    assert "is finished" in training.watch_training(config, detach=True, every_s=0.3)
    folder = home / "outputs/alone"
    assert json.loads((folder / "finished.json").read_text())["steps"] > 0
    assert not training.is_training(folder)
    # Attaching to a run that has ended starts nothing.
    log = (folder / "train.log").read_bytes()
    assert "is finished" in training.watch_training(config, detach=True, every_s=0.3)
    assert (folder / "train.log").read_bytes() == log


@pytest.mark.slow
def test_training_in_two_processes_streams_back_into_the_notebook(home):
    words = "run -c tiny --set name=pair --timeout 600 02_train -p processes=2".split()
    run = subprocess.run(
        [sys.executable, "-m", "p2m_workbench", *words], env=environment(home), cwd=home, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    folder = home / "outputs/pair"
    assert json.loads((folder / "finished.json").read_text())["steps"] > 0
    assert len({path.parent.name for path in (folder / "ranks").rglob("stderr.log")}) == 2
    notebook = nbformat.read(folder / "notebooks/02_train.ipynb", as_version=4)
    [cell] = [cell for cell in notebook.cells if "watch_training(settings" in cell.source]
    text = "".join(output.get("text", "") for output in cell.outputs)
    assert "pair 100%" in text  # the first process's bar
    assert "pair is finished" in text


@pytest.fixture
def in_lab(lab, home):
    """A function from a notebook of the project to a page in which JupyterLab has run it, with the tiny config."""

    def run(
        name: str,
        config: str = "tiny",
        more: dict[str, str] | None = None,
        height: int = 1000,
        camera: Path | None = None,
    ):
        parameters = {'config = "face-lite"': f'config = "{config}"', **(more or {})}
        variables = {"P2M_HOME": str(home), "OMP_NUM_THREADS": "2"}
        return lab.run_notebook(home / f"notebooks/{name}.ipynb", variables, parameters, height, camera=camera)

    return run


@pytest.mark.slow
@pytest.mark.browser
def test_the_generator_in_jupyterlab(in_lab):
    with in_lab("01_preprocess") as page:
        before, after = move_slider(page, ["PageUp"] * 4, ".p2m-yaw .noUi-handle", "img.p2m-face", "generator.png")
        assert changed(before, after) > 0.05
        assert before.shape[0] == pytest.approx(before.shape[1], abs=1)  # pictures are square, not squeezed
        assert page.problems == []  # nothing in the browser's console


@pytest.fixture
def of_code(home):
    """A function that writes a notebook of one cell into the project, and returns its path."""

    def write(name: str, code: str) -> Path:
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        path, cells = home / f"notebooks/{name}.ipynb", [nbformat.v4.new_code_cell(code.strip())]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
        return path

    return write


EXPLORE = """
from p2m_core.config.loading import load_config
from p2m_core.data.face_store import FaceStore
from p2m_workbench.viewing.store_explorer import explore

settings = load_config("tiny")
explore(FaceStore(settings.data.store), settings)
"""


@pytest.mark.slow
@pytest.mark.browser
def test_the_store_explorer_in_jupyterlab(lab, home, of_code):
    """A move of the input margin's slider moves the box in the photo, and narrows what augmentation begins with."""
    with lab.run_notebook(of_code("explore", EXPLORE), {"P2M_HOME": str(home)}, {}) as page:
        margin, picture = ".p2m-margin .noUi-handle", ".p2m-picture"
        before, after = move_slider(page, ["PageUp"] * 3, margin, picture, "store-explorer.png")
        assert 0.005 < changed(before, after) < 0.5  # the box's lines, and no other photo
        sheet = page.locator(".p2m-sheet").first
        sheet.scroll_into_view_if_needed()
        assert len(np.unique(pixels(sheet).reshape(-1, 3), axis=0)) > 500


WATCH = """
from p2m_core.config.loading import load_config
from p2m_core.config.paths import run_folder
from p2m_workbench.viewing.kept_view import kept_time_machine
from p2m_workbench.viewing.watch_training import watch_training

settings = load_config("tiny", ["name=steered", "train.epochs=5000", "train.preview_minutes=0.05"])
print(watch_training(settings))
kept_time_machine(run_folder(settings))
"""


@pytest.mark.slow
@pytest.mark.browser
def test_the_cockpit_in_jupyterlab(lab, home, of_code):
    """Its buttons act while the cell trains, and the time machine's slider moves the meshes."""
    history = home / "outputs/steered/history.json"

    def steer(page):
        page.wait_for_selector("button.p2m-stop:not([disabled])", timeout=120_000)
        page.locator(".p2m-inspector canvas").first.wait_for(timeout=120_000)  # a first preview
        page.locator("button.p2m-lower").click()
        page.get_by_text("train.lr 0.001 → 0.0005").wait_for(timeout=60_000)
        save("cockpit.png", pixels(page))
        page.locator("button.p2m-stop").click()

    with lab.run_notebook(of_code("steer", WATCH), {"P2M_HOME": str(home)}, {}, meanwhile=steer) as page:
        page.get_by_text("steered stopped, with a checkpoint").wait_for(timeout=30_000)
        assert [leg["asked"] for leg in json.loads(history.read_text())[1:]] == [{"scale_lr": 0.5}, {"stop": True}]
        page.locator("iframe").scroll_into_view_if_needed()
        frame = page.frame_locator("iframe")
        frame.locator("body[data-ready]").wait_for(timeout=60_000)
        last = settled(page, frame.locator("#view"))
        frame.locator("#frame").press("Home")
        assert changed(last, settled(page, frame.locator("#view"))) > 0.001
        save("time-machine.png", pixels(page))
        assert page.problems == []


@pytest.mark.slow
@pytest.mark.browser
def test_photos_uploaded_and_taken_in_notebook_5(in_lab, home, tmp_path):
    photo = shutil.copy(sample_photo(), tmp_path / "my own photo.jpg")
    camera = tmp_path / "camera.mjpeg"
    Image.open(photo).resize((640, 480), box=(0, 60, 512, 444)).save(camera, "JPEG")
    files = {"overrides = []": 'overrides = ["predict.save=[json, glb]"]'}
    with in_lab("05_predict", "face-lite", files, height=1150, camera=camera) as page:
        button = page.locator(".p2m-upload").first
        button.scroll_into_view_if_needed()
        with page.expect_file_chooser() as chooser:
            button.click()
        chooser.value.set_files(photo)
        picture = page.locator("img.p2m-result").first
        page.get_by_text("my own photo: written").first.wait_for(timeout=180_000)
        picture.wait_for(timeout=30_000)
        page.locator(".p2m-photo-upload canvas").first.wait_for(timeout=60_000)
        picture.scroll_into_view_if_needed()
        shown = settled(page, picture)
        assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 500, "the result is blank"
        button.scroll_into_view_if_needed()
        save("photo-upload.png", pixels(page))
        page.locator("button.p2m-camera").first.click()
        page.wait_for_function("document.querySelector('.p2m-webcam video')?.videoWidth > 0", timeout=30_000)
        save("webcam.png", pixels(page))
        page.locator("button.p2m-take").first.click()
        page.get_by_text("webcam-1: written").first.wait_for(timeout=180_000)
        assert page.locator(".p2m-webcam video").first.is_hidden()  # the camera is off again
        assert page.problems == []
    folder = home / "outputs/face-lite/predictions"
    assert (folder / "my own photo.glb").stat().st_size > 100_000
    assert (folder / "photos/my own photo.jpg").read_bytes() == photo.read_bytes()
    assert (folder / "webcam-1.glb").stat().st_size > 100_000


@pytest.mark.slow
@pytest.mark.browser
def test_without_a_camera_a_sentence_says_so(in_lab):
    with in_lab("05_predict") as page:
        button = page.locator("button.p2m-camera").first
        button.scroll_into_view_if_needed()
        button.click()
        page.get_by_text("The browser sees no camera on this computer.").first.wait_for(timeout=30_000)


# From the mouse's movement to the next frame, seen by the page itself.
FRAME_TIMES = """() => {
    let moved = null;
    window.frameTimes = [];
    document.addEventListener('pointermove', () => { moved = moved ?? performance.now(); }, true);
    for (const kind of [WebGLRenderingContext, WebGL2RenderingContext]) {
        const draw = kind.prototype.drawElements;
        kind.prototype.drawElements = function (...args) {
            if (moved !== null) { window.frameTimes.push(performance.now() - moved); moved = null; }
            return draw.apply(this, args);
        };
    }
}"""


@pytest.mark.browser
def test_inspect_in_jupyterlab(in_lab):
    seen, told = {}, {}
    with in_lab("04_inspect") as page:
        level, view = ".p2m-level .noUi-handle", ".p2m-inspector canvas"
        before, after = move_slider(page, ["PageDown"] * 8, level, view, "inspector.png")
        assert changed(before, after) > 0.005
        inspector, canvas = page.locator(".p2m-inspector"), page.locator(view).first

        def button(name):
            inspector.get_by_role("button", name=name, exact=True).first.click()

        def note(what, act, least=0.002):
            before = settled(page, canvas)
            act()
            end = time.monotonic() + 20
            after = settled(page, canvas)
            while changed(before, after) <= least and time.monotonic() < end:  # the kernel answers when it can
                after = settled(page, canvas)
            seen[what] = changed(before, after)

        def drag_slider():
            at = inspector.locator(".p2m-level .noUi-handle").first.bounding_box()
            x, y = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
            page.evaluate(FRAME_TIMES)
            page.mouse.move(x, y)
            page.mouse.down()
            for k in range(1, 9):  # one at a time, so that each has its frame
                page.mouse.move(x - 9 * k, y)
                page.wait_for_timeout(250)
            page.mouse.up()

        note("drag of the slider", drag_slider)
        told["levels"] = inspector.inner_text()
        times = page.evaluate("window.frameTimes")
        print(f"slider to frame: median {np.median(times):.0f} ms, {len(times)} frames, 8265 vertices, software WebGL")
        button("4")
        page.get_by_text("level 4 ·").wait_for()
        note("error colours", lambda: button("Error"), 0.05)
        box = canvas.bounding_box()

        def click_mesh():  # again, as one would, where a late frame makes a click the end of a drag
            for _ in range(3):
                page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
                for _ in range(20):
                    if re.search(r"vertex \d+", inspector.inner_text()):
                        return
                    page.wait_for_timeout(250)

        note("click", click_mesh, 0)
        told["click"] = inspector.inner_text()
        save("inspector-error.png", pixels(inspector))
        button("Clay")
        note("edges", lambda: button("Edges"))
        button("2")
        page.get_by_text("level 2 ·").wait_for()
        settled(page, canvas)
        save("inspector-edges.png", pixels(inspector))
        button("4")
        button("Solid")
        note("photo on the mesh", lambda: button("Photo"))
        note("side", lambda: button("Side"), 0.05)
        save("inspector-side.png", pixels(inspector))
        note("beside", lambda: inspector.locator(".widget-dropdown select").select_option(label="ground truth"), 0.05)
        note("front", lambda: button("Front"), 0.05)
        note("error colours beside", lambda: button("Error"), 0.05)
        save("inspector-beside.png", pixels(inspector))
        note("next sample", lambda: inspector.locator(".p2m-thumb").nth(1).click(), 0.02)
        assert page.problems == []
    assert all(share > 0 for share in seen.values()), seen
    assert "level 4 ·" not in told["levels"]
    assert re.search(r"vertex \d+ · error [\d.]+ %\s+x [\d.]+, y [\d.]+, z -?[\d.]+ px", told["click"])
    assert "nme-dense-3d@template" in told["click"]
