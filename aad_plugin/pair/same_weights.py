"""Are policy and reference the same model? Then every advantage is zero, and alignment-aware decoding decides nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aad_plugin.files.marks import strengths_of, weights_of

SAME_WEIGHTS = (
    "policy and reference hold the same weights, so every advantage is zero and aad chooses nothing that greedy would not: "
    "expected a policy and the model it was tuned from. Is one path the other's copy, or was the adapter never trained?"
)
_FIRST = 64


def equal_models(policy: nn.Module, reference: nn.Module) -> bool:
    """Whether two checkpoints hold the same weights, compared one by one up to the first difference."""
    mine, theirs = dict(weights_of(policy)), dict(weights_of(reference))
    if mine.keys() != theirs.keys() or strengths_of(policy) != strengths_of(reference):
        return False
    return all(_equal(mine[name], theirs[name]) for name in mine)


def equal_adapters(model: nn.Module, policy: str, reference: str | None) -> bool:
    """Whether two adapters of one model hold the same numbers; with None, whether the policy's adds nothing (LoRA's B is
    zero). Added with other strengths, the same numbers are two models."""
    weights = dict(model.named_parameters())
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
    strengths = dict(strengths_of(model))
    own, others = (
        {name.replace(f".{one}.", "."): strength for name, strength in strengths.items() if f".{one}." in name}
        for one in (policy, reference)
    )
    return same and own == others and all(_equal(weight, weights[name]) for name, weight in theirs.items())


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
