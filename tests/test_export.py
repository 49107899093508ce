import base64
import io
import json
import re

import numpy as np
import pytest
import trimesh
from PIL import Image
from specimens import made_up

from p2m_core import export
from p2m_core.errors import InputError
from p2m_core.facemesh import FaceMesh, Specimen, to_world
from p2m_core.raster import draw_overlay


@pytest.fixture(scope="module")
def specimen():
    return made_up(rings=3, levels=4)


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb", ".OBJ"])
@pytest.mark.parametrize("level", [0, -1])
def test_mesh_files_round_trip(tmp_path, specimen, suffix, level):
    mesh = specimen.mesh
    path = export.save_mesh(tmp_path / "deep" / f"face{suffix}", mesh, level)
    assert [p.name for p in path.parent.iterdir()] == [f"face{suffix}"]
    with open(path, "rb") as stream:
        back = trimesh.load(stream, file_type=suffix.lower()[1:], process=False, force="mesh", maintain_order=True)
    np.testing.assert_allclose(back.vertices, to_world(mesh.levels[level]), atol=1e-4)
    np.testing.assert_array_equal(back.faces, mesh.level_faces[level])
    # Outward: seen from the front, y up, the triangles wind counter-clockwise.
    assert (back.face_normals[:, 2] > 0).mean() > 0.9


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb"])
def test_vertex_colors_round_trip(tmp_path, specimen, suffix):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (len(specimen.mesh.vertices_px), 3))
    path = export.save_mesh(tmp_path / f"face{suffix}", specimen.mesh, vertex_colors=colors)
    back = trimesh.load(path, process=False, force="mesh", maintain_order=True)
    np.testing.assert_allclose(back.visual.vertex_colors[:, :3].astype(int), colors, atol=1)


def test_bad_mesh_files_are_one_clear_line(tmp_path, specimen):
    with pytest.raises(InputError, match=r"\.stl is not a mesh format"):
        export.save_mesh(tmp_path / "face.stl", specimen.mesh)
    mesh = specimen.mesh
    broken = mesh.vertices_px.copy()
    broken[5, 1] = np.nan
    broken = FaceMesh(broken, mesh.faces, (*mesh.levels[:-1], broken), mesh.level_faces, mesh.landmarks_px, mesh.box)
    with pytest.raises(InputError, match="vertex 5: 1 vertices are not finite"):
        export.save_mesh(tmp_path / "face.obj", broken)
    with pytest.raises(InputError, match="not finite"):
        export.write_html(tmp_path / "face.html", Specimen("x", broken, specimen.photo))
    assert list(tmp_path.iterdir()) == []


def test_overlay_is_the_photo_size(tmp_path, specimen):
    path = export.save_overlay(tmp_path / "overlay.png", specimen)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), draw_overlay(specimen))
        assert picture.size == specimen.photo.shape[1::-1]


# --- HTML -----------------------------------------------------------------------------------------


def data_of(page):
    return json.loads(re.search(r"<script>const specimen = (.*?);</script>", page, re.S).group(1))


def array(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_html_holds_the_specimen(specimen):
    data = data_of(export.html_page(specimen))
    for k, level in enumerate(data["levels"]):
        np.testing.assert_array_equal(array(level["position"], "<f4").reshape(-1, 3), to_world(specimen.mesh.levels[k]))
        np.testing.assert_array_equal(array(level["index"], "<u2").reshape(-1, 3), specimen.mesh.level_faces[k])
        np.testing.assert_allclose(array(level["error"], "<f4"), specimen.error_percent(k), rtol=1e-6)
    np.testing.assert_array_equal(array(data["truth"], "<f4").reshape(-1, 3), to_world(specimen.truth_px))
    assert (data["height"], data["width"]) == specimen.photo.shape[:2]


def test_html_without_truth_says_so():
    data = data_of(export.html_page(made_up(truth=False, rings=2, levels=2)))
    assert "truth" not in data
    assert "error" not in data["levels"][0]


def test_html_is_one_small_file_that_asks_for_nothing(tmp_path):
    specimen = made_up(name='</script><b title="x">&amp;')
    assert len(specimen.mesh.vertices_px) == 7057
    page = export.write_html(tmp_path / "view.html", specimen).read_text(encoding="utf-8")
    assert len(page.encode()) < 2.5e6
    assert [p.name for p in tmp_path.iterdir()] == ["view.html"]
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//)""", page)
    assert "default-src 'none'" in page
    assert not re.search(r"\{\{(title|three|specimen)\}\}", page)
    # The name can neither end the script nor open a tag.
    assert len(re.findall(r"</script", page)) == 3
    assert "<b title" not in page
    assert data_of(page)["name"] == specimen.name


def test_large_photos_are_scaled_down(specimen):
    photo = np.zeros((1500, 900, 3), np.uint8)
    page = export.html_page(Specimen("large", specimen.mesh, photo))
    head, content = data_of(page)["photo"].split(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (384, 640)


def test_many_vertices_get_wide_indices():
    vertices = np.zeros((70_000, 3), np.float32)
    vertices[:, 0] = np.arange(70_000)
    faces = np.array([[0, 1, 69_999]])
    mesh = FaceMesh(vertices, faces, (vertices,), (faces,), vertices[:68], np.array([0, 0, 1, 1]))
    page = export.html_page(Specimen("many", mesh, np.zeros((8, 8, 3), np.uint8)))
    level = data_of(page)["levels"][0]
    np.testing.assert_array_equal(array(level["index"], "<u4"), [0, 1, 69_999])


def test_a_missing_three_js_is_one_clear_line(tmp_path, monkeypatch, specimen):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pythreejs: is not installed"):
        export.write_html(tmp_path / "view.html", specimen)
    assert list(tmp_path.iterdir()) == []
