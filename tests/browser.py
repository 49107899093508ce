"""Headless Chromium and JupyterLab for tests: start them, run a notebook, compare screenshots."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "outputs" / "browser"

# WebGL in software, and none of the requests that Chromium makes of its own accord.
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-first-run",
    "--no-pings",
)
CAMERA_FLAGS = (
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--use-file-for-fake-video-capture={}",
)
LAB_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Cells outside the window have to be in the page, or nobody can wait for them.
    "notebook-extension/tracker": {"windowingMode": "none"},
}


def require_browser() -> str:
    """Path of Chromium; skips the test where it or playwright is missing."""
    pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("needs Chromium (apt-get install chromium)")


@contextmanager
def open_page(width: int = 1280, height: int = 860, offline: bool = False, camera: Path | None = None) -> Iterator:
    """A playwright page in a fresh Chromium; `page.problems` collects console errors and uncaught exceptions.

    camera: a JPEG that the browser's camera sees; None for no camera.
    """
    path = require_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = [*CHROMIUM_FLAGS, *(f.format(camera) for f in CAMERA_FLAGS if camera)]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            context = browser.new_context(viewport={"width": width, "height": height})
            context.set_offline(offline)
            page = context.new_page()
            page.problems = []
            page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda error: page.problems.append(str(error)))
            yield page
        finally:
            browser.close()


def pixels(element) -> np.ndarray:
    """Screenshot of a page, locator or element, (H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"))


def changed(before: np.ndarray, after: np.ndarray, threshold: int = 12) -> float:
    """Share of pixels in which a channel changed by more than `threshold`; 1 if the sizes differ."""
    if before.shape != after.shape:
        return 1.0
    return float((np.abs(before.astype(int) - after).max(-1) > threshold).mean())


def settled(page, element, timeout_s: float = 60, pause_ms: int = 200) -> np.ndarray:
    """The element's pixels once two screenshots in a row agree."""
    end = time.monotonic() + timeout_s
    last = pixels(element)
    while time.monotonic() < end:
        page.wait_for_timeout(pause_ms)
        now = pixels(element)
        if changed(last, now, 2) == 0:
            return now
        last = now
    raise AssertionError(f"the picture still moves after {timeout_s} s")


def save(name: str, picture: np.ndarray) -> Path:
    """A screenshot into outputs/browser/."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(PICTURES / name)
    return PICTURES / name


# --- JupyterLab -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its URL, and the folder that it serves."""

    url: str
    root: Path

    @contextmanager
    def run_notebook(
        self,
        path: Path,
        environment: Mapping[str, str],
        parameters: Mapping[str, str],
        height: int = 1000,
        meanwhile: Callable[[Any], None] = lambda page: None,
        camera: Path | None = None,
    ) -> Iterator:
        """A page in which all cells of a copy of a notebook have run, in a kernel of its own that ends afterwards.

        Args:    path: below `root`.   environment: variables that a first cell sets in the kernel.
                 parameters: text of the parameters cell, and what to put in its place.
                 height: of the window, px.   meanwhile: called with the page while the cells run.
                 camera: as for `open_page`.
        Raises:  AssertionError with a cell's error.
        """
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []):
                for old, new in parameters.items():
                    assert old in cell.source
                    cell.source = cell.source.replace(old, new)
        notebook.cells.insert(0, nbformat.v4.new_code_cell(f"import os\n\nos.environ.update({dict(environment)!r})"))
        copy = path.with_name(f"lab-{path.name}")
        nbformat.write(notebook, copy)
        with open_page(1400, height, camera=camera) as page:
            try:
                # Clicks before the kernel is there would be dropped.
                page.goto(f"{self.url}/lab/workspaces/test/tree/{copy.relative_to(self.root).as_posix()}?reset")
                wait_idle(page, 180)
                run_all(page, meanwhile=meanwhile)
                yield page
            finally:
                self.end_kernels()

    @contextmanager
    def open_notebook(self, path: Path, height: int = 1000) -> Iterator:
        """A page in which a notebook is open as it was saved: nothing of it runs, and it is not trusted.

        Args: path: below `root`.   height: of the window, px.
        """
        with open_page(1400, height) as page:
            try:
                page.goto(f"{self.url}/lab/workspaces/test/tree/{path.relative_to(self.root).as_posix()}?reset")
                wait_idle(page, 180)
                yield page
            finally:
                self.end_kernels()

    def end_kernels(self) -> None:
        """End all kernels of the server."""
        with urllib.request.urlopen(f"{self.url}/api/kernels", timeout=10) as answer:
            for kernel in json.load(answer):
                request = urllib.request.Request(f"{self.url}/api/kernels/{kernel['id']}", method="DELETE")
                urllib.request.urlopen(request, timeout=30).close()


