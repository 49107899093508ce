"""The page whose slider moves meshes and curves together."""

import base64
import json
import re
import zlib

import numpy as np
import pandas as pd
import pytest
from browser import changed, open_page, pixels, save, settled
from example_predictions import made_up

from p2m_workbench.drawing.curves import curves
from p2m_workbench.drawing.moving_meshes import GRID, Track, moving_meshes_page


def about_of(page):
    return json.loads(re.search(r"<script>const about = (.*?);</script>", page, re.S)[1])


def unpacked(stored):
    """As page.js does it, (N, M)."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(stored["packed"])), "u1").astype(np.uint16)
    low, high = planes.reshape(2, stored["frames"], -1)
    return np.cumsum(low + 256 * high, axis=0, dtype=np.uint16)


def decoded(stored, about):
    """Points (N, V, 3), px."""
    steps = unpacked(stored).reshape(stored["frames"], -1, 3)
    return (np.array(about["low"]) + about["step"] * steps) * [1, -1, 1]


@pytest.fixture(scope="module")
def tracks():
    first = made_up("one </script>", rings=3, levels=3)
    start = first.mesh.vertices_px
    frames = np.stack([start * np.float32([1, 1, share]) for share in (0.2, 0.6, 1.0)])
    captions = [f"{k} %" for k in range(3)]
    points = start[::3] + np.float32([0, 0, 1])
    return [
        Track(first.name, first.photo, frames, first.mesh.faces, captions, truth=first.truth_px),
        Track("two", first.photo, frames[::-1], first.mesh.faces, captions, points=points),
    ]


def test_the_page_holds_every_frame_within_a_step_of_its_grid(tracks):
    about = about_of(moving_meshes_page("title", tracks, ["a", "b", "c"]))
    assert about["frames"] == ["a", "b", "c"]
    assert [track["name"] for track in about["tracks"]] == ["one </script>", "two"]
    for track, content in zip(tracks, about["tracks"], strict=True):
        for name, points, frames in (
            ("vertices", track.vertices, 3),
            ("truth", track.truth, 1),
            ("points", track.points, 1),
        ):
            if points is None:
                assert name not in content
                continue
            found = decoded(content[name], content)
            assert len(found) == frames
            np.testing.assert_allclose(found.reshape(np.shape(points)), points, atol=0.51 * content["step"])
        assert content["step"] == pytest.approx(
            np.ptp(np.concatenate([track.vertices.reshape(-1, 3)]), 0).max() / GRID, rel=0.3
        )


def test_a_slow_motion_takes_little_room(tracks):
    """Differences of frames that are alike deflate well: less than a byte a coordinate."""
    one = tracks[0]
    drift = one.vertices[2] + np.linspace(0, 3, 40, dtype=np.float32)[:, None, None]
    many = Track("many", one.photo, drift, one.faces, [""] * 40)
    content = about_of(moving_meshes_page("title", [many], [""] * 40))["tracks"][0]
    assert len(content["vertices"]["packed"]) < 0.7 * drift.size


@pytest.mark.browser
def test_the_slider_moves_meshes_captions_and_the_curves_lines(tracks, tmp_path):
    table = pd.DataFrame({"step": [0, 50, 100], "loss": [3.0, 2.0, 1.0], "val_error": [9.0, 5.0, 4.0]})
    page_path = tmp_path / "page.html"
    page_path.write_text(
        moving_meshes_page("Through it", tracks, ["step 0", "step 50", "step 100"], curves(table), [0, 50, 100]),
        "utf-8",
    )
    with open_page(1000, 800, offline=True) as page:
        page.goto(page_path.as_uri())
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        canvas, line = page.locator("#view"), page.locator("#curves i").first
        last = settled(page, canvas)
        assert len(np.unique(last.reshape(-1, 3), axis=0)) > 500, "the view is blank"
        assert page.locator("#where").inner_text() == "step 100"
        right = line.bounding_box()["x"]
        page.locator("#frame").press("Home")
        assert page.locator("#where").inner_text() == "step 0"
        assert "0 %" in page.locator("#captions").inner_text()
        first = settled(page, canvas)
        assert changed(last, first) > 0.01
        assert line.bounding_box()["x"] < right - 100
        box = page.locator("#curves").bounding_box()  # a click in the middle of the first panel goes to the middle step
        page.mouse.click((line.bounding_box()["x"] + right) / 2, box["y"] + box["height"] / 2)
        assert page.locator("#where").inner_text() == "step 50"
        page.locator("#errors").check()
        assert changed(settled(page, canvas), first) > 0.01
        save("moving-meshes.png", pixels(page))
        assert page.problems == []
