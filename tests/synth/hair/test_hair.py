"""Hair: where it grows, what it may not enter, and how it is drawn and lit."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.geometry.rasterizer import rasterize, vertex_normals
from p2m_synth.hair import facial_hair, growth
from p2m_synth.hair import roots as hair_roots
from p2m_synth.hair.facial_hair import BeardStyle, draw_beard_style
from p2m_synth.hair.strands import (
    TAPER,
    TORSO_CELL,
    TORSO_LOW,
    TORSO_SHAPE,
    bulk_normals,
    draw_strands,
    places_on,
    shade_strands,
    tangents,
)
from p2m_synth.hair.style import CUTS, cut_style, draw_hair_style
from p2m_synth.head.expression import draw_expression
from p2m_synth.head.head_mesh import load_head_mesh
from p2m_synth.head.identity import draw_identity
from p2m_synth.scene.elements import Light

BROWN, UPRIGHT = np.float32([0.05, 0.03, 0.018]), np.eye(3)
GROWING = [cut for cut in CUTS if CUTS[cut].get("count", 1)]
SIDE, SCALE = 224, 1.4e-3 / 2  # samples; samples per um at 112 px a picture


@pytest.fixture(scope="module")
def head_mesh():
    return load_head_mesh()


@pytest.fixture(scope="module")
def mean_head(head_mesh):
    return head_mesh.canonical * np.float32(1e5)


def some_head(head_mesh, seed):
    rng = np.random.default_rng(seed)
    shape = head_mesh.model.shape_of(draw_identity(rng))
    return head_mesh.refined @ head_mesh.model.vertices(shape, head_mesh.model.expression_of(draw_expression(rng)[1]))


def grow(head_mesh, cut, head, rotation=UPRIGHT, seed=0, **change):
    rng = np.random.default_rng(seed)
    style = replace(cut_style(cut, rng), **change)
    return growth.grow_hair(head_mesh, style, BROWN, head @ rotation.T, rotation, rng)


def to_px(points):
    """A frontal picture, the eyes a little above its middle."""
    place = (points - np.float32([0, 7.2e5, 0])) * SCALE
    return np.stack([SIDE / 2 + place[..., 0], SIDE / 2 - place[..., 1], place[..., 2]], -1).astype(np.float32)


def draw(head, triangles, grown):
    """The index of the strands that a frontal picture shows (SIDE, SIDE), -1 where there is none."""
    depth = rasterize(to_px(head), triangles, SIDE, SIDE)[2]
    shown = np.full((SIDE, SIDE), -1, np.int32)
    for strands in grown:
        half = np.full(len(strands.points), strands.width_um / 2 * SCALE, np.float32)
        draw_strands(to_px(strands.points), half, depth, shown, np.zeros((SIDE, SIDE), np.float32))
    return shown


# --- growing ---


@pytest.mark.parametrize("cut", GROWING)
def test_hair_grows_on_the_scalp_and_stays_outside_the_head(head_mesh, cut):
    head = some_head(head_mesh, 7)
    strands = grow(head_mesh, cut, head)[0]
    assert strands.points.dtype == strands.color.dtype == np.float32
    assert np.isfinite(strands.points).all()
    assert len(strands.points) == len(strands.color) > 300
    assert 0 <= strands.color.min() <= strands.color.max() <= 1
    tree, normals = cKDTree(head), vertex_normals(head, head_mesh.triangles)
    distance, nearest = tree.query(strands.points[:, 0])
    assert distance.max() < 0.12e5
    assert np.quantile(head_mesh.hairline[nearest], 0.01) > -0.5
    assert head_mesh.masks["ears"][nearest].max() < 0.95
    points = strands.points[::7].reshape(-1, 3)
    distance, nearest = tree.query(points)
    outside = ((points - head[nearest]) * normals[nearest]).sum(1)
    # Ears may stand out of short growth, and the shell is coarse: a little below the skin is hidden by it.
    skull = (head_mesh.masks["ears"][nearest] < 0.05) & (head_mesh.canonical[nearest, 1] > 6.9)
    assert np.quantile(outside[skull], 0.01) > -0.06e5


def test_all_strands_start_at_their_root(head_mesh, mean_head):
    roots, _ = growth.choose_roots(head_mesh, cut_style("crop", np.random.default_rng(0)), np.random.default_rng(0))
    place, normal = roots.on(head_mesh.canonical)
    assert np.allclose(place, roots.position, atol=1e-5)
    assert np.allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-5)
    scalp = place - growth.CENTRE_DM
    assert ((scalp * normal).sum(1) > 0).mean() > 0.99


@pytest.mark.parametrize("cut", GROWING)
@pytest.mark.parametrize("seed", [1, 2])
def test_hair_without_a_fringe_leaves_the_face_free(head_mesh, cut, seed):
    head = some_head(head_mesh, 20 + seed)
    shown = draw(head, head_mesh.triangles, grow(head_mesh, cut, head, seed=seed, fringe=0.0))
    marks = to_px(head[head_mesh.landmark_idx])[27:]
    column, row = marks[:, :2].round().astype(int).T
    around = np.stack([shown[row + a, column + b] >= 0 for a in (-1, 0, 1) for b in (-1, 0, 1)])
    assert around.mean() < 0.02
    assert (shown >= 0).sum() > 50


def test_a_fringe_covers_the_forehead_but_not_the_eyes(head_mesh, mean_head):
    forehead = (abs(head_mesh.canonical[:, 0]) < 0.25) & (abs(head_mesh.canonical[:, 1] - 7.75) < 0.08)
    column, row = to_px(mean_head[forehead & (head_mesh.canonical[:, 2] > 1)])[:, :2].round().astype(int).T
    bare, covered = (
        draw(mean_head, head_mesh.triangles, grow(head_mesh, "long_straight", mean_head, fringe=fringe)) >= 0
        for fringe in (0.0, 7.55)
    )
    assert bare[row, column].mean() < 0.1
    assert covered[row, column].mean() > 0.8
    eyes = to_px(mean_head[head_mesh.face_idx[head_mesh.model.landmark_idx[36:48]]])
    column, row = eyes[:, :2].round().astype(int).T
    assert covered[row, column].mean() < 0.1


def test_the_same_seed_gives_the_same_bytes(head_mesh, mean_head):
    for cut in ("messy", "tail"):
        first, again, other = (grow(head_mesh, cut, mean_head, seed=seed) for seed in (4, 4, 5))
        assert all(np.array_equal(a.points, b.points) for a, b in zip(first, again, strict=True))
        assert all(np.array_equal(a.color, b.color) for a, b in zip(first, again, strict=True))
        assert not np.array_equal(first[0].points[:100], other[0].points[:100])


def test_long_hair_hangs_and_its_ends_are_ragged(head_mesh, mean_head):
    tips = grow(head_mesh, "long_straight", mean_head, end=6.3)[0].points[:, -1, 1] / 1e5
    assert abs(np.median(tips) - 6.3) < 0.25
    assert 0.03 < np.std(tips) < 0.6
    # Gravity is the camera's, whatever the head does.
    nodding = rotation_from_angles(np.radians([-35, 0, 0]))
    for rotation in (np.eye(3), nodding):
        strands = grow(head_mesh, "long_straight", mean_head, rotation)[0].points
        end = strands[:, -1] - strands[:, -4]
        assert np.median(end[:, 1] / np.maximum(np.linalg.norm(end, axis=1), 1)) < -0.75


def test_hair_lies_on_the_shoulders(head_mesh):
    head = some_head(head_mesh, 9)
    strands = grow(head_mesh, "long_straight", head, end=4.7)[0].points / 1e5
    top = growth.torso_height(np.float32(head / 1e5))
    column = ((strands[..., 0] - TORSO_LOW[0]) / TORSO_CELL).round().astype(int).clip(0, TORSO_SHAPE[1] - 1)
    row = ((strands[..., 2] - TORSO_LOW[1]) / TORSO_CELL).round().astype(int).clip(0, TORSO_SHAPE[0] - 1)
    low = strands[..., 1] < 6.4
    assert low.sum() > 5000
    # At steep places a cell's height says little, so a few points may seem to lie inside.
    assert (strands[..., 1] < top[row, column] - 0.15)[low].mean() < 0.1


def test_hair_without_weight_turns_with_the_head(head_mesh, mean_head):
    rotation = rotation_from_angles(np.radians([10, 50, -15]))
    still, turned = (grow(head_mesh, "buzz", mean_head, frame)[0].points for frame in (np.eye(3), rotation))
    assert np.abs(still @ rotation.T - turned).max() < 0.02e5


def test_the_painted_scalp_agrees_with_the_roots(head_mesh):
    for cut in ("crop", "receding", "crown", "ring", "long_wavy"):
        style = cut_style(cut, np.random.default_rng(3))
        cover = hair_roots.scalp_cover(head_mesh, style)
        assert cover.shape == (len(head_mesh.canonical),)
        assert 0 <= cover.min() <= cover.max() <= 1
        roots, _ = growth.choose_roots(head_mesh, style, np.random.default_rng(3))
        assert roots.value(cover).mean() > 0.6
        assert cover[head_mesh.canonical[:, 1] < 6].max() == 0
    assert not hair_roots.scalp_cover(head_mesh, cut_style("bald", np.random.default_rng(0))).any()


def test_bald_heads_grow_nothing(head_mesh, mean_head):
    assert grow(head_mesh, "bald", mean_head) == []
    assert facial_hair.grow_beard(head_mesh, BeardStyle(), BROWN, mean_head, np.eye(3), np.random.default_rng(0)) == []


def test_a_bald_crown_is_bald(head_mesh):
    style = replace(cut_style("crown", np.random.default_rng(1)), crown=0.4)
    roots, _ = growth.choose_roots(head_mesh, style, np.random.default_rng(1))
    assert np.linalg.norm(roots.position - np.float32([0, 8.27, -0.1]), axis=1).min() > 0.2


# --- who wears what ---


def draw_styles(woman, age, ancestry, count=400):
    rng = np.random.default_rng(0)
    return [draw_hair_style(rng, woman, age, np.array(ancestry)) for _ in range(count)]


def share(styles, *names):
    return np.mean([style.name in names for style in styles])


def test_styles_go_with_people():
    african, asian, caucasian = np.eye(3)
    women, men = (draw_styles(woman, 0.5, caucasian) for woman in (True, False))
    assert share(women, "long", "tied") > 0.5 > 4 * share(men, "long", "tied")
    assert share(men, "short", "buzz") > 0.6 > 3 * share(women, "short", "buzz")
    assert share(women, "bald", "receding") == 0
    old = draw_styles(False, 1.0, caucasian)
    assert share(old, "bald", "receding") > 0.3 > 3 * share(men, "bald", "receding")
    assert np.mean([s.gray for s in old]) > 0.4
    assert max(s.gray for s in men) == 0
    assert share(draw_styles(True, 0.5, african), "afro") > 0.1
    assert share(draw_styles(True, 0.5, asian), "afro") == 0
    assert share(draw_styles(False, 0.1, caucasian), "bald") == 0
    assert 0.1 < np.mean([s.fringe > 0 for s in women]) < 0.4


def test_beards_go_with_people():
    rng = np.random.default_rng(0)
    assert {draw_beard_style(rng, True, 0.6).name for _ in range(50)} == {"none"}
    assert {draw_beard_style(rng, False, 0.2).name for _ in range(50)} == {"none"}
    men = [draw_beard_style(rng, False, 0.6).name for _ in range(300)]
    assert set(men) == {"none", "stubble", "moustache", "goatee", "full", "long"}
    assert 0.25 < np.mean([name == "none" for name in men]) < 0.55


# --- beard, brows, lashes ---


def test_beards_grow_where_their_style_says(head_mesh, mean_head):
    mouth = head_mesh.landmarks[48:60]

    def roots(style):
        grown = facial_hair.grow_beard(head_mesh, style, BROWN, mean_head, np.eye(3), np.random.default_rng(0))
        return grown[0].points[:, 0] / 1e5

    moustache = roots(BeardStyle("moustache", 0, 1, 0, 0, 0.06))
    assert moustache[:, 1].min() > mouth[:, 1].min()  # corners reach down beside the lips
    assert np.median(moustache[:, 1]) > mouth[:, 1].max()
    goatee = roots(BeardStyle("goatee", 0, 0, 1, 0, 0.06))
    assert abs(goatee[:, 0]).max() < 0.36
    assert np.quantile(goatee[:, 1], 0.95) < mouth[0, 1] + 0.05
    full = roots(BeardStyle("full", 0, 1, 1, 1, 0.1))
    assert len(full) > len(moustache) + len(goatee)
    assert head_mesh.masks["ears"][cKDTree(head_mesh.canonical).query(full)[1]].max() < 0.5


def test_what_grows_on_the_face_follows_pose_and_expression(head_mesh):
    rotation = rotation_from_angles(np.radians([15, -40, 10]))
    head = some_head(head_mesh, 3)
    for growing, value in ((facial_hair.grow_brows, 0.6), (facial_hair.grow_lashes, 0.5)):
        still, turned = (
            growing(head_mesh, value, BROWN, head @ frame.T, frame, np.random.default_rng(0))[0].points
            for frame in (np.eye(3), rotation)
        )
        assert np.abs(still @ rotation.T - turned).max() < 100
        moved = head.copy()
        moved[:, 1] += 5000
        lifted = growing(head_mesh, value, BROWN, moved, np.eye(3), np.random.default_rng(0))[0].points
        assert np.allclose(lifted - still, [0, 5000, 0], atol=100)


def test_brows_and_lashes_lie_at_their_landmarks(head_mesh, mean_head):
    marks = head_mesh.landmarks
    brows = (
        facial_hair.grow_brows(head_mesh, 0.6, BROWN, mean_head, np.eye(3), np.random.default_rng(0))[0].points / 1e5
    )
    assert cKDTree(marks[17:27]).query(brows[:, 0])[0].max() < 0.15
    line = np.polyfit(abs(marks[17:27, 0]), marks[17:27, 1], 2)
    assert (
        -0.035 < np.median(brows[:, 0, 1] - np.polyval(line, abs(brows[:, 0, 0]))) < -0.005
    )  # landmarks run along the top
    outward = (brows[:, -1, 0] - brows[:, 0, 0]) * np.sign(brows[:, 0, 0])
    assert (outward > 0).mean() > 0.95
    lashes = (
        facial_hair.grow_lashes(head_mesh, 1.0, BROWN, mean_head, np.eye(3), np.random.default_rng(0))[0].points / 1e5
    )
    assert cKDTree(marks[36:48]).query(lashes[:, 0])[0].max() < 0.12
    assert (lashes[:, -1, 2] > lashes[:, 0, 2]).mean() > 0.95
    upper = lashes[:, 0, 1] > marks[36:48, 1].mean()
    length = np.linalg.norm(lashes[:, -1] - lashes[:, 0], axis=1)
    assert length[upper].mean() > 1.5 * length[~upper].mean()


# --- drawing ---


def buffers(height, width, depth=-np.inf):
    return (
        np.full((height, width), depth, np.float32),
        np.full((height, width), -1, np.int32),
        np.zeros((height, width), np.float32),
    )


def draw_naively(points, half_width, height, width):
    """The nearest strand at each sample by looking at all samples and all segments."""
    depth, strand, along = buffers(height, width)
    steps = points.shape[1] - 1
    for i in range(len(points)):
        for k in range(steps):
            a, b = points[i, k].astype(float), points[i, k + 1].astype(float)
            major = int(abs(b[1] - a[1]) >= abs(b[0] - a[0]))
            for row in range(height):
                for column in range(width):
                    sample = (column, row)
                    low, high = sorted((a[major], b[major]))
                    if not low <= sample[major] < high:
                        continue
                    t = (sample[major] - a[major]) / (b[major] - a[major])
                    slope = (b[1 - major] - a[1 - major]) / (b[major] - a[major])
                    place = (k + t) / steps
                    half = max(half_width[i] * (1 - TAPER * place**2) * np.hypot(1, slope), 0.5)
                    across = abs(sample[1 - major] - a[1 - major] - slope * (sample[major] - a[major]))
                    z = a[2] + t * (b[2] - a[2])
                    if across <= half and z > depth[row, column]:
                        depth[row, column], strand[row, column], along[row, column] = z, i, place
    return depth, strand, along


def test_strands_are_drawn_as_a_naive_loop_draws_them():
    rng = np.random.default_rng(0)
    points = np.float32(np.cumsum(rng.normal(0, 4, (6, 5, 3)), 1) + [12, 10, 0])
    half = np.float32(rng.uniform(0.6, 2.5, 6))
    drawn, naive = buffers(22, 26), draw_naively(points, half, 22, 26)
    draw_strands(points, half, *drawn)
    # A sample on the very edge of a strand may fall to either side in single precision.
    assert (drawn[1] == naive[1]).mean() > 0.995
    same = drawn[1] == naive[1]
    assert np.allclose(drawn[0][same], naive[0][same], atol=1e-3)
    assert np.allclose(drawn[2][same], naive[2][same], atol=1e-4)


def test_strands_taper_and_run_from_root_to_tip():
    points = np.linspace([20, 5, 0], [20.3, 65, 0], 9, dtype=np.float32)[None]
    depth, strand, along = buffers(70, 40)
    draw_strands(points, np.float32([6]), depth, strand, along)
    width = (strand >= 0).sum(1)[5:64]
    assert width[0] in (12, 13)
    assert abs(width[-1] - 12 * (1 - TAPER)) <= 1.5
    assert (np.diff(width) <= 1).all()
    place = along[6:64][strand[6:64] >= 0]
    row = np.nonzero(strand[6:64] >= 0)[0]
    assert np.allclose(place, (row + 1) / 60, atol=0.01)


@pytest.mark.parametrize("half", [0.1, 0.25, 0.4])
def test_thin_strands_cover_their_share(half):
    rng = np.random.default_rng(1)
    points = np.zeros((300, 2, 3), np.float32)
    points[:, 0, :2] = rng.uniform(5, 45, (300, 2))
    points[:, 1, :2] = points[:, 0, :2] + [40, 7]
    covered = 0
    for strand in points:
        drawn = buffers(60, 95)
        draw_strands(strand[None], np.float32([half]), *drawn)
        covered += (drawn[1] == 0).sum()
    assert np.isclose(covered / 300, np.hypot(40, 7) * 2 * half, rtol=0.1)


def test_what_stands_in_front_hides_strands():
    points = np.linspace([5, 5, 10], [30, 20, 10], 4, dtype=np.float32)[None]
    for depth, seen in ((11, False), (9, True)):
        drawn = buffers(30, 40, depth)
        draw_strands(points, np.float32([2]), *drawn)
        assert (drawn[1] >= 0).any() == seen
        assert (drawn[0] == 10).any() == seen


def test_bad_and_distant_strands_draw_nothing():
    points = np.full((3, 4, 3), np.nan, np.float32)
    points[1], points[2] = np.linspace([-90, -50, 0], [-10, -3, 0], 4), 7.0
    drawn = buffers(20, 20)
    draw_strands(points, np.full(3, 2.0), *drawn)
    assert (drawn[1] == -1).all()


def test_places_lie_on_the_strands():
    rng = np.random.default_rng(2)
    points, strand, along = rng.standard_normal((5, 8, 3)), rng.integers(0, 5, 60), rng.uniform(0, 1, 60)
    along[:2] = 0, 1
    expected = [[np.interp(t * 7, np.arange(8), points[k, :, c]) for c in range(3)] for k, t in zip(strand, along)]
    assert np.allclose(places_on(points, strand, along), expected, atol=1e-5)


def test_a_shadow_maps_hairs_are_as_deep_as_a_pictures():
    rng = np.random.default_rng(3)
    points, half = rng.uniform(0, 40, (30, 6, 3)), rng.uniform(0.2, 2, 30)
    depth, strand, along = buffers(40, 40)
    alone = depth.copy()
    draw_strands(points, half, depth, strand, along)
    draw_strands(points, half, alone)
    assert (strand >= 0).any()
    assert np.array_equal(depth, alone)


def test_tangents_point_to_the_tip():
    turn = np.linspace(0, np.pi / 2, 12)
    points = np.float32(np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)[None] * 100)
    along = np.linspace(0, 1, 50)
    found = tangents(points, np.zeros(50, int), along)
    expected = np.stack([-np.sin(along * np.pi / 2), np.cos(along * np.pi / 2), 0 * along], 1)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert ((found * expected).sum(1) > np.cos(np.radians(5))).all()


# --- light ---


def light(strength=1.0, ambient=0.0):
    direction = np.float32([[0, 0.6, 0.8], [0.9, 0.1, -0.42]])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return Light(
        direction, np.full((2, 3), strength, np.float32), np.full(2, 0.1), np.full(3, ambient), np.full(3, ambient)
    )


def fibres(count=2000, seed=0):
    rng = np.random.default_rng(seed)
    tangent = growth.unit(rng.standard_normal((count, 3)))
    return rng.uniform(0, 1, (count, 3)), tangent, rng.random(count), growth.unit(rng.standard_normal((count, 3)))


def test_hair_gives_back_no_more_than_it_gets():
    color, tangent, along, normal = fibres()
    lit = np.ones((len(color), 2))
    for outwards in (None, normal):
        shaded = shade_strands(color, tangent, along, lit, light(), outwards)
        assert shaded.dtype == np.float32
        assert np.isfinite(shaded).all()
        assert shaded.min() >= 0
        assert shaded.mean() < color.mean() * 2
        assert shaded.max() < 2 * (1.2 + 1.1)
    ambient = shade_strands(color, tangent, along, 0 * lit, light(ambient=0.5))
    assert (ambient <= 0.5 * 1.12 * color + 1e-6).all()


def test_light_adds_up_and_shadow_takes_it():
    color, tangent, along, normal = fibres()
    both, first, second, none = (
        shade_strands(color, tangent, along, np.tile(lit, (len(color), 1)), light(), normal)
        for lit in ((1, 1), (1, 0), (0, 1), (0, 0))
    )
    assert not none.any()
    assert np.allclose(both, first + second, atol=1e-5)
    assert np.allclose(
        shade_strands(color, tangent, along, np.ones((len(color), 2)), light(3), normal), 3 * both, rtol=1e-4
    )


def test_highlights_lie_across_the_hair():
    angle = np.radians(np.linspace(-80, 80, 161))
    tangent = np.stack([0 * angle, np.sin(angle), np.cos(angle)], 1)[:, [0, 2, 1]]
    black = np.full((161, 3), 0.01)
    frontal = Light(np.float32([[0, 0, 1]]), np.ones((1, 3)), np.full(1, 0.1), np.zeros(3), np.zeros(3))
    shaded = shade_strands(black, tangent, np.full(161, 0.5), np.ones((161, 1)), frontal).mean(1)
    assert abs(np.degrees(angle[shaded.argmax()])) < 15
    assert shaded.max() > 3 * shaded[[0, -1]].max()
    # tips are lighter than roots
    root, tip = (shade_strands(black, tangent, np.full(161, s), np.ones((161, 1)), frontal, gloss=0.0) for s in (0, 1))
    assert (tip > root).all()


def test_bulk_normals_point_away_from_the_head():
    rng = np.random.default_rng(0)
    places = rng.normal(0, 1e5, (200, 3)) + [0, 7e5, 0]
    normals = bulk_normals(places, np.array([0, 7e5, 0]))
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert ((normals * (places - [0, 7e5, 0])).sum(1) > 0).all()


def test_the_shell_is_the_skull(head_mesh):
    head = np.float32(some_head(head_mesh, 11) / 1e5)
    scalp = np.unique(head_mesh.scalp)
    centre = growth.CENTRE_DM + (head[scalp] - head_mesh.canonical[scalp]).mean(0)
    shell = growth.skull_shell(head, centre, ears=False)
    assert np.allclose(shell[:, 0], shell[:, -1])
    ray = head[scalp] - centre
    radius = np.linalg.norm(ray, axis=1)
    rows, columns = shell.shape
    row = (ray[:, 1] / radius + 1) / 2 * (rows - 1)
    column = (np.arctan2(ray[:, 0], ray[:, 2]) / (2 * np.pi) + 0.5) * (columns - 1)
    i, j = np.minimum(row.astype(int), rows - 2), np.minimum(column.astype(int), columns - 2)
    a, b = row - i, column - j
    found = (1 - a) * ((1 - b) * shell[i, j] + b * shell[i, j + 1]) + a * (
        (1 - b) * shell[i + 1, j] + b * shell[i + 1, j + 1]
    )
    assert np.quantile(abs(found - radius), 0.95) < 0.04
    assert abs(found - radius)[head_mesh.canonical[scalp, 1] > 8].max() < 0.04
