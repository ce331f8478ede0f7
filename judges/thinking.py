"""Remove a model's thinking from its answer: judges, labels and lengths see only what follows it."""

from __future__ import annotations

import re

__all__ = ["answer_after_thinking"]

_OPENED = re.compile(r"\s*(?:<(think|thinking|thought|reasoning)>|\[THINK\])", re.IGNORECASE)
_CLOSED = re.compile(r"(?:</(?:think|thinking|thought|reasoning)>|\[/THINK\])", re.IGNORECASE)


def answer_after_thinking(text: str) -> str | None:
    """Return what follows the thinking, the text itself where there is none, None where the thinking never ended.

    Chat templates often open the block themselves, so a closing tag without an opening one ends thinking too.
    Thinking counts only at the start of a text; a tag quoted later, inside an answer, is part of the answer.
    """
    opened = _OPENED.match(text)
    closed = _CLOSED.search(text)
    if closed and (opened or not re.search(r"<think|\[THINK\]", text[: closed.start()], re.IGNORECASE)):
        return text[closed.end() :].strip()
    return None if opened else text
