"""The transformers engine's contestants: a pair's strategies, greedy decoding of the merged policy, the naive loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from aad_plugin.answers import encode_prompts
from aad_plugin.bench.loops import greedy_loop, naive_loop
from aad_plugin.bench.measure import Contestant
from aad_plugin.head_input import HeadInput
from aad_plugin.pair import AlignedPair
from aad_plugin.sides import TwoModels
from aad_plugin.strategies import decode

__all__ = ["BASELINES", "NAIVE", "contestants"]

GENERATE, LOOP, NAIVE = "greedy, merged: generate", "greedy, merged: bare loop", "aad: naive two-model loop"
# What a user would run instead of the pair; the faster of the two is the yardstick.
BASELINES = (GENERATE, LOOP)


def contestants(
    pair: AlignedPair,
    prompts: Sequence[str],
    strategies: Sequence[str],
    batches: Sequence[int],
    tokens: int,
    draft: int,
) -> list[Contestant]:
    """Return every contestant at every batch size.

    Args:
        prompts: at least as many as the largest batch; each a user turn.
        strategies: of the pair, as users type them; beside best_of_n stand its n samples drawn one by one.
        tokens: new tokens per answer, no more and no fewer.
        draft: prompt-lookup tokens per step; 0 = none. Only batch size 1 can draft.
    """
    policy, reference = _full_models(pair)
    found = []
    for batch in batches:
        inputs = encode_prompts(pair, prompts[:batch])
        asked: dict[str, Any] = {"max_new_tokens": tokens, "eos_token_id": None}
        generate = partial(_generate, policy, *inputs, pad_token_id=0, do_sample=False, **asked)
        strategy = partial(_decode, pair, *inputs, **asked)
        calls: dict[str, Callable[[], Tensor]] = {
            GENERATE: generate,
            LOOP: partial(greedy_loop, policy, *inputs, tokens),
            NAIVE: partial(naive_loop, policy, reference, *inputs, tokens, pair.settings.alpha),
        }
        for name in strategies:
            calls[name] = partial(strategy, name)
            settings = pair.settings.override(strategy=name)
            if settings.strategy == "best_of_n":
                calls[f"{settings.n} samples, one by one"] = partial(_draw, strategy, settings.n)
        if draft and batch == 1:
            calls[f"greedy, merged: draft {draft}"] = partial(generate, prompt_lookup_num_tokens=draft)
            calls[f"aad: draft {draft}"] = partial(strategy, "aad", prompt_lookup_num_tokens=draft)
        found += [Contestant(name, batch, batch * tokens, call) for name, call in calls.items()]
    return found


def _generate(model: PreTrainedModel, ids: Tensor, mask: Tensor, **options: Any) -> Tensor:
    return model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]  # type: ignore[operator]


def _decode(pair: AlignedPair, ids: Tensor, mask: Tensor, strategy: str, **options: Any) -> Tensor:
    return decode(pair, ids, mask, pair.settings.override(strategy=strategy), **options)[:, ids.shape[1] :]


def _draw(strategy: Callable[..., Tensor], number: int) -> Tensor:
    return torch.stack([strategy("sample", sample=i) for i in range(number)])


def _full_models(pair: AlignedPair) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return policy and reference as two plain models; adapters are merged, once, into the cache."""
    if isinstance(pair.sides, TwoModels):
        return pair.sides.policy_model, pair.sides.reference_model
    from aad_plugin.engine.checkpoints import full_checkpoints

    dtype = pair.sides.policy.dtype
    models = []
    for path in full_checkpoints(pair.source, str(dtype).removeprefix("torch.")):
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(pair.device).eval()
        HeadInput(model)
        models.append(model)
    return models[0], models[1]
