import base64
import io
import json
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest
from example_predictions import made_up
from PIL import Image

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh, to_world
from p2m_workbench.drawing import html_page, matcap
from p2m_workbench.drawing.mesh_images import clay_shares, error_scale
from p2m_workbench.face_prediction import FacePrediction, unpooled
from p2m_workbench.photos import export
from p2m_workbench.photos.eyeballs import eyeballs
from p2m_workbench.photos.rig import rig


@pytest.fixture(scope="module")
def prediction():
    return made_up(rings=3, levels=4)


def about(text):
    return json.loads(re.search(r"<script>const about = (.*?);</script>", text, re.S).group(1))


def array(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def unpacked(stored):
    """As page.js does it, (N, M)."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(stored["packed"])), "u1").astype(np.uint16)
    low, high = planes.reshape(2, stored["frames"], -1)
    return np.cumsum(low + 256 * high, axis=0, dtype=np.uint16)


def grid(stored, base=0.0):
    """Steps of the grid (V, 3), as viewer.js reads them from what they are over others."""
    return (unpacked(stored).reshape(-1, 3) + np.floor(base + 0.5)).astype(np.int64) % 2**16


def test_html_holds_the_prediction(prediction):
    told = about(html_page.html_page(prediction))
    [sample], [topology] = told["samples"], told["topologies"]
    content, mesh = sample["content"], prediction.mesh
    step, now = content["step"], None
    assert step < 0.01

    def agree(steps, true):
        np.testing.assert_allclose(steps * step + content["low"], to_world(true), atol=0.51 * step)

    for k, level in enumerate(topology):
        faces = unpacked(level["index"]).reshape(-1, 3)
        np.testing.assert_array_equal(faces, mesh.level_faces[k])
        assert (level["vertices"], level["faces"]) == (len(mesh.levels[k]), len(mesh.level_faces[k]))
        base = 0.0 if now is None else unpooled(now, np.zeros_like(mesh.levels[k]), faces)
        now = grid(content["levels"][k], base)
        agree(now, mesh.levels[k])
    agree(grid(content["truth"], now), prediction.truth_px)
    agree(grid(content["template"]), mesh.template_px)
    agree(grid(content["landmarks"]), mesh.landmarks_px)
    assert (content["height"], content["width"]) == prediction.photo.shape[:2]
    assert content["errorMaximum"] == error_scale(prediction.error_percent())


def test_html_tells_eyes_and_mouth(with_eyes, prediction):
    told, mesh = about(html_page.html_page(with_eyes)), with_eyes.mesh
    [shares] = unpacked(told["samples"][0]["content"]["clay"]) / 255
    expected = clay_shares(mesh.vertices_px, mesh.faces, mesh.groups)
    assert len(np.unique(expected)) == len(told["clayRamp"])
    np.testing.assert_allclose(shares, expected, atol=0.5 / 255)
    assert "clay" not in about(html_page.html_page(prediction))["samples"][0]["content"]


def test_html_without_truth_and_template_says_so():
    bare = made_up(truth=False, rings=2, levels=2)
    content = about(html_page.html_page(FacePrediction("x", replace(bare.mesh, template_px=None), bare.photo)))[
        "samples"
    ][0]["content"]
    assert not content.keys() & {"truth", "template", "errorMaximum"}


def test_html_holds_expressions_of_a_few_bits(tmp_path, with_eyes):
    """What the page adds for each unit is the rig's way, to a 127th of its largest."""
    found = rig(with_eyes.mesh)
    eyes = eyeballs(with_eyes.mesh, found)
    path = tmp_path / "with eyes.html"
    export.save_prediction(tmp_path, with_eyes, ["html", "rig"])
    assert path.stat().st_size < 3e6
    told = about(path.read_text(encoding="utf-8"))["samples"][0]["content"]["moving"]
    assert told["names"] == list(found.names)
    np.testing.assert_allclose(told["strength"], found.strength, atol=1e-4)
    shapes = [(found.ways, told["ways"]), *((eye.ways, t["ways"]) for eye, t in zip(eyes, told["eyes"], strict=True))]
    least = 1e-3 * np.ptp(found.neutral, axis=0).max()
    for ways, packed in shapes:
        for way, entry in zip(ways, packed, strict=True):
            read = np.zeros_like(way)
            if entry:
                moved = np.unpackbits(array(entry["moved"], "u1"), bitorder="little")[: len(way)].astype(bool)
                read[moved] = entry["step"] * array(entry["by"], "i1").reshape(-1, 3)
            np.testing.assert_allclose(read, way, atol=max(np.abs(way).max() / 254 * 1.01, least))
    np.testing.assert_allclose(array(told["eyes"][0]["neutral"], "<f4").reshape(-1, 3), eyes[0].neutral, rtol=1e-6)
    export.save_prediction(tmp_path, with_eyes, ["html"])  # without a rig, none
    assert "moving" not in about(path.read_text(encoding="utf-8"))["samples"][0]["content"]


def test_html_is_one_small_file_that_asks_for_nothing(tmp_path):
    prediction = made_up(name='</script><b title="x">&amp;')
    assert len(prediction.mesh.vertices_px) == 7057
    text = html_page.write_html(tmp_path / "view.html", prediction).read_text(encoding="utf-8")
    assert len(text.encode()) < 1.2e6
    assert [p.name for p in tmp_path.iterdir()] == ["view.html"]
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//)""", text)
    assert "default-src 'none'" in text
    assert not re.search(r"\{\{(title|three|about|packed|css|js)\}\}", text)
    assert "Permission is hereby granted" in text  # what three.js asks for
    # The name can neither end the script nor open a tag.
    assert len(re.findall(r"</script", text)) == 3
    assert "<b title" not in text
    assert about(text)["samples"][0]["name"] == prediction.name


def test_large_photos_are_scaled_down(prediction):
    photo = np.zeros((1500, 900, 3), np.uint8)
    content = about(html_page.html_page(FacePrediction("large", prediction.mesh, photo)))["samples"][0]["content"]
    head, picture = content["photo"].split(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (384, 640)


def test_many_vertices_get_wide_indices():
    vertices = np.zeros((70_000, 3), np.float32)
    vertices[:, 0] = np.arange(70_000)
    faces = np.array([[0, 1, 69_999]])
    mesh = FaceMesh(vertices, faces, (vertices,), (faces,), vertices[:68], np.array([0, 0, 1, 1]))
    told = about(html_page.html_page(FacePrediction("many", mesh, np.zeros((8, 8, 3), np.uint8))))
    np.testing.assert_array_equal(array(told["topologies"][0][0]["index"], "<u4"), [0, 1, 69_999])


def test_a_missing_three_js_is_one_clear_line(tmp_path, monkeypatch, prediction):
    html_page.three_js.cache_clear()
    monkeypatch.setattr(html_page.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pythreejs: is not installed"):
        html_page.write_html(tmp_path / "view.html", prediction)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_mesh_is_one_clear_line(tmp_path, prediction):
    broken = prediction.mesh.vertices_px.copy()
    broken[5, 1] = np.nan
    mesh = replace(prediction.mesh, levels=(*prediction.mesh.levels[:-1], broken))
    for write in (html_page.write_html, lambda path, prediction: html_page.write_gallery(path, [prediction])):
        with pytest.raises(InputError, match="not finite"):
            write(tmp_path / "face.html", FacePrediction("x", mesh, prediction.photo))
    assert list(tmp_path.iterdir()) == []


# --- gallery --------------------------------------------------------------------------------------


def test_a_gallery_sorts_and_shares(tmp_path, prediction):
    good = FacePrediction(
        "good", prediction.mesh, prediction.photo, prediction.mesh.vertices_px + np.float32([1, 0, 0])
    )
    unknown, other = FacePrediction("unknown", prediction.mesh, prediction.photo), made_up("other", rings=2, levels=2)
    index = html_page.write_gallery(tmp_path / "g", [unknown, prediction, other, good])
    told = about(index.read_text(encoding="utf-8"))
    names, errors = zip(*((s["name"], s.get("error")) for s in told["samples"]), strict=True)
    assert (names[0], names[-1], errors[-1]) == ("good", "unknown", None)
    assert list(errors[:3]) == sorted(errors[:3])
    assert errors[0] == pytest.approx(good.mean_error_percent())
    assert len(told["topologies"]) == 2  # three of them share one
    for sample in told["samples"]:
        script = (index.parent / f"{sample['file']}.js").read_text(encoding="utf-8")
        number, content = re.fullmatch(r"take\((\d+),(.*)\);\n", script, re.S).groups()
        assert told["samples"][int(number)] is sample
        assert json.loads(content)["name"] == sample["name"]
        with Image.open(index.parent / f"{sample['file']}.jpg") as picture:
            assert picture.size == (html_page.THUMBNAIL_PX,) * 2
    # A smaller one in the same place leaves nothing of the larger one, and nothing of others is touched.
    (index.parent / "samples" / "mine.js").write_text("")
    html_page.write_gallery(tmp_path / "g", iter([good]))
    assert {p.name for p in (index.parent / "samples").iterdir()} == {"0000.js", "0000.jpg", "mine.js"}
    with pytest.raises(InputError, match="no prediction"):
        html_page.write_gallery(tmp_path / "empty", [])


def test_a_thumbnail_shows_the_face():
    prediction = made_up()
    picture = np.asarray(Image.open(io.BytesIO(html_page.thumbnail(prediction, 100)))).astype(int)
    low, high = prediction.mesh.vertices_px[:, :2].min(0), prediction.mesh.vertices_px[:, :2].max(0)
    x, y = np.round((low + high) / 2).astype(int)
    np.testing.assert_allclose(
        picture[46:54, 46:54].mean((0, 1)), prediction.photo[y - 8 : y + 8, x - 8 : x + 8].mean((0, 1)), atol=14
    )


# --- light ------------------------------------------------------------------------------------------


def test_directions_are_the_normals():
    colors = matcap.directions().astype(float) / 127.5 - 1
    np.testing.assert_allclose(np.linalg.norm(colors, axis=-1), 1, atol=0.02)
    np.testing.assert_allclose(colors[128, 128], [0, 0, 1], atol=0.02)
    assert colors[128, 250, 0] > 0.9  # right is +x
    assert colors[6, 128, 1] > 0.9  # up is +y


def test_clay_is_lit_from_the_upper_left():
    grey = matcap.clay().mean(-1)
    upper_left, lower_right = grey[60:90, 60:90].mean(), grey[170:200, 170:200].mean()
    assert upper_left > lower_right + 60
    assert (matcap.paper().std(-1) == 0).all()


def test_what_the_photo_shows(prediction):
    height, width = prediction.photo.shape[:2]
    seen = matcap.seen_from_the_front(prediction.mesh, height, width)
    assert seen.shape == (256, round(256 * width / height))
    centre = prediction.mesh.vertices_px[:, :2].mean(0) * 256 / height
    assert seen[int(centre[1]), int(centre[0])] > 200
    assert seen[:10].max() == 0  # beside the mesh
    turned = replace(prediction.mesh, vertices_px=prediction.mesh.vertices_px * [-1, 1, -1] + [width, 0, 0])
    assert matcap.seen_from_the_front(turned, height, width).max() == 0  # its inside
