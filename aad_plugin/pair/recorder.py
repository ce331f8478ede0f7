"""Read each step of a decoding off the very scores that choose the token. Tensors in, tensors out; no texts, no files.

`generate` calls the recorder twice per step: the pair's forward shows it the rows, and as a stopping criterion it learns
which token was chosen. What is kept of a row is a few numbers, not the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from aad_plugin.decoding import IMPLAUSIBLE, logprobs_of, plausible_set
from aad_plugin.errors import ConfigError
from aad_plugin.pair.multimodal import MultimodalInputs
from aad_plugin.pair.reading import Role
from aad_plugin.pair.rereading import known_rows
from aad_plugin.pair.rounding import coarsest_dtype, rounding_step
from aad_plugin.pair.sides import ReadPair

_ROLES: tuple[Role, ...] = ("policy", "reference")
_NOT_STEP_BY_STEP = ("num_beams", "assistant_model", "prompt_lookup_num_tokens")


@dataclass(frozen=True)
class Reading:
    """What was read at the steps of one answer; one entry per step.

    Attributes:
        ids: (2 + K) ids each: the chosen token, the policy's favourite, then the plausible ones by falling π_policy.
        counts: plausible tokens. log_policy, log_reference: nats, in the places of `ids`.
        rounding: nats, the distance between neighbours of the policy's largest logit in the pair's dtype.
        guide: in the places of `ids`, the weighted sum of what guides say (scale · (log g − log g_reference), or a reward),
            of vcd the contrast of the pictures; None where nothing guides.
    """

    ids: list[list[int]]
    counts: list[int]
    log_policy: list[list[float]]
    log_reference: list[list[float]]
    rounding: list[float]
    guide: list[list[float]] | None = None


@dataclass
class _Step:
    """One step of a batch: (B, 2 + K) ids, (B,) counts, (B, 2 + K) log-probabilities, (B,) largest logits, and
    (B, 2 + K) of the guides."""

    ids: Tensor
    counts: Tensor
    log_policy: Tensor
    log_reference: Tensor | None
    largest: Tensor
    guide: Tensor | None = None

    def select(self, rows: Sequence[int]) -> _Step:
        """Some rows of the step."""
        index = torch.tensor(rows, device=self.ids.device)
        reference = None if self.log_reference is None else self.log_reference[index]
        guide = None if self.guide is None else self.guide[index]
        return _Step(self.ids[index], self.counts[index], self.log_policy[index], reference, self.largest[index], guide)


class TokenRecorder(StoppingCriteria):
    """Keep what one ``generate`` call's scores say about every token; never stops anything.

    Args:
        alpha: plausibility threshold, in (0, 1].
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._shown: tuple[Mapping[str, Tensor], Tensor | None, Tensor | None] | None = None
        self._steps: list[_Step | None] = []

    def show(self, rows: Mapping[str, Tensor], scores: Tensor, strategy: str, favourites: Tensor | None = None) -> None:
        """Take the rows of the step about to be chosen; called by the pair's forward.

        Args:
            rows: role -> (B, K, V) logits, without a model that the step did not read; the last position is the step's.
                "guide" is what all guides together say of each token.
            scores: (B, K, V), what the choice reads. favourites: (B, K) int64, what greedy decoding takes, where the
            policy's rows are more exact than those that greedy decoding reads.
        """
        own = {role: row[:, -1] for role, row in rows.items()}
        self._shown = (
            own,
            scores[:, -1] if strategy in ("aad", "guided", "vcd") else None,
            None if favourites is None else favourites[:, -1],
        )

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Note the step whose token `generate` has just appended; return (B,) False."""
        assert self._shown is not None
        rows, *rest = self._shown
        self._shown = None
        self._steps.append(_read(rows, input_ids[:, -1], self.alpha, *rest) if "policy" in rows else None)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def readings(
        self,
        pair: ReadPair,
        rows: Sequence[int],
        tokens: Tensor,
        attention_mask: Tensor,
        lengths: Sequence[int],
        multimodal: MultimodalInputs | None = None,
    ) -> list[Reading]:
        """Return one reading for each of some rows of the finished call.

        A model that the strategy did not need is asked once for all steps at the end, the answer being known.

        Args:
            rows: (N) rows of the call. tokens: (N, P + new) int64, their prompts and answers.
            attention_mask: (N, P) of the prompts. lengths: (N) answer tokens, the end included.
            multimodal: what the prompts show.
        """
        longest = max(lengths)
        seen = [step.select(rows) for step in self._steps[:longest] if step is not None]
        if len(seen) < longest:
            seen = list(_forced(pair, tokens, attention_mask, longest, self.alpha, multimodal))
        elif any(step.log_reference is None for step in seen):
            rest = known_rows(pair, ("reference",), tokens, attention_mask, longest, multimodal)
            for step, logits in zip(seen, rest, strict=True):
                if step.log_reference is None:
                    step.log_reference = logprobs_of(logits["reference"], step.ids)
        return _by_row(seen, lengths, coarsest_dtype(pair.sides.models().values()))


def read_answer(
    pair: ReadPair, tokens: Tensor, attention_mask: Tensor, alpha: float, multimodal: MultimodalInputs | None = None
) -> list[Reading]:
    """Read answers that were not decoded here.

    Args:
        tokens: (B, P + T) int64, left-padded prompts followed by answers of T tokens. attention_mask: (B, P).
        alpha: plausibility threshold, in (0, 1]. multimodal: what the prompts show.
    """
    length = tokens.shape[1] - attention_mask.shape[1]
    steps = list(_forced(pair, tokens, attention_mask, length, alpha, multimodal))
    return _by_row(steps, [length] * len(tokens), coarsest_dtype(pair.sides.models().values()))


def check_traceable(options: Mapping[str, Any]) -> None:
    """Refuse ways of generating in which a step is not one forward of one growing answer.

    Raises:
        ConfigError: names the option.
    """
    for name in _NOT_STEP_BY_STEP:
        if (options.get(name) or 1) != 1:
            raise ConfigError(f"a trace follows one answer token by token: leave {name} out, or the trace")


def _read(
    rows: Mapping[str, Tensor],
    chosen: Tensor,
    alpha: float,
    scores: Tensor | None = None,
    favourites: Tensor | None = None,
) -> _Step:
    policy = rows["policy"].float()
    plausible = scores > IMPLAUSIBLE if scores is not None else plausible_set(policy, alpha)
    counts = plausible.sum(-1)
    members = policy.masked_fill(~plausible, -torch.inf).topk(min(int(counts.max()), MAX_PLAUSIBLE)).indices
    favourites = policy.argmax(-1) if favourites is None else favourites
    ids = torch.cat([chosen[:, None], favourites[:, None], members], dim=-1)
    reference = rows.get("reference")
    log_reference = None if reference is None else logprobs_of(reference, ids)
    guide = rows["guide"].float().gather(-1, ids) if "guide" in rows else None
    return _Step(ids, counts, logprobs_of(policy, ids), log_reference, policy.abs().amax(-1), guide)


def _forced(
    pair: ReadPair,
    tokens: Tensor,
    attention_mask: Tensor,
    length: int,
    alpha: float,
    multimodal: MultimodalInputs | None,
) -> Iterator[_Step]:
    """Yield the steps of known answers."""
    start = attention_mask.shape[1]
    for number, rows in enumerate(known_rows(pair, _ROLES, tokens, attention_mask, length, multimodal)):
        yield _read(rows, tokens[:, start + number], alpha)


def _by_row(steps: Sequence[_Step], lengths: Sequence[int], dtype: torch.dtype) -> list[Reading]:
    columns: list[tuple[Any, ...]] = [
        (step.ids.tolist(), step.counts.tolist(), step.log_policy.tolist(), step.log_reference.tolist(),  # type: ignore[union-attr]
         rounding_step(step.largest, dtype).tolist(), None if step.guide is None else step.guide.tolist())
        for step in steps
    ]  # fmt: skip
    readings = []
    for row, length in enumerate(lengths):
        own: list[list[Any]] = [
            [None if column is None else column[row] for column in step] for step in columns[:length]
        ]
        kept = [2 + min(counts, MAX_PLAUSIBLE) for _, counts, *_ in own]
        is_guided = bool(own) and own[0][-1] is not None
        readings.append(
            Reading(
                ids=[ids[:k] for (ids, *_), k in zip(own, kept, strict=True)],
                counts=[counts for _, counts, *_ in own],
                log_policy=[values[:k] for (_, _, values, *_), k in zip(own, kept, strict=True)],
                log_reference=[values[:k] for (_, _, _, values, *_), k in zip(own, kept, strict=True)],
                rounding=[rounding for *_, rounding, _ in own],
                guide=[values[:k] for (*_, values), k in zip(own, kept, strict=True)] if is_guided else None,
            )
        )
    return readings


MAX_PLAUSIBLE = 64
"""Plausible tokens kept per step, the policy's likeliest; `Step.num_plausible` counts all of them."""
