"""What data and models are there, what each is for, where the missing ones come from, and whether they are sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from p2m_core.camera import apply_affine, crop_matrix
from p2m_core.config import resolve
from p2m_core.data import archive
from p2m_core.data import folder as folder_set
from p2m_core.data.aflw2000 import (
    FLIPPED,
    SUBSETS,
    Sample,
    find_samples,
    origin,
    read_image,
    read_sample,
    scan,
    unpaired,
)  # fmt: skip
from p2m_core.data.augment import crop_image
from p2m_core.data.folder import is_folder_set
from p2m_core.errors import InputError
from p2m_core.export import save_picture
from p2m_core.faces.formats import EXPRESSION_FILE, SHAPE_FILE, find_face_model, load_face_model
from p2m_core.faces.linear_model import FaceModel
from p2m_core.figures import contact_sheet
from p2m_core.pictures import draw_landmarks
from p2m_core.raster import draw_mesh

LOOKED_AT = 50  # samples of a set, evenly spaced
ORIGIN_PX = (0.5, 2.5)  # mean offset of rebuilt landmarks where pixels count from another number: 1, or 2 for both
PREVIEWS, PREVIEW_MARGIN, PREVIEW_POINTS = 6, 1.5, 600

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
_3DDFA_PAGE = "http://www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm"
_SYNTHETIC = ("faces to train and to test on", "CC0 (MakeHuman)", "made by `p2m synth`")


class Row(NamedTuple):
    """One thing that the project can use.

    name   status: "there", "incomplete" or "missing"   detail: how many samples, or which file is missing
    path   purpose   licence   source: where it comes from
    """

    name: str
    status: str
    detail: str
    path: Path
    purpose: str
    licence: str
    source: str


def report(root: str | Path) -> list[Row]:
    """Look for data sets, face models, stores and weights.

    Args:    root: the project's root, which holds data/.
    Returns: one row each, those that are missing included.
    """
    raw, processed = Path(root) / "data" / "raw", Path(root) / "data" / "processed"
    return [
        _data_set(
            raw / "AFLW2000-3D",
            "AFLW2000-3D",
            "real photos to evaluate on",
            "research only, not to be passed on",
            f"AFLW2000-3D.zip of {_3DDFA_PAGE}",
        ),
        _data_set(
            raw / "300W_LP",
            "300W-LP",
            "real photos to train on",
            "research only, not to be passed on",
            f"300W-LP.zip of {_3DDFA_PAGE}",
        ),
        _face_model(
            raw / "BFM",
            "Basel face model",
            "exact dense ground truth of the real sets; without it our model is fitted to the landmarks",
            "non-commercial, not to be passed on",
            f"https://faces.dmi.unibas.ch/bfm, in the form of {_3DDFA_PAGE}",
        ),
        _data_set(
            raw / "synthetic",
            "synthetic set",
            *_SYNTHETIC,
        ),
        _face_model(
            processed / "face_model",
            "own face model",
            "template, synthetic faces, ground truth by fitting",
            "CC0 (MakeHuman)",
            "made by `p2m synth`",
        ),
        *_other_sets(raw),
        *_stores(processed),
        *_weights(),
    ]


def check(path: str | Path, face_model: str = "auto") -> list[str]:
    """Look into a data set or a face model: counts, what can be read, and whether pose and landmarks belong together.

    Args:    path: a folder or zip of samples, a folder set, or a face model's folder or file.
             face_model: as in data.face_model, to rebuild the samples' landmarks with.
    Returns: lines to read; those on what is wrong name file, field and remedy.
    Raises:  InputError if there is nothing to check.
    """
    path = Path(path)
    if (path.is_file() and not archive.is_set(path)) or find_face_model(path):
        return check_face_model(path)
    if is_folder_set(path):
        return check_folder(path)
    return check_samples(path, face_model)


def check_folder(path: Path) -> list[str]:
    """What a folder set holds, and what is wrong with some of its samples; previews go to outputs/doctor/NAME.png."""
    entries, problems = folder_set.scan(path)
    lines = [f"{len(entries)} samples, a folder set", *map(str, problems)]
    sound: list[tuple[folder_set.Entry, folder_set.Sample]] = []
    odd: list[tuple[folder_set.Entry, folder_set.Sample]] = []
    looked_at = [entries[k] for k in np.unique(np.linspace(0, len(entries) - 1, LOOKED_AT).astype(int)) if entries]
    for entry in looked_at:
        try:
            sample = folder_set.read_sample(entry)
            complaints = folder_set.complaints(entry, sample)
            (odd if complaints else sound).append((entry, sample))
            lines += complaints
        except InputError as error:
            lines.append(str(error))
    samples = [*odd, *sound]
    lines.append(f"{len(samples)} of {len(looked_at)} samples looked at can be read")
    if samples:
        depths = [s.points[:, 2].mean() for _, s in samples if s.camera.camera == "perspective"]
        if depths:
            lines.append(
                f"they lie {np.mean(depths):.3g} from the camera on average: so model.mesh_offset's z should be"
            )
        picture = resolve(f"outputs/doctor/{path.resolve().name}.png")
        shown = samples[:PREVIEWS]  # those with complaints first
        save_picture(picture, previews([sample for _, sample in shown]))
        lines.append(f"written: {picture}, of {', '.join(entry.image.stem for entry, _ in shown)}")
    return lines


def previews(samples: list[folder_set.Sample], size_px: int = 224) -> np.ndarray:
    """What would be cut out of each picture, and below it with its mesh or points (H, W, 3)."""
    above, below = [], []
    for sample in samples:
        matrix = crop_matrix(sample.box, size_px, PREVIEW_MARGIN)
        crop, points = crop_image(sample.image, matrix, size_px), apply_affine(matrix, sample.px)
        above.append(crop)
        if sample.faces is None:
            below.append(draw_landmarks(crop, points[:: -(-len(points) // PREVIEW_POINTS)], radius_px=0.8))
        else:
            below.append(draw_mesh(crop, points, sample.faces, alpha=0.75))
    return contact_sheet(above + below, len(above))


def check_face_model(path: Path) -> list[str]:
    """What a face model holds, and how the template registers on it."""
    from p2m_core.faces.registration import registration_report, report_lines

    return report_lines(registration_report(load_face_model(path)))


def check_samples(folder: Path, face_model: str = "auto") -> list[str]:
    """Counts, and a closer look at some samples of a set in AFLW2000-3D's format."""
    from p2m_core.data.preprocess import choose_face_model

    mats = find_samples(folder)
    lines = [f"{len(mats)} samples", *subset_counts(mats), *map(str, unpaired(folder))]
    looked_at = [mats[k] for k in np.unique(np.linspace(0, len(mats) - 1, LOOKED_AT).astype(int))]
    samples = []
    for mat in looked_at:
        try:
            sample = read_sample(mat)
            read_image(sample.image_path)
            samples.append(sample)
        except InputError as error:
            lines.append(str(error))
    lines.append(f"{len(samples)} of {len(looked_at)} samples looked at can be read")
    if not samples:
        return lines
    sizes = sorted({sample.size for sample in samples})
    lines.append(
        f"photos of {sizes[0][1]} x {sizes[0][0]} px" + (f" to {sizes[-1][1]} x {sizes[-1][0]} px" * (len(sizes) > 1))
    )
    model, fit, name = choose_face_model(face_model, archive.top(folder))
    return lines + (_fitted(samples, model) if fit else check_pose_convention(samples, model, name))


