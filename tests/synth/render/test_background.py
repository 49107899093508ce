"""p2m_synth.render.background."""

import numpy as np
import pytest
from PIL import Image

from p2m_core.errors import InputError
from p2m_synth.render.background import draw_background, fractal_noise, muted, own_pictures
from p2m_synth.render.light import PLACES


@pytest.mark.parametrize("place", PLACES)
def test_every_place_has_backgrounds(place):
    pictures = [draw_background(np.random.default_rng(seed), 48, place) for seed in range(25)]
    assert all(p.shape == (48, 48, 3) and p.dtype == np.float32 for p in pictures)
    assert min(p.min() for p in pictures) >= 0
    assert max(p.max() for p in pictures) <= 4
    assert np.std([p.mean() for p in pictures]) > 0.01
    again = draw_background(np.random.default_rng(3), 48, place)
    np.testing.assert_array_equal(again, pictures[3])


def test_outdoors_is_brighter_above():
    """The sky, on average."""
    pictures = [draw_background(np.random.default_rng(seed), 48, "overcast") for seed in range(60)]
    assert np.mean([p[:12].mean() for p in pictures]) > np.mean([p[-12:].mean() for p in pictures])


def test_nights_are_dark():
    night, day = (
        np.median([draw_background(np.random.default_rng(seed), 48, place).mean() for seed in range(40)])
        for place in ("night", "sun")
    )
    assert night < 0.4 * day


def test_noise_has_unit_variance_at_any_size():
    for size, cells, channels in ((32, 2, 3), (50, 40, 1)):
        noise = fractal_noise(np.random.default_rng(0), size, cells, channels=channels)
        assert noise.shape == (size, size, channels)
        assert noise.std() == pytest.approx(1, abs=1e-3)


def test_colours_are_mostly_muted():
    rng = np.random.default_rng(0)
    colors = np.array([muted(rng) for _ in range(500)])
    assert colors.min() >= 0
    saturation = np.ptp(colors, axis=1) / colors.max(1)
    assert np.median(saturation) < 0.5
    assert saturation.max() > 0.6


def test_the_users_pictures_stand_behind(tmp_path):
    Image.new("RGB", (90, 60), (255, 0, 0)).save(tmp_path / "red.png")
    own_pictures.cache_clear()
    drawn = [draw_background(np.random.default_rng(seed), 32, "room", tmp_path) for seed in range(40)]
    red = [(p[..., 0] > 0.7).all() and (p[..., 1] < 0.05).all() for p in drawn]
    assert 0.6 < np.mean(red) < 0.95


def test_a_folder_without_pictures_is_one_line(tmp_path):
    own_pictures.cache_clear()
    with pytest.raises(InputError, match=r"holds no pictures to stand before \(put \.jpg or \.png files there\)"):
        draw_background(np.random.default_rng(0), 32, "room", tmp_path)
