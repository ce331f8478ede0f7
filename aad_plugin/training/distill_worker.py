"""The process that distils: TRL's DistillationTrainer with a pair as its teacher.

Run by ``aad distill`` as  python -m aad_plugin.training.distill_worker JOB.json --config RECIPE --output_dir DIR …
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DistillationConfig, DistillationTrainer, ModelConfig, TrlParser, get_peft_config

from aad_plugin.errors import ConfigError
from aad_plugin.pair.model import AlignedPair, load_pair
from aad_plugin.sources.attached import attached
from aad_plugin.sources.whole_weights import load_whole
from aad_plugin.texts.rows import json_lines
from aad_plugin.training.owning import with_secrets
from aad_plugin.training.passes import KeepsOrder
from aad_plugin.training.teachers import WideTeacher, aad_log_probs, divergence, positions_of, teacher_scores


class Distillation(KeepsOrder, DistillationTrainer):
    """TRL's trainer, which goes on after a kill in the order of prompts that it was in."""


class AADDistillation(Distillation):
    """TRL's trainer whose divergence is to AAD's distribution of a pair, which no head over hidden states gives.

    Args:
        pair: the teacher. alpha: of its plausible set. teacher_temperature: of softmax over its advantages.
    """

    def __init__(self, *args: Any, pair: AlignedPair, alpha: float, teacher_temperature: float, **kwargs: Any) -> None:
        super().__init__(*args, teacher_model=None, **kwargs)
        self.pair, self.alpha, self.teacher_temperature = pair.to(self.accelerator.device), alpha, teacher_temperature

    def _compute_loss(self, unwrapped_student: Any, inputs: Any, num_items_in_batch: Any) -> tuple[Any, Any, Any]:
        """Return TRL's triple: the loss, the student's summed entropy, and how many positions counted."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        keep = inputs["completion_ids"].shape[1]
        student = (self._student_logits(unwrapped_student, ids, mask, keep).float() / self.temperature).log_softmax(-1)
        scores = teacher_scores(self.pair, ids, mask, keep + 1, self.alpha)[:, :-1]
        shared = min(scores.shape[-1], student.shape[-1])
        teacher = aad_log_probs(scores[..., :shared], self.teacher_temperature)
        teacher = torch.nn.functional.pad(teacher, (0, student.shape[-1] - shared), value=-torch.inf)
        counted = inputs["completion_mask"].bool()
        loss = divergence(teacher, student, self.beta)[counted].sum()
        with torch.no_grad():
            entropy = -(student.exp() * student).sum(-1)[counted].sum()
        number = counted.sum()
        return (
            loss / (number.clamp(min=1) if num_items_in_batch is None else num_items_in_batch),
            entropy,
            number,
        )

    def _student_logits(self, student: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int) -> torch.Tensor:
        """(B, keep, V) logits as the student decodes with them: capped or scaled where its architecture does that."""
        kept: dict[str, Any] = {"logits_to_keep": keep + 1} if "logits_to_keep" in self.model_kwarg_keys else {}
        if "position_ids" in self.model_kwarg_keys:  # some models count the padding where nobody tells them
            kept["position_ids"] = positions_of(mask)
        return student(input_ids=ids, attention_mask=mask, use_cache=False, **kept).logits[:, :-1][:, -keep:]


def main(words: list[str]) -> None:
    """Train as a job says; goes on from ``--resume_from_checkpoint``."""
    job = json.loads(Path(words[0]).read_text(encoding="utf-8"))
    parser = TrlParser((DistillationConfig, ModelConfig))
    config, model_config = parser.parse_args_and_config(words[1:])
    config.beta = job["beta"]
    if job["teacher"] == "aad" and config.temperature != 1.0:
        raise ConfigError(
            f"temperature={config.temperature:g} would temper the student and not its teacher, AAD's distribution: leave "
            "it out (--teacher-temperature is the teacher's)"
        )
    tokenizer = AutoTokenizer.from_pretrained(job["tokenizer"], padding_side="left")
    pair = load_pair(**with_secrets(job["pair"]))
    student = _student(job, model_config.dtype)
    common: dict[str, Any] = {
        "model": student, "args": config, "processing_class": tokenizer, "train_dataset": _prompts(job["prompts"]),
        "peft_config": None if job["adapter"] else get_peft_config(model_config),
    }  # fmt: skip
    if job["teacher"] == "eft":
        rows = student.config.get_text_config().vocab_size
        trainer = Distillation(teacher_model=WideTeacher(pair, job["scale"], rows), **common)
    else:
        trainer = AADDistillation(
            pair=pair, alpha=job["alpha"], teacher_temperature=job["teacher_temperature"], **common
        )
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)


def _student(job: dict[str, Any], name: str | None) -> Any:
    dtype = getattr(torch, name) if name not in (None, "auto") else "auto"
    model = load_whole(AutoModelForCausalLM, job["student"], dtype=dtype)
    if job["adapter"]:
        model = attached(model, job["adapter"], is_trainable=True)
    return model


def _prompts(path: str) -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"prompt": row["prompt"]} for _, row in json_lines(Path(path))])


if __name__ == "__main__":
    main(sys.argv[1:])
