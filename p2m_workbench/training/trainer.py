"""Training, for notebook, command line and cluster: `train` can be stopped, and continues from its last checkpoint.

outputs/RUN/  config.yaml  provenance.json  metrics.csv  status.json  tensorboard/  requests/  ranks/
              preview/  preview.npz  previews.npz  time_machine.html
              history.json          which settings trained it from which step on
              checkpoints/step-N/
              weights.safetensors   the best so far on the validation split
              finished.json         written last
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

from p2m_core.chamfer import chosen_backend
from p2m_core.config.loading import save_config
from p2m_core.config.paths import run_folder, shown
from p2m_core.config.settings import Config
from p2m_core.data import Store, open_store
from p2m_core.errors import InputError
from p2m_core.files import explain_unwritable, write_json
from p2m_core.network.losses import MeshLoss
from p2m_core.network.model import NetworkOutput, count_parameters
from p2m_core.network.weights import save_weights
from p2m_core.precision import autocast_type, choose_device
from p2m_core.targets import Truth
from p2m_synth.signals import StopSignals
from p2m_workbench.interop.reference_network import build_network
from p2m_workbench.provenance import provenance
from p2m_workbench.training.checkpoints import clear_damaged, read_checkpoint, write_checkpoint
from p2m_workbench.training.distributed import Ranks, is_launched, is_training, joined, launch, run_lock
from p2m_workbench.training.legs import as_asked, begin_leg, changed_settings, require_same
from p2m_workbench.training.loader import EpochSampler, block_signals, on_device, split_batch, worker_init
from p2m_workbench.training.loop import run_steps
from p2m_workbench.training.metrics_log import MetricsLog, trim_metrics
from p2m_workbench.training.outlook import outlook
from p2m_workbench.training.pretrained import initialise, load_pretrained
from p2m_workbench.training.previews import SAMPLES, write_previews
from p2m_workbench.training.requests import clear_requests
from p2m_workbench.training.schedule import WeightAverage, learning_rate

VALIDATION_SAMPLES = 256
# Of a run: steps, seconds, lowest validation error, and validations since then. Kept in every checkpoint.
POSITION = ("step", "seconds", "best", "stale")
LOADER_RETRIES = 3  # after a data worker died, most often for want of memory
_log = logging.getLogger(__name__)


class NonFiniteLoss(RuntimeError):
    """The loss, a vertex or the gradient is NaN or infinite; the message names step, samples and terms."""


def check_fit(config: Config, store: Store) -> None:
    """Raise InputError if settings do not fit the template or the camera of a store."""
    levels, loss = len(store.template.counts), config.loss
    for field, entries in (
        ("model.hidden", config.model.hidden),
        ("loss.chamfer_levels", loss.chamfer_levels[:levels]),
        ("loss.laplace_levels", loss.laplace_levels[:levels]),
    ):
        if len(entries) != levels:
            problem = f"has {len(entries)} entries, but the template has {levels} levels"
            raise InputError(store.folder, field, problem, "give one for each level, or another template.levels")
    if config.model.camera != store.camera:
        problem = f"is {config.model.camera}, but the data want {store.camera}"
        raise InputError(store.folder, "model.camera", problem, f"set model.camera={store.camera}")


class Trainer:
    """One run: network, data, optimiser, and its position.

    Args: ranks: this process's place among those that train together.
    """

    def __init__(self, config: Config, ranks: Ranks = Ranks()):  # noqa: B008, it is frozen
        self.config, self.ranks, self.folder = config, ranks, run_folder(config)
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = config.train
        if settings.threads:
            torch.set_num_threads(settings.threads)
        torch.manual_seed(config.seed)
        self.device = choose_device(settings.device, ranks.local_rank)
        self.store = open_store(config)
        check_fit(config, self.store)
        rows = self.store.rows("train")
        if len(rows) < settings.batch_size:
            problem = f"{len(rows)} training samples are fewer than train.batch_size={settings.batch_size}"
            raise InputError(self.store.folder, "splits", problem, "make more samples or a smaller batch")
        self.own_batch = ranks.share(settings.batch_size, settings.accumulate)
        self.batches_per_epoch = len(rows) // settings.batch_size
        self.train_set = self.store.dataset(rows, config, train=True)
        self.val_set = self.store.dataset(self.store.rows("val")[:VALIDATION_SAMPLES], config, train=False)
        self.model = build_network(config.model, self.store.template)
        load_pretrained(self.model.encoder, config.model)
        if settings.init_from:
            self.init_report = initialise(self.model, settings.init_from)
        self.model.to(self.device, memory_format=torch.channels_last)
        if settings.freeze_backbone:
            self.model.encoder.requires_grad_(False)
        self.loss = MeshLoss(config.loss, self.store.template).to(self.device)
        self.decode_truth = self.store.truth_decoder().to(self.device)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, settings.lr, weight_decay=settings.weight_decay, fused=True)
        self.low = autocast_type(settings.precision, self.device, backward=True)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.low is torch.float16)
        self.average = WeightAverage(self.model, settings.ema)
        self.step, self.seconds, self.best, self.stale = 0, 0.0, math.inf, 0
        self.restore()
        self.begun = self.step, self.seconds  # where this process begins
        self.config = as_asked(config)
        unused = self.model.decoder is not None and not config.loss.reconst
        self.network = ranks.wrap(self.model, unused)

    # --- position of the run, checkpoints ---

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        settings = self.config.train
        if settings.minutes:
            return min(1.0, self.seconds / (60 * settings.minutes))
        return min(1.0, self.step / self.last_step)

    @property
    def last_step(self) -> int:
        """The step at which the run ends, unless it ends by the clock."""
        return self.config.train.epochs * self.batches_per_epoch

    @property
    def step_s(self) -> float:
        """Seconds of a step, with its share of validations; of this process, if it has made any."""
        step, seconds = self.begun
        return (self.seconds - seconds) / (self.step - step) if self.step > step else self.seconds / max(1, self.step)

    @property
    def exhausted(self) -> bool:
        """Whether the validation error has not fallen for train.patience validations."""
        return 0 < self.config.train.patience <= self.stale

    def save(self) -> None:
        """Write a checkpoint: weights, optimiser and position, as one folder that is whole or absent."""
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        state |= {"average": self.average.tensors, **{name: getattr(self, name) for name in POSITION}}
        write_checkpoint(self.folder, self.step, self.model, state)

    def restore(self) -> None:
        """Continue from the last checkpoint that is whole, if there is one."""
        state = read_checkpoint(self.folder, self.model, self.device)
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scaler.is_enabled() and state.get("scaler"):
                self.scaler.load_state_dict(state["scaler"])
            self.average.tensors = state["average"]
            for name in POSITION:
                setattr(self, name, state.get(name, 0))
        if self.ranks.first:
            clear_damaged(self.folder, self.step)
            trim_metrics(self.folder / "metrics.csv", self.step)

    # --- the schedule, which may change while it runs ---

    @property
    def schedule(self) -> list[float]:
        """train.epochs, minutes (0 for none) and lr, which requests may change."""
        settings = self.config.train
        return [float(settings.epochs), settings.minutes or 0.0, settings.lr]

    def follow(self, schedule: list[float]) -> None:
        """Take over the `schedule` of the first process."""
        if schedule != self.schedule:
            epochs, minutes, lr = schedule
            changed = {"epochs": int(epochs), "minutes": minutes or None, "lr": lr}
            self.config = self.config.model_copy(update={"train": self.config.train.model_copy(update=changed)})

    # --- steps ---

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """This process's share of the training batches from the run's step on, without end.

        When a data worker dies, the workers are started again, LOADER_RETRIES times.
        """
        for left in reversed(range(LOADER_RETRIES + 1)):
            try:
                with block_signals():
                    batches = iter(self.loader())
                for batch in batches:
                    yield on_device(batch, self.device)
            except (MemoryError, RuntimeError) as error:
                # Errors of a sample would come again with new workers; those of the training loop are not raised here.
                if not isinstance(error, MemoryError) and "DataLoader worker" not in str(error):
                    raise
                problem = f"a data worker died at step {self.step}: {str(error).splitlines()[0]}"
                if not left or not self.config.train.workers:
                    remedy = "use fewer train.workers or a smaller train.batch_size; the same command goes on"
                    raise InputError(self.folder, "train.workers", problem, remedy) from error
                _log.warning("%s; the workers are started again", problem)

    def loader(self) -> DataLoader:
        """The loader of this process's share of the batches, from the run's step on."""
        settings = self.config.train
        epoch, done = divmod(self.step, self.batches_per_epoch)
        # The rest of an epoch that fills no batch is left out, so steps and epochs stay in line.
        whole, skip = self.batches_per_epoch * settings.batch_size, done * settings.batch_size
        place = settings.batch_size, self.ranks.rank, self.ranks.world
        return DataLoader(
            self.train_set,
            self.own_batch,
            sampler=EpochSampler(len(self.train_set), whole, self.config.seed, epoch, skip, *place),
            num_workers=settings.workers,
            drop_last=True,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if settings.workers else None,
            worker_init_fn=worker_init if settings.workers else None,
            multiprocessing_context="spawn" if settings.workers else None,
            generator=torch.Generator(),  # its own, so that a loader made anew leaves the run's random state alone
        )

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.low, enabled=self.low is not None)

    def train_step(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """One update from this process's share of a batch; the means of the loss and its terms over the passes."""
        passes = self.config.train.accumulate
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.train, self.step, self.progress)
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for k, part in enumerate(split_batch(batch, passes)):
            # Random points of the loss are seeded by step, pass and process, so a restarted run draws the same.
            seed = np.random.SeedSequence([self.config.seed, self.step, k, self.ranks.rank])
            torch.manual_seed(int(seed.generate_state(1)[0]))
            last = k + 1 == passes or self.ranks.world == 1
            with nullcontext() if last else self.network.no_sync():  # gradients are exchanged once a step
                loss, values = self.compute_loss(part)
                self.backward(loss / passes)
            sums = {name: sums.get(name, 0) + value / passes for name, value in values.items()}
        self.update(batch)
        self.step += 1
        return sums

    def compute_loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of a pass, and its value and those of its terms.   Raises NonFiniteLoss."""
        prediction = self.forward(batch)
        # Checked before the loss: the nearest-neighbour search refuses such points, but does not know the batch.
        count = int(torch.stack([(~torch.isfinite(x)).sum() for x in prediction.levels]).sum())
        self.require_finite(not count, f"{count} coordinates of vertices are not finite", batch)
        loss, terms = self.loss(prediction, self.truth(batch))
        # Read at once: each reading waits for the device.
        numbers = torch.stack([loss.detach(), *(term.detach() for term in terms.values())]).tolist()
        values = dict(zip(("loss", *terms), numbers, strict=True))
        self.require_finite(math.isfinite(values["loss"]), f"loss {values}", batch)
        return loss, values

    def forward(self, batch: dict[str, torch.Tensor]) -> NetworkOutput:
        with self.autocast():
            return self.network(batch["image"])

    def backward(self, loss: torch.Tensor) -> None:
        self.scaler.scale(loss).backward()

    def update(self, batch: dict[str, torch.Tensor]) -> None:
        """Clip the gradient, move the weights and their average.   Raises NonFiniteLoss."""
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip)
        # The scaler finds its scale by gradients that overflow, and leaves out their steps.
        if not self.scaler.is_enabled() or self.scaler.get_scale() < 1:
            self.require_finite(bool(torch.isfinite(norm)), f"the gradient's norm is {norm:g}", batch)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.model, self.step)

    def truth(self, batch: dict[str, torch.Tensor]) -> Truth:
        """What a batch's predictions are compared with."""
        truth = self.decode_truth(batch)
        truth.image = batch["image"]
        return truth

    def require_finite(self, fine: bool, problem: str, batch: dict[str, torch.Tensor]) -> None:
        """Raise NonFiniteLoss that names the step and the batch's samples, unless all is fine."""
        if not fine:
            names = ", ".join(self.store.table["name"][batch["index"].cpu().numpy()])
            raise NonFiniteLoss(f"step {self.step}: {problem}; the batch: {names}")

    def set_training(self) -> None:
        """Training mode; a frozen encoder stays in evaluation mode, or its batch statistics would drift."""
        self.model.train()
        if self.config.train.freeze_backbone:
            self.model.encoder.eval()

    # --- validation ---

    @torch.no_grad()
    def predict_validation(self, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, Truth]]:
        """Images, predicted finest vertices and truth of the first validation samples, batch by batch."""
        data = Subset(self.val_set, range(min(count, len(self.val_set))))
        for batch in DataLoader(data, self.own_batch, generator=torch.Generator()):
            batch = on_device(batch, self.device)
            with self.autocast():
                levels = self.model(batch["image"]).levels
            yield batch["image"], levels[-1], self.truth(batch)

    def validate(self) -> float:
        """The store's metric of the averaged weights on the validation split; NaN if the split is empty."""
        with self.average.applied(self.model):
            errors = [self.store.error(v, truth) for _, v, truth in self.predict_validation(len(self.val_set))]
        return float(np.concatenate(errors).mean()) if errors else math.nan

    def keep_best(self, score: float) -> None:
        """Write the averaged weights, if their validation error is the lowest so far."""
        self.stale += 1
        if not score > self.best:  # NaN, without a validation split, counts as better
            self.stale = 0 if score < self.best else self.stale
            self.best = score
            about = {
                "name": self.config.name,
                "step": self.step,
                "val_error": score,
                "metric": self.store.metric,
                "data": shown(self.store.manifest["raw"]),
                "samples": len(self.train_set),
            }
            save_weights(self.folder / "weights.safetensors", self.average.tensors, self.model, about)

    def preview(self) -> None:
        """Write the meshes of the first validation samples, see previews.py."""
        with self.average.applied(self.model):
            predicted = list(self.predict_validation(SAMPLES))
        write_previews(self.folder, self.step, self.store, predicted, self.config.model.input_px)


