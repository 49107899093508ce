import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from browser import changed, open_page, pixels, save, settled
from example_predictions import made_up
from IPython.display import HTML

from p2m_core.geometry.template import Template
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.measuring.vertex_differences import sample_difference
from p2m_workbench.viewing import DifferenceView, compare_weights


@pytest.fixture(scope="module")
def pairs():
    """Four samples by two weights, of which the second are further off on the upper half of the face each time."""
    found = []
    for k in range(4):
        prediction = made_up(f"face {k}", rings=3)
        truth, noise = prediction.truth_px, np.random.default_rng(k).normal(size=(2, *prediction.truth_px.shape))
        upper = (truth[:, 1] < truth[:, 1].mean())[:, None]
        two = (truth + noise[0], truth + noise[1] + upper * np.float32([6 + k, 0, 0]))
        meshes = [
            replace(prediction.mesh, vertices_px=np.float32(v), levels=(*prediction.mesh.levels[:-1], np.float32(v)))
            for v in two
        ]
        found.append(tuple(FacePrediction(prediction.name, mesh, prediction.photo, truth) for mesh in meshes))
    return found


@pytest.fixture(scope="module")
def template(pairs):
    mesh = pairs[0][0].mesh
    return Template.from_mesh(np.float32(mesh.levels[0] * [1, -1, 1]), mesh.level_faces[0], len(mesh.levels))


def test_the_mean_then_the_samples_by_difference(pairs, template):
    [view, _, picture] = compare_weights(("ours", "theirs"), pairs[:3], pairs, template)
    assert isinstance(view, DifferenceView)
    assert picture.data[:4] == b"\x89PNG"
    means = [sample_difference(*pair).mean for pair in pairs]
    assert [b.description for b in view.thumbnails] == [
        f"mean {np.mean(means):+.2f}",
        *(f"{m:+.2f}" for m in sorted(means[:3])),
    ]
    assert "mean over 4 samples" in view._title.value
    truth = pairs[0][0].truth_px
    upper = truth[:, 1] < truth[:, 1].mean()
    beyond = view.difference.beyond
    assert beyond[upper].mean() > 0.9
    assert beyond[~upper].mean() < 0.05
    v = view.scene.solid.geometry.attributes["uv"].array[:, 1]
    np.testing.assert_array_equal(v, np.float32(np.where(beyond, 0.75, 0.25)))  # grey in the texture's lower half
    assert view.scene.solid.material is view.scene.materials["difference"]
    assert not view.scene.photo.visible
    view.thumbnails[1].click()
    assert view.shape.options == ("ground truth", "ours", "theirs")
    worst = max(pairs[:3], key=lambda pair: -sample_difference(*pair).mean)
    assert view.titles[view.index] == worst[0].name
    assert view.scene.photo.visible
    points, u = sample_difference(*worst).points, view.scene.solid.geometry.attributes["uv"].array[:, 0]
    np.testing.assert_allclose((u * 256 - 0.5) / 255, np.clip(points / view.maximum, -1, 1) / 2 + 0.5, atol=1e-5)
    view.shape.value = "theirs"
    expected = worst[1].mesh.vertices_px * [1, -1, 1]
    np.testing.assert_allclose(view.scene.solid.geometry.attributes["position"].array, expected, atol=1e-3)


def test_a_click_tells_both_errors(pairs, template):
    [view, *_] = compare_weights(("ours", "theirs"), pairs, pairs, template)
    view.choose(2)
    shown = view.shapes[2][view.shape.value]
    face = shown.mesh.faces[7]
    height, width = shown.photo.shape[:2]
    x, y = shown.mesh.vertices_px[face[0], :2]
    view.scene.picker.set_state(
        {
            "face": face.tolist(),
            "uv": [(x + 0.5) / width, 1 - (y + 0.5) / height],
            "point": [0.0, 0.0, 1.0],
            "faceIndex": 7,
        }
    )
    text = re.sub("<[^>]+>", " ", view.read_out.value)
    told = re.search(r"vertex (\d+)\s+ours:\s+([\d.]+) %\s+theirs:\s+([\d.]+) %\s+difference ([+-][\d.]+) points", text)
    vertex, ours, theirs, points = map(float, told.groups())
    difference = view.difference
    assert vertex == face[0]
    assert (ours, theirs) == pytest.approx((difference.ours[face[0]], difference.theirs[face[0]]), abs=0.006)
    assert points == pytest.approx(ours - theirs, abs=0.011)


def test_other_templates_are_told_plainly(pairs, template):
    other = made_up("other", rings=2)
    [line] = compare_weights(("ours", "theirs"), [], [(pairs[0][0], other)], template)
    assert isinstance(line, HTML)  # of a widget a page without a kernel shows nothing
    assert "No difference can be shown" in line.data
    assert "meshes of their own" in line.data


@pytest.mark.browser
def test_what_stays_without_a_kernel_shows_both_meshes_of_a_chosen_sample(pairs, template, tmp_path):
    [view, kept, _] = compare_weights(("ours", "theirs"), pairs, pairs, template)
    text = html.unescape(re.search(r'data-page="(.*?)"', kept.data, re.S)[1])
    about = json.loads(re.search(r"<script>const about = (.*?);</script>", text, re.S)[1])
    assert [track["name"] for track in about["tracks"]] == ["mean over 4 samples", "ours", "theirs"]
    assert about["frames"] == [f"{view.titles[k]}: {view.differences[k].mean:+.2f} points" for k in range(1, 5)]
    means = [np.nanmean(difference.theirs) for difference in view.differences[1:]]
    assert about["tracks"][2]["captions"] == [f"mean error {mean:.2f} % of the face size" for mean in means]
    assert len(about["photos"]) == 5  # ours and theirs share theirs
    path = tmp_path / "page.html"
    path.write_text(text, "utf-8")
    with open_page(1000, 600, offline=True) as page:
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        canvas = page.locator("#view")
        first = settled(page, canvas)
        page.locator("#choice").select_option(about["frames"][-1])
        assert means[-1] != means[0]
        assert about["tracks"][2]["captions"][-1] in page.locator("#captions").inner_text()
        chosen = settled(page, canvas)
        third = first.shape[1] // 3
        assert changed(first[:, :third], chosen[:, :third]) < 0.001  # the mean stays
        assert changed(first[:, third:], chosen[:, third:]) > 0.01
        page.locator("#errors").uncheck()
        assert changed(settled(page, canvas), chosen) > 0.01
        save("kept-differences.png", pixels(page))
        assert page.problems == []
