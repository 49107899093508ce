"""Headless Chromium and JupyterLab for tests: start them, run a notebook, look at the pixels."""

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

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
def open_page(width: int = 1280, height: int = 860, offline: bool = False) -> Iterator:
    """A playwright page in a fresh Chromium; `page.problems` collects console errors and uncaught exceptions."""
    path = require_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
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


def settled(page, element, timeout_s: float = 60, pause_ms: int = 250) -> np.ndarray:
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


@contextmanager
def jupyter_lab(root_dir: Path, start_s: float = 60) -> Iterator[str]:
    """JupyterLab of this Python on a free port, with settings and state in a temporary folder.

    Yields its URL. Kernels see the repository and its tests on their path.
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
        places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
                  "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}  # fmt: skip
        paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, **{key: str(state / name) for key, name in places.items()},
                       "PYTHONPATH": os.pathsep.join(p for p in paths if p)}  # fmt: skip
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={root_dir}",
            "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
            "--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.extension_manager=readonly",
        ]  # fmt: skip
        with open(state / "log.txt", "w+") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            url = f"http://127.0.0.1:{port}"
            try:
                _wait_for_server(url, server, state / "log.txt", start_s)
                yield url
            finally:
                _stop_server(url, server)


def _wait_for_server(url: str, server: subprocess.Popen, log: Path, start_s: float) -> None:
    end = time.monotonic() + start_s
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/api/status", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def _stop_server(url: str, server: subprocess.Popen) -> None:
    # On the first signal the server ends its kernels, which otherwise outlive it.
    server.terminate()
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def open_notebook(page, url: str, path: str, timeout_s: float = 90) -> None:
    """Open a notebook, path relative to the server's root, and wait for its kernel: earlier clicks are dropped."""
    page.goto(f"{url}/lab/workspaces/test/tree/{path}?reset")
    wait_idle(page, timeout_s)


def wait_idle(page, timeout_s: float) -> None:
    """Wait until the status bar says that the kernel is idle."""
    page.get_by_text(re.compile(r"ipykernel\) \| Idle")).first.wait_for(timeout=timeout_s * 1000)


def run_all(page, timeout_s: float = 180) -> None:
    """Run > Run All Cells, and wait until every cell has run.   Raises: AssertionError with a cell's error."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    state = """() => {
        const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.textContent.trim());
        const error = document.querySelector('[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"] .jp-error');
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


@dataclass
class SliderRun:
    """What a notebook's view looked like before and after its slider moved, and what the console said."""

    before: np.ndarray
    after: np.ndarray
    problems: list[str] = field(default_factory=list)

    @property
    def changed(self) -> float:
        """Share of the view's pixels that changed."""
        return changed(self.before, self.after)


def run_notebook_and_move_slider(
    notebook_path: Path,
    root_dir: Path | None = None,
    keys: Sequence[str] = ("ArrowLeft", "ArrowLeft"),
    slider: str = ".p2m-level .noUi-handle",
    view: str = ".p2m-inspector canvas",
    picture: str = "notebook.png",
    timeout_s: float = 240,
    then=None,
) -> SliderRun:
    """Open a notebook in JupyterLab, Run All, move a slider by keyboard, and compare the view's pixels.

    Args:    notebook_path: the notebook, inside `root_dir` (its own folder if None).
             keys: pressed one after another on the slider's handle.
             slider, view: CSS selectors; the first match counts. The defaults are those of
             `p2m_workbench.viewing.inspect`.
             picture: name of the screenshots in outputs/browser/ (`<stem>-before.png` is the other one).
             then: called with (page, canvas locator) afterwards, for further checks.
    Returns: the pixels of the view before and after.
    """
    require_browser()
    notebook_path = Path(notebook_path).resolve()
    root_dir = Path(root_dir or notebook_path.parent).resolve()
    with jupyter_lab(root_dir) as url, open_page(1400, 1000) as page:
        open_notebook(page, url, notebook_path.relative_to(root_dir).as_posix())
        run_all(page, timeout_s)
        canvas, handle = page.locator(view).first, page.locator(slider).first
        canvas.wait_for(timeout=30_000)
        canvas.scroll_into_view_if_needed()
        handle.focus()
        before = settled(page, canvas)
        stem = Path(picture).stem
        save(f"{stem}-before.png", pixels(page))
        for key in keys:
            handle.press(key)
            page.wait_for_timeout(150)
        end = time.monotonic() + 15  # the kernel answers when it can
        after = settled(page, canvas)
        while changed(before, after) == 0 and time.monotonic() < end:
            after = settled(page, canvas)
        save(picture, pixels(page))
        if then is not None:
            then(page, canvas)
        return SliderRun(before, after, list(page.problems))
