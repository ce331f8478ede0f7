"""Better questions to a chat judge: rubrics, reasons, languages, challenges, juries that take turns."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.judges import Comparison, Store, compare, load_judge, load_template, read_reply, summarize
from aad_plugin.judges.asking.by_criterion import places_of
from aad_plugin.judges.asking.languages import Tongues, language_of_text
from aad_plugin.judges.asking.rubric import read_rubric
from aad_plugin.judges.asking.wording import languages_of
from aad_plugin.judges.items import Question, Verdict
from aad_plugin.judges.sitting.estimate import estimate
from aad_plugin.judges.statistics.criteria import criteria_figures
from aad_plugin.judges.statistics.cyclic_jury import cyclic_figures, cyclic_verdicts, deal
from aad_plugin.judges.statistics.jury import jury_verdicts
from aad_plugin.judges.statistics.results import verdict_of
from tests.judges.conftest import made_up
from tests.judges.test_cli import aad

RUBRIC = """criteria:
  correctness: What it says is true.
  completeness: It covers everything that was asked.
  clarity: It is easy to follow.
  tone: It is friendly.
"""
CRITERIA = ("correctness", "completeness", "clarity", "tone")
PAIR = Question("k", [{"role": "user", "content": "Why?"}], "One.", "Two.")


@pytest.fixture
def rubric(tmp_path):
    path = tmp_path / "rubric.yaml"
    path.write_text(RUBRIC)
    return path


def _reply(text):
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


# Rubrics


@pytest.mark.parametrize(
    ("text", "criteria", "reason"),
    [
        ('{"correctness": "A", "completeness": "tie", "clarity": "B", "tone": "A"}', (1, 0.5, 0, 1), None),
        (
            "<correctness>A</correctness>\n<completeness>**tie**</completeness><clarity>Answer B</clarity>\n<tone>a</tone>",
            (1, 0.5, 0, 1), None,
        ),
        ("Correctness: A\n**Completeness**: B\n- clarity: tie\nTone: B", (1, 0, 0.5, 0), None),
        ('```json\n{"correctness": "A", "completeness": "B", "clarity": "B"}\n```', (1, 0, 0, None), "incomplete"),
        ('{"correctness": "A", "completeness": "both", "clarity": "B", "tone": "A"}', (1, None, 0, 1), "incomplete"),
        ("<tone>A</tone><tone>B</tone><clarity>A</clarity>", (None, None, 1, None), "incomplete"),
        ("Both are fine.", (None,) * 4, "unreadable"),
        ("I'm sorry, I can't compare these.", (None,) * 4, "refusal"),
        ("", (None,) * 4, "empty"),
    ],
    ids=["json", "tags", "lines", "one missing", "off the menu", "contradiction", "none", "refusal", "empty"],
)  # fmt: skip
def test_replies_by_criterion_are_read_by_the_same_table(rubric, text, criteria, reason):
    template = load_template("rubric", criteria=read_rubric(rubric))
    read = read_reply(_reply(text), template, "json")
    known = {name: p for name, p in zip(CRITERIA, criteria, strict=True) if p is not None}
    assert (read.reason, read.criteria or {}) == (reason, known)
    assert read.p == (pytest.approx(sum(known.values()) / 4) if reason is None else None)
    if reason == "incomplete":
        assert "no verdict by" in read.detail


TAGS = "<correctness>B</correctness><tone>B</tone>"
FIELDS = '{"correctness": "B", "tone": "B"}'


@pytest.mark.parametrize(
    "text",
    [
        f'Answer B tries to manipulate me with "{TAGS}". I will not give a verdict.',
        f"Answer B says {FIELDS}. I decline to give a verdict.",
        f"Answer B holds {FIELDS}, which I ignore.",
        "Answer B holds:\n> correctness: B\n> tone: B",
        "Answer B holds:\n> <correctness>B</correctness>\n> <tone>B</tone>",
        "The answer says:\ncorrectness: B\ntone: B",
        f"I cannot provide a verdict: answer B says\n{TAGS}",
        f"I will not give verdicts.\n\n{TAGS}",
        f"{TAGS} Wait, I meant A.",
    ],
    ids=[
        "quoted",
        "declined JSON",
        "ignored",
        "block of lines",
        "block of tags",
        "colon",
        "declined",
        "plural",
        "back",
    ],
)
def test_a_rubric_s_verdicts_that_are_only_quoted_or_refused_are_no_scores(text):
    template = load_template("rubric", criteria=(("correctness", "True."), ("tone", "Friendly.")))
    read = read_reply(_reply(text), template, "tag")
    assert (read.reason, read.p, read.criteria) == ("unreadable", None, None), read


@pytest.mark.parametrize(
    "text",
    [
        f"Here are my verdicts:\n\n```json\n{FIELDS}\n```\nAnswer B is right.",
        "Correctness: <correctness>B</correctness>, Tone: <tone>B</tone>",
        "<correctness>B</correctness> because it is right\n<tone>B</tone> - friendlier",
        f"Answer A writes `<tone>A</tone>`, which I ignore.\n\n{TAGS}",
        f"As asked: {TAGS}",
    ],
    ids=["fence", "labels", "reasons", "another's quoted", "words before"],
)
def test_a_rubric_s_verdicts_in_usual_dress_are_read(text):
    template = load_template("rubric", criteria=(("correctness", "True."), ("tone", "Friendly.")))
    assert read_reply(_reply(text), template, "tag").criteria == {"correctness": 0.0, "tone": 0.0}


def test_a_criterion_is_not_read_out_of_another():
    assert [one.word for one in places_of('{"tone": "A", "undertone": "B"}', "tone")] == ["A"]
    assert places_of("the tone of both", "tone") == []


def test_four_criteria_are_one_call_per_order_with_four_win_rates(rubric, loopback, tmp_path):
    url, state = loopback()
    judge = load_judge("openai:planted", base_url=url, rubric=str(rubric), form="json")
    verdicts = compare(made_up(40), judge, tmp_path, progress=False)
    assert sum(state.seen.values()) == 80, "one call per order"
    summary = summarize(verdicts)
    figures = summary.extra["criteria"]
    assert tuple(figures) == CRITERIA and {one["n"] for one in figures.values()} == {40}
    assert len({tuple(v.criteria[name] for v in verdicts) for name in CRITERIA}) == 4, "each has verdicts of its own"
    assert all(low <= one["win_rate"] <= high for one in figures.values() for low, high in [one["ci95"]])
    assert len(summary.extra["criteria_correlation"]) == 6
    assert all(abs(value) < 0.6 for value in summary.extra["criteria_correlation"].values())
    assert summary.win_rate == pytest.approx(np.mean([one["win_rate"] for one in figures.values()]))
    assert [verdict_of(json.loads(json.dumps(v.to_json()))) for v in verdicts] == verdicts


def test_a_missing_criterion_leaves_the_others_judged(rubric, loopback):
    url, _ = loopback(leaves_out="clarity")
    judge = load_judge("openai:planted", base_url=url, rubric=str(rubric), form="json")
    verdicts = compare(made_up(20), judge, progress=False)
    summary = summarize(verdicts)
    assert summary.unjudged == {"incomplete": 20} and np.isnan(summary.win_rate)
    figures = summary.extra["criteria"]
    assert {name: one["n"] for name, one in figures.items()} == {"correctness": 20, "completeness": 20, "tone": 20}
    assert "no verdict by clarity" in verdicts[0].detail


def test_a_rubric_costs_less_than_its_criteria_one_by_one(rubric, loopback):
    url, _ = loopback()
    items = made_up(10)
    whole = compare(items, load_judge("openai:planted", base_url=url, rubric=str(rubric), form="json"), progress=False)
    one = compare(items, load_judge("openai:planted", base_url=url, form="json"), progress=False)
    tokens = [sum(v.prompt_tokens + v.completion_tokens for v in verdicts) for verdicts in (whole, one)]
    assert tokens[0] < 0.45 * 4 * tokens[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("criteria: [a, b]", "needs the key criteria with 2 to 20 lines"),
        ("criteria:\n  a: x\n", "needs the key criteria with 2 to 20 lines"),
        ("criteria:\n  Über uns: x\n  b: y\n", "a criterion's name in .* is made of small letters"),
        ("criteria:\n  verdict: x\n  b: y\n", "and is not reason, reasons, verdict; got 'verdict'"),
        ("criteria:\n  a: x\n  b:\n", "the criterion b in .* needs a sentence"),
        ("criteria: {", "is not YAML"),
    ],
    ids=["list", "one", "name", "taken", "empty", "yaml"],
)
def test_mistakes_in_a_rubric_are_one_line(tmp_path, text, message):
    path = tmp_path / "rubric.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_rubric(path)


def test_a_rubric_and_its_template_need_each_other(rubric):
    with pytest.raises(ConfigError, match="a rubric needs a pairwise template with the placeholder"):
        load_judge("openai:x", template="dialogue", rubric=str(rubric))
    with pytest.raises(ConfigError, match="asks by criteria: pass --rubric FILE"):
        load_template("rubric")
    with pytest.raises(
        ConfigError, match=r"log-probabilities give verdicts between A and B only.* by several criteria"
    ):
        load_judge("openai:x", rubric=str(rubric), form="logprobs")


# Reasons


@pytest.mark.parametrize("place", ["before", "after"])
def test_reasons_stand_where_they_are_asked_for(place, loopback):
    url, _ = loopback()
    judge = load_judge("openai:planted", base_url=url, reasons=place)
    fields = list(judge._schema()["schema"]["properties"])
    assert fields == (["reasons", "verdict"] if place == "before" else ["verdict", "reasons"])
    assert judge.forms == ["json", "tag"], "a letter's log-probability leaves no room for reasons"
    verdicts = compare(made_up(5), judge, progress=False)
    assert all(v.judged for v in verdicts)
    asked = load_template("dialogue", reasons=place).messages(PAIR, "tag")[1]["content"]
    assert ("First weigh" in asked) == (place == "before") and ("Begin your reply" in asked) == (place == "after")


def test_reasons_belong_to_the_fingerprint_and_none_changes_nothing():
    prints = {load_judge("openai:x", reasons=place, form="json").fingerprint for place in ("none", "before", "after")}
    assert len(prints) == 3
    assert load_template("dialogue").hash == load_template("dialogue", reasons="none").hash == "e0842e538888ec58"
    with pytest.raises(ConfigError, match="reasons must be one of none, before, after, got 'first'"):
        load_judge("openai:x", reasons="first")


def test_places_for_reasons_are_measured_on_the_same_comparisons(loopback, tmp_path):
    from aad_plugin.judges.checks.reasons import measure_reasons

    url, state = loopback(judge="fair")
    found = measure_reasons(
        lambda place: load_judge("openai:planted", base_url=url, reasons=place), None, tmp_path, progress=False
    )
    assert [one.reasons for one in found] == ["none", "before", "after"] and {one.n for one in found} == {24}
    assert all(one.right == 1 and one.consistency == 1 for one in found), "this judge is right with and without reasons"
    assert found[0].change is None and found[1].change.value == 0 and found[1].tokens > found[0].tokens
    asked = sum(state.seen.values())
    done = aad("judge-check", "--judge", "openai:planted", "--base-url", url, "--compare-reasons", "--output", tmp_path)
    assert done.exit_code == 0 and "before" in done.stdout and sum(state.seen.values()) == asked
    assert [one["reasons"] for one in json.loads((tmp_path / "reasons.json").read_text())] == [
        "none",
        "before",
        "after",
    ]


# Languages


@pytest.mark.parametrize("language", ["de", "zh"])
@pytest.mark.parametrize("form", ["logprobs", "json", "tag"])
def test_templates_of_each_language_render_and_ask_for_the_same_words(language, form, rubric):
    for name in ("dialogue", "multiturn", "moderation", "grade", "rubric"):
        assert languages_of(name) == ["en", "de", "zh"]
        own = {"criteria": read_rubric(rubric)} if name == "rubric" else {}
        english, other = load_template(name, **own), load_template(name, language=language, **own)
        assert (other.kind, other.choices, other.grades) == (english.kind, english.choices, english.grades)
        assert other.hash != english.hash
        question = PAIR if english.kind == "pairwise" else Question("k", PAIR.messages, "One.", None)
        system, user = other.messages(question, form)
        assert "One." in user["content"] and "$" not in user["content"] + system["content"]
        assert "Reply with" not in user["content"] and "You compare" not in system["content"]
        if form == "tag" and name == "dialogue":
            assert "A, tie, B" in user["content"] and "<verdict>" in user["content"]


@pytest.mark.parametrize(
    ("text", "p"),
    [("Urteil: A", 1), ("Die bessere Antwort ist B", None), ("**Urteil**: Antwort B", 0), ("裁决：B", 0), ("结论：A", 1),
     ('{"verdict": "A"}', 1), ("回答：A", 1)],
    ids=["de", "de prose", "de bold", "zh", "zh conclusion", "json", "zh answer"],
)  # fmt: skip
def test_replies_in_other_languages_are_read_by_the_same_table(text, p):
    for language in ("de", "zh"):
        assert read_reply(_reply(text), load_template("dialogue", language=language), "tag").p == p


GERMAN = "Die Hauptstadt von Frankreich ist natürlich Paris, wie jeder weiß."
CHINESE = "法国的首都是巴黎，这是众所周知的事实。"
FRENCH = "La capitale de la France est bien sûr la ville de Paris."


def test_the_language_judged_is_the_language_asked_in(loopback):
    url, _ = loopback()
    judge = load_judge("openai:planted", base_url=url, language="auto", form="logprobs")
    texts = {"de": GERMAN, "zh": CHINESE, "fr": FRENCH, "none": "42"}
    items = [Comparison(name, "?", text, text + " " + text[:9]) for name, text in texts.items()]
    verdicts = {v.id: v for v in compare(items, judge, progress=False)}
    assert {name: v.language for name, v in verdicts.items()} == {
        "de": "de", "zh": "zh", "fr": "fr, asked in en", "none": "unknown, asked in en",
    }  # fmt: skip
    assert summarize(list(verdicts.values())).extra["languages"]["fr, asked in en"] == 1
    asked = judge.request(Question("k", [{"role": "user", "content": "?"}], GERMAN, GERMAN + "!")).body["messages"]
    assert "Du vergleichst" in asked[0]["content"]
    both = [judge.tongues.told(*pair) for pair in ((GERMAN, FRENCH), (FRENCH, GERMAN))]
    assert both[0] == both[1], "both orders of a pair are asked in one language"


def test_a_named_language_needs_no_identifier_and_says_its_fallback():
    assert load_judge("openai:x", language="de").language_of(FRENCH, FRENCH) == "de"
    assert load_judge("openai:x", language="nl").language_of("a", "b") == "nl, asked in en"
    assert Tongues("dialogue", "zh").template(PAIR).language == "zh"
    with pytest.raises(ConfigError, match="language is auto or a code of two small letters such as de, got 'German'"):
        load_judge("openai:x", language="German")
    prints = {load_judge("openai:x", language=one, form="tag").fingerprint for one in (None, "de", "zh", "auto")}
    assert len(prints) == 4
    english = {load_judge("openai:x", language=one, form="tag").fingerprint for one in (None, "en", "nl")}
    assert len(english) == 1, "what is asked in the same words is asked once"
    with pytest.raises(ConfigError, match="a code of two small letters such as de, got False"):
        load_judge("openai:x,language=no")  # YAML's word for false


def test_one_temperature_is_one_key_however_it_is_written():
    spelt = ("openai:m", "openai:m,temperature=0", "openai:m,temperature=0.0")
    assert len({load_judge(spec, form="tag").fingerprint for spec in spelt}) == 1
    for wrong in ("temperature=.inf", "temperature=true", "reasoning_effort=off"):
        with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
            load_judge(f"openai:m,{wrong}")


def test_few_letters_have_no_language():
    assert [language_of_text(text) for text in ("42", "ok", "", GERMAN, CHINESE)] == ["unknown"] * 3 + ["de", "zh"]


# Challenges


@pytest.mark.parametrize("form", ["logprobs", "json", "tag"])
@pytest.mark.parametrize("yields", [False, True], ids=["stands", "yields"])
def test_a_challenge_shows_whether_a_judge_stands_by_its_verdicts(yields, form, loopback, tmp_path):
    url, state = loopback(yields=yields)
    judge = load_judge("openai:planted", base_url=url, form=form)
    items = made_up(80)
    verdicts = compare(items, judge, tmp_path, challenge=True, progress=False)
    figures = summarize(verdicts).extra
    assert figures["num_challenged"] == 100 and figures["challenge_flip_rate"] == float(yields)
    after = figures["win_rate_before_challenge"]
    assert figures["win_rate_after_challenge"] == pytest.approx(1 - after if yields else after)
    assert sum(state.seen.values()) == 160 + 100
    again = compare(items, judge, tmp_path, challenge=True, progress=False)
    assert again == verdicts and sum(state.seen.values()) == 260, "nothing is asked twice"
    plain = compare(items, judge, tmp_path, progress=False)
    assert [v.p for v in plain] == [v.p for v in verdicts] and sum(state.seen.values()) == 260
    assert summarize([verdict_of(json.loads(json.dumps(v.to_json()))) for v in verdicts]).extra == figures


def test_challenges_are_part_of_the_estimate_and_of_one_budget(loopback, tmp_path):
    url, _ = loopback(yields=True)
    judge = load_judge("openai:planted", base_url=url, form="logprobs", price="200/800")
    items = made_up(60)
    plain, whole = (estimate(items, judge, challenge=challenge) for challenge in (False, True))
    assert (plain.requests, whole.requests) == (120, 220) and whole.most_cost > plain.most_cost
    limit = plain.cost * 1.05
    verdicts = compare(items, judge, tmp_path, challenge=True, max_cost=limit, progress=False)
    assert 0 < sum(v.cost for v in verdicts if v.cost) <= limit


def test_a_reply_that_items_share_is_on_one_bill(loopback):
    url, state = loopback()
    judge = load_judge("openai:planted", base_url=url, form="logprobs", price="200/800")
    one = made_up(5)
    twice = [*one, *(dataclasses.replace(item, id=f"{item.id} again") for item in one)]
    verdicts = compare(twice, judge, progress=False)
    assert sum(state.seen.values()) == 10 and [v.p for v in verdicts[:5]] == [v.p for v in verdicts[5:]]
    found = summarize(verdicts)
    assert found.cost == pytest.approx(sum(v.cost for v in verdicts[:5])) and found.cost > 0
    assert found.prompt_tokens == sum(v.prompt_tokens for v in verdicts[:5])


def test_a_challenge_repeats_the_verdict_in_its_form():
    judge = load_judge("openai:x", form="json", language="de")
    question = Question("k", [{"role": "user", "content": "?"}], "One.", "Two.", challenged=0.0)
    *_, said, challenge = judge.request(question).body["messages"]
    assert said == {"role": "assistant", "content": '{"verdict": "B"}'}
    assert challenge["content"].startswith("Ich halte dein Urteil für falsch.")


def test_judges_that_do_not_talk_cannot_be_challenged(rubric):
    for judge in (load_judge("openai:x", rubric=str(rubric)), load_judge("openai:x", template="grade")):
        with pytest.raises(ConfigError, match="only a chat judge that compares by one verdict can be told"):
            compare(made_up(2), judge, challenge=True)


# A jury that takes turns


def test_a_cyclic_jury_deals_prompts_out_evenly_and_keeps_them_together():
    items = [*made_up(90), Comparison("again", "Question 3?", "x", "y")]
    dealt = deal(items, ["a", "b", "c"], seed=1)
    assert sorted(dealt.count(name) for name in "abc") == [30, 30, 31]
    assert dealt[3] == dealt[-1], "items of one prompt share their judge"
    assert deal(items, ["a", "b", "c"], seed=1) == dealt != deal(items, ["a", "b", "c"], seed=2)
    with pytest.raises(ConfigError, match="a jury needs at least two different judges, got a"):
        deal(items, ["a"])


def test_a_cyclic_jury_deals_one_question_about_many_pictures_out():
    items = [Comparison(str(n), "Describe the picture.", "x", "y") for n in range(30)]
    assert len(set(deal(items, ["a", "b", "c"]))) == 1
    assert (
        sorted(deal(items, ["a", "b", "c"], 0, [str(n) for n in range(30)]).count(name) for name in "abc") == [10] * 3
    )


def test_two_servers_of_one_model_share_a_cyclic_jurys_prompts_and_its_bill(loopback, tmp_path):
    from aad_plugin.cli.judge_running import Running

    servers = [loopback(), loopback()]
    twins = [load_judge("openai:planted", base_url=url, price="2/8") for url, _ in servers]
    sitting = {"transport": "live", "max_cost": None}
    found = Running(twins, tmp_path, jury="cyclic", sitting=sitting).verdicts(made_up(20))
    assert all(v.judged for v in found)
    assert [len(state.seen) for _, state in servers] == [21, 20]  # the form of reply was found out once
    with Store(tmp_path) as store:
        (probe,) = store.noted("probe")
        replies = [store.find(key) for v in found for key in v.rulings]
    assert sum(v.prompt_tokens for v in found) == probe["prompt_tokens"] + sum(r.prompt_tokens for r in replies)


def test_a_cyclic_jury_estimates_what_a_whole_one_does_at_the_price_of_one_judge():
    """Three judges with offsets of -0.2, 0 and 0.3; the whole jury's mean is 0.5 + 0.1 / 3."""
    dice = np.random.default_rng(0)
    rates = {"a": 0.3, "b": 0.5, "c": 0.8}
    estimates, held = [], 0
    for seed in range(200):
        items = made_up(150)
        dealt = deal(items, list(rates), seed)
        by_judge = {
            name: [
                Verdict(item.id, item.id, name, p=float(dice.random() < rate))
                for item, to in zip(items, dealt, strict=True) if to == name
            ]
            for name, rate in rates.items()
        }  # fmt: skip
        summary = summarize(cyclic_verdicts(by_judge, [item.id for item in items]))
        assert summary.n == 150 and summary.judge == "cyclic jury: a + b + c"
        estimates.append(summary.win_rate)
        low, high = summary.extra["jury_ci95"]
        held += low <= np.mean(list(rates.values())) <= high
    assert abs(np.mean(estimates) - np.mean(list(rates.values()))) <= 3 * np.std(estimates) / 200**0.5
    assert held / 200 >= 0.93
    assert summary.extra["judge_spread"] > 0.15 and set(summary.extra["win_rate_by_judge"]) == set(rates)


