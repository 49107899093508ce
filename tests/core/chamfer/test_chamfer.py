import inspect
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from chamfer import compile_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import p2m_core.chamfer
from p2m_core.chamfer import BACKENDS, chamfer_distance, chosen_backend, gather, nearest, squared_to, use_backend

try:
    import triton  # here, since its own library must not be loaded under TRITON_INTERPRET, or nothing compiles after
except ImportError:
    triton = None

SIZES = [(1, 1, 1), (1, 1, 7), (2, 7, 1), (1, 40, 25), (4, 30, 30), (3, 5, 64), (1, 300, 9)]
KERNEL = "p2m_core.chamfer.triton_kernel"
needs_triton = pytest.mark.skipif(triton is None, reason="Triton is not installed")


def on(backend, device):
    marks = [needs_triton] * (backend == "triton") + [pytest.mark.gpu] * (device == "cuda")
    return pytest.param((backend, device), marks=marks, id=f"{backend}-{device}")


QUICK = [on("kdtree", "cpu"), on("torch", "cpu"), on("torch", "cuda"), on("triton", "cuda")]
ALL = [*QUICK, on("triton", "cpu")]  # the last runs in Triton's interpreter, some milliseconds a candidate


def load_kernel():
    """A fresh copy of the kernel's module: Triton reads TRITON_INTERPRET when it decorates."""
    spec = spec_from_file_location(KERNEL, Path(p2m_core.chamfer.__file__).with_name("triton_kernel.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=ALL)
def find(request, monkeypatch):
    """`nearest` by one back end on one device, of clouds and to results on the CPU."""
    backend, device = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if request.param == ("triton", "cpu"):
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setitem(sys.modules, KERNEL, load_kernel())

    def find(*clouds):
        moved = (None if x is None else x.to(device) for x in clouds)
        return tuple(x.cpu() for x in nearest(*moved, backend=backend))

    return find


quick = pytest.mark.parametrize("find", QUICK, indirect=True)


def clouds(batch, n, m, dtype=torch.float32, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return (torch.from_numpy(rng.normal(size=(batch, k, 3)) + offset).to(dtype) for k in (n, m))


def assert_equals_loop(found, a, b, rtol=1e-5):
    """Each way, cloud by cloud; the index of a float32 search may differ where two points are as near."""
    d_ab, d_ba, idx_ab, idx_ba = found
    assert idx_ab.dtype == idx_ba.dtype == torch.int64
    for d, idx, x, y in ((d_ab, idx_ab, a, b), (d_ba, idx_ba, b, a)):
        assert d.shape == idx.shape == x.shape[:2]
        for k in range(len(x)):
            distance, where = oracles.nearest(x[k].double().numpy(), y[k].double().numpy())
            np.testing.assert_allclose(d[k], distance, rtol=rtol)
            np.testing.assert_array_equal(idx[k], where)


# ------------------------------------------------------------------------------------------------ neighbours


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("batch", "n", "m"), SIZES)
def test_nearest_equals_the_loop(find, batch, n, m, dtype):
    a, b = clouds(batch, n, m, dtype)
    found = find(a, b)
    assert found[0].dtype == found[1].dtype == dtype
    assert_equals_loop(found, a, b)


@quick
def test_nearest_in_clouds_of_a_meshs_size(find):
    """Large enough that a search tree has many leaves, a table many chunks, a kernel's cloud many slices."""
    a, b = clouds(2, 3000, 5000, torch.float64)
    d_ab, d_ba, idx_ab, idx_ba = find(a, b)
    for k in range(2):
        squared = ((a[k, :, None] - b[k]) ** 2).sum(-1)
        for found, idx, table in ((d_ab, idx_ab, squared), (d_ba, idx_ba, squared.T)):
            torch.testing.assert_close(found[k], table.min(1).values)
            torch.testing.assert_close(idx[k], table.argmin(1))


@needs_triton
@pytest.mark.parametrize("find", [on("triton", "cpu")], indirect=True)
def test_slices_of_a_cloud_are_compared(find, monkeypatch):
    monkeypatch.setattr(sys.modules[KERNEL], "SLICE", 16)
    a, b = clouds(2, 70, 25)
    assert_equals_loop(find(a, b), a, b)
    monkeypatch.setattr(sys.modules[KERNEL], "MAX_SLICES", 2)
    assert_equals_loop(find(a, b), a, b)


@pytest.mark.parametrize("find", [on("triton", "cuda"), on("triton", "cpu")], indirect=True)
def test_blocks_of_a_cloud_are_compared_within_a_launch_and_between_launches(find, monkeypatch):
    a, b = clouds(2, 3 * 256 + 5, 9)
    assert_equals_loop(find(a, b), a, b)
    monkeypatch.setattr(sys.modules[KERNEL], "MAX_BLOCKS", 1)
    assert_equals_loop(find(a, b), a, b)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_chunks_of_the_table_are_compared(monkeypatch, rows):
    reference = import_module("p2m_core.chamfer.torch_chunked")
    a, b = clouds(2, 20, 11)
    monkeypatch.setattr(reference, "TABLE", {"cpu": rows * 2 * 11})
    assert_equals_loop(nearest(a, b, backend="torch"), a, b)


def test_ragged_clouds_equal_each_cloud_alone(find):
    """What stands beyond a length is of no account, not even NaN, and gets distance, index and gradient 0."""
    a, b = clouds(4, 20, 33)
    sizes_a, sizes_b = torch.tensor([20, 1, 7, 8]), torch.tensor([5, 33, 1, 16])
    for cloud, sizes in ((a, sizes_a), (b, sizes_b)):
        for k, size in enumerate(sizes):
            cloud[k, size:] = torch.nan if k % 2 else 0.01
        cloud.requires_grad_()
    found = find(a, b, sizes_a, sizes_b)
    (found[0].sum() + 3 * found[1].sum()).backward()
    for k, (n, m) in enumerate(zip(sizes_a, sizes_b, strict=True)):
        own = [cloud.detach()[k : k + 1, :size].requires_grad_() for cloud, size in ((a, n), (b, m))]
        alone = find(*own)
        (alone[0].sum() + 3 * alone[1].sum()).backward()
        for x, y, size in zip(found, alone, (n, m, n, m), strict=True):
            torch.testing.assert_close(x[k, :size], y[0])
            assert (x[k, size:] == 0).all()
        for cloud, y, size in zip((a, b), own, (n, m), strict=True):
            torch.testing.assert_close(cloud.grad[k, :size], y.grad[0])
            assert (cloud.grad[k, size:] == 0).all()


def test_full_lengths_change_nothing(find):
    a, b = clouds(2, 9, 12)
    for x, y in zip(find(a, b), find(a, b, torch.tensor([9, 9]), torch.tensor([12, 12])), strict=True):
        assert torch.equal(x, y)


def test_distances_are_squared(find):
    d_ab, d_ba, _, _ = find(torch.tensor([[[0.0, 0, 0]]]), torch.tensor([[[0.0, 3, 4], [0, 0, 6]]]))
    assert d_ab.tolist() == [[25]]
    assert d_ba.tolist() == [[25, 36]]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=1, max_size=30),
    st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=1, max_size=30),
)
def test_ties_and_duplicates_give_a_nearest_point(find, a, b):
    """Points on a coarse lattice: which of the equally near ones is named is free, the distance is not."""
    x, y = torch.tensor(a).float()[None], torch.tensor(b).float()[None]
    d_ab, d_ba, idx_ab, idx_ba = find(x, y)
    for found, idx, p, q in ((d_ab, idx_ab, x, y), (d_ba, idx_ba, y, x)):
        np.testing.assert_array_equal(found[0], oracles.nearest(p[0].numpy(), q[0].numpy())[0])
        np.testing.assert_array_equal((p - gather(q, idx)).square().sum(-1), found)


