"""Requests with follow-ups: a model answers the user's later turns after its own earlier replies.

A request whose gen_kwargs hold ``follow_ups`` (the user's further turns) is answered with one reply per turn, handed to
lm-eval as a JSON list, since its answers are strings.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence

from lm_eval.api.instance import Instance

from aad_plugin.harness.answer_store import Answer, is_truncated
from aad_plugin.texts.thinking import answer_after_thinking

FOLLOW_UPS = "follow_ups"
Messages = list[dict[str, str]]


def answer_in_turns(
    requests: Sequence[Instance],
    answer: Callable[[list[Instance]], list[Answer]],
    next_context: Callable[[str, str, str], str],
) -> list[Answer]:
    """Answer requests, those with follow-ups turn by turn; all requests of one turn are answered together.

    Args:
        answer: answers requests without follow-ups.
        next_context: (rendered prompt so far, reply, the user's next turn) -> rendered prompt.
    Returns:
        one answer per request: the text, or a JSON list of replies where there were follow-ups, which is truncated
        where one of its replies is.
    """
    current = [_without_follow_ups(request) for request in requests]
    left = [list(request.args[1].get(FOLLOW_UPS) or ()) for request in requests]
    replies: list[list[Answer]] = [[] for _ in requests]
    rows = list(range(len(requests)))
    while rows:
        for row, text in zip(rows, answer([current[row] for row in rows]), strict=True):
            replies[row].append(text)
        rows = [row for row in rows if left[row]]
        for row in rows:
            context, gen_kwargs = current[row].args
            said = answer_after_thinking(replies[row][-1])
            visible = str(replies[row][-1]) if said is None else said
            current[row] = _with_arguments(current[row], next_context(context, visible, left[row].pop(0)), gen_kwargs)
    return [
        _as_list(texts) if request.args[1].get(FOLLOW_UPS) else texts[0]
        for request, texts in zip(requests, replies, strict=True)
    ]


def _as_list(replies: Sequence[Answer]) -> Answer:
    ends = [is_truncated(reply) for reply in replies]
    truncated = True if True in ends else None if None in ends else False
    return Answer(json.dumps(replies, ensure_ascii=False), truncated)


def replies_of(answer: str, turns: int) -> list[str]:
    """Return an answer's replies: of one turn the text itself, of several the JSON list made above."""
    if turns == 1:
        return [answer]
    try:
        replies = json.loads(answer)
    except ValueError:
        replies = None
    return replies if isinstance(replies, list) and len(replies) == turns else [answer] + [""] * (turns - 1)


def _without_follow_ups(request: Instance) -> Instance:
    context, gen_kwargs = request.args
    if FOLLOW_UPS not in gen_kwargs:
        return request
    return _with_arguments(request, context, {k: v for k, v in gen_kwargs.items() if k != FOLLOW_UPS})


def _with_arguments(request: Instance, context: str, gen_kwargs: dict) -> Instance:
    changed = copy.copy(request)
    changed.arguments = (context, gen_kwargs)
    return changed
