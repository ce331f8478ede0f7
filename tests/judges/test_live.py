"""The live transport against a loopback server: faults, limits, forms, secrets."""

from __future__ import annotations

import json
import socket
import time

import pytest

from aad_plugin.errors import ConfigError, JudgeError, JudgeUnavailable, VerdictUnreadable
from aad_plugin.judges import Answer, Comparison, Store, compare, grade, load_judge, summarize
from aad_plugin.judges.asking import live as live_module
from tests.judges.conftest import made_up
from tests.judges.planted import quality


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(live_module, "_LONGEST_PAUSE_S", 0.05)


def judge_at(url, **options):
    return load_judge("openai:planted", base_url=url, **{"concurrency": 32, **options})


def run(items, judge, output_dir=None, **options):
    return compare(items, judge, output_dir, progress=False, **options)


def truth(comparison):
    import math

    return 1 / (1 + math.exp(-3 * (quality(comparison.candidate) - quality(comparison.baseline))))


def test_both_orders_give_one_verdict(loopback):
    url, state = loopback()
    items = made_up(20)
    verdicts = run(items, judge_at(url))
    assert [v.p for v in verdicts] == pytest.approx([truth(item) for item in items], abs=1e-5)
    assert all(len(v.orders) == 2 and v.models == ("planted-2026",) and v.prompt_tokens > 0 for v in verdicts)
    assert sum(state.seen.values()) == 41  # 20 items in both orders, and the probe


def test_identical_texts_are_a_tie_without_a_call(loopback):
    url, state = loopback()
    verdicts = run(
        [Comparison("0", "p", "same", "same"), Comparison("1", "p", "<think>x</think>same", "same")], judge_at(url)
    )
    assert [v.p for v in verdicts] == [0.5, 0.5] and sum(state.seen.values()) == 1
    assert summarize(verdicts).ties_by_agreement == 2


def test_judges_and_lengths_see_only_what_follows_thinking(loopback):
    url, _ = loopback(judge="length")
    item = Comparison("0", "p", "<think>" + "long " * 50 + "</think>tiny", "a longer answer")
    (verdict,) = run([item], judge_at(url))
    assert verdict.p == pytest.approx(0, abs=1e-5) and verdict.candidate_length == 4
    (cut,) = run([Comparison("0", "p", "<think>never ends", "a")], judge_at(url))
    assert cut.reason == "answer_truncated" and cut.p is None


@pytest.mark.parametrize(
    ("forms", "form", "calls"), [(("logprobs", "json"), "logprobs", 1), (("json",), "json", 2), ((), "tag", 3)]
)
def test_the_form_is_probed_once_per_store(loopback, tmp_path, forms, form, calls):
    url, state = loopback(forms=forms)
    for _ in range(2):
        judge = judge_at(url)
        verdicts = run(made_up(3), judge, tmp_path)
        assert judge.form == form and all(v.judged for v in verdicts)
    assert sum(state.seen.values()) == calls + 6
    assert {p for v in verdicts for p in v.orders} != {0.0, 1.0} or form != "logprobs"


def test_a_judge_that_never_gives_a_verdict_is_an_error(loopback):
    url, _ = loopback(text="What a lovely day!")
    with pytest.raises(VerdictUnreadable, match=r"gave no verdict on a plain question in any form; last: tag: reply"):
        run(made_up(1), judge_at(url))


def test_every_fault_ends_judged_or_with_its_reason(loopback, tmp_path):
    url, state = loopback(fault_share=0.2, seed=5, hang_s=4.0)
    items = made_up(300)
    judge = judge_at(url, timeout_s=2.0, form="logprobs")
    verdicts = run(items, judge, tmp_path)
    reason_of = {
        "empty": "empty", "refusal": "refusal", "wrong-label": "unreadable", "torn-json": "truncated",
        "overlong": "truncated",
    }  # fmt: skip
    rulings = [json.loads(line) for line in (tmp_path / "store.jsonl").read_text().splitlines()]
    reasons = {r["key"]: r.get("reason") for r in rulings if r["type"] == "ruling"}
    from aad_plugin.judges.sitting.plan import Plan
    from aad_plugin.judges.sitting.store import Store
    from tests.judges.loopback import TRANSIENT, key_of

    expected = {}
    for question in Plan(items, judge).questions(Store(None)):
        fault = state.last_fault[key_of(judge.request(question).body)]
        expected[question.key] = "transport" if fault in TRANSIENT else reason_of.get(fault)
    assert reasons == expected
    assert set(reason_of.values()) <= set(expected.values())  # all of them happened
    for item, verdict in zip(items, verdicts, strict=True):
        if verdict.judged:
            assert verdict.p == pytest.approx(truth(item), abs=1e-5)
    summary = summarize(verdicts)
    assert summary.n == 300 and sum(summary.unjudged.values()) == summary.n_unjudged > 10
    assert summary.worst_case < summary.win_rate < summary.best_case

    state.fault_share = 0.0  # failures are tried again, verdicts are not
    before = sum(state.seen.values())
    again = run(items, judge_at(url, form="logprobs"), tmp_path)
    assert all(v.judged for v in again)
    assert sum(state.seen.values()) - before == sum(reason is not None for reason in expected.values())


