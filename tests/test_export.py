import numpy as np
import pytest
import trimesh
from PIL import Image
from specimens import made_up

from p2m_core import export
from p2m_core.errors import InputError
from p2m_core.facemesh import FaceMesh, to_world
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
    assert list(tmp_path.iterdir()) == []


def test_overlay_is_the_photo_size(tmp_path, specimen):
    path = export.save_overlay(tmp_path / "overlay.png", specimen)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), draw_overlay(specimen))
        assert picture.size == specimen.photo.shape[1::-1]
