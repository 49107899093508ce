"""From a person and a pose to a photo: geometry, z-buffer, shadows, light, camera."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numba
import numpy as np

from p2m_core.geometry.camera import rotation_from_angles
from p2m_core.geometry.rasterizer import depth_map, interpolate, normalized, rasterize, vertex_normals
from p2m_synth.hair.facial_hair import grow_beard, grow_brows, grow_lashes
from p2m_synth.hair.growth import grow_hair
from p2m_synth.hair.roots import scalp_cover
from p2m_synth.hair.strands import bulk_normals, draw_strands, places_on, shade_strands, tangents
from p2m_synth.head.asset import PARTS
from p2m_synth.head.head_mesh import HeadMesh
from p2m_synth.occluders.things import draw_occluder, make_occluder
from p2m_synth.person import Overrides, Person, draw_person
from p2m_synth.render import skin
from p2m_synth.render.background import draw_background
from p2m_synth.render.camera_effects import take_photo
from p2m_synth.render.light import SHADOW_MAP_PX, ShadowMap, draw_light, light_frame, shade_surface, turned_to
from p2m_synth.scene.elements import Camera, Light, Strands, Surface, float32
from p2m_synth.wear.accessories import make_accessories
from p2m_synth.wear.clothes import hidden_skin, make_clothes
from p2m_synth.wear.headwear import hidden_scalp

SUPERSAMPLE = 2
COMPANION_SHARE = 0.05  # pictures with a second person, or a poster of one, in the background
LEVEL_SAMPLES = 1.5  # a surface whose depth differs by less from sample to sample has no edge there
SKIN_SOFT = float32([0.42, 0.17, 0.10])  # how far red, green and blue light wrap round skin
TEETH_SOFT, MOUTH_SOFT = float32([0.55, 0.5, 0.45]), float32([0.1, 0.05, 0.05])  # light goes through enamel
HIDDEN_MM = 8.0  # a landmark is hidden if something lies so far before it
TEETH_UM = (0, -3500, 500)  # the asset's upper teeth end above its upper lip, and would never show
NORMAL_SLACK_UM = 2200  # shadows are asked for so far before a surface, which would shade itself otherwise
EYE_GLOSS, FACIAL_HAIR_GLOSS = 1.6, 0.2
THING = -1  # in place of a part of the head
DARK_GLASS = 0.5  # from this opacity on, glass hides what lies behind
FACE_SEEN, FACE_HIDDEN = 255, 128  # values of the mask


@dataclass(frozen=True, eq=False)
class Picture:
    """image (S, S, 3) uint8 RGB; mask (S, S) uint8: 255 where the face is seen, 128 where something hides it,
    0 elsewhere; hidden (68,) bool: landmarks behind something, the face itself included; facts: names for the table."""

    image: np.ndarray
    mask: np.ndarray
    hidden: np.ndarray
    facts: dict[str, str]


@dataclass(frozen=True, eq=False)
class Scene:
    """All that is in front of the background, in the camera's frame (um).

    head (m, 3); surfaces; hairs, of which the first `bare` belong to the face: brows, lashes, beard;
    cover (m,): hair's ground on the scalp; dressed (m,): skin under clothes; tone (3,) of bare skin.
    """

    head_mesh: HeadMesh
    person: Person
    camera: Camera
    head: np.ndarray
    surfaces: list[Surface]
    hairs: list[Strands]
    bare: int
    cover: np.ndarray
    dressed: np.ndarray
    tone: np.ndarray


def generators(rng: np.random.Generator, apart: bool) -> Iterator[np.random.Generator]:
    """The generator of one step after another: the same, or `apart`, one of its own for each."""
    while True:
        yield rng.spawn(1)[0] if apart else rng


def place_head(head_mesh: HeadMesh, vertices: np.ndarray, angles: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Base vertices (n, 3) refined and turned by the pose (m, 3), um; the torso follows only partly."""
    refined = head_mesh.refined @ vertices
    refined[head_mesh.teeth_idx] += float32(TEETH_UM)
    rotation = np.float32(rotation_from_angles(angles))
    torso = float32(rotation_from_angles(angles * [0.35, rng.uniform(0.3, 1), 0.3]))
    pivot = np.float32(head_mesh.pivot_um)
    head = refined @ rotation.T
    body = (refined - pivot) @ torso.T + pivot @ rotation.T
    return body + (head - body) * head_mesh.neck[:, None]