def test_retry_after_holds_every_worker_back(loopback):
    url, state = loopback()
    judge = judge_at(url, form="logprobs", concurrency=4)
    limited = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    state.fails = [(429, limited, {"retry-after": "1"})]
    started = time.monotonic()
    verdicts = run(made_up(10), judge)
    assert all(v.judged for v in verdicts) and time.monotonic() - started > 0.9


def test_exhausted_quota_stops_at_once_and_keeps_what_was_judged(loopback, tmp_path):
    url, state = loopback()
    judge = judge_at(url, form="logprobs", concurrency=1)
    run(made_up(3), judge, tmp_path)
    state.fails = [(429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}})]
    before = sum(state.seen.values())
    with pytest.raises(JudgeUnavailable, match="the judge's quota is exhausted"):
        run(made_up(10), judge, tmp_path)
    assert sum(state.seen.values()) == before + 1
    assert all(v.judged for v in run(made_up(10), judge, tmp_path))


def test_unreachable_server_is_named_soon():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(JudgeUnavailable, match=r"openai:planted does not answer: APIConnectionError"):
        run(made_up(1), judge_at(url))


def test_a_server_that_dies_stops_the_run(loopback, tmp_path):
    url, state = loopback()
    judge = judge_at(url, form="logprobs", concurrency=2, patience_s=1)
    state.fails = [(500, {"error": {"message": "boom"}})] * 1000
    with pytest.raises(JudgeUnavailable, match=r"the judge's server does not answer, last: InternalServerError.*boom"):
        run(made_up(200), judge, tmp_path)
    assert sum(state.seen.values()) < 100


def test_a_model_the_server_does_not_have_is_one_line(loopback):
    url, _ = loopback(model="another")
    with pytest.raises(
        JudgeUnavailable, match=r"does not have what was asked for .*The model `planted` does not exist"
    ):
        run(made_up(1), judge_at(url))


def test_missing_key_names_its_variable(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match=r"environment variable OPENAI_API_KEY, which is not set"):
        run(made_up(1), load_judge("openai:gpt-x"))


def test_secrets_reach_the_server_and_nothing_else(loopback, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "hunter2-very-secret")
    monkeypatch.setenv("MY_HEADER", "tenant-xylophone-secret")
    url, state = loopback()
    judge = judge_at(url, key_variable="MY_KEY", headers={"X-Tenant": "$MY_HEADER"}, form="logprobs")
    run(made_up(2), judge, tmp_path)
    sent = {name.lower(): value for name, value in state.headers[0].items()}
    assert sent["authorization"] == "Bearer hunter2-very-secret" and sent["x-tenant"] == "tenant-xylophone-secret"
    state.fails = [(401, {"error": {"message": "bad key hunter2-very-secret for tenant-xylophone-secret"}})]
    with pytest.raises(JudgeUnavailable, match=r"refuses the key in MY_KEY") as caught:
        run(made_up(3), judge, tmp_path)
    kept = (tmp_path / "store.jsonl").read_text() + str(caught.value) + repr(judge.channel.endpoint)
    assert "hunter2" not in kept and "xylophone" not in kept


def test_rejected_request_is_unjudged_not_fatal(loopback):
    url, state = loopback()
    state.fails = [(400, {"error": {"message": "maximum context length is 8192", "code": "context_length_exceeded"}})]
    verdicts = run(made_up(4), judge_at(url, form="logprobs", concurrency=1))
    assert sorted(v.reason or "" for v in verdicts) == ["", "", "", "rejected"]
    state.fails = [(400, {"error": {"message": "flagged", "code": "content_filter"}})]
    verdicts = run(made_up(4), judge_at(url, form="logprobs", concurrency=1))
    assert sorted(v.reason or "" for v in verdicts) == ["", "", "", "content_filter"]


