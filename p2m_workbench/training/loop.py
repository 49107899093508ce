"""The loop of a training: step after step, what is due between two of them, what it is asked, and what it tells."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

from p2m_core.config.loading import save_config, with_values
from p2m_synth.signals import Stopped, StopSignals
from p2m_workbench.training.legs import note_asked
from p2m_workbench.training.metrics_log import MetricsLog
from p2m_workbench.training.requests import Inbox, Request
from p2m_workbench.training.status import memory_gib
from p2m_workbench.training.time_machine import write_time_machine

if TYPE_CHECKING:
    from p2m_workbench.training.trainer import Trainer

_log = logging.getLogger(__name__)


class Timer:
    """What is due so many minutes after the start or the last `reset`."""

    def __init__(self, minutes: float):
        self.seconds = 60 * minutes
        self.reset()

    @property
    def due(self) -> bool:
        return time.monotonic() - self.last > self.seconds

    def reset(self) -> None:
        self.last = time.monotonic()


def run_steps(trainer: Trainer, stop: StopSignals, metrics_log: MetricsLog | None) -> None:
    """Steps until the run's end; the process with the log validates and writes, while the others wait for it."""
    settings, ranks, inbox = trainer.config.train, trainer.ranks, Inbox(trainer.folder)
    preview, validation = Timer(settings.preview_minutes), Timer(settings.validate_minutes)
    checkpoint = Timer(settings.checkpoint_minutes)
    trainer.set_training()
    batches, loss, speed = trainer.batches(), None, 0.0
    last_clock = last_logged = time.monotonic()
    logged_step = trainer.step
    if metrics_log:
        metrics_log.show(status_of(trainer, "trains", loss, speed), at_once=True)

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
        requests = inbox.take() if ranks.first and trainer.step else []
        for request in requests:
            obey(trainer, request)
        # All stop at the same step; the first one's clock counts, and what it was asked.
        own = [trainer.seconds, any(request.stop for request in requests), *trainer.schedule]
        signalled, exhausted, trainer.seconds, stopped, *schedule = ranks.total(
            [bool(stop.received), trainer.exhausted, *(value * ranks.first for value in own)], trainer.device
        )
        trainer.follow(schedule)
        ended = trainer.progress >= 1 or bool(exhausted)
        if signalled or stopped or ended:
            break
        values = trainer.train_step(next(batches))
        now = time.monotonic()
        trainer.seconds += now - last_clock
        last_clock = now
        logs = trainer.step % settings.log_steps == 0 or trainer.step == 1
        if logs:
            values = ranks.mean(values, trainer.device)
        if not metrics_log:
            continue
        if logs:
            speed, loss = (trainer.step - logged_step) * settings.batch_size / (now - last_logged), values["loss"]
            last_logged, logged_step = now, trainer.step
            record({"lr": trainer.optimizer.param_groups[0]["lr"], "samples_per_s": round(speed, 1), **values})
        metrics_log.show(status_of(trainer, "trains", loss, speed))
        if trainer.progress >= 1:
            continue
        if preview.due:
            trainer.preview()
            preview.reset()
        if validation.due:
            check()
            validation.reset()
            checkpoint.reset()
        if checkpoint.due:
            trainer.save()
            checkpoint.reset()
        last_logged += time.monotonic() - now  # all that is no training
    batches.close()
    if metrics_log:
        check() if ended else trainer.save()
        write_time_machine(trainer.folder)
        metrics_log.show(status_of(trainer, "finished" if ended else "stopped", loss, speed), at_once=True)
    if not ended:
        if stopped:
            raise Stopped(f"{trainer.folder}: stopped after step {trainer.step} as asked; the same command goes on")
        stop.raise_received(str(trainer.folder))


def obey(trainer: Trainer, request: Request) -> None:
    """Change the settings as asked; history.json, config.yaml and a checkpoint say so."""
    settings = trainer.config.train
    wanted = request.changes(settings, trainer.step_s * trainer.batches_per_epoch)
    changed = {f"train.{name}": (getattr(settings, name), value) for name, value in wanted.items()}
    note_asked(trainer.folder, trainer.step, request.asked, changed)
    trainer.config = with_values(trainer.config, {name: now for name, (_, now) in changed.items()}, "request")
    save_config(trainer.config, trainer.folder / "config.yaml")
    trainer.save()
    _log.info("%s: after step %d as asked: %s", trainer.config.name, trainer.step, request.asked)


def status_of(trainer: Trainer, state: str, loss: float | None, samples_per_s: float) -> dict[str, Any]:
    """Where a run stands, for status.json; `loss` and `samples_per_s` as last logged."""
    settings, epoch = trainer.config.train, trainer.step // trainer.batches_per_epoch + 1
    left = max(0.0, (trainer.last_step - trainer.step) * trainer.step_s) if trainer.step_s else None
    return {
        "state": state,
        "share": trainer.progress,
        "step": trainer.step,
        "steps": 0 if settings.minutes else trainer.last_step,
        "epoch": epoch if settings.minutes else min(epoch, settings.epochs),
        "epochs": settings.epochs,
        "seconds": trainer.seconds,
        "seconds_left": max(0.0, 60 * settings.minutes - trainer.seconds) if settings.minutes else left,
        "loss": loss,
        "lr": trainer.optimizer.param_groups[0]["lr"],
        "samples_per_s": samples_per_s,
        "best": trainer.best if math.isfinite(trainer.best) else None,
        "metric": trainer.store.metric,
        "memory_gib": memory_gib(trainer.device),
    }
