"""Where the error of predicted landmarks comes from."""

import numpy as np
import oracles
import pytest

from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.metrics import nme68_2d
from p2m_workbench.measuring.decomposition import error_decomposition


def turned(points, degrees, scale=1.0, shift=(0.0, 0.0, 0.0)):
    rotation = rotation_from_angles(np.radians(degrees))
    centre = points.mean(-2, keepdims=True)
    return centre + scale * (points - centre) @ rotation.T + np.asarray(shift)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("true rotation", {"degrees": [4.0, -12.0, 6.0]}),
        ("true scale", {"degrees": [0.0, 0, 0], "scale": 1.15}),
        ("true translation", {"degrees": [0.0, 0, 0], "shift": (5.0, -3.0, 2.0)}),
    ],
)
def test_a_fault_of_one_kind_is_wholly_in_its_part_of_the_decomposition(part, change):
    gt = 100 * np.random.default_rng(0).normal(size=(5, 68, 3))
    decomposition = error_decomposition(turned(gt, **change), gt)
    own = decomposition["alone"]["as it is"]
    assert (own > 0.5).all()
    for name, values in decomposition["alone"].items():
        if name == part:
            np.testing.assert_allclose(values, 0, atol=1e-9)
        elif name != "as it is":
            assert (values > 0.3 * own).all(), name
    np.testing.assert_allclose(decomposition["together"]["true shape"], 0, atol=1e-9)


def test_a_fault_of_shape_stays_until_the_shape_is_true():
    rng = np.random.default_rng(1)
    gt = 100 * rng.normal(size=(6, 68, 3))
    pred = turned(gt + 5 * rng.normal(size=gt.shape), [3.0, 8, -5], 0.9, (4.0, 4, 4))
    decomposition = error_decomposition(pred, gt)
    together = [values.mean() for values in decomposition["together"].values()]
    assert together[0] > together[-2] > 1
    assert together[-1] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(decomposition["together"]["true translation"], nme68_2d(oracle_aligned(pred, gt), gt))
    # the true shape in the predicted pose is off by the pose alone
    assert 0 < decomposition["alone"]["true shape"].mean() < decomposition["alone"]["as it is"].mean()


def oracle_aligned(pred, gt):
    return np.stack([oracles.aligned(p, g) for p, g in zip(pred, gt, strict=True)])
