"""What a training may be asked while it runs: to stop, to train longer, to lower its learning rate.

RUN/requests/*.json  one request each. The buttons of notebook 02 and `p2m control` write them; the trainer looks once a
                     second, does as asked after the current step, writes a checkpoint and a line of history.json, and
                     deletes the request. So it is one way for trainings in this process and in others.

Longer: the schedule is stretched. Warm-up counts steps and stays where it was; decay follows the share of the run that
is done, which becomes smaller, so the rate rises to what a run of the new length would have at this step.
"""

from __future__ import annotations

import json
import logging
import math
import time
import uuid
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from p2m_core.config.settings import TrainConfig
from p2m_core.errors import InputError
from p2m_core.files import write_json
from p2m_workbench.training.distributed import is_training

FOLDER = "requests"
LOOK_S = 1.0  # between two looks into the folder
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One request.

    stop: end after the current step, with a checkpoint.   epochs, minutes: to train longer than the settings say.
    scale_lr: factor of the learning rate from the next step on, above 0 and at most 1.
    """

    stop: bool = False
    epochs: int = 0
    minutes: float = 0.0
    scale_lr: float = 1.0

    def __post_init__(self) -> None:
        if not self.asked:
            raise InputError("request", "", "asks for nothing", "ask to stop, for more time or for a lower rate")
        if not (self.epochs >= 0 and 0 <= self.minutes < math.inf and 0 < self.scale_lr <= 1):
            problem = f"{self.epochs} epochs, {self.minutes:g} minutes, learning rate times {self.scale_lr:g}"
            raise InputError("request", "", problem, "give epochs and minutes above 0, and a factor from 0 to 1")

    @property
    def asked(self) -> dict[str, Any]:
        """The fields that ask for something, for JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def changes(self, settings: TrainConfig, epoch_s: float) -> dict[str, Any]:
        """The settings of section train that this request changes, with their new values.

        A run by the clock is prolonged in minutes, another one in whole epochs, whichever of them is asked for.

        Args: epoch_s: seconds that an epoch takes.
        """
        changed: dict[str, Any] = {}
        if self.epochs or self.minutes:
            if settings.minutes:
                changed["minutes"] = settings.minutes + self.minutes + self.epochs * epoch_s / 60
            else:
                changed["epochs"] = settings.epochs + self.epochs + math.ceil(60 * self.minutes / epoch_s)
        if self.scale_lr != 1:
            changed["lr"] = settings.lr * self.scale_lr
        return changed


def send(folder: Path, request: Request) -> None:
    """Ask the training of a run's folder.   Raises InputError if none runs there."""
    if not is_training(folder):
        raise InputError(
            folder, "", "no process trains this run now", "start it first; changed settings: --continue-with"
        )
    write_json(folder / FOLDER / f"{time.time_ns():020d}-{uuid.uuid4().hex[:6]}.json", asdict(request))


def clear_requests(folder: Path) -> None:
    """Delete requests that a training did not live to see."""
    for path in (folder / FOLDER).glob("*.json"):
        path.unlink(missing_ok=True)


class Inbox:
    """The requests to the training of a run's folder."""

    def __init__(self, folder: Path):
        self.folder, self.looked = folder / FOLDER, -math.inf

    def take(self) -> list[Request]:
        """New requests, the oldest first, which are deleted; looks at most once in LOOK_S."""
        now = time.monotonic()
        if now - self.looked < LOOK_S or not self.folder.is_dir():
            return []
        self.looked, requests = now, []
        for path in sorted(self.folder.glob("[0-9]*.json")):
            try:
                requests.append(Request(**json.loads(path.read_text())))
            except (ValueError, TypeError) as error:  # written by hand
                _log.warning("%s is no request: %s", path, error)
            path.unlink(missing_ok=True)
        return requests
