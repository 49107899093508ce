"""Khronos' glTF validator finds nothing in any .glb that is written."""

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from example_predictions import made_up

from p2m_core.geometry.camera import rotation_from_angles
from p2m_workbench.photos import export, mesh_files
from p2m_workbench.photos.frame import PHOTO
from p2m_workbench.photos.moving_glb import Motion
from p2m_workbench.photos.rig import rig

SCRIPT = """
const fs = require("fs"), validator = require("gltf-validator");
Promise.all(process.argv.slice(1).map(path => validator.validateBytes(new Uint8Array(fs.readFileSync(path)))))
  .then(reports => console.log(JSON.stringify(reports.map(report => report.issues))));
"""


@pytest.fixture(scope="module")
def validate():
    """Takes .glb files and returns what the validator says of each."""
    node = shutil.which("node")
    remedy = "apt-get install nodejs npm; npm install -g gltf-validator; export NODE_PATH=$(npm root -g)"
    if not node or subprocess.run([node, "-e", "require.resolve('gltf-validator')"], capture_output=True).returncode:
        pytest.skip(f"needs Khronos' glTF validator ({remedy})")

    def run(*paths):
        done = subprocess.run([node, "-e", SCRIPT, *map(str, paths)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def film(shown):
    """Arguments of `save_rig`: a face in an upright frame of its own, and its motion through two frames."""
    found = rig(shown.mesh)
    turn = rotation_from_angles(np.radians([0, 30, 0]))
    moving = replace(found, neutral=found.neutral @ turn * 0.5 + 7, ways=np.float32(found.ways @ turn * 0.5))
    strength = np.stack([found.strength, 0.5 * found.strength])
    still = np.tile([0.0, 0, 0, 1], (2, 1))
    motion = Motion(np.array([0, 0.04]), strength, np.full(2, 2.0), still, np.zeros((2, 3)))
    return shown.mesh, moving, shown.photo, PHOTO, motion


def test_eyeballs_of_a_film_lie_in_its_frame(tmp_path, with_eyes):
    mesh, moving, photo, frame, motion = film(with_eyes)
    mesh_files.save_rig(tmp_path / "film.glb", mesh, moving, photo, frame, motion)
    mesh_files.save_rig(tmp_path / "photo.glb", mesh, rig(mesh), photo)
    turn = rotation_from_angles(np.radians([0, 30, 0]))
    for place in (1, 2):  # the eyes are the second and third primitive
        in_film, in_photo = (places(tmp_path / name, place) for name in ("film.glb", "photo.glb"))
        np.testing.assert_allclose(in_film, in_photo @ turn * 0.5 + 7, atol=1e-3)
    [animation] = outline_of(tmp_path / "film.glb")[0]["animations"]
    paths = [channel["target"]["path"] for channel in animation["channels"]]
    assert paths == ["weights", "scale", "rotation", "translation"]


def outline_of(path):
    content = path.read_bytes()
    length = int.from_bytes(content[12:16], "little")
    return json.loads(content[20 : 20 + length]), content[28 + length :]


def places(path, primitive):
    """The vertices of a primitive."""
    outline, binary = outline_of(path)
    part = outline["meshes"][0]["primitives"][primitive]
    assert part["extras"]["name"].endswith("_eye")
    accessor = outline["accessors"][part["attributes"]["POSITION"]]
    start = outline["bufferViews"][accessor["bufferView"]]["byteOffset"]
    return np.frombuffer(binary, np.float32, 3 * accessor["count"], start).reshape(-1, 3)


def test_the_validator_says_nothing(validate, tmp_path, with_eyes):
    bare = made_up(rings=3, levels=2)
    colors = np.random.default_rng(0).integers(0, 256, (len(bare.mesh.vertices_px), 3))
    mesh_files.save_mesh(tmp_path / "plain.glb", bare.mesh)
    mesh_files.save_mesh(tmp_path / "level.glb", bare.mesh, 0)
    mesh_files.save_mesh(tmp_path / "colored.glb", bare.mesh, vertex_colors=colors)
    mesh_files.save_mesh(tmp_path / "photo.glb", bare.mesh, photo=bare.photo)
    mesh_files.save_mesh(tmp_path / "groups.glb", with_eyes.mesh)
    mesh_files.save_mesh(tmp_path / "groups-level.glb", with_eyes.mesh, 1)
    export.save_prediction(tmp_path, replace(with_eyes, name="face"), ["glb", "rig"])
    mesh_files.save_rig(tmp_path / "motion.glb", *film(with_eyes))
    paths = sorted(tmp_path.glob("*.glb"))
    assert len(paths) == 9
    for path, report in zip(paths, validate(*paths), strict=True):
        # A photo's own size is no power of two, of which WebGL 1 made no smaller copies: no warning, a remark.
        said = [message for message in report["messages"] if message["code"] != "IMAGE_NPOT_DIMENSIONS"]
        assert said == [], path.name


def test_the_validator_finds_what_is_wrong(validate, tmp_path):
    bare = made_up(rings=3, levels=1)
    path = mesh_files.save_mesh(tmp_path / "x.glb", bare.mesh)
    content = path.read_bytes().replace(b'"POSITION"', b'"POSITIOM"')
    path.write_bytes(content)
    [report] = validate(path)
    assert report["numErrors"] > 0
