"""Read answers that are known again, as they were decoded. Tensors in, tensors out.

A text that grew beyond a change of rotary factors (`rope_switch.py`) is read in pieces: what lies before the change
without what lies behind it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import DynamicCache

from aad_plugin.decoding import logprobs_of
from aad_plugin.pair.multimodal import MultimodalInputs, positions_of
from aad_plugin.pair.reading import Role
from aad_plugin.pair.rope_switch import rope_switches
from aad_plugin.pair.sides import ReadPair
from aad_plugin.pair.step import Step

# Logits held at once while an answer is read again: 256 MiB in float32.
_MAX_LOGITS = 2**26


def crossed_columns(pair: ReadPair, attention_mask: Tensor, length: int) -> list[int]:
    """Where answers of ``length`` tokens grow beyond changes of rotary factors: how many columns are read before each.

    Args:
        attention_mask: (B, P) of the prompts, rows alike in length if any crosses.
    Returns:
        none where none crosses; numbers below P where the prompts themselves lie beyond one.
    """
    changes = rope_switches(pair.sides.models().values())
    padding = attention_mask.shape[1] - int(attention_mask[0].sum()) if changes else 0
    return sorted({padding + one for one in changes if attention_mask.shape[1] + length - 1 > padding + one})


def decoded_logprobs(pair: ReadPair, roles: tuple[Role, ...], tokens: Tensor, attention_mask: Tensor) -> list[Tensor]:
    """Return per role (B, T) float32 log-probabilities of an answer's tokens, in nats, each as the step had it that chose
    the token.

    Args:
        tokens: (B, P + T) int64, left-padded prompts and answers. attention_mask: (B, P) of the prompts.
    """
    start = attention_mask.shape[1]
    length = tokens.shape[1] - start
    found: dict[Role, list[Tensor]] = {role: [] for role in roles}
    for number, rows in enumerate(known_rows(pair, roles, tokens, attention_mask, length)):
        for role, row in rows.items():
            found[role].append(logprobs_of(row, tokens[:, start + number, None]).squeeze(-1))
    return [torch.stack(steps, dim=1) for steps in found.values()]  # (B,) per step -> (B, T)


@torch.no_grad()
def known_rows(
    pair: ReadPair,
    roles: tuple[Role, ...],
    tokens: Tensor,
    attention_mask: Tensor,
    length: int,
    multimodal: MultimodalInputs | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Yield per answer token role -> (B, V) logits that precede it; reads the texts in pieces, with a cache.

    A text that grows beyond a change of rotary factors is read as it was decoded: what lies before the change without what
    lies behind it.
    """
    if multimodal is None and (crossed := crossed_columns(pair, attention_mask, length)):
        yield from _rows_across(pair, roles, tokens, attention_mask, length, crossed)
        return
    num, start = len(tokens), attention_mask.shape[1]
    tokens = tokens[:, : start + length]
    mask = torch.cat([attention_mask, attention_mask.new_ones(num, length)], dim=1)
    positions = positions_of(pair.sides.policy, tokens, mask, multimodal)
    size = max(1, _MAX_LOGITS // (num * pair.vocab_size * len(roles)))
    cache = None
    if pair.is_cached:
        cache = pair.sides.new_cache(roles, lambda model: DynamicCache(config=model.config))
    else:  # a later piece would not know the earlier ones
        size = start + length
    if multimodal is not None:  # a picture is not read in pieces
        size = max(size, start)
    for first in range(0, start + length - 1, size):
        last = min(first + size, start + length - 1)
        keep = max(1, last - max(first, start - 1))  # the head is spared the prompt
        shown = multimodal if first == 0 else None
        step = Step(tokens[:, first:last], cache, keep, mask[:, :last], positions[..., first:last], shown)
        logits = pair.sides.logits(roles, step)
        for position in range(max(first, start - 1), last):
            at = position - (last - keep)
            yield {role: row[:, at, : pair.vocab_size] for role, row in zip(roles, logits, strict=True)}


def _rows_across(
    pair: ReadPair, roles: tuple[Role, ...], tokens: Tensor, attention_mask: Tensor, length: int, crossed: list[int]
) -> Iterator[dict[str, Tensor]]:
    """As `known_rows`, of texts read whole: up to each of the columns ``crossed`` without what lies behind it."""
    start = attention_mask.shape[1]
    mask = torch.cat([attention_mask, attention_mask.new_ones(len(tokens), length)], dim=1)
    positions = positions_of(pair.sides.policy, tokens[:, : start + length], mask, None)
    first, end = start - 1, start + length - 1
    for last in (*(min(max(column, first), end) for column in crossed), end):
        if last > first:
            step = Step(tokens[:, :last], None, last - first, mask[:, :last], positions[..., :last])
            logits = pair.sides.logits(roles, step)
            for at in range(last - first):
                yield {role: row[:, at, : pair.vocab_size] for role, row in zip(roles, logits, strict=True)}
            first = last
