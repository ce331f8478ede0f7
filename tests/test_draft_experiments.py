"""The simulation of drafts by hand-worked traces, and the training of a draft on a toy pair."""

from __future__ import annotations

import argparse
import time

import pytest
import torch

from aad_plugin.pair.draft_loading import load_draft
from experiments.demo_pair import draft
from experiments.draft_texts import ChosenText, choose_along, decode_texts, load_texts
from experiments.drafts import lookup, passes_per_token, tokens_per_check
from tests.pairs import toy_pair

YES, NO = True, False


def test_tokens_per_check_by_hand():
    sure = [1.0] * 7
    # The first token comes of the prompt; then checks of two guesses: Y Y +1, N -> 1, Y (the end).
    assert tokens_per_check([([NO, YES, YES, YES, NO, YES, NO], sure)], 2) == (6 / 3, 5 / 3)
    # Nothing to guess: a token per check.
    assert tokens_per_check([([None] * 7, sure)], 4) == (1.0, 0.0)
    # A guess below the threshold is not read, and the next step is its own check.
    assert tokens_per_check([([YES] * 5, [1.0, 0.9, 0.1, 0.9, 0.9])], 2, 0.5) == (4 / 2, 2 / 2)


def test_passes_of_two_checkpoints_by_hand():
    # Without a choice the reference reads nothing; one guess is the lazy reference.
    assert passes_per_token([YES] * 4, [NO] * 4, 2) == (1.0, 0.0)
    assert passes_per_token([YES, NO, YES, YES], [YES] * 4, 1) == (1.0, 1.0)
    # Two guesses: (Y N) both read, 2 tokens; (Y Y): 2 reference passes for 4 tokens. A wrong first guess wastes a pass.
    assert passes_per_token([YES, NO, YES, YES], [YES] * 4, 2) == (1.0, 0.5)
    assert passes_per_token([NO, YES, YES], [YES] * 3, 2) == (4 / 3, 2 / 3)


def test_lookup_guesses_what_followed_before():
    text = ChosenText("a", [1, 2, 3, 1, 2], [3, 1, 9], [3, 1, 9])
    assert lookup(text)[0] == [YES, YES, NO]


def test_a_draft_is_trained_and_read(tmp_path, monkeypatch, capsys):
    pair = toy_pair("reference_plus_lora").pair
    pair.generation_config.eos_token_id = 256
    path = tmp_path / draft.TEXTS
    monkeypatch.setattr("experiments.draft_texts.TOKENS", 12)
    prompts = [(f"p{i}", f"prompt {i}", i == 0) for i in range(5)]
    later = time.monotonic() + 60
    assert not decode_texts(pair, prompts, path, 0.0), "no time, no text"
    assert decode_texts(pair, prompts, path, later) and decode_texts(pair, prompts, path, later)
    assert choose_along(pair, [("c", "prompt", "an answer")], path, later)
    texts = load_texts(path)
    assert len(texts) == 6 and [text.held_out for text in texts].count(True) == 1
    assert all(len(text.answer) == len(text.choices) for text in texts)
    options = argparse.Namespace(work=tmp_path, layers="0,1", frequent=200, epochs=1)
    draft.train(pair, options, later)
    options.epochs = 30
    draft.train(pair, options, later)  # goes on from the checkpoint
    losses = [
        float(line.split("loss ")[1].split(",")[0]) for line in capsys.readouterr().out.splitlines() if "loss" in line
    ]
    assert len(losses) == 30 and losses[-1] < losses[0]
    pair.draft = load_draft(str(tmp_path / "out"), pair.sides, pair.tokenizer, pair.vocab_size)
    ids = torch.tensor([texts[1].prompt])
    drafted = pair.generate(ids, max_new_tokens=12, pad_token_id=257)[0, ids.shape[1] :].tolist()
    assert drafted == texts[1].answer and pair.draft.tally["checks"]


def test_a_pair_chooses_along_an_answer_what_it_would_have_written(tmp_path):
    pair = toy_pair("two_models").pair
    pair.generation_config.eos_token_id = 256
    decode_texts(pair, [("p", "a prompt", False)], tmp_path / "a.jsonl", time.monotonic() + 60)
    (text,) = load_texts(tmp_path / "a.jsonl")
    ids = torch.tensor([text.prompt + text.answer])
    chosen = pair.choices(ids, torch.ones_like(ids), len(text.prompt), pair.settings)
    assert chosen[0].tolist() == pytest.approx(text.choices)
