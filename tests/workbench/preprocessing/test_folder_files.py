"""Folder sets: a picture, a mesh or points, a camera."""

import json
import shutil

import folder_sets
import numpy as np
import pytest
import torch
import trimesh
from conftest import ROOT, zipped
from folder_sets import PAPER, SIZE, blob, write_sample, write_set

from p2m_core.config.loading import load_config
from p2m_core.data import open_store
from p2m_core.data.aflw2000 import read_image
from p2m_core.data.face_store import FaceStore
from p2m_core.data.folder_store import FolderStore
from p2m_core.errors import InputError
from p2m_core.geometry.camera import project_perspective
from p2m_core.geometry.crop import ndc_to_px
from p2m_workbench.cli import main
from p2m_workbench.doctor import check
from p2m_workbench.doctor.check import facing_share
from p2m_workbench.preprocessing import folders, preprocess, store_writer
from p2m_workbench.preprocessing.folder_files import (
    find_entries,
    is_folder_set,
    read_camera,
    read_sample,
    read_shape,
    scan,
)
from p2m_workbench.preprocessing.folders import estimate_normals
from p2m_workbench.preprocessing.store_writer import write_part

KINDS = ("image", "orthographic", "perspective", "opencv")
SUFFIXES = (".obj", ".ply", ".npz", ".xyz", ".glb", ".off", ".stl")
SMALL = (
    "data.workers=1", "data.store_px=96", "data.points=2000", "data.test_share=0.3", "data.val_share=0.2",
    "template.kind=semi_sphere", "template.rings=2",
    "model.input_px=64", "model.feature_channels=8", "model.hidden=[8, 8, 8, 8]",
    "model.blocks=[0, 0, 0, 0]", "train.init_from=null", "train.batch_size=2", "train.workers=0", "train.epochs=1",
    "train.device=cpu", "loss.points=400",
)  # fmt: skip
PINHOLE = (
    "model.camera=perspective", "model.pose_head=false", "model.correspondence_map=false",
    "model.focal_px=[80, 80]", "model.centre_px=[31.5, 31.5]",
    "model.mesh_offset=[0, 0, -0.9]", "template.kind=ellipsoid", "template.levels=2",
    "augment={flip: 0, rotate_deg: 0, scale: 0, shift: 0}", "model.hidden=[8, 8]", "model.blocks=[0, 0]",
)  # fmt: skip
STILL = ("augment.color=0", "augment.blur=0", "augment.noise=0", "augment.jpeg=0", "augment.occlude=0")


