import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import trimesh
from conftest import SHARED

from p2m_core import legacy
from p2m_core import template as tpl
from p2m_core.errors import InputError
from p2m_core.faces import registration
from p2m_core.faces.linear_model import FaceModel
from p2m_core.synthetic.face_model import MIRROR_68
from p2m_core.template import Template

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module", params=["semi_sphere", "ellipsoid"])
def golden(request):
    """Arrays of a reference template, and its number of levels."""
    with np.load(GOLDEN / f"{request.param}.npz") as file:
        content = {name: file[name] for name in file.files}
    return content, sum(name.startswith("faces") for name in content)


@pytest.fixture
def semi_dat() -> Path:
    path = SHARED / "golden" / "semi.dat"
    if not path.exists():
        pytest.skip("needs ../shared/golden/semi.dat (a template of an older port, not in the repository)")
    return path


def as_sets(faces):
    return {frozenset(face) for face in np.asarray(faces).tolist()}


def count_of(level_faces):
    return int(level_faces.max()) + 1


def euler(vertices, faces):
    return vertices - len(tpl.mesh_edges(faces)) + len(faces)


SOLIDS = {  # name: mesh, Euler characteristic
    "sphere": (trimesh.creation.icosphere(subdivisions=1), 2),
    "torus": (trimesh.creation.torus(2, 0.7, major_sections=9, minor_sections=6), 0),
}


# --- against the reference templates ---


def test_adjacency_of_the_reference_from_its_faces_alone(golden):
    content, levels = golden
    for k in range(1, levels + 1):
        faces = content[f"faces{k}"]
        n = len(content[f"laplace{k}"])
        expected = sp.coo_matrix((content[f"adj{k}_val"], content[f"adj{k}_idx"]), shape=(n, n)).tocsr()
        found = tpl.rescaled_laplacian(tpl.mesh_edges(faces), n)
        assert abs(found - expected).max() < 1e-5
        assert found.nnz == expected.nnz


def test_edges_are_those_of_the_reference(golden):
    content, levels = golden
    for k in range(1, levels + 1):
        support = content[f"edges{k}"]  # both directions and self loops
        once = support[support[:, 0] < support[:, 1]]
        np.testing.assert_array_equal(tpl.mesh_edges(content[f"faces{k}"]), once[np.lexsort(once.T[::-1])])


def test_subdivision_by_the_references_pairs_gives_its_faces(golden):
    content, levels = golden
    pairs = [content[f"unpool{k}"] for k in range(1, levels)]
    count = len(content[f"laplace{levels}"])
    for k, faces in enumerate(tpl.subdivided_faces(content["faces1"], pairs, count), 1):
        assert as_sets(faces) == as_sets(content[f"faces{k}"])


def test_laplacian_neighbourhoods_are_those_of_the_reference(golden):
    content, levels = golden
    for k in range(1, levels + 1):
        graph = tpl.undirected(tpl.mesh_edges(content[f"faces{k}"]), len(content[f"laplace{k}"]))
        for v, row in enumerate(content[f"laplace{k}"].tolist()):
            *neighbours, own, degree = row
            found = graph.indices[graph.indptr[v] : graph.indptr[v + 1]]
            assert (set(found.tolist()), v, len(found)) == ({n for n in neighbours if n >= 0}, own, degree)


def test_the_ancestors_file(semi_dat):
    template = Template.load(semi_dat)
    assert template.counts == (141, 492, 1824, 7008)
    assert [len(faces) for faces in template.faces] == [210, 840, 3360, 13440]
    with np.load(GOLDEN / "semi_sphere.npz") as content:
        for k in range(4):
            assert as_sets(template.faces[k]) == as_sets(content[f"faces{k + 1}"])
        for k in range(3):
            np.testing.assert_array_equal(template.unpool[k], content[f"unpool{k + 1}"])
        np.testing.assert_array_equal(template.vertices[:141], content["coord"])
    assert [sorted(len(loop) for loop in tpl.boundary_loops(faces)) for faces in template.faces[:2]] == [[8, 64], [16, 128]]
    report = template.report()
    assert all(row["manifold"] and row["winding consistent"] and row["components"] == 1 for row in report)
    assert template.landmark_faces.shape == template.landmark_bary.shape == (0, 3)


# --- any mesh ---


