"""Files of human labels: which item a line belongs to, and what may stand in it."""

from __future__ import annotations

import json

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.judges import Answer, Comparison, Verdict, load_judge
from aad_plugin.judges.asking.templates import load_template
from aad_plugin.judges.checks.label_files import read_labels
from aad_plugin.judges.checks.label_menu import LabelMenu
from aad_plugin.judges.checks.labels import read_labelled
from aad_plugin.judges.statistics.labels import label_figures
from aad_plugin.texts.messages import prompt_hash

URL = "http://127.0.0.1:1/v1"


def verdict(number, prompt, **more):
    return Verdict(str(number), prompt_hash(prompt), "j", "f", **more)


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_prompt_says_more_than_another_data_sets_id(tmp_path):
    verdicts = [verdict(0, "hello", p=1.0), verdict(1, "bye", p=0.0)]
    path = write(tmp_path / "l.jsonl", {"id": 1, "prompt": "hello", "label": "candidate"})
    assert read_labels(path, verdicts) == {"0": 1.0}  # was: joined on the id, the other item
    path = write(tmp_path / "l.jsonl", {"prompt": "hello", "label": "candidate"}, {"prompt": "hello", "label": "tie"})
    with pytest.raises(ConfigError, match=r"line 2: the label 0.5 contradicts 1.0 at .*line 1; keep one"):
        read_labels(path, verdicts)


def test_items_that_share_a_prompt_are_told_apart_by_id(tmp_path):
    verdicts = [verdict(i, "p", label="comply") for i in range(2)]
    path = write(tmp_path / "l.jsonl", {"id": "1", "prompt": "p", "label": "comply"})
    assert read_labels(path, verdicts) == {"1": "comply"}
    path = write(tmp_path / "l.jsonl", {"prompt": "p", "label": "comply"})
    with pytest.raises(ConfigError, match=r"line 1: 2 items share this prompt; say which by their id"):
        read_labels(path, verdicts)


def test_labels_are_read_as_written_and_unknown_ones_refused(tmp_path):
    template = load_template("refusal").hash
    verdicts = [verdict(0, "a", label="refuse", template=template), verdict(1, "b", label="comply", template=template)]
    path = write(tmp_path / "l.jsonl", {"prompt": "a", "label": "Refuse "}, {"prompt": "b", "label": "PARTIAL"})
    labels = read_labels(path, verdicts)
    assert labels == {"0": "refuse", "1": "partial"} and label_figures(verdicts, labels)["agreement"] == 0.5
    path = write(tmp_path / "l.jsonl", {"prompt": "a", "label": "refused"})
    with pytest.raises(ConfigError, match=r"one of comply, partial, refuse, got 'refused' \(did you mean 'refuse'\?\)"):
        read_labels(path, verdicts)


def test_a_grade_is_a_number(tmp_path):
    path = write(tmp_path / "l.jsonl", {"prompt": "a", "label": "good"})
    with pytest.raises(ConfigError, match=r"line 1: a label for a judge that grades is a number, got 'good'"):
        read_labels(path, [verdict(0, "a", grade=3.0)])
    assert LabelMenu("grade").read("7", "x") == 7.0


