"""The protocol consistency on shapes of known variance, and on photos."""

import numpy as np
import pytest
from PIL import Image

from p2m_core.config.loading import load_config
from p2m_core.errors import InputError
from p2m_workbench.measuring import people as people_module
from p2m_workbench.measuring.people import evaluate_people, find_people, recognised, variance_ratio


def test_variances_within_and_between_persons():
    rng = np.random.default_rng(0)
    persons = rng.normal(0, 3, (400, 1, 50))
    shapes = persons + rng.normal(0, 1, (400, 4, 50))
    # The mean of 4 views spreads by 9 + 1/4.
    assert variance_ratio(shapes) == pytest.approx(1 / 9.25, rel=0.02)
    assert variance_ratio(persons.repeat(3, 1)) == pytest.approx(0, abs=1e-12)
    assert variance_ratio(shapes * 7 + 5) == pytest.approx(variance_ratio(shapes))
    chance = rng.normal(0, 1, (400, 3, 50))  # nothing of the person in it
    assert variance_ratio(chance) == pytest.approx(3, rel=0.05)


def test_persons_are_recognised_by_the_nearest_shape():
    rng = np.random.default_rng(0)
    shapes = rng.normal(0, 1, (40, 30))
    assert recognised(shapes, shapes + rng.normal(0, 0.05, shapes.shape)) == 100
    assert recognised(shapes, np.roll(shapes, 1, 0)) == 0


@pytest.fixture
def folder(tmp_path):
    """Three persons from three views; a fourth lacks one."""
    for view in ("front", "left", "smile"):
        for person in ("ann", "bob", "eve", *(["zoe"] if view != "left" else [])):
            (tmp_path / view).mkdir(exist_ok=True)
            Image.new("RGB", (40, 40)).save(tmp_path / view / f"{person}_{view}.jpg")
    return tmp_path


def test_views_and_expressions_are_taken_off_where_they_are_alike(folder, monkeypatch, home):
    rng = np.random.default_rng(0)
    own = {name: rng.normal(0, 1, (20, 3)) for name in ("ann", "bob", "eve")}
    of_view = {name: rng.normal(0, 30, (20, 3)) for name in ("front", "left", "smile")}

    def shape_of(model, photo, flip):
        person, view = photo.stem.split("_")
        return own[person] + of_view[view]

    monkeypatch.setattr(people_module, "shape_of", shape_of)
    config = load_config(None, ["evaluate.weights=bundled", f"evaluate.store={folder}"])
    result = evaluate_people(config)
    row = result["consistency"].loc["bundled"]
    assert row["within / between"] > 10
    assert row["centred"] == pytest.approx(0, abs=1e-12)
    assert row[["persons", "views"]].tolist() == [3, 3]
    ranks = result["recognised"]
    assert ranks.index.tolist() == [("bundled", "front to left"), ("bundled", "front to smile")]
    assert (ranks["centred, %"] == 100).all()
    assert (result.folder / "consistency.csv").exists()


def test_a_photo_without_a_face_leaves_its_person_out(folder, monkeypatch, home):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        people_module,
        "shape_of",
        lambda model, photo, flip: None if photo.stem == "bob_left" else rng.normal(size=(9, 3)),
    )
    result = evaluate_people(load_config(None, ["evaluate.weights=bundled", f"evaluate.store={folder}"]))
    assert result["consistency"].loc["bundled", "persons"] == 2
    assert result.about["no face found"] == 1


def test_folders_that_cannot_be_compared_are_named(folder, tmp_path):
    assert list(find_people(folder)) == ["front", "left", "smile"]
    assert list(find_people(folder, ("smile", "front"))) == ["smile", "front"]
    with pytest.raises(InputError, match=r"right: evaluate\.views: has no photo"):
        find_people(folder, ("front", "right"))
    with pytest.raises(InputError, match="has 1 views that share 4 persons"):
        find_people(folder, ("front",))
    with pytest.raises(InputError, match="has 0 views"):
        find_people(folder / "front")
