"""The study's prompts: read from a file, made distinct, and drawn into a table's and a dev split that share none."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.judges.inputs import check_text, json_rows, prompt_of
from aad_plugin.judges.items import as_messages, digest

__all__ = ["Prompt", "draw_splits", "prompt_mark", "read_prompts"]

Prompt = str | list[dict[str, str]]


def read_prompts(path: Path) -> list[Prompt]:
    """Read prompts: .txt (one per line), JSON lines or a JSON list of objects with prompt, instruction or messages.

    Returns:
        distinct prompts in file order; of a conversation, the turns up to the user's last one.
    Raises:
        ConfigError: no such file, a malformed line or a prompt without text (file and line), no prompts at all.
    """
    if not path.is_file():
        raise ConfigError(f"no prompt file {str(path)!r}: expected .txt, .jsonl or .json")
    found: dict[str, Prompt] = {}
    for place, prompt in _places(path):
        turns = as_messages(prompt)
        if not turns or not str(turns[-1].get("content", "")).strip():
            raise ConfigError(f"{place}: this prompt has no text; every row needs some to answer")
        check_text(place, *(str(turn["content"]) for turn in turns))
        found.setdefault(prompt_mark(prompt), prompt)
    if not found:
        raise ConfigError(f"{path} holds no prompts")
    return list(found.values())


def prompt_mark(prompt: Any) -> str:
    """Return 16 hex digits of a prompt's turns; white space around a turn does not count."""
    turns = [[turn["role"], str(turn["content"]).strip()] for turn in as_messages(prompt)]
    return digest(turns)[:16]


def draw_splits(
    prompts: Sequence[Prompt], num_table: int, num_dev: int, seed: int
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Draw the table's and the dev split's prompts, disjoint, without replacement.

    Raises:
        ConfigError: fewer prompts than both need.
    """
    if len(prompts) < num_table + num_dev:
        raise ConfigError(
            f"{num_table} prompts for the table and {num_dev} for the dev split are needed, the file has {len(prompts)} "
            "distinct ones: pass more, or lower --num-prompts or --num-dev"
        )
    drawn = random.Random(f"study split {seed}").sample(range(len(prompts)), num_table + num_dev)
    return tuple(prompts[i] for i in drawn[:num_table]), tuple(prompts[i] for i in drawn[num_table:])


def _places(path: Path) -> Iterator[tuple[str, Prompt]]:
    if path.name.removesuffix(".gz").endswith((".json", ".jsonl")):
        for place, entry in json_rows(path):
            prompt = prompt_of(entry, place)
            yield place, prompt if isinstance(prompt, str) else [dict(turn) for turn in prompt]
        return
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()
