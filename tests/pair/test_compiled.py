"""Steps compiled over static caches: the naive loop's tokens, no waits inside, proven at their first use, else plain."""

from __future__ import annotations

import copy
import logging
from functools import partial

import pytest
import torch
from transformers import CompileConfig, Gemma3ForCausalLM, Gemma3TextConfig

from aad_plugin.errors import ConfigError, ProofFailed
from aad_plugin.pair import compiled
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.sides_in_turns import OneBaseInTurns
from aad_plugin.speed.operations import per_step
from tests.pairs import KINDS, toy_pair
from tests.toys import PAD, VOCAB, compare, left_pad, naive_aad, random_prompts, spread, with_adapters

TRACED = CompileConfig(fullgraph=True, dynamic=False, backend="eager")
STATIC = {"cache_implementation": "static"}
ENDS = {"eos_token_id": None, "pad_token_id": PAD}


def answers(pair: AlignedPair, ids, mask, steps: int, **options):
    return pair.generate(ids, attention_mask=mask, max_new_tokens=steps, **ENDS, **options)[:, ids.shape[1] :].tolist()


def hold(kind: str, config: CompileConfig, lengths: list[int], steps: int) -> int:
    """Steps compared with the naive loop, row by row, each from where a choice was closer than 1e-4."""
    toy, prompts, steps_held = toy_pair(kind), random_prompts(lengths), 0
    ids, mask = left_pad(prompts)
    batch = answers(toy.pair, ids, mask, steps, **STATIC, compile_config=config)
    for row, prompt in enumerate(prompts):
        run = naive_aad(toy.policy, toy.reference, prompt, steps, toy.pair.settings.alpha, None)

        def decode(prefix: list[int], left: int, prompt=prompt, row=row) -> list[int]:
            if prefix == prompt:
                return batch[row]
            return answers(toy.pair, torch.tensor([prefix]), torch.ones(1, len(prefix), dtype=torch.long), left)[0]

        found = compare(run, prompt, decode)
        steps_held += found.steps - found.excused
    return steps_held


GRID = pytest.mark.grid


@pytest.mark.parametrize(
    "kind", ["reference_plus_lora", pytest.param("two_models", marks=GRID), pytest.param("two_adapters", marks=GRID)]
)
def test_a_traced_step_gives_the_naive_loops_tokens(kind):
    assert hold(kind, TRACED, [9, 5], 40) == 80


@pytest.mark.grid
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[9], [9, 5, 7]])
def test_a_compiled_step_gives_the_naive_loops_tokens(kind, lengths):
    assert hold(kind, CompileConfig(fullgraph=True, dynamic=False, mode=None), lengths, 40) == 40 * len(lengths)


def test_a_graph_serves_every_strength_and_length(monkeypatch):
    """Alpha is an input, and lengths are rounded up: else every call would be compiled anew."""
    pair, made = toy_pair("two_models").pair, []
    monkeypatch.setattr(torch, "compile", lambda step, **_: made.append(step) or step)
    ids, mask = left_pad(random_prompts([9, 5]))
    for alpha, steps in ((0.1, 8), (0.5, 8), (0.1, 20)):
        plain = answers(pair, ids, mask, steps, alpha=alpha)
        assert answers(pair, ids, mask, steps, alpha=alpha, **STATIC, compile_config=TRACED) == plain
    assert len(made) == 1
    answers(pair, ids[:1], mask[:1], 8, **STATIC, compile_config=TRACED)
    answers(pair, ids, mask, 8, strategy="eft", **STATIC, compile_config=TRACED)
    assert len(made) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_to_be_compiled_waits_for_nothing(kind, monkeypatch):
    """A recorded graph cannot ask the host; the one wait is the host's, for whether all rows have ended."""
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    pair = toy_pair(kind).pair
    ids, mask = left_pad(random_prompts([9, 5]))
    found = per_step(lambda steps: answers(pair, ids, mask, steps, **STATIC, compile_config=TRACED))
    policy = pair.sides.policy
    options = dict(attention_mask=mask, do_sample=False, **ENDS, **STATIC)
    plain = per_step(lambda steps: policy.generate(ids, max_new_tokens=steps, **options))
    assert found.waits <= plain.waits == 1
    cached = per_step(lambda steps: answers(pair, ids, mask, steps, **STATIC))
    assert cached.waits <= plain.waits + 1, "a static cache's length is not read to name a step"


