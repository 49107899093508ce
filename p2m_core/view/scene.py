"""The pythreejs scene of a specimen: its photo, its mesh in every level, and what can be laid over it."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
import pythreejs as three

from p2m_core.export import photo_uri
from p2m_core.facemesh import Specimen, to_world
from p2m_core.raster import CLAY, draw_landmarks, encode_picture, error_colors, error_scale, vertex_normals

FRAME = 1.5  # the picture's height over the mesh's longest side
_DISTANCE = 20.0


@dataclass(frozen=True)
class Look:
    """What of a specimen is shown.   level: index into mesh.levels."""

    level: int = -1
    wireframe: bool = False
    landmarks: bool = False
    photo: bool = True
    truth: bool = False
    error: bool = False


def _attribute(values: np.ndarray, dtype: type) -> three.BufferAttribute:
    # A subclass of ndarray, such as trimesh's, would make pythreejs warn of float64.
    return three.BufferAttribute(np.array(values, dtype, order="C", subok=False), normalized=False)


def _geometry(vertices_px: np.ndarray, faces: np.ndarray, colors: np.ndarray | None = None) -> three.BufferGeometry:
    world = to_world(vertices_px)
    attributes = {
        "position": _attribute(world, np.float32),
        "normal": _attribute(vertex_normals(world, faces), np.float32),
    }
    if colors is not None:
        attributes["color"] = _attribute(colors / 255, np.float32)
    return three.BufferGeometry(attributes=attributes, index=_attribute(faces.ravel(), np.uint32))


def _hex(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _dot_uri() -> str:
    """A round dot with a dark rim on transparency: WebGL's own points are squares."""
    dot = draw_landmarks(np.zeros((64, 64, 3), np.uint8), np.array([[31.5, 31.5]]), radius_px=22)
    row, column = np.ogrid[:64, :64]
    cover = np.clip(29 - np.hypot(row - 31.5, column - 31.5), 0, 1)
    rgba = np.concatenate([dot, np.round(255 * cover)[..., None].astype(np.uint8)], -1)
    return "data:image/png;base64," + base64.b64encode(encode_picture(rgba)).decode("ascii")


class _Parts:
    """What of one specimen goes into the scene: a geometry a level, as a live one cannot change its size."""

    def __init__(self, specimen: Specimen):
        mesh, truth = specimen.mesh, specimen.truth_px
        self.levels, self.truths = [], []
        maximum = error_scale(specimen.error_percent()) if truth is not None else 0.0
        for k, (vertices, faces) in enumerate(zip(mesh.levels, mesh.level_faces, strict=True)):
            colors = error_colors(specimen.error_percent(k), maximum) if truth is not None else None
            self.levels.append(_geometry(vertices, faces, colors))
            if truth is not None:
                self.truths.append(_geometry(truth[: len(vertices)], faces))
        self.landmarks = three.BufferGeometry(
            attributes={"position": _attribute(to_world(mesh.landmarks_px), np.float32)}
        )
        height, width = specimen.photo.shape[:2]
        self.photo = three.PlaneBufferGeometry(width, height)
        texture = three.ImageTexture(
            imageUri=photo_uri(specimen.photo), minFilter="LinearFilter", generateMipmaps=False
        )
        self.photo_material = three.MeshBasicMaterial(map=texture, depthWrite=False)
        world = to_world(mesh.levels[-1])
        low, high = world.min(0), world.max(0)
        self.size = max(float((high - low).max()), 1e-6)
        self.centre = (low + high) / 2
        self.photo_at = ((width - 1) / 2, (1 - height) / 2, float(low[2]) - 0.04 * self.size)


