"""Beards, brows and lashes as strands; they follow the skin, since their roots lie on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.spatial import cKDTree

from p2m_core.geometry.mesh import boundary_loops
from p2m_synth.hair.growth import CENTRE_DM, first_of_lock, out_of, strand_colors, torso_height
from p2m_synth.hair.roots import Roots, beside_lobes, scatter
from p2m_synth.hair.strands import Obstacles, grow_strands, wind_strands
from p2m_synth.head.head_mesh import HeadMesh, load_head_mesh
from p2m_synth.head.head_model import UM_PER_DM
from p2m_synth.scene.elements import Strands, float32
from p2m_synth.scene.primitives import smooth_step, unit


@dataclass(frozen=True)
class BeardStyle:
    """name: none, stubble, moustache, goatee, full or long.   stubble: opacity of the painted shadow.
    moustache, chin, cheek: density of hairs, 0 to 1.   length: dm.   gray: share of white hairs."""

    name: str = "none"
    stubble: float = 0.0
    moustache: float = 0.0
    chin: float = 0.0
    cheek: float = 0.0
    length: float = 0.0
    gray: float = 0.0


def draw_beard_style(rng: np.random.Generator, woman: bool, age: float) -> BeardStyle:
    """A beard that goes with a person; none for women and children."""
    if woman or age < 0.42:
        return BeardStyle()
    names = ("none", "stubble", "moustache", "goatee", "full", "long")
    name = str(rng.choice(names, p=(0.50, 0.22, 0.05, 0.07, 0.13, 0.03)))
    return beard_styles(rng, age)[name]


def beard_styles(rng: np.random.Generator, age: float) -> dict[str, BeardStyle]:
    """Each style by its name, as one person would wear it."""
    gray = float(np.clip(smooth_step(0.55, 0.95, age) * rng.uniform(0, 1.5), 0, 1))
    shadow, length = rng.uniform(0.1, 0.5), rng.uniform(0.03, 0.09)
    return {
        "none": BeardStyle("none", stubble=float(rng.choice([0, rng.uniform(0, 0.12)])), gray=gray),
        "stubble": BeardStyle("stubble", shadow, 0.5, 0.5, 0.4, 0.02, gray),
        "moustache": BeardStyle("moustache", rng.uniform(0, 0.3), 1, 0, 0, length, gray),
        "goatee": BeardStyle("goatee", rng.uniform(0, 0.35), float(rng.choice([0.2, 1])), 1, 0, 1.3 * length, gray),
        "full": BeardStyle("full", 0.6, 1, 1, rng.uniform(0.6, 1), 1.4 * length, gray),
        "long": BeardStyle("long", 0.7, 1, 1, 1, rng.uniform(0.3, 0.8), gray),
    }


@cache
def beard_roots() -> Roots:
    """Candidates for the roots of a beard."""
    head_mesh = load_head_mesh()
    skin = head_mesh.skin
    return scatter(head_mesh, skin[(head_mesh.masks["beard"][skin] > 0.03).any(1)], 10000, 2)


@cache
def brow_roots() -> tuple[Roots, np.ndarray, np.ndarray]:
    """Candidates for the roots of brows, and each one's course: 0 inner end to 1 outer, and height above it, dm."""
    head_mesh = load_head_mesh()
    line, skin = head_mesh.landmarks[22:27], head_mesh.skin
    x, y, z = head_mesh.canonical[skin].mean(1).T
    start, end = line[0, 0] - 0.07, line[-1, 0]
    near = (abs(y - 7.44) < 0.22) & (abs(abs(x) - (start + end) / 2) < 0.33) & (z > 0.9)
    roots = scatter(head_mesh, skin[near], 9000, 3)
    side = abs(roots.position[:, 0])
    # A smooth course through the landmarks, which stand on vertices and so are not even.
    course = np.polyval(np.polyfit(line[:, 0], line[:, 1], 2), side.clip(line[0, 0]))
    return roots, (side - start) / (end - start), roots.position[:, 1] - course


