"""Two processes on CPU: each answers half, one judges, and the answers are the one-process run's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TASK = "aad_demo_dialogue"
ARGUMENTS = ["--tasks", TASK, "--apply_chat_template", "--limit", "7", "--batch_size", "4", "--log_samples"]


def run(program: list[str], checkpoints, folder: Path) -> tuple[str, dict[str, dict]]:
    args = ",".join(f"{name}={value}" for name, value in checkpoints.model_args("two_models").items())
    command = [*program, "-m", "lm_eval", "run", "--model", "aad", "--model_args", args, *ARGUMENTS]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "AAD_OUTPUT_DIR": str(folder)}
    done = subprocess.run(
        [*command, "--output_path", str(folder / "results")], capture_output=True, text=True, cwd=folder, env=environment,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (answers,) = (folder / "results").glob(f"*/{TASK}/*/answers.jsonl")
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    return done.stderr, {row["id"]: row["outputs"] for row in rows}


def test_two_processes_give_the_answers_of_one(checkpoints, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    _, alone = run([sys.executable], checkpoints, tmp_path / "one")
    log, together = run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"], checkpoints, tmp_path / "two"
    )
    assert together == alone
    assert len(alone) == 7
    # 7 documents × 3 strategies: 4 documents here, 3 there; lm-eval pads the shorter side.
    counts = sorted(int(count) for count in re.findall(r"process \d of 2: answered (\d+) requests", log))
    assert counts == [12, 12], log[-3000:]
    assert len(re.findall("not judged", log)) == 1, "one process writes and judges"
