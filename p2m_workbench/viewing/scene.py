"""The pythreejs scene of a prediction: photo, mesh at any stage of the deformation, landmarks and ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import pythreejs as three

from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.geometry.rasterizer import vertex_normals
from p2m_workbench.drawing import matcap
from p2m_workbench.drawing.html_page import photo_uri
from p2m_workbench.drawing.mesh_images import (
    CLAY_RAMP,
    DIFFERENCE_RAMP,
    ERROR_RAMP,
    NO_DIFFERENCE,
    clay_shares,
    data_uri,
    difference_shares,
    draw_landmarks,
    ramp_colors,
)
from p2m_workbench.face_prediction import FacePrediction, Stages

FRAME = 1.28  # the picture's height over the mesh's longest side
DISTANCE = 20.0  # of the camera, in mesh sizes; it is orthographic, so this only has to be far
MOST_PHOTO_PX = 2048  # longer side of a photo as it is sent, and kept in an executed notebook
TURN_S = 9.0  # seconds a round on the turntable
SURFACES = ("clay", "photo", "normals", "error")
STYLES = ("solid", "edges", "wire", "points")
_RAMP_PX = 256
_DARK, _PALE = "#141c26", "#a9e4d8"
# Surfaces are drawn a little behind their place, so that the edges of the same mesh are not hidden by it.
_BEHIND_LINES = {"side": "DoubleSide", "polygonOffset": True, "polygonOffsetFactor": 1, "polygonOffsetUnits": 2}


@dataclass(frozen=True)
class ViewOptions:
    """What of a prediction is shown, and how.

    stage    0 is the template, 1 the coarsest level, and so on; fractions are deformations in between
    surface  one of SURFACES, where error shows clay without a ground truth, and clay has eyes and a mouth with groups
    style    one of STYLES
    opacity  of the surface, 0 to 1
    maximum  error at which the colours end, percent of the face size
    """

    stage: float = np.inf
    surface: str = "clay"
    style: str = "solid"
    landmarks: bool = False
    photo: bool = True
    truth: bool = False
    opacity: float = 1.0
    maximum: float = 1.0


def _texture(uri: str, mipmaps: bool = False) -> three.ImageTexture:
    """A texture of a picture; with mipmaps, large pictures do not sparkle where they are drawn small."""
    filtered = "LinearMipMapLinearFilter" if mipmaps else "LinearFilter"
    return three.ImageTexture(imageUri=uri, minFilter=filtered, generateMipmaps=mipmaps)


def _ramp(colors: Sequence[tuple[int, int, int]], below: tuple[int, int, int] | None = None) -> three.ImageTexture:
    """A texture of a ramp from left to right, its lower half of one colour if that is given."""
    row = np.uint8(np.round(ramp_colors(colors, np.linspace(0, 1, _RAMP_PX))))
    rows = np.repeat(row[None], 4, 0)
    if below is not None:
        rows[2:] = below
    return _texture(data_uri(rows))


def _on_ramp(shares: np.ndarray, v: np.ndarray | float = 0.5) -> np.ndarray:
    """Texture coordinates (V, 2) float32 of shares (V,) of a ramp, 0 to 1."""
    u = np.clip(shares, 0, 1) * (_RAMP_PX - 1) / _RAMP_PX + 0.5 / _RAMP_PX
    return np.float32(np.stack([u, np.broadcast_to(v, u.shape)], -1))


def _attribute(values: np.ndarray, dtype: type = np.float32) -> three.BufferAttribute:
    # A subclass of ndarray, such as trimesh's, would make pythreejs warn of float64.
    return three.BufferAttribute(np.array(values, dtype, order="C", subok=False), normalized=False)


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals (V, 3) in 16 bits, of which WebGL makes -1 to 1: half of what a notebook keeps of them otherwise."""
    return np.int16(np.round(32767 * vertex_normals(vertices, faces)))


def _shape(vertices: np.ndarray, faces: np.ndarray) -> dict[str, three.BufferAttribute]:
    """Positions and normals of vertices (V, 3)."""
    normals = three.BufferAttribute(_normals(vertices, faces), normalized=True)
    return {"position": _attribute(vertices), "normal": normals}


