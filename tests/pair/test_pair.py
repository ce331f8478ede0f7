"""The pair as a causal language model: what ``generate`` offers works on it, and what cannot work says so at once."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, TextStreamer

from aad_plugin.decoding import aad_scores
from aad_plugin.errors import ConfigError, NonFiniteLogits, VocabMismatch
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.one_base import OneBase
from aad_plugin.pair.step import Step
from tests.pairs import KINDS, toy_pair
from tests.toys import EOS, PAD, byte_tokenizer, left_pad, random_prompts, toy_model, with_adapters

OPTIONS = dict(max_new_tokens=24, pad_token_id=PAD, eos_token_id=EOS)


@pytest.fixture(scope="module", params=KINDS)
def pair(request) -> AlignedPair:
    return toy_pair(request.param).pair


def plain(pair: AlignedPair, prompt: list[int], **options) -> list[int]:
    return pair.generate(input_ids=torch.tensor([prompt]), **{**OPTIONS, **options})[0].tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"prompt_lookup_num_tokens": 3},
        {"cache_implementation": "dynamic"},
    ],
    ids=str,
)
def test_hosts_options_change_no_token(pair, options):
    prompt = random_prompts([12])[0] * 2
    assert plain(pair, prompt, **options) == plain(pair, prompt)


def test_drafting_with_the_policy_changes_no_token():
    toy = toy_pair("two_models")
    prompt = random_prompts([9])[0]
    assert plain(toy.pair, prompt, assistant_model=toy.pair.sides.policy_model) == plain(toy.pair, prompt)


def test_left_padding_and_batch_order_change_no_token(pair):
    prompts = random_prompts([4, 19, 11])
    for order in ([0, 1, 2], [2, 0, 1]):
        ids, mask = left_pad([prompts[i] for i in order])
        rows = pair.generate(input_ids=ids, attention_mask=mask, **OPTIONS)[:, ids.shape[1] :]
        for row, i in zip(rows.tolist(), order, strict=True):
            alone = plain(pair, prompts[i])[len(prompts[i]) :]
            assert row[: len(alone)] == alone
            assert set(row[len(alone) :]) <= {PAD}, "a finished row stays finished"


def test_one_beam_is_greedy_and_beams_follow_scores(pair):
    """Beam search re-orders both caches: its score must be what re-reading the sequence gives."""
    prompt = torch.tensor([random_prompts([10])[0]])
    out = pair.generate(
        input_ids=prompt, num_beams=4, return_dict_in_generate=True, output_scores=True, length_penalty=0.0, **OPTIONS
    )
    ids = out.sequences
    with torch.no_grad():
        scores = pair(ids).logits.log_softmax(-1)[:, prompt.shape[1] - 1 : -1]
    answer = ids[:, prompt.shape[1] :]
    ends = (answer == EOS).int().cumsum(-1) - (answer == EOS).int()
    total = (scores.gather(-1, answer[..., None]).squeeze(-1) * ((ends == 0) & (answer != PAD))).sum(-1)
    assert out.sequences_scores.item() == pytest.approx(total.item(), abs=1e-3)


def test_sampling_stays_within_the_plausible_set(pair):
    torch.manual_seed(0)
    prompt = torch.tensor([random_prompts([10])[0]])
    ids = pair.generate(input_ids=prompt, do_sample=True, top_k=0, num_return_sequences=6, **OPTIONS)
    logits = pair.sides.logits(("policy",), Step(ids))[0][:, prompt.shape[1] - 1 : -1, : pair.vocab_size]
    answer = ids[:, prompt.shape[1] :]
    chosen = logits.gather(-1, answer.clamp(max=pair.vocab_size - 1)[..., None]).squeeze(-1)
    plausible = chosen >= logits.amax(-1) + torch.tensor(0.1).log() - 1e-4
    before_end = (answer == EOS).int().cumsum(-1) - (answer == EOS).int() == 0
    assert plausible[before_end].all()


def test_streamer_and_stop_strings(pair, capsys):
    prompt = random_prompts([10])[0]
    full = plain(pair, prompt)
    text = pair.tokenizer.decode(full[len(prompt) :])
    stop = text[3:5]
    ids = torch.tensor([prompt])
    out = pair.generate(input_ids=ids, stop_strings=[stop], tokenizer=pair.tokenizer, **OPTIONS)[0].tolist()
    assert out == full[: len(out)]
    assert stop in pair.tokenizer.decode(out[len(prompt) :])
    pair.generate(input_ids=ids, streamer=TextStreamer(pair.tokenizer, skip_prompt=True), **OPTIONS)
    assert len(capsys.readouterr().out) > 0


def test_strategies_limits(pair):
    prompt = random_prompts([10])[0]
    policy = pair.sides.policy
    greedy = policy.generate(input_ids=torch.tensor([prompt]), **OPTIONS)[0].tolist()
    assert plain(pair, prompt, strategy="greedy") == greedy
    assert plain(pair, prompt, strategy="aad", alpha=1.0) == greedy
    assert plain(pair, prompt, strategy="eft", eft_scale=1.0) == greedy
    reference = plain(pair, prompt, strategy="reference")
    assert plain(pair, prompt, strategy="eft", eft_scale=0.0) == reference
    assert plain(pair, prompt) not in (greedy, reference)


def test_identical_models_decode_greedily():
    model = toy_model("llama", 0)
    pair = AlignedPair(Checkpoints(model, model))
    prompt = random_prompts([10])[0]
    assert plain(pair, prompt) == plain(pair, prompt, strategy="greedy")


def test_a_checkpoints_generation_config_does_not_leak():
    policy, reference = toy_model("llama", 4), toy_model("llama", 5)
    prompt = random_prompts([10])[0]
    clean = plain(AlignedPair(Checkpoints(policy, reference)), prompt)
    policy.generation_config = GenerationConfig(
        repetition_penalty=3.0, temperature=0.1, do_sample=True, top_k=3, eos_token_id=EOS
    )
    pair = AlignedPair(Checkpoints(policy, reference))
    assert plain(pair, prompt) == clean
    assert pair.generation_config.repetition_penalty in (None, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 rescales logits, but strategy='aad' ranks log-ratios"),
        ({"exponential_decay_length_penalty": (5, 1.1)}, "exponential_decay_length_penalty"),
        ({"guidance_scale": 2.0, "strategy": "eft"}, "strategy='eft' ranks log-ratios"),
        ({"cache_implementation": "paged"}, "continuous batching holds the cache of one model"),
        ({"strategy": "best_of_2"}, "answered by aad_plugin.answer"),
        ({"strategy": "gredy"}, "did you mean 'greedy'"),
        ({"alpha": 0}, r"alpha must be a number in \(0, 1\], got 0"),
        ({"generation_config": GenerationConfig(repetition_penalty=2.0)}, "repetition_penalty=2.0"),
    ],
)
def test_what_cannot_work_says_so(pair, options, message):
    with pytest.raises(ConfigError, match=message):
        pair.generate(input_ids=torch.tensor([[1, 2, 3]]), **options)


def test_continuous_batching_is_refused(pair):
    with pytest.raises(ConfigError, match="continuous batching"):
        pair.generate_batch([[1, 2, 3]])


def test_penalties_are_fine_where_scores_are_logits(pair):
    prompt = random_prompts([10])[0]
    penalised = plain(pair, prompt, strategy="greedy", repetition_penalty=5.0)
    assert penalised != plain(pair, prompt, strategy="greedy")


def test_a_cache_of_another_strategy_is_refused(pair):
    with pytest.raises(ConfigError, match="built for another strategy"):
        pair(torch.tensor([[1, 2]]), cache=DynamicCache())


@pytest.mark.parametrize("own", [True, False], ids=["of new_cache", "brought along"])
@pytest.mark.parametrize(("first", "then", "held"), [
    ({"strategy": "greedy"}, {"strategy": "reference"}, "policy"), ({"strategy": "greedy"}, {"strategy": "expo"}, "policy"),
    ({"strategy": "expo", "expo_scale": 0.5}, {"strategy": "expo", "expo_scale": 1}, "expo, expo_scale 0.5"),
    ({"strategy": "aad"}, {"strategy": "eft"}, None), ({"strategy": "greedy"}, {"strategy": "sample"}, None),
])  # fmt: skip
def test_a_cache_goes_on_with_the_sides_whose_keys_it_holds(pair, own, first, then, held):
    """Was: with any strategy that reads as many sides, on whoever's keys."""
    first, then = (pair.settings.override(**one) for one in (first, then))
    prompt = torch.tensor(random_prompts([8]))
    cache = pair.new_cache(first) if own or len(first.roles) > 1 else DynamicCache(config=pair.sides.policy.config)
    with torch.no_grad():
        pair(prompt[:, :-1], cache=cache, settings=first)
        if held:
            with pytest.raises(
                ConfigError, match=rf"built for another strategy \(it holds keys of {held}\): this one reads"
            ):
                pair(prompt[:, -1:], cache=cache, settings=then)
        else:
            wanted = pair(prompt, settings=then).logits[:, -1:]
            torch.testing.assert_close(pair(prompt[:, -1:], cache=cache, settings=then).logits, wanted)
        if held and not own:
            cache.reset()  # an emptied one holds nobody's
            torch.testing.assert_close(
                pair(prompt, cache=cache, settings=then).logits, pair(prompt, settings=then).logits
            )


