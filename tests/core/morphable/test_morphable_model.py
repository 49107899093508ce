import dataclasses

import numpy as np
import oracles
import pytest
from scipy import sparse

from p2m_core.morphable.model import FaceModel


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    return FaceModel(
        mean=rng.normal(size=(90, 3)).astype(np.float32),
        shape_basis=rng.normal(size=(90, 3, 7)).astype(np.float32),
        expression_basis=rng.normal(size=(90, 3, 4)).astype(np.float32),
        shape_sigma=np.linspace(5, 1, 7),
        expression_sigma=np.linspace(2, 1, 4),
        triangles=rng.integers(0, 90, (40, 3)),
        landmark_idx=rng.permutation(90)[:68],
    )


def coefficients(*batch):
    rng = np.random.default_rng(1)
    return rng.normal(size=(*batch, 7)), rng.normal(size=(*batch, 4))


def test_vertices_equal_the_loop(model):
    shape, expression = coefficients()
    expected = oracles.face_vertices(model.mean, model.shape_basis, model.expression_basis, shape, expression)
    np.testing.assert_allclose(model.vertices(shape, expression), expected, atol=1e-5)


@pytest.mark.parametrize("batch", [(), (1,), (0,), (5,), (2, 3)])
def test_a_batch_is_its_members(model, batch):
    shape, expression = coefficients(*batch)
    vertices, landmarks = model.vertices(shape, expression), model.landmarks(shape, expression)
    assert vertices.shape == (*batch, 90, 3)
    assert vertices.dtype == np.float32
    np.testing.assert_allclose(landmarks, vertices[..., model.landmark_idx, :], atol=1e-5)
    for idx in np.ndindex(*batch):
        np.testing.assert_allclose(vertices[idx], model.vertices(shape[idx], expression[idx]), atol=1e-5)


def test_missing_coefficients_are_zero_and_surplus_ones_are_refused(model):
    shape, expression = coefficients(3)
    padded = shape.copy()
    padded[:, 2:] = 0
    np.testing.assert_allclose(model.vertices(shape[:, :2], expression), model.vertices(padded, expression), atol=1e-6)
    np.testing.assert_array_equal(model.vertices(np.zeros((3, 0)), np.zeros((3, 0))), np.stack([model.mean] * 3))
    with pytest.raises(ValueError, match="8 coefficients for a basis of 7"):
        model.vertices(np.zeros(8), expression)


def test_the_model_of_sampled_points_is_the_sampled_model(model):
    shape, expression = coefficients(4)
    operator = sparse.random(33, 90, density=0.1, random_state=2, format="csr")
    expected = np.stack([operator @ v for v in model.vertices(shape, expression)])
    np.testing.assert_allclose(model.sampled(operator).vertices(shape, expression), expected, atol=1e-5)
    with pytest.raises(ValueError, match="33 columns"):
        model.sampled(operator.T)


def test_the_model_is_frozen(model):
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.mean = model.mean * 2