@cache
def _disc_uri(ring: bool = False) -> str:
    """A round dot with a dark rim on transparency, or a white ring: WebGL's own points are squares."""
    row, column = np.ogrid[:64, :64]
    distance = np.hypot(row - 31.5, column - 31.5)
    if ring:
        disc = np.full((64, 64, 3), 255, np.uint8)
        disc[(distance < 17) | (distance > 27)] = 20
        cover = np.clip(30 - distance, 0, 1) * np.clip(distance - 13, 0, 1)
    else:
        disc = draw_landmarks(np.zeros((64, 64, 3), np.uint8), np.array([[31.5, 31.5]]), radius_px=22)
        cover = np.clip(29 - distance, 0, 1)
    return data_uri(np.concatenate([disc, np.round(255 * cover)[..., None].astype(np.uint8)], -1))


class _Level:
    """A level's geometries. Each holds the level and, as morph target, the stage before it at the same vertices, so a
    number moves the mesh; a live geometry cannot change its size."""

    def __init__(self, parts: _Parts, level: int):
        self.prediction, self.faces = parts.prediction, parts.prediction.mesh.level_faces[level]
        self.world, start = (to_world(ends[level]) for ends in (parts.stages.ends, parts.stages.starts))
        self._shared = _shape(self.world, self.faces)
        self._morphs = {name: (attribute,) for name, attribute in _shape(start, self.faces).items()}
        self._index = _attribute(self.faces.ravel(), np.uint16 if len(self.world) <= 2**16 else np.uint32)
        self.photo_uv = self.on_photo(self.world, self.prediction.photo)
        self.solid = self._geometry(_attribute(self.photo_uv))
        self._ramp_uv: np.ndarray | None = None
        self._points_stage: float | None = None

    def _geometry(self, uv: three.BufferAttribute) -> three.BufferGeometry:
        return three.BufferGeometry(
            attributes={**self._shared, "uv": uv}, index=self._index, morphAttributes=self._morphs
        )

    @cached_property
    def heat(self) -> three.BufferGeometry:
        """The level with texture coordinates on the error ramp: so colours are exact between vertices, too."""
        return self._geometry(_attribute(np.zeros((len(self.world), 2))))

    @cached_property
    def painted(self) -> three.BufferGeometry:
        """The level with texture coordinates on the ramp of clay, eyes and mouth; of meshes with groups."""
        return self._geometry(_attribute(self.on_clay(self.prediction.mesh)[: len(self.world)]))

    @cached_property
    def points(self) -> three.BufferGeometry:
        """The vertices alone; points have no morph targets."""
        return three.BufferGeometry(attributes={"position": _attribute(self.world)})

    @cached_property
    def truth(self) -> three.BufferGeometry:
        """The true vertices of this level."""
        truth = to_world(self.prediction.truth_px[: len(self.world)])
        return three.BufferGeometry(attributes=_shape(truth, self.faces), index=self._index)

    def set_errors(self, share: np.ndarray, v: np.ndarray | float = 0.5) -> None:
        """Colour `heat` by shares (V,) of the ramp. Arrays travel to the browser, so only a change is set."""
        uv = _on_ramp(share, v)
        if self._ramp_uv is None or not np.array_equal(uv, self._ramp_uv):
            self.heat.attributes["uv"].array = self._ramp_uv = uv

    def set_points(self, world: np.ndarray, stage: float) -> None:
        """Move `points` to the vertices of a stage (V, 3)."""
        if self._points_stage != stage:
            self.points.attributes["position"].array = np.ascontiguousarray(world)
            self._points_stage = stage

    @staticmethod
    def on_clay(mesh: FaceMesh) -> np.ndarray:
        """Texture coordinates (V, 2) float32 of a mesh's finest vertices on the ramp of clay, eyes and mouth."""
        return _on_ramp(clay_shares(mesh.vertices_px, mesh.faces, mesh.groups))

    @staticmethod
    def on_photo(world: np.ndarray, photo: np.ndarray) -> np.ndarray:
        """Texture coordinates (V, 2) float32 of vertices on the photo that they project to."""
        height, width = photo.shape[:2]
        return np.float32((world[:, :2] * [1, -1] + 0.5) / [width, height] * [1, -1] + [0, 1])


