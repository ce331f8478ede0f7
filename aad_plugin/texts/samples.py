"""Rows of lm-eval's ``samples_*.jsonl``: the answers in them, and the strategy each was asked for by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.texts.messages import Messages


def sample_answers(entry: Mapping[str, Any], place: str) -> list[tuple[str | None, Any]]:
    """(strategy its request asked for, answer) of each answer of an lm-eval row."""
    if not isinstance(entry["resps"], list):
        raise ConfigError(f"{place}: resps must be a list of answers, got {type(entry['resps']).__name__}")
    found = []
    for number, answer in enumerate(entry["resps"]):
        settings = _settings(entry.get("arguments"), number)
        name = settings.get("strategy") if isinstance(settings, dict) else None
        found.append((name, answer[0] if isinstance(answer, list) and answer else answer))
    return found


def repeats_of(entry: Mapping[str, Any]) -> int:
    """How many answers lm-eval drew per request of a row (``repeats`` of the task); `sample_answers` has the first."""
    return max((len(answer) for answer in entry["resps"] if isinstance(answer, list)), default=1)


def shows_pictures(entry: Mapping[str, Any]) -> bool:
    """Whether the request of an lm-eval row showed pictures or sound besides its text."""
    arguments = entry.get("arguments")
    requests = arguments.values() if isinstance(arguments, dict) else arguments if isinstance(arguments, list) else ()
    return any(
        bool(one.get("arg_2")) if isinstance(one, dict) else isinstance(one, list) and len(one) > 2 and bool(one[2])
        for one in requests
    )


def _settings(arguments: Any, number: int) -> Any:
    """The generation settings of a row's request; older versions of lm-eval wrote a list of [context, settings]."""
    if isinstance(arguments, list):
        one = arguments[number] if number < len(arguments) else None
        return one[1] if isinstance(one, list) and len(one) > 1 else None
    one = arguments.get(f"gen_args_{number}") if isinstance(arguments, dict) else None
    return one.get("arg_1") if isinstance(one, dict) else None


def in_turns(doc: Mapping[str, Any], prompt: str | Messages, answer: Any) -> tuple[str | Messages, Any]:
    """A document whose turns were all answered (a JSON list of replies) has all of them as its prompt."""
    turns = doc.get("turns")
    if not isinstance(turns, list) or len(turns) < 2 or not isinstance(answer, str) or not answer.startswith("["):
        return prompt, answer
    try:
        replies = json.loads(answer)
    except ValueError:
        return prompt, answer
    if not isinstance(replies, list) or len(replies) != len(turns):
        return prompt, answer
    return [{"role": "user", "content": str(turn)} for turn in turns], replies
