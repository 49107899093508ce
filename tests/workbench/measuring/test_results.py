"""A table as report and notebook show it."""

import numpy as np
import pandas as pd

from p2m_workbench.measuring.results import Table


def table(**changes):
    rows = pd.DataFrame(
        {"samples": [5, 5, 4], "balanced": [3.456, 3.2, 1.0], "slope": [0.5, np.nan, 0.9]},
        index=pd.Index(["a", "b", "floor"], name="system"),
    )
    return Table("nme68-2d, % of the face size", "nme68-2d", "%", 5, rows, **changes)


def test_the_best_of_the_compared_systems_is_bold_and_baselines_are_not():
    lines = table(compared=("a", "b")).to_markdown().splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == ["system", "samples", "balanced", "slope"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert rows == [["a", "5", "3.46", "0.50"], ["b", "5", "**3.20**", "–"], ["floor", "4", "1.00", "0.90"]]
    assert "**" not in table(compared=("a",)).to_markdown()  # alone, nothing is best


def test_a_notebook_shows_title_and_direction():
    shown = table()._repr_markdown_()
    assert shown.startswith("**nme68-2d, % of the face size**\n\n*lower is better: balanced*\n\n| system")


def test_rows_of_several_kinds_have_no_best():
    several = table(compared=("a", "b"))
    rows = several.rows.set_index(pd.Index(["x", "y", "z"], name="group"), append=True)
    assert "**" not in Table("t", "p", "%", 5, rows, compared=("a", "b")).to_markdown()
