"""p2m_synth.objects.writer: shapes that are closed, points that lie on them, and pictures that show them."""

import pickle
import shutil
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from p2m_core.errors import InputError
from p2m_core.geometry.camera import perspective_to_px
from p2m_synth.objects import writer
from p2m_synth.objects.sdf_shapes import CATEGORIES, polygon_distance
from p2m_synth.objects.writer import (
    FOCAL_PX,
    INPUT_PX,
    OFFSET,
    PICTURE_PX,
    POINTS,
    RADIUS_M,
    Job,
    mesh_of,
    view_path,
    write_model,
    write_objects,
)
from p2m_synth.scene.isosurface import surface_nets


def load(path):
    return pickle.loads(path.read_bytes())


def picture_of(path):
    """RGBA beside a .dat."""
    with Image.open(path.with_suffix(".png")) as picture:
        return np.asarray(picture)


def test_layout_and_lists(object_set):
    files = {split: (object_set / f"{split}.txt").read_text().split() for split in ("train", "test")}
    assert len(files["train"]) == len(files["test"]) == 3 * 2
    assert not {line.split("/")[2] for line in files["train"]} & {line.split("/")[2] for line in files["test"]}
    for line in files["train"] + files["test"]:
        top, category, _, folder, _ = line.split("/")
        assert (top, folder) == ("data_tf", "rendering")
        assert category in CATEGORIES
        points = load(object_set / line)
        assert points.dtype == np.float32
        assert POINTS[0] <= len(points) < POINTS[1]
        assert points.shape[1] == 6
        assert picture_of(object_set / line).shape == (PICTURE_PX, PICTURE_PX, 4)


def test_points_lie_where_the_picture_shows_the_object(object_set):
    scale = PICTURE_PX / INPUT_PX
    for path in object_set.rglob("*.dat"):
        points = load(path)[:, :3] - OFFSET
        distance = np.linalg.norm(points - (points.max(0) + points.min(0)) / 2, axis=1).max()
        assert RADIUS_M[0] * 0.8 < distance < RADIUS_M[1] * 1.2
        alpha = picture_of(path)[..., 3]
        assert not alpha[[0, 0, -1, -1], [0, -1, 0, -1]].any()
        centre = (PICTURE_PX - 1) / 2
        x, y, _ = perspective_to_px(points, (FOCAL_PX * scale,) * 2, (centre,) * 2, OFFSET).round().astype(int).T
        assert (alpha[y, x] > 0).mean() > 0.98  # and the others are off by the rounding
        # They fill it, too: no opaque pixel is far from all points.
        seen = np.zeros(alpha.shape, bool)
        seen[y, x] = True
        reach = np.lib.stride_tricks.sliding_window_view(np.pad(seen, 4), (9, 9)).any((2, 3))
        assert reach[alpha == 255].all()


def test_pictures_are_lit_and_coloured(object_set):
    for picture in map(picture_of, object_set.rglob("*.dat")):
        inside = picture[picture[..., 3] == 255][:, :3]
        assert len(inside) > 800
        assert inside.astype(float).std(0).max() > 8
        assert (picture[picture[..., 3] == 0][:, :3] == 255).all()


def test_a_model_depends_on_its_recipe_alone(object_set, tmp_path):
    category = list(CATEGORIES)[1]
    job = Job(tmp_path, category, 1, 1, 5)
    write_model(job)
    for suffix in (".dat", ".png"):
        path = view_path(job, 0).with_suffix(suffix)
        assert path.read_bytes() == (object_set / path.relative_to(tmp_path)).read_bytes()
    other = Job(tmp_path / "other", category, 1, 1, 6)
    write_model(other)
    assert view_path(other, 0).read_bytes() != view_path(job, 0).read_bytes()


def test_a_stopped_run_goes_on(object_set, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(object_set, out)
    gone, *kept = sorted(out.rglob("*.dat"))
    times = {path: path.stat().st_mtime_ns for path in kept}
    before = gone.read_bytes()
    gone.unlink()
    gone.with_suffix(".png").write_bytes(b"of a run that was killed")
    assert write_objects(out, 2, 2, 5) == out
    assert gone.read_bytes() == before
    assert picture_of(gone).shape == (PICTURE_PX, PICTURE_PX, 4)
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert not list(out.rglob("*.partial*"))


def test_sets_are_not_mixed(object_set, tmp_path):
    with pytest.raises(InputError, match=r"recipe\.json: the folder holds a set made with seed=5"):
        write_objects(object_set, 2, 2, seed=6)
    with pytest.raises(InputError, match="models: is 1"):
        write_objects(tmp_path, 1)


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("model", range(3))
def test_shapes_are_closed_and_points_lie_on_them(category, model):
    rng = np.random.default_rng(model)
    mesh = mesh_of(CATEGORIES[category](rng))
    vertices, faces, field = mesh.vertices, mesh.faces, mesh.solid.field
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges, uses = np.unique(np.sort(directed, 1), axis=0, return_counts=True)
    assert (uses == 2).all()
    assert len(np.unique(directed, axis=0)) == len(directed)
    assert len(vertices) - len(edges) + len(faces) == 2  # a sphere's, which an ellipsoid can be deformed to
    corners = vertices[faces]
    assert np.linalg.det(corners).sum() > 0  # six times the volume: wound outwards
    points, normals = mesh.sample(3000, rng)
    assert np.abs(field(points)).max() < 0.1 * mesh.step
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-9)
    assert (field(points + 0.2 * mesh.step * normals) > 0).mean() > 0.995
    assert (field(points - 0.2 * mesh.step * normals) < 0).mean() > 0.995
    # Even by area, so a half of the surface has its share of the points, within 4 standard deviations.
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    for axis in range(3):
        share = area[corners.mean(1)[:, axis] > 0].sum() / area.sum()
        assert abs((points[:, axis] > 0).mean() - share) < 4 * 0.5 / np.sqrt(3000) + 0.01


def test_shapes_of_a_category_differ():
    for draw in CATEGORIES.values():
        extents = [np.ptp(mesh_of(draw(np.random.default_rng(k))).vertices, axis=0) for k in range(2)]
        ratios = [extent / extent.max() for extent in extents]
        assert min(np.abs(a - b).max() for a, b in pairwise(ratios)) > 0.01


def test_surface_nets_find_a_sphere():
    axis = np.arange(21) - 10.0
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    vertices, faces = surface_nets(np.sqrt(x**2 + y**2 + z**2) - 7.3)
    vertices = vertices - 10
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 7.3, atol=0.15)
    assert np.linalg.det(vertices[faces]).sum() / 6 == pytest.approx(4 / 3 * np.pi * 7.3**3, rel=0.03)


def test_distance_to_a_polygon():
    notched = np.array([(0, 0), (4, 0), (4, 4), (2, 2), (0, 4)], float)
    points = np.array([(2, 1), (-1, 0), (5, 5), (2, 3), (2, 2), (1, 3.5)], float)
    expected = [1, 1, np.sqrt(2), np.sqrt(0.5), 0, np.sqrt(0.125)]
    found = polygon_distance(points, notched)
    np.testing.assert_allclose(np.abs(found), expected, atol=1e-12)
    assert (np.sign(found[[0, 1, 2, 3]]) == [-1, 1, 1, 1]).all()


def test_rotations_look_from_above():
    rotation = writer.view_rotation(30, 20)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert rotation[2, 1] == pytest.approx(np.sin(np.radians(20)))  # what points up leans towards the viewer
