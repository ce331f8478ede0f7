"""``python -m experiments.gpu`` on a tiny shape: every part says something, no measurement fails, a cut run goes on."""

from __future__ import annotations

import json

import pytest
import torch

from experiments.gpu import compiled, forced, proofs, random_pairs, table, vllm_table
from experiments.gpu.records import Records


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setenv("AAD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(proofs, "ARCHITECTURES", {"gemma3": random_pairs.ARCHITECTURES["gemma3"]})
    monkeypatch.setattr(proofs, "DTYPES", {"float32": torch.float32})
    monkeypatch.setattr(proofs, "STEPS", 4)


def lines(records: Records) -> dict:
    found = [json.loads(line) for line in records.file.read_text().splitlines()]
    assert not [line for line in found if "error" in line]
    return {line["what"]: line for line in found}


def test_proofs_and_tokens(tmp_path):
    records = Records(tmp_path, "proofs", float("inf"))
    proofs.run(records, "cpu", ["tiny"])
    found = lines(records)
    assert found["gemma3 tiny float32 lora"]["path"] == "shared rows"
    assert found["gemma3 tiny float32 full"]["path"] == "two models"
    for kind in ("lora", "full"):
        tokens = found[f"gemma3 tiny float32 {kind} tokens"]
        assert {tokens[f"aad {name}"] for name in ("none", "candidates", "lazy", "auto")} == {"equal"}
    again = Records(tmp_path, "proofs", float("inf"))
    proofs.run(again, "cpu", ["tiny"])
    assert len(again.file.read_text().splitlines()) == len(found), "what is known is not measured again"


def test_speeds_and_forced_choices(tmp_path):
    records = Records(tmp_path, "transformers", float("inf"))
    records.deadline = proofs.time.monotonic() + 4
    table.run(records, "cpu", "tiny", [1], 2, torch.float32)
    assert lines(records)["tiny batch 1 greedy: bare loop"]["tokens_per_second"] > 0
    held = Records(tmp_path, "forced", float("inf"))
    forced.run(held, "cpu", "tiny", 1, 3, torch.float32)
    assert {line["equal"] for line in lines(held).values()} == {1.0}


@pytest.mark.grid
def test_compiled_steps_are_timed(tmp_path):
    records = Records(tmp_path, "compiled", float("inf"))
    compiled.run(records, "cpu", "tiny", [1], 2, torch.float32)
    assert lines(records)["tiny compiled batch 1 lora aad compiled"]["as_naive"] == 1.0


def test_lines_of_engines_become_ratios_and_are_not_measured_again(tmp_path):
    """Two counts, of which the second run has the plain engine's from the first."""
    records = Records(tmp_path, "vllm", float("inf"))
    for name, strategy, speeds in (("plain", None, [90, 100, 110]), ("shared", "aad", [80, 60, 70])):
        line = {"engine": name, "what": "speed", "requests": 8, "strategy": strategy, "tokens_per_second": speeds}
        vllm_table._note(records, "8b", line)
    failed = {"part": "engines", "what": "failed", "engine": "merged", "errors": ["OutOfMemoryError"], "end": ""}
    vllm_table._note(records, "8b", failed)
    assert records.lines["8b vllm shared aad 8"]["ratio"] == 0.7
    again = Records(tmp_path, "vllm", float("inf"))
    assert vllm_table._is_known(again, "8b", "plain", [8]) and not vllm_table._is_known(again, "8b", "plain", [1, 8])
    assert not vllm_table._is_known(again, "8b", "shared", [8]), "its greedy is to come"
    assert "8b vllm merged" not in again.known and "OutOfMemoryError" in again.file.read_text()
    line = {"engine": "shared", "what": "speed", "requests": 8, "strategy": "greedy", "tokens_per_second": [85]}
    vllm_table._note(again, "8b", line)
    assert again.lines["8b vllm shared greedy 8"]["ratio"] == 0.85
    # 128 requests of 8B shape: 131 kB a token and side, 16-bit
    assert vllm_table._cache_gib("8b", 128, 128, 2, "bfloat16") == pytest.approx(10, abs=0.5)


def test_an_error_is_a_line_and_ends_nothing(tmp_path):
    records = Records(tmp_path, "part", float("inf"))
    records.attempt("broken", lambda: {"x": 1 / 0})
    assert "ZeroDivisionError at test_gpu_experiment.py" in records.file.read_text()
    assert "broken" not in Records(tmp_path, "part", 0.0).known
