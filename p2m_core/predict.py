"""From photos to meshes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from p2m_core.backbones import fold_batch_norms
from p2m_core.camera import apply_affine, crop_matrix, invert_affine, ndc_to_px
from p2m_core.checkpoint import load_model, weights_path
from p2m_core.config import resolve
from p2m_core.data.aflw2000 import read_image
from p2m_core.data.augment import crop_image
from p2m_core.detect import detect_faces
from p2m_core.errors import InputError
from p2m_core.export import save_mesh, save_overlay
from p2m_core.facemesh import FaceMesh, Specimen
from p2m_core.files import write_json
from p2m_core.model import PLACED_SCALE, Pixel2Mesh
from p2m_core.page import write_html

SAMPLE_PHOTO = "grace_hopper"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_log = logging.getLogger(__name__)


@lru_cache(maxsize=4)
def _network(path: Path, modified: int, device: str) -> Pixel2Mesh:
    # `modified` makes a file that was trained anew a new entry.
    model, _ = load_model(path, device)
    fold_batch_norms(model.encoder)
    return model.to(memory_format=torch.channels_last)


def open_network(weights: str | Path = "bundled", device: str | None = None) -> Pixel2Mesh:
    """The network of "bundled" or a weights file, kept in memory between calls."""
    path = weights_path(weights)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return _network(path, path.stat().st_mtime_ns, device)


@torch.no_grad()
def predict_crops(model: Pixel2Mesh, crops: np.ndarray, flip: bool = True) -> list[np.ndarray]:
    """Vertices of every level in normalised crop coordinates.

    Args:    crops: (B, S, S, 3) uint8 RGB.   flip: average with the prediction for the mirrored crop.
    Returns: one (B, n_k, 3) a level.
    """
    device = next(model.parameters()).device
    images = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).to(device).float() / 255
    levels = [x.cpu().numpy() for x in model(images).levels]
    mirror = model.template.mirror
    if flip and len(mirror):
        mirrored = [x.cpu().numpy() for x in model(images.flip(3)).levels]
        levels = [(a + b[:, mirror[: a.shape[1]]] * [-1, 1, 1]) / 2 for a, b in zip(levels, mirrored, strict=True)]
    return [np.float32(x) for x in levels]


def predict(
    image: np.ndarray,
    boxes: np.ndarray | None = None,
    weights: str | Path = "bundled",
    device: str | None = None,
    flip: bool = True,
) -> list[FaceMesh]:
    """The mesh of every face in a photo.

    Args:    image: (H, W, 3) uint8 RGB.
             boxes: (K, 4) x0 y0 x1 y1 in px, tight around the 68 landmarks; None looks for faces.
             weights: "bundled" or a weights file.   device: None takes CUDA where there is one.
             flip: average with the prediction for the mirrored photo (better, twice the time).
    Returns: a FaceMesh a box, in the boxes' order, or the largest face first; [] if no face is found.
    Raises:  InputError for an image or boxes of another shape.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError("image", "", f"is {image.dtype} of shape {image.shape}", "give (H, W, 3) uint8 RGB")
    boxes = detect_faces(image) if boxes is None else np.asarray(boxes, np.float64)
    if boxes.size == 0:
        return []
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError("boxes", "", f"have shape {boxes.shape}", "give (K, 4) x0 y0 x1 y1")
    model = open_network(weights, device)
    side, margin = model.config.input_px, model.config.margin
    matrices = [crop_matrix(box, side, margin) for box in boxes]
    levels = predict_crops(model, np.stack([crop_image(image, matrix, side) for matrix in matrices]), flip)
    return [
        face_mesh(model, [level[k] for level in levels], matrix, box)
        for k, (matrix, box) in enumerate(zip(matrices, boxes, strict=True))
    ]


