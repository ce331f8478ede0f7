"""Which systems, questions and dress a file's battles have."""

from __future__ import annotations

import json

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import Comparison
from aad_plugin.judges.leagues.battles import named_file, read_battles
from aad_plugin.judges.leagues.schedule import meetings_of, style_of_reply, systems_of
from aad_plugin.judges.protocols.running import meeting_of
from aad_plugin.texts.messages import prompt_hash
from tests.judges.test_cli import aad


@pytest.mark.parametrize(
    ("spec", "name", "file"),
    [
        ("runs/llama-3.1-8b.json", "llama-3.1-8b", None),
        ("llama-3.2-8b.jsonl.gz", "llama-3.2-8b", None),
        ("samples.jsonl#aad", "aad", None),
        ("samples-1.5.jsonl#", "samples-1.5", None),
        ("my model=x y.json", "my model", "x y.json"),
        ("x=a.jsonl#aad", "x", "a.jsonl#aad"),
    ],
)
def test_systems_are_told_apart_by_name(spec, name, file):
    assert named_file(spec) == (name, file or spec)


def test_an_equals_sign_in_a_file_that_exists_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t=0.7.json").write_text("[]")
    assert named_file("t=0.7.json") == ("t=0.7", "t=0.7.json")
    assert named_file("t=0.7.json#aad") == ("aad", "t=0.7.json#aad")


def test_annotations_share_their_questions_with_our_own_battles(tmp_path):
    row = {"instruction": "Why?", "output_1": "x", "generator_1": "base", "output_2": "y", "generator_2": "m",
           "annotator": "a", "preference": 2}  # fmt: skip
    (tmp_path / "annotations.json").write_text(json.dumps([row]))
    (battle,) = read_battles([tmp_path / "annotations.json"])
    assert battle.question == prompt_hash("Why?") and battle.shares == (1, 0, 0)


def test_a_folder_judged_both_ways_counts_by_its_last_run(tmp_path):
    (tmp_path / "battles.jsonl").write_text(
        json.dumps({"question_id": "1", "model_a": "old", "model_b": "older", "winner": "tie"}) + "\n"
    )
    (tmp_path / "verdicts.jsonl").write_text(json.dumps({"id": "0", "prompt": "1", "judge": "j", "p": 1.0}) + "\n")
    (tmp_path / "summary.json").write_text(json.dumps({"candidate": "x.json", "baseline": "y.json"}))
    (battle,) = read_battles([tmp_path])
    assert (battle.a, battle.b) == ("x", "y")
    (tmp_path / "summary.json").write_text(json.dumps({"systems": ["old", "older"]}))
    (battle,) = read_battles([tmp_path])
    assert (battle.a, battle.b) == ("old", "older")


def test_verdicts_of_a_league_have_no_win_rate(tmp_path):
    (tmp_path / "verdicts.jsonl").write_text(json.dumps({"id": "0", "prompt": "1", "judge": "j", "p": 1.0}) + "\n")
    (tmp_path / "summary.json").write_text(json.dumps({"systems": ["a", "b", "c"]}))
    with pytest.raises(ConfigError, match=r"verdicts on 3 systems, .* rank them with aad league"):
        raise aad("judge", "--from", tmp_path / "verdicts.jsonl").exception


def test_every_reply_of_a_conversation_has_thinking_of_its_own():
    said = ("<think>hm</think>abcd", "<think>\n# no header\n</think>" + "x" * 8)
    assert style_of_reply(said) == style_of_reply(("abcd", "x" * 8))
    assert meeting_of(Comparison("0", "p", said, "y"), "a", "b").styles[0].length == (4 + 2 + 8) / 4


def test_a_probability_that_is_none_is_said_once(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"question_id": 1, "model_a": "a", "model_b": "b", "p": NaN}\n')
    with pytest.raises(ConfigError, match=r"x\.jsonl, line 1: p must lie within 0 and 1") as told:
        read_battles([tmp_path / "x.jsonl"])
    assert str(told.value).count("line 1") == 1


def judged(folder, candidate, baseline):
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"candidate": candidate, "baseline": baseline}))
    rows = [{"id": str(i), "prompt": f"p{i}", "p": 0.25 * i, "orders": [0.25 * i]} for i in range(3)]
    (folder / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_one_name_for_several_files_is_said(tmp_path, caplog):
    folders = [judged(tmp_path / "x", "m1.jsonl#aad", "base.json"), judged(tmp_path / "y", "m2.jsonl#aad", "base.json")]
    assert len(read_battles(folders)) == 6
    assert "'aad' stands for the answers of m1.jsonl#aad, m2.jsonl#aad" in caplog.text
    assert "'base'" not in caplog.text


def test_two_tasks_runs_share_no_question_by_number_and_are_told_apart(tmp_path, caplog):
    folders = []
    for number, task in enumerate(("alpaca", "helpful")):
        run = tmp_path / task / "now"
        run.mkdir(parents=True)
        shown = {"pictures": ["pictures/1.png"]} if number else {}
        rows = (
            {"id": str(i), "prompt": f"{task} {i}", "outputs": {"aad": "a", "greedy": "b"}, **shown} for i in range(3)
        )
        (run / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        folders.append(judged(run / "vs_greedy", "aad", "greedy"))
        rows = ({"id": str(i), "prompt": str(i), "p": 0.25 * i} for i in range(3))
        (folders[number] / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    battles = read_battles(folders)
    assert len({battle.question for battle in battles}) == 6  # was: 3
    assert battles[0].question == prompt_hash("alpaca 0")  # as `aad judge` has it
    assert "'aad' stands for the answers of" in caplog.text and "helpful/now/answers.jsonl#aad" in caplog.text


def test_battles_count_once(tmp_path):
    folder = judged(tmp_path / "x", "a.json", "b.json")
    with pytest.raises(ConfigError, match=r"verdicts\.jsonl is named twice"):
        read_battles([folder, tmp_path / "." / "x" / "verdicts.jsonl"])


def test_one_question_is_refused_before_anything_is_asked(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps([{"instruction": "one?", "output": name}]))
    with pytest.raises(ConfigError, match="at least two questions, got one"):
        meetings_of(systems_of([str(tmp_path / "a.json"), str(tmp_path / "b.json")]))
