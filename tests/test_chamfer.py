import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2m_core.chamfer import chamfer_distance, gather, nearest

SIZES = [(1, 1, 1), (1, 1, 7), (2, 7, 1), (1, 40, 25), (4, 30, 30), (3, 5, 64)]


def clouds(batch, n, m, dtype=torch.float32, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return (torch.from_numpy(rng.normal(size=(batch, k, 3)) + offset).to(dtype) for k in (n, m))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("batch", "n", "m"), SIZES)
def test_nearest_equals_the_loop(batch, n, m, dtype):
    a, b = clouds(batch, n, m, dtype)
    d_ab, d_ba, idx_ab, idx_ba = nearest(a, b)
    assert (d_ab.shape, d_ba.shape) == ((batch, n), (batch, m))
    assert d_ab.dtype == dtype
    assert idx_ab.dtype == idx_ba.dtype == torch.int64
    for k in range(batch):
        for found, idx, x, y in ((d_ab, idx_ab, a, b), (d_ba, idx_ba, b, a)):
            distance, where = oracles.nearest(x[k].double().numpy(), y[k].double().numpy())
            np.testing.assert_allclose(found[k], distance, rtol=1e-5)
            np.testing.assert_array_equal(idx[k], where)


def test_nearest_in_clouds_of_a_meshs_size():
    """Large enough that the search tree has many leaves; the neighbour must be the nearest, not one of the near."""
    a, b = clouds(1, 3000, 2500, torch.float64)
    d_ab, d_ba, idx_ab, idx_ba = nearest(a, b)
    squared = ((a[0, :, None] - b[0]) ** 2).sum(-1)
    for found, idx, table in ((d_ab, idx_ab, squared), (d_ba, idx_ba, squared.T)):
        torch.testing.assert_close(found[0], table.min(1).values)
        torch.testing.assert_close(idx[0], table.argmin(1))


def test_distances_are_squared():
    d_ab, d_ba, _, _ = nearest(torch.tensor([[[0.0, 0, 0]]]), torch.tensor([[[0.0, 3, 4], [0, 0, 6]]]))
    assert d_ab.tolist() == [[25]]
    assert d_ba.tolist() == [[25, 36]]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=1, max_size=30),
    st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=1, max_size=30),
)
def test_ties_and_duplicates_give_a_nearest_point(a, b):
    """Points on a coarse lattice: which of the equally near ones is named is free, the distance is not."""
    x, y = torch.tensor(a).float()[None], torch.tensor(b).float()[None]
    d_ab, d_ba, idx_ab, idx_ba = nearest(x, y)
    for found, idx, p, q in ((d_ab, idx_ab, x, y), (d_ba, idx_ba, y, x)):
        np.testing.assert_array_equal(found[0], oracles.nearest(p[0].numpy(), q[0].numpy())[0])
        np.testing.assert_array_equal((p - gather(q, idx)).square().sum(-1), found)


def test_far_from_the_origin_nothing_is_lost():
    """The matrix-product form |a|^2 + |b|^2 - 2ab gives wrong neighbours here, and negative distances."""
    a, b = clouds(2, 60, 80, offset=1000.0)
    d_ab, _, idx_ab, _ = nearest(a, b)
    for k in range(2):
        distance, where = oracles.nearest(a[k].double().numpy(), b[k].double().numpy())
        np.testing.assert_array_equal(idx_ab[k], where)
        np.testing.assert_allclose(d_ab[k], distance, rtol=1e-3)
    same, _, own, _ = nearest(a, a)
    assert (same == 0).all()
    assert (own == torch.arange(60)).all()


def test_memory_order_does_not_matter():
    a, b = clouds(3, 10, 12)
    turned = a.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    wide = torch.zeros(3, 24, 6)
    wide[:, ::2, ::2] = b
    assert not turned.is_contiguous()
    for found, expected in zip(nearest(turned, wide[:, ::2, ::2]), nearest(a, b), strict=True):
        torch.testing.assert_close(found, expected)


def test_half_precision():
    a, b = (cloud.bfloat16() for cloud in clouds(1, 20, 20))
    expected = nearest(a.float(), b.float())
    found = nearest(a, b)
    torch.testing.assert_close(found[2], expected[2])
    torch.testing.assert_close(found[0].float(), expected[0], rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :0], r"has shape \(2, 0, 3\): expected \(B, N, 3\) with N of at least 1"),
        (lambda x: x[0], r"has shape \(9, 3\)"),
        (lambda x: x[..., :2], r"has shape \(2, 9, 2\)"),
        (lambda x: x * torch.nan, "holds numbers that are not finite"),
        (lambda x: x.index_fill(1, torch.tensor([3]), torch.inf), "holds numbers that are not finite"),
    ],
)
def test_bad_clouds_are_refused_by_name(side, change, message):
    pair = list(clouds(2, 9, 9))
    pair[side] = change(pair[side])
    with pytest.raises(ValueError, match=f"^{'ab'[side]} {message}"):
        nearest(*pair)


def test_batches_that_differ_are_refused():
    a, b = clouds(2, 5, 5)
    with pytest.raises(ValueError, match="a has 2 clouds, b has 1"):
        nearest(a, b[:1])


def test_gradients_flow_through_the_neighbours():
    a, b = clouds(2, 6, 9, torch.float64)
    a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: nearest(x, y)[:2], (a, b))
    assert torch.autograd.gradcheck(lambda x, y: chamfer_distance(x, y, 0.55), (a, b))


def test_gradient_at_coinciding_points_is_zero():
    a = torch.randn(1, 5, 3, requires_grad=True)
    chamfer_distance(a, a.detach().clone()).backward()
    assert (a.grad == 0).all()


def test_chamfer_distance_is_the_sum_of_both_ways():
    a, b = clouds(3, 20, 33)
    for opposite in (0.0, 0.55, 1.0):
        way, back = [], []
        for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True):
            way += oracles.nearest(y, x)[0].tolist()
            back += oracles.nearest(x, y)[0].tolist()
        expected = np.mean(way) + opposite * np.mean(back)
        assert float(chamfer_distance(a, b, opposite)) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(chamfer_distance(a, b), chamfer_distance(b, a))


def test_gather():
    points, idx = torch.randn(2, 5, 4), torch.tensor([[0, 4, 4], [2, 1, 0]])
    expected = torch.stack([points[k][idx[k]] for k in range(2)])
    torch.testing.assert_close(gather(points, idx), expected)
