"""The legs of a run: from which step on which settings trained it, so that none is ignored and none misrecorded.

RUN/history.json  a list of legs: step, time, command, the settings that decide the weights, and those that changed;
                  and of what a run was asked while it trained (see requests.py): step, time, asked, and what it changed

What was asked stays in force when the run goes on, over the settings that it is given; until these change, too.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from p2m_core.config.loading import with_values
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


def in_force(legs: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that the last leg was given, and those that it was asked to take instead, by dotted name."""
    given: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    for leg in legs:
        if "settings" in leg:
            given = leg["settings"]
            asked = {name: value for name, value in asked.items() if name not in leg["changed"]}
        else:
            asked |= {name: now for name, (_, now) in leg["changed"].items()}
    return given, asked


def changed_settings(config: Config) -> dict[str, tuple[Any, Any]]:
    """What differs from the settings of the run's last leg: (then, now) by dotted name."""
    given, asked = in_force(read_legs(run_folder(config)))
    changed = {}
    for name, value in deciding_settings(config).items():
        if name in given and value not in (given[name], asked.get(name, given[name])):
            changed[name] = asked.get(name, given[name]), value
    return changed


def as_asked(config: Config) -> Config:
    """The config with what the run was asked while it trained, but for settings that have changed since."""
    folder, changed = run_folder(config), changed_settings(config)
    _, asked = in_force(read_legs(folder))
    asked = {name: value for name, value in asked.items() if name not in changed}
    return with_values(config, asked, str(folder / HISTORY_FILE)) if asked else config


def require_same(config: Config) -> None:
    """Raise InputError if a run is to go on, or counts as finished, with other settings than it was trained with."""
    changed = changed_settings(config)
    if not changed or config.train.continue_with:
        return
    first, (then, now) = next(iter(changed.items()))
    others = f"; changed, too: {', '.join(list(changed)[1:])}" if len(changed) > 1 else ""
    problem = f"was {json.dumps(then)} when this run was trained, and is {json.dumps(now)} now{others}"
    remedy = "give the settings that it was trained with, or the run another name (--set name=...), or go on with these"
    remedy += " by --set train.continue_with=true; p2m train: --continue-with"
    raise InputError(run_folder(config), first, problem, remedy)


def begin_leg(config: Config, step: int) -> None:
    """Add a leg to the run's history if it is its first one, or its settings changed; a run at step 0 begins anew.

    Args: config: as given, without what was asked.
    """
    folder, changed = run_folder(config), changed_settings(config)
    legs = read_legs(folder) if step else []
    if legs and not changed:
        return
    leg = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "changed": {name: list(pair) for name, pair in changed.items()} if step else {},
        "settings": deciding_settings(config),
    }
    _append(folder, legs, step, leg)


def note_asked(folder: Path, step: int, asked: dict[str, Any], changed: dict[str, tuple[Any, Any]]) -> None:
    """Add to the run's history what it was asked after a step, and which settings it changed: {name: (then, now)}."""
    entry = {"asked": asked, "changed": {name: list(pair) for name, pair in changed.items()}}
    _append(folder, read_legs(folder), step, entry)


def asked_lines(legs: list[dict[str, Any]]) -> list[str]:
    """What a run was asked while it trained, a line each."""
    lines = []
    for leg in legs:
        if "asked" in leg:
            changes = [f"{name} {then} → {now}" for name, (then, now) in leg["changed"].items()]
            lines.append(f"after step {leg['step']}: {', '.join(changes) or 'stopped'}")
    return lines


def history_table(folder: Path) -> pd.DataFrame:
    """A run's history: after which step what changed, by the command or as asked while it trained."""
    rows = []
    for leg in read_legs(folder):
        changes = ", ".join(f"{name} {then} → {now}" for name, (then, now) in leg["changed"].items())
        command = "a notebook" if "ipykernel" in "".join(leg["command"][:1]) else " ".join(leg["command"])
        by = "asked while it trained" if "asked" in leg else command
        time = f"{datetime.fromisoformat(leg['time']):%Y-%m-%d %H:%M:%S %Z}"
        rows.append({"after step": leg["step"], "changed": changes or "nothing", "by": by, "time": time})
        if "asked" in leg and not changes:
            rows[-1]["changed"] = "stopped"
    return pd.DataFrame(rows, columns=["after step", "changed", "by", "time"]).set_index("after step")


def earlier_runs(config: Config, most: int = 5) -> list[Path]:
    """Folders of other runs beside a run's that trained the same network on the same data by the same loss, whose
    curves can be laid over its own; the latest first."""
    own, wanted = run_folder(config), deciding_settings(config)
    kinds = [name for name in wanted if name.startswith(("model.", "loss.")) or name == "data.store"]
    histories = [path for path in own.parent.glob(f"*/{HISTORY_FILE}") if path.parent != own]
    found: list[Path] = []
    for path in sorted(histories, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            settings = in_force(read_legs(path.parent))[0]
        except InputError:  # another run's damage is no concern of this one
            continue
        if len(found) < most and all(settings.get(name) == wanted[name] for name in kinds):
            found.append(path.parent)
    return found


def _append(folder: Path, legs: list[dict[str, Any]], step: int, entry: dict[str, Any]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / HISTORY_FILE, [*legs, {"step": step, "time": now, **entry}])
