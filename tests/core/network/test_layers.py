import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.nn import functional as F

from p2m_core.geometry.crop import px_to_ndc
from p2m_core.network.layers import GraphBlock, GraphBottleneck, GraphConv, SparseMap, Unpooling, pool_features


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def sparse(rows, columns, seed=0):
    return sp.random(rows, columns, density=0.2, random_state=np.random.default_rng(seed), format="csr")


def dense64(module):
    """A GraphConv as a function of float64 (V, B, C), by its formula A (X W) + X W_loop + b, a sample at a time."""

    def apply(x, adjacency):
        w, loop, bias = (p.detach().double().numpy() for p in (module.weight, module.loop_weight, module.bias))
        samples = [adjacency @ (x[:, b] @ w) + x[:, b] @ loop + bias for b in range(x.shape[1])]
        return np.stack(samples, 1)

    return apply


# --- sparse maps ---


@pytest.mark.parametrize(("rows", "columns", "batch", "channels"), [(7, 7, 1, 1), (12, 5, 3, 4), (5, 12, 2, 1)])
def test_sparse_map_and_its_gradient_equal_the_dense_product(rows, columns, batch, channels):
    matrix = sparse(rows, columns)
    x = torch.randn(columns, batch, channels, requires_grad=True)
    weight = torch.randn(rows, batch, channels)
    found = SparseMap(matrix)(x)
    (found * weight).sum().backward()
    dense = torch.from_numpy(matrix.toarray()).float()
    torch.testing.assert_close(found, torch.einsum("wv,vbc->wbc", dense, x))
    torch.testing.assert_close(x.grad, torch.einsum("wv,wbc->vbc", dense, weight))


def test_sparse_map_takes_what_is_not_contiguous_and_half_precision():
    matrix = sparse(6, 9)
    x = torch.randn(4, 9, 2).transpose(0, 1)
    dense = torch.from_numpy(matrix.toarray()).float()
    torch.testing.assert_close(SparseMap(matrix)(x), torch.einsum("wv,vbc->wbc", dense, x))
    low = SparseMap(matrix)(x.bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, torch.einsum("wv,vbc->wbc", dense, x.bfloat16().float()))


def test_sparse_map_is_no_part_of_a_checkpoint():
    assert not SparseMap(sparse(4, 4)).state_dict()
    assert not list(SparseMap(sparse(4, 4)).parameters())


def test_indices_need_not_be_sorted():
    matrix = sp.csr_matrix(([1.0, 2.0, 3.0], [2, 0, 1], [0, 2, 3]), shape=(2, 3))
    found = SparseMap(matrix)(torch.tensor([10.0, 100, 1000]).view(3, 1, 1))
    assert found.flatten().tolist() == [1020, 300]


# --- graph convolutions ---


@pytest.mark.parametrize(("channels_in", "channels_out", "batch"), [(3, 5, 1), (6, 2, 4)])
def test_graph_convolution_equals_its_formula(channels_in, channels_out, batch):
    adjacency, convolution = sparse(11, 11), GraphConv(channels_in, channels_out)
    torch.nn.init.normal_(convolution.bias)
    x = torch.randn(11, batch, channels_in)
    found = convolution(x, SparseMap(adjacency))
    expected = dense64(convolution)(x.double().numpy(), adjacency.toarray())
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5)


def test_gradients_of_the_convolution_reach_all_weights():
    adjacency, convolution = sparse(9, 9), GraphConv(4, 3)
    x = torch.randn(9, 2, 4, requires_grad=True)
    weight = torch.randn(9, 2, 3)
    (convolution(x, SparseMap(adjacency)) * weight).sum().backward()
    dense = torch.from_numpy(adjacency.toarray()).float()
    mixed = torch.einsum("wv,wbc->vbc", dense, weight)
    expected = {
        "weight": torch.einsum("vbi,vbo->io", x, mixed),
        "loop_weight": torch.einsum("vbi,vbo->io", x, weight),
        "bias": weight.sum((0, 1)),
    }
    for name, parameter in convolution.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])
    torch.testing.assert_close(x.grad, mixed @ convolution.weight.T + weight @ convolution.loop_weight.T)


@pytest.mark.parametrize("relu", [False, True])
def test_under_autocast_products_alone_are_rounded(relu):
    matrix, conv, x = sparse(40, 40), GraphConv(24, 16), torch.randn(40, 3, 24, requires_grad=True)
    found = {}
    for low in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            out = conv(x, SparseMap(matrix), relu=relu)
        assert out.dtype == torch.float32
        gradients = torch.autograd.grad(out.square().sum(), [x, *conv.parameters()])
        assert all(g.dtype == torch.float32 for g in gradients)
        found[low] = [out.detach(), *gradients]
    for exact, rounded in zip(found[False], found[True], strict=True):
        off = (rounded - exact).norm() / exact.norm()
        assert 1e-5 < off < 1e-2  # bf16 has 8 bits: each factor is off by 1/512 at most
    assert (found[True][0].bfloat16().float() != found[True][0]).any()  # sums have more digits than bf16


