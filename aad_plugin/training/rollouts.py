"""AAD's answers as a share of each GRPO group: TRL's ``rollout_func``, and the correction for who drew what.

An answer of the pair is drawn from softmax(advantage / temperature) over the plausible set, so the probability of each of
its tokens is known. GRPO's ratio is then π / (the probability the token was drawn with), with GRPO's own clipping: 1 where
the policy drew it, π / π_AAD where the pair did. TRL corrects by itself only under vLLM, so the ratio is set here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from aad_plugin.pair.answering import encode_prompts
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.stopping import answer_lengths, end_ids
from aad_plugin.training.implicit_reward import right_pad
from aad_plugin.training.passes import KeepsOrder
from aad_plugin.training.teachers import aad_log_probs, teacher_scores


class MixedGroups(KeepsOrder, GRPOTrainer):
    """GRPO over groups in which some answers were drawn by another model, each token with its own probability."""

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        found: dict[str, Any] = super()._generate_and_score_completions(inputs)
        ids = torch.cat([found["prompt_ids"], found["completion_ids"]], dim=1)
        mask = torch.cat([found["prompt_mask"], found["completion_mask"]], dim=1)
        with torch.no_grad():
            own, *_ = self._get_per_token_logps_and_entropies(self.model, ids, mask, found["completion_ids"].shape[1])
        found["old_per_token_logps"] = drawn_with(found["sampling_per_token_logps"], own)
        return found


def drawn_with(known: Tensor, own: Tensor) -> Tensor:
    """Return (B, T) log-probabilities that tokens were drawn with.

    Args:
        known: (B, T), NaN where the policy itself drew the token. own: (B, T), the policy's when it drew.
    """
    return torch.where(known.isnan(), own, known)


def mixed_rollouts(
    pair: AlignedPair, *, number: int, alpha: float, temperature: float
) -> Callable[[list[Any], Any], dict[str, Any]]:
    """Return TRL's ``rollout_func``.

    Args:
        number: answers of each group that the pair draws, below the group's size. alpha: of the plausible set.
        temperature: of softmax over the advantages.
    """

    def draw(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        group = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        prompt_ids, images, fields = trainer._tokenize_prompts(prompts)
        mine = [place for place in range(len(prompts)) if trainer.model.training and place % group < number]
        theirs = [place for place in range(len(prompts)) if place not in set(mine)]
        completions: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float | None]] = [[] for _ in prompts]
        if theirs:
            drawn, _ = trainer._generate_single_turn([prompt_ids[place] for place in theirs], images, fields, 1)
            for place, ids in zip(theirs, drawn, strict=True):
                completions[place], logprobs[place] = list(ids), [None] * len(ids)
        if mine:
            asked = [prompts[place] for place in mine]
            answers = draw_from_pair(pair, asked, trainer.max_completion_length, alpha=alpha, temperature=temperature)
            for place, (ids, known) in zip(mine, answers, strict=True):
                completions[place], logprobs[place] = ids, list(known)
        return {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": logprobs}

    return draw


@torch.no_grad()
def draw_from_pair(
    pair: AlignedPair, prompts: Sequence[Any], max_new_tokens: int, *, alpha: float, temperature: float
) -> list[tuple[list[int], list[float]]]:
    """Return (token ids, their log-probabilities) of one answer per prompt, its end token included.

    A token that rounding puts outside the plausible set, when the answer is read as a whole, has NaN: it counts as the
    policy's own, since a ratio to no probability at all would be infinite.
    """
    ids, mask = encode_prompts(pair, prompts, chat=False if isinstance(prompts[0], str) else None)
    pad = pair.generation_config.pad_token_id
    tokens = pair.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, strategy="aad", alpha=alpha,
        do_sample=True, temperature=temperature, top_k=0, top_p=1.0, pad_token_id=0 if pad is None else pad,
    )  # fmt: skip
    lengths = answer_lengths(tokens, ids.shape[1], end_ids(pair.generation_config.eos_token_id))
    answers = [row[ids.shape[1] :][: int(n)].tolist() for row, n in zip(tokens, lengths, strict=True)]
    padded, kept = right_pad(answers, pair.device)
    keep = padded.shape[1] + 1
    both = torch.cat([ids, padded], dim=1), torch.cat([mask, kept], dim=1)
    known = aad_log_probs(teacher_scores(pair, *both, keep, alpha)[:, :-1], temperature)
    known = known.gather(-1, padded[..., None]).squeeze(-1)
    known = known.masked_fill(known.isinf(), torch.nan)
    return [(row, known[place, : len(row)].tolist()) for place, row in enumerate(answers)]