@pytest.mark.parametrize("name", SOLIDS)
def test_levels_of_any_mesh(name):
    mesh, characteristic = SOLIDS[name]
    template = Template.from_mesh(mesh.vertices, mesh.faces, 3)
    np.testing.assert_array_equal(template.faces[0], mesh.faces)
    areas = []
    for k in range(3):
        n, faces, edges = template.counts[k], template.faces[k], template.edges[k]
        assert count_of(faces) == n
        assert euler(n, faces) == characteristic
        areas.append(trimesh.triangles.area(template.vertices[:n][faces]).sum())
        if k < 2:
            assert template.counts[k + 1] == n + len(edges)  # V' = V + E
            assert len(template.faces[k + 1]) == 4 * len(faces)  # F' = 4 F
            np.testing.assert_array_equal(template.unpool[k], edges)
            middle = template.vertices[edges].mean(1)
            np.testing.assert_allclose(template.vertices[n : template.counts[k + 1]], middle, atol=1e-6)
    np.testing.assert_allclose(areas, areas[0], rtol=1e-5)  # flat triangles in four: the surface stays
    # wound as before: the finest level's normals are those of the triangles that they came from
    normals = [trimesh.triangles.normals(template.vertices[faces])[0] for faces in template.faces]
    np.testing.assert_allclose(normals[1], np.tile(normals[0], (4, 1)), atol=1e-4)
    assert [row["boundary loops"] for row in template.report()] == [[], [], []]


def test_adjacency_against_dense_algebra():
    mesh, _ = SOLIDS["torus"]
    template = Template.from_mesh(mesh.vertices, mesh.faces, 2)
    for faces, found, mean, n in zip(template.faces, template.adjacency, template.neighbour_mean, template.counts, strict=True):
        graph = np.zeros((n, n))
        for a, b, c in faces:
            for i, j in ((a, b), (b, c), (c, a)):
                graph[i, j] = graph[j, i] = 1
        degree = graph.sum(1)
        laplacian = np.eye(n) - graph / np.sqrt(np.outer(degree, degree))
        largest = np.linalg.eigvalsh(laplacian)[-1]
        np.testing.assert_allclose(found.toarray(), 2 / largest * laplacian - np.eye(n), atol=1e-6)
        eigenvalues = np.linalg.eigvalsh(found.toarray())
        assert (eigenvalues.min(), eigenvalues.max()) == pytest.approx((-1, 1), abs=1e-6)
        np.testing.assert_allclose(mean.toarray(), graph / degree[:, None])


def test_the_report_sees_what_is_wrong():
    mesh, _ = SOLIDS["sphere"]
    vertices, faces = np.array(mesh.vertices), np.asarray(mesh.faces)
    [good] = Template.from_mesh(vertices, faces, 1).report()
    assert (good["vertices"], good["edges"], good["faces"]) == (42, 120, 80)
    assert good["mirror symmetric"]
    turned = faces.copy()
    turned[0] = turned[0, ::-1]
    assert not Template.from_mesh(vertices, turned, 1).report()[0]["winding consistent"]
    third = np.concatenate([faces, [[faces[0, 0], faces[0, 1], 42]]])
    assert not Template.from_mesh(np.concatenate([vertices, [[3, 0, 0]]]), third, 1).report()[0]["manifold"]
    [holed] = Template.from_mesh(vertices, faces[1:], 1).report()
    assert holed["boundary loops"] == [3]
    two = Template.from_mesh(np.concatenate([vertices, vertices + 5]), np.concatenate([faces, faces + 42]), 1)
    assert two.report()[0]["components"] == 2
    assert not two.report()[0]["mirror symmetric"]
    vertices[0] *= 5
    assert Template.from_mesh(vertices, faces, 1).report()[0]["edge length max/median"] > 5
    assert good["edge length max/median"] < 1.3


def test_boundary_loops_run_round_the_holes():
    points, faces = tpl.hexagonal_disc(4)
    hole = (faces == np.flatnonzero(np.hypot(*points.T) < 1e-9)[0]).any(1)
    outer, inner = tpl.boundary_loops(faces[~hole])
    assert (len(outer), len(inner)) == (24, 6)
    np.testing.assert_allclose(np.hypot(*points[outer].T), 1)
    for loop in (outer, inner):
        around = np.unwrap(np.arctan2(*points[loop][:, ::-1].T))
        assert abs(around[-1] - around[0]) > 1.5 * np.pi
        assert (np.diff(around) > 0).all() or (np.diff(around) < 0).all()


