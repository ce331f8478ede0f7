"""Drafts change how fast an answer comes and nothing of it; what they cannot serve is refused in one line."""

from __future__ import annotations

import copy

import pytest
import torch

from aad_plugin.errors import ConfigError, ProofFailed, VocabMismatch
from aad_plugin.pair.cut_draft import ACCOUNT, WEIGHTS, cut, linear_layers, shape_of
from aad_plugin.pair.draft_loading import load_draft
from aad_plugin.pair.drafts import Draft
from aad_plugin.pair.proof import prove_use
from aad_plugin.pair.recorder import TokenRecorder
from aad_plugin.pair.stopping import StopSequences
from aad_plugin.pair.strategies import decode
from tests.pairs import KINDS, toy_pair
from tests.toys import PAD, VOCAB, byte_tokenizer, left_pad, naive_aad, random_prompts, toy_model

STEPS, PROMPT = 40, random_prompts([9])[0]
OPTIONS = dict(max_new_tokens=STEPS, eos_token_id=None, pad_token_id=PAD)


def loaded(name: str, pair) -> Draft:
    return load_draft(name, pair.sides, pair.tokenizer, pair.vocab_size)


def draft_of(pair, kind: str) -> Draft:
    """The policy itself, which is often right; a stranger, which hardly ever is; a cut-down base with half the tokens."""
    ids = None
    if kind == "policy":
        model = pair.sides.policy_model if hasattr(pair.sides, "policy_model") else toy_model("llama", 4)
    elif kind == "stranger":
        model = toy_model("llama", 11)
    else:
        ids = torch.arange(0, VOCAB, 2)
        with pair.sides.role("reference") as base:
            model = cut(base, [1], ids)
    return Draft(model, vocab_size=pair.vocab_size, name=kind, mark="", ids=ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guesses", ["policy", "stranger", "cut"])
@pytest.mark.parametrize("shortcuts", ["none", "lazy"])
def test_tokens_are_those_of_the_naive_loop(kind, guesses, shortcuts):
    toy = toy_pair(kind)
    pair = toy.pair
    pair.shortcuts, pair.draft = shortcuts, draft_of(pair, guesses)
    found = pair.generate(torch.tensor([PROMPT]), assistant_confidence_threshold=0.0, **OPTIONS)[0, len(PROMPT) :]
    naive = naive_aad(toy.policy, toy.reference, PROMPT, STEPS, 0.1, None)
    assert min(naive.margins) > 1e-4, "a choice too close to call: take another prompt"
    assert found.tolist() == naive.tokens
    tally = pair.draft.tally
    assert tally["guesses"] >= STEPS / 2 and 0 < tally["checks"] < STEPS
    if guesses == "policy" and kind == "two_models":
        assert tally["tokens"] / tally["checks"] > 1.3, "a policy's guesses are taken"


@pytest.mark.parametrize("strategy", ["aad", "greedy", "reference", "eft"])
def test_every_strategy_of_token_by_token_is_served(strategy):
    """With padding in front and a prompt whose end may come early."""
    pair = toy_pair("two_models").pair
    ids, mask = left_pad([PROMPT, PROMPT + PROMPT])
    asked = dict(attention_mask=mask[:1], strategy=strategy, max_new_tokens=STEPS, eos_token_id=list(range(0, 250, 9)))
    plain = pair.generate(ids[:1], pad_token_id=PAD, **asked)
    pair.draft = draft_of(pair, "policy")
    assert torch.equal(pair.generate(ids[:1], pad_token_id=PAD, assistant_confidence_threshold=0.0, **asked), plain)


def test_a_budget_is_kept_and_an_unsure_draft_guesses_nothing():
    pair = toy_pair("two_models").pair
    pair.draft = draft_of(pair, "policy")
    for number in (1, 2, 5):
        options = {**OPTIONS, "max_new_tokens": number}
        assert pair.generate(torch.tensor([PROMPT]), num_assistant_tokens=8, **options).shape[1] == len(PROMPT) + number
    pair.draft.tally.clear()
    pair.generate(torch.tensor([PROMPT]), assistant_confidence_threshold=1.1, **OPTIONS)
    assert pair.draft.tally["guesses"] == 0 and pair.draft.tally["checks"] == STEPS - 1


def test_a_stop_sequence_is_seen_among_tokens_that_came_at_once():
    tokenizer = byte_tokenizer()
    stopper = StopSequences(["ab"], tokenizer, 1)
    assert not stopper(torch.tensor([tokenizer.encode("xy")]), None).any()
    assert stopper(torch.tensor([tokenizer.encode("xyab0123456789")]), None).all()
    assert stopper.lengths.tolist() == [len(tokenizer.encode("xyab")) - 1], (
        "what came after the stop is no part of the answer"
    )


def test_what_a_draft_cannot_serve_is_refused():
    pair = toy_pair("two_models").pair
    pair.draft = draft_of(pair, "policy")
    ids, mask = left_pad([PROMPT, PROMPT])
    one = dict(attention_mask=mask[:1], **OPTIONS)
    for options, said in (
        ({"num_beams": 2}, "num_beams=2"),
        ({"do_sample": True}, "do_sample=True"),
        ({"cache_implementation": "static"}, "cache_implementation='static'"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens=3"),
        ({"use_cache": False}, "use_cache=False"),
        ({"recorder": TokenRecorder(0.1)}, "a trace shows one token at a time"),
        ({"assistant_model": toy_model("llama", 1)}, "draft_model and assistant_model both guess"),
    ):
        with pytest.raises(ConfigError, match=said):
            pair.generate(ids[:1], **{**one, **options})
            pytest.fail(f"{options} was not refused")
    with pytest.raises(ConfigError, match="one prompt at a time, got a batch of 2: pass batch_size=1"):
        pair.generate(ids, attention_mask=mask, **OPTIONS)
    for strategy in ("sample", "best_of_2"):
        with pytest.raises(ConfigError, match="draws its tokens"):
            decode(pair, ids[:1], mask[:1], pair.settings.override(strategy=strategy), **OPTIONS)


def test_a_chunk_that_is_read_wrongly_fails_the_proof(monkeypatch):
    """A fault that shows only where several tokens are read after others: each sees what follows it."""
    pair = toy_pair("two_models").pair
    prove_use(pair, "drafts")
    pair.proven_uses.clear()
    model = pair.sides.policy_model
    real = model.forward

    def forward(*args, **kwargs):
        ids, cache = kwargs["input_ids"], kwargs.get("cache", kwargs.get("past_key_values"))
        if cache is not None and cache.get_seq_length() and ids.shape[1] > 1:
            kwargs["input_ids"] = ids.roll(1, 1)
        return real(*args, **kwargs)

    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(ProofFailed, match="drafts would change this pair's tokens"):
        prove_use(pair, "drafts")


# --------------------------------------------------------------------------------------------- loading


@pytest.fixture
def saved(tmp_path):
    """A pair with a tokenizer, and the folder of a draft cut from its base: one layer, changed by rank 2."""
    import json

    from safetensors.torch import save_file

    pair = toy_pair("reference_plus_lora").pair
    ids = torch.arange(0, VOCAB, 3)
    with pair.sides.role("reference") as base:
        model = cut(base, [1], ids)
        account = {"layers": [1], "rank": 2, "base": shape_of(base.config)}
    stored = {"ids": ids.int(), "norm": model.base_model.norm.weight.half()}
    for name, linear in linear_layers(model):
        stored[f"down.{name}"] = torch.randn(2, linear.in_features).half()
        stored[f"up.{name}"] = torch.randn(linear.out_features, 2).half()
    save_file({name: value.contiguous() for name, value in stored.items()}, tmp_path / WEIGHTS)
    (tmp_path / ACCOUNT).write_text(json.dumps(account))
    return pair, tmp_path


def test_a_cut_draft_is_read_over_its_pairs_base(saved):
    pair, folder = saved
    base = {name: value.clone() for name, value in pair.sides.model.state_dict().items()}
    draft = loaded(str(folder), pair)
    assert draft.model.get_input_embeddings() is pair.sides.policy.get_input_embeddings(), "held once"
    with torch.no_grad():
        token, confidence = draft.guess(torch.tensor([PROMPT]), draft.new_cache())
    assert token % 3 == 0 and 0 < confidence <= 1
    assert all(torch.equal(value, base[name]) for name, value in pair.sides.model.state_dict().items())


def test_a_draft_of_another_base_or_a_damaged_one_is_refused(saved):
    pair, folder = saved
    text = (folder / ACCOUNT).read_text()
    (folder / ACCOUNT).write_text(text.replace('"hidden_size": 32', '"hidden_size": 64'))
    with pytest.raises(ConfigError, match="cut from a base whose hidden_size is 64, this pair's is 32"):
        loaded(str(folder), pair)
    (folder / ACCOUNT).write_text(text)
    (folder / WEIGHTS).write_bytes(b"")
    with pytest.raises(ConfigError, match="is damaged"):
        loaded(str(folder), pair)


def test_a_model_with_other_tokens_is_refused(saved, tmp_path):
    pair, _ = saved
    model, tokenizer = toy_model("llama", 3), byte_tokenizer()
    own = tmp_path / "own"
    model.save_pretrained(own), tokenizer.save_pretrained(own)
    assert loaded(str(own), pair).account()["model"] == str(own)
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["<more>"])
    other.save_pretrained(own)
    with pytest.raises(VocabMismatch, match="has other token ids than the pair"):
        loaded(str(own), pair)
    with pytest.raises(ConfigError, match="cannot load draft_model='nowhere/at/all'"):
        loaded("nowhere/at/all", pair)
