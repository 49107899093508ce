from pathlib import Path

import numpy as np
import pandas as pd

from p2m_core.config.loading import with_values
from p2m_workbench.measuring.results import Evaluation
from p2m_workbench.viewing.faces_behind import MOST, faces_behind


def test_a_group_and_a_part_of_the_curve_open_in_the_inspector(tiny_config, store):
    values = {"evaluate.weights": "bundled", "evaluate.split": "all", "data.store": str(store.folder)}
    names, errors = store.table["name"], np.linspace(1, 5, len(store))
    samples = pd.DataFrame({"name": names, "yaw_deg": store.yaw_deg(), "bundled": errors})
    result = Evaluation({"bundled": "network"}, {}, samples, {}, Path())
    view = faces_behind(with_values(tiny_config, values, "test"), result)
    assert len(view.predictions) == MOST < len(store)
    assert view.message.value.startswith(f"{MOST} of these {len(store)} faces, evenly by error")
    [inspector] = view.view.children
    assert inspector.predictions[0].name in set(names)
    view.between.value = (4.8, 5.0)
    assert [item.name for item in view.predictions] == names[errors >= 4.8].tolist()
    view.between.value = (0, 5.0)
    view.group.value = "|yaw| 60-90"
    assert view.predictions
    shown = np.isin(names, [item.name for item in view.predictions])
    assert (np.abs(store.yaw_deg()[shown]) > 60).all()
    view.between.value = (0, 0.5)
    assert view.view.children == ()
    assert "no face of this group" in view.message.value
