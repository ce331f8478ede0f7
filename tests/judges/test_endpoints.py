"""Servers that fail in every way we know: nothing lost, nothing hammered, nothing leaked, nothing for ever."""

from __future__ import annotations

import json
import time
from email.utils import formatdate

import pytest

from aad_plugin.errors import JudgeUnavailable
from aad_plugin.judges import compare, load_judge, summarize
from aad_plugin.judges.asking import live as live_module
from aad_plugin.judges.asking.requests import Reply
from aad_plugin.judges.asking.server_errors import retry_after
from tests.judges.conftest import made_up
from tests.judges.faults import KINDS, LIMITED, Faulty, faulty, quarter
from tests.judges.loopback import Loopback


def judge_at(url, **options):
    return load_judge("openai:planted", base_url=url, **{"concurrency": 32, "form": "logprobs", **options})


def run(items, judge, output_dir=None):
    return compare(items, judge, output_dir, progress=False)


def without_faults(server, number_of=10, **options):
    with faulty(server) as url:
        return run(made_up(number_of), judge_at(url, **options))


GRID = pytest.mark.grid


@pytest.mark.parametrize("form", [pytest.param("tag", marks=GRID), pytest.param("json", marks=GRID), "logprobs"])
def test_a_quarter_of_faults_changes_no_verdict(monkeypatch, form):
    monkeypatch.setattr(live_module, "_LONGEST_PAUSE_S", 0.02)
    check_faults(form, 100)


@pytest.mark.grid
@pytest.mark.parametrize("form", ["tag", "json", "logprobs"])
def test_a_quarter_of_faults_changes_no_verdict_with_real_pauses(form):
    check_faults(form, 600)


def check_faults(form, num):
    undisturbed = [v.p for v in without_faults(Faulty(), num, form=form)]
    server = Faulty(fault=quarter(7))
    disturbed = without_faults(server, num, form=form)
    assert [v.p for v in disturbed] == undisturbed
    print(form, summarize(disturbed).win_rate, server.number, len(server.met))
    assert len(KINDS) == 28 and (num < 600 or set(server.met) - {None} == set(KINDS))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_failure_passes(monkeypatch, kind):
    monkeypatch.setattr(live_module, "_LONGEST_PAUSE_S", 0.02)
    server = Faulty(fault=lambda number: kind if number in (1, 2, 4) else None)
    assert all(v.judged for v in without_faults(server, 3, concurrency=2, timeout_s=2.0))


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "0"},
        pytest.param({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, marks=GRID),
        pytest.param({}, marks=GRID),
    ],
)
def test_three_seconds_of_limits_are_some_dozens_of_requests(headers):
    began = time.monotonic()

    def handler(number, body):
        return (429, LIMITED, headers) if time.monotonic() - began < 3 else (200, Loopback().completion(body), {})

    server = Faulty(handler=handler)
    assert all(v.judged for v in without_faults(server, 10))
    assert sum(at - began < 3 for at in server.times) < 100


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "20"}, 0.02),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "NaN"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 99 Oct 2015 07:28:00 GMT"}, None),
        ({}, None),
        # An hour ahead of our clock, two seconds by the server's own.
        ({"retry-after": formatdate(4e9 + 2, usegmt=True), "date": formatdate(4e9, usegmt=True)}, 2.0),
    ],
)
def test_what_a_server_asks_us_to_wait(headers, seconds):
    assert retry_after(headers) == seconds


def test_a_server_that_answers_nothing_ends_the_run_when_patience_is_over(capfd):
    server = Faulty(handler=lambda number, body: (503, {"error": {"message": "down \x1b[31m"}}, {}))
    started = time.monotonic()
    with (
        faulty(server) as url,
        pytest.raises(JudgeUnavailable, match=r"answered nothing for 2 s \(--patience-s\)") as told,
    ):
        run(made_up(20), judge_at(url, patience_s=2))
    assert 2 <= time.monotonic() - started < 30 and server.number < 150 and "\x1b" not in str(told.value)


def test_a_dripping_server_is_given_its_time_and_no_more():
    server = Faulty(drip=True)
    started = time.monotonic()
    with faulty(server) as url, pytest.raises(JudgeUnavailable, match=r"no whole reply within 0\.5 s"):
        run(made_up(1), judge_at(url, timeout_s=0.5, patience_s=1, concurrency=1))
    assert time.monotonic() - started < 30


def test_one_request_that_always_fails_does_not_hold_up_the_others(monkeypatch):
    monkeypatch.setattr(live_module, "_LONGEST_PAUSE_S", 0.02)

    def handler(number, body):
        poison = "Question 3?" in body["messages"][-1]["content"]
        return (500, {"error": {"message": "boom"}}, {}) if poison else (200, Loopback().completion(body), {})

    verdicts = without_faults(Faulty(handler=handler), 30, concurrency=2)
    assert [v.id for v in verdicts if not v.judged] == ["3"] and verdicts[3].reason == "transport"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_elsewhere_gets_nothing(monkeypatch, status):
    monkeypatch.setenv("MY_KEY", "hunter2-very-secret")
    monkeypatch.setenv("TENANT", "tenant-xylophone")
    other = Faulty()
    with faulty(other) as elsewhere:
        target = {"Location": f"{elsewhere}/chat/completions"}
        with faulty(Faulty(handler=lambda number, body: (status, b"", target))) as url:
            judge = judge_at(url, key_variable="MY_KEY", headers={"X-Api-Key": "$TENANT"})
            with pytest.raises(
                JudgeUnavailable, match=r"redirects to another address, http://127.0.0.1:\d+, which gets"
            ):
                run(made_up(2), judge)
    assert other.number == 0


