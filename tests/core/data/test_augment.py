import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2m_core.config.settings import AugmentConfig
from p2m_core.data.augment import change_look, cover, draw_matrix
from p2m_core.geometry.crop import apply_affine, compose, crop_image, crop_matrix

PLAIN = AugmentConfig(flip=0, rotate_deg=0, scale=0, shift=0, color=0, blur=0, noise=0, jpeg=0, occlude=0)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def spot(height, width, x, y, radius):
    """A soft white spot on black, and nothing else."""
    row, column = np.mgrid[:height, :width]
    bright = 250 * np.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * radius**2))
    return np.repeat(bright[..., None], 3, 2).round().astype(np.uint8)


def centroid(image):
    weight = image[..., 0].astype(float)
    row, column = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(weight * column).sum(), (weight * row).sum()]) / weight.sum()


# --- crops ---


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (7, 3), (20, 11)])
def test_whole_pixels_are_copied(dx, dy):
    image = noise(48, 60)
    crop = crop_image(image, np.array([[1.0, 0, -dx], [0, 1, -dy]]), 32)
    np.testing.assert_array_equal(crop, image[dy : dy + 32, dx : dx + 32])


def test_what_lies_outside_is_mirrored():
    image = noise(40, 40)
    crop = crop_image(image, np.array([[1.0, 0, 5], [0, 1, 0]]), 40)
    np.testing.assert_array_equal(crop[:, 5:], image[:, :-5])
    np.testing.assert_array_equal(crop[:, :5], image[:, 4::-1])


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_a_large_photo_is_averaged_not_picked(factor):
    """A crop a whole factor smaller is the mean of its blocks: a checkerboard turns grey instead of moiré."""
    image = noise(30 * factor, 30 * factor)
    # px p of the crop stands for the block whose centre is factor * p + (factor - 1) / 2
    matrix = np.array([[1 / factor, 0, -(factor - 1) / (2 * factor)], [0, 1 / factor, -(factor - 1) / (2 * factor)]])
    blocks = image.reshape(30, factor, 30, factor, 3).mean((1, 3))
    assert abs(crop_image(image, matrix, 30) - blocks).max() <= 0.51
    row, column = np.mgrid[:240, :240]
    checker = np.repeat((255 * ((row + column) % 2))[..., None], 3, 2).astype(np.uint8)
    assert abs(crop_image(checker, crop_matrix(np.array([20, 20, 200, 200]), 37, 1.1), 37).astype(int) - 127).max() < 45


@settings(max_examples=40, deadline=None)
@given(st.floats(0.12, 3), st.floats(-3.1, 3.1), st.floats(90, 130), st.floats(90, 130))
def test_points_and_pixels_move_alike(scale, turn, x, y):
    """Wherever the matrix takes a point, the picture around it goes too; at any size and turn."""
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    matrix = np.array([[c, -s, 0], [s, c, 0]])
    matrix[:, 2] = [45.3 - (matrix[0, :2] @ [x, y]), 52.8 - (matrix[1, :2] @ [x, y])]
    radius = max(3, 2.5 / scale)
    crop = crop_image(spot(220, 220, x, y, radius), matrix, 100)
    near = int(4 * radius * scale)  # farther out lie its mirror images beyond the picture's edge
    window = crop[53 - near : 54 + near, 45 - near : 46 + near]
    np.testing.assert_allclose(centroid(window) + [45 - near, 53 - near], [45.3, 52.8], atol=0.15)


def test_pictures_smaller_than_the_factor():
    crop = crop_image(np.full((3, 5, 3), 77, np.uint8), np.array([[0.1, 0, 4], [0, 0.1, 4]]), 8)
    assert (crop == 77).all()


def test_compose_is_first_then_second():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 2, 3))
    points = rng.normal(size=(20, 3))
    one_by_one = apply_affine(second, apply_affine(first, points))[:, :2]
    np.testing.assert_allclose(apply_affine(compose(second, first), points)[:, :2], one_by_one)


# --- random similarities ---


def test_without_changes_nothing_changes():
    rng = np.random.default_rng(0)
    matrix, flip = draw_matrix(PLAIN, rng, 64)
    np.testing.assert_allclose(matrix, [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    assert not flip
    image = noise(64, 64).astype(np.float32) / 255
    np.testing.assert_array_equal(change_look(image, PLAIN, rng), image)


def test_drawn_matrices_are_similarities_about_the_centre():
    config = AugmentConfig(**{**PLAIN.model_dump(), "rotate_deg": 14, "scale": 0.1, "shift": 0.05, "flip": 0.5})
    rng, size = np.random.default_rng(1), 112
    drawn = [draw_matrix(config, rng, size) for _ in range(3000)]
    matrices = np.array([matrix for matrix, _ in drawn])
    linear = matrices[:, :, :2]
    scale = np.sqrt(np.linalg.det(linear))
    gram = linear @ np.swapaxes(linear, 1, 2) / scale[:, None, None] ** 2
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(2), gram.shape), atol=1e-9)  # no shear, no mirror
    turn = np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    centre = (linear @ [55.5, 55.5] + matrices[:, :, 2] - 55.5) / size
    for values, mean, sigma in (
        (turn, 0, 14),
        (np.log(scale), 0, 0.1),
        (centre[:, 0], 0, 0.05),
        (centre[:, 1], 0, 0.05),
    ):
        assert values.mean() == pytest.approx(mean, abs=sigma / 10)
        assert values.std() == pytest.approx(sigma, rel=0.1)
    assert np.mean([flip for _, flip in drawn]) == pytest.approx(0.5, abs=0.05)
    assert abs(np.corrcoef(turn, [flip for _, flip in drawn])[0, 1]) < 0.1


