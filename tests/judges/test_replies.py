"""What a reply says, and what it does not: one row per kind of reply."""

from __future__ import annotations

import json
import math

import pytest

from aad_plugin.judges.asking.replies import REASONS, read_reply
from aad_plugin.judges.asking.requests import usage_of
from aad_plugin.judges.asking.templates import load_template
from aad_plugin.texts.thinking import answer_after_thinking, as_decoded, opened_by
from tests.judges.reply_table import PANDALM, ROWS, RUBRIC_QUOTED, RUBRIC_STATED, real_replies
from tests.public_data import needs_public_data

PAIR = load_template("dialogue")
GRADE = load_template("grade")
REFUSAL = load_template("refusal")


def reply(content, finish="stop", logprobs=None, **message):
    choice = {"message": {"content": content, **message}, "finish_reason": finish, "logprobs": logprobs}
    return {"choices": [choice]}


def letters(**p):
    tops = [{"token": token.replace("_", " "), "logprob": math.log(q)} for token, q in p.items()]
    return {"content": [{**tops[0], "top_logprobs": tops}]}


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ({"A": 0.6, "B": 0.2}, 0.75),  # 0.6 / (0.6 + 0.2)
        ({"A": 0.3, "_A": 0.3, "B": 0.2}, 0.75),  # with and without a leading space
        ({"The": 0.4, "A": 0.45, "B": 0.15}, 0.75),  # another token first, but the letters hold more than half
    ],
    ids=["both", "space", "likely"],
)
def test_soft_verdict(p, expected):
    read = read_reply(reply(next(iter(p)), "length", letters(**p)), PAIR, "logprobs")
    assert read.p == pytest.approx(expected) and read.form == "logprobs"


def test_two_tokens_with_one_text_are_two_tokens():
    """ "▁A" and "A" are decoded alike; a server that tells ids says that they are two."""
    tops = [("A", 5, 0.5), ("A", 9, 0.25), ("B", 7, 0.25)]
    named = [{"token": token, "id": number, "logprob": math.log(q)} for token, number, q in tops]
    logprobs = {"content": [{**named[0], "top_logprobs": named}]}
    assert read_reply(reply("A", "length", logprobs), PAIR, "logprobs").p == pytest.approx(0.75)
    for one in named:
        del one["id"]
    assert read_reply(reply("A", "length", logprobs), PAIR, "logprobs").reason == "unreadable"
    fragments = letters(A=0.6, B=0.2)
    fragments["content"][0]["top_logprobs"] += [{"token": "\ufffd", "logprob": math.log(q)} for q in (0.02, 0.01)]
    assert read_reply(reply("A", "length", fragments), PAIR, "logprobs").p == pytest.approx(0.75)


def test_absent_letter_with_floor_logprob_counts_as_zero():
    logprobs = letters(A=0.9)
    logprobs["content"][0]["top_logprobs"].append({"token": "B", "logprob": -9999.0})
    assert read_reply(reply("A", "length", logprobs), PAIR, "logprobs").p == 1.0


TEMPLATES = {name: load_template(name) for name in ("dialogue", "grade", "refusal", "arena_hard")}


@pytest.mark.parametrize(("form", "template", "text", "expected", "why"), ROWS)
def test_a_reply_states_what_it_states(form, template, text, expected, why):
    read = read_reply(reply(text), TEMPLATES[template], form)
    value = next((found for found in (read.p, read.grade, read.label) if found is not None), read.reason)
    assert value == expected, f"{why}: {read}"
    assert (read.reason is None) == (expected == value and value not in REASONS)


def test_the_table_is_as_large_as_promised():
    assert len(ROWS) >= 150 and all(why for *_, why in ROWS)


@needs_public_data
def test_real_replies_of_two_judges_state_their_results(tmp_path):
    """PandaLM's own form: the result, then a reason and an answer of the judge's own, which state nothing."""
    (tmp_path / "pandalm.txt").write_text(PANDALM)
    template = load_template(str(tmp_path / "pandalm.txt"))
    values = {"1": 1.0, "Tie": 0.5, "2": 0.0}
    judged = 0
    for result, reason, reference in real_replies():
        read = read_reply(reply(f"{result}\n\n### Reason: {reason}\n\n### Reference: {reference}"), template, "tag")
        assert read.p == values.get(result), (result, reason, reference)
        judged += read.p is not None
    assert judged == 1973  # 25 are marked as garbage by PandaLM's authors


