import numpy as np
import pytest
from example_predictions import made_up

from p2m_core.geometry.template import GROUPS
from p2m_workbench.face_prediction import FacePrediction


def test_means_leave_a_mouths_membrane_out():
    from dataclasses import replace

    plain = made_up()
    mesh = plain.mesh
    assert plain.counted.all()
    assert plain.mean_error_percent() == pytest.approx(plain.error_percent().mean())
    mouth = np.zeros(len(mesh.faces), np.int64)
    mouth[:40] = GROUPS.index("mouth")
    kept = np.unique(mesh.faces[40:])
    inner = np.setdiff1d(np.arange(len(mesh.vertices_px)), kept)  # the membrane's own vertices, not its rim
    assert len(inner)
    truth = mesh.vertices_px + np.float32([3, 4, 0])
    grouped = replace(mesh, groups=mouth)
    one = FacePrediction("a", grouped, plain.photo, truth).mean_error_percent()
    truth = truth.copy()
    truth[inner] += 1000
    moved = FacePrediction("b", grouped, plain.photo, truth)
    assert moved.mean_error_percent() == pytest.approx(one)
    assert moved.error_percent()[moved.counted].mean() == pytest.approx(one)
    size = np.sqrt(np.prod(np.ptp(mesh.vertices_px[kept, :2], axis=0)))
    assert one == pytest.approx(100 * 5 / size, rel=1e-4)
    with pytest.raises(ValueError, match="no ground truth"):
        FacePrediction("c", grouped, plain.photo).mean_error_percent()