class SpecimenScene:
    """One live 3D view, `renderer`, that can show any number of specimens one after another.

    A page holds at most 8 live views, so a list of specimens shares one. The camera is orthographic: from
    the front every vertex lies on its own pixel of the photo. Each mesh is scaled to the same size, so the
    camera stays where it is when the specimen changes.

    Args:    specimen: shown first.   width_px, height_px: of the view.
    """

    def __init__(self, specimen: Specimen, width_px: int = 620, height_px: int = 560):
        self._parts: dict[int, tuple[Specimen, _Parts]] = {}
        parts = self._parts_of(specimen)
        behind = {"polygonOffset": True, "polygonOffsetFactor": 1, "polygonOffsetUnits": 2, "side": "DoubleSide"}
        clay = three.MeshPhongMaterial(color=_hex(CLAY), specular="#161514", shininess=26, **behind)
        heat = three.MeshPhongMaterial(vertexColors="VertexColors", specular="#0e0e0e", shininess=26, **behind)
        teal = three.MeshPhongMaterial(
            color="#6fb7ae", specular="#161514", transparent=True, opacity=0.6, depthWrite=False, **behind
        )
        lines = three.MeshBasicMaterial(
            color="#16202b", wireframe=True, transparent=True, opacity=0.4, depthWrite=False
        )
        dots = three.PointsMaterial(
            size=9,
            sizeAttenuation=False,
            map=three.ImageTexture(imageUri=_dot_uri()),
            transparent=True,
            depthWrite=False,
        )
        self.photo = three.Mesh(parts.photo, parts.photo_material, renderOrder=-1)
        self.solid = three.Mesh(parts.levels[-1], clay)
        self.heat = three.Mesh(parts.levels[-1], heat, visible=False)
        self.truth = three.Mesh(parts.levels[-1], teal, renderOrder=1, visible=False)
        self.wire = three.Mesh(parts.levels[-1], lines, renderOrder=2, visible=False)
        self.landmarks = three.Points(parts.landmarks, dots, renderOrder=3, visible=False)
        self.group = three.Group()
        self.group.add([self.photo, self.solid, self.heat, self.truth, self.wire, self.landmarks])
        self._build_view(width_px, height_px)
        self.show(specimen, Look())

    def _build_view(self, width_px: int, height_px: int) -> None:
        half, aspect = FRAME / 2, width_px / height_px
        # The lights hang on the camera and look at the origin, where every mesh has its centre.
        self.key = three.DirectionalLight(
            color="#fff6ea", intensity=0.52, position=[-0.7 * _DISTANCE, 0.8 * _DISTANCE, 0]
        )
        fill = three.DirectionalLight(color="#dde9ff", intensity=0.18, position=[2 * _DISTANCE, 0.1 * _DISTANCE, 0])
        self.sky = three.HemisphereLight(color="#ffffff", groundColor="#b9b3ab", intensity=0.46)
        self.camera = three.OrthographicCamera(
            left=-half * aspect, right=half * aspect, top=half, bottom=-half, near=0, far=2 * _DISTANCE,
            position=[0, 0, _DISTANCE], children=[self.key, fill],
        )  # fmt: skip
        self.controls = three.OrbitControls(controlling=self.camera)
        scene = three.Scene(children=[self.group, self.camera, self.sky], background="#1b1f26")
        self.renderer = three.Renderer(
            camera=self.camera, scene=scene, controls=[self.controls], width=width_px, height=height_px, antialias=True
        )

    def _parts_of(self, specimen: Specimen) -> _Parts:
        # The specimen is kept with its parts, or its id could pass to another one.
        if id(specimen) not in self._parts:
            self._parts[id(specimen)] = (specimen, _Parts(specimen))
        return self._parts[id(specimen)][1]

    def show(self, specimen: Specimen, look: Look) -> None:
        """Show a specimen; `look.truth` and `look.error` do nothing where it has no ground truth."""
        parts = self._parts_of(specimen)
        known = bool(parts.truths)
        geometry = parts.levels[look.level]
        with self.renderer.hold_trait_notifications():
            for mesh in (self.solid, self.heat, self.wire):
                mesh.geometry = geometry
            self.truth.geometry = parts.truths[look.level] if known else geometry
            self.landmarks.geometry = parts.landmarks
            self.photo.geometry, self.photo.material = parts.photo, parts.photo_material
            self.photo.position = parts.photo_at
            self.landmarks.position = (0, 0, 0.008 * parts.size)
            scale = 1 / parts.size
            self.group.scale = (scale, scale, scale)
            self.group.position = tuple(float(-x * scale) for x in parts.centre)
            self.heat.visible = look.error and known
            self.solid.visible = not self.heat.visible
            # Flatter light for colours: a shadow must not pass for another error.
            self.sky.intensity, self.key.intensity = (0.70, 0.30) if self.heat.visible else (0.46, 0.52)
            self.truth.visible = look.truth and known
            self.wire.visible, self.landmarks.visible, self.photo.visible = look.wireframe, look.landmarks, look.photo

    def reset(self) -> None:
        """Back to the view from the photo's camera."""
        self.controls.target = (0.0, 0.0, 0.0)
        self.camera.zoom = 1.0
        self.camera.up = (0.0, 1.0, 0.0)
        self.camera.position = (0.0, 0.0, _DISTANCE)
        self.controls.exec_three_obj_method("update")


def view_specimen(specimen: Specimen, look: Look | None = None, width_px: int = 620, height_px: int = 560):
    """A live 3D view of one specimen without controls beside it.   Returns: a pythreejs Renderer."""
    scene = SpecimenScene(specimen, width_px, height_px)
    if look is not None:
        scene.show(specimen, look)
    return scene.renderer
