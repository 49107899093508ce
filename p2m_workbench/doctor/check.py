"""Whether a data set or a face model is sound: what can be read, and whether poses, landmarks and meshes fit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from p2m_core import zip_files
from p2m_core.config.paths import resolve
from p2m_core.data.aflw2000 import FLIPPED, SUBSETS, Sample, find_samples, origin, read_image, read_sample, unpaired
from p2m_core.data.face_store import REBUILT_LIMIT_PERCENT
from p2m_core.errors import InputError
from p2m_core.geometry.crop import apply_affine, box_of, crop_image, crop_matrix
from p2m_core.geometry.rasterizer import rasterize
from p2m_core.metrics import nme68_3d
from p2m_core.morphable.formats import find_face_model, load_face_model
from p2m_core.morphable.model import FaceModel
from p2m_synth.render.shaded_mesh import draw_mesh
from p2m_workbench.drawing.mesh_images import contact_sheet, draw_landmarks, save_picture
from p2m_workbench.interop.face_models import face_model_report, report_lines
from p2m_workbench.preprocessing import folder_files as folder_set
from p2m_workbench.preprocessing.faces import choose_face_model, has_coefficients, rebuilt_landmarks, sample_columns

LOOKED_AT = 50  # samples of a set, evenly spaced
ORIGIN_PX = (0.5, 2.5)  # mean offset of rebuilt landmarks where pixels count from another number: 1, or 2 for both
PREVIEWS, PREVIEW_MARGIN, PREVIEW_POINTS = 6, 1.5, 600
SEEN_PX = 128  # side of the picture in which a mesh's seen triangles are looked for


class Complaint(str):
    """A line on what is wrong."""

    __slots__ = ()


def check(path: str | Path, face_model: str = "auto") -> list[str]:
    """Look into a data set or a face model: counts, what can be read, and whether pose and landmarks belong together.

    Args:    path: a folder or zip of samples, a folder set, or a face model's folder or file.
             face_model: as in data.face_model, to rebuild the samples' landmarks with.
    Returns: lines to read; those on what is wrong, which name file, field and remedy, are Complaints.
    Raises:  InputError if there is nothing to check.
    """
    path = Path(path)
    if (path.is_file() and not zip_files.is_set(path)) or find_face_model(path):
        return check_face_model(path)
    if folder_set.is_folder_set(path):
        return check_folder(path)
    return check_samples(path, face_model)


def check_folder(path: Path) -> list[str]:
    """What a folder set holds, and what is wrong with some of its samples; previews go to outputs/doctor/NAME.png."""
    entries, problems = folder_set.scan(path)
    lines = [f"{len(entries)} samples, a folder set", *map(Complaint, problems)]
    sound: list[tuple[folder_set.Entry, folder_set.Sample]] = []
    odd: list[tuple[folder_set.Entry, folder_set.Sample]] = []
    looked_at = evenly_spaced(entries)
    for entry in looked_at:
        try:
            sample = folder_set.read_sample(entry)
            found = complaints(entry, sample)
            (odd if found else sound).append((entry, sample))
            lines += map(Complaint, found)
        except InputError as error:
            lines.append(Complaint(error))
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


def evenly_spaced(found: list[Any]) -> list[Any]:
    """At most LOOKED_AT of some samples, evenly spaced."""
    return [found[k] for k in np.unique(np.linspace(0, len(found) - 1, LOOKED_AT).astype(int))] if found else []


def previews(samples: list[folder_set.Sample], size_px: int = 224) -> np.ndarray:
    """The crop of each picture, and below it the same with its mesh or points, (2 size_px, N size_px, 3) uint8."""
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
    """What a face model holds, and how templates register on it."""
    return report_lines(face_model_report(load_face_model(path)))


def check_samples(folder: Path, face_model: str = "auto") -> list[str]:
    """What a set in AFLW2000-3D's or 300W-LP's format holds, and what is wrong with some of its samples."""
    mats = find_samples(folder)
    lines = [f"{len(mats)} samples", *subset_counts(mats), *map(Complaint, unpaired(folder))]
    looked_at = evenly_spaced(mats)
    samples = []
    for mat in looked_at:
        try:
            sample = read_sample(mat)
            read_image(sample.image_path)
            samples.append(sample)
        except InputError as error:
            lines.append(Complaint(error))
    lines.append(f"{len(samples)} of {len(looked_at)} samples looked at can be read")
    for sample in samples:
        if not sample.has_pose:
            lines.append(f"{sample.name}: Pose_Para has the scale {sample.pose_para[6]:g}; its landmarks can be used")
    samples = [sample for sample in samples if sample.has_pose]
    if not samples:
        return lines
    sizes = sorted({sample.size for sample in samples})
    lines.append(
        f"photos of {sizes[0][1]} x {sizes[0][0]} px" + (f" to {sizes[-1][1]} x {sizes[-1][0]} px" * (len(sizes) > 1))
    )
    model, fit, name = choose_face_model(face_model, zip_files.top(folder))
    return lines + (_fitted(samples, model) if fit else check_pose_convention(samples, model, name))


def _fitted(samples: list[Sample], model: FaceModel) -> list[str]:
    """How near the face model comes to the samples' landmarks when it is fitted to them."""
    residual = sample_columns(samples, model, fit=True)["residual_percent"]
    what = "our face model fitted to the landmarks: nme68-3d"
    lines = [f"{what} {residual.mean():.2f} % of the face size on average, at most {residual.max():.2f}"]
    worst = samples[int(residual.argmax())].name
    odd = residual.max() > REBUILT_LIMIT_PERCENT * 4
    return [*lines, Complaint(f"{worst}: its landmarks are no face's")] if odd else lines


