"""Phi-3's two sets of rotary factors: a text that grows from one into the other is read anew at each step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from aad_plugin.errors import ConfigError
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.rope_switch import rope_switch
from aad_plugin.pair.strategies import draw, implicit_rewards
from tests.toys import EOS, PAD, VOCAB, byte_tokenizer, left_pad, model_logits, naive_aad, random_prompts, spread

SWITCH, STEPS = 24, 30


def dynamic(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=SWITCH, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None,
        rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    spread(model)
    return model


def phi(seed: int, switch: int = SWITCH) -> Phi3ForCausalLM:
    torch.manual_seed(seed)
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0, 5.0, 9.0, 17.0]}
    config = Phi3Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96, original_max_position_embeddings=switch, pad_token_id=PAD,
        eos_token_id=EOS, bos_token_id=None,
        rope_parameters={"rope_type": "longrope", "rope_theta": 100.0, "original_max_position_embeddings": switch,
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


@pytest.mark.parametrize("lengths", [[10], [20], [40], [20, 20], [25, 40], [22], [24], [25]])
def test_answers_are_the_naive_loops_before_across_and_behind_the_change(pair, lengths, monkeypatch):
    prompts = random_prompts(lengths)
    policy, reference = (model_logits(model) for model in pair.sides.models().values())
    ids, mask = left_pad(prompts)
    asked = {"attention_mask": mask, "max_new_tokens": STEPS, "eos_token_id": None, "pad_token_id": PAD}
    found = pair.generate(ids, **asked)[:, ids.shape[1] :].tolist()
    assert found == [naive_aad(policy, reference, prompt, STEPS, 0.1, None).tokens for prompt in prompts]
    assert found == pair.generate(ids, **asked, use_cache=False)[:, ids.shape[1] :].tolist()
    if lengths == [20]:
        monkeypatch.setattr(type(pair), "_grows_beyond_its_rope", lambda *_: False)
        assert pair.generate(ids, **asked)[:, ids.shape[1] :].tolist() != found, "a kept cache would be wrong here"


@pytest.mark.parametrize(("lengths", "steps", "refused"), [([12, 20], 30, True), ([12, 20], 4, False), ([20, 30], 2, True),
                                                           ([24, 25], 1, True), ([25, 40], 30, False)])  # fmt: skip
def test_rows_on_both_sides_of_the_change_are_refused(pair, lengths, steps, refused):
    """The host takes one set of factors for a whole batch: a short row got other logits than alone."""
    ids, mask = left_pad(random_prompts(lengths))
    asked = {"attention_mask": mask, "max_new_tokens": steps, "eos_token_id": None, "pad_token_id": PAD}
    for more in ({}, {"use_cache": False}):
        if refused:
            with pytest.raises(
                ConfigError, match=rf"texts of {lengths[0]} and of {lengths[1]} tokens.*pass batch_size=1"
            ):
                pair.generate(ids, **asked, **more)
        else:
            alone = [pair.generate(ids[row : row + 1, -length:], **{**asked, "attention_mask": None}, **more)[0, length:]
                     for row, length in enumerate(lengths)]  # fmt: skip
            assert pair.generate(ids, **asked, **more)[:, ids.shape[1] :].tolist() == [one.tolist() for one in alone]


def test_scores_of_rows_on_both_sides_of_the_change_are_refused(pair):
    for lengths, message in (([24, 30], "texts of 24 and of 30 tokens"), ([25, 30], "")):
        ids, mask = left_pad(random_prompts(lengths))
        if message:
            with pytest.raises(ConfigError, match=message):
                pair.answer_logprobs(ids, mask, ids.shape[1] - 4)
        else:
            assert pair.answer_logprobs(ids, mask, ids.shape[1] - 4)[0].shape == (2, 4)


def test_what_needs_a_cache_across_the_change_is_refused(pair):
    assert rope_switch(pair.sides.policy.config) == SWITCH
    ids, mask = left_pad(random_prompts([20]))
    asked = {"attention_mask": mask, "pad_token_id": PAD}
    with pytest.raises(ConfigError, match="may grow beyond the length at which the model's rotary factors change"):
        pair.generate(ids, max_new_tokens=12, cache_implementation="static", **asked)
    long, mask = left_pad(random_prompts([40]))
    with pytest.raises(ConfigError, match="reads a prompt of 40 tokens in pieces"):
        pair.generate(long, attention_mask=mask, pad_token_id=PAD, max_new_tokens=4, prefill_chunk_size=8)


@pytest.mark.parametrize("strategy", ["aad", "greedy", "reference"])
@pytest.mark.parametrize("length", [20, 40])
def test_what_is_explained_of_a_text_across_the_change_is_what_was_read(pair, length, strategy, monkeypatch):
    from aad_plugin.pair import rereading
    from aad_plugin.pair.strategies import decode

    monkeypatch.setattr(rereading, "_MAX_LOGITS", 2 * VOCAB * 16)  # a text is read in pieces
    prompt = random_prompts([length])[0]
    policy, reference = (model_logits(model) for model in pair.sides.models().values())
    ids, mask, found = torch.tensor([prompt]), torch.ones(1, length, dtype=torch.long), []
    settings = pair.settings.override(strategy=strategy)
    tokens = decode(
        pair, ids, mask, settings, on_readings=found.extend, max_new_tokens=12, eos_token_id=None, pad_token_id=PAD
    )
    text = list(prompt)
    for step, token in enumerate(tokens[0, length:].tolist()):
        wanted = [torch.tensor(read(text)).log_softmax(-1)[token].item() for read in (policy, reference)]
        assert found[0].ids[step][0] == token
        assert [found[0].log_policy[step][0], found[0].log_reference[step][0]] == pytest.approx(wanted, abs=1e-3)
        text.append(token)


@pytest.mark.parametrize("known", [True, False], ids=["known from drawing", "read again"])
@pytest.mark.parametrize("switches", [(SWITCH, SWITCH), (SWITCH, SWITCH + 8)], ids=str)
def test_the_implicit_reward_of_an_answer_across_the_change_is_the_sum_over_its_steps(known, switches):
    """Was: the reference read the whole text under the long factors, the policy its beginning under the short ones."""
    policy, reference = (phi(seed, switch) for seed, switch in enumerate(switches))
    both = AlignedPair(Checkpoints(policy, reference), vocab_size=VOCAB, tokenizer=byte_tokenizer())
    ids, mask = left_pad(random_prompts([20, 20]))
    settings = both.settings.override(strategy="sample")
    (drawn,) = draw(both, ids, mask, settings, range(1), max_new_tokens=16, eos_token_id=None, pad_token_id=PAD)
    drawn = replace(drawn, lengths=torch.tensor([2, 16]), policy_logprobs=drawn.policy_logprobs if known else None)
    read = [model_logits(model) for model in (policy, reference)]
    wanted = []
    for row, length in zip(drawn.tokens.tolist(), drawn.lengths.tolist(), strict=True):
        steps = [[torch.tensor(one(row[:at])).log_softmax(-1)[row[at]].item() for one in read]
                 for at in range(20, 20 + length)]  # fmt: skip
        wanted.append(sum(own - other for own, other in steps))
    assert implicit_rewards(both, mask, drawn).tolist() == pytest.approx(wanted, abs=1e-3)
    if known:
        same = AlignedPair(Checkpoints(policy, policy), vocab_size=VOCAB, tokenizer=byte_tokenizer())
        assert implicit_rewards(same, mask, drawn).tolist() == pytest.approx([0, 0], abs=1e-3)


@pytest.mark.parametrize("shortcuts", ["lazy", "none"])
def test_texts_beyond_a_limit_from_which_factors_change_with_every_length_are_refused(shortcuts):
    """Was: a late reference read its tokens under the factors of a later step, and chose others than the loop."""
    pair = AlignedPair(
        Checkpoints(dynamic(0), dynamic(1)), vocab_size=VOCAB, tokenizer=byte_tokenizer(), shortcuts=shortcuts
    )
    prompt, message = (
        random_prompts([10])[0],
        f"beyond {SWITCH} this model's rotary factors are other ones for every length",
    )
    ids = torch.tensor([prompt])
    asked = {"eos_token_id": None, "pad_token_id": PAD}
    policy, reference = (model_logits(model) for model in pair.sides.models().values())
    most = SWITCH - len(prompt)
    found = pair.generate(ids, max_new_tokens=most, **asked)[0, len(prompt) :].tolist()
    assert found == naive_aad(policy, reference, prompt, most, 0.1, None).tokens
    for more in ({}, {"use_cache": False}, {"strategy": "greedy"}, {"prompt_lookup_num_tokens": 2}):
        with pytest.raises(ConfigError, match=f"a text may have {SWITCH + 1} tokens here, and {message}"):
            pair.generate(ids, max_new_tokens=most + 1, **asked, **more)
    long = torch.tensor(random_prompts([SWITCH + 1]))
    with pytest.raises(ConfigError, match=message):
        pair.answer_logprobs(long, torch.ones_like(long), 4)
    cache = pair.new_cache()
    pair(long[:, :-1], cache=cache)
    with pytest.raises(ConfigError, match=message):
        pair(long[:, -1:], cache=cache)
