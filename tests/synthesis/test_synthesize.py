"""Pairs out of prompts, with toy checkpoints and the real command."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import time

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.harness import whole_batches
from aad_plugin.harness.asking import identity
from aad_plugin.pair.answering import answer
from aad_plugin.pair.model import load_pair
from aad_plugin.texts.preferences import read_preferences
from tests.synthesis.conftest import NUM

BUDGET = "12"


@pytest.fixture
def command(aad, checkpoints, prompt_file):
    def run(output, *more, kind="reference_plus_lora"):
        named = ",".join(f"{name}={value}" for name, value in checkpoints.model_args(kind).items())
        return aad(
            "synthesize", "--model-args", f"{named},dtype=float32,device=cpu", "--prompts", prompt_file, "--output", output,
            "--max-new-tokens", BUDGET, "--batch-size", "4", "--keep-truncated", *more,
        )  # fmt: skip

    return run


def rows(folder):
    return [json.loads(line) for line in (folder / "preferences.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("rejected", ["sample", "greedy"])
def test_chosen_is_aad_and_rejected_the_policys_own(command, checkpoints, prompt_file, tmp_path, rejected):
    done = command(tmp_path / "out", "--rejected", rejected, "--seed", "7")
    assert done.exit_code == 0, done.exception
    made = rows(tmp_path / "out")
    pair = load_pair(**checkpoints.model_args("reference_plus_lora"), dtype="float32")
    prompts = [row["prompt"] for row in made]
    for side, strategy in (("chosen", "aad"), ("rejected", rejected)):
        expected = answer(pair, prompts, strategy=strategy, max_new_tokens=int(BUDGET), seed=7)
        assert [row[side] for row in made] == [[{"role": "assistant", "content": text.strip()}] for text in expected]
    account = json.loads((tmp_path / "out" / "synthesis.json").read_text())
    assert account["kept"] + sum(account["dropped"].values()) == NUM
    assert account["decoding"]["chosen"] == {"strategy": "aad", "alpha": 0.1}


def test_the_folder_is_a_dataset_whose_card_says_how_it_was_made(command, tmp_path):
    from datasets import load_dataset

    assert command(tmp_path / "out").exit_code == 0
    loaded = load_dataset(str(tmp_path / "out" / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [dict(row) for row in loaded] == rows(tmp_path / "out")
    card = (tmp_path / "out" / "dataset" / "README.md").read_text()
    for said in ("base `", "adapter `", '"seed": 1234', "| identical |", "torch.float32", "12 new tokens"):
        assert said in card
    assert read_preferences(tmp_path / "out" / "preferences.jsonl")[0].prompt == rows(tmp_path / "out")[0]["prompt"]


def test_what_the_chats_were_rendered_with_stands_where_trl_reads_it(command, checkpoints, tmp_path):
    named = ",".join(f"{name}={value}" for name, value in checkpoints.model_args("two_models").items())
    done = command(tmp_path / "out", "--model-args", f"{named},dtype=float32,device=cpu,enable_thinking=false")
    assert done.exit_code == 0, done.exception
    assert all(row["chat_template_kwargs"] == {"enable_thinking": False} for row in rows(tmp_path / "out"))


def test_a_system_turn_that_the_template_ignores_is_trained_on_where_it_was_answered(command, checkpoints, tmp_path):
    policy = shutil.copytree(checkpoints.policy, tmp_path / "policy")
    (policy / "chat_template.jinja").write_text(
        "{% for m in messages if m['role'] != 'system' %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    )
    (tmp_path / "system.jsonl").write_text(
        json.dumps({"prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Say 1"}]}) + "\n"
    )
    named = f"policy={policy},reference={checkpoints.reference},dtype=float32,device=cpu"
    done = command(tmp_path / "out", "--model-args", named, "--prompts", tmp_path / "system.jsonl")
    assert done.exit_code == 0, done.exception
    (row,) = rows(tmp_path / "out")
    assert [turn["role"] for turn in row["prompt"]] == ["user"] and row["prompt"][0]["content"].startswith("Be kind.")


def test_a_finished_folder_is_not_asked_again_and_belongs_to_its_words(command, tmp_path, monkeypatch):
    assert command(tmp_path / "out").exit_code == 0
    monkeypatch.setattr("aad_plugin.synthesis.synthesizing.load_model", None)
    assert command(tmp_path / "out").exit_code == 0
    other = command(tmp_path / "out", "--rejected", "greedy").exception
    assert (
        str(other)
        == f'{tmp_path / "out"} holds pairs made otherwise: rejected is "sample", not "greedy"; pass another --output'
    )


def test_other_filters_are_applied_to_the_kept_answers(command, tmp_path, monkeypatch):
    """They used to be refused: another filter cost every answer again."""
    out = tmp_path / "out"
    assert command(out, "--min-tokens", "1").exit_code == 0
    before = rows(out)
    limit = sorted(min(row["chosen_tokens"], row["rejected_tokens"]) for row in before)[len(before) // 2] + 0
    monkeypatch.setattr(whole_batches, "ask", lambda *_, **__: pytest.fail("decoded again"))
    done = command(out, "--min-tokens", limit)
    assert done.exit_code == 0, done.exception
    assert rows(out) == [r for r in before if min(r["chosen_tokens"], r["rejected_tokens"]) >= limit]
    assert command(out, "--min-tokens", "1").exit_code == 0 and rows(out) == before
    assert "pairs made otherwise" in str(command(out, "--alpha", "0.2").exception)


def test_a_folder_without_an_answer_may_be_asked_otherwise(command, tmp_path, monkeypatch):
    """A first try that failed must not claim the folder."""
    with monkeypatch.context() as patched:
        patched.setattr("aad_plugin.synthesis.synthesizing.load_model", None)
        assert command(tmp_path / "out", "--rejected", "greedy").exception
    assert command(tmp_path / "out").exit_code == 0


def test_no_secret_is_written_down():
    assert identity({"pair": "demo", "token": "secret", "batch_size": 4}) == {"pair": "demo"}


def test_a_run_that_stopped_anywhere_ends_with_the_same_pairs(command, tmp_path, monkeypatch):
    """Even where a batch was kept in part, which in 16 bits would otherwise round the rest of it differently."""
    assert command(tmp_path / "whole").exit_code == 0
    asked, real = [], whole_batches.ask

    def stops(model, contexts, gen_kwargs, **options):
        asked.append(list(contexts))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(model, contexts, gen_kwargs, **options)

    monkeypatch.setattr(whole_batches, "ask", stops)
    command(tmp_path / "cut")
    (kept,) = (tmp_path / "cut" / "answers").glob("*/rank0.jsonl")
    lines = kept.read_text().splitlines()
    assert len(lines) == 8
    kept.write_text("\n".join(lines[:6]) + "\n" + lines[6][:20])  # torn in the middle of the second batch
    assert command(tmp_path / "cut").exit_code == 0
    assert asked[3] == asked[1] and len(asked[3]) == 4, "a batch is asked again whole"
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_nothing_left_after_the_filters_is_an_error_that_counts(command, tmp_path):
    error = command(tmp_path / "out", "--min-tokens", "99").exception
    assert isinstance(error, ConfigError)
    assert str(error).startswith(
        f"no pair is left of {NUM} prompts after the filters (too_short {NUM}); the answers are kept"
    )
    assert not (tmp_path / "out" / "preferences.jsonl").exists()


def test_a_full_disk_is_one_line_and_costs_no_answer(command, tmp_path, monkeypatch):
    from pyarrow import parquet

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(parquet, "write_table", full)
        error = command(tmp_path / "out").exception
    assert "train-00000-of-00001.parquet: No space left on device" in str(error)
    monkeypatch.setattr(whole_batches, "ask", None)  # every answer is there
    assert command(tmp_path / "out").exit_code == 0


def test_a_margin_by_a_reward_model(command, checkpoints, tmp_path):
    reward = reward_model(checkpoints, tmp_path / "reward")
    assert command(tmp_path / "all").exit_code == 0
    assert command(tmp_path / "out", "--margin-judge", f"reward:{reward}", "--min-margin", "0").exit_code == 0
    made = rows(tmp_path / "out")
    assert 0 < len(made) < len(rows(tmp_path / "all"))
    assert all(row["score_chosen"] > row["score_rejected"] for row in made)


def reward_model(checkpoints, folder):
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)  # its score has no weights to load
    model = AutoModelForSequenceClassification.from_pretrained(checkpoints.base, num_labels=1)
    model.save_pretrained(folder)
    for path in checkpoints.base.glob("*token*"):
        shutil.copy(path, folder)
    shutil.copy(checkpoints.base / "chat_template.jinja", folder)
    return folder


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rejected", "aad"], "--rejected must be sample or greedy, got 'aad'"),
        (["--engine", "vlm"], "engine must be hf or vllm, got 'vlm' (did you mean 'vllm'?)"),
        (["--margin-judge", "openai:x"], "--margin-judge must be reward:<model>, got 'openai:x'"),
        (["--alpha", "2"], "alpha must be a number in (0, 1], got 2.0"),
        (
            ["--min-margin", "1"],
            "--min-margin 1 needs --margin-judge reward:<model>, whose rewards it is a difference of",
        ),
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1, got 0"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--prompts", "/nope/x.jsonl"], "no prompt file or dataset folder '/nope/x.jsonl' here"),
    ],
)
def test_mistakes_are_refused_before_anything_is_loaded(command, tmp_path, monkeypatch, more, message):
    monkeypatch.setattr("aad_plugin.synthesis.synthesizing.load_model", None)
    assert str(command(tmp_path / "out", *more).exception) == message


def test_a_prompt_without_room_is_named(command, checkpoints, prompt_file, tmp_path):
    prompt_file.write_text(json.dumps({"prompt": "a" * 600}) + "\n")
    assert "prompt 1 has 6" in str(command(tmp_path / "out").exception)


@pytest.mark.grid
def test_kill_9_and_resume_give_the_undisturbed_pairs(checkpoints, prompt_file, tmp_path):
    """In bfloat16, where another batch would round otherwise."""
    named = ",".join(f"{name}={value}" for name, value in checkpoints.model_args("reference_plus_lora").items())

    def command(output):
        given = [
            "--model-args",
            f"{named},dtype=bfloat16,device=cpu",
            "--prompts",
            str(prompt_file),
            "--output",
            str(output),
        ]
        line = [sys.executable, "-c", "from aad_plugin.cli.main import run; run()", "synthesize", *given]
        return [*line, "--max-new-tokens", "100", "--batch-size", "2", "--keep-truncated"]

    assert subprocess.run(command(tmp_path / "whole"), capture_output=True).returncode == 0
    kills = 0
    for answers in (2, 8, 12):
        process = subprocess.Popen(command(tmp_path / "cut"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and kept(tmp_path / "cut") < answers:
            time.sleep(0.002)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills and not (tmp_path / "cut" / "preferences.jsonl").exists()
    assert subprocess.run(command(tmp_path / "cut"), capture_output=True).returncode == 0
    assert (tmp_path / "cut" / "preferences.jsonl").read_bytes() == (
        tmp_path / "whole" / "preferences.jsonl"
    ).read_bytes()


def kept(folder):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("answers/*/*.jsonl"))


def test_a_prompt_beyond_the_context_is_named_with_whose_context_or_left_out(aad, checkpoints, tmp_path):
    prompts = tmp_path / "some.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("Say a", "b " * 400, "Say c")))
    named = ",".join(f"{name}={value}" for name, value in checkpoints.model_args("reference_plus_lora").items())
    words = ["synthesize", "--model-args", f"{named},dtype=float32,device=cpu", "--prompts", prompts,
             "--max-new-tokens", BUDGET, "--keep-truncated"]  # fmt: skip
    refused = aad(*words, "--output", tmp_path / "refused")
    assert refused.exit_code != 0
    said = str(refused.output) + str(refused.exception)
    assert "prompt 2 has" in said and "'s context of 512" in said and "--skip-long" in said
    done = aad(*words, "--output", tmp_path / "out", "--skip-long")
    assert done.exit_code == 0, done.exception
    account = json.loads((tmp_path / "out" / "synthesis.json").read_text())
    assert account["skipped_long"] == 1 and account["kept"] + sum(account["dropped"].values()) == 2
    assert "too long for the context 1" in done.output
