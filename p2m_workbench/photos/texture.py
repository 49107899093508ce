"""The colours of a face from its photo, and, where the photo does not show it, from the other side of the face."""

from __future__ import annotations

import cv2
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Float32, Int, Num, UInt8
from scipy.ndimage import distance_transform_edt
from scipy.sparse import csgraph
from scipy.sparse.linalg import splu, spsolve

from p2m_core.face_mesh import FaceMesh, to_world
from p2m_core.geometry.mesh import adjacency_matrix, mesh_edges
from p2m_core.geometry.rasterizer import interpolate, rasterize, vertex_normals
from p2m_core.geometry.template import GROUPS
from p2m_synth.render.shaded_mesh import CLAY
from p2m_workbench.drawing.mesh_images import MOUTH, clay_colors

DEPTH_PX = 512  # longer side of the depth map by which hidden vertices are found
NORMAL_ROUNDS = 4  # of averaging with their neighbours: folds of a few triangles hide nothing
HIDDEN_SHARE = 0.02  # of that: a vertex so far behind what the photo shows in its place is hidden
FACING = 0.15, 0.55  # z of a unit normal up to which the photo shows nothing of use, and from which it shows all
CONTOUR_SHARES = 0.01, 0.035  # of that: so far from its contour the mesh may lie on background, and surely does not
UNLIKE = 35.0  # a colour so far from those around it is doubted where it is not seen well: background, or hair
TONE_STIFFNESS = 20.0  # edges squared over which differences in light are averaged
LEAST = 1e-6  # weight of a vertex that nothing is known about
EYES = [GROUPS.index("right eye"), GROUPS.index("left eye")]
EYE_PULL = 0.3  # the eyes' texture has 4 pixels to one of the photo, of 450 px, in place of 1.2


