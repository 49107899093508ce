import numpy as np

from p2m_core.data.face_store import FaceStore
from p2m_synth.statistics import attribute_table
from p2m_workbench.measuring.groups import ALL, face_groups, pick


def test_groups_are_those_of_the_tables(store):
    opened = FaceStore(store.folder)
    rows = np.arange(len(opened))[::2]
    groups = face_groups(opened, rows)
    assert groups[ALL].all()
    yaw = [name for name in groups if name.startswith("|yaw|")]
    np.testing.assert_array_equal(np.sum([groups[name] for name in yaw], 0), 1)
    table = attribute_table(opened.manifest["raw"]).set_index("name").loc[opened.table["name"][rows]]
    np.testing.assert_array_equal(groups["sex: woman"], table["woman"] == 1)
    assert all(mask.any() for mask in groups.values())


def test_faces_are_picked_evenly_by_error():
    errors = np.array([5.0, 1, np.nan, 3, 2, 4, 9])
    everybody = np.ones(7, bool)
    picked, count = pick(errors, everybody, 0, 6, 3)
    assert (errors[picked].tolist(), count) == ([1, 3, 5], 5)
    picked, count = pick(errors, errors > 2, 0, 6, 8)
    assert (errors[picked].tolist(), count) == ([3, 4, 5], 3)
    assert not len(pick(errors, everybody, 6, 7, 8)[0])
