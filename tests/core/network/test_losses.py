import dataclasses
import functools

import numpy as np
import oracles
import pytest
import torch
import trimesh

from p2m_core.config.settings import LOSS_TERMS, LossConfig
from p2m_core.errors import InputError
from p2m_core.geometry import camera
from p2m_core.geometry.similarity import umeyama
from p2m_core.geometry.template import Template
from p2m_core.morphable.registration import face_template
from p2m_core.network import losses
from p2m_core.network.losses import MeshLoss
from p2m_core.network.mesh_ops import face_cross, region_density, sample_surface
from p2m_core.network.model import NetworkOutput, unit_template
from p2m_core.targets import Truth

TERMS = ("vertex", "shape", "landmark", "opening", "chamfer", "normal", "edge", "laplace", "move")
NONE = dict.fromkeys(LOSS_TERMS, 0.0)
FEW = {"points": 30, "chamfer_levels": (0.5, 1.0, 2.0), "laplace_levels": (0.2, 1.5, 1.2)}


@pytest.fixture(scope="module")
def truth(small_template):
    """Two faces of about a crop's size, (2, 217, 3), y down."""
    unit = torch.from_numpy(small_template.vertices)
    unit = (unit - unit.mean(0)) / 1e5 * torch.tensor([1.0, -1.0, 1.0])
    return torch.stack([unit, 0.8 * unit + 0.1])


@pytest.fixture
def prediction(small_template, truth):
    """Levels off the truth by a few percent, after stages that moved them a little."""
    torch.manual_seed(1)
    levels = [(truth[:, :n] + 0.02 * torch.randn(2, n, 3)).requires_grad_() for n in small_template.counts]
    return NetworkOutput(levels, [x.detach() + 0.03 * torch.randn_like(x) for x in levels])


def exact(template, truth):
    return NetworkOutput(*([truth[:, :n] for n in template.counts] for _ in range(2)))


def terms_of(template, prediction, truth, **weights):
    truth = truth if isinstance(truth, Truth) else Truth(truth)
    return MeshLoss(LossConfig(**{**NONE, **FEW, **weights}), template)(prediction, truth)


def lists(tensor):
    return tensor.detach().double().numpy()


# --- each term against loops ---


def smooth(d, beta=0.005):
    return d * d / (2 * beta) if d < beta else d - beta / 2


def test_vertex(small_template, prediction, truth):
    def mean(predicted):
        total = [w * smooth(abs(p - t)) for x, y in zip(lists(predicted), lists(truth), strict=True)
                 for a, b in zip(x, y, strict=False) for p, t, w in zip(a, b, (1, 1, 0.5), strict=True)]  # fmt: skip
        return sum(total) / len(total)

    expected = 0.5 * mean(prediction.before[0]) + sum(mean(level) for level in prediction.levels)
    _, terms = terms_of(small_template, prediction, truth, vertex=1)
    assert terms["vertex"].item() == pytest.approx(expected, rel=1e-4)


def test_shape(small_template, prediction, truth):
    expected = 0.0
    for level in prediction.levels:
        for p, t in zip(lists(level), lists(truth), strict=True):
            scale, rotation, shift = umeyama(p, t[: len(p)])
            off = abs(scale * p @ rotation.T + shift - t[: len(p)])
            expected += np.vectorize(smooth)(off).mean() / 2
    _, terms = terms_of(small_template, prediction, truth, shape=1)
    assert terms["shape"].item() == pytest.approx(expected, rel=1e-4)


def test_shape_knows_no_pose(small_template, truth):
    turn = torch.from_numpy(camera.rotation_from_angles(np.radians([20, -35, 10]))).float()
    moved = NetworkOutput(*([0.7 * x @ turn.T + 0.3 for x in exact(small_template, truth).levels] for _ in range(2)))
    assert terms_of(small_template, moved, truth, shape=1)[1]["shape"].item() < 1e-9
    wider = NetworkOutput(*([x * torch.tensor([1.1, 1, 1]) for x in moved.levels] for _ in range(2)))
    assert terms_of(small_template, wider, truth, shape=1)[1]["shape"].item() > 1e-3