def test_cost_limit_stops_cleanly_and_marks_the_rest(loopback, tmp_path):
    url, _ = loopback()
    judge = judge_at(url, form="logprobs", price="10/10")
    full = summarize(run(made_up(60), judge))
    limit = full.cost / 3
    verdicts = run(made_up(60), judge, tmp_path, max_cost=limit)
    part = summarize(verdicts)
    assert 0 < part.cost <= limit and part.partial and part.n_not_asked + part.n == 60 and part.n_unjudged == 0
    assert part.n > 5
    with pytest.raises(ConfigError, match="a cost limit needs the judge's price"):
        run(made_up(3), judge_at(url, form="logprobs"), max_cost=1.0)


def test_prompts_go_out_in_random_order_with_their_orders_together(loopback, tmp_path):
    url, _ = loopback()
    run(made_up(30), judge_at(url, form="logprobs", concurrency=1), tmp_path)
    from aad_plugin.judges.sitting.plan import Plan
    from aad_plugin.judges.sitting.store import Store

    judge = judge_at(url, form="logprobs")
    plan = Plan(made_up(30), judge)
    item_of = {key: case.item.id for case in plan.cases for keys in case.keys for key in keys}
    lines = [json.loads(line) for line in (tmp_path / "store.jsonl").read_text().splitlines()]
    asked = [item_of[line["key"]] for line in lines if line["type"] == "ruling"]
    assert asked[::2] == asked[1::2] and asked[::2] != sorted(asked[::2], key=int)
    other = Plan(made_up(30), judge, seed=1)
    assert [q.key for q in other.questions(Store(None))] != [q.key for q in plan.questions(Store(None))]


def test_a_changed_server_is_drift(loopback, tmp_path):
    url, state = loopback()
    judge = judge_at(url, form="logprobs")
    run(made_up(3), judge, tmp_path)
    state.system_fingerprint = "fp-2"
    summary = summarize(run(made_up(6), judge, tmp_path))
    assert summary.drift and summary.system_fingerprints == {"fp-1": 3, "fp-2": 3}


def test_parameters_and_template_make_another_judge_and_base_url_does_not(loopback):
    def fingerprint(**options):
        return load_judge("openai:m", **{"base_url": "http://127.0.0.1:1/v1", **options}).fingerprint

    same = fingerprint()
    assert fingerprint(base_url="http://127.0.0.1:2/v1") == same == fingerprint(concurrency=3, timeout_s=1.0)
    others = [fingerprint(temperature=1.0), fingerprint(template="moderation"), fingerprint(form="json")]
    assert len({same, *others}) == 4


def test_pointwise_judge_labels_and_grades(loopback):
    url, _ = loopback(text='{"verdict": "refuse"}')
    answers = [Answer("0", "p", "No."), Answer("1", "q", "Never.")]
    verdicts = grade(answers, judge_at(url, template="refusal"), progress=False)
    assert [v.label for v in verdicts] == ["refuse", "refuse"] and summarize(verdicts).labels == {"refuse": 1.0}
    url, _ = loopback(text='{"verdict": 7}')
    verdicts = grade(answers, judge_at(url, template="grade"), progress=False)
    assert summarize(verdicts).grade == 7.0


def test_wrong_kind_of_judge_is_refused(loopback):
    url, _ = loopback()
    with pytest.raises(ConfigError, match="is pointwise, this call needs a pairwise one"):
        run(made_up(1), judge_at(url, template="grade"))


def test_works_inside_a_running_event_loop(loopback):
    import asyncio

    url, _ = loopback()

    async def notebook():
        return run(made_up(2), judge_at(url, form="logprobs"))

    assert all(v.judged for v in asyncio.run(notebook()))


def test_ids_must_be_unique(loopback):
    url, _ = loopback()
    with pytest.raises(ConfigError, match="ids of items must be unique, got '0' twice"):
        run(made_up(1) * 2, judge_at(url, form="logprobs"))


def test_many_rate_limits_only_cost_time(loopback):
    url, state = loopback()
    limited = (429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}})
    state.fails = [limited] * 20  # far more than the attempts that other failures get
    assert all(v.judged for v in run(made_up(1), judge_at(url, form="logprobs")))