def test_a_redirect_within_the_server_is_followed():
    def handler(number, body):
        return (
            (307, b"", {"Location": "/v1/chat/completions?x"})
            if number == 1
            else (200, Loopback().completion(body), {})
        )

    assert all(v.judged for v in without_faults(Faulty(handler=handler), 2, concurrency=1))


KEY, TENANT = "sk'hunter2\"very\\secret", "tenant-xylophone/secret+1"


@pytest.mark.parametrize(
    "where", ["reply", "model", "fingerprint", "error", "refusal", "unreadable", "odd", "body error"]
)
def test_what_a_server_echoes_carries_no_secret(monkeypatch, tmp_path, where, capfd):
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("TENANT", TENANT)
    leak = f"{'x' * 150} Bearer {KEY} and {TENANT} \x1b]0;title\x07 \ud800"

    def handler(number, body):
        answer = Loopback().completion(body)
        message = answer["choices"][0]["message"]
        if where == "reply":
            message["content"] = f"<verdict>A</verdict>\n\n{leak}"
        elif where == "unreadable":
            message["content"] = leak
        elif where == "refusal":
            message["refusal"] = leak
        elif where == "odd":
            answer["choices"] = [leak]
        elif where == "error":
            return 400, {"error": {"message": leak, "code": "x"}}, {}
        elif where == "body error":
            return 200, {"error": {"message": leak, "code": 400}}, {}
        else:
            answer["system_fingerprint" if where == "fingerprint" else "model"] = leak
        return 200, answer, {}

    with faulty(Faulty(handler=handler)) as url:
        judge = judge_at(url, key_variable="MY_KEY", headers={"X-Api-Key": "$TENANT"}, form="tag")
        verdicts = run(made_up(2), judge, tmp_path)
    from aad_plugin.judges.statistics.results import print_summary, write_results

    write_results(tmp_path, verdicts, summarize(verdicts).to_json())
    print_summary(summarize(verdicts))
    kept = "".join(path.read_text() for path in tmp_path.iterdir()) + "".join(capfd.readouterr())
    for secret in (KEY, TENANT):
        for part in (secret[:12], secret[-12:], json.dumps(secret)[1:-1], repr(secret)[1:-1]):
            assert part not in kept
    assert "\x1b" not in kept and "\x07" not in kept
    assert all((v.reason is None) == (where in ("reply", "model", "fingerprint")) for v in verdicts)


@pytest.mark.parametrize("value", ["4711", "false", "null", "12345"])
def test_a_secret_that_stands_in_a_replys_numbers_ends_no_run(value, monkeypatch):
    monkeypatch.setenv("TENANT", value)
    odd = {"created": 1794711, "cached": False, "left": None, "number": 12345, f"x-{value}": value}
    body = {"choices": [{"message": {"content": f"Hard to say, {value}."}}], **odd}
    found = judge_at("http://localhost:1/v1", headers={"X-Tenant": "$TENANT"}, form="tag").ruling(Reply("k", body))
    assert found.reason == "unreadable" and "Hard to say, [secret]." in found.detail  # was: JSONDecodeError


def test_a_reply_nested_too_deeply_ends_no_run():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    body = {"choices": [{"message": {"content": "Hard to say."}}], "more": deep}
    found = judge_at("http://localhost:1/v1", form="tag").ruling(Reply("k", body))
    assert (found.reason, found.detail) == ("unreadable", "unreadable")


def test_a_header_value_that_is_a_common_word_spoils_no_verdict(monkeypatch):
    monkeypatch.setenv("MODE", "verdict")
    with faulty(Faulty()) as url:
        verdicts = run(made_up(3), judge_at(url, headers={"X-Mode": "$MODE"}, form="tag"))
    assert all(v.judged for v in verdicts)


@pytest.mark.parametrize(
    ("held", "bare"),
    [
        ("Bearer gw_live_9f8e7d6c5b4a", "gw_live_9f8e7d6c5b4a"),
        ("session=s3cr3t-c00kie-9; theme=dark", "s3cr3t-c00kie-9"),
        ("Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
        ('Digest username="u", response="0123456789abcdef"', "0123456789abcdef"),
    ],
)
def test_a_part_of_a_header_is_as_secret_as_the_whole(loopback, tmp_path, monkeypatch, held, bare):
    url, state = loopback()
    monkeypatch.setenv("TOK", held)
    state.fails = [(403, {"error": {"message": f"token {bare} may not use this model", "code": "forbidden"}})] * 9
    judge = judge_at(url, headers={"Authorization": "$TOK"}, form="tag")
    try:
        told = compare(made_up(1), judge, tmp_path, progress=False)[0].detail
    except JudgeUnavailable as error:
        told = str(error)
    assert "may not use this model" in told and bare not in told  # was: the bare token, in the store as well
    assert bare not in (tmp_path / "store.jsonl").read_text()
