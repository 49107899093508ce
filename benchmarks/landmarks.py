"""Do our 68 landmarks mean what AFLW2000-3D's mean, and do our faces and expressions vary as its do?

    python benchmarks/landmarks.py [--folder ../shared/aflw2000-landmarks] [--count 2000] [--derive] [--tiny]

Prints, per landmark, how far the Procrustes mean of random faces lies from that of AFLW2000-3D's landmarks, in
percent of the face size; then how far each spreads, and quantiles of what expressions do. Without the folder, faces
of another seed stand in for the real ones. With --derive, prints the tables of p2m_synth that bring the means
together: identity.LOCAL_MEAN, human_mean.WAY_TO_HUMAN_MEAN and head_model.RIGHT_LANDMARKS_DM. Each of them is
what the present ones of the others leave: put one in, and run again for the next.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import scipy.sparse as sp
from scipy.linalg import block_diag
from scipy.optimize import lsq_linear

from p2m_core.config.paths import resolve
from p2m_core.geometry.crop import face_size
from p2m_core.geometry.landmarks import MIRROR_68
from p2m_core.geometry.rasterizer import interpolate, rasterize, vertex_normals
from p2m_core.geometry.similarity import procrustes_mean
from p2m_synth.head.asset import PARTS, load_asset, quads_to_triangles
from p2m_synth.head.expression import draw_expression, unit_basis
from p2m_synth.head.head_model import RIGHT_LANDMARKS_DM, UM_PER_DM, load_head_model, refinement
from p2m_synth.head.human_mean import closeness, human_mean_offset_dm
from p2m_synth.head.identity import LOCAL_MEAN, draw_identity
from p2m_synth.statistics import aligned, expression_measures, real_landmarks

PARTS_68 = {"jaw": slice(0, 17), "brows": slice(17, 27), "nose": slice(27, 36), "eyes": slice(36, 48),
            "mouth": slice(48, 68)}  # fmt: skip
# What may be added to the mean face, and how much at most: beyond that, noses hook and chins jut.
BOUNDS = {
    "nose/nose-scale-depth-incr": 0.5, "nose/nose-trans-forward": 0.35, "nose/nose-greek-incr": 0.2,
    "nose/nose-curve-convex": 0.2, "mouth/mouth-lowerlip-height-incr": 0.25, "chin/chin-prognathism-incr": 0.15,
    "head/head-scale-depth-incr": 0.2,
}  # fmt: skip
EDGES = {**dict.fromkeys(range(36, 48), "lids"), **dict.fromkeys(range(48, 60), "lips"),
         **dict.fromkeys(range(60, 68), "mouth")}  # fmt: skip
EDGE_OF = {"lids": ("left_eye", "right_eye"), "lips": (),
           "mouth": ("upper_teeth", "lower_teeth", "tongue", "mouth_cavity")}  # fmt: skip
EDGE_MM, NOSE_BASE_MM = 1.4, 2.5
PX_PER_DM = 600


def drawn_landmarks(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks of random people without and with an expression, (count, 68, 3) each, um."""
    head, rng = load_head_model(), np.random.default_rng(seed)
    face = head.face_model()
    neutral, moved = [], []
    for _ in range(count):
        shape, values = head.shape_of(draw_identity(rng)), head.expression_of(draw_expression(rng)[1])
        neutral.append(face.landmarks(shape, 0 * values))
        moved.append(face.landmarks(shape, values))
    return np.array(neutral, np.float64), np.array(moved, np.float64)


def print_distances(apart: np.ndarray) -> None:
    """The table of differences (68, 3) in percent of the face size."""
    distance = np.linalg.norm(apart, axis=1)
    print("landmark: distance, and x, y, z of ours less the other's, % of the face size")
    for k in range(68):
        print(f"{k:3} {distance[k]:5.2f}   {apart[k, 0]:5.1f} {apart[k, 1]:5.1f} {apart[k, 2]:5.1f}")
    print(f"mean {distance.mean():.2f}, jaw at most {distance[:17].max():.2f}, rest at most {distance[17:].max():.2f}")


