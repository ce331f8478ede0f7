"""Where prompts come from, and what is no prompt."""

from __future__ import annotations

import gzip
import json

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.texts.prompts import read_prompts, refuse_overlap
from tests.public_data import DATA, needs_public_data


def user(text):
    return [{"role": "user", "content": text}]


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_lines_of_text_and_repeated_ones(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("How?\n\nWhy?\n how? \n")
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
