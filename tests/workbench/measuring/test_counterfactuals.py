from dataclasses import fields

import numpy as np
import pytest

from p2m_core.errors import InputError
from p2m_core.inference import open_network
from p2m_core.metrics import nme68_2d
from p2m_synth.person import Overrides
from p2m_synth.render.light import draw_light, turned_to
from p2m_synth.writer import Recipe
from p2m_workbench.measuring.counterfactuals import (
    QUANTITIES,
    SyntheticPerson,
    error_over_figure,
    faces_over,
    predict_people,
    true_landmarks,
)


@pytest.fixture(scope="module")
def person(head):
    return SyntheticPerson(Recipe(96, 1), 3).having(yaw=0, glasses="none", beard="none", occluder="none", mouth=0.0)


def test_one_thing_changes_and_all_else_stays(person):
    """A thing before the mouth leaves the picture's rim alone, glasses the lower half, and nothing moves the truth."""
    draw, plain = person.photograph()
    np.testing.assert_array_equal(person.photograph()[1], plain)
    for quantity, value in (("glasses", "dark"), ("occluder", "cup"), ("beard", "full")):
        other, picture = person.having(**{quantity: value}).photograph()
        np.testing.assert_array_equal(other.face_px, draw.face_px)
        changed = np.abs(picture.astype(int) - plain).max(-1) > 25
        assert 0.002 < changed.mean() < 0.45, quantity
        assert changed[:8].mean() < 0.02, quantity  # the background above the head
    assert person.having(glasses="dark").photograph()[0].person.look.wear.glasses == "dark"
    assert person.having(beard="full").photograph()[0].person.look.beard.name == "full"


def test_pose_and_mouth_are_as_wished(person):
    draw, _ = person.having(yaw=40, pitch=-20).photograph()
    np.testing.assert_allclose(np.degrees(draw.pose_para[:2]), [-20, 40], atol=1e-4)

    def opening(jaw):
        points = true_landmarks(person.having(mouth=jaw).photograph()[0])
        return np.linalg.norm(points[62] - points[66])

    openings = [opening(jaw) for jaw in (0.0, 0.4, 0.9)]
    assert openings[0] < openings[1] < openings[2]
    assert person.having(mouth=0.4).photograph()[0].person.units["jawOpen"] == 0.4


@pytest.mark.parametrize("turn_deg", [-120.0, 0.0, 75.0])
def test_the_strongest_lamp_stands_where_it_is_wished(turn_deg):
    for seed in range(5):
        _, light = draw_light(np.random.default_rng(seed))
        turned = turned_to(light, turn_deg)
        x, _, z = turned.direction[light.color.sum(1).argmax()]
        assert np.degrees(np.arctan2(x, z)) == pytest.approx(turn_deg, abs=1e-3)
        np.testing.assert_allclose(
            turned.direction @ turned.direction.T, light.direction @ light.direction.T, atol=1e-5
        )
        np.testing.assert_allclose(turned.direction[:, 1], light.direction[:, 1], atol=1e-6)


def test_the_curve_is_what_single_pictures_give(person):
    values, model = (-60, 0, 60), open_network("bundled", device="cpu")
    errors = [error for _, error in faces_over(person, "yaw", values)]
    single = [predict_people([person.having(yaw=yaw)], model)[0][1] for yaw in values]
    np.testing.assert_allclose(errors, single, atol=0.02)  # a batch adds up in another order
    assert errors[1] < min(errors[0], errors[2])
    assert errors[1] < 4
    draw, image = person.photograph()
    [(prediction, error)] = predict_people([person], model)
    np.testing.assert_array_equal(prediction.photo, image)
    assert error == nme68_2d(prediction.mesh.landmarks_px[None], true_landmarks(draw)[None])[0]
    assert prediction.truth_px is None


def test_curves_have_labels(person):
    for name, quantity in QUANTITIES.items():
        axes = error_over_figure(np.arange(1.0, len(quantity.values) + 1), name, quantity.values[1]).axes[0]
        assert axes.get_xlabel() == quantity.label
        assert axes.get_ylabel() == "nme68-2d, %"
        assert quantity.field in {field.name for field in fields(Overrides)}


def test_what_cannot_be_moved_is_refused(person):
    with pytest.raises(InputError, match=r"nose: is none that can be moved .*yaw, pitch, light"):
        faces_over(person, "nose", (1,))
