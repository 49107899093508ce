import dataclasses

import numpy as np
import pytest
import trimesh
from example_predictions import face_sheet

from p2m_core.geometry.template import GROUPS
from p2m_core.morphable import registration
from p2m_workbench.interop import face_models


@pytest.fixture(scope="module")
def report_of_our_own(face_model):
    return face_models.face_model_report(face_model, ("semi_sphere", "face"))


def test_the_report_of_our_own_model(report_of_our_own):
    report = report_of_our_own["templates"]["semi_sphere"]
    assert [row["vertices"] for row in report["levels"]] == [127, 469, 1801, 7057]
    assert all(row["flipped triangles"] == row["degenerate triangles"] == 0 for row in report["levels"])
    assert report["mirror_pairs"] == (7057 - 49) // 2  # 48 edges and their ends lie on the midline
    assert 110 < report_of_our_own["model"]["face_width_mm"] < 160
    assert report["landmarks_mm"]["mean"] < 1
    assert report["template_to_face_mm"]["95%"] < 0.02  # floats in float32 steps, but for eyes and mouth
    assert report["template_to_face_mm"]["max"] > 1
    assert report["face_to_template_mm"]["mean"] < 0.3
    assert report["mirror_mm"]["max"] < 0.5
    assert 0.85 < report["area_ratio"] < 1
    lines = face_models.report_lines(report_of_our_own)
    assert not [line for line in lines if "micrometres" in line or "before training" in line]


def test_the_face_template_keeps_what_the_semi_sphere_loses(report_of_our_own, face_model):
    """Lids, lips, and a mouth that opens as the model's does."""
    old, new = (report_of_our_own["templates"][kind] for kind in ("semi_sphere", "face"))
    for name in ("lids_mm", "lips_mm"):
        assert new[name]["95%"] < 0.5 * old[name]["95%"]
        assert new["random_faces"][name]["mean"] < 0.1 * old["random_faces"][name]["mean"]
    opening = new["random_faces"]["mouth_opening_mm"]
    assert opening["of the model"] > 2
    assert opening["on the template"] == pytest.approx(opening["of the model"], rel=0.02)
    assert old["random_faces"]["mouth_opening_mm"]["on the template"] < 0.65 * opening["of the model"]
    assert new["random_faces"]["turned_percent"] < 0.05 < old["random_faces"]["turned_percent"]
    template = registration.face_template(face_model, "face", 6, 4)[0]
    assert sum(group["vertices"] for group in new["groups"].values()) == len(template.vertices)
    assert sum(group["triangles"] for group in new["groups"].values()) == len(template.faces[-1])
    assert set(new["groups"]) == set(GROUPS)
    assert old["groups"] == {"skin": {"vertices": 7057, "triangles": 13824}}
    text = "\n".join(face_models.report_lines(report_of_our_own))
    for kind in ("semi_sphere", "face"):
        assert f"template {kind}, level 4" in text
        assert f"template {kind}, opening of the mouth in 30 random faces: {opening['of the model']:.2f} mm" in text
    assert f"right eye {new['groups']['right eye']['vertices']} and {new['groups']['right eye']['triangles']}" in text


def test_turned_triangles_of_the_skin_alone_count(face_model):
    template, truth = registration.face_template(face_model, "face", 6, 4)
    mean, faces = face_model.mean.astype(float), template.faces[-1].copy()
    assert not face_models.turned_skin(template, truth, face_model, mean).any()
    skin, mouth = (np.flatnonzero(template.groups[-1] == k)[:5] for k in (0, 3))
    faces[np.concatenate([skin, mouth])] = faces[np.concatenate([skin, mouth])][:, ::-1]
    broken = dataclasses.replace(template, faces=(*template.faces[:-1], faces))
    assert np.flatnonzero(face_models.turned_skin(broken, truth, face_model, mean)).tolist() == skin.tolist()


def test_a_model_without_a_face_says_so():
    report = face_models.face_model_report(face_sheet(), ("semi_sphere", "face"), 4, 2)
    assert "levels" in report["templates"]["semi_sphere"]
    assert "template face: cannot be laid on this model" in face_models.report_lines(report)[-1]


def test_the_report_finds_what_is_amiss():
    """A sheet in another unit, with a dent that turns triangles to the inside, and one half higher than the other."""
    sheet = face_sheet()
    sound = face_models.registration_report(sheet, "semi_sphere", 4, 2)
    assert sound["levels"][-1]["flipped triangles"] == 0
    assert sound["mirror_mm"]["max"] < 0.01
    small = dataclasses.replace(sheet, mean=sheet.mean / 1000, name="metres")
    assert "not in micrometres" in face_models.report_lines(face_models.face_model_report(small, (), 4, 2))[-1]
    tilted = dataclasses.replace(sheet, mean=sheet.mean + np.float32([0, 0, 0.1]) * sheet.mean[:, :1])
    assert face_models.registration_report(tilted, "semi_sphere", 4, 2)["mirror_mm"]["mean"] > 1


def test_flipped_and_degenerate_triangles_are_counted(monkeypatch):
    sheet = face_sheet()
    template, operator = registration.face_template(sheet, "semi_sphere", 4, 2)
    vertices, faces = template.vertices.copy(), template.faces[-1]
    vertices[faces[0, 0]] = vertices[faces[0, 1]] * 0.999 + vertices[faces[0, 2]] * 0.001  # flat
    turned = (*template.faces[:-1], np.concatenate([faces[:-3], faces[-3:, ::-1]]))
    broken = dataclasses.replace(template, vertices=vertices, faces=turned)
    monkeypatch.setattr(face_models, "face_template", lambda *_: (broken, operator))
    report = face_models.registration_report(sheet, "semi_sphere", 4, 2)
    assert report["levels"][-1]["degenerate triangles"] >= 1
    assert report["levels"][-1]["flipped triangles"] >= 3
    assert "before training" in face_models.registration_lines(report)[-1]


def test_distance_to_a_surface():
    ball = trimesh.creation.icosphere(subdivisions=3)
    points = np.random.default_rng(0).normal(size=(50, 3)) * 2
    closest, distance, _ = face_models.closest_on_surface(points, np.asarray(ball.vertices), np.asarray(ball.faces))
    np.testing.assert_allclose(np.linalg.norm(closest - points, axis=1), distance)
    np.testing.assert_allclose(distance, abs(np.linalg.norm(points, axis=1) - 1), atol=0.01)
    exact = [trimesh.triangles.closest_point(ball.triangles, np.tile(p, (len(ball.faces), 1))) - p for p in points]
    np.testing.assert_allclose(distance, [np.linalg.norm(one, axis=1).min() for one in exact], atol=1e-9)
