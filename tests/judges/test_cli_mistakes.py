"""`aad judge` and `aad judge-check` given something wrong: found before a judge is asked, said in one line."""

from __future__ import annotations

import json

import pytest

from aad_plugin.cli.judge_running import Running
from aad_plugin.errors import ConfigError, JudgeError, JudgeUnavailable
from aad_plugin.judges import Store
from aad_plugin.judges.sitting.sitting import Sitting
from tests.judges.test_cli import aad, summary_of


@pytest.fixture
def single(files):
    return files[:2]


def refused(message, *arguments):
    done = aad("judge", *arguments)
    assert isinstance(done.exception, ConfigError), done.output
    with pytest.raises(ConfigError, match=message):
        raise done.exception
    return str(done.exception)


def test_a_run_that_dies_early_says_why_and_exits_with_1(files, tmp_path, loopback):
    url, state = loopback()
    refusal = {"choices": [{"message": {"content": "I cannot"}, "finish_reason": "stop"}], "model": "m"}
    state.fails = [(200, refusal), (200, refusal), (401, {"error": {"message": "bad key"}})]
    spec = f"openai:planted,base_url={url},form=tag,concurrency=1"
    done = aad("judge", *files, "--judge", spec, "--output", tmp_path / "out")
    assert isinstance(done.exception, JudgeUnavailable) and done.exit_code == 1  # was: exit code 2, and no reason
    assert "items are unjudged (" not in done.stderr and summary_of(tmp_path / "out")["n_unjudged"] >= 1


def test_what_was_kept_never_hides_the_error(files, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise JudgeError("the first error")

    def fails_too(*_, **__):
        raise JudgeError("the second error")

    monkeypatch.setattr(Running, "verdicts", fails)
    monkeypatch.setattr(Running, "kept", fails_too)
    done = aad("judge", *files, "--judge", "openai:m", "--output", tmp_path / "out")
    assert str(done.exception) == "the first error"


def test_a_newer_store_is_one_line(files, tmp_path):
    (tmp_path / "store.jsonl").write_text('{"type": "store", "format": 2, "id": "x"}\n')
    refused("was written by a newer aad_plugin", *files, "--judge", "openai:m,form=tag", "--output", tmp_path)


def test_a_jury_is_checked_before_anybody_is_paid(files, single, tmp_path, loopback):
    url, state = loopback()
    one, two = f"openai:planted,base_url={url}", f"openai:planted,base_url={url},template=grade"
    out = ["--output", tmp_path / "out"]
    refused("leave --baseline out", *files, "--judge", one, "--judge", two, *out)
    refused("a jury is made of pairwise judges", *single, "--judge", two, "--judge", two, *out)
    refused("a cost limit needs", *files, "--judge", f"{one},price=1/1", "--judge", one, "--max-cost", 1, *out)
    refused("--repeats measures the noise of win rates", *single, "--judge", two, "--repeats", 2, *out)
    filed = ["--transport", "file", *out]
    refused("one judge is asked at a time", *files, "--judge", one, "--judge", f"{one},form=tag", *filed)
    refused("a cost limit holds for requests that this package sends", *files, "--judge", f"{one},price=1/1",
            "--max-cost", 1, *filed)  # fmt: skip
    gamed = tmp_path / "df_gamed.csv"
    gamed.write_text("model\n")
    refused("needs verdicts on all 805 instructions, got 30", *files, "--judge", one, "--df-gamed", gamed, *out)
    assert not state.seen


def test_one_judge_twice_is_no_jury(files, tmp_path, loopback):
    (url, state), (other, second) = loopback(), loopback(judge="length")
    one, out = f"openai:planted,base_url={url}", ["--output", tmp_path / "out"]
    twin = f"openai:planted,base_url={other}"  # was: never asked, and in full agreement at twice the cost
    refused("openai:planted and openai:planted are one judge", *files, "--judge", one, "--judge", twin, *out)
    assert not state.seen and not second.seen
    state.forms = ("json",)
    told = f"{twin},form=json"  # as the probe will find of the first
    refused("are one judge", *files, "--judge", one, "--judge", told, *out)
    refused("two different judges", *files, "--judge", one, "--cascade", told, *out)
    assert state.seen and not second.seen


def test_labels_are_read_before_anybody_is_paid(files, tmp_path, loopback):
    url, state = loopback()
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"prompt": "Question 1?", "label": "candidat"}\n')
    one = ["--judge", f"openai:planted,base_url={url}"]
    refused("did you mean 'candidate'", *files, *one, "--labels", labels, "--output", tmp_path / "out")
    done = aad("judge-check", *one, "--labels", labels)
    assert isinstance(done.exception, ConfigError) and not state.seen
    difficulties = tmp_path / "d.csv"
    difficulties.write_text("index,instruction_difficulty\n0,1.0\n")
    options = ["--difficulties", difficulties, "--output", tmp_path / "out"]
    refused("expected verdicts on all of them, got 30", *files, *one, *options)
    assert not state.seen


ARRANGED = [
    "--protocol", "nonsense", "--systems", "a", "--anchor", "a", "--style", "length", "--sides", "--elo", "--draws", 200,
    "--cascade", "z:z", "--dear-share", 0.2, "--jury", "cyclic",
]  # fmt: skip
ASKED = [
    "--allow-unmatched", "--transport", "pigeon", "--results", "r", "--poll-s", 5, "--leave-batches", "--estimate",
    "--max-cost", 5, "--repeats", 3, "--challenge",
]  # fmt: skip


