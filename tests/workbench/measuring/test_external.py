"""Predictions of other systems: every format gives the same landmarks, and every fault its line."""

import numpy as np
import pytest

from p2m_core.errors import InputError
from p2m_workbench.measuring.external import MEDIAPIPE_IDX, read_mapping, read_predictions

NAMES = ["image00001", "image00003", "image00002"]


@pytest.fixture(scope="module")
def template(small_template):
    return small_template


@pytest.fixture
def points():
    return np.random.default_rng(0).normal(100, 30, (3, 68, 3)).round(3)


def write_npz(path, points, names=NAMES, **more):
    np.savez(path, names=np.array(names), points=points, **more)
    return path


# --- formats ---


def as_npz(folder, points):
    return write_npz(folder / "them.npz", points)


def as_npz_by_name(folder, points):
    np.savez(folder / "them.npz", **dict(zip(NAMES, points, strict=True)))
    return folder / "them.npz"


def as_npy(folder, points):
    np.save(folder / "them.npy", points)
    (folder / "them.txt").write_text("\n".join(NAMES) + "\n")
    return folder / "them.npy"


def as_txt(folder, points):
    lines = [f"{name} {' '.join(map(str, p))}" for name, one in zip(NAMES, points, strict=True) for p in one]
    (folder / "them.txt").write_text("# name x y z\n" + "\n".join(lines) + "\n")
    return folder / "them.txt"


def as_folder(folder, points):
    folder = folder / "them"
    folder.mkdir()
    np.save(folder / f"{NAMES[0]}.npy", points[0])
    (folder / f"{NAMES[1]}.txt").write_text("\n".join(", ".join(map(str, p)) for p in points[1]))
    vertices = "\n".join(f"v {' '.join(map(str, p))} 0.5 0.5 0.5" for p in points[2])
    (folder / f"{NAMES[2]}.obj").write_text(f"# a mesh\n{vertices}\nvn 0 0 1\nf 1//1 2//1 3//1\n")
    (folder / "notes.md").write_text("not a sample")
    return folder


@pytest.mark.parametrize(
    ("write", "dims"),
    [*((w, d) for w in (as_npz, as_npz_by_name, as_npy, as_txt) for d in (2, 3)), (as_folder, 3)],  # .obj has depth
)
def test_every_format_gives_the_same(tmp_path, template, points, write, dims):
    found = read_predictions(write(tmp_path, points[..., :dims]), NAMES[::-1], template)
    assert found.name == "them"
    assert found.vertices_px is None
    np.testing.assert_allclose(found.landmarks_px, points[::-1, :, :dims])


def test_one_obj_is_one_sample(tmp_path, template, points):
    path = tmp_path / "image00001.obj"
    path.write_text("\n".join(f"v {x} {y} {z}" for x, y, z in points[0]))
    np.testing.assert_allclose(read_predictions(path, ["image00001"], template).landmarks_px[0], points[0])


def test_samples_beyond_the_wanted_ones_do_not_matter(tmp_path, template, points):
    points[1] = np.nan
    found = read_predictions(as_npz(tmp_path, points), [NAMES[2], NAMES[0]], template)
    np.testing.assert_allclose(found.landmarks_px, points[[2, 0]])


def test_where_no_face_was_found(tmp_path, template, points):
    path = write_npz(tmp_path / "x.npz", points[:2], NAMES[:2], not_found=np.array([NAMES[2], "image9"]))
    found = read_predictions(path, NAMES, template)
    assert np.isnan(found.landmarks_px[2]).all()
    np.testing.assert_allclose(found.landmarks_px[:2], points[:2])
    assert "no face found on 1" in found.about