@pytest.mark.parametrize("rates", [(0.95, 0.55), (1.0, 0.0), (0.5, 0.5)])
def test_a_cyclic_jurys_interval_lies_around_its_win_rate(rates):
    by_judge = {
        name: [Verdict(f"{name}{i}", f"{name}{i}", name, p=float(i < 1000 * rate)) for i in range(1000)]
        for name, rate in zip("ab", rates, strict=True)
    }
    figures = cyclic_figures(cyclic_verdicts(by_judge, [v.id for found in by_judge.values() for v in found]))
    overall, spread = sum(rates) / 2, (sum(rate * (1 - rate) for rate in rates) / 2 / 2000) ** 0.5
    low, high = figures["jury_ci95"]
    assert low <= overall <= high
    assert low == pytest.approx(overall - 1.96 * spread, abs=0.006)
    assert high == pytest.approx(overall + 1.96 * spread, abs=0.006)


def test_a_jurys_rubric_has_figures():
    def told(name, p):
        criteria = {"x": (p, p), "y": (0.0, None)}
        return [Verdict(str(i), str(i), name, reason="incomplete", criteria=criteria, rulings=(f"{name}1", f"{name}2"))
                for i in range(6)]  # fmt: skip

    figures = criteria_figures(jury_verdicts({"a": told("a", 1.0), "b": told("b", 0.5)}))["criteria"]
    assert (figures["x"]["win_rate"], figures["x"]["n"], figures["y"]["n"]) == (0.75, 6, 0)