def build_scene(
    head_mesh: HeadMesh,
    person: Person,
    camera: Camera,
    rng: np.random.Generator,
    alone: bool = False,
    overrides: Overrides | None = None,
) -> tuple[Scene, dict[str, str]]:
    """Head, dress and hair; unless `alone`, perhaps something in front of the face. Also names for the table."""
    look, rotation, wanted = person.look, camera.rotation, overrides or Overrides()
    steps = generators(rng, wanted.apart)
    head = place_head(head_mesh, person.vertices, camera.pose_para[:3], next(steps))
    hood = look.wear.headwear == "hood"
    hoodie = ("hoodie", look.wear.cloth) if hood else ()
    clothes, surfaces = make_clothes(head_mesh, head, next(steps), look.woman, *hoodie)
    surfaces = surfaces + make_accessories(head_mesh, look.wear, head, rotation, next(steps))
    occluder, tone = "none", skin.tone(look.melanin, next(steps))
    of_things = next(steps)
    if not alone:
        face = head[head_mesh.face_idx]
        front = (head_mesh, face, face[head_mesh.model.landmark_idx], tone)
        occluder, things = draw_occluder(of_things, *front)
        if wanted.occluder is not None:
            occluder = wanted.occluder
            things = [] if occluder == "none" else make_occluder(occluder, of_things.spawn(1)[0], *front)
        surfaces = surfaces + things
    bare = grow_brows(head_mesh, look.brow_strength, look.brow_color, head, rotation, next(steps))
    bare = bare + grow_lashes(head_mesh, look.mascara, look.natural_color, head, rotation, next(steps))
    beard = replace(look.beard, length=0.0) if look.wear.mask != "none" else look.beard  # pressed flat by a mask
    bare = bare + grow_beard(head_mesh, beard, look.natural_color, head, rotation, next(steps))
    hidden = hidden_scalp(head_mesh, look.wear)
    hairs = grow_hair(head_mesh, look.hair, look.hair_color, head, rotation, next(steps), hidden)
    cover, dressed = scalp_cover(head_mesh, look.hair), hidden_skin(head_mesh, clothes)
    scene = Scene(head_mesh, person, camera, head, surfaces, bare + hairs, len(bare), cover, dressed, tone)
    return scene, {"clothes": clothes, "occluder": occluder}


# --- from geometry to light -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Mesh:
    """The opaque surfaces as one: vertices (V, 3) um, triangles (T, 3), of each triangle its part (THING: none of the
    head), gloss and soft (T,). closed: so many of the first triangles are the head's, which has no back to see."""

    vertices: np.ndarray
    triangles: np.ndarray
    part: np.ndarray
    gloss: np.ndarray
    soft: np.ndarray
    closed: int = 0


def join_meshes(scene: Scene, surfaces: list[Surface]) -> Mesh:
    """The head and opaque surfaces as one mesh."""
    head_mesh, head = scene.head_mesh, scene.head
    # Skin under clothes would show through at the armpits; as points, its triangles keep their numbers.
    triangles = np.where(scene.dressed[head_mesh.triangles].all(1, keepdims=True), 0, head_mesh.triangles)
    starts = np.cumsum([len(head), *(len(s.vertices) for s in surfaces)])
    counts = [len(head_mesh.triangles), *(len(s.triangles) for s in surfaces)]
    return Mesh(
        np.concatenate([head, *(s.vertices for s in surfaces)]).astype(np.float32),
        np.concatenate([triangles, *(s.triangles + k for s, k in zip(surfaces, starts))]).astype(np.int32),
        np.concatenate([head_mesh.part, np.full(sum(counts[1:]), THING)]).astype(np.int8),
        np.repeat(float32([0, *(s.gloss for s in surfaces)]), counts),
        np.repeat(float32([0, *(s.soft for s in surfaces)]), counts),
        counts[0],
    )


