"""p2m_synth.render.light and the shadows of p2m_synth.render.renderer."""

import numpy as np
import pytest

from p2m_synth.render import renderer
from p2m_synth.render.light import PLACES, ShadowMap, draw_light, light_frame, shade_surface
from p2m_synth.scene.elements import Light, Strands

PLATE = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * 1e5
SQUARE = np.array([[0, 1, 2], [0, 2, 3]])


def lamp(direction=(0, 0, 1), strength=1.0, size=0.01, sky=0.0, ground=0.0):
    three = np.ones((1, 3), np.float32)
    direction = np.float32([direction]) / np.linalg.norm(direction)
    return Light(direction, three * strength, np.float32([size]), three[0] * sky, three[0] * ground)


def wall_and_plate(half=0.4, distance=0.5):
    """A wall, and a small plate before it: vertices and triangles of a Mesh."""
    vertices = np.float32(np.concatenate([PLATE, PLATE * [half, half, 1] + [0, 0, distance * 1e5]]))
    triangles = np.concatenate([SQUARE, SQUARE + 4]).astype(np.int32)
    nothing = np.zeros(len(triangles))
    return renderer.Mesh(vertices, triangles, nothing.astype(np.int8), nothing, nothing)


def points_on_wall(count=73):
    return np.float32(np.stack([np.linspace(-0.9, 0.9, count), np.full(count, 0.1), np.full(count, 0.02)], 1) * 1e5)


def ball_normals(count=500):
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((count, 3)).astype(np.float32)
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)


def shaded(normal, lights, gloss=0.0, soft=0.0, lit=1.0, sky=1.0, color=0.5):
    n = len(normal)
    full = np.full(n, 1, np.float32)
    lit = np.full((n, len(lights.direction)), lit, np.float32)
    tint = np.full((n, 3), color, np.float32)
    return shade_surface(tint, full * gloss, np.full(3, soft, np.float32), normal, full * sky, lit, lights)


# --- places ---


def test_places_are_drawn_by_their_shares():
    rng = np.random.default_rng(0)
    assert sum(PLACES.values()) == pytest.approx(1)
    drawn = [draw_light(rng) for _ in range(3000)]
    for name, share in PLACES.items():
        assert np.mean([place == name for place, _ in drawn]) == pytest.approx(share, abs=0.03)
    lights = [lights for _, lights in drawn]
    assert {len(each.color) for each in lights} >= {1, 2, 3}
    for each in lights:
        np.testing.assert_allclose(np.linalg.norm(each.direction, axis=1), 1, rtol=1e-5)
        assert min(each.color.min(), each.sky.min(), each.ground.min()) >= 0
        assert each.direction.dtype == each.color.dtype == each.size.dtype == np.float32
    # from anywhere: before, behind, left, right, below
    directions = np.concatenate([each.direction for each in lights])
    for axis, side in ((0, -1), (0, 1), (1, -1), (2, 1), (2, -1)):
        assert (directions[:, axis] * side > 0.3).mean() > 0.01


@pytest.mark.parametrize("place", PLACES)
def test_a_place_can_be_wished_for(place):
    assert draw_light(np.random.default_rng(1), place)[0] == place


# --- shadows ---


def test_shadows_fall_behind_what_stands_in_the_light():
    """Lit along z, a plate's shadow covers its own outline on the wall, and nothing else."""
    maps = renderer.cast_shadows(wall_and_plate(), [], lamp())
    place = points_on_wall()
    lit = renderer.light_visibility(maps, 1, place)[:, 0]
    clear = abs(abs(place[:, 0]) - 0.4e5) > 0.03e5  # not on the outline itself
    assert clear.sum() >= 60
    np.testing.assert_array_equal(lit[clear] == 0, abs(place[clear, 0]) < 0.4e5)
    np.testing.assert_array_equal(lit[clear] == 1, abs(place[clear, 0]) > 0.4e5)


def test_slanting_light_moves_the_shadow():
    """At 45 degrees from the right the shadow lies as far to the left as the plate stands off."""
    maps = renderer.cast_shadows(wall_and_plate(0.2, 0.4), [], lamp((1, 0, 1)))
    place = points_on_wall()
    dark = place[renderer.light_visibility(maps, 1, place)[:, 0] == 0, 0] / 1e5
    assert dark.mean() == pytest.approx(-0.4, abs=0.04)
    assert np.ptp(dark) == pytest.approx(0.4, abs=0.08)


def test_large_lamps_throw_soft_shadows():
    place = points_on_wall(400)
    widths = []
    for size in (0.01, 0.2, 0.4):
        maps = renderer.cast_shadows(wall_and_plate(), [], lamp(size=size))
        lit = renderer.light_visibility(maps, 1, place)[:, 0]
        widths.append(((lit > 0) & (lit < 1)).mean())
    assert widths[0] < widths[1] < widths[2]


def test_hairs_throw_shadows():
    one = np.linspace([-1e5, 0, 0.4e5], [1e5, 0, 0.4e5], 8)
    hairs = Strands(np.float32(one + np.arange(-20, 20)[:, None, None] * [0, 800, 0]), np.zeros((40, 3)), 900.0)
    place = np.float32([[0, 0, 2e3], [0, 0.6e5, 2e3]])
    assert renderer.light_visibility(renderer.cast_shadows(wall_and_plate(0, 0), [], lamp()), 1, place).tolist() == [
        [1],
        [1],
    ]
    lit = renderer.light_visibility(renderer.cast_shadows(wall_and_plate(0, 0), [hairs], lamp()), 1, place)[:, 0]
    assert lit[0] == 0
    assert lit[1] == 1