def train(config: Config, bar: bool = True) -> Path:
    """Train, or continue the run in outputs/NAME from its last checkpoint.

    With train.processes above 1 it trains in so many processes; under torchrun or Slurm it is one of theirs.
    Ctrl-C writes a checkpoint and raises KeyboardInterrupt, SIGTERM and SIGUSR1 raise Preempted, a request to stop
    (see requests.py) raises Stopped; the same call then goes on from there.

    Args:    bar: whether to show the progress.
    Returns: the run's folder, with weights.safetensors.
    Raises:  InputError if settings changed since the run was trained (see train.continue_with), if there is no store,
             if another process trains this run, or if the disk is full; NonFiniteLoss.
    """
    folder = run_folder(config)
    require_same(config)
    finished = folder / "finished.json"
    if changed_settings(config):  # a finished run goes on with these
        finished.unlink(missing_ok=True)
    if not is_launched() and not is_training(folder):
        clear_requests(folder)
    if finished.exists():
        _log.info("%s is finished", folder)
    elif config.train.processes > 1 and not is_launched():
        launch(train, config, folder)
    else:
        device = choose_device(config.train.device)
        with (
            explain_unwritable(folder),
            StopSignals(patient=is_launched()) as stop,
            joined("nccl" if device.type == "cuda" else "gloo") as ranks,
            run_lock(folder, ranks, choose_device(config.train.device, ranks.local_rank)),
        ):
            trainer = Trainer(config, ranks)
            if not ranks.first:
                run_steps(trainer, stop, None)
                return folder
            write_beginning(trainer, config)
            with MetricsLog(folder, config.name, trainer.step, trainer.progress, bar) as metrics_log:
                run_steps(trainer, stop, metrics_log)
            write_end(trainer)
    return folder


