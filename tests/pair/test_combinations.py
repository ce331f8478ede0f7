"""Strategies with features on transformers: each cell of `tests.combinations` is what runs."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from transformers import CompileConfig

from aad_plugin.errors import AADError, ConfigError
from aad_plugin.pair.drafts import Draft
from aad_plugin.pair.guides import Guides, TokenGuide
from aad_plugin.pair.strategies import decode
from aad_plugin.settings import STRATEGIES, DecodingSettings
from tests.combinations import DOCUMENT, TRANSFORMERS, cell, couple, couples, document
from tests.naive import NaivePair
from tests.pairs import KINDS, ToyPair, toy_pair
from tests.toys import PAD, VOCAB, left_pad, random_prompts, toy_model

TOKENS = 8
PROMPTS = random_prompts([6, 9])
DRAFT = Draft(toy_model("llama", 4), vocab_size=VOCAB, name="draft", mark="")
OPTIONS: dict[str, dict[str, Any]] = {
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
    "beams": {"num_beams": 2},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "draft_model": {"assistant_confidence_threshold": 0.0},
    "compile": {"cache_implementation": "static", "compile_config": CompileConfig(fullgraph=True, backend="eager")},
}
STRATEGY_NAMES = list(STRATEGIES)
CELLS = [(strategy, feature) for strategy in STRATEGIES for feature in TRANSFORMERS]
# Diagonals: every strategy and every feature comes up.
SAMPLE = [
    (strategy, feature)
    for strategy, feature in CELLS
    if (STRATEGY_NAMES.index(strategy) + list(TRANSFORMERS).index(feature)) % 3 == 0
]


@functools.cache
def toy(kind: str) -> ToyPair:
    found = toy_pair(kind)
    found.pair.guides = Guides([TokenGuide("policy", "reference")])
    return found


@functools.cache
def naive(kind: str, strategy: str, row: int, searched: bool) -> list[int]:
    """The naive loop's answer to a prompt, or the best of its two beams."""
    pair = NaivePair(toy(kind).policy, toy(kind).reference, functools.cache(toy(kind).expo))
    settings = DecodingSettings(strategy=strategy, seed=3)
    if searched:
        return pair.searched(settings, PROMPTS[row], TOKENS, 2)
    return pair.answer(settings, PROMPTS[row], TOKENS)


def found(kind: str, strategy: str, *features: str) -> str:
    """What a cell is: "equal", "refused", or what went wrong."""
    pair, settings = toy(kind).pair, DecodingSettings(strategy=strategy, seed=3)
    rows = [1] if any(TRANSFORMERS[feature].single for feature in features) else [0, 1]
    options = {name: value for feature in features for name, value in OPTIONS.get(feature, {}).items()}
    traces: list[Any] = []
    options["on_readings"] = traces.extend if "trace" in features else None
    pair.draft = DRAFT if "draft_model" in features else None
    ids, mask = left_pad([PROMPTS[row] for row in rows])
    try:
        tokens = decode(
            pair, ids, mask, settings, max_new_tokens=TOKENS, pad_token_id=PAD, eos_token_id=None, **options
        )
    except AADError as error:
        return "refused" if "\n" not in str(error) else f"refused in more than a line: {error}"
    answers = tokens[:, ids.shape[1] :].tolist()
    if "trace" in features and [[ids[0] for ids in trace.ids] for trace in traces] != answers:
        return "the trace shows other tokens"
    wanted = [naive(kind, strategy, row, "beams" in features) for row in rows]
    return "equal" if answers == wanted else f"other tokens: {answers} for {wanted}"


def test_the_document_is_made_from_the_declared_table():
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run python -m tests.combinations"


@pytest.mark.parametrize(("strategy", "feature"), SAMPLE)
def test_a_cell_is_what_is_declared(strategy, feature):
    """A third of the cells, each of one kind of pair; all of them are in the grid."""
    kind = KINDS[STRATEGY_NAMES.index(strategy) % len(KINDS)]
    assert found(kind, strategy, feature) == cell(TRANSFORMERS, strategy, feature)


def test_a_batch_is_refused_where_tokens_are_guessed():
    """The host's own error was a traceback."""
    pair = toy("two_models").pair
    ids, mask = left_pad(PROMPTS)
    with pytest.raises(
        ConfigError, match="prompt_lookup_num_tokens guesses for one prompt at a time, got a batch of 2"
    ):
        pair.generate(ids, attention_mask=mask, prompt_lookup_num_tokens=3, max_new_tokens=4, pad_token_id=PAD)


@pytest.mark.grid
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("strategy", "feature"), CELLS)
def test_every_cell_is_what_is_declared(strategy, feature, kind):
    assert found(kind, strategy, feature) == cell(TRANSFORMERS, strategy, feature)


@pytest.mark.grid
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("one", "other"), couples())
def test_two_features_at_once(one, other, kind):
    assert found(kind, "aad", one, other) == couple(one, other)
