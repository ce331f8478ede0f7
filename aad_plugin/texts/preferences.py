"""Preference pairs in TRL's formats, read and checked. Knows nothing of models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.texts.parts import refuse_shown


@dataclass(frozen=True)
class Preference:
    """One prompt (chat messages) with the better and the worse answer."""

    prompt: list[dict[str, str]]
    chosen: str
    rejected: str


def read_preferences(path: str | Path) -> list[Preference]:
    """Read JSONL with prompt, chosen and rejected, as strings or as chat messages (TRL's standard and conversational).

    ``prompt`` may be missing where chosen and rejected are whole conversations that differ in the last turn.

    Raises:
        ConfigError: file missing or empty, a malformed line, a missing, empty or equal answer; names file and line.
    """
    source = Path(path)
    if not source.is_file():
        raise ConfigError(f"no preference file {str(path)!r}; expected JSONL with prompt, chosen and rejected")
    found = []
    try:
        lines = source.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read {source}: {e}") from e
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_preference(line, f"{source}, line {number}"))
    if not found:
        raise ConfigError(f"{source} holds no preference pair; expected JSONL with prompt, chosen and rejected")
    return found


def _preference(line: str, where: str) -> Preference:
    try:
        row = json.loads(line)
        chosen, rejected = row["chosen"], row["rejected"]
    except (ValueError, KeyError, TypeError) as e:
        raise ConfigError(f"{where}: expected a JSON object with chosen and rejected, got {line[:80]!r}") from e
    prompt = row.get("prompt")
    refuse_shown(row, chosen if prompt is None else prompt, where)
    if prompt is None and isinstance(chosen, list):
        prompt = chosen[:-1]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    answers = [_last_text(value) for value in (chosen, rejected)]
    if not (_last_text(messages) and all(answers)):
        raise ConfigError(f"{where}: prompt, chosen and rejected must hold text")
    if answers[0] == answers[1]:
        raise ConfigError(f"{where}: chosen and rejected are equal")
    return Preference(messages, answers[0], answers[1])


def _last_text(value: Any) -> str:
    """A text without white space at its ends: the value itself, or its last message's; "" where there is none."""
    if isinstance(value, list):
        value = value[-1].get("content") if value and isinstance(value[-1], dict) else None
    return value.strip() if isinstance(value, str) else ""
