"""What ``--model aad-vllm`` makes of lm-eval's requests, before and after an engine answers: no engine starts here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook

from aad_plugin.errors import AADError, ConfigError
from aad_plugin.harness.answer_store import AnswerStore
from aad_plugin.harness.vllm_replicas import run
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.parts import PairSource

pytestmark = pytest.mark.engine


@pytest.fixture
def model(monkeypatch):
    """A model around no engine, which answers a request by its number; ``drawn`` are the requests that were asked."""
    from aad_plugin.harness.vllm_host import VLLM
    from aad_plugin.harness.vllm_model import AADVLLM

    model = object.__new__(AADVLLM)
    model.settings = DecodingSettings()
    model._arguments = SimpleNamespace(source=PairSource(policy="a", reference="b"), loglikelihood="policy")
    model._pair = SimpleNamespace(expo_scale=None)
    model._takes_seeds, model._has_drafts, model._store, model.think_end_token = True, False, None, None
    model.cache_hook = CacheHook(None)
    model.drawn = []

    def generate_until(self, requests, disable_tqdm=False):
        self.drawn += requests
        for number, request in enumerate(requests):
            kwargs, _, _ = self.modify_gen_kwargs(request.args[1])
            text = f"{request.args[0]} {kwargs['seed']}"
            if number == self.stops_after:
                raise KeyboardInterrupt
            output = SimpleNamespace(outputs=[SimpleNamespace(text=text, finish_reason="stop")])
            self._arrived(output, SimpleNamespace(extra_args=kwargs["extra_args"]))
        return [f"{one.args[0]} {self.modify_gen_kwargs(one.args[1])[0]['seed']}" for one in requests]

    model.stops_after = None
    monkeypatch.setattr(VLLM, "generate_until", generate_until)
    return model


def asked(context, **gen_kwargs):
    return Instance("generate_until", {}, (context, {"max_gen_toks": 4, **gen_kwargs}), 0)


def test_draws_of_best_of_n_are_kept_as_they_arrive(model, monkeypatch, tmp_path):
    monkeypatch.setattr(model, "_rewards", lambda settings, contexts, answers: [len(str(one)) for one in answers])
    requests = [asked(text, strategy="best_of_3") for text in ("one", "two")]
    model._store, model.stops_after = AnswerStore(tmp_path), 4
    with pytest.raises(KeyboardInterrupt):
        model._decode(requests, True)
    model._store, model.stops_after = AnswerStore(tmp_path), None
    assert len(model._store) == 4
    model.drawn.clear()
    found = model._decode(requests, True)
    assert len(model.drawn) == 2, "the others were drawn before"
    model._store = None
    assert model._decode(requests, True) == found
    sample = model._key("one", {"max_gen_toks": 4, "strategy": "sample", "sample": 1})
    assert AnswerStore(tmp_path).find(sample) is not None


@pytest.mark.parametrize(
    ("gen_kwargs", "message"),
    [
        ({"repetition_penalty": 1.3}, "repetition_penalty=1.3 rescales logits, but strategy='aad' ranks log-ratios"),
        ({"presence_penalty": 0.5, "strategy": "eft"}, "presence_penalty=0.5 rescales logits, but strategy='eft'"),
    ],
)
def test_penalties_are_refused_where_ratios_are_ranked(model, gen_kwargs, message):
    with pytest.raises(ConfigError, match=message):
        model._decode([asked("one", **gen_kwargs)], True)


def test_vllms_own_words_reach_it(model):
    words = {"presence_penalty": 0.5, "ignore_eos": True, "min_tokens": 2, "stop_token_ids": [3]}
    kwargs, _, _ = model.modify_gen_kwargs({"strategy": "greedy", "max_gen_toks": 4, **words})
    assert {name: kwargs[name] for name in words} == words
    with pytest.raises(ConfigError, match="did you mean 'presence_penalty'"):
        model._decode([asked("one", presence_penaltyy=1)], True)


def test_a_request_that_vllm_ended_with_an_error_is_no_answer(model, tmp_path):
    model._store = AnswerStore(tmp_path)
    model._asked, model._until, model._prompts = {"0": "key"}, {"0": []}, {"0": "hello"}
    model._truncated, model._tags = {}, {}
    ended = SimpleNamespace(text="", finish_reason="error")
    with pytest.raises(AADError, match="vLLM ended a request with 'error', which is no answer"):
        model._arrived(SimpleNamespace(outputs=[ended]), SimpleNamespace(extra_args={"answer_id": "0"}))
    assert len(model._store) == 0


def test_what_a_call_leaves_behind_is_no_answer_of_the_next():
    class Engine:
        def __init__(self):
            self.held, self.llm_engine = [], self

        def add_request(self, name, prompt, parameters):
            if parameters is None:
                raise ValueError("refused")
            self.held.append((name, prompt["prompt_token_ids"]))

        def abort_request(self, names):
            self.held = [one for one in self.held if one[0] not in names]

        def has_unfinished_requests(self):
            return bool(self.held)

        def step(self):
            name, ids = self.held.pop()
            return [SimpleNamespace(finished=True, request_id=f"{name}-x", ids=ids)]

    engine = Engine()
    first = run(engine, [[1], [2]], ["p", "p"])
    assert next(first)[0] == 1
    first.close()  # as Ctrl-C does
    with pytest.raises(ValueError, match="refused"):
        list(run(engine, [[3], [4]], ["p", None]))
    assert [(number, output.ids) for number, output in run(engine, [[5], [6]], ["p", "p"])] == [(1, [6]), (0, [5])]


def test_chats_are_rendered_with_what_was_asked_and_nothing_else(model):
    """Was: enable_thinking=None to every template, and what stood in chat_template_args was lost."""
    seen = []

    def render(chat, **options):
        seen.append(options)
        return "text"

    model.tokenizer, model.hf_chat_template = SimpleNamespace(apply_chat_template=render), None
    chat = [{"role": "user", "content": "hi"}]
    for given in ({}, {"enable_thinking": False}):
        model.chat_template_args = given
        assert model.apply_chat_template(chat) == "text"
        assert {name: value for name, value in seen[-1].items() if "thinking" in name} == given


def test_drawn_answers_are_refused_beside_drafts_by_whatever_word(model):
    model._has_drafts = True
    for gen_kwargs in ({"strategy": "sample"}, {"strategy": "greedy", "do_sample": True, "temperature": 0.7}):
        with pytest.raises(ConfigError, match="leave speculative_config, spec_method, spec_model, spec_tokens out"):
            model._decode([asked("one", **gen_kwargs)], True)


def test_lm_evals_cache_keeps_rewards_and_no_part_of_one(model, monkeypatch):
    from aad_plugin.harness.vllm_host import VLLM

    kept = []
    model.cache_hook = SimpleNamespace(add_partial=lambda *one: kept.append(one))
    model._pair = SimpleNamespace(expo_scale=None)
    monkeypatch.setattr(model, "_default", lambda strategy: setattr(model, "now", strategy))

    def scored(self, requests, disable_tqdm=True):
        found = [(-3.0 if self.now == "greedy" else -5.0, True) for _ in requests]
        for request, one in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request[0], one)
        return found

    monkeypatch.setattr(VLLM, "_loglikelihood_tokens", scored)
    requests = [(("one", " two"), [1], [2])]
    model._arguments.loglikelihood = "implicit_reward"
    assert model._loglikelihood_tokens(requests) == [(2.0, True)] and not kept
    assert model._rewards(DecodingSettings(strategy="best_of_n"), [], []) == [] and not kept
    model._arguments.loglikelihood = "reference"
    assert model._loglikelihood_tokens(requests) == [(-5.0, True)]
    assert kept == [("loglikelihood", ("one", " two"), (-5.0, True))]


@pytest.mark.parametrize(
    ("text", "stop_reason", "mark", "kept"),
    [
        ("Let me see", None, None, "<think>\nLet me see"),
        ("2 + 2 is 4", "</think>", None, "2 + 2 is 4"),
        ("Let me see", None, "</think>", "<think>\nLet me see"),
        ("Let me see</think>\n\nFour", None, "</think>", "Four"),
        ("", None, None, ""),
    ],
)
def test_thinking_that_never_ended_carries_its_tag(model, tmp_path, text, stop_reason, mark, kept):
    model._store, model.think_end_token = AnswerStore(tmp_path), mark
    model._asked, model._prompts, model._until = {"0": "key"}, {"0": "user: hi assistant:<think>\n"}, {"0": []}
    model._truncated, model._tags = {}, {}
    done = SimpleNamespace(text=text, finish_reason="stop", stop_reason=stop_reason)
    model._arrived(SimpleNamespace(outputs=[done]), SimpleNamespace(extra_args={"answer_id": "0"}))
    assert model._store.find("key").answer == kept
