"""Rows of one batch by different strategies: which scores each row gets. Pure functions on tensors; knows no vLLM."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from aad_plugin.decoding import (
    IMPLAUSIBLE,
    aad_scores,
    aad_scores_above,
    aad_scores_of_candidates,
    eft_scores,
    list_candidates,
)
from aad_plugin.settings import DecodingSettings

STRATEGIES = ("aad", "greedy", "reference", "eft")
# Ids beyond the shared vocabulary: below every score, and finite, since later stages add and compare.
BEYOND = 10 * IMPLAUSIBLE


class Side(Protocol):
    """One model's logits of a step: (R, V) whole rows, or (N,) single ones.

    Attributes:
        on_demand: whether asking for less saves anything. If not, every rank projects every row that may be needed:
            to leave one out on one rank only would leave the others waiting.
    """

    on_demand: bool

    def whole(self) -> Tensor | None: ...

    def columns(self, rows: Tensor, tokens: Tensor) -> Tensor: ...


class Room:
    """Memory for one step's scores, kept for the next: on a CPU, fresh pages for them take longer than the scores."""

    def __init__(self) -> None:
        self._kept = torch.empty(0)

    def __call__(self, like: Tensor) -> Tensor:
        """Return float32 of a tensor's shape and device, overwritten by the next call."""
        if self._kept.numel() < like.numel() or self._kept.device != like.device:
            self._kept = torch.empty(like.numel(), device=like.device)
        return self._kept[: like.numel()].view(like.shape)


def reads_both(settings: Sequence[DecodingSettings]) -> bool:
    """Whether rows of these settings need both sides."""
    kinds = {one.strategy for one in settings}
    return kinds != {"greedy"} and kinds != {"reference"}


def warm(policy: Tensor, reference: Tensor) -> None:
    """Compile what scores rows on a device, for one row and for any number of rows: a request need not wait for it.

    Args:
        policy, reference: (R, V) rows as a step has them.
    """
    for number in (1, 2, 3):
        _scored(policy[:number], reference[:number], 0.1)


@functools.cache
def _compiled() -> Any:
    return torch.compile(aad_scores_above, fullgraph=True)


@functools.lru_cache(maxsize=256)
def _threshold(alpha: float, device: torch.device) -> Tensor:
    """A tensor, since compiled code is made anew for every number."""
    return torch.tensor(math.log(alpha), dtype=torch.float32, device=device)


def _scored(policy: Tensor, reference: Tensor, alpha: float) -> Tensor:
    """Return :func:`aad_scores`; on a GPU by a few compiled kernels instead of a dozen, each of which costs a launch."""
    if policy.device.type != "cuda":
        return aad_scores(policy, reference, alpha)
    found: Tensor = _compiled()(policy, reference, _threshold(alpha, policy.device))
    return found


def score_rows(
    policy: Side,
    reference: Side,
    settings: Sequence[DecodingSettings],
    shared: int,
    vocab_size: int,
    room: Room | None = None,
) -> Tensor | None:
    """Return (R, vocab_size) scores; None where a side gathers no logits on this rank.

    Args:
        policy, reference: asked only for what some row needs, each of its own width.
        settings: R, strategy and its parameter per row; strategies of `STRATEGIES`.
        shared: number of token ids that both models know; ids beyond it are never chosen.
        vocab_size: width the host expects.
        room: where the scores may be laid; read them before the next step.
    """
    # By identity first: hashing hundreds of settings at every step takes longer than scoring them.
    kinds = sorted(set({id(one): one for one in settings}.values()), key=repr)
    if len(kinds) == 1:
        scores = _scores(policy, reference, kinds[0], shared, None, room)
    else:
        scores = None
        for kind in kinds:
            rows = torch.tensor([row for row, one in enumerate(settings) if one == kind])
            part = _scores(policy, reference, kind, shared, rows)
            if part is None:
                continue
            if scores is None:
                scores = torch.empty(len(settings), part.shape[-1], dtype=torch.float32, device=part.device)
            scores[rows.to(part.device)] = part.float()
    if scores is None or vocab_size == shared:
        return scores
    return torch.nn.functional.pad(scores, (0, vocab_size - shared), value=BEYOND)


def _scores(
    policy: Side,
    reference: Side,
    settings: DecodingSettings,
    shared: int,
    rows: Tensor | None,
    room: Room | None = None,
) -> Tensor | None:
    """Return the scores of some rows, or of all for None, by one strategy."""

    def whole(side: Side) -> Tensor | None:
        logits = side.whole()
        if logits is None:
            return None
        return (logits if rows is None else logits[rows.to(logits.device)])[:, :shared]

    if settings.strategy == "reference":
        return whole(reference)
    policy_logits = whole(policy)
    if policy_logits is None and settings.strategy != "greedy":
        whole(reference)  # takes part in the gathering of the rank that has the logits
    if policy_logits is None or settings.strategy == "greedy":
        return policy_logits
    if settings.strategy == "eft":
        return eft_scores(policy_logits, _there(whole(reference)), settings.eft_scale)
    if not reference.on_demand:
        return _scored(policy_logits, _there(whole(reference)), settings.alpha)
    candidates = list_candidates(policy_logits, settings.alpha)
    out = room(policy_logits) if room else None
    if candidates.most == 1:
        return aad_scores_of_candidates(policy_logits, candidates, settings.alpha, out=out)
    place = candidates.rows if rows is None else rows.to(candidates.rows.device)[candidates.rows]
    values = [side.columns(place, candidates.tokens) for side in (policy, reference)]
    return aad_scores_of_candidates(policy_logits, candidates, settings.alpha, values[0], values[1], out)


def _there(logits: Tensor | None) -> Tensor:
    assert logits is not None, "one side gathered its logits on this rank, the other did not"
    return logits
