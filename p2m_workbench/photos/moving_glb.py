"""A .glb of a face with morph targets and their motion, which trimesh cannot write: glTF 2.0, a primitive a group."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from p2m_core.files import write_bytes
from p2m_core.geometry.rasterizer import vertex_normals

FLOAT, UINT32, ARRAY_BUFFER, ELEMENT_BUFFER = 5126, 5125, 34962, 34963
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


class _Content:
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

    def accessor(self, array: np.ndarray, target: int | None = ARRAY_BUFFER, bounds: bool = False) -> int:
        """Add floats (N,) or rows of them (N, 2 to 4), or indices (N,); the index of their accessor."""
        indices = np.issubdtype(array.dtype, np.integer)
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


def save_moving_glb(
    path: Path,
    vertices: np.ndarray,
    parts: Sequence[tuple[str, str, np.ndarray]],
    materials: dict[str, dict[str, Any]],
    image: np.ndarray,
    uv: np.ndarray,
    ways: dict[str, np.ndarray],
    strength: np.ndarray,
    motion: Motion | None = None,
) -> None:
    """Write a mesh with morph targets.

    Args:  vertices: (V, 3), y up.   parts: name, material and triangles (F, 3) of each.   materials: glTF materials by
           name.   image: (S, S, 3) uint8, texture 0.   uv: (V, 2), counted from the lower left corner.
           ways: (V, 3) of each target, by its name.   strength: of each target, what is shown at first.
           motion: played by whoever opens the file.
    """
    content = _Content()
    faces = np.concatenate([triangles for _, _, triangles in parts])
    attributes = {
        "POSITION": content.accessor(vertices, bounds=True),
        "NORMAL": content.accessor(smooth_normals(vertices, faces)),
        "TEXCOORD_0": content.accessor(uv * [1, -1] + [0, 1]),  # glTF counts from the upper left corner
    }
    least = LEAST_WAY * float(np.ptp(vertices, axis=0).max())
    targets = [{"POSITION": content.sparse(way, least)} for way in ways.values()]
    names = list(materials)
    primitives = [
        {
            "attributes": attributes,
            "indices": content.accessor(triangles.ravel(), ELEMENT_BUFFER),
            "material": names.index(material),
            "targets": targets,
            "extras": {"name": name},
        }
        for name, material, triangles in parts
    ]
    picture = io.BytesIO()
    Image.fromarray(image).save(picture, "PNG")
    outline = {
        "asset": {"version": "2.0", "generator": "p2m"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "face"}],
        "meshes": [{
            "name": "face", "primitives": primitives, "weights": [float(x) for x in strength],
            "extras": {"targetNames": list(ways)},
        }],
        "materials": [{"name": name, **material} for name, material in materials.items()],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": [{"bufferView": content.view(picture.getvalue()), "mimeType": "image/png"}],
        **({} if motion is None else {"animations": [content.animation(motion)]}),
        "bufferViews": content.views,
        "accessors": content.accessors,
        "buffers": [{"byteLength": len(content.bytes) + -len(content.bytes) % 4}],
    }  # fmt: skip
    text = json.dumps(outline, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary = bytes(content.bytes) + bytes(-len(content.bytes) % 4)
    chunks = [len(text).to_bytes(4, "little"), b"JSON", text, len(binary).to_bytes(4, "little"), b"BIN\0", binary]
    length = 12 + sum(map(len, chunks))
    header = b"glTF" + (2).to_bytes(4, "little") + length.to_bytes(4, "little")
    write_bytes(path, header + b"".join(chunks))
