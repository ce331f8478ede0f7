"""Where prompts come from, and what is no prompt."""

from __future__ import annotations

import gzip
import json

import pytest

from aad_plugin.engine.batch import prepare_batch
from aad_plugin.errors import ConfigError
from aad_plugin.sources.picture_prompts import picture_prompt_rows
from aad_plugin.texts.prompts import prompt_rows, read_prompts, refuse_overlap
from aad_plugin.texts.rows import rows
from tests.public_data import DATA, needs_public_data


def user(text):
    return [{"role": "user", "content": text}]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_lines_of_text_and_repeated_ones(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("How?\n\nWhy?\n How? \n")
    found = read_prompts(str(path))
    assert list(found.prompts) == [user("How?"), user("Why?")] and found.repeated == 1


def test_objects_with_usual_names_and_chats(tmp_path):
    chat = [*user("Hi"), {"role": "assistant", "content": "Hello"}, *user("And now?")]
    path = write(
        tmp_path / "p.jsonl",
        {"instruction": "Do it"},
        {"messages": [*chat, {"role": "assistant", "content": "Nothing"}]},
        {"chosen": [*user("Which?"), {"role": "assistant", "content": "This"}], "rejected": []},
    )
    assert list(read_prompts(path).prompts) == [user("Do it"), chat, user("Which?")]


def test_tables_and_other_formats(tmp_path):
    (tmp_path / "p.csv").write_text("id,prompt\n1,How?\n2, \n")
    with pytest.raises(ConfigError, match=r'p\.csv, row 2: expected a prompt with text, got " "'):
        read_prompts(str(tmp_path / "p.csv"))
    (tmp_path / "p.xlsx").write_bytes(b"PK")
    with pytest.raises(
        ConfigError, match=r"p\.xlsx: expected \.txt with a prompt per line, \.jsonl, \.json, \.csv or \.parquet"
    ):
        read_prompts(str(tmp_path / "p.xlsx"))


@pytest.mark.parametrize("name", ["nofile.txt", "data/none.jsonl", "none.csv.gz", "./x", "none.parquet#test"])
def test_a_file_that_is_not_here_is_not_asked_of_the_hub(name):
    with pytest.raises(ConfigError, match=r"^no prompt file or dataset folder '[^#]*' here$"):
        read_prompts(name)


def test_a_dataset_folder_with_a_split_and_a_named_column(tmp_path):
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "test.jsonl", {"q": "One?"}, {"q": "Two?"})
    assert list(read_prompts(f"{tmp_path / 'set'}#test", "q").prompts) == [user("One?"), user("Two?")]


@needs_public_data
def test_real_instructions_are_read():
    found = read_prompts(str(DATA / "alpaca_eval_gpt4_1106_preview_model_outputs.json"))
    assert len(found) + found.repeated == 805
    dialogues = read_prompts(str(DATA / "hh_rlhf_harmless_base.jsonl.gz"), "chosen")
    assert len(dialogues) > 1900


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "  "}, r'line 2: expected a prompt with text, got "  "'),
        ({"prompt": None}, "line 2: a prompt is a string or a list of messages, got NoneType"),
        ({"text": "x"}, "line 2: no field messages, prompt, instruction, question, query"),
        ({"messages": [{"role": "system", "content": "x"}]}, "line 2: expected a prompt with text"),
    ],
)
def test_a_row_without_text_is_named(tmp_path, row, message):
    path = write(tmp_path / "p.jsonl", {"prompt": "fine"}, row)
    with pytest.raises(ConfigError, match=message):
        read_prompts(path)


def test_an_empty_file_holds_no_prompts(tmp_path):
    (tmp_path / "p.txt").write_text("\n")
    with pytest.raises(ConfigError, match=r"p\.txt holds no prompts"):
        read_prompts(str(tmp_path / "p.txt"))


def test_a_missing_file_is_not_taken_for_a_dataset(tmp_path):
    with pytest.raises(ConfigError, match=r"no prompt file or dataset folder '.*/nope\.jsonl' here"):
        read_prompts(str(tmp_path / "nope.jsonl"))


def test_a_download_that_broke_off_says_how_to_go_on(monkeypatch):
    import datasets

    def broken(*_, **__):
        raise ConnectionError("peer closed connection without sending complete message body")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(ConfigError, match=r"peer closed connection.*run the same command again: it goes on where"):
        read_prompts("owner/name")


def test_a_torn_gzip_is_one_line(tmp_path):
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"prompt": "x" * 500}).encode())[:-12])
    with pytest.raises(ConfigError, match=r"cannot read .*p\.jsonl\.gz"):
        read_prompts(str(path))


def test_sets_that_share_a_prompt_are_refused(tmp_path):
    one = read_prompts(write(tmp_path / "a.jsonl", {"prompt": "How?"}, {"prompt": "Why?"}))
    two = read_prompts(write(tmp_path / "b.jsonl", {"prompt": "why? "}))
    with pytest.raises(ConfigError, match=r'--prompts and --held-out-prompts share 1 prompts, first: "Why\?"'):
        refuse_overlap(prompts=one, held_out_prompts=two)