ODD = {"model": "m", "choices": [{"message": None, "finish_reason": "stop"}], "usage": "none"}


def test_one_odd_reply_is_unreadable_and_no_traceback(loopback):
    url, state = loopback()
    state.fails = [(200, ODD)]
    verdicts = run(made_up(4), judge_at(url, form="logprobs"))
    assert sorted(v.reason or "" for v in verdicts) == ["", "", "", "unreadable"]
    state.fails = [(200, ODD)] * 6
    with pytest.raises(VerdictUnreadable, match="the reply is no chat completion"):  # the probe meets it first
        run(made_up(1), judge_at(url))


def test_a_disk_that_fills_up_is_one_error_not_a_group(loopback, tmp_path, monkeypatch):
    from aad_plugin.judges.sitting.store import Store

    url, _ = loopback()

    def full(self, ruling):
        raise JudgeError("no space left")

    monkeypatch.setattr(Store, "add", full)
    with pytest.raises(JudgeError, match="no space left"):  # asyncio.TaskGroup wrapped it in an ExceptionGroup
        run(made_up(8), judge_at(url, form="logprobs"), tmp_path)


def test_under_a_cost_limit_short_texts_do_not_overtake_long_ones(loopback):
    url, _ = loopback(latency_s=0.02)
    items = [
        Comparison(str(i), f"Question {i}?", f"{i} " + "word " * (2000 if i % 2 else 1), f"other {i}")
        for i in range(40)
    ]
    judge = judge_at(url, form="logprobs", price="10/10")
    verdicts = run(items, judge, max_cost=0.3)
    asked = [int(v.id) % 2 for v in verdicts if v.judged]
    # Prompts go out in the order of the seed, so those judged are its beginning, long ones among them.
    from aad_plugin.judges.sitting.plan import Plan
    from aad_plugin.judges.sitting.store import Store

    order = [int(q.messages[0]["content"].split()[1][:-1]) for q in Plan(items, judge).questions(Store(None))][::2]
    judged = {int(v.id) for v in verdicts if v.judged}
    assert judged == set(order[: len(judged)]) and 0 < sum(asked) < len(judged) < 40


def test_a_busy_server_is_asked_when_it_says(loopback):
    url, state = loopback()
    state.fails = [(503, {"error": {"message": "warming up"}}, {"retry-after": "1"})]
    started = time.monotonic()
    assert all(v.judged for v in run(made_up(3), judge_at(url, form="logprobs", concurrency=2)))
    assert time.monotonic() - started > 0.9  # it was asked at once, again and again, until the attempts were used up


def test_a_forbidden_prompt_is_unjudged_and_an_unpaid_bill_stops_the_run(loopback):
    url, state = loopback()
    state.fails = [(403, {"error": {"message": "input flagged by moderation", "code": 403}})]
    verdicts = run(made_up(4), judge_at(url, form="logprobs", concurrency=1))
    assert sorted(v.reason or "" for v in verdicts) == ["", "", "", "rejected"]
    state.fails = [(402, {"error": {"message": "Insufficient Balance"}})]
    before = sum(state.seen.values())
    with pytest.raises(JudgeUnavailable, match="the judge's quota is exhausted"):
        run(made_up(4), judge_at(url, form="logprobs", concurrency=1))
    assert sum(state.seen.values()) == before + 1


def test_failed_replies_and_those_before_the_price_are_billed(loopback, tmp_path):
    url, state = loopback()
    state.text = "no verdict in here"
    run(made_up(3), judge_at(url, form="tag"), tmp_path)  # no price yet
    state.text = None
    priced = judge_at(url, form="tag", price="10/10")
    again = run(made_up(3), priced, tmp_path)
    rulings = [json.loads(line) for line in (tmp_path / "store.jsonl").read_text().splitlines()]
    tokens = sum(r["prompt_tokens"] + r["completion_tokens"] for r in rulings if r["type"] == "ruling")
    assert len(rulings) == 1 + 2 * 6 and all(v.judged for v in again)
    assert summarize(again).cost == pytest.approx(tokens * 10 / 1e6)