def test_far_from_the_origin_nothing_is_lost(find):
    """The matrix-product form |a|^2 + |b|^2 - 2ab gives wrong neighbours here, and negative distances."""
    a, b = clouds(2, 60, 80, offset=1000.0)
    assert_equals_loop(find(a, b), a, b, rtol=1e-6)
    same, _, own, _ = find(a, a)
    assert (same == 0).all()
    assert (own == torch.arange(60)).all()


def test_memory_order_does_not_matter(find):
    a, b = clouds(3, 10, 12)
    turned = a.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    wide = torch.zeros(3, 24, 6)
    wide[:, ::2, ::2] = b
    assert not turned.is_contiguous()
    for found, expected in zip(find(turned, wide[:, ::2, ::2]), find(a, b), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_searched_and_measured_in_float32(find, dtype):
    a, b = (cloud.to(dtype) for cloud in clouds(1, 20, 20))
    a.requires_grad_()
    found = find(a, b)
    for x, y in zip(found, find(a.float(), b.float()), strict=True):
        assert torch.equal(x, y)
    found[0].sum().backward()
    assert a.grad.dtype == dtype


# ------------------------------------------------------------------------------------------------ gradients


def loop_gradients(a, b):
    """Of sum d_ab + 3 sum d_ba, a point at a time."""
    grad_a, grad_b = np.zeros_like(a), np.zeros_like(b)
    for k in range(len(a)):
        for i, j in enumerate(oracles.nearest(a[k], b[k])[1]):
            grad_a[k, i] += 2 * (a[k, i] - b[k, j])
            grad_b[k, j] -= 2 * (a[k, i] - b[k, j])
        for j, i in enumerate(oracles.nearest(b[k], a[k])[1]):
            grad_b[k, j] += 6 * (b[k, j] - a[k, i])
            grad_a[k, i] -= 6 * (b[k, j] - a[k, i])
    return grad_a, grad_b


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_gradients_equal_the_loop(find, offset):
    """By direction (cosine), by size (relative L2), and without a drift (the mean of the error)."""
    a, b = (cloud.requires_grad_() for cloud in clouds(2, 40, 60, offset=offset))
    d_ab, d_ba, _, _ = find(a, b)
    (d_ab.sum() + 3 * d_ba.sum()).backward()
    expected = loop_gradients(a.detach().double().numpy(), b.detach().double().numpy())
    for cloud, y in zip((a, b), expected, strict=True):
        x = cloud.grad.double().numpy()
        assert (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()) > 1 - 1e-12
        assert np.linalg.norm(x - y) / np.linalg.norm(y) < 1e-6
        assert abs((x - y).mean()) / abs(y).mean() < 1e-7


def test_gradcheck_in_double(find):
    a, b = clouds(1, 4, 6, torch.float64)
    a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: find(x, y)[:2], (a, b))