@pytest.mark.parametrize("kind", ["averaged", "prenorm"])
def test_blocks_equal_their_formula(kind):
    adjacency, block = sparse(8, 8), GraphBlock(5, kind)
    x = torch.randn(8, 2, 5)
    found = block(x, SparseMap(adjacency)).detach().numpy()
    dense, wide = adjacency.toarray(), x.double().numpy()
    if kind == "averaged":
        inner = np.maximum(dense64(block.conv1)(wide, dense), 0)
        expected = (wide + np.maximum(dense64(block.conv2)(inner, dense), 0)) / 2
    else:
        mean, variance = wide.mean(-1, keepdims=True), wide.var(-1, keepdims=True)
        inner = np.maximum(dense64(block.conv1)((wide - mean) / np.sqrt(variance + 1e-5), dense), 0)
        expected = wide + dense64(block.conv2)(inner, dense)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("blocks", [0, 2])
def test_bottleneck_gives_output_and_hidden_state(blocks):
    adjacency, stage = SparseMap(sparse(8, 8)), GraphBottleneck(4, 6, 3, blocks, "averaged")
    x = torch.randn(8, 2, 4)
    out, hidden = stage(x @ stage.conv1.both_weights(), adjacency)
    expected = F.relu(stage.conv1(x, adjacency))
    for block in stage.blocks:
        expected = block(expected, adjacency)
    assert len(stage.blocks) == blocks
    torch.testing.assert_close(hidden, expected)
    torch.testing.assert_close(out, stage.conv2(expected, adjacency))
    assert (out < 0).any()  # no ReLU at the end


# --- unpooling ---

PAIRS = np.array([[0, 1], [1, 2], [3, 0]])


def test_midpoints():
    x = torch.randn(4, 2, 5, requires_grad=True)
    new = Unpooling(PAIRS, 4, adaptive=False)(x)
    assert new.shape == (7, 2, 5)
    torch.testing.assert_close(new[:4], x)
    for k, (a, b) in enumerate(PAIRS):
        torch.testing.assert_close(new[4 + k], (x[a] + x[b]) / 2)
    new[4:].sum().backward()
    uses = torch.from_numpy(np.bincount(PAIRS.ravel(), minlength=4)).float() / 2
    torch.testing.assert_close(x.grad, uses.view(4, 1, 1).expand(4, 2, 5))


def test_adaptive_starts_at_midpoints_and_learns():
    x = torch.randn(4, 2, 5)
    adaptive = Unpooling(PAIRS, 4, adaptive=True)
    torch.testing.assert_close(adaptive(x), Unpooling(PAIRS, 4, adaptive=False)(x))
    with torch.no_grad():
        adaptive.new_pts_pos.copy_(torch.tensor([0.2, 0.9, 0.0]))
    new = adaptive(x)
    for k, ((a, b), t) in enumerate(zip(PAIRS, (0.2, 0.9, 0.0), strict=True)):
        torch.testing.assert_close(new[4 + k], t * x[a] + (1 - t) * x[b])
    new[4:].sum().backward()
    expected = torch.stack([(x[a] - x[b]).sum() for a, b in PAIRS])
    torch.testing.assert_close(adaptive.new_pts_pos.grad[:2], expected[:2])


def test_the_clamp_of_the_adaptive_position_acts():
    """A port of this layer computes the clamp and throws the result away."""
    x = torch.randn(4, 1, 3)
    found, held = Unpooling(PAIRS, 4, adaptive=True), Unpooling(PAIRS, 4, adaptive=True)
    with torch.no_grad():
        found.new_pts_pos.copy_(torch.tensor([1.7, -0.4, 0.3]))
        held.new_pts_pos.copy_(torch.tensor([1.0, 0.0, 0.3]))
    torch.testing.assert_close(found(x), held(x))
    torch.testing.assert_close(found(x)[4], x[0])
    assert list(found.state_dict()) == ["new_pts_pos"]  # the reference's name


# --- sampling ---


def test_features_at_pixel_centres_are_the_pixels():
    maps = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 8, 8)]
    for own, other in (maps, maps[::-1]):
        size = own.shape[-1]
        row, column = np.mgrid[:size, :size].reshape(2, -1)
        grid = torch.from_numpy(px_to_ndc(np.stack([column, row], 1).astype(float), size)).float()
        found = pool_features([own, other], grid[:, None].expand(-1, 2, -1), "zeros")
        assert found.shape == (size * size, 2, 8)
        expected = torch.stack([own[:, :, r, c] for r, c in zip(row, column, strict=True)])
        torch.testing.assert_close(found[..., : own.shape[1]], expected)


def test_features_between_pixels_are_bilinear_and_shallow_maps_come_first():
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)
    coarse = torch.full((1, 2, 2, 2), 7.0)
    grid = torch.tensor([[-0.3, 0.1], [0.25, -0.6]]).view(2, 1, 2)
    found = pool_features([ramp, coarse], grid, "zeros")
    torch.testing.assert_close(found[:, 0, 0], (grid[:, 0, 0] + 1) * 4 - 0.5)
    torch.testing.assert_close(found[:, 0, 1:][0], torch.tensor([7.0, 7.0]))


def test_what_lies_outside():
    bright = [torch.ones(1, 1, 4, 4)]
    grid = torch.tensor([[1.6, 0], [0, -3.0], [0.2, 0.2]]).view(3, 1, 2)
    assert pool_features(bright, grid, "zeros").flatten().tolist() == [0, 0, 1]
    assert pool_features(bright, grid, "border").flatten().tolist() == [1, 1, 1]