def test_the_question_that_finds_out_the_form_is_on_the_bill_and_under_the_limit(loopback, tmp_path):
    url, state = loopback(forms=("json", "tag"))  # log-probabilities are refused, which bills nothing
    priced = {"price": "10/10"}
    verdicts = run(made_up(4), judge_at(url, **priced), tmp_path / "auto")
    named = run(made_up(4), judge_at(url, form="json", **priced), tmp_path / "json")
    (note,) = Store.peek(tmp_path / "auto").noted("probe")
    assert note["prompt_tokens"] > 0 and note["cost"] == pytest.approx(
        (note["prompt_tokens"] + note["completion_tokens"]) * 10 / 1e6
    )
    whole, alone = summarize(verdicts).cost, summarize(named).cost
    assert whole == pytest.approx(alone + note["cost"])  # was: alone
    asked = sum(state.seen.values())
    with pytest.raises(ConfigError, match="a cost limit of 1e-05 does not cover the question that finds out how"):
        run(made_up(4), judge_at(url, **priced), max_cost=1e-5)
    assert sum(state.seen.values()) == asked
    part = summarize(run(made_up(40), judge_at(url, **priced), tmp_path / "part", max_cost=0.2))
    assert part.partial and 0 < part.cost <= 0.2


@pytest.mark.parametrize(
    ("transport", "first", "share"), [("batch", None, 0.5), ("live", None, 1.0), ("live", "0/0", 0.0)]
)
def test_a_reply_costs_what_it_cost_when_it_was_asked(loopback, tmp_path, transport, first, share):
    url, _ = loopback()
    run(made_up(3), judge_at(url, form="tag", price=first), tmp_path, transport=transport, poll_s=0.01)
    found = summarize(run(made_up(3), judge_at(url, form="tag", price="10/10"), tmp_path))
    assert found.cost == pytest.approx(share * (found.prompt_tokens + found.completion_tokens) * 10 / 1e6)


def test_a_password_in_the_url_travels_as_a_header_and_is_not_logged(loopback, caplog):
    url, state = loopback()
    with caplog.at_level("DEBUG"):
        run(made_up(1), judge_at(url.replace("://", "://tenant:hunter2-pass@"), form="logprobs"))
    sent = {name.lower(): value for name, value in state.headers[0].items()}
    assert sent["authorization"] == "Basic dGVuYW50Omh1bnRlcjItcGFzcw=="  # printf tenant:hunter2-pass | base64
    assert "POST http" in caplog.text and "hunter2" not in caplog.text


def test_keys_lose_their_line_end_and_must_be_ascii(loopback, monkeypatch):
    url, state = loopback()
    monkeypatch.setenv("MY_KEY", "key-with-line-end\n")
    run(made_up(1), judge_at(url, key_variable="MY_KEY", form="logprobs"))
    assert {name.lower(): v for name, v in state.headers[0].items()}["authorization"] == "Bearer key-with-line-end"
    monkeypatch.setenv("MY_KEY", "schlüssel")
    with pytest.raises(ConfigError, match=r"environment variable MY_KEY must hold one line of ASCII") as caught:
        run(made_up(1), judge_at(url, key_variable="MY_KEY", form="logprobs"))
    assert "schl" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": "abc"}, "timeout_s must be a number of seconds above 0, got 'abc'"),
        ({"base_url": "http://h:99999/v1"}, r"base_url \(or OPENAI_BASE_URL\) must be an address such as"),
        ({"base_url": "h:1/v1"}, r"base_url \(or OPENAI_BASE_URL\) must be an address"),
        ({"base_url": 5}, r"base_url \(or OPENAI_BASE_URL\) must be an address"),
        ({"headers": ["X: y"]}, "headers must be a mapping of names to values, got list"),
        ({"key_variable": 3}, "key_variable names an environment variable, got int"),
        ({"max_tokens": "abc"}, "max_tokens must be a whole number of at least 1, got 'abc'"),
        ({"temperature": "hot"}, "temperature must be a number of at least 0, .* got 'hot'"),
    ],
)
def test_options_are_checked_before_anything_is_asked(options, message):
    with pytest.raises(ConfigError, match=message):
        load_judge("openai:m", **options)


@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
def test_a_cost_limit_is_money(limit):
    with pytest.raises(ConfigError, match="a cost limit is money above 0"):
        run(made_up(1), load_judge("openai:m", price="1/1"), max_cost=limit)


def test_text_that_cannot_be_sent_is_unjudged_at_once(loopback):
    url, _ = loopback()
    half = Comparison("0", "p", "half a pair \ud800", "b")
    verdicts = run([half, *made_up(3)[1:]], judge_at(url, form="logprobs"))
    assert [v.reason for v in verdicts] == ["rejected", None, None]  # was: tried again and again, then "transport"