def config_of(kind, *more):
    return load_config("folder", [*SMALL, *(PINHOLE if kind in ("perspective", "opencv") else ()), *more])


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A set of 7 samples, one of each format, in each camera; and their true px."""
    root = tmp_path_factory.mktemp("folders")
    return {kind: (root / kind, write_set(root / kind, kind, 7, SUFFIXES)) for kind in KINDS}


@pytest.fixture(scope="module")
def stores(sets, head, tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    configs = {kind: config_of(kind, *STILL) for kind in ("orthographic", "opencv")}
    return {kind: preprocess(config, sets[kind][0], root / kind) for kind, config in configs.items()}


# --- reading ---


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_falls_where_the_camera_says(sets, kind):
    folder, truth = sets[kind]
    entries = find_entries(folder)
    assert [entry.shape.suffix for entry in entries] == list(SUFFIXES)
    for entry, px in zip(entries, truth, strict=True):
        sample = read_sample(entry)
        if entry.shape.suffix == ".stl":  # has no shared vertices
            assert len(sample.px) == 3 * 320
        else:
            np.testing.assert_allclose(sample.px[:, :2], px[:, :2], atol=2e-3)
            depth = np.corrcoef(sample.px[:, 2], px[:, 2])[0, 1]
            assert depth > 0.999  # towards the viewer
        assert (sample.faces is None) == (entry.shape.suffix in (".npz", ".xyz"))
        assert (sample.normals is None) == (entry.shape.suffix != ".xyz")
        if sample.faces is not None:
            assert facing_share(sample) > 0.99


def test_one_camera_serves_a_folder_and_its_sub_folders(tmp_path):
    write_sample(tmp_path / "set", "a", "image", 0)
    write_sample(tmp_path / "set" / "cars", "b", "image", 1)
    write_sample(tmp_path / "set" / "cups", "c", "image", 2)
    (tmp_path / "set" / "a.yaml").rename(tmp_path / "set" / "camera.yaml")
    (tmp_path / "set" / "cars" / "b.yaml").unlink()
    (tmp_path / "set" / "cups" / "c.yaml").rename(tmp_path / "set" / "cups" / "camera.json")
    entries = find_entries(tmp_path / "set")
    assert [(e.image.stem, e.category, e.camera.name) for e in entries] == [
        ("a", "set", "camera.yaml"),
        ("b", "cars", "camera.yaml"),
        ("c", "cups", "camera.json"),
    ]
    assert entries[2].camera.parent.name == "cups"
    assert [read_sample(entry).camera.camera for entry in entries] == ["image"] * 3


def test_files_beside_a_mesh_are_not_opened(tmp_path, monkeypatch):
    mesh = blob().export(file_type="obj")
    (tmp_path / "a.obj").write_text("mtllib ../secret.mtl\nusemtl a\n" + mesh)
    (tmp_path.parent / "secret.mtl").write_text("newmtl a\nmap_Kd secret.png\n")
    real_open, opened = open, []
    monkeypatch.setattr("builtins.open", lambda path, *a, **k: opened.append(str(path)) or real_open(path, *a, **k))
    assert len(read_shape(tmp_path / "a.obj").faces) == 320
    assert not [path for path in opened if "secret" in path]


def test_materials_do_not_part_a_mesh(tmp_path):
    """Two squares that share an edge, in two groups with a material each."""
    lines = ["v 0 0 0", "v 1 0 0", "v 2 0 1", "v 0 1 0", "v 1 1 0", "v 2 1 1"]
    for name, quad in (("a", (1, 2, 5, 4)), ("b", (2, 3, 6, 5))):
        lines += [
            f"g {name}",
            f"usemtl {name}",
            "f {} {} {}".format(*quad[:3]),
            "f {} {} {}".format(quad[0], *quad[2:]),
        ]
    (tmp_path / "a.obj").write_text("\n".join(lines))
    shape = read_shape(tmp_path / "a.obj")
    assert shape.points[:, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert shape.faces.tolist() == [[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4]]


def test_estimated_normals_are_those_of_the_surface():
    mesh = trimesh.creation.icosphere(4)
    normals = estimate_normals(mesh.vertices)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-9)
    assert np.abs((normals * mesh.vertices).sum(1)).min() > 0.97
    assert (normals[:, 2] >= 0).all()


GOOD = "camera: perspective\nfocal: 100\ncentre: [60, 60]\ntranslation: [0, 0, -5]\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("camera: fisheye", "camera: input should be 'image', 'orthographic' or 'perspective'"),
        ("scale: 3", "camera: field required"),
        ("camera: image\nscale: 2", "scale: has no meaning for the camera image"),
        (GOOD + "shift: [1, 2]", "shift: has no meaning for the camera perspective"),
        ("camera: image\nscael: 3", "scael: extra inputs are not permitted"),
        ("camera: perspective\ncentre: [1, 2]", "focal: is missing, which a perspective camera needs"),
        ("camera: perspective\nfocal: 100", "centre: is missing"),
        ("camera: perspective\nfocal: -1\ncentre: [1, 2]", "focal"),
        ("camera: orthographic\nscale: .nan", "scale"),
        ("camera: orthographic\nrotation: [[1, 0, 0], [0, 1, 0], [0, 0, -1]]", "rotation: is no rotation"),
        ("camera: orthographic\nrotation: [[2, 0, 0], [0, 2, 0], [0, 0, 2]]", "rotation: is no rotation"),
        ("camera: image\nbox: [10, 10, 10, 20]", r"box: \[10.0, 10.0, 10.0, 20.0\] has no area"),
        ("- 1\n- 2", "a.yaml"),
        ("camera: [", "is no YAML"),
        ("camera: !!python/object/apply:os.system [echo]", "is no YAML"),
        ("\x00", "is no YAML"),
        ("[" * 3000, "is no YAML"),
    ],
)
def test_bad_cameras_are_refused(tmp_path, text, problem):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=problem) as caught:
        read_camera(path)
    assert "\n" not in str(caught.value)
    path.write_text(GOOD)
    assert read_camera(path).focal_px == (100, 100)
    path.write_text("camera: orthographic\nscale: 1e-3")
    assert read_camera(path).scale == 1e-3


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.obj", b"v 0 0 nan\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "points: have numbers that are not finite"),
        ("a.obj", b"", "a.obj"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 1 1\nf 1 2 9\n", "a.obj"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 999999999\n", "a.ply"),
        ("a.glb", b"glTF\x02\0\0\0", "cannot be read"),
        ("a.stl", b"\0" * 100, "a.stl"),
        ("a.xyz", b"1 2\n3 4\n", "points: have the shape"),
        ("a.xyz", b"1 2 3\n1 2 3\n1 2 3\n1 2 3\n", "all in one place"),
        ("a.xyz", b"one two three\n", "cannot be read"),
        ("a.npz", b"PK\x03\x04", "cannot be read"),
    ],
)
def test_bad_shapes_are_refused(tmp_path, name, content, problem):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem) as caught:
        read_shape(path)
    assert caught.value.path == str(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"points": np.array([{"a": 1}] * 5, object)}, "cannot be read"),  # a pickle
        ({"points": np.ones((5, 2))}, r"points: have the shape \(5, 2\)"),
        (
            {"points": np.random.default_rng(0).normal(size=(5, 3)), "normals": np.ones((4, 3))},
            "normals: have the shape",
        ),
        ({"vertices": np.eye(4)[:, :3], "faces": np.array([[0, 1, 7]])}, "faces: are none, or name points"),
        ({"vertices": np.eye(4)[:, :3], "faces": np.array([[0, 1, -1]])}, "faces: are none, or name points"),
        ({"vertices": np.eye(4)[:, :3], "faces": np.zeros((3, 4), int)}, r"faces: have the shape \(3, 4\)"),
        ({"nothing": np.ones(3)}, "cannot be read"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, arrays, problem):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=problem):
        read_shape(tmp_path / "a.npz")


# --- the store ---


@pytest.mark.parametrize("kind", ["orthographic", "opencv"])
def test_clouds_lie_on_the_true_surface(sets, stores, kind):
    """In the picture's px, brought back from the store; with normals of the surface where there are faces."""
    store, (folder, truth) = stores[kind], sets[kind]
    assert len(store) == 7
    assert store.manifest["normals estimated"] == ["body02"]
    for index, entry in enumerate(find_entries(folder)):
        cloud, mesh = store.cloud(index), blob(index)
        if kind == "opencv":
            points = (cloud[:, :3] - np.array([0.02, -0.03, -0.9])) @ folder_sets.TURN / 0.25
        else:
            matrix = store.table["crop"][index]
            px = (cloud[:, :2] - matrix[:, 2]) / matrix[0, 0]
            z = cloud[:, 2] / matrix[0, 0]
            placed = np.stack([px[:, 0] - 61, -(px[:, 1] - 57), z], 1) / 350
            points = placed @ folder_sets.TURN * 10
        assert trimesh.proximity.closest_point_naive(mesh, points[:100])[1].max() < 2e-3
        assert len(cloud) == (2000 if entry.shape.suffix not in (".npz", ".xyz") else len(truth[index]))
        np.testing.assert_allclose(np.linalg.norm(cloud[:, 3:], axis=1), 1, atol=1e-5)
        flip = 1 if kind == "opencv" else np.array([1, -1, 1])
        normals = (cloud[:, 3:] * flip) @ folder_sets.TURN
        if entry.shape.suffix != ".npz":
            assert (normals * points).sum(1).mean() > 0.8  # outwards


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("kind", ["orthographic", "opencv"])
def test_points_fall_on_the_body_in_the_networks_input(stores, kind, train):
    """Moved and mirrored as the picture is; the paper around it is green."""
    store = stores[kind]
    config = config_of(kind, *STILL)
    data = store.dataset(store.rows("all"), config, train)
    for epoch in range(4 if train else 1):
        for position in range(len(data)):
            item = data[(epoch, position)]
            if kind == "opencv":
                points = torch.from_numpy(item["points"])
                at = project_perspective(points, (80, 80), (31.5, 31.5), 64, (0, 0, -0.9)).numpy() * 31.5 + 31.5
            else:
                at = ndc_to_px(item["points"], 64)[:, :2]
                assert abs(item["points"][:, 2].mean()) < 1e-5
            inside = (abs(at - 31.5) < 31).all(1)
            assert inside.mean() > 0.6
            x, y = np.rint(at[inside]).astype(int).T
            colour = item["image"][:, y, x]
            paper = (abs(colour - np.array(PAPER)[:, None] / 255) < 0.08).all(0)
            assert paper.mean() < 0.06, (epoch, position)
            assert item["points"].shape == ((400, 3) if train else (item["lengths"], 3))
    corner = store.dataset(store.rows("all"), config, False)[0]["image"][:, 0, 0]
    np.testing.assert_allclose(corner, np.array(PAPER) / 255, atol=0.03)