@contextmanager
def jupyter_lab(root: Path, start_s: float = 60) -> Iterator[Lab]:
    """JupyterLab of this Python on a free port, with settings and state in a temporary folder.

    Kernels have the repository and its tests on their path.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="p2m-lab-", ignore_cleanup_errors=True) as folder:
        state = Path(folder)
        for name, values in LAB_SETTINGS.items():
            path = state / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime",
                  "JUPYTER_DATA_DIR": "data", "IPYTHONDIR": "ipython",
                  "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}  # fmt: skip
        paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, **{key: str(state / name) for key, name in places.items()},
                       "PYTHONPATH": os.pathsep.join(p for p in paths if p)}  # fmt: skip
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={root}",
            "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
            "--IdentityProvider.token=", "--ServerApp.password=", "--ServerApp.disable_check_xsrf=True",
            "--LabApp.extension_manager=readonly",
        ]  # fmt: skip
        with open(state / "log.txt", "w+") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            url = f"http://127.0.0.1:{port}"
            try:
                _wait_for_server(url, server, state / "log.txt", start_s)
                yield Lab(url, root)
            finally:
                _stop_server(server)


def _wait_for_server(url: str, server: subprocess.Popen, log: Path, start_s: float) -> None:
    end = time.monotonic() + start_s
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/api/status", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def _stop_server(server: subprocess.Popen) -> None:
    # On the first signal the server ends its kernels, which otherwise outlive it.
    server.terminate()
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def wait_idle(page, timeout_s: float) -> None:
    """Wait until the status bar says that the kernel is idle."""
    page.get_by_text(re.compile(r"ipykernel\) \| Idle")).first.wait_for(timeout=timeout_s * 1000)


def trust(page) -> None:
    """Trust the open notebook, as its reader would."""
    page.keyboard.press("Control+Shift+c")
    page.keyboard.type("Trust Notebook")
    page.get_by_role("menuitem").filter(has_text="Trust Notebook").or_(
        page.locator(".lm-CommandPalette-item", has_text="Trust Notebook")
    ).first.click()
    page.locator(".jp-Dialog").get_by_role("button", name="Trust").click()


def run_all(page, timeout_s: float = 400, meanwhile: Callable[[Any], None] = lambda page: None) -> None:
    """Run > Run All Cells, and wait until every cell has run.   Raises: AssertionError with a cell's error."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    meanwhile(page)
    state = """() => {
        const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.textContent.trim());
        const told = [...document.querySelectorAll('[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]')];
        const error = told.find(output => /Traceback \\(most recent call last\\)/.test(output.textContent));
        return {waiting: prompts.some(p => p.includes('*')), ran: prompts.filter(p => /\\d/.test(p)).length,
                error: error ? error.textContent : ''};
    }"""  # noqa: E501
    end = time.monotonic() + timeout_s
    quiet = 0
    while time.monotonic() < end:
        now = page.evaluate(state)
        assert not now["error"], f"a cell failed:\n{now['error'][-3000:]}"
        quiet = quiet + 1 if now["ran"] and not now["waiting"] else 0
        if quiet >= 3:
            wait_idle(page, 30)
            return
        page.wait_for_timeout(200)
    raise AssertionError(f"the notebook still runs after {timeout_s} s: {now}")


def move_slider(
    page, keys: Sequence[str], slider: str, view: str, picture: str = "notebook.png"
) -> tuple[np.ndarray, np.ndarray]:
    """Move a slider of a notebook by keyboard, and wait until its view has changed, 15 s at most.

    Args:    keys: pressed one after another on the slider's handle.
             slider, view: CSS selectors; the first match counts.
             picture: name of a screenshot afterwards in outputs/browser/.
    Returns: the pixels of the view before and after; the first must not be blank.
    """
    canvas, handle = page.locator(view).first, page.locator(slider).first
    canvas.wait_for(timeout=30_000)
    canvas.scroll_into_view_if_needed()
    handle.focus()
    before = settled(page, canvas)
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 500, "the view is blank"
    for key in keys:
        handle.press(key)
        page.wait_for_timeout(150)
    end = time.monotonic() + 15  # the kernel answers when it can
    after = settled(page, canvas)
    while changed(before, after) == 0 and time.monotonic() < end:
        after = settled(page, canvas)
    save(picture, pixels(page))
    return before, after
