"""Phi-3's two sets of rotary factors: a text that grows from one into the other is read anew at each step."""

from __future__ import annotations

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from aad_plugin.errors import ConfigError
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.rope_switch import rope_switch
from tests.toys import EOS, PAD, VOCAB, byte_tokenizer, left_pad, model_logits, naive_aad, random_prompts, spread

SWITCH, STEPS = 24, 30


def phi(seed: int) -> Phi3ForCausalLM:
    torch.manual_seed(seed)
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0, 5.0, 9.0, 17.0]}
    config = Phi3Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, original_max_position_embeddings=SWITCH, pad_token_id=PAD,
        eos_token_id=EOS, bos_token_id=None,
        rope_parameters={"rope_type": "longrope", "rope_theta": 100.0, "original_max_position_embeddings": SWITCH,
                         **factors},
    )  # fmt: skip
    model = Phi3ForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "self_attn" in name:
                weight.mul_(20)  # where a token stands has to matter
    spread(model)
    return model


@pytest.fixture(scope="module")
def pair() -> AlignedPair:
    return AlignedPair(Checkpoints(phi(0), phi(1)), vocab_size=VOCAB, tokenizer=byte_tokenizer())


@pytest.mark.parametrize("lengths", [[10], [20], [40], [12, 20], [22], [24], [25]])
def test_answers_are_the_naive_loops_before_across_and_behind_the_change(pair, lengths, monkeypatch):
    prompts = random_prompts(lengths)
    policy, reference = (model_logits(model) for model in pair.sides.models().values())
    ids, mask = left_pad(prompts)
    asked = {"attention_mask": mask, "max_new_tokens": STEPS, "eos_token_id": None, "pad_token_id": PAD}
    found = pair.generate(ids, **asked)[:, ids.shape[1] :].tolist()
    if len(prompts) == 1:
        assert found == [naive_aad(policy, reference, prompts[0], STEPS, 0.1, None).tokens]
    assert found == pair.generate(ids, **asked, use_cache=False)[:, ids.shape[1] :].tolist()
    if lengths == [20]:
        monkeypatch.setattr(type(pair), "_grows_beyond_its_rope", lambda *_: False)
        assert pair.generate(ids, **asked)[:, ids.shape[1] :].tolist() != found, "a kept cache would be wrong here"


def test_what_needs_a_cache_across_the_change_is_refused(pair):
    assert rope_switch(pair.sides.policy.config) == SWITCH
    ids, mask = left_pad(random_prompts([20]))
    asked = {"attention_mask": mask, "pad_token_id": PAD}
    with pytest.raises(ConfigError, match="may grow beyond the length at which the model's rotary factors change"):
        pair.generate(ids, max_new_tokens=12, cache_implementation="static", **asked)
    long, mask = left_pad(random_prompts([40]))
    with pytest.raises(ConfigError, match="reads a prompt of 40 tokens in pieces"):
        pair.generate(long, attention_mask=mask, pad_token_id=PAD, max_new_tokens=4, prefill_chunk_size=8)
