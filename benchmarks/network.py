"""What does the network cost, how near is that to what it must cost, and how much faster than the plain formulas is it?

    python benchmarks/network.py [--rounds 5] [--tiny]

Object version with ResNet50 and VGG16, batch 8, 224 px, fp32: forward, forward and backward, the graph part alone and
peak memory, as ratios against plain_network.py, the baseline; and the share of the bound that is reached: our encoder
alone, and the matrix products that cannot be avoided at this machine's measured rate. Then bf16 autocast and
torch.compile against fp32, and sampling by bags of rows against grid_sample. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from plain_network import PlainNetwork
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from p2m_core.config.settings import ModelConfig
from p2m_core.geometry.template import ellipsoid
from p2m_core.network.layers import pool_features
from p2m_core.network.model import Pixel2Mesh

BATCH = 8


def settings(backbone: str, tiny: bool) -> ModelConfig:
    """The reference's sizes; thin and small for the tests."""
    width, blocks = (8, 1) if tiny else (192, 6)
    return ModelConfig(
        backbone=backbone,
        input_px=64 if tiny else 224,
        camera="perspective",
        hidden=(width,) * 3,
        blocks=(blocks,) * 3,
        last_hidden=width,
        residual=False,
        pose_head=False,
    )


def build(kind: type[Pixel2Mesh], backbone: str, tiny: bool) -> tuple[Pixel2Mesh, torch.Tensor]:
    """A network in evaluation mode, so that batch norm costs the same in both, and a batch of images."""
    torch.manual_seed(0)
    config = settings(backbone, tiny)
    batch = 2 if tiny else BATCH
    return kind(config, ellipsoid(3)).eval(), torch.rand(batch, 3, config.input_px, config.input_px)


