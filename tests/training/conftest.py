"""Toy checkpoints, three sets of prompts, a toy reward model, and a recipe that trains in seconds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

TRAINING = {
    "learning_rate": 1e-3, "max_steps": 6, "per_device_train_batch_size": 2, "use_cpu": True, "bf16": False,
    "use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "gradient_checkpointing": False,
    "logging_steps": 1, "save_steps": 2, "save_total_limit": 2, "report_to": "none", "seed": 0,
}  # fmt: skip


@pytest.fixture(scope="session")
def reward(checkpoints, tmp_path_factory) -> Path:
    """A toy reward model on disk."""
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("reward")
    torch.manual_seed(3)
    AutoModelForSequenceClassification.from_pretrained(checkpoints.base, num_labels=1).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(checkpoints.base / name, folder)
    return folder


@pytest.fixture
def words(checkpoints, reward, tmp_path) -> list[str]:
    """Arguments of ``aad iterate`` on toys, without the number of rounds."""
    for number, name in enumerate(("prompts", "held-out-prompts", "oracle-prompts")):
        rows = [json.dumps({"prompt": f"Say {number}{i} " + "ab " * (i % 3)}) + "\n" for i in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(json.dumps(TRAINING))
    named = ",".join(f"{name}={value}" for name, value in checkpoints.model_args("reference_plus_lora").items())
    sets = [f"--{name}={tmp_path / name}.jsonl" for name in ("prompts", "held-out-prompts", "oracle-prompts")]
    return [
        "--model-args", f"{named},dtype=float32,device=cpu", *sets, "--oracle", f"reward:{reward}", "--recipe", str(recipe),
        "--output", str(tmp_path / "out"), "--max-new-tokens", "10", "--batch-size", "3", "--keep-truncated",
    ]  # fmt: skip
