"""The batch transport: the real openai client against a server with the files and batches wire format."""

from __future__ import annotations

import json

import pytest

from aad_plugin.errors import ConfigError, JudgeError
from aad_plugin.judges import Comparison, Store, compare, load_judge, summarize
from aad_plugin.judges.asking import batch as batch_module
from aad_plugin.judges.sitting.plan import Plan
from tests.judges.conftest import made_up


def by_batch(url, num=20, output_dir=None, **options):
    judge = load_judge("openai:planted", base_url=url, form="logprobs", price="2/8")
    return compare(made_up(num), judge, output_dir, progress=False, transport="batch", poll_s=0.01, **options)


def p_of(verdicts):
    return [v.p for v in verdicts]


def sent(state):
    return [state.batches.files[batch["input_file_id"]] for batch in state.batches.batches.values()]


@pytest.fixture
def undisturbed(loopback):
    url, _ = loopback()
    judge = load_judge("openai:planted", base_url=url, form="logprobs")
    return p_of(compare(made_up(20), judge, progress=False))


@pytest.mark.parametrize("accident", ["", "expire", "errors", "duplicate"])
def test_batches_end_with_the_verdicts_of_a_live_run(loopback, tmp_path, undisturbed, accident):
    url, state = loopback()
    state.batches.accidents = [accident]
    verdicts = by_batch(url, output_dir=tmp_path)
    assert p_of(verdicts) == pytest.approx(undisturbed)
    # A request that was answered is not sent again; one that was not, is.
    assert len(state.batches.answered) == len(set(state.batches.answered)) == 40
    assert len(state.batches.batches) == (2 if accident in ("expire", "errors") else 1)
    assert summarize(verdicts).cost == pytest.approx(
        sum(v.prompt_tokens * 1 + v.completion_tokens * 4 for v in verdicts) / 1e6  # half of 2 and 8 per million
    )


def test_live_and_batch_share_verdicts(loopback, tmp_path):
    url, state = loopback()
    by_batch(url, output_dir=tmp_path)
    judge = load_judge("openai:planted", base_url=url, form="logprobs")
    assert all(v.judged for v in compare(made_up(20), judge, tmp_path, progress=False))
    assert not state.seen


def test_shards_keep_to_lines_and_bytes(loopback, monkeypatch):
    monkeypatch.setattr(batch_module, "MAX_LINES", 7)
    url, state = loopback()
    assert all(v.judged for v in by_batch(url))
    assert sorted(len(content.splitlines()) for content in sent(state)) == [5, 7, 7, 7, 7, 7]
    monkeypatch.setattr(batch_module, "MAX_BYTES", 5000)
    url, state = loopback()
    assert all(v.judged for v in by_batch(url))
    assert all(
        len(content) <= 5000
        for content in (state.batches.files[b["input_file_id"]] for b in state.batches.batches.values())
    )


def test_a_refused_file_names_line_and_reason_once(loopback, tmp_path):
    url, state = loopback()
    state.batches.accidents = ["refuse"]
    with pytest.raises(JudgeError, match=r"refused the file of batch_1 \(1 errors\): line 2: invalid_json_line: This"):
        by_batch(url, output_dir=tmp_path)
    assert all(v.judged for v in by_batch(url, output_dir=tmp_path))


