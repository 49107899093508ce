"""Slow and obvious versions of what the library computes, written without its helpers."""

import math
from pathlib import Path

import numpy as np
import trimesh

SOLIDS = {  # name: mesh, Euler characteristic
    "sphere": (trimesh.creation.icosphere(subdivisions=1), 2),
    "torus": (trimesh.creation.torus(2, 0.7, major_sections=9, minor_sections=6), 0),
}


def similarity(source, target):
    """Horn's closed form with unit quaternions: scale, rotation, translation of target ~ s R source + t."""
    x, y = source - source.mean(0), target - target.mean(0)
    m = x.T @ y
    trace = np.trace(m)
    k = np.zeros((4, 4))
    k[0, 0] = trace
    k[0, 1:] = k[1:, 0] = [m[1, 2] - m[2, 1], m[2, 0] - m[0, 2], m[0, 1] - m[1, 0]]
    k[1:, 1:] = m + m.T - trace * np.eye(3)
    w, a, b, c = np.linalg.eigh(k)[1][:, -1]
    rotation = np.array(
        [
            [1 - 2 * (b * b + c * c), 2 * (a * b - w * c), 2 * (a * c + w * b)],
            [2 * (a * b + w * c), 1 - 2 * (a * a + c * c), 2 * (b * c - w * a)],
            [2 * (a * c - w * b), 2 * (b * c + w * a), 1 - 2 * (a * a + b * b)],
        ]
    )
    scale = sum(y[i] @ rotation @ x[i] for i in range(len(x))) / sum(p @ p for p in x)
    return scale, rotation, target.mean(0) - scale * rotation @ source.mean(0)


def aligned(source, target):
    """Each point of `source` under the best similarity onto `target`."""
    scale, rotation, translation = similarity(source, target)
    return np.array([scale * rotation @ p + translation for p in source])


def nme(pred, gt, dims):
    """Percent, one number a sample, point by point."""
    out = []
    for p, g in zip(pred, gt, strict=True):
        width = max(q[0] for q in g) - min(q[0] for q in g)
        height = max(q[1] for q in g) - min(q[1] for q in g)
        p_mean, g_mean = np.zeros(3), np.zeros(3)
        if dims == 3:
            p_mean[2], g_mean[2] = sum(q[2] for q in p) / len(p), sum(q[2] for q in g) / len(g)
        total = 0.0
        for a, b in zip(p, g, strict=True):
            total += math.sqrt(sum(((a[i] - p_mean[i]) - (b[i] - g_mean[i])) ** 2 for i in range(dims)))
        out.append(100 * total / len(g) / math.sqrt(width * height))
    return np.array(out)


def procrustes_mean(shapes):
    """Five rounds from the first shape, a shape at a time."""
    mean = shapes[0] - shapes[0].mean(0)
    mean = mean / math.sqrt((mean**2).sum())
    for _ in range(5):
        total = np.zeros_like(mean)
        for shape in shapes:
            total += aligned(shape, mean)
        mean = total / len(shapes)
        mean = mean - mean.mean(0)
        mean = mean / math.sqrt((mean**2).sum())
    return mean


def nearest(a, b):
    """For each point of a the squared distance to the nearest of b, and its index."""
    distances, idx = [], []
    for p in a:
        squared = [sum((p[i] - q[i]) ** 2 for i in range(3)) for q in b]
        idx.append(min(range(len(b)), key=squared.__getitem__))
        distances.append(squared[idx[-1]])
    return np.array(distances), np.array(idx)


def cd_f1(pred, gt, tau):
    """Chamfer distance times 1000 and F1 in percent at tau, all on squared distances."""
    to_gt, to_pred = nearest(pred, gt)[0], nearest(gt, pred)[0]
    precision = sum(d < tau for d in to_gt) / len(to_gt)
    recall = sum(d < tau for d in to_pred) / len(to_pred)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
    return 1000 * (sum(to_gt) / len(to_gt) + sum(to_pred) / len(to_pred)), 100 * f1


def face_vertices(mean, shape_basis, expression_basis, shape, expression):
    """A linear face model, a coordinate and a coefficient at a time."""
    out = np.array(mean, np.float64)
    for v in range(len(mean)):
        for i in range(3):
            for k, value in enumerate(shape):
                out[v, i] += shape_basis[v, i, k] * value
            for k, value in enumerate(expression):
                out[v, i] += expression_basis[v, i, k] * value
    return out


def aflw_projection(vertices, pose, height):
    """AFLW2000-3D's camera as its files have it: px counted from 1, y down."""
    pitch, yaw, roll, tx, ty, tz, scale = pose
    out = []
    for x, y, z in vertices:
        x, y = math.cos(roll) * x + math.sin(roll) * y, -math.sin(roll) * x + math.cos(roll) * y
        x, z = math.cos(yaw) * x - math.sin(yaw) * z, math.sin(yaw) * x + math.cos(yaw) * z
        y, z = math.cos(pitch) * y + math.sin(pitch) * z, -math.sin(pitch) * y + math.cos(pitch) * z
        out.append([scale * x + tx, height + 1 - (scale * y + ty), scale * z + tz])
    return np.array(out)


def as_sets(faces):
    return {frozenset(face) for face in np.asarray(faces).tolist()}


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "boom")
