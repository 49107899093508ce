"""The meshes that a training keeps, and its time machine."""

import json
import re

import numpy as np
import pytest

from p2m_core.files import read_npz
from p2m_workbench.training.previews import MOST_STEPS, keep_step, read_preview
from p2m_workbench.training.time_machine import MOST_FRAMES, time_machine_page, write_time_machine

FACES = np.array([[0, 1, 2]])


def keep(folder, step):
    keep_step(folder, step, np.full((2, 5, 3), step, np.float32), FACES)
    return read_npz(folder / "previews.npz", "")


def test_kept_meshes_are_thinned_evenly(tmp_path):
    for step in range(1, 200):
        content = keep(tmp_path, step)
    steps = content["steps"]
    assert 20 < len(steps) <= MOST_STEPS
    assert steps[-1] == 199
    assert np.diff(steps).max() < 12  # evenly, but for the last ones
    np.testing.assert_array_equal(content["vertices"][:, 1, 0, 0], steps)
    np.testing.assert_array_equal(content["faces"], FACES)


def test_those_of_a_lost_leg_and_of_another_template_are_forgotten(tmp_path):
    for step in (10, 20, 30):
        keep(tmp_path, step)
    assert keep(tmp_path, 20)["steps"].tolist() == [10, 20]
    keep_step(tmp_path, 25, np.zeros((2, 7, 3), np.float32), FACES)
    assert read_npz(tmp_path / "previews.npz", "")["steps"].tolist() == [25]


def test_the_time_machine_of_a_run_has_its_meshes_errors_and_curves(tiny_run):
    about = json.loads(re.search(r"<script>const about = (.*?);</script>", time_machine_page(tiny_run), re.S)[1])
    kept, latest = read_npz(tiny_run / "previews.npz", ""), read_preview(tiny_run / "preview.npz")
    assert 1 <= len(about["frames"]) <= MOST_FRAMES
    assert about["places"] == kept["steps"].tolist()
    assert about["frames"][-1].startswith(f"step {kept['steps'][-1]} · loss ")
    assert "validation error (nme68-2d, % of the face size)" in about["frames"][-1]
    assert [track["name"] for track in about["tracks"]] == [one.name for one in latest]
    for track, one in zip(about["tracks"], latest, strict=True):
        error = float(re.fullmatch(r"mean error (.*) %", track["captions"][-1])[1])
        assert error == pytest.approx(one.mean_error_percent(), rel=0.15)  # of fewer vertices
    assert len(about["axes"]) == 3  # loss, validation, rate
    assert write_time_machine(tiny_run).stat().st_size < 3e6


def test_a_run_without_previews_has_no_time_machine(tmp_path):
    assert write_time_machine(tmp_path) is None