def cast_shadows(mesh: Mesh, hairs: list[Strands], light: Light) -> dict[int, ShadowMap]:
    """The shadow maps of the strongest lamp and of the next, unless that is far weaker; others cast none."""
    maps, size, strength = {}, SHADOW_MAP_PX, light.color.sum(1)
    for k in np.argsort(-strength, kind="stable")[:2]:
        if strength[k] < 0.25 * strength.max():
            continue
        frame = float32(light_frame(light.direction[k]))
        seen = frame @ mesh.vertices.T  # (3, V): numpy is slow at the shorter axis
        low = seen.min(1)
        scale = float32((size - 1) / (seen[:2].max(1) - low[:2]).max())
        depth = depth_map(((seen - low[:, None]) * scale).T, mesh.triangles, size, size, mesh.closed)
        for hair in hairs:
            # Every other hair throws the shadow of two: a map's px is wider than a hair.
            at = (hair.points[::2] @ frame.T - low) * scale
            draw_strands(at, np.full(len(at), max(hair.width_um * scale, 0.5), np.float32), depth)
        radius = float(np.clip(light.size[k] * 0.18e5 * scale, 0.7, 9))
        maps[int(k)] = ShadowMap(frame, low, float(scale), depth, radius)
    return maps


def light_visibility(maps: dict[int, ShadowMap], lamps: int, points: np.ndarray) -> np.ndarray:
    """How much of each lamp reaches points (P, 3), um: (P, lamps)."""
    lit = np.ones((len(points), lamps), np.float32)
    for k, shadow in maps.items():
        lit[:, k] = shadow.lit(points)
    return lit


def sky_visibility(depth: np.ndarray) -> np.ndarray:
    """How open each sample lies (S, S), by comparing its depth with its surroundings': 1 open, 0 deep in a hole."""
    side = depth.shape[0]
    known = np.maximum(depth, depth.min(where=depth > -np.inf, initial=np.inf if (depth > -np.inf).any() else 0))
    small = cv2.resize(known, (side // 4, side // 4), interpolation=cv2.INTER_AREA)
    out = np.ones_like(known)
    for sigma, reach in ((0.004, 0.03), (0.014, 0.07)):
        around = cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma * side), (side, side), interpolation=cv2.INTER_LINEAR)
        around -= known
        around *= np.float32(-0.55 / (reach * side))
        around += 1
        out *= np.clip(around, np.float32(1 - 0.55), 1, out=around)
    return out


