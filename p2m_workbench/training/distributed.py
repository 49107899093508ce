"""One training in several processes: torch.distributed, DistributedDataParallel and torch's elastic launcher.

Each process reads its rank from torchrun's variables RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, which
torchrun, the scripts in slurm/ or `launch` (one machine) set. Every process calls `train`; rank 0 alone writes files.
"""

from __future__ import annotations

import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from p2m_core.config.settings import Config
from p2m_core.errors import InputError, Preempted
from p2m_synth.signals import SIGNALS, Stopped

LOCK_NAME, LAUNCH_LOCK_NAME = "train.lock", "launch.lock"  # held by rank 0, and by `launch`
# Patience with a lock that another `is_training` holds for a moment: of `is_training`, and of a training.
PROBE_S, LOCK_S = 0.2, 0.5
MAX_RESTARTS = 3  # of all processes, after one of them died
GRACE_S = 120  # for the current step and the checkpoint, before a process is killed
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranks:
    """This process's number among `world` processes: of all machines (rank) and of this one (local_rank)."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, count: int, passes: int = 1) -> int:
        """Samples of a step that this process computes, in so many passes.

        Raises: InputError if they cannot be shared evenly: torchrun and Slurm say how many processes there are.
        """
        if count % (self.world * passes):
            each = f" in {passes} passes" if passes > 1 else ""
            problem = f"{count} samples a step cannot be shared evenly by {self.world} processes{each}"
            raise InputError("launch", "train.batch_size", problem, f"give a multiple of {self.world * passes}")
        return count // self.world

    def total(self, values: list[float], device: torch.device) -> list[float]:
        """Sums over all processes; each must call it with as many values."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def mean(self, values: dict[str, float], device: torch.device) -> dict[str, float]:
        """Means over all processes; each must call it with the same names."""
        totals = self.total(list(values.values()), device)
        return {name: total / self.world for name, total in zip(values, totals, strict=True)}

    def wrap(self, model: nn.Module, unused: bool = False) -> nn.Module:
        """The network whose gradients are means over all processes. With several on CUDA, batch norms share statistics.

        Args: unused: whether some parameters take no part in the loss.
        """
        if self.world == 1:
            return model
        on_cuda = next(model.parameters()).device.type == "cuda"
        if on_cuda:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        # The template's sparse matrices are equal everywhere, and collectives do not support their layout.
        sparse = [name for name, x in model.named_buffers() if x.layout != torch.strided]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, sparse)
        own_card = [self.local_rank] if on_cuda else None
        return DistributedDataParallel(model, own_card, find_unused_parameters=unused)


def is_launched() -> bool:
    """Whether torchrun, Slurm or `launch` started this process as one of several."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


@contextmanager
def joined(backend: str) -> Iterator[Ranks]:
    """This process's `Ranks`, connected with the others while the context is open."""
    if not is_launched():
        yield Ranks()
        return
    ranks = Ranks(*(int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    if ranks.world == 1:
        yield ranks
        return
    if backend == "nccl":
        torch.cuda.set_device(ranks.local_rank)
    # After a restart the launcher's store still has the addresses of the processes that died: names by attempt.
    store, rank, world = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    try:
        yield ranks
        dist.barrier()  # rank 0 may still be writing files
    finally:
        dist.destroy_process_group()


def is_training(folder: Path) -> bool:
    """Whether some process trains the run of this folder, or starts those that will."""
    try:
        for name in (LOCK_NAME, LAUNCH_LOCK_NAME):
            if (folder / name).exists():
                with FileLock(folder / name, timeout=PROBE_S):
                    pass
    except Timeout:
        return True
    return False


def busy(folder: Path) -> InputError:
    """The refusal to train a run that another process trains."""
    return InputError(folder, LOCK_NAME, "another process trains this run", "wait for it, or choose another name")


@contextmanager
def run_lock(folder: Path, ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Hold a run's folder, for all processes of the run.   Raises InputError in each if another run holds it."""
    lock, free = FileLock(folder / LOCK_NAME, timeout=LOCK_S), 1.0
    try:
        if ranks.first:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout:
        free = 0.0
    try:
        if ranks.total([free], device)[0] < ranks.world:
            raise busy(folder)
        yield
    finally:
        lock.release()


def launch(train: Callable[[Config], object], config: Config, folder: Path) -> None:
    """Train in train.processes processes of this machine, by torch's elastic launcher, and wait for their end.

    When a process dies, all are started again from the last checkpoint, MAX_RESTARTS times. Their output goes to
    FOLDER/ranks/, that of rank 0 also to this process's.

    Raises: what `train` raises; RuntimeError, with the first failure, if the processes died too often.
    """
    from torch.distributed.elastic.multiprocessing import SignalException, Std
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    (folder / "ranks").mkdir(parents=True, exist_ok=True)
    if is_training(folder):
        raise busy(folder)
    settings = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=config.train.processes, run_id=uuid.uuid4().hex,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost",
        max_restarts=MAX_RESTARTS, monitor_interval=0.5,
        logs_specs=DefaultLogsSpecs(str(folder / "ranks"), redirects=Std.ALL, tee={0: Std.ALL}),
        log_line_prefix_template="${rank}: ",
        signals_to_handle=",".join(number.name for number in SIGNALS), shutdown_timeout=GRACE_S,
    )  # fmt: skip
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with FileLock(folder / LAUNCH_LOCK_NAME):
            ended = elastic_launch(settings, train_as_one)(train, config.model_dump_json())
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        name = signal.Signals(error.sigval).name
        raise Preempted(f"{folder}: stopped by {name}; the same command goes on from the last checkpoint") from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        problem = f"process {rank} of {config.train.processes} failed {1 + MAX_RESTARTS} times"
        raise RuntimeError(f"{folder}: {problem}: {failure.message}; see {folder / 'ranks'}") from None
    finally:
        for number, handler in before.items():  # the launcher leaves its own
            signal.signal(number, handler)
    for error in ended.values():
        if error is not None:
            raise error


def train_as_one(train: Callable[[Config], object], settings: str) -> InputError | Preempted | Stopped | None:
    """A process of `launch`. Errors that a restart would only repeat are returned, not raised."""
    logging.basicConfig(format="%(message)s")
    for package in ("p2m_core", "p2m_synth", "p2m_workbench"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        train(Config.model_validate_json(settings))
    except (InputError, Preempted, Stopped) as error:
        return error
    return None
