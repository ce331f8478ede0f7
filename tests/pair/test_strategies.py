"""Every strategy through one function: batches, stop sequences, sampling and best-of-n."""

from __future__ import annotations

import pytest
import torch

from aad_plugin.errors import ConfigError
from aad_plugin.pair.answering import answer
from aad_plugin.pair.cache import PairCache, can_repeat
from aad_plugin.pair.sampling import edits_scores
from aad_plugin.pair.scoring import Scorer
from aad_plugin.pair.strategies import _Run, decode
from aad_plugin.settings import STRATEGIES, DecodingSettings
from tests.pairs import KINDS, toy_pair
from tests.toys import PAD, left_pad, random_prompts

PROMPTS = random_prompts([4, 19, 11, 7, 25])


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    return toy_pair(request.param).pair


def answers(pair, settings: DecodingSettings, order: list[int], **options) -> dict[int, list[int]]:
    ids, mask = left_pad([PROMPTS[i] for i in order])
    tokens = decode(pair, ids, mask, settings, max_new_tokens=12, pad_token_id=PAD, **options)[
        :, ids.shape[1] :
    ].tolist()
    return {i: [t for t in row if t != PAD] for i, row in zip(order, tokens, strict=True)}


@pytest.mark.parametrize("strategy", [*(name for name in STRATEGIES if name not in ("guided", "vcd")), "best_of_5"])
def test_batch_size_and_order_change_no_answer(pair, strategy):
    settings = DecodingSettings(strategy=strategy)
    together = answers(pair, settings, [0, 1, 2, 3, 4])
    split = {**answers(pair, settings, [3, 1]), **answers(pair, settings, [4, 0, 2])}
    assert together == split


def test_seed_sample_number_and_prompt_decide_a_sampled_answer(pair):
    base = DecodingSettings(strategy="sample")
    first = answers(pair, base, [0, 1])
    assert first == answers(pair, base, [0, 1])
    assert first != answers(pair, base.override(seed=7), [0, 1])
    assert first != answers(pair, base, [0, 1], sample=1)


def test_best_of_n_takes_the_sample_with_the_largest_implicit_reward(pair):
    n, prompt = 4, PROMPTS[2]
    samples = [answers(pair, DecodingSettings(strategy="sample"), [2], sample=i)[2] for i in range(n)]
    rewards = []
    for sample in samples:
        ids = torch.tensor([prompt + sample])
        policy, reference = pair.answer_logprobs(ids, torch.ones_like(ids), len(prompt))
        rewards.append((policy - reference).double().sum().item())
    assert answers(pair, DecodingSettings(strategy=f"best_of_{n}"), [2])[2] == samples[rewards.index(max(rewards))]


@pytest.mark.parametrize(("temperature", "all_one"), [(1e-3, True), (0.5, False)])
def test_what_best_of_n_drew_twice_is_read_once(pair, monkeypatch, temperature, all_one):
    """At 0.001 the four answers are one, which needs no reward."""
    settings = DecodingSettings(strategy="sample", temperature=temperature, seed=3)
    drawn = [answers(pair, settings, [0], sample=i)[0] for i in range(4)]
    distinct = len({tuple(answer) for answer in drawn})
    passes, original = [], pair.answer_logprobs
    monkeypatch.setattr(pair, "answer_logprobs", lambda *args: passes.append(1) or original(*args))
    found = answers(pair, settings.override(strategy="best_of_4"), [0])[0]
    assert found in drawn
    assert len(passes) == (0 if all_one else distinct) and (distinct == 1) is all_one


@pytest.mark.parametrize("more", [{}, {"cache_implementation": "static"}, {"use_cache": False}])
def test_samples_of_one_prompt_read_it_once(pair, monkeypatch, more):
    """Where the cache's rows can be repeated; else, as always, each for itself."""
    shapes, original = [], Scorer.score
    monkeypatch.setattr(Scorer, "score", lambda own, step, sparing: (
        shapes.append(tuple(step.input_ids.shape)) or original(own, step, sparing)
    ))  # fmt: skip
    settings = DecodingSettings(strategy="best_of_4", picker="reward:anything")
    chosen = []
    for repeats in (True, False):
        if not repeats:
            monkeypatch.setattr("aad_plugin.pair.model.can_repeat", lambda cache: False)
        chosen.append(
            answers(
                pair,
                settings,
                [0, 1],
                picker=lambda prompts, texts: [len(text) for text in texts],
                prompts=["p0", "p1"],
                **more,
            )
        )
        first, second = shapes[:2]
        shapes.clear()
        assert first == ((2 if repeats and not more else 8), 19)
        assert second == (8, 20 if "use_cache" in more else 1)
    assert chosen[0] == chosen[1]


