"""Training: one function for notebook and command line, that can be stopped and goes on.

outputs/RUN/  config.yaml  provenance.json  metrics.csv  tensorboard/  preview/  preview.npz  checkpoints/step-N/
              weights.safetensors   the best so far on the validation split
              finished.json         written last
"""

from __future__ import annotations

import csv
import logging
import math
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch.utils.data import DataLoader, Sampler, Subset
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from p2m_core.chamfer import chosen_backend
from p2m_core.checkpoint import initialise, save_weights
from p2m_core.config import Config, run_folder, save_config, shown
from p2m_core.data.store import open_store
from p2m_core.errors import InputError
from p2m_core.files import atomic_path, write_json
from p2m_core.losses import TERMS, MeshLoss, Truth
from p2m_core.model import Pixel2Mesh, count_parameters
from p2m_core.provenance import provenance
from p2m_core.raster import draw_mesh, encode_picture

LOCK_NAME = "train.lock"
KEPT_CHECKPOINTS = 2
VALIDATION_SAMPLES, PREVIEWS = 256, 4
COLUMNS = ("step", "epoch", "seconds", "lr", "loss", *TERMS, "val_error", "samples_per_s")
_log = logging.getLogger(__name__)


class NonFiniteLoss(RuntimeError):
    """The loss, a vertex or the gradient is NaN or infinite; the message names step, samples and terms."""


