"""Files that an editor of another system saved: a byte-order mark is no part of the text."""

from __future__ import annotations

import json

import pytest

from aad_plugin.study.prompts import read_prompts as study_prompts
from aad_plugin.texts.preferences import read_preferences
from aad_plugin.texts.prompts import read_prompts
from aad_plugin.texts.rows import json_rows, rows

MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("prompts.txt", "Why?\nHow?\n"),
        ("prompts.jsonl", '{"prompt": "Why?"}\n{"prompt": "How?"}\n'),
        ("prompts.json", '[{"prompt": "Why?"}, {"prompt": "How?"}]'),
        ("prompts.csv", "prompt\nWhy?\nHow?\n"),
    ],
)
def test_prompts(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(MARK + content.encode())
    assert [prompt[-1]["content"] for prompt in read_prompts(str(path)).prompts] == ["Why?", "How?"]
    assert study_prompts(str(path)) == ["Why?", "How?"] or name.endswith("txt")
    if not name.endswith("txt"):
        table = [row["prompt"] for row in rows(path)]
        assert table == ["Why?", "How?"]
    if "json" in name:
        assert [row["prompt"] for _, row in json_rows(path)] == ["Why?", "How?"]


def test_preferences(tmp_path):
    path = tmp_path / "preferences.jsonl"
    row = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
    path.write_bytes(MARK + json.dumps(row).encode())
    assert len(read_preferences(str(path))) == 1
