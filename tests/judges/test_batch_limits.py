"""The batch transport against a service with limits, lost replies, deleted files, outages and kills."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

import pytest

from aad_plugin.errors import JudgeError
from aad_plugin.judges import compare, load_judge
from aad_plugin.judges.asking import batch_service
from tests.judges.conftest import made_up
from tests.judges.test_batch import by_batch, killed_while_it_waits, p_of, sent, undisturbed  # noqa: F401, a fixture


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(batch_service, "_LONGEST_PAUSE_S", 0.05)


def test_a_limit_of_lines_is_found_and_remembered(loopback, tmp_path, undisturbed):  # noqa: F811
    url, state = loopback()
    state.batches.most_lines = 15
    assert p_of(by_batch(url, output_dir=tmp_path)) == pytest.approx(undisturbed)
    assert len(state.batches.answered) == len(set(state.batches.answered)) == 40
    refused = state.batches.refused
    assert 1 <= refused <= 4
    by_batch(url, 40, output_dir=tmp_path)
    assert state.batches.refused == refused  # the second run knows


def test_a_limit_of_bytes_is_found(loopback, undisturbed):  # noqa: F811
    url, state = loopback()
    state.batches.most_bytes = 30_000
    assert p_of(by_batch(url)) == pytest.approx(undisturbed)
    assert (
        max(map(len, sent(state))) <= 30_000 and len(set(state.batches.answered)) == len(state.batches.answered) == 40
    )


def test_what_exceeds_the_enqueued_tokens_waits_for_running_batches(loopback, tmp_path, undisturbed):  # noqa: F811
    url, state = loopback()
    state.batches.most_tokens = 9000
    assert p_of(by_batch(url, output_dir=tmp_path)) == pytest.approx(undisturbed)
    assert len(set(state.batches.answered)) == len(state.batches.answered) == 40


def test_a_single_request_that_is_too_large_is_an_error(loopback):
    url, state = loopback()
    state.batches.most_bytes = 50
    with pytest.raises(JudgeError, match="refuses a single request"):
        by_batch(url, 3)


def test_a_creation_whose_reply_was_lost_is_not_repeated(loopback, undisturbed):  # noqa: F811
    url, state = loopback()
    state.batches.lose_replies = 2
    assert p_of(by_batch(url)) == pytest.approx(undisturbed)
    assert len(state.batches.batches) == 1 and len(state.batches.answered) == 40


def test_output_is_read_although_the_input_file_is_gone(loopback, tmp_path, undisturbed, monkeypatch):  # noqa: F811
    url, state = loopback()
    state.batches.polls = 10**9
    killed_while_it_waits(monkeypatch, url, tmp_path)
    state.batches.polls = 0
    for batch in state.batches.batches.values():
        state.batches.end(batch)
        del state.batches.files[batch["input_file_id"]]
    assert p_of(by_batch(url, output_dir=tmp_path)) == pytest.approx(undisturbed)
    assert len(state.batches.batches) == 1


def test_nor_does_a_store_without_notes_pay_twice(loopback, tmp_path, undisturbed, monkeypatch):  # noqa: F811
    url, state = loopback()
    state.batches.polls = 10**9
    killed_while_it_waits(monkeypatch, url, tmp_path)
    lines = (tmp_path / "store.jsonl").read_text().splitlines()
    (tmp_path / "store.jsonl").write_text("".join(line + "\n" for line in lines if '"batch_shard"' not in line))
    state.batches.polls = 0
    for batch in state.batches.batches.values():
        state.batches.end(batch)
        del state.batches.files[batch["input_file_id"]]
    assert p_of(by_batch(url, output_dir=tmp_path)) == pytest.approx(undisturbed)
    assert len(state.batches.batches) == 1


def test_an_outage_while_polling_is_waited_for(loopback, undisturbed):  # noqa: F811
    url, state = loopback()
    state.batches.polls, state.batches.outage = 3, 60
    assert p_of(by_batch(url)) == pytest.approx(undisturbed)
    assert state.batches.outage == 0 and len(state.batches.batches) == 1


def test_two_lines_that_contradict_each_other_are_no_verdict(loopback, tmp_path):
    url, state = loopback()
    state.batches.accidents = ["contradict"]
    verdicts = by_batch(url, output_dir=tmp_path)
    assert {v.reason for v in verdicts} == {"unreadable"}
    assert "several replies to one request with different verdicts" in verdicts[0].detail


def test_two_results_in_a_file_that_contradict_each_other_are_no_verdict(loopback, tmp_path):
    _, state = loopback()
    judge = load_judge("openai:planted", base_url="http://127.0.0.1:1/v1", form="tag")
    compare(made_up(2), judge, tmp_path, progress=False, transport="file")
    asked = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    lines = []
    for letter in "AB":
        for request in asked:
            body = state.completion(request["body"])
            body["choices"][0]["message"]["content"] = f"<verdict>{letter}</verdict>"
            lines.append({"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}})
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for _ in range(3):  # however often it is read
        verdicts = compare(made_up(2), judge, tmp_path, progress=False, transport="file")
        assert [v.reason for v in verdicts] == ["unreadable"] * 2
    assert len((tmp_path / "requests.jsonl").read_text().splitlines()) == 4


NUM = 5000
RUN = """
import resource, sys
from aad_plugin.judges import compare, load_judge
from aad_plugin.judges.asking import batch, batch_service
from tests.judges.conftest import made_up
judge = load_judge("openai:planted", base_url=sys.argv[1], form="logprobs")
verdicts = compare(made_up(int(sys.argv[3])), judge, sys.argv[2], progress=False, transport="batch", poll_s=0.05)
assert all(v.judged for v in verdicts), [v.detail for v in verdicts if not v.judged][:3]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def start(url, folder, num):
    return subprocess.Popen([sys.executable, "-c", RUN, url, str(folder), str(num)], stdout=subprocess.PIPE, text=True)


@pytest.mark.grid
def test_ten_thousand_requests_under_both_limits_and_ten_kills(loopback, tmp_path):
    url, state = loopback()
    state.batches.most_lines, state.batches.most_tokens = 500, 90_000
    dice = random.Random(3)
    kills = 0
    while kills < 10:
        process = start(url, tmp_path, NUM)
        time.sleep(dice.uniform(3.0, 9.0))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    process = start(url, tmp_path, NUM)
    assert process.wait(600) == 0
    print(f"{kills} kills, {len(state.batches.answered)} answered, {len(set(state.batches.answered))} different")
    assert len(state.batches.answered) == len(set(state.batches.answered)) == 2 * NUM
    assert kills == 10


@pytest.mark.grid
def test_memory_does_not_grow_with_requests(loopback, tmp_path):
    peaks = []
    for num in (1000, 10_000):
        url, _ = loopback()
        process = start(url, tmp_path / str(num), num)
        assert process.wait(600) == 0
        peaks.append(float(process.stdout.read()))
    print(f"peak at 2,000 requests {peaks[0]:.0f} MB, at 20,000 {peaks[1]:.0f} MB")
    assert peaks[1] - peaks[0] <= 30


def test_another_programs_batches_do_not_matter(loopback, undisturbed):  # noqa: F811
    url, state = loopback()
    state.batches.batches["foreign"] = {
        "id": "foreign", "object": "batch", "endpoint": "/v1/x", "errors": None, "status": "in_progress", "polls": 0,
        "input_file_id": "f", "completion_window": "24h", "output_file_id": None, "error_file_id": None, "created_at": 1,
        "metadata": None, "accident": "",
    }  # fmt: skip
    assert p_of(by_batch(url)) == pytest.approx(undisturbed)