def test_landmark(small_template, prediction, truth):
    distances = []
    for x, y in zip(lists(prediction.levels[-1]), lists(truth), strict=True):
        p, t = small_template.landmarks(x), small_template.landmarks(y)
        distances += [np.hypot(*(a - b)[:2]) for a, b in zip(p, t, strict=True)]
    _, terms = terms_of(small_template, prediction, truth, landmark=1)
    assert terms["landmark"].item() == pytest.approx(np.mean(distances), rel=1e-4)


def test_opening(small_template, prediction, truth):
    """Lids and lips by name: 62 the middle of the upper inner lip, 66 that of the lower; 37, 41 of the right lids."""
    pairs, errors = [(37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65)], []
    for x, y in zip(lists(prediction.levels[-1]), lists(truth), strict=True):
        p, t = small_template.landmarks(x), small_template.landmarks(y)
        errors += [np.hypot(*((p[a] - p[b]) - (t[a] - t[b]))[:2]) for a, b in pairs]
    _, terms = terms_of(small_template, prediction, truth, opening=1)
    assert terms["opening"].item() == pytest.approx(np.mean(errors), rel=1e-4)


def pixel_map(side=28):
    """A correspondence map (2, 3, side, side) that says of each pixel where it is."""
    x = ((torch.arange(side) + 0.5) * 2 / side - 1).expand(1, side, side)
    return torch.stack([torch.cat([x, x.mT, 0 * x])] * 2)


def test_correspondence(small_template, truth, prediction):
    prediction = dataclasses.replace(prediction, correspondence=pixel_map())
    start, errors = unit_template(small_template), []
    for face in lists(truth):
        # normals as trimesh has them where y is up
        mesh = trimesh.Trimesh(face * [1, -1, 1], small_template.faces[-1], process=False)
        for place, unit, normal in zip(face, start, mesh.vertex_normals, strict=True):
            if normal[2] > 0 and abs(place[:2]).max() < 1:
                seen = np.clip(place[:2], -1 + 1 / 28, 1 - 1 / 28)  # beyond the last pixel's centre it says the same
                errors.append(np.hypot(np.hypot(*(seen - unit[:2])), unit[2]))
    assert 50 < len(errors) < 2 * 217  # some are hidden
    _, terms = terms_of(small_template, prediction, truth, correspondence=1)
    assert terms["correspondence"].item() == pytest.approx(np.mean(errors), rel=0.02)  # trimesh weighs normals by angle


def test_correspondence_is_nothing_for_a_map_that_is_right(small_template):
    """A face whose vertices' places in the crop are their places on the unit template, all turned to the viewer."""
    flat = torch.from_numpy(unit_template(small_template)) * torch.tensor([0.5, -0.5, 0.5])
    plane = pixel_map() * torch.tensor([2.0, -2.0, 0.0])[:, None, None]
    found = terms_of(small_template, dataclasses.replace(exact(small_template, flat[None]), correspondence=plane[:1]),
                     flat[None], correspondence=1)[1]["correspondence"]  # fmt: skip
    depth = torch.from_numpy(unit_template(small_template))[:, 2].abs()
    assert 0 < found.item() < depth.max()  # the depth alone, which a plane does not have


def drawn(template, truth):
    """The points that the loss will draw for the seed 5."""
    torch.manual_seed(5)
    faces = torch.from_numpy(template.faces[-1])
    return sample_surface(truth, faces, face_cross(truth, faces), FEW["points"])


def test_chamfer(small_template, prediction, truth):
    points, _ = drawn(small_template, truth)
    expected = 0
    for weight, level in zip(FEW["chamfer_levels"], prediction.levels, strict=True):
        pairs = list(zip(lists(level), lists(points), strict=True))
        to_pred = np.mean([oracles.nearest(g, p)[0] for p, g in pairs])
        to_truth = np.mean([oracles.nearest(p, g)[0] for p, g in pairs])
        expected += weight * (to_pred + 0.7 * to_truth)
    torch.manual_seed(5)
    _, terms = terms_of(small_template, prediction, truth, chamfer=1, chamfer_opposite=0.7)
    assert terms["chamfer"].item() == pytest.approx(expected, rel=1e-4)


def support_mean(values, edges, count):
    """Over both directions of all edges and, with value 0, the vertices themselves; two samples."""
    return sum(values) / (2 * (2 * len(edges) + count))


