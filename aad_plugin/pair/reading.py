"""One model's part of a step: which words all sides share, and how a model, its cache and its adapters are read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from aad_plugin.decoding import Candidates
from aad_plugin.pair.cache import PairCache
from aad_plugin.pair.cache_names import has_attention, named_cache
from aad_plugin.pair.multimodal import read_multimodal, without_bans
from aad_plugin.pair.rope_switch import refuse_beyond, refuse_mixed, rope_limit, rope_switch
from aad_plugin.pair.step import Step
from aad_plugin.pair.step_mask import step_mask

Role = str  # "policy", "reference", and whatever else a strategy reads
EXPO: Role = "expo"  # one model of extrapolated weights, made of the two; see `Sides.extrapolate`

BuildCache = Callable[[PreTrainedModel], Cache | None]

# (R, V) policy logits → the plausible set of each row.
FindCandidates = Callable[[Tensor], Candidates]


def read_model(model: PreTrainedModel, step: Step, sides: int = 1) -> Tensor:
    """Return (B, K, V) logits of one model's last ``step.keep`` positions, all of them for 0.

    Args:
        step: on the model's device, with its own cache. sides: S, with pictures alone: (S · B, K, V) are returned, for a
            cache of as many rows.
    """
    cache, mask, input_ids = step.cache, step.attention_mask, step.input_ids
    if mask is not None and len(input_ids) > 1 and (switch := rope_switch(model.config)) is not None:
        refuse_mixed([switch], mask.sum(-1))
    if rope_limit(model) is not None:
        held = 0 if cache is None else int(cache.get_seq_length())
        refuse_beyond([model], input_ids.shape[1] + held if mask is None else int(mask.sum(-1).max()))
    inputs = {"attention_mask": mask, "position_ids": step.position_ids}
    if mask is not None and cache is not None and not has_attention(cache):
        # A purely recurrent model multiplies what it reads by the mask, which is of those tokens alone.
        inputs["attention_mask"] = mask[:, -input_ids.shape[1] :]
    elif mask is not None and step.multimodal is None:
        inputs["attention_mask"] = step_mask(model, mask, input_ids, cache)
    options: dict[str, Any] = {name: value for name, value in inputs.items() if value is not None}
    options |= {"use_cache": cache is not None, **named_cache(model, cache)}
    if model._supports_logits_to_keep():
        options["logits_to_keep"] = step.keep
    if step.multimodal is None:
        logits = model(input_ids=input_ids, **options).logits
    else:
        logits = read_multimodal(model, input_ids, step.multimodal, sides, **options).logits
    logits = without_bans(model, logits)
    return logits[:, -step.keep :] if step.keep else logits


def side_by_side(caches: Sequence[Cache | None]) -> Cache | None:
    """Return one cache for models that each have their own, or None where one of them has none."""
    if any(cache is None for cache in caches):
        return None
    return caches[0] if len(caches) == 1 else PairCache(*(cache for cache in caches if cache is not None))


@dataclass(frozen=True)
class Forward:
    """One forward of a step in which each row reads one token.

    Attributes:
        model, cache: whose; the cache is the model's own. sides: whose rows stand one after the other in its batch.
    """

    model: PreTrainedModel
    cache: Cache
    sides: int


@dataclass(frozen=True)
class Sparing:
    """What a step of AAD leaves out.

    Attributes:
        candidates: the reference's logits of tokens that are not plausible.
        lazy: of two checkpoints, the reference's reading while no row has a choice.
    """

    candidates: bool
    lazy: bool


@dataclass(frozen=True)
class Plausible:
    """One step in which only plausible tokens matter.

    Attributes:
        policy_logits: (R, V), rows of batch times positions.
        candidates: their plausible sets.
        policy_values, reference_values: (N,) float32 logits of the candidates; None where no row had a choice and the
            reference was not asked.
        reference_logits: (R, V), what the reference's head gave; (0, V) or None where it was spared.
    """

    policy_logits: Tensor
    candidates: Candidates
    policy_values: Tensor | None = None
    reference_values: Tensor | None = None
    reference_logits: Tensor | None = None


@contextlib.contextmanager
def switched(model: Any, policy_adapter: str, adapter: str | None) -> Iterator[PreTrainedModel]:
    """Inside the block a PeftModel's base is what PEFT makes of it with one adapter (None: with none); the policy's comes
    back after it."""
    if adapter is None:
        with model.disable_adapter():
            yield model.get_base_model()
        return
    if adapter == policy_adapter:
        yield model.get_base_model()
        return
    model.set_adapter(adapter)
    try:
        yield model.get_base_model()
    finally:
        model.set_adapter(policy_adapter)


# Adapters of one base with the strength that each is added with.
Mix = tuple[tuple[str, float], ...]


@contextlib.contextmanager
def mixed(model: Any, policy_adapter: str, mix: Mix) -> Iterator[PreTrainedModel]:
    """Inside the block a PeftModel's base is what PEFT makes of it with several adapters, each times its strength; the
    policy's comes back after it."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    before = [dict(layer.scaling) for layer in layers]
    model.base_model.set_adapter([name for name, _ in mix])
    for layer in layers:
        layer.scaling.update({name: layer.scaling[name] * factor for name, factor in mix if name in layer.scaling})
    try:
        yield model.get_base_model()
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.scaling.update(own)
        model.set_adapter(policy_adapter)
