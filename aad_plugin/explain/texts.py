"""From token ids to the pieces of text they add: what a reader sees of a reading."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from aad_plugin.explain.records import Step, Token
from aad_plugin.pair.recorder import Reading

_INCOMPLETE = "\ufffd"


def steps_of(reading: Reading, tokenizer: Any) -> tuple[Step, ...]:
    """Return a reading's steps with their texts."""
    chosen = [ids[0] for ids in reading.ids]
    special = set(tokenizer.all_special_ids)
    steps = []
    for row, piece in enumerate(answer_pieces(tokenizer, chosen)):
        ids = reading.ids[row]
        guides: Sequence[float | None] = [None] * len(ids) if reading.guide is None else reading.guide[row]
        values = zip(ids, reading.log_policy[row], reading.log_reference[row], guides, strict=True)
        own, favourite, *plausible = [
            Token(i, _single(tokenizer, i), policy, reference, guide) for i, policy, reference, guide in values
        ]
        own = dataclasses.replace(own, text=piece)
        known = reading.counts[row], own.id in special, reading.rounding[row]
        steps.append(Step(own, favourite, tuple(plausible), *known))
    return tuple(steps)


def answer_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return per token what it adds to the decoded text; the pieces join to the text with its special tokens.

    Bytes of an unfinished character add nothing; the token that completes it adds the character.
    """
    pieces: list[str] = []
    start = shown = 0  # the window that is decoded, and where in it the text ends that was given out
    for end in range(1, len(ids) + 1):
        before = _decode(tokenizer, ids[start:shown])
        text = _decode(tokenizer, ids[start:end])
        if end < len(ids) and text.endswith(_INCOMPLETE):
            pieces.append("")
            continue
        pieces.append(text[len(before) :])
        start, shown = shown, end
    return pieces


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


@functools.lru_cache(maxsize=65536)
def _single(tokenizer: Any, token: int) -> str:
    return _decode(tokenizer, [token])
