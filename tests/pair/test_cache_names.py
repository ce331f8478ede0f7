"""The cache's name is read off signatures: every name in use is found, and a host that loses the cache is an error."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import DynamicCache, MambaConfig, MambaForCausalLM

from aad_plugin.errors import ConfigError
from aad_plugin.pair import cache_names
from tests.pairs import toy_pair
from tests.toys import toy_model


class Takes(nn.Module):
    """A model whose forward has one parameter for a cache."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.forward = forward


@pytest.mark.parametrize(
    ("forward", "name"),
    [
        (lambda input_ids, cache=None, **kwargs: None, "cache"),
        (lambda input_ids, past_key_values=None, **kwargs: None, "past_key_values"),
        (lambda input_ids, cache_params=None, **kwargs: None, "cache_params"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_models_own_name_is_used(forward, name):
    cache = DynamicCache()
    assert cache_names.named_cache(Takes(forward), cache) == {name: cache}
    assert cache_names.named_cache(Takes(forward), None) == {}


def test_a_forward_that_would_swallow_the_cache_is_refused():
    with pytest.raises(ConfigError, match="Takes takes no cache by any of the names cache, past_key_values"):
        cache_names.named_cache(Takes(lambda input_ids, **kwargs: None), DynamicCache())


def test_the_installed_transformers_is_understood():
    """Whatever version this is: its host, an attention model and a recurrent one agree with what is read off them."""
    cache = DynamicCache()
    assert cache_names.take({cache_names.host_name(): cache}) is cache
    assert cache_names.named_cache(toy_model("llama", 0), cache)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1))
    assert cache_names.named_cache(mamba, cache)
    out = cache_names.output(torch.zeros(1), cache)
    assert cache_names.take(dict(out)) is cache


def test_two_different_caches_are_one_too_many():
    one, other = DynamicCache(), DynamicCache()
    assert cache_names.take({"cache": one, "past_key_values": one}) is one
    with pytest.raises(ConfigError, match="one cache was expected, got cache and past_key_values"):
        cache_names.take({"cache": one, "past_key_values": other})


def test_the_older_name_is_taken_too():
    pair = toy_pair("two_models").pair
    cache = pair.new_cache()
    with torch.no_grad():
        pair(torch.tensor([[1, 2]]), past_key_values=cache)
    assert cache.get_seq_length() == 2


def test_a_host_that_loses_the_cache_is_an_error_and_not_other_tokens(monkeypatch):
    pair = toy_pair("two_models").pair
    monkeypatch.setattr(cache_names, "host_name", lambda: "kv_store")
    with pytest.raises((ConfigError, ValueError), match=r"kv_store|without one"):
        pair.generate(input_ids=torch.tensor([[1, 2, 3]]), max_new_tokens=3)


def test_pictures_are_refused_by_a_pair_of_text():
    with pytest.raises(ConfigError, match=r"reads text alone .*, got pictures or sound"):
        toy_pair("two_models").pair(torch.tensor([[1, 2]]), pixel_values=torch.zeros(1, 2, 3))


@pytest.mark.parametrize("name", ["inputs_embeds", "hidden_cache"])
def test_a_tensor_that_would_be_dropped_is_refused(name):
    pair = toy_pair("two_models").pair
    value = DynamicCache() if name == "hidden_cache" else torch.zeros(1, 2, 3)
    with pytest.raises(ConfigError, match=f"has no use for {name}"):
        pair(torch.tensor([[1, 2]]), **{name: value})