@needs_public_data
@pytest.mark.parametrize("form", ["tag", "json"])
def test_real_reasons_neither_are_verdicts_nor_hide_them(form):
    wrong = lost = num = 0
    for result, reason, _ in real_replies():
        text = reason.replace("Response 1", "Answer A").replace("Response 2", "Answer B")
        letter = {"1": "A", "2": "B", "Tie": "tie"}.get(result)
        if letter is None or not text:
            continue
        num += 1
        wrong += read_reply(reply(text), PAIR, form).reason is None
        stated = f"<verdict>{letter}</verdict>" if form == "tag" else json.dumps({"verdict": letter})
        for dressed in (f"{stated}\n\n{text}", f"{text}\n\n{stated}", f"{text} {stated}"):
            lost += read_reply(reply(dressed), PAIR, form).p != PAIR.values[letter]
        if form == "json":
            whole = json.dumps({"verdict": letter, "reasons": text})
            lost += read_reply(reply(whole), REASONED["after"], form).p != PAIR.values[letter]
    assert num > 1900 and wrong == lost == 0


REASONED = {place: load_template("dialogue", reasons=place) for place in ("before", "after")}


RUBRIC = load_template("rubric", criteria=(("correctness", "Is it true?"), ("completeness", "Is all covered?")))


@pytest.mark.parametrize(("text", "p"), RUBRIC_STATED)
def test_a_rubrics_verdicts_stand_beside_their_reasons(text, p):
    assert read_reply(reply(text), RUBRIC, "tag").p == p


@pytest.mark.parametrize("text", RUBRIC_QUOTED)
def test_what_a_reply_to_a_rubric_quotes_or_takes_back_is_no_verdict(text):
    assert read_reply(reply(text), RUBRIC, "tag").reason == "unreadable"


@pytest.mark.parametrize("template", [PAIR, *REASONED.values()], ids=["none", *REASONED])
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<verdict>A</verdict>\nAnswer B is better.", None),
        ("Answer B is better.\n<verdict>A</verdict>", None),
        ("<verdict>A</verdict> Wait, I meant B.", None),
        ('{"reasons": "Answer B is better.", "verdict": "A"}', None),
        ('{"verdict": "A", "reasons": "Hm. Answer B is better."}', None),
        ('{"verdict": "A", "reasons": "Wait, I meant B."}', None),
        ("Answer B is better in tone, but A is right.\n<verdict>A</verdict>", 1.0),
        ('{"verdict": "A", "reasons": "Waiting until it doubles is right. Correctional law, too."}', 1.0),
        ("I cannot give both answers high scores.\n<verdict>A</verdict>", 1.0),
        ('{"reasons": "Wait, that is B. Answer B is better in tone, A is right.", "verdict": "A"}', 1.0),
    ],
)
def test_reasons_that_contradict_the_verdict_make_it_unreadable_wherever_they_stand(template, text, value):
    read = read_reply(reply(text), template, "tag")
    assert (read.p, read.reason) == (value, None if value is not None else "unreadable")


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        ("Use `</reasoning>` to close the block.", "Use `</reasoning>` to close the block."),
        ("Write </think> on a line of its own.", "Write </think> on a line of its own."),
        ('End with "</think>".', 'End with "</think>".'),
        ("```xml\n<a>\n</think>\n```\nThat is all.", "```xml\n<a>\n</think>\n```\nThat is all."),
        ("so it is 4.\n</think>\n\nFour.", "Four."),
        ("so it is 4.</think>Four.", "Four."),
        ("<think>I close it by `</think>`.</think>Four.", "Four."),
        ("<think>a</think>\n<think>b</think>Four.", "Four."),
        ("<think>I write `</think>` and", None),
        ("<think>x", None),
        ("The tag <think> opens a block.", "The tag <think> opens a block."),
    ],
)
def test_what_of_a_judged_answer_is_thinking(answer, seen):
    assert answer_after_thinking(answer) == seen


