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
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        _check_beginning(value, messages, where, name)
    answers = [_last_text(value) for value in (chosen, rejected)]
    if not (_last_text(messages) and all(answers)):
        raise ConfigError(f"{where}: prompt, chosen and rejected must hold text")
    if answers[0] == answers[1]:
        raise ConfigError(f"{where}: chosen and rejected are equal")
    return Preference(messages, answers[0], answers[1])


def _check_beginning(value: Any, prompt: Any, where: str, name: str) -> None:
    """Refuse a conversation whose last turn is no answer to the prompt, but to something else.

    Raises:
        ConfigError: more turns before the last than none or the prompt's, or a last turn that is not the assistant's.
    """
    if not (isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value)):
        return
    if len(value) > 1 and _said(value[:-1]) != _said(prompt):
        raise ConfigError(
            f"{where}: {name} does not begin as the prompt (or as chosen) does; expected conversations that differ in the "
            "last turn alone"
        )
    if value[-1].get("role", "assistant") != "assistant":
        raise ConfigError(f"{where}: {name} must end with the assistant's turn, got {value[-1]['role']!r}")


def _said(turns: Any) -> list[tuple[Any, Any]] | None:
    if not (isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns)):
        return None
    said = [(turn.get("role"), turn.get("content")) for turn in turns]
    return [(role, content.strip() if isinstance(content, str) else content) for role, content in said]


def _last_text(value: Any) -> str:
    """A text without white space at its ends: the value itself, or its last message's; "" where there is none."""
    if isinstance(value, list):
        value = value[-1].get("content") if value and isinstance(value[-1], dict) else None
    return value.strip() if isinstance(value, str) else ""
