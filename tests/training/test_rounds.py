"""Rounds: what is refused, when they stop, what the table says; with real TRL, what a kill costs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from aad_plugin.errors import ConfigError
from aad_plugin.harness.asking import identity, scorer_weights
from aad_plugin.sources.parts import resolve
from aad_plugin.training import rounds, trl_command
from aad_plugin.training.evaluation import Answers, Evaluation, check_model_args, win_rate
from aad_plugin.training.oracle_prompts import warn_of_known_prompts
from aad_plugin.training.owning import merging_dtype
from aad_plugin.training.recipes import recipe_path
from aad_plugin.training.rounds_table import Round, row_of, write_tables


@pytest.fixture(autouse=True)
def parsed_elsewhere(monkeypatch):
    """TRL's parser takes seconds to start; ``test_trl_command.py`` asks it."""
    monkeypatch.setattr(rounds, "check_options", lambda *_: trl_command.Drawn())


def evaluation(held_out, oracle):
    return Evaluation(Answers(["x"] * len(held_out), held_out), Answers(["four"] * len(oracle), oracle))


@pytest.mark.parametrize(
    ("model_args", "recipe", "more", "wanted"),
    [
        ({}, "dpo_demo", (), "float32"),
        ({"dtype": "auto"}, "dpo", (), "bfloat16"),
        ({"dtype": "float32"}, "dpo", (), "float32"),
        ({"dtype": torch.float16}, "dpo", (), "float16"),
        ({}, "dpo", ("--max_steps", "3", "--dtype", "float32"), "float32"),
        ({}, "dpo_demo", ("--dtype=auto",), "auto"),
    ],
)
def test_adapters_are_merged_in_the_precision_that_is_decoded_or_trained_in(model_args, recipe, more, wanted):
    assert merging_dtype(model_args, recipe_path(recipe), more) == wanted


def test_a_start_keeps_what_an_adapter_adds(checkpoints, tmp_path):
    from transformers import AutoModelForCausalLM

    start = rounds.start_checkpoint(
        tmp_path, resolve(reference=str(checkpoints.base), adapter=str(checkpoints.adapter)), "float32"
    )
    assert AutoModelForCausalLM.from_pretrained(start, dtype="auto").dtype == torch.float32


def test_the_rate_is_the_mean_probability_and_the_share_counts_prompts(tmp_path):
    # differences 0, 2, −2, 2: p = 0.5, 0.8808, 0.1192, 0.8808 → mean 0.5952; shares (0.5 + 1 + 0 + 1) / 4 = 0.625
    old, new = evaluation([0.0] * 4, [1.0] * 4), evaluation([1.0] * 4, [1.0, 3.0, -1.0, 3.0])
    done = [Round(0, old), Round(1, new, 5, {"identical": 2}, [{"step": 3, "loss": 0.7}, {"step": 6, "loss": 0.5}])]
    row = row_of(done, 1)
    assert row["win_rate_over_start"] == pytest.approx(0.5952, abs=1e-4)
    assert row["win_rate_over_start_low"] < row["win_rate_over_start"] < row["win_rate_over_start_high"]
    assert (row["share_better_than_start"], row["steps"], row["dropped"], row["last_loss"]) == (0.625, 6, 2, 0.5)
    assert win_rate(new.oracle, old.oracle).value == row["win_rate_over_previous"]
    write_tables(tmp_path, done, "implicit", "reward:x", done[1])
    table = (tmp_path / "rounds.md").read_text()
    assert "| 1 (picked) | 5 (2) | 6, 0.700 → 0.500 | 1.000 | 1.500 ± 0.957 | 0.595 [" in table
    assert json.loads((tmp_path / "rounds.json").read_text())["picked"] == 1
    assert (tmp_path / "rounds.csv").read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("recipe", "options", "added"),
    [
        ({}, (), ["--logging_steps", "0.05"]),
        ({"logging_steps": 5}, (), []),
        ({}, ("--logging_steps=9",), []),
        ({}, ("--logging_strategy", "epoch"), []),
    ],
)
def test_the_loss_is_logged_unless_somebody_said_how_often(tmp_path, recipe, options, added):
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))

    class Asked:
        training, trl_arguments = tmp_path / "r.yaml", options

    assert rounds._logging(Asked) == added


def test_a_round_that_logged_no_loss_says_so(tmp_path):
    done = [Round(0, evaluation([0.0], [0.0])), Round(1, evaluation([1.0], [1.0]), 5)]
    write_tables(tmp_path, done, "implicit", "reward:x", done[1])
    assert "| 5 (0) | no loss logged: lower logging_steps |" in (tmp_path / "rounds.md").read_text()


