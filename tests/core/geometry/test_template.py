import numpy as np
import pytest
import scipy.sparse as sp
import trimesh
from golden_networks import GOLDEN
from oracles import SOLIDS, as_sets

from p2m_core.errors import InputError
from p2m_core.geometry.mesh import (
    adjacency_matrix,
    boundary_loops,
    find_mirror,
    mesh_edges,
    rescaled_laplacian,
    subdivided_faces,
)
from p2m_core.geometry.template import Template
from p2m_core.geometry.template_files import load_template
from p2m_core.morphable.semi_sphere import hexagonal_disc, semi_sphere
from p2m_workbench.interop.face_models import template_report


@pytest.fixture(scope="module", params=["semi_sphere", "ellipsoid"])
def golden(request):
    """Arrays of a reference template, and its number of levels."""
    with np.load(GOLDEN / f"{request.param}.npz") as file:
        content = {name: file[name] for name in file.files}
    return content, sum(name.startswith("faces") for name in content)


def count_of(level_faces):
    return int(level_faces.max()) + 1


def euler(vertices, faces):
    return vertices - len(mesh_edges(faces)) + len(faces)


# --- against the reference templates ---


def test_adjacency_of_the_reference_from_its_faces_alone(golden):
    content, levels = golden
    for k in range(1, levels + 1):
        faces = content[f"faces{k}"]
        n = len(content[f"laplace{k}"])
        expected = sp.coo_matrix((content[f"adj{k}_val"], content[f"adj{k}_idx"]), shape=(n, n)).tocsr()
        found = rescaled_laplacian(mesh_edges(faces), n)
        assert abs(found - expected).max() < 1e-5
        assert found.nnz == expected.nnz


def test_edges_are_those_of_the_reference(golden):
    content, levels = golden
    for k in range(1, levels + 1):
        support = content[f"edges{k}"]  # both directions and self loops
        once = support[support[:, 0] < support[:, 1]]
        np.testing.assert_array_equal(mesh_edges(content[f"faces{k}"]), once[np.lexsort(once.T[::-1])])


def test_subdivision_by_the_references_pairs_gives_its_faces(golden):
    content, levels = golden
    pairs = [content[f"unpool{k}"] for k in range(1, levels)]
    count = len(content[f"laplace{levels}"])
    for k, faces in enumerate(subdivided_faces(content["faces1"], pairs, count), 1):
        assert as_sets(faces) == as_sets(content[f"faces{k}"])


def test_laplacian_neighbourhoods_are_those_of_the_reference(golden):
    content, levels = golden
    for k in range(1, levels + 1):
        graph = adjacency_matrix(mesh_edges(content[f"faces{k}"]), len(content[f"laplace{k}"]))
        for v, row in enumerate(content[f"laplace{k}"].tolist()):
            *neighbours, own, degree = row
            found = graph.indices[graph.indptr[v] : graph.indptr[v + 1]]
            assert (set(found.tolist()), v, len(found)) == ({n for n in neighbours if n >= 0}, own, degree)


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
    assert [row["boundary loops"] for row in template_report(template)] == [[], [], []]


def test_adjacency_against_dense_algebra():
    mesh, _ = SOLIDS["torus"]
    template = Template.from_mesh(mesh.vertices, mesh.faces, 2)
    for faces, found, mean, n in zip(
        template.faces, template.adjacency, template.neighbour_mean, template.counts, strict=True
    ):
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
    [good] = template_report(Template.from_mesh(vertices, faces, 1))
    assert (good["vertices"], good["edges"], good["faces"]) == (42, 120, 80)
    assert good["mirror symmetric"]
    turned = faces.copy()
    turned[0] = turned[0, ::-1]
    assert not template_report(Template.from_mesh(vertices, turned, 1))[0]["winding consistent"]
    third = np.concatenate([faces, [[faces[0, 0], faces[0, 1], 42]]])
    assert not template_report(Template.from_mesh(np.concatenate([vertices, [[3, 0, 0]]]), third, 1))[0]["manifold"]
    [holed] = template_report(Template.from_mesh(vertices, faces[1:], 1))
    assert holed["boundary loops"] == [3]
    two = Template.from_mesh(np.concatenate([vertices, vertices + 5]), np.concatenate([faces, faces + 42]), 1)
    assert template_report(two)[0]["components"] == 2
    assert not template_report(two)[0]["mirror symmetric"]
    vertices[0] *= 5
    assert template_report(Template.from_mesh(vertices, faces, 1))[0]["edge length max/median"] > 5
    assert good["edge length max/median"] < 1.3


