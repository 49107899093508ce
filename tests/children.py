"""Trainings and preprocessing in processes of their own, to be killed, starved and told to stop.

They start in a moment: a server that has imported everything is forked for each.
"""

import csv
import multiprocessing
import os
import socket
import sys
from pathlib import Path

from torch import nn
from torch.nn import functional as F

CONTEXT = multiprocessing.get_context("forkserver")
# Imports alone: torch's threads, which no fork survives, are not yet there.
CONTEXT.set_forkserver_preload(["p2m_workbench.training.trainer", "torch.distributed"])


class TinyEncoder(nn.Module):
    """Four convolutions with batch norm, or without any norm."""

    channels = (4, 6, 8, 8)

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        sizes = [(3, 4, 4), (4, 6, 2), (6, 8, 2), (8, 8, 2)]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, s, s) for a, b, s in sizes)
        self.norms = nn.ModuleList(norm(b) for _, b, _ in sizes)

    def forward(self, x):
        maps = []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
            maps.append(x)
        return maps


def group_norm(channels):
    return nn.GroupNorm(2, channels)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_child(home: Path, overrides: list[str], norm, before, command: str, rank: int, world: int, port: int) -> None:
    """Work as `p2m COMMAND` would: with its messages in HOME/child-RANK.txt and its exit status."""
    import torch

    import p2m_core.network.model
    from p2m_workbench import cli

    sys.stdout = sys.stderr = open(home / f"child-{rank}.txt", "a", buffering=1)  # noqa: SIM115, as long as it lives
    torch.set_num_threads(1)
    os.environ["P2M_HOME"] = str(home)
    p2m_core.network.model.build_backbone = lambda *_: TinyEncoder(norm)
    if world > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in place.items()}
    if before is not None:
        before()
    words = [word for override in overrides for word in ("--set", override)]
    sys.exit(cli.main([command, *words]))


def start(
    home: Path, overrides: list[str], world: int = 1, norm=nn.BatchNorm2d, before=None, command: str = "train"
) -> list:
    """Processes that train one run together, or one that does another command.

    before: a module-level function that each calls first.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    children = [
        CONTEXT.Process(target=run_child, args=(home, overrides, norm, before, command, rank, world, port))
        for rank in range(world)
    ]
    for child in children:
        child.start()
    return children


def wait(children: list, limit_s: float = 120) -> list[int]:
    """Exit codes; what has not ended by then is killed."""
    for child in children:
        child.join(limit_s)
        if child.exitcode is None:
            child.kill()
            child.join()
    return [child.exitcode for child in children]


# --- what a run left ---


def weights_of(folder):
    from p2m_core.network.weights import read_weights

    return read_weights(folder)[0]


def assert_same_weights(a, b, **tolerance):
    import torch

    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def metrics(folder):
    with open(folder / "metrics.csv", newline="") as stream:
        return list(csv.DictReader(stream))
