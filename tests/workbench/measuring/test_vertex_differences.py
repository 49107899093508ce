import numpy as np
import pytest
from example_predictions import made_up
from scipy import stats

from p2m_core.errors import InputError
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.measuring.vertex_differences import beyond_chance, mean_difference, sample_difference


def test_of_one_sample_it_is_error_less_error():
    theirs = made_up()
    ours = FacePrediction(theirs.name, theirs.mesh, theirs.photo, theirs.mesh.vertices_px)
    found = sample_difference(ours, theirs)
    np.testing.assert_allclose(found.ours, 0, atol=1e-9)
    np.testing.assert_allclose(found.points, -theirs.error_percent())
    assert found.beyond.all()
    assert found.mean == pytest.approx(-theirs.error_percent().mean())


def test_what_does_not_count_is_no_difference(with_eyes):
    truth = with_eyes.mesh.vertices_px + np.float32([1, 0, 0])
    prediction = FacePrediction("face", with_eyes.mesh, with_eyes.photo, truth)
    found = sample_difference(prediction, prediction)
    np.testing.assert_array_equal(np.isfinite(found.points), prediction.counted)
    assert not mean_difference([found] * 4).beyond.any()


def test_effects_are_found_and_chance_is_not():
    """Half of the vertices differ by two deviations: nearly all are found, and few others."""
    rng, false = np.random.default_rng(0), []
    for _ in range(40):
        differences = rng.normal(size=(20, 400))
        differences[:, :200] -= 2
        beyond = beyond_chance(differences)
        assert beyond[:200].mean() > 0.97
        false.append(beyond[200:].sum() / beyond.sum())
    assert np.mean(false) < 0.05
    assert np.mean([beyond_chance(rng.normal(size=(20, 400))).any() for _ in range(100)]) < 0.12  # 5% expected


def test_it_is_the_paired_t_test():
    ours, theirs = np.random.default_rng(1).normal(size=(2, 9, 30)) + np.linspace(0, 1, 30)
    p = stats.ttest_rel(ours, theirs).pvalue
    np.testing.assert_array_equal(beyond_chance(ours - theirs), stats.false_discovery_control(p) <= 0.05)


def test_the_ends():
    alike = np.tile([0.0, -0.5, np.nan], (5, 1))
    assert beyond_chance(alike).tolist() == [False, True, False]  # nothing; the same each time; unknown
    assert not beyond_chance(alike[:2]).any()  # two samples tell nothing
    with pytest.raises(ValueError, match="no sample"):
        mean_difference([])


def test_meshes_of_two_templates_are_refused():
    one, other = made_up("one"), made_up("one", rings=5)
    with pytest.raises(InputError, match=r"meshes of their own \(\d+ and \d+ vertices\)"):
        sample_difference(one, other)
    with pytest.raises(InputError, match="the store has another template"):
        sample_difference(one, FacePrediction("one", one.mesh, one.photo))