def test_gradients_are_the_same_on_every_run(find):
    """Many points share a neighbour: a sum by atomics would come out differently."""
    a, b = clouds(1, 9, 200)
    runs = []
    for _ in range(3):
        x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
        d_ab, d_ba, _, _ = find(x, y)
        (d_ab.mean() + d_ba.mean()).backward()
        runs.append((x.grad, y.grad))
    assert all(torch.equal(g, h) for run in runs for g, h in zip(run, runs[0], strict=True))


def test_gradients_of_gradients():
    a, b = (cloud.requires_grad_() for cloud in clouds(2, 4, 3, torch.float64))
    idx = torch.tensor([[0, 2, 2, 1], [1, 1, 1, 0]])
    assert torch.autograd.gradgradcheck(lambda x, y: squared_to(x, y, idx), (a, b))


def test_one_cloud_may_need_no_gradient():
    a, b = clouds(1, 5, 6)
    for x, y in ((a.clone().requires_grad_(), b), (a, b.clone().requires_grad_())):
        chamfer_distance(x, y).backward()
    assert a.grad is b.grad is None


def test_gradient_at_coinciding_points_is_zero():
    a = torch.randn(1, 5, 3, requires_grad=True)
    chamfer_distance(a, a.detach().clone()).backward()
    assert (a.grad == 0).all()


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :0], r"has shape \(2, 0, 3\): expected \(B, N, 3\) with B and N of at least 1"),
        (lambda x: x[:0], r"has shape \(0, 9, 3\)"),
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


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("lengths", [[0, 5], [5, 10], [5], [5.0, 5.0], [[5, 5]]])
def test_bad_lengths_are_refused_by_name(side, lengths):
    pair = [None, None]
    pair[side] = torch.tensor(lengths)
    with pytest.raises(ValueError, match=rf"^lengths_{'ab'[side]} is \[.+\]: expected 2 int64 from 1 to 9"):
        nearest(*clouds(2, 9, 9), *pair)


def test_batches_that_differ_are_refused():
    a, b = clouds(2, 5, 5)
    with pytest.raises(ValueError, match="a has 2 clouds, b has 1"):
        nearest(a, b[:1])


# ------------------------------------------------------------------------------------------------ back ends


def test_the_device_chooses_the_back_end(monkeypatch):
    monkeypatch.delenv("P2M_CHAMFER", raising=False)
    assert chosen_backend("cpu") == chosen_backend(torch.device("cpu")) == "kdtree"
    for installed, name in ((object(), "triton"), (None, "torch")):
        monkeypatch.setattr(p2m_core.chamfer, "find_spec", lambda _, spec=installed: spec)
        assert chosen_backend("cuda:1") == name


