"""The official protocols: a planted battle for each rule, upstream's figures on planted files, and files they read.

`python -m tests.judges.protocols.upstream` holds the same files to upstream's own programs; what these found is frozen.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from aad_plugin.cli.judge_protocol import check_labels
from aad_plugin.errors import ConfigError
from aad_plugin.judges import Comparison
from aad_plugin.judges.items import Answer
from aad_plugin.judges.leagues.style import FEATURES, Style
from aad_plugin.judges.protocols.alpaca_eval_2 import winrate_figures
from aad_plugin.judges.protocols.arena_hard import VERSIONS, Judgment, labels_of, points_of, scores_of
from aad_plugin.judges.protocols.mt_bench import Grade, Pair, graded_scores, paired_scores, turns_of
from tests.judges.protocols import planted
from tests.judges.test_cli import aad


@pytest.mark.parametrize(
    ("labels", "v01", "v20"),
    [
        # Game 1 shows the baseline first: its A is the model's loss. Game 2 shows the model first.
        (("A>>B", "A>>B"), [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]),
        (("A>B", "B>A"), [0, 0], [0, 0]),
        (("B>A", "A>B"), [1, 1], [1, 1]),
        (("B>>A", "A=B"), [1, 1, 1, 0.5], [1, 1, 1, 0.5]),
        (("A=B", "B>>A"), [0.5, 0, 0, 0], [0.5, 0, 0, 0]),
        ((None, "A>B"), [1], []),
        (("A>>B", None), [0, 0, 0], []),
        ((None, None), [], []),
    ],
)
def test_arena_hards_battles(labels, v01, v20):
    assert (points_of(labels, "v0.1"), points_of(labels, "v2.0")) == (v01, v20)


def test_orders_become_upstreams_games():
    # The model stood first: A is the model. Its p of 0.75 is A>B. The baseline stood first: the model's 0 is A>>B.
    assert labels_of(model_first=0.75, baseline_first=0.0) == ("A>>B", "A>B")
    assert labels_of(None, 0.5) == ("A=B", None)
    with pytest.raises(
        ConfigError, match=r"Arena-Hard counts five labels, .* got 0\.7: judge with --template arena_hard"
    ):
        labels_of(0.7, 0.5)


@pytest.mark.parametrize(
    ("version", "style", "theirs", "tolerance"),
    [
        # Figures of upstream's own functions on these files; v0.1's regression stops at scikit-learn's tolerance.
        ("v0.1", (), {"model-0": 37.59766, "model-1": 55.17578, "model-2": 70.78755}, 1e-5),
        ("v0.1", FEATURES, {"model-0": 41.26509, "model-1": 55.70721, "model-2": 67.72843}, 1e-2),
        ("v2.0", (), {"model-0": 37.14575, "model-1": 55.17578, "model-2": 70.78755}, 1e-5),
        ("v2.0", FEATURES, {"model-0": 40.54487, "model-1": 55.85245, "model-2": 67.89190}, 5e-4),
    ],
    ids=["v0.1", "v0.1 style", "v2.0", "v2.0 style"],
)
def test_planted_files_have_upstreams_figures(version, style, theirs, tolerance):
    scores = scores_of(planted.arena_judgments(), version, style)
    assert {one.model: 100 * one.value for one in scores} == pytest.approx(theirs, abs=tolerance)
    assert [one.model for one in scores] == ["model-2", "model-1", "model-0"]
    if not style:
        assert all(one.low < one.value < one.high for one in scores)


def test_mistakes_in_judgments_are_one_line():
    one = Judgment("q", "m", "base", ("A=B", "A=B"))
    with pytest.raises(ConfigError, match="Arena-Hard has one baseline"):
        scores_of([one, Judgment("q", "m", "other", ("A=B", "A=B"))], "v2.0")
    with pytest.raises(ConfigError, match=r"Arena-Hard has the versions v0\.1, v2\.0, got 'v3'"):
        scores_of([one], "v3")
    with pytest.raises(ConfigError, match="style control needs the style of every answer"):
        scores_of([one], "v2.0", FEATURES)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_model_without_battles_has_no_score_under_style_control(version):
    dress = Style(10, 1, 1, 1), Style(20, 0, 2, 1)
    won = [Judgment(str(i), "m", "base", ("A>B", "A>B"), ("", ""), *dress) for i in range(4)]
    lost = [Judgment(str(i), "n", "base", (None, None), ("", ""), *dress) for i in range(4)]
    one, other = scores_of(won + lost, version, ("length",))
    assert (one.model, one.questions, other.model, other.questions) == ("m", 4, "n", 0)
    assert one.value == pytest.approx(0.5) and np.isnan(other.value)
    (alone,) = scores_of(lost, version, ("length",))
    assert np.isnan(alone.value)


def test_mt_bench_grades_have_fastchats_figures():
    found = graded_scores(planted.grades())
    theirs = {"good": (7.421053, 7.866667, 7.642384), "bad": (5.103896, 5.675325, 5.389610)}
    for model, figures in theirs.items():
        ours = [found[model][name] for name in ("first_turn", "second_turn", "average")]
        assert ours == pytest.approx(figures, abs=1e-6)
    assert graded_scores([Grade(1, "m", 1, None)])["m"]["n_average"] == 0


def test_mt_bench_pairs_have_fastchats_figures():
    found = paired_scores(planted.pairs())
    theirs = {"a": (13, 8, 76, 0.525773), "b": (6, 12, 70, 0.465909), "c": (10, 9, 64, 0.506024)}
    for model, (win, loss, tie, adjusted) in theirs.items():
        row = found[model]
        assert (row["win"], row["loss"], row["tie"]) == (win, loss, tie)
        assert row["win_rate_adjusted"] == pytest.approx(adjusted, abs=1e-6)


@pytest.mark.parametrize(
    ("orders", "winners", "counts"),
    [
        ((0.9, 0.6), ("model_1", "model_1"), (1, 0, 0)),
        ((0.1, 0.2), ("model_2", "model_2"), (0, 1, 0)),
        ((0.9, 0.2), ("model_1", "model_2"), (0, 0, 1)),
        ((0.5, 0.9), ("tie", "model_1"), (0, 0, 1)),
        ((0.9, None), ("model_1", "error"), None),
        ((), ("error", "error"), None),
    ],
    ids=["won", "lost", "torn", "tied once", "one missing", "none"],
)
def test_mt_benchs_rule_for_two_orders(orders, winners, counts):
    pair = Pair.of_orders(1, ("x", "y"), 1, orders, ("", ""))
    assert pair.winners == winners
    found = paired_scores([pair])
    assert found == {} if counts is None else tuple(found["x"][name] for name in ("win", "loss", "tie")) == counts


def test_mt_benchs_items_are_both_turns():
    prompt = [{"role": "user", "content": "One?"}, {"role": "user", "content": "Two?"}]
    one, two = turns_of([Answer("7", prompt, ("first", "second"))])
    assert (one.id, len(one.prompt), one.text) == ("7-1", 1, "first")
    assert (two.id, len(two.prompt), two.text) == ("7-2", 2, ("first", "second"))
    pair = turns_of([Comparison("7", prompt, ("a", "b"), ("c", "d"))])
    assert (pair[0].candidate, pair[0].baseline) == ("a", "c")
    seen = turns_of([Answer("7", prompt, ("first", "second"), pictures=("x.png",))])
    assert [one.pictures for one in seen] == [("x.png",)] * 2  # were left out, and the judge was asked blind
    with pytest.raises(ConfigError, match="MT-Bench has two user turns and a reply to each; item 7 has 1 user turns"):
        turns_of([Answer("7", "One?", "first")])


def test_alpaca_evals_figures_by_hand():
    found = winrate_figures([1.0, 0.5, 0.0, 0.9, None])
    assert found["win_rate"] == pytest.approx(60.0) and found["discrete_win_rate"] == pytest.approx(62.5)
    assert (found["n_wins"], found["n_wins_base"], found["n_draws"], found["n_total"]) == (2, 1, 1, 4)


def test_alpaca_evals_own_functions_agree():
    from tests.judges.protocols.upstream import alpaca_eval

    assert alpaca_eval() < 1e-9


def _five_labels(message: str) -> str:
    """A label by the hashes of both answers."""
    from tests.judges.planted import quality, texts

    _, first, second = texts(message)
    gap = quality(first) - quality(second)
    return "A>>B" if gap > 0.6 else "A>B" if gap > 0.1 else "B>>A" if gap < -0.6 else "B>A" if gap < -0.1 else "A=B"


@pytest.fixture
def five_labels(monkeypatch):
    from tests.judges import loopback as server

    monkeypatch.setitem(server.LABELLERS, "five", _five_labels)


@pytest.mark.parametrize("version", ["v0.1", "v2.0"])
def test_arena_hard_from_the_command_line(version, files, tmp_path, loopback, five_labels):
    url, _ = loopback(judge="five")
    out, name = tmp_path / "out", f"arena-hard-{version}"
    done = aad("judge", "--candidate", f"mine={files[1]}", "--baseline", f"base={files[3]}", "--protocol", name, "--style",
               "length", "--judge", "openai:planted", "--base-url", url, "--form", "json", "--output", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    bench = out / name / "data" / name
    rows = [json.loads(line) for line in (bench / "model_judgment/openai-planted/mine.jsonl").read_text().splitlines()]
    assert len(rows) == 30 and all(len(row["games"]) == 2 for row in rows)
    judgments = [
        Judgment(str(number), "mine", "base", (row["games"][0]["score"], row["games"][1]["score"]))
        for number, row in enumerate(rows)
    ]
    words = rows[0]["games"][1]["judgment"]
    assert json.loads(words if version == "v0.1" else words["answer"])["verdict"] == rows[0]["games"][1]["score"]
    figures = json.loads((out / "protocol.json").read_text())
    assert figures["style"] == ["length"] and figures["scores"][0]["model"] == "mine"
    plain = scores_of(judgments, version)[0].value
    summary = json.loads((out / "summary.json").read_text())
    assert abs(plain - summary["win_rate"]) < 0.2 and f"{name}, files for upstream's scorer" in done.stdout
    answers = [json.loads(line) for line in (bench / "model_answer/base.jsonl").read_text().splitlines()]
    assert len(answers) == 30 and ("conv_metadata" if version == "v0.1" else "metadata") in answers[0]


def test_several_models_meet_one_baseline(tmp_path, loopback, five_labels, files):
    url, _ = loopback(judge="five")
    other = tmp_path / "third.json"
    other.write_text(files[1].read_text().replace("Answer one", "Answer three"))
    done = aad("judge", "--systems", files[1], other, files[3], "--anchor", "baseline", "--protocol", "arena-hard-v2.0",
               "--judge", "openai:planted", "--base-url", url, "--form", "json", "--output", tmp_path / "out",
               "--draws", "100")  # fmt: skip
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "out" / "protocol.json").read_text())
    assert {one["model"] for one in figures["scores"]} == {"candidate", "third"}
    assert (tmp_path / "out" / "league.json").exists()


@pytest.fixture
def two_turns(tmp_path):
    for name in ("x", "y"):
        rows = [
            {"prompt": [{"role": "user", "content": f"Question {i}?"}, {"role": "user", "content": "And then?"}],
             "output": [f"{name} {i}", f"{name} again {i * 3 % 7}"]}
            for i in range(12)
        ]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "x.jsonl", tmp_path / "y.jsonl"


def test_mt_bench_from_the_command_line(two_turns, tmp_path, loopback, monkeypatch):
    from tests.judges import loopback as server

    monkeypatch.setitem(server.LABELLERS, "seven", lambda _: "7")
    url, _ = loopback(judge="seven")
    judge = ["--judge", "openai:planted", "--base-url", url, "--form", "json"]
    out = tmp_path / "single"
    done = aad("judge", "--candidate", two_turns[0], "--protocol", "mt-bench-single", *judge, "--output", out)
    assert done.exit_code == 0, done.output
    lines = (out / "mt-bench-single/data/mt_bench/model_judgment/openai-planted_single.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 24 and {row["turn"] for row in rows} == {1, 2} and {row["score"] for row in rows} == {7}
    assert json.loads((out / "protocol.json").read_text())["scores"]["x"]["average"] == 7

    url, _ = loopback(judge="quality")
    out = tmp_path / "pairwise"
    done = aad("judge", "--candidate", two_turns[0], "--baseline", two_turns[1], "--protocol", "mt-bench-pairwise",
               "--judge", "openai:planted", "--base-url", url, "--form", "tag", "--output", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    path = out / "mt-bench-pairwise/data/mt_bench/model_judgment/openai-planted_pair.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 24 and {row["model_1"] for row in rows} == {"x"}
    found = json.loads((out / "protocol.json").read_text())["scores"]["x"]
    assert found["win"] == sum(row["g1_winner"] == row["g2_winner"] == "model_1" for row in rows) > 0
    assert found["tie"] == sum(row["g1_winner"] != row["g2_winner"] for row in rows)
    # 12 questions, of which both turns are one cluster: was an interval of 24 independent prompts.
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["n"], summary["n_prompts"]) == (24, 12)
    assert summary["win_rate"] == found["win_rate_adjusted"] and summary["ci95"] == found["ci95"]
    again = aad("judge", "--from", out / "verdicts.jsonl", "--output", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "again" / "summary.json").read_text())["ci95"] == summary["ci95"]


def test_alpaca_eval_from_the_command_line(files, tmp_path, loopback):
    url, _ = loopback()
    out = tmp_path / "out"
    done = aad("judge", *files, "--protocol", "alpaca-eval-2", "--judge", "openai:planted", "--base-url", url, "--form",
               "logprobs", "--output", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = json.loads((out / "alpaca-eval-2/annotations.json").read_text())
    figures = json.loads((out / "protocol.json").read_text())["scores"]["candidate"]
    assert figures["win_rate"] == pytest.approx(100 * sum(row["preference"] - 1 for row in rows) / 30)
    assert figures["win_rate"] == pytest.approx(100 * json.loads((out / "summary.json").read_text())["win_rate"])
    again = aad("judge", "--from", out / "alpaca-eval-2/annotations.json")
    assert again.exit_code == 0 and "win rate" in again.stdout


def test_protocol_files_hold_what_the_judge_saw_and_a_torn_store_is_read(files, tmp_path, loopback):
    url, _ = loopback()
    thinking = tmp_path / "thinking.json"
    rows = json.loads(files[1].read_text())
    thinking.write_text(
        json.dumps([{**row, "output": "<think>" + "so " * 200 + "</think>\n" + row["output"]} for row in rows])
    )
    asked = ["judge", "--candidate", thinking, "--baseline", files[3], "--protocol", "alpaca-eval-2", "--judge",
             "openai:planted", "--base-url", url, "--form", "logprobs", "--output", tmp_path / "out"]  # fmt: skip
    assert aad(*asked).exit_code == 0
    with (tmp_path / "out/store.jsonl").open("a") as store:
        store.write('{"type": "ruling", "key": "to')
    again = aad(*asked)
    assert again.exit_code == 0, again.output
    written = json.loads((tmp_path / "out/alpaca-eval-2/annotations.json").read_text())
    assert [row["output_2"] for row in written] == [row["output"].strip() for row in rows]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "arena"], "the protocols are arena-hard-v0.1, .* got 'arena'"),
        (["--protocol", "mt-bench-single", "--baseline", "b"], "grades one model's answers: leave --baseline out"),
        (["--protocol", "alpaca-eval-2"], "alpaca-eval-2 needs --baseline FILE"),
        (["--protocol", "alpaca-eval-2", "--cascade", "x:y"], "a protocol has one judge: leave --cascade out"),
    ],
    ids=["name", "baseline", "no baseline", "cascade"],
)
def test_mistakes_in_a_call_are_one_line(arguments, message):
    with pytest.raises(ConfigError, match=message):
        raise aad("judge", "--candidate", "x.json", "--judge", "reward:demo", *arguments).exception


def test_mt_bench_needs_grades_and_both_orders_before_anything_is_paid(files, tmp_path, loopback):
    url, state = loopback()
    call = ["--candidate", files[1], "--protocol", "mt-bench-single", "--template", "refusal", "--output", tmp_path]
    with pytest.raises(ConfigError, match="mt-bench-single counts grades, and openai:planted gives none"):  # was: NaN
        raise aad("judge", *call, "--judge", "openai:planted", "--base-url", url).exception
    one_order = SimpleNamespace(name="reward:x", kind="pairwise", both_orders=False)
    with pytest.raises(ConfigError, match="counts a judge's verdicts in both orders, and reward:x asks in one alone"):
        check_labels("mt-bench-pairwise", one_order)  # was: IndexError behind the last reply
    assert not state.seen


@pytest.mark.parametrize(
    ("sides", "protocol", "more", "message"),
    [
        ((1, 3), "alpaca-eval-2", (), "candidate and baseline are both named 'x'.*name one as in --candidate x-2="),
        ((1, 3), "arena-hard-v2.0", ("--template", "dialogue"), "Arena-Hard counts the labels A>>B, .* leave it out"),
    ],
    ids=["names", "labels"],
)
def test_what_would_be_miscounted_is_refused_before_anything_is_asked(
    sides, protocol, more, message, files, tmp_path, loopback
):
    url, state = loopback()
    one, other = (f"x={files[at]}" for at in sides)
    call = ["--candidate", one, "--baseline", other, "--protocol", protocol, *more, "--output", tmp_path / "out"]
    with pytest.raises(ConfigError, match=message):
        raise aad("judge", *call, "--judge", "openai:planted", "--base-url", url, "--form", "json").exception
    assert not state.seen