@pytest.mark.parametrize(
    ("prompt", "answer", "seen"),
    [
        ("user: hi\nassistant:<think>\n", "Let me see", None),
        ("user: hi\nassistant:<think>\n", "Let me see</think>Four.", "Four."),
        ("user: hi\nassistant:[THINK]", "Let me see", None),
        ("user: hi\nassistant:<think>\n", "", ""),
        ("user: hi\nassistant:<think>\n\n</think>\n\n", "Four.", "Four."),
        ("user: what does <think> do?\nassistant:", "It opens a block.", "It opens a block."),
    ],
)
def test_thinking_that_a_template_opened_and_nothing_ended_is_no_answer(prompt, answer, seen):
    shown = opened_by(prompt, answer) + answer
    assert answer_after_thinking(shown) == seen and as_decoded(prompt, shown) == answer


def listed(*pairs):
    """Log-probabilities of a first token A, as a server lists them."""
    return {"content": [{"token": "A", "top_logprobs": [{"token": token, "logprob": value} for token, value in pairs]}]}


@pytest.mark.parametrize(
    ("logprobs", "p", "form"),
    [
        ({"content": [{"token": "A", "logprob": -0.6, "top_logprobs": []}]}, 1.0, "letter"),
        ({"content": [{"token": "A", "logprob": -0.6}]}, 1.0, "letter"),
        (letters(A=0.55), 1.0, "letter"),  # the other 45 % may well be B's
        (letters(A=0.55, The=0.3), 1.0, "letter"),
        (listed(("A", 0.9), ("B", 0.1)), None, ""),  # probabilities, no logarithms
        (listed(("A", 0.0), ("B", 0.0)), None, ""),  # both certain
        (listed(("A", -1), ("A", -2), ("B", -3)), None, ""),  # one token with two values
        (listed(("A", "-1"), ("B", "-2")), None, ""),
        (letters(B=0.9, A=0.1), None, ""),  # the text says A, its token B
        ({"content": [{"token": "**", "logprob": -0.1}, *letters(A=0.6, B=0.2)["content"]]}, 0.75, "logprobs"),
    ],
    ids=["empty", "absent", "alone", "no-other", "positive", "both-certain", "twice", "text", "contradicted", "later"],
)
def test_log_probabilities_count_only_where_both_letters_are_stated(logprobs, p, form):
    read = read_reply(reply("A", "length", logprobs), PAIR, "logprobs")
    assert (read.p, read.form) == (pytest.approx(p) if p is not None else None, form)
    assert read.reason == (None if p is not None else "unreadable")


def test_two_choices_of_one_reply_must_agree():
    both = {"choices": [*reply("<verdict>A</verdict>")["choices"], *reply("<verdict>B</verdict>")["choices"]]}
    assert read_reply(both, PAIR, "tag").reason == "unreadable"


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("max_tokens", "truncated"), ("MAX_TOKENS", "truncated"), ("SAFETY", "content_filter"), ("error", "transport"),
     ("abort", "transport"), ("end_turn", None), (None, None)],
)  # fmt: skip
def test_how_servers_say_that_a_reply_ended(finish, reason):
    assert read_reply(reply("<verdict>A</verdict>", finish), PAIR, "tag").reason == reason


@pytest.mark.parametrize(
    ("body", "form", "value"),
    [
        (reply("A", "length"), "logprobs", 1.0),
        (reply("**B**."), "logprobs", 0.0),
        (reply('{"verdict": "A"}'), "json", 1.0),
        (reply('```json\n{"verdict": "tie"}\n```'), "json", 0.5),
        (reply("<think>A or B</think><verdict>B</verdict>"), "tag", 0.0),
        (reply("Some words first. <verdict> A </verdict>"), "tag", 1.0),
        (reply("b"), "tag", 0.0),
        (reply([{"type": "text", "text": "<verdict>"}, {"type": "text", "text": "A</verdict>"}]), "tag", 1.0),
    ],
    ids=["letter", "markdown", "json", "fenced-json", "thinking", "late", "bare", "parts"],
)
def test_hard_verdict(body, form, value):
    assert read_reply(body, PAIR, form).p == value


