"""Rows of one batch by different strategies: which scores each row gets. Pure functions on tensors; knows no vLLM."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from aad_plugin.decoding import (
    IMPLAUSIBLE,
    aad_scores,
    aad_scores_above,
    aad_scores_of_candidates,
    eft_scores,
    guided_scores,
    guided_scores_of_candidates,
    list_candidates,
    weighted_reward,
)
from aad_plugin.settings import DecodingSettings

STRATEGIES = ("aad", "greedy", "reference", "eft", "guided")
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


@dataclass(frozen=True)
class Cast:
    """The models of an engine by role, as its strategies read them.

    Attributes:
        guides: per guide its role and the role that it is measured against, if any.
        shared: number of token ids that all models know; ids beyond it are never chosen.
        vocab_size: width the host expects.
    """

    guides: tuple[tuple[str, str | None], ...]
    shared: int
    vocab_size: int

    def roles(self, settings: DecodingSettings) -> tuple[str, ...]:
        """Whose logits a row of these settings reads, the policy's first."""
        if settings.strategy != "guided":
            return settings.roles
        named = [role for guide in self.guides for role in guide if role is not None]
        return tuple(dict.fromkeys(("policy", *named)))

    def needed(self, settings: Sequence[DecodingSettings]) -> tuple[str, ...]:
        """Whose logits rows of these settings read."""
        return tuple(dict.fromkeys(role for one in _different(settings) for role in self.roles(one)))


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


def _different(settings: Sequence[DecodingSettings]) -> list[DecodingSettings]:
    # By identity first: hashing hundreds of settings at every step takes longer than scoring them.
    return sorted(set({id(one): one for one in settings}.values()), key=repr)


def score_rows(
    sides: Mapping[str, Side], settings: Sequence[DecodingSettings], cast: Cast, room: Room | None = None
) -> Tensor | None:
    """Return (R, vocab_size) scores; None where a side gathers no logits on this rank.

    Args:
        sides: by role; asked only for what some row needs, each of its own width.
        settings: R, strategy and its parameters per row; strategies of `STRATEGIES`.
        room: where the scores may be laid; read them before the next step.
    """
    kinds = _different(settings)
    if len(kinds) == 1:
        scores = _scores(sides, kinds[0], cast, None, room)
    else:
        scores = None
        for kind in kinds:
            rows = torch.tensor([row for row, one in enumerate(settings) if one == kind])
            part = _scores(sides, kind, cast, rows)
            if part is None:
                continue
            if scores is None:
                scores = torch.empty(len(settings), part.shape[-1], dtype=torch.float32, device=part.device)
            scores[rows.to(part.device)] = part.float()
    if scores is None or cast.vocab_size == cast.shared:
        return scores
    return torch.nn.functional.pad(scores, (0, cast.vocab_size - cast.shared), value=BEYOND)


def _scores(
    sides: Mapping[str, Side], settings: DecodingSettings, cast: Cast, rows: Tensor | None, room: Room | None = None
) -> Tensor | None:
    """Return the scores of some rows, or of all for None, by one strategy."""
    roles = cast.roles(settings)

    def whole(role: str) -> Tensor | None:
        logits = sides[role].whole()
        if logits is None:
            return None
        return (logits if rows is None else logits[rows.to(logits.device)])[:, : cast.shared]

    first = whole(roles[0])
    if len(roles) == 1 and settings.strategy != "guided":
        return first
    on_demand = settings.strategy != "eft" and all(sides[role].on_demand for role in roles[1:] or roles)
    if first is None:
        for role in roles[1:]:
            whole(role)  # takes part in the gathering of the rank that has the logits
        return None
    if not on_demand:
        return _of_rows({"policy": first, **{role: _there(whole(role)) for role in roles[1:]}}, settings, cast)
    candidates = list_candidates(first, settings.alpha)
    out = room(first) if room else None
    if candidates.most == 1:
        return aad_scores_of_candidates(first, candidates, settings.alpha, out=out)
    place = candidates.rows if rows is None else rows.to(candidates.rows.device)[candidates.rows]
    values = {role: sides[role].columns(place, candidates.tokens) for role in roles}
    if settings.strategy == "aad":
        return aad_scores_of_candidates(
            first, candidates, settings.alpha, values["policy"], values["reference"], out=out
        )
    reward = torch.zeros_like(values["policy"])
    for (guide, measured), scale in zip(cast.guides, settings.guide_scales(len(cast.guides)), strict=True):
        reward += scale * (values[guide] if measured is None else values[guide] - values[measured])
    return guided_scores_of_candidates(first, candidates, settings.alpha, values["policy"], reward, out=out)


def _of_rows(rows: Mapping[str, Tensor], settings: DecodingSettings, cast: Cast) -> Tensor:
    """Return the scores of whole (R, V) rows by role."""
    policy = rows["policy"]
    if settings.strategy == "eft":
        return eft_scores(policy, rows["reference"], settings.eft_scale)
    if settings.strategy == "aad":
        return _scored(policy, rows["reference"], settings.alpha)
    pairs = zip(cast.guides, settings.guide_scales(len(cast.guides)), strict=True)
    rewards = [
        weighted_reward(rows[guide], None if measured is None else rows[measured], scale)
        for (guide, measured), scale in pairs
    ]
    return guided_scores(policy, functools.reduce(torch.add, rewards), settings.alpha)


def _there(logits: Tensor | None) -> Tensor:
    """A rank that has the policy's logits has the others'."""
    assert logits is not None
    return logits
