"""Protocol scan-to-mesh: how near a predicted shape comes to the scan of the head that it was predicted from.

    FOLDER/NAME.obj or .ply, or FOLDER/ANY/NAME.obj   a scan in mm, y up, facing +z, textured, coloured or plain
    beside it: *_lm68.npy       the scan's 68 landmarks (68, 3), if it has them; else those that are predicted
               photos/*.jpg     photos of this head, if there are any; they need the landmarks

A scan is drawn from several sides by our rasteriser, with its own texture, and each picture is predicted as any photo
is. The mesh is laid onto the scan by the landmarks, then by iterative closest points with scale. The distance to the
mesh is taken from every scan vertex within REGION times (outer eye distance + nose length) of the tip of the nose.
The mean face, laid by the same predicted landmarks, is the baseline: what is known without a shape.

Source: the NoW challenge (Sanyal et al., CVPR 2019), whose region and order of steps these are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import trimesh
from scipy.spatial.transform import Rotation
from tqdm.auto import tqdm

from p2m_core.config.paths import resolve, run_folder, shown
from p2m_core.config.settings import Config
from p2m_core.data.aflw2000 import read_image
from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.geometry.rasterizer import interpolate, normalized, rasterize, vertex_normals
from p2m_core.geometry.similarity import aligned, umeyama
from p2m_workbench.interop.face_models import closest_on_surface
from p2m_workbench.measuring.evaluate import find_weights, machine, open_with_landmarks
from p2m_workbench.measuring.report import write_tables
from p2m_workbench.measuring.results import Evaluation, Table
from p2m_workbench.measuring.tables import counted_groups, counted_surface
from p2m_workbench.photos.predict import find_meshes

REGION = 0.7
YAWS_DEG = (-40, -20, 0, 20, 40)
PICTURE_PX, HEAD_SHARE = 512, 0.8  # side of a picture, and the share of it that the scan's height takes
BACKGROUND, CLAY = (120, 125, 130), (205, 170, 150)
ICP_ROUNDS, ICP_STOP = 50, 1e-4  # until the mean squared distance falls by less than this share
INNER = slice(17, 68)  # landmarks with a place on the surface, which the jaw's, an outline, have not
EYE_CORNERS, NOSE_TIP, NOSE_ROOT, NOSE_BASE = (36, 45), 30, 27, 33
MEAN_FACE = "mean face, landmarks of {}"


@dataclass(frozen=True, eq=False)
class Scan:
    """vertices (V, 3) mm, y up; faces (F, 3); texture (H, W, 3) uint8 with uv (V, 2), or colors (V, 3) uint8, or none;
    landmarks (68, 3) mm or None; photos: of this head."""

    name: str
    vertices: np.ndarray
    faces: np.ndarray
    texture: np.ndarray | None
    uv: np.ndarray | None
    colors: np.ndarray | None
    landmarks: np.ndarray | None
    photos: tuple[Path, ...]


# --- reading and drawing --------------------------------------------------------------------------


def find_scans(folder: Path) -> list[Path]:
    """The mesh files of a folder and of the folders in it.   Raises InputError if there is none."""
    places = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    found = [path for place in places for path in sorted(place.glob("*")) if path.suffix.lower() in (".obj", ".ply")]
    if not found:
        raise InputError(folder, "", "holds no scan", "put NAME.obj or NAME.ply there, or in a folder each")
    return found


def read_scan(path: Path) -> Scan:
    """Read a scan and what lies beside it.   Raises InputError if it is no mesh, or the landmarks are no (68, 3)."""
    remedy = "give triangles in mm, y up, facing +z"
    try:
        mesh = trimesh.load(path, process=False, force="mesh")
    except Exception as error:  # readers raise whatever they stumble over
        raise InputError(path, "", f"is no mesh: {error}", remedy) from error
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
        raise InputError(path, "", "has no triangle", remedy)
    texture = uv = colors = None
    if mesh.visual.kind == "texture" and mesh.visual.uv is not None:
        picture = getattr(mesh.visual.material, "image", None)
        if picture is not None:
            texture, uv = np.asarray(picture.convert("RGB")), np.asarray(mesh.visual.uv, np.float64)
    elif mesh.visual.kind == "vertex":
        colors = np.asarray(mesh.visual.vertex_colors)[:, :3]
    landmarks = None
    for file in sorted(path.parent.glob(f"{path.stem}*_lm68.npy")):
        landmarks = np.load(file).astype(np.float64)
        if landmarks.shape != (68, 3):
            raise InputError(file, "", f"has the shape {landmarks.shape}, not (68, 3)", "give 68 landmarks in mm")
    photos = tuple(sorted(p for p in (path.parent / "photos").glob("*") if p.suffix.lower() in (".jpg", ".png")))
    if photos and landmarks is None:
        raise InputError(
            path.parent / "photos", "", "has photos of a scan without landmarks", f"add {path.stem}_lm68.npy"
        )
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    return Scan(path.stem, vertices, faces, texture, uv, colors, landmarks, photos)


def placed(scan: Scan, yaw_deg: float) -> np.ndarray:
    """The scan's vertices (V, 3) in px of a picture of it from a side, z to the viewer."""
    rotation = rotation_from_angles(np.radians([0, yaw_deg, 0]))
    turned = scan.vertices @ rotation.T
    low, high = turned.min(0), turned.max(0)
    scale = HEAD_SHARE * PICTURE_PX / max(high[1] - low[1], 1e-9)
    centre = (low + high) / 2
    return (turned - centre) * [scale, -scale, scale] + [(PICTURE_PX - 1) / 2, (PICTURE_PX - 1) / 2, 0]