def paint(scene: Scene, light: Light, backdrop: np.ndarray, supersample: int, rng: np.random.Generator):
    """The scene in front of a background.

    Args:    backdrop: (S, S, 3) linear RGB.   supersample: samples per px and axis.
    Returns: linear image (S, S, 3); samples' depth without brows and beard, triangle, strand (side, side); the
             latter two -1 where there is none.
    """
    size_px = len(backdrop)
    side = size_px * supersample

    def to_samples(points: np.ndarray) -> np.ndarray:
        return scene.camera.to_samples(points, supersample)

    solid = [surface for surface in scene.surfaces if surface.alpha >= 1]
    mesh = join_meshes(scene, solid)
    triangle, bary, depth = rasterize(to_samples(mesh.vertices), mesh.triangles, side, side, mesh.closed)
    strand, along = np.full((side, side), -1, np.int32), np.zeros((side, side), np.float32)
    points_px = [to_samples(hair.points) for hair in scene.hairs]
    first = np.cumsum([0, *(len(hair.points) for hair in scene.hairs)])
    um = scene.camera.px_per_um * supersample
    before = depth
    for k in reversed(range(len(scene.hairs))):
        if k == scene.bare - 1:
            before = depth.copy()  # brows, lashes and beards hide no part of a face
        half = np.full(len(points_px[k]), scene.hairs[k].width_um * um / 2, np.float32)
        draw_strands(points_px[k], half, depth, strand, along, int(first[k]))

    open_sky = sky_visibility(depth)
    image = cv2.resize(backdrop, (side, side), interpolation=cv2.INTER_LINEAR)
    maps = cast_shadows(mesh, scene.hairs[scene.bare :], light)
    shaded, even = thin_out(triangle, strand, depth, mesh.part, supersample)
    paint_mesh(image, scene, mesh, solid, light, maps, shaded, bary, strand, open_sky, rng)
    _spread(image, even, supersample)
    paint_hairs(image, scene, light, maps, strand, along, first, open_sky)
    for glass in (surface for surface in scene.surfaces if surface.alpha < 1):
        paint_glass(image, glass, light, to_samples, depth)
    image = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return image, before, triangle, strand


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _thin_out(triangle, strand, depth, part, supersample, shaded, even):
    for row in range(even.shape[0]):
        for column in range(even.shape[1]):
            top, left = row * supersample, column * supersample
            first = triangle[top, left]
            if first < 0:
                continue
            kind, low, high = part[first], depth[top, left], depth[top, left]
            same = True
            for y in range(top, top + supersample):
                for x in range(left, left + supersample):
                    f = triangle[y, x]
                    same &= f >= 0 and strand[y, x] < 0 and part[f] == kind
                    low, high = min(low, depth[y, x]), max(high, depth[y, x])
            if same and high - low < LEVEL_SAMPLES * supersample:
                even[row, column] = True
                for y in range(supersample):
                    for x in range(supersample):
                        if x != y:
                            shaded[top + y, left + x] = -1


