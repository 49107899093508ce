"""The errors of the project: bad input, and a training that a signal stopped."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Bad input, said in one line: which file, which field, what is wrong, what to do.

    Args:    path: the file or folder.   field: the part of it, or "" for the whole.
             problem: what is wrong.   remedy: what the user can do about it.
    """

    def __init__(self, path: str | Path, field: str, problem: str, remedy: str):
        self.path, self.field, self.problem, self.remedy = str(path), field, problem, remedy
        where = f"{path}: {field}" if field else str(path)
        super().__init__(" ".join(f"{where}: {problem} ({remedy})".splitlines()))  # names may hold line breaks

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str, str]]:  # for errors of worker processes
        return type(self), (self.path, self.field, self.problem, self.remedy)


class Preempted(RuntimeError):
    """SIGTERM or SIGUSR1 ended a training after a checkpoint: the same command goes on, `p2m train` exits with 75."""