def mean_cosine(template, prediction, normals_of):
    """Sum over levels; normals_of(level vertices, sample) gives a normal a vertex."""
    expected = 0
    for level, edges in zip(prediction.levels, template.edges, strict=True):
        cosines = []
        for k, p in enumerate(lists(level)):
            normals = normals_of(p, k)
            for a, b in (*edges, *edges[:, ::-1]):
                cosines.append(abs((p[a] - p[b]) / np.linalg.norm(p[a] - p[b]) @ normals[a]))
        expected += support_mean(cosines, edges, level.shape[1])
    return expected


def test_normal_of_the_nearest_point(small_template, prediction, truth):
    points, normals = drawn(small_template, truth)

    def nearest_normal(vertices, k):
        return lists(normals)[k][oracles.nearest(vertices, lists(points)[k])[1]]

    _, terms = terms_of(small_template, prediction, Truth(points=points, normals=normals), normal=1)
    expected = mean_cosine(small_template, prediction, nearest_normal)
    assert terms["normal"].item() == pytest.approx(expected, rel=1e-4)


def test_normal_of_the_vertex_itself_where_it_is_known(small_template, prediction, truth):
    faces = small_template.faces[-1]
    meshes = [trimesh.Trimesh(x, faces, process=False) for x in lists(truth)]
    own = []
    for mesh in meshes:  # weighted by area, as in the loss
        total = np.zeros((len(mesh.vertices), 3))
        for face, normal, area in zip(faces, mesh.face_normals, mesh.area_faces, strict=True):
            total[face] += normal * area
        own.append(total / np.linalg.norm(total, axis=1, keepdims=True))
    _, terms = terms_of(small_template, prediction, truth, normal=1)
    assert terms["normal"].item() == pytest.approx(
        mean_cosine(small_template, prediction, lambda _, k: own[k]), rel=1e-4
    )


def test_edge(small_template, prediction, truth):
    expected = sum(
        support_mean([2 * np.sum((p[a] - p[b]) ** 2) for p in lists(level) for a, b in edges], edges, level.shape[1])
        for level, edges in zip(prediction.levels, small_template.edges, strict=True)
    )
    _, terms = terms_of(small_template, prediction, truth, edge=1)
    assert terms["edge"].item() == pytest.approx(expected, rel=1e-4)


def test_reconstruction(small_template, prediction, truth):
    prediction.image, image = torch.rand(2, 3, 5, 5).clamp(0.01, 0.99), torch.rand(2, 3, 5, 5)
    _, terms = terms_of(small_template, prediction, Truth(truth, image=image), reconst=1)
    p, t = lists(prediction.image), lists(image)
    assert terms["reconst"].item() == pytest.approx(-np.mean(t * np.log(p) + (1 - t) * np.log(1 - p)), rel=1e-5)


def test_padding_of_a_cloud_takes_no_part(small_template, prediction, truth):
    points, normals = drawn(small_template, truth)
    lengths, losses_apart = torch.tensor([30, 11]), []
    far = torch.where(torch.arange(30)[None, :, None] < lengths[:, None, None], points, 0.0)
    weights = {"chamfer": 1.0, "normal": 1.0}
    _, together = terms_of(small_template, prediction, Truth(points=far, normals=normals, lengths=lengths), **weights)
    for k, n in enumerate(lengths.tolist()):
        alone = NetworkOutput([x[k : k + 1] for x in prediction.levels], [x[k : k + 1] for x in prediction.before])
        cloud = Truth(points=points[k : k + 1, :n], normals=normals[k : k + 1, :n])
        losses_apart.append(terms_of(small_template, alone, cloud, **weights)[1])
    for name in weights:
        torch.testing.assert_close(together[name], (losses_apart[0][name] + losses_apart[1][name]) / 2)


def test_levels_of_weight_0_are_not_searched(small_template, prediction, truth, monkeypatch):
    sizes, search = [], losses.nearest
    monkeypatch.setattr(losses, "nearest", lambda a, b, **more: sizes.append(a.shape[1]) or search(a, b, **more))
    terms_of(small_template, prediction, truth, chamfer=1, normal=1, chamfer_levels=(0.0, 0.0, 1.0))
    assert sizes == [217]


