"""Training, for notebook, command line and cluster: `train` can be stopped, and continues from its last checkpoint.

outputs/RUN/  config.yaml  provenance.json  metrics.csv  tensorboard/  preview/  preview.npz  previews.npz  ranks/
              history.json          which settings trained it from which step on
              checkpoints/step-N/
              weights.safetensors   the best so far on the validation split
              finished.json         written last
"""

from __future__ import annotations

import logging
import math
import time
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
from p2m_core.files import atomic_path, explain_unwritable, read_npz, write_json
from p2m_core.geometry.crop import apply_affine
from p2m_core.network.losses import MeshLoss
from p2m_core.network.model import NetworkOutput, count_parameters
from p2m_core.network.weights import save_weights
from p2m_core.precision import autocast_type, choose_device
from p2m_core.targets import Truth
from p2m_synth.render.shaded_mesh import draw_mesh
from p2m_synth.signals import StopSignals
from p2m_workbench.drawing.mesh_images import clay_colors, fit, save_picture
from p2m_workbench.interop.reference_network import build_network
from p2m_workbench.provenance import provenance
from p2m_workbench.training.checkpoints import clear_damaged, read_checkpoint, write_checkpoint
from p2m_workbench.training.distributed import Ranks, is_launched, joined, launch, run_lock
from p2m_workbench.training.legs import begin_leg, changed_settings, require_same
from p2m_workbench.training.loader import EpochSampler, block_signals, on_device, split_batch, worker_init
from p2m_workbench.training.metrics_log import MetricsLog, trim_metrics
from p2m_workbench.training.outlook import outlook
from p2m_workbench.training.pretrained import initialise, load_pretrained
from p2m_workbench.training.schedule import WeightAverage, learning_rate

