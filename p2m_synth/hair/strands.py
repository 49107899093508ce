"""Hairs as polylines: how they grow, how they fill a z-buffer, and the light that they scatter."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from p2m_core.geometry.rasterizer import normalized
from p2m_synth.scene.elements import Light, float32

TAPER = 0.75  # share of the root's width that is gone at the tip


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _draw(points, half_width, depth, strand, along, first_id):
    """strand and along may be None."""
    height, width = depth.shape
    count, steps = points.shape[0], points.shape[1] - 1
    for i in range(count):
        root = float(half_width[i])
        for k in range(steps):
            ax, ay, az = float(points[i, k, 0]), float(points[i, k, 1]), float(points[i, k, 2])
            dx, dy, dz = points[i, k + 1, 0] - ax, points[i, k + 1, 1] - ay, points[i, k + 1, 2] - az
            # NaN compares false, so a strand with a bad point loses the segments there.
            if not abs(dx) + abs(dy) < 1e6:
                continue
            steep = abs(dy) >= abs(dx)
            if steep:  # u runs along the longer axis, v across
                u0, v0, long, across, limit_u, limit_v = ay, ax, dy, dx, height, width
            else:
                u0, v0, long, across, limit_u, limit_v = ax, ay, dx, dy, width, height
            # Sample rows of the half-open interval, so that the next segment does not repeat the joint.
            first = max(0.0, np.ceil(min(u0, u0 + long)))
            last = min(limit_u - 1.0, np.ceil(max(u0, u0 + long)) - 1)
            if first > last:
                continue
            along_u, along_strand = 1 / long, 1 / steps
            slope = across * along_u
            spread = root * np.sqrt(1 + slope * slope)
            for u in range(int(first), int(last) + 1):
                t = (u - u0) * along_u
                place = (k + t) * along_strand
                z = np.float32(az + t * dz)
                centre = v0 + slope * (u - u0)
                # A tip that breaks into dots looks like noise.
                half = max(spread * (1 - TAPER * place * place), min(root, 0.5))
                if half < 0.5:
                    # Thinner than a sample: drawn as a share of its samples, so that the average is right;
                    # golden steps spread them evenly along each strand, or thin hairs look like dust.
                    turn = u * 0.6180339887 + i * 0.7548776662
                    if turn - np.floor(turn) >= 2 * half:
                        continue
                    start = stop = int(np.floor(centre + 0.5))
                else:
                    start, stop = int(np.ceil(centre - half)), int(np.floor(centre + half))
                for v in range(max(0, start), min(limit_v - 1, stop) + 1):
                    row, column = (u, v) if steep else (v, u)
                    if z > depth[row, column]:
                        depth[row, column] = z
                        if strand is not None:
                            strand[row, column] = first_id + i
                            along[row, column] = place


def draw_strands(
    points_px: np.ndarray,
    half_width_px: np.ndarray,
    depth: np.ndarray,
    strand: np.ndarray | None = None,
    along: np.ndarray | None = None,
    first_id: int = 0,
) -> None:
    """Draw strands into a sample grid, hidden where something nearer stands; writes into the last three in place.

    Args:    points_px: (N, P, 3) image px from root to tip, z towards the viewer positive.
             half_width_px: (N,) at the root; the tip has a quarter of it, but still a sample if the root has.
             depth: (H, W) float32 as `raster.rasterize` gives it.
             strand: (H, W) int32, gets first_id + the index of the strand that a sample sees, and stays elsewhere.
             along: (H, W) float32, gets the place along it, 0 root to 1 tip. Without both, depth alone is drawn.
    """
    points_px, half_width_px = np.ascontiguousarray(points_px, np.float32), np.asarray(half_width_px, np.float32)
    _draw(points_px, half_width_px, depth, strand, along, first_id)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _tangents(points, strand, along, out):
    steps = points.shape[1] - 1
    for p in range(len(strand)):
        i, place = strand[p], along[p] * steps
        k = min(int(place), steps - 1)
        # Blended with the neighbour's, so that highlights do not step at the joints.
        t = place - k - 0.5
        other = min(max(k + (1 if t > 0 else -1), 0), steps - 1)
        t = abs(t)
        x = (1 - t) * (points[i, k + 1, 0] - points[i, k, 0]) + t * (points[i, other + 1, 0] - points[i, other, 0])
        y = (1 - t) * (points[i, k + 1, 1] - points[i, k, 1]) + t * (points[i, other + 1, 1] - points[i, other, 1])
        z = (1 - t) * (points[i, k + 1, 2] - points[i, k, 2]) + t * (points[i, other + 1, 2] - points[i, other, 2])
        length = max(np.sqrt(x * x + y * y + z * z), 1e-9)
        out[p, 0], out[p, 1], out[p, 2] = x / length, y / length, z / length


def tangents(points: np.ndarray, strand: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Unit direction towards the tip at places on strands.

    Args:    points: (N, P, 3).   strand: (S,) index of a strand.   along: (S,) 0 root to 1 tip.
    Returns: (S, 3) float32.
    """
    out = np.empty((len(strand), 3), np.float32)  # every entry is written
    _tangents(np.ascontiguousarray(points, np.float32), strand, along, out)
    return out


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _places(points, strand, along, out):
    steps = points.shape[1] - 1
    for p in range(len(strand)):
        i, place = strand[p], along[p] * steps
        k = min(int(place), steps - 1)
        t = place - k
        for c in range(3):
            out[p, c] = points[i, k, c] + t * (points[i, k + 1, c] - points[i, k, c])