# --- the semi-sphere ---


@pytest.mark.parametrize("rings", [1, 2, 6])
def test_the_hexagonal_disc(rings):
    points, faces = tpl.hexagonal_disc(rings)
    assert (len(points), len(faces)) == (1 + 3 * rings * (rings + 1), 6 * rings**2)
    assert euler(len(points), faces) == 1
    assert [len(loop) for loop in tpl.boundary_loops(faces)] == [6 * rings]
    a, b, c = points[faces].transpose(1, 0, 2)
    ab, ac = b - a, c - a
    assert (ab[:, 0] * ac[:, 1] > ab[:, 1] * ac[:, 0]).all()  # all counter-clockwise
    assert np.hypot(*points.T).max() == pytest.approx(1)


def test_the_mirror_is_an_involution_of_vertices_and_faces(registered):
    template, _ = registered
    mirror = template.mirror
    np.testing.assert_array_equal(mirror[mirror], np.arange(len(mirror)))
    flat = tpl.semi_sphere(6, 4).vertices
    np.testing.assert_allclose(flat[mirror], flat * [-1, 1, 1], atol=1e-6)
    for faces, n in zip(template.faces, template.counts, strict=True):
        assert mirror[:n].max() < n  # within each level
        turned = mirror[faces][:, ::-1]  # a mirror image winds the other way
        rolled = {tuple(np.roll(face, -np.argmin(face))) for face in faces}
        assert {tuple(np.roll(face, -np.argmin(face))) for face in turned} == rolled
    # the mean face is not quite symmetric, the template on it lies within 3 mm of its mirror image
    apart = np.linalg.norm(template.vertices[mirror] * [-1, 1, 1] - template.vertices, axis=1)
    assert apart.mean() < 3000


def test_an_asymmetric_mesh_has_no_mirror():
    mesh, _ = SOLIDS["sphere"]
    assert len(tpl.find_mirror(mesh.vertices)) == 42
    assert not len(tpl.find_mirror(mesh.vertices + [0.1, 0, 0]))
    assert not len(tpl.find_mirror(np.array([[0, 0, 0], [1, 0, 0], [-1, 0.1, 0]])))


# --- registration ---


def test_the_registered_levels(registered):
    template, _ = registered
    assert template.counts == (127, 469, 1801, 7057)
    for k, row in enumerate(template.report()):
        assert row["manifold"], k
        assert row["winding consistent"], k
        assert row["components"] == 1, k
        assert row["boundary loops"] == [36 * 2**k]
        assert row["mirror symmetric"]
    for k, pairs in enumerate(template.unpool):  # level k + 1 begins with level k
        assert pairs.max() < template.counts[k]
        assert as_sets(template.faces[k + 1]) == as_sets(tpl.subdivide(template.faces[k], pairs, template.counts[k]))