def _fitted(samples: list[Sample], model: FaceModel) -> list[str]:
    """How near our face model comes to the samples' landmarks."""
    from p2m_core.data.preprocess import sample_rows
    from p2m_core.data.store import REBUILT_LIMIT_PERCENT

    residual = sample_rows(samples, model, fit=True)["residual_percent"]
    what = "our face model fitted to the landmarks: nme68-3d"
    lines = [f"{what} {residual.mean():.2f} % of the face size on average, at most {residual.max():.2f}"]
    worst = samples[int(residual.argmax())].name
    return lines + [f"{worst}: its landmarks are no face's"] * bool(residual.max() > REBUILT_LIMIT_PERCENT * 4)


def check_pose_convention(samples: list[Sample], model: FaceModel, name: str) -> list[str]:
    """Whether pose, coefficients and this face model give the samples' own landmarks."""
    from p2m_core.data.preprocess import has_coefficients, rebuilt_landmarks
    from p2m_core.data.store import REBUILT_LIMIT_PERCENT
    from p2m_core.metrics import nme68_3d

    counts = model.shape_basis.shape[2], model.expression_basis.shape[2]
    fitting = [sample for sample in samples if has_coefficients(sample, model)]
    lines = []
    if len(fitting) < len(samples):
        lines.append(f"{len(samples) - len(fitting)} samples have fewer coefficients than {name}, {counts}")
    if not fitting:
        return lines
    cut = sorted({(len(s.shape), len(s.expression)) for s in fitting} - {counts})
    if cut:
        lines.append(f"of {cut[-1][0]} shape and {cut[-1][1]} expression coefficients, {name} has the first {counts}")
    rebuilt, _, _ = rebuilt_landmarks(fitting, model)
    landmarks = np.stack([sample.landmarks_px for sample in fitting])
    landmarks = np.where(np.isnan(landmarks), rebuilt, landmarks)  # some files lack depth
    residual, offset = nme68_3d(rebuilt, landmarks), (rebuilt - landmarks)[..., :2].mean((0, 1))
    lines.append(
        "pose convention: landmarks rebuilt from coefficients against pt3d_68: "
        f"nme68-3d {residual.mean():.2f} % of the face size on average, at most {residual.max():.2f}; "
        f"offset {offset[0]:+.2f}, {offset[1]:+.2f} px"
    )
    centred = nme68_3d(rebuilt - [*offset, 0], landmarks)
    if ORIGIN_PX[0] < abs(offset).max() < ORIGIN_PX[1] and centred.mean() < residual.mean() / 2:
        lines.append("all landmarks are moved alike: do pose and pt3d_68 count pixels from different numbers?")
    elif residual.mean() > REBUILT_LIMIT_PERCENT:
        worst = fitting[int(residual.argmax())].name
        lines.append(
            f"pose, coefficients and landmarks do not belong together, see {worst}: another convention or model?"
        )
    return lines


