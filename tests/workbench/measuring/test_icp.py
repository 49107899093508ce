import numpy as np
import pytest

from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.metrics import rec_umeyama
from p2m_workbench.measuring.icp import rec_icp


def test_rec_icp_needs_no_correspondences_to_be_right():
    """A prediction whose vertices slid along the surface is right as a surface, wrong by correspondences."""
    u, v = (x.ravel() for x in np.meshgrid(np.linspace(-1, 1, 90), np.linspace(-1, 1, 90)))

    def surface(u, v):
        return np.stack([u, v, 0.3 * np.cos(2 * u) + 0.2 * np.sin(3 * v)], -1)

    def moved(points):
        return 1.3 * points @ rotation_from_angles(np.radians([5.0, 9, 2])).T + [2.0, 1, 0]

    gt = surface(u, v)[None]
    landmarks = np.zeros((1, 68, 3))
    landmarks[0, 45] = [1.0, 0, 0]
    slid = moved(surface(u * (1 - 0.1 * (1 - u**2)), v))[None]
    icp, known = rec_icp(slid, gt, landmarks)[0], rec_umeyama(slid, gt, landmarks)[0]
    assert icp < 0.6 * known
    assert rec_icp(moved(gt[0])[None], gt, landmarks)[0] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(rec_icp(slid, gt, 2 * landmarks), icp / 2)
