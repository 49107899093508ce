"""recipe.json of a written set: the settings that decide its bytes, so that a folder never holds samples of two."""

from __future__ import annotations

import json
from pathlib import Path

from p2m_core.errors import InputError
from p2m_core.files import write_json


def keep_recipe(path: Path, recipe: dict[str, object], added: dict[str, object] | None = None) -> None:
    """Write recipe.json.   Raises InputError if there is one that differs.

    added: settings that sets of the same generator may lack, since they came later, and what those sets have of them.
    """
    if not path.exists():
        write_json(path, recipe)
    elif (found := (added or {}) | json.loads(path.read_text())) != recipe:
        other = ", ".join(f"{key}={found.get(key)}" for key in recipe | found if found.get(key) != recipe.get(key))
        raise InputError(path, "", f"the folder holds a set made with {other}", "choose another folder or delete it")