@pytest.mark.parametrize("shortcuts", ["none", "auto"])
@pytest.mark.parametrize("role", ["policy", "reference"])
def test_nan_names_model_and_step(role, shortcuts, monkeypatch):
    toy = toy_pair("two_models")
    toy.pair.shortcuts = shortcuts
    model = toy.pair.sides.policy_model if role == "policy" else toy.pair.sides.reference_model
    norm, calls = model.model.norm, []
    real = norm.forward

    def broken(hidden):
        calls.append(1)
        return real(hidden) * (float("nan") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(norm, "forward", broken)
    # A late reference reads for the third time at some later step.
    step = "3" if shortcuts == "none" or role == "policy" else r"\d+"
    with pytest.raises(NonFiniteLogits, match=f"the {role} produced NaN logits at step {step} "):
        plain(toy.pair, [1, 2, 3], eos_token_id=None)


def test_padded_heads_are_cut_and_never_chosen():
    policy, reference = toy_model("llama", 4), toy_model("llama", 5)
    prompt = random_prompts([10])[0]
    wanted = plain(AlignedPair(Checkpoints(policy, reference), vocab_size=258), prompt)
    policy.resize_token_embeddings(300)
    with torch.no_grad():
        policy.lm_head.weight[258:] = 100 * policy.lm_head.weight[:42]  # rows that would win every argmax
    pair = AlignedPair(Checkpoints(policy, reference), vocab_size=258)
    assert plain(pair, prompt) == wanted
    assert pair(torch.tensor([prompt])).logits.shape[-1] == 258
    with pytest.raises(VocabMismatch, match="pass vocab_size"):
        AlignedPair(Checkpoints(policy, reference))


def test_scores_are_the_decoding_rules(pair):
    ids = torch.tensor([random_prompts([10])[0]])
    rows = [row[..., : pair.vocab_size] for row in pair.sides.logits(("policy", "reference"), Step(ids, keep=1))]
    assert torch.equal(pair(ids, logits_to_keep=1).logits, aad_scores(*rows, 0.1))


def test_a_penalty_is_refused_wherever_it_stands(pair):
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(ConfigError, match="repetition_penalty=50"):
        pair.generate(ids, GenerationConfig(repetition_penalty=50.0))
    pair.generation_config.repetition_penalty = 50.0
    try:
        with pytest.raises(ConfigError, match="repetition_penalty=50"):
            pair.generate(ids)
    finally:
        pair.generation_config.repetition_penalty = 1.0


def test_an_adapter_that_replaced_the_bases_biases_is_refused():
    model = with_adapters("gpt2", ("policy",))
    model.peft_config["policy"].bias = "all"
    with pytest.raises(ConfigError, match="bias='all', which replaces the base's biases"):
        OneBase(model, "policy")


@pytest.mark.parametrize("fault", ["dora", "merged"])
def test_adapters_that_cannot_share_a_batch_are_refused(fault):
    model = with_adapters("llama", ("policy",))
    if fault == "dora":
        model.peft_config["policy"].use_dora = True
    else:
        model.merge_adapter()
    with pytest.raises(ConfigError, match="DoRA" if fault == "dora" else "merged into the base weights"):
        OneBase(model, "policy")


def test_reference_on_a_device_of_its_own_stays_there():
    policy, reference = toy_model("llama", 0), toy_model("llama", 1)
    pair = AlignedPair(Checkpoints(policy, reference.to("meta")), tokenizer=byte_tokenizer())
    pair.to(torch.float64)
    assert policy.dtype == torch.float64
    assert pair.sides.reference_model.device.type == "meta"
