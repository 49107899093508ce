"""Which files in a folder are results."""

import csv

import pytest

from p2m_core.errors import InputError
from p2m_workbench.photos.result_files import RECORD_FILE, Records, Results
from p2m_workbench.photos.table import TABLE_FIELDS, TABLE_FILE


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_rows(folder, *rows):
    with open(folder / TABLE_FILE, "w", newline="") as file:
        table = csv.DictWriter(file, TABLE_FIELDS)
        table.writeheader()
        table.writerows(rows)


def test_what_is_claimed_is_a_result_from_below_and_by_a_link(tmp_path):
    make(tmp_path, "a/b/mine.obj")
    Results(tmp_path).claim(["a/b/me.obj", "ü\n.obj"])
    make(tmp_path, "a/b/me.obj")
    (tmp_path / "link").symlink_to("a")
    assert tmp_path / "a/b/me.obj" in Records()
    assert tmp_path / "link/b/me.obj" in Records()
    assert tmp_path / "a/../ü\n.obj" in Records()
    assert tmp_path / "a/b/mine.obj" not in Records()
    Results(tmp_path / "a/b").claim(["me.obj"])  # by another call, into the folder itself
    with pytest.raises(InputError, match=r"a/b: mine\.obj would be replaced, and no earlier call wrote it"):
        Results(tmp_path / "a/b").claim(["me.obj", "mine.obj"])


def test_many_files_are_told_in_a_short_line(tmp_path):
    names = [f"{k}.obj" for k in range(7)]
    make(tmp_path, *names)
    with pytest.raises(InputError, match=r": 0\.obj, 1\.obj, 2\.obj, 3\.obj and 3 more would be replaced"):
        Results(tmp_path).check(names)


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path):
    Results(tmp_path).claim(["a.obj", "b.obj"])
    record = tmp_path / RECORD_FILE
    record.write_text(record.read_text()[:-3])
    Results(tmp_path).claim(["c.obj"])
    assert Records().below(tmp_path) == {"a.obj", "c.obj"}


def test_results_of_before_there_were_records_are_known_by_their_table(tmp_path):
    results = ["me.obj", "me-crop.png", "me_too.mtl", "me too.obj", "me-level4.obj", "clip.npz", "clip-overlay.webm",
               "clip-face1.glb", "clip-face2.glb", "clip-face2-units.csv", "a/you.json"]  # fmt: skip
    make(tmp_path, *results, "other.obj", "me-crop.jpg", "clip-face3.glb")
    rows = [{"name": "me"}, {"name": "me too"}, {"name": "a/you"}, {"photo": "bad.jpg", "problem": "is empty"}]
    rows += [{"name": f"clip-face{k}", "photo": "clip.mp4", "identity": k} for k in (1, 2)]
    write_rows(tmp_path, *rows)
    assert Records().below(tmp_path) == set(results)
    Results(tmp_path).claim(["new.obj"])  # begins a record
    assert Records().below(tmp_path) == {*results, "new.obj"}


def test_tables_of_something_else_tell_nothing(tmp_path):
    make(tmp_path, "me.obj")
    for content in (b"name,score\nme,2\n", b"\xff\xff\xff", b""):
        (tmp_path / TABLE_FILE).write_bytes(content)
        assert Records().below(tmp_path) == set()
