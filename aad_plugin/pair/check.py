"""Is this a good pair? Vocabulary, memory, how often the filter leaves a choice, and whether its implicit reward orders
preferences. The functions behind ``aad pairs check``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from aad_plugin.decoding import plausible_set
from aad_plugin.errors import ConfigError
from aad_plugin.judges.statistics.intervals import mean_with_interval
from aad_plugin.pair.answering import encode_prompts
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.step import whole_text
from aad_plugin.pair.stopping import end_ids
from aad_plugin.pair.strategies import decode
from aad_plugin.sources.memory import cache_bytes_per_token
from aad_plugin.texts.preferences import Preference
from aad_plugin.texts.prompts import prompt_key
from aad_plugin.texts.rendering import chat_template_of, without_template

_PROMPTS = (
    "How do I plan a week of simple dinners?",
    "Explain to a child why the sky is blue.",
    "Write a short thank-you note to a neighbour.",
    "What should I check before buying a used bicycle?",
)


@dataclass(frozen=True)
class Memory:
    """Bytes: weights of the policy, weights the reference adds, key/value cache per token of one text (None: unknown),
    weights of guides that are models of their own. The cache is the pair's, without guides."""

    policy: int
    reference_extra: int
    cache_per_token: int | None
    guides: int = 0


@dataclass(frozen=True)
class Ambiguity:
    """Shares of decoded steps, in [0, 1]: one plausible token; a choice that differs from greedy's. ``steps`` counted."""

    single: float
    departures: float
    steps: int


@dataclass(frozen=True)
class PreferenceAccuracy:
    """Share of pairs whose chosen answer has the larger implicit reward, with its 95 % interval over prompts; the same for
    length.

    Margins, chosen minus rejected, in nats: their mean and quartiles.
    """

    accuracy: float
    interval: tuple[float, float]
    mean_margin: float
    quartiles: tuple[float, float, float]
    length_accuracy: float
    n: int

    @property
    def near_chance(self) -> bool:
        """Whether one half lies in the interval: the wrong reference, or a policy that learned nothing of this kind."""
        return self.interval[0] <= 0.5 <= self.interval[1]

    @property
    def reversed(self) -> bool:
        """Whether the interval lies below one half: the rejected answers are preferred, as by a swapped pair."""
        return self.interval[1] < 0.5


def memory(pair: AlignedPair) -> Memory:
    """Return what a pair holds in memory."""

    def size(module: Any) -> int:
        return sum(p.numel() * p.element_size() for p in module.parameters())

    models = pair.sides.models()
    policy, reference = models["policy"], models.get("reference")
    per_token = [_cache_bytes(model) for model in (policy, reference or policy)]
    known = [size for size in per_token if size is not None]
    guides = sum(size(model) for role, model in models.items() if role not in ("policy", "reference"))
    return Memory(size(policy), size(reference) if reference else 0, sum(known) if len(known) == 2 else None, guides)


def ambiguity(pair: AlignedPair, prompts: Sequence[Any] = _PROMPTS, max_new_tokens: int = 32) -> Ambiguity:
    """Decode a few prompts by AAD and count how often the filter left one token."""
    settings = pair.settings.override(strategy="aad")
    ids, mask = encode_prompts(pair, prompts)
    tokens = decode(pair, ids, mask, settings, max_new_tokens=max_new_tokens)
    full_mask = torch.cat([mask, torch.ones_like(tokens[:, ids.shape[1] :])], dim=1)
    keep = tokens.shape[1] - ids.shape[1] + 1
    with torch.no_grad():
        logits = pair.sides.logits(("policy",), whole_text(tokens, full_mask, keep))[0]
    logits = logits[:, :-1, : pair.vocab_size].float()
    chosen = tokens[:, ids.shape[1] :]
    counted = _until_end(chosen, pair)
    single = (plausible_set(logits, settings.alpha).sum(-1) == 1)[counted]
    departed = (logits.argmax(-1) != chosen)[counted]
    return Ambiguity(single.float().mean().item(), departed.float().mean().item(), int(counted.sum()))