def test_samples_that_are_not_in_a_file_are_said(tmp_path, template, points):
    """As a detector's own misses are often left out; under the other usual name of the points."""
    np.savez(tmp_path / "x.npz", names=np.array(NAMES)[[2, 0]], landmarks_px=points[[2, 0]])
    found = read_predictions(tmp_path / "x.npz", NAMES, template)
    assert found.found.tolist() == [True, False, True]
    np.testing.assert_allclose(found.landmarks_px[[0, 2]], points[[0, 2]])
    assert found.about.endswith("1 samples are not in it")


# --- mappings ---


def test_mappings(tmp_path, template, points):
    mesh = np.random.default_rng(1).normal(size=(3, 478, 3))
    path = write_npz(tmp_path / "mesh.npz", mesh)
    for how in ("auto", "mediapipe468", ",".join(map(str, MEDIAPIPE_IDX))):
        np.testing.assert_array_equal(read_predictions(path, NAMES, template, how).landmarks_px, mesh[:, MEDIAPIPE_IDX])
    file = tmp_path / "indices.json"
    file.write_text(f"[{', '.join(map(str, range(400, 468)))}]")
    np.testing.assert_array_equal(read_predictions(path, NAMES, template, str(file)).landmarks_px, mesh[:, 400:468])
    file.write_text("\n".join(["3+5", *map(str, range(67))]))
    found = read_predictions(path, NAMES, template, str(file)).landmarks_px
    np.testing.assert_allclose(found[:, 0], (mesh[:, 3] + mesh[:, 5]) / 2)
    np.testing.assert_array_equal(found[:, 1:], mesh[:, :67])


def test_our_own_vertices_are_a_surface(tmp_path, template):
    vertices = np.random.default_rng(2).normal(size=(3, template.counts[-1], 3))
    found = read_predictions(write_npz(tmp_path / "x.npz", vertices), NAMES, template)
    np.testing.assert_allclose(found.landmarks_px, template.landmarks(vertices))
    np.testing.assert_allclose([found.vertices_px(k) for k in range(3)], vertices, rtol=1e-6)


def test_mediapipes_mapping_is_of_68_points_that_mirror():
    """Left and right of the face are mirror images in MediaPipe's numbering too: pairs occur together."""
    assert len(MEDIAPIPE_IDX) == 68
    assert max(MEDIAPIPE_IDX) < 468
    assert [MEDIAPIPE_IDX[k] for k in (8, 30, 33, 36, 45, 48, 54)] == [152, 4, 2, 33, 263, 61, 291]
    pairs = {127: 356, 234: 454, 93: 323, 132: 361, 58: 288, 136: 365, 150: 379, 176: 400, 70: 300, 107: 336, 75: 305}
    from p2m_core.geometry.landmarks import MIRROR_68

    for right, left in pairs.items():
        assert MEDIAPIPE_IDX[MIRROR_68[MEDIAPIPE_IDX.index(right)]] == left


# --- faults, a line each ---


def test_faults_of_npz(tmp_path, template, points):
    names = np.array(NAMES)
    bad = points.copy()
    bad[1, 5, 0] = np.nan
    cases = [
        (r"none of the 3 samples is in it: it has a, b, c", {"names": ["a", "b", "c"], "points": points}),
        (r"image00003: 1 of 68 are not finite", {"names": names, "points": bad}),
        (r"has 60 a sample, known are 68, 468, 478", {"names": names, "points": points[:, :60]}),
        (r"shape \(3, 68, 3\) beside 2 names", {"names": names[:2], "points": points}),
        (r"names: is missing beside points", {"points": points}),
        (r"image00001 is there twice", {"names": [NAMES[0]] * 3, "points": points}),
        (r"shape \(68, 4\)", {"names": names, "points": np.zeros((3, 68, 4))}),
        (r"is complex128", {"names": names, "points": points.astype(complex)}),
        (r"image00001 has 68 points in 3D, image00003 has 67", dict(zip(NAMES, [points[0], points[1, 1:], points[2]]))),
        (r"names image00001, whose points are there", {"names": names, "points": points, "not_found": names[:1]}),
        (r"says of every sample that it found no face", {"not_found": names}),
        (r"damaged", {"names": names, "points": np.array([{}], dtype=object)}),
    ]
    for match, arrays in cases:
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(InputError, match=match) as caught:
            read_predictions(tmp_path / "x.npz", NAMES, template)
        assert "\n" not in str(caught.value)


