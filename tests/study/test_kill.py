"""kill -9 of a study at random instants: resumed, it gives the tables of an undisturbed one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest

from tests.study.conftest import arguments, figures


def start(command: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "aad_plugin.cli", *command], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def kill_after(rows: int, seconds: float, command: list[str], store) -> bool:
    """Kill the study ``seconds`` after its store has grown by ``rows`` lines; False if it ended before."""
    process, before = start(command), lines(store)
    while process.poll() is None and lines(store) < before + rows:
        time.sleep(0.002)
    time.sleep(seconds)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


def lines(store) -> int:
    return store.read_bytes().count(b"\n") if store.exists() else 0


def check(command: list[str], folder, undisturbed, most_rows: int, seed: int, most: int = 6) -> int:
    dice, kills = random.Random(seed), 0
    while kills < most and kill_after(
        dice.randint(1, most_rows), dice.uniform(0, 0.05), command, folder / "rows.jsonl"
    ):
        kills += 1
    process = start(command)
    output, _ = process.communicate()
    assert process.returncode == 0, output[-2000:]
    assert figures(folder) == figures(undisturbed)
    return kills


@pytest.mark.parametrize("most", [pytest.param(1, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.grid)])
def test_killed_toy_study(finished, tmp_path, most):
    words = arguments(tmp_path / "out", **finished.inputs.options())
    assert check(words, tmp_path / "out", finished.folder, 9, seed=1, most=most) >= min(most, 4)


@pytest.mark.grid
def test_killed_demo_study_in_bfloat16(tmp_path):
    """16-bit answers depend on who shares a batch; batches are the same after a kill."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "\n".join(f"Tell me about {what}." for what in ("tea", "rain", "old maps", "a long walk", "salt", "ink"))
    )
    options = {
        "prompts": prompts, "oracle": "reward:demo", "pair": "demo", "model_args": "dtype=bfloat16", "num_prompts": 4,
        "num_dev": 2, "num_curve": 2, "num_extra": 2, "samples": 4, "alphas": "0.1", "eft_scales": "2",
    }  # fmt: skip
    process = start(arguments(tmp_path / "whole", **options))
    output, _ = process.communicate()
    assert process.returncode == 0, output[-2000:]
    kills = check(arguments(tmp_path / "out", **options), tmp_path / "out", tmp_path / "whole", 6, seed=2)
    assert kills >= 3