def test_laplace_and_move(small_template, prediction, truth):
    laplace = move = 0
    for k, (after, before, edges) in enumerate(
        zip(prediction.levels, prediction.before, small_template.edges, strict=True)
    ):
        neighbours = {}
        for a, b in edges.tolist():
            neighbours.setdefault(a, []).append(b), neighbours.setdefault(b, []).append(a)

        def coordinate(x, v, near=neighbours):
            return x[v] - x[near[v]].mean(0)

        changes, moves = [], []
        for x, y in zip(lists(after), lists(before), strict=True):
            changes += [np.sum((coordinate(x, v) - coordinate(y, v)) ** 2) for v in range(len(x))]
            moves += [np.sum((p - q) ** 2) for p, q in zip(x, y, strict=True)]
        laplace += FEW["laplace_levels"][k] * np.mean(changes)
        move += FEW["laplace_levels"][k] * np.mean(moves) if k else 0
    _, terms = terms_of(small_template, prediction, truth, laplace=1, move=1)
    assert terms["laplace"].item() == pytest.approx(laplace, rel=1e-4)
    assert terms["move"].item() == pytest.approx(move, rel=1e-4)


# --- invariants ---


def test_at_the_truth_nothing_is_left(small_template, truth):
    weights = dict.fromkeys(("vertex", "landmark", "laplace", "move"), 1.0)
    total, terms = terms_of(small_template, exact(small_template, truth), truth, **weights)
    assert total.item() == 0
    assert set(terms) == set(weights)


def test_the_total_is_the_weighted_sum(small_template, prediction, truth):
    weights = {name: 0.5 + k for k, name in enumerate(TERMS)}
    torch.manual_seed(5)
    total, terms = terms_of(small_template, prediction, truth, **weights)
    assert set(terms) == set(TERMS)
    assert total.item() == pytest.approx(sum(weights[name] * term.item() for name, term in terms.items()), rel=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_a_term_alone_is_computed_alone(small_template, prediction, truth, name, monkeypatch):
    if name != "chamfer":

        def forbidden(*_, **__):
            raise AssertionError("computed for nothing")

        monkeypatch.setattr(losses, "nearest", forbidden)
        monkeypatch.setattr(losses, "sample_surface", forbidden)
    total, terms = terms_of(small_template, prediction, truth, **{name: 3.0})
    assert set(terms) == {name}
    assert total.item() == pytest.approx(3 * terms[name].item(), rel=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_every_term_pulls_on_the_vertices(small_template, prediction, truth, name):
    """A step against the gradient makes the term smaller."""
    torch.manual_seed(5)
    total, _ = terms_of(small_template, prediction, truth, **{name: 1.0})
    total.backward()
    moved = [level for level in prediction.levels if level.grad is not None]
    # landmarks hang on the finest level alone, move leaves the first free, all else reaches every level
    assert len(moved) == {"landmark": 1, "opening": 1, "move": 2}.get(name, 3)
    norm = sum(float(level.grad.square().sum()) for level in moved) ** 0.5
    assert np.isfinite(norm)
    assert norm > 0
    with torch.no_grad():
        step = [x if x.grad is None else x - 1e-4 * x.grad / norm for x in prediction.levels]
    torch.manual_seed(5)
    after, _ = terms_of(small_template, NetworkOutput(step, prediction.before), truth, **{name: 1.0})
    assert after.item() < total.item()


def test_depth_counts_half_in_vertex_and_not_in_landmark(small_template, truth):
    def moved(axis):
        shift = torch.zeros(3)
        shift[axis] = 0.1
        levels = [truth[:, :n] + shift for n in small_template.counts]
        return terms_of(small_template, NetworkOutput(levels, levels), truth, vertex=1, landmark=1)[1]

    assert moved(2)["vertex"].item() == pytest.approx(moved(0)["vertex"].item() / 2, rel=1e-4)
    assert moved(2)["landmark"].item() == pytest.approx(0, abs=1e-6)
    assert moved(1)["landmark"].item() == pytest.approx(0.1, rel=1e-4)


def test_a_common_shift_changes_neither_edges_nor_laplacian(small_template, prediction, truth):
    names = {"edge": 1.0, "laplace": 1.0}
    before = terms_of(small_template, prediction, truth, **names)[1]
    shifted = NetworkOutput([x + torch.tensor([0.3, -0.2, 0.1]) for x in prediction.levels], prediction.before)
    after = terms_of(small_template, shifted, truth, **names)[1]
    for name in names:
        torch.testing.assert_close(after[name], before[name], rtol=1e-4, atol=1e-8)


def test_edges_in_the_surface_are_at_right_angles_to_its_normals():
    """On a plane the normal term vanishes; of edges that stand upright it is 1, but for the reference's self loops."""
    faces = np.array([[0, 1, 2]])
    triangle = Template.from_mesh(np.eye(3), faces, 1)
    cloud = Truth(points=torch.rand(1, 50, 3) * torch.tensor([1.0, 1, 0]), normals=torch.tensor([[[0, 0, 1.0]] * 50]))
    flat = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [1, 1, 0]]])
    upright = torch.tensor([[[0.0, 0, 0], [0, 0, 1], [0, 0, 2.5]]])
    for vertices, expected in ((flat, 0), (upright, 6 / 9)):
        _, terms = terms_of(triangle, NetworkOutput([vertices], [vertices]), cloud, normal=1)
        assert terms["normal"].item() == pytest.approx(expected, abs=1e-6)


