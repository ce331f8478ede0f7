"""One model's part of a step: which words all sides share, and how a model, its cache and its adapters are read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from aad_plugin.decoding import Candidates
from aad_plugin.pair.cache import PairCache
from aad_plugin.pair.cache_names import has_attention, named_cache
from aad_plugin.pair.multimodal import MultimodalInputs, read_multimodal, without_bans
from aad_plugin.pair.step_mask import step_mask
from aad_plugin.settings import DecodingSettings

Role = str  # "policy", "reference", and whatever else a strategy reads
EXPO: Role = "expo"  # one model of extrapolated weights, made of the two; see `Sides.extrapolate`

Input = Any  # what models read besides token ids: a tensor with B rows, `multimodal` inputs, or None

BuildCache = Callable[[PreTrainedModel], Cache | None]

# (R, V) policy logits → the plausible set of each row.
FindCandidates = Callable[[Tensor], Candidates]


def read_model(
    model: PreTrainedModel,
    input_ids: Tensor,
    cache: Cache | None,
    logits_to_keep: int,
    multimodal: MultimodalInputs | None = None,
    sides: int = 1,
    **inputs: Tensor,
) -> Tensor:
    """Return (B, K, V) logits of one model's last ``logits_to_keep`` positions, all of them for 0.

    Args:
        multimodal: what prompts show, where they are read; ``sides``, with it alone: (S · B, K, V) are returned, for a
            cache of as many rows.
    """
    keep = {"logits_to_keep": logits_to_keep} if model._supports_logits_to_keep() else {}
    held = named_cache(model, cache)
    mask = inputs.get("attention_mask")
    if mask is not None and cache is not None and not has_attention(cache):
        # A purely recurrent model multiplies what it reads by the mask, which is of those tokens alone.
        inputs["attention_mask"] = mask[:, -input_ids.shape[1] :]
    elif mask is not None and multimodal is None:
        inputs["attention_mask"] = step_mask(model, mask, input_ids, cache)
    options = {"use_cache": cache is not None, **held, **keep}
    if multimodal is None:
        logits = model(input_ids=input_ids, **inputs, **options).logits
    else:
        logits = read_multimodal(model, input_ids, multimodal, sides, **inputs, **options).logits
    logits = without_bans(model, logits)
    return logits[:, -logits_to_keep:] if logits_to_keep else logits


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


class ReadPair(Protocol):
    """What proofs and recorders see of a pair (:class:`aad_plugin.pair.model.AlignedPair`, which calls them)."""

    sides: Any
    vocab_size: int
    settings: DecodingSettings
    tokenizer: Any
    processor: Any
    picture_text: Any
    shortcuts: str
    is_cached: bool
    proof_file: Path | None
    proven_uses: set[str]

    def new_cache(self) -> Cache | None:
        """An empty cache for both models; None for a pair without."""
