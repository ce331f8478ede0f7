"""Another run's answers as a baseline: which file of a folder counts."""

from __future__ import annotations

import json
import os

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.texts.messages import prompt_hash
from aad_plugin.texts.saved_answers import read_baseline

OLD, NEW = "2026-01-05T10-00-00.000000", "2026-11-20T10-00-00.000000"


def answers(folder, date, outputs, written):
    path = folder / "task" / date / "answers.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"id": "0", "prompt": "Why?", "outputs": outputs}) + "\n")
    os.utime(path, (written, written))
    return path


def test_the_newest_file_is_the_one_of_the_latest_date_whenever_it_was_copied(tmp_path):
    answers(tmp_path, OLD, {"aad": "old"}, 2_000_000_000)  # was: the newest, as a copy's time said
    answers(tmp_path, NEW, {"aad": "new"}, 1_000_000_000)
    assert read_baseline(str(tmp_path), "task") == {prompt_hash("Why?"): ["new"]}


def test_an_older_file_stands_in_only_where_a_strategy_was_named(tmp_path):
    answers(tmp_path, OLD, {"aad": "old"}, 1)
    newest = answers(tmp_path, NEW, {"model": "new", "greedy": "newer"}, 2)
    assert read_baseline(f"{tmp_path}#aad", "task") == {prompt_hash("Why?"): ["old"]}
    with pytest.raises(ConfigError, match="choose one with FILE#strategy"):
        read_baseline(str(tmp_path), "task")
    newest.write_text('{"id": "0", "prom')
    with pytest.raises(ConfigError, match=NEW):
        read_baseline(f"{tmp_path}#aad", "task")