# --- points on surfaces ---


def test_points_lie_on_the_surface_with_its_normals(small_template, truth):
    faces = torch.from_numpy(small_template.faces[-1])
    torch.manual_seed(0)
    points, normals = sample_surface(truth, faces, face_cross(truth, faces), 200)
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(2, 200))
    for vertices, p, n in zip(lists(truth), lists(points), lists(normals), strict=True):
        corners = vertices[small_template.faces[-1]]
        own = trimesh.triangles.normals(corners)[0]
        for point, normal in zip(p, n, strict=True):
            closest = trimesh.triangles.closest_point(corners, np.broadcast_to(point, (len(corners), 3)))
            at = np.linalg.norm(closest - point, axis=1) < 1e-5
            assert at.any()
            assert (own[at] @ normal).max() > 1 - 1e-5


def test_points_are_even_by_area():
    vertices = torch.tensor([[[0.0, 0, 0], [3, 0, 0], [0, 3, 0], [0, 0, 1]]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [1, 1, 1]])  # areas 4.5, 1.5 and none
    torch.manual_seed(0)
    points, _ = sample_surface(vertices, faces, face_cross(vertices, faces), 40_000)
    large = points[0][points[0, :, 2] == 0]
    assert len(large) / 40_000 == pytest.approx(0.75, abs=0.01)
    torch.testing.assert_close(large.mean(0), torch.tensor([1.0, 1.0, 0.0]), atol=0.02, rtol=0)
    # even inside: of a right triangle the corner at the right angle, cut in half height, holds a quarter of each side
    assert float((large[:, 0] > 1.5).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float((large[:, :2].sum(1) < 1.5).float().mean()) == pytest.approx(0.25, abs=0.01)


# --- regions around the landmarks ---


def shares_near(template, vertices, points, radii):
    """Shares of points (N, 3) on faces whose middle lies within each radius of a landmark."""
    corners = vertices[template.faces[-1]]
    landmarks = template.landmarks(vertices)
    size = np.sqrt(np.prod(np.ptp(landmarks[:, :2], axis=0)))
    of_face = np.linalg.norm(corners.mean(1)[:, None] - landmarks, axis=-1).min(1) / size
    mesh = trimesh.Trimesh(vertices, template.faces[-1], process=False)
    _, _, face = trimesh.proximity.closest_point_naive(mesh, points)
    return np.array([(of_face[face] <= radius).mean() for radius in radii])


@pytest.mark.parametrize("regions", [(0.3, 0.2), (0.0, 0.5), (1.0, 0.0)])
def test_shares_of_the_points_fall_near_the_landmarks(small_template, truth, regions):
    radii, vertices = (0.15, 0.08), lists(truth)[0]
    faces = torch.from_numpy(small_template.faces[-1])
    density = region_density(small_template, regions, radii)
    torch.manual_seed(0)
    even, drawn = (
        sample_surface(truth[:1], faces, face_cross(truth[:1], faces), 3000, d)[0][0].numpy() for d in (None, density)
    )
    of_area = shares_near(small_template, vertices, even, radii)
    found = shares_near(small_template, vertices, drawn, radii)
    assert 0.02 < of_area[1] < of_area[0] < 0.8
    near, very_near = regions
    inner = of_area[1] / of_area[0]
    expected = [near + very_near + (1 - sum(regions)) * of_area[0], very_near + near * inner]
    expected[1] += (1 - sum(regions)) * of_area[1]
    np.testing.assert_allclose(found, expected, atol=0.035)


def test_no_shares_leave_the_points_even(small_template):
    np.testing.assert_allclose(region_density(small_template, (0.0, 0.0), (0.1, 0.05)), 1, rtol=1e-5)


def test_regions_weigh_the_chamfer_term(small_template, truth, monkeypatch):
    """A chin that is off costs more where points are dense about it."""
    eyes_and_chin = {name: getattr(small_template, name)[[8, 36, 45]] for name in ("landmark_faces", "landmark_bary")}
    template = dataclasses.replace(small_template, **eyes_and_chin)
    moved = exact(template, truth)
    moved.levels[-1] = truth.clone()
    moved.levels[-1][:, template.landmark_faces[0], 2] += 0.2
    monkeypatch.setattr(losses, "region_density", functools.partial(region_density, radii=(0.2, 0.2)))
    cost = {}
    for name, regions in (("even", (0.0, 0.0)), ("near", (0.0, 0.9))):
        torch.manual_seed(0)
        weights = {"chamfer": 1.0, "points": 3000, "regions": regions}
        weights |= {"chamfer_levels": (0.0, 0.0, 1.0), "chamfer_opposite": 0.0}
        there = float(terms_of(template, moved, truth, **weights)[1]["chamfer"])
        torch.manual_seed(0)
        cost[name] = there - float(terms_of(template, exact(template, truth), truth, **weights)[1]["chamfer"])
    assert cost["near"] > 2 * cost["even"] > 0


def test_regions_want_landmarks_and_triangles_near_them(small_template):
    from p2m_core.geometry.template import ellipsoid

    with pytest.raises(InputError, match=r"loss\.regions: there are no landmarks"):
        region_density(ellipsoid(2), (0.1, 0.1), (0.2, 0.1))
    with pytest.raises(InputError, match=r"loss\.regions: no triangle lies within 0 face sizes"):
        region_density(small_template, (0.1, 0.1), (0.2, 0.0))


# --- a mouth that is closed by a membrane ---


def test_what_lies_within_the_mouth_is_no_error(face_model):
    """Moved vertices of the membrane, predicted or true, change regularisers and, a little, the term vertex alone."""
    template = face_template(face_model, levels=3)[0]
    inside = torch.from_numpy(template.within("mouth"))
    unit = torch.from_numpy(template.vertices - template.vertices.mean(0)) / 1e5 * torch.tensor([1.0, -1.0, 1.0])
    true = unit[None].repeat(2, 1, 1)
    torch.manual_seed(1)
    levels = [true[:, :n] + 0.002 * torch.randn(2, n, 3) for n in template.counts]
    before, seen = [x + 0.003 * torch.randn_like(x) for x in levels], torch.randn(2, 3, 28, 28)
    weights = {**NONE, **FEW, **dict.fromkeys((*TERMS, "correspondence"), 1.0), "regions": (0.22, 0.17)}
    loss = MeshLoss(LossConfig(**weights), template)

    def terms(vertices, truth):
        torch.manual_seed(2)
        return {
            name: term.item()
            for name, term in loss(NetworkOutput(vertices, before, correspondence=seen), Truth(truth))[1].items()
        }

    def moved(vertices, idx):
        vertices = vertices.clone()
        vertices[:, idx[idx < vertices.shape[1]]] += 0.05
        return vertices

    expected = terms(levels, true)
    for found in (terms([moved(x, inside) for x in levels], true), terms(levels, moved(true, inside))):
        changed = {name for name in found if found[name] != expected[name]}
        assert "vertex" in changed <= {"vertex", "edge", "laplace", "move"}
    lips = torch.from_numpy(np.setdiff1d(template.faces[-1][~template.counted[-1]], inside))
    found = terms([moved(x, lips) for x in levels], true)
    assert all(found[name] != expected[name] for name in ("vertex", "shape", "chamfer", "normal"))
    off_inside, off_lips = (terms([moved(x, idx) for x in levels], true)["vertex"] for idx in (inside, lips))
    assert (off_inside - expected["vertex"]) / len(inside) < 0.1 * (off_lips - expected["vertex"]) / len(lips)
