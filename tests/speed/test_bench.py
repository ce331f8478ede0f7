"""``aad bench`` on a toy pair: what it runs, in which order, and what it says of it. No speed is asserted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from aad_plugin.errors import ConfigError
from aad_plugin.speed import measure
from aad_plugin.speed.measure import Contestant, Timing, interleave
from aad_plugin.speed.report import machine, rows


def test_contestants_take_turns_and_rest_uncounted(monkeypatch):
    happened = []
    monkeypatch.setattr(measure.time, "sleep", lambda seconds: happened.append(seconds))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(len(happened)))
    both = [Contestant(name, 2, 12, lambda name=name: happened.append(name) or name) for name in ("a", "b")]
    timings = interleave(both, rounds=2, progress=False, rest=0.5)
    assert happened == [0.5, "a", 0.5, "b"] * 3, "one round more, to warm up"
    assert [timing.output for timing in timings] == ["a", "b"]
    assert [timing.seconds for timing in timings] == [[1.0, 1.0], [1.0, 1.0]], "the rest is not part of them"


def test_ratios_are_medians_of_rounds():
    def timing(name, seconds, tokens):
        return Timing(Contestant(name, 1, 10, lambda: None), seconds, 0.0, torch.tensor([tokens]))

    found = rows(
        [
            timing("greedy", [1.0, 2.0, 4.0], [1, 2, 3, 4]),
            timing("aad", [2.0, 2.0, 5.0], [1, 2, 9, 4]),
            timing("naive", [4.0, 4.0, 4.0], [1, 2, 3, 4]),
        ],
        ("greedy",),
        "naive",
    )
    of = {row["name"]: row for row in found}
    assert of["aad"]["ratio"] == pytest.approx(0.8) and of["aad"]["ratio_naive"] == pytest.approx(2.0)
    assert of["aad"]["agreement"] == 0.5, "up to the first difference"
    assert of["aad"]["tokens_per_second"] == 5.0 and (of["aad"]["lowest"], of["aad"]["highest"]) == (2.0, 5.0)
    assert of["greedy"]["agreement"] is None


def test_a_toy_pair_is_measured(aad, checkpoints, tmp_path):
    arguments = ",".join(f"{name}={value}" for name, value in checkpoints.model_args("reference_plus_lora").items())
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\n\ntwo words\n")
    found = aad(
        "bench", "--model-args", f"{arguments},dtype=float32", "--strategies", "aad, best_of_2", "--batch-sizes", "1,2",
        "--max-new-tokens", "4", "--rounds", "1", "--prompts", prompts, "--output", tmp_path / "new" / "figures.json",
        "--draft-model", checkpoints.base, "--draft", "2", "--draft-prompts", "2",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    kept = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert kept["machine"] == machine() and kept["versions"]["torch"] == torch.__version__
    measured = {(row["name"], row["batch"]) for row in kept["rows"]}
    assert {(name, size) for name in ("aad", "best_of_2", "aad: naive two-model loop") for size in (1, 2)} <= measured
    agreements = [row["agreement"] for row in kept["rows"] if row["name"].startswith("aad")]
    drafts = {row["name"]: row["tokens_per_check"] for row in kept["rows"] if row["tokens_per_check"]}
    assert set(drafts) == {f"{name}: draft {checkpoints.base}" for name in ("aad", "greedy")}
    assert all(1 <= tokens <= 4 for tokens in drafts.values()) and "tokens/check" in found.output
    assert kept["draft"]["model"] == str(checkpoints.base) and kept["draft_prompts"] == 2
    assert agreements and set(agreements) == {1.0}
    assert "÷ naive" in found.output and "operations" in found.output
    counted = {row["name"] for row in kept["rows"] if row["operations"]}
    assert {"aad", "greedy, merged: generate", "aad: naive two-model loop"} <= counted
    assert all(row["waits"] >= 1 for row in kept["rows"] if row["operations"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--strategies", "grdy"], "did you mean 'greedy'"),
        (["--batch-sizes", "1,two"], "whole numbers of at least 1, such as 1,4,16, got '1,two'"),
        (["--rounds", "0"], "must be at least 1"),
        (["--engine", "vlm"], "--engine must be hf or vllm, got 'vlm'"),
        (["--engine", "vllm", "--draft-model", "m", "--threads", "2"], "makes no use of --draft-model, --threads"),
        (["--threads", "-1"], "--threads must be at least 1"),
        (["--draft", "3", "--batch-sizes", "2"], "a draft is measured at batch size 1, and --batch-sizes has none: 2"),
        (["--draft-prompts", "3"], "--draft-prompts is of a draft"),
        (["--engine", "vllm", "--model-args", "reference_revision=x"], "a plain engine and a naive loop, which read"),
        (["--eager"], "--eager is for --engine vllm"),
        (["--prompts", "none.txt"], "none.txt"),
        (["--prompts", "FILE", "--batch-sizes", "4"], "4 prompts are needed for the largest batch"),
    ],
)
def test_mistakes_are_one_line(aad, tmp_path, words, message):
    few = tmp_path / "few.txt"
    few.write_text("one\n")
    found = aad("bench", "--pair", "demo", *(str(few) if word == "FILE" else word for word in words))
    assert isinstance(found.exception, ConfigError) and message in str(found.exception)


def test_the_processor_is_named():
    assert torch.backends.cpu.get_cpu_capability() in machine()["cpu"]


def test_a_mistake_shows_no_traceback():
    command = [
        sys.executable,
        "-c",
        "from aad_plugin.cli.main import run; run()",
        "bench",
        "--pair",
        "demo",
        "--rounds",
        "0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode and "Traceback" not in done.stderr and "must be at least 1" in done.stderr