def alternate(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, called in turn after one call to warm up."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(values)) for name, values in times.items()}


def forward(model: Pixel2Mesh, images: torch.Tensor) -> None:
    with torch.no_grad():
        model(images)


def both_ways(model: Pixel2Mesh, images: torch.Tensor) -> None:
    model.zero_grad(set_to_none=True)
    sum(x.square().mean() for x in model(images).levels).backward()


def encode(model: Pixel2Mesh, images: torch.Tensor, backward: bool) -> None:
    """The encoder alone."""
    if type(model) is Pixel2Mesh:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.set_grad_enabled(backward):
        maps = model.encoder(model.normalise(images))
    if backward:
        model.zero_grad(set_to_none=True)
        sum(x.square().mean() for x in maps).backward()


def products(model: Pixel2Mesh, batch: int) -> list[tuple[int, int, int]]:
    """The matrix products (rows, inner, columns) of the graph part, each where it has the fewest rows."""
    counts, config, rows = model.template.counts, model.config, []
    sizes = [config.input_px // 2**k for k in (2, 3, 4, 5)]
    for k, (n, hidden) in enumerate(zip(counts, config.hidden, strict=True)):
        coarse = counts[max(0, k - 1)]
        rows += [(min(size**2, coarse), c, 2 * hidden) for size, c in zip(sizes, model.encoder.channels, strict=True)]
        if k:
            rows.append((coarse, config.hidden[k - 1], 2 * hidden))
        rows += [(n, hidden, 2 * hidden)] * (2 * config.blocks[k])
        rows.append((n, hidden, 2 * (config.last_hidden if k == len(counts) - 1 else 3)))
    return [(r * batch, inner, columns) for r, inner, columns in rows]


def product_ms(shapes: list[tuple[int, int, int]], rounds: int, backward: bool) -> float:
    """Milliseconds of these products by torch.mm, one after another, and of their two gradients each."""
    known: dict[tuple[int, int, int], float] = {}
    for r, inner, columns in set(shapes):
        a, b, g = torch.rand(r, inner), torch.rand(inner, columns), torch.rand(r, columns)

        def run(a=a, b=b, g=g) -> None:
            a @ b
            if backward:
                a.T @ g, g @ b.T

        known[r, inner, columns] = alternate({"": run}, rounds)[""]
    return sum(known[shape] for shape in shapes)


def compare(backbone: str, rounds: int, tiny: bool) -> None:
    """Ours against the plain network."""
    ours, images = build(Pixel2Mesh, backbone, tiny)
    plain, _ = build(PlainNetwork, backbone, tiny)
    plain.load_state_dict(ours.state_dict())
    shapes = products(ours, len(images))
    for title, run, backward in (("forward", forward, False), ("forward + backward", both_ways, True)):
        ms = alternate(
            {
                "ours": lambda run=run: run(ours, images),
                "plain": lambda run=run: run(plain, images),
                "encoder": lambda back=backward: encode(ours, images, back),
                "plain encoder": lambda back=backward: encode(plain, images, back),
            },
            rounds,
        )
        bound = ms["encoder"] + product_ms(shapes, rounds, backward)
        graph = ms["ours"] - ms["encoder"], ms["plain"] - ms["plain encoder"]
        print(
            f"{backbone} {title}: {ms['ours']:.0f} ms, plain {ms['plain']:.0f} ms: {ms['plain'] / ms['ours']:.2f} times"
            f"; graph part {graph[0]:.0f} against {graph[1]:.0f} ms: {graph[1] / max(graph[0], 1e-3):.2f} times"
            f"; bound {bound:.0f} ms (encoder {ms['encoder']:.0f}): {100 * bound / ms['ours']:.0f}% of it reached"
        )
    used = {kind: peak_mb(kind, backbone, tiny) for kind in ("ours", "plain")}
    share = 100 * used["ours"] / max(used["plain"], 1)
    print(
        f"{backbone} peak memory of a step: {used['ours']:.0f} MB, plain {used['plain']:.0f} MB: {share:.0f}%, "
        f"{used['plain'] / max(used['ours'], 1):.2f} times less"
    )


def peak_mb(kind: str, backbone: str, tiny: bool) -> float:
    """What a step adds to the memory of a fresh process, MB."""
    words = [sys.executable, __file__, "--memory", kind, backbone, *(["--tiny"] if tiny else [])]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def print_memory(kind: str, backbone: str, tiny: bool) -> None:
    model, images = build(Pixel2Mesh if kind == "ours" else PlainNetwork, backbone, tiny)
    before = memory_mb("VmRSS")
    both_ways(model, images)
    print(memory_mb("VmHWM") - before)


def memory_mb(name: str) -> float:
    """An entry of this process's status, MB."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


def roofline(backbone: str, rounds: int, tiny: bool) -> None:
    """How many of the machine's floating-point operations the network uses, its peak measured in turn.

    Work is what the encoder's convolutions and the graph part's `products` need; all else is in the time alone.
    """
    model, images = build(Pixel2Mesh, backbone, tiny)
    side = 256 if tiny else 2048
    a, b, source = torch.rand(side, side), torch.rand(side, side), torch.rand(8 * side**2)
    target = torch.empty_like(source)
    in_graph = sum(2 * rows * inner * columns for rows, inner, columns in products(model, len(images)))
    for title, run, backward in (("forward", forward, False), ("forward + backward", both_ways, True)):
        with FlopCounterMode(display=False) as counter:
            encode(model, images, backward)
        work = counter.get_total_flops() + in_graph * (3 if backward else 1)
        ms = alternate(
            {
                "ours": lambda run=run: run(model, images),
                "product": lambda: torch.mm(a, b),
                "copy": lambda: target.copy_(source),
            },
            rounds,
        )
        peak, rate = 2 * side**3 / ms["product"] / 1e6, work / ms["ours"] / 1e6
        print(
            f"{backbone} {title}: {work / 1e9:.0f} GFLOP at {rate:.0f} GFLOP/s, {rate / peak:.2f} times the peak of "
            f"{peak:.0f} (sgemm of {side}); copying {2 * source.nbytes / ms['copy'] / 1e6:.0f} GB/s"
        )


def precision(backbone: str, rounds: int, tiny: bool) -> None:
    """bf16 autocast and torch.compile against fp32."""
    model, images = build(Pixel2Mesh, backbone, tiny)

    def low(run: Callable[[Pixel2Mesh, torch.Tensor], None]) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            run(model, images)

    for title, run in (("forward", forward), ("forward + backward", both_ways)):
        ms = alternate({"fp32": lambda run=run: run(model, images), "bf16": lambda run=run: low(run)}, rounds)
        print(f"{backbone} {title} with bf16: {ms['bf16']:.0f} ms, {ms['fp32'] / ms['bf16']:.2f} times fp32")
    with torch.no_grad():
        full = model(images).levels[-1]
        with torch.autocast("cpu", torch.bfloat16):
            off = (model(images).levels[-1] - full).norm(dim=-1).mean() / (full - full.mean(1, True)).norm(
                dim=-1
            ).mean()
    print(f"{backbone} bf16 moves a vertex by {100 * off:.2f}% of the mesh's mean radius (random weights)")
    if tiny:
        return
    compiled = torch.compile(model.encoder)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        ms = alternate({"eager": lambda: model.encoder(images), "compiled": lambda: compiled(images)}, rounds)
    print(
        f"{backbone} encoder with torch.compile, forward: {ms['compiled']:.0f} ms, "
        f"{ms['eager'] / ms['compiled']:.2f} times eager"
    )


def sampling(rounds: int, tiny: bool) -> None:
    """Bags of rows against grid_sample, on the same maps, forward and backward."""
    torch.manual_seed(0)
    for channels, size, n in ((8, 8, 20),) if tiny else ((256, 56, 618), (1024, 14, 618), (80, 28, 1801)):
        x = torch.randn(BATCH, channels, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
        grid = (torch.rand(n, BATCH, 2) * 2 - 1).requires_grad_()

        def by_grid_sample(x=x, grid=grid) -> torch.Tensor:
            return F.grid_sample(x, grid.transpose(0, 1)[:, :, None], align_corners=False)[..., 0].permute(2, 0, 1)

        def by_bags(x=x, grid=grid) -> torch.Tensor:
            return pool_features([x], grid, "zeros")

        ms = alternate(
            {"grid": lambda f=by_grid_sample: f().sum().backward(), "bags": lambda f=by_bags: f().sum().backward()},
            rounds,
        )
        print(
            f"sampling {n} vertices of {channels} channels at {size} px: {ms['bags']:.1f} ms, "
            f"{ms['grid'] / ms['bags']:.1f} times grid_sample"
        )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5, help="medians of so many")
    options.add_argument("--backbones", nargs="*", default=["resnet50", "vgg16"])
    options.add_argument("--memory", nargs=2, metavar=("KIND", "BACKBONE"), help=argparse.SUPPRESS)
    options.add_argument("--tiny", action="store_true", help="one round of next to nothing, for the tests")
    chosen = options.parse_args()
    if chosen.memory:
        print_memory(*chosen.memory, chosen.tiny)
        return
    print(json.dumps({"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}))
    rounds = 1 if chosen.tiny else chosen.rounds
    for backbone in ["vgg16"] if chosen.tiny else chosen.backbones:
        compare(backbone, rounds, chosen.tiny)
        roofline(backbone, rounds, chosen.tiny)
        precision(backbone, rounds, chosen.tiny)
    sampling(rounds, chosen.tiny)


if __name__ == "__main__":
    main()
