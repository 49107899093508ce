"""What an evaluation writes: tables as csv, json, markdown and LaTeX; figures; pictures of cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from p2m_core.data.face_store import FaceStore
from p2m_core.files import write_json, write_text
from p2m_workbench.drawing.dataset_figures import save_figure
from p2m_workbench.drawing.mesh_images import save_picture, static_pictures
from p2m_workbench.face_prediction import FacePrediction
from p2m_workbench.measuring.figures import (
    case_row,
    ced_figure,
    decomposition_figure,
    error_map_figure,
    groups_figure,
    yaw_figure,
)
from p2m_workbench.measuring.results import Evaluation, Table

WORST = 4  # cases that are drawn


def to_latex(table: Table) -> str:
    """A table for booktabs; where each row is a system, the best of the compared systems in bold."""
    rows = table.rows.rename_axis(None) if table.rows.index.nlevels == 1 else table.rows
    style = rows.style.format(precision=table.digits, escape="latex", na_rep="--")
    style = style.format_index(escape="latex").format_index(escape="latex", axis=1)
    best, lower = table.best()
    if best and lower:
        style = style.highlight_min(subset=(best, lower), props="textbf:--rwrap;")
    columns = "l" * rows.index.nlevels + "".join("r" if kind.kind in "fi" else "l" for kind in rows.dtypes)
    escaped = table.title.replace("%", r"\%")
    return style.to_latex(hrules=True, column_format=columns, caption=escaped, position_float="centering")


def write_tables(result: Evaluation) -> None:
    """Each table as csv, and all of them in metrics.json, report.md and tables.tex."""
    folder, tables = result.folder, result.tables
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", table.rows.to_csv())
    write_text(folder / "samples.csv", result.samples.to_csv(index=False))
    about = "".join(f"- {name}: {value}\n" for name, value in result.about.items())
    markdown = [f"## {table.title}\n\n{table.to_markdown()}\n" for table in tables.values()]
    write_text(folder / "report.md", "\n".join([f"# {folder.name}\n", about, *markdown]))
    latex = [to_latex(table) for table in tables.values()]
    write_text(folder / "tables.tex", "% wants \\usepackage{booktabs}\n" + "\n".join(latex))
    content = {"about": result.about, "tables": {name: table.to_dict() for name, table in tables.items()}}
    write_json(folder / "metrics.json", content)


def write_report(
    result: Evaluation,
    store: FaceStore,
    rows: np.ndarray,
    predictions: Mapping[str, Callable[[int], FacePrediction]],
    peers: Mapping[str, np.ndarray],
) -> None:
    """Write tables, figures and pictures to the result's folder.

    Args:    predictions: of each network, from a sample's place to its prediction on the stored crop.
             peers: landmarks (N, 68, 2 or 3) px of the photo.
    """
    write_tables(result)
    figures = {
        "ced": ced_figure,
        "yaw": yaw_figure,
        "error_decomposition": decomposition_figure,
        "groups": groups_figure,
    }
    slices = result.tables.get("slices")  # none where every group is too small
    if slices is None or set(slices.rows.index.get_level_values("attribute")) <= {"landmarks"}:  # the table says it all
        figures.pop("groups")
        (result.folder / "groups.png").unlink(missing_ok=True)  # of another set under this name
    for name, draw in figures.items():
        save_figure(result.folder / f"{name}.png", draw(result))
    maps = result.folder / "error_maps.png"
    if set(result.compared) & set(result.error_maps):
        save_figure(maps, error_map_figure(result, store.template))
    else:  # no system has a surface on the store's template
        maps.unlink(missing_ok=True)
    first = next(iter(predictions))
    order = np.argsort(result.samples[first].to_numpy())
    cases = static_pictures([predictions[first](k) for k in (order[0], order[len(order) // 2], order[-1])])
    for name, picture in zip(("best", "median", "worst"), cases, strict=True):
        save_picture(result.folder / f"{name}.png", picture)
    worst = [case_row(result, store, rows, k, predictions, peers) for k in order[::-1][:WORST]]
    save_picture(result.folder / "worst_cases.png", np.concatenate(worst))