VALIDATION_SAMPLES, PREVIEWS = 256, 4
MOST_KEPT = 64  # previews of the first sample; beyond that half of them are dropped
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
        unused = self.model.decoder is not None and not config.loss.reconst
        self.network = ranks.wrap(self.model, unused)

    # --- position of the run, checkpoints ---

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        settings = self.config.train
        if settings.minutes:
            return min(1.0, self.seconds / (60 * settings.minutes))
        return min(1.0, self.step / (settings.epochs * self.batches_per_epoch))

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
        """Write the meshes of the first validation samples: preview/N.png, crop and mesh over it; and preview.npz for a
        3D view, with step, photos, vertices, true vertices where they are known, faces and groups; px of the input."""
        with self.average.applied(self.model):
            predicted = list(self.predict_validation(PREVIEWS))
        if not predicted:
            return
        side, faces = self.config.model.input_px, self.store.template.faces[-1]
        groups = self.store.template.groups[-1]
        images, vertices, truth = zip(*predicted, strict=True)
        points = {"vertices": vertices}
        if truth[0].vertices is not None:
            points["truth"] = [part.vertices for part in truth]
        arrays = {name: self.store.on_image(torch.cat(list(x)).cpu().numpy(), side) for name, x in points.items()}
        photos = np.uint8((torch.cat(images).cpu().numpy().transpose(0, 2, 3, 1).clip(0, 1) * 255).round())
        names = self.store.table["name"][self.store.rows("val")[: len(photos)]]
        with atomic_path(self.folder / "preview.npz") as temporary:
            np.savez(
                temporary, step=self.step, photos=photos, faces=faces, groups=groups, names=np.array(names, str),
                **{name: np.float32(array) for name, array in arrays.items()},
            )  # fmt: skip
        self.keep_preview(arrays["vertices"][0])
        for k, (photo, mesh) in enumerate(zip(photos, arrays["vertices"], strict=True)):
            large, matrix = fit(photo, 2 * side)
            over = draw_mesh(large, apply_affine(matrix, mesh), faces, clay_colors(mesh, faces, groups), flat=False)
            save_picture(self.folder / "preview" / f"{k}.png", np.concatenate([large, over], 1))

    def keep_preview(self, vertices: np.ndarray) -> None:
        """Add the first sample's mesh (V, 3) to previews.npz: steps (N,), vertices (N, V, 3) fp16, evenly over time."""
        path, before = self.folder / "previews.npz", {"steps": np.zeros(0, int), "vertices": vertices[None][:0]}
        if path.exists():
            before = read_npz(path, "delete it; training writes it again")
        earlier = before["steps"] < self.step  # later ones are of a leg that was lost
        steps = np.append(before["steps"][earlier], self.step)
        kept = np.concatenate([before["vertices"][earlier], vertices[None]]).astype(np.float16)
        if len(steps) > MOST_KEPT:
            wanted = np.linspace(steps[0], steps[-1], MOST_KEPT // 2)
            idx = np.unique(abs(steps[:, None] - wanted).argmin(0))
            steps, kept = steps[idx], kept[idx]
        with atomic_path(path) as temporary:
            np.savez(temporary, steps=steps, vertices=kept)


def train(config: Config) -> Path:
    """Train, or continue the run in outputs/NAME from its last checkpoint.

    With train.processes above 1 it trains in so many processes; under torchrun or Slurm it is one of theirs.
    Ctrl-C writes a checkpoint and raises KeyboardInterrupt, SIGTERM and SIGUSR1 raise Preempted; the same call then
    goes on from there.

    Returns: the run's folder, with weights.safetensors.
    Raises:  InputError if settings changed since the run was trained (see train.continue_with), if there is no store,
             if another process trains this run, or if the disk is full; NonFiniteLoss.
    """
    folder = run_folder(config)
    require_same(config)
    finished = folder / "finished.json"
    if changed_settings(config):  # a finished run goes on with these
        finished.unlink(missing_ok=True)
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
            train_locked(Trainer(config, ranks), stop)
    return folder


def train_locked(trainer: Trainer, stop: StopSignals) -> None:
    """`train` in a folder that no other run trains in."""
    config, folder = trainer.config, trainer.folder
    if not trainer.ranks.first:
        run_steps(trainer, stop, None)
        return
    new_leg = bool(changed_settings(config))
    begin_leg(config, trainer.step)
    if not (folder / "config.yaml").exists() or trainer.step == 0 or new_leg:
        save_config(config, folder / "config.yaml")
        about = {"store": trainer.store.manifest, "chamfer": chosen_backend(trainer.device)}
        about |= {
            "processes": trainer.ranks.world,
            "precision": str(trainer.low or torch.float32).removeprefix("torch."),
        }
        about["threads"] = torch.get_num_threads()
        if len(trainer.store.damaged):
            about["damaged"] = trainer.store.table["name"][trainer.store.damaged].tolist()
        write_json(folder / "provenance.json", provenance(folder) | about)
        if config.train.init_from:
            write_json(folder / "initialised.json", trainer.init_report)
    for line in outlook(config, len(trainer.train_set)):
        _log.info("%s", line)
    with MetricsLog(folder, config.name, trainer.step, trainer.progress) as metrics_log:
        run_steps(trainer, stop, metrics_log)
    summary = {
        "steps": trainer.step,
        "seconds": round(trainer.seconds, 1),
        "val_error": trainer.best,
        "metric": trainer.store.metric,
        "parameters": count_parameters(trainer.model),
    }
    write_json(folder / "finished.json", summary)


def run_steps(trainer: Trainer, stop: StopSignals, metrics_log: MetricsLog | None) -> None:
    """Steps until the run's end; the process with the log validates and writes, while the others wait for it."""
    settings, ranks = trainer.config.train, trainer.ranks
    trainer.set_training()
    batches, ended = trainer.batches(), False
    last_saved = last_validated = last_drawn = logged = last_clock = time.monotonic()

    def record(values: dict[str, float]) -> None:
        epoch = trainer.step // trainer.batches_per_epoch
        metrics_log.record(trainer.step, {"epoch": epoch, "seconds": round(trainer.seconds, 1), **values})

    def check() -> None:
        trainer.preview()
        score = trainer.validate()
        record({"val_error": score})
        trainer.keep_best(score)
        trainer.save()  # or a run that is killed would forget how good its best weights are

    while True:
        # All stop at the same step, and the first one's clock counts.
        asked, exhausted, seconds = ranks.total(
            [bool(stop.received), trainer.exhausted, trainer.seconds * ranks.first], trainer.device
        )
        trainer.seconds, ended = seconds, trainer.progress >= 1 or bool(exhausted)
        if asked or ended:
            break
        values = trainer.train_step(next(batches))
        now = time.monotonic()
        trainer.seconds += now - last_clock
        last_clock, text = now, ""
        if trainer.step % settings.log_steps == 0:
            values = ranks.mean(values, trainer.device)
            speed = settings.log_steps * settings.batch_size / (now - logged)
            logged = now
            text = f"step {trainer.step}, loss {values['loss']:.4f}, {speed:.1f} samples/s"
            if metrics_log:
                record({"lr": trainer.optimizer.param_groups[0]["lr"], "samples_per_s": round(speed, 1), **values})
        if not metrics_log:
            continue
        metrics_log.show(trainer.progress, text)
        if trainer.progress >= 1:
            continue
        if now - last_drawn > 60 * settings.preview_minutes:
            trainer.preview()
            last_drawn = time.monotonic()
        if now - last_validated > 60 * settings.validate_minutes:
            check()
            last_validated = last_saved = time.monotonic()
        if now - last_saved > 60 * settings.checkpoint_minutes:
            trainer.save()
            last_saved = time.monotonic()
    batches.close()
    if metrics_log:
        check() if ended else trainer.save()
    if not ended:
        stop.raise_received(str(trainer.folder))
