"""The transformers engine's contestants: a pair's strategies, greedy decoding of the merged policy, the naive loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

__all__ = ["BASELINES", "NAIVE", "contestants", "weights_mib"]

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
        ids, mask = encode_prompts(pair, prompts[:batch])
        options: dict[str, Any] = {"max_new_tokens": tokens, "eos_token_id": None}

        def add(name: str, call: Callable[[], Tensor], batch: int = batch) -> None:
            found.append(Contestant(name, batch, batch * tokens, call))

        def generate(ids: Tensor = ids, mask: Tensor = mask, options: dict[str, Any] = options, **more: Any) -> Tensor:
            own = {"do_sample": False, "pad_token_id": 0, "attention_mask": mask}
            return policy.generate(ids, **own, **options, **more)[:, ids.shape[1] :]

        def strategy(
            name: str, ids: Tensor = ids, mask: Tensor = mask, options: dict[str, Any] = options, **more: Any
        ) -> Tensor:
            settings = pair.settings.override(strategy=name)
            return decode(pair, ids, mask, settings, **options, **more)[:, ids.shape[1] :]

        add(GENERATE, generate)
        add(LOOP, lambda ids=ids, mask=mask: greedy_loop(policy, ids, mask, tokens))
        add(NAIVE, lambda ids=ids, mask=mask: naive_loop(policy, reference, ids, mask, tokens, pair.settings.alpha))
        for name in strategies:
            add(name, lambda name=name, one=strategy: one(name))
            settings = pair.settings.override(strategy=name)
            if settings.strategy == "best_of_n":
                draws = range(settings.n)
                add(
                    f"{settings.n} samples, one by one",
                    lambda one=strategy, d=draws: torch.stack([one("sample", sample=i) for i in d]),
                )
        if draft and batch == 1:
            lookup = {"prompt_lookup_num_tokens": draft}
            add(f"greedy, merged: draft {draft}", lambda one=generate, lookup=lookup: one(**lookup))
            add(f"aad: draft {draft}", lambda one=strategy, lookup=lookup: one("aad", **lookup))
    return found


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


def weights_mib(model: torch.nn.Module) -> float:
    """Return the memory of a model's parameters in MiB."""
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
