"""Files written whole or not at all, and refused before work is done where they cannot be. Knows bytes and JSON alone."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError


def check_writable(path: Path) -> None:
    """Raise ConfigError, before any work is done, where a file cannot be written; makes missing folders."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_stream(path):
            return
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder, expected a file")
        probe = path.with_name(f".{path.name}.{os.getpid()}")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file to write, which takes the place of ``path`` when the block ends and is removed when it fails.

    Makes missing folders. An OSError is the caller's to put into words.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def making_folder(target: Path) -> Iterator[Path]:
    """As :func:`replacing`, for a folder that is not there yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        yield part
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; a pipe or a device (/dev/stdout) is written to as it stands.

    Raises:
        ConfigError: the disk or the folder does not take it.
    """
    try:
        if _is_stream(path):
            path.write_text(text, encoding="utf-8")
            return
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _is_stream(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write {path}: {error.strerror or error}; pass another file")


def without_nan(value: Any) -> Any:
    """`value` with every NaN and infinity in it replaced by None, as JSON wants it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return value
