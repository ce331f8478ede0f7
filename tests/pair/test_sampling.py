"""Noise keyed by seed, prompt, sample and step."""

from __future__ import annotations

import pytest
import torch
from transformers.generation.logits_process import TopPLogitsWarper

from aad_plugin.errors import ConfigError
from aad_plugin.pair.sampling import KeyedSampler, _nucleus, prompt_key, refuse_other_samplers, uniform


def test_uniform_is_a_function_of_all_its_arguments_and_nothing_else():
    base = uniform(1, "k", 0, 0)
    assert base == uniform(1, "k", 0, 0)
    assert len({base, uniform(2, "k", 0, 0), uniform(1, "l", 0, 0), uniform(1, "k", 1, 0), uniform(1, "k", 0, 1)}) == 5
    draws = [uniform(0, "k", i, 0) for i in range(4000)]
    assert 0 <= min(draws) and max(draws) < 1
    assert abs(sum(draws) / 4000 - 0.5) < 0.02  # standard error 0.0046


def test_nucleus_is_transformers_own():
    torch.manual_seed(0)
    scores = torch.randn(8, 3000) * 2
    for top_p in (0.1, 0.5, 0.95, 0.999):
        kept = TopPLogitsWarper(top_p)(None, scores) > -torch.inf
        ids, weights = _nucleus(scores.softmax(-1), top_p)
        ours = torch.zeros_like(kept).scatter(-1, ids, weights > 0)
        # The token at the very edge may differ by rounding of the cumulated mass.
        assert (ours != kept).sum(-1).max() <= 1


def test_draws_follow_the_distribution():
    # Three tokens with probabilities (.6, .3, .1) at top_p 1; 3000 keys; standard errors below .009.
    scores = torch.tensor([[0.6, 0.3, 0.1]]).log().expand(3000, 3)
    keys = [(prompt_key([i]), 0) for i in range(3000)]
    picked = KeyedSampler(keys, 0, temperature=1.0, top_p=1.0, seed=0)(torch.zeros(3000, 0), scores).argmax(-1)
    shares = torch.bincount(picked, minlength=3) / 3000
    assert torch.allclose(shares, torch.tensor([0.6, 0.3, 0.1]), atol=0.03)


def test_small_top_p_is_greedy_and_rows_do_not_influence_each_other():
    torch.manual_seed(0)
    scores = torch.randn(5, 40)
    keys = [(prompt_key([i]), i % 2) for i in range(5)]
    ids = torch.zeros(5, 7)
    tight = KeyedSampler(keys, 3, temperature=1.0, top_p=1e-6, seed=0)(ids, scores)
    assert torch.equal(tight.argmax(-1), scores.argmax(-1))
    together = KeyedSampler(keys, 3, temperature=1.0, top_p=0.9, seed=0)(ids, scores)
    for row in range(5):
        alone = KeyedSampler([keys[row]], 3, temperature=1.0, top_p=0.9, seed=0)(
            ids[row : row + 1], scores[row : row + 1]
        )
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("strategy", ["sample", "best_of_n"])
@pytest.mark.parametrize("option", [{"top_k": 5}, {"min_p": 0.1}, {"typical_p": 0.9}, {"eta_cutoff": 0.1}])
def test_samplers_that_would_have_no_effect_are_refused(strategy, option):
    with pytest.raises(ConfigError, match=f"{next(iter(option))}=.* has no effect on strategy '{strategy}'"):
        refuse_other_samplers(strategy, option)
    refuse_other_samplers(strategy, {"top_k": None, "min_p": 0.0, "num_beams": 1})
