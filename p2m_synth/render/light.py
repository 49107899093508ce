"""Light: drawn surroundings, cast shadows, and what skin and things send back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np

from p2m_core.geometry.rasterizer import normalized
from p2m_synth.scene.elements import Light, float32

# Colours of light, linear RGB of unit luminance or so.
SUN, SKY, LAMP, TUBE, FLASH = (1.0, 0.93, 0.82), (0.72, 0.86, 1.1), (1.1, 0.82, 0.55), (0.92, 1.0, 0.9), (1, 1, 1)
PLACES = {"studio": 0.22, "room": 0.22, "window": 0.12, "sun": 0.12, "overcast": 0.09, "flash": 0.16, "night": 0.07}
SHADOW_MAP_PX, SHADOW_SLACK_UM = 288, 2500


def to_light(turn: float, lift: float) -> np.ndarray:
    """Unit vector (3,) to a light: `turn` rad to the picture's right of the viewer, `lift` rad above."""
    return np.array([np.sin(turn) * np.cos(lift), np.sin(lift), np.cos(turn) * np.cos(lift)])


def draw_light(rng: np.random.Generator, wanted: str | None = None) -> tuple[str, Light]:
    """The name of a place, and its light: from one to three lamps anywhere, and ambient light.

    wanted: a key of PLACES to take in place of the one that is drawn.
    """
    names = list(PLACES)
    place = wanted or names[rng.choice(len(names), p=list(PLACES.values()))]
    turn, lift = rng.normal(0, 0.9), rng.normal(0.5, 0.4)
    lamps, ambient, sky, ground = [], 0.5, FLASH, FLASH
    if place == "studio":
        color = np.array(FLASH) * rng.uniform(0.92, 1.08, 3)
        lamps = [(to_light(turn, lift), color, rng.uniform(0.05, 0.35), 1.0)]
        fill = to_light(-np.sign(turn) * rng.uniform(0.5, 1.4), rng.normal(0.2, 0.3))
        lamps.append((fill, color, 0.3, rng.uniform(0.1, 0.7)))
        if rng.random() < 0.5:  # a rim from behind
            lamps.append(
                (to_light(rng.choice([-1, 1]) * rng.uniform(2.0, 2.8), 0.4), color, 0.1, rng.uniform(0.3, 1.6))
            )
        ambient = rng.uniform(0.1, 0.5)
    elif place == "room":
        color = np.array(LAMP) ** rng.uniform(0, 1) if rng.random() < 0.7 else np.array(TUBE)
        lamps = [(to_light(turn, rng.uniform(0.4, 1.3)), color, rng.uniform(0.1, 0.4), rng.uniform(0.4, 1.2))]
        if rng.random() < 0.6:
            lamps.append((to_light(rng.uniform(-3, 3), rng.uniform(0, 1)), color, 0.25, rng.uniform(0.2, 0.8)))
        ambient, sky, ground = rng.uniform(0.35, 0.9), color, color * [1.05, 0.95, 0.85]
    elif place == "window":
        pane = to_light(rng.choice([-1, 1]) * rng.uniform(0.6, 1.9), rng.uniform(0, 0.5))
        lamps = [(pane, np.array(SKY) * rng.uniform(0.9, 1.1, 3), rng.uniform(0.25, 0.45), 1.2)]
        ambient, sky, ground = rng.uniform(0.1, 0.5), SKY, np.array(LAMP) ** 0.5
    elif place == "sun":
        sun = to_light(rng.uniform(-2.6, 2.6), rng.uniform(0.3, 1.2))
        lamps = [(sun, np.array(SUN) ** rng.uniform(0.5, 2), 0.02, rng.uniform(1.2, 2.4))]
        ambient, sky, ground = rng.uniform(0.3, 0.7), SKY, np.array(SUN) * rng.uniform(0.7, 1.1, 3)
    elif place == "overcast":
        lamps = [(to_light(turn, 1.1), np.array(SKY) ** 0.5, 0.5, rng.uniform(0.2, 0.6))]
        ambient, sky, ground = rng.uniform(0.8, 1.1), np.array(SKY) ** 0.6, FLASH
    elif place == "flash":
        lamps = [(to_light(rng.normal(0, 0.08), rng.normal(0.12, 0.08)), np.array(FLASH), 0.03, rng.uniform(1.2, 2.0))]
        ambient = rng.uniform(0.05, 0.25)
    else:  # night: coloured lamps
        for _ in range(rng.integers(1, 4)):
            hue = rng.dirichlet([2.2, 2.0, 2.2]) * 3
            lamp = to_light(rng.normal(0, 1.4), rng.normal(0.3, 0.4))
            lamps.append((lamp, 0.4 + 0.6 * hue, rng.uniform(0.05, 0.3), rng.uniform(0.5, 1.4)))
        ambient, sky, ground = rng.uniform(0.08, 0.35), 0.5 + 0.5 * rng.dirichlet([1.5] * 3) * 3, np.array(LAMP)
    share = rng.uniform(0.2, 0.9)
    return place, Light(
        direction=float32([lamp[0] for lamp in lamps]),
        color=float32([lamp[1] * lamp[3] for lamp in lamps]),
        size=float32([lamp[2] for lamp in lamps]),
        sky=float32(np.array(sky) * ambient),
        ground=float32(np.array(ground) * ambient * share),
    )


