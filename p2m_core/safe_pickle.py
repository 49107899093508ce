"""Pickles of numpy arrays, read without running what is in them: files of the older Pixel2Mesh ports."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from p2m_core.errors import InputError

# What a damaged or a foreign pickle makes the unpickler raise.
UNPICKLING_ERRORS = (
    pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError, TypeError, ValueError, MemoryError,
    OverflowError,
)  # fmt: skip


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that builds numpy arrays and nothing else, so that a file cannot run code."""

    ALLOWED = {
        (module, name)
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("ndarray", "dtype", "_reconstruct", "scalar")
    } | {("_codecs", "encode"), ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def load_arrays(path: str | Path) -> Any:
    """The numpy arrays of a pickle, in lists, tuples and dicts.

    Raises: InputError if the file holds anything else or is no pickle.
    """
    try:
        return _ArraysOnly(io.BytesIO(Path(path).read_bytes()), encoding="latin1").load()
    except UNPICKLING_ERRORS as error:
        problem = f"is not a pickle of numpy arrays: {error}"
        raise InputError(path, "", problem, "give a file from a source you trust") from error