class _Parts:
    """Geometry and materials of one prediction, made when it is first shown: all of it is sent to the browser."""

    def __init__(self, prediction: FacePrediction):
        self.prediction, self.stages = prediction, Stages(prediction.mesh)
        self._levels: dict[int, _Level] = {}
        landmarks = _attribute(to_world(prediction.mesh.landmarks_px))
        self.landmarks = three.BufferGeometry(attributes={"position": landmarks})
        height, width = prediction.photo.shape[:2]
        self.photo = three.PlaneBufferGeometry(width, height)
        self._texture = _texture(photo_uri(prediction.photo, MOST_PHOTO_PX), mipmaps=True)
        self.backdrop = three.MeshBasicMaterial(map=self._texture, depthWrite=False)
        world = to_world(prediction.mesh.levels[-1])
        low, high = world.min(0), world.max(0)
        self.size = max(float((high - low).max()), 1e-6)
        self.centre = (low + high) / 2
        deepest = min(float(self.world(k)[:, 2].min()) for k in range(self.stages.first, self.stages.last + 1))
        self.photo_at = np.array([(width - 1) / 2, (1 - height) / 2, deepest - 0.02 * self.size])

    def level(self, number: int) -> _Level:
        """A level by its number, 1 for the coarsest."""
        if number not in self._levels:
            self._levels[number] = _Level(self, number - 1)
        return self._levels[number]

    @property
    def finest(self) -> _Level:
        """The last level."""
        return self.level(self.stages.last)

    @cached_property
    def skin(self) -> three.MeshMatcapMaterial:
        """The photo, but where the surface turns away from the camera or lies behind another part of it."""
        seen = matcap.seen_from_the_front(self.prediction.mesh, *self.prediction.photo.shape[:2])
        mask = _texture(data_uri(np.repeat(seen[..., None], 3, -1)))
        return _material(matcap.paper(), map=self._texture, alphaMap=mask, depthWrite=False)

    def world(self, stage: float) -> np.ndarray:
        """Vertices (V, 3) at a stage, y up."""
        return to_world(self.stages.vertices(stage))


def _material(sphere: np.ndarray, **options) -> three.MeshMatcapMaterial:
    return three.MeshMatcapMaterial(
        matcap=_texture(data_uri(sphere, "JPEG", quality=95)), transparent=True, morphTargets=True, morphNormals=True,
        **_BEHIND_LINES, **options,
    )  # fmt: skip


class OrbitCamera:
    """An orthographic camera with mouse controls, which several scenes can share: they then turn together.

    From the front every vertex lies on its own pixel of the photo.
    """

    def __init__(self):
        self.camera = three.OrthographicCamera(
            left=-1, right=1, top=1, bottom=-1, near=0, far=2 * DISTANCE, position=[0, 0, DISTANCE]
        )
        self.controls = three.OrbitControls(controlling=self.camera, screenSpacePanning=True)

    def fit(self, width_px: int, height_px: int) -> None:
        """Fit the picture to a view of this size; a narrow view shows more above and below."""
        half = FRAME / 2 * max(1.0, 0.78 * height_px / width_px)
        aspect = width_px / height_px
        self.camera.left, self.camera.right = -half * aspect, half * aspect
        self.camera.top, self.camera.bottom = half, -half

    def view_from(self, yaw_deg: float = 0.0, pitch_deg: float = 0.0) -> None:
        """Turn to an angle, 0 being that of the photo, and undo zoom and shift."""
        yaw, pitch = np.deg2rad([yaw_deg, pitch_deg])
        position = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)]) * DISTANCE
        self.controls.target = (0.0, 0.0, 0.0)
        self.camera.zoom = 1.0
        self.camera.up = (0.0, 1.0, 0.0)
        self.camera.position = tuple(map(float, position))
        self.controls.exec_three_obj_method("update")


