"""A .glb of a face's parts, which share vertices and picture, or with morph targets and their motion: glTF 2.0; trimesh
writes neither."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from p2m_core.files import write_bytes
from p2m_core.geometry.rasterizer import vertex_normals
from p2m_workbench.drawing.mesh_images import encode_picture

FLOAT, UINT32, ARRAY_BUFFER, ELEMENT_BUFFER = 5126, 5125, 34962, 34963
SAMPLER = {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}  # smooth, and ends at its edges
LEAST_WAY = 2e-4  # of the mesh's size: vertices that a target moves by less stay


def smooth_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3); towards the viewer where triangles without area, as in the corners of eyes, tell none."""
    normals = vertex_normals(vertices, faces)
    normals[np.linalg.norm(normals, axis=1) < 0.5] = [0, 0, 1]
    return normals


@dataclass(frozen=True, eq=False)
class Motion:
    """How a face moves: at time_s (T,) its targets' strength (T, K), and what takes it to its place: scale (T,), then
    rotation (T, 4), unit quaternions x y z w, then shift (T, 3)."""

    time_s: Float[np.ndarray, "t"]
    strength: Float[np.ndarray, "t k"]
    scale: Float[np.ndarray, "t"]
    rotation: Float[np.ndarray, "t 4"]
    shift: Float[np.ndarray, "t 3"]


