"""A face that moves: known expressions are found again, and the files hold them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.morphable.registration import face_template
from p2m_synth.head.expression import draw_expression
from p2m_synth.head.identity import draw_identity
from p2m_workbench.photos import export, mesh_files
from p2m_workbench.photos import rig as rig_module
from p2m_workbench.photos.rig import build_units, can_move, own_units, rig

# Units that move the skin by a centimetre or so. The gaze turns no lid by much, tongue and blinks hide behind lips.
TOLD = ("jawOpen", "mouthSmileLeft", "mouthSmileRight", "mouthPucker", "browInnerUp", "browDownLeft", "jawLeft")


@pytest.fixture(scope="module")
def people(head, face_model):
    """Predictions with known strengths: the truth of random people with random expressions, turned and scaled."""
    template, truth = face_template(face_model)
    made = []
    for seed in range(12):
        rng = np.random.default_rng([4, seed])
        shape, strength = head.shape_of(draw_identity(rng)), draw_expression(rng)[1]
        world = truth(face_model.vertices(shape, head.expression_of(strength)))
        neutral = truth(face_model.vertices(shape, 0 * head.expression_of(strength)))
        turn, scale = rotation_from_angles(np.radians(rng.uniform(-30, 30, 3))), 200 / np.ptp(world[:, 1])
        made.append((strength, *(scale * points @ turn.T + [140, -150, 0] for points in (world, neutral))))
    return template, made


def prediction(template, world, with_eyes):
    vertices = np.float32(world * [1, -1, 1])
    mesh = replace(with_eyes.mesh, vertices_px=vertices, levels=tuple(vertices[:n] for n in template.counts))
    return replace(with_eyes, mesh=mesh)


def test_known_strengths_are_found_again(people, with_eyes):
    template, made = people
    names = list(own_units().names)
    told = [names.index(name) for name in TOLD]
    error, spread = [], []
    for strength, world, neutral in made:
        found = rig(prediction(template, world, with_eyes).mesh)
        assert ((found.strength >= 0) & (found.strength <= 1)).all()
        error.append((found.strength - strength)[told])
        spread.append(strength[told])
        np.testing.assert_allclose(found.moved(found.strength), world, atol=1e-3)  # what is seen stays what it is
        size = np.ptp(world, axis=0).max()
        assert np.linalg.norm(found.neutral - neutral, axis=1).mean() < 0.012 * size
    assert np.abs(error).mean() < 0.1
    assert np.sqrt(np.square(error).mean()) < 0.75 * np.sqrt(np.square(spread).mean())  # of saying that nothing moves


def test_kept_units_are_those_that_are_built(monkeypatch, tmp_path):
    monkeypatch.setattr(rig_module, "default_folder", lambda: tmp_path)
    built = build_units()
    monkeypatch.setattr(rig_module, "build_units", lambda: built)
    for made in (own_units.__wrapped__(), own_units.__wrapped__()):  # the second reads the first one's file
        assert made.names == built.names
        for name in ("mean", "ways", "shapes", "eyes"):
            np.testing.assert_array_equal(getattr(made, name), getattr(built, name), strict=True)
        for own, other in zip(made.template.faces, built.template.faces, strict=True):
            np.testing.assert_array_equal(own, other)
        for name, array in built.template.arrays().items():
            np.testing.assert_array_equal(made.template.arrays()[name], array, strict=True)
        monkeypatch.delattr(rig_module, "build_units", raising=False)
    [kept] = tmp_path.glob("*.npz")
    monkeypatch.setattr(rig_module.registration, "VERSION", 99)
    with pytest.raises(NameError):  # another template asks for other units, which nothing builds here
        own_units.__wrapped__()
    assert [*tmp_path.glob("*.npz")] == [kept]


def test_units_do_what_their_names_say():
    units = own_units()
    of = dict(zip(units.names, units.ways, strict=True))
    lower, upper = units.template.landmark_faces[66], units.template.landmark_faces[62]
    assert of["jawOpen"][lower, 1].mean() < of["jawOpen"][upper, 1].mean() - 5000  # um, y up
    left = units.template.landmark_faces[54]  # the subject's left corner of the mouth, on positive x
    assert units.mean[left, 0].mean() > 0
    assert of["mouthSmileLeft"][left, 1].mean() > 3000 > abs(of["mouthSmileRight"][left, 1]).max()
    mirror = units.template.mirror
    np.testing.assert_allclose(of["mouthSmileLeft"][mirror] * [-1, 1, 1], of["mouthSmileRight"], atol=1500)
    assert len(units.names) == 52


def test_the_file_holds_neutral_targets_and_the_photos_expression(people, with_eyes, tmp_path):
    template, made = people
    shown = prediction(template, made[3][1], with_eyes)
    export.save_prediction(tmp_path, replace(shown, name="me"), ["rig"])
    assert {path.name for path in tmp_path.iterdir()} == {"me-rig.glb", "me-rig.json", "me-rig.csv"}
    content = (tmp_path / "me-rig.glb").read_bytes()
    assert int.from_bytes(content[8:12], "little") == len(content)
    length = int.from_bytes(content[12:16], "little")
    outline, binary = json.loads(content[20 : 20 + length]), content[28 + length :]
    assert outline["buffers"][0]["byteLength"] == len(binary)

    def rows(view, kind, width):
        view = outline["bufferViews"][view]
        start = view["byteOffset"]
        return np.frombuffer(binary[start : start + view["byteLength"]], kind).reshape(-1, width)

    [mesh] = outline["meshes"]
    assert mesh["extras"]["targetNames"] == list(own_units().names)
    parts = {part["extras"]["name"]: part for part in mesh["primitives"]}
    assert set(parts) == {"skin", "right_eye", "left_eye", "mouth"}
    positions = outline["accessors"][parts["skin"]["attributes"]["POSITION"]]
    total = rows(positions["bufferView"], np.float32, 3).astype(np.float64)
    np.testing.assert_allclose(total.min(0), positions["min"], atol=1e-4)
    for weight, target in zip(mesh["weights"], parts["skin"]["targets"], strict=True):
        accessor = outline["accessors"][target["POSITION"]]
        moved = rows(accessor["sparse"]["indices"]["bufferView"], np.uint32, 1)[:, 0]
        ways = rows(accessor["sparse"]["values"]["bufferView"], np.float32, 3)
        assert (np.diff(moved.astype(int)) > 0).all()  # as the format wants them
        assert (ways.min(0) >= np.array(accessor["min"]) - 1e-6).all()
        total[moved] += weight * ways
    size = np.ptp(made[3][1], axis=0).max()
    assert np.linalg.norm(total - made[3][1], axis=1).max() < 1e-3 * size  # short ways are left out
    strengths = json.loads((tmp_path / "me-rig.json").read_text())
    np.testing.assert_allclose([strengths[name] for name in own_units().names], mesh["weights"], atol=1e-4)
    assert len(content) < 6e6


def test_a_mesh_on_another_template_has_no_rig(with_eyes, tmp_path, caplog):
    mesh = mesh_files.at_level(with_eyes.mesh, 2)
    assert not can_move(mesh)
    export.save_prediction(tmp_path, replace(with_eyes, mesh=mesh), ["rig"])
    assert "no rig, since its weights are on another template" in caplog.text
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".glb"]
