"""What people wear and what stands before them: fit, shares, size, and the same picture for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.geometry.rasterizer import rasterize, vertex_normals
from p2m_synth.head.head_maps import Skull
from p2m_synth.head.head_mesh import load_head_mesh
from p2m_synth.occluders import hand, things
from p2m_synth.wear import clothes, headwear, style
from p2m_synth.wear.accessories import make_accessories
from p2m_synth.wear.clothes import make_clothes

MM = 1e3
NOTHING = {"glasses": "none", "headwear": "none", "earrings": "none", "mask": "none"}


@pytest.fixture(scope="module")
def head_mesh():
    return load_head_mesh()


def pose_head(head_mesh, seed: int, yaw_deg: float = 0.0):
    """A random person's refined vertices in the camera's frame, um, and the rotation."""
    shape = np.random.default_rng(seed).standard_normal(len(head_mesh.model.shape_sigma)) * head_mesh.model.shape_sigma
    rotation = rotation_from_angles(np.radians([5, yaw_deg, 3]))
    vertices = head_mesh.model.vertices(shape, np.zeros(len(head_mesh.model.expression_sigma)))
    return np.float32(head_mesh.refined @ vertices @ rotation.T), rotation


def wearing(seed: int, **what):
    return replace(style.draw_wear_style(np.random.default_rng(seed), True, 0.5), **(NOTHING | what))


def check(surfaces) -> None:
    """Finite, in range, hardly a triangle without area, below some 6000 triangles a surface."""
    for surface in surfaces:
        assert np.isfinite(surface.vertices).all()
        assert surface.triangles.min() >= 0
        assert surface.triangles.max() < len(surface.vertices)
        assert surface.color.shape == surface.vertices.shape
        assert 0 <= surface.color.min() <= surface.color.max() <= 1.6
        assert len(surface.triangles) < 6000
        a, b, c = (surface.vertices[surface.triangles[:, k]].astype(np.float64) for k in range(3))
        assert (np.linalg.norm(np.cross(b - a, c - a), axis=1) > 0).mean() > 0.999
        assert 0 < surface.alpha <= 1


@pytest.mark.parametrize("kind", sorted(style.HEADWEAR))
def test_hats_stand_outside_the_head(head_mesh, kind):
    for seed in range(2):
        head, rotation = pose_head(head_mesh, seed, 30)
        surfaces = make_accessories(
            head_mesh, wearing(seed, headwear=kind), head, rotation, np.random.default_rng(seed)
        )
        check(surfaces)
        skull = Skull(head_mesh, head @ rotation)
        for surface in surfaces[:1]:
            reach = surface.vertices @ rotation - skull.centre
            distance = np.linalg.norm(reach, axis=1)
            assert (distance > skull.radius(reach / distance[:, None]) - 1 * MM).all()


@pytest.mark.parametrize("kind", sorted(style.HEADWEAR))
def test_hats_hide_scalp_and_never_the_face(head_mesh, kind):
    hidden = headwear.hidden_scalp(head_mesh, wearing(0, headwear=kind))
    assert hidden[head_mesh.hairline > 0].mean() > (0.15 if kind == "headband" else 0.4)
    landmarks = head_mesh.landmark_idx
    assert not hidden[landmarks[17:]].any()
    assert not headwear.hidden_scalp(head_mesh, wearing(0)).any()


@pytest.mark.parametrize("frame", style.FRAMES)
def test_glasses_sit_before_the_eyes_and_outside_the_face(head_mesh, frame):
    for seed in range(2):
        head, rotation = pose_head(head_mesh, seed, -40)
        wear_style = wearing(seed, glasses="clear", frame=frame)
        frames, panes = make_accessories(head_mesh, wear_style, head, rotation, np.random.default_rng(seed))
        check([frames, panes])
        assert panes.alpha < 0.2
        front = panes.vertices @ rotation
        face = (head @ rotation)[head_mesh.face_idx]
        landmarks = face[head_mesh.model.landmark_idx]
        for eye, side in ((landmarks[36:42], -1), (landmarks[42:48], 1)):
            pane = front[front[:, 0] * side > 0]
            offset = pane.mean(0) - eye.mean(0)
            assert abs(offset[:2]).max() < 12 * MM
            assert 5 * MM < offset[2] < 40 * MM
            # Nothing of the skin round the eye sticks out through the glass.
            near = face[(abs(face - eye.mean(0))[:, :2] < [14 * MM, 9 * MM]).all(1)]
            for point in near[::7]:
                over = pane[np.argmin(((pane - point)[:, :2] ** 2).sum(1))]
                assert over[2] > point[2] - 1 * MM


def test_dark_glasses_hide_the_eyes(head_mesh):
    head, rotation = pose_head(head_mesh, 0)
    panes = make_accessories(head_mesh, wearing(0, glasses="dark"), head, rotation, np.random.default_rng(0))[-1]
    assert 0.7 < panes.alpha < 1


@pytest.mark.parametrize("what", [{"mask": "surgical"}, {"mask": "cloth"}, {"earrings": "stud"}, {"earrings": "ring"},
                                  {"earrings": "drop"}])  # fmt: skip
def test_masks_and_earrings(head_mesh, what):
    head, rotation = pose_head(head_mesh, 3, 20)
    surfaces = make_accessories(head_mesh, wearing(3, **what), head, rotation, np.random.default_rng(3))
    check(surfaces)
    if "mask" in what:
        nose, mouth = (head @ rotation)[head_mesh.face_idx][head_mesh.model.landmark_idx[[30, 51]]]
        for point in (nose, mouth):  # seen from the front, the mask is nearer
            shifted = (surfaces[0].vertices @ rotation - point) / MM + [40, 40, 0]
            assert rasterize(shifted, surfaces[0].triangles, 81, 81)[2][40, 40] > 0


def test_shares():
    rng = np.random.default_rng(0)
    people = [style.draw_wear_style(rng, k % 2 == 0, rng.random()) for k in range(6000)]
    assert np.mean([w.glasses != "none" for w in people]) == pytest.approx(0.16, abs=0.03)
    assert np.mean([w.glasses == "dark" for w in people]) == pytest.approx(0.04, abs=0.015)
    assert np.mean([w.headwear != "none" for w in people]) == pytest.approx(0.12, abs=0.02)
    assert np.mean([w.earrings != "none" for w in people[::2]]) == pytest.approx(0.35, abs=0.03)
    assert np.mean([w.earrings != "none" for w in people[1::2]]) == pytest.approx(0.05, abs=0.02)
    assert np.mean([w.mask != "none" for w in people]) == pytest.approx(0.015, abs=0.008)
    assert {w.headwear for w in people} == {"none", *style.HEADWEAR}
    assert not any(w.headwear == "headscarf" for w in people[1::2])


@pytest.mark.parametrize("kind", sorted(things.KINDS))
def test_occluders_hide_a_part_of_the_face(head_mesh, kind):
    shares = []
    for seed in range(3):
        head, _ = pose_head(head_mesh, seed, (-40, 0, 40)[seed])
        face = head[head_mesh.face_idx]
        surfaces = things.make_occluder(
            kind, np.random.default_rng(seed), head_mesh, face, face[head_mesh.model.landmark_idx], things.SKIN
        )
        check(surfaces)
        shares.append(things.covered_share(surfaces, head_mesh, face))
    assert max(shares) < 0.45
    assert sorted(shares)[1] > 0  # a face may look out between two bars


def test_share_of_occluders(head_mesh):
    head, _ = pose_head(head_mesh, 0)
    face = head[head_mesh.face_idx]
    landmarks = face[head_mesh.model.landmark_idx]
    rng = np.random.default_rng(0)
    names = [things.draw_occluder(rng, head_mesh, face, landmarks)[0] for _ in range(300)]
    assert 0.1 < np.mean([name != "none" for name in names]) < 0.26
    assert set(names) <= {"none", *things.KINDS}


def test_a_hand_is_closed_and_bends():
    model = hand.flat_hand()
    edges = np.sort(
        np.concatenate([model.triangles[:, [0, 1]], model.triangles[:, [1, 2]], model.triangles[:, [2, 0]]]), 1
    )
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    normals = vertex_normals(model.vertices, model.triangles)
    inside = model.vertices - 1.0 * normals
    assert (hand.hand_distance(inside) < 0).mean() > 0.99
    flat, _, tips = hand.bend_hand(model, np.zeros((5, 3)), np.zeros(5))
    np.testing.assert_allclose(flat, model.vertices, atol=1e-9)
    bent = hand.bend_hand(model, np.full((5, 3), 60.0), np.zeros(5))[2]
    assert (tips[1:, 1] - bent[1:, 1] > 40).all()
    assert (bent[1:, 2] > tips[1:, 2]).all()  # towards the palm


@pytest.mark.parametrize("outfit", sorted(clothes.OUTFITS))
def test_clothes_stay_below_the_chin(head_mesh, outfit):
    for seed in range(2):
        head, _ = pose_head(head_mesh, seed)
        name, surfaces = make_clothes(head_mesh, head, np.random.default_rng(seed), True, outfit)
        assert name == outfit
        check(surfaces)
        chin = head[head_mesh.face_idx[head_mesh.model.landmark_idx[8]]]
        for surface in surfaces:
            before = surface.vertices[abs(surface.vertices[:, 0] - chin[0]) < 30 * MM]
            before = before[before[:, 2] > chin[2] - 60 * MM]
            assert len(before) == 0 or before[:, 1].max() < chin[1]
        hidden = clothes.hidden_skin(head_mesh, outfit)
        assert hidden.any()
        assert not hidden[head_mesh.face_idx].any()


def test_same_seed_same_things(head_mesh):
    head, rotation = pose_head(head_mesh, 1, 25)
    face = head[head_mesh.face_idx]

    def everything():
        rng = np.random.default_rng(8)
        wear_style = wearing(8, glasses="clear", headwear="beanie", earrings="drop")
        surfaces = (
            make_accessories(head_mesh, wear_style, head, rotation, rng) + make_clothes(head_mesh, head, rng, True)[1]
        )
        landmarks = face[head_mesh.model.landmark_idx]
        return surfaces + things.draw_occluder(rng, head_mesh, face, landmarks, share=1.0)[1]

    for one, other in zip(everything(), everything(), strict=True):
        np.testing.assert_array_equal(one.vertices, other.vertices)
        np.testing.assert_array_equal(one.color, other.color)
