"""p2m_synth.statistics."""

import numpy as np
import pytest
from conftest import SET_COUNT

from p2m_synth import statistics
from p2m_synth.statistics import LANDMARKS_FILE, YAW_FILE


@pytest.fixture(scope="module")
def mean(face_model):
    return face_model.mean[face_model.landmark_idx].astype(float)


def test_the_table_has_a_row_a_face(synthetic_set, tmp_path):
    table = statistics.attribute_table(synthetic_set)
    assert len(table) == SET_COUNT
    assert table["name"].is_unique
    assert (table["glasses"] == "none").any()  # "none" is a word, not a missing value
    assert statistics.attribute_table(tmp_path).empty


def test_measures_do_not_depend_on_pose_and_grow_with_what_they_measure(mean):
    opened = mean.copy()
    opened[[65, 66, 67, 57, 58, 56], 1] -= 8000
    turn = np.array([[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]])
    measures = statistics.expression_measures(np.stack([mean, opened, 0.01 * opened @ turn.T + 5]), mean)
    closed, wide, turned = measures["mouth opening"]
    assert wide > closed + 0.05
    assert turned == pytest.approx(wide, rel=1e-6)
    for values in measures.values():
        assert values[2] == pytest.approx(values[1], rel=1e-6)


def test_landmarks_of_a_set_are_upright(synthetic_set):
    landmarks, yaw = statistics.set_landmarks(synthetic_set)
    assert landmarks.shape == (SET_COUNT, 68, 3)
    assert (landmarks[:, 27, 1] > landmarks[:, 8, 1]).mean() > 0.9  # the nose above the chin
    assert abs(yaw).max() <= 90


@pytest.mark.parametrize("real", [True, False])
def test_figures_show_this_set_and_the_real_one_where_it_is(synthetic_set, mean, monkeypatch, tmp_path, real):
    folder = tmp_path if real else None
    if real:
        rng = np.random.default_rng(0)
        faces = mean + rng.normal(0, 1000, (30, 68, 3))
        np.save(tmp_path / LANDMARKS_FILE, (faces * [1, -1, 1]).transpose(0, 2, 1))
        np.save(tmp_path / YAW_FILE, rng.uniform(-90, 90, 30))
    monkeypatch.setattr(statistics, "real_folder", lambda: folder)
    figure = statistics.pose_and_expression(synthetic_set, mean)
    labels = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert labels == ["this set", "AFLW2000-3D"][: 1 + real]
    assert ("not here" in figure.get_suptitle()) != real


def test_shares_add_up(synthetic_set):
    table = statistics.attribute_table(synthetic_set)
    figure = statistics.attribute_shares(table)
    panels = {axes.get_title().split(",")[0].split(":")[0]: axes for axes in figure.axes}
    assert sum(bar.get_width() for bar in panels["light"].patches) == pytest.approx(100)
    without = 100 * (table["glasses"] == "none").mean()
    assert sum(bar.get_width() for bar in panels["glasses"].patches) == pytest.approx(100 - without)
    assert f"({without:.0f} have none)" in panels["glasses"].get_title()
    assert all(axes.patches or axes.get_title().endswith("(100 have none)") for axes in figure.axes)
    assert sum(bar.get_height() for bar in panels["melanin of the skin"].patches) == len(table)
