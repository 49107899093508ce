import dataclasses

import numpy as np
import trimesh
from example_predictions import face_sheet

from p2m_core.morphable import registration
from p2m_workbench.interop import face_models


def test_the_report_of_our_own_model(face_model):
    report = face_models.registration_report(face_model)
    assert [row["vertices"] for row in report["levels"]] == [127, 469, 1801, 7057]
    assert all(row["flipped triangles"] == row["degenerate triangles"] == 0 for row in report["levels"])
    assert report["mirror_pairs"] == (7057 - 49) // 2  # 48 edges and their ends lie on the midline
    assert 110 < report["model"]["face_width_mm"] < 160
    assert report["landmarks_mm"]["mean"] < 1
    assert report["template_to_face_mm"]["95%"] < 0.02  # floats in float32 steps, but for eyes and mouth
    assert report["template_to_face_mm"]["max"] > 1
    assert report["face_to_template_mm"]["mean"] < 0.3
    assert report["mirror_mm"]["max"] < 0.5
    assert 0.85 < report["area_ratio"] < 1
    lines = face_models.report_lines(report)
    assert len(lines) == 10
    assert not [line for line in lines if "micrometres" in line or "before training" in line]


def test_the_report_finds_what_is_amiss():
    """A sheet in another unit, with a dent that turns triangles to the inside, and one half higher than the other."""
    sheet = face_sheet()
    sound = face_models.registration_report(sheet, 4, 2)
    assert sound["levels"][-1]["flipped triangles"] == 0
    assert sound["mirror_mm"]["max"] < 0.01
    small = dataclasses.replace(sheet, mean=sheet.mean / 1000, name="metres")
    assert "not in micrometres" in face_models.report_lines(face_models.registration_report(small, 4, 2))[-1]
    tilted = dataclasses.replace(sheet, mean=sheet.mean + np.float32([0, 0, 0.1]) * sheet.mean[:, :1])
    assert face_models.registration_report(tilted, 4, 2)["mirror_mm"]["mean"] > 1


def test_flipped_and_degenerate_triangles_are_counted(monkeypatch):
    sheet = face_sheet()
    template, operator = registration.face_template(sheet, "semi_sphere", 4, 2)
    vertices, faces = template.vertices.copy(), template.faces[-1]
    vertices[faces[0, 0]] = vertices[faces[0, 1]] * 0.999 + vertices[faces[0, 2]] * 0.001  # flat
    turned = (*template.faces[:-1], np.concatenate([faces[:-3], faces[-3:, ::-1]]))
    broken = dataclasses.replace(template, vertices=vertices, faces=turned)
    monkeypatch.setattr(face_models, "face_template", lambda *_: (broken, operator))
    report = face_models.registration_report(sheet, 4, 2)
    assert report["levels"][-1]["degenerate triangles"] >= 1
    assert report["levels"][-1]["flipped triangles"] >= 3
    assert "before training" in face_models.report_lines(report)[-1]


def test_distance_to_a_surface():
    ball = trimesh.creation.icosphere(subdivisions=3)
    points = np.random.default_rng(0).normal(size=(50, 3)) * 2
    distance = face_models.distance_to_surface(points, np.asarray(ball.vertices), np.asarray(ball.faces))
    np.testing.assert_allclose(distance, abs(np.linalg.norm(points, axis=1) - 1), atol=0.01)
    exact = [trimesh.triangles.closest_point(ball.triangles, np.tile(p, (len(ball.faces), 1))) - p for p in points]
    np.testing.assert_allclose(distance, [np.linalg.norm(one, axis=1).min() for one in exact], atol=1e-9)