def photo_colors(photo: UInt8[np.ndarray, "h w 3"], points_px: Num[np.ndarray, "n _"]) -> UInt8[np.ndarray, "n 3"]:
    """The photo's colour under each point (N, 2 or 3), bilinear; of one outside it, that of the nearest edge pixel."""
    x, y = np.ascontiguousarray(points_px[:, :2].T, np.float32)
    colors = [  # OpenCV's maps end at 32767 entries
        cv2.remap(photo, a[None], b[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
        for a, b in zip(np.array_split(x, len(x) // 30_000 + 1), np.array_split(y, len(y) // 30_000 + 1), strict=True)
    ]
    return np.concatenate(colors)


def seen_share(
    vertices_px: Num[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], height: int, width: int
) -> Float[np.ndarray, "v"]:
    """How well a photo of this size shows each vertex (V,): 1 where it faces the camera, falling to 0 where it turns
    away and towards the mesh's contours, beyond which are other parts or the background; 0 beside the photo and behind
    another part of the mesh."""
    low, high = vertices_px[:, :2].min(0), vertices_px[:, :2].max(0)
    points = np.float32((vertices_px - [*low, 0]) * (DEPTH_PX / max(float((high - low).max()), 1e-6)) + [1, 1, 0])
    across, down = np.rint(points[:, :2].T).astype(int)
    _, _, nearest = rasterize(points, faces, down.max() + 2, across.max() + 2)
    away = cv2.distanceTransform(np.uint8(np.isfinite(nearest)), cv2.DIST_L2, 5)[down, across] / DEPTH_PX
    inside = ((vertices_px[:, :2] >= -0.5) & (vertices_px[:, :2] <= [width - 0.5, height - 0.5])).all(1)
    normals, means = vertex_normals(to_world(vertices_px), faces), neighbour_means(faces, np.ones(len(vertices_px)))
    for _ in range(NORMAL_ROUNDS):
        normals = means @ normals
    share = soft_step(normals[:, 2] / np.maximum(np.linalg.norm(normals, axis=1), 1e-9), *FACING)
    share *= inside & (nearest[down, across] - points[:, 2] < HIDDEN_SHARE * DEPTH_PX)
    share *= soft_step(away, *CONTOUR_SHARES)
    least = share.copy()
    np.minimum.at(least, faces.ravel(), share[faces].min(1).repeat(3))
    return least


def soft_step(x: Num[np.ndarray, "n"], low: float, high: float) -> Float[np.ndarray, "n"]:
    """0 up to `low`, 1 from `high` on, smooth between."""
    share = np.clip((x - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def spread(
    values: Num[np.ndarray, "v c"], weights: Num[np.ndarray, "v"], stiff: sp.spmatrix
) -> Float[np.ndarray, "v c"]:
    """Values of vertices where their weights are high, led on smoothly over the mesh where those are low.

    The minimum f of sum w |f - value|^2 + f' stiff f, `stiff` (V, V) being a multiple of the mesh's Laplacian.
    """
    return splu((sp.diags(weights) + stiff).tocsc()).solve(weights[:, None] * values)


def inner_vertices(mesh: FaceMesh, groups: list[int]) -> Int[np.ndarray, "_"]:
    """The vertices that belong to triangles of these groups alone."""
    own = np.isin(mesh.groups, groups)
    return np.setdiff1d(mesh.faces[own], mesh.faces[~own])


_kept: list = []  # vertices, photo, and what `_at_vertices` makes of the two


def _at_vertices(photo: UInt8[np.ndarray, "h w 3"], mesh: FaceMesh) -> Float32[np.ndarray, "v 12"]:
    """`_seen_at_vertices`, once for a mesh's texture and its vertex colours."""
    if not (_kept and _kept[0] is mesh.vertices_px and _kept[1] is photo):
        _kept[:] = [mesh.vertices_px, photo, _seen_at_vertices(photo, mesh)]
    return _kept[2]


def _seen_at_vertices(photo: UInt8[np.ndarray, "h w 3"], mesh: FaceMesh) -> Float32[np.ndarray, "v 12"]:
    """What `_blended` takes: place on the photo (x, y) and share that is seen, both of a vertex and of the mirrored
    one, or of itself without a mirror; what that one's colour lacks to the light on this side; the colour around, or
    of clay eyes, as bright."""
    count = len(mesh.vertices_px)
    mirror = np.arange(count) if mesh.mirror is None else mesh.mirror
    laplacian = csgraph.laplacian(adjacency_matrix(mesh_edges(mesh.faces), count).astype(float))
    colors = photo_colors(photo, mesh.vertices_px).astype(float)
    seen = seen_share(mesh.vertices_px, mesh.faces, *photo.shape[:2])
    both = (seen * seen[mirror])[:, None]
    lacks = spread((colors - colors[mirror]) * both / (both + LEAST), both[:, 0] + LEAST, TONE_STIFFNESS * laplacian)
    for doubted in (True, False):
        other = (1 - seen) * seen[mirror]
        known = seen + other + LEAST
        shown = (seen + LEAST)[:, None] * colors + other[:, None] * (colors[mirror] + lacks)
        around = spread(shown / known[:, None], known, laplacian)
        if doubted:
            seen = seen * np.exp(-np.square((colors - around) / UNLIKE).max(1) * (1 - seen))
    eyes, clay = inner_vertices(mesh, EYES), clay_colors(mesh.vertices_px, mesh.faces, mesh.groups)
    around[eyes] = clay[eyes] * around[eyes].mean(1, keepdims=True) / np.mean(CLAY)
    own = np.column_stack([mesh.vertices_px[:, :2], seen])
    return np.float32(np.concatenate([own, own[mirror], lacks, around], 1))


def _blended(photo: UInt8[np.ndarray, "h w 3"], points: Float32[np.ndarray, "n 12"]) -> UInt8[np.ndarray, "n 3"]:
    """The colour at points of `_at_vertices`: of its own place as far as the photo shows that; else of the mirrored
    place, in the light of this side; where it shows neither, the colour around."""
    seen, mirrored_seen = points[:, 2:3], points[:, 5:6]
    mirrored = photo_colors(photo, points[:, 3:5]) + points[:, 6:9]
    elsewhere = mirrored_seen * mirrored + (1 - mirrored_seen) * points[:, 9:]
    colors = seen * photo_colors(photo, points[:, :2]) + (1 - seen) * elsewhere
    return np.uint8(np.round(colors.clip(0, 255)))


def face_colors(photo: UInt8[np.ndarray, "h w 3"], mesh: FaceMesh) -> UInt8[np.ndarray, "v 3"]:
    """The colour of each vertex of the finest level: the photo's, with what is hidden from the other side, and a dark
    mouth; of a mesh without groups, what the photo has in its place."""
    if mesh.groups is None:
        return photo_colors(photo, mesh.vertices_px)
    colors = _blended(photo, _at_vertices(photo, mesh))
    colors[inner_vertices(mesh, [GROUPS.index("mouth")])] = MOUTH
    return colors


def face_texture(
    photo: UInt8[np.ndarray, "h w 3"], mesh: FaceMesh, side_px: int
) -> tuple[UInt8[np.ndarray, "s s 3"], Float[np.ndarray, "v 2"]]:
    """The colours of `face_colors` as a picture, with all of the photo's detail, but for the mouth's.

    Returns: (side_px, side_px, 3) uint8; u, v (V, 2) of each vertex in it, from the lower left corner.
    """
    pull = np.ones(len(mesh.vertices_px))
    pull[inner_vertices(mesh, EYES)] = EYE_PULL
    uv = flattened(mesh.faces, pull)
    places = np.column_stack([(uv * [1, -1] + [0, 1]) * side_px - 0.5, np.zeros(len(uv))])
    triangle, bary, _ = rasterize(places, mesh.faces, side_px, side_px)
    hit = triangle >= 0
    picture = np.zeros((side_px, side_px, 3), np.uint8)
    points = interpolate(_at_vertices(photo, mesh), mesh.faces, triangle[hit], bary[hit])
    picture[hit] = _blended(photo, points)
    nearest = distance_transform_edt(~hit, return_distances=False, return_indices=True)
    return picture[tuple(nearest)], uv  # bilinear readers look a little beyond the rim


def neighbour_means(faces: Int[np.ndarray, "f 3"], pull: Num[np.ndarray, "v"]) -> sp.csr_matrix:
    """The map (V, V) from vertices to the means of their neighbours; an edge weighs as much as its ends' product."""
    edges, count = mesh_edges(faces), len(pull)
    weights = sp.diags(pull) @ adjacency_matrix(edges, count) @ sp.diags(pull)
    return (sp.diags(1 / np.maximum(np.asarray(weights.sum(1)).ravel(), 1e-9)) @ weights).tocsr()


def flattened(faces: Int[np.ndarray, "f 3"], pull: Num[np.ndarray, "v"]) -> Float[np.ndarray, "v 2"]:
    """A mesh with one rim laid on a disc within [0, 1]^2 without folds, whatever its shape: the rim on the circle, each
    other vertex in the mean of its neighbours, weighed by `pull` (V,) > 0. Where that is low, there is more room.

    Returns: (V, 2).
    Source:  Tutte, How to draw a graph, 1963; Floater, 1997, for the weights.
    """
    sides, count = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), len(pull)
    following = dict(sides[~np.isin(sides @ [count, 1], sides @ [1, count])].tolist())
    rim = [next(iter(following))]
    while (after := following[rim[-1]]) != rim[0]:
        rim.append(after)
    angle = 2 * np.pi * np.arange(len(rim)) / len(rim)
    places, inner = np.zeros((count, 2)), np.setdiff1d(faces, rim)
    places[rim] = np.stack([np.cos(angle), np.sin(angle)], 1)
    means = neighbour_means(faces, pull)[inner]
    places[inner] = spsolve((sp.identity(len(inner)) - means[:, inner]).tocsc(), means[:, rim] @ places[rim])
    return 0.5 + 0.49 * places
