"""Answers are on disk as they arrive, and a second run takes them from there."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from aad_plugin.harness.answer_store import AnswerStore, Stored, stored_of
from tests.harness.conftest import QUESTIONS, answers
from tests.toys import EOS, model_logits, naive_aad

TASK = "aad_demo_dialogue"


def lines(folder: Path) -> list[dict]:
    """Whole lines; a kill may have torn one."""
    texts = [line for path in folder.glob("answers/*/rank*.jsonl") for line in path.read_text().splitlines()]
    return [json.loads(text) for text in texts if text.endswith("}")]


def test_a_torn_line_is_left_out_and_the_next_one_is_whole(tmp_path):
    store = AnswerStore(tmp_path)
    store.add("a", Stored("one", False))
    with (tmp_path / "rank0.jsonl").open("a") as file:
        file.write('{"key": "b", "ans')
    again = AnswerStore(tmp_path, rank=1)
    assert again.find("a") == Stored("one", False) and again.find("b") is None
    AnswerStore(tmp_path).add("c", Stored("three", None))
    assert AnswerStore(tmp_path).find("c") == Stored("three", None)


def test_a_disk_that_fails_costs_the_resume_and_nothing_else(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    store = AnswerStore(tmp_path / "file")
    store.add("a", Stored("one", False))
    store.add("b", Stored("two", False))
    assert store.find("b") and caplog.text.count("no longer kept") == 1


@pytest.mark.parametrize("strategy", ["aad", "best_of_2"])
def test_a_second_run_answers_nothing_again(evaluate, checkpoints, run_folder, strategy):
    args = {**checkpoints.model_args("two_models"), "strategy": strategy}
    first = answers(evaluate("aad", args, batch_size=2))
    kept = lines(run_folder)
    assert len(kept) == len(QUESTIONS)
    assert answers(evaluate("aad", args, batch_size=5)) == first
    assert lines(run_folder) == kept


def test_other_settings_or_weights_or_none_answer_anew(evaluate, checkpoints, run_folder):
    args = checkpoints.model_args("two_models")
    evaluate("aad", args)
    evaluate("aad", {**args, "alpha": 0.5})
    assert len(lines(run_folder)) == 2 * len(QUESTIONS)
    evaluate("aad", checkpoints.model_args("reference_plus_lora"))
    assert len(lines(run_folder)) == 3 * len(QUESTIONS) and len(list(run_folder.glob("answers/*"))) == 2
    evaluate("aad", {**args, "alpha": 0.2, "answers_dir": "none"})
    assert len(lines(run_folder)) == 3 * len(QUESTIONS)


def test_answers_that_nobody_can_draw_again_are_not_kept(evaluate, checkpoints, run_folder):
    evaluate("aad", checkpoints.model_args("two_models"), gen_kwargs="do_sample=true,temperature=1.0")
    assert lines(run_folder) == []


def test_an_engines_answer_ends_at_the_stop_strings_it_was_not_given():
    text = "so\n\nit is</think>\n\n42\n\nQuestion: next"
    assert stored_of(text, ["\n\n", "</s>"], "</think>", True) == Stored("42", False)
    assert stored_of("so\n\nit is</think>4", ["\n\n"], "</think>", True) == Stored("4", True)
    assert stored_of("4\n", [], None, False) == Stored("4\n", False)


@pytest.mark.parametrize("kills", [pytest.param(1, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.grid)])
def test_killed_at_random_instants(checkpoints, tmp_path, kills):
    """60 documents by three strategies, killed and resumed with other batch sizes."""
    calm, shaken = tmp_path / "calm", tmp_path / "shaken"
    _start(checkpoints, calm, 16).wait()
    numbers = random.Random(0)
    for _ in range(kills):
        before = len(lines(shaken))
        process = _start(checkpoints, shaken, numbers.choice([1, 2, 3]))
        while process.poll() is None and len(lines(shaken)) <= before:
            time.sleep(0.02)
        time.sleep(numbers.uniform(0, 0.2))
        assert process.poll() is None, "the kill is to hit a run at work"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert kills <= len(lines(shaken)) < 180
    assert _start(checkpoints, shaken, 5).wait() == 0
    keys = [line["key"] for line in lines(shaken)]
    assert len(keys) == len(set(keys)) == 180, "nothing twice, nothing lost"
    calm_answers, shaken_answers = _answers(calm), _answers(shaken)
    differing = [
        (name, strategy)
        for name, row in calm_answers.items()
        for strategy, text in row["outputs"].items()
        if (text, row["truncated"][strategy])
        != (shaken_answers[name]["outputs"][strategy], shaken_answers[name]["truncated"][strategy])
    ]
    assert len(differing) <= 2 and all(_has_near_tie(checkpoints, calm, *one) for one in differing), differing


def _has_near_tie(checkpoints, folder: Path, name: str, strategy: str) -> bool:
    """Whether the naive loop meets a choice so close that another batch's rounding may turn it."""
    if strategy not in ("aad", "greedy"):
        return False
    (row,) = [row for row in _rows(folder) if row["id"] == name]
    tokenizer = AutoTokenizer.from_pretrained(checkpoints.policy)
    chat = [{"role": "user", "content": row["prompt"]}]
    prompt = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))["input_ids"]
    policy, reference = (
        model_logits(AutoModelForCausalLM.from_pretrained(path).eval())
        for path in (checkpoints.policy, checkpoints.reference)
    )
    run = naive_aad(policy, reference, prompt, 64, 0.1 if strategy == "aad" else 1.0, EOS)  # alpha 1 is greedy
    return min(run.margins) < 1e-5


def _start(checkpoints, folder: Path, batch_size: int) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    args = ",".join(f"{name}={value}" for name, value in checkpoints.model_args("two_models").items())
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "aad", "--model_args", f"{args},dtype=float32"]
    command += ["--tasks", TASK, "--apply_chat_template", "--limit", "60", "--batch_size", str(batch_size)]
    return subprocess.Popen(
        command, cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("ab"),
        env={**os.environ, "AAD_OUTPUT_DIR": str(folder), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _rows(folder: Path) -> list[dict]:
    newest = max(folder.glob(f"{TASK}/*/answers.jsonl"))
    return [json.loads(line) for line in newest.read_text().splitlines()]


def _answers(folder: Path) -> dict[str, dict]:
    return {row["id"]: {"outputs": row["outputs"], "truncated": row["truncated"]} for row in _rows(folder)}