def grow_beard(
    head_mesh: HeadMesh,
    style: BeardStyle,
    color: np.ndarray,
    head: np.ndarray,
    rotation: np.ndarray,
    rng: np.random.Generator,
) -> list[Strands]:
    """The beard of a head; arguments as for `grow_hair`."""
    if style.length == 0:
        return []
    points, roots = float32(head @ rotation / UM_PER_DM), beard_roots()
    mouth = head_mesh.landmarks[[48, 51, 57]]
    x, y = roots.position[:, 0], roots.position[:, 1]
    above = smooth_step(mouth[0, 1] - 0.05, mouth[0, 1] + 0.02, y) * (abs(x) < 0.27)
    chin = smooth_step(0.30, 0.20, abs(x)) * (1 - above)
    density = above * style.moustache + (1 - above) * (chin * style.chin + (1 - chin) * style.cheek)
    density = density * roots.value(head_mesh.masks["beard"])
    density = density * (1 - smooth_step(0.02, 0.2, roots.value(head_mesh.masks["ears"])))
    thin = smooth_step(6.72, 7.0, y) * (1 - above)  # sideburns
    density *= (1 - beside_lobes(roots.position)) * (1 - 0.55 * thin)
    chosen = np.flatnonzero(rng.random(len(x)) < density * (0.35 if style.length < 0.03 else 0.65 + 0.3 * above))
    roots, above, chin, thin = roots[chosen], above[chosen, None], chin[chosen], thin[chosen]
    root, normal = roots.on(points)
    count, side = len(root), np.sign(roots.position[:, :1])
    down = np.where(above > 0.5, side * [0.75, 0, 0] + [0, -0.65, 0.1], [0, -1, 0.0])
    pull = unit(down - 0.9 * normal * (down * normal).sum(1, keepdims=True))
    direction = unit((0.45 - 0.2 * above) * normal + 0.6 * pull + 0.2 * rng.standard_normal((count, 3)))
    length = style.length * np.exp(0.25 * rng.standard_normal(count)) * np.where(above[:, 0] > 0.5, 0.8, 1)
    long = max(0, style.length - 0.15)
    below = (length - long * (1 - chin) * 0.8) * (1 - 0.5 * thin)
    length = np.maximum(np.where(above[:, 0] > 0.5, np.minimum(length, 0.16), below), 0.015)
    # A beard lies on skin that is not round: its own lift keeps it outside.
    obstacles = Obstacles(np.float64(CENTRE_DM), np.zeros((1, 1), np.float32), torso_height(points))
    gravity = 2.5 * (np.array([0, -1, 0]) @ rotation)
    strands = grow_strands(root, direction, length, 11 if long else 6, gravity, obstacles, pull, 4.0)
    lock, phase = roots.lock[:, 2], rng.uniform(0, 6.28, count)
    clump, curl = 0.5 if long else 0.15, 0.012 if style.length > 0.05 else 0.0
    strands = wind_strands(strands, length, first_of_lock(lock), clump, obstacles, curl, 0.13, phase)
    colors = strand_colors(rng, color, lock, rng.random(count), 0.8 * style.gray)
    return [Strands(out_of(strands, rotation), colors, 380 + 420 * min(1, style.length / 0.08))]


def grow_brows(
    head_mesh: HeadMesh,
    strength: float,
    color: np.ndarray,
    head: np.ndarray,
    rotation: np.ndarray,
    rng: np.random.Generator,
) -> list[Strands]:
    """Both eyebrows; strength: 0 sparse to 1 bushy; other arguments as for `grow_hair`."""
    points = float32(head @ rotation / UM_PER_DM)
    roots, t, above = brow_roots()
    # Hair grows below the landmarks, which follow a brow's upper edge.
    arch, lift, thick = rng.uniform(-0.015, 0.02), rng.uniform(-0.035, 0), 0.020 + 0.018 * strength
    thick *= rng.uniform(0.85, 1.2)
    middle = lift + arch * np.exp(-(((t - 0.62) / 0.25) ** 2)) - 0.03 * np.clip(t - 0.7, 0, 1)
    half = thick * (0.75 + 0.45 * np.sin(np.pi * np.clip(t, 0, 0.6) / 0.85)) * (1 - 0.75 * smooth_step(0.55, 1.0, t))
    across = (above - middle) / np.maximum(half, 1e-3)
    density = np.exp(-(abs(across) ** 3)) * smooth_step(-0.03, 0.16, t) * smooth_step(1.0, 0.85, t)
    chosen = np.flatnonzero(rng.random(len(t)) < density * (0.26 + 0.6 * strength))
    roots, t, across = roots[chosen], t[chosen], across[chosen].clip(-1.5, 1.5)
    root, normal = roots.on(points)
    count, side = len(root), np.sign(roots.position[:, 0])
    # Upright at the nose, then outwards; the lower hairs rise and the upper ones fall towards the middle.
    rise = 1.1 * smooth_step(0.25, -0.02, t) + 0.25 - 0.45 * t - 0.25 * across
    along = np.stack([side, rise, -0.35 * np.ones_like(t)], 1)
    along = unit(along - normal * (along * normal).sum(1, keepdims=True)) + 0.10 * rng.standard_normal((count, 3))
    length = (0.055 + 0.035 * strength) * np.exp(0.2 * rng.standard_normal(count)) * (1 - 0.35 * smooth_step(0.6, 1, t))
    s = (np.linspace(0, 1, 5) * length[:, None])[..., None]
    rising = 0.30 * s * (1 - 0.5 * s / length[:, None, None])
    strands = root[:, None] + along[:, None] * s + normal[:, None] * (rising + 0.003)
    tone = strand_colors(rng, float32(color) * 0.8, np.arange(count) % 40, rng.random(count), 0)
    return [Strands(out_of(float32(strands), rotation), tone, 330.0 + 100 * strength)]