def test_every_template_vertex_lies_on_the_mean_face(registered, face_model):
    """Each row of the map is a point of one triangle of the face, or, over eyes and mouth, of its lid."""
    template, operator = registered
    np.testing.assert_allclose(np.asarray(operator.sum(1)).ravel(), 1, atol=1e-9)
    assert operator.data.min() > -1e-6
    np.testing.assert_allclose(operator @ face_model.mean, template.vertices, atol=0.05)  # um
    faces = as_sets(face_model.triangles)
    edges = as_sets(tpl.mesh_edges(face_model.triangles))
    rims = [set(loop.tolist()) for loop in tpl.boundary_loops(face_model.triangles)[1:]]
    on_lids = 0
    for row in range(operator.shape[0]):
        entries = slice(operator.indptr[row], operator.indptr[row + 1])
        used = frozenset(operator.indices[entries][abs(operator.data[entries]) > 1e-9].tolist())
        if used not in faces and used not in edges and len(used) > 1:
            assert any(used <= rim for rim in rims), row
            on_lids += 1
    assert len(rims) == 3
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
    expected = [sum(w * template.vertices[v] for v, w in zip(*corner, strict=True)) for corner in zip(template.landmark_faces, template.landmark_bary, strict=True)]
    np.testing.assert_allclose(template.landmarks(many)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(template.landmarks(many)[1], 2 * template.landmarks(many)[0])


def test_a_face_that_looks_away_is_refused(face_model):
    away = FaceModel(**{**vars(face_model), "mean": face_model.mean * np.float32([-1, 1, -1]), "name": "turned"})
    with pytest.raises(InputError, match="turned: mean: .* miss the mean face .*faces \\+z"):
        registration.register(tpl.semi_sphere(2, 1), away)


def test_nearest_points_against_trimesh():
    mesh, _ = SOLIDS["torus"]
    points = np.random.default_rng(0).normal(size=(20, 3)) * 2
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    triangle, bary = registration.nearest_points(vertices, faces, points)
    found = (vertices[faces[triangle]] * bary[..., None]).sum(1)
    dense = Template.from_mesh(vertices, faces, 5).vertices  # its own points, finely spaced
    to_dense = np.linalg.norm(points[:, None] - dense, axis=2).min(1)
    distance = np.linalg.norm(found - points, axis=1)
    assert (distance <= to_dense + 1e-6).all()
    np.testing.assert_allclose(distance, to_dense, atol=0.02)
    assert bary.min() > -1e-9


# --- files ---


def test_arrays_are_all_of_a_template(registered):
    template, _ = registered
    again = Template.from_arrays(template.arrays())
    for name in ("vertices", "landmark_faces", "landmark_bary", "mirror"):
        np.testing.assert_array_equal(getattr(again, name), getattr(template, name))
    for name in ("faces", "unpool", "edges"):
        for found, expected in zip(getattr(again, name), getattr(template, name), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert again.counts == template.counts


def test_one_obj_a_level(small_template, tmp_path):
    paths = small_template.save(tmp_path / "new", "cap")
    assert [path.name for path in paths] == ["cap_1.obj", "cap_2.obj", "cap_3.obj"]
    for path, n, faces in zip(paths, small_template.counts, small_template.faces, strict=True):
        mesh = trimesh.load(path, process=False)
        np.testing.assert_allclose(mesh.vertices, small_template.vertices[:n], atol=1e-5)
        np.testing.assert_array_equal(mesh.faces, faces)
    again = Template.load(paths[0], levels=3)
    assert again.counts == small_template.counts
    assert as_sets(again.faces[-1]) == as_sets(small_template.faces[-1])


def test_files_that_are_no_mesh(tmp_path):
    (tmp_path / "empty.obj").write_text("v 0 0 0\n")
    (tmp_path / "noise.ply").write_bytes(bytes(range(200)))
    for name, problem in (("absent.obj", "is missing"), ("empty.obj", "faces: there are none|cannot be read"), ("noise.ply", "cannot be read as a mesh")):
        with pytest.raises(InputError, match=problem) as caught:
            Template.load(tmp_path / name)
        assert name in str(caught.value)


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
    template = Template.load(tmp_path / "torus.dat")
    assert template.counts == torus.counts
    np.testing.assert_allclose(template.vertices, torus.vertices, atol=1e-6)
    for k in range(3):
        assert as_sets(template.faces[k]) == as_sets(torus.faces[k])
    # a dat has no faces: they are found in the graph and wound alike
    assert all(row["winding consistent"] and row["boundary loops"] == [] for row in template.report())


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "boom")


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
        Template.load(tmp_path / "bad.dat")
    assert not trace.exists()
    pickle.loads((tmp_path / "bad.dat").read_bytes())
    assert trace.exists()  # the file was dangerous


def test_python_2_pickles_of_arrays_are_read(tmp_path):
    content = [np.arange(6.0).reshape(2, 3), {"a": np.float32(2), "b": [np.array([1, 2])]}]
    for protocol in (0, 2, 5):
        (tmp_path / "a.dat").write_bytes(pickle.dumps(content, protocol=protocol))
        first, second = legacy.load_arrays(tmp_path / "a.dat")
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
    with pytest.raises(InputError, match="is not a (template|pickle of numpy arrays)") as caught:
        Template.load(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


def test_an_unpickler_that_is_asked_for_a_class_by_an_attribute():
    """`numpy` as a module holds far more than arrays."""
    stream = b"\x80\x02cnumpy\nload\n."
    with pytest.raises(pickle.UnpicklingError, match=r"it asks for numpy\.load"):
        legacy._ArraysOnly(io.BytesIO(stream)).load()