def test_normals_turn_with_the_points(stores):
    """Distances along the normals stay: a point moved by its normal is placed where the placed normal says."""
    store = stores["orthographic"]
    data = store.dataset(store.rows("all"), config_of("orthographic"), True)
    cloud = store.cloud(0)
    matrix = np.array([[0.5, -0.4, 3], [0.4, 0.5, 7]])
    points, normals = data.placed(cloud, matrix)
    moved = cloud.copy()
    moved[:, :3] += 2 * cloud[:, 3:]
    step = data.placed(moved, matrix)[0] - points
    step -= step.mean(0) * [0, 0, 1]
    expected = 2 * np.sqrt(0.41) * 2 / 64 * normals
    np.testing.assert_allclose(step[:, :2], expected[:, :2], atol=1e-5)


def test_a_stopped_run_goes_on_and_a_whole_store_is_kept(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(store_writer, "PART_SIZE", 2)
    config, folder = config_of("image"), sets["image"][0]
    real, written = write_part, []

    def dying(part):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(part.out)
        return real(part)

    monkeypatch.setattr(store_writer, "write_part", dying)
    with pytest.raises(KeyboardInterrupt):
        preprocess(config, folder, tmp_path / "out")
    with pytest.raises(InputError, match="is no finished store"):
        FolderStore(tmp_path / "out", config)
    reads = []
    monkeypatch.setattr(store_writer, "write_part", real)
    monkeypatch.setattr(folders, "read_sample", lambda entry: reads.append(entry) or read_sample(entry))
    preprocess(config, folder, tmp_path / "out")
    assert len(reads) == 3
    first = FolderStore(tmp_path / "out", config).manifest["sha256"]
    preprocess(config, folder, tmp_path / "out")
    assert len(reads) == 3
    # a zip gives the same
    packed = preprocess(config, zipped(folder, tmp_path / "a.zip", "x"), tmp_path / "again")
    assert packed.manifest["sha256"]["clouds.bin"] == first["clouds.bin"]


def test_bad_samples_are_listed_and_skipped(tmp_path, head):
    write_set(tmp_path / "set", "image", 6)
    (tmp_path / "set" / "body01.obj").unlink()
    (tmp_path / "set" / "body02.png").write_bytes(b"no picture")
    (tmp_path / "set" / "body03.obj").write_bytes(b"v 0 0 inf\n")
    (tmp_path / "set" / "body04.yaml").unlink()
    config = config_of("image")
    store = preprocess(config, tmp_path / "set", tmp_path / "out")
    assert store.table["name"].tolist() == ["body00", "body05"]
    text = "\n".join(store.manifest["skipped"])
    for line in (
        "body01.png: has no mesh or points beside it",
        "body02.png: is damaged",
        "body03.obj",
        "body04.png: has no",
    ):
        assert line in text
    assert "2 samples" in store.summary()


def test_settings_that_do_not_fit_are_refused(stores, sets, store, tmp_path):
    flat = stores["orthographic"]
    with pytest.raises(InputError, match=r"model\.camera: is perspective, the store's is crop"):
        FolderStore(flat.folder, config_of("opencv"))
    with pytest.raises(InputError, match=r"model\.focal_px: is not the store's"):
        FolderStore(stores["opencv"].folder, config_of("opencv", "model.focal_px=[90, 80]"))
    with pytest.raises(InputError, match=r"kind: is folder, not faces \(set data.kind=folder"):
        FaceStore(flat.folder)
    with pytest.raises(InputError, match="kind: is faces, not folder"):
        FolderStore(store.folder, config_of("image"))
    with pytest.raises(InputError, match=r"none of its samples can be used, the first: .*model\.camera is crop"):
        preprocess(config_of("image"), sets["opencv"][0], tmp_path / "out")
    assert isinstance(open_store(config_of("image"), flat.folder), FolderStore)


@pytest.mark.parametrize("kind", ["orthographic", "opencv"])
def test_the_whole_way_by_the_commands(sets, home, tiny_backbone, tmp_path, capsys, kind):
    """preprocess, train, evaluate, as a user would."""
    settings = [
        *SMALL,
        *(PINHOLE if kind == "opencv" else ()),
        "data.test_share=0.4",
        f"data.store={tmp_path / 'store'}",
    ]
    words = [
        "-c",
        str(ROOT / "configs" / "folder.yaml"),
        "--set",
        "name=mine",
        *(word for text in settings for word in ("--set", text)),
    ]
    assert main(["preprocess", str(sets[kind][0]), "--out", str(tmp_path / "store"), *words]) == 0
    assert "7 samples" in capsys.readouterr().out
    assert main(["train", *words]) == 0
    assert main(["evaluate", *words]) == 0
    told = capsys.readouterr().out
    assert "cd-f1@p2m" in told
    assert ("in m²," if kind == "opencv" else "(half the crop's side)²") in told
    table = json.loads(next((home / "outputs" / "mine" / "evaluation").rglob("metrics.json")).read_text())
    assert all(np.isfinite(row["CD x1000"]) for row in table["tables"]["cd_f1"]["rows"])


# --- the doctor ---


def test_a_sound_set_has_no_complaint(sets, home):
    for kind in KINDS:
        lines = check.check(sets[kind][0])
        assert lines[0] == "7 samples, a folder set"
        assert lines[1].startswith(f"{sets[kind][0] / 'body02.npz'}: normals: are missing")
        assert lines[2] == "7 of 7 samples looked at can be read"
        if kind in ("perspective", "opencv"):
            depth = float(lines[3].split("lie ")[1].split(" ")[0])
            assert depth == pytest.approx(-0.9, abs=0.03)
        names = ", ".join(f"body{k:02d}" for k in (2, 0, 1, 3, 4, 5))
        assert lines[-1] == f"written: {home / 'outputs' / 'doctor' / kind}.png, of {names}"
        assert read_image(home / "outputs" / "doctor" / f"{kind}.png").shape == (448, 6 * 224, 3)


def spoil(folder, name, change):
    mesh = trimesh.load(folder / f"{name}.obj", process=False)
    change(mesh)
    mesh.export(folder / f"{name}.obj")


@pytest.mark.parametrize("kind", KINDS)
def test_the_doctor_finds_what_is_wrong(tmp_path, home, kind):
    folder = tmp_path / "set"
    write_set(folder, kind, 8)
    spoil(folder, "body01", lambda mesh: mesh.invert())
    spoil(folder, "body02", lambda mesh: mesh.apply_scale(1000))
    spoil(folder, "body03", lambda mesh: mesh.apply_scale(1e-3))

    def turn_some(mesh):
        mesh.faces = np.where(np.arange(len(mesh.faces))[:, None] % 3 == 0, mesh.faces[:, ::-1], mesh.faces)

    spoil(folder, "body04", turn_some)
    shutil.move(folder / "body05.png", tmp_path)
    (folder / "body06.obj").unlink()
    lines = check.check(folder)
    text = "\n".join(lines)
    assert lines[0] == "6 samples, a folder set"
    for wanted in (
        "body01.obj: faces: are wound inside out: 0%",
        "times as large as the picture: their unit looks 1000 times too large",
        "body04.obj: faces: are wound in both ways",
        "body05.obj: has no picture beside it (put body05.jpg there",
        "body06.png: has no mesh or points beside it",
    ):
        assert wanted in text, wanted
    small = [line for line in lines if "body03.obj" in line]
    assert "too small" in small[0] or "outside" in small[0]
    assert not [line for line in lines[:-1] if "body00" in line or "body07" in line]
    assert ".png, of body01, body04, body0" in lines[-1]  # what is wrong comes first


def test_units_are_held_against_the_box(tmp_path):
    write_sample(tmp_path / "set", "a", "image", 0)
    [entry] = find_entries(tmp_path / "set")
    read_sample(entry)
    entry.camera.write_text("camera: image\nbox: [55, 55, 62, 62]\n")
    with pytest.raises(InputError, match="times as large as the box: their unit looks 10 times too large"):
        read_sample(entry)
    entry.camera.write_text(f"camera: image\nbox: [10, 10, {SIZE - 10}, {SIZE - 10}]\n")
    np.testing.assert_array_equal(read_sample(entry).box, [10, 10, SIZE - 10, SIZE - 10])


def test_sets_of_other_kinds_are_not_taken_for_folder_sets(sets, synthetic_set, lp_set, tmp_path):
    assert is_folder_set(sets["image"][0])
    assert not is_folder_set(synthetic_set)
    assert not is_folder_set(lp_set)
    assert not is_folder_set(tmp_path)
    (tmp_path / "lonely.obj").write_text("v 0 0 0")
    assert is_folder_set(tmp_path)
    assert "has no picture beside it" in "\n".join(check.check(tmp_path))
    with pytest.raises(InputError, match=r"has no sample \(NAME.jpg with NAME.obj\)"):
        find_entries(tmp_path)
    assert scan(tmp_path)[0] == []