def test_rounds_stop_where_the_picker_sees_no_gain(words, aad, tmp_path, monkeypatch, caplog):
    """Round 1 is better by the picker, round 2 is not, though the oracle would like it: the oracle decides nothing."""
    found = iter([evaluation([0.0], [0.0]), evaluation([1.0], [0.0]), evaluation([1.0], [9.0])])

    class Made:
        dataset, kept, dropped = tmp_path, 4, {"identical": 0}

    monkeypatch.setattr(rounds, "load_scorer", lambda *_: None)
    monkeypatch.setattr(rounds, "synthesize", lambda *_, **__: Made)
    monkeypatch.setattr(rounds, "evaluate", lambda *_, **__: next(found))
    monkeypatch.setattr(rounds, "_trained", lambda *_: {})
    result = aad("iterate", *words, "--rounds", "5")
    assert result.exit_code == 0, result.exception
    assert "Stopped after round 2: on the held-out prompts the picker prefers round 1." in result.output
    assert [row["round"] for row in json.loads((tmp_path / "out" / "rounds.json").read_text())["rounds"]] == [0, 1, 2]


def test_later_rounds_decode_as_a_pair_folder_says(checkpoints, tmp_path, monkeypatch):
    from aad_plugin.pair.model import load_pair

    pair = load_pair(policy=str(checkpoints.policy), reference=str(checkpoints.reference), alpha=0.3, temperature=0.7)
    pair.save_pretrained(tmp_path / "pair")
    (tmp_path / "training.json").write_text('{"start": "s"}')
    plan = SimpleNamespace(training=recipe_path("dpo_demo"), trl_arguments=())
    found = rounds._trained(tmp_path, tmp_path, plan, {"pair": str(tmp_path / "pair"), "temperature": 0.9}, tmp_path)
    assert (found["alpha"], found["temperature"]) == (0.3, 0.9) and found["policy"].endswith("policy")


def test_weights_that_change_under_their_name_are_another_run(checkpoints, tmp_path):
    policy = shutil.copytree(checkpoints.policy, tmp_path / "policy")
    args = {"policy": str(policy), "reference": str(checkpoints.reference)}
    before, judged = identity(args), scorer_weights(f"reward:{policy}", "implicit", None, "reward:org/hub")
    assert before == identity(args) and list(judged["scorer_weights"]) == [f"reward:{policy}"]
    weights = bytearray((policy / "model.safetensors").read_bytes())
    whole = weights.copy()
    weights[len(weights) // 2] ^= 1
    (policy / "model.safetensors").write_bytes(weights)
    assert identity(args) != before and scorer_weights(f"reward:{policy}") != judged
    (policy / "model.safetensors").write_bytes(whole)
    assert identity(args) == before
    (policy / "chat_template.jinja").write_text("{{ messages }}")
    assert identity(args) != before and scorer_weights(f"reward:{policy}") != judged
    assert "files" not in identity({"policy": "org/one", "reference": "org/two"})
    guided = identity({"policy": "org/one", "reference": "org/two", "guide": f"reward:{checkpoints.policy}+org/three"})
    assert list(guided["files"]) == [f"guide=reward:{checkpoints.policy}"]


def test_thinking_counts_to_no_length():
    from aad_plugin.training.evaluation import Answers

    found = Answers(["<think>" + "so " * 300 + "</think>\nYes.", "No"], [1.0, 0.0])
    assert found.lengths == [4, 2] and found.characters == 3


@pytest.mark.parametrize("name", ["revision", "reference_revision"])
def test_a_training_reads_no_other_revision(name):
    with pytest.raises(ConfigError, match=f"{name}=abc: a training reads the main revision"):
        check_model_args({"policy": "org/one", "reference": "org/two", name: "abc"})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--oracle", "implicit"], "--oracle must be reward:<model>, got 'implicit'"),
        (["--trl", "--output_dir x"], "--trl: --output_dir is set by aad iterate itself; leave it out"),
        (
            ["--trl", "--hub_token x"],
            "--trl: a token on a command line ends up in logs; set HF_TOKEN in the environment",
        ),
        (
            ["--trl", "--hub-token=x"],
            "--trl: a token on a command line ends up in logs; set HF_TOKEN in the environment",
        ),
        (
            ["--trl", "--model-name-or-path x"],
            "--trl: --model-name-or-path is set by aad iterate itself; leave it out",
        ),
        (
            ["--min-margin", "0.5"],
            "--min-margin 0.5 needs --margin-judge reward:<model>, whose rewards it is a difference of",
        ),
        (["--recipe", "/no/such.yaml"], "no recipe file '/no/such.yaml'"),
    ],
)
def test_mistakes_are_refused_first(aad, words, more, message):
    assert str(aad("iterate", *words, *more).exception) == message