def test_boundary_loops_run_round_the_holes():
    points, faces = hexagonal_disc(4)
    hole = (faces == np.flatnonzero(np.hypot(*points.T) < 1e-9)[0]).any(1)
    outer, inner = boundary_loops(faces[~hole])
    assert (len(outer), len(inner)) == (24, 6)
    np.testing.assert_allclose(np.hypot(*points[outer].T), 1)
    for loop in (outer, inner):
        around = np.unwrap(np.arctan2(*points[loop][:, ::-1].T))
        assert abs(around[-1] - around[0]) > 1.5 * np.pi
        assert (np.diff(around) > 0).all() or (np.diff(around) < 0).all()


# --- the semi-sphere ---


@pytest.mark.parametrize("rings", [1, 2, 6])
def test_the_hexagonal_disc(rings):
    points, faces = hexagonal_disc(rings)
    assert (len(points), len(faces)) == (1 + 3 * rings * (rings + 1), 6 * rings**2)
    assert euler(len(points), faces) == 1
    assert [len(loop) for loop in boundary_loops(faces)] == [6 * rings]
    a, b, c = points[faces].transpose(1, 0, 2)
    ab, ac = b - a, c - a
    assert (ab[:, 0] * ac[:, 1] > ab[:, 1] * ac[:, 0]).all()  # all counter-clockwise
    assert np.hypot(*points.T).max() == pytest.approx(1)


def test_the_mirror_is_an_involution_of_vertices_and_faces(registered):
    template, _ = registered
    mirror = template.mirror
    np.testing.assert_array_equal(mirror[mirror], np.arange(len(mirror)))
    flat = semi_sphere(6, 4).vertices
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
    assert len(find_mirror(mesh.vertices)) == 42
    assert not len(find_mirror(mesh.vertices + [0.1, 0, 0]))
    assert not len(find_mirror(np.array([[0, 0, 0], [1, 0, 0], [-1, 0.1, 0]])))


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


def test_level_1_as_an_obj_gives_the_levels(small_template, tmp_path):
    vertices = small_template.vertices[: small_template.counts[0]]
    trimesh.Trimesh(vertices, small_template.faces[0], process=False).export(tmp_path / "cap.obj")
    again = load_template(tmp_path / "cap.obj", levels=3)
    assert again.counts == small_template.counts
    assert as_sets(again.faces[-1]) == as_sets(small_template.faces[-1])


def test_an_obj_with_texture_coordinates_is_not_torn_at_their_seams(small_template, tmp_path):
    """Every corner has a texture coordinate and a normal of its own: a seam along each edge."""
    vertices, faces = small_template.vertices[: small_template.counts[0]], small_template.faces[0]
    lines = ["mtllib cap.mtl", *(f"v {x} {y} {z}" for x, y, z in vertices)]
    lines += [f"vt {k / faces.size} 0.5" for k in range(faces.size)] + ["vn 0 0 1", "usemtl skin"]
    corners = iter(range(1, faces.size + 1))
    lines += ["f " + " ".join(f"{v + 1}/{next(corners)}/1" for v in face) for face in faces]
    (tmp_path / "cap.obj").write_text("\n".join(lines))
    again = load_template(tmp_path / "cap.obj", levels=3)
    assert again.counts == small_template.counts
    np.testing.assert_allclose(again.vertices[: len(vertices)], vertices, atol=1e-6)


def test_files_that_are_no_mesh(tmp_path):
    (tmp_path / "empty.obj").write_text("v 0 0 0\n")
    (tmp_path / "noise.ply").write_bytes(bytes(range(200)))
    for name, problem in (
        ("absent.obj", "is missing"),
        ("empty.obj", "faces: there are none|cannot be read"),
        ("noise.ply", "cannot be read as a mesh"),
    ):
        with pytest.raises(InputError, match=problem) as caught:
            load_template(tmp_path / name)
        assert name in str(caught.value)
