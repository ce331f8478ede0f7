"""What 16 bit means: the size of a step, that it is said once, and that explained tokens are generated ones."""

from __future__ import annotations

import logging

import pytest
import torch

from aad_plugin.explain.explaining import explain
from aad_plugin.explain.records import Step, Token
from aad_plugin.pair import rounding
from aad_plugin.pair.answering import answer
from aad_plugin.pair.check import changed_choices
from tests.pairs import KINDS, toy_pair


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_rounding_step_is_the_distance_to_the_next_number(dtype):
    logits = torch.tensor([0.3, 1.0, 1.5, 15.9, 16.0, 31.0, -40.0]).to(dtype)
    # The next number away from zero has the next whole number as its bits.
    whole = torch.int32 if dtype == torch.float32 else torch.int16
    following = (logits.view(whole) + 1).view(dtype)
    assert torch.equal(rounding.rounding_step(logits, dtype), (following.float() - logits.float()).abs())


def test_a_dtype_is_said_and_what_16_bit_means_once(caplog, monkeypatch):
    monkeypatch.setattr(rounding, "_said", set())
    with caplog.at_level(logging.INFO, logger=rounding.__name__):
        for _ in range(2):
            rounding.say_dtype(torch.bfloat16)
        rounding.say_dtype(torch.float32)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "INFO"]
    assert "multiple of 0.125" in caplog.records[0].message


def test_only_a_departure_within_a_step_is_a_near_tie():
    favourite = Token(1, "a", -1.0, -1.0)
    for advantage, rounding_step, near in ((0.1, 0.125, True), (0.2, 0.125, False)):
        step = Step(Token(2, "b", -1.1, -1.1 - advantage), favourite, (), 2, rounding=rounding_step)
        assert step.near_tie is near
    assert not Step(favourite, favourite, (), 2, rounding=1.0).near_tie


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shortcuts", ["lazy", "candidates", "none"])
def test_what_is_explained_is_what_is_generated_in_16_bit(kind, shortcuts):
    pair = toy_pair(kind).pair.to(torch.bfloat16)
    pair.shortcuts = shortcuts
    for prompt in ("hello there", "abc", "What is it?"):
        found = explain(pair, prompt, max_new_tokens=24)
        assert found.answer == answer(pair, [prompt], max_new_tokens=24)[0]
        assert found.dtype == "bfloat16" and all(step.rounding > 0 for step in found.steps)
        greedy = explain(pair, prompt, strategy="greedy", max_new_tokens=24, beside_greedy=False)
        assert not any(step.departs for step in greedy.steps)


def test_changed_choices_are_none_in_one_dtype_and_some_in_another():
    pair, other = toy_pair("two_models").pair, toy_pair("two_models").pair
    assert changed_choices(pair, other, ["hello", "there"], 16)[0] == 0
    share, steps = changed_choices(pair, other.to(torch.bfloat16), ["hello", "there"], 16)
    assert 0 < steps <= 32 and 0 <= share < 0.5