def check_pose_convention(samples: list[Sample], model: FaceModel, name: str) -> list[str]:
    """Whether pose, coefficients and this face model give the samples' own landmarks."""
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
        f"offset {offset[0]:+z.2f}, {offset[1]:+z.2f} px"
    )
    centred = nme68_3d(rebuilt - [*offset, 0], landmarks)
    if ORIGIN_PX[0] < abs(offset).max() < ORIGIN_PX[1] and centred.mean() < residual.mean() / 2:
        problem = "all landmarks are moved alike: do pose and pt3d_68 count pixels from different numbers?"
        lines.append(Complaint(problem))
    elif residual.mean() > REBUILT_LIMIT_PERCENT:
        worst = fitting[int(residual.argmax())].name
        problem = f"pose, coefficients and landmarks do not belong together, see {worst}: another convention or model?"
        lines.append(Complaint(problem))
    return lines


def subset_counts(mats: list[Path]) -> list[str]:
    """What is there of 300W-LP, in a line; none for other sets."""
    found = Counter(f"{subset}{FLIPPED * flipped}" for subset, flipped, _ in map(origin, mats) if subset)
    counts = [f"{name} {found[name]} of {SUBSETS[name.removesuffix(FLIPPED)]}" for name in sorted(found)]
    return ["300W-LP: " + ", ".join(counts)] if counts else []


def facing_share(sample: folder_set.Sample) -> float:
    """Which share of a mesh's seen surface is wound towards the viewer: 1 if it is sound, 0 if it is inside out."""
    corners = sample.points[sample.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    to_viewer = -corners.mean(1) if sample.camera.camera == "perspective" else np.array([0.0, 0.0, 1.0])
    towards = (normals * to_viewer).sum(1) > 0
    px = apply_affine(crop_matrix(box_of(sample.px), SEEN_PX, 1.05), sample.px)
    seen = rasterize(px, sample.faces, SEEN_PX, SEEN_PX)[0]
    return float(towards[seen[seen >= 0]].mean()) if (seen >= 0).any() else 1.0


def complaints(entry: folder_set.Entry, sample: folder_set.Sample) -> list[str]:
    """What is wrong with a sample that can be read: winding and normals."""
    found = []
    if sample.faces is not None:
        mesh = trimesh.Trimesh(sample.points, sample.faces, process=False)
        if not mesh.is_winding_consistent:
            problem = "are wound in both ways"
            found.append(
                InputError(entry.shape, "faces", problem, "make them consistent, e.g. trimesh.repair.fix_winding")
            )
        elif (share := facing_share(sample)) < 0.5:
            problem = f"are wound inside out: {share:.0%} of what is seen faces the viewer"
            found.append(InputError(entry.shape, "faces", problem, "turn them over, or mend a mirroring camera"))
    elif sample.normals is None:
        remedy = "none is needed: they will be estimated"
        found.append(InputError(entry.shape, "normals", "are missing", remedy))
    return [str(error) for error in found]
