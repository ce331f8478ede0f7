"""Second stage: TRL's SFT teaches the base to read the tower's tokens; LoRA on the language model, the connector whole.

One row is one picture with a description and about seven short questions. The questions share the picture's tokens and do
not see each other: each has positions that go on after the picture, and a mask of its own. So every answer is learned
exactly as if its question had been asked alone, and the picture is paid for once.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aad_plugin.training.trl_command import resume_checkpoint
from experiments.demo_vision.drawing import scene
from experiments.demo_vision.questions import Question, asked, description

SEEDS = range(0, 100_000)
QUESTIONS = 8
RANK, RATE, BATCH = 8, 1e-3, 4
TARGETS = r".*text_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
_IGNORED = -100


def row(seed: int) -> tuple[Any, list[Question]]:
    """Return the picture of a seed and what is asked about it."""
    one, rng = scene(seed), random.Random(f"sft {seed}")
    return one.image(), [description(one, rng), *asked(one, rng, QUESTIONS)]


def chat(question: Question, answer: str | None) -> list[dict[str, Any]]:
    """Return a question, and an answer where there is one, as messages with a place for the picture."""
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}
    return [turn] if answer is None else [turn, {"role": "assistant", "content": answer}]


class Collator:
    """Rows of `row` as one batch: ids (B, T), labels, positions, a boolean mask (B, 1, T, T), and pixels."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer

    def __call__(self, seeds: list[dict[str, int]]) -> dict[str, Tensor]:
        """Draw and encode the rows of these seeds."""
        rows = [row(one["seed"]) for one in seeds]
        images = self.processor.image_processor([[image] for image, _ in rows], return_tensors="pt")
        texts = [self._encoded(questions) for _, questions in rows]
        length = max(len(text["input_ids"]) for text in texts)
        batch: dict[str, Tensor] = {"pixel_values": images["pixel_values"]}
        for name, filler in (("input_ids", self.tokenizer.pad_token_id), ("labels", _IGNORED), ("position_ids", 0)):
            full = [text[name] + [filler] * (length - len(text[name])) for text in texts]
            batch[name] = torch.tensor(full)
        batch["attention_mask"] = torch.stack([_mask(text["branch"], length) for text in texts])
        return batch

    def _encoded(self, questions: list[Question]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {"input_ids": [], "labels": [], "position_ids": [], "branch": []}
        for number, question in enumerate(questions, start=1):
            whole = self._ids(chat(question, question.answer))
            prompt = self._ids(chat(question, None))
            shared = whole.index(self.processor.fake_image_token_id, 2) + 1  # up to the picture's end
            if not found["input_ids"]:
                self._add(found, whole[:shared], 0, shared, 0)
            self._add(found, whole[shared:], shared, len(prompt) - shared, number)
        return found

    def _add(self, found: dict[str, list[int]], ids: list[int], start: int, silent: int, branch: int) -> None:
        found["input_ids"] += ids
        found["labels"] += [_IGNORED] * silent + ids[silent:]
        found["position_ids"] += range(start, start + len(ids))
        found["branch"] += [branch] * len(ids)

    def _ids(self, messages: list[dict[str, Any]]) -> list[int]:
        text = self.processor.apply_chat_template(messages, tokenize=False)
        place = "<fake_token_around_image><global-img>" + "<image>" * self.processor.image_seq_len
        text = text.replace("<image>", place + "<fake_token_around_image>", 1)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _mask(branch: list[int], length: int) -> Tensor:
    """(1, T, T) bool: a token sees the picture's tokens (branch 0) and those before it of its own branch."""
    of = torch.full((length,), -1)
    of[: len(branch)] = torch.tensor(branch)
    sees = (of[None, :] == 0) | (of[:, None] == of[None, :])
    return (sees & torch.ones(length, length, dtype=torch.bool).tril())[None]


def train_sft(model: Any, processor: Any, folder: Path, *, steps: int, seed: int = 0) -> Path:
    """Train with TRL's SFTTrainer; goes on from the last checkpoint in ``folder``.

    Args:
        model: tower and connector trained. folder: TRL's output folder, with an adapter in the end.
        steps: of `BATCH` pictures each.
    Returns:
        ``folder``.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=RATE, seed=seed,
        lr_scheduler_type="cosine", warmup_steps=max(1, steps // 20), max_grad_norm=1.0, logging_steps=5, save_steps=20,
        save_total_limit=2, report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
        remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None,
        dataloader_num_workers=0, disable_tqdm=True,
    )  # fmt: skip
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, modules_to_save=["connector"])
    seeds = Dataset.from_dict({"seed": list(SEEDS[: steps * BATCH])})
    trainer = SFTTrainer(
        model, args=config, train_dataset=seeds, processing_class=processor, data_collator=Collator(processor),
        peft_config=lora,
    )  # fmt: skip
    last = resume_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    trainer.save_model(str(folder))
    return folder
