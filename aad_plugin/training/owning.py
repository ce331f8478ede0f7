"""A folder that one training run holds, what it was asked, and memory that one model gives back to the next."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.files.run_folder import read_account, refuse_other_run
from aad_plugin.files.whole import write_text
from aad_plugin.training.trl_command import check_options, end_orphans


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


def take_up(folder: Path, asked: dict[str, Any], what: str, command: str, training: Path, more: Sequence[str]) -> None:
    """Begin a run in a folder that is held, or go on with it: keep what was asked, end orphans, check TRL's options.

    Args:
        asked: what decides the outcome. what: names another such run, for the message.
        command: TRL's. training: its recipe. more: further options of it.
    Raises:
        ConfigError: the folder holds training that was asked for otherwise, or TRL does not take the options.
    """
    there = read_account(folder / "asked.json")
    if there and (folder / "training").is_dir():
        refuse_other_run(folder, there, asked, dict.fromkeys(asked, what))
    write_text(folder / "asked.json", json.dumps(asked, indent=2, default=str) + "\n")
    end_orphans(folder)
    check_options(command, ["--config", str(training), "--output_dir", str(folder), *more])


def write_rows(path: Path, prompts: Sequence[list[dict[str, str]]]) -> None:
    """Write prompts, each a list of chat messages, as the rows that TRL reads."""
    path.parent.mkdir(exist_ok=True)
    write_text(path, "".join(json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts))
