import io
import logging

import numpy as np
import oracles
import pytest
import scipy.io
from PIL import Image

from p2m_core.data import aflw2000
from p2m_core.errors import InputError
from p2m_core.geometry.camera import model_to_image
from p2m_core.morphable.model import LinearPoints
from p2m_synth import sample_files

POSE = np.array([0.1, -0.4, 0.2, 60, 50, -8, 4e-4])


def photo(height=80, width=100):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 2, y * 3, 128 + 60 * np.sin(x / 9)], -1).astype(np.uint8)


def truth(seed=0):
    """Shape, expression and landmarks of a made-up sample."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=12) * 1e4, rng.normal(size=5), rng.uniform(10, 70, (68, 3))


@pytest.fixture
def mat(tmp_path):
    shape, expression, landmarks_px = truth()
    return sample_files.write_sample(
        tmp_path / "set", "image00001", photo(), 95, POSE, shape, expression, landmarks_px, np.array([0, 0, 99, 79])
    )


def change(path, **fields):
    """Rewrite a .mat with other fields; None drops one."""
    content = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    content = {k: v for k, v in (content | fields).items() if v is not None}
    scipy.io.savemat(path, content)


def test_round_trip(mat):
    sample = aflw2000.read_sample(mat)
    shape, expression, landmarks_px = truth()
    assert (sample.name, sample.size) == ("image00001", (80, 100))
    np.testing.assert_allclose(sample.pose_para, POSE, rtol=1e-6)
    np.testing.assert_array_equal(sample.shape, shape)
    np.testing.assert_array_equal(sample.expression, expression)
    np.testing.assert_allclose(sample.landmarks_px, landmarks_px, atol=1e-5)
    image = aflw2000.read_image(sample.image_path)
    assert image.shape == (80, 100, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - photo()).mean() < 4  # RGB order and place, up to JPEG
    assert sorted(p.name for p in mat.parent.iterdir()) == ["image00001.jpg", "image00001.mat"]


def test_the_file_counts_pixels_from_one_and_has_the_fields_of_the_original(mat):
    content = scipy.io.loadmat(mat)
    landmarks_px = truth()[2]
    np.testing.assert_allclose(content["pt3d_68"], (landmarks_px + [1, 1, 0]).T, rtol=1e-6)
    np.testing.assert_array_equal(content["roi"], [[1, 1, 100, 80]])
    shapes = {"Pose_Para": (1, 7), "Shape_Para": (12, 1), "Exp_Para": (5, 1), "pt3d_68": (3, 68), "pt2d": (2, 21)}
    shapes |= {"roi": (1, 4), "Illum_Para": (1, 10), "Color_Para": (1, 7), "Tex_Para": (199, 1)}
    assert {k: v.shape for k, v in content.items() if not k.startswith("__")} == shapes
    original = {"Pose_Para": "f4", "Color_Para": "f4", "pt3d_68": "f4", "roi": "i2"}
    assert {k: content[k].dtype for k in shapes} == {k: np.dtype(original.get(k, "f8")) for k in shapes}
    np.testing.assert_allclose(content["pt2d"][:, -1], content["pt3d_68"][:2, 8], rtol=1e-6)  # the chin
    np.testing.assert_array_equal(content["pt2d"][:, 12], [-1, 82])  # an ear: invisible


def test_mask_and_hidden_landmarks_lie_beside_a_sample(tmp_path):
    shape, expression, landmarks_px = truth()
    mask, hidden = np.zeros((80, 100), np.uint8), np.arange(68) % 3 == 0
    mask[10:40, 20:70], mask[20:30, 30:50] = 255, 128
    path = sample_files.write_sample(
        tmp_path, "a", photo(), 95, POSE, shape, expression, landmarks_px, np.zeros(4), mask, hidden
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "a.mat", "a_mask.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a_mask.png")), mask)
    assert scipy.io.loadmat(path)["hidden_68"].dtype == np.uint8
    np.testing.assert_array_equal(aflw2000.read_sample(path).hidden, hidden)
    assert aflw2000.find_samples(tmp_path) == [path]
    change(path, hidden_68=np.ones((1, 67)))
    with pytest.raises(InputError, match=r"hidden_68: has the shape \(1, 67\)"):
        aflw2000.read_sample(path)


def test_files_without_the_field_hide_nothing(mat):
    assert aflw2000.read_sample(mat).hidden.dtype == bool
    assert not aflw2000.read_sample(mat).hidden.any()


def test_attributes_lie_in_the_mat(tmp_path):
    told = {"name": "a", "age": 0.25, "cut": "bob", "distance_m": None, "hidden": "", "note": 'é 顔 "quoted"'}
    shape, expression, landmarks_px = truth()
    args = (photo(), 95, POSE, shape, expression, landmarks_px, np.zeros(4))
    path = sample_files.write_sample(tmp_path, "a", *args, attributes=told)
    assert sample_files.read_attributes(path) == told
    assert list(sample_files.read_attributes(path)) == list(told)
    np.testing.assert_array_equal(aflw2000.read_sample(path).shape, shape)
    change(path, attributes_json=np.frombuffer(b'{"age": ', np.uint8))
    with pytest.raises(InputError, match=r"a\.mat: attributes_json: is no JSON \(remove the sample"):
        sample_files.read_attributes(path)
    change(path, attributes_json=None)
    with pytest.raises(InputError, match=r"a\.mat: attributes_json: is missing"):
        sample_files.read_attributes(path)


def test_the_mat_is_written_last(tmp_path, monkeypatch):
    """A kill between the two files must not leave a sample."""

    def die(path, content):
        assert path.with_suffix(".jpg").is_file()
        assert path.with_name("a_mask.png").is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_files, "write_mat", die)
    shape, expression, landmarks_px = truth()
    with pytest.raises(KeyboardInterrupt):
        sample_files.write_sample(
            tmp_path, "a", photo(), 95, POSE, shape, expression, landmarks_px, np.zeros(4), np.zeros((9, 9), np.uint8)
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "a_mask.png"]


def test_samples_are_found_by_name_and_lonely_mats_reported(mat, caplog):
    folder = mat.parent
    for name in ("image00003", "image00002", "lonely"):
        (folder / f"{name}.mat").write_bytes(mat.read_bytes())
    (folder / "image00003.jpg").write_bytes(mat.with_suffix(".jpg").read_bytes())
    Image.fromarray(photo()).save(folder / "image00002.png")
    with caplog.at_level(logging.WARNING):
        assert [p.stem for p in aflw2000.find_samples(folder)] == ["image00001", "image00002", "image00003"]
    assert len(caplog.records) == 1
    assert "lonely.mat: has no image beside it (put lonely.jpg there" in caplog.text
    assert [error.path for error in aflw2000.unpaired(folder)] == [str(folder / "lonely.mat")]
    np.testing.assert_array_equal(
        aflw2000.read_image(aflw2000.read_sample(folder / "image00002.mat").image_path), photo()
    )
    with pytest.raises(InputError, match="no image beside it"):
        aflw2000.read_sample(folder / "lonely.mat")


def test_samples_are_found_in_folders_of_a_folder(mat, caplog):
    root = mat.parent
    for name in ("b/image00003", "a/image00002", "a/deeper/image00004"):
        for suffix in (".jpg", ".mat"):
            path = root / f"{name}{suffix}"
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(mat.with_suffix(suffix).read_bytes())
    for name in ("code/model.mat", "a/lonely.mat", "a/.image00009.1-2.partial.mat"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(mat.read_bytes())
    names = [str(path.relative_to(root)) for path in aflw2000.find_samples(root)]
    assert names == ["image00001.mat", "a/image00002.mat", "b/image00003.mat"]
    assert [error.path for error in aflw2000.unpaired(root)] == [str(root / "a" / "lonely.mat")]
    assert len(caplog.records) == 1


def test_a_folder_without_samples_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no sample"):
        aflw2000.find_samples(tmp_path)
    with pytest.raises(InputError, match=r"nowhere: is missing .*p2m doctor"):
        aflw2000.find_samples(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        *[(field, None, "is missing") for field in ("Pose_Para", "pt3d_68", "Shape_Para", "Exp_Para")],
        ("Pose_Para", np.zeros((1, 6)), r"shape \(1, 6\), not \(1, 7\)"),
        ("Pose_Para", np.full((1, 7), np.nan), "not finite"),
        ("Pose_Para", "seven", "not made of real numbers"),
        ("pt3d_68", np.ones((68, 3)), r"\(68, 3\), not \(3, 68\)"),
        ("pt3d_68", np.full((3, 68), np.inf), "not finite"),
        ("pt3d_68", np.ones((3, 68)), "without area"),
        (
            "pt3d_68",
            np.linspace(200, 300, 68) * np.ones((3, 1)),
            "199 199 to 299 299 px, outside the image of 100 x 80",
        ),
        ("pt3d_68", np.linspace(-30, 0.4, 68) * np.ones((3, 1)), "outside the image"),
        ("Shape_Para", np.ones((3, 4)), "not a vector's"),
        ("Exp_Para", np.full((29, 1), np.nan), "not finite"),
        ("Exp_Para", np.array([["x"]], object), "not made of real numbers"),
    ],
)
def test_a_bad_field_is_named_with_a_remedy(mat, field, value, problem):
    change(mat, **{field: value})
    with pytest.raises(InputError, match=problem) as caught:
        aflw2000.read_sample(mat)
    assert (caught.value.path, caught.value.field) == (str(mat), field)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_a_face_that_only_touches_the_image_is_kept(mat):
    change(mat, pt3d_68=np.linspace(-30, 0.6, 68) * np.ones((3, 1)))
    assert aflw2000.read_sample(mat).landmarks_px[:, 0].max() == pytest.approx(-0.4)


def test_integer_zeros_are_read_as_floats(mat):
    """image00516 of AFLW2000-3D stores its Exp_Para so."""
    change(mat, Exp_Para=np.zeros((29, 1), np.uint8))
    expression = aflw2000.read_sample(mat).expression
    assert expression.dtype == np.float64
    assert expression.shape == (29,)


def test_what_is_no_mat_file_is_refused(mat):
    content = mat.read_bytes()
    for bad in (b"", b"<html>404</html>", content[:150], content[:-1], b"\0" * 500):
        mat.write_bytes(bad)
        with pytest.raises(InputError, match=r"image00001\.mat") as caught:
            aflw2000.read_sample(mat)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpg_is_refused_wherever_it_ends_too_early(tmp_path, progressive):
    stream = io.BytesIO()
    Image.fromarray(photo()).save(stream, "jpeg", progressive=progressive)
    whole, path = stream.getvalue(), tmp_path / "photo.jpg"
    for length in [*range(0, len(whole), 97), *range(len(whole) - 20, len(whole))]:
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"photo\.jpg: is damaged or no image.*take the original"):
            aflw2000.read_image(path)
    path.write_bytes(whole)
    assert aflw2000.read_image(path).shape == (80, 100, 3)
    with pytest.raises(InputError, match="is missing"):
        aflw2000.read_image(tmp_path / "other.jpg")


def test_images_come_as_rgb_whatever_is_stored(tmp_path):
    grey = photo()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.jpg", quality=100)
    Image.fromarray(np.dstack([photo(), grey])).save(tmp_path / "rgba.png")
    read = aflw2000.read_image(tmp_path / "grey.jpg")
    assert read.shape == (80, 100, 3)
    assert np.abs(read.astype(int) - grey[..., None]).max() <= 3
    np.testing.assert_array_equal(aflw2000.read_image(tmp_path / "rgba.png"), photo())


def test_pixels_come_as_stored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shot with the camera on its side: the landmarks belong to the pixels as stored
    Image.fromarray(photo()).save(tmp_path / "side.png", exif=exif)
    np.testing.assert_array_equal(aflw2000.read_image(tmp_path / "side.png"), photo())


# --- real samples ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def basel_landmarks(aflw_samples):
    """The Basel model at the 68 landmarks: 40 shape and 10 expression directions."""
    folder = aflw_samples.parent / "bfm-keypoints"
    if not folder.is_dir():
        pytest.skip("needs ../shared/bfm-keypoints (the Basel model's landmarks, not in the repository)")
    mean, *bases = (np.loadtxt(folder / f"{name}.txt", np.float32) for name in ("u_base", "w_shp_base", "w_exp_base"))
    return LinearPoints(mean.reshape(68, 3), *(basis.reshape(68, 3, -1) for basis in bases))


def test_real_samples_follow_the_pose_conventions(aflw_samples, basel_landmarks):
    """Only the coefficients cut off remain: 1 to 2 px, nothing near the pixel that a wrong origin costs."""
    mats = aflw2000.find_samples(aflw_samples)
    assert len(mats) == 8
    offsets = []
    for mat in mats:
        sample = aflw2000.read_sample(mat)
        assert sample.size == aflw2000.read_image(sample.image_path).shape[:2] == (450, 450)
        assert (len(sample.shape), len(sample.expression)) == (199, 29)
        vertices = basel_landmarks.vertices(sample.shape[:40], sample.expression[:10])
        placed = model_to_image(vertices, sample.pose_para, sample.size[0])
        offsets.append(placed - sample.landmarks_px)
        assert np.linalg.norm(offsets[-1][:, :2], axis=1).mean() < 2, mat.name
        by_hand = oracles.aflw_projection(vertices, sample.pose_para, sample.size[0]) - [1, 1, 0]
        np.testing.assert_allclose(placed, by_hand, atol=1e-3)
    assert np.linalg.norm(np.stack(offsets)[..., :2], axis=-1).mean() < 1.2
    assert np.abs(np.mean(offsets, (0, 1))).max() < 0.2