def test_counting_again_refuses_what_says_how_to_ask(tmp_path):
    verdicts = tmp_path / "verdicts.jsonl"
    rows = [
        {"id": str(i), "prompt": f"h{i}", "judge": "openai:m", "p": i % 2, "orders": [i % 2] * 2} for i in range(12)
    ]
    verdicts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for given in (ARRANGED, ASKED):  # was: all of them ignored
        flags = ", ".join(one for one in given if str(one).startswith("--"))
        refused(f"judged before, makes no use of {flags}: leave them out", "--from", verdicts, *given)
    refused("--from without --judge makes no use of --price", "--from", verdicts, "--price", "1/1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--dear-share", 0.2], "a run without --cascade makes no use of --dear-share"),
        (["--elo", "--sides", "--protocol", "arena-hard-v2.0"], "without --systems makes no use of --sides, --elo"),
        (["--style", "all"], "without an Arena-Hard protocol makes no use of --style"),
        (["--jury", "cyclic", "--cascade", "reward:y"], "a cascade, which has one cheap judge, makes no use of --jury"),
        (["--results", "r.jsonl"], "--transport live makes no use of --results"),
        (["--poll-s", 3], "--transport live makes no use of --poll-s"),
        (["--transport", "batch", "--leave-batches"], "makes no use of --leave-batches"),
    ],
)
def test_options_of_another_arrangement_are_refused(files, given, message):
    refused(message, *files, "--judge", "reward:x", *given)


def test_a_pause_below_zero_is_refused_before_a_batch_is_made(files, tmp_path, loopback):
    url, state = loopback()
    spec = f"openai:planted,base_url={url},form=tag"
    done = aad("judge", *files, "--judge", spec, "--transport", "batch", "--poll-s", -1, "--output", tmp_path / "out")
    assert done.exit_code == 2 and not state.batches.batches  # was: ValueError, and a batch that was paid for
    with pytest.raises(ConfigError, match="poll_s is a number of seconds of at least 0, got nan"):
        Sitting(Store(None), transport="batch", poll_s=float("nan"))


def test_flags_that_mean_nothing_to_the_judge_are_refused(files, tmp_path):
    reward = ["--judge", "reward:/nothing", "--output", tmp_path / "out"]
    refused("--temperature means nothing to a judge of the kind reward", *files, *reward, "--temperature", 0)
    refused("--header means nothing", *files, *reward, "--header", "X=$HOME")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("openai:m,api_key=hunter2", "no option 'api_key'"),
        ("openai:m,headers={X: a, Y: hunter2}", "the value of headers after 'openai:m,…' is not YAML"),
        ("openai:m,headers=a,hunter2", "takes option=value, .*part 2 after 'openai:m,…' has no ="),
        ("openai:m,base_url=[hunter2", "the value of base_url after 'openai:m,…' is not YAML"),
        ("opnai:m,api_key=hunter2", "unknown judge kind 'opnai' in 'opnai:m,…'"),
        ("m,api_key=hunter2", "a judge is named kind:name"),
        ("openai:m,base_url=https://u:hunter2@h.example/v1,rubric=crit.yaml", "crit.yaml"),
        ("nowhere.yaml,api_key=hunter2", "cannot read the judge file nowhere.yaml: FileNotFoundError"),
    ],
)
def test_secrets_in_a_spec_are_not_shown(files, tmp_path, spec, message):
    assert "hunter2" not in refused(message, *files, "--judge", spec, "--output", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"kind: openai\nname: m\nheaders: {X: hunter2\n", "is not YAML: line"),
        (b"api_key: hunter2\n", "needs the keys kind and name, got the keys api_key"),
        (b"- hunter2\n", "needs the keys kind and name, got list"),
        (b"kind: openai\nname: m\nheaders: [hunter2]\n", "headers must be a mapping"),
        (b"kind: openai\nname: m\nkey_variable: 5\n", "key_variable names an environment variable"),
        (b"\xff\xfe", "cannot read the judge file"),
    ],
)
def test_secrets_in_a_judge_file_are_not_shown(files, tmp_path, content, message):
    path = tmp_path / "judge.yaml"
    path.write_bytes(content)
    assert "hunter2" not in refused(message, *files, "--judge", path, "--output", tmp_path / "out")


def test_a_field_of_one_file_need_not_stand_in_the_other(files, tmp_path, monkeypatch):
    rows = [{"text": f"Question {i}?", "output": "mine"} for i in range(30)]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    mine = ["--candidate", tmp_path / "mine.json", *files[2:], "--judge", "openai:gpt-x", "--estimate"]
    assert "30 items" in aad("judge", *mine, "--prompt-field", "text").stdout
    refused(r"field 'txt' is missing \(did you mean 'text'\?\)", *mine, "--prompt-field", "txt")


def test_an_estimate_holds_for_every_form_and_waits_for_nobody(files, tmp_path):
    options = [*files, "--judge", "openai:gpt-x", "--price", "2/8", "--estimate", "--output", tmp_path / "out"]
    (tmp_path / "out").mkdir()
    with Store(tmp_path / "out"):  # another run is at work
        unsure, sure = aad("judge", *options).stdout, aad("judge", *options, "--form", "logprobs").stdout
    assert "the judge was not asked yet which it knows" in unsure and "not asked yet" not in sure

    def most(text):
        return float(text.partition("at most ")[2].split()[0].strip(";"))

    # 60 replies of up to 1024 tokens at 8 per million, where log-probabilities take one token each
    assert most(unsure) > 60 * 1024 * 8 / 1e6 > most(sure)


def test_a_report_that_cannot_be_written_is_one_line(tmp_path, loopback):
    url, _ = loopback(judge="fair")
    (tmp_path / "check.json").mkdir()
    done = aad("judge-check", "--judge", f"openai:planted,base_url={url},concurrency=32", "--output", tmp_path)
    assert isinstance(done.exception, JudgeError) and "all rulings are kept" in str(done.exception)
