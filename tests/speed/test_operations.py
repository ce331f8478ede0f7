"""What a step of decoding dispatches: counts, which no machine changes, and the bounds they keep. No clock."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.one_base import OneBase
from aad_plugin.pair.strategies import decode
from aad_plugin.speed.loops import naive_loop
from aad_plugin.speed.operations import count, per_step
from tests.toys import PAD, VOCAB, left_pad, random_prompts, with_adapters

# A batch of one, and one with padding.
PROMPTS = {"one row": [9], "padded rows": [9, 5, 7]}


@pytest.fixture(scope="module")
def lora() -> AlignedPair:
    return AlignedPair(OneBase(with_adapters("llama", ("policy",)), "policy"), vocab_size=VOCAB)


@pytest.fixture(scope="module")
def full() -> AlignedPair:
    """The same pair as two checkpoints."""
    model = with_adapters("llama", ("policy",))
    reference = copy.deepcopy(model).unload()
    return AlignedPair(Checkpoints(model.merge_and_unload(), reference), vocab_size=VOCAB)


@pytest.fixture(scope="module", params=PROMPTS)
def inputs(request):
    return left_pad(random_prompts(PROMPTS[request.param]))


def counted(pair: AlignedPair, inputs, strategy: str = "aad", shortcuts: str = "none"):
    pair.shortcuts = shortcuts
    options = dict(eos_token_id=None, pad_token_id=PAD)
    settings = pair.settings.override(strategy=strategy)
    return per_step(lambda steps: decode(pair, *inputs, settings, max_new_tokens=steps, **options))


def greedy(full: AlignedPair, inputs):
    """The merged policy's own ``generate``: what every bound is a multiple of."""
    ids, mask = inputs
    options = dict(attention_mask=mask, do_sample=False, eos_token_id=None, pad_token_id=PAD)
    return per_step(lambda steps: full.sides.policy_model.generate(ids, max_new_tokens=steps, **options))


def test_views_are_no_operations_and_reading_a_number_is_a_wait():
    x = torch.ones(4, 3)
    found = count(lambda: (x.view(12), x.t(), x[1:], x.expand(2, 4, 3), x + 1, x.sum().item()))
    assert found.names == {"add": 1, "sum": 1, "_local_scalar_dense": 1}
    assert (found.operations, found.waits) == (3, 1)
    assert count(lambda: x[x > 0]).waits == 1, "a mask is made a list first"
    assert count(lambda: x[torch.tensor([1])]).waits == 0
    assert count(lambda: x.nonzero()).waits == 1


@pytest.mark.parametrize("shortcuts", ["none", "auto"])
def test_a_step_of_aad_costs_little_more_than_a_greedy_one(lora, full, inputs, shortcuts):
    plain = greedy(full, inputs)
    assert counted(lora, inputs, shortcuts=shortcuts).operations <= 1.35 * plain.operations
    assert counted(full, inputs, shortcuts=shortcuts).operations <= 2.1 * plain.operations


def test_a_step_of_aad_waits_as_often_as_a_greedy_one(lora, full, inputs):
    plain = greedy(full, inputs)
    assert plain.waits >= 1, "the host asks whether all rows have ended"
    for pair in (lora, full):
        assert counted(pair, inputs).waits <= plain.waits


def test_two_checkpoints_never_dispatch_more_than_the_naive_loop(full):
    """Whose two models read their own caches, beside the host's own loop: a dozen operations, whatever the models' size."""
    for lengths, more in (([9], 12), ([9] * 8, 12), ([9, 5, 7], 0)):
        inputs = left_pad(random_prompts(lengths))
        models = full.sides.policy_model, full.sides.reference_model
        naive = per_step(partial(naive_loop, *models, *inputs, alpha=0.1))
        own = counted(full, inputs)
        assert own.operations <= naive.operations + more and own.waits <= naive.waits - 1


@pytest.mark.parametrize("kept", [{}, {"return_dict_in_generate": True}, {"cache_implementation": "static"}])
def test_what_inference_mode_made_is_never_left_behind(full, lora, inputs, kept):
    """Token ids can be trained on, and rooms and weights that a pair laid out serve outside the mode."""
    ids, mask = inputs
    embedding = torch.nn.Embedding(VOCAB, 4)
    for pair in (full, lora):
        pair.shortcuts = "auto"
        for strategy in ("aad", "greedy"):
            given = pair.generate(
                ids, attention_mask=mask, strategy=strategy, max_new_tokens=4, pad_token_id=PAD, **kept
            )
            answers = getattr(given, "sequences", given)
            assert not answers.is_inference()
            embedding(answers).sum().backward()
        cache = pair.new_cache()
        pair(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
        with torch.no_grad():  # a single token is laid out where generate laid it out
            longer = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            pair(ids[:, -1:], longer, longer.sum(-1, keepdim=True) - 1, cache)


def test_generate_runs_in_inference_mode(full, inputs):
    modes = []
    hook = full.sides.policy_model.register_forward_hook(lambda *_: modes.append(torch.is_inference_mode_enabled()))
    counted(full, inputs)
    hook.remove()
    assert modes and all(modes)


def test_auto_costs_no_more_than_none(lora, full, inputs):
    """This pair always has a choice, so that asking for one is for nothing and soon given up."""
    for pair in (lora, full):
        auto, none = counted(pair, inputs, shortcuts="auto"), counted(pair, inputs)
        assert auto.operations <= 1.02 * none.operations and auto.waits <= none.waits + 0.5
    pair.shortcuts = "auto"
    ids, mask = inputs
    options = dict(eos_token_id=None, pad_token_id=PAD, max_new_tokens=20)
    asked = count(lambda: pair.generate(ids, attention_mask=mask, **options)).names["ge"]
    pair.shortcuts = "none"
    assert asked - count(lambda: pair.generate(ids, attention_mask=mask, **options)).names["ge"] <= 8


@pytest.mark.parametrize("strategy", ["greedy", "sample", "best_of_2"])
def test_a_policy_alone_costs_what_the_merged_policy_costs(lora, full, inputs, strategy):
    own, merged = (counted(pair, inputs, strategy, "auto") for pair in (lora, full))
    assert own.operations <= merged.operations and own.waits <= merged.waits
    if strategy == "greedy":
        plain = greedy(full, inputs)
        assert own.operations <= 1.05 * plain.operations and own.waits <= plain.waits


def test_merging_leaves_the_base_as_it_is(lora, inputs):
    before = {name: value.clone() for name, value in lora.sides.model.state_dict().items()}
    for strategy in ("greedy", "aad", "greedy", "reference"):
        counted(lora, inputs, strategy, "auto")
    after = lora.sides.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
