import numpy as np
import pytest
import trimesh

from p2m_workbench.measuring.mesh_quality import intersecting, turned_over


def sphere(subdivisions=2):
    mesh = trimesh.creation.icosphere(subdivisions)
    return np.array(mesh.vertices), np.array(mesh.faces)


def two(shift):
    """Two spheres of radius 1, the second moved in x, as one mesh."""
    vertices, faces = sphere()
    return np.concatenate([vertices, vertices + [shift, 0.013, 0.007]]), np.concatenate([faces, faces + len(vertices)])


def test_a_sphere_meets_itself_nowhere_and_faces_outwards():
    vertices, faces = sphere()
    assert intersecting(vertices, faces) == 0
    assert turned_over(vertices * 1.1, vertices, faces) == 0
    # mirrored in z, normals keep z alone: those with z^2 < 1/2 are turned over, 1 / sqrt(2) of a sphere
    assert turned_over(vertices * [1, 1, -1], vertices, faces) == pytest.approx(1 / np.sqrt(2), abs=0.03)


@pytest.mark.parametrize("shift", [2.1, 1.5, 0.5])
def test_two_spheres_meet_along_a_circle(shift):
    vertices, faces = two(shift)
    found = intersecting(vertices, faces)
    # a plane x = shift / 2 parts them: what meets has vertices on both sides, within a triangle of the circle
    if shift > 2:
        assert found == 0
    else:
        length = 2 * np.pi * np.sqrt(1 - shift**2 / 4)
        edge = np.linalg.norm(np.diff(vertices[faces[:, :2]], axis=1), axis=-1).mean()
        assert 0.7 * length / edge < found * len(faces) / 2 < 4 * length / edge


def test_all_pairs_are_looked_at():
    """Against trying each edge on each triangle, on triangles in the void."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 1, (60, 1, 3)) + rng.normal(0, 0.15, (60, 3, 3))
    vertices, faces = corners.reshape(-1, 3), np.arange(180).reshape(-1, 3)
    hit = set()
    for f, triangle in enumerate(corners):
        normal = np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])
        for other in set(range(60)) - {f}:
            for i in range(3):
                a, b = corners[other, i], corners[other, (i + 1) % 3]
                da, db = (a - triangle[0]) @ normal, (b - triangle[0]) @ normal
                if da * db > 0:
                    continue
                point = a + da / (da - db) * (b - a)
                inside = [np.cross(triangle[(k + 1) % 3] - triangle[k], point - triangle[k]) @ normal for k in range(3)]
                if min(inside) >= 0:
                    hit.add(f)
    assert 5 < len(hit) < 60
    assert intersecting(vertices, faces) == pytest.approx(len(hit) / 60)


def test_one_turned_triangle_is_counted():
    vertices, faces = sphere(1)
    moved = vertices.copy()
    a, b, c = faces[7]
    moved[a] = vertices[b] + vertices[c] - vertices[a]  # over the opposite side
    assert 1 / len(faces) <= turned_over(moved, vertices, faces) < 0.1
