"""Choices along one text: what each way to decode would choose at every step of an answer that is given, against float32.

One difference does not count for all that follow, as it would in free decoding. The text is the float32 pair's own.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from aad_plugin.decoding import aad_scores
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.step import Step
from experiments.gpu.random_pairs import SHAPES, build
from experiments.gpu.records import Records


class _Forcing(LogitsProcessor):
    """Notes what would be chosen and chooses the text's token."""

    def __init__(self, text: Tensor) -> None:
        self.text, self.chosen = text, []  # type: ignore[var-annotated]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = len(self.chosen)
        self.chosen.append(scores.argmax(-1))
        return torch.full_like(scores, -torch.inf).scatter(-1, self.text[:, step : step + 1], 0.0)


@torch.no_grad()
def run(records: Records, device: str, shape: str, batch: int, tokens: int, dtype: torch.dtype) -> None:
    """A table for one shape: share of the float32 choices that each way makes."""
    sizes = SHAPES[shape]
    built = build("llama", sizes, dtype, device, 8.0, 0.05)
    ids = torch.randint(4, sizes.vocab, (batch, 64), generator=torch.Generator().manual_seed(3)).to(device)
    # The same weights in float32: the adapter's exact sum, and the merged weights as 16 bit left them.
    exact: Any = copy.deepcopy(built.lora.sides.model).float()
    truths = {"lora": _Exact(exact, "policy", ids, tokens)}
    for kind in ("lora", "full"):
        pair = getattr(built, kind)
        if kind == "full":
            both = [copy.deepcopy(model).float() for model in (built.policy, built.reference)]
            truths[kind] = _Exact(both, None, ids, tokens)
        truth = truths[kind]
        for shortcuts in ("none", "candidates", "lazy", "auto"):
            for strategy in ("aad", "greedy", "reference") if shortcuts in ("none", "auto") else ("aad",):
                what = f"{shape} {kind} {strategy} {shortcuts}"
                records.attempt(what, partial(_held, pair, shortcuts, strategy, ids, truth))
        if kind == "full":
            records.attempt(f"{shape} naive loop", partial(_naive, built.policy, built.reference, ids, truth))


class _Exact:
    """The text and, per strategy, float32's choices along it and their margins."""

    def __init__(self, models: Any, adapter: str | None, ids: Tensor, tokens: int) -> None:
        from aad_plugin.pair.sides_in_turns import OneBaseInTurns

        pair = AlignedPair(
            OneBaseInTurns(models, {"policy": adapter, "reference": None}) if adapter else Checkpoints(*models),
            shortcuts="none",
        )
        self.text = pair.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, eos_token_id=None, pad_token_id=0
        )[:, ids.shape[1] :]
        whole = torch.cat([ids, self.text], dim=1)
        rows = pair.sides.logits(("policy", "reference"), Step(whole, keep=tokens + 1))
        policy, reference = (row[:, :-1].float() for row in rows)
        scores = {"aad": aad_scores(policy, reference, 0.1), "greedy": policy, "reference": reference}
        self.choices = {name: found.argmax(-1) for name, found in scores.items()}


def _held(pair: AlignedPair, shortcuts: str, strategy: str, ids: Tensor, truth: _Exact) -> dict[str, Any]:
    forcing = _Forcing(truth.text)
    before, pair.shortcuts = pair.shortcuts, shortcuts
    try:
        pair.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=truth.text.shape[1], eos_token_id=None,
            pad_token_id=0, strategy=strategy, logits_processor=LogitsProcessorList([forcing]),
        )  # fmt: skip
    finally:
        pair.shortcuts = before
    return _share(torch.stack(forcing.chosen, dim=1), truth.choices[strategy])


def _naive(policy: Any, reference: Any, ids: Tensor, truth: _Exact) -> dict[str, Any]:
    whole = torch.cat([ids, truth.text], dim=1)
    steps = truth.text.shape[1]
    rows = [model(input_ids=whole, logits_to_keep=steps + 1).logits[:, :-1] for model in (policy, reference)]
    return _share(aad_scores(rows[0], rows[1], 0.1).argmax(-1), truth.choices["aad"])


def _share(chosen: Tensor, wanted: Tensor) -> dict[str, Any]:
    return {"equal": round(float((chosen == wanted).float().mean()), 4), "choices": wanted.numel()}
