"""p2m_synth.render.camera_effects: what a camera makes of light."""

import numpy as np
import pytest

from p2m_synth.render import camera_effects
from p2m_synth.render.camera_effects import LOOKS, compress, develop, expose, lens, record, take_photo, tone_curve

TONES = np.float32([[0.105, 0.055, 0.037], [0.37, 0.205, 0.125], [0.8, 0.57, 0.46]])


def scene(tone=(0.55, 0.33, 0.225), size=64, light=1.0):
    """A face-coloured disc before a dim wall, and where it is."""
    y, x = np.mgrid[:size, :size] - size / 2
    face = np.hypot(x, y) < size / 3
    image = np.full((size, size, 3), 0.2 * light, np.float32)
    image[face] = np.float32(tone) * light
    return image, face


def test_looks_are_drawn_by_their_shares():
    assert sum(LOOKS.values()) == pytest.approx(1)
    rng = np.random.default_rng(0)
    image = np.full((4, 4, 3), 0.5, np.float32)
    drawn = [develop(image, rng)[0] for _ in range(3000)]
    for name, share in LOOKS.items():
        assert np.mean([look == name for look in drawn]) == pytest.approx(share, abs=0.02)


def test_photos_are_bytes_of_the_same_size():
    image, face = scene()
    for seed in range(30):
        look, taken = take_photo(image, face, np.float32([0.55, 0.33, 0.225]), np.random.default_rng(seed))
        assert look in LOOKS
        assert taken.shape == image.shape
        assert taken.dtype == np.uint8
        again = take_photo(image, face, np.float32([0.55, 0.33, 0.225]), np.random.default_rng(seed))[1]
        np.testing.assert_array_equal(taken, again)


@pytest.mark.parametrize("light", [0.5, 1.0, 20.0])
def test_exposure_makes_up_for_the_light_and_keeps_the_order_of_tones(light):
    medians = []
    for tone in TONES:
        image, face = scene(tone, light=light)
        exposed = [expose(image, face, tone, np.random.default_rng(seed)) for seed in range(40)]
        medians.append(np.median([np.median(e[face] @ camera_effects.LUMINANCE) for e in exposed]))
    assert medians[0] < medians[1] < medians[2]
    reflectance = TONES @ camera_effects.LUMINANCE
    assert 2 < medians[2] / medians[0] < 0.7 * reflectance[2] / reflectance[0]  # half made up for
    assert medians[0] > 0.04
    assert medians[2] < 0.7


def test_the_tone_curve_is_monotone_and_within_range():
    ramp = np.repeat(np.linspace(0, 6, 200, dtype=np.float32)[None, :, None], 3, 2)
    for seed in range(20):
        shown = tone_curve(ramp, np.random.default_rng(seed))[0, :, 0]
        assert shown.min() >= 0
        assert shown.max() <= 1
        assert (np.diff(shown) >= -1e-6).all()


def test_grey_looks_are_grey_and_sepia_is_brown():
    rng = np.random.default_rng(1)
    image = rng.random((32, 32, 3)).astype(np.float32)
    found = {}
    for seed in range(200):
        look, out = develop(image, np.random.default_rng(seed))
        assert 0 <= out.min() <= out.max() <= 1
        found.setdefault(look, out)
    assert set(found) == set(LOOKS)
    assert np.ptp(found["grey"], axis=2).max() < 1e-6
    assert (found["sepia"][..., 0] >= found["sepia"][..., 2]).all()
    assert found["warm"][..., 0].mean() > image[..., 0].mean()
    assert found["cold"][..., 0].mean() < image[..., 0].mean()


def test_lenses_blur_but_make_no_light():
    image, _ = scene()
    image[20:24, 20:24] = 5
    for seed in range(40):
        out = lens(image, np.random.default_rng(seed))
        assert out.min() >= -1e-4
        assert out.mean() < 1.35 * image.mean()


def test_recording_changes_grain_and_not_the_mean():
    flat = np.full((96, 96, 3), 0.5, np.float32)
    spread = []
    for seed in range(40):
        out = record(flat, np.random.default_rng(seed))
        assert out.mean() / 255 == pytest.approx(0.5, abs=0.02)
        spread.append(out.std())
    assert min(spread) < 3
    assert max(spread) > 5


def test_compression_keeps_the_size_and_nearly_the_picture():
    image, _ = scene(size=80)
    out = compress(image, np.random.default_rng(0))
    assert out.shape == image.shape
    assert 0 < abs(out - image).mean() < 0.05


def test_compression_blurs_blue_more_than_red():
    """As JPEG weighs them: of brightness, which it keeps best, red is 30% and blue 11%."""
    pattern, left = 0.4 * np.random.default_rng(5).choice([-1, 1], (64, 64)), []
    for channel in range(3):
        image = np.full((64, 64, 3), 0.5, np.float32)
        image[..., channel] += pattern
        left.append(abs(compress(image, np.random.default_rng(6)) - image)[..., channel].mean())
    red, green, blue = left
    assert green < red < blue