def test_an_input_beside_an_instruction_is_not_left_out(tmp_path):
    """Alpaca's format: two rows of one instruction were one prompt, without their texts."""
    path = tmp_path / "alpaca.json"
    rows = [
        {"instruction": "Summarise the text.", "input": text, "output": "…"} for text in ("Cats sleep.", "Dogs bark.")
    ]
    path.write_text(json.dumps(rows))
    with pytest.raises(ConfigError, match="entry 1: beside 'instruction' stands an 'input', which would be left out"):
        read_prompts(str(path))
    assert len(read_prompts(str(path), "instruction")) == 1
    path.write_text(json.dumps([{**row, "input": ""} for row in rows]))
    assert len(read_prompts(str(path))) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "prompt\nHello, how are you?\n",
            "line 2: more fields than the 1 columns of the first line; put a text that holds",
        ),
        ("prompt,id\nHello\n", "line 2: fewer fields than the 2 columns"),
    ],
)
def test_a_csv_row_that_is_torn_by_a_comma_is_named(tmp_path, text, message):
    path = tmp_path / "prompts.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_prompts(str(path))


def test_a_csv_field_may_be_long(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text('prompt\n"' + "long " * 50_000 + '"\n')
    assert len(read_prompts(str(path)).prompts[0][0]["content"]) > 200_000


def test_prompts_that_differ_by_case_or_indentation_are_two_and_give_each_other_away(tmp_path):
    def written(name, *prompts):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
        return read_prompts(str(path))

    both = written("both.jsonl", "if a:\n    b", "if a:\n  b", "Who leads the US?", "Who leads us?", "Who leads us? ")
    assert len(both) == 4 and both.repeated == 1
    assert written("a.jsonl", "write: a b").digest != written("b.jsonl", "Write:\n\nA B").digest
    with pytest.raises(ConfigError, match="--one and --two share 1 prompts"):
        refuse_overlap(one=written("a.jsonl", "What is X?"), two=written("b.jsonl", "what is  x?"))


def test_separators_of_lines_within_a_text_end_no_row(tmp_path):
    """U+2028 and its like stand unescaped in JSON lines and in texts."""
    odd = "first\u2028second\x85third"
    lines, text = tmp_path / "p.jsonl", tmp_path / "p.txt"
    lines.write_text(json.dumps({"prompt": odd}, ensure_ascii=False) + "\n")
    text.write_text(f"{odd}\r\nanother\n")
    assert [prompt[0]["content"] for prompt in read_prompts(str(lines)).prompts] == [odd]
    assert [prompt[0]["content"] for prompt in read_prompts(str(text)).prompts] == [odd, "another"]
    said = [{"role": "user", "content": odd}]
    body = {"custom_id": "a", "url": "/v1/chat/completions", "body": {"model": "aad", "messages": said}}
    lines.write_text(json.dumps(body, ensure_ascii=False) + "\n")
    assert len(prepare_batch(lines, None)[0]) == 1


def test_trainers_read_every_prompt_that_was_written_for_them(tmp_path):
    pytest.importorskip("trl")
    from aad_plugin.training import distill_worker, rl_worker

    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"prompt": "one\u2028two"}, ensure_ascii=False) + "\n")
    for worker in (distill_worker, rl_worker):
        assert worker._prompts(str(path))["prompt"] == ["one\u2028two"]


def test_a_table_is_read_gzipped_too(tmp_path):
    """An object of lists and a parquet file were not, though the list of formats says so."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"prompt": ["Why?", "How?"]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    files = {
        "t.csv": b"prompt\nWhy?\nHow?\n",
        "t.json": b'[{"prompt": "Why?"}, {"prompt": "How?"}]',
        "t.jsonl": b'{"prompt": "Why?"}\n{"prompt": "How?"}',
        "t.parquet": (tmp_path / "t.parquet").read_bytes(),
    }
    for name, content in files.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        assert [row["prompt"] for row in rows(tmp_path / f"{name}.gz")] == ["Why?", "How?"], name
        (tmp_path / f"torn-{name}.gz").write_bytes(gzip.compress(content)[:-9])
        with pytest.raises(ConfigError, match="cannot read"):
            list(rows(tmp_path / f"torn-{name}.gz"))
    (tmp_path / "lists.json.gz").write_bytes(gzip.compress(b'{"easy": ["Why?"], "hard": ["How?"]}'))
    assert [row["values"] for row in rows(tmp_path / "lists.json.gz")] == ["Why?", "How?"]


def test_half_a_surrogate_pair_is_named_by_whatever_reads_prompts(aad, checkpoints, tmp_path):
    """`aad generate --prompts` ended in a TypeError of the tokenizer."""
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "fine"}) + "\n" + json.dumps({"prompt": "half \ud800"}) + "\n")
    named = ("--policy", checkpoints.policy, "--reference", checkpoints.reference)
    said = aad("generate", "--prompts", path, *named).exception
    assert isinstance(said, ConfigError) and str(said).startswith(
        f"{path}, line 2: the text holds half a surrogate pair"
    )
    for read in (lambda: list(prompt_rows(str(path))), lambda: list(picture_prompt_rows(str(path)))):
        with pytest.raises(ConfigError, match="line 2: the text holds half a surrogate pair"):
            read()
    said = aad("generate", "half \ud800", *named).exception
    assert isinstance(said, ConfigError) and str(said).startswith("prompt 1: the text holds half a surrogate pair")