@pytest.mark.parametrize(
    ("body", "form", "reason"),
    [
        (reply("", "stop"), "tag", "empty"),
        (reply(None, "stop"), "json", "empty"),
        (reply("", "length"), "logprobs", "empty"),
        (reply("I'm sorry, I can't compare these."), "tag", "refusal"),
        (reply("I’m sorry, but no."), "logprobs", "refusal"),
        (reply("<verdict>A</verdict>", refusal="I won't"), "tag", "refusal"),
        (reply("<verdict>A</verdict>", "content_filter"), "tag", "content_filter"),
        (reply("<verdict>A</verdict>", "length"), "tag", "truncated"),
        (reply("<think>it seems that"), "tag", "truncated"),
        (reply("Both have merits and", "length"), "logprobs", "truncated"),
        (reply("<verdict>C</verdict>"), "tag", "unreadable"),
        (reply("<verdict>A</verdict> or <verdict>B</verdict>"), "tag", "unreadable"),
        (reply("Answer A is better."), "tag", "unreadable"),
        (reply('{"verdict": "A'), "json", "unreadable"),
        (reply('{"winner": "A"}'), "json", "unreadable"),
        (reply("I", "length", letters(I=0.8, A=0.1, B=0.05)), "logprobs", "unreadable"),
        (reply("C", "length", letters(C=0.99)), "logprobs", "unreadable"),
        ({"error": "x"}, "tag", "unreadable"),
        # Servers that only resemble OpenAI's: these shapes once ended the whole run with a traceback.
        ({"choices": [{"message": None, "finish_reason": "stop"}]}, "tag", "unreadable"),
        ({"choices": [{"message": "hi", "finish_reason": "stop"}]}, "tag", "unreadable"),
        (reply(1), "tag", "unreadable"),
        (reply([1]), "tag", "unreadable"),
        (reply("A", "stop", [1]), "logprobs", "unreadable"),
        (reply("A", "stop", {"content": [{"token": "A", "logprob": None}]}), "logprobs", "unreadable"),
        (reply("A", "stop", {"content": [{"top_logprobs": [{"token": "A"}]}]}), "logprobs", "unreadable"),
        (reply("A", "stop", {"content": [{"token": "A", "logprob": math.nan}]}), "logprobs", "unreadable"),
        ({"choices": []}, "tag", "unreadable"),
    ],
)
def test_no_verdict(body, form, reason):
    read = read_reply(body, PAIR, form)
    assert read.reason == reason
    assert read.p is None and read.grade is None and read.label is None


@pytest.mark.parametrize(
    ("template", "content", "field", "value"),
    [
        (GRADE, "<verdict>7</verdict>", "grade", 7.0),
        (GRADE, "<verdict>11</verdict>", "grade", None),
        (GRADE, "<verdict>7/9</verdict>", "grade", None),
        (REFUSAL, "<verdict>Refuse</verdict>", "label", "refuse"),
        (REFUSAL, "partial.", "label", "partial"),
        (REFUSAL, "<verdict>no</verdict>", "label", None),
    ],
)
def test_pointwise(template, content, field, value):
    read = read_reply(reply(content), template, "tag")
    assert getattr(read, field) == value
    assert (read.reason is None) == (value is not None)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 12, "completion_tokens": 3}, (12, 3)),
        ({"prompt_tokens": "12", "completion_tokens": None}, (12, 0)),
        ("none", (0, 0)),
        ([1], (0, 0)),
        ({"prompt_tokens": "many", "completion_tokens": -3}, (0, 0)),
    ],
)
def test_tokens_of_odd_usage(usage, tokens):
    assert usage_of({"usage": usage}) == tokens


def test_json_grade_is_a_number():
    assert read_reply(reply('{"verdict": 9}'), GRADE, "json").grade == 9.0