def test_argument_before_context_before_environment(monkeypatch):
    monkeypatch.setenv("P2M_CHAMFER", "torch")
    assert chosen_backend("cpu") == "torch"
    with use_backend("triton"):
        assert chosen_backend("cpu") == "triton"
        assert chosen_backend("cpu", "kdtree") == "kdtree"
        with use_backend(None):
            assert chosen_backend("cuda") == "torch"
        assert chosen_backend("cpu") == "triton"
    assert chosen_backend("cpu") == "torch"


def test_the_chosen_back_end_searches(monkeypatch):
    calls = []
    a, b = clouds(1, 3, 4)
    for name in ("kdtree", "torch"):
        module = import_module(f"p2m_core.chamfer.{BACKENDS[name]}")
        real = module.nearest_idx
        monkeypatch.setattr(module, "nearest_idx", lambda *x, real=real, name=name: calls.append(name) or real(*x))
    with use_backend("torch"):
        nearest(a, b)
        chamfer_distance(a, b, backend="kdtree")
    assert calls == ["torch", "kdtree"]


def test_unknown_back_ends_are_refused(monkeypatch):
    message = "no chamfer back end is named 'cuda': there are kdtree, triton, torch"
    with pytest.raises(ValueError, match=message), use_backend("cuda"):
        pass
    with pytest.raises(ValueError, match=message):
        nearest(*clouds(1, 2, 2), backend="cuda")
    monkeypatch.setenv("P2M_CHAMFER", "cuda")
    with pytest.raises(ValueError, match=message):
        chosen_backend("cpu")


@needs_triton
def test_the_kernel_refuses_clouds_on_the_cpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="the Triton kernel needs clouds on CUDA, not on cpu"):
        nearest(*clouds(1, 2, 2), backend="triton")


@needs_triton
def test_back_ends_have_one_signature():
    modules = (import_module(f"p2m_core.chamfer.{name}") for name in BACKENDS.values())
    assert len({str(inspect.signature(inspect.unwrap(module.nearest_idx))) for module in modules}) == 1


def test_importing_loads_no_back_end():
    code = "import sys, p2m_core.chamfer; sys.exit(bool({'triton', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_the_kernel_compiles_without_spills(capability, dtype, tmp_path, monkeypatch):
    """To machine code of the A100, the H100 and the B200, with no GPU; registers are read off that code."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compile_for(load_kernel(), capability, dtype))
    assert cubin.read_bytes()[:4] == b"\x7fELF"
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    run = subprocess.run([tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True)
    used = dict(re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", run.stdout))
    assert (used["STACK"], used["LOCAL"], used["SHARED"]) == ("0", "0", "0")  # spills would lie on the stack
    assert int(used["REG"]) <= 168  # at least 12 warps an SM


# ------------------------------------------------------------------------------------------------ chamfer distance


@pytest.mark.parametrize("lengths", [None, ([20, 3, 1], [1, 33, 8])])
def test_chamfer_distance_is_the_sum_of_both_ways(lengths):
    a, b = clouds(3, 20, 33)
    sizes = lengths or ([20] * 3, [33] * 3)
    ragged = tuple(map(torch.tensor, lengths)) if lengths else (None, None)
    for opposite in (0.0, 0.55, 1.0):
        way, back = [], []
        for x, y, n, m in zip(a.double().numpy(), b.double().numpy(), *sizes, strict=True):
            way.append(oracles.nearest(y[:m], x[:n])[0].mean())
            back.append(oracles.nearest(x[:n], y[:m])[0].mean())
        expected = np.mean(way) + opposite * np.mean(back)
        assert float(chamfer_distance(a, b, opposite, *ragged)) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(chamfer_distance(a, b, 1.0, *ragged), chamfer_distance(b, a, 1.0, *ragged[::-1]))


def test_chamfer_distance_gradcheck():
    a, b = (cloud.requires_grad_() for cloud in clouds(2, 6, 9, torch.float64))
    lengths = torch.tensor([6, 2]), torch.tensor([1, 9])
    for ragged in ((), lengths):
        assert torch.autograd.gradcheck(lambda x, y, ragged=ragged: chamfer_distance(x, y, 0.55, *ragged), (a, b))


def test_gather():
    points, idx = torch.randn(2, 5, 4), torch.tensor([[0, 4, 4], [2, 1, 0]])
    expected = torch.stack([points[k][idx[k]] for k in range(2)])
    torch.testing.assert_close(gather(points, idx), expected)
