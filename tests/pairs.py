"""The three kinds of pair over toy models, each with the naive readers of its two sides."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.one_base import OneBase
from tests.toys import Logits, byte_tokenizer, model_logits, toy_model, with_adapters

KINDS = ("two_models", "reference_plus_lora", "two_adapters")


@dataclass
class ToyPair:
    """A pair and what the naive loop reads for either side."""

    pair: AlignedPair
    policy: Logits
    reference: Logits
    expo: Callable[[float], Logits]


def _extrapolated(policy: torch.nn.Module, reference: torch.nn.Module) -> Callable[[float], Logits]:
    """Readers of θ_policy + scale · (θ_policy − θ_reference), by plain arithmetic on whole weights."""

    def at(scale: float) -> Logits:
        model, others = copy.deepcopy(policy), dict(reference.named_parameters())
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.add_(scale * (weight - others[name]))
        return model_logits(model)

    return at


def _merged(model: torch.nn.Module, adapter: str | None) -> torch.nn.Module:
    """A copy of the base with one of its adapters added to its weights."""
    own = copy.deepcopy(model)
    return own.merge_and_unload(adapter_names=[adapter]) if adapter else own.unload()


def toy_pair(kind: str, arch: str = "llama") -> ToyPair:
    """Build one kind of pair; the naive readers use PEFT's own switching, not the pair's routing."""
    tokenizer = byte_tokenizer()
    if kind == "two_models":
        policy, reference = toy_model(arch, 4), toy_model(arch, 5)
        # A reference related to its policy, as a real one is: half way between two random models.
        with torch.no_grad():
            for own, other in zip(reference.parameters(), policy.parameters(), strict=True):
                own.lerp_(other, 0.7)
        pair = AlignedPair(Checkpoints(policy, reference), vocab_size=len(tokenizer), tokenizer=tokenizer)
        return ToyPair(pair, model_logits(policy), model_logits(reference), _extrapolated(policy, reference))
    names = ("policy", "reference") if kind == "two_adapters" else ("policy",)
    model = with_adapters(arch, names)
    twin = copy.deepcopy(model)
    reference_name = "reference" if kind == "two_adapters" else None
    pair = AlignedPair(OneBase(model, "policy", reference_name), vocab_size=len(tokenizer), tokenizer=tokenizer)

    def read_policy(prefix: list[int]) -> np.ndarray:
        twin.set_adapter("policy")
        return model_logits(twin)(prefix)

    def read_reference(prefix: list[int]) -> np.ndarray:
        if reference_name:
            twin.set_adapter(reference_name)
            return model_logits(twin)(prefix)
        with twin.disable_adapter():
            return model_logits(twin)(prefix)

    expo = _extrapolated(_merged(twin, "policy"), _merged(twin, reference_name))
    return ToyPair(pair, read_policy, read_reference, expo)