def turned_to(light: Light, turn_deg: float) -> Light:
    """A light turned about the vertical until its strongest lamp stands so far to the picture's right of the camera."""
    x, _, z = light.direction[light.color.sum(1).argmax()]
    by = np.radians(turn_deg) - np.arctan2(x, z)
    about_y = float32([[np.cos(by), 0, np.sin(by)], [0, 1, 0], [-np.sin(by), 0, np.cos(by)]])
    return replace(light, direction=light.direction @ about_y.T)


def light_frame(direction: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) into the frame of a far light: z towards it."""
    side = np.cross([0.0, 1.0, 0.01], direction)
    side /= np.linalg.norm(side)
    return np.stack([side, np.cross(direction, side), direction])


# Twelve places of a disc in 64 turns: turned from point to point, steps become grain.
_RADIUS = np.sqrt((np.arange(12) + 0.5) / 12).astype(np.float32)
_ANGLE = 2.39996 * np.arange(12) + np.linspace(0, 2 * np.pi, 64, endpoint=False)[:, None]
_DISC = np.stack([_RADIUS * np.cos(_ANGLE), _RADIUS * np.sin(_ANGLE)], -1).astype(np.float32)
_DISC = np.ascontiguousarray(_DISC[:, [10, 7, 9, 11, 4, 8, 1, 5, 2, 6, 3, 0]])  # the outer ones first
_FIRST = 4  # if these agree, the others would too


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _lit(points, frame, low, scale, depth, slack, disc, out):
    height, width = depth.shape
    for p in range(len(points)):
        x0, y0, z0 = points[p, 0], points[p, 1], points[p, 2]
        x = (frame[0, 0] * x0 + frame[0, 1] * y0 + frame[0, 2] * z0 - low[0]) * scale
        y = (frame[1, 0] * x0 + frame[1, 1] * y0 + frame[1, 2] * z0 - low[1]) * scale
        z = (frame[2, 0] * x0 + frame[2, 1] * y0 + frame[2, 2] * z0 - low[2]) * scale + slack
        turn = (int(abs(x) * np.float32(73.1)) * 37 + int(abs(y) * np.float32(57.7)) * 101) & 63
        x, y = x + np.float32(0.5), y + np.float32(0.5)
        lit = 0
        for k in range(12):
            column = min(max(int(x + disc[turn, k, 0]), 0), width - 1)
            row = min(max(int(y + disc[turn, k, 1]), 0), height - 1)
            if z >= depth[row, column]:
                lit += 1
            if k == _FIRST - 1 and (lit == 0 or lit == _FIRST):
                lit *= 3
                break
        out[p] = lit / 12


@dataclass(frozen=True, eq=False)
class ShadowMap:
    """What a far lamp sees: places in its frame (3, 3) minus `low` (3,), times `scale`, are px of depth (H, W).

    radius: px over which the map is compared, for soft edges."""

    frame: np.ndarray
    low: np.ndarray
    scale: float
    depth: np.ndarray
    radius: float

    def lit(self, points: np.ndarray) -> np.ndarray:
        """How much of the lamp's disc each point (P, 3), um, sees: (P,), 0 dark to 1 lit."""
        out = np.empty(len(points), np.float32)  # every entry is written
        # Slack grows with the disc: the surface itself is not level in the lamp's view.
        slack = np.float32(SHADOW_SLACK_UM * self.scale + 1.2 * self.radius)
        points, disc = np.ascontiguousarray(points, np.float32), _DISC * np.float32(self.radius)
        _lit(points, self.frame, self.low, np.float32(self.scale), self.depth, slack, disc, out)
        return out


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _shade(color, gloss, soft, normal, sky_share, lit, direction, half, strength, sky, ground, out):
    for p in range(len(color)):
        row = min(p, len(soft) - 1)
        nx, ny, nz = normal[p, 0], normal[p, 1], normal[p, 2]
        up = min(1.0, max(0.0, 0.5 + 0.5 * (0.85 * ny + 0.2 * nz)))
        away = min(1.0, max(0.0, 1 - nz))
        edge = away * away * away * away  # reflection grows at grazing angles
        share = sky_share[p]
        root = np.sqrt(share)
        deep, shallow = share * np.sqrt(root), root * np.sqrt(root)  # share ** 1.25 and 0.75
        sheen = (0.04 + 0.35 * min(gloss[p], 1.0)) * edge * share
        for c in range(3):
            # Scattered light fills the folds of the skin.
            ambient = (ground[c] + (sky[c] - ground[c]) * up) * (deep + (shallow - deep) * soft[row, c])
            out[p, c] = color[p, c] * ambient + sky[c] * sheen
        for k in range(len(direction)):
            cosine = nx * direction[k, 0] + ny * direction[k, 1] + nz * direction[k, 2]
            reach = lit[p, k]
            glare = 0.0
            if cosine > 0 and gloss[p] > 0 and reach > 0:
                shine = max(0.0, nx * half[k, 0] + ny * half[k, 1] + nz * half[k, 2])
                shine2 = shine * shine
                shine8 = shine2 * shine2 * shine2 * shine2
                shine32 = shine8 * shine8 * shine8 * shine8
                shine128 = shine32 * shine32 * shine32 * shine32
                # What shines much does so in a small spot.
                wide = gloss[p] / (1 + 6 * gloss[p] * gloss[p]) * (0.35 * shine8 * shine2 + 0.6 * shine32 * shine8)
                glare = (wide + 0.5 * gloss[p] * shine128 * shine32) * (0.5 + 3 * edge) * reach
            crept = np.sqrt(reach) - reach  # shadows on skin have red edges: light creeps in below the surface
            for c in range(3):
                s = soft[row, c]
                diffuse = max(0.0, (cosine + s) / ((1 + s) * (1 + s)))
                out[p, c] += strength[k, c] * (glare + color[p, c] * diffuse * (reach + 1.5 * s * crept))


def shade_surface(
    color: np.ndarray,
    gloss: np.ndarray,
    soft: np.ndarray,
    normal: np.ndarray,
    sky_share: np.ndarray,
    lit: np.ndarray,
    light: Light,
) -> np.ndarray:
    """Light sent to a viewer on z by rough or shiny surfaces.

    Args:    color (P, 3) reflectance; gloss (P,); soft (P, 3), or (3,) for all: how far each colour wraps
             round the terminator, by scattering below the skin; normal (P, 3); sky_share (P,) of the
             ambient light that arrives; lit (P, L) of each lamp.
    Returns: (P, 3) linear RGB.
    """
    half = normalized(light.direction + float32([0, 0, 1]), 1e-6)
    soft = np.broadcast_to(soft, (len(color) if np.ndim(soft) == 2 else 1, 3))
    arrays = (color, gloss, soft, normal, sky_share, lit)
    arrays += (light.direction, half, light.color, light.sky, light.ground)
    out = np.empty(color.shape, np.float32)  # every entry is written
    _shade(*(np.ascontiguousarray(array, np.float32) for array in arrays), out)
    return out