def draw_scan(scan: Scan, px: np.ndarray, samples: int = 2) -> np.ndarray:
    """A picture (PICTURE_PX, PICTURE_PX, 3) uint8 of vertices in px; clay under a light from above where there is
    neither texture nor colour."""
    side = PICTURE_PX * samples
    fine = (px + [0.5, 0.5, 0]) * [samples, samples, samples] - [0.5, 0.5, 0]
    triangle, bary, _ = rasterize(fine, scan.faces, side, side)
    seen = triangle >= 0
    at = triangle[seen], bary[seen]
    if scan.texture is not None and scan.uv is not None:
        u, v = interpolate(scan.uv, scan.faces, *at).T
        height, width = scan.texture.shape[:2]
        x, y = np.float32(u % 1 * width - 0.5), np.float32((1 - v % 1) * height - 0.5)
        rows = 4096  # more than OpenCV takes in one row of a map
        colors = np.concatenate([
            cv2.remap(scan.texture, x[k : k + rows, None], y[k : k + rows, None], cv2.INTER_LINEAR)[:, 0]
            for k in range(0, len(x), rows)
        ])  # fmt: skip
    elif scan.colors is not None:
        colors = interpolate(scan.colors, scan.faces, *at)
    else:
        normals = interpolate(vertex_normals(px * [1, -1, 1], scan.faces), scan.faces, *at)
        light = np.array([0.2, 0.5, 0.85]) / np.linalg.norm([0.2, 0.5, 0.85])
        colors = (0.35 + 0.65 * np.clip(normals @ light, 0, 1))[:, None] * np.array(CLAY)
    picture = np.empty((side, side, 3), np.float32)
    picture[:] = BACKGROUND
    picture[seen] = colors
    small = cv2.resize(picture, (PICTURE_PX, PICTURE_PX), interpolation=cv2.INTER_AREA)
    return np.rint(small.clip(0, 255)).astype(np.uint8)


# --- the protocol ---------------------------------------------------------------------------------


def scan_to_mesh(
    vertices: np.ndarray, faces: np.ndarray, landmarks: np.ndarray, scan: np.ndarray, scan_landmarks: np.ndarray
) -> np.ndarray:
    """Protocol scan-to-mesh: distances (N,) in the scan's unit of its vertices near the nose to a mesh laid onto it.

    Args: vertices, faces, landmarks: (V, 3), (F, 3), (68, 3) of the mesh, in any frame of the same handedness.
          scan: (P, 3) vertices of the scan.   scan_landmarks: (68, 3) of the scan; the inner ones are used.
    """
    left, right = scan_landmarks[list(EYE_CORNERS)]
    nose = np.linalg.norm(scan_landmarks[NOSE_ROOT] - scan_landmarks[NOSE_BASE])
    radius = REGION * (np.linalg.norm(left - right) + nose)
    region = scan[np.linalg.norm(scan - scan_landmarks[NOSE_TIP], axis=1) <= radius]
    scale, rotation, shift = umeyama(landmarks[INNER], scan_landmarks[INNER])
    moved, best = scale * vertices @ rotation.T + shift, np.full(len(region), np.inf)
    for _ in range(ICP_ROUNDS):
        closest, distance, triangle = closest_on_surface(region, moved, faces)
        if np.mean(distance**2) >= np.mean(best**2) * (1 - ICP_STOP):
            break
        best = distance
        a, b, c = moved[faces[triangle]].swapaxes(0, 1)
        moved = towards(moved, closest, region, normalized(np.cross(b - a, c - a)))
    return best


