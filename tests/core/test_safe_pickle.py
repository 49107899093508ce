import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from golden_networks import GOLDEN
from oracles import SOLIDS, Bomb, as_sets

from p2m_core import safe_pickle
from p2m_core.errors import InputError
from p2m_core.geometry.mesh import boundary_loops
from p2m_core.geometry.template import Template
from p2m_core.geometry.template_files import load_template
from p2m_workbench.interop.face_models import template_report


@pytest.fixture
def semi_dat() -> Path:
    path = SHARED / "golden" / "semi.dat"
    if not path.exists():
        pytest.skip("needs ../shared/golden/semi.dat (a template of an older port, not in the repository)")
    return path


def test_the_ancestors_file(semi_dat):
    template = load_template(semi_dat)
    assert template.counts == (141, 492, 1824, 7008)
    assert [len(faces) for faces in template.faces] == [210, 840, 3360, 13440]
    with np.load(GOLDEN / "semi_sphere.npz") as content:
        for k in range(4):
            assert as_sets(template.faces[k]) == as_sets(content[f"faces{k + 1}"])
        for k in range(3):
            np.testing.assert_array_equal(template.unpool[k], content[f"unpool{k + 1}"])
        np.testing.assert_array_equal(template.vertices[:141], content["coord"])
    assert [sorted(len(loop) for loop in boundary_loops(faces)) for faces in template.faces[:2]] == [
        [8, 64],
        [16, 128],
    ]
    report = template_report(template)
    assert all(row["manifold"] and row["winding consistent"] and row["components"] == 1 for row in report)
    assert template.landmark_faces.shape == template.landmark_bary.shape == (0, 3)


def dat_of(template):
    """A template in the layout of the older ports; each support is of the identity and of the adjacency."""
    supports = []
    for n, edges in zip(template.counts, template.edges, strict=True):
        own = np.arange(n)[:, None].repeat(2, 1)
        both = np.concatenate([edges, edges[:, ::-1], own])
        supports.append([(idx, np.ones(len(idx), np.float32), (n, n)) for idx in (own, both[np.lexsort(both.T[::-1])])])
    padding, laplace = [np.zeros((1, 4))] * 3, [np.zeros((n, 10), np.int64) for n in template.counts]
    return [template.vertices[: template.counts[0]], *supports, list(template.unpool), padding, padding, laplace]


def torus_template():
    mesh, _ = SOLIDS["torus"]
    return Template.from_mesh(mesh.vertices, mesh.faces, 3)


@pytest.fixture(scope="module")
def torus():
    return torus_template()


def test_a_dat_of_three_levels(torus, tmp_path):
    (tmp_path / "torus.dat").write_bytes(pickle.dumps(dat_of(torus), protocol=2))
    template = load_template(tmp_path / "torus.dat")
    assert template.counts == torus.counts
    np.testing.assert_allclose(template.vertices, torus.vertices, atol=1e-6)
    for k in range(3):
        assert as_sets(template.faces[k]) == as_sets(torus.faces[k])
    # a dat has no faces: they are found in the graph and wound alike
    assert all(row["winding consistent"] and row["boundary loops"] == [] for row in template_report(template))


class Evaluated(Bomb):
    def __reduce__(self):
        return eval, (f"open({str(self.target)!r}, 'w').close()",)


@pytest.mark.parametrize("kind", [Bomb, Evaluated])
@pytest.mark.parametrize("depth", [0, 1])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, kind, depth):
    trace = tmp_path / "trace"
    content = kind(trace)
    for _ in range(depth):  # hidden in an array of objects
        content = np.array([content, None], dtype=object)
    (tmp_path / "bad.dat").write_bytes(pickle.dumps([np.zeros((3, 3)), content]))
    with pytest.raises(InputError, match=r"bad\.dat: is not a pickle of numpy arrays: it asks for"):
        load_template(tmp_path / "bad.dat")
    assert not trace.exists()
    pickle.loads((tmp_path / "bad.dat").read_bytes())
    assert trace.exists()  # the file was dangerous


def test_python_2_pickles_of_arrays_are_read(tmp_path):
    content = [np.arange(6.0).reshape(2, 3), {"a": np.float32(2), "b": [np.array([1, 2])]}]
    for protocol in (0, 2, 5):
        (tmp_path / "a.dat").write_bytes(pickle.dumps(content, protocol=protocol))
        first, second = safe_pickle.load_arrays(tmp_path / "a.dat")
        np.testing.assert_array_equal(first, content[0])
        assert second["a"] == 2
        np.testing.assert_array_equal(second["b"][0], [1, 2])


def broken_dats(good):
    """Contents by what is wrong with them."""
    whole, n = pickle.dumps(good), len(good[0])

    def changed(place, value):
        return pickle.dumps([value if k == place else entry for k, entry in enumerate(good)])

    def supported(idx):
        return [good[1][0], (idx, *good[1][1][1:])]

    return {
        "cut": whole[: len(whole) // 2],
        "text": b"o not a pickle\n",
        "empty": b"",
        "dict": pickle.dumps({"a": 1}),
        "list": pickle.dumps([np.zeros((4, 3))]),
        "flat coordinates": changed(0, np.zeros(3 * n)),
        "edge to nowhere": changed(1, supported(np.concatenate([good[1][1][0], [[0, 5000]]]))),
        "no edges": changed(1, supported(good[1][0][0])),
        "pairs to nowhere": changed(4, [good[4][0] + 9999, *good[4][1:]]),
        "pairs that are no edges": changed(4, [np.zeros_like(good[4][0]), *good[4][1:]]),
        "an unpooling missing": changed(4, good[4][:-1]),
        "words": changed(4, ["a", "b"]),
    }


@pytest.mark.parametrize("name", broken_dats(dat_of(torus_template())))
def test_a_broken_dat_gives_one_line(torus, tmp_path, name):
    path = tmp_path / f"{name}.dat"
    path.write_bytes(broken_dats(dat_of(torus))[name])
    with pytest.raises(InputError, match=r"is not a (template|pickle of numpy arrays)") as caught:
        load_template(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


def test_an_unpickler_that_is_asked_for_a_class_by_an_attribute():
    """`numpy` as a module holds far more than arrays."""
    stream = b"\x80\x02cnumpy\nload\n."
    with pytest.raises(pickle.UnpicklingError, match=r"it asks for numpy\.load"):
        safe_pickle._ArraysOnly(io.BytesIO(stream)).load()