def places_on(points: np.ndarray, strand: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Places (S, 3) float32 on strands; arguments as for `tangents`."""
    out = np.empty((len(strand), 3), np.float32)  # every entry is written
    _places(np.ascontiguousarray(points, np.float32), strand, along, out)
    return out


def bulk_normals(places: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Unit vectors (S, 3) outwards from all of a head's hair: from `centre` (3,) and the upright below it."""
    offset = np.float32(places - centre)
    below = offset[:, 1]
    np.copyto(below, 0.25 * below, where=below < 0)
    return normalized(offset, 1e-6)


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _shade(color, tangent, along, normal, lit, direction, strength, sky, ground, gloss, out):
    for p in range(len(color)):
        tx, ty, tz = tangent[p, 0], tangent[p, 1], tangent[p, 2]
        nx, ny, nz = normal[p, 0], normal[p, 1], normal[p, 2]
        # Pigment shows more the longer the light's way through it: tips are lighter, roots darker.
        tone = 0.72 + 0.28 * min(1.0, 3 * along[p]) + 0.12 * along[p]
        up = 0.5 + 0.4 * ny
        cos_r = np.sqrt(max(0.0, 1 - tz * tz))
        theta_r = np.arcsin(min(1.0, max(-1.0, tz)))
        red = tone * color[p, 0] * (ground[0] + up * (sky[0] - ground[0]))
        green = tone * color[p, 1] * (ground[1] + up * (sky[1] - ground[1]))
        blue = tone * color[p, 2] * (ground[2] + up * (sky[2] - ground[2]))
        for k in range(len(direction)):
            if lit[p, k] <= 0:
                continue
            lx, ly, lz = direction[k, 0], direction[k, 1], direction[k, 2]
            sin_i = tx * lx + ty * ly + tz * lz
            cos_i = np.sqrt(max(0.0, 1 - sin_i * sin_i))
            half = 0.5 * (np.arcsin(min(1.0, max(-1.0, sin_i))) + theta_r)
            # cos of the angle between light and viewer about the fibre
            cos_phi = min(1.0, max(-1.0, (lz - sin_i * tz) / max(1e-3, cos_i * cos_r)))
            side = np.sqrt(0.5 * (1 + cos_phi))  # cos of half of it
            first, second = (half + 0.07) / 0.11, (half - 0.13) / 0.20
            white = 0.25 * side * np.exp(-first * first)
            tinted = 0.36 * side * np.exp(-second * second)
            through = half / 0.25
            glow = 0.5 * (1 - side) * (1 - side) * np.exp(-through * through)
            wrap = min(1.0, max(0.0, (nx * lx + ny * ly + nz * lz + 0.35) / 1.35))
            diffuse = cos_i * (0.15 + 0.85 * wrap) * tone
            face = 0.25 + 0.75 * wrap
            for c in range(3):
                pigment = color[p, c]
                value = pigment * diffuse
                value += gloss * (0.13 * white + np.sqrt(pigment) * pigment * tinted) * face * 1.6
                value += gloss * pigment * glow
                value *= lit[p, k] * strength[k, c]
                if c == 0:
                    red += value
                elif c == 1:
                    green += value
                else:
                    blue += value
        out[p, 0], out[p, 1], out[p, 2] = red, green, blue


def shade_strands(
    color: np.ndarray,
    tangent: np.ndarray,
    along: np.ndarray,
    lit: np.ndarray,
    light: Light,
    normal: np.ndarray | None = None,
    gloss: float = 1.0,
) -> np.ndarray:
    """Light that hairs send to a viewer on z, linear RGB.

    Args:    color: (P, 3) reflectance.   tangent: (P, 3) unit, towards the tip.   along: (P,) 0 root to 1 tip.
             lit: (P, L) share of each light that arrives.
             normal: (P, 3) unit, outwards from the whole of the hair; without it, the fibres' visible side.
             gloss: strength of the highlights.
    Returns: (P, 3) float32.
    Source:  diffuse after Kajiya and Kay 1989; white, tinted and transmitted lobe, each tilted along the
             fibre by its scales, after Marschner et al. 2003.
    """
    if normal is None:
        normal = float32([0, 0, 1]) - tangent * tangent[:, 2:]
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    arrays = (color, tangent, along, normal, lit, light.direction, light.color, light.sky, light.ground)
    out = np.empty((len(color), 3), np.float32)  # every entry is written
    _shade(*(np.ascontiguousarray(array, np.float32) for array in arrays), np.float32(gloss), out)
    return out


# --- growing, in the head's frame and dm ----------------------------------------------------------

SKULL_Y = 7.45  # height of the skull's centre on the mean head
# The hairline of the mean head: azimuth (deg) that hair beside a face may not pass, and height (dm).
FACE_AZIMUTH, FACE_HEIGHT = (0, 45, 60, 90), (7.95, 7.84, 7.62, 7.36)
TORSO_LOW, TORSO_CELL, TORSO_SHAPE = (-2.2, -1.6), 0.1, (37, 45)  # x and z of the first cell, its side; cells


class Obstacles(NamedTuple):
    """What strands may not enter.

    centre (3,) of the skull.   shell (R, C): the head's radius by the sine of height (-1 to 1) and azimuth (-180 to
    180 deg, the last column again the first); (1, 1) for none.   torso (37, 45): height of the shoulders over z and x.
    """

    centre: np.ndarray
    shell: np.ndarray
    torso: np.ndarray


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _angle(y, x):
    """arctan2 to 0.005 rad, in a third of its time."""
    a, b = abs(x), abs(y)
    t = min(a, b) / (max(a, b) + 1e-12)
    angle = t * (0.7854 + 0.273 * (1 - t))
    angle = 1.5708 - angle if b > a else angle
    angle = 3.14159 - angle if x < 0 else angle
    return -angle if y < 0 else angle


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _face_edge(height, opening):
    """Azimuth (rad) where the face ends at a height: the mean hairline's, but at most `opening` deg."""
    edge = float(FACE_AZIMUTH[-1])
    for k in range(1, len(FACE_HEIGHT)):
        if height > FACE_HEIGHT[k]:
            share = (FACE_HEIGHT[k - 1] - height) / (FACE_HEIGHT[k - 1] - FACE_HEIGHT[k])
            edge = FACE_AZIMUTH[k - 1] + max(0.0, share) * (FACE_AZIMUTH[k] - FACE_AZIMUTH[k - 1])
            break
    return min(edge, opening) * np.pi / 180


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _keep_out(px, py, pz, clearance, opening, drop, centre, shell, torso):
    """A point moved off the skull, out of the face's wedge and off the shoulders."""
    rows, columns = shell.shape
    x, y, z = px - centre[0], py - centre[1], pz - centre[2]
    # Beyond the jaw the shell is neck and shoulders, whose shape the torso's map knows better.
    if rows > 1 and y > -1.3:
        r = np.sqrt(x * x + y * y + z * z) + 1e-9
        if r < 1.8:
            turn = (_angle(x, z) * (0.5 / np.pi) + 0.5) * (columns - 1)
            rise = (y / r + 1) * 0.5 * (rows - 1)
            i, j = min(int(rise), rows - 2), min(int(turn), columns - 2)
            a, b = rise - i, turn - j
            limit = (1 - a) * ((1 - b) * shell[i, j] + b * shell[i, j + 1])
            limit += a * ((1 - b) * shell[i + 1, j] + b * shell[i + 1, j + 1]) + clearance
            if r < limit:
                out = limit / r
                x, y, z = x * out, y * out, z * out
    if opening > 0 and z > 0 and y + drop < FACE_HEIGHT[0] - SKULL_Y:
        least = _face_edge(y + drop + SKULL_Y, opening)
        angle = _angle(abs(x), z)
        if angle < least:
            # Heads are longer than wide, so the way round them leads inwards.
            flat = np.sqrt(x * x + z * z) * (0.95 - 0.16 * least) / (0.95 - 0.16 * angle)
            x, z = flat * np.sin(least) * (1 if x >= 0 else -1), flat * np.cos(least)
    px, py, pz = x + centre[0], y + centre[1], z + centre[2]
    if y < -0.9:
        u, v = (px - TORSO_LOW[0]) / TORSO_CELL, (pz - TORSO_LOW[1]) / TORSO_CELL
        if 1 <= u < torso.shape[1] - 2 and 1 <= v < torso.shape[0] - 2:
            i, j = int(v), int(u)
            a, b = v - i, u - j
            top = (1 - a) * ((1 - b) * torso[i, j] + b * torso[i, j + 1])
            top += a * ((1 - b) * torso[i + 1, j] + b * torso[i + 1, j + 1])
            depth = top + clearance - py
            if depth > 0:
                left = (1 - a) * torso[i, j] + a * torso[i + 1, j]
                right = (1 - a) * torso[i, j + 1] + a * torso[i + 1, j + 1]
                behind = (1 - b) * torso[i, j] + b * torso[i, j + 1]
                before = (1 - b) * torso[i + 1, j] + b * torso[i + 1, j + 1]
                slope_x, slope_z = (right - left) / TORSO_CELL, (before - behind) / TORSO_CELL
                push = min(depth / (1 + slope_x * slope_x + slope_z * slope_z), 0.3)
                px, py, pz = px - push * slope_x, py + push, pz - push * slope_z
    return px, py, pz


# Points as three numbers each: in registers they take half the time that small arrays take.


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _grow(root, direction, pull, target, length, hold, layer, opening, drop, gravity, centre, shell, torso, out):
    count, steps = out.shape[0], out.shape[1] - 1
    gx, gy, gz = gravity[0], gravity[1], gravity[2]
    for i in range(count):
        step = length[i] / steps
        px, py, pz = root[i, 0], root[i, 1], root[i, 2]
        dx, dy, dz = direction[i, 0], direction[i, 1], direction[i, 2]
        comb_x, comb_y, comb_z = pull[i, 0], pull[i, 1], pull[i, 2]
        out[i, 0, 0], out[i, 0, 1], out[i, 0, 2] = px, py, pz
        tied = target[i, 1] > 0
        for k in range(steps):
            s = (k + 1) * step
            # Near its root hair holds its own weight.
            weight, bend = step * s / (s + 0.2), hold[i] * step / (1 + 4 * s * s)
            # Combs move hair along the skin, not away from it.
            x, y, z = px - centre[0], py - centre[1], pz - centre[2]
            outward = max(0.0, x * comb_x + y * comb_y + z * comb_z) / (x * x + y * y + z * z + 1e-9)
            if tied:
                tx, ty, tz = target[i, 0] - px, target[i, 1] - py, target[i, 2] - pz
                away = np.sqrt(tx * tx + ty * ty + tz * tz) + 1e-9
                if away < max(0.05, 1.2 * step):
                    px, py, pz = px + 0.4 * tx, py + 0.4 * ty, pz + 0.4 * tz
                    out[i, k + 1, 0], out[i, k + 1, 1], out[i, k + 1, 2] = px, py, pz
                    continue
                tie = 14 * step / away
                dx, dy, dz = dx + tie * tx - weight * gx, dy + tie * ty - weight * gy, dz + tie * tz - weight * gz
            dx += bend * (comb_x - outward * x) + weight * gx
            dy += bend * (comb_y - outward * y) + weight * gy
            dz += bend * (comb_z - outward * z) + weight * gz
            on = step / np.sqrt(dx * dx + dy * dy + dz * dz + 1e-9)
            x, y, z = px + on * dx, py + on * dy, pz + on * dz
            if opening[i] < 0 and z > centre[2]:
                angle = _angle(abs(x - centre[0]), z - centre[2])
                if angle < _face_edge(y - centre[1] + drop[i] + SKULL_Y, -opening[i]):
                    for j in range(k, steps):  # cut off: the points that are left coincide
                        out[i, j + 1, 0], out[i, j + 1, 1], out[i, j + 1, 2] = px, py, pz
                    break
            clearance = 0.012 + layer[i] * s / (s + 0.15)
            x, y, z = _keep_out(x, y, z, clearance, opening[i], drop[i], centre, shell, torso)
            dx, dy, dz = x - px, y - py, z - pz
            norm = np.sqrt(dx * dx + dy * dy + dz * dz + 1e-9)
            dx, dy, dz = dx / norm, dy / norm, dz / norm
            # The way out may be long: the strand keeps its length.
            on = min(norm, 1.5 * step)
            px, py, pz = px + on * dx, py + on * dy, pz + on * dz
            out[i, k + 1, 0], out[i, k + 1, 1], out[i, k + 1, 2] = px, py, pz


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _wind(strands, leader, clump, curl, wave, phase, length, opening, drop, centre, shell, torso, out):
    """Close locks about their leaders, then wind each strand about its own course."""
    count, steps = strands.shape[0], strands.shape[1] - 1
    for i in range(count):
        j = leader[i]
        for c in range(3):
            out[i, 0, c] = strands[i, 0, c]
        for k in range(1, steps + 1):
            t = k / steps
            close = clump[i] * min(1.0, 1.6 * t)
            x, y, z = float(strands[i, k, 0]), float(strands[i, k, 1]), float(strands[i, k, 2])
            lead_x, lead_y, lead_z = float(strands[j, k, 0]), float(strands[j, k, 1]), float(strands[j, k, 2])
            x, y, z = x + close * (lead_x - x), y + close * (lead_y - y), z + close * (lead_z - z)
            if curl[i] > 0:
                dx, dy, dz = lead_x - strands[j, k - 1, 0], lead_y - strands[j, k - 1, 1], lead_z - strands[j, k - 1, 2]
                s = t * length[i]
                reach = curl[i] * min(1.0, s / (1.2 * wave[i]))
                norm = np.sqrt(dx * dx + dy * dy + dz * dz) + 1e-9
                dx, dy, dz = dx / norm, dy / norm, dz / norm
                # Any frame across the strand will do; this one turns slowly where hair hangs or lies.
                nx, ny, nz = dz + 0.3 * dy, -0.3 * dx, -dx
                norm = np.sqrt(nx * nx + ny * ny + nz * nz)
                if norm < 0.2:
                    nx, ny, nz = 1.0, 0.0, 0.0
                else:
                    nx, ny, nz = nx / norm, ny / norm, nz / norm
                turn = 2 * np.pi * s / wave[i] + phase[i]
                cosine, sine = reach * np.cos(turn), reach * np.sin(turn)
                x += cosine * nx + sine * (dy * nz - dz * ny)
                y += cosine * ny + sine * (dz * nx - dx * nz)
                z += cosine * nz + sine * (dx * ny - dy * nx)
            x, y, z = _keep_out(x, y, z, 0.008, opening[i], drop[i], centre, shell, torso)
            out[i, k, 0], out[i, k, 1], out[i, k, 2] = x, y, z


def _columns(count: int, *values: np.ndarray | float) -> list[np.ndarray]:
    """Each value as (count,) float64."""
    return [np.ascontiguousarray(np.broadcast_to(np.asarray(value, np.float64), (count,))) for value in values]


def grow_strands(
    root: np.ndarray,
    direction: np.ndarray,
    length: np.ndarray,
    steps: int,
    gravity: np.ndarray,
    obstacles: Obstacles,
    pull: np.ndarray | None = None,
    hold: np.ndarray | float = 0.0,
    target: np.ndarray | None = None,
    layer: np.ndarray | float = 0.0,
    opening: np.ndarray | float = 0.0,
    drop: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Strands step by step from their roots.

    Args:    root: (N, 3).   direction: (N, 3) unit, at the root.   length: (N,).   gravity: (3,) bending, 1/dm.
             pull: (N, 3) unit, where they are combed, as strongly as hold (N,), 1/dm.
             target: (N, 3) where they are tied, if so.
             layer: (N,) how far above the skin they come to lie.
             opening: (N,) azimuth (deg) that the face keeps free: strands go round it, or, if negative, end there;
             0 lets them pass.   drop: (N,) how far they may hang over the hairline.
    Returns: (N, steps + 1, 3) float32.
    """
    count = len(root)
    out = np.empty((count, steps + 1, 3), np.float32)  # every entry is written
    vectors = [np.zeros((count, 3)) if v is None else np.ascontiguousarray(v, np.float64)
               for v in (root, direction, pull, target)]  # fmt: skip
    _grow(*vectors, *_columns(count, length, hold, layer, opening, drop), gravity, *obstacles, out)
    return out


def wind_strands(
    strands: np.ndarray,
    length: np.ndarray,
    leader: np.ndarray,
    clump: np.ndarray | float,
    obstacles: Obstacles,
    curl: np.ndarray | float = 0.0,
    wave: np.ndarray | float = 1.0,
    phase: np.ndarray | float = 0.0,
    opening: np.ndarray | float = 0.0,
    drop: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Strands gathered in locks and curled.

    Args:    strands: (N, P, 3).   length: (N,).   leader: (N,) index of the strand that leads each one's lock.
             clump: (N,) how close to the leader they come, 0 to 1.
             curl, wave, phase: (N,) radius, length and start (rad) of curls.   opening, drop: as in `grow_strands`.
    Returns: (N, P, 3) float32.
    """
    count = len(strands)
    out = np.empty_like(strands)  # every entry is written
    clump, curl, wave, phase, length, opening, drop = _columns(count, clump, curl, wave, phase, length, opening, drop)
    _wind(strands, leader, clump, curl, wave, phase, length, opening, drop, *obstacles, out)
    return out