def spread(landmarks: np.ndarray, mean: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Standard deviation by part of the face, and of the first principal components, % of the face size."""
    offsets = aligned(landmarks, mean)
    offsets = (offsets - offsets.mean(0)) / face_size(mean) * 100
    deviation = np.sqrt((offsets**2).sum(2).mean(0))
    components = np.linalg.svd(offsets.reshape(len(offsets), -1), compute_uv=False) / np.sqrt(len(offsets))
    return {name: deviation[idx].mean() for name, idx in PARTS_68.items()}, components


# --- derivation of the tables ---

# How far a landmark of the human mean may lie from the one of our mean, mm: along the normal of the skin; along the
# skin, where a point may simply be set elsewhere, by part; and corners of eyes and mouth and the base of the nose.
ALONG_NORMAL_MM, CORNER_MM = 0.3, 0.3
ALONG_SKIN_MM = {"jaw": 2.0, "brows": 2.0, "nose": 0.8, "eyes": 0.8, "mouth": 1.2}
CORNERS = (33, 36, 39, 42, 45, 48, 54, 60, 64)


def derive_way(place: np.ndarray, apart_dm: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Places on the neutral head (dm) and ways to the human mean (mm) of landmarks, by a Gaussian process.

    Args:  place: (68, 3) landmarks of the mean head, dm.   apart_dm: (68, 3) from there to the human mean's.
    """
    head = load_head_model()
    face = head.face_model()
    normal = vertex_normals(face.mean, face.triangles)[face.landmark_idx]
    slide = np.concatenate([np.full(len(range(68)[part]), ALONG_SKIN_MM[name]) for name, part in PARTS_68.items()])
    slide[list(CORNERS)] = CORNER_MM
    noise = slide[:, None, None] ** 2 * np.eye(3)
    noise += (ALONG_NORMAL_MM**2 - slide**2)[:, None, None] * normal[:, :, None] * normal[:, None]
    covariance = np.kron(closeness(place, place), np.eye(3))
    rows = refinement()[0][head.face_vertex_idx[head.landmark_idx]]
    moved = rows @ human_mean_offset_dm() * 100  # what the present table does already
    wanted = symmetric(apart_dm * 100 + moved)
    weights = np.linalg.solve(covariance + block_diag(*noise), wanted.ravel())
    way, neutral = (covariance @ weights).reshape(68, 3), rows @ load_asset()["vertices_dm"]
    return {k: (symmetric(neutral)[k], symmetric(way)[k]) for k in RIGHT_LANDMARKS_DM}


def symmetric(points: np.ndarray) -> np.ndarray:
    """Landmarks (68, 3), x to the subject's left, made symmetric."""
    return (points + points[MIRROR_68] * [-1, 1, 1]) / 2


def head_landmarks(offsets_dm: np.ndarray) -> np.ndarray:
    """Base vertices (..., n, 3) at the 68 landmarks."""
    head = load_head_model()
    rows = refinement()[0][head.face_vertex_idx[head.landmark_idx]]
    return np.stack([rows @ one for one in offsets_dm.reshape(-1, rows.shape[1], 3)])


def derive_local_mean(ours: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Offsets of local shapes by bounded ridge regression, mainly along the normals: along the skin, landmarks move."""
    asset, face = load_asset(), load_head_model().face_model()
    names = asset["local_names"].tolist()
    normal = vertex_normals(face.mean, face.triangles)[face.landmark_idx]
    size = face_size(ours)
    slide = np.where(np.isin(np.arange(68), [*EDGES]), 0.7, 0.25)  # a point on an edge cannot slide off it

    def split(offset: np.ndarray) -> np.ndarray:
        along = (offset * normal).sum(1)
        return np.concatenate([along, (slide[:, None] * (offset - along[:, None] * normal)).ravel()])

    centred = ours - ours.mean(0)
    similarity = [*(np.tile(axis, (68, 1)) for axis in np.eye(3)), *(np.cross(axis, centred) for axis in np.eye(3))]
    shapes = head_landmarks(np.stack([(asset["local"][names.index(n)] * [[[1]], [[-1]]]).mean(0) for n in BOUNDS]))
    had = sum(LOCAL_MEAN.get(name, 0) * shape for name, shape in zip(BOUNDS, shapes, strict=True))
    wanted = split((real - ours) / size + had / size)
    columns = np.stack([split(c) for c in (*similarity, centred, *(shapes / size))], 1)
    ridge = np.sqrt(1e-3) * np.eye(columns.shape[1])[7:]
    limit = np.array([np.inf] * 7 + list(BOUNDS.values()))
    system, right = np.concatenate([columns, ridge]), np.concatenate([wanted, np.zeros(len(ridge))])
    return dict(zip(BOUNDS, lsq_linear(system, right, (-limit, limit)).x[7:].round(2).tolist(), strict=True))


def seen_from_front(base_dm: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a frontal picture of a head shows: part (H, W), lips' mask (H, W), depth (H, W) dm."""
    refined, quads, quad_part = refinement()
    drawn = quad_part != PARTS.index("lashes")
    triangles, part = quads_to_triangles(quads[drawn]), np.tile(quad_part[drawn], 2)
    triangle, bary, depth = rasterize(to_px(refined @ base_dm), triangles, int(1.5 * PX_PER_DM), PX_PER_DM)
    hit = triangle >= 0
    lips = np.zeros(hit.shape)
    values = (refined @ load_asset()["masks"][:, :1]).astype(np.float32)
    lips[hit] = interpolate(values, triangles, triangle[hit], bary[hit])[:, 0]
    return np.where(hit, part[triangle], 0), lips, depth / PX_PER_DM


def to_px(points_dm: np.ndarray) -> np.ndarray:
    """Places on the head, dm -> px of the frontal picture, which spans x from -0.5 to 0.5 and y from 7.55 down."""
    return (points_dm - [-0.5, 7.55, 0]) * [PX_PER_DM, -PX_PER_DM, PX_PER_DM]


def edge_distance_mm(inside: np.ndarray, points_dm: np.ndarray) -> np.ndarray:
    """Distance in the picture from points (N, 3) to the outline of a region (H, W), mm."""
    outline = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    distance = cv2.distanceTransform(1 - outline, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) / PX_PER_DM * 100
    column, row = to_px(points_dm)[:, :2].round().astype(int).T
    outside = (column < 0) | (row < 0) | (column >= inside.shape[1]) | (row >= inside.shape[0])
    return np.where(outside, np.inf, distance[row.clip(0, len(inside) - 1), column.clip(0, inside.shape[1] - 1)])


def opened_mouth(mean_dm: np.ndarray) -> np.ndarray:
    """The mean head with its jaw half open: closed lips hide the edge of the mouth."""
    unit = load_asset()["unit_names"].tolist().index("jawOpen")
    return mean_dm + np.float32(0.5) * unit_basis()[unit].reshape(-1, 3)


def edge_distances(mean_dm: np.ndarray, to_points: sp.csr_matrix) -> dict[str, np.ndarray]:
    """Distance to the edges that landmarks belong to, seen from the front, mm, (N,) each; infinite where hidden.

    Args:    mean_dm: (n, 3) base vertices.   to_points: sparse (N, n) map from these to the points.
    """
    found = {}
    for name, parts in EDGE_OF.items():
        base = opened_mouth(mean_dm) if name == "mouth" else mean_dm
        part, lips, depth = seen_from_front(base)
        inside = np.isin(part, [PARTS.index(p) for p in parts])
        if name == "lips":  # the outline of both lips, without the line between them
            inside = cv2.morphologyEx((lips > 0.5).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8)) > 0
        points = to_points @ base
        # A point on a rim may fall just beside it in the picture, before or behind what is seen there.
        column, row = to_px(points)[:, :2].round().astype(int).T
        near = cv2.erode(np.where(np.isfinite(depth), depth, -9).astype(np.float32), np.ones((13, 13), np.uint8))
        hidden = points[:, 2] < near[row.clip(0, len(near) - 1), column.clip(0, near.shape[1] - 1)] - 0.01
        found[name] = np.where(hidden, np.inf, edge_distance_mm(inside, points))
    return found


def derive_places(wanted: np.ndarray) -> dict[int, tuple[float, float, float]]:
    """Places of landmarks on the mean head, dm, as near to the wanted ones (68, 3) as their edges let them."""
    head = load_head_model()
    to_face = refinement()[0][head.face_vertex_idx]
    mean = head.mean / np.float32(UM_PER_DM)
    points, edges = to_face @ mean, edge_distances(mean, to_face)
    goes_with_jaw = np.linalg.norm(to_face @ (opened_mouth(mean) - mean), axis=1)
    goes_with_jaw = goes_with_jaw > goes_with_jaw[head.landmark_idx[66]] / 2
    midline, free = abs(points[:, 0]) < 2e-3, np.ones(len(points), bool)
    wanted = symmetric(wanted)
    places = {}
    for k in RIGHT_LANDMARKS_DM:
        fits = free & (midline if MIRROR_68[k] == k else points[:, 0] < -0.02)
        if k in EDGES:
            fits &= edges[EDGES[k]] < EDGE_MM
        if k in (61, 62, 66, 67):
            fits &= goes_with_jaw == (k > 64)
        if k == 30:
            fits &= points[:, 2] > points[midline, 2].max() - 0.02  # the tip
        if 31 <= k <= 33:  # the base of the nose has no sharp edge: near to where it was set by eye
            fits &= np.linalg.norm(points - points[head.landmark_idx[k]], axis=1) < NOSE_BASE_MM / 100
        best = np.where(fits, np.linalg.norm(points - wanted[k], axis=1), np.inf).argmin()
        free[best] = False
        places[k] = tuple(np.float64(points[best]).round(3).tolist())
    return places


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", default="../shared/aflw2000-landmarks")
    options.add_argument("--count", type=int, default=2000)
    options.add_argument("--derive", action="store_true", help="print the tables that bring the means together")
    options.add_argument("--tiny", action="store_true", help="20 faces, for the tests")
    args = options.parse_args()
    count = 20 if args.tiny else args.count
    neutral, ours = drawn_landmarks(count, seed=1)
    folder = resolve(args.folder)
    real = real_landmarks(folder) if folder.is_dir() else drawn_landmarks(count, seed=2)[1]
    print(f"{count} faces against {len(real)} of {folder.name if folder.is_dir() else 'another seed'}")

    place = load_head_model().face_model()
    place = place.mean[place.landmark_idx].astype(np.float64) / UM_PER_DM
    mean = aligned(procrustes_mean(ours), place)
    wanted = aligned(procrustes_mean(real), mean)
    print_distances((mean - wanted) / face_size(wanted) * 100)

    (parts, components), (real_parts, real_components) = spread(ours, mean), spread(real, mean)
    print("\nspread by part, % of the face size: ours, the other, ratio")
    for name, value in parts.items():
        print(f"{name:6} {value:5.2f} {real_parts[name]:5.2f} {value / real_parts[name]:5.2f}")
    print(f"people alone, jaw: {spread(neutral, mean)[0]['jaw']:.2f}")
    for name, values in (("ours", components), ("other", real_components)):
        print(f"principal components, {name}: {values[:12].round(1).tolist()}")

    quantiles = (0.02, 0.05, 0.25, 0.5, 0.75, 0.95, 0.98)
    print(f"\nexpressions, quantiles {quantiles}")
    measures, real_measures = expression_measures(ours, mean), expression_measures(real, mean)
    for name, values in measures.items():
        print(f"{name}: ours  {np.quantile(values, quantiles).round(3).tolist()}")
        print(f"{'':{len(name)}}  other {np.quantile(real_measures[name], quantiles).round(3).tolist()}")

    if args.derive:
        print("\nLOCAL_MEAN", derive_local_mean(mean, wanted))
        print("\nWAY_TO_HUMAN_MEAN")
        for k, (at, way) in derive_way(place, wanted - mean).items():
            print(f"{k}: ({at.round(3).tolist()}, {way.round(1).tolist()}),")
        print("\nRIGHT_LANDMARKS_DM")
        for k, (x, y, z) in derive_places(place + wanted - mean).items():
            print(f"{k}: ({x:.3f}, {y:.3f}, {z:.3f}),")


if __name__ == "__main__":
    main()
