"""The template whose edges follow lids and lips: on the mean face, and in 100 random ones with strong expressions."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from p2m_core.geometry.mesh import boundary_loops, mesh_edges
from p2m_core.geometry.template import GROUPS, Template
from p2m_core.morphable.feature_template import against_surface, feature_template, flatten
from p2m_core.morphable.model import onto_eyeballs
from p2m_core.morphable.registration import face_template
from p2m_core.morphable.semi_sphere import facing_outwards, inner_point
from p2m_synth.head.expression import draw_expression
from p2m_synth.head.identity import draw_identity
from p2m_workbench.interop.face_models import closest_on_surface, template_report

FACES = 100


@pytest.fixture(scope="module")
def registered(face_model):
    return face_template(face_model)


@pytest.fixture(scope="module")
def random_faces(head, face_model):
    """Vertices of people with expressions, blinks and open mouths among them."""
    rng = np.random.default_rng(5)
    drawn = [(head.shape_of(draw_identity(rng)), head.expression_of(draw_expression(rng)[1])) for _ in range(FACES)]
    return [face_model.vertices(*coefficients).astype(float) for coefficients in drawn]


def test_levels_are_sound_and_small_enough(registered):
    template, _ = registered
    assert template.counts[0] <= 180
    assert template.counts[-1] <= 10_500
    for row in template_report(template):
        assert row["manifold"]
        assert row["winding consistent"]
        assert row["components"] == 1
        assert len(row["boundary loops"]) == 1  # the rim alone: eyes and mouth are closed


def test_halves_mirror_each_other(registered):
    template, _ = registered
    mirror, faces = template.mirror, template.faces[-1]
    assert (mirror[mirror] == np.arange(len(mirror))).all()
    as_sets = {frozenset(face) for face in faces.tolist()}
    assert {frozenset(face) for face in mirror[faces].tolist()} == as_sets
    apart = np.linalg.norm(template.vertices[mirror] * [-1, 1, 1] - template.vertices, axis=1)
    assert np.median(apart) < 100  # um: the model itself is not quite even


def test_groups_are_patches_between_lids_and_lips(registered):
    template, _ = registered
    for faces, groups in zip(template.faces, template.groups, strict=True):
        assert len(faces) == len(groups)
        assert set(groups.tolist()) == set(range(len(GROUPS)))
        for group in (1, 2, 3):
            assert len(boundary_loops(faces[groups == group])) == 1
    right, left, mouth = (template.vertices[template.within(name)].mean(0) for name in GROUPS[1:])
    landmarks = template.landmarks(template.vertices)
    assert right[0] < 0 < left[0]
    for found, wanted in ((right, landmarks[36:42]), (left, landmarks[42:48])):
        assert np.linalg.norm((found - wanted.mean(0))[:2]) < 3000
    assert mouth[2] < landmarks[60:68, 2].mean()  # the membrane lies behind the lips


def test_the_mean_face_is_kept(registered, face_model):
    template, truth = registered
    mean = face_model.mean.astype(float)
    vertices, faces = truth(mean), template.faces[-1]
    operator = truth.operator[: len(vertices)]
    turned = against_surface(vertices, faces, operator, mean, face_model.triangles)
    assert not turned[template.groups[-1] == 0].any()
    skin = np.unique(facing_outwards(mean, face_model.triangles, inner_point(face_model)))
    skin = skin[~np.isin(cKDTree(vertices).query(mean[skin])[1], boundary_loops(faces)[0])]
    distance_mm = closest_on_surface(mean[skin], vertices, faces)[1] / 1000
    assert distance_mm.mean() < 0.06
    landmarks = mean[face_model.landmark_idx]
    for part in (landmarks[36:48], landmarks[48:68]):
        near = cKDTree(part).query(mean[skin])[0] < 12_000
        assert np.quantile(distance_mm[near], 0.95) < 0.15


def test_random_faces_keep_landmarks_openings_and_triangles(registered, face_model, random_faces):
    template, truth = registered
    operator, skin = truth.operator[: template.counts[-1]], template.groups[-1] == 0
    off, openings, turned = [], [], []
    for surface in random_faces:
        vertices, landmarks = truth(surface), surface[face_model.landmark_idx]
        size = np.sqrt(np.prod(np.ptp(landmarks[:, :2], axis=0)))
        found = template.landmarks(vertices)
        off.append(np.linalg.norm(found - landmarks, axis=1).mean() / size)
        openings.append([np.linalg.norm(points[62] - points[66]) / size for points in (landmarks, found)])
        against = against_surface(vertices, template.faces[-1], operator, surface, face_model.triangles)
        turned.append(against[skin].mean())
    true, seen = np.mean(openings, 0)
    assert true > 0.04  # mouths do open
    assert abs(seen / true - 1) < 0.02
    assert np.mean(off) < 0.001
    assert np.mean(turned) < 5e-4


def test_eyes_lie_on_their_eyeballs(registered, random_faces):
    _, truth = registered
    for surface in random_faces[:10]:
        vertices, eyeballs = truth(surface), (truth.operator @ surface)[-4:].reshape(2, 2, 3)
        for idx, (centre, front) in zip(truth.eyes, eyeballs, strict=True):
            radius = np.linalg.norm(front - centre)
            assert 11_000 < radius < 18_000
            np.testing.assert_allclose(np.linalg.norm(vertices[idx] - centre, axis=1), radius, rtol=1e-9)


def test_eyeballs_are_where_those_of_the_head_are(head, face_model):
    from p2m_synth.head.asset import PARTS, load_asset

    asset, rng = load_asset(), np.random.default_rng(1)
    for _ in range(5):
        coefficients = head.shape_of(draw_identity(rng)), head.expression_of(draw_expression(rng)[1])
        whole = head.vertices(*coefficients).astype(float)
        found = face_model.eyeball_map @ (head.face_map @ whole)
        for k, part in enumerate(("right_eye", "left_eye")):
            eyeball = whole[np.unique(asset["quads"][asset["part"] == PARTS.index(part)])]
            assert np.linalg.norm(found[2 * k] - (eyeball.max(0) + eyeball.min(0)) / 2) < 1500  # um


def test_eyeballs_do_not_show_how_many_threads_there_are(head, face_model):
    with threadpool_limits(2):
        again = head.eyeball_map()
    np.testing.assert_array_equal(again.toarray(), face_model.eyeball_map.toarray())


def test_points_of_coefficients_are_the_truth_of_vertices(registered, head, face_model):
    _, truth = registered
    rng = np.random.default_rng(2)
    shape, expression = head.shape_of(draw_identity(rng)), head.expression_of(draw_expression(rng)[1])
    found = truth.points(face_model).vertices(shape, expression)
    np.testing.assert_allclose(found, truth(face_model.vertices(shape, expression)), atol=1)  # um
    both = truth.points(face_model).vertices(np.stack([shape, 0 * shape]), np.stack([expression, 0 * expression]))
    np.testing.assert_allclose(both[0], found, atol=0.5)


def test_tensors_are_laid_onto_eyeballs_as_arrays_are():
    points = np.random.default_rng(0).normal(size=(2, 9, 3))
    eyes = (np.array([0, 2]), np.array([1]))
    tensor = onto_eyeballs(torch.from_numpy(points.copy()), [torch.from_numpy(idx) for idx in eyes])
    array = onto_eyeballs(points.copy(), eyes)
    assert array.shape == (2, 5, 3)
    np.testing.assert_allclose(tensor.numpy(), array)
    np.testing.assert_array_equal(array[:, 3:], points[:, 3:5])


def test_a_model_without_holes_gets_lids_and_lips_from_its_landmarks(face_model):
    """As the Basel model's, whose lids are closed by an eyeball."""
    from p2m_core.morphable.semi_sphere import capped

    closed, triangles = capped(face_model.triangles, len(face_model.mean))

    def wider(values):
        return (closed @ values.reshape(len(values), -1)).reshape(-1, *values.shape[1:]).astype(np.float32)

    model = dataclasses.replace(
        face_model,
        mean=wider(face_model.mean),
        shape_basis=wider(face_model.shape_basis[..., :2]),
        expression_basis=wider(face_model.expression_basis[..., :2]),
        triangles=triangles,
        eyeball_map=None,
    )
    template, operator = feature_template(model, 3)
    assert len(boundary_loops(template.faces[-1])) == 1
    assert set(template.groups[0].tolist()) == set(range(len(GROUPS)))
    assert operator.shape == (template.counts[-1], len(model.mean))


def test_the_disc_is_one_to_one(face_model):
    disc = flatten(face_model)
    a, b, c = np.moveaxis(disc.uv[disc.triangles], 1, 0)
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    assert (area > 0).all()
    inside = disc.uv[disc.triangles[::50]].mean(1)
    np.testing.assert_allclose(disc.weights(inside) @ disc.uv, inside, atol=1e-9)


def test_a_template_with_groups_survives_its_arrays(registered):
    template, _ = registered
    again = Template.from_arrays(template.arrays())
    for ours, theirs in zip(template.groups, again.groups, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(mesh_edges(again.faces[-1]), template.edges[-1])