@cache
def lid_edges() -> list[tuple[np.ndarray, int]]:
    """The lids' edges as chains of refined vertices from the inner to the outer corner, each with its eye, in the
    order left upper, left lower, right upper, right lower; eye 0 is the left."""
    head_mesh = load_head_mesh()
    loops = boundary_loops(head_mesh.model.face_triangles)
    position, marks = head_mesh.canonical[head_mesh.face_idx], head_mesh.landmarks
    rim = np.sort(np.concatenate(loops))
    chains = []
    for eye, corners in enumerate(((42, 45), (39, 36))):
        start, end = (rim[np.linalg.norm(position[rim] - marks[k], axis=1).argmin()] for k in corners)
        loop = next(loop for loop in loops if start in loop)
        loop = np.roll(loop, -int(np.flatnonzero(loop == start)[0]))
        cut = int(np.flatnonzero(loop == end)[0])
        both = [loop[: cut + 1], np.append(start, loop[: cut - 1 : -1])]
        both.sort(key=lambda chain: -position[chain, 1].mean())
        chains += [(front_edge(head_mesh, position[chain], up), eye) for chain, up in zip(both, (1, -1), strict=True)]
    return chains


def front_edge(head_mesh: HeadMesh, inner: np.ndarray, up: int) -> np.ndarray:
    """Refined vertices at the front of a lid's rim, whose inner edge is (n, 3); up: 1 upper lid, -1 lower."""
    skin = np.unique(head_mesh.skin)
    position = head_mesh.canonical[skin]
    near = cKDTree(position).query_ball_point(inner, 0.06)
    return np.array([skin[around[np.argmax(position[around] @ [0, -0.5 * up, 1])]] for around in near])


def grow_lashes(
    head_mesh: HeadMesh,
    mascara: float,
    color: np.ndarray,
    head: np.ndarray,
    rotation: np.ndarray,
    rng: np.random.Generator,
) -> list[Strands]:
    """Lashes of all four lids; mascara: 0 none to 1 long and black; other arguments as for `grow_hair`."""
    points = float32(head @ rotation / UM_PER_DM)
    grown = []
    for k, (chain, eye) in enumerate(lid_edges()):
        upper = k % 2 == 0
        ball = points[head_mesh.eye_idx[eye]]
        centre = (ball.min(0) + ball.max(0)) / 2
        count = int((44 if upper else 16) * (1 + 0.6 * mascara))
        t = np.sort(rng.uniform(0.2 if upper else 0.35, 0.95, count))
        edge = points[chain]
        reach = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(edge, axis=0), axis=1))])
        root = np.stack([np.interp(t * reach[-1], reach, edge[:, c]) for c in range(3)], 1)
        outward = unit(root - centre)
        side, up = (1 if eye == 0 else -1), (1 if upper else -1)
        # A closing lid turns its lashes down with it, further than its edge.
        rise = 0.9 * outward[:, 1] if upper else np.full(count, -0.25)
        fan = np.stack([side * 0.8 * (t - 0.4), rise, np.full(count, 0.15)], 1)
        direction = unit(outward + fan + 0.10 * rng.standard_normal((count, 3)))
        size = (0.05 + 0.03 * mascara if upper else 0.02 + 0.012 * mascara) * (0.55 + 0.6 * np.sin(2.6 * t))
        size = size * np.exp(0.15 * rng.standard_normal(count))
        s = np.linspace(0, 1, 6)[:, None]
        curl = float32([0, 0.45 * up, 0.0]) * s**2
        strands = root[:, None] + size[:, None, None] * (direction[:, None] * s * (1 - 0.25 * s) + curl)
        grown.append(np.float32(strands))
    strands = np.concatenate(grown)
    dark = float32(color) * (1 - mascara) * 0.5 + float32([0.006, 0.005, 0.005])
    return [Strands(out_of(strands, rotation), np.tile(dark, (len(strands), 1)), 210.0 + 130 * mascara)]