def choose_device(name: str) -> torch.device:
    """The device of train.device; "auto" is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16; without instructions for it a CPU is slower than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Public names for this are still missing in torch.
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


class EpochSampler(Sampler):
    """(epoch, position) pairs without end: each epoch the first `whole` of a shuffle by seed and epoch.

    It begins in `epoch`, after its first `skip` pairs.
    """

    def __init__(self, count: int, whole: int, seed: int, epoch: int, skip: int):
        self.count, self.whole, self.seed, self.epoch, self.skip = count, whole, seed, epoch, skip

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, skip = self.epoch, self.skip
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.count)[: self.whole]
            yield from ((epoch, int(position)) for position in order[skip:])
            epoch, skip = epoch + 1, 0


class Trainer:
    """One run: network, data, optimiser, and where it stands."""

    def __init__(self, config: Config):
        self.config, self.folder = config, run_folder(config)
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = config.train
        if settings.threads:
            torch.set_num_threads(settings.threads)
        torch.manual_seed(config.seed)
        self.device = choose_device(settings.device)
        self.store = open_store(config)
        rows = self.store.rows("train")
        if len(rows) < settings.batch_size:
            problem = f"{len(rows)} training samples are fewer than train.batch_size={settings.batch_size}"
            raise InputError(self.store.folder, "splits", problem, "make more samples or a smaller batch")
        self.train_set = self.store.dataset(rows, config, train=True)
        self.val_set = self.store.dataset(self.store.rows("val")[:VALIDATION_SAMPLES], config, train=False)
        self.model = Pixel2Mesh(config.model, self.store.template)
        if settings.init_from:
            self.init_report = initialise(self.model, settings.init_from)
            write_json(self.folder / "initialised.json", self.init_report)
        self.model.to(self.device, memory_format=torch.channels_last)
        if settings.freeze_backbone:
            self.model.encoder.requires_grad_(False)
        self.loss = MeshLoss(config.loss, self.store.template).to(self.device)
        self.decode_truth = self.store.truth_decoder().to(self.device)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, settings.lr, weight_decay=settings.weight_decay, fused=True)
        self.average = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.batches_per_epoch = len(rows) // settings.batch_size
        self.step, self.seconds, self.best = 0, 0.0, math.inf
        self.restore()

    # --- where the run stands ---

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        settings = self.config.train
        if settings.minutes:
            return min(1.0, self.seconds / (60 * settings.minutes))
        return min(1.0, self.step / (settings.epochs * self.batches_per_epoch))

    def learning_rate(self) -> float:
        """Warm-up, then half a cosine down to 1%."""
        settings = self.config.train
        warm = min(1.0, (self.step + 1) / max(1, settings.warmup_steps))
        return settings.lr * warm * (0.505 + 0.495 * math.cos(math.pi * self.progress))

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted((self.folder / "checkpoints").glob("step-*"))

    def save(self) -> None:
        """Write weights and all that is needed to go on, as one folder that is whole or absent."""
        final = self.folder / "checkpoints" / f"step-{self.step:08d}"
        if final.exists():
            return
        partial = final.with_name(f".partial-{uuid.uuid4().hex[:8]}")
        partial.mkdir(parents=True)
        save_weights(partial / "weights.safetensors", self.model.state_dict(), self.model, {"step": self.step})
        state = {
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "random": torch.get_rng_state(),
            "settings": self.config.train.model_dump_json() + self.config.loss.model_dump_json(),
        }
        torch.save(state, partial / "state.pt")
        partial.rename(final)
        for old in self.checkpoints()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)

    def restore(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        for partial in (self.folder / "checkpoints").glob(".partial-*"):  # of a run that was killed
            shutil.rmtree(partial)
        found = self.checkpoints()
        if not found:
            return
        report = initialise(self.model, found[-1] / "weights.safetensors")
        if report["fresh"] or report["unused"]:
            raise InputError(
                found[-1],
                "",
                "was made by a network of other settings",
                "choose another name, or delete the run's folder",
            )
        state = torch.load(found[-1] / "state.pt", weights_only=True, map_location=self.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        torch.set_rng_state(state["random"].cpu())
        trim_metrics(self.folder / "metrics.csv", self.step)

    # --- steps ---

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Training batches from where the run stands, without end."""
        settings = self.config.train
        epoch, done = divmod(self.step, self.batches_per_epoch)
        # The rest of an epoch that fills no batch is left out, so steps and epochs stay in line.
        whole = self.batches_per_epoch * settings.batch_size
        sampler = EpochSampler(len(self.train_set), whole, self.config.seed, epoch, done * settings.batch_size)
        loader = DataLoader(
            self.train_set,
            settings.batch_size,
            sampler=sampler,
            num_workers=settings.workers,
            drop_last=True,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if settings.workers else None,
            worker_init_fn=quiet_worker if settings.workers else None,
            multiprocessing_context="spawn" if settings.workers else None,
            generator=torch.Generator(),  # its own, so that a loader made anew leaves the run's random state alone
        )
        for batch in loader:
            yield {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def autocast(self) -> torch.autocast:
        wanted = self.config.train.bf16
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=wanted == "on" or (wanted == "auto" and has_bf16(self.device))
        )

    def train_step(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """One update; the loss and its terms."""
        settings = self.config.train
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        with self.autocast():
            prediction = self.model(batch["image"])
        # Asked before the loss, since the nearest-neighbour search refuses such points without knowing the batch.
        flown = sum(int((~torch.isfinite(x)).sum()) for x in prediction.levels)
        self.require_finite(not flown, f"{flown} coordinates of vertices are not finite", batch)
        loss, terms = self.loss(prediction, self.truth(batch))
        values = {"loss": float(loss.detach()), **{name: float(term.detach()) for name, term in terms.items()}}
        self.require_finite(math.isfinite(values["loss"]), f"loss {values}", batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        self.require_finite(bool(torch.isfinite(norm)), f"the gradient's norm is {norm:g}", batch)
        self.optimizer.step()
        self.update_average()
        self.step += 1
        return values

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

    @torch.no_grad()
    def update_average(self) -> None:
        """Exponential moving average of all weights (train.ema); what is no float is copied."""
        # A short memory at first, or the random start would linger.
        decay = min(self.config.train.ema, (1 + self.step) / (10 + self.step))
        own = self.model.state_dict()
        floats = [name for name, tensor in own.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in floats], [own[n] for n in floats], 1 - decay)
        for name in own.keys() - set(floats):
            self.average[name].copy_(own[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network with the averaged weights, in evaluation mode."""
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        self.model.eval()
        try:
            yield
        finally:  # also after Ctrl-C, or the checkpoint would hold the average
            self.model.load_state_dict(own)
            self.set_training()

    @torch.no_grad()
    def predict_validation(self, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, Truth]]:
        """Images, predicted finest vertices and truth of the first validation samples, batch by batch."""
        data = Subset(self.val_set, range(min(count, len(self.val_set))))
        for batch in DataLoader(data, self.config.train.batch_size, generator=torch.Generator()):
            batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
            with self.autocast():
                levels = self.model(batch["image"]).levels
            yield batch["image"], levels[-1], self.truth(batch)

    def validate(self) -> float:
        """The store's metric of the averaged weights on the validation split; NaN if the split is empty."""
        with self.averaged():
            errors = [self.store.error(v, truth) for _, v, truth in self.predict_validation(len(self.val_set))]
        return float(np.concatenate(errors).mean()) if errors else math.nan

    def preview(self) -> None:
        """Draw the meshes of the first validation samples into preview/, and keep them in preview.npz for a 3D view."""
        with self.averaged():
            predicted = list(self.predict_validation(PREVIEWS))
            pictures = [p for image, vertices, _ in predicted for p in self.draw(image, vertices)]
        if predicted:
            self.keep_meshes(predicted)
        for k, picture in enumerate(pictures):
            with atomic_path(self.folder / "preview" / f"{k}.png") as temporary:
                temporary.write_bytes(encode_picture(picture))

    def keep_meshes(self, predicted: list[tuple[torch.Tensor, torch.Tensor, Truth]]) -> None:
        """Write step, photos, vertices, true vertices where they are known, and faces; px of the network's input."""
        side = self.config.model.input_px
        images, vertices, truth = zip(*predicted, strict=True)
        points = {"vertices": vertices}
        if truth[0].vertices is not None:
            points["truth"] = [part.vertices for part in truth]
        arrays = {name: self.store.on_image(torch.cat(list(x)).cpu().numpy(), side) for name, x in points.items()}
        photos = torch.cat(images).cpu().numpy().transpose(0, 2, 3, 1).clip(0, 1) * 255
        names = self.store.table["name"][self.store.rows("val")[: len(photos)]]
        with atomic_path(self.folder / "preview.npz") as temporary:
            np.savez(
                temporary, step=self.step, photos=np.uint8(photos.round()), faces=self.store.template.faces[-1],
                names=np.array(names, str), **{name: np.float32(array) for name, array in arrays.items()},
            )  # fmt: skip

    def draw(self, images: torch.Tensor, vertices: torch.Tensor) -> list[np.ndarray]:
        """The mesh over its crop, side by side with it, for some samples of a batch."""
        scale, side = 2, self.config.model.input_px * 2
        pictures = []
        for image, points in zip(images.cpu().numpy(), vertices.cpu().numpy(), strict=True):
            photo = (image.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
            mesh = draw_mesh(photo, self.store.on_image(points, side), self.store.template.faces[-1])
            pictures.append(np.concatenate([photo, mesh], 1))
        return pictures


def quiet_worker(_: int) -> None:
    """A data worker: one thread, and the parent alone answers Ctrl-C."""
    import signal

    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def trim_metrics(path: Path, step: int) -> None:
    """Drop the rows after `step`, which a stopped run wrote after its last checkpoint."""
    if not path.exists():
        return
    with open(path, newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if int(row["step"]) <= step]
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def train(config: Config) -> Path:
    """Train, or go on where the run in outputs/NAME stood.

    Ctrl-C writes a checkpoint and raises KeyboardInterrupt; the same call then goes on from there.

    Returns: the run's folder, with weights.safetensors.
    Raises:  InputError if there is no store, or another process trains this run; NonFiniteLoss.
    """
    folder = run_folder(config)
    if (folder / "finished.json").exists():
        _log.info("%s is finished", folder)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK_NAME, timeout=0):
            return train_locked(config, folder)
    except Timeout:
        raise InputError(
            folder, LOCK_NAME, "another process trains this run", "wait for it, or choose another name"
        ) from None


def train_locked(config: Config, folder: Path) -> Path:
    """`train` in a folder that no other process trains in."""
    trainer = Trainer(config)
    if not (folder / "config.yaml").exists() or trainer.step == 0:
        save_config(config, folder / "config.yaml")
        about = {"store": trainer.store.manifest, "chamfer": chosen_backend(trainer.device)}
        write_json(folder / "provenance.json", provenance(folder) | about)
    try:
        run_steps(trainer)
    except KeyboardInterrupt:
        trainer.save()
        raise
    return folder


def run_steps(trainer: Trainer) -> None:
    """Steps until the run's end, with metrics, validation and checkpoints on the way."""
    config, folder, settings = trainer.config, trainer.folder, trainer.config.train
    trainer.set_training()
    last_saved = last_validated = last_drawn = last_clock = time.monotonic()
    metrics = open(folder / "metrics.csv", "a", newline="")  # noqa: SIM115, closed below with the board
    writer = csv.DictWriter(metrics, COLUMNS)
    if metrics.tell() == 0:
        writer.writeheader()
    bar = tqdm(
        total=100,
        initial=round(100 * trainer.progress, 1),
        unit="%",
        desc=config.name,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
    )
    with metrics, SummaryWriter(folder / "tensorboard", purge_step=trainer.step) as board, bar:

        def record(values: dict[str, float]) -> None:
            row = {
                "step": trainer.step,
                "epoch": trainer.step // trainer.batches_per_epoch,
                "seconds": round(trainer.seconds, 1),
                **values,
            }
            writer.writerow(row)
            metrics.flush()
            for name, value in values.items():
                board.add_scalar(name, value, trainer.step)

        def check() -> None:
            trainer.preview()
            score = trainer.validate()
            record({"val_error": score})
            if not score > trainer.best:  # NaN, without a validation split, counts as better
                trainer.best = score
                about = {
                    "name": config.name,
                    "step": trainer.step,
                    "val_error": score,
                    "metric": trainer.store.metric,
                    "data": shown(trainer.store.manifest["raw"]),
                    "samples": len(trainer.train_set),
                }
                save_weights(folder / "weights.safetensors", trainer.average, trainer.model, about)

        logged = last_clock
        batches = trainer.batches() if trainer.progress < 1 else iter(())
        for batch in batches:
            values = trainer.train_step(batch)
            now = time.monotonic()
            trainer.seconds += now - last_clock
            last_clock = now
            if trainer.step % settings.log_steps == 0:
                speed = settings.log_steps * settings.batch_size / (now - logged)
                logged = now
                record({"lr": trainer.optimizer.param_groups[0]["lr"], "samples_per_s": round(speed, 1), **values})
                bar.set_postfix_str(f"step {trainer.step}, loss {values['loss']:.4f}, {speed:.0f} samples/s")
            bar.n = round(100 * trainer.progress, 1)
            bar.refresh()
            if trainer.progress >= 1:
                break
            if now - last_drawn > 60 * settings.preview_minutes:
                trainer.preview()
                last_drawn = time.monotonic()
            if now - last_validated > 60 * settings.validate_minutes:
                check()
                last_validated = time.monotonic()
            if now - last_saved > 60 * settings.checkpoint_minutes:
                trainer.save()
                last_saved = time.monotonic()
        check()
        trainer.save()
    summary = {
        "steps": trainer.step,
        "seconds": round(trainer.seconds, 1),
        "val_error": trainer.best,
        "metric": trainer.store.metric,
        "parameters": count_parameters(trainer.model),
    }
    write_json(folder / "finished.json", summary)
