"""Are policy and reference the same model? Then every advantage is zero, and alignment-aware decoding decides nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aad_plugin.pair.sides import OneBase, TwoModels

SAME_WEIGHTS = (
    "policy and reference hold the same weights, so every advantage is zero and aad chooses nothing that greedy would not: "
    "expected a policy and the model it was tuned from. Is one path the other's copy, or was the adapter never trained?"
)
_FIRST = 64


def have_same_weights(sides: Any) -> bool:
    """Whether both sides are the same model by their weights.

    Args:
        sides: two checkpoints, compared weight by weight up to the first difference; or one base with adapters, which are
            the same where both hold the same numbers, or where the only one adds nothing (LoRA's B is zero).
    """
    if isinstance(sides, TwoModels):
        policy, reference = (dict(model.named_parameters()) for model in sides.models().values())
        return policy.keys() == reference.keys() and all(_equal(policy[name], reference[name]) for name in policy)
    return isinstance(sides, OneBase) and _adapters_equal(sides)


def _adapters_equal(sides: OneBase) -> bool:
    policy, reference = sides.adapters
    weights = dict(sides.model.named_parameters())
    mine = {name: weight for name, weight in weights.items() if f".{policy}." in name}
    if not mine:
        return False
    if reference is None:
        added = [weight for name, weight in mine.items() if "lora_B" in name or "lora_embedding_A" in name]
        # Modules saved whole have no zero that would mean "as in the base".
        saved = any("modules_to_save" in name for name in mine)
        return bool(added) and not saved and not any(bool(weight.any()) for weight in added)
    theirs = {name.replace(f".{policy}.", f".{reference}."): weight for name, weight in mine.items()}
    same = {name for name in weights if f".{reference}." in name} == theirs.keys()
    return same and all(_equal(weight, weights[name]) for name, weight in theirs.items())


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.device.type == "meta" or other.device.type == "meta":
        return False
    return _same(one.detach().flatten()[:_FIRST], other.detach().flatten()[:_FIRST]) and _same(
        one.detach(), other.detach()
    )


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal in the coarser of two data types: a rounded copy is still the same model."""
    coarser = one.dtype if one.element_size() <= other.element_size() else other.dtype
    return torch.equal(one.to(coarser), other.to(device=one.device, dtype=coarser))
