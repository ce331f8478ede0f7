"""``aad generate`` and its output file: refused before anything is decoded, and answers are never lost."""

from __future__ import annotations

import json

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.files.whole import check_writable, write_text


def words(checkpoints, *more):
    named = ",".join(f"{name}={path}" for name, path in checkpoints.model_args("two_models").items())
    return ["generate", "hello", "--model-args", named, "--max-new-tokens", "4", *more]


def test_answers_side_by_side_in_a_file(aad, checkpoints, tmp_path):
    target = tmp_path / "new" / "answers.jsonl"
    done = aad(*words(checkpoints, "--strategy", "aad", "--strategy", "greedy", "--output", target))
    assert done.exit_code == 0, done.exception
    (row,) = map(json.loads, target.read_text().splitlines())
    assert row["prompt"] == "hello" and list(row["outputs"]) == ["aad", "greedy"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [("/dev/null/a.jsonl", "File exists"), ("{tmp}", "it is a folder, expected a file")],
)
def test_an_unwritable_place_is_refused_before_decoding(aad, checkpoints, tmp_path, monkeypatch, target, reason):
    monkeypatch.setattr("aad_plugin.pair.answering.answer", lambda *_, **__: pytest.fail("decoded"))
    target = target.format(tmp=tmp_path)
    done = aad(*words(checkpoints, "--output", target))
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == f"cannot write {target}: {reason}; pass another file"


def test_a_disk_that_fills_up_meanwhile_costs_no_answer(aad, checkpoints, tmp_path, monkeypatch):
    def full(path, text):
        raise ConfigError(f"cannot write {path}: No space left on device; pass another file")

    monkeypatch.setattr("aad_plugin.cli.generate.write_text", full)
    monkeypatch.setattr("aad_plugin.pair.answering.answer", lambda *_, **__: ["the answer"])
    done = aad(*words(checkpoints, "--output", tmp_path / "a.jsonl"))
    assert "the answer" in done.output and "No space left on device" in str(done.exception)


def test_a_strategy_that_fails_costs_no_answer_of_another(aad, checkpoints, tmp_path, monkeypatch):
    def answer(pair, prompts, *, strategy, **_):
        if strategy == "greedy":
            raise ConfigError("broken")
        return ["the answer"]

    monkeypatch.setattr("aad_plugin.pair.answering.answer", answer)
    target = tmp_path / "a.jsonl"
    done = aad(*words(checkpoints, "--strategy", "aad", "--strategy", "greedy", "--output", target))
    assert str(done.exception) == "broken"
    assert json.loads(target.read_text()) == {"prompt": "hello", "outputs": {"aad": "the answer"}}


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    import os
    import threading

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through")
    reader.join(10)
    assert read == ["through"] and pipe.is_fifo()


def test_a_bar_counts_every_token_of_every_batch(capsys):
    """A batch that ends early counts whole; the bar is gone when it is done."""
    from aad_plugin.pair.answering import token_bar

    with token_bar("aad", 10, 2, True) as on_step:
        for batch, tokens in ((0, 1), (0, 4), (0, 10), (1, 1), (1, 10)):
            on_step(batch, tokens)
    shown = capsys.readouterr().err
    assert shown.startswith("\raad:") and shown.endswith("\r")
    with token_bar("aad", 10, 2, False) as on_step:
        on_step(0, 3)
    assert capsys.readouterr().err == ""


def test_a_caller_is_told_of_every_step(checkpoints):
    from aad_plugin import AlignedPair
    from aad_plugin.pair.answering import encode_prompts
    from aad_plugin.pair.strategies import decode

    pair = AlignedPair.from_pretrained(**checkpoints.model_args("two_models"))
    ids, mask = encode_prompts(pair, ["hello"])
    for strategy in ("aad", "best_of_2"):
        told: list[int] = []
        tokens = decode(
            pair, ids, mask, pair.settings.override(strategy=strategy), on_step=told.append, max_new_tokens=5
        )
        assert told == [*range(1, len(told) + 1)] and told[-1] >= tokens.shape[1] - ids.shape[1]
