"""Films frame by frame, and the people in them: found, followed, and smoothed in time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from jaxtyping import Float, Num, UInt8

from p2m_core.config.settings import PredictConfig
from p2m_core.errors import InputError
from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.crop import box_of
from p2m_core.inference import pose_of
from p2m_core.network.model import Pixel2Mesh
from p2m_workbench.photos.detect import BlazeFace, Faces, box_iou
from p2m_workbench.photos.objects import knows_faces
from p2m_workbench.photos.predict import (
    MAX_DISAGREEMENT_SURE,
    MAX_DISAGREEMENT_UNSURE,
    find_meshes,
    is_unlikely,
    mesh_boxes,
)
from p2m_workbench.photos.tracking import Track, Tracker, distance, size_of

FRAMES_PER_S = 25.0  # of frames that don't tell
MOST_FRAMES_PER_S = 1000.0  # beyond it, a file's number is none
SEARCH_S = 1.0  # between searches by the network itself, in frames without a face
SAME = 0.5  # IoU of a find with a followed face, above which it tells nothing new
ONE_FACE = 0.6  # meshes whose landmarks are nearer, in face sizes, are one face: the less doubted one counts
SUPPORT = 0.3  # IoU of a followed face with a find of the detector that confirms it
# After a cut nobody is who they were before. Frames with a cut between them differ both in layout (the correlation of
# their grey thumbnails) and in colours (what their histograms share). Moving cameras and faces change the layout alone,
# flickering lights the colours.
CUT_CORRELATION, CUT_COLORS, THUMBNAIL_PX = 0.7, 0.5, 32
ENDS_EARLY = 0.9  # of the frames that a file promises: fewer are told


@dataclass(frozen=True, eq=False)
class Frame:
    """index from 0; time_s since the first one; pixels (H, W, 3) uint8 RGB."""

    index: int
    time_s: float
    pixels: UInt8[np.ndarray, "h w 3"]


class Clip(AbstractContextManager):
    """A film that OpenCV reads, as an iterator of its frames: one is in memory at a time.

    fps   frames a second, FRAMES_PER_S where the file does not say
    promised  how many frames it says it has, 0 where it does not say
    Raises: InputError if it is missing, empty or no film, and while iterating if it holds no frame.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(path, "", "is missing", "check the name")
        if not self.path.stat().st_size:
            raise InputError(path, "", "is empty", "copy the file anew")
        self.capture = cv2.VideoCapture(str(self.path))
        if not self.capture.isOpened():
            remedy = "take the original file again, or save it as .mp4"
            raise InputError(path, "", "is damaged, or no film that OpenCV reads", remedy)
        fps, count = self.capture.get(cv2.CAP_PROP_FPS), self.capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps = fps if 0 < fps <= MOST_FRAMES_PER_S else FRAMES_PER_S
        self.promised = int(count) if 0 < count < 1e9 else 0

    def __iter__(self) -> Iterator[Frame]:
        index, first_s, time_s = 0, 0.0, 0.0
        while True:
            there, pixels = self.capture.read()
            if not there:
                break
            stamp_s = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if index == 0:
                first_s = stamp_s
            elif stamp_s - first_s > time_s:  # frames may follow each other in uneven steps
                time_s = stamp_s - first_s
            else:
                time_s += 1 / self.fps
            yield Frame(index, time_s, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
            index += 1
        if not index:
            raise InputError(self.path, "", "holds no frame that can be read", "take the original file again")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.capture.release()


@dataclass(frozen=True, eq=False)
class Look:
    """What a frame looks like: its layout (THUMBNAIL_PX ** 2,), centred, of length 1, and its colours, a histogram."""

    layout: Float[np.ndarray, "_"]
    colors: Float[np.ndarray, "_"]

    @classmethod
    def of(cls, pixels: UInt8[np.ndarray, "h w 3"]) -> Look:
        """The look of a frame."""
        small = cv2.resize(pixels, (4 * THUMBNAIL_PX, 4 * THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
        histogram = cv2.calcHist([cv2.cvtColor(small, cv2.COLOR_RGB2HSV)], [0, 1], None, [16, 8], [0, 180, 0, 256])
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        layout = cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA).ravel().astype(float)
        layout -= layout.mean()
        return cls(layout / max(float(np.linalg.norm(layout)), 1e-9), histogram.ravel() / histogram.sum())

    def is_cut(self, other: Look) -> bool:
        """Whether a cut lies between this frame and another one."""
        shared = np.minimum(self.colors, other.colors).sum()
        return bool(self.layout @ other.layout < CUT_CORRELATION and shared < CUT_COLORS)


@dataclass(frozen=True)
class _Known:
    """A detector that has already looked."""

    faces: Faces

    def detect(self, image: np.ndarray) -> Faces:
        """See `detect.Detector`."""
        return self.faces


class Follower:
    """The faces of frames that follow each other, each with the identity of its person, smoothed in time.

    A face is predicted from where its landmarks were in the frame before, as long as its mirror image agrees, and the
    detector, too, unless it agrees very well. What else the detector finds is a new face, or one that is back. After a
    cut all faces are new.
    """

    def __init__(self, model: Pixel2Mesh, settings: PredictConfig):
        self.model, self.settings = model, settings
        self.detector, self.tracker = BlazeFace(settings.min_face), Tracker()
        self.search_s = -np.inf  # time of the last search
        self.size = (0, 0)
        self.look: Look | None = None

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], time_s: float, boxes: Num[np.ndarray, "k 4"] | None = None
    ) -> list[tuple[int, FaceMesh]]:
        """The identity and the mesh of each face in the next frame, by identity.

        Args: time_s: later than that of the frame before.   boxes: of the faces, where they are known.
        """
        model, settings = self.model, self.settings
        if not knows_faces(model):  # a mesh of the whole picture, or of the boxes
            meshes = mesh_boxes(model, image, boxes, False, 1) if boxes is not None else find_meshes(model, image)
            return list(enumerate(meshes, 1))
        if image.shape[:2] != self.size:
            if any(self.size):
                self.tracker.rescale(np.divide(image.shape[1::-1], self.size[::-1]))
            self.size = image.shape[:2]
        before, self.look = self.look, Look.of(image)
        if before is not None and self.look.is_cut(before):
            self.tracker.tracks.clear()
        if boxes is None:
            meshes = self._find(image, time_s)
        else:
            meshes = mesh_boxes(model, image, boxes, settings.flip, settings.passes)
        step_s = time_s - self.tracker.before_s
        tracks = self.tracker.assign([mesh.landmarks_px for mesh in meshes], time_s)
        faces = [(t.identity, self._smoothed(t, mesh, step_s)) for t, mesh in zip(tracks, meshes, strict=True)]
        return sorted(faces, key=itemgetter(0))

    def _find(self, image: np.ndarray, time_s: float) -> list[FaceMesh]:
        """The faces of a frame, each once."""
        model, flip, passes = self.model, self.settings.flip, self.settings.passes
        finds = self.detector.detect(image)
        before = np.array([box_of(track.landmarks) for track in self.tracker.in_view()]).reshape(-1, 4)
        followed = []
        for mesh in mesh_boxes(model, image, before, flip, passes):
            confirmed = box_iou(box_of(mesh.landmarks_px), finds.boxes).max(initial=0) > SUPPORT
            limit = MAX_DISAGREEMENT_SURE if confirmed else MAX_DISAGREEMENT_UNSURE
            # Without the mirror image nothing is known of a face that the detector does not see.
            if (confirmed or flip) and not is_unlikely(mesh, limit):
                followed.append(mesh)
        own = np.array([box_of(mesh.landmarks_px) for mesh in followed]).reshape(-1, 4)
        new = box_iou(finds.boxes, own).max(1, initial=0) < SAME
        search = not self.tracker.tracks and not len(finds) and time_s - self.search_s >= SEARCH_S
        if search:
            self.search_s = time_s
        if search or new.any():
            known = _Known(Faces(finds.boxes[new], finds.tilt_deg[new], finds.confidence[new]))
            followed += find_meshes(model, image, flip, passes, known, search=search)
        meshes: list[FaceMesh] = []
        for mesh in sorted(followed, key=lambda mesh: mesh.doubt):
            if all(distance(mesh.landmarks_px, other.landmarks_px) > ONE_FACE for other in meshes):
                meshes.append(mesh)
        return sorted(meshes, key=lambda mesh: -size_of(mesh.landmarks_px))

    def _smoothed(self, track: Track, mesh: FaceMesh, step_s: float) -> FaceMesh:
        """A mesh with its track's filter: all levels and landmarks move together."""
        parts = [*mesh.levels, mesh.landmarks_px]
        smooth = np.float32(track.smooth(np.concatenate(parts), size_of(mesh.landmarks_px), step_s))
        *levels, landmarks = np.split(smooth, np.cumsum([len(part) for part in parts])[:-1])
        pose = pose_of(levels[-1], self.model.template.vertices)
        return replace(
            mesh, vertices_px=levels[-1], levels=tuple(levels), landmarks_px=landmarks,
            box=np.float32(box_of(landmarks)), pose=pose,
        )  # fmt: skip
