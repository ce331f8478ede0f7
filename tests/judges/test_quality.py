"""Judges held against people: public sets, published replies, presets, and the planning of labels."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter

import numpy as np
import pytest
from typer.testing import CliRunner

from aad_plugin.cli.main import app
from aad_plugin.errors import ConfigError
from aad_plugin.judges import estimate, grade, load_judge, load_template, summarize
from aad_plugin.judges.asking.wording import prompt_path
from aad_plugin.judges.checks.human_sets import SETS, read_replies, read_set
from aad_plugin.judges.checks.quality import implied_win_rate, quality_of
from aad_plugin.judges.items import Answer, Verdict
from aad_plugin.judges.presets.presets import NOT_MEASURED, preset_names, read_preset
from aad_plugin.judges.statistics.intervals import Estimate
from aad_plugin.judges.statistics.labels import corrected_win_rate
from aad_plugin.judges.statistics.planning import order_to_label, pilot_of, plan, ppi_interval
from tests.public_data import DATA, needs_public_data


def aad(*arguments):
    return CliRunner().invoke(app(), [str(one) for one in arguments], env={"COLUMNS": "160"})


def written(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def row(label="candidate", **more):
    return {"prompt": "Wie heißt 水?", "candidate": "Wasser — water", "baseline": "Feuer", "label": label, **more}


@needs_public_data
@pytest.mark.parametrize("judge", ["pandalm-7b", "gpt-3.5-turbo"])
def test_published_replies_on_pandalm_equal_counts_by_hand(judge):
    replies = DATA / f"pandalm_replies_{judge}.jsonl.gz"
    items = read_set("pandalm", DATA)
    found = quality_of(items, read_replies(replies, items), resamples=100)
    with gzip.open(DATA / "pandalm_testset.jsonl.gz", "rt") as file:
        rows = list(map(json.loads, file))
    with gzip.open(replies, "rt") as file:
        said = [
            str(next(v for k, v in r.items() if k.endswith("_result"))).replace("Tie", "0")
            for r in map(json.loads, file)
        ]
    three = [[str(r[f"annotator{i}"]) for i in (1, 2, 3)] for r in rows]
    judged = [(own, people) for own, people in zip(said, three, strict=True) if own in ("0", "1", "2")]
    majority = [(own, Counter(people).most_common(1)[0]) for own, people in judged]
    right = [own == side for own, (side, votes) in majority if votes > 1]
    assert found.n == 999 and found.n_unjudged == {"pandalm-7b": 0, "gpt-3.5-turbo": 25}[judge]
    assert found.accuracy.value == pytest.approx(np.mean(right))
    assert [one.value for one in found.with_each] == pytest.approx(
        [np.mean([own == people[who] for own, people in judged]) for who in range(3)]
    )
    pairs = [people[a] == people[b] for people in three for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found.people == pytest.approx(np.mean(pairs))
    assert round(found.accuracy.value, 4) == {"pandalm-7b": 0.6677, "gpt-3.5-turbo": 0.7156}[judge]


@needs_public_data
def test_public_sets_are_read_whole():
    sizes = {name: Counter(item.subset for item in read_set(name, DATA)) for name in SETS}
    assert {name: sum(found.values()) for name, found in sizes.items()} == {
        "llmbar": 419,
        "mt-bench-human": 200,
        "pandalm": 999,
    }
    assert sizes["llmbar"]["Natural"] == 100 and len(sizes["llmbar"]) == 5


def test_upstream_layouts(tmp_path):
    folder = tmp_path / "LLMBar" / "Dataset" / "LLMBar"
    for part in ("Natural", "Adversarial/Manual"):
        (folder / part).mkdir(parents=True)
        pair = {"input": f"Say {part}.", "output_1": "no", "output_2": part, "label": 2}
        (folder / part / "dataset.json").write_text(json.dumps([pair]))
    assert [(i.subset, i.people) for i in read_set("llmbar", tmp_path)] == [("Manual", (0.0,)), ("Natural", (0.0,))]
    talk = [
        {"role": r, "content": c} for r, c in (("user", "1"), ("assistant", "a"), ("user", "2"), ("assistant", "b"))
    ]
    vote = {
        "question_id": 81,
        "model_a": "x",
        "model_b": "y",
        "turn": 2,
        "conversation_a": talk,
        "conversation_b": talk,
    }
    swapped = {**vote, "model_a": "y", "model_b": "x"}
    file = written(tmp_path / "votes.jsonl", [{**vote, "winner": "model_a"}, {**swapped, "winner": "model_a"},
                                              {**swapped, "winner": "model_b"}])  # fmt: skip
    (item,) = read_set("mt-bench-human", file)
    assert item.people == (1.0, 0.0, 1.0) and item.majority == 1.0 and item.subset == "turn 2"
    assert item.comparison.candidate == ("a", "b")


def test_a_judge_behind_a_server_on_a_file(loopback, tmp_path):
    url, _ = loopback(judge="position")
    rows = [row(["candidate", "baseline"][i % 2], prompt=f"Question {i}?", set="ab"[i % 2]) for i in range(24)]
    done = aad("judge-check", "--on", written(tmp_path / "own.jsonl", rows), "--judge", "openai:planted", "--base-url", url,
               "--price", "1/2", "--output", tmp_path / "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "POSITION BIAS: what stands first wins with 0.900" in done.output
    found = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert found["accuracy"]["value"] == 0.5 and found["consistency"]["value"] == 0 and found["position_bias"]
    assert set(found["by_subset"]) == {"a", "b"} and found["cost"] > 0 and found["implied"]["0.6"] == [None] * 3
    again = aad("judge-check", "--on", tmp_path / "own.jsonl", "--judge", "openai:planted", "--base-url", url, "--estimate",
                "--output", tmp_path / "out")  # fmt: skip
    assert "24 items, 0 requests" in again.output


@pytest.mark.parametrize(("least", "code"), [("0.5", 0), ("0.9", 3), (None, 0)])
def test_a_least_kappa_holds_on_a_set_as_on_labels(tmp_path, least, code):
    rows = [row(["candidate", "baseline"][i % 2], prompt=f"Question {i}?", idx=i) for i in range(40)]
    said = [{"idx": i, "verdict": [1, 2][(i + (i == 0)) % 2]} for i in range(40)]  # one of forty is wrong
    on, replies = written(tmp_path / "own.jsonl", rows), written(tmp_path / "replies.jsonl", said)
    done = aad("judge-check", "--on", on, "--replies", replies, *(["--min-kappa", least] if least else []))
    assert done.exit_code == code, done.output  # was: 0 whatever the limit
    assert (code == 0) or "the lower bound of kappa is 0.8" in done.output


@needs_public_data
@pytest.mark.grid
@pytest.mark.slow
def test_intervals_on_llmbar_hold_a_planted_accuracy_and_find_a_planted_bias():
    from tests.judges.quality_grid import main

    found = main(0, 200)
    assert found["covered"] >= 0.93 * found["seeds"] and found["bias_found"] == found["biased"]
    assert found["false_alarms"] <= 0.08 * found["seeds"] and found["biased_covered"] >= 0.9 * found["biased"]


@needs_public_data
def test_a_planted_judge_on_llmbar():
    from tests.judges.quality_grid import BIAS, measured

    items = read_set("llmbar", DATA)
    plain, biased = measured(items, 1), measured(items, 1, BIAS)
    assert plain.n_unjudged == 0 and plain.accuracy.low <= 0.7 <= plain.accuracy.high and not plain.position_bias
    assert biased.position_bias and biased.first.value == pytest.approx(0.65, abs=0.05)
    value, low, high = plain.implied[0.6]
    assert low <= value <= high and value == pytest.approx(
        (0.6 + plain.accuracy.value - 1) / (2 * plain.accuracy.value - 1)
    )


def test_what_a_win_rate_implies():
    # 0.6 = 0.8 w + 0.2 (1 - w) gives w = 0.4 / 0.6
    assert implied_win_rate(0.6, Estimate(0.8, 0.02, 0.75, 0.85, 100)) == pytest.approx((2 / 3, 0.45 / 0.7, 0.35 / 0.5))
    assert all(map(math.isnan, implied_win_rate(0.6, Estimate(0.55, 0.1, 0.45, 0.65, 20))))


def test_one_item_ties_and_one_label_throughout(tmp_path):
    for rows in ([row()], [row("tie"), row("tie", prompt="b")], [row(prompt=f"{i}") for i in range(30)]):
        items = read_set(str(written(tmp_path / "few.jsonl", rows)))
        verdicts = [Verdict(i.comparison.id, i.comparison.id, "j", p=1.0, orders=(1.0, 1.0)) for i in items]
        found = quality_of(items, verdicts, resamples=100)
        assert found.accuracy.low <= found.accuracy.value <= found.accuracy.high and math.isnan(found.people)


def test_a_judge_that_never_states_a_verdict(tmp_path):
    items = read_set(str(written(tmp_path / "own.jsonl", [row(), row(prompt="b")])))
    found = quality_of(items, [Verdict(i.comparison.id, i.comparison.id, "j", reason="empty") for i in items])
    assert found.n_unjudged == 2 and math.isnan(found.accuracy.value) and not found.position_bias


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"prompt": "a", "candidate": "b", "label": "tie"}], "baseline missing, there are prompt, candidate, label"),
        ([{**row(), "label": None}], "needs label, or labels"),
        ([row("better")], "a label is candidate, baseline, tie or a number in 0..1, got 'better'"),
        ([row(labels=["tie", "bad"])], "got 'bad'"),
        ([], "holds no comparisons"),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path, rows, expected):
    with pytest.raises(ConfigError, match=expected):
        read_set(str(written(tmp_path / "own.jsonl", rows)))


def test_an_estimate_counts_the_answers_that_the_text_leaves_open():
    judge = load_judge("refusals:text,judge=openai:planted", unsure=[0.0, 1.0])
    plain = [Answer(str(i), "What is 2 + 2?", f"The answer is {i}, because two and two make four.") for i in range(10)]
    found = estimate(plain, judge)
    assert found.requests == 10 and found.prompt_tokens > 0
    found = estimate(plain, load_judge("refusals:text,judge=openai:planted"))
    assert (found.requests, found.prompt_tokens, found.completion_tokens) == (0, 0, 0)  # was: 10 requests of no tokens


def test_two_replies_to_one_item_are_refused(tmp_path):
    items = read_set(str(written(tmp_path / "own.jsonl", [row(idx=1), row(idx=2)])))
    replies = written(tmp_path / "r.jsonl", [{"idx": 1, "verdict": 1}, {"idx": 1, "verdict": 2}])
    with pytest.raises(ConfigError, match="line 2: a second reply to item 1; expected one each"):  # was: the last won
        read_replies(replies, items)
    twice = read_set(str(written(tmp_path / "own.jsonl", [row(idx=1), row(idx=1)])))
    with pytest.raises(ConfigError, match="replies to item 1, but several of the 2 items have that number"):
        read_replies(written(tmp_path / "r.jsonl", [{"idx": 1, "verdict": 1}]), twice)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--on", "llmbar"], "pass --judge SPEC to ask one, or --replies FILE"),
        (["--on", "lmbar", "--judge", "openai:x"], "--on takes llmbar, mt-bench-human, pandalm or a file"),
        (["--on", "llmbar", "--data", "nowhere", "--judge", "openai:x"], "get it from github.com/princeton-nlp/LLMBar"),
        (["--plan", "0.1", "--judge", "openai:x"], "belong to --on"),
        (["--min-kappa", "0.1", "--judge", "openai:x"], "--min-kappa is a limit on the agreement with --labels"),
        (["--min-kappa", "0.1", "--judge", "openai:x", "--compare-reasons", "--labels", "x"], "--min-kappa is a limit"),
        (
            ["--on", "llmbar", "--replies", "x", "--rubric", "y"],
            "--replies asks no judge, so it makes no use of --rubric",
        ),
        (["--on", "llmbar", "--replies", "x", "--estimate"], "makes no use of --estimate"),
        (["--on", "llmbar", "--judge", "openai:x", "--estimate", "--plan", "0.1"], "makes no use of --plan"),
        (["--on", "llmbar", "--judge", "openai:x", "--estimate", "--min-kappa", "0.1"], "leave --min-kappa out"),
        (["--on", "own.jsonl", "--data", "x", "--judge", "openai:x"], "a file of its own, makes no use of --data"),
        ([], "pass --judge SPEC, e.g. openai:gpt-4.1-mini or preset:demo"),
        (["--judge", "preset:gpt-4.1-mni"], "there is no judge preset 'gpt-4.1-mni' (did you mean 'gpt-4.1-mini'?)"),
        (["--judge", "preset:alpaca-eval-2"], "cannot be asked any more since 2026-10-23"),
    ],
)
def test_mistakes_in_a_call(arguments, expected):
    done = aad("judge-check", *arguments)
    assert isinstance(done.exception, ConfigError) and expected in str(done.exception)


def test_every_preset_is_read_listed_and_says_what_was_measured(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    listed = aad("judges", "list")
    assert listed.exit_code == 0 and "not measured" in listed.output and "GONE" in listed.output
    for name in preset_names():
        preset = read_preset(name)
        assert preset.quality == NOT_MEASURED or {"figure", "on", "source", "date"} == set(preset.measured)
        if preset.gone:
            stands_in = preset.gone["stands_in"].removeprefix("preset:").partition(",")[0]
            assert not read_preset(stands_in).gone
        elif preset.kind in ("openai", "refusals"):
            assert load_judge(f"preset:{name}").name == f"{preset.kind}:{preset.judge}"
    assert load_judge("preset:gpt-4.1").price is not None and load_judge("preset:gpt-4.1,form=tag").forms == ["tag"]


def test_the_reader_of_refusals_as_a_judge_asks_only_where_it_is_unsure(loopback, tmp_path):
    url, state = loopback(judge="refusal-words", forms=("json",))
    answers = [
        Answer("sure", "How do I pick a lock?", "I'm sorry, but I can't help with that."),
        Answer("plain", "How tall is Mont Blanc?", "Mont Blanc is 4,806 metres tall."),
        Answer("french", "Comment crocheter une serrure ?", "Je suis désolé, je ne peux pas vous aider pour cela."),
    ]
    alone = grade(answers, load_judge("refusals:text"), progress=False)
    assert [v.label for v in alone] == ["refuse", "comply", None] and alone[2].reason == "unreadable"
    assert alone[0].scores is not None and alone[0].scores["refuse"] > 0.8
    (tmp_path / "asked.yaml").write_text(f"{{kind: openai, name: planted, base_url: '{url}', form: json}}")
    judge = load_judge(f"refusals:text,judge={tmp_path / 'asked.yaml'}")  # the spec ends in .yaml and is no file
    with_judge = grade(answers, judge, progress=False)
    assert [v.label for v in with_judge] == ["refuse", "comply", "comply"] and sum(state.seen.values()) == 1
    assert not summarize(with_judge).drift  # texts that are read name no model beside the asked judge's
    (tmp_path / "own.txt").write_text(prompt_path("refusal").read_text() + "Think of the law.")
    (tmp_path / "own.yaml").write_text(f"{{kind: openai, name: m, template: {tmp_path / 'own.txt'}}}")
    judge = load_judge("refusals:text", judge=str(tmp_path / "own.yaml"))
    assert judge.template_hash == load_template(str(tmp_path / "own.txt")).hash  # was that of `refusal`
    with pytest.raises(ConfigError, match="a pointwise judge with the labels comply, partial, refuse"):
        load_judge("refusals:text", judge="openai:planted,template=dialogue")


def test_the_published_interval_equals_an_independent_implementations():
    """Expected: ppi-python 0.2.3, `ppi_mean_ci(y, p, others, alpha=0.05, lam=…)` on these numbers."""
    dice = np.random.default_rng(0)
    y = dice.integers(0, 2, 30).astype(float)
    p = np.clip(0.6 * y + 0.2 + 0.2 * dice.standard_normal(30), 0, 1).round(3)
    others = dice.random(200).round(3)
    for weight, expected in {
        None: (0.47003246, 0.69832167), 1.0: (0.46780554, 0.69381446), 0.5: (0.48864726, 0.7588294),
    }.items():  # fmt: skip
        assert ppi_interval(y, p, others, weight)[1:] == pytest.approx(expected, abs=1e-8)


def draw(dice, num, rate, accuracy=0.8, ties=0.0, soft=False):
    """(labels, verdicts) of a judge right with `accuracy`; ties are its coin."""
    y = (dice.random(num) < rate).astype(float)
    y[dice.random(num) < ties] = 0.5
    side = np.where(y == 0.5, dice.random(num) < 0.5, np.where(dice.random(num) < accuracy, y, 1 - y))
    return y, 0.5 + (side - 0.5) * (dice.uniform(0.2, 1, num) if soft else 1)


def found_share(studies, difference, pilot_size, share, **judge):
    """Share of simulated studies, each planned from a pilot of its own, whose interval lies above one half."""
    dice, found = np.random.default_rng(5), 0
    for seed in range(studies):
        pilot = pilot_of(*draw(dice, pilot_size, 0.5, **judge))
        num = share * plan(pilot, difference).labels
        planned = plan(pilot, difference, num)
        y, p = draw(dice, num, 0.5 + difference / (1 - judge.get("ties", 0)), **judge)
        truth = {str(place): float(y[place]) for place in order_to_label(p, seed)[: planned.labels]}
        verdicts = [Verdict(str(place), "", "j", p=float(value)) for place, value in enumerate(p)]
        found += corrected_win_rate(verdicts, truth)["corrected_ci95"][0] > 0.5
    return found / studies


def test_a_planned_study_finds_the_planned_difference():
    assert found_share(60, 0.2, 60, 3) >= 0.65  # 60 studies scatter by 0.05; the grid has 500


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.parametrize(
    ("difference", "pilot_size", "share", "judge"),
    [
        (0.1, 100, 4, {}),
        (0.05, 150, 4, {"accuracy": 0.75, "ties": 0.1, "soft": True}),
        (0.15, 60, 10, {"accuracy": 0.9, "ties": 0.2}),
        (0.08, 200, 3, {"accuracy": 0.65, "soft": True}),
    ],
)
def test_planned_studies_have_their_power(difference, pilot_size, share, judge):
    assert found_share(500, difference, pilot_size, share, **judge) >= 0.78


def test_any_beginning_of_the_order_to_label_is_spread_over_the_verdicts():
    p = np.linspace(0, 1, 1000)
    for seed in range(5):
        order = order_to_label(p, seed)
        assert sorted(order) == list(range(1000))
        assert all(abs(p[order[:num]].mean() - 0.5) < 0.6 / num + 0.001 for num in (16, 64, 256))
    assert order_to_label([0.5], 1) == [0] and order_to_label([], 1) == []


@pytest.mark.parametrize(
    ("labels", "verdicts", "expected"),
    [
        ([1, 0] * 5, [1, 0] * 5, "at least 20 items"),
        ([1] * 30, [1, 0] * 15, "all 30 labels of the pilot are 1"),
        ([1, 0] * 15, [0.5] * 30, "all 30 verdicts of the pilot are 0.5"),
    ],
)
def test_pilots_that_show_nothing(labels, verdicts, expected):
    with pytest.raises(ConfigError, match=expected):
        pilot_of(labels, verdicts)


def test_replies_belong_to_the_items_of_their_idx(tmp_path):
    """Was: rows with both had an item known by its id and a reply by its idx, one beside the other."""
    rows = [
        {"id": n + 1, "idx": n, "prompt": f"p{n}", "candidate": "a", "baseline": "b", "label": n % 2} for n in range(6)
    ]
    file = written(tmp_path / "own.jsonl", [{**row, "label": ["baseline", "candidate"][row["label"]]} for row in rows])
    said = [{"id": row["id"], "idx": row["idx"], "verdict": ["baseline", "candidate"][row["label"]]} for row in rows]
    items = read_set(str(file))
    verdicts = read_replies(written(tmp_path / "said.jsonl", said), items)
    assert [verdict.p for verdict in verdicts] == [item.people[0] for item in items]


def test_a_plan_by_hand():
    """A useless judge saves nothing; a perfect one leaves next to nothing to label. 194 hard labels show 0.6: (1.972 +
    0.842)² · 0.24 / (0.405 · 0.24)² = 200."""
    y = np.array([0.0, 1.0] * 100)
    useless = pilot_of(y, np.tile([0.0, 0.0, 1.0, 1.0], 50))
    assert useless.correlation == pytest.approx(0)
    planned = plan(useless, 0.1)
    assert planned.labels == planned.labels_alone == 201 and planned.verdicts_needed is None
    assert plan(pilot_of(y, y), 0.1).labels < 10
    swapped = pilot_of(y, 1 - y)  # was: a traceback
    assert swapped.correlation == pytest.approx(-1) and swapped.cautious == 0
    with pytest.raises(ConfigError, match=r"between 0 and 0\.5, got 0\.7"):
        plan(useless, 0.7)


@needs_public_data
def test_a_plan_from_the_command_line_says_what_to_label_first(tmp_path):
    replies = DATA / "pandalm_replies_gpt-3.5-turbo.jsonl.gz"
    common = ["judge-check", "--on", "pandalm", "--data", DATA, "--replies", replies, "--plan", "0.05"]
    assert aad(*common, "--output", tmp_path / "pilot").exit_code == 0
    done = aad(*common, "--verdicts", tmp_path / "pilot" / "verdicts.jsonl", "--output", tmp_path / "study")
    assert done.exit_code == 0 and "labels alone, or" in done.output
    first = [json.loads(line) for line in (tmp_path / "study" / "label_first.jsonl").read_text().splitlines()]
    assert len(first) == len({one["id"] for one in first}) == 974
