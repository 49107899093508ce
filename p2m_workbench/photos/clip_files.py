"""Files of a film's faces, written while it is read: meshes, overlay, moving faces and the strengths of their units."""

from __future__ import annotations

import csv
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import BinaryIO

import cv2
import numpy as np
from jaxtyping import Num, UInt8
from scipy.spatial.transform import Rotation

from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.files import explain_unwritable, make_folder, read_npz
from p2m_core.geometry.crop import apply_affine
from p2m_core.geometry.rasterizer import window
from p2m_synth.render.shaded_mesh import draw_mesh
from p2m_workbench.drawing.mesh_images import INK, clay_colors, fit
from p2m_workbench.photos.clips import Frame
from p2m_workbench.photos.mesh_files import save_rig
from p2m_workbench.photos.moving_glb import Motion
from p2m_workbench.photos.result_files import Results
from p2m_workbench.photos.rig import Rig, can_move, own_units
from p2m_workbench.photos.rig import fit as fit_units
from p2m_workbench.photos.strengths import LIVE_LINK, SIDES
from p2m_workbench.photos.tracking import LOST_S, size_of

OVERLAY_PX = 1280  # longer side of the overlay at most
CODEC = "VP80"  # in .webm: of what OpenCV's wheels write, the one that browsers play
STEPS = 4096  # of a mesh's coordinates to a face size: finer than a still face's jitter
LEAST_FRAMES = 5  # of a face that gets a moving .glb
BETTER = 1.1  # a frame whose view of a face is so much better gives its texture
HEAD = ("HeadYaw", "HeadPitch", "HeadRoll")  # radians: turns about y, x and z, y up and z to the viewer
EYES = tuple(f"{side}Eye{angle}" for side in SIDES for angle in ("Yaw", "Pitch", "Roll"))