def test_weak_lamps_cast_none_and_at_most_two_do():
    directions = np.float32([[0, 0, 1], [0.6, 0, 0.8], [-0.6, 0, 0.8], [0, 0.6, 0.8]])
    color = np.float32([[1, 1, 1], [0.8, 0.8, 0.8], [0.1, 0.1, 0.1], [0.5, 0.5, 0.5]])
    lights = Light(directions, color, np.full(4, 0.1, np.float32), np.zeros(3), np.zeros(3))
    assert set(renderer.cast_shadows(wall_and_plate(), [], lights)) == {0, 1}
    lights = Light(directions[:3:2], color[:3:2], np.full(2, 0.1, np.float32), np.zeros(3), np.zeros(3))
    assert set(renderer.cast_shadows(wall_and_plate(), [], lights)) == {0}


def test_what_lies_outside_the_map_is_lit():
    depth = np.full((8, 8), -np.inf, np.float32)
    shadow = ShadowMap(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), 1.0, depth, 1.0)
    np.testing.assert_array_equal(shadow.lit(np.float32([[-50, 3, 0], [900, 900, -900], [4, 4, 0]])), 1)


@pytest.mark.parametrize("direction", [(0, 0, 1), (0.3, -0.5, 0.8), (0, 1, 0.001), (-1, 0, 0)])
def test_a_lamps_frame_is_a_rotation_towards_it(direction):
    direction = np.array(direction) / np.linalg.norm(direction)
    frame = light_frame(direction)
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(frame) == pytest.approx(1)
    np.testing.assert_allclose(frame @ direction, [0, 0, 1], atol=1e-12)


# --- surfaces ---


def test_a_matt_ball_is_lamberts():
    normal, direction = ball_normals(), np.float32([0.6, 0, 0.8])
    found = shaded(normal, lamp(direction, 2.0))
    expected = 0.5 * 2 * np.clip(normal @ direction, 0, None)
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 3, 1), atol=1e-5)


def test_without_lamps_there_is_the_skys_light():
    normal = np.float32([[0, 1, 0], [0, -1, 0], [0, 0, 1]])
    out = shaded(normal, lamp(strength=0, sky=1.0, ground=0.2))[:, 0]
    assert out[0] > out[2] > out[1] > 0
    hidden = shaded(normal, lamp(strength=0, sky=1.0, ground=0.2), sky=0.3)[:, 0]
    assert (hidden < out).all()


def test_light_is_never_negative_and_grows_with_what_arrives():
    normal, lights = ball_normals(), lamp((0.3, 0.4, 0.86), 1.3, sky=0.3, ground=0.1)
    dark, half, full = (shaded(normal, lights, gloss=0.5, soft=0.3, lit=lit) for lit in (0, 0.5, 1))
    assert dark.min() >= 0
    assert (half >= dark - 1e-6).all()
    assert (full >= half - 1e-6).all()


def test_in_full_shadow_there_is_the_skys_light_alone():
    normal, direction = ball_normals(), (0.3, 0.4, 0.86)
    shadow = shaded(normal, lamp(direction, 2.0, sky=0.3, ground=0.1), gloss=0.5, soft=0.3, lit=0)
    ambient = shaded(normal, lamp(direction, 0.0, sky=0.3, ground=0.1), gloss=0.5, soft=0.3)
    np.testing.assert_allclose(shadow, ambient, atol=1e-6)


def test_shadows_on_skin_have_red_edges():
    """Red light creeps farthest below the surface: where a shadow begins there is more of it, and only there."""
    ahead, soft = np.float32([[0, 0, 1]]), np.float32([[0.4, 0.2, 0.1]])
    share = []
    for lit in (0.25, 1.0):
        args = np.zeros(1, np.float32), soft, ahead, np.ones(1, np.float32), np.full((1, 1), lit, np.float32)
        red, _, blue = shade_surface(np.full((1, 3), 0.5, np.float32), *args, lamp())[0] * (1 + soft[0])
        share.append(red / blue)
    assert share[0] > 1.2
    assert share[1] == pytest.approx(1, abs=1e-5)


def test_scattering_carries_light_round_the_edge():
    past = np.radians([92, 95, 100])  # the terminator is at 90
    behind = np.float32(np.stack([0 * past, np.sin(past), np.cos(past)], 1))
    hard, wrapped = shaded(behind, lamp()), shaded(behind, lamp(), soft=0.4)
    assert (hard == 0).all()
    assert (wrapped > 0).all()


def test_glossy_things_have_a_small_highlight():
    tilt = np.radians(np.linspace(0, 60, 61))
    normal = np.float32(np.stack([np.sin(tilt), 0 * tilt, np.cos(tilt)], 1))
    matt, shiny, mirror = (shaded(normal, lamp(), gloss=gloss)[:, 0] for gloss in (0, 0.3, 3))
    assert shiny[0] > matt[0] + 0.05
    assert mirror[0] > shiny[0]
    # the wider lobe fades for what shines much
    assert (mirror - matt)[15] / (mirror - matt)[0] < (shiny - matt)[15] / (shiny - matt)[0]
    assert (shaded(normal, lamp(), gloss=3, lit=0) <= shaded(normal, lamp(), gloss=0)).all()