class Content:
    """The buffer of a glTF file and its views and accessors."""

    def __init__(self) -> None:
        self.bytes, self.views, self.accessors = bytearray(), [], []  # type: ignore[var-annotated]

    def view(self, content: bytes, target: int | None = None) -> int:
        """Add bytes at a multiple of 4; the index of their view."""
        self.bytes += bytes(-len(self.bytes) % 4)
        kind = {} if target is None else {"target": target}
        self.views.append({"buffer": 0, "byteOffset": len(self.bytes), "byteLength": len(content), **kind})
        self.bytes += content
        return len(self.views) - 1

    def accessor(
        self, array: np.ndarray, target: int | None = ARRAY_BUFFER, bounds: bool = False, flipped: bool = False
    ) -> int:
        """Add floats (N,) or rows of them (N, 2 to 4), or indices (N,); the index of their accessor. Flipped: u, v from
        the upper left corner, as glTF counts them."""
        indices = np.issubdtype(array.dtype, np.integer)
        array = array * [1, -1] + [0, 1] if flipped else array
        data = np.ascontiguousarray(array, np.uint32 if indices else np.float32)
        kind = "SCALAR" if data.ndim == 1 else f"VEC{data.shape[1]}"
        entry = {"bufferView": self.view(data.tobytes(), target), "count": len(data), "type": kind}
        entry["componentType"] = UINT32 if indices else FLOAT
        if bounds:
            entry |= {"min": np.atleast_1d(data.min(0)).tolist(), "max": np.atleast_1d(data.max(0)).tolist()}
        self.accessors.append(entry)
        return len(self.accessors) - 1

    def sparse(self, ways: np.ndarray, least: float) -> int:
        """Add the ways (V, 3) of a morph target, without those shorter than `least`; the index of their accessor."""
        moved = np.flatnonzero(np.linalg.norm(ways, axis=1) > least)
        moved = moved if len(moved) else np.array([0])
        values = np.float32(ways[moved])
        bounds = np.concatenate([values, np.zeros((1, 3), np.float32)]) if len(moved) < len(ways) else values
        self.accessors.append({
            "count": len(ways), "type": "VEC3", "componentType": FLOAT,
            "min": bounds.min(0).tolist(), "max": bounds.max(0).tolist(),
            "sparse": {
                "count": len(moved),
                "indices": {"bufferView": self.view(np.uint32(moved).tobytes()), "componentType": UINT32},
                "values": {"bufferView": self.view(values.tobytes())},
            },
        })  # fmt: skip
        return len(self.accessors) - 1

    def picture(self, picture: np.ndarray) -> dict[str, Any]:
        """Add a picture (H, W, 3) uint8; its entry in a file's images."""
        return {"bufferView": self.view(encode_picture(picture, compress_level=3)), "mimeType": "image/png"}

    def save(self, path: Path, outline: dict[str, Any]) -> None:
        """Write the file.   Args: outline: its JSON, without what this class holds."""
        binary = bytes(self.bytes) + bytes(-len(self.bytes) % 4)
        held = {"bufferViews": self.views, "accessors": self.accessors, "buffers": [{"byteLength": len(binary)}]}
        about = {"asset": {"version": "2.0", "generator": "p2m"}, "scene": 0}
        text = json.dumps(about | outline | held, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = [len(text).to_bytes(4, "little"), b"JSON", text, len(binary).to_bytes(4, "little"), b"BIN\0", binary]
        length = 12 + sum(map(len, chunks))
        write_bytes(path, b"".join([b"glTF", (2).to_bytes(4, "little"), length.to_bytes(4, "little"), *chunks]))

    def animation(self, motion: Motion) -> dict[str, Any]:
        """Add a motion of node 0; its entry in a file's animations."""
        time = self.accessor(motion.time_s, None, bounds=True)
        ways = {
            "weights": motion.strength.ravel(),
            "scale": motion.scale[:, None].repeat(3, 1),
            "rotation": motion.rotation,
            "translation": motion.shift,
        }
        return {
            "name": "motion",
            "samplers": [{"input": time, "output": self.accessor(values, None)} for values in ways.values()],
            "channels": [{"sampler": k, "target": {"node": 0, "path": path}} for k, path in enumerate(ways)],
        }


@dataclass(frozen=True, eq=False)
class Part:
    """A primitive: its name, its material's; vertices (V, 3), y up; triangles (F, 3); the way (V, 3) that each target
    moves them, (T, V, 3); u, v (V, 2) from the lower left corner of its texture, if it has one. Parts may share arrays,
    which the file then holds once; `normals` (V, 3) where triangles of other parts count as well."""

    name: str
    material: str
    vertices: np.ndarray
    faces: np.ndarray
    ways: np.ndarray
    normals: np.ndarray
    uv: np.ndarray | None = None


def save_moving_glb(
    path: Path,
    parts: Sequence[Part],
    materials: dict[str, dict[str, Any]],
    images: Sequence[np.ndarray],
    names: Sequence[str],
    strength: np.ndarray,
    motion: Motion | None = None,
) -> None:
    """Write a mesh with morph targets.

    Args:  materials: glTF materials by name.   images: (S, S, 3) uint8, the textures.   names: of the targets.
           strength: (T,) of each target, what is shown at first.   motion: played by whoever opens the file.
    """
    content = Content()
    size = max(float(np.ptp(part.vertices, axis=0).max()) for part in parts)
    kept: dict[int, int] = {}  # accessors by what they hold

    def once(array: np.ndarray, **options: Any) -> int:
        if id(array) not in kept:
            kept[id(array)] = content.accessor(array, **options)
        return kept[id(array)]

    targets: dict[int, list[dict[str, int]]] = {}
    primitives = []
    for part in parts:
        if id(part.ways) not in targets:
            targets[id(part.ways)] = [{"POSITION": content.sparse(way, LEAST_WAY * size)} for way in part.ways]
        attributes = {"POSITION": once(part.vertices, bounds=True), "NORMAL": once(part.normals)}
        if part.uv is not None:
            attributes["TEXCOORD_0"] = once(part.uv, flipped=True)
        primitives.append({
            "attributes": attributes,
            "indices": content.accessor(part.faces.ravel(), ELEMENT_BUFFER),
            "material": list(materials).index(part.material),
            "targets": targets[id(part.ways)],
            "extras": {"name": part.name},
        })  # fmt: skip
    outline = {
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "face"}],
        "meshes": [{
            "name": "face", "primitives": primitives, "weights": [float(x) for x in strength],
            "extras": {"targetNames": list(names)},
        }],
        "materials": [{"name": name, **material} for name, material in materials.items()],
        "textures": [{"source": k, "sampler": 0} for k in range(len(images))],
        "samplers": [SAMPLER],
        "images": [content.picture(image) for image in images],
        **({} if motion is None else {"animations": [content.animation(motion)]}),
    }  # fmt: skip
    content.save(path, outline)