class ClipFiles:
    """The files of a film: `add` each frame, then `finish`.

    Nothing is kept in memory but a row of numbers a face for the moving .glb, and of those in view one picture each:
    all else goes to `scratch`, an empty folder, whence `finish` moves it to its place.

    NAME.npz             the meshes of all frames, see `read_meshes`
    NAME-overlay.webm    the film with its meshes and their identities
    NAME-faceK.glb       kinds glb and rig: the face with ARKit's 52 units as morph targets, and the film's motion
    NAME-faceK-units.csv kind rig: the strengths of the units in each frame, as Live Link Face writes them
    """

    def __init__(self, scratch: Path, folder: Path, name: str, kinds: Sequence[str], fps: float):
        self.scratch, self.folder, self.name, self.kinds, self.fps = scratch, folder, PurePath(name), kinds, fps
        self.meshes = _Rows(scratch)
        self.overlay: cv2.VideoWriter | None = None
        self.moving: dict[int, _MovingFace] = {}
        self.topology: dict[str, np.ndarray] = {}
        self.saved = {"npz"}  # kinds of files
        self.size = (0, 0)

    def path(self, suffix: str) -> Path:
        """Where a file lies until all are written."""
        return self.scratch / f"{self.name.name}{suffix}"

    def add(self, frame: Frame, faces: Sequence[tuple[int, FaceMesh]]) -> None:
        """Write what a frame adds to the files."""
        height, width = frame.pixels.shape[:2]
        for identity, mesh in faces:
            self.topology = {"faces": np.int32(mesh.faces)}
            if mesh.groups is not None:
                self.topology["groups"] = np.int8(mesh.groups)
            vertices, origin, step = quantized(mesh.vertices_px)
            self.meshes.add(
                frame=np.int32(frame.index), time_s=np.float64(frame.time_s), identity=np.int32(identity),
                frame_size=np.int32([width, height]), vertices=vertices, origin=origin, step=step,
                landmarks_px=np.float32(mesh.landmarks_px),
                pose=np.float32(np.full(7, np.nan) if mesh.pose is None else mesh.pose), doubt=np.float32(mesh.doubt),
            )  # fmt: skip
            if ("glb" in self.kinds or "rig" in self.kinds) and can_move(mesh):
                face = self.moving.setdefault(identity, _MovingFace(mesh))
                face.add(frame, mesh)
        for identity in [k for k, face in self.moving.items() if frame.time_s - face.time_s[-1] > LOST_S]:
            self._save_moving(identity)  # who comes back later is another one
        if "overlay" in self.kinds:
            self._draw(frame.pixels, faces)

    def _draw(self, pixels: np.ndarray, faces: Sequence[tuple[int, FaceMesh]]) -> None:
        """Add a picture to the overlay; one of another size is scaled into the first one's."""
        picture, matrix = (pixels, np.eye(2, 3)) if max(pixels.shape) <= OVERLAY_PX else fit(pixels, OVERLAY_PX)
        for identity, mesh in faces:
            vertices = np.float32(apply_affine(matrix, mesh.vertices_px))
            colors = clay_colors(vertices, mesh.faces, mesh.groups)
            picture = draw_mesh(picture, vertices, mesh.faces, colors, alpha=0.8, flat=False)
            size = size_of(vertices) / 200
            x, y = vertices[:, 0].max(), vertices[:, 1].min()
            place = int(np.clip(x, 0, picture.shape[1] - 40 * size)), int(np.clip(y, 40 * size, picture.shape[0]))
            for color, thick in ((INK, 9), ((255, 255, 255), 3)):
                line = max(1, round(thick * size))
                cv2.putText(
                    picture, str(identity), place, cv2.FONT_HERSHEY_SIMPLEX, 1.6 * size, color, line, cv2.LINE_AA
                )
        if self.overlay is None:
            self.size = tuple(max(2, side // 2 * 2) for side in picture.shape[1::-1])  # what the codec takes
            with _no_messages():  # VP8 has no four letters of its own in .webm, of which OpenCV tells
                self.overlay = cv2.VideoWriter(
                    str(self.path("-overlay.webm")), cv2.VideoWriter_fourcc(*CODEC), self.fps, self.size
                )
            self.saved.add("overlay")
            if not self.overlay.isOpened():
                remedy = "take opencv-python-headless's own wheel, or leave overlay out of --save"
                raise InputError(self.name, "predict.save", "this OpenCV writes no .webm for the overlay", remedy)
        self.overlay.write(cv2.cvtColor(letterboxed(picture, self.size), cv2.COLOR_RGB2BGR))

    def _save_moving(self, identity: int) -> None:
        face = self.moving.pop(identity)
        if len(face.time_s) >= LEAST_FRAMES:
            face.save_glb(self.path(f"-face{identity}.glb"))
            self.saved |= {"glb", "rig"} & {*self.kinds}
            if "rig" in self.kinds:
                face.save_units(self.path(f"-face{identity}-units.csv"), self.fps)

    def finish(self, results: Results | None = None) -> list[str]:
        """Move the files to their places.   Args: results: as for `save_prediction`.   Returns: the files' places in
        the folder."""
        for identity in list(self.moving):
            self._save_moving(identity)
        if self.overlay is not None:
            self.overlay.release()
        with explain_unwritable(self.folder / self.name):
            self.meshes.save(self.path(".npz"), self.topology)
            folder = make_folder(self.folder / self.name.parent)
            written = sorted(path for path in self.scratch.iterdir() if path.suffix != _Rows.SUFFIX)
            places = [(self.name.parent / path.name).as_posix() for path in written]
            if results is not None:
                results.claim(places)
            for path in written:
                os.replace(path, folder / path.name)
        return places


def letterboxed(picture: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "_ _ 3"]:
    """A picture scaled into a frame of this width and height, black beside it."""
    width, height = size
    if picture.shape[1::-1] == size:
        return picture
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = max(1, round(scale * picture.shape[1])), max(1, round(scale * picture.shape[0]))
    inner = min(inner[0], width), min(inner[1], height)
    framed = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    framed[top : top + inner[1], left : left + inner[0]] = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
    return framed


@contextmanager
def _no_messages() -> Iterator[None]:
    """Keep what libraries write to the process' standard error to themselves."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# --- meshes ---------------------------------------------------------------------------------------


def quantized(vertices_px: Num[np.ndarray, "v 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices as int16 (V, 3), with the origin (3,) and the step () that give them back: origin + step * vertices."""
    origin = np.float32(vertices_px.mean(0))
    reach = float(np.abs(vertices_px - origin).max())
    step = np.float32(max(size_of(vertices_px) / STEPS, reach / 32767, 1e-9))
    return np.int16(np.rint((vertices_px - origin) / step)), origin, step


def read_meshes(path: str | Path) -> dict[str, np.ndarray]:
    """The meshes of a film, as `p2m predict clip.mp4` writes them; N is the number of its faces in all frames.

    Returns: vertices_px (N, V, 3), landmarks_px (N, 68, 3), px of the frame; frame, time_s, identity, doubt (N,);
             pose (N, 7) as FaceMesh has it, NaN without one; frame_size (N, 2) width and height, px;
             faces (F, 3), and groups (F,) where there are some.
    Raises:  InputError if the file is missing or damaged.

    >>> clip = read_meshes("clip.npz")  # doctest: +SKIP
    >>> clip["vertices_px"][clip["identity"] == 1]  # the first person's, (T, V, 3)  # doctest: +SKIP
    """
    arrays = read_npz(path, "give the .npz that p2m predict wrote for a film")
    if missing := {"vertices", "origin", "step", "identity"} - set(arrays):
        raise InputError(path, min(missing), "is not in it", "give the .npz that p2m predict wrote for a film")
    vertices, origin, step = (arrays.pop(name) for name in ("vertices", "origin", "step"))
    return {"vertices_px": origin[:, None] + step[:, None, None] * vertices, **arrays}


class _Rows:
    """Arrays that grow by a row at a time, on the disk: those of an .npz that is written at the end."""

    SUFFIX = ".rows"

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0
        self.files: dict[str, tuple[BinaryIO, np.dtype, tuple[int, ...]]] = {}

    def add(self, **row: np.ndarray | np.generic) -> None:
        """Add a row to each array."""
        for name, value in row.items():
            if name not in self.files:
                file = open(self.folder / f"{name}{self.SUFFIX}", "wb")  # noqa: SIM115
                self.files[name] = file, value.dtype, value.shape
            self.files[name][0].write(np.ascontiguousarray(value).tobytes())
        self.count += 1

    def save(self, path: Path, more: dict[str, np.ndarray]) -> None:
        """Write them, and `more`, as an .npz."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
            for name, (file, dtype, shape) in self.files.items():
                file.close()
                with archive.open(f"{name}.npy", "w", force_zip64=True) as out, open(file.name, "rb") as rows:
                    head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
                    np.lib.format.write_array_header_1_0(out, {**head, "shape": (self.count, *shape)})
                    while part := rows.read(1 << 22):
                        out.write(part)
            for name, array in more.items():
                with archive.open(f"{name}.npy", "w") as out:
                    np.lib.format.write_array(out, array)


# --- moving faces ---------------------------------------------------------------------------------


class _MovingFace:
    """A person's units and head in each frame, the mean of the face without them, and its best picture."""

    def __init__(self, mesh: FaceMesh):
        self.mesh, self.units = mesh, own_units()
        self.neutral = np.zeros(self.units.mean.shape)  # um, a sum
        self.time_s: list[float] = []
        self.rows: list[np.ndarray] = []  # strength (52), scale, quaternion (4), shift (3)
        self.view, self.picture = 0.0, np.zeros((1, 1, 3), np.uint8)

    def add(self, frame: Frame, mesh: FaceMesh) -> None:
        """Take in the face of a frame."""
        world = to_world(mesh.vertices_px).astype(np.float64)
        strength, scale, rotation, shift = fit_units(world, self.units)
        self.neutral += (world - shift) @ rotation / scale - np.tensordot(strength, self.units.ways, 1)
        turn = Rotation.from_matrix(rotation).as_quat()
        if self.rows and turn @ self.rows[-1][53:57] < 0:
            turn = -turn  # the same turn, by the shorter way from the last one
        self.time_s.append(frame.time_s)
        self.rows.append(np.float32([*strength, scale, *turn, *shift]))
        # The larger, the more frontal and the less doubted, the better.
        view = size_of(mesh.vertices_px) * max(float(rotation[2, 2]), 0.1) / (1 + 20 * mesh.doubt)
        if view > BETTER * self.view:
            self.view = view
            self.picture, self.mesh = cut_out(frame.pixels, mesh)

    def save_glb(self, path: Path) -> None:
        """The face with the 52 units as morph targets, and its motion."""
        strength, scale, turn, shift = np.split(np.array(self.rows, np.float64), [52, 53, 57], axis=1)
        size = float(np.median(scale))  # px per um
        ways, neutral = np.float32(size * self.units.ways), size * self.neutral / len(self.rows)
        motion = Motion(np.array(self.time_s), strength, scale[:, 0] / size, turn, shift)
        moving = Rig(self.units.names, strength[0], neutral, ways)
        save_rig(path, self.mesh, moving, self.picture, motion=motion)

    def save_units(self, path: Path, fps: float) -> None:
        """The strength of each unit and the head's angles in each frame, as Live Link Face writes them. The eyes'
        angles, of which the skin tells nothing, are 0."""
        names = [name.lower() for name in self.units.names]
        order = [names.index(name.lower()) for name in LIVE_LINK]
        with open(path, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["Timecode", "BlendShapeCount", *LIVE_LINK, *HEAD, *EYES])
            for time_s, row in zip(self.time_s, self.rows, strict=True):
                angles = Rotation.from_quat(row[53:57]).as_euler("YXZ")
                values = [*row[:52][order], *angles, *np.zeros(len(EYES))]
                table.writerow([time_code(time_s, fps), len(values), *(f"{value:.6f}" for value in values)])


def time_code(time_s: float, fps: float) -> str:
    """HH:MM:SS:FF.FFF, the last being frames of that second."""
    whole = int(time_s)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}:{(time_s - whole) * fps:06.3f}"


def cut_out(pixels: UInt8[np.ndarray, "h w 3"], mesh: FaceMesh) -> tuple[UInt8[np.ndarray, "_ _ 3"], FaceMesh]:
    """The part of a frame that a mesh covers, and the mesh over it."""
    rows, columns = window(mesh.vertices_px, *pixels.shape[:2], rim_px=2)
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return np.zeros((1, 1, 3), np.uint8), mesh
    moved = mesh.vertices_px - np.float32([columns.start, rows.start, 0])
    return pixels[rows, columns].copy(), replace(mesh, vertices_px=moved, levels=(moved,), crop=None)