class FaceScene:
    """One live 3D view, `renderer`, that can show any number of predictions one after another.

    A page holds at most 8 live views, so a list of predictions shares one. Each mesh is scaled to the same size, so the
    camera stays where it is when the prediction changes.

    Args:    prediction: shown first.   width_px, height_px: of the view.   camera: shared with other scenes, or None.
    """

    def __init__(
        self, prediction: FacePrediction, width_px: int = 620, height_px: int = 560, camera: OrbitCamera | None = None
    ):
        self._parts: dict[int, _Parts] = {}
        self.options = ViewOptions()
        parts = self.parts_of(prediction)
        first = parts.finest.solid
        self.materials = {
            "clay": _material(matcap.clay()),
            "painted": _material(matcap.clay((255, 255, 255)), map=_ramp(CLAY_RAMP)),
            "normals": _material(matcap.directions()),
            "error": _material(matcap.paper(), map=_ramp(ERROR_RAMP)),
            "difference": _material(matcap.paper(), map=_ramp(DIFFERENCE_RAMP, NO_DIFFERENCE)),
        }
        teal = _material(matcap.clay(), color="#5fb9ac", opacity=0.55, depthWrite=False)
        hidden = three.MeshBasicMaterial(colorWrite=False, transparent=True, morphTargets=True, **_BEHIND_LINES)
        self.lines = three.MeshBasicMaterial(
            color=_DARK, wireframe=True, transparent=True, depthWrite=False, morphTargets=True
        )
        # Everything is transparent, so renderOrder alone decides: the photo, then depth only, then the surface, of
        # which a low opacity thus shows the front layer and no more.
        self.photo = three.Mesh(parts.photo, parts.backdrop, renderOrder=-1)
        self.depth = three.Mesh(first, hidden, renderOrder=0)
        self.solid = three.Mesh(first, self.materials["clay"], renderOrder=1, frustumCulled=False)
        self.skin = three.Mesh(first, self.materials["clay"], renderOrder=2, visible=False, frustumCulled=False)
        self.truth = three.Mesh(first, teal, renderOrder=3, visible=False)
        self.wire = three.Mesh(first, self.lines, renderOrder=4, visible=False, frustumCulled=False)
        self.dots = three.Points(parts.landmarks, self._dot_material(4), renderOrder=5, visible=False)
        self.landmarks = three.Points(parts.landmarks, self._dot_material(9), renderOrder=6, visible=False)
        self._mark_at = _attribute(np.zeros((1, 3)))
        ring = three.BufferGeometry(attributes={"position": self._mark_at})
        self.mark = three.Points(ring, self._dot_material(22, ring=True, depthTest=False), renderOrder=7, visible=False)
        self.picker = three.Picker(controlling=self.depth, event="click")
        self.shift = three.Group()
        self.shift.add([self.depth, self.solid, self.skin, self.truth, self.wire, self.dots, self.landmarks, self.mark])
        self.spin = three.Group(children=[self.shift])
        self.root = three.Group(children=[self.photo, self.spin])
        self.camera = camera or OrbitCamera()
        scene = three.Scene(children=[self.root, self.camera.camera], background=None)
        self.renderer = three.Renderer(
            camera=self.camera.camera, scene=scene, controls=[self.camera.controls, self.picker],
            width=width_px, height=height_px, antialias=True, alpha=True, clearOpacity=0.0,
        )  # fmt: skip
        if camera is None:
            self.camera.fit(width_px, height_px)
        self.turntable = three.AnimationAction(three.AnimationMixer(self.spin), self._round(), self.spin)
        self.show(prediction, self.options)

    @staticmethod
    def _dot_material(size_px: float, ring: bool = False, depthTest: bool = True) -> three.PointsMaterial:
        return three.PointsMaterial(
            size=size_px, sizeAttenuation=False, map=_texture(_disc_uri(ring)), transparent=True, depthWrite=False,
            depthTest=depthTest,
        )  # fmt: skip

    @staticmethod
    def _round() -> three.AnimationClip:
        times = np.linspace(0, TURN_S, 5, dtype=np.float32)
        angles = np.linspace(0, 2 * np.pi, 5, dtype=np.float32)
        return three.AnimationClip(tracks=[three.NumberKeyframeTrack(".rotation[y]", times, angles)], duration=TURN_S)

    def parts_of(self, prediction: FacePrediction) -> _Parts:
        """Geometry and materials of a prediction, made once. They hold it: its id cannot pass to another object."""
        if id(prediction) not in self._parts:
            self._parts[id(prediction)] = _Parts(prediction)
        return self._parts[id(prediction)]

    def show(self, prediction: FacePrediction, options: ViewOptions, frame: FacePrediction | None = None) -> None:
        """Show a prediction.

        Args:    options: `truth` and error colours do nothing where there is no ground truth.
                 frame: another prediction of the same photo, whose place and size count; None for its own.
        """
        parts, place, stages = self.parts_of(prediction), self.parts_of(frame or prediction), self.stages_of(prediction)
        stage, number = self._stage_and_level(prediction, options)
        level, known = parts.level(number), prediction.truth_px is not None
        error = options.surface == "error" and known
        if error:
            level.set_errors(prediction.error_at(stage, stages) / options.maximum)
        bare = "clay" if prediction.mesh.groups is None else "painted"
        surface = options.surface if error or options.surface == "normals" else bare
        self.depth.geometry = self.skin.geometry = level.solid
        of_surface = level.heat if error else level.painted if surface == "painted" else level.solid
        self.solid.geometry = self.wire.geometry = of_surface
        for mesh in (self.depth, self.solid, self.skin, self.wire):
            mesh.morphTargetInfluences = [float(number - stage)]
        self.solid.material = self.materials[surface]
        self.solid.visible = options.style in ("solid", "edges")
        self.solid.material.opacity = options.opacity
        self.skin.visible = self.solid.visible and options.surface == "photo"
        if self.skin.visible:
            self.skin.material, parts.skin.opacity = parts.skin, options.opacity
        self.wire.visible = options.style in ("edges", "wire")
        fineness = min(stages.last - number, 3)
        self.dots.visible, self.dots.material.size = options.style == "points", 3.5 + fineness
        if self.dots.visible:
            level.set_points(parts.world(stage), stage)
            self.dots.geometry = level.points
        # Lines thinner than a pixel would turn a fine level black.
        self.lines.color = _PALE if options.style == "wire" else _DARK
        self.lines.opacity = (0.75 if options.style == "wire" else 0.30) + 0.08 * fineness
        self.truth.visible = options.truth and known
        if self.truth.visible:
            self.truth.geometry = level.truth
        self.landmarks.geometry, self.landmarks.visible = parts.landmarks, options.landmarks
        self.landmarks.position = (0, 0, 0.008 * parts.size)
        self.photo.geometry, self.photo.material, self.photo.visible = parts.photo, parts.backdrop, options.photo
        self.photo.position = tuple(map(float, parts.photo_at - place.centre))
        self.shift.position = tuple(map(float, -place.centre))
        self.root.scale = (1 / place.size,) * 3
        self.options = options

    def show_difference(
        self, prediction: FacePrediction, points: np.ndarray, beyond: np.ndarray, options: ViewOptions
    ) -> None:
        """Show a prediction's finest level in the colours of differences.

        Args:    points: (V,).   beyond: (V,) bool, grey elsewhere.   options: `maximum` in the unit of `points`.
        """
        self.show(prediction, replace(options, stage=np.inf, surface="clay"))
        level = self.parts_of(prediction).finest
        level.set_errors(difference_shares(points, options.maximum), np.where(beyond, 0.75, 0.25))
        self.solid.geometry, self.solid.material = level.heat, self.materials["difference"]
        self.solid.material.opacity = options.opacity

    def stages_of(self, prediction: FacePrediction) -> Stages:
        """The stages of a prediction, from the template to its last level."""
        return self.parts_of(prediction).stages

    def _stage_and_level(self, prediction: FacePrediction, options: ViewOptions) -> tuple[float, int]:
        """The shown stage within those that a prediction has, and the number of its level, 1 for the coarsest."""
        stages = self.stages_of(prediction)
        stage = min(max(options.stage, stages.first), stages.last)
        return stage, max(int(np.ceil(stage)), 1)

    def move(self, prediction: FacePrediction, to: FacePrediction, maximum: float) -> None:
        """Give a prediction's last level the vertices of another prediction with the same faces, in place.

        Args:    maximum: as in `ViewOptions`, for the error colours.
        """
        level, world = self.parts_of(prediction).finest, to_world(to.mesh.vertices_px)
        arrays = {
            "position": world,
            "normal": _normals(world, level.faces),
            "uv": level.on_photo(world, prediction.photo),
        }
        for name, array in arrays.items():
            level.solid.attributes[name].array = array
        if to.mesh.groups is not None:
            level.painted.attributes["uv"].array = level.on_clay(to.mesh)
        if to.truth_px is not None:
            level.set_errors(to.error_percent() / maximum)

    def mark_place(self, position_px: np.ndarray | None) -> None:
        """Draw a ring around a place (3,) of the mesh, px, or none."""
        self.mark.visible = position_px is not None
        if position_px is not None:
            self._mark_at.array = to_world(position_px)[None]

    def picked_vertex(self, prediction: FacePrediction) -> int | None:
        """The vertex nearest to the last click; None if that was beside the mesh."""
        if self.picker.faceIndex is None:
            return None
        _, number = self._stage_and_level(prediction, self.options)
        corners = np.array(self.picker.face, int)
        # Compared on the photo, where places stay the same however the mesh is turned.
        away = self.parts_of(prediction).level(number).photo_uv[corners] - np.array(self.picker.uv)
        height, width = prediction.photo.shape[:2]
        return int(corners[np.hypot(away[:, 0] * width, away[:, 1] * height).argmin()])

    def resize(self, width_px: int, height_px: int) -> None:
        """Give the view another size."""
        self.renderer.width, self.renderer.height = width_px, height_px