def face_mesh(model: Pixel2Mesh, levels_ndc: list[np.ndarray], matrix: np.ndarray, box: np.ndarray) -> FaceMesh:
    """A FaceMesh from levels (n_k, 3) in normalised crop coordinates, matrix (2, 3) image px to crop px."""
    back, side, template = invert_affine(matrix), model.config.input_px, model.template
    start = model.start[: template.counts[0]].cpu().numpy() * [1, -1, 1] * PLACED_SCALE
    levels = tuple(np.float32(apply_affine(back, ndc_to_px(level, side))) for level in levels_ndc)
    return FaceMesh(
        vertices_px=levels[-1],
        faces=template.faces[-1],
        levels=levels,
        level_faces=template.faces,
        landmarks_px=np.float32(template.landmarks(levels[-1])),
        box=np.float32(box),
        template_px=np.float32(apply_affine(back, ndc_to_px(start, side))),
    )


def sample_photo() -> Path:
    """A real photo that may be shown: Grace Hopper, public domain, from matplotlib's wheel."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def find_photos(names: Sequence[str | Path]) -> list[Path]:
    """Files, and the pictures in folders, relative to the project; "grace_hopper" is `sample_photo`.

    Raises: InputError for one that is missing, or a folder without pictures.
    """
    photos: list[Path] = []
    for name in names:
        path = sample_photo() if str(name) == SAMPLE_PHOTO else resolve(name)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise InputError(path, "", "holds no picture", f"expected {', '.join(IMAGE_SUFFIXES)}")
            photos += inside
        elif path.exists():
            photos.append(path)
        else:
            raise InputError(path, "", "there is no such file", "name photos or folders of photos")
    return photos


def predict_files(
    photos: Sequence[str | Path],
    out: str | Path,
    boxes: np.ndarray | None = None,
    weights: str | Path = "bundled",
    device: str | None = None,
    flip: bool = True,
) -> tuple[list[Specimen], list[str]]:
    """Predict photos and write what one takes away, a set of files for each face.

    OUT/NAME.obj .ply .glb   the mesh          OUT/NAME.png   the mesh over the photo
    OUT/NAME.html   to look at, offline        OUT/NAME.json  landmarks and box, px of the photo

    NAME is the photo's, with -2, -3 ... for further faces.

    Args:    photos: see `find_photos`.   boxes: as for `predict`, for a single photo.
    Returns: the specimens, and one line for each photo that could not be done.
    """
    out, specimens, problems, done = Path(out), [], [], set()
    paths = find_photos(photos)
    if boxes is not None and len(paths) != 1:
        raise InputError("--box", "", f"is given with {len(paths)} photos", "give boxes with one photo at a time")
    for path in paths:
        try:
            image = read_image(path, upright=True)
            meshes = predict(image, boxes, weights, device, flip)
            if not meshes:
                raise InputError(path, "", "no face found", "give its box with --box x0,y0,x1,y1")
            names = [path.stem + (f"-{k + 1}" if k else "") for k in range(len(meshes))]
            if taken := done.intersection(names):
                raise InputError(path, "", f"another photo is called {min(taken)}", "predict it into another folder")
        except InputError as error:
            problems.append(str(error))
            _log.warning("%s", error)
            continue
        done.update(names)
        for name, mesh in zip(names, meshes, strict=True):
            specimen = Specimen(name, mesh, image)
            save_specimen(out, specimen)
            specimens.append(specimen)
    return specimens, problems


def save_specimen(out: Path, specimen: Specimen) -> None:
    """Write the files of one face, see `predict_files`."""
    for suffix in (".obj", ".ply", ".glb"):
        save_mesh(out / (specimen.name + suffix), specimen.mesh)
    save_overlay(out / f"{specimen.name}.png", specimen)
    write_html(out / f"{specimen.name}.html", specimen)
    mesh = specimen.mesh
    write_json(out / f"{specimen.name}.json", {"box_px": mesh.box.tolist(), "landmarks_px": mesh.landmarks_px.tolist()})