def _data_set(path: Path, name: str, *texts: str) -> Row:
    """The row of a set in a folder, or in a zip of the folder's or the set's name."""
    for place in (path, path.with_name(f"{path.name}.zip"), path.with_name(f"{name}.zip")):
        try:
            if archive.is_set(place) and (samples := count_samples(place)):
                return Row(name, "there", f"{samples} samples", place, *texts)
        except InputError as error:
            return Row(name, "incomplete", str(error), place, *texts)
    return Row(name, "missing", "", path, *texts)


def _other_sets(raw: Path) -> Iterator[Row]:
    """One row each further folder of samples, such as a second synthetic set."""
    known = {"AFLW2000-3D", "300W_LP", "300W-LP", "BFM", "synthetic"}
    others = [path for path in (*raw.glob("*/"), *raw.glob("*.zip")) if path.name.removesuffix(".zip") not in known]
    for path in sorted(others):
        texts = ("photos with annotation", "not known here", "put there by you")
        row = _data_set(path, path.name, *(_SYNTHETIC if path.name.startswith("synthetic") else texts))
        if row.status != "missing":
            yield row


def count_samples(place: str | Path) -> int:
    """How many .mat files, or meshes and points of a folder set, have an image beside them in a folder or zip."""
    return sum(image is not None for _, image in scan(place)) or (
        len(folder_set.scan(place)[0]) if is_folder_set(place) else 0
    )


def subset_counts(mats: list[Path]) -> list[str]:
    """What is there of 300W-LP, in a line; none for other sets."""
    found = Counter(f"{subset}{FLIPPED * flipped}" for subset, flipped, _ in map(origin, mats) if subset)
    counts = [f"{name} {found[name]} of {SUBSETS[name.removesuffix(FLIPPED)]}" for name in sorted(found)]
    return ["300W-LP: " + ", ".join(counts)] if counts else []


def _face_model(path: Path, name: str, *texts: str) -> Row:
    missing = [file for file in (SHAPE_FILE, EXPRESSION_FILE) if not (path / file).is_file()]
    if missing and (other := find_face_model(path)) and other.name != SHAPE_FILE:
        return Row(name, "there", other.name, path, *texts)
    status = {0: "there", 1: "incomplete", 2: "missing"}[len(missing)]
    return Row(name, status, f"{missing[0]} is missing" if len(missing) == 1 else "", path, *texts)


def _stores(processed: Path) -> Iterator[Row]:
    """One row a store, or one that says that there is none."""
    texts = ("photos cut and packed, what training reads", "that of the data set in it", "made by `p2m preprocess`")
    stores = sorted(path.parent for path in processed.glob("*/manifest.json"))
    for store in stores:
        yield Row(f"store {store.name}", "there", "", store, *texts)
    if not stores:
        yield Row("store", "missing", "", processed, *texts)


def _weights() -> Iterator[Row]:
    """One row a bundled weight file, or one that says that there is none."""
    texts = ("prediction without training", "MIT, trained on CC0 faces only", "part of the project's repository")
    files = sorted(WEIGHTS_FOLDER.glob("*.safetensors"))
    for file in files:
        yield Row(f"weights {file.stem}", "there", f"{file.stat().st_size / 1e6:.1f} MB", file, *texts)
    if not files:
        yield Row("bundled weights", "missing", "", WEIGHTS_FOLDER, *texts)
