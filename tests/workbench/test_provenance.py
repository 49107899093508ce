"""p2m_workbench.provenance: what the folder of a run says about code, machine and data."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

from p2m_core.config.loading import load_config, with_values
from p2m_core.data.splits import SPLITS
from p2m_workbench.provenance import data_hashes, provenance


def test_it_can_be_written_and_names_versions_and_machine():
    found = json.loads(json.dumps(provenance()))
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["git"] is None or re.fullmatch(r"[0-9a-f]{40}", found["git"]["commit"])
    assert found["processor"]
    assert found["cpus"] > 0


def test_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("P2M_HOME", str(tmp_path))
    assert provenance(tmp_path)["git"] is None
    assert not list(tmp_path.iterdir())


def committed(tmp_path, monkeypatch, name, text):
    """A project with one file, committed, and an empty folder for a run."""
    root, run = tmp_path / "root", tmp_path / "run"
    root.mkdir()
    run.mkdir()
    (root / name).write_text(text)
    for words in (["init", "-q"], ["add", name], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-C", root, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)
    monkeypatch.setenv("P2M_HOME", str(root))
    return root, run


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_what_differs_from_the_commit_is_kept_as_a_diff_of_its_own(tmp_path, monkeypatch):
    root, run = committed(tmp_path, monkeypatch, "code.py", "a = 1\n")
    clean = provenance(run)["git"]
    assert not clean["dirty"]
    assert not list(run.iterdir())
    diffs = set()
    for value in (2, 3, 2):
        (root / "code.py").write_text(f"a = {value}\n")
        changed = provenance(run)["git"]
        assert (changed["commit"], changed["dirty"]) == (clean["commit"], True)
        assert f"+a = {value}\n" in (run / changed["diff"]).read_text()
        diffs.add(changed["diff"])
    assert {path.name for path in run.iterdir()} == diffs
    assert len(diffs) == 2


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_diff_has_the_cells_of_notebooks_and_not_their_outputs(tmp_path, monkeypatch):
    def notebook(source, output):
        cell = {"cell_type": "code", "source": [source], "outputs": [{"text": output}], "metadata": {}}
        return json.dumps({"cells": [cell], "metadata": {}})

    root, run = committed(tmp_path, monkeypatch, "01.ipynb", notebook("a = 1", ""))
    (root / "01.ipynb").write_text(notebook("a = 1", "x" * 10_000))
    assert "diff" not in provenance(run)["git"]
    (root / "01.ipynb").write_text(notebook("a = 2", "x" * 10_000))
    diff = (run / provenance(run)["git"]["diff"]).read_text()
    assert "-a = 1\n+a = 2\n" in diff
    assert "xxx" not in diff


def test_data_hashes_know_files_and_splits(store, tiny_config, tmp_path):
    found = data_hashes(tiny_config)
    assert found["sha256"] == store.manifest["sha256"]
    assert set(found["splits"]) == set(SPLITS)
    # The same files, one sample in another split.
    copy = shutil.copytree(store.folder, tmp_path / "copy")
    with np.load(copy / "samples.npz") as file:
        table = dict(file)
    table["split"][list(table["split"]).index(0)] = 2
    np.savez(copy / "samples.npz", **table)
    other = data_hashes(with_values(tiny_config, {"data.store": str(copy)}, "--set"))
    changed = {name for name in SPLITS if other["splits"][name] != found["splits"][name]}
    assert changed == {"train", "test"}
    absent = with_values(tiny_config, {"data.store": str(tmp_path / "absent")}, "--set")
    assert data_hashes(absent) == {}


def test_data_hashes_of_objects_are_those_of_the_lists(object_set):
    config = load_config("object-tiny", [f"data.raw={object_set}"])
    assert set(data_hashes(config)["sha256"]) == {"train.txt", "test.txt"}
