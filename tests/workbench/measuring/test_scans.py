"""The protocol scan-to-mesh on surfaces whose distances are known, and its pictures."""

import numpy as np
import pytest
import trimesh

from p2m_core.config.loading import load_config
from p2m_core.errors import InputError
from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.geometry.rasterizer import vertex_normals
from p2m_core.inference import open_network
from p2m_workbench import cli
from p2m_workbench.measuring import scans as scans_module
from p2m_workbench.measuring.scans import (
    HEAD_SHARE,
    NOSE_TIP,
    PICTURE_PX,
    REGION,
    draw_scan,
    evaluate_scans,
    find_scans,
    placed,
    read_scan,
    scan_to_mesh,
)
from p2m_workbench.measuring.tables import counted_surface


@pytest.fixture(scope="module")
def head():
    """The bundled template's mean face without the mouth's membrane as a scan in mm: vertices, faces, landmarks."""
    template = open_network("bundled").template
    vertices = template.vertices.astype(np.float64) / 1000  # um
    part, faces = counted_surface(template)
    return vertices[part], faces, template.landmarks(vertices)


def similar(points):
    """A similarity of points."""
    return 20 * points @ rotation_from_angles([0.4, -0.6, 0.2]).T + [3, -2, 7]


def test_a_mesh_of_the_same_shape_has_no_distance(head):
    vertices, faces, landmarks = head
    mm = scan_to_mesh(similar(vertices), faces, similar(landmarks), vertices, landmarks)
    assert mm.max() < 1e-4
    eyes = np.linalg.norm(landmarks[36] - landmarks[45])
    nose = np.linalg.norm(landmarks[27] - landmarks[33])
    inside = np.linalg.norm(vertices - landmarks[NOSE_TIP], axis=1) <= REGION * (eyes + nose)
    assert len(mm) == inside.sum() > 1000


def test_a_scan_that_lies_off_by_a_known_distance(head):
    """Every second vertex 0.5 mm out and in along the normals: no similarity mends that."""
    vertices, faces, landmarks = head
    side = np.where(np.random.default_rng(0).random(len(vertices)) < 0.5, 1, -1)
    scan = vertices + 0.5 * side[:, None] * vertex_normals(vertices, faces)
    mm = scan_to_mesh(similar(vertices), faces, similar(landmarks), scan, landmarks)
    assert np.median(mm) == pytest.approx(0.5, abs=0.03)
    twice = scan_to_mesh(similar(vertices), faces, similar(landmarks), 2 * scan, 2 * landmarks)
    assert np.median(twice) == pytest.approx(2 * np.median(mm), rel=0.02)


def test_landmarks_need_not_be_right(head):
    """Iterative closest points mend a start that is off by some mm."""
    vertices, faces, landmarks = head
    off = landmarks + np.random.default_rng(0).normal(0, 2, landmarks.shape)
    assert np.median(scan_to_mesh(vertices, faces, off, vertices, landmarks)) < 0.15


def test_a_scan_is_drawn_from_its_sides(head, tmp_path):
    """What is painted on one side is seen from that side, upright; texture, colours and clay alike."""
    vertices, faces, _ = head
    right = vertices[:, 0] < 0  # the subject's, left in a picture from the front
    colors = np.where(right[:, None], [200, 0, 0], [0, 0, 200])
    trimesh.Trimesh(vertices, faces, vertex_colors=colors, process=False).export(tmp_path / "head.ply")
    scan = read_scan(tmp_path / "head.ply")
    np.testing.assert_allclose(scan.vertices, vertices, atol=1e-4)
    shares = []
    for yaw in (-60, 0, 60):
        px = placed(scan, yaw)
        assert np.ptp(px[:, 1]) == pytest.approx(HEAD_SHARE * PICTURE_PX)
        picture = draw_scan(scan, px)
        assert picture.shape == (PICTURE_PX, PICTURE_PX, 3)
        red, blue = ((picture[..., k] > 150) & (picture[..., 2 - k] < 50) for k in (0, 2))
        shares.append(red.sum() / (red.sum() + blue.sum()))
        if yaw == 0:
            assert np.nonzero(red)[1].mean() < PICTURE_PX / 2 < np.nonzero(blue)[1].mean()
    assert min(shares[0], shares[2]) < 0.35 < shares[1] < 0.65 < max(shares[0], shares[2])
    trimesh.Trimesh(vertices, faces, process=False).export(tmp_path / "clay.obj")
    plain = read_scan(tmp_path / "clay.obj")
    assert plain.texture is plain.colors is plain.landmarks is None
    assert draw_scan(plain, placed(plain, 0)).std() > 10


def test_textures_are_read_by_their_coordinates(tmp_path):
    """A square whose texture is red above and green below."""
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:20, :, 0], picture[20:, :, 1] = 255, 255
    from PIL import Image

    Image.fromarray(picture).save(tmp_path / "t.png")
    (tmp_path / "s.mtl").write_text("newmtl m\nmap_Kd t.png\n")
    (tmp_path / "s.obj").write_text(
        "mtllib s.mtl\nusemtl m\nv -9 -9 0\nv 9 -9 0\nv 9 9 0\nv -9 9 0\n"
        "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"
    )
    scan = read_scan(tmp_path / "s.obj")
    drawn = draw_scan(scan, placed(scan, 0))
    middle = PICTURE_PX // 2
    assert drawn[middle - 60, middle].tolist() == [255, 0, 0]
    assert drawn[middle + 60, middle].tolist() == [0, 255, 0]


def test_a_folder_of_scans_is_measured(head, tmp_path, monkeypatch, capsys, home):
    """By the command, with the bundled weights, on a scan that is the mean face itself."""
    vertices, faces, landmarks = head
    (tmp_path / "scans" / "one").mkdir(parents=True)
    trimesh.Trimesh(vertices, faces, process=False).export(tmp_path / "scans" / "one" / "head.obj")
    np.save(tmp_path / "scans" / "one" / "head_lm68.npy", landmarks)
    monkeypatch.setattr(scans_module, "YAWS_DEG", (0,))
    argv = ["evaluate", "--protocol", "scan-to-mesh", "--data", str(tmp_path / "scans"), "--weights", "bundled"]
    assert cli.main(argv) == 0
    assert "mean face, landmarks of bundled" in capsys.readouterr().out
    config = load_config(None, ["evaluate.weights=bundled", f"evaluate.store={tmp_path / 'scans'}"])
    rows = evaluate_scans(config)["scan_to_mesh"]
    assert rows.loc["mean face, landmarks of bundled", "median"] < 0.02
    assert 0.02 < rows.loc["bundled", "median"] < 4
    assert rows.loc["bundled", "pictures"] == 1


def test_bad_scans_are_named(tmp_path, head):
    with pytest.raises(InputError, match="holds no scan"):
        find_scans(tmp_path)
    (tmp_path / "a.obj").write_text("v 0 0 0\n")
    with pytest.raises(InputError, match=r"a\.obj"):
        read_scan(tmp_path / "a.obj")
    trimesh.Trimesh(head[0], head[1], process=False).export(tmp_path / "b.obj")
    np.save(tmp_path / "b_lm68.npy", np.zeros((5, 3)))
    with pytest.raises(InputError, match=r"b_lm68\.npy: has the shape \(5, 3\), not \(68, 3\)"):
        read_scan(tmp_path / "b.obj")
    (tmp_path / "b_lm68.npy").unlink()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"photos: has photos of a scan without landmarks \(add b_lm68\.npy\)"):
        read_scan(tmp_path / "b.obj")