def towards(vertices: np.ndarray, closest: np.ndarray, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Vertices (V, 3) under the small similarity that takes the planes at `closest`, with their normals, nearest to
    points, all (N, 3), in the least squares.

    Planes instead of points let the surfaces slide along each other, and come to rest in ten rounds instead of some
    hundreds.   Source: Chen and Medioni, 1992.
    """
    centre = closest.mean(0)
    arm = closest - centre
    # n . (w x arm + t + s arm) = n . (point - closest)
    system = np.concatenate([np.cross(arm, normals), normals, (arm * normals).sum(1, keepdims=True)], 1)
    update = np.linalg.lstsq(system, ((points - closest) * normals).sum(1), rcond=None)[0]
    rotation = Rotation.from_rotvec(update[:3]).as_matrix()
    return np.exp(update[6]) * (vertices - centre) @ rotation.T + centre + update[3:6]


def landmarks_on_scan(mesh: FaceMesh, px: np.ndarray, scan: Scan) -> np.ndarray:
    """A scan's landmarks (68, 3) mm: those predicted on a picture of it, laid onto what the picture shows there."""
    triangle, bary, _ = rasterize(px, scan.faces, PICTURE_PX, PICTURE_PX)
    rows, columns = np.nonzero(triangle >= 0)
    nearest = [np.hypot(columns - x, rows - y).argmin() for x, y in mesh.landmarks_px[:, :2]]
    at = rows[nearest], columns[nearest]
    return interpolate(scan.vertices, scan.faces, triangle[at], bary[at]).astype(np.float64)


def pictures_of(scan: Scan) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Name, picture, and the scan's vertices in px of it, of each drawn side; and of each photo, without the last."""
    for yaw in sorted(YAWS_DEG, key=abs):  # the front first: it gives landmarks where there are none
        px = placed(scan, yaw)
        yield f"yaw {yaw}", draw_scan(scan, px), px
    for path in scan.photos:
        yield path.stem, read_image(path), None


def evaluate_scans(config: Config) -> Evaluation:
    """Measure weights on a folder of scans, evaluate.store; see above.

    Writes scan_to_mesh.csv (a row a system), pictures.csv (a row a picture) and the other files of `write_tables` to
    outputs/NAME/evaluation/FOLDER-scan-to-mesh/.

    Raises: InputError if there is no scan, one is damaged, or weights are missing.
    """
    folder = resolve(config.evaluate.store or config.data.store)
    scans = [read_scan(path) for path in find_scans(folder)]
    lines, lost = [], []
    weights = find_weights(config)
    marks = {scan.name: scan.landmarks for scan in scans}  # where a scan has none, the first weights' for all
    for name, path in weights.items():
        model = open_with_landmarks(path)
        template = model.template
        part, faces = counted_surface(template)
        mean = template.landmarks(template.vertices.astype(np.float64))
        for scan in tqdm(scans, desc=f"scans, {name}", unit="scan"):
            for view, picture, px in pictures_of(scan):
                meshes = find_meshes(model, picture, config.evaluate.flip)
                if not meshes:
                    lost.append(f"{name}: {scan.name} {view}")
                    continue
                mesh = meshes[0]
                if (scan_landmarks := marks[scan.name]) is None:
                    assert px is not None  # photos are of scans with landmarks
                    scan_landmarks = marks[scan.name] = landmarks_on_scan(mesh, px, scan)
                landmarks, vertices = to_world(mesh.landmarks_px), to_world(mesh.vertices_px)
                size, rotation, shift = umeyama(mean, landmarks)
                by_mean = size * template.vertices @ rotation.T + shift
                for system, shape, points in (
                    (name, vertices, landmarks),
                    (MEAN_FACE.format(name), by_mean, aligned(mean, landmarks)),
                ):
                    mm = scan_to_mesh(shape[part], faces, points, scan.vertices, scan_landmarks)
                    numbers = {"median": np.median(mm), "mean": mm.mean(), "standard deviation": mm.std()}
                    lines.append({"system": system, "scan": scan.name, "view": view, **numbers, "points": len(mm)})
    if not lines:
        raise InputError(folder, "", "no face found on any scan", "give scans in mm, y up, facing +z")
    each = pd.DataFrame(lines)
    rows = each.groupby("system", sort=False)[["median", "mean", "standard deviation"]].mean()
    for name in weights:
        rows.loc[name, "over the mean face's"] = rows.loc[name, "median"] / rows.loc[MEAN_FACE.format(name), "median"]
    rows["pictures"] = each.groupby("system", sort=False).size()
    title = "scan-to-mesh, mm: median, mean and standard deviation of a picture's distances, averaged over pictures"
    tables = {
        "scan_to_mesh": Table(title, "scan-to-mesh", "mm", int(rows["pictures"].max()), rows, digits=3),
        "pictures": Table("scan-to-mesh of each picture, mm", "scan-to-mesh", "mm", len(each),
                          each.set_index(["system", "scan", "view"]), digits=3),
    }  # fmt: skip
    about = {
        "protocol": "scan-to-mesh, mm; faces found in the pictures",
        "data": f"{shown(folder)}: {', '.join(scan.name for scan in scans)}; drawn at yaws {YAWS_DEG}, and photos",
        "dense protocols count": counted_groups(open_with_landmarks(next(iter(weights.values()))).template),
        "no face found": ", ".join(lost) or "nowhere",
        "machine": machine(),
    }
    kinds = {system: "network" if system in weights else "baseline" for system in rows.index}
    result = Evaluation(kinds, tables, each, about, run_folder(config) / "evaluation" / f"{folder.name}-scan-to-mesh")
    write_tables(result)
    return result
