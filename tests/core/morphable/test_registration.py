import dataclasses

import numpy as np
import pytest
import trimesh
from oracles import SOLIDS, as_sets

from p2m_core.errors import InputError
from p2m_core.geometry.landmarks import MIRROR_68
from p2m_core.geometry.mesh import boundary_loops, mesh_edges, subdivide
from p2m_core.geometry.template import Template
from p2m_core.morphable import registration, semi_sphere
from p2m_core.morphable.model import FaceModel
from p2m_workbench.interop.face_models import template_report


def test_the_registered_levels(registered):
    template, _ = registered
    assert template.counts == (127, 469, 1801, 7057)
    for k, row in enumerate(template_report(template)):
        assert row["manifold"], k
        assert row["winding consistent"], k
        assert row["components"] == 1, k
        assert row["boundary loops"] == [36 * 2**k]
        assert row["mirror symmetric"]
    for k, pairs in enumerate(template.unpool):  # level k + 1 begins with level k
        assert pairs.max() < template.counts[k]
        assert as_sets(template.faces[k + 1]) == as_sets(subdivide(template.faces[k], pairs, template.counts[k]))


def test_every_template_vertex_lies_on_the_mean_face(registered, face_model):
    """Each row of the map is a point of one triangle of the face, or, over eyes, mouth and nostrils, of its lid."""
    template, operator = registered
    np.testing.assert_allclose(np.asarray(operator.sum(1)).ravel(), 1, atol=1e-9)
    assert operator.data.min() > -1e-6
    np.testing.assert_allclose(operator @ face_model.mean, template.vertices, atol=0.05)  # um
    faces = as_sets(face_model.triangles)
    edges = as_sets(mesh_edges(face_model.triangles))
    mean = face_model.mean.astype(float)
    outside = semi_sphere.facing_outwards(mean, face_model.triangles, semi_sphere.inner_point(face_model))
    rims = [set(loop.tolist()) for loop in boundary_loops(outside)[1:]]
    on_lids = 0
    for row in range(operator.shape[0]):
        entries = slice(operator.indptr[row], operator.indptr[row + 1])
        used = frozenset(operator.indices[entries][abs(operator.data[entries]) > 1e-9].tolist())
        if used not in faces and used not in edges and len(used) > 1:
            assert any(used <= rim for rim in rims), row
            on_lids += 1
    assert len(rims) == 5  # two eyes, the mouth, two nostrils
    assert 0 < on_lids < 0.1 * operator.shape[0]


def test_the_template_covers_the_face_and_looks_outwards(registered, face_model):
    template, _ = registered
    own = trimesh.triangles.area(template.vertices[template.faces[-1]]).sum()
    assert 0.85 < own / trimesh.triangles.area(face_model.mean[face_model.triangles]).sum() < 1
    centre = face_model.mean[face_model.landmark_idx][[0, 16]].mean(0)
    for faces in template.faces:
        corners = template.vertices[faces].astype(np.float64)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert ((normals * (corners.mean(1) - centre)).sum(1) > 0).mean() > 0.99
        assert normals[:, 2].sum() > 0


def test_landmarks_lie_on_the_template_within_a_millimetre(registered, face_model):
    template, _ = registered
    np.testing.assert_allclose(template.landmark_bary.sum(1), 1, atol=1e-6)
    assert template.landmark_bary.min() > -1e-6
    assert as_sets(template.landmark_faces) <= as_sets(template.faces[-1])
    distance = np.linalg.norm(template.landmarks(template.vertices) - face_model.mean[face_model.landmark_idx], axis=1)
    assert distance.mean() < 1000
    assert distance.max() < 5000


def test_landmarks_swap_sides_under_the_mirror(registered):
    template, _ = registered
    np.testing.assert_array_equal(MIRROR_68[MIRROR_68], np.arange(68))
    places = template.landmarks(template.vertices)
    assert np.linalg.norm(places[MIRROR_68] * [-1, 1, 1] - places, axis=1).mean() < 3000
    assert (places[:8, 0] < 0).all()  # the subject's right, on the picture's left


def test_landmarks_take_batches(registered):
    template, _ = registered
    many = np.stack([template.vertices, template.vertices * 2])
    expected = [
        sum(w * template.vertices[v] for v, w in zip(*corner, strict=True))
        for corner in zip(template.landmark_faces, template.landmark_bary, strict=True)
    ]
    np.testing.assert_allclose(template.landmarks(many)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(template.landmarks(many)[1], 2 * template.landmarks(many)[0])


def test_a_face_that_looks_away_is_refused(face_model):
    away = FaceModel(**{**vars(face_model), "mean": face_model.mean * np.float32([-1, 1, -1]), "name": "turned"})
    with pytest.raises(InputError, match=r"turned: mean: .* miss the mean face .*faces \+z"):
        semi_sphere.register(semi_sphere.semi_sphere(2, 1), away)


@pytest.mark.parametrize(("kind", "levels"), [("semi_sphere", 2), ("face", 1)])
def test_a_kept_template_is_the_one_that_was_made(face_model, kind, levels, monkeypatch, tmp_path):
    monkeypatch.setenv("P2M_HOME", str(tmp_path))
    make = registration.face_template.__wrapped__
    made = make(face_model, kind, 2, levels)
    monkeypatch.setattr(registration, "build_face_template", None)
    kept = make(face_model, kind, 2, levels)
    for (own, truth), (other, other_truth) in [(kept, made)]:
        for name, array in other.arrays().items():
            np.testing.assert_array_equal(own.arrays()[name], array, strict=True)
        for level, other_level in zip(own.faces, other.faces, strict=True):
            np.testing.assert_array_equal(level, other_level, strict=True)
        np.testing.assert_array_equal(truth(face_model.mean), other_truth(face_model.mean), strict=True)
        for eye, other_eye in zip(truth.eyes, other_truth.eyes, strict=True):
            np.testing.assert_array_equal(eye, other_eye, strict=True)
    moved = dataclasses.replace(face_model, mean=face_model.mean + 1)
    for asked in ((moved, kind, 2, levels), (face_model, kind, 2, levels + 1)):
        with pytest.raises(TypeError, match="not callable"):  # it is not there, and has to be made
            make(*asked)


def test_nearest_points_against_trimesh():
    mesh, _ = SOLIDS["torus"]
    points = np.random.default_rng(0).normal(size=(20, 3)) * 2
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    triangle, bary = semi_sphere.nearest_points(vertices, faces, points)
    found = (vertices[faces[triangle]] * bary[..., None]).sum(1)
    dense = Template.from_mesh(vertices, faces, 5).vertices  # its own points, finely spaced
    to_dense = np.linalg.norm(points[:, None] - dense, axis=2).min(1)
    distance = np.linalg.norm(found - points, axis=1)
    assert (distance <= to_dense + 1e-6).all()
    np.testing.assert_allclose(distance, to_dense, atol=0.02)
    assert bary.min() > -1e-9