def test_rows_that_are_no_copies_are_refused(pair):
    """Only the first of each three was read, and the others got its tokens."""
    ids, mask = left_pad(PROMPTS[:2])
    three, masks = ids.repeat_interleave(3, 0), mask.repeat_interleave(3, 0)
    options = dict(max_new_tokens=4, eos_token_id=None, pad_token_id=PAD)
    once = pair.generate(ids, attention_mask=mask, **options)
    assert torch.equal(pair.generate(three, attention_mask=masks, copies=3, **options), once.repeat_interleave(3, 0))
    for given, kept in ((ids.repeat(3, 1), mask.repeat(3, 1)), (three[:-1], masks[:-1]), (three, mask.repeat(3, 1))):
        with pytest.raises(ConfigError, match=r"copies=3 reads each prompt once for 3 rows in succession, got \d rows"):
            pair.generate(given, attention_mask=kept, copies=3, **options)
    for wrong in (0, -1, 2.0, True):
        with pytest.raises(ConfigError, match="an integer from 1, got"):
            pair.generate(three, attention_mask=masks, copies=wrong, **options)


def test_rows_are_repeated_only_where_every_cache_can(pair):
    from transformers import DynamicCache, StaticCache

    config = pair.sides.policy.config
    plain, other = DynamicCache(config=config), StaticCache(config=config, max_cache_len=8)
    assert can_repeat(PairCache(PairCache(plain, plain), plain))
    assert not can_repeat(PairCache(PairCache(plain, other), plain)) and not can_repeat(None)


