"""What one forward of a pair reads: token ids, where they stand, and what is kept of them.

Every kind of sides takes this record, so what steps carry besides (another input, another mask) is named here and in
`reading.py` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from aad_plugin.errors import ConfigError
from aad_plugin.pair.cache import PairCache
from aad_plugin.pair.multimodal import MultimodalInputs, batch_axis


@dataclass(frozen=True)
class Step:
    """One step of B rows.

    Attributes:
        input_ids: (B, T) int64, the tokens after what the cache holds.
        cache: for the roles that read; None to read without one.
        keep: K, positions whose logits are wanted, counted from the end; 0 for all T.
        attention_mask: (B, cached + T), 0 for padding; None for all ones.
        position_ids: (B, T), or (A, B, T) by a model's own rule; None to count tokens.
        multimodal: what the prompts show besides; only with the prompts.
    """

    input_ids: Tensor
    cache: Cache | None = None
    keep: int = 0
    attention_mask: Tensor | None = None
    position_ids: Tensor | None = None
    multimodal: MultimodalInputs | None = None

    @property
    def positions(self) -> int:
        """K, with all positions counted."""
        return self.keep or self.input_ids.shape[1]

    def alone(self, number: int) -> Step:
        """What side ``number`` of several reads by itself: the same, with the cache of its own."""
        return replace(self, cache=self.cache.caches[number]) if isinstance(self.cache, PairCache) else self

    def to(self, device: torch.device) -> Step:
        """The same on another device, but for the cache."""
        mask, places, shown = self.attention_mask, self.position_ids, self.multimodal
        return Step(
            self.input_ids.to(device),
            self.cache,
            self.keep,
            None if mask is None else mask.to(device),
            None if places is None else places.to(device),
            None if shown is None else shown.to(device),
        )


def whole_text(ids: Tensor, mask: Tensor, keep: int = 0) -> Step:
    """Return the step that reads (B, T) texts behind left padding at once, without a cache.

    Args:
        mask: (B, T), 0 for padding. keep: positions whose logits are wanted; 0 for all.
    """
    return Step(ids, None, keep, mask, (mask.cumsum(-1) - 1).clamp(min=0))


def repeated(step: Step, sides: int) -> Step:
    """Return the step whose rows are a step's again and again: (B, …) -> (S · B, …)."""
    mask, places = step.attention_mask, step.position_ids
    return replace(
        step,
        input_ids=_rows_again(step.input_ids, sides),
        attention_mask=None if mask is None else _rows_again(mask, sides),
        position_ids=None if places is None else _rows_again(places, sides),
    )


def _rows_again(rows: Tensor, times: int) -> Tensor:
    """Return (times · B, T), or of (A, B, T) positions (A, times · B, T): the rows again and again; one costs no copy."""
    shape = [1] * rows.ndim
    shape[batch_axis(rows)] = times
    if rows.shape[batch_axis(rows)] == 1:
        return rows.expand(*(times if size > 1 else -1 for size in shape)) if times > 1 else rows
    return rows.repeat(*shape)


def first_copies(step: Step, copies: int) -> Step:
    """Return the step of one row for each prompt, of which a step has adjacent copies: (B · copies, …) -> (B, …).

    Raises:
        ConfigError: the rows are no such copies; whether they are waits for the device.
    """
    if copies == 1:
        return step
    mask, places = step.attention_mask, step.position_ids
    first = replace(
        step,
        input_ids=step.input_ids[::copies],
        attention_mask=None if mask is None else mask[::copies],
        position_ids=None if places is None else places[..., ::copies, :],
    )
    for given, kept in ((step.input_ids, first.input_ids), (mask, first.attention_mask)):
        if given is not None and kept is not None and not torch.equal(given, kept.repeat_interleave(copies, 0)):
            raise ConfigError(
                f"copies={copies} reads each prompt once for {copies} rows in succession, got {len(given)} rows that are "
                "not: repeat input_ids and attention_mask with repeat_interleave(copies, 0), or leave copies out"
            )
    return first