def broken(step, **_):
    """A compiler that changes the second side's logits."""

    def wrong(*inputs):
        scores, rows = step(*inputs)
        return scores, (rows[0], rows[1].flip(-1))

    return wrong


def test_a_graph_with_other_logits_is_an_error_or_not_taken(monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", broken)
    pair = toy_pair("reference_plus_lora").pair
    ids, mask = left_pad(random_prompts([9, 5]))
    with pytest.raises(ProofFailed, match="a compiled step would change this pair's tokens: one step: the reference's"):
        answers(pair, ids, mask, 8, **STATIC, compile_config=TRACED)
    plain = answers(pair, ids, mask, 8, **STATIC)
    # As on a GPU, where a static cache is compiled by itself.
    monkeypatch.setattr(compiled, "_BY_ITSELF", ("cpu",))
    with caplog.at_level(logging.WARNING):
        assert answers(pair, ids, mask, 8, **STATIC) == plain
        assert answers(pair, ids, mask, 8, **STATIC) == plain
    assert caplog.text.count("decoding goes on without") == 1
    assert answers(pair, ids, mask, 8, **STATIC, disable_compile=True) == plain


def test_what_cannot_be_compiled_says_so():
    pair = toy_pair("reference_plus_lora").pair
    ids, mask = left_pad(random_prompts([9, 5]))
    ask = partial(answers, pair, ids, mask, 4, compile_config=TRACED)
    for options, said in (
        ({}, "another cache than cache_implementation='static' \\(got None\\)"),
        ({**STATIC, "num_beams": 2}, "a search with num_beams=2"),
    ):
        with pytest.raises(ConfigError, match=said):
            ask(**options)
    turns = AlignedPair(OneBaseInTurns(with_adapters("llama", ("policy",)), {"policy": "policy", "reference": None}))
    with pytest.raises(ConfigError, match="those of a pair read as"):
        answers(turns, ids, mask, 4, **STATIC, compile_config=TRACED)


def windowed(seed: int) -> Gemma3ForCausalLM:
    torch.manual_seed(seed)
    sizes = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    kinds = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(**sizes, num_key_value_heads=2, head_dim=8, sliding_window=6, layer_types=kinds)
    model = Gemma3ForCausalLM(config).eval()
    spread(model)
    return model


@pytest.mark.parametrize("strategy", ["greedy", "aad"])
def test_windows_of_attention_under_static_caches(strategy, monkeypatch):
    """One side's cache alone was taken for the host's own, whose mask knew no windows."""
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    pair = AlignedPair(Checkpoints(windowed(1), windowed(2)), vocab_size=VOCAB)
    ids, mask = left_pad(random_prompts([9, 5]))
    plain = answers(pair, ids, mask, 12, strategy=strategy)
    assert answers(pair, ids, mask, 12, strategy=strategy, **STATIC) == plain
    assert answers(pair, ids, mask, 12, strategy=strategy, **STATIC, compile_config=TRACED) == plain


def test_merged_weights_and_samples(monkeypatch):
    """A policy alone reads its merged weights, whoever chooses its tokens."""
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    pair = toy_pair("reference_plus_lora").pair
    assert pair.sides.can_merge
    ids, mask = left_pad(random_prompts([9, 5]))
    before = copy.deepcopy(pair.sides.passes)
    assert answers(pair, ids, mask, 8, strategy="greedy", **STATIC, compile_config=TRACED) == answers(
        pair, ids, mask, 8, strategy="greedy"
    )
    assert pair.sides.passes["policy"] - before["policy"] == 2 * 8 * 2, "a compiled step is counted like any other"
