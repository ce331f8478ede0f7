"""A pair whose weights change after it has decoded goes on with the weights as they are."""

from __future__ import annotations

import copy
import gc

import pytest
import torch

from aad_plugin.decoding import eft_scores
from aad_plugin.errors import ConfigError
from aad_plugin.pair.weight_watch import Seen, Watch
from tests.pair.test_packed_products import DTYPE, packs
from tests.pairs import KINDS, toy_pair
from tests.toys import random_prompts

IDS = torch.tensor(random_prompts([12]))


def first_scores(pair, strategy):
    """(V) of the first token that a call chooses."""
    options = dict(max_new_tokens=1, output_logits=True, return_dict_in_generate=True, expo_scale=0.5)
    return pair.generate(IDS, strategy=strategy, eos_token_id=None, **options).logits[0][0]


@torch.no_grad()
def plain_scores(pair):
    """The same by each side's own forward, by strategy."""
    rows = {}
    for role in ("policy", "reference"):
        with pair.sides.role(role) as model:
            rows[role] = model(IDS).logits[0, -1, : pair.vocab_size]
    pair.sides._expo, eft = type(pair.sides._expo)(), eft_scores(*rows.values(), pair.settings.eft_scale)
    pair.sides.extrapolate(0.5)
    with pair.sides.role("expo") as model:
        expo = model(IDS).logits[0, -1, : pair.vocab_size]
    return {"greedy": rows["policy"], "reference": rows["reference"], "eft": eft, "expo": expo}


def step(pair):
    """What an optimizer does."""
    with torch.no_grad():
        for weight in pair.sides.parameters():
            weight.mul_(1.1)


def write_data(pair):
    """What PEFT's merging and followed reference models do: torch does not count it."""
    for weight in pair.sides.parameters():
        weight.data.mul_(1.1)


def round_trip(pair):
    """Weights of one shape may stand where others stood."""
    pair.to(torch.float64)
    pair.to(torch.float32)


@pytest.mark.parametrize("change", [step, write_data, round_trip], ids=lambda change: change.__name__)
@pytest.mark.parametrize("shortcuts", ["packed", "lazy"])
@pytest.mark.parametrize("kind", KINDS)
def test_changed_weights_are_read_as_they_are(kind, shortcuts, change):
    """Packed copies, B matrices beside their base, merged weights and extrapolated models held the old numbers."""
    pair = toy_pair(kind).pair
    pair.shortcuts = shortcuts
    for strategy in ("aad", "greedy", "reference", "eft", "expo"):
        first_scores(pair, strategy)
    change(pair)
    found = {strategy: first_scores(pair, strategy) for strategy in ("greedy", "reference", "eft", "expo")}
    for strategy, wanted in plain_scores(pair).items():
        torch.testing.assert_close(found[strategy], wanted, atol=1e-4, rtol=1e-4, msg=strategy)


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_outside_of_generate_follow_too(kind):
    pair = toy_pair(kind).pair
    mask = torch.ones_like(IDS)
    pair.answer_logprobs(IDS, mask, 6)
    step(pair)
    fresh = copy.deepcopy(pair)
    fresh.sides = pair.sides.apart()
    for found, wanted in zip(pair.answer_logprobs(IDS, mask, 6), fresh.answer_logprobs(IDS, mask, 6), strict=True):
        torch.testing.assert_close(found, wanted)


def test_adapters_merged_after_loading_are_refused():
    pair = toy_pair("two_adapters").pair
    pair.sides.model.merge_adapter()
    with pytest.raises(ConfigError, match="are merged into the base weights"):
        first_scores(pair, "aad")


@packs
def test_copies_of_weights_that_are_gone_go():
    pair = toy_pair("two_models").pair.to(DTYPE)
    pair.shortcuts = "packed"
    first_scores(pair, "eft")
    kept = len(pair.sides.products._packed)
    for model in pair.sides.models().values():
        model.load_state_dict({name: weight.clone() for name, weight in model.state_dict().items()}, assign=True)
    gc.collect()
    assert not pair.sides.products._packed
    first_scores(pair, "eft")
    assert len(pair.sides.products._packed) == kept
    assert not copy.deepcopy(pair).sides.products._packed


def test_a_watch_looks_once_in_a_block():
    weights = [torch.ones(4, 8), torch.ones(3, 2, 5), torch.ones(7), torch.tensor(1.0), torch.empty(0, 4)]
    watch = Watch(lambda: weights)
    assert not watch.changed()
    with watch.once():
        assert not watch.changed()
        weights[2] += 1
        assert not watch.changed()
    assert watch.changed() and not watch.changed()
    weights[0].data.zero_()
    assert watch.changed()
    seen = Seen(weights)
    weights[3] = torch.tensor(1.0)
    assert seen.still(weights), "where a weight stands does not matter"
    weights[3] = torch.tensor(1.0, dtype=torch.float64)
    assert not seen.still(weights)