def test_faults_of_mappings(tmp_path, template, points):
    path = write_npz(tmp_path / "x.npz", points)
    text = tmp_path / "map.txt"
    text.write_text("1 2 x")
    binary = tmp_path / "map.bin"
    binary.write_bytes(b"\xff\xfe\x00")
    for mapping, match in {
        "dlib86": "is no mapping and no file",
        "1,2,3": "has 3 entries, not 68",
        str(text): "'x' is no index",
        str(binary): "is no text",
        "mediapipe468": "has 68 a sample, but the mapping asks for number 454",
        "template": f"has 68 points in 3D, not the template's {template.counts[-1]} in 3D",
    }.items():
        with pytest.raises(InputError, match=match):
            read_predictions(path, NAMES, template, mapping)
    assert read_mapping("dlib68") == [[k] for k in range(68)]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("x.txt", "", "is empty"),
        ("x.txt", "image00001 1 2\nimage00001 1 2 3\n", r"lines of \[2, 3\] numbers"),
        ("x.txt", "image00001 1 two\n", "is no number"),
        ("x.txt", "image00001\n", "shape"),
        ("x.npy", "no array", "x.txt: is missing"),
        ("x.npz", "no archive", "missing or damaged"),
        ("x.obj", "f 1 2 3\n", "holds no point"),
        ("x.csv", "1,2", "suffix '.csv'"),
    ],
)
def test_faults_of_files(tmp_path, template, name, content, match):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=match):
        read_predictions(tmp_path / name, NAMES, template)


def test_faults_of_folders(tmp_path, template, points):
    with pytest.raises(InputError, match="no such file"):
        read_predictions(tmp_path / "absent", NAMES, template)
    with pytest.raises(InputError, match="holds no prediction"):
        read_predictions(tmp_path, NAMES, template)
    np.save(tmp_path / "a.npy", points[0])
    (tmp_path / "a.txt").write_text("1 2 3")
    with pytest.raises(InputError, match="a: is there in two formats"):
        read_predictions(tmp_path, NAMES, template)


def test_a_pickle_runs_nothing(tmp_path, template):
    np.save(tmp_path / "x.npy", np.array([print], dtype=object), allow_pickle=True)
    (tmp_path / "x.txt").write_text("a\n")
    with pytest.raises(InputError, match="is damaged"):
        read_predictions(tmp_path / "x.npy", NAMES, template)


# --- the script that runs the peers: all but the peers themselves ---


def test_the_script_reads_a_set_and_writes_what_we_read(synthetic_set, tmp_path, template, points):
    import peers

    from p2m_core.data.aflw2000 import find_samples, read_sample
    from p2m_core.geometry.crop import box_of

    samples = peers.read_folder(synthetic_set)
    ours = [read_sample(path) for path in find_samples(synthetic_set)]
    assert [name for name, *_ in samples] == [sample.name for sample in ours]
    assert [photo for _, photo, _ in samples] == [sample.image_path for sample in ours]
    np.testing.assert_allclose([box for *_, box in samples], [box_of(s.landmarks_px) for s in ours], atol=1e-3)
    near, far = points[0], points[0] + 80
    assert peers.nearest([far, near], box_of(points[0])) == 1
    peers.write(tmp_path / "x.npz", NAMES[:2], list(points[:2]), NAMES[2:])
    found = read_predictions(tmp_path / "x.npz", NAMES, template)
    np.testing.assert_array_equal(found.landmarks_px[:2], points[:2])
    assert np.isnan(found.landmarks_px[2]).all()
    with pytest.raises(SystemExit, match="has no sample"):
        peers.read_folder(tmp_path)
