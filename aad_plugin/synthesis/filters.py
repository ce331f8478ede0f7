"""Which synthetic pairs are worth training on. Knows texts and numbers, no models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aad_plugin.errors import ConfigError

# Why a pair is left out, in the order in which the rules are tried; a pair counts for the first that holds.
REASONS = {
    "identical": "both answers are the same text",
    "too_short": "an answer has fewer tokens than --min-tokens",
    "too_long": "an answer ran into --max-new-tokens: its end would be taught as a place to stop",
    "margin": "the reward of chosen minus that of rejected is not above --min-margin",
}


def margin_of(least: float, judge: str | None) -> float | None:
    """The least margin of rewards that a pair must have; None where no judge measures one.

    Raises:
        ConfigError: a margin without a judge.
    """
    if least and not judge:
        raise ConfigError(
            f"--min-margin {least:g} needs --margin-judge reward:<model>, whose rewards it is a difference of"
        )
    return least if judge else None


@dataclass(frozen=True)
class Candidate:
    """One prompt with both answers.

    Args:
        tokens: of chosen and rejected. truncated: whether each ran into its budget; None: not known.
        scores: of chosen and rejected by a reward model; None where none was asked.
    """

    prompt: list[dict[str, Any]] = field(repr=False)
    chosen: str
    rejected: str
    tokens: tuple[int, int]
    truncated: tuple[bool | None, bool | None] = (None, None)
    scores: tuple[float, float] | None = None


@dataclass(frozen=True)
class Limits:
    """What a pair must satisfy.

    Args:
        min_tokens: of either answer, >= 1. keep_truncated: keep answers that ran into their budget.
        min_margin: rewards; a pair's margin must be above it. None: no margin is asked.
    """

    min_tokens: int = 1
    keep_truncated: bool = False
    min_margin: float | None = None

    def __post_init__(self) -> None:
        if self.min_tokens < 1:
            raise ConfigError(f"--min-tokens must be at least 1, got {self.min_tokens}")

    def reason(self, candidate: Candidate) -> str | None:
        """Why a pair is left out; None for one that stays."""
        if candidate.chosen.strip() == candidate.rejected.strip():
            return "identical"
        if min(candidate.tokens) < self.min_tokens or not (candidate.chosen.strip() and candidate.rejected.strip()):
            return "too_short"
        if not self.keep_truncated and any(candidate.truncated):
            return "too_long"
        if self.min_margin is not None and candidate.scores is not None:
            chosen, rejected = candidate.scores
            if not chosen - rejected > self.min_margin:  # NaN is no margin
                return "margin"
        return None


def sift(candidates: Sequence[Candidate], limits: Limits) -> tuple[list[Candidate], dict[str, int]]:
    """Return the pairs that stay, in order, and how many each rule has left out."""
    dropped = dict.fromkeys(REASONS, 0)
    kept = []
    for candidate in candidates:
        reason = limits.reason(candidate)
        if reason is None:
            kept.append(candidate)
        else:
            dropped[reason] += 1
    return kept, dropped