@pytest.mark.parametrize(("name", "value"), [("rotate_deg", 30), ("scale", 0.5), ("shift", 0.2)])
def test_each_setting_does_its_own_change(name, value):
    config = AugmentConfig(**{**PLAIN.model_dump(), name: value})
    matrix, _ = draw_matrix(config, np.random.default_rng(2), 64)
    turned = abs(np.arctan2(matrix[1, 0], matrix[0, 0])) > 1e-6
    scaled = abs(np.linalg.det(matrix[:, :2]) - 1) > 1e-6
    shifted = np.linalg.norm(matrix[:, :2] @ [31.5, 31.5] + matrix[:, 2] - 31.5) > 1e-6
    assert [turned, scaled, shifted] == [name == "rotate_deg", name == "scale", name == "shift"]


# --- looks ---


@pytest.mark.parametrize("name", ["color", "blur", "noise", "jpeg", "occlude"])
def test_each_look_changes_the_picture_and_keeps_its_form(name):
    config = AugmentConfig(**{**PLAIN.model_dump(), name: 1.0})
    image = crop_image(noise(20, 20), np.array([[3.0, 0, 0], [0, 3, 0]]), 60).astype(np.float32) / 255
    before = image.copy()
    for seed in range(40):
        changed = change_look(image, config, np.random.default_rng(seed))
        assert changed.shape == image.shape
        assert changed.dtype == np.float32
        assert np.isfinite(changed).all()
        assert (changed != image).any()
        np.testing.assert_array_equal(image, before)  # the stored picture is not painted on
    again = change_look(image, config, np.random.default_rng(39))
    np.testing.assert_array_equal(again, changed)


def test_blur_smooths_noise_roughens_and_covers_hide_a_part():
    image = crop_image(noise(32, 32), np.array([[2.0, 0, 0], [0, 2, 0]]), 64).astype(np.float32) / 255

    def roughness(picture):
        return np.abs(np.diff(picture, axis=0)).mean()

    def changed(name, seed):
        return change_look(image, AugmentConfig(**{**PLAIN.model_dump(), name: 1.0}), np.random.default_rng(seed))

    for seed in range(20):
        assert roughness(changed("blur", seed)) < roughness(image)
        assert abs(changed("blur", seed).mean() - image.mean()) < 0.02
        assert roughness(changed("noise", seed)) > roughness(image)
        assert abs(changed("noise", seed).mean() - image.mean()) < 0.02
        hidden = (changed("occlude", seed) != image).any(-1)
        assert 0 < hidden.mean() < 0.4


def test_jpeg_drops_fine_detail_and_keeps_the_colour():
    config = AugmentConfig(**{**PLAIN.model_dump(), "jpeg": 1.0})
    flat = np.broadcast_to(np.array([0.8, 0.4, 0.2], np.float32), (32, 32, 3))
    # a change of one grey level from pixel to pixel is below what any of the qualities keeps
    fine = flat + np.indices((32, 32)).sum(0)[..., None] % 2 * np.float32(1 / 255)
    for seed in range(20):
        changed = change_look(fine, config, np.random.default_rng(seed))
        np.testing.assert_allclose(changed.mean((0, 1)), flat[0, 0], atol=0.03)
        assert np.ptp(changed, axis=(0, 1)).max() < 1e-3


def test_shares_are_how_often():
    config = AugmentConfig(**{**PLAIN.model_dump(), "blur": 0.3})
    image = noise(32, 32).astype(np.float32) / 255
    changed = [(change_look(image, config, np.random.default_rng(seed)) != image).any() for seed in range(600)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("size", [32, 64, 112])
def test_covers_stay_inside(size):
    for seed in range(300):
        image = np.full((size, size, 3), 0.5, np.float32)
        cover(image, np.random.default_rng(seed))
        assert np.isfinite(image).all()
        assert image.min() >= 0
        assert image.max() <= 1


def test_a_mirrored_view_may_be_changed():
    """Training mirrors a crop by a view with a negative stride, which OpenCV must take."""
    image = noise(48, 48).astype(np.float32) / 255
    every = AugmentConfig(color=1, blur=1, noise=1, jpeg=1, occlude=1)
    for seed in range(10):
        mirrored = change_look(image[:, ::-1], every, np.random.default_rng(seed))
        copied = change_look(np.ascontiguousarray(image[:, ::-1]), every, np.random.default_rng(seed))
        np.testing.assert_allclose(mirrored, copied, atol=1e-6)