@pytest.mark.parametrize("more", [
    {}, {"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 1}, {"suppress_tokens": list(range(100))},
    {"min_new_tokens": 9},
])  # fmt: skip
def test_implicit_rewards_are_of_the_models_whatever_edits_the_scores_that_are_drawn_from(pair, more):
    ids, mask = left_pad(PROMPTS)
    settings = DecodingSettings(strategy="best_of_n", n=3, temperature=1.5)
    options = {"max_new_tokens": 12, "pad_token_id": PAD, **more}
    run = _Run(pair, ids, mask, settings, [], options)
    assert edits_scores(options) == bool(more)
    for drawn in run.draw([str(number) for number in range(len(ids))], range(3)):
        width = drawn.tokens.shape[1] - ids.shape[1]
        inside = torch.arange(width) < drawn.lengths[:, None]
        whole = torch.cat([mask, inside.long()], dim=1)
        policy, reference = pair.answer_logprobs(drawn.tokens, whole, ids.shape[1], ("policy", "reference"))
        wanted = ((policy - reference).double() * inside).sum(-1)
        torch.testing.assert_close(run.rewards(drawn, None, []), wanted, atol=1e-3, rtol=1e-3)


def test_the_end_token_that_was_asked_for_ends_an_answer(pair):
    ids, mask = left_pad(PROMPTS)
    plain = decode(
        pair, ids, mask, DecodingSettings(strategy="greedy"), max_new_tokens=9, pad_token_id=PAD, eos_token_id=None
    )
    end = int(plain[0, ids.shape[1] + 1])
    run = _Run(pair, ids, mask, DecodingSettings(strategy="sample", temperature=0.01), [], {
        "max_new_tokens": 9, "pad_token_id": PAD, "eos_token_id": end})  # fmt: skip
    (drawn,) = run.draw([str(number) for number in range(len(ids))], range(1))
    first = plain[0, ids.shape[1] :].tolist().index(end) + 1
    assert run.eos == [end] and int(drawn.lengths[0]) == first


def test_pieces_of_a_prompt_and_a_static_cache(pair):
    """The host makes the cache before it reads a piece, for as many rows as there are prompts."""
    ids, mask = left_pad(PROMPTS[:2])
    asked = {"attention_mask": mask, "max_new_tokens": 4, "pad_token_id": PAD, "prefill_chunk_size": 4}
    if len(pair.sides.models()) == 2:
        found = pair.generate(ids, cache_implementation="static", **asked)
        assert torch.equal(found, pair.generate(ids, **{**asked, "prefill_chunk_size": None}))
    else:
        with pytest.raises(ConfigError, match="prefill_chunk_size beside a static cache is for pairs of two models"):
            pair.generate(ids, cache_implementation="static", **asked)
        assert torch.equal(pair.generate(ids, **asked), pair.generate(ids, **{**asked, "prefill_chunk_size": None}))


def test_a_reward_picker_chooses_by_prompt_and_text(pair):
    seen = []

    def longest(prompts, texts):
        seen.extend(prompts)
        return [len(text) for text in texts]

    settings = DecodingSettings(strategy="best_of_6", picker="reward:anything")
    chosen = answers(pair, settings, [0, 1], picker=longest, prompts=["p0", "p1"])
    for row in (0, 1):
        texts = [answers(pair, DecodingSettings(strategy="sample"), [row], sample=i)[row] for i in range(6)]
        decoded = [pair.tokenizer.decode(t, skip_special_tokens=True) for t in texts]
        assert len(pair.tokenizer.decode(chosen[row], skip_special_tokens=True)) == max(map(len, decoded))
    assert set(seen) == {"p0", "p1"}


def test_a_reward_picker_reads_samples_up_to_their_stop_strings(pair):
    settings, stop, shown = DecodingSettings(strategy="best_of_4", picker="reward:anything"), list("aeiou "), []

    def score(prompts, texts):
        shown.extend(texts)
        return [len(text) for text in texts]

    answers(pair, settings, [0, 1], stop=stop, picker=score, prompts=["p0", "p1"])
    assert shown and not any(letter in text for text in shown for letter in stop)


def test_a_stop_sequence_ends_its_row_alone(pair):
    settings = DecodingSettings()
    free = answers(pair, settings, [0, 1])
    stop = pair.tokenizer.decode(free[0][4:6])
    stopped = answers(pair, settings, [0, 1], stop=[stop])
    text = pair.tokenizer.decode(stopped[0])
    assert stop in text and stopped[0] == free[0][: len(stopped[0])]
    if stop not in pair.tokenizer.decode(free[1]):
        assert stopped[1] == free[1]


def test_stop_sequences_do_not_make_best_of_n_depend_on_its_batch(pair):
    settings = DecodingSettings(strategy="best_of_3")
    free = answers(pair, settings, [0])[0]
    stop = [pair.tokenizer.decode(free[2:3])]
    assert answers(pair, settings, [0, 1, 2], stop=stop)[0] == answers(pair, settings, [0], stop=stop)[0]


def test_text_in_text_out(pair):
    prompts = ["Hello there", "What is a zipper?", [{"role": "user", "content": "Hello there"}]]
    one = answer(pair, prompts, max_new_tokens=6, batch_size=1)
    assert one == answer(pair, prompts, max_new_tokens=6, batch_size=3)
    assert one[0] == one[2]
    stop = one[0][2]
    assert answer(pair, prompts[:1], max_new_tokens=6, stop=[stop])[0] == one[0].split(stop)[0]


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["fine", "  "], {}, "prompt 2 is empty"),
        (["x" * 600], {}, "prompt 1 has 617 tokens; with 256 new ones it exceeds the context of 512"),
        (["fine"], {"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ("Hello", {}, "prompts is a list, got one string"),
        (["fine"], {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ([None], {}, "prompt 1 must be text or chat messages, got None"),
        (["fine"], {"strategy": "beam"}, "strategy must be one of"),
        ([[{"role": "user", "content": "hi"}]], {"chat": False}, "chat=False takes plain strings"),
    ],
)
def test_bad_input(pair, prompts, options, message):
    with pytest.raises(ConfigError, match=message):
        answer(pair, prompts, **options)


def test_stop_sequences_follow_beams(pair):
    """A row's memory of a stop sequence must not stay behind when beams change rows."""
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        options = dict(max_new_tokens=12, num_beams=3, pad_token_id=PAD)
        free = pair.tokenizer.decode(
            pair.generate(input_ids=ids, **options)[0, len(prompt) :], skip_special_tokens=True
        )
        stop = [letter for letter in free[1:] if letter.isalnum() and letter.isascii()][
            :1
        ]  # a byte of no character cannot be matched
        if not stop:
            continue
        hosts = pair.generate(input_ids=ids, stop_strings=stop, tokenizer=pair.tokenizer, **options)
        ours = decode(pair, ids, torch.ones_like(ids), DecodingSettings(), stop=stop, **options)
        assert ours.tolist() == hosts.tolist()


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"strategy": "sample"}, {"num_beams": 2}, "num_beams searches for one"),
        ({}, {"num_return_sequences": 2, "do_sample": True}, "one answer per prompt is decoded"),
    ],
)
def test_options_that_contradict_a_strategy(pair, settings, options, message):
    with pytest.raises(ConfigError, match=message):
        answers(pair, DecodingSettings(**settings), [0], **options)