def test_prompts_must_not_stand_in_two_sets(aad, words, tmp_path):
    error = aad("iterate", *words, "--held-out-prompts", tmp_path / "prompts.jsonl").exception
    assert str(error).startswith("--prompts and --held-out-prompts share 6 prompts, first: ")


def test_a_picker_by_another_name(aad, words):
    error = aad("iterate", *words, "--picker", "length").exception
    assert str(error) == "a picker is implicit or reward:<model>, an oracle reward:<model>; got 'length'"


def test_one_run_at_a_time_and_one_kind_of_run_per_folder(aad, words, tmp_path, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(rounds, "_rounds", lambda *_: write_tables(tmp_path / "out", [Round(0, evaluation([0], [0]))],
                                                                   "p", "o", Round(0, evaluation([0], [0]))))  # fmt: skip
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        error = aad("iterate", *words).exception
        assert str(error).startswith(f"another aad iterate is at work in {tmp_path / 'out'}: wait for it")
    assert aad("iterate", *words).exit_code == 0
    assert aad("iterate", *words, "--trl", "--beta 0.4").exit_code == 0, "nothing was computed yet"
    (tmp_path / "out" / "round-0" / "answers" / "x").mkdir(parents=True)
    (tmp_path / "out" / "round-0" / "answers" / "x" / "rank0.jsonl").touch()
    error = aad("iterate", *words, "--trl", "--beta 0.5").exception
    assert isinstance(error, ConfigError)
    assert str(error) == (
        f'{tmp_path / "out"} holds rounds of another kind: ["--beta", "0.4"], not ["--beta", "0.5"]; pass another --output'
    )


def test_an_oracle_that_was_trained_on_the_prompts_is_named(caplog):
    from aad_plugin.demo.training_prompts import trained_prompts

    trained = trained_prompts("demo", "reward", held_out=False)[0]
    prompts = [[{"role": "user", "content": text}] for text in (trained, "Something nobody asked yet")]
    assert warn_of_known_prompts("reward:demo", prompts) == 1
    assert "reward:demo was trained on 1 of these prompts" in caplog.text
    assert warn_of_known_prompts("reward:/some/folder", prompts) == 0


def command(words, *more):
    return [sys.executable, "-c", "from aad_plugin.cli.main import run; run()", "iterate", *words, *more]


@pytest.mark.grid
def test_rounds_with_trl_keep_pairs_that_load_and_resume_without_work(words, tmp_path):
    done = subprocess.run(command(words, "--rounds", "2", "--picker", words[words.index("--oracle") + 1]),
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is the oracle itself" in done.stderr and "(the same model: no independent measure)" in done.stdout
    out = tmp_path / "out"
    first = resolve(str(out / "round-1" / "policy"))
    assert first.base == str(out / "round-1" / "start") and first.reference_adapter is None
    again = subprocess.run(command(words, "--rounds", "2", "--picker", words[words.index("--oracle") + 1]),
                           capture_output=True, text=True)  # fmt: skip
    assert again.returncode == 0 and "train_runtime" not in again.stderr
    figures = [[{k: v for k, v in row.items() if k != "seconds"} for row in json.loads(text)["rounds"]]
               for text in [(out / "rounds.json").read_text()]]  # fmt: skip
    assert figures[0][1]["steps"] == 6


@pytest.mark.grid
def test_kill_9_while_trl_trains_goes_on_from_its_last_checkpoint(words, tmp_path):
    """The same pairs, and the very same adapter as without the kill."""
    from safetensors.torch import load_file

    steps = ["--trl", "--max_steps 40"]
    undisturbed = [*words, *steps]
    undisturbed[undisturbed.index("--output") + 1] = str(tmp_path / "whole")
    assert subprocess.run(command(undisturbed), capture_output=True).returncode == 0

    process = subprocess.Popen(command(words, *steps), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    policy = tmp_path / "out" / "round-1" / "policy"
    while process.poll() is None and not (policy / "checkpoint-6" / "trainer_state.json").is_file():
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = subprocess.run(command(words, *steps), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    log = (tmp_path / "out" / "round-1" / "training.log").read_text()
    assert log.count("\n$ ") == 2 and "--resume_from_checkpoint" in log.split("\n$ ")[2].splitlines()[0]
    for name in ("preferences.jsonl",):
        assert same(tmp_path, Path("round-1") / "synthesis" / name)
    one, two = (
        load_file(tmp_path / run / "round-1" / "policy" / "adapter_model.safetensors") for run in ("whole", "out")
    )
    assert all(one[name].equal(two[name]) for name in one)
    assert same(tmp_path, Path("round-1") / "evaluation.json")


def same(root, name):
    return (root / "whole" / name).read_bytes() == (root / "out" / name).read_bytes()
