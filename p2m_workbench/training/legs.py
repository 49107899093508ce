"""The legs of a run: from which step on which settings trained it, so that none is ignored and none misrecorded.

RUN/history.json  a list of legs: step, time, command, the settings that decide the weights, and those that changed
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from p2m_core.config.paths import resolve, run_folder, shown
from p2m_core.config.settings import Config
from p2m_core.errors import InputError
from p2m_core.files import write_json

HISTORY_FILE = "history.json"
DECIDING = ("model", "loss", "augment", "train")
# Of section train, what only says where, how fast and how often.
INDIFFERENT = {
    "device", "workers", "threads", "processes", "log_steps", "preview_minutes", "validate_minutes",
    "checkpoint_minutes", "continue_with",
}  # fmt: skip


def deciding_settings(config: Config) -> dict[str, Any]:
    """The settings that decide what a training gives, by dotted name, as JSON has them."""
    found: dict[str, Any] = {"seed": config.seed, "data.store": shown(resolve(config.data.store))}
    for section in DECIDING:
        for name, value in getattr(config, section).model_dump(mode="json").items():
            if section != "train" or name not in INDIFFERENT:
                found[f"{section}.{name}"] = value
    return found


def read_legs(folder: Path) -> list[dict[str, Any]]:
    """The legs of a run's folder; [] of one that has not trained, or was trained before legs were kept."""
    path = folder / HISTORY_FILE
    try:
        return json.loads(path.read_text()) if path.exists() else []
    except ValueError as error:
        raise InputError(
            path, "", f"is damaged: {error}", "delete it, and the run's settings are taken as given"
        ) from None


def changed_settings(config: Config) -> dict[str, tuple[Any, Any]]:
    """What differs from the settings of the run's last leg: (then, now) by dotted name."""
    legs = read_legs(run_folder(config))
    then = legs[-1]["settings"] if legs else {}
    now = deciding_settings(config)
    return {name: (then[name], value) for name, value in now.items() if name in then and then[name] != value}


def require_same(config: Config) -> None:
    """Raise InputError if a run is to go on, or counts as finished, with other settings than it was trained with."""
    changed = changed_settings(config)
    if not changed or config.train.continue_with:
        return
    first, (then, now) = next(iter(changed.items()))
    others = f"; changed, too: {', '.join(list(changed)[1:])}" if len(changed) > 1 else ""
    problem = f"was {json.dumps(then)} when this run was trained, and is {json.dumps(now)} now{others}"
    remedy = "give the run another name (--set name=...), or go on with these by --continue-with"
    raise InputError(run_folder(config), first, problem, remedy)


def begin_leg(config: Config, step: int) -> None:
    """Add a leg to the run's history if it is its first one, or its settings changed; a run at step 0 begins anew."""
    folder, changed = run_folder(config), changed_settings(config)
    legs = read_legs(folder) if step else []
    if legs and not changed:
        return
    leg = {
        "step": step,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "changed": {name: list(pair) for name, pair in changed.items()} if step else {},
        "settings": deciding_settings(config),
    }
    write_json(folder / HISTORY_FILE, [*legs, leg])
