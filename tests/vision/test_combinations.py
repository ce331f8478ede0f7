"""Strategies with features over prompts with pictures: each cell of `tests.combinations.PICTURES` is what runs."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from aad_plugin import AlignedPair
from aad_plugin.errors import AADError
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.drafts import Draft
from aad_plugin.pair.guides import Guides, TokenGuide
from aad_plugin.pair.multimodal import take_multimodal
from aad_plugin.pair.one_base import OneBase
from aad_plugin.pair.strategies import decode
from aad_plugin.settings import STRATEGIES, DecodingSettings
from tests.combinations import PICTURES, cell, couple, couples
from tests.naive import NaivePair
from tests.pair.test_combinations import OPTIONS
from tests.pairs import KINDS
from tests.toys import PAD, toy_model
from tests.vision.families import FAMILIES, ROOM, with_adapters
from tests.vision.oracle import PROMPTS, encode, noisy, seeing_logits
from tests.vision.test_equality import PeftSide

TOKENS = 6
ASKED = (PROMPTS[0], PROMPTS[3])  # two pictures, and one
GRID = [pytest.mark.grid, pytest.mark.slow]
NAMES = ("llava", "smolvlm", "qwen2_vl", "gemma3")
CELLS = [(strategy, feature) for strategy in STRATEGIES for feature in PICTURES]
# Diagonals: every strategy and every feature comes up.
SAMPLE = [
    one for one in CELLS if (list(STRATEGIES).index(one[0]) + list(PICTURES).index(one[1])) % 4 == 0
]  # fmt: skip


@dataclass
class Seeing:
    """A pair that sees, its sides for the naive loop, and the model of extrapolated weights by its scale."""

    pair: AlignedPair
    policy: Any
    reference: Any
    expo: Callable[[float], Any]


@functools.cache
def seeing(name: str, kind: str) -> Seeing:
    """One kind of pair of a family; the naive sides use PEFT's own switching."""
    family = FAMILIES[name]
    if kind == "two_models":
        policy, reference = family.model(0), family.model(1)
        with torch.no_grad():  # a reference related to its policy
            for own, other in zip(reference.parameters(), policy.parameters(), strict=True):
                own.lerp_(other, 0.7)
        made = Seeing(AlignedPair(Checkpoints(policy, reference)), policy, reference, _extrapolated(policy, reference))
    else:
        names = ("policy", "reference") if kind == "two_adapters" else ("policy",)
        model = with_adapters(family, names)
        twin = copy.deepcopy(model)
        other = "reference" if kind == "two_adapters" else None
        merged = [_merged(twin, adapter) for adapter in ("policy", other)]
        pair = AlignedPair(OneBase(model, "policy", other))
        made = Seeing(pair, PeftSide(twin, "policy"), PeftSide(twin, other), _extrapolated(*merged))
    made.pair.prove()
    made.pair.guides = Guides([TokenGuide("policy", "reference")])
    return made


def _merged(model: Any, adapter: str | None) -> Any:
    own = copy.deepcopy(model)
    return own.merge_and_unload(adapter_names=[adapter]) if adapter else own.unload()


def _extrapolated(policy: Any, reference: Any) -> Callable[[float], Any]:
    def at(scale: float) -> Any:
        model, others = copy.deepcopy(policy), dict(reference.named_parameters())
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.add_(scale * (weight - others[name]))
        return model

    return functools.cache(at)


@functools.cache
def naive(name: str, kind: str, strategy: str, row: int, searched: bool) -> list[int]:
    """The naive loop's answer to a prompt with pictures, or the best of its two beams."""
    of, encoded = seeing(name, kind), encode(FAMILIES[name], [ASKED[row]])
    settings = DecodingSettings(strategy=strategy, seed=3)
    sides = NaivePair(
        seeing_logits(of.policy, encoded),
        seeing_logits(of.reference, encoded),
        lambda scale: seeing_logits(of.expo(scale), encoded),
        seeing_logits(of.policy, noisy(of.pair.sides.policy, encoded, settings)),
    )
    prompt = encoded["input_ids"][0].tolist()
    return sides.searched(settings, prompt, TOKENS, 2) if searched else sides.answer(settings, prompt, TOKENS)


def found(name: str, kind: str, strategy: str, *features: str) -> str:
    """What a cell is: "equal", "refused", or what went wrong."""
    pair, settings = seeing(name, kind).pair, DecodingSettings(strategy=strategy, seed=3)
    alone = any(PICTURES[feature].single for feature in features) or (strategy == "best_of_n" and "trace" in features)
    rows = [1] if alone else [0, 1]
    options = {key: value for feature in features for key, value in OPTIONS.get(feature, {}).items()}
    traces: list[Any] = []
    options["on_readings"] = traces.extend if "trace" in features else None
    pair.draft = (
        Draft(toy_model("llama", 4), vocab_size=ROOM, name="draft", mark="") if "draft_model" in features else None
    )
    given = encode(FAMILIES[name], [ASKED[row] for row in rows])
    ids, mask = given.pop("input_ids"), given.pop("attention_mask")
    shown = take_multimodal(given, pair.sides.policy, ids)
    try:
        tokens = decode(
            pair, ids, mask, settings, multimodal=shown, max_new_tokens=TOKENS, pad_token_id=PAD, eos_token_id=None,
            **options,
        )  # fmt: skip
    except AADError as error:
        return "refused" if "\n" not in str(error) else f"refused in more than a line: {error}"
    finally:
        pair.draft = None
    answers = tokens[:, ids.shape[1] :].tolist()
    if "trace" in features and [[ids[0] for ids in trace.ids] for trace in traces] != answers:
        return "the trace shows other tokens"
    wanted = [naive(name, kind, strategy, row, "beams" in features) for row in rows]
    return "equal" if answers == wanted else f"other tokens: {answers} for {wanted}"


@pytest.mark.parametrize(("strategy", "feature"), SAMPLE)
def test_a_cell_with_pictures_is_what_is_declared(strategy: str, feature: str) -> None:
    """A quarter of the cells, of LLaVA; all of them and the other families are in the grid."""
    kind = KINDS[list(STRATEGIES).index(strategy) % len(KINDS)]
    assert found("llava", kind, strategy, feature) == cell(PICTURES, strategy, feature)


@pytest.mark.parametrize("name", [pytest.param(name, marks=GRID) for name in NAMES])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_cell_with_pictures(name: str, kind: str, strategy: str) -> None:
    cells = {feature: found(name, kind, strategy, feature) for feature in PICTURES}
    assert cells == {feature: cell(PICTURES, strategy, feature) for feature in PICTURES}


@pytest.mark.parametrize("name", [pytest.param(name, marks=GRID) for name in NAMES])
@pytest.mark.parametrize("kind", KINDS)
def test_two_features_at_once_with_pictures(name: str, kind: str) -> None:
    cells = {one: found(name, kind, "aad", *one) for one in couples()}
    assert cells == {one: couple(*one, PICTURES) for one in couples()}