def changed_choices(
    pair: AlignedPair, other: AlignedPair, prompts: Sequence[Any] = _PROMPTS, max_new_tokens: int = 32
) -> tuple[float, int]:
    """Return the share of AAD's choices that the same pair in another dtype makes otherwise, and how many were asked.

    Both are asked along the pair's own answers, so that one flip does not count for all that follow.

    Args:
        other: the pair as loaded in the other dtype; of one tokenizer with ``pair``.
    """
    settings = pair.settings.override(strategy="aad")
    ids, mask = encode_prompts(pair, prompts)
    tokens = decode(pair, ids, mask, settings, max_new_tokens=max_new_tokens)
    mask = torch.cat([mask, torch.ones_like(tokens[:, ids.shape[1] :])], dim=1)
    counted = _until_end(tokens[:, ids.shape[1] :], pair)
    own, others = (one.choices(tokens, mask, ids.shape[1], settings)[counted] for one in (pair, other))
    return (own != others).float().mean().item(), int(counted.sum())


def implicit_rewards(pair: AlignedPair, prompt: list[dict[str, str]], answers: Sequence[str]) -> list[float]:
    """Return Σ log π_policy − log π_reference of each answer to one prompt, in nats.

    Raises:
        ConfigError: prompt and answer exceed the context.
    """
    prefix, texts = _encoded(pair, prompt, answers)
    rewards = []
    for text in texts:
        ids = torch.tensor([[*prefix, *text]], device=pair.device)
        policy, reference = pair.answer_logprobs(ids, torch.ones_like(ids), len(prefix))
        rewards.append((policy - reference).double().sum().item())
    return rewards


def check_preferences(pair: AlignedPair, preferences: Sequence[Preference]) -> None:
    """Raise ConfigError for a preference that exceeds the context, by its number; nothing is scored."""
    for number, item in enumerate(preferences, start=1):
        try:
            _encoded(pair, item.prompt, (item.chosen, item.rejected))
        except ConfigError as error:
            raise ConfigError(f"preference {number}: {error}") from error


def _encoded(
    pair: AlignedPair, prompt: list[dict[str, str]], answers: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Return the token ids of a prompt and of each answer to it."""
    asked = prompt if chat_template_of(pair) else without_template(prompt)
    prefix = encode_prompts(pair, [asked])[0][0].tolist()
    texts = [pair.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    context = pair.config.max_position_embeddings
    for text in texts:
        if context and len(prefix) + len(text) > context:
            raise ConfigError(
                f"a prompt of {len(prefix)} tokens and an answer of {len(text)} exceed the context of {context}, beyond "
                "which no probability says anything: shorten them, or leave them out"
            )
    return prefix, texts


def preference_accuracy(
    pair: AlignedPair, preferences: Sequence[Preference], progress: bool = True
) -> PreferenceAccuracy:
    """Score preference pairs by the implicit reward; an equal pair counts as lost.

    Raises:
        ConfigError: one exceeds the context; told before any is scored.
    """
    check_preferences(pair, preferences)
    margins, longer = [], []
    for item in tqdm(preferences, disable=not progress, unit="pair", desc="implicit reward"):
        chosen, rejected = implicit_rewards(pair, item.prompt, (item.chosen, item.rejected))
        margins.append(chosen - rejected)
        longer.append(len(item.chosen) > len(item.rejected))
    wins = mean_with_interval([margin > 0 for margin in margins], [prompt_key(item.prompt) for item in preferences])
    low, middle, high = (float(value) for value in np.quantile(margins, (0.25, 0.5, 0.75)))
    return PreferenceAccuracy(
        wins.value,
        (wins.low, wins.high),
        math.fsum(margins) / len(margins),
        (low, middle, high),
        sum(longer) / len(longer),
        len(margins),
    )


def _until_end(tokens: Tensor, pair: AlignedPair) -> Tensor:
    ends = torch.tensor(end_ids(pair.generation_config.eos_token_id), device=tokens.device, dtype=tokens.dtype)
    ended = torch.isin(tokens, ends).long()
    return ended.cumsum(-1) - ended == 0


def _cache_bytes(model: Any) -> int | None:
    return cache_bytes_per_token(model.config, torch.finfo(model.dtype).bits // 8)