def test_tables_hold_numbers_as_text_and_answers_by_any_name(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("prompt,candidate,baseline,label\np,a,b,1\nq,a,b,0.5\nr,a,b,Baseline\n")
    items, labels = read_labelled(path, load_judge("openai:m", base_url=URL))
    assert [labels[item.id] for item in items] == [1.0, 0.5, 0.0]
    path.write_text("prompt,completion,label\np,a,refuse\n")
    items, labels = read_labelled(path, load_judge("openai:m", base_url=URL, template="refusal"))
    assert items[0].text == "a" and labels == {"0": "refuse"}


def test_unjudged_items_have_labels_of_their_template_too(tmp_path):
    path = write(tmp_path / "l.jsonl", {"prompt": "a", "label": "refuse"})
    unread = [verdict(0, "a", reason="unreadable", template=load_template("refusal").hash)]
    assert label_figures(unread, read_labels(path, unread)) == {"num_labelled": 0}


def test_an_id_alone_is_refused_where_the_answers_have_ids_of_their_own(tmp_path):
    from aad_plugin.cli.judge_files import data_of, items_of, unjudged

    both = {"aad": "a", "greedy": "b"}
    rows = ({"id": str(number), "prompt": f"q{number}", "outputs": both} for number in (0, 2, 3))
    path = write(tmp_path / "answers.jsonl", *rows)
    items = items_of(f"{path}#aad", f"{path}#greedy", None, False)
    assert [item.own_id for item in items] == ["", "2", "3"]
    judge = load_judge("openai:m", base_url=URL)
    terms = {"difficulties": None, "gamed": None, "prompt_field": None, "judge": judge, "items": items}
    labels = write(tmp_path / "l.jsonl", {"id": "2", "label": "candidate"})
    with pytest.raises(ConfigError, match=r"ids of their own \(row 1 is '2'\); add the prompt to each label"):
        data_of(unjudged(items, judge), labels, **terms)  # was: the third row's
    labels = write(tmp_path / "l.jsonl", {"id": "2", "prompt": "q2", "label": "candidate"})
    assert data_of(unjudged(items, judge), labels, **terms)["labels"] == {"1": 1.0}


def test_a_label_is_about_the_answers_in_its_line(tmp_path):
    items = [Comparison("0", "q", "<think>hm</think>Four.", "Five, I think.")]
    judged = [verdict(0, "q", p=1.0, candidate_length=5, baseline_length=14)]
    straight = {"prompt": "q", "candidate": "Four.", "baseline": "Five, I think.", "label": "candidate"}
    swapped = {**straight, "candidate": "Five, I think.", "baseline": "Four."}
    foreign = {**straight, "candidate": "Seventeen at least."}
    for row, value in ((straight, 1.0), (swapped, 0.0)):  # was: 1.0 both times
        assert read_labels(write(tmp_path / "l.jsonl", row), judged, items=items) == {"0": value}
    with pytest.raises(ConfigError, match=r"line 1: the candidate and baseline of this label do not match"):
        read_labels(write(tmp_path / "l.jsonl", foreign), judged, items=items)
    names = {**straight, "candidate": "gpt-4", "baseline": "gpt-3.5"}
    with pytest.raises(
        ConfigError, match=r"got candidate 'gpt-4', baseline 'gpt-3.5': .*; columns that name the systems"
    ):
        read_labels(write(tmp_path / "l.jsonl", names), judged, items=items)
    assert read_labels(write(tmp_path / "l.jsonl", straight), judged) == {"0": 1.0}  # as for --from
    for row in (swapped, foreign):
        with pytest.raises(ConfigError, match=r"do not match what is judged \(by their lengths\)"):
            read_labels(write(tmp_path / "l.jsonl", row), judged)
    turns = verdict(0, "q", p=1.0, candidate_length=14, baseline_length=21)
    row = {**straight, "candidate": "\n\n".join(["Aa"] * 7), "baseline": "\n\n".join(["Bbb"] * 7)}
    assert read_labels(write(tmp_path / "l.jsonl", row), [turns]) == {"0": 1.0}  # a conversation, joined
    long = [Comparison("0", "q", "Yes it is, because\r\nof the tide.\n\n\n", "Five, I think.")]
    for text in ("Yes it is, because\nof the tide.", "Yes it is, because of …"):  # a spreadsheet's, an annotator's
        row = {**straight, "candidate": text}
        assert read_labels(write(tmp_path / "l.jsonl", row), judged, items=long) == {"0": 1.0}
    talk = [Comparison("0", "q", ("One.", "Two."), ("Three.", "Four."))]
    row = {"prompt": "q", "candidate": "Two.", "baseline": "Four.", "label": "tie"}
    assert read_labels(write(tmp_path / "l.jsonl", row), judged, items=talk) == {"0": 0.5}


def test_a_grade_is_about_the_answer_in_its_line(tmp_path):
    path = write(tmp_path / "l.jsonl", {"prompt": "q", "output": "Five.", "label": 3})
    graded = [verdict(0, "q", grade=3.0, candidate_length=5)]
    assert read_labels(path, graded, items=[Answer("0", "q", "Five.")]) == read_labels(path, graded) == {"0": 3.0}
    with pytest.raises(ConfigError, match=r"line 1: the output of this label do not match"):
        read_labels(path, graded, items=[Answer("0", "q", "Six hundred.")])
