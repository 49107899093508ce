"""How fast is the software rasteriser? Lit, antialiased, error-coloured pictures of a mesh of 7057 vertices.

    python benchmarks/pictures.py [--tiny]

Prints ms a picture, and ratios to the baseline: matplotlib's plot_trisurf of the same mesh, as large (lit, one colour a
triangle, sorted by depth in place of a z-buffer). CPU time of one thread, median after warm-up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from p2m_core.face_mesh import to_world
from p2m_core.geometry.rasterizer import vertex_normals
from p2m_core.morphable.registration import face_template
from p2m_synth.head.head_model import load_head_model
from p2m_workbench.drawing.mesh_images import draw_turned, error_colors


def cpu_ms(function: Callable[[], object], rounds: int) -> float:
    """Median CPU time of a call, after one to warm up."""
    function()
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        function()
        times.append(time.thread_time() - start)
    return 1000 * float(np.median(times))


def plot_trisurf(vertices: np.ndarray, faces: np.ndarray, size_px: int) -> np.ndarray:
    """The mesh, y up, by matplotlib."""
    figure = Figure(figsize=(size_px / 100, size_px / 100), dpi=100)
    axes = figure.add_subplot(projection="3d")
    x, y, z = vertices.T
    axes.plot_trisurf(x, z, y, triangles=faces, shade=True, linewidth=0)
    axes.view_init(0, 90)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiny", action="store_true", help="one small picture, for the tests")
    tiny = options.parse_args().tiny
    size_px, rounds = (64, 1) if tiny else (512, 15)
    template, _ = face_template(load_head_model().face_model(), "semi_sphere", 2 if tiny else 6, 4)
    faces, vertices_px = template.faces[-1], to_world(template.vertices)
    error = np.abs(vertex_normals(template.vertices, faces)[:, 0])
    colors = error_colors(error, 1.0)
    baseline = cpu_ms(lambda: plot_trisurf(template.vertices, faces, size_px), max(1, rounds // 5))
    print(f"{len(vertices_px)} vertices, {size_px} px; matplotlib's plot_trisurf {baseline:.0f} ms")
    for name, options in {
        "clay": {},
        "error colours": {"vertex_colors": colors},
        "error colours, 3 x 3 samples": {"vertex_colors": colors, "supersample": 3},
        "edges, 3 x 3 samples": {"wire_px": 0.5, "supersample": 3},
    }.items():
        own = cpu_ms(lambda options=options: draw_turned(vertices_px, faces, 25, size_px, **options), rounds)
        print(f"{name:30} {own:6.1f} ms, {baseline / own:.1f} times as fast")


if __name__ == "__main__":
    main()
