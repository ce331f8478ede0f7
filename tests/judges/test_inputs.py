"""Files of answers: every format, and a clear line for every mistake."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.judges.pairing import pair_rows, single_rows
from aad_plugin.texts.answer_files import has_field, read_answers


def write(path, rows):
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    return str(path)


def sample(number, prompt, answers, **more):
    """A line as lm-eval writes it with --log_samples, for a task with several requests per document."""
    arguments = {
        f"gen_args_{i}": {"arg_0": "rendered", "arg_1": {"until": [], "strategy": name}}
        for i, name in enumerate(answers)
    }
    resps = [[text] for text in answers.values()]
    return {
        "doc_id": number, "doc": {"id": str(number), "prompt": prompt}, "target": "", "arguments": arguments,
        "resps": resps, "filtered_resps": [r[0] for r in resps], "filter": "none", **more,
    }  # fmt: skip


def test_three_formats_in_any_mixture(tmp_path):
    samples = [sample(i, f"p{i}", {"aad": f"a{i}", "greedy": f"g{i}"}) for i in range(2)]
    lm_eval = write(tmp_path / "samples_x.jsonl", samples)
    outputs = [{"instruction": f"p{i}", "output": f"o{i}", "generator": "m"} for i in (1, 0)]
    alpaca = write(tmp_path / "model_outputs.json", outputs)
    chat = [{"role": "user", "content": "p0"}]
    plain = write(tmp_path / "plain.jsonl", [{"prompt": chat, "output": "x0"}, {"prompt": "p1 ", "output": "x1"}])
    pairs = pair_rows(read_answers(lm_eval + "#aad"), read_answers(alpaca))
    assert [(c.id, c.candidate, c.baseline) for c in pairs] == [("0", "a1", "o1"), ("1", "a0", "o0")]
    pairs = pair_rows(read_answers(lm_eval + "#greedy"), read_answers(plain))
    assert [(c.candidate, c.baseline) for c in pairs] == [("g0", "x0"), ("g1", "x1")]


def test_answers_of_a_judged_run_are_read_by_strategy(tmp_path):
    rows = [{"id": str(i), "prompt": f"p{i}", "outputs": {"aad": f"a{i}", "greedy": f"g{i}"}} for i in range(2)]
    path = write(tmp_path / "answers.jsonl", rows)
    pairs = pair_rows(read_answers(path + "#aad"), read_answers(path + "#greedy"))
    assert [(c.candidate, c.baseline) for c in pairs] == [("a0", "g0"), ("a1", "g1")]
    with pytest.raises(ConfigError, match=r"holds 2 answers; choose one with FILE#strategy, one of aad, greedy"):
        read_answers(path)


def test_rows_are_joined_on_user_turns_alone(tmp_path):
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u1"},
        {"role": "assistant", "content": "a"},
    ]
    one = write(tmp_path / "one.jsonl", [{"messages": [*turns, {"role": "user", "content": "u2"}], "output": "1"}])
    two = write(tmp_path / "two.jsonl", [{"messages": [*turns[1:], {"role": "user", "content": "u2"}], "output": "2"}])
    assert len(pair_rows(read_answers(one), read_answers(two))) == 1


def conversation(first, last, **more):
    turns = [("user", "Name a city."), ("assistant", first), ("user", "Why that one?")]
    return {"messages": [{"role": role, "content": text} for role, text in turns], "output": last, **more}


def test_each_side_keeps_its_own_conversation(tmp_path):
    """Was: both were shown under the candidate's earlier reply, and the other's looked like nonsense."""
    ours = write(tmp_path / "ours.jsonl", [conversation("Oslo", "Because of the sea.")])
    theirs = write(tmp_path / "theirs.jsonl", [conversation("Madrid", "Because it is sunny.")])
    (one,) = pair_rows(read_answers(ours), read_answers(theirs))
    (other,) = pair_rows(read_answers(theirs), read_answers(ours))
    assert one.prompt == other.prompt == [
        {"role": "user", "content": "Name a city."}, {"role": "user", "content": "Why that one?"}
    ]  # fmt: skip
    assert (one.candidate, one.baseline) == (other.baseline, other.candidate)
    assert one.baseline == ("Madrid", "Because it is sunny.")
    same = write(tmp_path / "same.jsonl", [conversation("Oslo ", "It is near.")])
    (alike,) = pair_rows(read_answers(ours), read_answers(same))
    assert len(alike.prompt) == 3 and alike.candidate == "Because of the sea."


def test_samples_with_several_filters_count_once(tmp_path):
    rows = [sample(0, "p", {None: "a"}), sample(0, "p", {None: "a"}, filter="strict")]
    assert len(read_answers(write(tmp_path / "s.jsonl", rows))) == 1


def test_prompt_field_of_a_foreign_task(tmp_path):
    row = sample(0, "", {None: "a"}) | {"doc": {"text": "the prompt", "id": 1}}
    path = write(tmp_path / "s.jsonl", [row])
    assert read_answers(path, "text")[0].prompt == "the prompt"
    with pytest.raises(
        ConfigError, match=r"s.jsonl, line 1: no field messages, .* \(there are text, id\); .*--prompt-field"
    ):
        read_answers(path)
    with pytest.raises(ConfigError, match=r"field 'txt' is missing \(did you mean 'text'\?\)"):
        read_answers(path, "txt")


BAD = {
    "malformed": ('{"prompt": "p", "output": "o"}\n{"prompt": \n', r"x.jsonl, line 2 is not JSON"),
    "no-object": ('["p"]\n', r"x.jsonl, line 1 must be an object, got list"),
    "no-output": ('{"prompt": "p", "answer": "o"}\n', r"line 1: field 'output' or .* is missing; there are prompt, a"),
    "no-text": ('{"prompt": "p", "output": 3}\n', r"line 1: the answer must be a string, got int"),
    "no-prompt": ('{"prompt": 3, "output": "x"}\n', r"line 1: a prompt is a string or a list of mess.*, got int"),
    "bad-turn": ('{"prompt": [{"role": "user"}], "output": "x"}\n', r"line 1: a prompt is a string or a list of me"),
    "duplicate": ('{"prompt": "p", "output": "1"}\n' * 2, r"line 2: the same prompt stands at .*x.jsonl, line 1 alr"),
    "empty": ("\n", r"x.jsonl holds no answers"),
    "half a pair": ('{"prompt": "p", "output": "\\ud800"}\n', r"x.jsonl, line 1: the text holds half a surrogate pair"),
    "no answers": ('{"doc": {"prompt": "p"}, "resps": null}\n', r"line 1: resps must be a list of answers, got NoneType"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_lines_are_named(tmp_path, name):
    text, message = BAD[name]
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_answers(str(path))


def test_missing_and_binary_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*nothing.jsonl"):
        read_answers(str(tmp_path / "nothing.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"cannot read .*b.jsonl"):
        read_answers(str(tmp_path / "b.jsonl"))


def test_several_answers_need_a_choice(tmp_path):
    path = write(tmp_path / "s.jsonl", [sample(0, "p", {"aad": "a", "greedy": "b"})])
    with pytest.raises(ConfigError, match=r"holds 2 answers; choose one with FILE#strategy, one of aad, greedy"):
        read_answers(path)
    with pytest.raises(ConfigError, match=r"no answer by strategy 'gredy' \(did you mean 'greedy'\?\)"):
        read_answers(path + "#gredy")


def test_unmatched_rows_stop_with_counts_unless_allowed(tmp_path):
    one = read_answers(write(tmp_path / "a.jsonl", [{"prompt": p, "output": "x"} for p in ("p1", "p2", "p3")]))
    two = read_answers(write(tmp_path / "b.jsonl", [{"prompt": p, "output": "y"} for p in ("p1", "p4")]))
    with pytest.raises(
        ConfigError, match=r"1 prompts stand in both files, 2 only in the candidate's and 1 only in the base"
    ):
        pair_rows(one, two)
    assert len(pair_rows(one, two, allow_unmatched=True)) == 1
    with pytest.raises(ConfigError, match=r"0 prompts stand in both"):
        pair_rows(one[1:], two, allow_unmatched=True)


def test_torn_archives_are_named(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    whole = gzip.compress("".join(f'{{"prompt": "{i}", "output": "o"}}\n' for i in range(2000)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"cannot read .*x.jsonl.gz: Compressed file ended"):  # was: "Aborted!"
        read_answers(str(path))
    path.write_bytes(whole[:20] + b"\xff" * 20 + whole[40:])
    with pytest.raises(ConfigError, match=r"cannot read .*x.jsonl.gz"):
        read_answers(str(path))


def test_samples_of_older_lm_eval_hold_arguments_as_a_list(tmp_path):
    row = sample(0, "p", {None: "a"}) | {"arguments": [["p", {"until": []}]]}
    assert read_answers(write(tmp_path / "s.jsonl", [row]))[0].text == "a"
    row["arguments"] = [["p", {"strategy": "aad"}]]
    assert read_answers(write(tmp_path / "s.jsonl", [row]) + "#aad")[0].text == "a"


def test_several_answers_to_a_prompt_where_nothing_is_joined(tmp_path):
    path = write(tmp_path / "x.jsonl", [{"prompt": "p", "output": text} for text in ("a", "b")])
    assert [a.text for a in single_rows(read_answers(path, joined=False))] == ["a", "b"]


def test_a_field_is_looked_for_in_every_row(tmp_path):
    samples = write(tmp_path / "s.jsonl", [sample(0, "", {None: "a"}) | {"doc": {"text": "the prompt"}}])
    plain = write(tmp_path / "p.jsonl", [{"prompt": "the prompt", "output": "b"}])
    assert has_field(samples, "text") and not has_field(plain, "text")


@pytest.mark.slow
def test_samples_that_lm_eval_wrote(tmp_path):
    data = write(tmp_path / "data.jsonl", [{"text": f"Question {i}?"} for i in range(4)])
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\noutput_type: generate_until\ntest_split: test\n"
        f"dataset_kwargs:\n  data_files:\n    test: {data}\n"
        "doc_to_text: '{{text}}'\ndoc_to_target: ''\n"
        "generation_kwargs:\n  until: []\nmetric_list:\n  - metric: exact_match\n"
    )
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "dummy", "--tasks", str(tmp_path / "mine.yaml")]
    subprocess.run([*command, "--log_samples", "--output_path", str(tmp_path / "out")], check=True, cwd=tmp_path)
    (samples,) = (tmp_path / "out").rglob("samples_mine_*.jsonl")
    rows = read_answers(str(samples), "text")
    assert [row.prompt for row in rows] == [f"Question {i}?" for i in range(4)]
    assert all(row.text for row in rows)


def test_repeats_of_a_task_are_said_to_be_left_out(tmp_path, caplog):
    drawn = [[f"first {number}", "second", "third"] for number in range(2)]
    rows = [{"doc_id": number, "doc": {"prompt": f"p{number}"}, "resps": [drawn[number]]} for number in range(2)]
    found = read_answers(write(tmp_path / "samples.jsonl", rows))
    assert [row.text for row in found] == ["first 0", "first 1"]
    assert caplog.text.count("holds 3 answers to each request (the task's repeats): only the first") == 1