def write_beginning(trainer: Trainer, config: Config) -> None:
    """Write what a run, or a leg of it, begins with, and say what it runs on.

    Args: config: as given, without what the run was asked before.
    """
    folder, new_leg = trainer.folder, bool(changed_settings(config))
    begin_leg(config, trainer.step)
    if not (folder / "config.yaml").exists() or trainer.step == 0 or new_leg:
        save_config(trainer.config, folder / "config.yaml")
        about = {
            "store": trainer.store.manifest,
            "chamfer": chosen_backend(trainer.device),
            "processes": trainer.ranks.world,
            "precision": str(trainer.low or torch.float32).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }
        if len(trainer.store.damaged):
            about["damaged"] = trainer.store.table["name"][trainer.store.damaged].tolist()
        write_json(folder / "provenance.json", provenance(folder) | about)
        if config.train.init_from:
            write_json(folder / "initialised.json", trainer.init_report)
    for line in outlook(trainer.config, len(trainer.train_set)):
        _log.info("%s", line)


def write_end(trainer: Trainer) -> None:
    """Write finished.json."""
    summary = {
        "steps": trainer.step,
        "seconds": round(trainer.seconds, 1),
        "val_error": trainer.best,
        "metric": trainer.store.metric,
        "parameters": count_parameters(trainer.model),
    }
    write_json(trainer.folder / "finished.json", summary)