def killed_while_it_waits(monkeypatch, url, folder):
    """A run that is killed at its first look at the batches."""

    class Killed(BaseException):
        pass

    def kill(_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(batch_module.time, "sleep", kill)
        with pytest.raises(Killed):
            by_batch(url, output_dir=folder)


def test_a_killed_run_finds_its_batches_again(loopback, tmp_path, undisturbed, monkeypatch):
    url, state = loopback()
    state.batches.polls = 10**9  # never ends

    killed_while_it_waits(monkeypatch, url, tmp_path)
    state.batches.polls = 0
    assert p_of(by_batch(url, output_dir=tmp_path)) == pytest.approx(undisturbed)
    assert len(state.batches.batches) == 1 and len(state.batches.answered) == 40


def test_what_a_running_batch_holds_is_not_paid_again_live(loopback, tmp_path, undisturbed, monkeypatch):
    url, state = loopback()
    state.batches.polls = 10**9
    killed_while_it_waits(monkeypatch, url, tmp_path)
    state.batches.polls = 0
    judge = load_judge("openai:planted", base_url=url, form="logprobs", price="2/8")
    for transport in ("live", "file"):
        with pytest.raises(
            ConfigError, match=r"^40 of 40 requests may be in a batch .*: run again with --transport batch"
        ):
            compare(made_up(20), judge, tmp_path, progress=False, transport=transport)
    assert not state.seen  # was: all forty
    others = [Comparison("y", "q", "a", "b")]
    assert compare(others, judge, tmp_path, progress=False)[0].judged, "what no batch holds is asked"
    assert p_of(by_batch(url, output_dir=tmp_path)) == pytest.approx(undisturbed)
    assert all(v.judged for v in compare(made_up(21), judge, tmp_path, progress=False))


@pytest.mark.parametrize(
    ("status", "message", "is_open"),
    [
        (403, "no batches for this project", False),
        (400, "the maximum is 0 requests", False),  # read as a limit, which one request cannot keep
        (503, "down", True),  # whether it was started is unknown
    ],
)
def test_what_a_service_refused_to_start_is_asked_live(loopback, tmp_path, status, message, is_open):
    url, state = loopback()
    state.batches.refusals = [(status, message)] * 99
    judge = load_judge("openai:planted", base_url=url, form="logprobs", patience_s=0)
    with pytest.raises(JudgeError, match=message):
        compare(made_up(2), judge, tmp_path, progress=False, transport="batch", poll_s=0.01)
    if is_open:
        with pytest.raises(ConfigError, match="may be in a batch"):
            compare(made_up(2), judge, tmp_path, progress=False)
    else:  # was: refused as being in a batch
        assert all(v.judged for v in compare(made_up(2), judge, tmp_path, progress=False))
    assert len(state.seen) == (0 if is_open else 4)


def test_a_batch_is_left_where_that_is_asked_for_and_forgotten_once_none_is_there(loopback, tmp_path, monkeypatch):
    url, state = loopback()
    state.batches.polls = 10**9
    killed_while_it_waits(monkeypatch, url, tmp_path)
    judge = load_judge("openai:planted", base_url=url, form="logprobs")
    verdicts = compare(made_up(2), judge, tmp_path, progress=False, leave_batches=True)
    assert all(v.judged for v in verdicts) and sum(state.seen.values()) == 4
    state.batches.polls = 0
    state.batches.batches.clear()  # as if it had never been started
    state.batches.accidents = ["expire"] * 9
    by_batch(url, output_dir=tmp_path)
    assert all(v.judged for v in compare(made_up(20), judge, tmp_path, progress=False))


def test_paid_replies_to_other_questions_are_kept_for_the_run_that_asks_them(
    loopback, tmp_path, undisturbed, monkeypatch
):
    """Answers X are killed while their batch runs, answers Y are judged into the same folder, then X again."""
    url, state = loopback()
    state.batches.polls = 10**9
    killed_while_it_waits(monkeypatch, url, tmp_path)
    state.batches.polls = 0
    other = [Comparison(f"y{one.id}", one.prompt, one.candidate + " y", one.baseline) for one in made_up(5)]
    judge = load_judge("openai:planted", base_url=url, form="logprobs")
    options = {"progress": False, "transport": "batch", "poll_s": 0.01}
    assert all(v.judged for v in compare(other, judge, tmp_path, **options))
    assert p_of(by_batch(url, output_dir=tmp_path)) == pytest.approx(undisturbed)
    assert len(state.batches.answered) == 40 + 10, "nothing is paid for twice"


def test_another_stores_batches_are_left_alone(loopback, tmp_path):
    url, state = loopback()
    by_batch(url, output_dir=tmp_path / "one")
    by_batch(url, output_dir=tmp_path / "two")
    stores = [b["metadata"]["aad_store"] for b in state.batches.batches.values()]
    assert len(set(stores)) == 2


def test_requests_that_never_get_a_reply_are_unjudged(loopback, tmp_path):
    url, state = loopback()
    state.batches.accidents = ["expire"] * 10
    verdicts = by_batch(url, output_dir=tmp_path)
    reasons = summarize(verdicts).unjudged
    assert list(reasons) == ["transport"] and 0 < reasons["transport"] < 20
    assert "batch_expired" in next(v.detail for v in verdicts if not v.judged)
    assert all(v.judged for v in by_batch(url, output_dir=tmp_path)) or state.batches.accidents


def test_the_cost_limit_holds_for_batches(loopback, tmp_path):
    url, _ = loopback()
    verdicts = by_batch(url, output_dir=tmp_path, max_cost=0.002)
    summary = summarize(verdicts)
    assert summary.partial and 0 < summary.cost <= 0.002


def test_request_lines_are_the_documented_schema(loopback):
    url, state = loopback()
    by_batch(url, 3)
    (batch,) = state.batches.batches.values()
    for line in map(json.loads, state.batches.files[batch["input_file_id"]].splitlines()):
        assert set(line) == {"custom_id", "method", "url", "body"}
        assert line["method"] == "POST" and line["url"] == "/v1/chat/completions" and len(line["custom_id"]) <= 64


def test_another_judges_batches_are_left_alone(loopback, tmp_path, monkeypatch):
    url, state = loopback()
    state.batches.polls = 10**9

    killed_while_it_waits(monkeypatch, url, tmp_path)
    state.batches.polls = 0
    # The same model asked in another form is another judge; it read the first one's letters as its own tags.
    other = load_judge("openai:planted", base_url=url, form="tag")
    options = {"progress": False, "transport": "batch", "poll_s": 0.01}
    assert all(v.judged for v in compare(made_up(20), other, tmp_path, **options))
    lines = [json.loads(line) for line in (tmp_path / "store.jsonl").read_text().splitlines()]
    assert not [line for line in lines if line.get("reason")] and len(state.batches.batches) == 2
    assert all(v.judged for v in by_batch(url, output_dir=tmp_path)) and len(state.batches.batches) == 2


def test_the_cost_limit_of_batches_keeps_the_beginning_of_the_order(loopback, tmp_path):
    url, _ = loopback()
    judge = load_judge("openai:planted", base_url=url, form="logprobs", price="2/8")
    items = [Comparison(str(i), f"p{i}", f"{i} " + "word " * (3000 if i % 2 else 1), f"o{i}") for i in range(20)]
    options = {"progress": False, "transport": "batch", "poll_s": 0.01}
    verdicts = compare(items, judge, tmp_path, max_cost=0.05, **options)
    order = [q.messages[0]["content"][1:] for q in Plan(items, judge).questions(Store(None))][::2]
    judged = {v.id for v in verdicts if v.judged}
    assert 0 < len(judged) < 20 and judged == set(order[: len(judged)])
