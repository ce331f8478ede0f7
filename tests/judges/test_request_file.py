"""The file transport: requests out, replies in, whoever answered them."""

from __future__ import annotations

import json

import pytest

from aad_plugin.errors import ConfigError, JudgeError
from aad_plugin.judges import compare, load_judge, summarize
from aad_plugin.judges.asking.requests import reply_of_line
from tests.judges.conftest import made_up
from tests.judges.loopback import Loopback

JUDGE = {"base_url": "http://127.0.0.1:1/v1"}


def by_file(tmp_path, num=6, **options):
    judge = load_judge("openai:planted", **JUDGE)
    return compare(made_up(num), judge, tmp_path, progress=False, transport="file", **options)


def answer_all(tmp_path, keep=lambda number: True):
    server = Loopback()
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    with (tmp_path / "results.jsonl").open("a") as file:
        for number, line in enumerate(lines):
            if keep(number):
                response = {"status_code": 200, "request_id": "r", "body": server.completion(line["body"])}
                file.write(json.dumps({"id": "r", "custom_id": line["custom_id"], "response": response}) + "\n")
    return lines


def test_requests_go_out_and_replies_come_in(tmp_path, capsys):
    first = by_file(tmp_path)
    assert {v.reason for v in first} == {"not_asked"} and summarize(first).partial
    assert "12 requests stand in" in capsys.readouterr().err
    assert len(answer_all(tmp_path, keep=lambda number: number % 3)) == 12
    by_file(tmp_path)
    assert len(answer_all(tmp_path)) == 4  # only what was missing
    verdicts = by_file(tmp_path)
    assert all(v.judged and len(v.orders) == 2 for v in verdicts)
    assert (tmp_path / "requests.jsonl").read_text() == ""


def test_live_shares_verdicts_with_files(tmp_path, loopback):
    by_file(tmp_path)
    answer_all(tmp_path)
    by_file(tmp_path)
    url, state = loopback()
    judge = load_judge("openai:planted", base_url=url)
    assert all(v.judged for v in compare(made_up(6), judge, tmp_path, progress=False))
    assert sum(state.seen.values()) == 1  # the probe


def test_results_that_are_none_are_named(tmp_path):
    with pytest.raises(ConfigError, match="there is no results file"):
        by_file(tmp_path, results=tmp_path / "nothing")
    (tmp_path / "results.jsonl").write_text("oops\n")
    with pytest.raises(ConfigError, match=r"results.jsonl, line 1 is not a line of batch results: 'oops"):
        by_file(tmp_path)


def answered(status, body, **more):
    return {"custom_id": "k", "response": {"status_code": status, "body": body}, **more}


FILTERED = {"error": {"message": "m", "code": "content_filter"}}
EXPIRED = {"code": "batch_expired", "message": "late"}


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (answered(200, {"choices": []}, error=None), None, ""),
        ({"custom_id": "k", "response": {"choices": []}}, None, ""),  # old vLLM
        (answered(400, None, error="too long"), "rejected", "400: too long"),  # vLLM
        (answered(400, {"error": {"message": "no", "code": "x"}}), "rejected", "x: no"),
        (answered(503, {}), "transport", "503: {}"),
        ({"custom_id": "k", "response": None, "error": EXPIRED}, "transport", "batch_expired: late"),
        (answered(400, FILTERED), "content_filter", "m"),
    ],
)
def test_result_lines_of_all_dialects(line, reason, detail):
    reply = reply_of_line(line)
    assert (reply.key, reply.reason, reply.detail) == ("k", reason, detail)
    assert (reply.body is None) == (reason is not None)


def test_a_reply_that_is_no_verdict_is_asked_for_again_and_billed_once(tmp_path):
    by_file(tmp_path, 2)
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    cut = {"choices": [{"message": {"content": "blah"}, "finish_reason": "length"}], "usage": {"prompt_tokens": 9}}
    with (tmp_path / "results.jsonl").open("w") as file:
        for line in lines:
            file.write(
                json.dumps({"custom_id": line["custom_id"], "response": {"status_code": None, "body": cut}}) + "\n"
            )
    for _ in range(3):  # the results stay where they are
        verdicts = by_file(tmp_path, 2)
        assert [(v.reason, v.prompt_tokens) for v in verdicts] == [("unreadable", 18)] * 2
    assert len(answer_all(tmp_path)) == 4  # all of them stand in the next request file
    assert all(v.judged for v in by_file(tmp_path, 2))


def test_binary_results_and_a_full_disk_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "results.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ConfigError, match=r"results.jsonl, line 1 is not a line of batch results"):
        by_file(tmp_path)
    (tmp_path / "results.jsonl").unlink()
    (tmp_path / "requests.jsonl").mkdir()  # cannot be replaced
    with pytest.raises(JudgeError, match=r"cannot write .*requests.jsonl"):
        by_file(tmp_path)
