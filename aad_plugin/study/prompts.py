"""The study's prompts: read from a file, made distinct, and drawn into a table's and a dev split that share none."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.texts.messages import as_messages, digest
from aad_plugin.texts.prompts import check_text, prompt_key, prompt_rows

Prompt = str | list[dict[str, str]]


def read_prompts(source: str) -> list[Prompt]:
    """Read prompts.

    Args:
        source: a file or a data set, as :func:`aad_plugin.texts.prompts.prompt_rows` reads them.
    Returns:
        distinct prompts in file order; of a conversation, the turns up to the user's last one.
    Raises:
        ConfigError: nothing there, a malformed line or a prompt without text (file and line), no prompts at all.
    """
    found: dict[str, Prompt] = {}
    for place, prompt in prompt_rows(source):
        turns = [dict(turn) for turn in as_messages(prompt)]
        if not turns or not str(turns[-1].get("content", "")).strip():
            raise ConfigError(f"{place}: this prompt has no text; every row needs some to answer")
        check_text(place, *(str(turn["content"]) for turn in turns))
        found.setdefault(prompt_key(turns), prompt if isinstance(prompt, str) else turns)
    if not found:
        raise ConfigError(f"{source} holds no prompts")
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
