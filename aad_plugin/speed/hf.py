"""The transformers engine's contestants: a pair's strategies, greedy decoding of the merged policy, the naive loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from aad_plugin.errors import ConfigError
from aad_plugin.pair.answering import encode_prompts
from aad_plugin.pair.drafts import Draft
from aad_plugin.pair.head import HeadInput
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.strategies import decode
from aad_plugin.sources.whole_weights import load_whole
from aad_plugin.speed.loops import greedy_loop, naive_loop
from aad_plugin.speed.measure import Contestant
from aad_plugin.speed.operations import per_step

GENERATE, LOOP, NAIVE = "greedy, merged: generate", "greedy, merged: bare loop", "aad: naive two-model loop"
_Call = Callable[[Tensor, Tensor, int], Tensor]  # (ids, mask, new tokens) -> (B, new) ids
# What a user would run instead of the pair; the faster of the two is the yardstick.
BASELINES = (GENERATE, LOOP)


def contestants(
    pair: AlignedPair,
    prompts: Sequence[str],
    strategies: Sequence[str],
    batches: Sequence[int],
    tokens: int,
    draft: int,
    draft_model: Draft | None = None,
    one_by_one: int = 1,
) -> list[Contestant]:
    """Return every contestant at every batch size.

    Args:
        prompts: at least as many as the largest batch; each a user turn.
        strategies: of the pair, as users type them; beside best_of_n stand its n samples drawn one by one.
        tokens: new tokens per answer, no more and no fewer.
        draft: prompt-lookup tokens per step; 0 = none. Only batch size 1 can draft.
        draft_model: also decode with its guesses, at batch size 1.
        one_by_one: of ``prompts``, that everything at batch size 1 decodes one after the other.
    """
    policy, reference = _full_models(pair)
    found = []
    for batch in batches:
        parts = [[prompt] for prompt in prompts[:one_by_one]] if batch == 1 else [prompts[:batch]]
        inputs = [encode_prompts(pair, part) for part in parts]
        calls: dict[str, _Call] = {
            GENERATE: partial(_generate, policy, {}),
            LOOP: partial(greedy_loop, policy),
            NAIVE: partial(_naive, policy, reference, pair.settings.alpha),
        }
        whole: dict[str, _Call] = {}
        for name in strategies:
            settings = pair.settings.override(strategy=name)
            drawn = settings.strategy == "best_of_n"
            (whole if drawn else calls)[name] = partial(_decode, pair, name, {})
            if drawn:
                whole[f"{settings.n} samples, one by one"] = partial(_draw, pair, settings.n)
        if draft and batch == 1:
            options = {"prompt_lookup_num_tokens": draft}
            whole[f"greedy, merged: draft {draft}"] = partial(_generate, policy, options)
            whole[f"aad: draft {draft}"] = partial(_decode, pair, "aad", options)
        made = len(inputs) * batch * tokens
        if draft_model is not None and batch == 1:
            found += _guessed(pair, draft_model, inputs, tokens)
        for name, one in {**calls, **whole}.items():
            # A step is what one more token costs, where each costs the same; other batch sizes dispatch as much.
            counted = partial(per_step, partial(one, *inputs[0])) if name in calls and batch == batches[0] else None
            call = partial(_in_turn, one, inputs, tokens)
            found.append(Contestant(name, batch, made, call, counted, warm_up=partial(one, *inputs[0], tokens)))
    return found


def _guessed(pair: AlignedPair, draft: Draft, inputs: Sequence[tuple[Tensor, Tensor]], tokens: int) -> list[Contestant]:
    """Return the contestants that read a draft's guesses, one prompt after the other."""
    found = []
    for name in ("greedy", "aad"):
        drafted = _Drafted(pair, draft, partial(_decode, pair, name, {}))
        call, first = partial(_in_turn, drafted, inputs, tokens), partial(drafted.warm_up, *inputs[0], tokens)
        made, title = len(inputs) * tokens, f"{name}: draft {draft.name}"
        found.append(Contestant(title, 1, made, call, per_check=drafted.tokens_per_check, warm_up=first))
    return found


def _in_turn(call: _Call, inputs: Sequence[tuple[Tensor, Tensor]], steps: int) -> Tensor:
    """Decode one batch after the other; (rows of all, steps) int64."""
    return torch.cat([call(ids, mask, steps) for ids, mask in inputs])


class _Drafted:
    """A call of the pair with a draft that other calls do not have."""

    def __init__(self, pair: AlignedPair, draft: Draft, call: _Call) -> None:
        self.pair, self.draft, self.call = pair, draft, call
        self.tally: Counter[str] = Counter()

    def __call__(self, ids: Tensor, mask: Tensor, steps: int) -> Tensor:
        self.pair.draft = self.draft
        self.draft.tally.clear()
        try:
            return self.call(ids, mask, steps)
        finally:
            self.pair.draft = None
            self.tally += self.draft.tally

    def warm_up(self, ids: Tensor, mask: Tensor, steps: int) -> None:
        """Decode what no tally counts."""
        self(ids, mask, steps)
        self.tally.clear()

    def tokens_per_check(self) -> float:
        return self.tally["tokens"] / max(1, self.tally["checks"])


def _generate(model: PreTrainedModel, options: dict[str, Any], ids: Tensor, mask: Tensor, steps: int) -> Tensor:
    asked = {"pad_token_id": 0, "do_sample": False, "max_new_tokens": steps, "eos_token_id": None, **options}
    return model.generate(ids, attention_mask=mask, **asked)[:, ids.shape[1] :]  # type: ignore[operator]


def _naive(
    policy: PreTrainedModel, reference: PreTrainedModel, alpha: float, ids: Tensor, mask: Tensor, steps: int
) -> Tensor:
    return naive_loop(policy, reference, ids, mask, steps, alpha)


def _decode(pair: AlignedPair, strategy: str, options: dict[str, Any], ids: Tensor, mask: Tensor, steps: int) -> Tensor:
    settings = pair.settings.override(strategy=strategy)
    return decode(pair, ids, mask, settings, max_new_tokens=steps, eos_token_id=None, **options)[:, ids.shape[1] :]


def _draw(pair: AlignedPair, number: int, ids: Tensor, mask: Tensor, steps: int) -> Tensor:
    return torch.stack([_decode(pair, "sample", {"sample": i}, ids, mask, steps) for i in range(number)])


def _full_models(pair: AlignedPair) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return policy and reference as two plain models; adapters are merged, once, into the cache."""
    held = pair.sides.models()
    if "reference" in held:
        return held["policy"], held["reference"]
    from aad_plugin.sources.merging import full_checkpoints

    if getattr(pair.sides.policy, "quantization_method", None):
        raise ConfigError(
            "bench holds a pair of adapters against its two models merged, and a quantised base has none: leave load_in_… "
            "out"
        )
    dtype, attention = pair.sides.policy.dtype, pair.sides.policy.config._attn_implementation
    models = []
    for path in full_checkpoints(pair.source, str(dtype).removeprefix("torch.")):
        model = load_whole(AutoModelForCausalLM, path, dtype=dtype, attn_implementation=attention)
        model = model.to(pair.device).eval()
        HeadInput(model)
        models.append(model)
    return models[0], models[1]
