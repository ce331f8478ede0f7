"""A folder that one training run holds, and memory that one model gives back to the next."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aad_plugin.errors import ConfigError


def free() -> None:
    """Give back what a model held, which TRL and the next model need."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def owned(folder: Path, command: str) -> Iterator[None]:
    """Hold the folder: two runs in it would train into one output.

    Args:
        command: ``aad``'s, for the message.
    Raises:
        ConfigError: another run holds it, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ConfigError(
            f"another aad {command} is at work in {folder}: wait for it, or pass another --output"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror or error}") from error
