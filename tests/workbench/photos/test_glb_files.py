"""Khronos' glTF validator finds nothing in any .glb that is written."""

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from example_predictions import made_up

from p2m_workbench.photos import export

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


def test_the_validator_says_nothing(validate, tmp_path, with_eyes):
    bare = made_up(rings=3, levels=2)
    colors = np.random.default_rng(0).integers(0, 256, (len(bare.mesh.vertices_px), 3))
    export.save_mesh(tmp_path / "plain.glb", bare.mesh)
    export.save_mesh(tmp_path / "level.glb", bare.mesh, 0)
    export.save_mesh(tmp_path / "colored.glb", bare.mesh, vertex_colors=colors)
    export.save_mesh(tmp_path / "photo.glb", bare.mesh, photo=bare.photo)
    export.save_mesh(tmp_path / "groups.glb", with_eyes.mesh)
    export.save_mesh(tmp_path / "groups-level.glb", with_eyes.mesh, 1)
    export.save_prediction(tmp_path, replace(with_eyes, name="face"), ["glb", "rig"])
    paths = sorted(tmp_path.glob("*.glb"))
    assert len(paths) == 8
    for path, report in zip(paths, validate(*paths), strict=True):
        # A photo's own size is no power of two, of which WebGL 1 made no smaller copies: no warning, a remark.
        said = [message for message in report["messages"] if message["code"] != "IMAGE_NPOT_DIMENSIONS"]
        assert said == [], path.name


def test_the_validator_finds_what_is_wrong(validate, tmp_path):
    bare = made_up(rings=3, levels=1)
    path = export.save_mesh(tmp_path / "x.glb", bare.mesh)
    content = path.read_bytes().replace(b'"POSITION"', b'"POSITIOM"')
    path.write_bytes(content)
    [report] = validate(path)
    assert report["numErrors"] > 0
