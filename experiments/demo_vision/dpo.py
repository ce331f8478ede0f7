"""Third stage: TRL's DPO on the whole of what SFT left, a LoRA adapter on the language model alone.

Chosen is the right answer, rejected one with an invented, replaced or miscounted thing; half of the pairs are descriptions.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from aad_plugin.training.trl_command import resume_checkpoint
from experiments.demo_vision.drawing import scene
from experiments.demo_vision.questions import Question, asked, description
from experiments.demo_vision.sft import TARGETS

SEEDS = range(500_000, 600_000)
RANK, RATE, BATCH, BETA = 4, 2e-4, 4, 0.1


def preference(seed: int) -> tuple[Any, Question]:
    """Return a picture and one question about it."""
    one, rng = scene(seed), random.Random(f"dpo {seed}")
    question = description(one, rng) if rng.random() < 0.5 else rng.choice(asked(one, rng, 2))
    return one.image(), question


def preferences(number: int) -> Any:
    """Return so many rows in TRL's conversational format with pictures."""
    from datasets import Dataset, Features, Image, List, Value

    def rows() -> Any:
        for seed in SEEDS[:number]:
            image, question = preference(seed)
            turn = [{"type": "image", "text": None}, {"type": "text", "text": question.text}]
            yield {
                "images": [image],
                "prompt": [{"role": "user", "content": turn}],
                "chosen": _answer(question.answer),
                "rejected": _answer(question.wrong),
            }

    part = {"type": Value("string"), "text": Value("string")}
    message = [{"role": Value("string"), "content": [part]}]
    columns = dict.fromkeys(("prompt", "chosen", "rejected"), message)
    return Dataset.from_generator(rows, features=Features({"images": List(Image()), **columns}))


def _answer(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def train_dpo(reference: Path, folder: Path, *, steps: int, seed: int = 0) -> Path:
    """Train with TRL's DPOTrainer; goes on from the last checkpoint in ``folder``.

    Args:
        reference: folder of the whole model that SFT left. folder: TRL's output folder. steps: of `BATCH` pairs each.
    """
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=RATE, seed=seed,
        loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.3], beta=BETA, lr_scheduler_type="cosine",
        warmup_steps=max(1, steps // 20), logging_steps=2, save_steps=10, save_total_limit=2, report_to="none",
        use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=None, disable_tqdm=True,
    )  # fmt: skip
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = AutoModelForImageTextToText.from_pretrained(reference, dtype=torch.float32)
    trainer = DPOTrainer(
        model, args=config, train_dataset=preferences(steps * BATCH), peft_config=lora,
        processing_class=AutoProcessor.from_pretrained(reference),
    )  # fmt: skip
    last = resume_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    trainer.save_model(str(folder))
    return folder