def thin_out(triangle, strand, depth, part, supersample: int) -> tuple[np.ndarray, np.ndarray]:
    """The triangles (side, side) that are to be shaded, -1 elsewhere, and the px (S, S) of which that is a diagonal.

    Where all samples of a px see one part of one surface, those on its diagonal tell its colour; edges need them all.
    """
    shaded, even = triangle.copy(), np.zeros([edge // supersample for edge in triangle.shape], bool)
    _thin_out(triangle, strand, depth, part, supersample, shaded, even)
    return shaded, even


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _spread(image, even, supersample):
    """Give the samples that `thin_out` left out the colour of the one of the diagonal in their row."""
    for row in range(even.shape[0] if supersample > 1 else 0):
        for column in range(even.shape[1]):
            if even[row, column]:
                for y in range(supersample):
                    for x in range(supersample):
                        for c in range(3):
                            image[row * supersample + y, column * supersample + x, c] = image[
                                row * supersample + y, column * supersample + y, c
                            ]


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples that see some parts: index (P,) in the grid, row by row; hit (P,) triangle; weights (P, 3) of its
    corners; normal and place (P, 3) in the camera's frame, um; sky (P,) as of `sky_visibility`."""

    index: np.ndarray
    hit: np.ndarray
    weights: np.ndarray
    normal: np.ndarray
    place: np.ndarray
    sky: np.ndarray


def paint_mesh(
    image, scene: Scene, mesh: Mesh, solid, light: Light, maps, triangle, bary, strand, open_sky, rng
) -> None:
    """Lay head and surfaces into the image of samples, where no hair is before them."""
    head_mesh, look = scene.head_mesh, scene.person.look
    shown = np.flatnonzero((triangle >= 0) & (strand < 0))
    triangle, bary, open_sky, pixels = triangle.ravel(), bary.reshape(-1, 3), open_sky.ravel(), image.reshape(-1, 3)
    part = mesh.part.take(triangle[shown])
    normals = float32(vertex_normals(mesh.vertices, mesh.triangles))

    def seen(chosen: np.ndarray) -> Samples:
        index = shown[chosen]
        hit, weights = triangle[index], bary.take(index, 0)
        normal, place = (interpolate(of, mesh.triangles, hit, weights) for of in (normals, mesh.vertices))
        return Samples(index, hit, weights, normalized(normal, 1e-6), place, open_sky[index])

    def shade(at: Samples, color, gloss, soft, normal, sky) -> None:
        lit = light_visibility(maps, len(light.direction), at.place + at.normal * np.float32(NORMAL_SLACK_UM))
        pixels[at.index] = shade_surface(color, gloss, soft, normal, sky, lit, light)

    # Skin
    at = seen(part == PARTS.index("skin"))
    color, gloss = skin.skin_color(head_mesh, look, scene.tone, rng)
    mask = head_mesh.masks
    values = np.column_stack([color, gloss, mask["occlusion"], mask["beard"], scene.cover, head_mesh.canonical])
    values = interpolate(values, head_mesh.triangles, at.hit, at.weights)
    marks = skin.draw_marks(head_mesh, look, scene.person.units, rng)
    color, gloss, slope = skin.skin_detail(look, marks, values[:, 7:], values[:, :7], rng)
    soft = SKIN_SOFT * np.float32(1 - 0.6 * look.melanin)
    shade(at, color, gloss, soft, tilt(at.normal, slope, scene.camera.rotation), at.sky * values[:, 4])
    # Mouth
    at = seen(part > PARTS.index("right_eye"))
    places = interpolate(head_mesh.canonical, head_mesh.triangles, at.hit, at.weights)
    color, gloss, openness = skin.mouth_color(mesh.part[at.hit], places, look.teeth)
    teeth = np.isin(mesh.part[at.hit], [PARTS.index("upper_teeth"), PARTS.index("lower_teeth")])
    soft = np.where(teeth[:, None], TEETH_SOFT, MOUTH_SOFT)
    shade(at, color, gloss, soft, at.normal, at.sky * openness)
    # Eyes
    at = seen((part == PARTS.index("left_eye")) | (part == PARTS.index("right_eye")))
    centre, axis = eye_axes(scene)
    side = np.where(mesh.part[at.hit] == PARTS.index("left_eye"), 0, 1)
    color = skin.eye_color(look, (at.place - centre[side]) @ scene.camera.rotation, axis[side], rng)
    gloss = np.full(len(color), EYE_GLOSS, np.float32)
    shade(at, color, gloss, np.full(3, 0.1, np.float32), at.normal, np.maximum(at.sky * 0.8, 0.25))
    # Dress and things
    at = seen(part == THING)
    if len(at.index):
        color = np.concatenate([np.zeros_like(scene.head), *(np.float32(s.color) for s in solid)])
        color = interpolate(color, mesh.triangles, at.hit, at.weights)
        at.normal[at.normal[:, 2] < 0] *= -1  # cloth and the like are seen from both sides
        shade(at, color, mesh.gloss[at.hit], mesh.soft[at.hit][:, None], at.normal, at.sky * np.float32(0.9))


def eye_axes(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the eyeballs (2, 3), um, and where they look in the head's frame (2, 3): left, right."""
    head_mesh = scene.head_mesh
    ball = scene.head[head_mesh.eye_idx]
    centre = (ball.min(1) + ball.max(1)) / 2
    # An eye at rest looks through the middle of its opening, wherever shape and expression have put that.
    corners = scene.head[head_mesh.landmark_idx[[42, 45, 36, 39]]].reshape(2, 2, 3)
    ahead = normalized((corners.mean(1) - centre) @ scene.camera.rotation, 1e-6)
    left, up = scene.person.gaze
    return centre, normalized(ahead + float32([np.tan(left), np.tan(up) + 0.06, 0]), 1e-6)


def tilt(normal: np.ndarray, slope: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Normals (P, 3) of skin tilted by the relief's slope (P, 2) along azimuth and downwards."""
    sideways, down = rotation @ float32([1, 0, 0]), rotation @ float32([0, -1, 0])
    return normalized(normal + slope @ np.stack([sideways, down]), 1e-6)


def paint_hairs(image, scene: Scene, light: Light, maps, strand, along, first, open_sky) -> None:
    """Lay the hairs into the image of samples."""
    strand, pixels = strand.ravel(), image.reshape(-1, 3)
    hairy = np.flatnonzero(strand >= 0)
    which = strand[hairy]
    centre = scene.head[scene.head_mesh.scalp_idx].mean(0)
    for k, hair in enumerate(scene.hairs):
        at = hairy[(which >= first[k]) & (which < first[k + 1])]
        if not len(at):
            continue
        own, here = strand[at] - np.int32(first[k]), along.ravel()[at]
        place, tangent = places_on(hair.points, own, here), tangents(hair.points, own, here)
        gloss = 1.0 if k >= scene.bare else FACIAL_HAIR_GLOSS
        lit = light_visibility(maps, len(light.direction), place)
        shaded = shade_strands(hair.color[own], tangent, here, lit, light, bulk_normals(place, centre), gloss)
        pixels[at] = shaded * open_sky.ravel()[at, None]


def paint_glass(image: np.ndarray, glass: Surface, light: Light, to_samples, depth: np.ndarray) -> None:
    """Tint what lies behind a transparent surface, and lay its reflections over it."""
    side = len(depth)
    triangle, bary, near = rasterize(to_samples(glass.vertices), glass.triangles, side, side)
    row, column = np.nonzero((triangle >= 0) & (near > depth))
    if not len(row):
        return
    values = np.concatenate([vertex_normals(glass.vertices, glass.triangles), glass.color], 1)
    values = interpolate(values, glass.triangles, triangle[row, column], bary[row, column])
    normal = values[:, :3] * np.where(values[:, 2:3] < 0, -1, 1)
    ones, lit = np.ones(len(row), np.float32), np.ones((len(row), len(light.direction)), np.float32)
    own = shade_surface(values[:, 3:], glass.gloss * ones, np.zeros(3, np.float32), normal, ones, lit, light)
    image[row, column] += (own - image[row, column]) * np.float32(glass.alpha)


# --- the picture ----------------------------------------------------------------------------------


def render(
    head_mesh: HeadMesh,
    person: Person,
    camera: Camera,
    rng: np.random.Generator,
    backgrounds: Path | None = None,
    overrides: Overrides | None = None,
) -> Picture:
    """A photo of a person.

    Args:    rng: decides light, dress, what is in front and behind, and what the camera does.
             backgrounds: folder of the user's own pictures to set people before.
             overrides: of them place, light_deg and occluder are taken here.
    """
    wanted = overrides or Overrides()
    steps = generators(rng, wanted.apart)
    of_light = next(steps)
    place, light = draw_light(of_light)
    backdrop = draw_background(of_light, camera.size_px, place, backgrounds)
    if wanted.place is not None:
        [own] = of_light.spawn(1)  # so that the rest stays as it was drawn
        place, light = draw_light(own, wanted.place)
        backdrop = draw_background(own, camera.size_px, place, backgrounds)
    if wanted.light_deg is not None:
        light = turned_to(light, wanted.light_deg)
    backdrop *= light.sky.mean() + np.float32(0.35) * light.color.sum(0).mean()
    of_companion = next(steps)
    companion = of_companion.random() < COMPANION_SHARE
    if companion:
        add_companion(backdrop, head_mesh, light, of_companion)
    # Surroundings of a colour give light of that colour.
    tint = np.array(cv2.mean(backdrop)[:3])
    tint = np.float32(tint / max(tint.mean(), 1e-6)) ** np.float32(0.35)
    light = replace(light, sky=light.sky * tint, ground=light.ground * tint)
    scene, facts = build_scene(head_mesh, person, camera, next(steps), overrides=overrides)
    image, depth, triangle, strand = paint(scene, light, backdrop, SUPERSAMPLE, next(steps))
    mask, hidden = visibility(scene, depth, triangle, strand)
    style, photo = take_photo(image, mask > 0, scene.tone, next(steps))
    facts |= {"light": place, "photo": style, "companion": str(int(companion))}
    return Picture(photo, mask, hidden, facts)


def add_companion(backdrop: np.ndarray, head_mesh: HeadMesh, light: Light, rng: np.random.Generator) -> None:
    """A second person in the background, or a poster of one, a little out of focus."""
    size_px = len(backdrop)
    side = int(size_px * rng.uniform(0.35, 0.65))
    person = draw_person(rng, head_mesh.model)
    scale = rng.uniform(0.35, 0.5) * side / 2.4e5
    pose_para = np.array([*rng.normal(0, [0.15, 0.6, 0.1]), side / 2, 0.55 * side - 7.1e5 * scale, 0, scale])
    scene, _ = build_scene(head_mesh, person, Camera(pose_para, side), rng, alone=True)
    poster = rng.random() < 0.2
    left = int(rng.choice([rng.uniform(-0.15, 0.12), rng.uniform(0.55, 0.85)]) * size_px)
    top = int(rng.uniform(0, 0.3) * size_px) if poster else size_px - int(side * rng.uniform(0.6, 0.95))
    ground = np.full((side, side, 3), backdrop.mean((0, 1)) * rng.uniform(0.3, 2), np.float32)
    image, depth, _, strand = paint(scene, light, ground, 1, rng)
    shown = np.ones((side, side), np.float32) if poster else float32(np.isfinite(depth) | (strand >= 0))
    blur = rng.uniform(0.5, 0.015 * side + 0.6)
    image, shown = cv2.GaussianBlur(image, (0, 0), blur), cv2.GaussianBlur(shown, (0, 0), blur)[..., None]
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, size_px), min(top + side, size_px)
    own = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    backdrop[y0:y1, x0:x1] += (image[own] - backdrop[y0:y1, x0:x1]) * shown[own]


def visibility(scene: Scene, depth, triangle, strand) -> tuple[np.ndarray, np.ndarray]:
    """Where the face is seen and where it is hidden (S, S), and which landmarks are hidden (68,)."""
    head_mesh, camera, side = scene.head_mesh, scene.camera, len(depth)
    size_px = camera.size_px
    supersample = side // size_px
    at = camera.to_samples(scene.head, supersample)
    own = depth_map(at, head_mesh.triangles[head_mesh.face], side, side) > -np.inf
    bare = sum(len(hair.points) for hair in scene.hairs[: scene.bare])
    of_face = (triangle >= 0) & np.append(head_mesh.face, False).take(triangle, mode="clip")
    clear = own & of_face & (strand < bare)
    for glass in (surface for surface in scene.surfaces if DARK_GLASS <= surface.alpha < 1):
        clear &= depth_map(camera.to_samples(glass.vertices, supersample), glass.triangles, side, side) == -np.inf
    share, seen = (cv2.resize(float32(x), (size_px, size_px), interpolation=cv2.INTER_AREA) for x in (own, clear))
    mask = np.where(share >= 0.5, np.where(seen >= 0.5 * share, FACE_SEEN, FACE_HIDDEN), 0).astype(np.uint8)

    at = at[head_mesh.landmark_idx]
    column, row = np.round(at[:, :2]).astype(int).T
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    before = depth[row.clip(0, side - 1), column.clip(0, side - 1)]
    slack = HIDDEN_MM * 1e3 * camera.px_per_um * supersample
    return mask, ~inside | (before > at[:, 2] + slack)
