"""What an evaluation leaves behind: tables as csv, json, markdown and LaTeX; figures; pictures of cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from p2m_core.data.store import Store
from p2m_core.face_mesh import FacePrediction
from p2m_core.files import write_json, write_text
from p2m_workbench.drawing.dataset_figures import save_figure
from p2m_workbench.drawing.mesh_images import static_picture
from p2m_workbench.measuring.evaluation import DIGITS, TITLES, Evaluation
from p2m_workbench.measuring.figures import (
    budget_figure,
    case_row,
    ced_figure,
    error_map_figure,
    groups_figure,
    yaw_figure,
)
from p2m_workbench.photos.export import save_picture

WORST = 4


# --- tables ---------------------------------------------------------------------------------------


def to_markdown(table: pd.DataFrame, digits: int = 2) -> str:
    """A table as GitHub's markdown, index first, numbers to so many digits."""

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    table = table.reset_index(names=table.index.names if table.index.nlevels > 1 else "")
    numbers = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    rows = [[_cell(value, digits) for value in row] for row in table.itertuples(index=False)]
    rule = ["---:" if number else "---" for number in numbers]
    return "\n".join(map(line, [list(map(str, table.columns)), rule, *rows])) + "\n"


def _cell(value: object, digits: int) -> str:
    if isinstance(value, float):
        return f"{value:.{digits}f}" if np.isfinite(value) else "–"
    return str(value)


def to_latex(table: pd.DataFrame, caption: str, compared: list[str], digits: int = 2) -> str:
    """A table for booktabs; in tables of a row a system, the best of the compared systems in bold."""
    style = table.style.format(precision=digits, escape="latex", na_rep="--")
    style = style.format_index(escape="latex").format_index(escape="latex", axis=1)
    rows = [name for name in compared if name in table.index] if table.index.nlevels == 1 else []
    means = [name for name in table.columns if "-" in name or name in ("balanced", "plain", "mae", "geodesic")]
    if len(rows) > 1 and means:
        lower = [name for name in means if not name.startswith(("F1", "identity"))]
        style = style.highlight_min(subset=(rows, lower), props="textbf:--rwrap;")
    columns = "l" * table.index.nlevels + "".join("r" if kind.kind in "fi" else "l" for kind in table.dtypes)
    escaped = caption.replace("%", r"\%")
    return style.to_latex(hrules=True, column_format=columns, caption=escaped, position_float="centering")


def write_tables(result: Evaluation) -> None:
    """Each table as csv, and all of them in metrics.json, report.md and tables.tex."""
    folder, markdown, latex = result.folder, [], []
    for name, table in result.tables.items():
        flat = table.reset_index(drop=True) if name == "slices" else table
        write_text(folder / f"{name}.csv", flat.to_csv(index=name != "slices"))
        shown = table.set_index(["attribute", "group"]) if name == "slices" else table
        markdown += [f"## {TITLES[name]}\n", to_markdown(shown, DIGITS.get(name, 2))]
        latex.append(to_latex(shown, TITLES[name], result.compared, DIGITS.get(name, 2)))
    write_text(folder / "samples.csv", result.samples.to_csv(index=False))
    about = "".join(f"- {name}: {value}\n" for name, value in result.about.items())
    write_text(folder / "report.md", "\n".join([f"# {result.folder.name}\n", about, *markdown]))
    write_text(folder / "tables.tex", "% wants \\usepackage{booktabs}\n" + "\n".join(latex))
    in_rows = ("budget", "slices")
    tables = {
        name: table.reset_index().drop(columns="index", errors="ignore").to_dict("records")
        if name in in_rows
        else table.to_dict("index")
        for name, table in result.tables.items()
    }
    write_json(folder / "metrics.json", {"about": result.about, **tables})


def write_report(
    result: Evaluation,
    store: Store,
    rows: np.ndarray,
    predictions: Mapping[str, Callable[[int], FacePrediction]],
    peers: Mapping[str, np.ndarray],
) -> None:
    """Write tables, figures and pictures to the result's folder.

    Args:    predictions: of each network, from a sample's place to its prediction on the stored crop.
             peers: landmarks (N, 68, 2 or 3) px of the photo.
    """
    write_tables(result)
    figures = {"ced": ced_figure, "yaw": yaw_figure, "budget": budget_figure, "groups": groups_figure}
    if not (result.slices["attribute"] != "landmarks").any():  # no groups but those, which the table tells
        figures.pop("groups")
        (result.folder / "groups.png").unlink(missing_ok=True)  # of another set under this name
    for name, draw in figures.items():
        save_figure(result.folder / f"{name}.png", draw(result))
    save_figure(result.folder / "error_maps.png", error_map_figure(result, store.template))
    first = next(iter(predictions))
    order = np.argsort(result.samples[first].to_numpy())
    for name, k in (("best", order[0]), ("median", order[len(order) // 2]), ("worst", order[-1])):
        save_picture(result.folder / f"{name}.png", static_picture(predictions[first](k)))
    worst = [case_row(result, store, rows, k, predictions, peers) for k in order[::-1][:WORST]]
    save_picture(result.folder / "worst_cases.png", np.concatenate(worst))
