"""Protocol consistency: do shapes predicted from different photos of a person agree, and do persons differ?

    FOLDER/VIEW/PERSON_*.jpg    a photo a person and view; the person is the file's name up to the first "_"

Shapes are vertices without pose and size: each is laid onto the mean face by a similarity. Of persons that all views
show, the variance within a person (over the views) is set against that between the persons' means; 0 would be perfect,
and shapes that say nothing of the person give the number of persons' views. "Centred" takes the mean over persons off
each view first, and so what an expression or a side does to every face alike. A person is recognised if, of all shapes
of another view, its own is the nearest to the shape in the reference view.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from p2m_core.config.paths import resolve, run_folder, shown
from p2m_core.config.settings import Config
from p2m_core.data.aflw2000 import IMAGE_SUFFIXES, read_image
from p2m_core.errors import InputError
from p2m_core.face_mesh import to_world
from p2m_core.geometry.similarity import aligned
from p2m_core.network.model import Pixel2Mesh
from p2m_workbench.measuring.evaluate import find_weights, machine, open_with_landmarks
from p2m_workbench.measuring.report import write_tables
from p2m_workbench.measuring.results import Evaluation, Table
from p2m_workbench.measuring.tables import counted_groups, counted_surface
from p2m_workbench.photos.predict import find_meshes


def find_people(folder: Path, views: tuple[str, ...] = ()) -> dict[str, dict[str, Path]]:
    """{view: {person: photo}} of the named folders, or of all.

    Raises: InputError if there are fewer than two views or persons that all of them show.
    """
    names = views or tuple(sorted(path.name for path in folder.glob("*") if path.is_dir()))
    people: dict[str, dict[str, Path]] = {}
    for name in names:
        photos = [path for path in sorted((folder / name).glob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
        if not photos and views:
            raise InputError(folder / name, "evaluate.views", "has no photo", "name folders that are there")
        if photos:
            people[name] = {path.stem.split("_")[0]: path for path in photos}
    shared = set.intersection(*(set(found) for found in people.values())) if people else set()
    if len(people) < 2 or len(shared) < 2:
        problem = f"has {len(people)} views that share {len(shared)} persons"
        raise InputError(folder, "", problem, "give FOLDER/VIEW/PERSON_*.jpg, two views of two persons or more")
    return people


def shape_of(model: Pixel2Mesh, photo: Path, flip: bool) -> np.ndarray | None:
    """The counted vertices (V, 3) of the largest face in a photo, laid onto the mean face; None if none is found."""
    meshes = find_meshes(model, read_image(photo), flip)
    if not meshes:
        return None
    part, _ = counted_surface(model.template)
    return aligned(to_world(meshes[0].vertices_px)[part], model.template.vertices[part])


def variance_ratio(shapes: np.ndarray) -> float:
    """Variance within a person over that between persons' means, of shapes (persons, views, ...)."""
    of_person = shapes.mean(1, keepdims=True)
    within = ((shapes - of_person) ** 2).sum() / (len(shapes) * (shapes.shape[1] - 1))
    between = ((of_person - of_person.mean(0)) ** 2).sum() / (len(shapes) - 1)
    return float(within / between)


def recognised(reference: np.ndarray, other: np.ndarray) -> float:
    """Share of persons, %, whose own shape is the nearest of `other` (persons, D) to theirs in `reference`."""
    distance = np.linalg.norm(reference[:, None] - other[None], axis=-1)
    return float(100 * np.mean(distance.argmin(1) == np.arange(len(reference))))


def evaluate_people(config: Config) -> Evaluation:
    """Measure weights on a folder of people, evaluate.store; see above.

    Writes consistency.csv, recognised.csv and the other files of `write_tables` to
    outputs/NAME/evaluation/FOLDER-consistency/.

    Raises: InputError as `find_people` does, or if weights are missing.
    """
    folder = resolve(config.evaluate.store or config.data.store)
    people = find_people(folder, config.evaluate.views)
    views, weights = list(people), find_weights(config)
    persons = sorted(set.intersection(*(set(found) for found in people.values())))
    ratios, ranks, lines = {}, {}, []
    for name, path in weights.items():
        model = open_with_landmarks(path)
        found: dict[str, list[np.ndarray]] = {}
        for person in tqdm(persons, desc=f"people, {name}", unit="person"):
            shapes = [shape_of(model, people[view][person], config.evaluate.flip) for view in views]
            lines += [{"system": name, "person": person, "view": view, "found": shape is not None}
                      for view, shape in zip(views, shapes, strict=True)]  # fmt: skip
            if all(shape is not None for shape in shapes):
                found[person] = [shape.ravel() for shape in shapes if shape is not None]
        if len(found) < 2:
            raise InputError(folder, "", f"{len(found)} persons have a face in all views", "give other photos")
        shapes = np.array([*found.values()])
        centred = shapes - shapes.mean(0)
        ratios[name] = {
            "within / between": variance_ratio(shapes), "centred": variance_ratio(centred),
            "persons": len(found), "views": len(views),
        }  # fmt: skip
        for k, view in enumerate(views[1:], 1):
            of_view = {"recognised, %": recognised(shapes[:, 0], shapes[:, k]),
                       "centred, %": recognised(centred[:, 0], centred[:, k]), "persons": len(found)}  # fmt: skip
            ranks[name, f"{views[0]} to {view}"] = of_view
    index = pd.MultiIndex.from_tuples(ranks, names=["system", "views"])
    tables = {
        "consistency": Table(
            "consistency: variance of shapes within a person over that between persons", "consistency", "ratio",
            len(persons), pd.DataFrame.from_dict(ratios, orient="index").rename_axis("system"), digits=3,
        ),
        "recognised": Table(
            f"persons recognised by shape alone, %; by chance {100 / len(persons):.0f}%", "consistency", "%",
            len(persons), pd.DataFrame([*ranks.values()], index), digits=0,
        ),
    }  # fmt: skip
    samples = pd.DataFrame(lines)
    about = {
        "protocol": "consistency; faces found in the photos",
        "data": f"{shown(folder)}: {', '.join(views)}",
        "no face found": int((~samples["found"]).sum()),
        "dense protocols count": counted_groups(open_with_landmarks(next(iter(weights.values()))).template),
        "machine": machine(),
    }
    folder_out = run_folder(config) / "evaluation" / f"{folder.name}-consistency"
    result = Evaluation(dict.fromkeys(weights, "network"), tables, samples, about, folder_out)
    write_tables(result)
    return result
